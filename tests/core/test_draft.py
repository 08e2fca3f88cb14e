"""Schemas drafted from a public sample: types, bounds, missing values, and what is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from pe.data.arrays import to_table
from pe.data.coerce import coerce
from pe.data.draft import draft
from pe.data.read import read
from pe.data.schema import Categorical, Datetime, Numeric, Schema, Text, boolean
from pe.errors import SchemaError

RNG = np.random.default_rng(0)
N = 60


def frame() -> pd.DataFrame:
    dates = pd.date_range("2020-01-31", periods=N, freq="D")
    return pd.DataFrame(
        {
            "age": RNG.integers(1, 90, N),
            "score": RNG.uniform(-1, 1, N),
            "income": np.exp(np.linspace(0, 12, N)),
            "children": [None if number % 7 == 0 else float(number % 3) for number in range(N)],
            "active": [bool(number % 2) for number in range(N)],
            "agreed": ["Yes" if number % 2 else "no" for number in range(N)],
            "known": [None if number == 5 else ["t", "f"][number % 2] for number in range(N)],
            "joined": [None if number == 3 else day.date() for number, day in enumerate(dates)],
            "seen": dates + pd.Timedelta("3h"),
            "zoned": (dates + pd.Timedelta("3h")).tz_localize("Asia/Tokyo"),
            "born": [f"{1950 + number}-01-01" for number in range(N)],
            "size": [["small", "large", ""][number % 3] for number in range(N)],
            "one": ["same"] * N,
            "note": [f"free text {number}" for number in range(N)],
            "price": [f"{number + 1},000" for number in range(N)],
            "empty": [None] * N,
            "label": [None if number == 4 else "ab"[number % 2] for number in range(N)],
        }
    )


EXPECTED = (
    Numeric("children", 0, 2, integer=True, missing=True),
    boolean("active"),
    boolean("agreed"),
    boolean("known", missing=True),
    Datetime.of("joined", "2020-01-31", "2020-03-30", date=True, missing=True),
    Datetime.of("seen", "2020-01-31T03:00", "2020-03-30T03:00"),
    Datetime.of("zoned", "2020-01-30T18:00", "2020-03-29T18:00", zone="UTC"),
    Datetime.of("born", "1950-01-01", "2009-01-01", date=True),
    Categorical("size", ("large", "small"), missing=True),
    Categorical("one", ("same",)),
    Categorical("label", ("a", "b", "unknown"), "unknown"),
)


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet", "arrow"])
def test_every_type_is_drafted(tmp_path: Path, form: str) -> None:
    sample, path = frame(), tmp_path / f"sample.{form}"
    if form == "csv":
        sample.to_csv(path, index=False)
    elif form == "jsonl":
        sample["joined"] = [None if day is None else str(day) for day in sample["joined"]]  # else pandas adds a time
        sample.to_json(path, orient="records", lines=True, date_format="iso")
    elif form == "parquet":
        pa.parquet.write_table(pa.Table.from_pandas(sample), path)
    else:
        pa.feather.write_feather(pa.Table.from_pandas(sample), path, compression="uncompressed")
    drafted, remarks = draft(path, "label")
    for column in EXPECTED:
        assert drafted.column(column.name) == column
    assert drafted.ignore == ("note", "price", "empty")
    assert ["thousands separators" in remark for remark in remarks if "was left out" in remark] == [False, True, False]
    income, age = drafted.column("income"), drafted.column("age")
    assert isinstance(income, Numeric)
    assert isinstance(age, Numeric)
    assert income.log
    assert age.integer
    assert not age.log
    assert Schema.from_toml(drafted.to_toml()) == drafted
    to_table(coerce(read(path, drafted), drafted), drafted)


@pytest.mark.parametrize("rows", [1, 2])
def test_a_sample_of_a_row_or_two_is_drafted(tmp_path: Path, rows: int) -> None:
    (tmp_path / "s.csv").write_text("a,b,c\n" + "1,x,2020-01-01\n" * rows)
    drafted = draft(tmp_path / "s.csv").schema
    day = Datetime.of("c", "2020-01-01", "2020-01-01", date=True)
    assert drafted.columns == (Numeric("a", 1, 1, integer=True), Categorical("b", ("x",)), day)


def test_columns_without_two_equal_values_are_pointed_out_as_ids(tmp_path: Path) -> None:
    path = tmp_path / "sample.csv"
    rows = [f"{number},P-{number:03d},note {number},{number / 7},{number % 5}" for number in range(30)]
    path.write_text("\n".join(["id,code,note,height,stage", *rows]))
    remarks = draft(path).remarks
    pointed = [remark for remark in remarks if 'type = "key"' in remark]
    assert [remark.split("'")[1] for remark in pointed] == ["id", "code"]


def test_free_text_is_declared_by_name(tmp_path: Path) -> None:
    path = tmp_path / "sample.csv"
    path.write_text('text,stars,x\n"two\nlines",1,3\nmore,5,4\n')
    schema, remarks = draft(path, "stars", "text")
    assert schema == Schema((Text("text"), Categorical("stars", ("1", "5"))), "stars", ignore=("x",))
    assert remarks == []
    assert draft(path, "stars", "text", ["1", "3", "5"]).schema.labels == ("1", "3", "5")
    with pytest.raises(SchemaError, match="has no column 'body'"):
        draft(path, "stars", "body")
    path.write_text("kind,body\n" + "".join(f"a,text number {n}\n" for n in range(2000)))
    (remark,) = draft(path).remarks
    assert remark.startswith("column 'body' was left out")
    assert "--text names a column of free text" in remark
