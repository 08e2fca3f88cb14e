"""Sums of bounded per-user vectors over more votes than fit into memory, exactly as if all were at hand.

Entries (user, bin, value) are written piece by piece, each piece sorted by user. Users are 16-byte digests, so a range
of their first halves is a set of whole users of about known size, wherever their entries lie: ranges are summed one by
one. Any order of pieces and any number of ranges give the same sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pe.kernels.count import bounded_sum
from pe.private.cache import leave, load

ENTRIES = 2**20
"""Entries that are summed at a time: about 150 MB."""


def write(path: Path, users: NDArray[np.uint64], bins: NDArray[np.int64], values: NDArray[np.int64]) -> None:
    """Store entries of users uint64 (n, 2), those of the same user and bin added up."""
    order = np.lexsort((bins, users[:, 1], users[:, 0]))
    keys = np.concatenate([users[order], bins[order].astype(np.uint64)[:, None]], axis=1)
    firsts = np.flatnonzero(np.r_[True, (keys[1:] != keys[:-1]).any(axis=1)][: len(keys)])
    added = np.add.reduceat(values[order], firsts) if len(firsts) else values
    columns = np.empty((4, len(firsts) + 1), np.uint64)
    columns[:3, 1:], columns[3, 1:] = keys[firsts].T, added.view(np.uint64)
    columns[:, 0] = 0  # so that a file of no entries can be mapped, too: nothing, in bin 0, of no user
    leave(path, columns)


def ranges(entries: int) -> int:
    """Into how many ranges of users so many entries are best cut."""
    return max(1, -(-entries // ENTRIES))


def bounded(paths: Sequence[Path], number: int, of: int, size: int, bound: int) -> NDArray[np.int64]:
    """The bounded sum (``pe.kernels.count.bounded_sum``) of all users in one of ``of`` ranges; int64 (size,)."""
    low, high = number * 2**64 // of, (number + 1) * 2**64 // of
    pieces = list(_within(paths, low, high))
    if not pieces:
        return np.zeros(size, np.int64)
    first, second, bins, values = np.concatenate(pieces, axis=1)
    order = np.lexsort((second, first))
    new = (first[order][1:] != first[order][:-1]) | (second[order][1:] != second[order][:-1])
    groups = np.cumsum(np.r_[False, new])
    return bounded_sum(groups, bins[order].astype(np.int64), values[order].view(np.int64), size, bound)


def _within(paths: Sequence[Path], low: int, high: int) -> Iterator[NDArray[np.uint64]]:
    for path in paths:
        columns = load(path, np.uint64, (4, None))[:, 1:]
        start = np.searchsorted(columns[0], np.uint64(low))
        stop = columns.shape[1] if high >= 2**64 else np.searchsorted(columns[0], np.uint64(high))
        if start < stop:
            yield np.array(columns[:, start:stop])


def total(paths: Sequence[Path], entries: int, size: int, bound: int) -> NDArray[np.int64]:
    """The bounded sum of all users, int64 (size,)."""
    found = np.zeros(size, np.int64)
    of = ranges(entries)
    for number in range(of):
        found += bounded(paths, number, of, size, bound)
    return found
