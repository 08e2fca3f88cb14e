"""Counting queries: every record adds a fixed whole number to one cell of each of a public list of cross-tables."""

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

    A record adds ``weight`` to its cell.
    """

    columns: tuple[int, ...]
    maps: tuple[NDArray[np.int32], ...] = field(repr=False)
    weight: int = 1

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


@dataclass(frozen=True)
class Tables:
    """A block of queries over ``labels`` labels (1: the tables ignore the label).

    A record contributes an integer vector of squared L2 norm ``bound_squared`` exactly, whatever its values: adding or
    removing one moves the answers by sqrt(bound_squared), replacing one by at most sqrt(2 bound_squared).
    """

    tables: tuple[Table, ...]
    labels: int = 1

    @property
    def bound_squared(self) -> int:
        return sum(table.weight**2 for table in self.tables)

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

    signed = False

    @property
    def bins(self) -> int:
        return self.tables.bins

    @property
    def bound_squared(self) -> int:
        return self.tables.bound_squared * self.grid**2

    def vectors(self, table: pa.Table, labels: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        arrays = {level.column.name: to_numpy(table, level.column) for level in self.levels}
        cells = self.cells(arrays, labels)
        weights = np.array([each.weight * self.grid for each in self.tables.tables], np.int64)
        return cells, np.broadcast_to(weights, cells.shape)

    def cells(self, arrays: Mapping[str, NDArray[Any]], labels: NDArray[Any]) -> NDArray[np.int64]:
        """Bins int64 (n, tables), one in each table, for columns as ``pe.data.arrays.to_numpy`` gives them.

        ``labels`` are whole numbers (n,) in [0, labels); ignored when there is one.
        """
        own = labels if self.tables.labels > 1 else np.zeros(len(labels), np.int64)
        codes = [level.encode(arrays[level.column.name]) for level in self.levels]
        found = np.empty((len(labels), len(self.tables.tables)), np.int64)
        start = 0
        for place, table in enumerate(self.tables.tables):
            found[:, place] = start + table.key(codes, own)
            start += self.tables.labels * table.cells
        return found


def one_way(levels: Sequence[Levels]) -> Tables:
    """The histogram of every column on its own, without labels: the first release."""
    return Tables(tuple(Table((i,), (np.arange(level.size, dtype=np.int32),)) for i, level in enumerate(levels)))
