"""The longest run of words from each place in some texts that stands word for word in others.

A suffix array of all words, built by doubling prefixes (Manber and Myers 1993) on integers alone: the ranks of prefixes
of 1, 2, 4, ... words also give the common prefix of any two suffixes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.int64]


def matches(made: Sequence[Words], real: Sequence[Words], parts: Sequence[NDArray[np.bool_]]) -> list[list[Words]]:
    """For each part of ``real``, for each text of ``made``: the longest match that starts at each word, int64 (words,).

    parts  masks over the texts of ``real``: a match is sought among those that are marked.

    Matches never reach over the end of a text. Takes O(w log w) time for w words times the log of the longest match.
    """
    texts = [*made, *real]
    lengths = np.array([len(text) for text in texts], np.int64)
    owner = np.repeat(np.arange(len(texts)), lengths + 1)
    ends = np.cumsum(lengths + 1) - 1
    highest = max((int(text.max()) for text in texts if len(text)), default=0)
    sequence = np.full(len(owner), -1, np.int64)
    sequence[ends] = highest + 1 + np.arange(len(texts))  # one end sign for each text, so that no two match
    sequence[sequence < 0] = np.concatenate([*texts, np.empty(0, np.int64)])
    levels = _ranks(sequence)
    order = np.argsort(levels[-1])
    is_made = owner < len(made)
    found = []
    for part in parts:
        marked = np.concatenate([np.zeros(len(made), np.bool_), part])[owner][order]
        best = np.zeros(len(sequence), np.int64)
        places = np.arange(len(order))
        before = np.maximum.accumulate(np.where(marked, places, -1))
        after = np.minimum.accumulate(np.where(marked, places, len(order))[::-1])[::-1]
        for nearest in (before, after):
            known = is_made[order] & (nearest >= 0) & (nearest < len(order))
            own = order[known]
            best[own] = np.maximum(best[own], _common(levels, own, order[nearest[known]]))
        starts = ends[: len(made)] - lengths[: len(made)]
        found.append([best[a:b] for a, b in zip(starts.tolist(), ends[: len(made)].tolist(), strict=True)])
    return found


def _ranks(sequence: Words) -> list[NDArray[np.int32]]:
    """Ranks of the prefixes of 1, 2, 4, ... words of every suffix, up to the length at which all differ."""
    _, rank = np.unique(sequence, return_inverse=True)
    levels = [rank.astype(np.int32)]
    reach, size = 1, len(sequence)
    while int(rank.max()) < size - 1:
        further = np.zeros(size, np.int64)
        further[: size - reach] = rank[reach:] + 1
        _, rank = np.unique(rank.astype(np.int64) * (size + 1) + further, return_inverse=True)
        levels.append(rank.astype(np.int32))
        reach *= 2
    return levels


def _common(levels: Sequence[NDArray[np.int32]], one: Words, two: Words) -> Words:
    """Words that the suffixes at two lists of places have in common from their start."""
    size = len(levels[0])
    total = np.zeros(len(one), np.int64)
    for level in range(len(levels) - 1, -1, -1):
        a, b = one + total, two + total
        inside = (a < size) & (b < size)
        ranks = levels[level]
        equal = inside & (ranks[np.minimum(a, size - 1)] == ranks[np.minimum(b, size - 1)])
        total += equal * 2**level
    return total
