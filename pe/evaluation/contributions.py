"""What one private record adds to the scores of models: whole numbers of bounded norm, whatever the others are.

classes  one to "right" or to "wrong" of each classifier.
numbers  the squared error of each regressor; and, once per target, the squared deviation of the value from the
         synthetic mean, and the deviation itself as two parts that add up to one. All are clipped at a ``reach`` and
         given as shares of it: the norm of each is at most one.

A record whose target is missing adds nothing for it. Every prediction depends on its record alone: forests and boosting
sum over trees, record by record, and linear models, whose matrix products would round differently in another batch, are
computed in integers.
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
from pe.data.schema import Schema
from pe.errors import ConfigError
from pe.evaluation import learners
from pe.evaluation.tables import Field, Frame, generic
from pe.privacy.contribution import Contribution

STEPS = 256
"""Grid steps of a squared error at full reach."""

_FEATURE_STEPS, _MOST_SPREADS = 2**10, 2**6

_DRAWS = 400
"""Draws of the noise from which the deviation of a figure is estimated."""


@dataclass(frozen=True)
class Scale:
    """A numeric target as models are scored on it: deviations from ``middle``, clipped at ``reach``."""

    target: str
    middle: float
    reach: float

    @classmethod
    def of(cls, target: Field, frame: Frame) -> Scale:
        """The synthetic mean, and how far the central 99 % of the synthetic values lie from it."""
        values = frame[target.name]
        values = values[np.isfinite(values)]
        middle = float(values.mean())
        low, high = np.quantile(values, [0.005, 0.995])
        width = 1.0 if target.domain is None else target.domain[1] - target.domain[0]
        return cls(target.name, middle, max(float(high) - middle, middle - float(low)) or width or 1.0)

    def share(self, differences: NDArray[np.float64]) -> NDArray[np.float64]:
        """In [-1, 1]."""
        return np.clip(differences / self.reach, -1.0, 1.0)


@dataclass(frozen=True)
class ModelScores:
    """The scores of all models as ``pe.private.measure.Features``: a public map of each record, whatever its batch.

    Bins: right and wrong of each classifier; the squared error of each regressor; for each numeric target the squared
    deviation, and the deviation's two parts.
    """

    schema: Schema
    fields: tuple[Field, ...]
    classifiers: tuple[tuple[str, str, learners.Classifier], ...] = field(repr=False)
    regressors: tuple[tuple[Scale, str, learners.Regressor], ...] = field(default=(), repr=False)
    scales: tuple[Scale, ...] = ()
    grid: int = 1

    name = "model scores"
    signed = False

    @classmethod
    def of(
        cls, schema: Schema, fields: Sequence[Field], targets: Sequence[str], frame: Frame, seed: int
    ) -> ModelScores:
        """Train the models of all targets on synthetic records."""
        classifiers, regressors, scales = [], [], []
        for name in targets:
            target = next((field for field in fields if field.name == name), None)
            if target is None:
                schema.column(name)
                raise ConfigError(f"target '{name}' is neither numbers nor categories. Nothing was spent.")
            if target.values is None:
                numeric = learners.train_regressors(frame, target, fields, seed)
                if numeric:
                    scales.append(Scale.of(target, frame))
                    regressors += [(scales[-1], kind, model) for kind, model in numeric.items()]
            else:
                trained = learners.train_classifiers(frame, target, fields, seed)
                classifiers += [(name, kind, model) for kind, model in trained.items()]
            if not any(each[0] == name for each in classifiers) and not any(each.target == name for each in scales):
                raise ConfigError(f"target '{name}': no synthetic record has a value. Nothing was spent.")
        fitted = [classifier.model for *_, classifier in classifiers] + [model.model for *_, model in regressors]
        for model in fitted:
            if hasattr(model, "n_jobs"):
                model.set_params(n_jobs=1)  # trees are summed in their order
        return cls(schema, tuple(fields), tuple(classifiers), tuple(regressors), tuple(scales))

    @property
    def units(self) -> int:
        """The squared norm of what a record adds, in votes, at most."""
        return len(self.classifiers) + len(self.regressors) + 2 * len(self.scales)

    def contribution(self, norm: float | None) -> Contribution:
        weights = (1.0,) * self.units
        return Contribution(weights, norm, STEPS) if self.scales else Contribution.of(weights, norm)

    @property
    def bins(self) -> int:
        return 2 * len(self.classifiers) + len(self.regressors) + 3 * len(self.scales)

    @property
    def bound_squared(self) -> int:
        return self.units * self.grid**2

    def vectors(self, table: pa.Table, labels: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        columns, label = {}, label_arrays(labels, self.schema)
        for each in self.fields:
            own = each.name in label
            values = label[each.name] if own else to_numpy(table, self.schema.column(each.name))
            columns[each.name] = generic(values, each)
        frame = Frame(columns, table.num_rows)
        bins: list[NDArray[np.int64]] = []
        steps: list[NDArray[Any]] = []
        for number, (target, kind, classifier) in enumerate(self.classifiers):
            held = frame[target] >= 0
            bins.append(2 * number + (predicted_codes(kind, classifier, frame) != frame[target]))
            steps.append(held * self.grid)
        place = 2 * len(self.classifiers)

        def add(shares: NDArray[Any]) -> None:
            bins.append(np.full(frame.rows, place + len(steps) - len(self.classifiers)))
            steps.append(shares)

        for scale, kind, regressor in self.regressors:
            wanted = frame[scale.target]
            held = np.isfinite(wanted)
            error = scale.share(predicted_numbers(kind, regressor, frame) - np.where(held, wanted, 0.0))
            add(np.where(held, np.rint(self.grid * error**2), 0))
        for scale in self.scales:
            wanted = frame[scale.target]
            held = np.isfinite(wanted)
            deviation = scale.share(np.where(held, wanted, scale.middle) - scale.middle)
            above = np.rint(self.grid * (1 + deviation) / 2)
            add(np.where(held, np.rint(self.grid * deviation**2), 0))
            add(np.where(held, above, 0))
            add(np.where(held, self.grid - above, 0))
        return np.stack(bins, axis=1).astype(np.int64), np.stack(steps, axis=1).astype(np.int64)

    def estimates(self, sums: NDArray[np.float64], sigma: float, rng: np.random.Generator) -> list[dict[str, Any]]:
        """The scores that noisy ``sums``, float64 (bins,) in votes, amount to, and how much the noise moves them."""
        lines: list[dict[str, Any]] = []
        split = 2 * len(self.classifiers)
        counts = sums[:split].reshape(-1, 2)
        for (target, name, _), (right, wrong) in zip(self.classifiers, counts.tolist(), strict=True):
            own = [each == target for each, *_ in self.classifiers]
            n = max(1.0, float(counts[own].sum()) / sum(own))
            accuracy = min(max(0.5 + (right - wrong) / (2 * n), 0.0), 1.0)
            noise = sigma / (math.sqrt(2) * n)
            lines.append({"target": target, "model": name, "accuracy": accuracy, "noise_deviation": noise})
        errors, moments = np.split(sums[split:], [len(self.regressors)])
        for place, (scale, name, _) in enumerate(self.regressors):
            start = 3 * self.scales.index(scale)
            given = np.concatenate([errors[place : place + 1], moments[start : start + 3]])
            rmse, r2 = _regression(given[None], scale)
            noisy = _regression(given + rng.normal(0, sigma, (_DRAWS, 4)), scale)
            lines.append(
                {
                    "target": scale.target,
                    "model": name,
                    "rmse": float(rmse[0]),
                    "r2": None if math.isnan(r2[0]) else float(r2[0]),
                    "noise_deviation": {"rmse": float(noisy[0].std()), "r2": _deviation(noisy[1])},
                    "clipped_at": scale.reach,
                }
            )
        return lines


def _regression(sums: NDArray[np.float64], scale: Scale) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """RMSE and R2 (NaN where no variance is seen) of sums (n, 4): squared error, squared deviation, its two parts."""
    error, squared, above, below = sums.T
    n = np.maximum(above + below, 1.0)
    variance = squared / n - ((above - below) / n) ** 2
    error = np.maximum(error, 0.0) / n
    r2 = np.where(variance > 0, 1 - error / np.where(variance > 0, variance, 1.0), np.nan)
    return scale.reach * np.sqrt(error), r2


def _deviation(values: NDArray[np.float64]) -> float | None:
    """None where the noise often leaves no variance to explain."""
    known = values[np.isfinite(values)]
    return float(known.std()) if len(known) > 0.9 * len(values) else None


# -- predictions that depend on their record alone -----------------------------------------------------------------


def predicted_codes(kind: str, model: learners.Classifier, frame: Frame) -> NDArray[np.int64]:
    """The predicted code of each record, int64 (n,)."""
    if kind != "logistic regression" or model.model is None or frame.rows == 0:
        found: NDArray[np.int64] = model.probabilities(frame).argmax(axis=1).astype(np.int64)
        return found
    scores, _ = _linear(model.encoding(frame), model.model.coef_, model.model.intercept_)
    place = (scores[:, 0] > 0).astype(np.int64) if scores.shape[1] == 1 else scores.argmax(axis=1)
    codes: NDArray[np.int64] = np.asarray(model.model.classes_, np.int64)[place]
    return codes


def predicted_numbers(kind: str, model: learners.Regressor, frame: Frame) -> NDArray[np.float64]:
    """The predicted number of each record, float64 (n,)."""
    if kind != "ridge" or model.model is None or frame.rows == 0:
        return model.predict(frame)
    scores, unit = _linear(model.encoding(frame), model.model.coef_, model.model.intercept_)
    return scores[:, 0] / unit


def _linear(encoded: NDArray[np.float64], weights: Any, intercept: Any) -> tuple[NDArray[np.float64], float]:
    """Whole numbers float64 (n, outputs) that are ``unit`` times the model's scores.

    Features and weights are rounded to integers so small that no sum leaves float64's exact range.
    """
    weights, intercept = (
        np.atleast_2d(np.asarray(weights, np.float64)),
        np.atleast_1d(np.asarray(intercept, np.float64)),
    )
    largest = float((np.abs(weights).sum(axis=1) * _MOST_SPREADS + np.abs(intercept)).max()) * _FEATURE_STEPS
    scale = 2.0 ** math.floor(math.log2(2**51 / max(largest, 1e-9)))
    features = np.rint(np.clip(encoded, -_MOST_SPREADS, _MOST_SPREADS) * _FEATURE_STEPS)
    scores: NDArray[np.float64] = features @ np.rint(weights * scale).T + np.rint(intercept * scale * _FEATURE_STEPS)
    return scores, scale * _FEATURE_STEPS
