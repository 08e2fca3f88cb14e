"""Words of a text masked and filled in again by a masked language model (PrE-Text, Hou et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from pe.apis.checkpoint import Checkpoint
from pe.apis.corpus import labelled_texts
from pe.apis.facts import Facts
from pe.apis.filler import Filler
from pe.data.population import Population
from pe.data.schema import Schema
from pe.errors import ConfigError


class MaskedAPI:
    """Draws public texts, and varies texts by filling in a share of their words anew.

    ``random`` draws texts of the label from a public corpus without replacement; where more are asked for than there
    are, it starts over. With ``fresh`` above 0 it varies, with that degree, what it draws.

    ``vary`` takes ``degree`` of the words of a text at random, at least one, in ``passes`` parts one after the other:
    all words of a part are masked at once, token by token, and drawn from the model, the first token of each first. A
    token is replaced by one of its kind (begins or continues a word; letters or digits): whole words come out, as many
    as went in, and no special token. Spaces, punctuation and words that stay are copied. A text longer than the model's
    context is cut into windows. Degree 0 changes nothing.

    model, revision, device, dtype, batch_tokens
                 see ``pe.apis.transformers.TransformersAPI``.
    corpus, corpus_text, corpus_label
                 the public texts: see ``pe.apis.ngram.NGramAPI``. The texts of a label are its own or, where it has
                 none, those without a label.
    temperature, top_k
                 how tokens are drawn.

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
        corpus_label: str | Sequence[str] | None = None,
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
        paths = [corpus] if isinstance(corpus, str | Path) else list(corpus)
        self._pools = _pools(paths, corpus_text or self.facts.text.name, corpus_label, schema)
        self.passes, self.fresh, self.temperature, self.top_k = passes, fresh, temperature, top_k
        self.filler = Filler(Checkpoint(model, revision, device, dtype), batch_tokens)
        names = ", ".join(Path(path).name for path in paths)
        self.public_data = f"language model {self.filler.checkpoint.public_name}; the corpus of its texts, {names}"
        self._callback: Callable[[pa.Table], None] | None = None

    def listen(self, callback: Callable[[pa.Table], None] | None) -> None:
        """See ``pe.protocols.Piecemeal``."""
        self._callback = callback

    def random(self, n: int, label: int, rng: np.random.Generator) -> Population:
        rows, pool = self.facts.random(n, label, rng), self._pools[label]
        order = np.concatenate([rng.permutation(len(pool)) for _ in range(max(1, -(-n // len(pool))))])
        drawn = [pool[index] for index in order[:n]]
        if self.fresh > 0:
            drawn = self._varied(drawn, self.fresh, rows, rng)
        return Population.of(self.facts.records(drawn, rows), label, self.name)

    def vary(self, parents: Population, degree: float, rng: np.random.Generator) -> Population:
        rows = self.facts.vary(parents, degree, rng)
        texts = self._varied(self.facts.texts(parents), degree, rows, rng)
        return Population.of(self.facts.records(texts, rows), parents.labels, self.name)

    def _varied(
        self, texts: Sequence[str], degree: float, rows: pa.Table | None, rng: np.random.Generator
    ) -> list[str]:
        seeds = [[int(seed)] for seed in rng.integers(2**63, size=len(texts))]
        found = list(texts)
        filled = self.filler.filled(
            texts, degree, seeds, passes=self.passes, temperature=self.temperature, top_k=self.top_k
        )
        for index, text in filled:
            found[index] = text
            if self._callback is not None:
                self._callback(self.facts.records([text], None if rows is None else rows.slice(index, 1)))
        return found


def _pools(
    paths: Sequence[str | Path], column: str, label: str | Sequence[str] | None, schema: Schema
) -> list[list[str]]:
    """The texts of each label; raises ConfigError for a label without any."""
    pools: list[list[str]] = [[] for _ in range(len(schema.labels) + 1)]
    for path in paths:
        for text, code in zip(*labelled_texts(path, column, label, schema), strict=True):
            if text.strip():
                pools[code].append(text)
    found = [pool or pools[-1] for pool in pools[:-1]]
    for name, pool in zip(schema.labels, found, strict=True):
        if not pool:
            what = f"of label '{name}', and none without a label" if name else "at all"
            raise ConfigError(f"the corpus of the masked API holds no text {what}. Nothing was spent.")
    return found
