"""Cross-tables: what a record contributes, what levels keep, and what a fit recovers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import norm

from pe.data.arrays import to_table
from pe.data.schema import Categorical, Image, Numeric, Schema
from pe.errors import SchemaError
from pe.tables import plan
from pe.tables.fit import fit
from pe.tables.levels import Levels, coarse, grid, merge
from pe.tables.measure import Counts, Table, Tables, one_way
from pe.tables.smooth import Cosines
from pe.tables.targets import choose_tables

COLUMNS = (
    Numeric("x", -3.0, 5.0),
    Numeric("age", 0, 90, integer=True),
    Numeric("constant", 2.0, 2.0),
    Categorical("job", tuple("abcdefghijkl")),
    Categorical("sex", ("f", "m")),
)


def records(n: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    return {
        "x": np.clip(rng.normal(0, 1.5, n), -3, 5),
        "age": rng.integers(0, 91, n),
        "constant": np.full(n, 2.0),
        "job": np.minimum(rng.geometric(0.4, n) - 1, 11).astype(np.int32),
        "sex": rng.integers(0, 2, n).astype(np.int32),
    }


def counted(
    tables: Tables, levels: Sequence[Levels], arrays: dict[str, NDArray[Any]], labels: NDArray[Any]
) -> NDArray[np.int64]:
    """Exact answers, as ``pe.private.measure`` adds them up."""
    cells, values = Counts(tables, tuple(levels), "test").entries(arrays, labels)
    total = np.zeros(tables.bins, np.int64)
    np.add.at(total, cells, values)
    return total


def crossed(levels: Sequence[Levels], labels: int, records: float, mu: float, rng: np.random.Generator) -> Tables:
    """The tables for many records."""
    return plan.weighed(plan.choose(levels, labels, records, mu, plan.MOST, rng), labels, 4, mu)


def learned(n: int = 4000, sigma: float = 5.0, most: int = 16) -> list[Levels]:
    fine = [grid(column, 32) for column in COLUMNS]
    first = one_way(fine)
    answers = counted(first, fine, records(n), np.zeros(n, np.int64))
    return [merge(level, part[0], sigma, most) for level, part in zip(fine, first.split(answers), strict=True)]


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 60))
@settings(max_examples=25, deadline=None)
def test_adding_a_record_moves_the_answers_by_the_stated_bound_exactly(seed: int, labels: int, n: int) -> None:
    levels = learned()
    tables = crossed(levels, labels, 4000, 0.3, np.random.default_rng(seed))
    arrays = records(n, seed)
    label = np.random.default_rng(seed).integers(0, labels, n)
    whole = counted(tables, levels, arrays, label)
    less = counted(tables, levels, {name: values[1:] for name, values in arrays.items()}, label[1:])
    moved = whole - less
    assert whole.dtype == np.int64
    assert int((moved**2).sum()) == tables.bound_squared
    assert (moved >= 0).all()  # so that replacing a record moves them by at most sqrt(2) times the bound
    assert len(whole) == tables.bins


@given(st.integers(0, 2**32 - 1), st.integers(2, 4), st.integers(1, 60))
@settings(max_examples=25, deadline=None)
def test_contrasts_move_by_the_stated_bound_exactly_and_say_nothing_of_totals(seed: int, labels: int, n: int) -> None:
    levels = learned()
    tables = plan.weighed(plan.contrasts(levels, labels, plan.MOST, np.random.default_rng(seed)), labels, 4, 0.3)
    arrays = records(n, seed)
    label = np.random.default_rng(seed).integers(0, labels, n)
    whole = counted(tables, levels, arrays, label)
    less = counted(tables, levels, {name: values[1:] for name, values in arrays.items()}, label[1:])
    assert int(((whole - less) ** 2).sum()) == tables.bound_squared
    assert tables.signed
    for table, part in zip(tables.tables, tables.split(whole), strict=True):
        assert table.centred == ((0, 1) if len(table.columns) == 1 else (1, 2))
        shaped = part.reshape(labels, *table.sizes)
        assert all((shaped.sum(axis=axis) == 0).all() for axis in table.centred)
        assert np.allclose(table.centre(part), part)


def test_a_centred_table_holds_what_labels_differ_by() -> None:
    """Three records by hand: each adds 1 to its cell and to that of the other label and group, else takes 1 off."""
    identity = np.arange(2, dtype=np.int32)
    level = Levels(Categorical("sex", ("f", "m")), np.full(2, 0.5), groups=identity, weights=np.ones(2))
    tables = Tables((Table((0,), (identity,), 3, (0, 1)),), labels=2)
    answers = counted(tables, [level], {"sex": np.array([1, 1, 0], np.int32)}, np.array([1, 1, 1]))
    assert answers.tolist() == [3, -3, -3, 3]  # two of (second label, m), one of (second label, f)
    assert tables.bound_squared == 9 * 4
    table = tables.tables[0]
    counts = np.array([[0.0, 0.0], [1.0, 2.0]])
    assert np.allclose(table.scale(2) * table.centre(counts), tables.split(answers)[0])


def test_a_table_counts_label_by_cell() -> None:
    """Two records of label 1 in cell (1, 0), one of label 0 in cell (0, 1), weight 3: by hand."""
    identity = np.arange(2, dtype=np.int32)
    sex = Categorical("sex", ("f", "m"))
    both = Levels(sex, np.full(2, 0.5), groups=identity, weights=np.ones(2))
    other = Levels(Categorical("other", ("n", "y")), np.full(2, 0.5), groups=identity, weights=np.ones(2))
    tables = Tables((Table((0, 1), (identity, identity), 3),), labels=2)
    arrays = {"sex": np.array([1, 1, 0], np.int32), "other": np.array([0, 0, 1], np.int32)}
    answers = counted(tables, [both, other], arrays, np.array([1, 1, 0]))
    assert answers.tolist() == [0, 3, 0, 0, 0, 0, 6, 0]
    assert tables.split(answers)[0].tolist() == [[0, 3, 0, 0], [0, 0, 6, 0]]
    assert tables.bound_squared == 9


def test_levels_decode_to_values_of_the_same_level_inside_the_domain() -> None:
    rng = np.random.default_rng(0)
    for level, column in zip(learned(), COLUMNS, strict=True):
        codes = rng.integers(0, level.size, 500).astype(np.int32)
        values = level.decode(codes, rng)
        assert np.array_equal(level.encode(values), codes)
        if isinstance(column, Numeric):
            assert (values >= column.minimum).all()
            assert (values <= column.maximum).all()
            assert values.dtype == (np.int64 if column.integer else np.float64)


@pytest.mark.parametrize(
    ("low", "high", "log", "longest"),
    [(0, 1, False, 9), (6.981, 28.11, False, 8), (0, 1e6, False, 8), (1e-3, 9e8, True, 12)],
)
def test_drawn_numbers_have_few_digits(low: float, high: float, log: bool, longest: int) -> None:
    level = grid(Numeric("x", low, high, log=log), 20)
    rng = np.random.default_rng(0)
    values = level.decode(rng.integers(0, level.size, 500).astype(np.int32), rng)
    assert max(len(repr(float(value))) for value in values) <= longest
    assert len(set(values.tolist())) > 450


@given(st.integers(0, 2**32 - 1), st.floats(0.5, 500), st.integers(2, 40), st.integers(4, 128), st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_any_noisy_answer_makes_usable_levels(seed: int, sigma: float, most: int, bins: int, terms: int) -> None:
    rng = np.random.default_rng(seed)
    for column in (
        *COLUMNS,
        Numeric("pay", 1, 1e6, log=True, missing=True),
        Numeric("year", 1, 40, log=True, integer=True),
    ):
        fine = grid(column, bins, refined=not terms)
        if terms:
            cosines = Cosines((fine,), terms)
            answers = np.rint(rng.normal(0, 64 * sigma, cosines.bins)).astype(np.int64)
            (level,) = cosines.divide(answers, 64, sigma, float(rng.exponential(300)), most)
        else:
            level = merge(fine, rng.normal(0, sigma, fine.size), sigma, most)
        assert math.isclose(level.shares.sum(), 1)
        assert (level.shares > 0).all()
        if level.edges is not None:
            assert fine.edges is not None
            assert (np.diff(level.edges) > 0).all()
            assert (level.edges[0], level.edges[-1]) == (fine.edges[0], fine.edges[-1])
        groups = coarse(level, 3)
        assert set(groups.tolist()) == set(range(int(groups.max()) + 1))
        assert groups.max() < 3


def found_by(fine: Levels, level: Levels) -> NDArray[np.float64]:
    """Shares of a grid's intervals, by levels found on it."""
    assert fine.edges is not None
    assert level.edges is not None
    return np.diff(np.interp(fine.edges, level.edges, np.concatenate([[0], np.cumsum(level.shares)])))


def test_cosines_find_a_density_in_noise_that_hides_its_intervals() -> None:
    """400 records of a bell, noise 25 for contributions of norm 1: nearer than intervals, joined, come."""
    fine = grid(Numeric("x", 0, 10), 32, refined=False)
    assert fine.edges is not None
    exact = np.diff(norm(4, 1.5).cdf(fine.edges))
    cosines = Cosines((fine,), 8)
    (matrix,) = cosines.matrices
    assert matrix is not None
    sums = matrix @ (400 * exact)
    rng = np.random.default_rng(0)
    missed: list[list[float]] = []
    for _ in range(20):
        joined = merge(fine, 400 * exact + rng.normal(0, 25, fine.size), 25.0, 32)
        answers = np.rint(sums + rng.normal(0, 25 * 64, cosines.bins)).astype(np.int64)
        (smooth,) = cosines.divide(answers, 64, 25.0, 400, 32)
        missed.append([float(np.abs(found_by(fine, level) - exact).sum() / 2) for level in (joined, smooth)])
    joined_mean, smooth_mean = np.mean(missed, axis=0)
    assert smooth_mean < 0.6 * joined_mean


@pytest.mark.parametrize(
    "column",
    [
        Numeric("gain", 0, 99999, integer=True),
        Numeric("gain", 0, 99999),
        Numeric("gain", 0, 99999, integer=True, missing=True),
        Numeric("gain", 1e-2, 99999, log=True),
        Numeric("gain", 0, 40, integer=True),
    ],
    ids=str,
)
@pytest.mark.parametrize(("first", "last"), [(0.7, 0.0), (0.0, 0.6), (0.5, 0.3), (0.0, 0.0), (1.0, 0.0)])
def test_spikes_at_the_ends_of_a_domain_are_told_from_what_lies_beside_them(
    column: Numeric, first: float, last: float
) -> None:
    """400 records, noise 20; beside the spikes, and without any, a bell around the middle of the domain."""
    rng = np.random.default_rng(0)
    low, high = (np.log(column.minimum), np.log(column.maximum)) if column.log else (column.minimum, column.maximum)
    places = np.clip(rng.normal((low + high) / 2, (high - low) / 8, 400), low, high)
    values = np.exp(places) if column.log else places
    values = np.clip(np.rint(values) if column.integer else values, column.minimum, column.maximum)
    values[: round(400 * first)] = column.minimum
    values[400 - round(400 * last) :] = column.maximum
    fine = grid(column, 32, refined=False)
    cosines = Cosines((fine,), 9)
    (matrix,) = cosines.matrices
    assert matrix is not None
    assert fine.edges is not None
    sums = matrix @ np.bincount(fine.encode(values), minlength=fine.size)
    answers = np.rint(sums + 64 * 20 * rng.normal(size=len(sums))).astype(np.int64)
    (level,) = cosines.divide(answers, 64, 20.0, 400, 32)
    assert level.edges is not None
    drawn = level.decode(rng.choice(level.size, 4000, p=level.shares).astype(np.int32), rng)
    drawn = drawn[~np.isnan(drawn)]
    assert np.mean(drawn < fine.edges[1]) == pytest.approx(first, abs=0.2)
    assert np.mean(drawn > fine.edges[-2]) == pytest.approx(last, abs=0.2)
    if column.integer:
        assert np.mean(drawn == column.minimum) == pytest.approx(first, abs=0.2)


def test_cosines_follow_many_records_exactly() -> None:
    column = Numeric("age", 0, 29, integer=True, missing=True)
    fine = grid(column, 32, refined=False)
    counts = np.array([*(100 * (1 + np.arange(30) % 7)), 900])
    cosines = Cosines((fine,), 64)
    (matrix,) = cosines.matrices
    assert matrix is not None
    (level,) = cosines.divide(matrix @ counts, 64, 1.0, counts.sum(), 32)
    drawn = level.decode(
        np.random.default_rng(1).choice(level.size, 50000, p=level.shares).astype(np.int32), np.random.default_rng(0)
    )
    share = np.bincount(np.nan_to_num(drawn, nan=30).astype(int), minlength=31) / 50000
    assert share == pytest.approx(counts / counts.sum(), abs=0.02)


@pytest.mark.parametrize("missing", [0, 40, 400])
def test_cosines_tell_how_many_numbers_are_missing(missing: int) -> None:
    fine = grid(Numeric("pay", 1, 1e4, log=True, missing=True), 32, refined=False)
    assert fine.edges is not None
    exact = np.diff(norm(4, 1).cdf(np.log(fine.edges)))
    cosines = Cosines((fine,), 9)
    (matrix,) = cosines.matrices
    assert matrix is not None
    sums = matrix @ np.append((400 - missing) * exact / exact.sum(), missing)
    (level,) = cosines.divide(np.rint(sums).astype(np.int64), 64, 2.0, 400, 32)
    assert level.shares[-1] == pytest.approx(missing / 400, abs=0.01)
    if missing < 400:
        present = Levels(Numeric("pay", 1, 1e4, log=True), level.shares[:-1] / level.shares[:-1].sum(), level.edges)
        assert np.abs(found_by(fine, present) - exact).sum() / 2 < 0.06


@pytest.mark.parametrize("grid_steps", [8, 64])
@pytest.mark.parametrize("terms", [1, 3, 7, 50])
def test_every_record_adds_about_norm_one_to_the_cosines(terms: int, grid_steps: int) -> None:
    columns = (
        *COLUMNS,
        Numeric("pay", 1, 1e6, log=True, missing=True),
        Numeric("few", 0, 1, integer=True),
        Numeric("three", 0, 2, integer=True),
    )
    for column in columns:
        cosines = Cosines((grid(column, 32, refined=False),), terms, grid_steps)
        (matrix,) = cosines.matrices
        if matrix is None:
            assert (cosines.bound_squared, cosines.apart_squared) == (grid_steps**2, 2 * grid_steps**2)
            continue
        norms = np.linalg.norm(matrix, axis=0)
        assert norms == pytest.approx(np.full(len(norms), grid_steps), rel=0.25 if grid_steps == 8 else 0.04)
        assert cosines.bound_squared == (matrix**2).sum(axis=0).max()
        apart = max(int(((matrix[:, i] - matrix[:, j]) ** 2).sum()) for i in range(len(norms)) for j in range(i + 1))
        assert cosines.apart_squared == apart


def test_thousands_of_categories_are_one_entry_of_a_record_beside_cosines() -> None:
    columns = (Numeric("x", 0, 1), Categorical("c", tuple(map(str, range(20000)))))
    cosines = Cosines(tuple(grid(column, 32, refined=False) for column in columns), 7)
    table = to_table({"x": np.array([0.1, 0.9]), "c": np.array([19999, 3], np.int32)}, Schema(columns))
    bins, values = cosines.vectors(table, np.zeros(2, np.int32))
    assert bins.shape == values.shape == (2, 9)
    assert bins[:, -1].tolist() == [8 + 19999, 8 + 3]
    assert (values[:, -1] == 64).all()
    assert cosines.bins == 8 + 20000


@given(st.lists(st.integers(2, 5), min_size=1, max_size=3), st.integers(1, 4), st.data())
@settings(max_examples=40, deadline=None)
def test_two_records_are_as_far_apart_as_stated_at_most_and_some_are(
    sizes: list[int], labels: int, data: st.DataObject
) -> None:
    axes = [axis for axis in range(len(sizes) + 1) if axis or labels > 1]
    centred = tuple(sorted(data.draw(st.sets(st.sampled_from(axes)))))
    maps = tuple(np.arange(size, dtype=np.int32) for size in sizes)
    table = Table(tuple(range(len(sizes))), maps, 2, centred)
    every = np.indices((labels, *sizes)).reshape(len(sizes) + 1, -1)
    cells, values = table.entries([codes.astype(np.int32) for codes in every[1:]], every[0], labels)
    vectors = np.zeros((every.shape[1], labels * table.cells), np.int64)
    np.put_along_axis(vectors, cells, values, axis=1)
    apart = ((vectors[:, None] - vectors) ** 2).sum(axis=2).max()
    assert apart == table.apart_squared(labels)


def test_a_spike_keeps_a_level_of_its_own() -> None:
    column = Numeric("gain", 0, 99999, integer=True)
    fine = grid(column, 64)
    counts = np.full(fine.size, 2.0)
    counts[0] = 9000
    level = merge(fine, counts, 10.0, 32)
    assert level.edges is not None
    assert level.shares[: np.searchsorted(level.edges, 30)].sum() > 0.9


def test_a_spike_is_not_joined_with_what_lies_below_it() -> None:
    """Half of all numbers are 40: what is drawn holds about as many, and as many below and above as there are."""
    fine = grid(Numeric("hours", 1, 99, integer=True), 64)
    counts = np.full(fine.size, 10.0)
    counts[39] = 980
    level = merge(fine, counts, 3.0, 8)
    rng = np.random.default_rng(0)
    drawn = level.decode(rng.choice(level.size, 20000, p=level.shares).astype(np.int32), rng)
    assert np.mean(drawn == 40) == pytest.approx(0.5, abs=0.03)
    assert np.mean(drawn < 40) == pytest.approx(0.2, abs=0.03)


def test_within_a_level_numbers_are_spread_as_their_fine_counts_are() -> None:
    """Nine of ten numbers are 0, so that the others share few levels: two values among them are still found."""
    fine = grid(Numeric("loss", 0, 100, integer=True), 64)
    counts = np.zeros(fine.size)
    counts[[0, 30, 71]] = 9000, 300, 700
    level = merge(fine, counts, 2.0, 4)
    rng = np.random.default_rng(0)
    drawn = level.decode(rng.choice(level.size, 20000, p=level.shares).astype(np.int32), rng)
    assert np.mean(drawn == 30) == pytest.approx(0.03, abs=0.01)
    assert np.mean(drawn == 71) == pytest.approx(0.07, abs=0.01)


def test_rare_categories_share_a_level_and_large_ones_keep_theirs() -> None:
    column = Categorical("c", tuple(str(i) for i in range(3000)))
    counts = np.zeros(3000)
    counts[:5] = 1000
    level = merge(grid(column, 32), counts, 20.0, 32)
    assert level.size == 6
    drawn = level.decode(np.full(100, 5, np.int32), np.random.default_rng(0))
    assert (drawn >= 5).all()


def exact_pairs(n: int) -> tuple[list[Levels], Tables, NDArray[np.int64], NDArray[np.int64]]:
    """Two bits that agree nine times in ten for label 0 and disagree for label 1."""
    rng = np.random.default_rng(1)
    identity = np.arange(2, dtype=np.int32)
    levels = [
        Levels(Categorical(name, ("0", "1")), np.full(2, 0.5), groups=identity, weights=np.ones(2)) for name in "ab"
    ]
    label, a = rng.integers(0, 2, n), rng.integers(0, 2, n)
    b = a ^ label ^ (rng.random(n) < 0.1)
    tables = Tables((Table((0, 1), (identity, identity)),), labels=2)
    answers = counted(tables, levels, {"a": a.astype(np.int32), "b": b.astype(np.int32)}, label)
    return levels, tables, answers, np.bincount(label)


def test_the_fit_recovers_an_interaction_and_is_deterministic() -> None:
    levels, tables, answers, sizes = exact_pairs(4000)

    def draw() -> dict[str, NDArray[Any]]:
        rng = np.random.default_rng(0)
        density = fit(tables, levels, answers, 5.0, sizes.astype(float), rng, particles=2000)
        return density.sample(np.array([3000, 3000]), rng, sharpness=1.0)

    made = draw()
    agree = made["a"] == made["b"]
    assert agree[:3000].mean() == pytest.approx(0.9, abs=0.03)
    assert agree[3000:].mean() == pytest.approx(0.1, abs=0.03)
    again = draw()
    assert all(np.array_equal(made[name], again[name]) for name in made)


def test_a_fit_of_contrasts_finds_how_labels_differ_and_what_hangs_together() -> None:
    """Two labels, two columns of four groups: the first leans by label, the second on the first."""
    rng = np.random.default_rng(0)
    identity = np.arange(4, dtype=np.int32)
    halves = np.array([0, 0, 1, 1], np.int32)
    levels = [
        Levels(Categorical(name, tuple("0123")), np.full(4, 0.25), groups=identity, weights=np.ones(4)) for name in "ab"
    ]
    label = np.repeat([0, 1], 4000)
    a = np.where(rng.random(8000) < 0.3, rng.integers(0, 4, 8000), 2 * label + rng.integers(0, 2, 8000)).astype(
        np.int32
    )
    b = np.where(rng.random(8000) < 0.4, rng.integers(0, 4, 8000), a).astype(np.int32)
    tables = Tables(
        (
            Table((0,), (identity,), 1, (0, 1)),
            Table((1,), (identity,), 1, (0, 1)),
            Table((0, 1), (halves, halves), 2, (1, 2)),
        ),
        labels=2,
    )
    answers = counted(tables, levels, {"a": a, "b": b}, label)
    density = fit(tables, levels, answers, 5.0, np.array([4000.0, 4000.0]), rng, particles=2000)
    made = density.sample(np.array([4000, 4000]), rng)
    for name, real in (("a", a), ("b", b)):
        for one in (slice(0, 4000), slice(4000, 8000)):
            drawn = np.bincount(made[name][one], minlength=4) / 4000
            assert drawn == pytest.approx(np.bincount(real[one], minlength=4) / 4000, abs=0.04)
    agree = [np.mean(halves[x] == halves[y]) for x, y in ((made["a"], made["b"]), (a, b))]
    assert agree[0] == pytest.approx(agree[1], abs=0.04)


def test_contrasts_of_unequal_labels_leave_a_column_its_shares() -> None:
    """One label in eight, in the lower half nine times in ten; contrasts alone say only that labels differ by .8."""
    rng = np.random.default_rng(0)
    halves = np.array([0, 1], np.int32)
    label = np.repeat([0, 1], [7000, 1000])
    a = (rng.random(8000) < np.where(label == 0, 0.9, 0.1)).astype(np.int32)
    levels = [Levels(Categorical("a", ("0", "1")), np.bincount(a) / 8000, groups=halves, weights=np.ones(2))]
    tables = Tables((Table((0,), (halves,), 4, (0, 1)),), labels=2)
    answers = counted(tables, levels, {"a": a}, label)
    density = fit(tables, levels, answers, 5.0, np.array([7000.0, 1000.0]), rng, particles=4000)
    made = density.sample(np.array([7000, 1000]), rng)["a"]
    assert made.mean() == pytest.approx(a.mean(), abs=0.015)
    assert made[:7000].mean() == pytest.approx(0.9, abs=0.03)
    assert made[7000:].mean() == pytest.approx(0.1, abs=0.05)


def test_weighted_records_answer_the_1_way_tables_nearer_than_the_chains_do() -> None:
    """Chains of two columns that always agree never mix: their particles keep the share they began with."""
    rng = np.random.default_rng(0)
    identity = np.arange(2, dtype=np.int32)
    levels = [
        Levels(Categorical(name, ("0", "1")), np.full(2, 0.5), groups=identity, weights=np.ones(2)) for name in "ab"
    ]
    a = (rng.random(20000) < 0.3).astype(np.int32)
    tables = Tables((Table((0,), (identity,)), Table((1,), (identity,)), Table((0, 1), (identity, identity), 3)))
    answers = counted(tables, levels, {"a": a, "b": a}, np.zeros(len(a), np.int64))
    density = fit(tables, levels, answers, 5.0, np.array([20000.0]), rng, particles=300)
    made = density.sample(np.array([20000]), rng)
    assert made["a"].mean() == pytest.approx(a.mean(), abs=0.004)
    assert np.mean(made["a"] == made["b"]) > 0.97


def test_pure_noise_stays_near_the_base() -> None:
    levels, tables, answers, sizes = exact_pairs(4000)
    rng = np.random.default_rng(0)
    density = fit(tables, levels, answers * 0 + 1000, 1e5, sizes.astype(float), rng, particles=2000)
    made = density.sample(np.array([2000, 2000]), rng)
    assert np.mean(made["a"] == made["b"]) == pytest.approx(0.5, abs=0.05)


def test_labels_without_records_and_single_columns_do_not_crash() -> None:
    levels = learned()[:1]
    tables = crossed(levels, 3, 10, 0.01, np.random.default_rng(0))
    rng = np.random.default_rng(0)
    density = fit(tables, levels, np.zeros(tables.bins), 10.0, np.array([1.0, 1.0, 50.0]), rng, particles=100, rounds=3)
    made = density.sample(np.array([0, 1, 7]), rng)
    assert len(made["x"]) == 8


def test_many_columns_get_a_bounded_and_balanced_choice_of_tables() -> None:
    half = np.full(2, 0.5)
    identity = np.arange(2, dtype=np.int32)
    levels = [Levels(Categorical(f"c{i}", ("0", "1")), half, groups=identity, weights=np.ones(2)) for i in range(40)]
    tables = crossed(levels, 2, 10000, 0.3, np.random.default_rng(0)).tables
    for order in (2, 3):
        chosen = [table.columns for table in tables if len(table.columns) == order]
        assert len(chosen) == len(set(chosen)) == plan.MOST[order]
        used = np.bincount(np.concatenate(chosen), minlength=40)
        assert used.max() - used.min() <= 2


def test_the_plan_spends_the_whole_budget_and_no_more() -> None:
    for n, columns in ((300, 30), (7000, 7), (1_000_000, 50)):
        made = plan.settings(n, columns, 2, 0.3)
        assert plan.LABEL_SHARE + made.histogram_share + made.table_share == pytest.approx(1)
        assert 4 <= made.bins <= 128
        assert 1 <= made.sharpness <= 1.5
        assert made.contrasts == (n == 300)
        assert (made.terms > 0) == (n == 300)
        assert made.terms < made.bins


@pytest.mark.parametrize(("columns", "labels"), [(1, 2), (4, 3), (30, 2), (30, 4), (150, 2)])
def test_contrasts_share_the_release_about_as_said(columns: int, labels: int) -> None:
    level = merge(grid(Numeric("x", 0, 1), 11), np.full(11, 200.0), 5.0, 32)
    asked = plan.contrasts([level] * columns, 2, plan.MOST_SMALL, np.random.default_rng(0))
    tables = plan.weighed(asked, labels, 4, 0.3)
    assert plan.drawable(tables, 0.3)
    for order, groups, _, share in plan.CONTRASTS:
        if order <= columns:
            some = [t for t in tables.tables if t.sizes == (groups,) * order]
            spent = sum(table.norm_squared(labels) for table in some) / tables.bound_squared
            whole = sum(part for order, *_, part in plan.CONTRASTS if order <= columns)
            assert spent == pytest.approx(share / whole, abs=0.12)


@pytest.mark.parametrize("columns", [3, 30])
def test_budgets_too_small_for_the_noise_of_contrasts_get_counts(columns: int) -> None:
    level = merge(grid(Numeric("x", 0, 1), 11), np.full(11, 200.0), 5.0, 32)
    made = plan.settings(5000, columns, 4, 0.0055)
    assert made.contrasts
    tables = choose_tables((), [level] * columns, 4, 5000, 0.004, made, np.random.default_rng(0))
    assert plan.drawable(tables, 0.004)
    assert tables.signed == (columns == 3)


def test_images_are_refused() -> None:
    with pytest.raises(SchemaError, match="count no image"):
        grid(Image("picture", 8, 8), 16)


@pytest.mark.parametrize("log", [False, True])
def test_numbers_follow_the_slope_of_their_labels_density(log: bool) -> None:
    """The mean of each label's numbers is nearer than with uniform ones, and every number keeps its level."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 40000)
    drawn = np.clip(rng.exponential(2, len(label)), 0, 10)
    values = np.where(label == 0, drawn, 10 - drawn)
    if log:
        values = np.exp(values)
    level = grid(Numeric("x", values.min(), values.max(), log=log), 6)
    codes = level.encode(values)
    errors = []
    for given_labels in (None, label):
        found = level.decode(codes, np.random.default_rng(1), given_labels)
        assert np.array_equal(level.encode(found), codes)
        places = np.log(found) - np.log(values) if log else found - values
        errors.append([abs(places[label == each].mean()) for each in (0, 1)])
    assert max(errors[1]) < 0.6 * min(errors[0])


def test_missing_numbers_stay_missing_and_lean_on_no_level() -> None:
    level = grid(Numeric("x", 0, 10, missing=True), 4)
    codes = np.array([4] * 500 + [1] * 200 + [2] * 200, np.int32)
    found = level.decode(codes, np.random.default_rng(0), np.zeros(900, np.int64))
    assert np.isnan(found[:500]).all()
    assert np.array_equal(level.encode(found), codes)
