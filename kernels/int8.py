"""Exact scores from int8 matrix products with an int32 accumulator (``torch._int_mm``).

Every partial sum and the score 2 p.s - |s|**2 stay below 3 max|q|**2, which int32 holds up to 2**31: for any int8 rows
up to ``WIDEST`` entries, and for wider ones as long as their squares allow.

On a CPU without VNNI or AMX, ``torch._int_mm`` saturates in int16 and is silently wrong, and only where entries are
large. ``fault`` tries it once per process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pe.kernels.floating import Integers
from pe.kernels.scan import LOWEST, Scan, fused, plain
from pe.kernels.threads import spread

if TYPE_CHECKING:
    import torch

WIDEST = (2**31 - 1) // (3 * 128**2)
"""Entries up to which no int8 row can overflow int32."""

NARROWEST = 8
"""Entries from which rows are searched here. Of rows of one entry, torch 2.13 leaves the products uninitialised."""

MOST_NEIGHBOURS = 64
"""The scan keeps a sorted list per row by insertion."""

ROWS = 512
"""Queries per tile: enough to reach the peak of the matrix product, few enough for their products to stay in cache."""

PRODUCTS = 2048
"""Candidates per tile, at most."""

ROOM_BYTES = 2**25
"""Products of all threads together."""


class Int8Search:
    """The k best of m int8 candidates (m, d) for int8 queries, on as many threads as torch uses."""

    def __init__(self, candidates: Integers, k: int, scan: Scan | None = None) -> None:
        if not (candidates.flags.c_contiguous and candidates.flags.writeable):  # torch warns of what it must not write
            candidates = candidates.copy()
        self.k = k
        self.scan = scan or fused() or plain
        self.norms = _squared_norms(candidates)
        self._rows = _tensor(candidates)
        self.width = candidates.shape[1]

    def __call__(self, queries: Integers, found: NDArray[np.int64]) -> None:
        """Write the candidates nearest to queries (n, d) into ``found``, int64 (n, k)."""
        spread(len(queries), ROWS, lambda starts, threads: self._work(starts, queries, found, threads))

    def _work(self, starts: Iterator[int], queries: Integers, found: NDArray[np.int64], threads: int) -> None:
        """Tile after tile of queries, for as long as there are any; no room grows with their number."""
        import torch

        m = len(self.norms)
        widest = min(PRODUCTS, max(64, ROOM_BYTES // (4 * ROWS * threads)), m)
        widest = -(-m // -(-m // widest))  # of equal parts
        parts = [slice(start, min(start + widest, m)) for start in range(0, m, widest)]
        room = torch.empty(min(ROWS, len(queries)) * widest, dtype=torch.int32)
        copy = None if queries.flags.c_contiguous and queries.flags.writeable else np.empty((ROWS, self.width), np.int8)
        best = np.empty((min(ROWS, len(queries)), self.k), np.int32)
        for start in starts:
            rows = queries[start : start + ROWS]
            n = len(rows)
            if copy is not None:
                copy[:n] = rows
                rows = copy[:n]
            tile = _tensor(rows)
            best[:n] = LOWEST
            for part in parts:
                width = part.stop - part.start
                products = room[: n * width].view(n, width)
                torch._int_mm(tile, self._rows[part].t(), out=products)
                self.scan(products.numpy(), self.norms[part], part.start, best[:n], found[start : start + n])


def _tensor(rows: Integers) -> torch.Tensor:
    """Contiguous rows (n, d) with strides (d, 1), whatever numpy writes for an axis of length one (oneDNN reads it)."""
    import torch

    return torch.from_numpy(rows.reshape(-1)).view(rows.shape)


def _squared_norms(rows: Integers, chunk_bytes: int = 2**22) -> NDArray[np.int32]:
    """|s|**2 of every row (m, d), int32 (m,)."""
    norms = np.empty(len(rows), np.int32)
    chunk = max(1, chunk_bytes // (4 * rows.shape[1]))
    for start in range(0, len(rows), chunk):
        part = rows[start : start + chunk].astype(np.int32)
        norms[start : start + chunk] = np.einsum("ij,ij->i", part, part)
    return norms


@cache
def fault() -> str:
    """Why int8 products cannot be used here; empty where they can: installed, exact and faster than float32."""
    try:
        import torch
    except ImportError:
        return "torch is not installed: pip install 'pe-synth[fast]'"
    if not hasattr(torch, "_int_mm"):
        return f"torch {torch.__version__} has no int8 matrix product"
    try:
        if not _exact(torch._int_mm):
            return "torch's int8 matrix product saturates on this CPU (no VNNI or AMX)"
    except RuntimeError as error:
        return f"torch's int8 matrix product fails on this CPU ({type(error).__name__})"
    if not _fast(torch):
        return "torch's int8 matrix product is far slower than float32 on this CPU"
    return ""


def _exact(product: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> bool:
    """Whether int8 products are right for extreme entries, in every shape that tiles have."""
    import torch

    rng = np.random.default_rng(0)
    for n, m, d in ((1, 5, NARROWEST), (3, 1, 64), (17, 33, 37), (ROWS, 130, 384), (ROWS, 64, 1024)):
        for values in ([127], [-128], [-128, 127], [-128, -127, 0, 126, 127]):
            left, right = (rng.choice(np.array(values, np.int8), (rows, d)) for rows in (n, m))
            expected = left.astype(np.float64) @ right.astype(np.float64).T  # exact: below 2**53
            found = product(torch.from_numpy(left), torch.from_numpy(right).t())
            if not np.array_equal(found.numpy(), expected):
                return False
    return True


def _fast(torch: ModuleType) -> bool:
    """Where torch has no kernel for the CPU, it falls back to loops, far slower than float32."""
    rows = torch.ones((ROWS, 384), dtype=torch.int8)
    floats = rows.float()

    def seconds(product: Callable[[], object]) -> float:
        spent = []
        for _ in range(4):
            begun = time.thread_time()
            product()
            spent.append(time.thread_time() - begun)
        return min(spent)

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # whose own time is the same however busy the machine is
    try:
        return seconds(lambda: torch._int_mm(rows, rows.t())) < 2 * seconds(lambda: floats @ floats.T)
    finally:
        torch.set_num_threads(before)
