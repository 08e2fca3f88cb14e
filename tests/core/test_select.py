"""Selection and apportioning: public arithmetic on a released histogram."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pe.errors import ConfigError
from pe.evolution.select import apportion, distinct, select

LABELS = np.array([0, 1, 0, 1, 0], np.int32)
OWN = {0: [0, 2, 4], 1: [1, 3]}


def chosen(counts: list[int], sizes: list[int], how: str, threshold: float = 0.0, seed: int = 0) -> NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    return select(LABELS, np.array(counts, np.int64), np.array(sizes), how, threshold, rng)  # type: ignore[arg-type]


@given(st.lists(st.integers(-50, 50), min_size=5, max_size=5), st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_every_label_gets_its_size_from_its_own_candidates(counts: list[int], sizes: tuple[int, int]) -> None:
    for how in ("sample", "rank"):
        index = chosen(counts, list(sizes), how)
        assert LABELS[index].tolist() == [0] * sizes[0] + [1] * sizes[1]


@given(st.lists(st.integers(-50, 50), min_size=5, max_size=5), st.floats(0, 60))
def test_only_candidates_above_the_threshold_are_sampled_if_there_are_any(counts: list[int], threshold: float) -> None:
    index = chosen(counts, [40, 40], "sample", threshold)
    for label in (0, 1):
        above = {i for i in range(5) if LABELS[i] == label and counts[i] > threshold}
        mine = set(index[LABELS[index] == label].tolist())
        assert mine <= above if above else mine == set(OWN[label])


def test_sampling_is_proportional_to_the_count_above_the_threshold() -> None:
    """Lin et al. 2024, algorithm 1: p ~ max(h - H, 0); here 30 : 10 : 0, so a binomial at 6 standard deviations."""
    index = chosen([34, 0, 14, 0, 3], [8000, 0], "sample", threshold=4)
    assert abs((index == 0).sum() - 6000) < 6 * np.sqrt(8000 * 0.75 * 0.25)
    assert set(index.tolist()) == {0, 2}


@given(st.lists(st.integers(-5, 5), min_size=5, max_size=5), st.integers(1, 3), st.integers(1, 2))
def test_rank_takes_the_highest_counts_ties_to_the_lower_index(counts: list[int], first: int, second: int) -> None:
    best = [sorted(OWN[label], key=lambda i: (-counts[i], i)) for label in (0, 1)]
    assert chosen(counts, [first, second], "rank").tolist() == best[0][:first] + best[1][:second]


def test_rank_starts_over_where_a_label_has_too_few() -> None:
    assert chosen([1, 5, 3, 9, 2], [0, 5], "rank").tolist() == [3, 1, 3, 1, 3]


def test_a_label_without_candidates_or_size_is_passed_over() -> None:
    index = select(LABELS, np.ones(5, np.int64), np.array([0, 0, 4]), "rank", 0.0, np.random.default_rng(0))
    assert (index.dtype, len(index)) == (np.int64, 0)


def test_the_same_generator_selects_the_same() -> None:
    assert (
        chosen([1, 2, 3, 4, 5], [9, 9], "sample", seed=5).tolist()
        == chosen([1, 2, 3, 4, 5], [9, 9], "sample", seed=5).tolist()
    )


def test_an_unknown_selection_is_refused() -> None:
    with pytest.raises(ConfigError, match="'sample' or 'rank'"):
        chosen([1, 2, 3, 4, 5], [1, 1], "best")


weights = st.lists(st.floats(0, 1e6), min_size=1, max_size=8).filter(lambda shares: sum(shares) > 1e-3)


@given(st.integers(0, 10_000), weights)
def test_apportioning_adds_up_and_is_off_by_less_than_one(total: int, shares: list[float]) -> None:
    sizes = apportion(total, np.array(shares))
    exact = total * np.array(shares) / sum(shares)
    assert sizes.sum() == total
    assert (np.abs(sizes - exact) < 1 + 1e-9).all()
    assert (sizes >= 0).all()


def test_apportioning_gives_the_rest_to_the_largest_remainders_then_the_first() -> None:
    assert apportion(10, np.array([0.55, 0.25, 0.2])).tolist() == [6, 2, 2]
    assert apportion(10, np.ones(4)).tolist() == [3, 3, 2, 2]


# -- near-duplicates -------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.integers(0, 40), st.booleans(), st.floats(0.3, 0.999))
def test_of_near_duplicates_only_the_best_is_left(seed: int, m: int, size: int, voted: bool, similar: float) -> None:
    """Against the definition, one candidate after another."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(m, 3)).astype(np.float32)
    labels, votes = rng.integers(2, size=m).astype(np.int32), rng.integers(-9, 9, m).astype(np.float64)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected: list[int] = []
    for label in (0, 1):
        order = sorted(np.flatnonzero(labels == label), key=lambda i: (-votes[i] if voted else 0, i))
        kept: list[int] = []
        gone: list[int] = []
        for i in order:
            (gone if any(units[i] @ units[j] > similar for j in kept) else kept).append(i)
        expected += kept + gone[: max(size - len(kept), 0)]
    found = distinct(vectors, labels, np.array([size, size]), votes if voted else None, similar)
    assert found.tolist() == sorted(expected)


def test_copies_beyond_a_block_are_found_and_zeros_are_nobodys_copies() -> None:
    vectors = np.eye(4, dtype=np.float32)[np.arange(1000) % 4]
    vectors[::4] = 0
    labels = np.zeros(1000, np.int32)
    left = distinct(vectors, labels, np.array([3]), None, 0.9)
    assert left[~(left % 4 == 0)].tolist() == [1, 2, 3]
    assert len(left) == 253
