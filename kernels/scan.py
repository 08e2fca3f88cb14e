"""From a tile of int32 products to the best scores of each row: one pass, fused by numba where it is installed.

A scan takes

    products  int32 (n, m), p.s of a tile of queries and some candidates; it may overwrite them
    norms     int32 (m,), |s|**2 of those candidates
    start     the index of the first of them
    best      int32 (n, k), the best scores 2 p.s - |s|**2 so far, falling; ``LOWEST`` where there is none
    index     int64 (n, k), whose they are

and updates the last two. Candidates come in index order, so that the lower index wins where only a higher score
replaces another.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from pe.kernels.largest import largest, merged

Scan = Callable[[NDArray[np.int32], NDArray[np.int32], int, NDArray[np.int32], NDArray[np.int64]], None]

LOWEST = np.int32(-(2**31 - 1))
"""Below every score: those are at least -3 max|q|**2, and 2**31 - 1 is no multiple of 3. It can be negated."""

_BLOCK = 64


def plain(
    products: NDArray[np.int32],
    norms: NDArray[np.int32],
    start: int,
    best: NDArray[np.int32],
    index: NDArray[np.int64],
) -> None:
    """The scan in numpy: four passes, each vectorised; an eighth of the speed of the whole search is lost."""
    np.multiply(products, 2, out=products)
    scores = np.subtract(products, norms, out=products)
    k = best.shape[1]
    at = scores.argmax(axis=1)[:, None] if k == 1 else largest(scores, k)
    best[:], index[:] = merged(best, index, np.take_along_axis(scores, at, axis=1), at + start, k)


@cache
def fused() -> Scan | None:
    """The scan compiled by numba; None where numba is missing.

    Compiling takes about a second, once per machine: the result is cached beside this file, or where NUMBA_CACHE_DIR
    says.
    """
    try:
        import numba
    except ImportError:
        return None
    try:
        compiled: Scan = numba.njit(nogil=True, cache=True)(_loops)
    except RuntimeError:  # no folder to cache it in
        compiled = numba.njit(nogil=True)(_loops)
    return compiled


def _loops(
    products: NDArray[np.int32],
    norms: NDArray[np.int32],
    start: int,
    best: NDArray[np.int32],
    index: NDArray[np.int64],
) -> None:
    """Per row: the largest score of each block of candidates, then the few blocks that can hold one of the best.

    The k-th largest of the blocks' largest is a lower bound on the k-th best, which leaves k blocks but for ties. The
    cast keeps the arithmetic in int32, so that the loop over a block becomes vector instructions.
    """
    n, m = products.shape
    k = best.shape[1]
    blocks = (m + _BLOCK - 1) // _BLOCK
    highest = np.empty(blocks, np.int32)
    leaders = np.empty(k, np.int32)
    for i in range(n):
        leaders[:] = LOWEST
        for b in range(blocks):
            part = products[i, b * _BLOCK : (b + 1) * _BLOCK]
            own = norms[b * _BLOCK : (b + 1) * _BLOCK]
            high = LOWEST
            for j in range(len(part)):
                high = max(high, np.int32(2 * part[j] - own[j]))
            highest[b] = high
            if high > leaders[k - 1]:
                place = k - 1
                while place > 0 and leaders[place - 1] < high:
                    leaders[place] = leaders[place - 1]
                    place -= 1
                leaders[place] = high
        for b in range(blocks):
            if highest[b] <= best[i, k - 1] or highest[b] < leaders[k - 1]:
                continue
            for j in range(b * _BLOCK, min((b + 1) * _BLOCK, m)):
                score = np.int32(2 * products[i, j] - norms[j])
                if score > best[i, k - 1]:
                    place = k - 1
                    while place > 0 and best[i, place - 1] < score:
                        best[i, place] = best[i, place - 1]
                        index[i, place] = index[i, place - 1]
                        place -= 1
                    best[i, place] = score
                    index[i, place] = start + j
