"""Marginals and Fourier means: what they sum, and that one unit moves them by no more than is charged."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pe.data.arrays import to_table
from pe.data.schema import Categorical, Image, Numeric, Schema
from pe.embedders.tabular import TabularEmbedder
from pe.errors import ConfigError
from pe.privacy import Account, Adjacency, release
from pe.privacy.ledger import charges
from pe.private import measure as module
from pe.private.dataset import PrivateDataset
from pe.private.measure import Features, FourierMean, Marginals, Records, measure

SCHEMA = Schema(
    (
        Numeric("age", 0, 100),
        Categorical("town", ("a", "b", "c")),
        Numeric("constant", 3, 3),
        Categorical("sex", ("f", "m")),
    ),
    "sex",
)
EMBEDDER = TabularEmbedder(SCHEMA)
FREQUENCIES = np.random.default_rng(0).normal(0, 3, (EMBEDDER.dim, 20))
SETS = (("age",), ("town",), ("age", "sex"), ("sex", "town", "constant"))

records = st.lists(
    st.tuples(st.floats(0, 100), st.integers(0, 2), st.integers(0, 1), st.integers(0, 3)), min_size=1, max_size=20
)
Record = tuple[float, int, int, int]


def private(rows: list[Record]) -> PrivateDataset:
    age, town, sex, user = (np.array(column) for column in zip(*rows, strict=True)) if rows else [np.empty(0)] * 4
    arrays = {"age": age.astype(float), "town": town.astype(np.int32), "constant": np.full(len(rows), 3.0)}
    return PrivateDataset(to_table(arrays, SCHEMA), sex.astype(np.int32), SCHEMA, user.astype(np.int64))


def features(kind: str) -> Features:
    return Marginals(SCHEMA, SETS, cells=5) if kind == "marginals" else FourierMean(EMBEDDER, FREQUENCIES, labels=2)


def sums(rows: list[Record], kind: str, **how: Any) -> tuple[NDArray[np.int64], Fraction]:
    used: Features = features(kind)
    if kind == "marginals" and how.get("norm"):
        used = Marginals(SCHEMA, SETS, cells=5, grid=64)
    votes = measure(private(rows), used, **({"adjacency": Adjacency.ADD_REMOVE} | how))
    return votes._count(), votes.sensitivity_squared


@given(records)
def test_marginals_are_those_of_the_records(rows: list[Record]) -> None:
    counts, bound = sums(rows, "marginals")
    ages, towns, both, three = Marginals(SCHEMA, SETS, cells=5).tables(counts.astype(float))
    cell = [min(int(age // 20), 4) for age, *_ in rows]
    assert ages.tolist() == [cell.count(each) for each in range(5)]
    assert towns.tolist() == [sum(town == each for _, town, *_ in rows) for each in range(3)]
    assert all(both[c, sex] > 0 for c, (_, _, sex, _) in zip(cell, rows, strict=True))
    assert both.sum() == three.sum() == len(rows)
    assert (three.shape, three[:, :, 1:].sum()) == ((2, 3, 5), 0)
    assert bound == 4


@given(records)
def test_the_fourier_sum_is_that_of_the_features(rows: list[Record]) -> None:
    mean = FourierMean(EMBEDDER, FREQUENCIES, labels=2)
    counts, bound = sums(rows, "fourier")
    sex = np.array([each[2] for each in rows])
    vectors = EMBEDDER.embed(private(rows)._records).astype(np.float64)
    angles = vectors @ FREQUENCIES
    exact = np.concatenate([np.cos(angles), np.sin(angles)], axis=1) / math.sqrt(20)
    assert np.allclose(np.linalg.norm(exact, axis=1), 1)
    sizes = np.maximum(np.bincount(sex, minlength=2), 1)
    wanted = np.stack([exact[sex == label].sum(axis=0) for label in range(2)]) / sizes[:, None]
    found = mean.means(counts.astype(float), sizes.tolist())
    assert np.abs(found - wanted).max() < 0.006  # half a step of 32, over sqrt 20, and the rounding of the embedding
    assert 20 * 32**2 <= bound <= 20 * 33**2


kinds = st.sampled_from(["marginals", "fourier"])
adjacencies = st.sampled_from(Adjacency)


@given(records, records, kinds, adjacencies)
def test_a_record_moves_the_sums_by_at_most_the_sensitivity(
    rows: list[Record], others: list[Record], kind: str, adjacency: Adjacency
) -> None:
    before, bound = sums(rows, kind, adjacency=adjacency)
    replaced = rows[1:] if adjacency == Adjacency.ADD_REMOVE else [others[0], *rows[1:]]
    after, _ = sums(replaced, kind, adjacency=adjacency)
    assert ((after - before) ** 2).sum() <= bound


@given(records, records, kinds, adjacencies, st.sampled_from([0.5, 1.0, 3.0, 300.0]))
def test_a_user_moves_the_sums_by_at_most_the_sensitivity(
    rows: list[Record], others: list[Record], kind: str, adjacency: Adjacency, norm: float
) -> None:
    norm = norm if kind == "marginals" else norm * 100
    before, bound = sums(rows, kind, adjacency=adjacency, norm=norm)
    rest = [row for row in rows if row[3] != 0]
    if adjacency == Adjacency.REPLACE_ONE:
        rest += [(*other[:3], 0) for other in others]
    after, _ = sums(rest, kind, adjacency=adjacency, norm=norm)
    assert ((after - before) ** 2).sum() <= bound


@pytest.mark.parametrize("kind", ["marginals", "fourier"])
@pytest.mark.parametrize("norm", [None, 40.0])
def test_the_size_of_a_chunk_changes_nothing(kind: str, norm: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    rows = [
        (float(rng.uniform(0, 100)), int(rng.integers(3)), int(rng.integers(2)), int(rng.integers(9)))
        for _ in range(300)
    ]
    whole, _ = sums(rows, kind, norm=norm)
    monkeypatch.setattr(module, "CHUNK", 7)
    monkeypatch.setattr(module, "ENTRIES", 7 * 40)
    parts, _ = sums(rows, kind, norm=norm)
    assert whole.tolist() == parts.tolist()


def test_replacing_a_record_moves_a_fourier_mean_by_up_to_twice_its_norm() -> None:
    mean = FourierMean(EMBEDDER, FREQUENCIES)
    votes = measure(private([(1.0, 0, 0, 0)]), mean, adjacency=Adjacency.REPLACE_ONE)
    assert votes.sensitivity_squared == 4 * mean.bound_squared


@pytest.mark.parametrize("norm", [None, 3.0])
def test_records_are_counted_by_label(norm: float | None) -> None:
    rows = [(1.0, 0, 0, 0)] * 5 + [(2.0, 1, 1, 1)] * 2
    votes = measure(private(rows), Records(2, 4), adjacency=Adjacency.ADD_REMOVE, norm=norm)
    assert votes._count().tolist() == ([20, 8] if norm is None else [12, 8])
    assert votes.sensitivity_squared == (16 if norm is None else 144)


def test_a_record_that_cannot_be_embedded_adds_nothing() -> None:
    vectors = np.array([[0.1] * EMBEDDER.dim, [np.nan] * EMBEDDER.dim], np.float32)
    entries = FourierMean(EMBEDDER, FREQUENCIES).entries(vectors)
    assert entries[0].any()
    assert not entries[1].any()


def test_no_records_sum_to_zeros() -> None:
    for kind in ("marginals", "fourier"):
        assert not sums([], kind)[0].any()


def test_measurements_are_released_and_charged_like_votes(account: Account) -> None:
    mean = FourierMean(EMBEDDER, FREQUENCIES, labels=2)
    votes = measure(private([(50.0, 1, 1, 0)] * 1000), mean, adjacency=Adjacency.ADD_REMOVE)
    sigma = Fraction(8 * 32 * 5)
    histogram = release(votes, sigma, account=account, iteration=0)
    entry = charges(account.ledger.chain("source"))[-1].body
    assert (entry["purpose"], entry["bins"], entry["sensitivity_squared"]) == (
        "Fourier mean",
        80,
        str(mean.bound_squared),
    )
    means = mean.means(histogram.votes, [1, 1000])
    assert np.linalg.norm(means[1]) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("frequencies", [np.zeros((1, 3)), np.zeros(4), np.full((4, 2), np.nan), np.full((4, 2), 1e12)])
def test_unusable_frequencies_are_refused(frequencies: NDArray[np.float64]) -> None:
    with pytest.raises(ConfigError, match="Nothing was spent"):
        FourierMean(EMBEDDER, frequencies)


def test_unusable_marginals_are_refused() -> None:
    with pytest.raises(ConfigError, match="Nothing was spent"):
        Marginals(SCHEMA, ())
    with pytest.raises(ConfigError, match="no cells"):
        Marginals(Schema((Image("picture", 2, 2),)), (("picture",),))


def test_missing_values_and_log_scales_have_cells_of_their_own() -> None:
    schema = Schema(
        (
            Numeric("ratio", 1, 10_000, log=True, missing=True),
            Numeric("gap", 0, 4, missing=True),
            Categorical("town", ("a", "b"), missing=True),
        )
    )
    ratio = [1, 9, 11, 99, 101, 9999, 10_000, np.nan]
    arrays = {
        "ratio": np.array(ratio),
        "gap": np.array([0, 1, 2, 3, 4, np.nan, np.nan, np.nan]),
        "town": np.array([0, 0, 1, 1, 1, 2, 2, 2], np.int32),
    }
    records_ = PrivateDataset(to_table(arrays, schema), np.zeros(8, np.int32), schema)
    marginals = Marginals(schema, (("ratio",), ("gap",), ("town",), ("gap", "town")), cells=4)
    counts = measure(records_, marginals, adjacency=Adjacency.ADD_REMOVE)._count()
    ratios, gaps, towns, both = marginals.tables(counts.astype(float))
    assert ratios.tolist() == [2, 2, 1, 2, 1]
    assert gaps.tolist() == [1, 1, 1, 2, 3]
    assert towns.tolist() == [2, 3, 3]
    assert (both.shape, both[4, 2]) == ((5, 3), 3)
