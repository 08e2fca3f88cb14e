"""The largest scores of each row, ties to the lower index."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_FEW = 8  # up to so many, one vectorised pass each beats a partition


def largest(scores: NDArray[Any], k: int) -> NDArray[np.int64]:
    """Indices of the k largest scores of each row, largest first, ties to the lower index; at most all of them.

    Scores (n, m), above the lowest number of their type, are left as they were.
    """
    n, m = scores.shape
    k = min(k, m)
    lowest = -np.inf if scores.dtype.kind == "f" else np.iinfo(scores.dtype).min
    if k <= _FEW:  # one pass per neighbour, each vectorised
        index, rows = np.empty((n, k), np.int64), np.arange(n)
        best = np.empty((n, k), scores.dtype)
        for rank in range(k):
            index[:, rank] = scores.argmax(axis=1)
            best[:, rank] = scores[rows, index[:, rank]]
            scores[rows, index[:, rank]] = lowest
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


def merged(
    scores: NDArray[Any], index: NDArray[np.int64], later: NDArray[Any], later_index: NDArray[np.int64], k: int
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The k best of two lists per row, each sorted by (score, index), where all of the later indices are higher."""
    scores, index = np.concatenate([scores, later], axis=1), np.concatenate([index, later_index], axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]  # stable: the lower index stays first
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(index, order, axis=1)
