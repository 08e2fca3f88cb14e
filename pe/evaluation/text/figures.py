"""What was measured on texts, as plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pe.evaluation.result import Utility
from pe.evaluation.text.language import NextToken
from pe.evaluation.text.memorisation import Distances, Memorisation


@dataclass(frozen=True)
class Fidelity:
    """Two samples of ``rows`` texts each, embedded; ``length_distance`` in words.

    two_sample  AUC of a classifier of embeddings that tells the samples apart, cross-validated; None with one text.
    """

    rows: int
    precision: float
    recall: float
    mauve: float
    frechet: float
    energy: float
    two_sample: float | None
    length_distance: float


@dataclass(frozen=True)
class Variety:
    """One group of texts; distinct n-grams and the Vendi score are those of as many n-grams and texts of each group.

    mean_words, median_words  of their lengths, in words without punctuation.
    empty       share of texts without any word or sign.
    similarity  mean cosine over pairs of texts; vendi: effective number of different texts.
    repeated    share of texts that equal another one of the group but for case and spacing.
    """

    mean_words: float
    median_words: float
    empty: float
    distinct: dict[str, float | None]
    similarity: float | None
    vendi: float
    repeated: float


@dataclass(frozen=True)
class Shown:
    """What a report draws of texts; in no file of numbers.

    lengths    words of every text, by role; punctuation is none.
    map        embeddings by role, float64 (n, 2): the two directions in which the test texts vary most.
    explained  shares of the test texts' variance in these.
    examples   synthetic texts, drawn: the words before, within and after the longest span that stands in a training
               record (without training records: all of it, "", "").
    copied     the same of the texts with the longest such spans.
    """

    lengths: dict[str, NDArray[np.int64]]
    map: dict[str, NDArray[np.float64]]
    explained: tuple[float, float]
    distances: Distances | None
    examples: tuple[tuple[str, str, str], ...]
    copied: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class TextFigures:
    """All that was measured on one column of text. **Not private**: real texts enter without noise.

    labels         per label column: classifiers of embeddings (or of text), trained on synthetic, tested on real texts.
    language       by what the language model was trained on: "synthetic", "train"; tested on real texts.
    fidelity       "synthetic to test", and "train to test": what real texts show between them.
    variety        by role: "synthetic", "test", "train".
    memorisation   None without training records.
    """

    rows: dict[str, int]
    labels: tuple[Utility, ...]
    language: dict[str, NextToken]
    fidelity: dict[str, Fidelity]
    variety: dict[str, Variety]
    memorisation: Memorisation | None
    notes: tuple[str, ...]
    shown: Shown = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "labels": [each.to_dict() for each in self.labels],
            "next_token": {name: asdict(each) for name, each in self.language.items()},
            "fidelity": {name: asdict(each) for name, each in self.fidelity.items()},
            "variety": {name: asdict(each) for name, each in self.variety.items()},
            "memorisation": None if self.memorisation is None else self.memorisation.to_dict(),
            "notes": list(self.notes),
        }

    def headline(self) -> dict[str, float]:
        """One number per metric, for tables of several runs."""
        own = self.fidelity["synthetic to test"]
        kinds = ("accuracy", "auc")  # accuracy alone says little where one label is most common
        scores = {f"{kind} of {each.target}": each.mean("synthetic", kind) for each in self.labels for kind in kinds}
        found = {name: score for name, score in scores.items() if score is not None}
        if "synthetic" in self.language:
            found |= {"next token": self.language["synthetic"].accuracy, "bits": self.language["synthetic"].bits}
        found |= {"precision": own.precision, "recall": own.recall, "mauve": own.mauve, "frechet": own.frechet}
        found |= {"energy": own.energy, "length distance": own.length_distance}
        found |= {} if own.two_sample is None else {"two-sample": own.two_sample}
        made = self.variety["synthetic"]
        found |= {f"distinct-{n}": share for n, share in made.distinct.items() if share is not None}
        found |= {"vendi": made.vendi}
        if made.similarity is not None:
            found["similarity"] = made.similarity
        if self.memorisation is not None:
            found["nearer to train"] = self.memorisation.nearer
            found["longer spans of train"] = self.memorisation.longer
        return found
