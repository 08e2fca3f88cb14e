"""JSON Lines, and folders of the Hugging Face library: one rule per value, whatever the others are."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pe.data import jsonl
from pe.data.schema import Categorical, Image, Numeric, Schema, boolean
from pe.errors import PrivateDataError
from pe.privacy import Adjacency
from pe.private.dataset import PrivateDataset

X, N = Numeric("x", -10, 10, default=1.5), Numeric("n", 0, 100, integer=True)
C = Categorical("c", ("a", "1", "élan", '{"k":[1,null]}'), default="1")
SCHEMA = Schema((X, N, C))


def read(data: object, schema: Schema = SCHEMA, **options: Any) -> PrivateDataset:
    return PrivateDataset.read(data, schema, adjacency=Adjacency.ADD_REMOVE, **options)


def lines(tmp_path: Path, *content: str | bytes) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in content))
    return path


def records(tmp_path: Path, *content: str | bytes, schema: Schema = SCHEMA) -> list[tuple[Any, ...]]:
    table = read(lines(tmp_path, *content), schema)._records
    return list(zip(*table.to_pydict().values(), strict=True))


MISSING = (1.5, 50, "1")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"x": 1.25, "n": 7, "c": "a", "other": {"deep": [1, 2]}}', (1.25, 7, "a")),
        ('{"x": "1.25", "n": "7.0", "c": 1}', (1.25, 7, "1")),
        ('{"x": true, "n": false, "c": 1.0}', (1.0, 0, "1")),
        ('{"x": null, "c": " élan "}', (1.5, 50, "élan")),
        ('{"x": NaN, "n": -Infinity, "c": {"k": [1, null]}}', (1.5, 0, '{"k":[1,null]}')),
        ('{"x": 1e400, "n": 1' + "0" * 5000 + "}", (10, 100, "1")),
        ('{"x": 5, "x": 2, "n": 1, "c": "a"}', (2, 1, "a")),
        (b'{"x": 1, "n": "\xff", "c": "a"}', (1, 50, "a")),
        ('{"x": 1, "n": 2, "c": "\\ud800"}', (1, 2, "1")),
        ("[1, 2]", MISSING),
        ("7", MISSING),
        ('{"x": 1, "n": 2, "c": "a"', MISSING),
        ("not json", MISSING),
        ("[" * 100_000, MISSING),
    ],
)
def test_a_line_is_a_record_by_the_rules_whatever_the_others_hold(
    tmp_path: Path, line: str | bytes, expected: tuple[Any, ...]
) -> None:
    plain = '{"x": 0.5, "n": 3, "c": "a"}'
    assert records(tmp_path, plain, line, "  ", plain) == [(0.5, 3, "a"), expected, (0.5, 3, "a")]


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.sampled_from(["a", "1", "3"])
)
objects = st.dictionaries(st.sampled_from(["x", "n", "c", "z"]), st.one_of(scalars, st.lists(scalars, max_size=2)))


@given(st.lists(st.one_of(objects, scalars), min_size=1, max_size=6))
def test_a_record_depends_on_its_own_line(tmp_path: Path, values: list[Any]) -> None:
    full = json.dumps({"x": 1, "n": 1, "c": "a"})
    texts = [json.dumps(value) for value in values]
    together = records(tmp_path, full, *texts)
    alone = [records(tmp_path, full, text)[1] for text in texts]
    assert together[1:] == alone


@pytest.mark.parametrize("content", [[], ["["], ['{"x": 1, "n": 2}'] * 3, ["7"] * 1200], ids=["none", "[", "no c", "7"])
def test_a_key_that_comes_late_or_never_is_a_missing_value(tmp_path: Path, content: list[str]) -> None:
    """No error, with or without one more record: which keys there are depends on the records."""
    without = records(tmp_path, *content)
    assert len(without) == len(content)
    assert records(tmp_path, *content, '{"c": "a"}') == [*without, (1.5, 50, "a")]


def test_a_file_of_no_records_and_one_with_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    assert records(tmp_path, "", " ", "") == []
    assert records(tmp_path, b'\xef\xbb\xbf{"x": 1, "n": 2, "c": "a"}') == [(1, 2, "a")]


def test_one_endless_line_hinders_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "LONGEST_LINE", 64)
    whole = '{"x": 1, "n": 2, "c": "a"}'
    endless = whole[:-1] + ', "z": "' + "z" * 1000 + '"}'
    exact = whole[:-1] + ', "z": "' + "z" * (63 - len(whole) - 7 - 2) + '"}'
    assert len(exact) == 63
    found = records(tmp_path, whole, endless, exact, endless, whole)
    assert found == [(1, 2, "a"), MISSING, (1, 2, "a"), MISSING, (1, 2, "a")]


def test_lists_of_numbers_are_pictures_and_booleans_categories(tmp_path: Path) -> None:
    schema = Schema((Image("i", 2, 2), boolean("b")))
    content = [[1, 2, 3, 4], [[1, 2], [3, 4]], [1, 2], ["x"], None, {"a": 1}]
    texts = [json.dumps({"i": value, "b": True}) for value in content]
    expected = [[1, 2, 3, 4]] * 2 + [[0, 0, 0, 0]] * 4
    assert records(tmp_path, *texts, schema=schema) == [(value, "true") for value in expected]


def test_whose_record_it_is_stands_in_a_key(tmp_path: Path) -> None:
    texts = [json.dumps({"x": 1, "n": 1, "c": "a", "who": who}) for who in (7, "7", "u", 7.0, True)]
    nobody = ['{"x": 1, "n": 1, "c": "a"}', '{"who": null}', '{"who": " "}', "no object"]
    users = read(lines(tmp_path, *texts, *nobody), user="who").users
    assert users[0] == users[1] == users[3]
    assert len(set(users.tolist())) == 3 + len(nobody)


# -- folders of the Hugging Face library -----------------------------------------------------------------------------

TOLD = Schema((N, Categorical("c", ("neg", "pos"))))


def saved(folder: Path, shards: int = 2) -> pa.Table:
    """What ``Dataset.save_to_disk`` writes, by the library itself."""
    import datasets

    datasets.disable_progress_bars()
    features = datasets.Features({"n": datasets.Value("int64"), "c": datasets.ClassLabel(names=["neg", "pos"])})
    made = datasets.Dataset.from_dict({"n": [1, 2, 3, 4], "c": [0, 1, -1, 1]}, features=features)
    made.save_to_disk(folder, num_shards=shards)
    datasets.DatasetDict({"train": made}).save_to_disk(folder.with_name("splits"))
    table: pa.Table = made.data.table
    return table


def test_a_saved_data_set_is_read_with_the_names_of_its_labels(tmp_path: Path) -> None:
    table = saved(tmp_path / "saved")
    expected = {"n": [1, 2, 3, 4], "c": ["neg", "pos", "neg", "pos"]}
    pa.parquet.write_table(table, tmp_path / "saved.parquet")
    for data in (tmp_path / "saved", tmp_path / "splits" / "train", tmp_path / "saved.parquet", table):
        assert read(data, TOLD)._records.to_pydict() == expected
    numbered = Schema((N, Categorical("c", ("0", "1"))))
    assert read(table, numbered)._records["c"].to_pylist() == ["0", "1", "0", "1"]


def test_of_several_splits_one_must_be_named(tmp_path: Path) -> None:
    saved(tmp_path / "saved", 1)
    with pytest.raises(PrivateDataError, match=r"several splits.*Nothing was spent"):
        read(tmp_path / "splits", TOLD)
    with pytest.raises(PrivateDataError, match=r"expected a saved data set.*Nothing was spent"):
        read(tmp_path, TOLD, format="datasets")


def test_arrow_streams_are_read_like_arrow_files(tmp_path: Path) -> None:
    table = pa.table({"x": [1.0, math.nan], "n": [1, 2], "c": ["a", "b"]})
    with pa.ipc.new_stream(tmp_path / "d.arrow", table.schema) as sink:
        sink.write_table(table)
    assert read(tmp_path / "d.arrow")._records.to_pydict() == {"x": [1, 1.5], "n": [1, 2], "c": ["a", "1"]}
