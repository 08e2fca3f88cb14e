"""What a sample is drafted as, by the texts of its values; and the true cause where a column is left out."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pe.data.coerce import coerce
from pe.data.dialect import CsvOptions
from pe.data.draft import Draft, draft
from pe.data.forms import FORMS, common_form
from pe.data.inference import step_of
from pe.data.outcomes import Outcome, outcomes
from pe.data.read import read
from pe.data.schema import Categorical, Datetime, Numeric, Schema, boolean
from pe.errors import SchemaError

N = 60


def drafted(folder: Path, values: list[str], label: list[str] | None = None) -> Draft:
    """The draft of a CSV file of one column 'x' beside one of two categories."""
    path = folder / "sample.csv"
    other = label or ["u", "v"]
    lines = [f'"{value}",{other[number % len(other)]}' for number, value in enumerate(values)]
    path.write_text("\n".join(["x,kind", *lines]) + "\n")
    return draft(path, "kind")


def many(pattern: str) -> list[str]:
    return [pattern.format(number, n2=10 + number % 18, n3=100 + number) for number in range(N)]


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        (many("{n2}.01.2{n3}"), "dates as dd.mm.yyyy"),
        ([f"{1 + n % 28:02d}/{1 + n % 12:02d}/{1960 + n}" for n in range(N)], "dates as dd/mm/yyyy"),
        ([f"{1 + n % 12:02d}/{1 + n % 28:02d}/{1960 + n}" for n in range(N)], "dates as mm/dd/yyyy"),
        ([f"{1 + n % 28} Mar {1960 + n}" for n in range(N)], "dates with names of months"),
        ([f"0{n % 10}:{n:02d}:30" for n in range(N)], "times of day"),
        ([f"{n} days 03:00:00" for n in range(N)], "durations"),
        ([f"${n3},{n3}.50" for n3 in range(100, 100 + N)], "a currency sign"),
        ([f"{n3} EUR" for n3 in range(100, 100 + N)], "a currency sign"),
        (many("{n3},000"), "thousands separators"),
        (many("{n3},5"), "decimal commas"),
        (many("{n3}.5 %"), "percentages"),
        (many("{}-{n3}"), "ranges"),
        (many("{n3} kg"), "numbers with a unit"),
        (many("+49 170 1234{n3}"), "phone numbers"),
        (many("someone{}@example.org"), "e-mail addresses"),
        (many("00{n3}"), "codes with leading zeros"),
        (many("+491701234{n3}"), "phone numbers"),
        (many("491701234{n3}"), "a numbering"),
        (many("9223372036854775{n3}"), "64-bit ids"),
        ([f"1990{1 + n % 12:02d}{1 + n % 28:02d}" for n in range(N)], "calendar numbers (yyyymmdd)"),
        ([str(number) if number % 3 else f"about {number}" for number in range(N)], "mixed types, numbers such as 1"),
        (many("key-{n3}"), "no two of its values are equal"),
        (many("a note on case {}"), "--text names a column of free text"),
        ([""] * N, "it is empty"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_column_that_cannot_be_drafted_is_left_out_with_its_cause(
    tmp_path: Path, values: list[str], cause: str
) -> None:
    path = tmp_path / "sample.csv"
    rows = [f'"{value}",{number},{"uv"[number % 2]}' for number, value in enumerate(values)]
    path.write_text("\n".join(["x,y,kind", *rows]) + "\n")
    schema, remarks = draft(path, "kind")
    assert schema.ignore == ("x",)
    (remark,) = (each for each in remarks if each.startswith("column 'x'"))
    assert remark.startswith("column 'x' was left out: ")
    assert cause in remark


@pytest.mark.parametrize(
    ("values", "column"),
    [
        (["1", "2", "3"], Numeric("x", 1, 3, integer=True)),
        (["1.0", "", "3.0"], Numeric("x", 1, 3, integer=True, missing=True)),
        (["1", "NA", "3"], Numeric("x", 1, 3, integer=True, missing=True)),
        (["1.5", "\\N", "12.25"], Numeric("x", 1.5, 12.25, missing=True, step=0.01)),
        (["1.0", "2.0"], Numeric("x", 1, 2, step=1)),
        (["0.30000000000000004", "0.1"], Numeric("x", 0.1, 0.3, step=0.1)),
        (["0.1234567", "0.5"], Numeric("x", 0.1234567, 0.5)),
        (["1e-05", "0.5"], Numeric("x", 1e-05, 0.5, step=1e-05)),
        (["True", "False"], boolean("x")),
        (["yes", "?", "No"], boolean("x", missing=True)),
        (["007", "7", "12"], Categorical("x", ("007", "7", "12"))),
        (["+4917012345", "+4917054321"], Categorical("x", ("+4917012345", "+4917054321"))),
        (["20240131", "20240229"], Categorical("x", ("20240131", "20240229"), kind="ordinal")),
        (["202401", "202402"], Categorical("x", ("202401", "202402"), kind="ordinal")),
        (["10-20", "<10", "20+"], Categorical("x", ("10-20", "20+", "<10"))),
        (["2024-01-31", "9999-12-31", "2024-03-01"], Datetime.of("x", "2024-01-31", "2024-03-01", date=True)),
        (["2024-01-31", "-"], Datetime.of("x", "2024-01-31", "2024-01-31", date=True, missing=True)),
        (["2024-01-31T12:30", "2024-02-01 00:00"], Datetime.of("x", "2024-01-31T12:30", "2024-02-01T00:00")),
        (["2024-02-30", "2024-01-01"], Categorical("x", ("2024-01-01", "2024-02-30"))),
    ],
    ids=str,
)
def test_what_values_are_drafted_as(tmp_path: Path, values: list[str], column: object) -> None:
    assert drafted(tmp_path, values * 3).schema.column("x") == column


@pytest.mark.parametrize(
    "spellings",
    [("True", "False"), ("1.0", "0.0"), ("001", "002"), ("+1", "-1"), ("1e3", "x"), ("<=5", ">=5"), ("Yes", "yes")],
)
def test_a_label_keeps_its_spelling_and_is_read_as_it_is_spelt(tmp_path: Path, spellings: tuple[str, str]) -> None:
    schema = drafted(tmp_path, ["1", "2"] * 5, list(spellings)).schema
    assert set(schema.labels) == set(spellings)
    codes = coerce(read(tmp_path / "sample.csv", schema), schema)["kind"]
    assert [schema.labels[code] for code in codes] == list(spellings) * 5


def test_a_label_that_is_missing_gets_a_value_of_its_own(tmp_path: Path) -> None:
    schema, remarks = drafted(tmp_path, ["1", "2", "3"] * 4, ["a", "b", ""])
    assert schema.column("kind") == Categorical("kind", ("a", "b", "unknown"), "unknown")
    assert [remark for remark in remarks if "label 'kind' is missing (blank) in 4 of 12" in remark]
    arrays = coerce(read(tmp_path / "sample.csv", schema), schema)
    assert np.bincount(arrays["kind"]).tolist() == [4, 4, 4]
    again = drafted(tmp_path, ["1", "2", "3"] * 4, ["a", "unknown", ""]).schema
    assert again.labels == ("a", "unknown", "(unknown)")


def test_a_label_of_truth_values_by_type_reads_every_spelling_of_them(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": range(4), "kind": [True, False, True, True]})
    frame.to_parquet(tmp_path / "s.parquet")
    schema = draft(tmp_path / "s.parquet", "kind").schema
    assert schema.column("kind") == boolean("kind")
    frame.to_csv(tmp_path / "p.csv", index=False)  # True, False
    assert coerce(read(tmp_path / "p.csv", schema), schema)["kind"].tolist() == [1, 0, 1, 1]


def test_a_label_that_is_a_mark_is_remarked_on(tmp_path: Path) -> None:
    remarks = drafted(tmp_path, ["1", "2"] * 5, ["a", "?"]).remarks
    assert [remark for remark in remarks if "label 'kind': '?' (5) is drafted as a category" in remark]


def test_a_label_with_too_many_values_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"label 'kind' has 1001 different values.*targets"):
        drafted(tmp_path, ["1"] * 1001, [str(number) for number in range(1001)])


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([*map(str, range(18, 60)), "999", "999"], "999 may stand for a missing value, the next number is 59"),
        ([*map(str, range(10)), "-1", "-1"], "-1 may stand for a missing value, the next number is 0"),
        (["a", "b", "NA"], "'NA' (1) is drafted as a category"),
        (["Yes", "yes", "no", "No way"], "'Yes' (1), 'yes' (1) are different values"),
        (["1", "?", "2"], "'?' (1) cannot be read as numbers, and is taken for missing"),
        (["2024-01-01", "9999-12-31"], "9999-12-31 stands for no date"),
        (["1704067200", "1704153600"], 'type = "datetime" with epoch = "s"'),
        (["12 %", "13 %"], "holds percentages, drafted as categories"),
    ],
)
def test_what_may_stand_for_something_else_is_remarked_on(tmp_path: Path, values: list[str], told: str) -> None:
    remarks = drafted(tmp_path, values).remarks
    assert [remark for remark in remarks if told in remark and "column 'x'" in remark]


def test_ages_and_signs_are_no_markers(tmp_path: Path) -> None:
    assert drafted(tmp_path, [*map(str, range(18, 100)), "99"]).remarks == []
    assert drafted(tmp_path, ["+1", "-1"] * 5).remarks == []


TYPED = st.one_of(
    st.lists(st.none() | st.integers(-(2**53), 2**53), min_size=1, max_size=30),
    st.lists(st.none() | st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=30),
    st.lists(st.none() | st.sampled_from(["1", "01", "x", "2020-01-01", "True", "?", "1.50", " y "]), min_size=1),
    st.lists(st.none() | st.text("ab0189.-/+:, €%", max_size=6), min_size=1, max_size=40),
)


@given(values=TYPED, form=st.sampled_from(["csv", "jsonl", "parquet"]))
def test_a_run_reads_what_was_drafted_as_it_was_drafted(
    tmp_path_factory: pytest.TempPathFactory, values: list[object], form: str
) -> None:
    """Whatever column comes of a sample: a run takes every value of that sample as it is, or for missing."""
    path = tmp_path_factory.mktemp("drafts") / f"sample.{form}"
    frame = pd.DataFrame({"x": pd.Series(values, dtype=object), "y": range(len(values))})
    if form == "csv":
        frame.to_csv(path, index=False)
    elif form == "jsonl":
        frame.to_json(path, orient="records", lines=True, double_precision=15)
    else:
        pa.parquet.write_table(pa.table({"x": pa.array(values), "y": frame.y}), path)
    schema = draft(path).schema
    assert Schema.from_toml(schema.to_toml()) == schema
    for name, raw in read(path, schema).items():
        column = schema.column(name)
        found = outcomes(raw, column)
        assert np.isin(found, [Outcome.READ, Outcome.MISSING, Outcome.UNREADABLE]).all()
        assert column.missing or (found == Outcome.READ).all()


def test_an_ordered_category_is_ordinal_in_its_order(tmp_path: Path) -> None:
    risk = pd.Categorical(["mid", "low", None, "mid"], ["low", "mid", "high"], ordered=True)
    town = pd.Categorical(["b", "a", "b", "a"], ["b", "a", "c"])
    pd.DataFrame({"risk": risk, "town": town, "y": range(4)}).to_parquet(tmp_path / "s.parquet")
    schema = draft(tmp_path / "s.parquet", "town").schema
    assert schema.column("risk") == Categorical("risk", ("low", "mid", "high"), kind="ordinal", missing=True)
    assert schema.column("town") == Categorical("town", ("a", "b"))
    assert draft(tmp_path / "s.parquet", "risk").schema.labels == ("low", "mid", "high", "unknown")


def test_a_file_of_another_encoding_or_delimiter_is_read_or_refused_by_name(tmp_path: Path) -> None:
    text = "town;fee\nZürich;1.5\nGenève;2.5\n"
    towns = Categorical("town", ("Genève", "Zürich"))
    for name, content in (
        ("a.csv", text.encode()),
        ("b.csv", text.encode("utf-8-sig")),
        ("c.csv", text.encode("utf-16")),
        ("d.csv.gz", gzip.compress(text.encode())),
    ):
        (tmp_path / name).write_bytes(content)
        assert draft(tmp_path / name, "town").schema.column("town") == towns
    (tmp_path / "l.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(SchemaError, match=r"not UTF-8 text \(column 'town', 2 values\).*--encoding latin-1"):
        draft(tmp_path / "l.csv", "town")
    latin = draft(tmp_path / "l.csv", "town", options=CsvOptions(encoding="latin-1"))
    assert latin.schema.column("town") == towns
    (tmp_path / "l.jsonl").write_bytes('{"town": "Zürich", "fee": 1}\n'.encode("latin-1"))
    with pytest.raises(SchemaError, match="not UTF-8 text"):
        draft(tmp_path / "l.jsonl", "town")
    (tmp_path / "book.xlsx").write_bytes(b"PK\3\4")
    with pytest.raises(SchemaError, match="save it as CSV"):
        draft(tmp_path / "book.xlsx")


def test_lines_and_names_that_are_none_are_remarked_on_and_the_rest_is_drafted(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text("a,,b,b,c\n1,2,3,4,x\n1,2\n5,6,7,8,y\n")
    schema, remarks = draft(path)
    assert [column.name for column in schema.columns] == ["a", "c"]
    assert any("1 of 3 lines have too few or too many fields" in remark for remark in remarks)
    assert any("without a name" in remark for remark in remarks)
    assert any("'b' was left out: it occurs twice" in remark for remark in remarks)
    path.write_text("1,2,x\n3,4,y\n")
    assert "does its first line name the columns?" in draft(path).remarks[0]
    path.write_text('a,b\n"two\nlines",1\nx,2\n')
    assert draft(path).multiline
    assert not draft(path, text="a").multiline  # the default where a text column is declared


@given(st.integers(0, 6), st.lists(st.integers(-(10**8), 10**8), min_size=1, max_size=20))
def test_a_step_is_the_finest_power_of_ten_that_the_digits_tell(decimals: int, numbers: list[int]) -> None:
    texts = [f"{number / 10**decimals:.{decimals}f}" for number in numbers]
    fractional = any(number % 10**decimals for number in numbers)
    assert step_of(texts) == (10.0**-decimals if fractional else 1.0)


def test_every_form_has_an_advice_and_matches_itself_first() -> None:
    examples = {"31.01.2024": 0, "31/01/2024": 1, "01/31/2024": 2, "01/02/2024": 3, "12:30": 11}
    for text, place in examples.items():
        assert common_form([text]) == FORMS[place]
    assert common_form(["hello", "A-12"]) is None
    assert all(form.advice for form in FORMS)
