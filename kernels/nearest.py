"""Exact nearest neighbours of integer vectors by L2 distance, ties to the lowest index.

The squared distance |p - s|**2 is smallest where the score 2 p.s - |s|**2 is largest. On integers the score is computed
exactly by whichever route's arithmetic holds every partial sum, so that routes, tile sizes, thread counts and the
presence of other rows cannot change a result (``pe.kernels.floating``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pe.kernels.floating import FloatSearch, Integers, exact_type, largest_squared_norm


class Search:
    """Nearest of the same candidates, for any number of chunks of queries.

    candidates  integers (m, d), m >= 1; kept, not copied where that can be avoided: leave them as they are.
    k           how many neighbours, at most m.
    device      "cpu" keeps the search off an accelerator; None takes the fastest there is.

    The answer for a query depends on that query and the candidates alone. Raises ValueError for shapes that do not fit
    and for vectors too long for exact arithmetic (3 |q|**2 >= 2**53).
    """

    def __init__(self, candidates: Integers, k: int = 1, *, device: str | None = None) -> None:
        if candidates.ndim != 2:
            raise ValueError(f"expected (m, d) candidates, got {candidates.shape}")
        if not 1 <= k <= len(candidates):
            raise ValueError(f"expected 1 <= k <= {len(candidates)} candidates, got k = {k}")
        self.candidates = candidates
        self.k = k
        self.device = device
        self._largest = largest_squared_norm(candidates)
        self._floating: dict[str, FloatSearch] = {}

    @property
    def route(self) -> str:
        """The routes that ran so far, such as "float32"; empty before the first queries."""
        return ", ".join(self._floating)

    def __call__(self, queries: Integers) -> NDArray[np.int64]:
        """The k nearest candidates of queries (n, d): indices int64 (n, k), nearest first, ties to the lower index."""
        if queries.ndim != 2 or queries.shape[1] != self.candidates.shape[1]:
            raise ValueError(f"expected (n, {self.candidates.shape[1]}) queries, got {queries.shape}")
        found = np.empty((len(queries), self.k), np.int64)
        if len(queries):
            dtype = exact_type(max(self._largest, largest_squared_norm(queries)))
            if dtype.name not in self._floating:
                self._floating[dtype.name] = FloatSearch(self.candidates, self.k, dtype)
            self._floating[dtype.name](queries, found)
        return found


def nearest(queries: Integers, candidates: Integers, k: int = 1) -> NDArray[np.int64]:
    """``Search(candidates, k)(queries)``: indices of the k nearest candidates of each query, int64 (n, k)."""
    return Search(candidates, k)(queries)


def route(queries: Integers, candidates: Integers) -> str:
    """The fastest floating-point type exact for these rows; raises ValueError when none is."""
    return exact_type(max(largest_squared_norm(queries), largest_squared_norm(candidates))).name
