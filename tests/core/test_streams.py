"""Large data are read block by block and give what they would give in memory, whatever their format and parts."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pictures

import pe.data.arrow_files
import pe.data.formats
import pe.data.lines
import pe.private.blocks
import pe.private.dataset
from pe.data.arrays import to_table
from pe.data.schema import Categorical, Image, Numeric, Schema, Text
from pe.errors import PrivateDataError, SchemaError
from pe.privacy import Adjacency, Contribution
from pe.private.blocks import Block, blocks
from pe.private.dataset import PrivateDataset
from pe.private.measure import Marginals, measure
from pe.private.vote import count_labels

X, N = Numeric("x", -10, 10, missing=True), Numeric("n", 0, 100, integer=True)
SCHEMA = Schema((X, N, Text("t"), Categorical("y", ("a", "b", "élan"))), "y")
ROWS = 53


@pytest.fixture(params=["memory", "stream"])
def streamed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether data are large; blocks and batches are small either way."""
    monkeypatch.setattr(pe.private.blocks, "BLOCK", 10)
    monkeypatch.setattr(pe.data.formats, "ROWS", 7)
    monkeypatch.setattr(pe.data.arrow_files, "ROWS", 7)
    monkeypatch.setattr(pe.data.lines, "BLOCK_BYTES", 50)
    monkeypatch.setattr(pe.private.dataset, "CHUNK", 6)
    monkeypatch.setattr(pe.private.dataset, "IN_MEMORY", 0 if request.param == "stream" else 2**30)
    return bool(request.param == "stream")


def table(seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    x = [None if number % 9 == 4 else round(float(rng.uniform(-12, 12)), 3) for number in range(ROWS)]
    return pa.table(
        {
            "x": x,
            "n": rng.integers(0, 100, ROWS),
            "t": [f"text {number} élan" * (number % 4) for number in range(ROWS)],
            "y": rng.choice(["a", "b", "élan", "?"], ROWS),
            "who": [f"u{number % 7}" for number in range(ROWS)],
        }
    )


def as_csv(path: Path, part: pa.Table) -> None:
    pyarrow.csv.write_csv(part, path.with_suffix(".csv"))


def as_jsonl(path: Path, part: pa.Table) -> None:
    path.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in part.to_pylist()))


def as_parquet(path: Path, part: pa.Table) -> None:
    pyarrow.parquet.write_table(part, path.with_suffix(".parquet"), row_group_size=11)


def as_arrow(path: Path, part: pa.Table) -> None:
    pyarrow.feather.write_feather(part, path.with_suffix(".arrow"), chunksize=9)


def as_stream(path: Path, part: pa.Table) -> None:
    with pa.ipc.new_stream(path.with_suffix(".arrow"), part.schema) as sink:
        sink.write_table(part, max_chunksize=8)


WRITERS = [as_csv, as_jsonl, as_parquet, as_arrow, as_stream]


def read(data: object, schema: Schema = SCHEMA, **options: Any) -> PrivateDataset:
    return PrivateDataset.read(data, schema, adjacency=Adjacency.ADD_REMOVE, **options)


def whole(private: PrivateDataset) -> dict[str, list[Any]]:
    found = list(private._blocks())
    assert all(len(block) == 10 for block in found[:-1])
    joined = Block.joined(found)
    return joined.records.to_pydict() | {"y": joined.labels.tolist(), "who": np.asarray(joined.users).tolist()}


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_parts_of_every_format_hold_the_same_records_and_have_the_same_digest(
    tmp_path: Path, streamed: bool, write: Callable[[Path, pa.Table], None]
) -> None:
    given_, folder = table(), tmp_path / "parts"
    folder.mkdir()
    for number, start in enumerate((0, 20, 21)):
        write(folder / f"part-{number}", given_.slice(start, (20, 1, ROWS)[number]))
    (folder / "_SUCCESS").touch()
    expected = read(given_, user="who")
    assert not expected.streamed
    suffix = next(folder.glob("part-0.*")).suffix
    for data in (folder, str(folder / f"part-*{suffix}"), f"file://{folder}/part-?{suffix}", f"file://{folder}"):
        private = read(data, user="who")
        assert private.streamed == streamed
        assert whole(private) == whole(expected)
        assert private.content_digest() == expected.content_digest()


def test_data_behind_an_address_are_read(streamed: bool) -> None:
    system = fsspec.filesystem("memory")
    for number in range(2):
        with system.open(f"/bucket/part-{number}.jsonl", "wb") as file:
            file.write("".join(json.dumps(row) + "\n" for row in table(number).to_pylist()).encode())
    private = read("memory://bucket/part-*.jsonl", user="who")
    assert whole(private) == whole(read(pa.concat_tables([table(0), table(1)]), user="who"))
    with pytest.raises(PrivateDataError, match=r"memory://nowhere/x.csv does not exist.*Nothing was spent"):
        read("memory://nowhere/x.csv")
    with pytest.raises(PrivateDataError, match=r"cannot be reached: ValueError.*Nothing was spent"):
        read("nosuchprotocol://x.csv")


def test_malformed_lines_of_a_file_are_records_at_their_own_position(tmp_path: Path, streamed: bool) -> None:
    header = "x,n,t,y,who\n"
    (tmp_path / "1.csv").write_text(header + "1,1,one,a,u\nonly,two\n2,2,two,b,u\n1,2,3,4,5,6\n")
    (tmp_path / "2.csv").write_text(header)
    (tmp_path / "3.csv").write_text(header + "3,3,three,a,u\n")
    private = read(tmp_path)
    assert private.streamed == streamed
    joined = Block.joined(list(private._blocks()))
    assert joined.records["t"].to_pylist() == ["one", "", "two", "", "three"]
    assert joined.records["x"].to_pylist() == [1, None, 2, None, 3]
    owners = Block.joined(list(read(tmp_path, user="who")._blocks())).users
    assert owners is not None
    assert len({tuple(owner) for owner in owners.tolist()}) == 3  # "u", and each line without an id


def test_users_are_known_again_in_other_parts(tmp_path: Path, streamed: bool) -> None:
    pyarrow.parquet.write_table(pa.table({"n": [1, 2], "who": [7, 8]}), tmp_path / "1.parquet")
    pyarrow.parquet.write_table(pa.table({"n": [3, 4], "who": ["8", "x"]}), tmp_path / "2.parquet")
    owners = Block.joined(list(read(tmp_path, Schema((N,)), user="who")._blocks())).users
    assert owners is not None
    assert (owners[1] == owners[2]).all()
    assert len({tuple(each) for each in owners.tolist()}) == 3


def test_pictures_are_read_in_batches(tmp_path: Path, streamed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pe.data.imagefolder, "PICTURES", 4)
    schema = Schema((Image("i", 2, 2), Categorical("y", ("a", "b"))), "y")
    for number in range(11):
        place = tmp_path / "ab"[number % 2] / f"{number:02d}.png"
        place.parent.mkdir(exist_ok=True)
        Pictures.fromarray(np.full((2, 2), number, np.uint8)).save(place)
    private = read(tmp_path, schema)
    assert private.streamed == streamed
    joined = Block.joined(list(private._blocks()))
    assert [row[0] for row in joined.records["i"].to_pylist()] == [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9]
    assert joined.labels.tolist() == [0] * 6 + [1] * 5


def test_lists_are_pictures_or_black_whatever_the_others_are(tmp_path: Path, streamed: bool) -> None:
    schema = Schema((Image("i", 2, 2),))
    good, bad = [[1, 2, 3, 4]], [[1, 2]]
    for lists in (bad * 30, bad * 30 + good, good * 7 + bad * 30):
        pyarrow.parquet.write_table(pa.table({"i": lists}), tmp_path / "d.parquet")
        found = Block.joined(list(read(tmp_path / "d.parquet", schema)._blocks())).records["i"].to_pylist()
        assert found == [numbers if numbers in good else [0] * 4 for numbers in lists]


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "does not exist"),
        ({"a.csv": "x\n1\n", "b.jsonl": "{}\n"}, "files of several formats"),
        ({"a.csv": "", "b.csv": ""}, "is empty"),
        ({"a.csv": "n\n1\n"}, "no column 'x'"),
    ],
)
def test_what_is_no_data_is_told_by_the_pattern_alone(
    tmp_path: Path, files: dict[str, str], told: str, everything_about: Callable[[BaseException], str]
) -> None:
    for name, content in files.items():
        (tmp_path / f"canary-{name}").write_text(content)
    with pytest.raises((PrivateDataError, SchemaError), match=f"{told}.*Nothing was spent") as caught:
        read(str(tmp_path / "*"))
    assert "canary" not in everything_about(caught.value)


def test_data_that_change_while_they_are_in_use_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pe.private.dataset, "IN_MEMORY", 0)
    monkeypatch.setattr(pe.private.blocks, "BLOCK", 10)
    path = tmp_path / "d.csv"
    pyarrow.csv.write_csv(table(), path)
    text = path.read_text()
    private = read(path)
    changes = [
        text + '1,1,"new","a","u"\n',
        text.rpartition('"u')[0].rpartition("\n")[0] + "\n",
        text.replace("1", "2"),
    ]
    for changed in changes:
        path.write_text(changed)
        with pytest.raises(PrivateDataError, match=r"changed while they were in use.*stays charged"):
            list(private._blocks())
    path.write_text(text.replace("x", "z", 1))
    with pytest.raises(PrivateDataError, match=r"changed while they were in use.*stays charged"):
        count_labels(private, Adjacency.ADD_REMOVE)._count()


def test_no_records_are_refused_where_their_number_is_public(tmp_path: Path, streamed: bool) -> None:
    (tmp_path / "d.csv").write_text("x,n,t,y\n")
    assert list(read(tmp_path / "d.csv")._blocks()) == []
    with pytest.raises(PrivateDataError, match=r"no records.*Nothing was spent"):
        PrivateDataset.read(tmp_path / "d.csv", SCHEMA, adjacency=Adjacency.REPLACE_ONE)


@pytest.mark.parametrize("norm", [None, 1.5])
def test_sums_are_those_of_data_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, norm: float | None) -> None:
    """Of single records, and of users whose records lie in many blocks."""
    monkeypatch.setattr(pe.private.blocks, "BLOCK", 10)
    monkeypatch.setattr(pe.private.spill, "ENTRIES", 8)
    as_jsonl(tmp_path / "d", table())
    schema = Schema((N, SCHEMA.columns[3]), "y")
    features = Marginals(schema, (("n",), ("n", "y")), 4, grid=64)
    rule = Contribution.of(norm=norm)
    sums = []
    for limit in (2**30, 0):
        monkeypatch.setattr(pe.private.dataset, "IN_MEMORY", limit)
        private = read(tmp_path / "d.jsonl", schema, user=norm and "who")
        votes = measure(private, features, adjacency=Adjacency.ADD_REMOVE, norm=norm)
        sums.append([votes._count().tolist(), count_labels(private, Adjacency.ADD_REMOVE, rule)._count().tolist()])
    assert sums[0] == sums[1]
    assert sum(sums[0][1]) > 0


# -- blocks ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.text(max_size=30), max_size=40), st.lists(st.integers(0, 40), max_size=5), st.integers(1, 12))
def test_where_blocks_end_depends_on_the_records_alone(texts: list[str], cuts: list[int], most: int) -> None:
    schema = Schema((Text("t"), N))
    records = to_table({"t": np.array(texts, object), "n": np.arange(len(texts))}, schema)
    one = Block(records, np.arange(len(texts), dtype=np.int32), None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pe.private.blocks, "BLOCK", most)
        patch.setattr(pe.private.blocks, "BLOCK_BYTES", 100)
        expected = list(blocks(iter([one])))
        ends = sorted({0, *cuts, len(texts)})
        parts = [one.cut(start, stop) for start, stop in pairwise(ends)]
        found = list(blocks(iter(parts)))
    assert [block.digest() for block in found] == [block.digest() for block in expected]
    assert [block.records.to_pydict() for block in found] == [block.records.to_pydict() for block in expected]
    assert sum(len(block) for block in found) == len(texts)
    for block in found:
        sizes = [len(text.encode()) + 8 for text in block.records["t"].to_pylist()]
        assert len(block) <= most
        assert sum(sizes[:-1]) < 100


def test_a_digest_tells_values_labels_users_and_missing_values_apart() -> None:
    schema = Schema((X, Categorical("c", ("a", "b"), missing=True), Text("t")))

    def digest(x: float, code: int, text: str, label: int = 0, user: int = 1) -> bytes:
        arrays = {"x": np.array([x, 1.0]), "c": np.array([code, 0], np.int32), "t": np.array([text, "z"], object)}
        users = np.array([[user, 2], [3, 4]], np.uint64)
        return Block(to_table(arrays, schema), np.array([label, 0], np.int32), users).digest()

    different = [
        digest(0, 0, "ab"), digest(np.nan, 0, "ab"), digest(0, 1, "ab"), digest(0, 2, "ab"), digest(0, 0, "abz"),
        digest(0, 0, ""), digest(0, 0, "ab", 1), digest(0, 0, "ab", 0, 2),
    ]  # fmt: skip
    assert len(set(different)) == len(different)
    assert digest(0, 0, "ab") == different[0]
