"""Kernel means over stored shards are those of memory: wherever records lie, whosever they are, whatever fails."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import pe.private.blocks
import pe.private.measure
from pe.data.arrays import to_numpy, to_table
from pe.data.schema import Categorical, Numeric, Schema
from pe.errors import PrivateDataError
from pe.privacy import Adjacency
from pe.private.dataset import PrivateDataset
from pe.private.embeddings import Embeddings, embeddings
from pe.private.measure import FourierMean, measure

X = Numeric("x", -99, 99, integer=True)
SCHEMA = Schema((X, Categorical("label", ("a", "b", "c"))), "label")
NAN, RAISES = 97, 98  # what the embedder does with records whose x is this
FREQUENCIES = np.random.default_rng(0).normal(0, 0.3, (2, 5))

Record = tuple[int, int, int]  # x, label, user


class Points:
    """Embeds x as (x, x**2 mod 17); where ``costly``, embeddings are stored."""

    name, dim, scale = "points", 2, 1.0

    def __init__(self, *, costly: bool, limit: int = 127) -> None:
        self.costly, self.limit = costly, limit

    def embed(self, table: pa.Table) -> NDArray[np.float32]:
        x = to_numpy(table, X)
        if (x == RAISES).any():
            raise ValueError("cannot embed")
        vectors = np.stack([x, x**2 % 17], axis=1).astype(np.float32)
        vectors[x == NAN] = np.nan
        return vectors


def data(records: list[Record]) -> PrivateDataset:
    x, label, user = np.array(records, np.int64).reshape(-1, 3).T
    return PrivateDataset(to_table({"x": x}, SCHEMA), label.astype(np.int32), SCHEMA, user)


def mean(private: PrivateDataset, norm: float | None, **embedder: int) -> list[int]:
    features = FourierMean(Points(**embedder), FREQUENCIES, labels=3)  # type: ignore[arg-type]
    votes = measure(private, features, adjacency=Adjacency.ADD_REMOVE, norm=norm)
    return [int(each) for each in votes._count()]


def by_hand(records: list[Record], norm: float | None, limit: int) -> NDArray[np.float64]:
    """The sum in floating point, by its definition; cosines, then sines, of each label."""
    total: dict[int, NDArray[np.float64]] = {}
    for x, label, user in records:
        if x in (NAN, RAISES):
            continue
        angles = np.clip([x, x**2 % 17], -limit, limit) @ FREQUENCIES
        vector = total.setdefault(user if norm is not None else 0, np.zeros((3, 10)))
        vector[label] += 32 * np.concatenate([np.cos(angles), np.sin(angles)])
    if norm is not None:
        total = {user: vector * min(1, norm / max(np.linalg.norm(vector), 1e-9)) for user, vector in total.items()}
    return sum(total.values(), np.zeros((3, 10))).reshape(-1)


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # these tests survive


@pytest.fixture(scope="module")
def cut() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


records = st.lists(
    st.tuples(st.integers(94, 99) | st.integers(-20, 20), st.integers(0, 2), st.integers(0, 3)), max_size=24
)
norms = st.sampled_from([None, 20.0, 150.0, 1e4])
limits = st.sampled_from([127, 1000, 10])


@given(records, norms, limits, st.integers(1, 26), st.integers(1, 60))
def test_a_kernel_mean_over_shards_is_that_of_memory(
    cut: pytest.MonkeyPatch, given_: list[Record], norm: float | None, limit: int, block: int, entries: int
) -> None:
    """However records are spread over shards, users over both, and shards over pieces of work."""
    expected = mean(data(given_), norm, costly=False, limit=limit)
    cut.setattr(pe.private.blocks, "BLOCK", block)
    cut.setattr(pe.private.measure, "ENTRIES", entries)
    try:
        assert mean(data(given_), norm, costly=True, limit=limit) == expected
        order = np.random.default_rng(len(given_)).permutation(len(given_))
        assert mean(data([given_[row] for row in order]), norm, costly=True, limit=limit) == expected
    finally:
        cut.undo()
    # half a step of a cosine, and of a scaled entry, per record
    assert np.abs(np.array(expected) - by_hand(given_, norm, limit)).max() <= 1.5 * len(given_) + 0.01


@given(records, norms, st.integers(1, 26), st.integers(0, 3))
def test_a_user_whose_records_lie_in_many_shards_moves_it_by_no_more_than_the_norm(
    cut: pytest.MonkeyPatch, given_: list[Record], norm: float | None, block: int, user: int
) -> None:
    cut.setattr(pe.private.blocks, "BLOCK", block)
    try:
        rest = [each for each in given_ if each[2] != user]
        pairs = zip(mean(data(given_), norm, costly=True), mean(data(rest), norm, costly=True), strict=True)
        moved = sum((after - before) ** 2 for before, after in pairs)
    finally:
        cut.undo()
    if norm is not None:
        assert moved <= norm**2


pieces = st.lists(st.integers(1, 5), min_size=1, max_size=6)


@given(pieces, st.data())
def test_records_are_found_by_position_in_any_order(sizes: list[int], draw: st.DataObject) -> None:
    n = sum(sizes)
    flat, finite = np.arange(2 * n, dtype=np.int16).reshape(n, 2), np.arange(n) % 3 > 0
    ends = np.cumsum(sizes)[:-1]
    found = Embeddings(list(zip(np.split(flat, ends), np.split(finite, ends), strict=True)), np.zeros(n, np.int32))
    index = np.array(draw.draw(st.lists(st.integers(0, n - 1), max_size=12)), np.int64)
    vectors, good = found.take(index)
    assert vectors.dtype == flat.dtype
    assert vectors.tolist() == flat[index].tolist()
    assert good.tolist() == finite[index].tolist()


@pytest.mark.parametrize("costly", [True, False])
def test_users_are_asked_for_where_they_are_needed_and_embeddings_show_nothing(costly: bool) -> None:
    private = PrivateDataset(to_table({"x": np.arange(9)}, SCHEMA), np.zeros(9, np.int32), SCHEMA)
    embedder = Points(costly=costly)
    assert "Embeddings object" in repr(embeddings(private, embedder))
    with pytest.raises(PrivateDataError, match="without a user column"):
        embeddings(private, embedder, users=True)


def test_equal_users_have_equal_numbers_whatever_shards_they_are_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pe.private.blocks, "BLOCK", 3)
    owners = [5, 2**40, 5, 7, 7, 2**40, 5, 1]
    private = data([(1, 0, owner) for owner in owners])
    found = embeddings(private, Points(costly=True), users=True).users
    assert len(found) == len(owners)
    same = {(one, other) for one in range(8) for other in range(8) if owners[one] == owners[other]}
    assert {(one, other) for one in range(8) for other in range(8) if found[one] == found[other]} == same
