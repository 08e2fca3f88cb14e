"""What weighted particles answer to queries, and truncated Newton steps on the dual that these moments define."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pe.tables.measure import Table

Floats = NDArray[np.float64]
Codes = list[NDArray[np.int32]]


class Cells:
    """The cells of some tables that particles fall into; ``unit`` divides the tables' weights.

    ``codes`` are levels, one int32 (particles,) per column, ``labels`` int64 (particles,) below ``number``. A mass is
    float64 (particles,): how many records each particle stands for. Answers are float64 (number, cells) per table.
    """

    def __init__(
        self, tables: Sequence[Table], unit: float, codes: Codes, labels: NDArray[np.int64], number: int
    ) -> None:
        self.tables, self.labels, self.number = tables, labels, number
        self.weights = [table.scale(number) / unit for table in tables]
        self.shapes = [(number, table.cells) for table in tables]
        self.keys = [table.key(codes, labels) for table in tables]

    def total(self, mass: Floats) -> list[Floats]:
        """The answers of all particles."""
        sums = [np.bincount(key, mass, math.prod(shape)) for key, shape in zip(self.keys, self.shapes, strict=True)]
        return [
            table.centre((weight * part).astype(np.float64).reshape(shape))
            for table, weight, part, shape in zip(self.tables, self.weights, sums, self.shapes, strict=True)
        ]

    def potential(self, direction: list[Floats]) -> Floats:
        """Change of log p along a direction, of every particle (particles,), before it is normalised."""
        value = np.zeros(len(self.labels))
        for weight, key, part in zip(self.weights, self.keys, direction, strict=True):
            value += (weight * part).ravel()[key]
        return value

    def centred(self, direction: list[Floats], mass: Floats) -> Floats:
        """The same less its mean within each label."""
        value = self.potential(direction)
        whole = np.bincount(self.labels, mass, self.number)
        means: Floats = np.bincount(self.labels, mass * value, self.number) / np.maximum(whole, 1e-300)
        return value - means[self.labels]

    def step(self, residual: list[Floats], mass: Floats, ridge: float, steps: int) -> list[Floats]:
        """About (covariance + ridge)**-1 residual: ``steps`` of conjugate gradients."""
        search, step = residual, [np.zeros_like(part) for part in residual]
        norm = dot(residual, residual)
        for _ in range(steps):
            if norm <= 0:
                break
            curved = add(self.total(mass * self.centred(search, mass)), ridge, search)
            length = norm / dot(search, curved)
            step, residual = add(step, length, search), add(residual, -length, curved)
            norm, previous = dot(residual, residual), norm
            search = add(residual, norm / previous, search)
        return step


def calibrated(
    cells: Cells, answers: list[Floats], theta: list[Floats], ridge: float, records: Floats, *, rounds: int = 6
) -> list[Floats]:
    """The direction along which fixed particles, all of one weight within a label, answer like ``answers``.

    Maximises (theta + d).answers - n log Z(d) - ridge |theta + d|**2 / 2 over d, Z the particles' mean of exp(d) within
    each of ``number`` labels of ``records`` (number,) records: exact, so that every step can be checked (Armijo 1966).
    """
    change = [np.zeros_like(part) for part in answers]
    mass, value = _tilted(cells, answers, theta, ridge, records, change)
    for _ in range(rounds):
        residual = add(add(add(answers, -1.0, cells.total(mass)), -ridge, theta), -ridge, change)
        step = cells.step(residual, mass, ridge, 5)
        slope, length = dot(residual, step), 1.0
        while length > 1e-3:
            found = add(change, length, step)
            tilted, gained = _tilted(cells, answers, theta, ridge, records, found)
            if gained >= value + 1e-4 * length * slope:
                change, mass, value = found, tilted, gained
                break
            length /= 2
        else:
            break
    return change


def _tilted(
    cells: Cells, answers: list[Floats], theta: list[Floats], ridge: float, records: Floats, change: list[Floats]
) -> tuple[Floats, float]:
    """The particles' mass under a change of theta, and the dual."""
    potential = cells.potential(change)
    top = np.full(cells.number, -np.inf)
    np.maximum.at(top, cells.labels, potential)
    weights = np.exp(potential - top[cells.labels])
    whole = np.bincount(cells.labels, weights, cells.number)
    some = whole > 0
    size = np.bincount(cells.labels, minlength=cells.number)
    normaliser = np.log(whole[some] / size[some]) + top[some]
    moved = add(theta, 1.0, change)
    value = dot(moved, answers) - ridge * dot(moved, moved) / 2 - float(records[some] @ normaliser)
    return weights * (records / np.maximum(whole, 1e-300))[cells.labels], value


def add(left: list[Floats], factor: float, right: list[Floats]) -> list[Floats]:
    return [a + factor * b for a, b in zip(left, right, strict=True)]


def dot(left: list[Floats], right: list[Floats]) -> float:
    return sum(float(np.vdot(a, b)) for a, b in zip(left, right, strict=True))
