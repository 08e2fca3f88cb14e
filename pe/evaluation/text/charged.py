"""What one private text adds to figures that may be bought: whole numbers of bounded norm, whatever the others are.

classifiers   one to "right" or to "wrong" of each classifier trained on the synthetic texts.
next-token    the share of its tokens that a language model of the synthetic texts guesses, and the rest.
recall        one to "within" or to "outside" the synthetic texts' balls (Kynkaanniemi et al. 2019).
lengths       one to a cell of lengths in words, between powers of two.
clusters      one to the nearest of the centres of clusters of the synthetic texts.

Everything else is a function of the synthetic texts. Vectors and scores are whole numbers and a text's are its own, so
what it adds is the same in any batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pe.data.arrays import to_numpy
from pe.data.labels import label_arrays
from pe.data.schema import Schema, Text
from pe.data.texts import word_count
from pe.errors import ConfigError
from pe.evaluation.learners import quietly
from pe.evaluation.tables import Field, generic
from pe.evaluation.text.classify import ExactLinear
from pe.evaluation.text.distribution import Vectors, radii, within
from pe.evaluation.text.embed import STEPS, Embeddings
from pe.evaluation.text.language import Tokens, WordPieces, predicted
from pe.evaluation.text.measure import LOGISTIC, SAMPLE
from pe.kernels.nearest import nearest
from pe.privacy.contribution import Contribution

PARTS = ("classifiers", "next-token", "recall", "lengths", "clusters")
"""What may be bought of a column of text."""

UNBOUNDED = ("precision", "mauve", "frechet", "energy", "two-sample", "distinct-n", "similarity", "memorisation")
"""What one record can move by any amount, or compares records with one another: never bought."""

GRID, CLUSTERS = 256, 16
"""Grid steps of one; clusters of synthetic texts."""

EDGES = 2 ** np.arange(11)
"""Words from which on a text counts in the next cell of lengths: 1, 2, 4, ... 1024."""


@dataclass(frozen=True)
class TextScores:
    """The scores of one column as ``pe.private.measure.Sparse``: every record adds at most one to each part."""

    schema: Schema
    column: Text
    parts: tuple[str, ...]
    labels: tuple[Field, ...]
    classifiers: tuple[ExactLinear, ...] = field(repr=False)
    tokens: list[Tokens] = field(repr=False)
    vectors_of: Embeddings = field(repr=False)
    points: Vectors = field(repr=False)
    reach: Vectors = field(repr=False)
    lengths: NDArray[np.int64] = field(repr=False)
    centres: NDArray[np.int32] = field(repr=False)
    grid: int = GRID

    name = "text scores"
    signed = False

    @classmethod
    def of(
        cls,
        schema: Schema,
        column: Text,
        texts: Sequence[str],
        labels: Sequence[tuple[Field, NDArray[np.int64]]],
        parts: Sequence[str],
        seed: int,
    ) -> TextScores:
        """From synthetic texts, and for each label column its codes, int64 (n,), -1 where missing."""
        rows = np.arange(len(texts))
        if len(texts) > SAMPLE:
            rows = np.sort(np.random.default_rng([seed, 0]).choice(len(texts), SAMPLE, replace=False))
        embed, chosen = Embeddings(), [texts[row] for row in rows.tolist()]
        points = embed(chosen)
        classifiers = []
        for label, codes in labels:
            if not (codes[rows] >= 0).any():
                raise ConfigError(f"target '{label.name}': no synthetic record has a value. Nothing was spent.")
            classifiers.append(ExactLinear.of(points, codes[rows]))
        tokens = WordPieces()(chosen)
        kept = [part for part in PARTS if part in parts]
        if not classifiers and "classifiers" in kept:
            kept.remove("classifiers")
        if not any(map(len, tokens)) and "next-token" in kept:
            kept.remove("next-token")
        if not kept:
            raise ConfigError("nothing is left to be bought: the texts have no label. Nothing was spent.")
        return cls(
            schema,
            column,
            tuple(kept),
            tuple(label for label, _ in labels),
            tuple(classifiers),
            tokens,
            embed,
            points,
            radii(points),
            _lengths(chosen),
            _centres(points, seed),
        )

    @property
    def _sizes(self) -> dict[str, int]:
        """Bins of each part."""
        every = {
            "classifiers": 2 * len(self.classifiers),
            "next-token": 2,
            "recall": 2,
            "lengths": len(EDGES) + 1,
            "clusters": len(self.centres),
        }
        return {part: every[part] for part in self.parts}

    @property
    def bins(self) -> int:
        return sum(self._sizes.values())

    @property
    def units(self) -> int:
        """The squared norm of what a record adds, in votes, at most."""
        return len(self.parts) + ("classifiers" in self.parts) * (len(self.classifiers) - 1)

    @property
    def bound_squared(self) -> int:
        return self.units * self.grid**2

    def contribution(self, norm: float | None) -> Contribution:
        return Contribution((1.0,) * self.units, norm, GRID)

    def vectors(self, table: pa.Table, labels: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        texts = to_numpy(table, self.column).tolist()
        points = self.vectors_of(texts) if len(texts) else np.empty((0, self.points.shape[1]))
        bins: list[NDArray[Any]] = []
        steps: list[NDArray[Any]] = []
        start, codes = 0, label_arrays(labels, self.schema)

        def one(places: NDArray[Any], counted: NDArray[np.bool_] | None = None) -> None:
            bins.append(start + places)
            steps.append(self.grid * (np.ones(len(texts)) if counted is None else counted))

        for part, size in self._sizes.items():
            if part == "classifiers":
                for number, (label, classifier) in enumerate(zip(self.labels, self.classifiers, strict=True)):
                    own = label.name in codes
                    values = codes[label.name] if own else to_numpy(table, self.schema.column(label.name))
                    truth = generic(values, label)
                    one(2 * number + (classifier(points) != truth), truth >= 0)
            elif part == "next-token":
                share, known = self._guessed(texts)
                right = np.rint(self.grid * share)
                bins += [np.full(len(texts), start), np.full(len(texts), start + 1)]
                steps += [np.where(known, right, 0), np.where(known, self.grid - right, 0)]
            elif part == "recall":
                one(~within(points, self.points, self.reach) if len(texts) else np.empty(0, np.bool_))
            elif part == "lengths":
                one(_cell(_lengths(texts)))
            else:
                one(self._nearest(points))
            start += size
        return np.stack(bins, axis=1).astype(np.int64), np.stack(steps, axis=1).astype(np.int64)

    def _guessed(self, texts: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """The share of each text's tokens that are guessed, and whether it has any."""
        pieces = WordPieces()
        tokens = pieces(texts) if texts else []
        sizes = np.array([len(each) for each in tokens], np.int64)
        if not sizes.sum():
            return np.zeros(len(texts)), np.zeros(len(texts), np.bool_)
        right, _ = predicted(self.tokens, tokens, pieces.size)
        counts = np.bincount(np.repeat(np.arange(len(texts)), sizes), right, len(texts))
        return counts / np.maximum(sizes, 1), sizes > 0

    def _nearest(self, points: Vectors) -> NDArray[np.int64]:
        if not len(points):
            return np.empty(0, np.int64)
        return nearest(points.astype(np.int32), self.centres)[:, 0].astype(np.int64)

    def estimates(self, sums: NDArray[np.float64], sigma: float, rng: np.random.Generator) -> dict[str, Any]:
        """The figures that noisy ``sums``, float64 (bins,) in votes, amount to, and how much the noise moves them."""
        found: dict[str, Any] = {}
        split = np.split(sums, np.cumsum(list(self._sizes.values()))[:-1])
        for (part, size), own in zip(self._sizes.items(), split, strict=True):
            if part == "classifiers":
                found["models"] = [
                    {"target": label.name, "model": LOGISTIC} | _share(pair, sigma, "accuracy")
                    for label, pair in zip(self.labels, own.reshape(-1, 2), strict=True)
                ]
            elif part == "next-token":
                found["next_token"] = _share(own, sigma, "accuracy") | {"average": "of each text's share"}
            elif part == "recall":
                found["recall"] = _share(own, sigma, "recall")
            else:
                cells = self._nearest(self.points) if part == "clusters" else _cell(self.lengths)
                made = np.bincount(cells, minlength=size) / len(cells)
                found[part] = _compared(own, made, sigma, rng)
                if part == "lengths":
                    found[part]["words_from"] = [0, *EDGES.tolist()]
        return found


def _share(pair: NDArray[np.float64], sigma: float, name: str) -> dict[str, float]:
    """The share that the first of two noisy counts is of both, and the standard deviation that noise gives it."""
    right, wrong = pair.tolist()
    n = max(1.0, right + wrong)
    return {name: min(max(0.5 + (right - wrong) / (2 * n), 0.0), 1.0), "noise_deviation": sigma / (math.sqrt(2) * n)}


def _compared(
    noisy: NDArray[np.float64], made: NDArray[np.float64], sigma: float, rng: np.random.Generator
) -> dict[str, Any]:
    """Total-variation distance of a noisy histogram of the real texts and the synthetic one, and what noise shows."""

    def distance(counts: NDArray[np.float64]) -> float:
        kept = np.maximum(counts, 0.0)
        total = float(kept.sum())
        return float(0.5 * np.abs((kept / total if total else 1 / len(kept)) - made).sum())

    n = max(1.0, float(noisy.sum()))
    floor = np.mean([distance(n * made + rng.normal(0, sigma, len(made))) for _ in range(50)])
    kept = np.maximum(noisy, 0.0)
    real = kept / kept.sum() if kept.sum() else np.full(len(kept), 1 / len(kept))
    shares = {"real": real.round(6).tolist(), "synthetic": made.round(6).tolist()}
    return {"distance": distance(noisy), "noise_floor": float(floor), **shares}


def _lengths(texts: Sequence[str]) -> NDArray[np.int64]:
    return np.array([word_count(text) for text in texts], np.int64)


def _cell(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.searchsorted(EDGES, lengths, side="right").astype(np.int64)


def _centres(points: Vectors, seed: int) -> NDArray[np.int32]:
    """Centres of clusters of synthetic texts, in whole numbers; all different."""
    from sklearn.cluster import KMeans

    distinct = np.unique(points, axis=0)
    if len(distinct) > CLUSTERS:
        model = quietly(KMeans(CLUSTERS, n_init=3, random_state=seed).fit, points / STEPS)
        distinct = np.unique(np.rint(model.cluster_centers_ * STEPS), axis=0)
    found: NDArray[np.int32] = distinct.astype(np.int32)
    return found
