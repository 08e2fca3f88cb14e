"""Counting queries: every record adds fixed whole numbers to cells of each of a public list of cross-tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pe.data.arrays import to_numpy
from pe.tables.levels import Levels


@dataclass(frozen=True)
class Table:
    """Label x columns: ``columns`` are positions in the list of levels, ``maps`` int32 (levels,) group their levels.

    A record adds ``weight`` to its cell. Along each of the ``centred`` axes, 0 the label's, it adds size - 1 times that
    in its own group and takes the weight off in every other. Sums over a centred axis are then 0, whatever the records,
    and cost nothing: its totals are known from another release, and the rest is found with less noise (the residuals of
    Xiao et al. 2023, ResidualPlanner).
    """

    columns: tuple[int, ...]
    maps: tuple[NDArray[np.int32], ...] = field(repr=False)
    weight: int = 1
    centred: tuple[int, ...] = ()

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        return tuple(int(groups.max()) + 1 for groups in self.maps)

    @cached_property
    def cells(self) -> int:
        """Cells per label."""
        return math.prod(self.sizes)

    def key(self, codes: Sequence[NDArray[np.int32]], labels: NDArray[Any]) -> NDArray[np.int64]:
        """Cell of each record, int64 (n,), label first; ``codes`` holds the levels of every column, int32 (n,)."""
        key = labels.astype(np.int64)
        for column, groups, size in zip(self.columns, self.maps, self.sizes, strict=True):
            key = key * size + groups[codes[column]]
        return key

    def entries(
        self, codes: Sequence[NDArray[np.int32]], labels: NDArray[Any], number: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Cells int64 (n, m) that records add to, distinct within a row, and what, the same; ``number`` labels."""
        cells = np.zeros((len(labels), 1), np.int64)
        values = np.full((len(labels), 1), self.weight, np.int64)
        own = (labels, *(groups[codes[column]] for column, groups in zip(self.columns, self.maps, strict=True)))
        for axis, (group, size) in enumerate(zip(own, (number, *self.sizes), strict=True)):
            if axis in self.centred:
                every = np.arange(size)
                factor = np.where(every == group[:, None], size - 1, -1)
                shape = len(labels), cells.shape[1] * size
                cells = (cells[:, :, None] * size + every).reshape(shape)
                values = (values[:, :, None] * factor[:, None, :]).reshape(shape)
            else:
                cells = cells * size + group[:, None]
        return cells, values

    def norm_squared(self, number: int) -> int:
        """Squared norm of what every record adds, among ``number`` labels."""
        return self.weight**2 * math.prod(size * (size - 1) for size in self._centred(number))

    def apart_squared(self, number: int) -> int:
        """Largest squared distance of what two records add.

        Along a centred axis of s groups the product is s (s - 1) of equal groups, -s of others: that of two vectors is
        most negative where they differ along the shortest centred axis alone.
        """
        shortest = min(self._centred(number), default=0)
        twice = 2 * self.norm_squared(number)
        return twice if shortest < 2 else twice * shortest // (shortest - 1)

    def scale(self, number: int) -> int:
        """By what answers are multiples of the counts, ``centre``d."""
        return self.weight * math.prod(self._centred(number))

    def centre(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Counts (labels, cells) less their means along the centred axes: a projection."""
        if not self.centred:
            return counts
        shaped = counts.reshape(-1, *self.sizes)
        for axis in self.centred:
            shaped = shaped - shaped.mean(axis=axis, keepdims=True)
        return shaped.reshape(counts.shape)

    def _centred(self, number: int) -> list[int]:
        return [(number, *self.sizes)[axis] for axis in self.centred]


@dataclass(frozen=True)
class Tables:
    """A block of queries over ``labels`` labels (1: the tables ignore the label).

    A record contributes an integer vector of squared L2 norm ``bound_squared`` exactly, whatever its values: adding or
    removing one moves the answers by sqrt(bound_squared), replacing one by at most sqrt(apart_squared).
    """

    tables: tuple[Table, ...]
    labels: int = 1

    @property
    def bound_squared(self) -> int:
        return sum(table.norm_squared(self.labels) for table in self.tables)

    @property
    def apart_squared(self) -> int:
        return sum(table.apart_squared(self.labels) for table in self.tables)

    @property
    def signed(self) -> bool:
        """Whether records take something off."""
        return any(table.centred for table in self.tables)

    @property
    def bins(self) -> int:
        return self.labels * sum(table.cells for table in self.tables)

    def split(self, answers: NDArray[Any]) -> list[NDArray[np.float64]]:
        """Answers (bins,) as one float64 (labels, cells) per table."""
        if not self.tables:
            return []
        ends = np.cumsum([self.labels * table.cells for table in self.tables])[:-1]
        return [part.astype(np.float64).reshape(self.labels, -1) for part in np.split(answers, ends)]


@dataclass(frozen=True)
class Counts:
    """The queries as ``pe.private.measure.Features``: what a record adds to the answers, ``grid`` steps per count."""

    tables: Tables
    levels: tuple[Levels, ...]
    name: str
    grid: int = 1

    @property
    def signed(self) -> bool:
        return self.tables.signed

    @property
    def bins(self) -> int:
        return self.tables.bins

    @property
    def bound_squared(self) -> int:
        return self.tables.bound_squared * self.grid**2

    @property
    def apart_squared(self) -> int:
        return self.tables.apart_squared * self.grid**2

    def vectors(self, table: pa.Table, labels: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        cells, values = self.entries(
            {level.column.name: to_numpy(table, level.column) for level in self.levels}, labels
        )
        return cells, values * self.grid

    def entries(
        self, arrays: Mapping[str, NDArray[Any]], labels: NDArray[Any]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Bins and counts int64 (n, m) of records whose columns are as ``pe.data.arrays.to_numpy`` gives them.

        ``labels`` are whole numbers (n,) in [0, labels); ignored when there is one.
        """
        own = labels if self.tables.labels > 1 else np.zeros(len(labels), np.int64)
        codes = [level.encode(arrays[level.column.name]) for level in self.levels]
        cells, values, start = [], [], 0
        for table in self.tables.tables:
            some, added = table.entries(codes, own, self.tables.labels)
            cells.append(start + some)
            values.append(added)
            start += self.tables.labels * table.cells
        return np.concatenate(cells, axis=1), np.concatenate(values, axis=1)


def one_way(levels: Sequence[Levels]) -> Tables:
    """The histogram of every column on its own, without labels: the first release."""
    return Tables(tuple(Table((i,), (np.arange(level.size, dtype=np.int32),)) for i, level in enumerate(levels)))
