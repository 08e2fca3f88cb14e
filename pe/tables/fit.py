"""A maximum-entropy density for noisy cross-tables, held by particles, and records drawn from it.

Within each label, p(x) is proportional to base(x) exp(sum_t theta_t[cell_t(x)]), base the product of the columns'
1-way shares. theta maximises theta.y - n log Z(theta) - RIDGE sigma**2 |theta|**2 / 2, the dual of "stay close to base
unless the answers y, of noise sigma, say otherwise". Its gradient, y - n E[cells] - RIDGE sigma**2 theta, and its
curvature are estimated on particles that blocked Gibbs sampling keeps at p while theta moves (persistent contrastive
divergence, Tieleman 2008, with truncated Newton steps).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pe.tables.levels import Levels
from pe.tables.measure import Table, Tables
from pe.tables.moments import Cells, Codes, Floats, add, calibrated

RIDGE = 0.06
"""Chosen on validation splits; 0.03 to 0.1 do about as well."""

STEPS = 3
"""Conjugate-gradient steps per round; more overfits the particles' covariance."""

LONGEST = 0.7
"""Largest standard deviation of the change of log p in one round."""

SPARE, SPARED = 2.0, 100_000
"""Records drawn for every one released, where they are no more than ``SPARED`` (else fewer, at least one); as many of
them say how they are weighted."""

BLOCK = 1 << 17
"""Entries of a conditional table held at a time."""


@dataclass(frozen=True)
class Density:
    """A fitted density: one theta per table, float64 (labels, cells), and particles to start chains from.

    answers  what theta was fitted to, like it, with this ridge; records float64 (labels,) per label.
    codes    levels of the particles, one int32 (particles,) per column; labels int64 (particles,), ascending.
    """

    tables: Tables
    levels: tuple[Levels, ...]
    answers: list[Floats] = field(repr=False)
    ridge: float
    records: Floats = field(repr=False)
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
        weighted: bool = True,
        sweeps: int = 4,
    ) -> dict[str, NDArray[Any]]:
        """``sizes[label]`` records of each label, label by label: arrays by column name, as ``to_numpy`` gives them.

        ``sharpness`` multiplies theta: the ridge has shrunk it, and above 1 classifiers learn more from the records.
        ``slopes``: whether numbers follow the slope of the density; of few records it is mostly noise.

        ``weighted``: whether more records are drawn than asked for, and those kept that answer 1-way tables as the
        release did; of few records the noise of counts is larger than what that mends.
        """
        spare = min(SPARE, max(1.0, SPARED / max(int(sizes.sum()), 1))) if weighted else 1.0
        drawn = np.ceil(spare * sizes).astype(np.int64)
        labels = np.repeat(np.arange(len(sizes)), drawn)
        starts = np.searchsorted(self.labels, np.arange(len(sizes) + 1))
        index = np.concatenate(
            [
                np.resize(rng.permutation(np.arange(start, stop)), size)
                for start, stop, size in zip(starts[:-1], starts[1:], drawn, strict=True)
            ]
        )
        codes = [column[index] for column in self.codes]
        sampler = _Sampler(
            self.tables, self.levels, [sharpness * part for part in _potentials(self.tables, self.theta)]
        )
        for _ in range(sweeps):
            sampler.sweep(codes, labels, rng)
        if weighted:
            kept = _resampled(self._weights(codes, labels, sharpness, rng), labels, sizes, rng)
            codes, labels = [column[kept] for column in codes], labels[kept]
        within = labels if slopes else None
        return {
            level.column.name: level.decode(code, rng, within) for level, code in zip(self.levels, codes, strict=True)
        }

    def shares(self) -> list[Floats]:
        """Shares of every column's levels within labels, float64 (labels, levels), as 1-way tables alone have them."""
        found = [np.tile(np.log(level.shares), (len(self.records), 1)) for level in self.levels]
        for table, part in zip(self.tables.tables, _potentials(self.tables, self.theta), strict=True):
            if len(table.columns) == 1:
                found[table.columns[0]] += part[:, table.maps[0]]
        masses = [np.maximum(np.exp(each - each.max(axis=1, keepdims=True)), 1e-12) for each in found]
        return [mass / mass.sum(axis=1, keepdims=True) for mass in masses]

    def _weights(self, codes: Codes, labels: NDArray[np.int64], sharpness: float, rng: np.random.Generator) -> Floats:
        """Weights (n,) in (0, 1] of drawn records, under which their 1-way tables agree with the released ones.

        Chains mix slowly where columns hang together closely, and particles are few: without this, marginals are off by
        more than the noise of many records. Like theta, what labels differ by is multiplied by ``sharpness``.
        """
        places = [place for place, table in enumerate(self.tables.tables) if len(table.columns) == 1]
        tables = [self.tables.tables[place] for place in places]
        some = np.sort(rng.permutation(len(labels))[:SPARED])
        cells = Cells(tables, _unit(self.tables), [column[some] for column in codes], labels[some], len(self.records))
        shares = (self.records / self.records.sum())[:, None]
        answers = [(1 - sharpness) * shares * y.sum(axis=0) + sharpness * y for y in (self.answers[i] for i in places)]
        theta = [sharpness * self.theta[place] for place in places]
        change = calibrated(cells, answers, theta, self.ridge, self.records)
        logarithm = np.zeros(len(labels))
        for table, part in zip(tables, change, strict=True):
            scale = table.scale(len(self.records)) / _unit(self.tables)
            logarithm += (scale * part).ravel()[table.key(codes, labels)]
        top = np.full(len(self.records), -np.inf)
        np.maximum.at(top, labels, logarithm)
        weights: Floats = np.exp(logarithm - top[labels])
        return weights


def _resampled(
    weights: Floats, labels: NDArray[np.int64], sizes: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Indices of ``sizes[label]`` records of each label, int64, by systematic resampling (Kitagawa 1996).

    ``labels`` (n,) ascend; a record of weight w is kept w times its label's size / total weight, rounded up or down.
    """
    starts = np.searchsorted(labels, np.arange(len(sizes) + 1))
    kept = [np.empty(0, np.int64)]
    for start, stop, size in zip(starts[:-1], starts[1:], sizes, strict=True):
        if size:
            order = start + rng.permutation(stop - start)
            below = np.cumsum(weights[order])
            places = (np.arange(size) + rng.random()) * (below[-1] / size)
            kept.append(order[np.minimum(np.searchsorted(below, places, side="right"), len(order) - 1)])
    return np.concatenate(kept)


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
    y = [table.centre(part) for table, part in zip(tables.tables, tables.split(answers), strict=True)]
    tables, y = _with_totals(tables, y, levels, records)
    unit = _unit(tables)
    y = [part / unit for part in y]
    ridge = RIDGE * (sigma / unit) ** 2
    counts = np.maximum(np.rint(particles * records / records.sum()).astype(np.int64), 20)
    labels = np.repeat(np.arange(len(records)), counts)
    codes = [rng.choice(level.size, len(labels), p=level.shares).astype(np.int32) for level in levels]
    mass = (records / counts)[labels]  # records that one particle stands for
    theta = [np.zeros_like(part) for part in y]
    for number in range(rounds):
        cells = Cells(tables.tables, unit, codes, labels, len(records))
        step = cells.step(add(add(y, -1.0, cells.total(mass)), -ridge, theta), mass, ridge, STEPS)
        spread = float(cells.centred(step, mass).std())
        scale = min(1.0, LONGEST / max(spread, 1e-12))
        late = number - rounds // 2
        if late > 0:  # average the particles' sampling noise away
            scale *= max(0.15, 1 / (1 + 0.3 * late))
        theta = add(theta, scale, step)
        _Sampler(tables, levels, _potentials(tables, theta)).sweep(codes, labels, rng)
    return Density(tables, tuple(levels), y, ridge, records, theta, codes, labels)


def _with_totals(
    tables: Tables, y: list[Floats], levels: Sequence[Levels], records: Floats
) -> tuple[Tables, list[Floats]]:
    """Contrasts of single columns as tables of counts: with the totals that they leave out, known from ``records`` and
    the levels' shares.

    Contrasts say by how much labels differ, not around what: where labels are of unequal size, a density that is
    fitted to these alone has other shares in each column than were released.
    """
    number, made, answers = len(records), [], []
    for table, part in zip(tables.tables, y, strict=True):
        if len(table.columns) == 1 and table.centred == (0, 1):
            groups, level = table.maps[0], levels[table.columns[0]]
            known = np.outer(records, np.bincount(groups, level.shares))
            scale = table.scale(number)
            part = part + scale * (known - table.centre(known))
            table = replace(table, weight=scale, centred=())
        made.append(table)
        answers.append(part)
    return replace(tables, tables=tuple(made)), answers


def _unit(tables: Tables) -> float:
    """The norm of a record's contribution, in which answers and theta are measured."""
    return math.sqrt(max(tables.bound_squared, 1))


def _potentials(tables: Tables, theta: list[Floats]) -> list[Floats]:
    """What a cell of each table adds to log p."""
    unit = _unit(tables)
    return [table.scale(tables.labels) / unit * part for table, part in zip(tables.tables, theta, strict=True)]


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
