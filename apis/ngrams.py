"""An n-gram model for drawing: interpolated Kneser-Ney smoothing (Kneser and Ney 1995, Chen and Goodman 1999).

Sampling needs no probability. A token that followed the context is drawn as often as it did, and refused with
probability discount / count; where it is refused, or the context was never seen, the context loses its first token.
That is the interpolated model exactly, and all of a batch is drawn at once from sorted arrays. But for one thing: a
context of one token that was seen refuses nothing, so that neighbours are always such as some sentence has. A word out
of nowhere costs a text more than the model gains by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

END = 0
"""The token before the first and after the last of every sentence."""

Ints = NDArray[np.int64]
_Keys = NDArray[np.uint64]

_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(29)


def keys(windows: NDArray[Any]) -> _Keys:
    """A hash of each row of tokens (n, k): uint64 (n,). Collisions are as rare as 64 bits make them."""
    found = np.full(len(windows), windows.shape[1] + 1, np.uint64)
    for column in windows.T:
        found = (found ^ (column.astype(np.uint64) + np.uint64(1))) * _FACTOR
        found ^= found >> _SHIFT
    return found


class NGrams:
    """The model of some sentences.

    sentences  tokens of each, int > END.
    order      the context has at most order - 1 tokens; >= 2.
    discount   in (0, 1): taken off every count. Estimates from held-out text are about .7; less copies more, and reads
               better.
    """

    def __init__(self, sentences: Sequence[Sequence[int]], order: int, discount: float = 0.4) -> None:
        self.context = order - 1
        stream, place = _stream(sentences)
        self._levels: list[_Level] = []
        whole = np.zeros(len(stream), np.bool_)
        whole[1:] = True  # every token but the first END follows something
        # a shorter context counts the distinct tokens before it (a continuation count), unless nothing stands before
        counted = whole.copy()
        for k in range(self.context, -1, -1):
            at = np.flatnonzero(counted & (place >= k))
            self._levels.append(_Level(_windows(stream, at, k), stream[at], discount))
            counted = whole & (place == k - 1)
            counted[at[self._levels[-1].first]] = True
        self._levels.reverse()
        self._followed = [
            _distinct(keys(_windows(stream, np.flatnonzero(whole & (place >= k)) + 1, k + 1))) for k in (1, 2)
        ]

    def draw(self, contexts: Ints, known: Ints, rng: np.random.Generator) -> Ints:
        """The next token of each context.

        contexts  int64 (n, context): the tokens before, the newest last.
        known     int64 (n,): how many of them count, the END before the sentence among them.
        """
        found = np.full(len(contexts), -1, np.int64)
        left = np.arange(len(contexts))
        for k in range(self.context, -1, -1):
            own = left[known[left] >= k]
            drawn, taken = self._levels[k].draw(contexts[own, self.context - k :], rng, final=k <= 1)
            found[own[taken]] = drawn[taken]
            left = left[found[left] < 0]
            if len(left) == 0:
                break
        return found

    def follows(self, windows: Ints) -> NDArray[np.bool_]:
        """Whether the tokens of each row (n, 2) or (n, 3) stand so in some sentence; END counts as a token."""
        seen = self._followed[windows.shape[1] - 2]
        wanted = keys(windows)
        at = np.minimum(np.searchsorted(seen, wanted), len(seen) - 1)
        return np.asarray(seen[at] == wanted, np.bool_)


class _Level:
    """The tokens that follow each context of one length."""

    def __init__(self, windows: Ints, following: Ints, discount: float) -> None:
        context = keys(windows)
        order = np.lexsort((following, context))
        context, token = context[order], following[order]
        new_context = np.append(True, context[1:] != context[:-1])
        new = new_context | np.append(True, token[1:] != token[:-1])
        counts = np.diff(np.append(np.flatnonzero(new), len(token)))
        self.first = order[new]
        """Where each distinct pair of context and token occurs first, among those given."""
        self._keys = context[new_context]
        self._starts = np.append(np.flatnonzero(new_context), len(token))
        self._tokens = token.astype(np.int32)
        self._refused = np.repeat((discount / counts).astype(np.float32), counts)

    def draw(self, windows: Ints, rng: np.random.Generator, *, final: bool) -> tuple[Ints, NDArray[np.bool_]]:
        """A token each, and whether it is taken."""
        wanted = keys(windows)
        at = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        hit = self._keys[at] == wanted
        low, high = self._starts[at], self._starts[at + 1]
        drawn = low + np.floor(rng.random(len(at)) * (high - low)).astype(np.int64)
        kept = rng.random(len(at)) >= self._refused[drawn]
        return self._tokens[drawn].astype(np.int64), hit & (kept | final)


def _distinct(values: _Keys) -> _Keys:
    values = np.sort(values)
    return values[np.append(True, values[1:] != values[:-1])] if len(values) else values


def _stream(sentences: Sequence[Sequence[int]]) -> tuple[Ints, Ints]:
    """All sentences in a row, END between them, and how many tokens each may look back at, END included."""
    lengths = np.fromiter((len(each) for each in sentences), np.int64, len(sentences))
    stream = np.zeros(int(lengths.sum()) + len(lengths) + 1, np.int64)
    ends = np.cumsum(lengths + 1)
    inside = np.ones(len(stream), np.bool_)
    inside[0] = False
    inside[ends] = False
    stream[inside] = np.fromiter((token for each in sentences for token in each), np.int64, int(lengths.sum()))
    starts = np.append(0, ends[:-1])
    place = np.arange(len(stream)) - np.repeat(np.append(0, starts), np.append(1, lengths + 1))
    return stream, place


def _windows(stream: Ints, at: Ints, k: int) -> Ints:
    """The ``k`` tokens before each place: int64 (n, k)."""
    return stream[at[:, None] + np.arange(-k, 0)[None]] if k else np.empty((len(at), 0), np.int64)
