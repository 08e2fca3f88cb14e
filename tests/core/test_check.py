"""What the holder of private data is told: a value fits where a run takes it as it is; else, why it does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pe.check import BANNER, WARNING, check
from pe.data.coerce import coerce
from pe.data.outcomes import Outcome, outcomes
from pe.data.schema import Categorical, Column, Datetime, Numeric, Schema, Text, boolean

COLUMNS: tuple[Column, ...] = (
    Numeric("x", -5, 10),
    Numeric("x", -5, 10, integer=True, missing=True),
    Numeric("x", 0, 10, default=3, step=0.5),
    Datetime.of("x", "2020-01-01", "2020-12-31", date=True),
    Datetime.of("x", "2020-01-01", "2020-12-31", resolution=3600, missing=True),
    Datetime.of("x", "1970-01-01", "1980-01-01", epoch="s"),
    Categorical("x", ("a", "b", "1", "true")),
    Categorical("x", ("a", "b", "01"), "b"),
    Categorical("x", ("a", "b", "01"), "b", missing=True),
    Categorical("x", ("a", "b"), missing=True, kind="ordinal"),
    boolean("x"),
    boolean("x", True, missing=True),
    Text("x", 3),
)
TEXTS = st.one_of(
    st.text(max_size=5),
    st.sampled_from(["a", " b ", "1", "01", "1.0", "True", "yes", "2020-02-29", "2020-13-01", "31.12.2020", "nan"]),
    st.sampled_from(
        [
            "1e999",
            "-inf",
            "1,5",
            "10.0001",
            "10",
            "0",
            "-5",
            "2020-01-01",
            "2020-12-31",
            "2021-01-01",
            "NA",
            " ",
            "",
            "abcd",
            "2020-06-01T12:30",
            "86400",
        ]
    ),
    st.floats(-20, 20).map(repr),
)
VALUES = st.one_of(
    st.lists(st.none() | TEXTS, min_size=1, max_size=8).map(lambda values: pa.array(values, pa.string())),
    st.lists(st.none() | TEXTS.map(str.encode) | st.binary(max_size=4), min_size=1, max_size=8).map(
        lambda values: pa.array(values, pa.binary())
    ),
)


def variants(column: Column) -> list[Column]:
    """Columns that differ in what a value becomes that is not read as it is, and in nothing else."""
    if isinstance(column, Datetime):
        steps = (column.minimum, column.maximum)
        return [replace(column, missing=False, default=int(end)) for end in steps]
    if isinstance(column, Numeric):
        return [replace(column, missing=False, default=end) for end in (column.minimum, column.maximum)]
    assert isinstance(column, Categorical)
    return [replace(column, missing=False, default=value) for value in column.values[:2]]


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: f"{column.kind}-{column.missing}")
@given(values=VALUES)
def test_a_value_is_said_to_fit_exactly_where_a_run_takes_it_as_it_is(column: Column, values: pa.Array) -> None:
    """Read under two defaults: what differs took one, what does not was read."""
    raw = pa.chunked_array([values])
    found = outcomes(raw, column)
    schema = Schema((column,))
    taken = coerce({"x": raw}, schema)["x"]
    if isinstance(column, Text):
        wide = coerce({"x": raw}, Schema((replace(column, max_length=100),)))["x"]
        assert ((found == Outcome.READ) == ((taken == wide) & (taken != ""))).all()
        assert ((found == Outcome.CLIPPED) == (taken != wide)).all()
        return
    low, high = (coerce({"x": raw}, Schema((variant,)))["x"] for variant in variants(column))
    replaced = np.isin(found, [Outcome.MISSING, Outcome.UNREADABLE, Outcome.UNDECLARED])
    assert (replaced == (low != high)).all()
    assert (taken[~replaced] == low[~replaced]).all()
    if isinstance(column, Numeric):
        wider = replace(column, minimum=column.minimum - 1, maximum=column.maximum + 1)
        moved = ~replaced & (coerce({"x": raw}, Schema((wider,)))["x"] != taken)
        assert (found[moved] == Outcome.CLIPPED).all()
        if column.kind != "integer":  # 10.4 is rounded to 10 in the wider domain, too
            assert moved[found == Outcome.CLIPPED].all()
        if column.missing:
            assert (np.isnan(taken) == replaced).all()
    elif column.missing:
        absent = (found == Outcome.MISSING) | ((found == Outcome.UNDECLARED) & (column.default is None))
        assert ((taken == len(column.values)) == absent).all()


def told(data: object, *columns: Column, **settings: Any) -> str:
    return "\n".join(check(data, Schema(columns), **settings).lines())


DAY = Datetime.of("x", "2020-01-01", "2025-12-31", date=True)
NUMBER = Numeric("x", 0, 5000)
TOWN = Categorical("x", ("north", "south"))


@pytest.mark.parametrize(
    ("column", "values", "cause"),
    [
        (DAY, ["31/01/2024", "01/02/2024"], "dates as dd/mm/yyyy;"),
        (DAY, ["01/31/2024", "01/02/2024"], "dates as mm/dd/yyyy;"),
        (DAY, ["03/01/2024", "01/02/2024"], "dates as dd/mm/yyyy or mm/dd/yyyy;"),
        (DAY, ["31.01.2024 12:00", "1.2.2024 8:30"], "dates as dd.mm.yyyy;"),
        (DAY, ["Jan 31, 2024", "Feb 1, 2024"], "dates with names of months"),
        (DAY, ["31.01.24", "01.02.24"], "dates with two-digit years"),
        (DAY, ["20240131", "20240201"], "calendar numbers (yyyymmdd)"),
        (NUMBER, ["1,5", "1,250"], "decimal commas"),
        (NUMBER, ["1,500", "1,250"], "thousands separators"),
        (NUMBER, ["1.234,5", "99,90"], "decimal commas"),
        (NUMBER, ["$12.50", "$1,250.00"], "a currency sign"),
        (NUMBER, ["12.50 EUR", "3 EUR"], "a currency sign"),
        (NUMBER, ["12 %", "3.5%"], "percentages"),
        (NUMBER, ["72 kg", "65kg"], "numbers with a unit"),
        (NUMBER, ["(12.50)", "3-"], "the sign in another place"),
        (NUMBER, ["NA", "?", "N/A"], "marks for a missing value"),
        (NUMBER, ["A-12", "B-34", "C-56"], "shape 'A-99'"),
        (TOWN, ["North", "SOUTH"], "in case;"),
        (Categorical("x", ("north west", "south")), ["northwest", "north  west"], "white space;"),
        (Categorical("x", ("1", "0")), ["1.00", "00", "0.0"], "how the same numbers are written"),
        (Categorical("x", ("True", "False")), ["yes", "no", "Y"], "truth values"),
        (Categorical("x", ("Zürich", "Genève")), ["Zurich", "Geneve"], "form of Unicode"),
        (TOWN, ["NA", "?"], "marks for a missing value"),
        (
            Numeric("x", 0, 1),
            ["45", "62.5"],
            "above max (0 to 1); a run moves them to the nearer bound; is it another unit?",
        ),
        (Text("x", 3), ["abcd", "abcde"], "longer than 3 characters"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_the_most_likely_cause_is_named(column: Column, values: list[str], cause: str) -> None:
    report = told({"x": values}, column)
    assert "column 'x': " in report
    assert cause in report
    assert report.startswith(BANNER)
    assert report.endswith(WARNING)
    assert not [value for value in values if len(value) > 4 and value in report]  # shapes, never the values


def test_what_fits_is_said_to_fit_and_nothing_else_is_said() -> None:
    report = told({"x": ["north", "south", " north "]}, TOWN)
    assert report.endswith("Every declared column fits.")
    assert "column 'x'" not in report


def test_what_becomes_of_a_misfit_is_said() -> None:
    wrong = {"x": ["?!"] * 3}
    assert "A run takes 'north' for each of them" in told(wrong, TOWN)
    assert "A run takes 'south' for each of them" in told(wrong, replace(TOWN, default="south"))
    assert "A run takes them for missing" in told(wrong, replace(TOWN, missing=True))
    assert "A run takes 'south' for each of them" in told(wrong, replace(TOWN, missing=True, default="south"))
    assert "A run takes 2500 for each of them" in told(wrong, NUMBER)
    assert "A run takes 2023-01-01 for each of them" in told(wrong, DAY)


def test_files_tell_empty_lines_users_and_columns_that_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("x,who,other\nnorth,1,a\nsouth,,b\n,,\nnorth,2\n")
    report = told(path, TOWN, user="who")
    assert "4 records" in report
    assert "1 of 4 (25 %) have too few or too many fields" in report
    assert "1 of 4 (25 %) hold nothing in any declared column" in report
    assert "3 of 4 (75 %) have no user id" in report
    assert "Not declared, and not read: 'other'." in report
    path.write_text("x\n")
    assert "0 records" in told(path, TOWN)
    path.write_text("")
    assert "cannot be read" in told(path, TOWN)
    (tmp_path / "parts").mkdir()
    for name, content in (("a.csv", "x\nnorth\n"), ("b.csv", ""), ("notes.txt", "x"), ("c.csv", "x\nsouth\n")):
        (tmp_path / "parts" / name).write_text(content)
    assert "2 hidden, empty or other entries (b.csv, notes.txt)" in told(tmp_path / "parts", TOWN)


def test_a_header_that_is_not_in_the_first_line_is_found(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("Export of March\n\nx,who\nnorth,1\n")
    assert "Line 3 holds the names" in told(path, TOWN)


def test_a_report_shows_itself_in_no_other_way() -> None:
    report = check(pd.DataFrame({"x": ["ZEBRA-4711"] * 30}), Schema((TOWN,)))
    assert repr(report) == str(report) == "Check(private)"


def test_pictures_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    from PIL import Image as Pictures

    from pe.data.schema import Image

    for label in "uv":
        (tmp_path / label).mkdir()
        for number in range(4):
            Pictures.new("L", (4, 4), 10 + number).save(tmp_path / label / f"{number}.png")
    (tmp_path / "u" / "0.png").write_bytes(b"\x89PNG no picture")
    schema = Schema((Image("image", 4, 4), Categorical("label", ("u", "v"))), "label")
    report = "\n".join(check(tmp_path, schema).lines())
    assert "8 records" in report
    assert "column 'image': 1 of 8 (12.5 %) are black" in report
    assert "column 'label'" not in report


def test_names_do_not_steer_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("x,\x1b[31mred\nnorth,1\n")
    report = told(tmp_path / "p.csv", TOWN)
    assert "'?[31mred'" in report
    assert "\x1b" not in report
