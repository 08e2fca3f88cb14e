"""From vote ids to vote counts."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def count(ids: NDArray[np.int64], bins: int) -> NDArray[np.int64]:
    """Number of times each of ``bins`` ids occurs in ``ids`` (any shape), int64 (bins,).

    Raises ValueError for an id outside [0, bins).
    """
    flat = ids.reshape(-1)
    if flat.size and not (flat.min() >= 0 and flat.max() < bins):
        raise ValueError("expected ids in [0, bins)")
    return np.bincount(flat, minlength=bins).astype(np.int64)


def bounded_sum(
    groups: NDArray[np.int64],
    bins: NDArray[np.int64],
    values: NDArray[np.int64],
    size: int,
    bound_squared: int,
) -> NDArray[np.int64]:
    """Sum of one integer vector per group, each scaled down to a squared L2 norm of at most ``bound_squared``.

    groups  int64 (n,), whose vector each entry belongs to; any integers.
    bins    int64 (n,), in [0, size): where in the vector it is added.
    values  int64 (n,), what is added; may be negative.

    A vector within the bound is summed as it is, one beyond it as ``bounded`` scales it. What a group contributes
    depends on its own entries alone. Returns int64 (size,).
    """
    if len(bins) == 0:
        return np.zeros(size, np.int64)
    if not (bins.min() >= 0 and bins.max() < size):
        raise ValueError("expected bins in [0, size)")
    group, bin_, value = merged(groups, bins, values)
    largest = math.isqrt(2**62 // size)  # no sum of squares overflows
    value = np.clip(value, -largest, largest)
    value = bounded(group, value[:, None], bound_squared)[:, 0]
    total = np.zeros(size, np.int64)
    np.add.at(total, bin_, value)
    return total


def bounded(groups: NDArray[np.int64], rows: NDArray[np.int64], bound_squared: int) -> NDArray[np.int64]:
    """Vectors, each given by the consecutive rows of its group, scaled down to a squared L2 norm of ``bound_squared``.

    groups  int64 (n,), equal ones next to each other.
    rows    int64 (n, w); no group's sum of squares may reach 2**63.

    A vector beyond the bound is scaled to it, each entry rounded towards zero, and the bound then checked in integers.
    What becomes of a group depends on its own rows alone. Returns int64 (n, w).
    """
    starts = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]])
    lengths = np.diff(np.r_[starts, len(groups)])
    norms = np.add.reduceat((rows * rows).sum(axis=1), starts)
    over = norms > bound_squared
    if not over.any():
        return rows
    # correctly rounded operations on one group's numbers: the same result in any batch. The last factor keeps a
    # result that is a whole number in exact arithmetic from falling below it.
    factors = np.where(over, np.sqrt(bound_squared / np.maximum(norms, 1)), 1.0)
    scaled = np.trunc(rows * np.repeat(factors, lengths)[:, None] * (1 + 2.0**-40)).astype(np.int64)
    kept = np.where(np.repeat(over, lengths)[:, None], scaled, rows)
    still = np.add.reduceat((kept * kept).sum(axis=1), starts) > bound_squared
    return np.where(np.repeat(still, lengths)[:, None], np.sign(kept) * (np.abs(kept) - 1).clip(0), kept)


def merged(
    groups: NDArray[np.int64], bins: NDArray[np.int64], values: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Entries sorted by group and bin, those of the same group and bin added up."""
    order = np.lexsort((bins, groups))
    group, bin_ = groups[order], bins[order]
    firsts = np.flatnonzero(np.r_[True, (group[1:] != group[:-1]) | (bin_[1:] != bin_[:-1])])
    return group[firsts], bin_[firsts], np.add.reduceat(values[order], firsts)
