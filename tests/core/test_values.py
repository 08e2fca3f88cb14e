"""Values of every type: how they are read, and that what is exported reads as what was made."""

from __future__ import annotations

import datetime as dt
import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pe.apis.tabular import TabularAPI
from pe.data.arrays import to_numpy
from pe.data.coerce import coerce
from pe.data.read import read
from pe.data.schema import Categorical, Column, Datetime, Key, Numeric, Schema, boolean
from pe.data.times import iso, seconds
from pe.errors import SchemaError
from pe.export import export, records
from pe.privacy import Adjacency
from pe.private.dataset import PrivateDataset

DAY = Datetime.of("c", "2000-01-01", "2030-12-31", date=True, missing=True)
TIME = Datetime.of("c", "2000-01-01", "2030-12-31", missing=True)
COUNTED = Datetime.of("c", "2000-01-01", "2030-12-31", missing=True, epoch="ms")
FLAG = boolean("c", missing=True)
NUMBER = Numeric("c", 0, 10, missing=True)
WHOLE = Numeric("c", 0, 10, integer=True, missing=True)
TOWN = Categorical("c", ("a", "b"), missing=True)


def read_as(values: Any, column: Column) -> list[Any]:
    """How values of one column come out; None where they are missing."""
    schema = Schema((column,))
    data = pa.table({column.name: values}) if isinstance(values, pa.Array) else {column.name: values}
    found = coerce(read(data, schema), schema)[column.name]
    if isinstance(column, Datetime):
        return [None if math.isnan(each) else column.text(each) for each in found]
    if isinstance(column, Categorical):
        return [[*column.values, None][code] for code in found]
    return [None if math.isnan(each) else each for each in found]


ISO = [
    ("2024-02-29", "2024-02-29T00:00:00"),
    (" 2024-02-29T13:05 ", "2024-02-29T13:05:00"),
    ("2024-02-29 13:05:59.999", "2024-02-29T13:05:59"),
    ("2024-02-29T13:05:59,25", "2024-02-29T13:05:59"),
    ("2024-02-29T13:05Z", "2024-02-29T13:05:00"),
    ("2024-02-29T23:05+01:30", "2024-02-29T21:35:00"),
    ("2024-02-29t23:05 -0130", "2024-03-01T00:35:00"),
    ("2024-12-31T23:05-01", "2025-01-01T00:05:00"),
    ("1999-01-01", "2000-01-01T00:00:00"),
    ("9999-12-31", "2030-12-31T00:00:00"),
    ("2023-02-29", None),
    ("1900-02-29", None),
    ("2024-13-01", None),
    ("2024-00-01", None),
    ("2024-01-00", None),
    ("0000-01-01", None),
    ("2024-01-01T24:00", None),
    ("2024-01-01T10:60", None),
    ("2024-01-01T10", None),
    ("2024-01-01T10:00+24:00", None),
    ("20240101", None),
    ("01/02/2024", None),
    ("1704067200", None),
    ("2024-1-1", None),
    ("soon", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "expected"), ISO)
def test_iso_text_is_read_as_an_instant_in_utc(text: str, expected: str | None) -> None:
    assert read_as([text], TIME) == [expected]
    assert read_as(np.array([text.encode()], object), TIME) == [expected]
    assert read_as([text], DAY) == [expected and expected[:10]]


@given(st.datetimes(dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59)))
def test_every_instant_survives_its_text(moment: dt.datetime) -> None:
    whole = moment.replace(microsecond=0)
    found = seconds(pa.chunked_array([pa.array([moment.isoformat()])]))[0]
    assert iso(found, date=False) == whole.isoformat()
    assert found == whole.replace(tzinfo=dt.UTC).timestamp()


@given(st.lists(st.text(max_size=12) | st.sampled_from([text for text, _ in ISO]), max_size=5))
def test_no_text_can_stop_the_reading_of_dates(texts: list[str]) -> None:
    column = pa.array(texts, pa.string())
    assert read_as(column, TIME) == [read_as(pa.array([text]), TIME)[0] for text in texts]


ZONED = [dt.datetime(2024, 1, 1, tzinfo=dt.UTC), dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=5)))]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array(["2024-05", "NaT"], "datetime64[M]"), ["2024-05-01T00:00:00", None]),
        (np.array(["2024-05-02", "NaT"], "datetime64[D]"), ["2024-05-02T00:00:00", None]),
        (np.array(["2024-05-02T03", "NaT"], "datetime64[h]"), ["2024-05-02T03:00:00", None]),
        (np.array(["2024-05-02T03:04:05.6", "1969-12-31T23:59:59.9"], "datetime64[ns]"),
         ["2024-05-02T03:04:05", "2000-01-01T00:00:00"]),
        (pa.array([1_714_618_800_500, None], pa.timestamp("ms")), ["2024-05-02T03:00:00", None]),
        (pa.array([1_714_618_800, None], pa.timestamp("s", tz="Asia/Tokyo")), ["2024-05-02T03:00:00", None]),
        (pa.array([dt.date(2024, 5, 2)], pa.date64()), ["2024-05-02T00:00:00"]),
        (np.array(ZONED, object), ["2024-01-01T00:00:00", "2023-12-31T19:00:00"]),
        (np.array([dt.date(2024, 5, 2), None], object), ["2024-05-02T00:00:00", None]),
        (pa.array(["2024-05-02", None]).dictionary_encode(), ["2024-05-02T00:00:00", None]),
        (pa.nulls(2), [None, None]),
        (np.array([np.nan, np.nan]), [None, None]),
    ],
    ids=str,
)  # fmt: skip
def test_dates_of_any_type_are_read(values: Any, expected: list[str | None]) -> None:
    assert read_as(values, TIME) == expected
    if isinstance(values, np.ndarray) and values.dtype.kind == "M":
        frame = pd.DataFrame({"c": values.astype("datetime64[ns]")})
        days = coerce(read(frame, Schema((DAY,))), Schema((DAY,)))["c"]
        assert [None if math.isnan(day) else DAY.text(day) for day in days] == [each and each[:10] for each in expected]


def test_a_missing_date_without_a_state_of_its_own_becomes_the_default_or_the_middle() -> None:
    assert read_as(["x"], Datetime.of("c", "2020-01-01", "2020-01-03", date=True)) == ["2020-01-02"]
    assert read_as(["x"], Datetime.of("c", "2020-01-01", "2020-01-03", date=True, default="2020-01-03")) == [
        "2020-01-03"
    ]


def test_numbers_are_instants_only_where_an_epoch_is_declared() -> None:
    moment = 1_714_618_800_500
    for values in ([moment, moment + 500], [float(moment), math.nan], [str(moment), "2024-05-02T03:00:01"]):
        assert read_as(np.array(values), COUNTED)[0] == "2024-05-02T03:00:00"
        if isinstance(values[0], str):
            assert read_as(values, TIME) == [None, "2024-05-02T03:00:01"]
        elif isinstance(values[0], float):  # a column without any value is one of floats in pandas
            assert read_as(np.array(values), TIME) == [None, None]
        else:
            with pytest.raises(SchemaError, match=r"column 'c'.*declared epoch.*Nothing was spent"):
                read_as(np.array(values), TIME)
    assert read_as([math.inf, -math.inf], COUNTED) == ["2030-12-31T00:00:00", "2000-01-01T00:00:00"]
    for column in (TIME, COUNTED):
        with pytest.raises(SchemaError, match="column 'c'"):
            read_as(pa.array([5], pa.time32("s")), column)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["true", "T", "YES", "y", "1", " true "], ["true"] * 6),
        (["False", "f", "no", "N", "0"], ["false"] * 5),
        (["", "maybe", "2", None, "1.0"], [None] * 5),
        ([True, False], ["true", "false"]),
        (pa.array([True, None]), ["true", None]),
        ([1, 0, 2], ["true", "false", None]),
        ([1.0, 0.0, math.nan, 0.5], ["true", "false", None, None]),
    ],
    ids=str,
)
def test_truth_values_are_read_in_their_usual_spellings(values: Any, expected: list[str | None]) -> None:
    assert read_as(values, FLAG) == expected
    assert read_as(values, boolean("c", default=True)) == [each or "true" for each in expected]


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        (NUMBER, [None, 5.0, math.nan, 11.0, -math.inf, math.inf], [None, 5, None, 10, 0, 10]),
        (NUMBER, ["", "5", "NA", "1,5", "1,000", "1 000", "1.5e0", "inf"], [None, 5, None, None, None, None, 1.5, 10]),
        (WHOLE, [None, 4.6, 11], [None, 5, 10]),
        (NUMBER, [Decimal("2.5"), None], [2.5, None]),
        (TOWN, ["a", " b ", "", None, "z"], ["a", "b", None, None, None]),
        (TOWN, [math.nan, 1.0], [None, None]),
        (Categorical("c", ("a", ""), missing=True), ["a", " ", None], ["a", "", None]),
        (Categorical("c", ("a", "rest"), "rest", missing=True), ["a", "z", "", None], ["a", "rest", None, None]),
        (Categorical("c", ("nan", "1"), missing=True), [math.nan, 1.0], [None, "1"]),
        (Categorical("c", ("low", "high"), kind="ordinal"), ["high", "none"], ["high", "low"]),
    ],
    ids=str,
)
def test_a_missing_value_stays_missing_where_that_is_declared(
    column: Column, values: list[Any], expected: list[Any]
) -> None:
    assert read_as(np.array(values, object), column) == expected


# -- data that are hardly any ------------------------------------------------------------------------------------------

ALL = Schema(
    (
        Numeric("n", 0, 10, integer=True, missing=True),
        Numeric("x", 0.5, 1e6, log=True),
        Categorical("town", ("a", "b"), missing=True),
        Categorical("size", ("s", "m", "l"), kind="ordinal", missing=True),
        boolean("flag", missing=True),
        Datetime.of("day", "2020-01-01", "2024-12-31", date=True, missing=True),
        Datetime.of("at", "2020-01-01", "2024-12-31", resolution=60, missing=True),
        Categorical("label", ("no", "yes")),
    ),
    "label",
    (Key("id", "P-{:04d}"), Key("uuid", "uuid4")),
    ignore=("notes",),
)
NAMES = [column.name for column in ALL.columns]


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("value", ["", "1", None, "x"], ids=["empty", "constant", "missing", "unreadable"])
def test_columns_of_one_value_and_a_record_or_two_are_read(rows: int, value: str | None) -> None:
    data = {name: np.array([value] * rows, object) for name in NAMES}
    private = PrivateDataset.read(data, ALL, adjacency=Adjacency.REPLACE_ONE)
    assert private._records.num_rows == rows
    if value != "1":
        assert all(private._records[column.name].null_count == rows * column.missing for column in ALL.features)


@pytest.mark.parametrize("kind", ["csv", "parquet", "frame", "mapping"])
def test_tables_of_no_records_are_read(tmp_path: Path, kind: str) -> None:
    empty = pd.DataFrame({name: [] for name in NAMES})
    data: object = {"frame": empty, "mapping": {name: [] for name in NAMES}}.get(kind, tmp_path / f"d.{kind}")
    if kind == "csv":
        empty.to_csv(tmp_path / "d.csv", index=False)
    elif kind == "parquet":
        empty.to_parquet(tmp_path / "d.parquet")
    assert PrivateDataset.read(data, ALL, adjacency=Adjacency.ADD_REMOVE)._records.num_rows == 0


def test_undeclared_ignored_and_key_columns_are_not_read(tmp_path: Path) -> None:
    header = ",".join(["id", "notes", "more", "more", *NAMES])
    (tmp_path / "d.csv").write_text(f"{header}\nsecret,secret,secret,secret,{','.join(['1'] * len(NAMES))}\n")
    raw = read(tmp_path / "d.csv", ALL)
    assert sorted(raw) == sorted(NAMES)


# -- export ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["arrow", "pandas", "synthetic.csv", "synthetic.parquet", "synthetic.jsonl"])
def test_what_is_exported_reads_as_what_was_made(tmp_path: Path, form: str) -> None:
    made = TabularAPI(ALL).random(300, 1, np.random.default_rng(0))
    table = records(made, ALL)
    if form == "arrow":
        data: object = table
    elif form == "pandas":
        data = table.to_pandas()
    else:
        content = export(made, ALL, [form.split(".")[1]])[form]
        (tmp_path / form).write_bytes(content)
        data = tmp_path / form
        if form.endswith("jsonl"):
            data = pd.DataFrame(map(json.loads, content.decode().splitlines()))
    again = coerce(read(data, ALL), ALL)
    for column in ALL.features:
        np.testing.assert_array_equal(again[column.name], to_numpy(made.records, column))


def test_exported_types_are_those_of_a_database() -> None:
    made = TabularAPI(ALL).random(50, 0, np.random.default_rng(0))
    table = records(made, ALL)
    kinds = {field.name: field.type for field in table.schema}
    assert table.column_names == ["id", "uuid", *NAMES]
    assert (kinds["flag"], kinds["day"], kinds["at"]) == (pa.bool_(), pa.date32(), pa.timestamp("s"))
    assert kinds["n"] == pa.int64()
    line = export(made, ALL, ["csv"])["synthetic.csv"].decode().splitlines()[1]
    assert line.startswith('"P-0001","')
    assert table["id"].to_pylist() == [f"P-{number:04d}" for number in range(1, 51)]
    assert records(made, ALL).equals(table)
    other = TabularAPI(ALL).random(50, 0, np.random.default_rng(1))
    assert not set(records(other, ALL)["uuid"].to_pylist()) & set(table["uuid"].to_pylist())


def test_hugging_face_reads_every_type(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    made = TabularAPI(ALL).random(40, 0, np.random.default_rng(0))
    content = export(made, ALL, ["hf"])["hf/data/train-00000-of-00001.parquet"]
    (tmp_path / "d.parquet").write_bytes(content)
    found = datasets.Dataset(pa.parquet.read_table(tmp_path / "d.parquet"))
    assert found.features["flag"].dtype == "bool"
    assert found.features["town"].names == ["a", "b"]
    assert found["at"][:] == records(made, ALL)["at"].to_pylist()
