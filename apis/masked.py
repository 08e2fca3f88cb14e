"""Words of a text masked and filled in again by a masked language model (PrE-Text, Hou et al. 2024)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pe.apis.checkpoint import Checkpoint
from pe.apis.facts import Facts
from pe.apis.seeds import Seeds
from pe.errors import ConfigError
from pe.population import Population
from pe.schema import Schema

_WORD = re.compile(r"\w+")
_SPARE = 8
"""Tokens of a window that are left for special ones."""


class MaskedAPI:
    """Draws public texts, and varies texts by filling in a share of their words anew.

    ``random`` draws texts of the label from a public corpus without replacement; where more are asked for than there
    are, it starts over, and varies what it draws with degree ``fresh``. ``vary`` takes ``degree`` of the words of a text
    at random, at least one, in ``passes`` parts one after the other: all words of a part are masked at once, token by
    token, and their tokens drawn from the model, the first of each word first. A token is replaced by one of its kind
    (begins or continues a word; letters or digits): whole words come out, as many as went in, and no special token.
    Spaces, punctuation and words that stay are copied. A text longer than the model's context is cut into windows.

    model, revision, device, dtype, batch_tokens   see ``pe.apis.transformers.TransformersAPI``.
    corpus, corpus_text, corpus_label              the public texts: see ``pe.apis.seeds.Seeds``.
    temperature, top_k                             how tokens are drawn.

    The same random generator gives the same texts, but where differences in rounding between batches move a draw over
    an edge between two tokens. Raises ConfigError for settings out of range, a model or a corpus that cannot be had.
    """

    name = "masked"

    def __init__(
        self,
        schema: Schema,
        *,
        model: str,
        corpus: str | Path | Sequence[str | Path],
        corpus_text: str | None = None,
        corpus_label: str | None = None,
        revision: str | None = None,
        passes: int = 3,
        fresh: float = 0.0,
        temperature: float = 1.0,
        top_k: int = 50,
        batch_tokens: int | None = None,
        device: str | None = None,
        dtype: str | None = None,
    ) -> None:
        for what, value, good in (
            ("passes >= 1", passes, passes >= 1),
            ("fresh in [0, 1]", fresh, 0 <= fresh <= 1),
            ("a finite temperature > 0", temperature, 0 < temperature < float("inf")),
            ("top_k >= 0", top_k, top_k >= 0),
        ):
            if not good:
                raise ConfigError(f"api 'masked': expected {what}, got {value}. Nothing was spent.")
        self.facts = Facts(schema)
        self.seeds = Seeds(schema, corpus, corpus_text, corpus_label)
        self.passes, self.fresh, self.temperature, self.top_k = passes, fresh, temperature, top_k
        self.filler = Filler(Checkpoint(model, revision, device, dtype), batch_tokens)
        self.public_data = f"language model {self.filler.checkpoint.public_name}; {self.seeds.public_data}"
        self._callback: Callable[[pa.Table], None] | None = None

    def listen(self, callback: Callable[[pa.Table], None] | None) -> None:
        """See ``pe.protocols.Piecemeal``."""
        self._callback = callback

    def random(self, n: int, label: int, rng: np.random.Generator) -> Population:
        rows, drawn = self.facts.random(n, label, rng), self.seeds.draw(n, label, rng)
        if self.fresh > 0:
            drawn = self._varied(drawn, self.fresh, rows, rng)
        return Population.of(self.facts.records(drawn, rows), label, self.name)

    def vary(self, parents: Population, degree: float, rng: np.random.Generator) -> Population:
        rows = self.facts.vary(parents, degree, rng)
        texts = self._varied(self.facts.texts(parents), degree, rows, rng)
        return Population.of(self.facts.records(texts, rows), parents.labels, self.name)
