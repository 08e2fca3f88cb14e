"""Blocks in which some tables are centred and others are not: what is charged covers what any record can move.

Unsigned vectors of squared norm B are at most 2 B apart. A centred axis of two groups makes two records 4 B apart; a
block is signed as soon as one of its tables is.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pe.data.schema import Categorical, Schema
from pe.privacy import Adjacency
from pe.private.dataset import PrivateDataset
from pe.private.measure import measure
from pe.tables.levels import grid
from pe.tables.measure import Counts, Table, Tables

COLUMNS = (Categorical("a", ("u", "v")), Categorical("b", ("x", "y", "z")))
SCHEMA = Schema(COLUMNS)
LEVELS = tuple(grid(column, 8) for column in COLUMNS)
MAPS = tuple(np.arange(level.size, dtype=np.int32) for level in LEVELS)
EVERY = list(product(range(2), range(3)))


def counts(tables: list[tuple[tuple[int, ...], int, tuple[int, ...]]], steps: int) -> Counts:
    made = tuple(
        Table(columns, tuple(MAPS[i] for i in columns), weight, centred) for columns, weight, centred in tables
    )
    return Counts(Tables(made), LEVELS, "tables", steps)


def moves(queries: Counts, adjacency: Adjacency) -> tuple[int, int]:
    """What is charged, and the largest squared move of the sums over all single records and pairs of them."""
    sums = []
    for a, b in EVERY:
        table = pa.table({"a": pa.array([COLUMNS[0].values[a]]), "b": pa.array([COLUMNS[1].values[b]])})
        private = PrivateDataset.read(table, SCHEMA, adjacency=adjacency)
        votes = measure(private, queries, adjacency=adjacency)
        sums.append(votes._count())
    others = [np.zeros_like(sums[0])] if adjacency is Adjacency.ADD_REMOVE else sums
    return int(votes.sensitivity_squared), max(int(((one - two) ** 2).sum()) for one in sums for two in others)


def test_a_contrast_beside_a_plain_table_is_charged_for_its_sign() -> None:
    queries = counts([((0,), 1, ()), ((0,), 4, (1,))], 1)
    assert queries.bound_squared == 33
    assert moves(queries, Adjacency.REPLACE_ONE) == (130, 130)  # 66 if the block passed for unsigned
    assert moves(queries, Adjacency.ADD_REMOVE) == (33, 33)


block = st.lists(
    st.tuples(
        st.sampled_from([(0,), (1,), (0, 1)]),
        st.integers(1, 4),
        st.sets(st.integers(1, 2), max_size=2),
    ),
    min_size=1,
    max_size=3,
)


@pytest.mark.parametrize("adjacency", list(Adjacency))
@given(block, st.sampled_from([1, 3]))
@settings(max_examples=25, deadline=None)
def test_no_record_moves_a_mixed_block_by_more_than_is_charged(
    adjacency: Adjacency, tables: list[tuple[tuple[int, ...], int, set[int]]], steps: int
) -> None:
    """Also on a grid of several steps per count."""
    chosen = [
        (columns, weight, tuple(sorted(axis for axis in centred if axis <= len(columns))))
        for columns, weight, centred in tables
    ]
    queries = counts(chosen, steps)
    charged, moved = moves(queries, adjacency)
    assert moved <= charged
    if len(chosen) == 1 or adjacency is Adjacency.ADD_REMOVE:
        assert moved == charged  # and by no less
    assert charged % steps**2 == 0
