"""How columns hang together within labels, where records are few: all correlations in one release, and records so
rearranged.

A table of two columns tells of nothing else, and of few records the noise leaves little of it. The correlations of all
pairs are as noisy, but a few directions in which many columns move together stand out of the noise of the whole matrix
(Baik, Ben Arous and Péché 2005), and the rest can be shrunk by as much as it is noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from pe.data.arrays import to_numpy
from pe.data.schema import Categorical, Column, Numeric
from pe.tables.levels import Levels

Floats = NDArray[np.float64]

GRID = 2**12
"""Steps of a product, whose root is the norm of a record's scores."""

LARGEST = 0.97
"""Correlations are no larger."""

FACTORS = 6
"""Directions that are looked for."""

PLAUSIBLE = 0.5
"""Root mean square of correlations beside those directions, at most."""

SWEEPS = 20
"""Of the iterations below, which converge geometrically."""

SIMULATED = 400_000
"""Scores, of 2,000 records at least."""


def ranked(column: Column) -> bool:
    """Whether a column's values have ranks: numbers, those of a declared order, or one of two."""
    if isinstance(column, Categorical):
        return column.ordered or len(column.values) == 2
    return isinstance(column, Numeric)


@dataclass(frozen=True)
class Scores:
    """What levels stand for in correlations: ``values`` float64 (labels, levels), within labels of mean 0, variance 1.

    A level's score is the mean of a standard normal z over the part of it that has the level's ranks, scaled; missing
    values have score 0. ``shares`` float64 (labels, levels) are those of levels, ``order`` that of levels with ranks.
    """

    values: Floats = field(repr=False)
    shares: Floats = field(repr=False)
    order: NDArray[np.int64] = field(repr=False)

    @classmethod
    def of(cls, level: Levels, shares: Floats) -> Scores:
        """For levels whose shares within labels are ``shares`` float64 (labels, levels)."""
        places = _places(level)
        order = np.argsort(places, kind="stable")[: np.isfinite(places).sum()]
        found = np.zeros_like(shares)
        for label, share in enumerate(shares):
            mass = np.maximum(share[order] / share[order].sum(), 1e-12)
            ends = ndtri(np.clip(np.concatenate([[0.0], np.cumsum(mass)]), 1e-9, 1 - 1e-9))
            heights = np.exp(-(ends**2) / 2) / math.sqrt(2 * math.pi)
            mean = (heights[:-1] - heights[1:]) / mass
            found[label, order] = mean / max(math.sqrt(float(mass @ mean**2)), 1e-9)
        return cls(found, shares, order)

    def drawn(self, label: int, ranks: Floats, others: Floats) -> Floats:
        """Scores (n,) of records of a label with these ``ranks`` in (0, 1), if ``others`` says they have any."""
        below = self.shares[label, self.order].cumsum()
        found = self.values[label, self.order[np.searchsorted(below[:-1] / below[-1], ranks, side="right")]]
        return np.where(others < below[-1] / self.shares[label].sum(), found, 0.0)


@dataclass(frozen=True)
class Correlations:
    """Products of records' scores, as ``pe.private.measure.Features``: one sum for each of the pairs of ``levels``.

    A record's scores, scaled to norm 1, are a direction; their second moments are the spatial sign covariance matrix
    (Visuri, Koivunen and Oja 2000), which no outlier moves far. ``grid`` steps per product.
    """

    levels: tuple[Levels, ...]
    scores: tuple[Scores, ...] = field(repr=False)
    grid: int = GRID

    name = "correlations"
    signed = True

    @property
    def root(self) -> int:
        """Steps of the norm of a record's scores."""
        return math.isqrt(self.grid)

    @property
    def bins(self) -> int:
        return math.comb(len(self.levels), 2)

    @property
    def bound_squared(self) -> int:
        """Of squared scores v_j**2 whose sum is N, those of all pairs are (N**2 - sum v_j**4) / 2."""
        columns = len(self.levels)
        return max(self.root**4 * (columns - 1) // (2 * columns), 1)

    @property
    def apart_squared(self) -> int:
        """Of all pairs of v and w: at most |v v' - w w'|**2 / 2, and that at most (|v|**4 + |w|**4) / 2."""
        return self.root**4

    def vectors(self, table: pa.Table, labels: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        columns = [
            scores.values[labels if len(scores.values) > 1 else 0, level.encode(to_numpy(table, level.column))]
            for level, scores in zip(self.levels, self.scores, strict=True)
        ]
        steps = _steps(np.stack(columns, axis=1), self.root)
        left, right = np.triu_indices(len(columns), 1)
        values = steps[:, left] * steps[:, right]
        return np.broadcast_to(np.arange(self.bins), values.shape), values

    def matrix(self, answers: NDArray[np.int64], grid: int, sigma: float, records: float) -> Floats:
        """Correlations float64 (columns, columns), positive definite, from noisy ``answers`` (bins,) in steps of
        ``grid``.

        sigma    noise of an answer, in units. records  how many there are, about.
        """
        columns, one = len(self.levels), math.isqrt(grid) ** 2
        moments = np.zeros((columns, columns))
        moments[np.triu_indices(columns, 1)] = answers / one * (columns / records)
        moments += moments.T
        noise = sigma * grid / one * (columns / records)
        expected = self._simulation()
        alone = expected(np.eye(columns))  # 0 of numbers, not of skewed scores, whose directions are alike
        np.fill_diagonal(alone, 0.0)
        large = _factors(moments - alone, noise)
        told = large + _shrunk(moments - alone - large, noise)
        found = _valid(told)
        for _ in range(SWEEPS):
            found = _valid(found + told + alone - expected(found))
        return found

    def _simulation(self) -> Callable[[Floats], Floats]:
        """From correlations to the second moments of records' directions, times the number of columns.

        Directions are shorter along correlated columns, and scores of few levels less correlated than what they stand
        for. Under public randomness that is the same every time.
        """
        rng = np.random.default_rng(0)
        labels, columns = len(self.scores[0].values), len(self.levels)
        size = math.ceil(max(SIMULATED / columns, 2000) / labels)
        normal = rng.normal(size=(labels, size, columns))
        normal = normal @ np.linalg.inv(np.linalg.cholesky(np.cov(normal.reshape(-1, columns).T))).T
        others = rng.random(normal.shape)

        def expected(correlations: Floats) -> Floats:
            values, vectors = np.linalg.eigh(correlations)
            ranks = ndtr(normal @ (vectors * np.sqrt(values)).T)
            total = np.zeros_like(correlations)
            for label in range(labels):
                drawn = [
                    scores.drawn(label, ranks[label, :, place], others[label, :, place])
                    for place, scores in enumerate(self.scores)
                ]
                units = _units(np.stack(drawn, axis=1))
                total += units.T @ units
            return total * (columns / (labels * size))

        return expected


def _places(level: Levels) -> Floats:
    """Where levels stand among each other, float64 (levels,); infinite where they have no place."""
    places: Floats = np.arange(level.size, dtype=np.float64)
    if level.groups is None:
        places[level.size - level.absent :] = np.inf
        return places
    assert isinstance(level.column, Categorical)
    assert level.weights is not None
    codes = np.arange(len(level.groups))
    weights = np.where(codes < len(level.column.values), level.weights, 0.0)
    mass = np.bincount(level.groups, weights, level.size)
    places = np.full(level.size, np.inf)
    np.divide(np.bincount(level.groups, weights * codes, level.size), mass, out=places, where=mass > 0)
    return places


def _steps(scores: Floats, root: int) -> NDArray[np.int64]:
    """Scores (n, columns), each record's scaled to norm ``root`` and rounded so that it is no longer."""
    units = _units(scores)
    factor = np.full((len(scores), 1), float(root))
    while True:
        steps: NDArray[np.int64] = np.rint(factor * units).astype(np.int64)
        over = (steps**2).sum(axis=1) > root**2
        if not over.any():
            return steps
        factor[over] *= 0.99


def _units(scores: Floats) -> Floats:
    """Scores (n, columns), each record's of norm 1, or 0: from its own scores alone, to the last bit."""
    squares = np.zeros(len(scores))
    for column in scores.T:  # a sum over an axis may be taken in another order among other records
        squares += column * column
    found: Floats = scores / np.maximum(np.sqrt(squares), 1e-300)[:, None]
    return found


def _factors(moments: Floats, noise: float) -> Floats:
    """The part of a symmetric matrix without diagonal that stands out of the noise of its entries, with one.

    Eigenvalues are shrunk as is best for squared error (Gavish and Donoho 2017); the diagonal is that which they imply.
    """
    edge = 2 * noise * math.sqrt(len(moments))
    found = np.zeros_like(moments)
    if edge >= len(moments):  # no correlations have an eigenvalue that stands out
        return found
    for _ in range(SWEEPS):
        filled = moments + np.diag(np.clip(np.diag(found), -LARGEST, LARGEST))
        values, vectors = np.linalg.eigh(filled)
        first = np.argsort(-np.abs(values), kind="stable")[:FACTORS]
        values, vectors = values[first], vectors[:, first]
        values = np.sign(values) * np.sqrt(np.maximum(values**2 - edge**2, 0))
        found = (vectors * values) @ vectors.T
    return found


def _shrunk(rest: Floats, noise: float) -> Floats:
    """The rest of the entries, as much of it as is not noise on average (James and Stein 1961), or would not be were
    they as large as ``PLAUSIBLE``."""
    entries = rest[np.triu_indices(len(rest), 1)]
    seen = 1 - noise**2 * len(entries) / max(float(entries @ entries), 1e-300)
    shrunk: Floats = min(max(seen, 0.0), 1 / (1 + (noise / PLAUSIBLE) ** 2)) * rest
    return shrunk


def _valid(matrix: Floats) -> Floats:
    """The matrix as one of correlations: positive definite, with ones on the diagonal."""
    matrix = np.clip(matrix, -LARGEST, LARGEST)
    np.fill_diagonal(matrix, 1.0)
    values, vectors = np.linalg.eigh(matrix)
    matrix = (vectors * np.maximum(values, 0.02)) @ vectors.T
    scale = 1 / np.sqrt(np.diag(matrix))
    found: Floats = matrix * np.outer(scale, scale)
    return found


def rearranged(
    made: Mapping[str, NDArray[Any]],
    levels: Sequence[Levels],
    labels: NDArray[np.int64],
    correlations: Floats,
    rng: np.random.Generator,
) -> dict[str, NDArray[Any]]:
    """Records whose ``levels``' columns have changed places within labels, so that their ranks are as correlated as
    ``correlations`` says (Iman and Conover 1982).

    Every column keeps its values within every label. Columns that hung together before, or with columns that are not
    among ``levels``, do still, the less the further correlations take them. ``labels`` (n,) ascend.
    """
    values, vectors = np.linalg.eigh(correlations)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    found = dict(made) | {level.column.name: made[level.column.name].copy() for level in levels}
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        columns = [made[level.column.name][rows] for level in levels]
        present = [_present(level, column) for level, column in zip(levels, columns, strict=True)]
        scores = np.zeros((len(rows), len(levels)))
        for place, (column, some) in enumerate(zip(columns, present, strict=True)):
            ranks = np.lexsort((rng.random(some.sum()), column[some])).argsort()
            scores[some, place] = ndtri((ranks + 0.5) / max(len(ranks), 1))
        for level, column, some, wanted in zip(levels, columns, present, (scores @ root).T, strict=True):
            order = wanted[some].argsort(kind="stable")
            found[level.column.name][rows[some][order]] = np.sort(column[some])
    return found


def _present(level: Levels, values: NDArray[Any]) -> NDArray[np.bool_]:
    """Which values are not missing."""
    if isinstance(level.column, Categorical):
        found: NDArray[np.bool_] = values < len(level.column.values)
    else:
        found = ~np.isnan(values)
    return found
