"""Distance to the closest record: are synthetic records nearer to the training records than to unseen ones?

Records are compared over all columns. Two categories that differ are one apart, two numbers the part of the range of
train and holdout together that lies between them, and the distance of records is the root of the summed squares. It is
computed on integers, exactly, so that equal records are at 0 and ties are ties.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pe.evaluation.tables import Field, Frame
from pe.kernels.nearest import nearest

STEPS = 2**16
"""Integer steps of a number's range: few enough for exact distances over thousands of columns."""

_HALF = round(STEPS / math.sqrt(2))  # two one-hot vectors of this length are STEPS apart

MOST_COLUMNS = 500
"""Categories that all columns together may tell apart here; of each column, those beyond its most frequent are one."""

CHUNK = 2**16
"""Synthetic records looked for among real ones at a time."""

MOST_QUERIES = 3000
"""Synthetic records whose closest records are sought."""


@dataclass(frozen=True)
class Closeness:
    """Comparison of synthetic records with equally many training and holdout records.

    share         of synthetic records nearer to train than to the holdout, ties counted half; 0.5 is no memorisation.
    interval      95 % Wilson score interval of it, over the choice of synthetic records: train and holdout are given.
    duplicates    share of synthetic records that equal a record of train, of the holdout.
    to_train, to_holdout   distances of the synthetic records, float64 (queries,).
    between       distances of the holdout records to train: what unseen real records show, float64 (m,).
    """

    share: float
    interval: tuple[float, float]
    duplicates: dict[str, float]
    rows: dict[str, int]
    to_train: NDArray[np.float64] = field(repr=False)
    to_holdout: NDArray[np.float64] = field(repr=False)
    between: NDArray[np.float64] = field(repr=False)

    def to_dict(self) -> dict[str, object]:
        def quantiles(distances: NDArray[np.float64]) -> dict[str, float]:
            return {f"{level:g}": float(np.quantile(distances, level)) for level in (0.0, 0.05, 0.5)}

        return {
            "share_nearer_to_train": self.share,
            "interval": list(self.interval),
            "duplicates": self.duplicates,
            "rows": self.rows,
            "distance_quantiles": {
                "synthetic to train": quantiles(self.to_train),
                "synthetic to holdout": quantiles(self.to_holdout),
                "holdout to train": quantiles(self.between),
            },
        }


def closeness(
    synthetic: Frame, train: Frame, holdout: Frame, fields: Sequence[Field], limit: int, seed: int
) -> Closeness:
    """Compare with ``min(train, holdout, limit)`` records of each, and at most ``MOST_QUERIES`` synthetic ones."""
    rng = np.random.default_rng([seed, 2])
    m = min(train.rows, holdout.rows, limit)
    train, holdout = train.sample(m, rng), holdout.sample(m, rng)
    repeats = {
        "train": _repeated(synthetic, train, fields),
        "holdout": _repeated(synthetic, holdout, fields),
    }
    queries = synthetic.sample(MOST_QUERIES, rng)
    points = _Points(train, holdout, fields)
    at, near_train, near_holdout = points(queries), points(train), points(holdout)
    to_train, to_holdout = _squared(at, near_train), _squared(at, near_holdout)
    between = _squared(near_holdout[:MOST_QUERIES], near_train)
    wins = float((to_train < to_holdout).sum() + 0.5 * (to_train == to_holdout).sum())
    roots = [np.sqrt(squared) / STEPS for squared in (to_train, to_holdout, between)]
    return Closeness(
        wins / queries.rows,
        wilson(wins, queries.rows),
        repeats,
        {"synthetic": queries.rows, "train": m, "holdout": m},
        *roots,
    )


def wilson(successes: float, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Score interval of a binomial share (Wilson 1927); 95 % by default."""
    share, tail = successes / n, z * z / n
    middle, reach = share + tail / 2, z * math.sqrt(share * (1 - share) / n + tail / (4 * n))
    return max(0.0, (middle - reach) / (1 + tail)), min(1.0, (middle + reach) / (1 + tail))


class _Points:
    """Records as integer vectors; each depends on its record and the ranges alone."""

    def __init__(self, train: Frame, holdout: Frame, fields: Sequence[Field]) -> None:
        self.parts: list[tuple[Field, float, float, NDArray[np.int64]]] = []
        room = max(2, MOST_COLUMNS // max(sum(each.values is not None for each in fields), 1))
        for each in fields:
            values = np.concatenate([train[each.name], holdout[each.name]])
            if each.values is None:
                there = values[np.isfinite(values)]
                low, high = (float(there.min()), float(there.max())) if len(there) else (0.0, 0.0)
                self.parts.append((each, low, (high - low) or 1.0, np.empty(0, np.int64)))
            else:
                found, counts = np.unique(values, return_counts=True)
                kept = np.sort(found[np.argsort(-counts, kind="stable")[:room]])
                self.parts.append((each, 0.0, 1.0, kept))

    def __call__(self, frame: Frame) -> NDArray[np.int32]:
        """int32 (n, d). A missing number lies in the middle of the range, a category away from those that are there."""
        rows, columns = np.arange(frame.rows), []
        for each, low, width, kept in self.parts:
            values = frame[each.name]
            if each.values is None:
                there = np.isfinite(values)
                scaled = np.rint((np.where(there, values, low) - low) / width * STEPS)
                # far outside the range is far enough: bounded, so that the search stays exact
                number = np.where(there, np.clip(scaled, -4 * STEPS, 5 * STEPS), STEPS // 2)
                columns.append(number.astype(np.int32)[:, None])
                columns.append(np.where(there, 0, STEPS).astype(np.int32)[:, None])
            else:
                place = np.searchsorted(kept, values)
                known = kept[np.minimum(place, len(kept) - 1)] == values
                block = np.zeros((frame.rows, len(kept) + 1), np.int32)
                block[rows, np.where(known, place, len(kept))] = _HALF
                columns.append(block)
        return np.concatenate(columns, axis=1)


def _squared(queries: NDArray[np.int32], points: NDArray[np.int32]) -> NDArray[np.int64]:
    """Squared distance of each query to its closest point, int64 (n,)."""
    found = points[nearest(queries, points)[:, 0]]
    gaps = queries.astype(np.int64) - found
    squared: NDArray[np.int64] = np.einsum("ij,ij->i", gaps, gaps)
    return squared


def _repeated(synthetic: Frame, real: Frame, fields: Sequence[Field]) -> float:
    """The share of synthetic records that equal some real record in every column; missing equals missing."""

    def keys(frame: Frame) -> NDArray[np.void]:
        columns = [
            frame[each.name].astype(np.int64) if each.values is not None else _bits(frame[each.name]) for each in fields
        ]
        table = np.ascontiguousarray(np.stack(columns, axis=1))
        return table.view(np.dtype((np.void, table.dtype.itemsize * table.shape[1])))[:, 0]

    known, same = np.unique(keys(real)), 0
    for start in range(0, synthetic.rows, CHUNK):
        part = keys(synthetic.take(np.arange(start, min(start + CHUNK, synthetic.rows))))
        place = np.minimum(np.searchsorted(known, part), len(known) - 1)
        same += int((known[place] == part).sum())
    return same / synthetic.rows


def _bits(numbers: NDArray[np.float64]) -> NDArray[np.int64]:
    plain = np.where(np.isnan(numbers), np.nan, numbers + 0.0)  # one NaN, one zero
    return plain.view(np.int64)
