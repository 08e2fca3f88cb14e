"""Marginals: how far apart the histograms of one, two and three columns are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pe.evaluation.tables import Field, Frame

CELLS = 16
"""Cells that a numeric column is cut into."""

MOST_SETS = 2000
"""Sets of columns compared per order; of more, so many are drawn."""

Bins = Literal["domain", "range", "quantiles"]
"""Equal cells of the declared domain, equal cells of the reference table's range, or equally filled ones."""


@dataclass(frozen=True)
class Cells:
    """A column cut into cells: categories, or numbers between ``edges``; the last cell is for missing values."""

    field: Field
    edges: NDArray[np.float64] | None = None

    @classmethod
    def of(cls, field: Field, reference: Frame, bins: Bins) -> Cells:
        """Cells of a column, cut where the *reference* table's values say so unless the domain does.

        Values beyond the outer edges belong to the outer cells; a column without values has one cell.
        """
        if field.values is not None:
            return cls(field)
        if bins == "domain" and field.domain is not None:
            return cls(field, np.linspace(*field.domain, CELLS + 1)[1:-1])
        numbers = reference[field.name]
        numbers = numbers[np.isfinite(numbers)]
        if len(numbers) == 0:
            return cls(field, np.empty(0))
        if bins == "quantiles":
            return cls(field, np.unique(np.quantile(numbers, np.linspace(0, 1, CELLS + 1)[1:-1])))
        return cls(field, np.linspace(numbers.min(), numbers.max(), CELLS + 1)[1:-1])

    @property
    def count(self) -> int:
        """How many cells there are, that of missing values included."""
        return (len(self.edges) + 1 if self.edges is not None else len(self.field.values or ())) + 1

    def codes(self, frame: Frame) -> NDArray[np.int64]:
        """The cell of each record, int64 (n,)."""
        values = frame[self.field.name]
        if self.edges is None:
            return np.where(values < 0, self.count - 1, values).astype(np.int64)
        return np.where(np.isnan(values), self.count - 1, np.digitize(values, self.edges)).astype(np.int64)

    def ticks(self) -> list[str]:
        """Text of each edge between cells of numbers; none for categories."""
        return [] if self.edges is None else [self.field.text(_rounded(edge, self.edges)) for edge in self.edges]

    def names(self) -> list[str]:
        if self.edges is None:
            return [*(self.field.values or ()), "missing"]
        edges = self.ticks()
        inner = [f"{low} to {high}" for low, high in pairwise(edges)]
        whole = [f"below {edges[0]}", *inner, f"{edges[-1]} or more"] if edges else ["all"]
        return [*whole, "missing"]


def _rounded(edge: float, edges: NDArray[np.float64]) -> float:
    """An edge to two more digits than the width of a cell has."""
    width = float(edges[-1] - edges[0]) / max(len(edges) - 1, 1)
    return edge if width <= 0 else round(float(edge), 1 - math.floor(math.log10(width)))


@dataclass(frozen=True)
class Coded:
    """All columns of one table as cells."""

    codes: dict[str, NDArray[np.int64]]
    rows: int

    @classmethod
    def of(cls, frame: Frame, cells: Sequence[Cells]) -> Coded:
        return cls({each.field.name: each.codes(frame) for each in cells}, frame.rows)


def shares(coded: Coded, cells: Cells) -> NDArray[np.float64]:
    """The share of records in each cell, float64 (cells,)."""
    return np.bincount(coded.codes[cells.field.name], minlength=cells.count) / coded.rows


def total_variation(one: Coded, other: Coded, subset: Sequence[Cells]) -> float:
    """Half the L1 distance of two tables' joint histograms over a set of columns: 0 equal, 1 disjoint."""
    size = math.prod(cells.count for cells in subset)
    keys = [_joint(coded, subset) for coded in (one, other)]
    if size > 2**20:
        _, places = np.unique(np.concatenate(keys), return_inverse=True)
        keys, size = [places[: one.rows], places[one.rows :]], int(places.max()) + 1
    p, q = (np.bincount(key, minlength=size) / len(key) for key in keys)
    return float(0.5 * np.abs(p - q).sum())


def _joint(coded: Coded, subset: Sequence[Cells]) -> NDArray[np.int64]:
    key = np.zeros(coded.rows, np.int64)
    for cells in subset:  # below 1002**3 for three columns
        key = key * cells.count + coded.codes[cells.field.name]
    return key


def subsets(cells: Sequence[Cells], order: int, rng: np.random.Generator) -> list[tuple[Cells, ...]]:
    """All sets of ``order`` columns; ``MOST_SETS`` of them, drawn, where there are more."""
    total = math.comb(len(cells), order)
    if total <= MOST_SETS:
        return list(combinations(cells, order))
    drawn: set[tuple[int, ...]] = set()
    while len(drawn) < MOST_SETS:
        drawn.add(tuple(sorted(rng.choice(len(cells), order, replace=False).tolist())))
    return [tuple(cells[index] for index in each) for each in sorted(drawn)]


def mean_distance(one: Coded, other: Coded, sets: Sequence[Sequence[Cells]]) -> float | None:
    """The mean total-variation distance over sets of columns; None where there is no set."""
    return float(np.mean([total_variation(one, other, subset) for subset in sets])) if sets else None
