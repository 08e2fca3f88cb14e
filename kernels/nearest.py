"""Exact nearest neighbours of integer vectors by L2 distance, ties to the lowest index.

The squared distance |p - s|**2 is smallest where the score 2 p.s - |s|**2 is largest. On integers the score is computed
exactly by whichever route's arithmetic holds every partial sum, so that routes, tile sizes, thread counts and the
presence of other rows cannot change a result:

    float32  3 max|q|**2 < 2**24   one matrix product
    float64  3 max|q|**2 < 2**53   one matrix product, half the speed

``max|q|`` runs over the rows at hand: checked, not assumed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

TILE_BYTES = 2**22
"""Scores held at a time; the whole (n, m) matrix never exists."""

WIDEST_TILE = 2**14
"""Candidates searched at a time."""

_FEW = 8  # up to so many neighbours, one vectorised pass each beats a partition


def route(queries: NDArray[np.integer[Any]], candidates: NDArray[np.integer[Any]]) -> str:
    """The fastest exact route for these rows; raises ValueError when none is."""
    largest = 3 * max(_largest_squared_norm(queries), _largest_squared_norm(candidates))
    if largest < 2**24:
        return "float32"
    if largest < 2**53:
        return "float64"
    raise ValueError(f"vectors too long for an exact vote: expected 3 |q|**2 < 2**53, got {largest}")


def nearest(queries: NDArray[np.integer[Any]], candidates: NDArray[np.integer[Any]], k: int = 1) -> NDArray[np.int64]:
    """Return the indices of the ``k`` nearest candidates of each query, int64 (n, k), nearest first.

    queries (n, d) and candidates (m, d) hold integers of one type; m >= k. Equal distances go to the lower index.
    """
    n, m = len(queries), len(candidates)
    if queries.ndim != 2 or candidates.ndim != 2 or queries.shape[1] != candidates.shape[1]:
        raise ValueError(f"expected (n, d) and (m, d) arrays, got {queries.shape} and {candidates.shape}")
    if not 1 <= k <= m:
        raise ValueError(f"expected 1 <= k <= {m} candidates, got k = {k}")
    if n == 0:
        return np.empty((0, k), np.int64)
    dtype = np.dtype(route(queries, candidates))
    search = _Search(candidates.astype(dtype), k)
    rows = max(16, TILE_BYTES // (dtype.itemsize * min(m, WIDEST_TILE)))
    result = np.empty((n, k), np.int64)
    extended = np.ones((min(rows, n), queries.shape[1] + 1), dtype)
    for start in range(0, n, rows):
        stop = min(start + rows, n)
        tile = extended[: stop - start]
        tile[:, :-1] = queries[start:stop]
        result[start:stop] = search(tile)
    return result


class _Search:
    """Scores of one tile of queries against all candidates, reduced to the best k."""

    def __init__(self, candidates: NDArray[Any], k: int) -> None:
        norms = np.einsum("ij,ij->i", candidates, candidates)
        # [2 s, -|s|**2] against [p, 1]: the product is the score
        self.weights = np.concatenate([2 * candidates, -norms[:, None]], axis=1)
        self.k = k
        self.buffer = np.empty(0, candidates.dtype)

    def __call__(self, tile: NDArray[Any]) -> NDArray[np.int64]:
        n, m = len(tile), len(self.weights)
        best_score = np.empty((n, 0), tile.dtype)
        best_index = np.empty((n, 0), np.int64)
        for start in range(0, m, WIDEST_TILE):
            weights = self.weights[start : start + WIDEST_TILE]
            scores = np.matmul(tile, weights.T, out=self._room(n, len(weights)))
            index = scores.argmax(axis=1)[:, None] if self.k == 1 else _top(scores, self.k)
            best_score = np.concatenate([best_score, np.take_along_axis(scores, index, axis=1)], axis=1)
            best_index = np.concatenate([best_index, index + start], axis=1)
        if m <= WIDEST_TILE:
            return best_index
        # Parts are in index order and each is sorted by (score, index), so a stable sort keeps the lower index first.
        order = np.argsort(-best_score, axis=1, kind="stable")[:, : self.k]
        return np.take_along_axis(best_index, order, axis=1)

    def _room(self, n: int, m: int) -> NDArray[Any]:
        if self.buffer.size < n * m:
            self.buffer = np.empty(n * m, self.weights.dtype)
        return self.buffer[: n * m].reshape(n, m)


def _top(scores: NDArray[Any], k: int) -> NDArray[np.int64]:
    """Indices of the k largest scores of each row, largest first, ties to the lower index; at most all of them.

    Leaves the scores as they were.
    """
    n, m = scores.shape
    k = min(k, m)
    if k <= _FEW:  # one pass per neighbour, each vectorised
        index, rows = np.empty((n, k), np.int64), np.arange(n)
        best = np.empty((n, k), scores.dtype)
        for rank in range(k):
            index[:, rank] = scores.argmax(axis=1)
            best[:, rank] = scores[rows, index[:, rank]]
            scores[rows, index[:, rank]] = -np.inf
        np.put_along_axis(scores, index, best, axis=1)
        return index
    if k == m:
        return np.argsort(-scores, axis=1, kind="stable")
    # Every score above the k-th largest is in; ties at the k-th go to the lowest indices.
    bound = np.partition(scores, m - k, axis=1)[:, m - k, None]
    inside = scores > bound
    room = k - inside.sum(axis=1, keepdims=True)
    tied = scores == bound
    inside |= tied & (np.cumsum(tied, axis=1) <= room)
    index = np.nonzero(inside)[1].reshape(-1, k)
    order = np.argsort(-np.take_along_axis(scores, index, axis=1), axis=1, kind="stable")
    return np.take_along_axis(index, order, axis=1)


def _largest_squared_norm(rows: NDArray[np.integer[Any]], chunk: int = 4096) -> int:
    largest = 0
    for start in range(0, len(rows), chunk):
        part = rows[start : start + chunk].astype(np.float64)  # exact: |q|**2 < 2**53 for any d < 2**22
        largest = max(largest, int(np.einsum("ij,ij->i", part, part).max()))
    return largest
