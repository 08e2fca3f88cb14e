"""Texts with their labels, and the words and tokens that metrics see."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pe.errors import ConfigError

_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Corpus:
    """Texts, and for every label column one value per text; None where it is missing."""

    texts: tuple[str, ...] = field(repr=False)
    labels: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name, values in self.labels.items():
            if len(values) != len(self.texts):
                raise ConfigError(f"label '{name}': expected as many values as texts.")

    @classmethod
    def of(cls, texts: Sequence[str], labels: Mapping[str, Sequence[object]] | None = None) -> Corpus:
        """From any sequences; labels are compared by their text, and lone surrogates in texts become "?"."""
        named = {
            name: tuple(None if value is None or value != value else str(value) for value in values)
            for name, values in (labels or {}).items()
        }
        return cls(tuple(text.encode("utf-8", "replace").decode() for text in texts), named)

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, index: NDArray[np.int64]) -> Corpus:
        rows = index.tolist()
        labels = {name: tuple(values[row] for row in rows) for name, values in self.labels.items()}
        return Corpus(tuple(self.texts[row] for row in rows), labels)

    def draw(self, limit: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Places of at most ``limit`` texts, drawn without replacement, in their order."""
        if len(self) <= limit:
            return np.arange(len(self))
        return np.sort(rng.choice(len(self), limit, replace=False))


def words(text: str) -> list[str]:
    """Runs of letters and digits, and single other signs, in lower case."""
    return [word.lower() for word in _WORD.findall(text)]


def word_ids(*groups: Sequence[str]) -> list[list[NDArray[np.int64]]]:
    """The words of several groups of texts as ids of one vocabulary, int64 (words,) per text."""
    known: dict[str, int] = {}
    return [
        [np.array([known.setdefault(word, len(known)) for word in words(text)], np.int64) for text in group]
        for group in groups
    ]


def spans(text: str, start: int, length: int) -> tuple[str, str, str]:
    """The text before, within and after ``length`` words from word ``start`` on."""
    if not length:
        return text, "", ""
    found = list(_WORD.finditer(text))
    inside = slice(found[start].start(), found[start + length - 1].end())
    return text[: inside.start], text[inside], text[inside.stop :]
