"""Correlations of few records: what a record adds to them, the matrix they tell, and records rearranged to it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import norm, spearmanr

import pe
from pe.data.arrays import to_table
from pe.data.schema import Categorical, Numeric, Schema, boolean
from pe.privacy import Adjacency
from pe.privacy.certificate import verify
from pe.privacy.release import Votes
from pe.private.dataset import PrivateDataset
from pe.private.measure import measure
from pe.run import Run
from pe.tables import plan
from pe.tables.copula import GRID, Correlations, Scores, _steps, ranked, rearranged
from pe.tables.levels import Levels, grid, merge

Floats = NDArray[np.float64]


def even(*names: str, missing: bool = False) -> tuple[Levels, ...]:
    """32 levels of equal mass of numbers in [0, 1], and one of missing ones."""
    size = 32 + missing
    edges = np.linspace(0, 1, 33)
    return tuple(Levels(Numeric(name, 0, 1, missing=missing), np.full(size, 1 / size), edges) for name in names)


def scored(levels: tuple[Levels, ...], labels: int = 1, steps: int = GRID) -> Correlations:
    """As if every column had its levels' shares in every label."""
    return Correlations(levels, tuple(Scores.of(x, np.tile(x.shares, (labels, 1))) for x in levels), steps)


def summed(
    features: Correlations, arrays: dict[str, NDArray[Any]], labels: NDArray[np.int32] | None = None
) -> NDArray[np.int64]:
    schema = Schema(tuple(level.column for level in features.levels))
    size = len(next(iter(arrays.values())))
    bins, values = features.vectors(to_table(arrays, schema), np.zeros(size, np.int32) if labels is None else labels)
    total = np.zeros(features.bins, np.int64)
    np.add.at(total, bins, values)
    return total


def correlated(correlations: Floats, n: int, seed: int = 0) -> Floats:
    """Numbers in (0, 1) with a Gaussian copula, float64 (n, columns)."""
    rng = np.random.default_rng(seed)
    found: Floats = norm.cdf(rng.multivariate_normal(np.zeros(len(correlations)), correlations, n, method="cholesky"))
    return found


@given(st.integers(2, 40), st.integers(1, GRID), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.5, 3.0]))
@settings(max_examples=60, deadline=None)
def test_no_record_adds_more_and_no_two_are_further_apart_than_stated(
    columns: int, steps: int, seed: int, tails: float
) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(30, columns)) * np.exp(tails * rng.normal(size=(30, columns)))
    scores[0], scores[1, 0] = 0.0, -scores[1, 0]
    features = scored(even(*(f"x{i}" for i in range(columns))), steps=steps)
    found = _steps(scores, features.root)
    assert ((found**2).sum(axis=1) <= features.root**2).all()
    left, right = np.triu_indices(columns, 1)
    products = found[:, left] * found[:, right]
    assert (products**2).sum(axis=1).max() <= features.bound_squared
    assert ((products[:, None] - products) ** 2).sum(axis=2).max() <= features.apart_squared


def test_two_records_can_be_as_far_apart_as_stated() -> None:
    scores = np.zeros((2, 9))
    scores[:, :2] = [[1, 1], [1, -1]]
    found = _steps(scores, 64)
    products = [np.outer(each, each)[np.triu_indices(9, 1)] for each in found]
    assert ((products[0] - products[1]) ** 2).sum() > 0.9 * scored(even(*"abcdefghi")).apart_squared


@pytest.mark.parametrize("norm_of_users", [None, 1.0])
def test_replacing_what_moves_the_sums_most_is_charged_for(norm_of_users: float | None) -> None:
    """By its opposite: a record's two large scores of one sign, then of two."""
    levels = even("a", "b", "c")
    features = scored(levels)
    schema = Schema(tuple(level.column for level in levels))

    def votes(b: float) -> Votes:
        arrays: dict[str, NDArray[Any]] = {"a": np.array([0.99]), "b": np.array([b]), "c": np.array([0.5])}
        private = PrivateDataset(to_table(arrays, schema), np.zeros(1, np.int32), schema, np.zeros(1, np.int64))
        scale = None if norm_of_users is None else norm_of_users * features.bound_squared**0.5 / features.grid
        return measure(private, features, adjacency=Adjacency.REPLACE_ONE, norm=scale)

    some, other = votes(0.99), votes(0.01)
    moved = int(((some._count() - other._count()) ** 2).sum())
    assert moved <= some.sensitivity_squared
    assert moved > 0.9 * features.apart_squared > 2 * features.bound_squared


def test_scores_are_rounded_to_nearly_their_length() -> None:
    scores = np.random.default_rng(0).normal(size=(500, 30))
    lengths = np.sqrt((_steps(scores, 64) ** 2).sum(axis=1))
    assert lengths.min() > 0.93 * 64
    assert lengths.mean() > 0.98 * 64


@given(st.integers(1, 3), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_scores_have_mean_0_and_variance_1_within_labels_and_rise(labels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    (level,) = even("x", missing=True)
    shares = rng.dirichlet(np.ones(level.size), labels)
    scores = Scores.of(level, shares)
    present = shares[:, :-1] / shares[:, :-1].sum(axis=1, keepdims=True)
    assert (scores.values[:, -1] == 0).all()  # missing
    assert np.allclose((present * scores.values[:, :-1]).sum(axis=1), 0, atol=1e-6)
    assert np.allclose((present * scores.values[:, :-1] ** 2).sum(axis=1), 1, atol=1e-6)
    assert (np.diff(scores.values[:, :-1], axis=1) > 0).all()


def test_levels_of_an_order_are_scored_in_it() -> None:
    column = Categorical("size", tuple("abcdefghijkl"), kind="ordinal", missing=True)
    counts = np.array([0, 90, 0, 80, 0, 0, 70, 0, 60, 50, 0, 40, 30.0])  # those of zero share a level with none missing
    level = merge(grid(column, 32), counts, 5.0, 32)
    scores = Scores.of(level, level.shares[None])
    assert level.groups is not None
    known = scores.values[0, level.groups[[1, 3, 6, 8, 9, 11]]]
    assert (np.diff(known) > 0).all()
    assert scores.values[0, level.groups[12]] == 0


def test_which_columns_have_ranks() -> None:
    columns = (
        Numeric("x", 0, 1),
        boolean("b", missing=True),
        Categorical("two", ("a", "b")),
        Categorical("o", tuple("abc"), kind="ordinal"),
        Categorical("c", tuple("abc")),
    )
    assert [ranked(column) for column in columns] == [True] * 4 + [False]


FIVE = np.array(
    [
        [1.0, 0.8, 0.6, -0.5, 0.0],
        [0.8, 1.0, 0.5, -0.4, 0.0],
        [0.6, 0.5, 1.0, -0.3, 0.0],
        [-0.5, -0.4, -0.3, 1.0, 0.0],
        [0.0, 0.0, 0.0, 0.0, 1.0],
    ]
)


@pytest.mark.parametrize("steps", [GRID, 500])
def test_many_records_tell_the_correlations_whatever_the_columns_shapes(steps: int) -> None:
    """Two labels of other shapes, one column of two values; what is hidden is what the values stand for."""
    n = 20000
    label = (np.arange(n) % 2).astype(np.int32)
    places = correlated(FIVE, n)
    values = np.where(label[:, None] == 0, places**2, np.sqrt(places))
    arrays: dict[str, NDArray[Any]] = {name: values[:, i] for i, name in enumerate("abcd")}
    arrays["e"] = (values[:, 4] > 0.5).astype(np.int32)
    flag = Levels(boolean("e"), np.full(2, 0.5), groups=np.arange(2, dtype=np.int32), weights=np.ones(2))
    levels = (*even(*"abcd"), flag)
    shares = [
        np.stack(
            [
                np.bincount(level.encode(arrays[level.column.name][label == k]), minlength=level.size) / (n / 2)
                for k in (0, 1)
            ]
        )
        for level in levels
    ]
    scores = tuple(Scores.of(level, np.maximum(share, 1e-9)) for level, share in zip(levels, shares, strict=True))
    features = Correlations(levels, scores, steps)
    found = features.matrix(summed(features, arrays, label), steps, 1e-3, n)
    assert found == pytest.approx(FIVE, abs=0.04)


@pytest.mark.parametrize("columns", [2, 3, 10])
@pytest.mark.parametrize("flags", [0, 1, 2])
def test_correlations_are_those_of_what_levels_stand_for(columns: int, flags: int) -> None:
    """Of few columns and of many, of numbers and of two values each."""
    n = 20000
    true = np.full((columns, columns), 0.5) + 0.5 * np.eye(columns)
    places = correlated(true, n)
    names = [f"x{i}" for i in range(columns)]
    half = {"groups": np.arange(2, dtype=np.int32), "weights": np.ones(2)}
    levels = [*even(*names[flags:]), *(Levels(boolean(name), np.full(2, 0.5), **half) for name in names[:flags])]
    arrays: dict[str, NDArray[Any]] = {level.column.name: places[:, i] for i, level in enumerate(levels)}
    arrays |= {name: (arrays[name] > 0.5).astype(np.int32) for name in names[:flags]}
    features = scored(tuple(levels))
    assert features.matrix(summed(features, arrays), GRID, 1e-3, n) == pytest.approx(true, abs=0.05)


def test_one_factor_is_found_in_noise_that_hides_every_correlation() -> None:
    """30 columns, one factor, 400 records; noise of .35 per correlation: that of what is found is much smaller."""
    true = np.full((30, 30), 0.5) + 0.5 * np.eye(30)
    features = scored(even(*(f"x{i}" for i in range(30))))
    off = np.triu_indices(30, 1)
    rng = np.random.default_rng(0)
    missed = []
    for seed in range(5):
        places = correlated(true, 400, seed)
        sums = summed(features, {f"x{i}": places[:, i] for i in range(30)})
        noise = 0.35 * 400 / 30
        noisy = np.rint(sums + GRID * noise * rng.normal(size=len(sums))).astype(np.int64)
        found = features.matrix(noisy, GRID, noise, 400)
        assert np.allclose(np.diag(found), 1)
        assert np.linalg.eigvalsh(found).min() > 0
        missed.append(math.sqrt(((found - true)[off] ** 2).mean()))
    assert np.mean(missed) < 0.15


@pytest.mark.parametrize("sigma", [10.0, 100.0, 1000.0])
def test_noise_alone_tells_of_next_to_no_correlation(sigma: float) -> None:
    features = scored(even(*(f"x{i}" for i in range(20))))
    rng = np.random.default_rng(1)
    off = np.triu_indices(20, 1)
    sizes = [
        np.abs(
            features.matrix(np.rint(GRID * sigma * rng.normal(size=190)).astype(np.int64), GRID, sigma, 400)[off]
        ).mean()
        for _ in range(5)
    ]
    assert np.mean(sizes) < 0.1  # raw: .4 and more


@pytest.mark.parametrize("sigma", [1e-3, 10.0, 100.0])
def test_rare_values_that_are_independent_are_not_said_to_be_correlated(sigma: float) -> None:
    """Most records are alike, so that the sums are far from 0; noise that hides the rest tells of no correlation."""
    n, columns = 2000, 10
    rng = np.random.default_rng(0)
    shares = {"groups": np.arange(2, dtype=np.int32), "weights": np.ones(2)}
    levels = tuple(Levels(boolean(f"x{i}"), np.array([0.95, 0.05]), **shares) for i in range(columns))
    features = scored(levels)
    sums = summed(features, {level.column.name: (rng.random(n) < 0.05).astype(np.int32) for level in levels})
    assert sums.mean() > 0.02 * n * GRID
    answers = np.rint(sums + GRID * sigma * rng.normal(size=len(sums))).astype(np.int64)
    found = features.matrix(answers, GRID, sigma, n)[np.triu_indices(columns, 1)]
    assert abs(found.mean()) < 0.1
    assert np.abs(found).mean() < 0.2


def test_rearranged_records_keep_every_column_and_get_the_correlations() -> None:
    rng = np.random.default_rng(0)
    n = 4000
    labels = np.repeat([0, 1], [1000, 3000])
    made: dict[str, NDArray[Any]] = {
        "a": rng.normal(labels, 0.1) % 1,
        "b": rng.random(n) ** 3,
        "c": np.where(rng.random(n) < 0.3, np.nan, rng.random(n)),
        "d": rng.integers(0, 3, n).astype(np.int32),
        "other": np.arange(n),
    }
    levels = (*even("a", "b"), *even("c", missing=True), grid(boolean("d", missing=True), 32))
    wanted = np.array([[1, 0.8, -0.5, 0.4], [0.8, 1, -0.4, 0.3], [-0.5, -0.4, 1, 0], [0.4, 0.3, 0, 1]], float)
    found = rearranged(made, levels, labels, wanted, rng)
    assert np.array_equal(found["other"], made["other"])
    for name in "abcd":
        for label in (0, 1):
            of = labels == label
            assert np.array_equal(np.sort(found[name][of]), np.sort(made[name][of]), equal_nan=True)
    assert np.array_equal(np.isnan(found["c"]), np.isnan(made["c"]))
    assert np.array_equal(found["d"] == 2, made["d"] == 2)
    for label in (0, 1):
        of = labels == label
        assert spearmanr(found["a"][of], found["b"][of]).statistic == pytest.approx(0.78, abs=0.06)
        there = of & ~np.isnan(found["c"])
        assert spearmanr(found["a"][there], found["c"][there]).statistic == pytest.approx(-0.45, abs=0.1)
        known = of & (found["d"] < 2)
        assert found["a"][known & (found["d"] == 1)].mean() > found["a"][known & (found["d"] == 0)].mean()


@pytest.mark.parametrize("sizes", [(0, 1), (1, 2), (3, 0)])
def test_hardly_any_records_are_rearranged_without_trouble(sizes: tuple[int, int]) -> None:
    labels = np.repeat([0, 1], sizes)
    made: dict[str, NDArray[Any]] = {name: np.full(len(labels), np.nan) for name in "ab"}
    made["a"] = np.linspace(0, 1, len(labels))
    found = rearranged(made, even("a", "b", missing=True), labels, np.eye(2), np.random.default_rng(0))
    assert sorted(found["a"]) == sorted(made["a"])
    assert np.isnan(found["b"]).all()


def test_correlations_take_their_part_of_the_share_of_pairs() -> None:
    numbers = even(*(f"x{i}" for i in range(6)))
    kinds = tuple(grid(Categorical(f"c{i}", tuple("abc")), 32) for i in range(4))
    rng = np.random.default_rng(0)
    assert plan.correlated(numbers, 2, 0.3, rng) == (list(range(6)), pytest.approx(0.2))
    assert plan.correlated(numbers, 1, 0.3, rng) == (list(range(6)), pytest.approx(1))
    assert plan.correlated((*kinds, *numbers), 2, 0.3, rng) == (list(range(4, 10)), pytest.approx(0.2 * 15 / 45))
    assert plan.correlated((*kinds, numbers[0]), 2, 0.3, rng) == ([], 0.0)
    assert plan.correlated(numbers, 2, 1e-5, rng) == ([], 0.0)  # noise could not be drawn
    many, share = plan.correlated(even(*(f"x{i}" for i in range(300))), 2, 0.3, rng)
    assert many == sorted(set(many))
    assert len(many) == plan.MOST_CORRELATED
    assert share == pytest.approx(0.2 * math.comb(200, 2) / math.comb(300, 2))
    asked = plan.contrasts((*kinds, *numbers), 2, plan.MOST_SMALL, rng, range(4, 10))
    pairs = [table.columns for table, _ in asked if len(table.columns) == 2]
    assert len(pairs) == 30  # all others
    assert all(min(pair) < 4 for pair in pairs)
    wide = (*kinds, *even(*(f"x{i}" for i in range(40))))
    asked = plan.contrasts(wide, 2, plan.MOST_SMALL, rng, range(4, 44))
    pairs = [table.columns for table, _ in asked if len(table.columns) == 2]
    assert len(set(pairs)) == len(pairs) == plan.MOST_SMALL[2]
    assert all(min(pair) < 4 for pair in pairs)


def test_which_tables_are_asked_for_correlations() -> None:
    """Few records; or more where most columns, and many, have ranks."""
    assert plan.settings(400, 30, 2, 0.3, with_ranks=30).contrasts
    assert plan.settings(2000, 30, 2, 0.3, with_ranks=30).contrasts
    assert plan.settings(400, 30, 1, 0.3, with_ranks=30).contrasts
    assert plan.settings(400, 30, 2, 0.3, with_ranks=5).contrasts
    assert not plan.settings(5000, 30, 2, 0.3, with_ranks=30).contrasts
    assert not plan.settings(2000, 30, 2, 0.3, with_ranks=15).contrasts
    assert not plan.settings(1000, 8, 2, 0.3, with_ranks=8).contrasts  # tables of three columns are few
    assert not plan.settings(400, 30, 1, 0.3, with_ranks=15).contrasts
    assert not plan.settings(400, 30, 7, 0.3, with_ranks=30).contrasts
    assert not plan.settings(400, 30, 1, 0.3, with_ranks=30, targets=True).contrasts


NAMES = [f"x{i}" for i in range(8)]


def factor(n: int = 180, seed: int = 0) -> pd.DataFrame:
    """Eight columns that rise and fall together; a label that shifts them; half as many users as records."""
    rng = np.random.default_rng(seed)
    label = rng.random(n) < 0.4
    values = 0.8 * rng.normal(size=(n, 1)) + 0.6 * rng.normal(size=(n, 8)) + label[:, None]
    data = pd.DataFrame(np.clip(values, -4, 5), columns=NAMES)
    return data.assign(kind=np.where(label, "yes", "no"), who=rng.integers(0, n // 2, n))


def made(folder: Path, label: str | None = "kind", **given: Any) -> pe.Synthetic:
    schema = pe.Schema((*(pe.Numeric(name, -4, 5) for name in NAMES), pe.Categorical("kind", ("no", "yes"))), label)
    asked: dict[str, Any] = {"epsilon": 2.0, "delta": 1e-4, "adjacency": "add-remove", "source": "s", "create": True}
    asked |= {"run": folder / "run", "ledger": folder / "ledger.sqlite3"}
    return pe.synthesize(factor(), schema=schema, **(asked | given))


def purposes(synthetic: pe.Synthetic) -> list[str]:
    return [row["purpose"] for row in synthetic.certificate["entries"] if row["kind"] == "reserve"]


@pytest.mark.usefixtures("repeated_noise")
def test_few_records_are_as_correlated_as_private_ones_within_labels(tmp_path: Path) -> None:
    result = made(tmp_path)
    assert purposes(result) == ["label counts", "cosines of columns", "cross-tables", "correlations"]
    assert 1.99 < result.certificate["spent"]["epsilon"] <= 2.0
    assert verify(
        result.certificate, folder=tmp_path / "run" / "release", ledger=pe.Ledger(tmp_path / "ledger.sqlite3")
    )
    frame = result.to_pandas()
    for kind in ("no", "yes"):
        found = frame[frame["kind"] == kind][NAMES].corr(method="spearman").to_numpy()[np.triu_indices(8, 1)]
        assert found.mean() == pytest.approx(0.62, abs=0.15)
    again = made(tmp_path)
    assert again.to_pandas().equals(frame)
    assert again.certificate["spent"] == result.certificate["spent"]


@pytest.mark.usefixtures("repeated_noise")
def test_records_without_a_label_spend_on_columns_and_correlations_alone(tmp_path: Path) -> None:
    result = made(tmp_path, None)
    assert purposes(result) == ["label counts", "cosines of columns", "correlations"]
    assert 1.99 < result.certificate["spent"]["epsilon"] <= 2.0
    found = result.to_pandas()[NAMES].corr(method="spearman").to_numpy()[np.triu_indices(8, 1)]
    real = factor()[NAMES].corr(method="spearman").to_numpy()[np.triu_indices(8, 1)]
    assert found.mean() == pytest.approx(real.mean(), abs=0.15)


@pytest.mark.parametrize(
    "given", [{"adjacency": "replace-one"}, {"user": "who", "user_norm": 2.0}, {"rows": 1}, {"epsilon": 0.3}], ids=str
)
def test_correlations_are_paid_for_under_any_terms(tmp_path: Path, given: dict[str, Any]) -> None:
    result = made(tmp_path, **given)
    assert purposes(result)[-1] == "correlations"
    assert result.certificate["spent"]["epsilon"] <= given.get("epsilon", 2.0)
    assert result.certificate["spent"]["epsilon"] > 0.99 * given.get("epsilon", 2.0)
    assert verify(result.certificate)


@pytest.mark.parametrize("last", ["tables", "correlations"])
def test_a_run_that_died_pays_for_no_correlations_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    simulated: dict[str, Any] = {"simulate": 1, "create": False}
    whole = made(tmp_path / "whole", **simulated).to_pandas()
    store = Run.store_histogram

    def dying(run: Run, number: int, histogram: Any, name: str = "histogram") -> None:
        store(run, number, histogram, name)
        if name == last:
            raise KeyboardInterrupt

    for terms in ({}, simulated):
        folder = tmp_path / f"broken {len(terms)}"
        with monkeypatch.context() as patch:
            patch.setattr(Run, "store_histogram", dying)
            with pytest.raises(KeyboardInterrupt):
                made(folder, **terms)
        result = made(folder, **terms)
        if terms:
            assert result.to_pandas().equals(whole)
        else:
            assert purposes(result) == ["label counts", "cosines of columns", "cross-tables", "correlations"]
            assert result.certificate["spent"]["epsilon"] <= 2.0


@pytest.mark.parametrize("label", [None, "x0"])
def test_where_their_noise_could_not_be_drawn_pairs_are_asked_for(tmp_path: Path, label: str | None) -> None:
    names = [f"x{i}" for i in range(60)]
    data = pd.DataFrame(np.random.default_rng(0).random((90, 60)).round(), columns=names).astype(bool)
    result = pe.synthesize(
        data,
        schema=pe.Schema(tuple(pe.boolean(name) for name in names), label),
        epsilon=0.02,
        delta=1e-4,
        adjacency="add-remove",
        source="s",
        create=True,
        run=tmp_path / "run",
        ledger=tmp_path / "ledger.sqlite3",
        at_least=40_000,
        rows=20,
    )
    assert "correlations" not in purposes(result)
    assert purposes(result)[-1] == "cross-tables"
    assert len(result) == 20
