"""Exact nearest neighbours: brute force in int64 is the reference, whatever the tiles, routes and ties."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import pe.kernels.floating
from pe.kernels.nearest import Route, Search, nearest

Rows = NDArray[np.int16]
LARGEST = 2**15 - 1


def brute_force(queries: Rows, candidates: Rows, k: int) -> NDArray[np.int64]:
    """All squared distances in int64, sorted stably: ties to the lower index."""
    difference = queries.astype(np.int64)[:, None, :] - candidates.astype(np.int64)[None, :, :]
    return np.argsort((difference**2).sum(axis=2), axis=1, kind="stable")[:, :k]


@st.composite
def problems(draw: st.DrawFn) -> tuple[Rows, Rows, int]:
    """Queries, candidates and k; small value ranges make most distances equal, large ones leave float32."""
    largest = draw(st.sampled_from([0, 1, 3, 127, 2000, LARGEST]))
    n, m, d = draw(st.integers(1, 30)), draw(st.integers(1, 40)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    candidates = rng.integers(-largest, largest, (m, d), np.int16, endpoint=True)
    if draw(st.booleans()):
        candidates = candidates[rng.integers(0, m, m)]  # duplicates
    queries = rng.integers(-largest, largest, (n, d), np.int16, endpoint=True)
    if draw(st.booleans()):
        queries = candidates[rng.integers(0, m, n)]
    return queries, candidates, draw(st.integers(1, m))


@given(problems())
def test_it_finds_what_brute_force_finds(problem: tuple[Rows, Rows, int]) -> None:
    queries, candidates, k = problem
    found = nearest(queries, candidates, k)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, brute_force(queries, candidates, k))


@given(problems(), st.sampled_from([1, 2, 5, 16]), st.sampled_from([1, 100, 4096]))
def test_tile_sizes_change_nothing(problem: tuple[Rows, Rows, int], widest: int, bytes_: int) -> None:
    queries, candidates, k = problem
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pe.kernels.floating, "WIDEST_TILE", widest)
        patch.setattr(pe.kernels.floating, "TILE_BYTES", bytes_)
        np.testing.assert_array_equal(nearest(queries, candidates, k), brute_force(queries, candidates, k))


def test_more_rows_than_a_tile_and_more_candidates_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pe.kernels.floating, "WIDEST_TILE", 50)
    monkeypatch.setattr(pe.kernels.floating, "TILE_BYTES", 50 * 4 * 32)
    rng = np.random.default_rng(0)
    queries, candidates = rng.integers(-2, 3, (333, 6), np.int16), rng.integers(-2, 3, (221, 6), np.int16)
    for k in (1, 3, 60, 221):
        np.testing.assert_array_equal(nearest(queries, candidates, k), brute_force(queries, candidates, k))


@given(problems())
def test_a_querys_answer_does_not_depend_on_the_other_queries(problem: tuple[Rows, Rows, int]) -> None:
    queries, candidates, k = problem
    together = nearest(queries, candidates, k)
    alone = np.concatenate([nearest(query[None], candidates, k) for query in queries])
    np.testing.assert_array_equal(together, alone)
    order = np.random.default_rng(0).permutation(len(queries))
    np.testing.assert_array_equal(nearest(queries[order], candidates, k), together[order])


@given(problems())
def test_a_longer_vector_elsewhere_changes_the_route_and_nothing_else(problem: tuple[Rows, Rows, int]) -> None:
    queries, candidates, k = problem
    long = np.full((1, queries.shape[1]), LARGEST, np.int16)
    stretched = np.concatenate([queries, long])
    search = Search(candidates, k)
    np.testing.assert_array_equal(search(stretched)[:-1], nearest(queries, candidates, k))
    assert search.route == "float64"


@pytest.mark.parametrize(("value", "d"), [(LARGEST, 768), (-LARGEST, 768), (127, 346), (128, 784)])
def test_extreme_values_stay_exact(value: int, d: int) -> None:
    """Distances that differ by one in 10**12; KERNELS.md: float32 is exact for int8 up to d = 346."""
    queries = np.full((3, d), value, np.int16)
    candidates = np.full((4, d), value, np.int16)
    step = -1 if value > 0 else 1
    candidates[0, 0] += 2 * step
    candidates[1, 0] += step
    candidates[2, 1] += step
    candidates[3, :2] += step
    np.testing.assert_array_equal(nearest(queries, candidates, 4), [[1, 2, 3, 0]] * 3)
    search = Search(candidates[:, :346])
    search(queries[:, :346])
    assert search.route == ("float32" if value == 127 else "float64")


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.uint8])
def test_any_integer_type_is_read_without_overflow(dtype: type) -> None:
    top = min(np.iinfo(dtype).max, 2**20)
    queries = np.array([[top, 0], [0, top]], dtype)
    np.testing.assert_array_equal(nearest(queries, queries[::-1].copy(), 2), [[1, 0], [0, 1]])


@pytest.mark.parametrize("k", [1, 4])
def test_it_agrees_with_faiss_where_distances_differ(k: int) -> None:
    rng = np.random.default_rng(1)
    queries = rng.integers(-127, 128, (2000, 64), np.int16)
    candidates = rng.integers(-127, 128, (300, 64), np.int16)
    index = faiss.IndexFlatL2(64)
    index.add(candidates.astype(np.float32))
    distances, theirs = index.search(queries.astype(np.float32), k + 1)
    clear = (np.diff(distances, axis=1) > 0).all(axis=1)
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(nearest(queries, candidates, k)[clear], theirs[clear, :k])


@pytest.mark.parametrize(("n", "m", "d"), [(1, 1, 8), (0, 1, 8), (3, 1, 0), (300, 1, 8)])
@pytest.mark.parametrize("dtype", [np.int8, np.int16])
def test_one_candidate_is_everybodys(n: int, m: int, d: int, dtype: type) -> None:
    assert nearest(np.ones((n, d), dtype), np.zeros((m, d), dtype)).tolist() == [[0]] * n


def test_an_error_does_not_tell_how_many_queries_there_are() -> None:
    for queries in (np.zeros((1234, 3), np.int16), np.zeros((1234, 2), np.float32)):
        with pytest.raises(ValueError, match="expected") as told:
            Search(np.zeros((2, 2), np.int16))(queries)
        assert "1234" not in str(told.value)


@pytest.mark.parametrize(("largest", "d"), [(1, 8), (3, 40), (127, 8), (127, 346), (60, 384)])
@pytest.mark.parametrize("n", [10, 3000])
def test_faiss_on_the_same_integers_finds_the_same_ids(largest: int, d: int, n: int) -> None:
    """An engine of others, ties included: its float32 is exact for rows so short."""
    rng = np.random.default_rng(2)
    queries, candidates = (rng.integers(-largest, largest + 1, (rows, d), np.int8) for rows in (n, 200))
    candidates[150:] = candidates[:50]
    index = faiss.IndexFlatL2(d)
    index.add(candidates.astype(np.float32))
    theirs = index.search(queries.astype(np.float32), 1)[1]
    for route in ("int8", "float32", "float64"):
        np.testing.assert_array_equal(Search(candidates, route=route)(queries), theirs)


def test_no_queries_have_no_neighbours() -> None:
    assert nearest(np.empty((0, 3), np.int16), np.zeros((5, 3), np.int16), 2).shape == (0, 2)


@pytest.mark.parametrize(
    ("queries", "candidates", "k"),
    [
        (np.zeros((2, 3), np.int16), np.zeros((2, 4), np.int16), 1),
        (np.zeros(3, np.int16), np.zeros((2, 3), np.int16), 1),
        (np.zeros((2, 3), np.int16), np.zeros((2, 3, 1), np.int16), 1),
        (np.zeros((2, 3), np.int16), np.zeros((2, 3), np.int16), 3),
        (np.zeros((2, 3), np.int16), np.zeros((2, 3), np.int16), 0),
        (np.zeros((2, 3), np.int16), np.zeros((0, 3), np.int16), 1),
        (np.full((1, 2), 2**30, np.int64), np.zeros((2, 2), np.int64), 1),
        (np.full((1, 2), -(2**63), np.int64), np.zeros((2, 2), np.int64), 1),
        (np.full((1, 2), 2**64 - 1, np.uint64), np.zeros((2, 2), np.uint64), 1),
        (np.full((1, 3), np.nan, np.float32), np.zeros((2, 3), np.int16), 1),
        (np.zeros((1, 3), np.int16), np.zeros((2, 3), np.float64), 1),
        (np.zeros((1, 3), np.bool_), np.zeros((2, 3), np.int16), 1),
    ],
    ids=[
        *["other width", "queries flat", "candidates deep", "k > m", "k = 0", "no candidates", "too long", "longest"],
        *["unsigned", "NaN", "floats", "truth values"],
    ],
)
def test_what_cannot_be_answered_exactly_is_refused(queries: Rows, candidates: Rows, k: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        nearest(queries, candidates, k)


@given(problems(), st.lists(st.integers(0, 30), max_size=4))
def test_a_search_answers_chunk_by_chunk(problem: tuple[Rows, Rows, int], cuts: list[int]) -> None:
    queries, candidates, k = problem
    search = Search(candidates, k)
    parts = [search(part) for part in np.split(queries, sorted(min(cut, len(queries)) for cut in cuts))]
    np.testing.assert_array_equal(np.concatenate(parts), brute_force(queries, candidates, k))


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("route", ["float32", "float64"])
@pytest.mark.parametrize("k", [1, 3])
def test_threads_and_the_absence_of_torch_change_nothing(
    threads: int, route: Route, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pe.kernels.floating, "TILE_BYTES", 2**12)
    rng = np.random.default_rng(0)
    queries, candidates = rng.integers(-9, 10, (700, 24), np.int8), rng.integers(-9, 10, (150, 24), np.int8)
    expected = brute_force(queries, candidates, k)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        np.testing.assert_array_equal(Search(candidates, k, route=route)(queries), expected)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(pe.kernels.floating, "spread", None)
    np.testing.assert_array_equal(Search(candidates, k, route=route)(queries), expected)


def test_torch_is_not_asked_where_it_was_told_to_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of bfloat16 would lose |s|**2."""
    rng = np.random.default_rng(0)
    queries, candidates = rng.integers(-99, 100, (64, 40), np.int8), rng.integers(-99, 100, (70, 40), np.int8)
    monkeypatch.setattr(pe.kernels.floating, "spread", None)
    for told in ("precision", "setting"):
        with monkeypatch.context() as patch:
            if told == "precision":
                patch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
            else:
                patch.setattr(torch.backends.mkldnn, "matmul", SimpleNamespace(fp32_precision="bf16"))
            np.testing.assert_array_equal(
                Search(candidates, 2, route="float32")(queries), brute_force(queries, candidates, 2)
            )
    with pytest.raises(TypeError):  # else it is
        Search(candidates, 2, route="float32")(queries)


def test_more_candidates_than_are_kept_as_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pe.kernels.floating, "WEIGHT_BYTES", 100 * 7 * 4)
    rng = np.random.default_rng(0)
    queries, candidates = rng.integers(-2, 3, (333, 6), np.int8), rng.integers(-2, 3, (421, 6), np.int8)
    for k in (1, 3, 200, 421):
        np.testing.assert_array_equal(nearest(queries, candidates, k), brute_force(queries, candidates, k))


@pytest.mark.parametrize(
    ("squared_norm", "expected"), [(2**24 // 3, "float32"), (2**24 // 3 + 1, "float64"), (2**40, "float64")]
)
@pytest.mark.parametrize("swap", [False, True])
def test_the_route_follows_the_longest_row(squared_norm: int, expected: str, swap: bool) -> None:
    # four squares add up to any number
    rest, root = squared_norm, []
    for _ in range(8):
        root.append(math.isqrt(rest))
        rest -= root[-1] ** 2
    assert rest == 0
    rows = [np.array([root], np.int32), np.ones((1, 8), np.int32)][:: -1 if swap else 1]
    search = Search(rows[1])
    assert search.route == ""
    search(rows[0])
    assert search.route == expected


@given(problems(), st.integers(1, 4), st.integers(0, 2**32))
def test_a_query_with_a_group_finds_what_it_would_among_those_alone(
    problem: tuple[Rows, Rows, int], labels: int, seed: int
) -> None:
    queries, candidates, k = problem
    rng = np.random.default_rng(seed)
    own, groups = rng.integers(0, labels, len(candidates)), rng.integers(-1, labels + 1, len(queries))
    found = Search(candidates, k, own)(queries, groups)
    for query, group, ids in zip(queries, groups, found, strict=True):
        inside = np.flatnonzero(own == group)
        expected = inside[brute_force(query[None], candidates[inside], k)[0]] if len(inside) else inside
        assert ids.tolist() == [*expected.tolist(), *[-1] * (k - len(expected))]


@pytest.mark.parametrize(
    ("own", "groups"),
    [(None, np.zeros(2, np.int64)), (np.zeros(3, np.int64), None), (np.zeros(3, np.int64), np.zeros(3))],
)
def test_groups_are_given_for_both_or_for_neither(own: Rows | None, groups: Rows | None) -> None:
    with pytest.raises(ValueError, match="expected a group for each query where candidates have groups"):
        Search(np.zeros((3, 2), np.int16), 1, own)(np.zeros((2, 2), np.int16), groups)
    with pytest.raises(ValueError, match="expected a group for each of 3 candidates"):
        Search(np.zeros((3, 2), np.int16), 1, np.zeros(2, np.int64))
