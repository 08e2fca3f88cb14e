"""Counting ids into bins."""

from __future__ import annotations

import math
from collections import Counter
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pe.kernels.count import bounded, bounded_sum, count


@given(st.lists(st.lists(st.integers(0, 6), min_size=3, max_size=3)), st.integers(7, 10))
def test_counts_are_those_of_a_counter_over_ids_of_any_shape(ids: list[list[int]], bins: int) -> None:
    expected = Counter(each for row in ids for each in row)
    found = count(np.array(ids, np.int64).reshape(-1, 3), bins)
    assert found.dtype == np.int64
    assert found.tolist() == [expected[b] for b in range(bins)]


@pytest.mark.parametrize("ids", [[-1], [0, 3], [3]])
def test_an_id_outside_the_bins_is_refused_without_quoting_it(ids: list[int]) -> None:
    with pytest.raises(ValueError, match=r"^expected ids in \[0, bins\)$"):
        count(np.array(ids), 3)


def test_no_ids_count_to_zeros() -> None:
    assert count(np.empty(0, np.int64), 4).tolist() == [0, 0, 0, 0]


entries = st.lists(st.tuples(st.integers(-2, 2), st.integers(0, 3), st.integers(-50, 50)), max_size=30)


def columns(rows: list[tuple[int, int, int]]) -> list[np.ndarray]:
    return list(np.array(rows, np.int64).reshape(-1, 3).T)


def scaled(rows: list[tuple[int, int, int]], size: int, bound_squared: int) -> dict[int, list[int]]:
    """Each group's vector, scaled to the bound and rounded towards zero, in exact arithmetic."""
    vectors: dict[int, list[int]] = {}
    for group, bin_, value in rows:
        vectors.setdefault(group, [0] * size)[bin_] += value
    for group, vector in vectors.items():
        square = sum(each * each for each in vector)
        if square > bound_squared:
            sized = [math.isqrt(each * each * bound_squared // square) for each in vector]
            vectors[group] = [int(math.copysign(new, old)) for new, old in zip(sized, vector, strict=True)]
    return vectors


@given(entries, st.integers(1, 20000))
def test_bounded_sums_are_those_of_exact_arithmetic(rows: list[tuple[int, int, int]], bound_squared: int) -> None:
    found = bounded_sum(*columns(rows), 4, bound_squared)
    assert found.dtype == np.int64
    vectors = scaled(rows, 4, bound_squared)
    assert found.tolist() == [sum(vector[b] for vector in vectors.values()) for b in range(4)]


@given(entries, st.integers(1, 500), st.randoms(use_true_random=False))
def test_no_group_adds_more_than_the_bound_whatever_the_others_and_the_order(
    rows: list[tuple[int, int, int]], bound_squared: int, random: Random
) -> None:
    whole = bounded_sum(*columns(rows), 4, bound_squared)
    parts = np.zeros(4, np.int64)
    for group in {group for group, _, _ in rows}:
        alone = bounded_sum(*columns([row for row in rows if row[0] == group]), 4, bound_squared)
        assert (alone**2).sum() <= bound_squared
        parts += alone
    random.shuffle(rows)
    assert whole.tolist() == parts.tolist() == bounded_sum(*columns(rows), 4, bound_squared).tolist()


@pytest.mark.parametrize("value", [2**31, 2**60, -(2**60)])
@pytest.mark.parametrize("bound", [1, 1000, 2**26])
def test_extreme_values_do_not_overflow(value: int, bound: int) -> None:
    rows = [(0, bin_, value) for bin_ in range(4)]
    found = bounded_sum(*columns(rows), 4, bound**2)
    assert (np.abs(found) <= bound / 2).all()
    assert (np.sign(found) == (np.sign(value) if bound > 1 else 0)).all()


@pytest.mark.parametrize("bin_", [-1, 4])
def test_a_bin_outside_is_refused_without_quoting_it(bin_: int) -> None:
    with pytest.raises(ValueError, match=r"^expected bins in \[0, size\)$"):
        bounded_sum(*columns([(0, bin_, 1)]), 4, 1)


def test_nothing_sums_to_zeros() -> None:
    assert bounded_sum(*columns([]), 4, 1).tolist() == [0, 0, 0, 0]


rows = st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(-50, 50), min_size=3, max_size=3)), max_size=12)


@given(rows, st.integers(1, 5000))
def test_dense_rows_are_bounded_as_their_entries_would_be(given_rows: list[tuple[int, list[int]]], bound: int) -> None:
    """A group of several rows is one vector: row r of a group stands in bins of its own."""
    ordered = sorted(given_rows, key=lambda row: row[0])
    groups = np.array([group for group, _ in ordered], np.int64)
    values = np.array([row for _, row in ordered], np.int64).reshape(-1, 3)
    if not ordered:
        return
    found = bounded(groups, values, bound)
    places = np.arange(values.size)
    entries = bounded_sum(np.repeat(groups, 3), places, values.reshape(-1), values.size, bound)
    assert found.reshape(-1).tolist() == entries.tolist()
    assert all((found[groups == group] ** 2).sum() <= bound for group in set(groups.tolist()))


@pytest.mark.parametrize("root", [2**20, 2**24, 2**30 - 1])
@pytest.mark.parametrize("over", [1, 7])
def test_a_vector_that_rounding_carries_past_a_large_bound_is_taken_back(root: int, over: int) -> None:
    """From 2**39 on the factor that guards whole results reaches the next one: the last check is in integers."""
    bound = root**2 - over
    found = bounded(np.zeros(1, np.int64), np.array([[3 * root // 2]]), bound)
    assert int(found[0, 0]) == root - 1
    total = bounded_sum(*columns([(0, 0, 3 * root // 2)]), 1, bound)
    assert total.tolist() == [root - 1]
