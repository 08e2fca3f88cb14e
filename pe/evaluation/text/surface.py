"""What can be counted in texts without a model: lengths and distinct n-grams."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wasserstein_distance

ORDERS = (1, 2, 3)
"""Lengths of the n-grams whose variety is counted."""


def length_distance(real: NDArray[np.int64], made: NDArray[np.int64]) -> float:
    """Wasserstein-1 distance of two samples of lengths, in words."""
    return float(wasserstein_distance(real, made))


def distinct(*groups: Sequence[NDArray[np.int64]]) -> list[dict[str, float | None]]:
    """distinct-n (Li et al. 2016) of groups of texts given as word ids: different n-grams per n-gram.

    The share falls with the number of n-grams: of each group only so many of the first ones count as the smallest
    group has. None where one has none. Keys "1", "2", "3".
    """
    found: list[dict[str, float | None]] = [{} for _ in groups]
    for n in ORDERS:
        grams = [ngrams(group, n) for group in groups]
        size = min(len(each) for each in grams)
        for own, each in zip(found, grams, strict=True):
            own[str(n)] = len(np.unique(each[:size], axis=0)) / size if size else None
    return found


def ngrams(texts: Sequence[NDArray[np.int64]], n: int) -> NDArray[np.int64]:
    """All n-grams within texts, int64 (number, n), in their order."""
    long = [text for text in texts if len(text) >= n]
    if not long:
        return np.empty((0, n), np.int64)
    return np.concatenate([np.lib.stride_tricks.sliding_window_view(text, n) for text in long])
