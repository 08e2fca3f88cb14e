"""The gap form: reversible, of each record alone, within constraints and domains whatever is rebuilt from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pe.apis.facts import Facts
from pe.apis.tabular import TabularAPI
from pe.data.arrays import misfits, to_numpy, to_table, violations
from pe.data.constraints import Constraint, Order, Sum, repair
from pe.data.gap_form import GapForm
from pe.data.gaps import Gap
from pe.data.schema import Categorical, Column, Datetime, Numeric, Schema, Text
from pe.data.steps import round_to_steps
from pe.embedders.tabular import TabularEmbedder
from pe.tables.levels import grid, merge
from pe.tables.measure import Counts, one_way

COLUMNS: tuple[Column, ...] = (
    Numeric("a", 0, 10, integer=True),
    Numeric("b", -5, 18, integer=True, missing=True),
    Numeric("c", 2, 20, integer=True, missing=True),
    Numeric("d", -3, 15, integer=True),
    Datetime.of("born", "1920-01-01", "2020-01-01", date=True),
    Datetime.of("in", "2010-01-01", "2024-01-01", date=True, missing=True),
    Datetime.of("out", "2011-01-01", "2025-01-01", date=True),
    Datetime.of("begin", "2010-01-01", "2024-01-01", resolution=60, missing=True),
    Datetime.of("end", "2010-01-01", "2024-01-01", resolution=60, missing=True),
    Numeric("low", 40.0, 150.0),
    Numeric("high", 60.0, 260.0),
    Numeric("paid", 0.0, 5000.0, step=0.01),
    Numeric("due", 10.0, 9000.0, step=0.01),
    Numeric("total", 10, 60),
    Numeric("one", 0, 50),
    Numeric("two", -10, 30),
    Numeric("all", 3, 9_000, integer=True),
    Numeric("left", 0, 4_000, integer=True),
    Numeric("right", 1, 3_000, integer=True, log=True),
    Numeric("sum", 0, 30, integer=True, missing=True),
    Numeric("x", 0, 10, integer=True, missing=True),
    Numeric("y", 0, 20, integer=True),
    Categorical("kind", ("p", "q"), missing=True),
)
CONSTRAINTS: tuple[Constraint, ...] = (
    Order(("a", "b", "c")),
    Order(("b", "d")),
    Order(("born", "in")),
    Order(("in", "out")),
    Order(("begin", "end")),
    Order(("low", "high")),
    Order(("paid", "due")),
    Sum("total", ("one", "two")),
    Sum("all", ("left", "right")),
    Sum("sum", ("x", "y")),
)
ANY_RECORDS = TabularAPI(Schema(COLUMNS))
"""Draws every column by itself, so that most records break every constraint."""


def schema(*constraints: Constraint) -> Schema:
    return Schema(COLUMNS, constraints=constraints)


def gap(column: Column) -> Gap:
    assert isinstance(column, Gap)
    return column


def measured(table: Any, form: GapForm) -> dict[str, NDArray[Any]]:
    return {column.name: to_numpy(table, column) for column in form.columns}


some_constraints = st.lists(st.sampled_from(CONSTRAINTS), unique=True).map(tuple)


@given(st.integers(0, 2**32), some_constraints)
def test_records_that_keep_the_constraints_are_rebuilt_from_their_gaps(
    seed: int, chosen: tuple[Constraint, ...]
) -> None:
    rng = np.random.default_rng(seed)
    through = (Order(("a", "d")), Order(("born", "out")))  # what holds beyond a column that may be missing
    table = repair(ANY_RECORDS.random(200, 0, rng).records, schema(*chosen, *through), rng)
    table = round_to_steps(table, schema(*chosen), rng)
    form = GapForm.of(schema(*chosen))
    rebuilt = form.rebuild(measured(table, form), rng)
    assert set(rebuilt) == {column.name for column in COLUMNS}
    for column in COLUMNS:
        before, after = to_numpy(table, column), rebuilt[column.name]
        assert after.dtype == before.dtype
        if column.name in ("total", "one", "two", "low", "high"):
            np.testing.assert_allclose(after, before, rtol=0, atol=2e-6)
        else:
            np.testing.assert_array_equal(after, before)


@given(st.integers(0, 2**32), some_constraints)
def test_whatever_the_gaps_the_records_keep_constraints_and_domains(seed: int, chosen: tuple[Constraint, ...]) -> None:
    rng = np.random.default_rng(seed)
    declared = schema(*chosen)
    form = GapForm.of(declared)
    arrays = measured(ANY_RECORDS.random(200, 0, rng).records, form)
    arrays = {name: rng.permutation(values) for name, values in arrays.items()}  # gaps of other records
    table = to_table(form.rebuild(arrays, rng), declared)
    assert list(misfits(table, declared)) == []
    orders = [each for each in chosen if isinstance(each, Order)]
    assert list(violations(table, schema(*orders))) == []
    repaired = repair(table, declared, rng)
    assert list(violations(repaired, declared)) == []
    sums = {name for each in chosen if isinstance(each, Sum) for name in each.names}
    for column in COLUMNS:
        if column.name not in sums:
            assert repaired.column(column.name).equals(table.column(column.name))


@given(st.integers(0, 2**32), some_constraints)
def test_gaps_are_of_each_record_alone_and_in_public_domains(seed: int, chosen: tuple[Constraint, ...]) -> None:
    rng = np.random.default_rng(seed)
    form = GapForm.of(schema(*chosen))
    table = ANY_RECORDS.random(60, 0, rng).records  # as private records may be: most break the constraints
    whole = measured(table, form)
    order = rng.permutation(60)
    mixed, alone = measured(table.take(order), form), measured(table.slice(7, 1), form)
    levels = tuple(grid(column, 16) for column in form.columns)
    counts = Counts(one_way(levels), levels, "counts")
    labels = np.zeros(60, np.int32)
    cells, _ = counts.vectors(table, labels)
    np.testing.assert_array_equal(counts.vectors(table.slice(7, 1), labels[:1])[0], cells[7:8])
    for column in form.columns:
        np.testing.assert_array_equal(mixed[column.name], whole[column.name][order])
        np.testing.assert_array_equal(alone[column.name], whole[column.name][7:8])
        if isinstance(column, Numeric):
            present = whole[column.name][~np.isnan(whole[column.name])]
            assert ((present >= column.minimum) & (present <= column.maximum)).all()
            assert column.missing or len(present) == 60
    vectors = TabularEmbedder(schema(*chosen)).embed(table)
    np.testing.assert_array_equal(TabularEmbedder(schema(*chosen)).embed(table.take(order)), vectors[order])


def test_a_record_against_the_order_has_the_smallest_gap() -> None:
    declared = Schema(
        (Numeric("a", 0, 9, integer=True), Numeric("b", 2, 12, integer=True)), constraints=(Order(("a", "b")),)
    )
    column = gap(GapForm.of(declared).columns[1])
    assert (column.minimum, column.maximum, column.log, column.integer) == (1, 13, True, True)
    table = to_table({"a": np.array([5, 5, 0, 9]), "b": np.array([2, 6, 12, 9])}, declared)
    np.testing.assert_array_equal(to_numpy(table, column), [1, 2, 13, 1])


def test_a_gap_is_that_to_the_nearest_column_that_is_present() -> None:
    columns = (
        Numeric("a", 0, 9, integer=True),
        Numeric("b", 4, 9, integer=True, missing=True),
        Numeric("c", 0, 20, integer=True, missing=True),
    )
    above = gap(GapForm.of(Schema(columns, constraints=(Order(("a", "b", "c")),))).columns[2])
    assert (above.minimum, above.maximum, above.missing) == (1, 21, True)  # from 0 to 20, where b is missing
    arrays = {"a": np.array([3, 3, 3]), "b": np.array([5, np.nan, 5]), "c": np.array([9, 9, np.nan])}
    np.testing.assert_array_equal(to_numpy(to_table(arrays, Schema(columns)), above), [5, 7, np.nan])
    columns = (
        Numeric("first", 0, 9, integer=True, missing=True),
        Numeric("y", 0, 20, integer=True),
        Numeric("x", 0, 20, integer=True),
    )
    below = gap(GapForm.of(Schema(columns, constraints=(Order(("first", "x")), Order(("first", "y"))))).columns[0])
    arrays = {"first": np.array([3, 3, np.nan]), "x": np.array([9, 5, 5]), "y": np.array([7, 8, 8])}
    np.testing.assert_array_equal(to_numpy(to_table(arrays, Schema(columns)), below), [5, 3, np.nan])


def test_a_gap_that_is_missing_between_columns_that_are_not_is_drawn_from_the_others() -> None:
    columns = tuple(Numeric(name, 0, 99, integer=True, missing=True) for name in ("a", "b"))
    form = GapForm.of(Schema(columns, constraints=(Order(("a", "b")),)))
    arrays = {
        "a": np.array([10, 20, 30, np.nan, 50, np.nan]),
        "b": np.array([70, 80, 90, 5, np.nan, np.nan]),
        "b - a": np.array([3.0, np.nan, 4.0, 3.0, 3.0, np.nan]),
    }
    rebuilt = form.rebuild(arrays, np.random.default_rng(0))
    np.testing.assert_array_equal(rebuilt["a"], arrays["a"])
    assert rebuilt["b"][1] in (22, 23)
    np.testing.assert_array_equal(rebuilt["b"][[0, 2, 3, 4, 5]], [12, 33, 5, np.nan, np.nan])
    nothing = form.rebuild(arrays | {"b - a": np.full(6, np.nan)}, np.random.default_rng(0))
    np.testing.assert_array_equal(nothing["b"], arrays["b"])


def test_a_gap_that_is_never_zero_begins_at_its_smallest() -> None:
    declared = Schema(
        (Numeric("a", 0, 9, integer=True), Numeric("b", 12, 20, integer=True)), constraints=(Order(("a", "b")),)
    )
    column = gap(GapForm.of(declared).columns[1])
    assert (column.smallest, column.minimum, column.maximum) == (3, 1, 18)


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        # by column: what it is measured from ("-": nothing, the column itself), above it or below it
        ((False, False, False), {"a": "-", "b": "above a", "c": "above a b"}),
        ((False, False, True), {"a": "-", "b": "above a", "c": "above a b"}),
        ((False, True, False), {"a": "-", "b": "above a", "c": "above a"}),
        ((True, False, False), {"a": "below b c", "b": "-", "c": "above b"}),
        ((True, False, True), {"a": "below b", "b": "-", "c": "above a b"}),
        ((False, True, True), {"a": "-", "b": "above a", "c": "above a b"}),
        ((True, True, False), {"a": "below c", "b": "below c", "c": "-"}),
        ((True, True, True), {"a": "-", "b": "-", "c": "-", "b - a": "above a", "c - b": "above a b"}),
    ],
)
def test_columns_stand_on_what_is_always_there(missing: tuple[bool, ...], expected: dict[str, str]) -> None:
    columns = tuple(Numeric(name, 0, 99, integer=True, missing=some) for name, some in zip("abc", missing, strict=True))
    form = GapForm.of(Schema(columns, constraints=(Order(("a", "b", "c")),)))
    found = {}
    for column in form.columns:
        found[column.name] = "-"
        if isinstance(column, Gap):
            side = "above" if column.above else "below"
            found[column.name] = " ".join([side, *sorted(base.name for base in column.bases)])
    assert found == expected


def test_the_narrower_range_is_chosen() -> None:
    born, out = (
        Datetime.of("born", "1920-01-01", "2020-01-01", date=True),
        Datetime.of("out", "2011-01-01", "2025-01-01", date=True),
    )
    admitted = Datetime.of("in", "2010-01-01", "2024-01-01", date=True, missing=True)
    form = GapForm.of(Schema((born, admitted, out), constraints=(Order(("born", "in", "out")),)))
    column = gap(form.columns[1])
    assert (column.above, [base.name for base in column.bases]) == (False, ["out"])


def test_a_gap_beside_columns_takes_no_declared_name() -> None:
    columns = (
        Numeric("a", 0, 9, missing=True),
        Numeric("b", 0, 9, missing=True),
        Categorical("b - a", ("x",)),
        Categorical("b - a'", ("y", "z")),
    )
    form = GapForm.of(Schema(columns, "b - a'", constraints=(Order(("a", "b")),)))
    assert [column.name for column in form.columns] == ["a", "b", "b - a", "b - a''"]


def test_a_total_follows_from_parts_that_are_never_missing() -> None:
    declared = schema(*CONSTRAINTS[7:])
    form = GapForm.of(declared)
    names = [column.name for column in form.columns]
    assert "total" not in names
    assert "all" not in names
    assert "sum" in names
    assert form.modelled(["total", "sum", "kind"]) == ["one", "two", "sum", "kind"]
    scaled = {column.name for column in form.columns if isinstance(column, Gap)}
    assert scaled == {"one", "two", "left", "x", "y"}  # "right" is declared on a log scale


@pytest.mark.parametrize(
    "columns",
    [
        (Numeric("a", -(2**53), 2**53, integer=True), Numeric("b", -(2**53), 2**53, integer=True)),
        (Numeric("a", -1.7e308, 1.7e308), Numeric("b", -1.7e308, 1.7e308)),
        (Numeric("a", 0, 5e-324), Numeric("b", 0, 5e-324)),
        (Numeric("a", 3, 3), Numeric("b", 3, 3)),
        (Numeric("a", 0, 3), Numeric("b", 3, 4)),
    ],
)
@pytest.mark.parametrize("constraint", [Order(("a", "b")), Sum("b", ("a", "c"))])
def test_no_domain_is_too_extreme(columns: tuple[Column, ...], constraint: Constraint) -> None:
    third = Numeric("c", 0, 1, integer=columns[0].kind == "integer")
    declared = Schema((*columns, third), constraints=(constraint,))
    api, rng = TabularAPI(declared), np.random.default_rng(0)
    with np.errstate(over="ignore", invalid="ignore"):  # uniform in a domain wider than the largest float is refused
        form = GapForm.of(declared)
        arrays = {column.name: np.full(3, column.minimum) for column in columns if isinstance(column, Numeric)}
        table = to_table(arrays | {"c": np.zeros(3)}, declared)
        assert list(misfits(to_table(form.rebuild(measured(table, form), rng), declared), declared)) == []
    assert api.name == "tabular"


def test_without_order_and_sum_nothing_changes() -> None:
    form = GapForm.of(Schema(COLUMNS))
    assert not form.changed
    assert form.columns == COLUMNS
    rng = np.random.default_rng(0)
    arrays = measured(ANY_RECORDS.random(5, 0, rng).records, form)
    before = rng.bit_generator.state
    rebuilt = form.rebuild(arrays, rng)
    assert all(rebuilt[name] is values for name, values in arrays.items())
    assert rng.bit_generator.state == before
    plain, gaps = TabularEmbedder(Schema(COLUMNS)), TabularEmbedder(schema(CONSTRAINTS[0]))
    assert plain.name.startswith(f"tabular-{Schema(COLUMNS).fingerprint()[:16]}")
    assert gaps.name.startswith("tabular-gaps-")  # other vectors are another embedder


STAYS = Schema(
    (
        Datetime.of("in", "2014-01-01", "2023-12-31", date=True),
        Datetime.of("out", "2014-01-01", "2023-12-31", date=True),
    ),
    constraints=(Order(("in", "out")),),
)


def test_variations_keep_gaps_by_ratio() -> None:
    api, rng = TabularAPI(STAYS), np.random.default_rng(0)
    parents = api.random(4000, 0, rng)
    days = to_numpy(parents.records, STAYS.columns[1]) - to_numpy(parents.records, STAYS.columns[0])
    assert np.mean(days < 60) == pytest.approx(0.5, abs=0.05)  # log-uniform: the root of ten years is 60 days
    varied = api.vary(parents, 0.05, rng)
    moved = to_numpy(varied.records, STAYS.columns[1]) - to_numpy(varied.records, STAYS.columns[0])
    assert list(violations(varied.records, STAYS)) == []
    inside = to_numpy(parents.records, STAYS.columns[1]) < STAYS.columns[1].maximum - 400  # type: ignore[union-attr]
    ratio = (moved[inside] + 1) / (days[inside] + 1)
    assert np.quantile(np.abs(np.log(ratio)), 0.95) < 0.05 * np.log(3653) + 0.5
    assert api.vary(parents, 0.0, rng).records.equals(parents.records)


def test_what_stands_beside_a_text_is_varied_as_gaps() -> None:
    declared = Schema((*STAYS.columns, Text("note")), constraints=STAYS.constraints)
    table = Facts(declared).random(2000, 0, np.random.default_rng(0))
    assert table is not None
    days = np.subtract(*(np.asarray(table[name], dtype=int) for name in ("out", "in")))
    assert np.mean((days >= 0) & (days < 60)) == pytest.approx(0.5, abs=0.05)


def test_embeddings_tell_gaps_apart() -> None:
    embedder = TabularEmbedder(STAYS)
    start = STAYS.columns[0].minimum  # type: ignore[union-attr]
    table = to_table({"in": np.full(3, start), "out": start + np.array([1, 4, 40])}, STAYS)
    vectors = embedder.embed(table)
    assert vectors[1, 1] - vectors[0, 1] == pytest.approx(np.log(5 / 2) / np.log(3652), abs=1e-3)
    assert vectors[2, 1] - vectors[1, 1] == pytest.approx(np.log(41 / 5) / np.log(3652), abs=1e-3)


def test_gaps_of_stepped_floats_count_steps_and_rebuild_on_them() -> None:
    declared = schema(Order(("paid", "due")))
    form = GapForm.of(declared)
    column = gap(next(column for column in form.columns if column.name == "due"))
    assert (column.minimum, column.maximum) == (0.01, 9000.01)
    arrays = measured(ANY_RECORDS.random(500, 0, np.random.default_rng(0)).records, form)
    table = to_table(form.rebuild(arrays, np.random.default_rng(0)), declared)
    for name in ("paid", "due"):
        texts = [repr(value) for value in table.column(name).to_pylist()]
        assert max(len(text.partition(".")[2]) for text in texts) <= 2


def test_noise_beyond_the_gaps_that_there_are_is_no_long_gap() -> None:
    """Noisy counts of a gap's grid: levels and what is drawn from them keep the mean, here of 7 among up to 3,653."""
    column = gap(GapForm.of(STAYS).columns[1])
    fine = grid(column, 26)
    rng = np.random.default_rng(0)
    days = np.rint(np.exp(rng.normal(np.log(4), 1, 3000))) + 1
    counts = np.bincount(fine.encode(days), minlength=fine.size).astype(float)
    means = []
    for _ in range(20):
        levels = merge(fine, counts + rng.normal(0, 38, fine.size), 38.0, 32)
        drawn = levels.decode(rng.choice(levels.size, 3000, p=levels.shares).astype(np.int32), rng)
        means.append(drawn.mean() - 1)
    assert np.mean(means) < 3 * (days.mean() - 1)  # 12 times as much where the tail is spread evenly
    assert np.median(means) == pytest.approx(days.mean() - 1, rel=0.6)
