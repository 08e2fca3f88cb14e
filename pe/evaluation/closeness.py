"""Distance to the closest record: are synthetic records nearer to the training records than to unseen ones?

Records are compared over all columns. Two categories that differ are one apart, two numbers the part of the range of
train and holdout together that lies between them, and the distance of records is the root of the summed squares. It is
computed on integers, exactly, so that equal records are at 0 and ties are ties.

The verdict on copying rests on what holds wherever nothing was copied: that of two real records drawn alike, one for
training and one held out, either is as likely to be the one that a synthetic record equals, or is closest to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

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

UNLIKELY = 0.001
"""Level of each one-sided test of copying."""


@dataclass(frozen=True)
class Closeness:
    """Comparison of synthetic records with equally many training and holdout records.

    share         of synthetic records nearer to train than to the holdout, ties counted half; 0.5 is no memorisation.
    interval      95 % Wilson score interval of it, over the choice of synthetic records: train and holdout are given.
    duplicates    share of synthetic records that equal a record of train, of the holdout; as many of each.
    copies        share of synthetic records that equal any training record.
    reasons       why copying is suspected, by tests at .1 %; empty if it is not.
    to_train, to_holdout   distances of the synthetic records, float64 (queries,).
    between       distances of the holdout records to train: what unseen real records show, float64 (m,).
    """

    share: float
    interval: tuple[float, float]
    duplicates: dict[str, float]
    copies: float
    reasons: tuple[str, ...]
    rows: dict[str, int]
    to_train: NDArray[np.float64] = field(repr=False)
    to_holdout: NDArray[np.float64] = field(repr=False)
    between: NDArray[np.float64] = field(repr=False)

    @property
    def suspected(self) -> bool:
        return bool(self.reasons)

    @property
    def verdict(self) -> str:
        """Whether records were copied, in one sentence."""
        if self.suspected:
            return f"Copying is suspected: {'; '.join(self.reasons)}."
        return "No copying is suspected: training records are met as often as unseen ones."

    def to_dict(self) -> dict[str, object]:
        def quantiles(distances: NDArray[np.float64]) -> dict[str, float]:
            return {f"{level:g}": float(np.quantile(distances, level)) for level in (0.0, 0.05, 0.5)}

        return {
            "share_nearer_to_train": self.share,
            "interval": list(self.interval),
            "duplicates": self.duplicates,
            "copies_of_training_records": self.copies,
            "suspected": self.suspected,
            "reasons": list(self.reasons),
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
    """Compare with ``min(train, holdout)`` records of each: all of these are searched for equal ones, at most ``limit``
    for the closest to at most ``MOST_QUERIES`` synthetic records."""
    rng = np.random.default_rng([seed, 2])
    copies = _repeated(synthetic, train, fields)
    m = min(train.rows, holdout.rows)
    train, holdout = train.sample(m, rng), holdout.sample(m, rng)
    repeats = {
        "train": _repeated(synthetic, train, fields),
        "holdout": _repeated(synthetic, holdout, fields),
    }
    reasons = _too_many_copies(synthetic, train, holdout, fields)
    m = min(m, limit)
    train, holdout = train.sample(m, rng), holdout.sample(m, rng)
    queries = synthetic.sample(MOST_QUERIES, rng)
    points = _Points(train, holdout, fields)
    at, near_train, near_holdout = points(queries), points(train), points(holdout)
    (to_train, closest_train), (to_holdout, closest_holdout) = _closest(at, near_train), _closest(at, near_holdout)
    between, _ = _closest(near_holdout[:MOST_QUERIES], near_train)
    won = np.bincount(closest_train[to_train < to_holdout], minlength=m)
    lost = np.bincount(closest_holdout[to_holdout < to_train], minlength=m)
    if _one_side_is_too_heavy(won, lost):
        reasons.append("synthetic records are nearer to training records than to unseen ones")
    wins = float((to_train < to_holdout).sum() + 0.5 * (to_train == to_holdout).sum())
    roots = [np.sqrt(squared) / STEPS for squared in (to_train, to_holdout, between)]
    return Closeness(
        wins / queries.rows,
        wilson(wins, queries.rows),
        repeats,
        copies,
        tuple(reasons),
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


def _closest(queries: NDArray[np.int32], points: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Squared distance of each query to its closest point, and that point's index, int64 (n,)."""
    index = nearest(queries, points)[:, 0].astype(np.int64)
    gaps = queries.astype(np.int64) - points[index]
    squared: NDArray[np.int64] = np.einsum("ij,ij->i", gaps, gaps)
    return squared, index


def _one_side_is_too_heavy(won: NDArray[np.int64], lost: NDArray[np.int64]) -> bool:
    """Whether training records are closest to more synthetic records than holdout records are, at level ``UNLIKELY``.

    won, lost  int64 (m,): of how many synthetic records each training, each holdout record is the closest.

    Had every real record been drawn for either side by the toss of a coin, the difference would be a sum of their
    numbers with random signs, to which Hoeffding's inequality applies, however the synthetic records hang together.
    """
    difference = int(won.sum()) - int(lost.sum())
    deviation = math.sqrt(float((won.astype(np.float64) ** 2).sum() + (lost.astype(np.float64) ** 2).sum()))
    return difference > deviation * math.sqrt(2 * math.log(1 / UNLIKELY))


def _too_many_copies(synthetic: Frame, train: Frame, holdout: Frame, fields: Sequence[Field]) -> list[str]:
    """A reason to suspect copying, where synthetic records equal training records more often than holdout records.

    A sign test over distinct records that stand on one side only: a frequent record counts once, and one that is on
    both sides tells nothing.
    """
    copied = [np.unique(_keys(frame, fields)) for frame in (train, holdout)]
    made = np.unique(_keys(synthetic, fields))
    in_train, in_holdout = (_among(made, known) for known in copied)
    of_train, of_holdout = int((in_train & ~in_holdout).sum()), int((in_holdout & ~in_train).sum())
    if binom.sf(of_train - 1, of_train + of_holdout, 0.5) >= UNLIKELY:
        return []
    return [f"{of_train:,} training records stand among the synthetic ones, of as many unseen records {of_holdout:,}"]


def _repeated(synthetic: Frame, real: Frame, fields: Sequence[Field]) -> float:
    """The share of synthetic records that equal some real record in every column; missing equals missing."""
    known, same = np.unique(_keys(real, fields)), 0
    for start in range(0, synthetic.rows, CHUNK):
        part = synthetic.take(np.arange(start, min(start + CHUNK, synthetic.rows)))
        same += int(_among(_keys(part, fields), known).sum())
    return same / synthetic.rows


def _keys(frame: Frame, fields: Sequence[Field]) -> NDArray[np.void]:
    """One value per record (n,), equal where records are."""
    columns = [
        frame[each.name].astype(np.int64) if each.values is not None else _bits(frame[each.name]) for each in fields
    ]
    table = np.ascontiguousarray(np.stack(columns, axis=1))
    keys: NDArray[np.void] = table.view(np.dtype((np.void, table.dtype.itemsize * table.shape[1])))[:, 0]
    return keys


def _among(keys: NDArray[np.void], known: NDArray[np.void]) -> NDArray[np.bool_]:
    """Which keys (n,) are among the known ones, sorted and at least one."""
    place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    found: NDArray[np.bool_] = known[place] == keys
    return found


def _bits(numbers: NDArray[np.float64]) -> NDArray[np.int64]:
    plain = np.where(np.isnan(numbers), np.nan, numbers + 0.0)  # one NaN, one zero
    return plain.view(np.int64)
