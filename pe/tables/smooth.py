"""Levels of a number from few records: its density as smooth as its noisy counts allow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pe.data.schema import Numeric
from pe.tables.levels import Levels, merge

ROUGH = 1.5
"""Standard deviation of the second differences of log density between neighbouring intervals, a priori. Chosen on
validation splits; 0.3 to 1.5 do about as well."""

NEWTON = 60
"""Steps at most; a handful is the rule."""


def smoothed(fine: Levels, counts: NDArray[np.float64], sigma: float, most: int) -> Levels:
    """``most`` levels of equal mass from noisy counts of the grid, float64 (fine.size,), noise ``sigma``.

    The mass is the most probable one under the counts and ``ROUGH`` (after the P-splines of Eilers and Marx 1996):
    where ``pe.tables.levels.merge`` joins intervals until they stand out of the noise, and keeps few, the neighbours'
    counts help here. Categories are as in ``merge``.
    """
    if fine.groups is not None:
        return merge(fine, counts, sigma, most)
    assert fine.edges is not None
    assert isinstance(fine.column, Numeric)
    present = counts[: len(fine.edges) - 1]
    mass = _mass(present, _widths(fine.column, fine.edges), sigma)
    below = np.concatenate([[0.0], np.cumsum(mass)])
    below /= below[-1]
    edges = np.interp(np.linspace(0, 1, most + 1), below, fine.edges)
    if fine.column.integer:
        edges = np.rint(edges - 0.5) + 0.5
    edges[[0, -1]] = fine.edges[[0, -1]]
    edges = np.unique(edges)
    shares = np.maximum(np.diff(np.interp(edges, fine.edges, below)), 1e-12)
    shares /= shares.sum()
    if fine.absent:
        missing = max(float(counts[-1]), sigma / 2)
        lost = missing / (missing + max(float(present.sum()), sigma))
        shares = np.append(shares * (1 - lost), lost)
    return Levels(fine.column, shares, edges)


def _widths(column: Numeric, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Widths of the intervals, on the scale on which the density is smooth."""
    return np.diff(np.log(np.maximum(edges, column.minimum)) if column.log else edges)


def _mass(counts: NDArray[np.float64], widths: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Most probable shares float64 (intervals,), sum 1, > 0, by damped Newton (Gauss) steps on log density."""
    size = len(counts)
    total = max(float(counts.sum()), sigma)
    rough = np.diff(np.eye(size), 2, axis=0) / ROUGH
    prior = rough.T @ rough + 1e-4 * np.eye(size)

    def shares(density: NDArray[np.float64]) -> NDArray[np.float64]:
        mass = widths * np.exp(density - density.max())
        found: NDArray[np.float64] = mass / mass.sum()
        return found

    def loss(density: NDArray[np.float64]) -> float:
        missed = (counts - total * shares(density)) / sigma
        return float(missed @ missed + density @ prior @ density) / 2

    density = np.zeros(size)
    value = loss(density)
    for _ in range(NEWTON):
        share = shares(density)
        slope = total / sigma * (np.diag(share) - np.outer(share, share))
        gradient = prior @ density - slope @ ((counts - total * share) / sigma)
        step = np.linalg.solve(slope @ slope + prior, -gradient)
        length = 1.0
        while length > 1e-4 and loss(density + length * step) >= value:
            length /= 2
        gained = value - loss(density + length * step)
        if gained <= 0:
            break
        density, value = density + length * step, value - gained
        if gained < 1e-6:
            break
    return np.maximum(shares(density), 1e-12)
