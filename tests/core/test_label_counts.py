"""How many records each label has, from noisy counts: totals without bias, shares no worse than the counts' own."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import pe
from pe.evolution.label_counts import (
    MANY_LABELS,
    estimate_label_counts,
    label_query,
    label_shares_from,
    project_onto_simplex,
    shrink_to_mean,
)
from pe.privacy import Adjacency
from pe.privacy.release import Histogram
from pe.private.dataset import PrivateDataset
from pe.private.measure import Records, measure

SIGMA = 21.0
"""Noise of a label's count at epsilon 1, in records, were the labels counted alone."""


def released(counts: NDArray[np.int64], rng: np.random.Generator) -> Histogram:
    """What a release of the query for so many labels says, at one price whatever the query."""
    query = label_query(len(counts))
    sigma = SIGMA * query.bound_squared**0.5 / query.grid
    total = [counts.sum() * query.total_steps] if query.with_total else []
    exact = np.concatenate([counts * query.grid, total])
    noisy = np.rint(exact + rng.normal(0, sigma * query.grid, len(exact))).astype(np.int64)
    return Histogram(noisy, Fraction(sigma), "", query.grid)


@pytest.mark.parametrize("skewed", [False, True])
@pytest.mark.parametrize("labels", [2, 10, 26, 180, 400, 1000])
def test_the_number_of_all_records_is_estimated_without_bias(labels: int, skewed: bool) -> None:
    rng = np.random.default_rng(labels)
    weights = 1 / np.arange(1, labels + 1) if skewed else np.ones(labels)
    counts = rng.multinomial(1200, weights / weights.sum())
    totals = np.array([estimate_label_counts(released(counts, rng), labels).sum() for _ in range(60)])
    assert np.abs(totals - 1200).max() < 400
    assert abs(totals.mean() - 1200) < 4.5 * totals.std() / np.sqrt(60)


@pytest.mark.parametrize("labels", [4, 10, 26, 180, 400])
def test_labels_that_differ_by_noise_alone_get_nearly_equal_shares(labels: int) -> None:
    rng = np.random.default_rng(labels)
    counts = np.full(labels, 3000 // labels)
    errors, plain = [], []
    for _ in range(40):
        shares = label_shares_from(released(counts, rng), labels)
        errors.append(np.abs(shares - 1 / labels).sum())
        clipped = np.maximum(counts + rng.normal(0, SIGMA, labels), 0)
        plain.append(np.abs(clipped / clipped.sum() - 1 / labels).sum())
    assert np.mean(errors) < 0.8 * np.mean(plain)


@given(st.lists(st.integers(-100, 100), min_size=1, max_size=40), st.integers(1, 50))
def test_estimates_are_counts(values: list[int], sigma: int) -> None:
    found = estimate_label_counts(Histogram(np.array(values, np.int64), Fraction(sigma), ""), len(values))
    assert (found >= 0).all()
    assert found.sum() == pytest.approx(max(sum(values), sigma * len(values) ** 0.5))
    assert label_shares_from(Histogram(np.array(values, np.int64), Fraction(sigma), ""), len(values)).sum() == (
        pytest.approx(1)
    )


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=3))
def test_a_few_positive_counts_stay_as_they_are(values: list[int]) -> None:
    found = estimate_label_counts(Histogram(np.array(values, np.int64), Fraction(1, 100), ""), len(values))
    assert found.tolist() == values


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20), st.floats(0.5, 1e4), st.randoms(use_true_random=False))
def test_the_projection_is_the_nearest_point_of_the_simplex(values: list[float], total: float, random: object) -> None:
    point = np.array(values)
    found = project_onto_simplex(point, total)
    assert (found >= 0).all()
    assert found.sum() == pytest.approx(total)
    rng = np.random.default_rng(len(values))
    for _ in range(20):
        other = rng.dirichlet(np.ones(len(values))) * total
        assert np.linalg.norm(point - found) <= np.linalg.norm(point - other) + 1e-6


def test_shrinking_is_that_of_james_and_stein() -> None:
    shrunk = shrink_to_mean(np.array([0.0, 0.0, 0.0, 40.0]), 10.0)  # spread 1200, noise 100
    assert shrunk.tolist() == pytest.approx([10 / 12, 10 / 12, 10 / 12, 37.5])
    assert shrink_to_mean(np.array([1.0, 2.0, 3.0, 4.0]), 10.0).tolist() == [2.5] * 4
    assert shrink_to_mean(np.array([1.0, 2.0, 3.0]), 10.0).tolist() == [1, 2, 3]


@pytest.mark.parametrize(("norm", "expected"), [(None, [20, 8, 14]), (1.0, [4, 4, 4])])
def test_all_records_are_counted_beside_the_labels(norm: float | None, expected: list[int]) -> None:
    """Five records of one user, two of another; a user of norm 1 counts like one record."""
    schema = pe.Schema((pe.Numeric("x", 0, 1), pe.Categorical("y", ("a", "b"))), "y")
    frame = {"x": [0.5] * 7, "y": ["a"] * 5 + ["b"] * 2, "who": [1] * 5 + [2] * 2}
    private = PrivateDataset.read(frame, schema, adjacency=Adjacency.ADD_REMOVE, user=norm and "who")
    query = Records(2, 4, with_total=True)
    scaled = norm and norm * query.bound_squared**0.5 / query.grid
    votes = measure(private, query, adjacency=Adjacency.ADD_REMOVE, norm=scaled)
    assert votes._count().tolist() == expected
    assert votes.sensitivity_squared == 4**2 + 2**2
    assert votes.bins == 3


def test_only_many_labels_are_counted_with_a_total() -> None:
    few, many = label_query(MANY_LABELS - 1, 16), label_query(MANY_LABELS, 16)
    assert (few.bins, few.grid, few.bound_squared) == (MANY_LABELS - 1, 16, 256)
    assert (many.bins, many.grid, many.bound_squared) == (MANY_LABELS + 1, 32, 32**2 + 16**2)


@pytest.mark.usefixtures("repeated_noise")
@pytest.mark.parametrize("labels", [180, 400, 1000])
def test_as_many_records_are_released_as_there_are(tmp_path: Path, labels: int) -> None:
    """The promise of a release whose rows are not set, also after the run was closed and finished again."""
    values = tuple(f"town {number}" for number in range(labels))
    schema = pe.Schema((pe.Numeric("x", 0, 1), pe.Categorical("town", values)), "town")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.random(1200), "town": rng.choice(values, 1200)})

    def run() -> pe.Synthetic:
        return pe.synthesize(
            frame,
            schema=schema,
            epsilon=1.0,
            delta=1e-6,
            adjacency="add-remove",
            source="towns",
            run=tmp_path / "run",
            ledger=tmp_path / "ledger.sqlite3",
            create=True,
        )

    first = run()
    assert 800 < len(first) < 1600
    assert run().to_arrow().equals(first.to_arrow())
