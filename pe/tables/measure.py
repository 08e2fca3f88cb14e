"""Counting queries: every record adds a fixed whole number to one cell of each of a public list of cross-tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pe.tables.levels import Levels

CHUNK = 1 << 16
"""Records counted at a time."""


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

    def count(
        self, levels: Sequence[Levels], arrays: Mapping[str, NDArray[Any]], labels: NDArray[Any]
    ) -> NDArray[np.int64]:
        """Exact answers int64 (bins,), table after table, for columns as ``pe.arrays.to_numpy`` gives them.

        ``labels`` are whole numbers (n,) in [0, self.labels); ignored when that is 1.
        """
        totals = [np.zeros(self.labels * table.cells, np.int64) for table in self.tables]
        for start in range(0, len(labels), CHUNK):
            here = slice(start, start + CHUNK)
            own = labels[here] if self.labels > 1 else np.zeros(len(labels[here]), np.int64)
            codes = [level.encode(arrays[level.column.name][here]) for level in levels]
            for table, total in zip(self.tables, totals, strict=True):
                total += table.weight * np.bincount(table.key(codes, own), minlength=len(total))
        return np.concatenate(totals) if totals else np.empty(0, np.int64)

    def split(self, answers: NDArray[Any]) -> list[NDArray[np.float64]]:
        """Answers (bins,) as one float64 (labels, cells) per table."""
        ends = np.cumsum([self.labels * table.cells for table in self.tables])[:-1]
        return [part.astype(np.float64).reshape(self.labels, -1) for part in np.split(answers, ends)]


def one_way(levels: Sequence[Levels]) -> Tables:
    """The histogram of every column on its own, without labels: the first release."""
    return Tables(tuple(Table((i,), (np.arange(level.size, dtype=np.int32),)) for i, level in enumerate(levels)))
