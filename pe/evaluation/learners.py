"""Models trained on one table and tested on another: utility (train on synthetic, test on real), and the C2ST.

Rules that make every table a possible one: a column's categories are those of the training table, at most
``MOST_COLUMNS`` columns of zeros and ones in all (the most frequent categories); a missing number is the training
table's mean with a column that says so; a training table with one class, or one record, predicts that; classes that
training lacks are never predicted and score 0; only classes that the test table has enter averages over classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from pe.errors import ConfigError
from pe.evaluation.tables import Field, Frame

MOST_COLUMNS = 500
"""Zero-one columns that the categories of all columns together may take."""

FURTHEST = 1e6
"""Standard deviations beyond which a number is not told apart: forests compute in float32."""

SMALL_CLASS = 10
"""Boosting stops early on a validation part; not where a class has fewer records than this."""


def require_sklearn() -> None:
    """Raise ConfigError unless scikit-learn is installed."""
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise ConfigError("pe evaluate needs scikit-learn: pip install 'pe-synth[evaluate]'.") from None


@dataclass(frozen=True)
class Encoding:
    """Records as vectors: zero-one columns for categories, numbers scaled to mean 0 and variance 1 over training."""

    categories: tuple[tuple[str, NDArray[np.int64]], ...]
    numbers: tuple[tuple[str, float, float, bool], ...]

    @classmethod
    def of(cls, training: Frame, fields: Sequence[Field]) -> Encoding:
        categorical = [field for field in fields if field.values is not None]
        room = max(2, MOST_COLUMNS // max(len(categorical), 1))
        categories, numbers = [], []
        for field in fields:
            values = training[field.name]
            if field.values is None:
                there = values[np.isfinite(values)]
                spread = float(there.std()) if len(there) and there.min() < there.max() else 1.0
                mean = float(there.mean()) if len(there) else 0.0
                numbers.append((field.name, mean, spread or 1.0, len(there) < len(values)))
            else:
                found, counts = np.unique(values, return_counts=True)
                kept = np.sort(np.argsort(-counts, kind="stable")[:room])
                categories.append((field.name, found[kept]))
        return cls(tuple(categories), tuple(numbers))

    @property
    def width(self) -> int:
        return sum(len(kept) for _, kept in self.categories) + sum(1 + gaps for *_, gaps in self.numbers)

    def __call__(self, frame: Frame) -> NDArray[np.float64]:
        """float64 (n, width); each row depends on its record alone."""
        matrix = np.zeros((frame.rows, max(self.width, 1)))
        start = 0
        for name, kept in self.categories:
            place = np.searchsorted(kept, frame[name])
            known = kept[np.minimum(place, len(kept) - 1)] == frame[name]
            matrix[np.flatnonzero(known), start + place[known]] = 1.0
            start += len(kept)
        for name, mean, spread, gaps in self.numbers:
            there = np.isfinite(frame[name])
            scaled = (np.where(there, frame[name], mean) - mean) / spread
            matrix[:, start] = np.clip(scaled, -FURTHEST, FURTHEST)
            if gaps:
                matrix[:, start + 1] = ~there
            start += 1 + gaps
        return matrix


CLASSIFIERS = ("logistic regression", "random forest", "gradient boosting")
REGRESSORS = ("ridge", "random forest", "gradient boosting")


def _makers(classes: int, smallest: int, seed: int) -> dict[str, Callable[[], Any]]:
    """Unfitted models by name; ``classes`` is 0 for regression. Rounds of boosting fall with the number of classes."""
    from sklearn import ensemble, linear_model

    rounds = min(100, max(10, 2000 // max(classes, 1)))
    boosting = {
        "random_state": seed,
        "max_iter": rounds,
        "early_stopping": "auto" if smallest >= SMALL_CLASS else False,
    }
    forest = {"n_estimators": 200, "random_state": seed, "n_jobs": -1}
    if classes:
        return {
            "logistic regression": lambda: linear_model.LogisticRegression(max_iter=500),
            "random forest": lambda: ensemble.RandomForestClassifier(**forest),
            "gradient boosting": lambda: ensemble.HistGradientBoostingClassifier(**boosting),
        }
    return {
        "ridge": lambda: linear_model.Ridge(),
        "random forest": lambda: ensemble.RandomForestRegressor(**forest),
        "gradient boosting": lambda: ensemble.HistGradientBoostingRegressor(**boosting),
    }


def quietly(action: Callable[..., Any], *arguments: Any) -> Any:
    with warnings.catch_warnings():  # convergence and the like say nothing about the table
        warnings.simplefilter("ignore")
        return action(*arguments)


@dataclass(frozen=True)
class Classifier:
    """A fitted classifier over the codes 0 .. classes - 1; ``model`` is None where training held one class."""

    encoding: Encoding
    classes: int
    model: Any
    constant: int = 0

    def probabilities(self, frame: Frame) -> NDArray[np.float64]:
        """float64 (n, classes)."""
        found = np.zeros((frame.rows, self.classes))
        if self.model is None:
            found[:, self.constant] = 1.0
        else:
            found[:, self.model.classes_] = quietly(self.model.predict_proba, self.encoding(frame))
        return found


def train_classifiers(training: Frame, target: Field, fields: Sequence[Field], seed: int) -> dict[str, Classifier]:
    """Classifiers of ``target`` from all other columns; records whose class is missing are left out.

    Empty where no record is left.
    """
    assert target.values is not None
    features = [field for field in fields if field.name != target.name]
    training = training.take(np.flatnonzero(training[target.name] >= 0))
    if training.rows == 0:
        return {}
    encoding, labels = Encoding.of(training, features), training[target.name]
    found, counts = np.unique(labels, return_counts=True)
    if len(found) < 2:
        return {name: Classifier(encoding, len(target.values), None, int(found[0])) for name in CLASSIFIERS}
    matrix, models = encoding(training), _makers(len(found), int(counts.min()), seed)
    return {
        name: Classifier(encoding, len(target.values), quietly(make().fit, matrix, labels))
        for name, make in models.items()
    }


def classification(predicted: NDArray[np.float64], labels: NDArray[np.int64]) -> dict[str, float | None]:
    """Accuracy, macro F1 and macro one-versus-rest AUC of class scores (n, classes) against codes (n,).

    F1 and AUC are averaged over the classes among ``labels``; AUC is None where there is only one.
    """
    guesses, present = predicted.argmax(axis=1), np.unique(labels)
    f1 = []
    for label in present:
        hits = float(((guesses == label) & (labels == label)).sum())
        f1.append(2 * hits / float((guesses == label).sum() + (labels == label).sum()))
    areas = [auc(predicted[:, label], labels == label) for label in present] if len(present) > 1 else []
    return {
        "accuracy": float((guesses == labels).mean()),
        "f1": float(np.mean(f1)),
        "auc": float(np.mean(areas)) if areas else None,
    }


def auc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve, ties counted half (Hanley and McNeil 1982)."""
    n = int(positive.sum())
    above = float(rankdata(scores)[positive].sum()) - n * (n + 1) / 2
    return above / (n * (len(positive) - n))


@dataclass(frozen=True)
class Regressor:
    """A fitted regressor; ``model`` is None where the training target was constant."""

    encoding: Encoding
    model: Any
    constant: float = 0.0

    def predict(self, frame: Frame) -> NDArray[np.float64]:
        """float64 (n,)."""
        if self.model is None:
            return np.full(frame.rows, self.constant)
        found: NDArray[np.float64] = quietly(self.model.predict, self.encoding(frame))
        return found


def train_regressors(training: Frame, target: Field, fields: Sequence[Field], seed: int) -> dict[str, Regressor]:
    """Regressors of ``target`` from all other columns; records without a target are left out.

    Empty where no record is left.
    """
    features = [field for field in fields if field.name != target.name]
    training = training.take(np.flatnonzero(np.isfinite(training[target.name])))
    if training.rows == 0:
        return {}
    encoding, wanted = Encoding.of(training, features), training[target.name]
    if wanted.min() == wanted.max():
        return {name: Regressor(encoding, None, float(wanted[0])) for name in REGRESSORS}
    matrix = encoding(training)
    return {
        name: Regressor(encoding, quietly(make().fit, matrix, wanted))
        for name, make in _makers(0, training.rows, seed).items()
    }


def regression(predicted: NDArray[np.float64], wanted: NDArray[np.float64]) -> dict[str, float | None]:
    """R2 and RMSE."""
    squared = float(((predicted - wanted) ** 2).mean())
    variance = float(wanted.var())
    defined = wanted.min() < wanted.max() and variance > 0
    return {"r2": 1 - squared / variance if defined else None, "rmse": float(np.sqrt(squared))}


MOST_RANKS = 250
"""Categories of a column that the two-sample test tells apart, the most frequent ones; boosting takes 255."""


MOST_COMPARED = 5000
"""Records of each table in the two-sample test: its AUC then has a standard error below 0.006."""


def _ranked(codes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Codes by falling frequency, those beyond ``MOST_RANKS`` as one; float64 (n,)."""
    _, places, counts = np.unique(codes, return_inverse=True, return_counts=True)
    ranks = np.empty(len(counts))
    ranks[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    found: NDArray[np.float64] = np.minimum(ranks[places], MOST_RANKS)
    return found


@dataclass(frozen=True)
class TwoSample:
    """How well gradient boosting tells synthetic from real records: AUC over cross-validated scores, 0.5 is best.

    ``deviation`` is the standard deviation over the folds; ``rows`` is how many records of each table took part.
    """

    auc: float
    deviation: float
    folds: int
    rows: int


def two_sample(
    synthetic: Frame, real: Frame, fields: Sequence[Field], limit: int, seed: int, most: int = 5
) -> TwoSample | None:
    """Classifier two-sample test (Lopez-Paz and Oquab 2017) on equally many records of both tables.

    Up to five folds; None with fewer than two records in one of the tables.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    rng = np.random.default_rng([seed, 1])
    n = min(synthetic.rows, real.rows, limit, MOST_COMPARED)
    folds = min(most, n)
    if folds < 2:
        return None
    parts = [frame.take(rng.permutation(frame.rows)[:n]) for frame in (synthetic, real)]
    both = Frame({f.name: np.concatenate([part[f.name] for part in parts]) for f in fields}, 2 * n)
    is_real = np.repeat([False, True], n)
    matrix = np.stack([_ranked(both[f.name]) if f.values is not None else both[f.name] for f in fields], axis=1)
    categorical = [f.values is not None for f in fields]
    fold = np.tile(np.arange(n) % folds, 2)  # stratified, as both parts are in random order
    areas = []
    for number in range(folds):
        held = fold == number
        model = HistGradientBoostingClassifier(
            random_state=seed, early_stopping=False, categorical_features=categorical
        )
        missing = np.isnan(matrix[~held]).all(axis=0)  # scikit-learn cannot bin a column without a number
        known = np.where(missing, 0.0, matrix)
        quietly(model.fit, known[~held], is_real[~held])
        areas.append(auc(quietly(model.predict_proba, known[held])[:, 1], is_real[held]))
    return TwoSample(float(np.mean(areas)), float(np.std(areas)), folds, n)
