"""Classifiers of text: logistic regression on embeddings, trained on synthetic texts and tested on real ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pe.evaluation.learners import auc, classification, quietly
from pe.evaluation.text.distribution import Vectors
from pe.evaluation.text.embed import STEPS

INVERSE_PENALTY = 1.0
"""scikit-learn's C, its default, for vectors of unit length: higher ones predict worse from a few hundred texts."""

Codes = NDArray[np.int64]


def codes(*groups: Sequence[str | None]) -> tuple[tuple[str, ...], list[Codes]]:
    """All values in order, and each group as positions among them; -1 where missing."""
    values = tuple(sorted({value for group in groups for value in group if value is not None}))
    place = {value: number for number, value in enumerate(values)}
    return values, [np.array([-1 if each is None else place[each] for each in group], np.int64) for group in groups]


def logistic(vectors: Vectors, labels: Codes, classes: int) -> Any:
    """A function from vectors to class probabilities, float64 (n, classes). One class in training predicts that.

    Records whose label is missing are left out; None where no record is left.
    """
    from sklearn.linear_model import LogisticRegression

    vectors, labels = vectors[labels >= 0] / STEPS, labels[labels >= 0]
    if not len(labels):
        return None
    known = np.unique(labels)
    model = None
    if len(known) > 1:
        model = quietly(LogisticRegression(C=INVERSE_PENALTY, max_iter=1000).fit, vectors, labels)

    def probabilities(asked: Vectors) -> NDArray[np.float64]:
        found = np.zeros((len(asked), classes))
        found[:, known] = 1.0 if model is None else model.predict_proba(asked / STEPS)
        return found

    return probabilities


@dataclass(frozen=True)
class ExactLinear:
    """A linear classifier in whole numbers: the code it predicts for a vector depends on that vector alone.

    weights, intercept  float64 (outputs, d) and (outputs,), whole numbers so small that every sum is exact; one output
                        of two classes is positive for the second. None where training held one class.
    """

    known: Codes
    weights: NDArray[np.float64] | None = None
    intercept: NDArray[np.float64] | None = None

    @classmethod
    def of(cls, vectors: Vectors, labels: Codes) -> ExactLinear:
        """Logistic regression as in ``logistic``; labels are codes, at least one of them not missing."""
        from sklearn.linear_model import LogisticRegression

        vectors, labels = vectors[labels >= 0] / STEPS, labels[labels >= 0]
        known = np.unique(labels)
        if len(known) < 2:
            return cls(known)
        model = quietly(LogisticRegression(C=INVERSE_PENALTY, max_iter=1000).fit, vectors, labels)
        weights, intercept = np.asarray(model.coef_, np.float64), np.asarray(model.intercept_, np.float64)
        largest = STEPS * float((np.abs(weights).sum(axis=1) + np.abs(intercept)).max())
        scale = 2.0 ** math.floor(math.log2(2**51 / max(largest, 1e-9)))
        return cls(known, np.rint(weights * scale), np.rint(intercept * scale * STEPS))

    def __call__(self, vectors: Vectors) -> Codes:
        """int64 (n,) for whole numbers (n, d)."""
        if self.weights is None or self.intercept is None:
            return np.full(len(vectors), self.known[0])
        scores = vectors @ self.weights.T + self.intercept
        place = (scores[:, 0] > 0).astype(np.int64) if scores.shape[1] == 1 else scores.argmax(axis=1)
        found: Codes = self.known[place]
        return found


def two_sample(made: Vectors, real: Vectors, rng: np.random.Generator) -> float | None:
    """Classifier two-sample test (Lopez-Paz and Oquab 2017): AUC of telling two samples of one size apart; 0.5 is best.

    Logistic regression over five folds, fewer for fewer texts; None for one text.
    """
    n = len(made)
    folds = min(5, n)
    if folds < 2:
        return None
    points = np.concatenate([made[rng.permutation(n)], real[rng.permutation(n)]])
    is_real, fold = np.repeat([False, True], n), np.tile(np.arange(n) % folds, 2)
    areas = []
    for number in range(folds):
        held = fold == number
        model = logistic(points[~held], is_real[~held].astype(np.int64), 2)
        areas.append(auc(model(points[held])[:, 1], is_real[held]))
    return float(np.mean(areas))


def majority(labels: Codes, test: Codes, classes: int) -> dict[str, float | None] | None:
    """Scores of the shares of the classes among ``labels`` as a guess for every test text; None without labels."""
    labels = labels[labels >= 0]
    if not len(labels):
        return None
    shares = np.bincount(labels, minlength=classes) / len(labels)
    return classification(np.tile(shares, (len(test), 1)), test)
