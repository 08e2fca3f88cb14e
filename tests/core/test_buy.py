"""Bought schemas: charged first, bounded by what is charged, and right where there are enough records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pe
from pe.buy import OTHER, SURE, _Cells, _edges, _outermost, _Request
from pe.data.schema import Categorical, Datetime, Numeric, Schema
from pe.errors import BudgetExceededError, ConfigError, PEError, SchemaError
from pe.privacy import Adjacency, Budget, Ledger
from pe.private.dataset import PrivateDataset
from pe.private.measure import measure

WANTED: dict[str, Any] = {
    "label": "town",
    "columns": {
        "age": {"type": "integer", "bounds": "buy", "within": [0, 1000]},
        "gain": {"type": "float", "bounds": "buy", "within": [-1e9, 1e9], "missing": True},
        "price": {"type": "float", "bounds": "buy", "within": [1e-3, 1e9], "scale": "log"},
        "day": {"type": "date", "bounds": "buy", "within": ["1900-01-01", "2100-01-01"]},
        "year": {"type": "integer", "bounds": "buy", "within": [1900, 2100]},
        "town": {"type": "categorical", "values": "buy", "candidates": ["a", "b", "c", "d"]},
        "flag": {"type": "boolean"},
    },
}
REQUEST = _Request.of(WANTED, Path())
CANARY = "rare-4711"


def records(n: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "age": rng.integers(18, 97, n),
        "gain": np.where(rng.random(n) < 0.2, np.nan, rng.uniform(-50, 4000, n)),
        "price": rng.uniform(10, 400, n),
        "day": (np.datetime64("2015-01-01") + rng.integers(0, 2000, n)).astype("datetime64[s]"),
        "year": rng.integers(1950, 2004, n),
        "town": np.array([*["a", "c"] * (n // 2 - 1), CANARY, "d"]),
        "flag": rng.random(n) < 0.5,
    }


def buy(n: int = 20_000, **changes: Any) -> pe.Bought:
    settings = {"source": "people", "epsilon": 1.0, "delta": 1e-6, "adjacency": "add-remove", "create": True}
    return pe.buy_schema(records(n), WANTED, **(settings | changes))


@pytest.mark.parametrize("adjacency", ["add-remove", "replace-one"])
@pytest.mark.usefixtures("repeated_noise")
def test_bounds_and_frequent_categories_are_found_and_nothing_rare(adjacency: str) -> None:
    bought = buy(adjacency=adjacency)
    for name, low, high in (("age", 18, 96), ("gain", -50, 4000), ("price", 10, 400), ("year", 1950, 2003)):
        column, values = bought.schema.column(name), records(20_000)[name]
        assert isinstance(column, Numeric)
        assert np.mean((values < column.minimum) | (values > column.maximum)) < 0.03
        assert low - abs(low) / 2 <= column.minimum
        assert column.maximum <= high * 1.5
    day, town = (bought.schema.column(name) for name in ("day", "town"))
    assert isinstance(day, Datetime)
    assert "2010" < day.text(day.minimum)[:4] <= "2015"
    assert day.text(day.maximum)[:4] in ("2020", "2021", "2022", "2023")
    assert town == Categorical("town", ("a", "c", OTHER), OTHER)
    assert CANARY not in bought.to_toml()
    assert bought.remarks == ()


def test_the_purchase_is_charged_and_named_in_ledger_schema_and_card() -> None:
    bought = buy()
    (charge,) = [entry for entry in Ledger().chain("people") if entry.kind == "reserve"]
    assert charge.body["purpose"] == "bounds of age, gain, price, day, year; values of town" == bought.purchase.what
    assert charge.hash == bought.purchase.entry
    assert charge.body["sensitivity_squared"] == "6"
    again = Schema.from_toml(bought.to_toml())
    assert again == bought.schema
    assert again.bought == (bought.purchase,)
    lines = bought.to_toml().splitlines()
    assert f"# ledger entry {charge.hash}." in lines
    assert lines[lines.index("[columns.town]") - 1] == f"# values bought, entry {charge.hash[:16]}"
    assert lines[lines.index("[columns.flag]") - 1] == ""


def test_a_later_run_on_the_source_adds_up_and_says_what_was_bought(tmp_path: Path) -> None:
    Ledger(create=True).create("people", Budget(4.0, 1e-6, Adjacency.ADD_REMOVE))
    bought = buy(2_000, create=False)
    settings: dict[str, Any] = {"delta": 1e-6, "adjacency": "add-remove", "source": "people", "rows": 10}
    settings |= {"schema": bought.schema, "iterations": 1}
    done = pe.synthesize(records(2_000), epsilon=2.0, run=tmp_path / "r", **settings)
    assert any(bought.purchase.entry[:16] in note for note in done.certificate["declared_public"])
    with pytest.raises(BudgetExceededError):
        pe.synthesize(records(2_000), epsilon=3.9, run=tmp_path / "s", **settings)


def test_a_purchase_beyond_the_grant_is_refused_and_nothing_is_charged() -> None:
    buy()
    with pytest.raises(BudgetExceededError, match="Nothing was spent"):
        buy(epsilon=0.5)
    assert len([entry for entry in Ledger().chain("people") if entry.kind == "reserve"]) == 1


@pytest.mark.usefixtures("repeated_noise")
def test_too_few_records_leave_the_widest_domain_and_a_remark() -> None:
    bought = buy(4, epsilon=0.1)
    age, town = bought.schema.column("age"), bought.schema.column("town")
    assert age == Numeric("age", 0, 1000, integer=True)
    assert town == Categorical("town", (OTHER,), OTHER)
    assert sum("noise hides" in remark for remark in bought.remarks) >= 5


# -- sensitivity -------------------------------------------------------------------------------------------------------

maybe = st.none() | st.floats(allow_nan=False)
rows = st.lists(
    st.tuples(maybe, maybe, maybe, st.integers(-(10**5), 10**5), maybe, st.sampled_from("abcdz"), st.integers(0, 3)),
    min_size=1,
    max_size=15,
)


def private(given_: list[Any]) -> PrivateDataset:
    *values, users = zip(*given_, strict=True)
    data = dict(zip(REQUEST.names, values, strict=True)) | {"user": users}
    data["day"] = np.array(data["day"], "datetime64[D]")
    columns = {name: np.array(each, object) if name != "day" else each for name, each in data.items()}
    return PrivateDataset.read(columns, Schema(REQUEST.columns), adjacency=Adjacency.ADD_REMOVE, user="user")


@given(rows, rows, st.sampled_from(Adjacency), st.sampled_from([None, 0.5, 2.0]))
def test_a_unit_moves_the_counts_by_at_most_the_sensitivity(
    some: list[Any], others: list[Any], adjacency: Adjacency, norm: float | None
) -> None:
    cells = _Cells(REQUEST, 1 if norm is None else 64)
    votes = measure(private(some), cells, adjacency=adjacency, norm=norm)
    if norm is None:
        rest = some[1:] + (others[:1] if adjacency is Adjacency.REPLACE_ONE else [])
    else:
        rest = [row for row in some if row[-1] != 0]
        rest += [(*row[:-1], 0) for row in others] if adjacency is Adjacency.REPLACE_ONE else []
    before = votes._count()
    after = measure(private(rest), cells, adjacency=adjacency, norm=norm)._count() if rest else np.zeros_like(before)
    assert votes.bins == len(before) == cells.bins
    assert ((after - before) ** 2).sum() <= votes.sensitivity_squared


@pytest.mark.usefixtures("repeated_noise")
def test_a_user_is_bounded_to_one_record_by_default() -> None:
    data = records(3000) | {"who": np.arange(3000) // 3}
    bought = pe.buy_schema(
        data, WANTED, source="users", epsilon=4.0, delta=1e-6, adjacency="add-remove", user="who", create=True
    )
    (charge,) = [entry for entry in Ledger().chain("users") if entry.kind == "reserve"]
    assert float(charge.body["sensitivity_squared"]) == pytest.approx(6 * charge.body["grid"] ** 2, rel=0.01)
    assert charge.body["grid"] > 1
    assert bought.schema.column("town").values[:2] == ("a", "c")  # type: ignore[union-attr]


# -- the rule ----------------------------------------------------------------------------------------------------------


def test_the_outermost_cells_move_out_by_one() -> None:
    counts = np.zeros(20)
    counts[7:11] = 100
    assert _outermost(counts, 1.0) == (6, 11)
    assert _outermost(np.r_[counts[7:], 0.0], 1.0) == (0, 4)
    assert _outermost(np.full(20, SURE + 1), 1.0) == (0, 19)
    assert _outermost(np.full(20, 0.5), 1.0) is None


def test_noise_alone_is_hardly_ever_taken_for_records() -> None:
    rng = np.random.default_rng(0)
    assert sum(_outermost(rng.normal(0, 30, 200), 30) is not None for _ in range(300)) <= 12


@pytest.mark.parametrize(
    "column",
    [
        Numeric("x", -1e6, 1e6),
        Numeric("x", 0, 120, integer=True),
        Numeric("x", -3, 10**12, integer=True),
        Numeric("x", 0.5, 0.75),
        Numeric("x", 5, 5),
        Numeric("x", 0, 0),
        Numeric("x", 0, 1e-300),
        Datetime.of("x", "1900-01-01", "2100-01-01"),
        Datetime.of("x", "2020-01-01", "2020-01-05", date=True),
    ],
    ids=str,
)
def test_cells_cover_the_declared_range(column: Numeric) -> None:
    edges = _edges(column)
    assert (edges[0], edges[-1]) == (column.minimum, column.maximum)
    assert (np.diff(edges) > 0).all() or column.minimum == column.maximum
    assert 2 <= len(edges) <= 500


# -- refusals ----------------------------------------------------------------------------------------------------------


def changed(**entry: Any) -> dict[str, Any]:
    """A schema of one bought column beside one that is none."""
    return {"columns": {"x": entry, "y": {"type": "integer", "min": 0, "max": 9}}}


NUMBER = {"type": "integer", "bounds": "buy"}
TOWN = {"type": "categorical", "values": "buy"}


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"columns": {"y": {"type": "boolean"}}}, "nothing to buy"),
        ({}, r"\[columns.NAME\]"),
        (changed(**NUMBER), "within"),
        (changed(**NUMBER, within=[5]), "within"),
        (changed(**NUMBER, within=[5, 1]), "min <= max"),
        (changed(**NUMBER, within=["a", 1]), "number for 'min'"),
        (changed(**NUMBER, within=[0, 9], default=3), "no default"),
        (changed(**NUMBER, within=[0, 9], colour=3), "unknown key 'colour'"),
        (changed(type="float", bounds="buy", within=[0, 1], scale="log"), "min > 0"),
        (changed(type="boolean", bounds="buy", within=[0, 1]), "numbers and dates"),
        (changed(type="ordinal", values="buy", candidates=["a"]), "bought for categories"),
        (changed(**TOWN), "partition selection, which is not offered"),
        (changed(**TOWN, candidates=["a"], candidates_file="f"), "candidates or a candidates_file"),
        (changed(**TOWN, candidates="ab"), "as a list"),
        (changed(**TOWN, candidates=["a", "a"]), "distinct"),
        (changed(**TOWN, candidates_file="gone.txt"), "gone.txt cannot be read"),
        (
            changed(**NUMBER, within=[0, 9]) | {"constraints": [{"kind": "order", "columns": ["x", "y"]}]},
            "add it to the schema that is written",
        ),
    ],
)
def test_what_cannot_be_bought_is_refused_before_the_ledger_is_opened(wanted: dict[str, Any], told: str) -> None:
    with pytest.raises(SchemaError, match=rf"{told}.*Nothing was spent"):
        pe.buy_schema({}, wanted, source="s", epsilon=1.0, delta=1e-6, adjacency="add-remove", create=True)
    with pytest.raises(PEError, match="no ledger"):
        Ledger()


@pytest.mark.parametrize(
    "change", [{"adjacency": "both"}, {"epsilon": 0.0}, {"delta": 1.0}, {"epsilon": 1e-9}], ids=str
)
def test_an_impossible_budget_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="Nothing was spent"):
        buy(10, **change)


@pytest.mark.usefixtures("repeated_noise")
def test_a_file_of_candidates_lies_beside_the_schema(tmp_path: Path) -> None:
    (tmp_path / "towns.txt").write_text("a\n\n c \nq\na\n")
    (tmp_path / "w.toml").write_text("[columns.town]\ntype='categorical'\nvalues='buy'\ncandidates_file='towns.txt'\n")
    bought = pe.buy_schema(
        records(5000),
        tmp_path / "w.toml",
        source="s",
        epsilon=1.0,
        delta=1e-6,
        adjacency="add-remove",
        create=True,
    )
    assert bought.schema.columns == (Categorical("town", ("a", "c", OTHER), OTHER),)


def test_no_private_value_is_in_an_error(everything_about: Callable[[BaseException], str]) -> None:
    data = records(10) | {"price": np.array([CANARY] * 10), "gain": np.array([[CANARY]] * 10)}
    with pytest.raises(PEError) as caught:
        pe.buy_schema(data, WANTED, source="s", epsilon=1.0, delta=1e-6, adjacency="add-remove", create=True)
    assert CANARY not in everything_about(caught.value)
