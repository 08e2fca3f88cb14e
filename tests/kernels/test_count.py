"""Counting ids into bins."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pe.kernels.count import count


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
