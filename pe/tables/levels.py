"""Columns to levels and back: a fine public grid, and the few levels that a noisy count of it supports."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from pe.data.gaps import Gap
from pe.data.schema import Categorical, Column, Image, Numeric, Text
from pe.errors import SchemaError

REFINED_FROM = 16
"""Grids with at least this many bins are refined at the ends of the domain."""

TIP = 2.0**-6
"""Of an outer interval, what is an interval of its own where grids are not refined; of whole numbers the outermost."""

FINER = 8
"""How many times as many intervals as levels numbers are spread by, where their counts stand out of the noise."""

CLEAR = 5.0
"""Standard deviations of the noise, beyond which intervals of a gap clearly hold records."""

DIGITS = 7
"""Significant digits of a number that is drawn between edges."""


@dataclass(frozen=True)
class Levels:
    """A public map of one column's values to levels 0 .. size - 1, and how to draw a value of a level.

    shares   float64 (size,): share of each level, sum 1.
    edges    float64 (size + 1,), increasing: a number belongs to the level between its edges; None for categories.
    groups   int32 (values,): level of each category; None for numbers.
    weights  float64 (values,): relative frequency of each category within its level; None for numbers.
    finer    float64 (2, m), both rows increasing: edges, those of the levels among them, and the share of all numbers
             below each; within a level numbers are spread like that, evenly where it is None.

    A number's missing values, where the column has them, are a last level without edges.
    """

    column: Column
    shares: NDArray[np.float64] = field(repr=False)
    edges: NDArray[np.float64] | None = field(default=None, repr=False)
    groups: NDArray[np.int32] | None = field(default=None, repr=False)
    weights: NDArray[np.float64] | None = field(default=None, repr=False)
    finer: NDArray[np.float64] | None = field(default=None, repr=False)

    @property
    def size(self) -> int:
        return len(self.shares)

    @property
    def absent(self) -> bool:
        """Whether the last level is that of a number's missing values."""
        return self.groups is None and self.column.missing

    def encode(self, values: NDArray[Any]) -> NDArray[np.int32]:
        """Levels int32 (n,) of values as ``pe.data.arrays.to_numpy`` gives them; each from its own value alone."""
        if self.groups is not None:
            codes: NDArray[np.int32] = self.groups[values]
            return codes
        assert self.edges is not None
        inner = np.searchsorted(self.edges[1:-1], values, side="right")
        if self.absent:
            inner = np.where(np.isnan(values), self.size - 1, inner)
        return inner.astype(np.int32)

    def decode(
        self, levels: NDArray[np.int32], rng: np.random.Generator, labels: NDArray[np.int64] | None = None
    ) -> NDArray[Any]:
        """A value of each level (n,): a category by its weight, or a number between the level's edges.

        Within a level numbers are spread as in ``finer``. Where that says nothing they are uniform or, with ``labels``
        (n,), follow the slope that the density of their label's levels has.
        """
        if self.groups is not None:
            assert self.weights is not None
            order = np.argsort(self.groups, kind="stable")
            total = np.concatenate([[0.0], np.cumsum(self.weights[order])])
            first = np.searchsorted(self.groups[order], np.arange(self.size + 1))
            low, high = total[first[:-1]][levels], total[first[1:]][levels]
            found = np.searchsorted(total, low + rng.random(len(levels)) * (high - low), side="right") - 1
            chosen: NDArray[Any] = order[np.clip(found, first[levels], first[levels + 1] - 1)]
            return chosen.astype(np.int32)
        assert self.edges is not None
        assert isinstance(self.column, Numeric)
        absent = np.full(len(levels), self.absent) & (levels == self.size - 1)
        own = np.where(absent, 0, levels)
        low, high = self.edges[own], self.edges[own + 1]
        uniform = rng.random(len(levels))
        if labels is not None:
            uniform = _sloping(uniform, np.where(self._divided[own], 0.0, self._slopes(own, labels, ~absent)))
        if self.finer is not None:
            low, high, uniform = self._within(own, uniform)
        if self.column.log:
            low, high = np.maximum(low, self.column.minimum), np.minimum(high, self.column.maximum)
            drawn = low * (high / low) ** uniform
        else:
            drawn = low + uniform * (high - low)
        drawn = np.rint(drawn) if self.column.integer else _rounded(drawn, low, high, self.column)
        drawn = np.clip(drawn, self.column.minimum, self.column.maximum)
        if self.absent:
            drawn[absent] = np.nan
        whole = self.column.integer and not self.absent
        values: NDArray[Any] = drawn.astype(np.int64) if whole else drawn
        return values

    @property
    def _divided(self) -> NDArray[np.bool_]:
        """Which levels ``finer`` divides, bool (size,)."""
        assert self.edges is not None
        if self.finer is None:
            return np.zeros(len(self.edges) - 1, np.bool_)
        return np.diff(np.searchsorted(self.finer[0], self.edges)) > 1

    def _within(
        self, levels: NDArray[np.int32], uniform: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """The finer interval of each record, from its left to its right edge, and the place in it, each (n,)."""
        assert self.edges is not None
        assert self.finer is not None
        edges, below = self.finer
        ends = np.searchsorted(edges, self.edges)
        first, last = ends[levels], ends[levels + 1]
        wanted = below[first] + uniform * (below[last] - below[first])
        found = np.clip(np.searchsorted(below, wanted, side="right") - 1, first, last - 1)
        return edges[found], edges[found + 1], (wanted - below[found]) / (below[found + 1] - below[found])

    def _slopes(
        self, levels: NDArray[np.int32], labels: NDArray[np.int64], present: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """How the density of a label changes within the level of each record, float64 (n,) in (-1, 1).

        1 would be from zero to twice its mean. Piecewise linear reconstruction (van Leer 1977): flat at peaks and in
        valleys, so that it adds none.
        """
        assert self.edges is not None
        assert isinstance(self.column, Numeric)
        places = np.log(np.maximum(self.edges, self.column.minimum)) if self.column.log else self.edges
        widths = np.diff(places)
        size = len(widths)
        counts = np.zeros((int(labels.max(initial=0)) + 1, size))
        np.add.at(counts, (labels, levels), present.astype(np.float64))
        density = counts / widths
        gaps = (widths[1:] + widths[:-1]) / 2
        ahead = np.pad(np.diff(density, axis=1) / gaps, ((0, 0), (1, 1)), mode="edge" if size > 1 else "constant")
        left, right = ahead[:, :-1], ahead[:, 1:]
        product = np.maximum(left * right, 0)
        slope = np.divide(2 * product, left + right, out=np.zeros_like(product), where=product > 0)
        relative = np.divide(slope * widths / 2, density, out=np.zeros_like(slope), where=density > 0)
        found: NDArray[np.float64] = np.clip(relative, -0.99, 0.99)[labels, levels]
        return found


def grid(column: Column, bins: int, *, refined: bool = True) -> Levels:
    """The levels of the first count: every category, or about ``bins`` intervals of a number's domain.

    Intervals have equal width. ``refined`` grids of 16 bins and more are divided geometrically at both ends of the
    domain, where values pile up; others of as many have one narrow interval there. An integer column of at most 2
    ``bins`` values gets one level per value.
    """
    if isinstance(column, (Image, Text)):
        raise SchemaError(f"cross-tables count no {column.kind} (column '{column.name}'). Nothing was spent.")
    if isinstance(column, Categorical):
        values = column.states
        return Levels(
            column, np.full(values, 1 / values), groups=np.arange(values, dtype=np.int32), weights=np.ones(values)
        )
    half = 0.5 if column.integer else 0.0
    low, high = column.minimum - half, column.maximum + half
    if high <= low:
        high = np.nextafter(low, math.inf)
    if column.integer and high - low <= 2 * bins:
        return _even(column, np.arange(low, high + 1))
    if column.log:
        edges = np.geomspace(column.minimum, column.maximum, bins + 1)
        edges[[0, -1]] = low, high
    else:
        edges = np.linspace(low, high, bins + 1)
    if not refined and bins >= REFINED_FROM:
        first, last = (1.0 if column.integer else TIP * width for width in (edges[1] - edges[0], edges[-1] - edges[-2]))
        edges = np.insert(edges, [1, bins], [low + first, high - last])
    if refined and bins >= REFINED_FROM and not column.log:
        tips = (high - low) / bins * 2.0 ** -np.arange(1, 7)
        edges = np.concatenate([edges, low + tips, high - tips])
    if column.integer:
        edges = np.rint(edges - 0.5) + 0.5
    return _even(column, np.unique(edges))


def _even(column: Numeric, edges: NDArray[np.float64]) -> Levels:
    size = len(edges) - 1 + column.missing
    return Levels(column, np.full(size, 1 / size), edges)


def merge(fine: Levels, counts: NDArray[np.float64], sigma: float, most: int) -> Levels:
    """About ``most`` levels of nearly equal mass from noisy counts of the grid, float64 (fine.size,), noise ``sigma``.

    Neighbouring intervals are joined until their mass stands out of the noise, and heavy ones are divided evenly.
    Categories within two standard deviations of zero (of columns with more than eight) share one level.
    """
    return _categories(fine, counts, sigma) if fine.groups is not None else _intervals(fine, counts, sigma, most)


def coarse(levels: Levels, bins: int) -> NDArray[np.int32]:
    """A map int32 (levels.size,) to at most ``bins`` groups: intervals of about equal mass, or the largest categories
    and the rest."""
    if levels.size <= bins:
        return np.arange(levels.size, dtype=np.int32)
    if levels.absent:  # missing values keep a group of their own
        groups = coarse(_present(levels), max(bins - 1, 1))
        return np.append(groups, groups.max() + 1).astype(np.int32)
    if levels.groups is not None:
        groups = np.full(levels.size, bins - 1, np.int32)
        groups[np.argsort(-levels.shares, kind="stable")[: bins - 1]] = np.arange(bins - 1)
        return groups
    middle = np.cumsum(levels.shares) - levels.shares / 2
    _, dense = np.unique(np.minimum((middle * bins).astype(np.int32), bins - 1), return_inverse=True)
    return dense.astype(np.int32)


def _categories(fine: Levels, counts: NDArray[np.float64], sigma: float) -> Levels:
    kept = np.flatnonzero(counts >= 2 * sigma) if fine.size > 8 else np.arange(fine.size)
    groups = np.full(fine.size, len(kept), np.int32)
    groups[kept] = np.arange(len(kept))
    rest = np.flatnonzero(groups == len(kept))
    mass = np.maximum(counts[kept], sigma / 2)
    weights = np.maximum(counts, sigma / 4 + 1e-9)
    if len(rest):
        mass = np.append(mass, max(float(counts[rest].sum()), sigma / 2))
    return Levels(fine.column, _normalised(mass), groups=groups, weights=weights)


def _intervals(fine: Levels, counts: NDArray[np.float64], sigma: float, most: int) -> Levels:
    assert fine.edges is not None
    assert isinstance(fine.column, Numeric)
    if fine.absent:
        found = _intervals(_present(fine), counts[:-1], sigma, most)
        missing = max(float(counts[-1]), sigma / 2)
        lost = missing / (missing + max(float(counts[:-1].sum()), sigma))
        return Levels(fine.column, np.append(found.shares * (1 - lost), lost), found.edges, finer=found.finer)
    if isinstance(fine.column, Gap):
        counts = _with_falling_tail(fine.edges, counts, sigma, most)
    parts = _joined(fine.edges, counts, sigma, most)
    masses = _masses(parts, sigma)
    edges, shares = [parts[0][0]], []
    for (low, high, _, _), share in zip(parts, masses, strict=True):
        cuts = max(1, round(share * most))
        if fine.column.integer:
            cuts = min(cuts, max(1, round(high - low)))
        inner = np.linspace(low, high, cuts + 1)[1:]
        if isinstance(fine.column, Gap):  # equal mass, where the part is wide
            first, last = np.searchsorted(fine.edges, [low, high])
            reached = np.cumsum(np.maximum(counts[first:last], 0.0) + 1e-6 * sigma)
            below = np.concatenate([[0.0], reached / reached[-1]])
            inner = np.interp(np.linspace(0, 1, cuts + 1)[1:], below, fine.edges[first : last + 1])
        if fine.column.integer:
            inner = np.rint(inner - 0.5) + 0.5
        inner = np.unique(inner[inner > low])
        edges += inner.tolist()
        shares += [share / len(inner)] * len(inner)
    finer = _joined(fine.edges, counts, sigma, FINER * most)
    ends = np.array([finer[0][0], *(part[1] for part in finer)])
    below = np.concatenate([[0.0], np.cumsum(_masses(finer, sigma))])
    if isinstance(fine.column, Gap):  # its outermost interval is divided like the grid
        start = int(np.searchsorted(fine.edges, ends[-2]))
        inner = np.cumsum(counts[start:] + 1e-6 * sigma)
        ends = np.append(ends[:-1], fine.edges[start + 1 :])
        below = np.append(below[:-1], below[-2] + (below[-1] - below[-2]) * inner / inner[-1])
    places = np.union1d(np.array(edges), ends)
    spread = np.interp(places, ends, below)
    return Levels(fine.column, _normalised(np.array(shares)), np.array(edges), finer=np.stack([places, spread]))


def _with_falling_tail(
    edges: NDArray[np.float64], counts: NDArray[np.float64], sigma: float, most: int
) -> NDArray[np.float64]:
    """Counts whose density on a log scale falls beyond the last intervals that clearly stand out of the noise.

    The domain of a gap reaches far beyond most gaps: what noise puts there, or what is spread evenly over it, would
    multiply the mean. By isotonic regression; the tail's total stays, all of its counts are >= 0.
    """
    clear = [part[1] for part in _joined(edges, counts, sigma, most) if part[2] >= CLEAR * sigma * math.sqrt(part[3])]
    start = int(np.searchsorted(edges, clear[-1])) if clear else 0
    tail = counts[start:]
    if len(tail) < 2:
        return counts
    widths = np.diff(np.log(np.maximum(edges[start:], edges[1] / 2)))
    density = isotonic_regression(tail / widths, weights=widths, increasing=False).x
    falling = widths * np.maximum(density, 0.0)
    falling *= max(float(tail.sum()), 0.0) / max(float(falling.sum()), 1e-300)
    return np.append(counts[:start], falling)


def _joined(edges: NDArray[np.float64], counts: NDArray[np.float64], sigma: float, most: int) -> list[list[float]]:
    """Neighbouring intervals joined to about ``most`` whose mass stands out of the noise: left edge, right edge, mass,
    number of joined intervals."""
    wanted = max(float(counts.sum()), 0.0) / most
    spike = max(0.7 * wanted, 5 * sigma)
    parts: list[list[float]] = []
    mass, joined, left = 0.0, 0, edges[0]
    for here, right, count in zip(edges[:-1], edges[1:], counts, strict=True):
        if joined and count >= spike:  # a spike keeps to itself
            parts.append([left, here, mass, joined])
            mass, joined, left = 0.0, 0, here
        mass, joined = mass + float(count), joined + 1
        if mass >= max(0.7 * wanted, 2.5 * sigma * math.sqrt(joined)):
            parts.append([left, right, mass, joined])
            mass, joined, left = 0.0, 0, right
    if joined:
        alone = parts and parts[-1][3] == 1 and parts[-1][2] >= spike
        if parts and not alone and mass < max(0.35 * wanted, 1.5 * sigma * math.sqrt(joined)):
            parts[-1] = [parts[-1][0], edges[-1], parts[-1][2] + mass, parts[-1][3] + joined]
        else:
            parts.append([left, edges[-1], mass, joined])
    return parts


def _masses(parts: list[list[float]], sigma: float) -> NDArray[np.float64]:
    """Their shares, > 0: chosen for standing out, they are a little too large."""
    return _normalised(np.array([max(p[2] - 0.5 * sigma * math.sqrt(p[3]), 0.1 * sigma + 1e-9) for p in parts]))


def _present(levels: Levels) -> Levels:
    """A number's levels without that of its missing values."""
    assert isinstance(levels.column, Numeric)
    return Levels(replace(levels.column, missing=False), levels.shares[:-1], levels.edges)


def _sloping(uniform: NDArray[np.float64], slopes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Numbers in [0, 1] of density 1 + slope (2 x - 1), from uniform ones."""
    root = np.sqrt((1 - slopes) ** 2 + 4 * slopes * uniform)
    found: NDArray[np.float64] = 2 * uniform / (1 - slopes + root)
    return found


def _rounded(
    values: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64], column: Numeric
) -> NDArray[np.float64]:
    """To ``DIGITS`` digits of the domain's width (on a log scale, of each value): the others are drawn, not found.

    A value that would leave its level, [low, high), stays.
    """
    scale = values if column.log else np.full(len(values), max(column.maximum - column.minimum, 1e-300))
    places = np.clip(DIGITS - 1 - np.floor(np.log10(scale)), -22, 22)
    up, down = 10.0 ** np.maximum(places, 0), 10.0 ** np.maximum(-places, 0)  # exact, so that decimals are the nearest
    found = np.rint(values * up / down) * down / up
    return np.where((low <= found) & (found < high), found, values)


def _normalised(mass: NDArray[np.float64]) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = mass / mass.sum()
    return shares
