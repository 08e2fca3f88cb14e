"""Constraints: every candidate satisfies them, one that does is left alone, and what nobody can satisfy is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pe.apis.tabular import TabularAPI
from pe.data.arrays import misfits, to_numpy, to_table, violations
from pe.data.constraints import Constraint, Determines, Order, Sum, repair
from pe.data.schema import Categorical, Column, Datetime, Numeric, Schema
from pe.errors import SchemaError
from pe.evolution.loop import fresh, offspring
from pe.privacy import Adjacency
from pe.private.dataset import PrivateDataset

COLUMNS: tuple[Column, ...] = (
    Numeric("a", 0, 10, integer=True),
    Numeric("b", -5, 8, integer=True, missing=True),
    Numeric("c", 2, 20, integer=True, missing=True),
    Datetime.of("born", "1920-01-01", "2020-01-01", date=True),
    Datetime.of("in", "2010-01-01", "2024-01-01", date=True, missing=True),
    Datetime.of("out", "2011-01-01", "2025-01-01", date=True),
    Numeric("total", 10, 60),
    Numeric("one", 0, 50),
    Numeric("two", -10, 30, missing=True),
    Numeric("parts", 3, 9, integer=True),
    Numeric("left", 0, 4, integer=True),
    Numeric("mid", 1, 100, integer=True),
    Numeric("right", 0, 3, integer=True, missing=True),
    Categorical("zip", tuple(f"z{number}" for number in range(9)), missing=True),
    Categorical("city", ("p", "q", "r")),
    Categorical("state", ("s", "t"), missing=True),
)
CITY = Determines("zip", "city", tuple((f"z{number}", "pqr"[number % 3]) for number in range(8)))
STATE = Determines("city", "state", (("p", "s"), ("q", "t")))
CONSTRAINTS: tuple[Constraint, ...] = (
    STATE,  # stands before the one that fixes its source
    CITY,
    Order(("a", "b", "c")),
    Order(("born", "in")),
    Order(("in", "out")),
    Order(("born", "out")),
    Sum("total", ("one", "two")),
    Sum("parts", ("left", "mid", "right")),
)
SCHEMA = Schema(COLUMNS, constraints=CONSTRAINTS)
ANY_RECORDS = TabularAPI(Schema(COLUMNS))
"""Draws every column by itself, so that most records break every constraint."""


def schema(*constraints: Constraint) -> Schema:
    return Schema(COLUMNS, constraints=constraints)


def columns(table: Any, names: tuple[str, ...]) -> NDArray[np.float64]:
    return np.stack([to_numpy(table, SCHEMA.column(name)).astype(float) for name in names], axis=1)


@given(st.integers(0, 2**32), st.lists(st.sampled_from(CONSTRAINTS), unique=True))
def test_repaired_records_satisfy_every_constraint_in_their_domains(seed: int, chosen: list[Constraint]) -> None:
    declared = schema(*chosen)
    table = ANY_RECORDS.random(300, 0, np.random.default_rng(seed)).records
    repaired = repair(table, declared, np.random.default_rng(seed))
    assert list(violations(repaired, declared)) == []
    assert repair(table, declared, np.random.default_rng(seed)).equals(repaired)
    assert repair(repaired, declared, np.random.default_rng(1)).equals(repaired)
    for column in COLUMNS:  # what no constraint names, and what is missing where none asks for a value, stays
        before, after = table.column(column.name), repaired.column(column.name)
        if not any(column.name in each.names for each in chosen):
            assert after.equals(before)
        elif column.name != "state":
            assert after.is_null().equals(before.is_null())


def test_violations_name_the_constraints_that_are_broken() -> None:
    table = ANY_RECORDS.random(300, 0, np.random.default_rng(0)).records
    assert sorted(violations(table, SCHEMA)) == sorted(f"the constraint {each} is broken." for each in CONSTRAINTS)
    assert list(misfits(table, SCHEMA)) == []


def test_a_record_in_wrong_order_keeps_its_values() -> None:
    arrays = {column.name: np.full(3, column.minimum) for column in COLUMNS if isinstance(column, Numeric)}
    arrays |= {name: np.zeros(3, np.int32) for name in ("zip", "city", "state")}
    arrays |= {"a": np.array([7, 9, 3]), "b": np.array([5, np.nan, 4]), "c": np.array([6, 4, 5])}
    table = to_table(arrays, SCHEMA)
    fixed = columns(repair(table, schema(Order(("a", "b", "c"))), np.random.default_rng(0)), ("a", "b", "c"))
    np.testing.assert_array_equal(fixed, [[5, 6, 7], [4, np.nan, 9], [3, 4, 5]])


def test_a_total_is_the_sum_and_parts_give_way_only_beyond_its_domain() -> None:
    table = ANY_RECORDS.random(500, 0, np.random.default_rng(0)).records
    for constraint, (low, high) in ((CONSTRAINTS[6], (10, 60)), (CONSTRAINTS[7], (3, 9))):
        assert isinstance(constraint, Sum)
        before = columns(table, constraint.names)
        after = columns(repair(table, schema(constraint), np.random.default_rng(0)), constraint.names)
        sums = before[:, 1:].sum(axis=1)
        kept = np.isnan(sums) | ((sums >= low) & (sums <= high))
        assert 0 < kept.sum() < 500
        np.testing.assert_array_equal(after[kept, 1:], before[kept, 1:])
        np.testing.assert_allclose(after[~kept, 0], np.clip(sums[~kept], low, high))


def test_what_a_table_leaves_open_stays_as_it_is() -> None:
    table = ANY_RECORDS.random(500, 0, np.random.default_rng(0)).records
    fixed = repair(table, schema(CITY, STATE), np.random.default_rng(0))
    rows = zip(*(fixed[name].to_pylist() for name in ("zip", "city", "state")), table["city"].to_pylist(), strict=True)
    for zip_, city, state, before in rows:
        assert city == (dict(CITY.table).get(zip_) or before)
        assert state == dict(STATE.table)[city] if city != "r" else state in ("s", "t", None)


def test_whatever_an_api_proposes_is_repaired() -> None:
    api, rng = TabularAPI(SCHEMA), np.random.default_rng(0)
    parents = fresh(api, 100, 0, SCHEMA, rng)
    varied = offspring(api, parents, 0.5, SCHEMA, rng)
    for population in (parents, varied):
        assert list(violations(population.records, SCHEMA)) == []
    assert not varied.records.equals(parents.records)


def test_private_records_that_break_a_constraint_are_read_as_they_are() -> None:
    declared = Schema((Numeric("a", 0, 9), Numeric("b", 0, 9)), constraints=(Order(("a", "b")),))
    private = PrivateDataset.read({"a": [5.0, 1.0], "b": [2.0, 3.0]}, declared, adjacency=Adjacency.ADD_REMOVE)
    assert private._records.to_pydict() == {"a": [5, 1], "b": [2, 3]}


# -- declarations ------------------------------------------------------------------------------------------------------


def test_constraints_survive_toml() -> None:
    assert Schema.from_toml(SCHEMA.to_toml()) == SCHEMA


HEAD = """
[columns]
a = { type = "integer", min = 0, max = 10 }
b = { type = "integer", min = 0, max = 10 }
c = { type = "integer", min = 30, max = 40 }
x = { type = "float", min = 0, max = 1 }
day = { type = "date", min = "2020-01-01", max = "2021-01-01" }
at = { type = "datetime", min = "2020-01-01", max = "2021-01-01" }
zip = { type = "categorical", values = ["1", "2"] }
city = { type = "categorical", values = ["p", "q"] }
"""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kind = 'less'", "order, sum or determines, got 'less'"),
        ("kind = 'order'", "missing key 'columns'"),
        ("kind = 'order'\ncolumns = 'a'", "names for 'columns'"),
        ("kind = 'order'\ncolumns = ['a', 'b']\nstrict = true", "unknown key 'strict'"),
        ("kind = 'order'\ncolumns = ['a']", "at least two columns"),
        ("kind = 'order'\ncolumns = ['a', 'a']", "each once"),
        ("kind = 'order'\ncolumns = ['a', 'z']", "no column 'z'"),
        ("kind = 'order'\ncolumns = ['a', 'x']", "all integers, all floats"),
        ("kind = 'order'\ncolumns = ['day', 'at']", "one type and resolution"),
        ("kind = 'order'\ncolumns = ['zip', 'city']", "all integers"),
        ("kind = 'order'\ncolumns = ['c', 'a']", "'[ac]': no numbers"),
        ("kind = 'order'\ncolumns = ['a', 'b']\n[[constraints]]\nkind = 'order'\ncolumns = ['b', 'a']", "circle"),
        ("kind = 'sum'\ntotal = 'c'\nparts = ['a', 'b']", "no numbers in the declared domains"),
        ("kind = 'sum'\ntotal = 'day'\nparts = ['day']", "each once"),
        (
            "kind = 'sum'\ntotal = 'b'\nparts = ['a']\n[[constraints]]\nkind = 'order'\ncolumns = ['b', 'c']",
            "'b' stands",
        ),
        ("kind = 'determines'\ncolumn = 'zip'\ntarget = 'city'", "'map' and 'file'"),
        ("kind = 'determines'\ncolumn = 'zip'\ntarget = 'city'\nmap = { 3 = 'p' }", "'3' is no value of 'zip'"),
        ("kind = 'determines'\ncolumn = 'zip'\ntarget = 'city'\nmap = { 1 = 'z' }", "'z' is no value of 'city'"),
        ("kind = 'determines'\ncolumn = 'zip'\ntarget = 'city'\nmap = {}", "at least one value"),
        ("kind = 'determines'\ncolumn = 'zip'\ntarget = 'a'\nmap = { 1 = '2' }", "expected categorical columns"),
        ("kind = 'determines'\ncolumn = 'zip'\ntarget = 'city'\nfile = 'gone.csv'", "gone.csv cannot be read"),
    ],
)
def test_what_cannot_hold_is_refused_in_one_sentence(text: str, told: str) -> None:
    with pytest.raises(SchemaError, match=told):
        Schema.from_toml(f"{HEAD}\n[[constraints]]\n{text}\n")


def test_the_label_stands_in_no_constraint() -> None:
    with pytest.raises(SchemaError, match="label 'city' conditions generation"):
        Schema(COLUMNS, "city", constraints=(CITY,))


def test_a_table_is_read_from_a_file_beside_the_schema_and_stored_with_it(tmp_path: Path) -> None:
    constraint = "[[constraints]]\nkind = 'determines'\ncolumn = 'zip'\ntarget = 'city'\nfile = 'zips.csv'\n"
    (tmp_path / "schema.toml").write_text(HEAD + constraint)
    (tmp_path / "zips.csv").write_text("city,more,zip\np,x, 1\nq,x,2 \n")
    declared = Schema.read(tmp_path / "schema.toml")
    assert declared.constraints == (Determines("zip", "city", (("1", "p"), ("2", "q"))),)
    assert Schema.from_toml(declared.to_toml()) == declared
    for content, told in (("zip,town\n1,p\n", "the columns 'zip' and 'city'"), ("zip,city\n1,p\n1,q\n", "two values")):
        (tmp_path / "zips.csv").write_text(content)
        with pytest.raises(SchemaError, match=rf"schema\.toml.*{told}.*Nothing was spent"):
            Schema.read(tmp_path / "schema.toml")
