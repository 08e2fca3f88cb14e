"""The columns of free text of aligned tables."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pe.evaluation.tables import Field, Tables
from pe.evaluation.text.corpus import Corpus
from pe.evaluation.text.embed import Embeddings
from pe.evaluation.text.figures import TextFigures
from pe.evaluation.text.measure import SAMPLE, measure

MOST_LABELS = 50
"""Values of a column that is taken for a label of texts though nobody named it."""


def measure_tables(
    tables: Tables, asked: bool, limit: int, seed: int, models: Mapping[str, Any]
) -> tuple[dict[str, TextFigures], list[str]]:
    """Metrics of every column of free text, and notes.

    asked   whether the tables' targets were named; else every column of few categories is a label of the texts.
    models  ``embeddings``, ``language_model`` and ``classifier`` of ``measure``.
    """
    embeddings = models["embeddings"] or Embeddings()
    if not tables.declared and embeddings.needs_model and find_spec("sentence_transformers") is None:
        hint = "free text is evaluated after pip install 'pe-synth[text]'"
        return {}, [f"column '{name}' was left out: {hint}" for name in tables.texts]
    known = [tables.field(name) for name in tables.targets] if asked else tables.fields
    labels = [field for field in known if field.values is not None and (asked or len(field.values) <= MOST_LABELS)]
    settings = {**models, "embeddings": embeddings}
    frames = {"synthetic": tables.synthetic, "test": tables.test, "train": tables.train, "holdout": tables.holdout}
    found: dict[str, TextFigures] = {}
    notes: list[str] = []
    for name, texts in tables.texts.items():
        corpora: dict[str, Any] = {
            role: Corpus.of(texts[role], {field.name: _named(frame[field.name], field) for field in labels})
            for role, frame in frames.items()
            if frame is not None
        }
        found[name] = measure(**corpora, **settings, sample=min(limit, SAMPLE), seed=seed)
        notes += [f"text '{name}': {note}" for note in found[name].notes]
    return found, notes


def _named(codes: NDArray[np.int64], field: Field) -> list[str | None]:
    names = [*(field.values or ()), None]  # a missing one is -1
    return [names[code] for code in codes.tolist()]
