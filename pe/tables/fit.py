"""A maximum-entropy density for noisy cross-tables, held by particles, and records drawn from it.

Within each label, p(x) is proportional to base(x) exp(sum_t theta_t[cell_t(x)]), base the product of the columns'
1-way shares. theta maximises theta.y - n log Z(theta) - RIDGE sigma**2 |theta|**2 / 2, the dual of "stay close to base
unless the answers y, of noise sigma, say otherwise". Its gradient, y - n E[cells] - RIDGE sigma**2 theta, and its
curvature are estimated on particles that blocked Gibbs sampling keeps at p while theta moves (persistent contrastive
divergence, Tieleman 2008, with truncated Newton steps).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pe.tables.levels import Levels
from pe.tables.measure import Table, Tables

Floats = NDArray[np.float64]
Codes = list[NDArray[np.int32]]

RIDGE = 0.06
"""Chosen on validation splits; 0.03 to 0.1 do about as well."""

STEPS = 3
"""Conjugate-gradient steps per round; more overfits the particles' covariance."""

LONGEST = 0.7
"""Largest standard deviation of the change of log p in one round."""

BLOCK = 1 << 17
"""Entries of a conditional table held at a time."""


@dataclass(frozen=True)
class Density:
    """A fitted density: one theta per table, float64 (labels, cells), and particles to start chains from.

    codes   levels of the particles, one int32 (particles,) per column; labels int64 (particles,), ascending.
    """

    tables: Tables
    levels: tuple[Levels, ...]
    theta: list[Floats] = field(repr=False)
    codes: Codes = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)

    def sample(
        self,
        sizes: NDArray[np.int64],
        rng: np.random.Generator,
        *,
        sharpness: float = 1.0,
        slopes: bool = True,
        sweeps: int = 4,
    ) -> dict[str, NDArray[Any]]:
        """``sizes[label]`` records of each label, label by label: arrays by column name, as ``to_numpy`` gives them.

        ``sharpness`` multiplies theta: the ridge has shrunk it, and above 1 classifiers learn more from the records.
        ``slopes``: whether numbers follow the slope of the density; of few records it is mostly noise.
        """
        labels = np.repeat(np.arange(len(sizes)), sizes)
        starts = np.searchsorted(self.labels, np.arange(len(sizes) + 1))
        index = np.concatenate(
            [
                np.resize(rng.permutation(np.arange(start, stop)), size)
                for start, stop, size in zip(starts[:-1], starts[1:], sizes, strict=True)
            ]
        )
        codes = [column[index] for column in self.codes]
        sampler = _Sampler(self.tables, self.levels, [sharpness * theta for theta in self.theta])
        for _ in range(sweeps):
            sampler.sweep(codes, labels, rng)
        within = labels if slopes else None
        return {
            level.column.name: level.decode(code, rng, within) for level, code in zip(self.levels, codes, strict=True)
        }


def fit(
    tables: Tables,
    levels: Sequence[Levels],
    answers: NDArray[Any],
    sigma: float,
    records: NDArray[np.float64],
    rng: np.random.Generator,
    *,
    particles: int = 6000,
    rounds: int = 50,
) -> Density:
    """Fit noisy ``answers`` (tables.bins,) of noise ``sigma`` per cell.

    ``records`` float64 (labels,) are the estimated numbers of records of each label, all > 0. Deterministic under
    ``rng``. Work per round is about particles x (levels + tables).
    """
    unit = max(tables.bound_squared, 1) ** 0.5
    y = [part / unit for part in tables.split(answers)]
    ridge = RIDGE * (sigma / unit) ** 2
    weights = [table.weight / unit for table in tables.tables]
    counts = np.maximum(np.rint(particles * records / records.sum()).astype(np.int64), 20)
    labels = np.repeat(np.arange(len(records)), counts)
    codes = [rng.choice(level.size, len(labels), p=level.shares).astype(np.int32) for level in levels]
    mass = (records / counts)[labels]  # records that one particle stands for
    theta = [np.zeros_like(part) for part in y]
    for number in range(rounds):
        cells = [table.key(codes, labels) for table in tables.tables]

        def total(values: Floats, cells: list[NDArray[np.int64]] = cells) -> list[Floats]:
            return [
                weight * np.bincount(key, values, part.size).reshape(part.shape)
                for weight, key, part in zip(weights, cells, y, strict=True)
            ]

        def potential(direction: list[Floats], cells: list[NDArray[np.int64]] = cells) -> Floats:
            value = np.zeros(len(labels))
            for weight, key, part in zip(weights, cells, direction, strict=True):
                value += (weight * part).ravel()[key]
            means: Floats = np.bincount(labels, value) / counts
            return value - means[labels]

        residual = _add(_add(y, -1.0, total(mass)), -ridge, theta)
        search, step = residual, [np.zeros_like(part) for part in y]
        norm = _dot(residual, residual)
        for _ in range(STEPS):
            if norm <= 0:
                break
            curved = _add(total(mass * potential(search)), ridge, search)
            length = norm / _dot(search, curved)
            step, residual = _add(step, length, search), _add(residual, -length, curved)
            norm, previous = _dot(residual, residual), norm
            search = _add(residual, norm / previous, search)
        spread = float(potential(step).std())
        scale = min(1.0, LONGEST / max(spread, 1e-12))
        late = number - rounds // 2
        if late > 0:  # average the particles' sampling noise away
            scale *= max(0.15, 1 / (1 + 0.3 * late))
        theta = _add(theta, scale, step)
        _Sampler(tables, levels, [weight * part for weight, part in zip(weights, theta, strict=True)]).sweep(
            codes, labels, rng
        )
    final = [weight * part for weight, part in zip(weights, theta, strict=True)]
    return Density(tables, tuple(levels), final, codes, labels)


def _add(left: list[Floats], factor: float, right: list[Floats]) -> list[Floats]:
    return [a + factor * b for a, b in zip(left, right, strict=True)]


def _dot(left: list[Floats], right: list[Floats]) -> float:
    return sum(float(np.vdot(a, b)) for a, b in zip(left, right, strict=True))


class _Sampler:
    """Blocked Gibbs sampling: redraws one column of all particles at a time from its exact conditional."""

    def __init__(self, tables: Tables, levels: Sequence[Levels], theta: list[Floats]) -> None:
        self.levels = levels
        self.base = [np.log(level.shares).astype(np.float32) for level in levels]
        # Per column, tables grouped by their map of it: their conditionals add up before they are spread over levels.
        self.groups: list[dict[bytes, list[tuple[Table, int, NDArray[np.float32]]]]] = [{} for _ in levels]
        for table, part in zip(tables.tables, theta, strict=True):
            shaped = part.reshape(part.shape[0], *table.sizes)
            for axis, column in enumerate(table.columns):
                last = np.moveaxis(shaped, axis + 1, -1).reshape(-1, table.sizes[axis])
                entry = (table, axis, np.ascontiguousarray(last, np.float32))
                self.groups[column].setdefault(table.maps[axis].tobytes(), []).append(entry)

    def sweep(self, codes: Codes, labels: NDArray[np.int64], rng: np.random.Generator) -> None:
        """Redraw every column once, in random order; ``codes`` change in place."""
        for column in rng.permutation(len(codes)):
            size = self.levels[column].size
            if size == 1:
                continue
            uniform = rng.random(len(labels), np.float32)
            rows = max(256, BLOCK // size)
            for start in range(0, len(labels), rows):
                here = slice(start, start + rows)
                block = [code[here] for code in codes]
                logits = self._logits(column, block, labels[here])
                logits -= logits.max(axis=1, keepdims=True)
                mass = np.exp(logits, out=logits).cumsum(axis=1)
                drawn = (mass < (uniform[here] * mass[:, -1])[:, None]).sum(axis=1)
                codes[column][here] = np.minimum(drawn, size - 1)

    def _logits(self, column: int, codes: Codes, labels: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 (n, levels of the column), up to a constant per row."""
        logits = np.repeat(self.base[column][None], len(labels), axis=0)
        for entries in self.groups[column].values():
            table, axis, theta = entries[0]
            grouped = np.zeros((len(labels), theta.shape[1]), np.float32)
            for table, axis, theta in entries:
                key = labels
                for other, (name, groups, size) in enumerate(zip(table.columns, table.maps, table.sizes, strict=True)):
                    if other != axis:
                        key = key * size + groups[codes[name]]
                grouped += theta[key]
            logits += grouped[:, table.maps[axis]]
        return logits
