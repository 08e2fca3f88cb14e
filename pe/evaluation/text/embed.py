"""Vectors of texts: each text is embedded once, short ones with short ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Encode: TypeAlias = Callable[[list[str]], NDArray[np.float32]]
"""Texts to vectors, float32 (n, d)."""

STEPS = 2**12
"""Integer steps of a unit vector's entries."""

_BATCH = 256

_LONG = 1_200  # characters, about, beyond which a longer text takes no longer


def minilm() -> Encode:
    """all-MiniLM-L6-v2, which reads the first 255 tokens of a text; each vector depends on its own text alone."""
    from pe.data.schema import Schema, Text
    from pe.embedders.sentence import SentenceEmbedder

    embedder = SentenceEmbedder(Schema((Text("text"),)))
    return lambda texts: embedder.embed(pa.table({"text": pa.array(texts, pa.string())}))


class Embeddings:
    """Unit vectors of texts on an integer grid, kept in memory by content: no text is embedded twice.

    Entries are whole numbers, ``STEPS`` times those of the unit vector: inner products are exact, so that equal texts
    are at distance zero whatever else is embedded. Give the same object to several evaluations of the same real texts.

    encode    by default that of ``minilm``.
    progress  is told the share of the work at hand that is done, in [0, 1].
    """

    def __init__(self, encode: Encode | None = None, progress: Callable[[float], None] | None = None) -> None:
        self._encode, self._progress = encode, progress
        self._known: dict[bytes, NDArray[np.int16]] = {}

    @property
    def needs_model(self) -> bool:
        """Whether the default model is still to be loaded."""
        return self._encode is None

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """float64 (n, d), whole numbers."""
        keys = [sha256(text.encode()).digest() for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._known}
        order = sorted(new, key=lambda key: len(new[key]))
        if order and self._encode is None:
            self._encode = minilm()
        work = np.cumsum([min(len(new[key]), _LONG) + 1 for key in order])
        for start in range(0, len(order), _BATCH):
            part = order[start : start + _BATCH]
            assert self._encode is not None
            self._known |= dict(zip(part, on_grid(self._encode([new[key] for key in part])), strict=True))
            if self._progress is not None:
                self._progress(float(work[start + len(part) - 1] / work[-1]))
        return np.stack([self._known[key] for key in keys]).astype(np.float64)


def on_grid(vectors: NDArray[np.float32]) -> NDArray[np.int16]:
    """Scaled to unit length and rounded to ``STEPS`` parts; a vector of zeros, or of what is no number, is zero."""
    wide = np.nan_to_num(np.asarray(vectors, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.rint(STEPS * wide / np.where(norms > 0, norms, 1.0)).astype(np.int16)
