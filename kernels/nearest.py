"""Exact nearest neighbours of integer vectors by L2 distance, ties to the lowest index.

The squared distance |p - s|**2 is smallest where the score 2 p.s - |s|**2 is largest. On integers the score is computed
exactly by whichever route's arithmetic holds every partial sum, so that routes, tile sizes, thread counts and the
presence of other rows cannot change a result. From fast to slow:

    cuda     3 max|q|**2 < 2**31, int8 rows   ``pe.kernels.cuda``, where there are CUDA devices
    int8     the same                         ``pe.kernels.int8``, where the CPU has exact int8 products
    float32  3 max|q|**2 < 2**24              ``pe.kernels.floating``
    float64  3 max|q|**2 < 2**53              the same

``max|q|`` runs over the rows at hand: checked, not assumed.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Hashable
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from pe.kernels import devices, int8
from pe.kernels.floating import FloatSearch, Integers, exact_type, largest_squared_norm

if TYPE_CHECKING:
    from pe.kernels.cuda import CudaSearch
    from pe.kernels.int8 import Int8Search

Route = Literal["cuda", "int8", "float32", "float64"]
Ids = NDArray[np.int64]

COLD_START, WARM_START = 2**36, 2**32
"""Multiply-adds in float32 that take as long as importing torch and numba; as numba alone, once torch is there."""

DEVICE_START = 2**38
"""As long as making a CUDA device ready, and compiling for it."""


class _Startup:
    """Whether the process has work enough for the imports that a faster route needs.

    They are paid for once as much time as they take has gone into slower searches: at worst twice what hindsight
    would have spent. The answers are the same either way.
    """

    def __init__(self) -> None:
        self.work = 0

    def add(self, work: int) -> None:
        self.work += work

    def pays(self) -> bool:
        return self.work >= (WARM_START if "torch" in sys.modules else COLD_START)

    def pays_for_a_device(self) -> bool:
        return self.work >= DEVICE_START


_startup = _Startup()


class Search:
    """Nearest of the same candidates, for any number of chunks of queries.

    candidates  integers (m, d), m >= 1; kept, not copied where that can be avoided: leave them as they are.
    k           how many neighbours, at most m.
    groups      the candidates' groups, int64 (m,), where a query is to find those of its own group alone.
    device      "cpu" keeps the search off an accelerator, "cuda" asks for one; None takes the fastest there is.
    route       one route and no other; None takes the fastest that is exact for the rows at hand.

    The answer for a query depends on that query and the candidates alone. Memory beyond the answers stays under 64 MB
    for any number of queries and candidates; what a CUDA device needs on the host is two pinned buffers of 16 MB. A
    device that is full is given fewer rows at a time, and one that is full even so, or fails, is given up for the CPU,
    with a RuntimeWarning. Raises ValueError for shapes that do not fit, for floats, for vectors too long for exact
    arithmetic (3 |q|**2 >= 2**53), and where the route or device asked for is not exact or not to be had.
    """

    def __init__(
        self,
        candidates: Integers,
        k: int = 1,
        groups: Ids | None = None,
        *,
        device: Literal["cpu", "cuda"] | None = None,
        route: Route | None = None,
    ) -> None:
        if candidates.ndim != 2:
            raise ValueError(f"expected (m, d) candidates, got {candidates.shape}")
        if candidates.dtype.kind not in "iu":
            raise ValueError(f"expected integer candidates, got {candidates.dtype}: quantise them")
        if len(candidates) == 0:
            raise ValueError("expected at least one candidate, got none")
        if not 1 <= k <= len(candidates):
            raise ValueError(f"expected 1 <= k <= {len(candidates)} candidates, got k = {k}")
        if groups is not None and groups.shape != candidates.shape[:1]:
            raise ValueError(f"expected a group for each of {len(candidates)} candidates, got {groups.shape}")
        if route is not None and device is not None and (route == "cuda") != (device == "cuda"):
            raise ValueError(f"expected a route of the device {device}, got {route}")
        self.candidates = candidates
        self.k = k
        self.groups = groups
        self._only: Route | None = "cuda" if device == "cuda" else route
        self._cpu = device == "cpu"
        self._largest: int | None = None
        self._cuda: CudaSearch | None = None
        self._ran: dict[str, None] = {}
        self._prepared: dict[tuple[Route, int | None], tuple[Ids | None, FloatSearch | Int8Search]] = {}

    @property
    def route(self) -> str:
        """The routes that ran so far, such as "int8" or "cuda (NVIDIA H200)"; empty before the first queries."""
        return ", ".join(self._ran)

    def __call__(self, queries: Integers, groups: Ids | None = None, name: Hashable | None = None) -> Ids:
        """The k nearest candidates of queries (n, d): indices int64 (n, k), nearest first, ties to the lower index.

        groups  the queries' groups, int64 (n,), where the candidates have groups; of a group with fewer than k
                candidates, the last ones found are -1.
        name    of rows that never change: under it a device keeps them for later searches.
        """
        n = len(queries)
        if queries.ndim != 2 or queries.shape[1] != self.candidates.shape[1]:
            raise ValueError(f"expected queries (n, {self.candidates.shape[1]}), got {queries.shape[1:]} each")
        if queries.dtype.kind not in "iu":  # a NaN has no place in exact arithmetic: quantise() says which rows had one
            raise ValueError(f"expected integer queries, got {queries.dtype}: quantise them")
        if (groups is None) != (self.groups is None) or (groups is not None and groups.shape != (n,)):
            raise ValueError("expected a group for each query where candidates have groups, and only there")
        found = np.full((n, self.k), -1, np.int64)
        if n == 0:
            return found
        route = self._choice(queries)
        if route == "cuda":
            if self._on_device(queries, found, groups, name):
                return found
            route = self._choice(queries)
        self._ran[route] = None
        if groups is None or self.groups is None:
            self._on(route, None)[1](queries, found)
            return found
        for group in np.intersect1d(groups, self.groups):
            rows = np.flatnonzero(groups == group)
            own, search = self._on(route, int(group))
            inside = np.empty((len(rows), search.k), np.int64)
            search(queries if len(rows) == n else queries[rows], inside)
            found[rows, : search.k] = inside if own is None else own[inside]
        return found

    def _choice(self, queries: Integers) -> Route:
        fits = self._fits_int8(queries)
        if self._only == "cuda":
            fault = devices.fault() if self._fits_cuda(queries) else "it takes int8 rows within its bounds"
            if fault:
                raise ValueError(f"expected a search that the cuda route can do, but {fault}")
            return "cuda"
        if self._only == "int8":
            fault = int8.fault() if fits else "it takes int8 rows within its bounds"
            if fault:
                raise ValueError(f"expected a search that the int8 route can do, but {fault}")
            return "int8"
        if self._only is None:
            _startup.add(queries.size * len(self.candidates))
            if not self._cpu and self._fits_cuda(queries) and _startup.pays_for_a_device() and not devices.fault():
                return "cuda"
            if fits and _startup.pays() and not int8.fault():
                return "int8"
        exact = exact_type(self._longest(queries)).name
        if self._only not in (None, "float64", exact):
            raise ValueError(f"expected a search that the {self._only} route can do exactly: these rows need {exact}")
        return "float32" if exact == "float32" and self._only != "float64" else "float64"

    def _fits_int8(self, queries: Integers) -> bool:
        return queries.shape[1] >= int8.NARROWEST and self.k <= int8.MOST_NEIGHBOURS and self._fits_int32(queries)

    def _fits_cuda(self, queries: Integers) -> bool:
        return self.k <= devices.MOST_NEIGHBOURS and self._fits_int32(queries)

    def _fits_int32(self, queries: Integers) -> bool:
        return queries.dtype == self.candidates.dtype == np.int8 and (
            queries.shape[1] <= int8.WIDEST or 3 * self._longest(queries) < 2**31
        )

    def _longest(self, queries: Integers) -> int:
        if self._largest is None:
            self._largest = largest_squared_norm(self.candidates)
        return max(self._largest, largest_squared_norm(queries))

    def _on_device(self, queries: Integers, found: Ids, groups: Ids | None, name: Hashable | None) -> bool:
        """Whether the devices wrote what they found; once one of them gives up, none is asked again."""
        from pe.kernels.cuda import CudaSearch, DeviceError

        try:
            if self._cuda is None:
                self._cuda = CudaSearch(self.candidates, self.k, self.groups)
            self._cuda(queries, found, groups, name)
        except DeviceError as error:
            if self._only == "cuda":
                raise ValueError(f"expected a search that the cuda route can do, but {error}") from None
            warnings.warn(f"{error}: the vote goes on on the CPU", RuntimeWarning, stacklevel=3)
            self._cuda, self._cpu = None, True
            found[:] = -1
            return False
        self._ran[f"cuda ({self._cuda.names})"] = None
        return True

    def _on(self, route: Route, group: int | None) -> tuple[Ids | None, FloatSearch | Int8Search]:
        """The candidates of a group, None for all, and the search among them."""
        if (route, group) not in self._prepared:
            own = None if group is None else np.flatnonzero(self.groups == group)
            if own is not None and len(own) == len(self.candidates):
                own = None
            candidates = self.candidates if own is None else self.candidates[own]
            k = min(self.k, len(candidates))
            if route == "int8":
                self._prepared[route, group] = own, int8.Int8Search(candidates, k)
            else:
                self._prepared[route, group] = own, FloatSearch(candidates, k, np.dtype(route))
        return self._prepared[route, group]


def nearest(queries: Integers, candidates: Integers, k: int = 1) -> Ids:
    """``Search(candidates, k)(queries)``: indices of the k nearest candidates of each query, int64 (n, k)."""
    return Search(candidates, k)(queries)


def routes() -> dict[Route, str]:
    """Every route, fast to slow, and why this machine does not have it; empty where it does. Imports what they need."""
    return {"cuda": devices.fault(), "int8": int8.fault(), "float32": "", "float64": ""}
