"""Exact scores from floating-point matrix products of integers, by torch where it is loaded, else by numpy.

torch's threads each take tiles of their own; numpy's BLAS shares out every product, and keeps its threads spinning in
between.

The score 2 p.s - |s|**2 of integer vectors, and every partial sum on the way to it, stays below 3 max|q|**2. A type
that holds all whole numbers up to there computes it exactly, in any order of summation:

    float32  3 max|q|**2 < 2**24
    float64  3 max|q|**2 < 2**53   at half the speed
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pe.kernels.largest import largest, merged
from pe.kernels.threads import spread

Product = Callable[..., object]
Integers = NDArray[np.integer[Any]]

TILE_BYTES = 2**22
"""Scores, and queries as floats, that a thread holds at a time; the whole (n, m) matrix never exists."""

ROOM_BYTES = 2**24
"""Of either, held by all threads together."""

WEIGHT_BYTES = 2**25
"""Candidates held as floats at a time; more of them are converted anew for every tile of queries."""

WIDEST_TILE = 2**10
"""Candidates searched at a time."""


def exact_type(largest: int) -> np.dtype[np.floating[Any]]:
    """The fastest type exact for rows of squared norm up to ``largest``; raises ValueError when none is."""
    if 3 * largest < 2**24:
        return np.dtype(np.float32)
    if 3 * largest < 2**53:
        return np.dtype(np.float64)
    raise ValueError(f"vectors too long for an exact vote: expected 3 |q|**2 < 2**53, got {3 * largest}")


def largest_squared_norm(rows: Integers, chunk_bytes: int = 2**22) -> int:
    """The largest |q|**2 of rows (n, d), exactly, or a number at least as large that is just as harmless; 0 of none."""
    if rows.dtype in (np.int8, np.uint8):
        bound: int = rows.shape[1] * (128**2 if rows.dtype == np.int8 else 255**2)
        if 3 * bound < 2**24:
            return bound
    largest, chunk = 0, max(1, chunk_bytes // (8 * max(1, rows.shape[1])))
    for start in range(0, len(rows), chunk):
        part = rows[start : start + chunk].astype(np.float64)  # exact: |q|**2 < 2**53 for any d < 2**22
        largest = max(largest, int(np.einsum("ij,ij->i", part, part).max()))
    return largest


class FloatSearch:
    """The k best of m candidates (m, d) for tiles of queries, in one floating-point type that is exact for both."""

    def __init__(self, candidates: Integers, k: int, dtype: np.dtype[np.floating[Any]]) -> None:
        self.candidates = candidates
        self.k = k
        self.dtype = dtype
        m, width = len(candidates), (candidates.shape[1] + 1) * dtype.itemsize
        self.widest = max(1, min(WIDEST_TILE, WEIGHT_BYTES // width))
        self.row_bytes = max(width, dtype.itemsize * min(m, self.widest))
        self.kept = [self._weights(start) for start in range(0, m, self.widest)] if m * width <= WEIGHT_BYTES else None

    def __call__(self, queries: Integers, found: NDArray[np.int64]) -> None:
        """Write the candidates nearest to queries (n, d) into ``found``, int64 (n, k)."""
        if self.kept is not None and "torch" in sys.modules and _torch_is_exact():
            import torch

            rows = max(16, min(TILE_BYTES, ROOM_BYTES // torch.get_num_threads()) // self.row_bytes)
            spread(len(queries), rows, lambda starts, _: self._work(starts, rows, queries, found, _by_torch))
        else:
            rows = max(16, TILE_BYTES // self.row_bytes)
            self._work(iter(range(0, len(queries), rows)), rows, queries, found, np.matmul)

    def _work(
        self, starts: Iterator[int], rows: int, queries: Integers, found: NDArray[np.int64], product: Product
    ) -> None:
        """Tile after tile of so many rows, for as long as there are any; no room grows with their number."""
        n, d = queries.shape
        extended = np.ones((min(rows, n), d + 1), self.dtype)
        room = np.empty(len(extended) * min(len(self.candidates), self.widest), self.dtype)
        for start in starts:
            stop = min(start + rows, n)
            tile = extended[: stop - start]
            tile[:, :-1] = queries[start:stop]
            found[start:stop] = self._best(tile, room, product)

    def _weights(self, start: int) -> NDArray[Any]:
        """[2 s, -|s|**2] of some candidates: the product with [p, 1] is the score."""
        part = self.candidates[start : start + self.widest]
        weights = np.empty((len(part), part.shape[1] + 1), self.dtype)
        vectors = weights[:, :-1]
        vectors[:] = part
        np.negative(np.einsum("ij,ij->i", vectors, vectors), out=weights[:, -1])
        vectors *= 2
        return weights

    def _best(self, tile: NDArray[Any], room: NDArray[Any], product: Product) -> NDArray[np.int64]:
        n, m = len(tile), len(self.candidates)
        best_score = np.empty((n, 0), tile.dtype)
        best_index = np.empty((n, 0), np.int64)
        for number, start in enumerate(range(0, m, self.widest)):
            weights = self._weights(start) if self.kept is None else self.kept[number]
            scores = room[: n * len(weights)].reshape(n, len(weights))
            product(tile, weights.T, out=scores)
            index = scores.argmax(axis=1)[:, None] if self.k == 1 else largest(scores, self.k)
            if m <= self.widest:
                return index
            score = np.take_along_axis(scores, index, axis=1)
            best_score, best_index = merged(best_score, best_index, score, index + start, self.k)
        return best_index


def _by_torch(left: NDArray[Any], right: NDArray[Any], out: NDArray[Any]) -> None:
    import torch

    torch.mm(torch.from_numpy(left), torch.from_numpy(right), out=torch.from_numpy(out))


def _torch_is_exact() -> bool:
    """Unless told to, torch multiplies floats as they are; it can be told to round them first."""
    import torch

    settings = torch.backends, torch.backends.mkldnn, getattr(torch.backends.mkldnn, "matmul", None)
    told = {getattr(setting, "fp32_precision", "none") for setting in settings}
    return told <= {"none", "ieee"} and torch.get_float32_matmul_precision() == "highest"
