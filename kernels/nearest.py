"""Exact nearest neighbours of integer vectors by L2 distance, ties to the lowest index.

The squared distance |p - s|**2 is smallest where the score 2 p.s - |s|**2 is largest. On integers the score is computed
exactly by whichever route's arithmetic holds every partial sum, so that routes, tile sizes, thread counts and the
presence of other rows cannot change a result. From fast to slow:

    int8     3 max|q|**2 < 2**31, int8 rows   ``pe.kernels.int8``, where the CPU has exact int8 products
    float32  3 max|q|**2 < 2**24              ``pe.kernels.floating``
    float64  3 max|q|**2 < 2**53              the same

``max|q|`` runs over the rows at hand: checked, not assumed.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from pe.kernels import int8
from pe.kernels.floating import FloatSearch, Integers, exact_type, largest_squared_norm

if TYPE_CHECKING:
    from pe.kernels.int8 import Int8Search

Route = Literal["int8", "float32", "float64"]

COLD_START, WARM_START = 2**36, 2**32
"""Multiply-adds in float32 that take as long as importing torch and numba; as numba alone, once torch is there."""


class _Startup:
    """Whether the process has work enough for the imports that int8 needs.

    They are paid for once as much time as they take has gone into slower searches: at worst twice what hindsight
    would have spent. The answers are the same either way.
    """

    def __init__(self) -> None:
        self.work = 0

    def pays(self, work: int) -> bool:
        self.work += work
        return self.work >= (WARM_START if "torch" in sys.modules else COLD_START)


_startup = _Startup()


class Search:
    """Nearest of the same candidates, for any number of chunks of queries.

    candidates  integers (m, d), m >= 1; kept, not copied where that can be avoided: leave them as they are.
    k           how many neighbours, at most m.
    device      "cpu" keeps the search off an accelerator; None takes the fastest there is.
    route       one route and no other; None takes the fastest that is exact for the rows at hand.

    The answer for a query depends on that query and the candidates alone. Memory beyond the answers stays under 64 MB
    for any number of queries and candidates. Raises ValueError for shapes that do not fit, for vectors too long for
    exact arithmetic (3 |q|**2 >= 2**53), and where the route asked for is not exact or not to be had.
    """

    def __init__(
        self, candidates: Integers, k: int = 1, *, device: str | None = None, route: Route | None = None
    ) -> None:
        if candidates.ndim != 2:
            raise ValueError(f"expected (m, d) candidates, got {candidates.shape}")
        if not 1 <= k <= len(candidates):
            raise ValueError(f"expected 1 <= k <= {len(candidates)} candidates, got k = {k}")
        self.candidates = candidates
        self.k = k
        self.device = device
        self._only = route
        self._largest: int | None = None
        self._prepared: dict[str, FloatSearch | Int8Search] = {}

    @property
    def route(self) -> str:
        """The routes that ran so far, such as "int8"; empty before the first queries."""
        return ", ".join(self._prepared)

    def __call__(self, queries: Integers) -> NDArray[np.int64]:
        """The k nearest candidates of queries (n, d): indices int64 (n, k), nearest first, ties to the lower index."""
        if queries.ndim != 2 or queries.shape[1] != self.candidates.shape[1]:
            raise ValueError(f"expected (n, {self.candidates.shape[1]}) queries, got {queries.shape}")
        found = np.empty((len(queries), self.k), np.int64)
        if len(queries):
            self._on(self._choice(queries))(queries, found)
        return found

    def _choice(self, queries: Integers) -> Route:
        fits = self._fits_int8(queries)
        if self._only == "int8":
            fault = int8.fault() if fits else "it takes int8 rows within its bounds"
            if fault:
                raise ValueError(f"expected a search that the int8 route can do, but {fault}")
            return "int8"
        if self._only is None and fits and _startup.pays(queries.size * len(self.candidates)) and not int8.fault():
            return "int8"
        exact = exact_type(self._longest(queries)).name
        if self._only not in (None, "float64", exact):
            raise ValueError(f"expected a search that the {self._only} route can do exactly: these rows need {exact}")
        return "float32" if exact == "float32" and self._only != "float64" else "float64"

    def _fits_int8(self, queries: Integers) -> bool:
        width = queries.shape[1]
        return (
            queries.dtype == self.candidates.dtype == np.int8
            and width >= int8.NARROWEST
            and self.k <= int8.MOST_NEIGHBOURS
            and (width <= int8.WIDEST or 3 * self._longest(queries) < 2**31)
        )

    def _longest(self, queries: Integers) -> int:
        if self._largest is None:
            self._largest = largest_squared_norm(self.candidates)
        return max(self._largest, largest_squared_norm(queries))

    def _on(self, route: Route) -> FloatSearch | Int8Search:
        if route not in self._prepared:
            if route == "int8":
                self._prepared[route] = int8.Int8Search(self.candidates, self.k)
            else:
                self._prepared[route] = FloatSearch(self.candidates, self.k, np.dtype(route))
        return self._prepared[route]


def nearest(queries: Integers, candidates: Integers, k: int = 1) -> NDArray[np.int64]:
    """``Search(candidates, k)(queries)``: indices of the k nearest candidates of each query, int64 (n, k)."""
    return Search(candidates, k)(queries)


def routes() -> dict[Route, str]:
    """Every route, fast to slow, and why this machine does not have it; empty where it does. Imports what they need."""
    return {"int8": int8.fault(), "float32": "", "float64": ""}
