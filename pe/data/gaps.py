"""Gaps: how far a number or date lies above (or below) others of its record, as a column on a log scale."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pe.data.columns import Numeric

Floats = NDArray[np.float64]
Bounds = tuple[float, float]

FLOAT_STEPS = 2**16
"""The unit of a gap between floats without a step is its range over this: smaller ones are hardly told from none."""

PART_STEPS = 2**8
"""The same for the parts of a sum, whole numbers too: their declared domains are narrower than ranges of gaps, and the
top of a log scale is coarse."""

LARGEST_WHOLE = 2.0**53
"""Whole numbers up to this are exact as floats."""


@dataclass(frozen=True, kw_only=True)
class Gap(Numeric):
    """The distance of ``column`` from its ``bases``, a derived column: it is measured within a record, never stored.

    ``above``: from the largest base that is present up to the column; else from the column up to the smallest one.
    Without bases: from the column's minimum. The value is distance - ``smallest`` + unit, where the unit is
    ``minimum`` (> 0, so that a log scale begins there), clipped to [minimum, maximum]: a record that breaks the order
    has the smallest gap. It is missing where the column is, or every base. Domains follow from public bounds alone.
    """

    column: Numeric
    bases: tuple[Numeric, ...] = field(default=())
    above: bool = True
    smallest: float = 0.0

    @property
    def sources(self) -> tuple[Numeric, ...]:
        """The columns of a record that the gap is measured from."""
        return (self.column, *self.bases)

    def measure(self, arrays: Mapping[str, NDArray[np.float64] | NDArray[np.int64]]) -> Floats | NDArray[np.int64]:
        """Gaps (n,) of records whose ``sources`` are as ``pe.data.arrays.to_numpy`` gives them.

        Each from its own record alone. int64 for whole numbers without missing values, else float64.
        """
        values = arrays[self.column.name].astype(np.float64)
        base = self._base({each.name: arrays[each.name].astype(np.float64) for each in self.bases})
        distance = values - base if self.above else base - values
        gaps = np.clip(distance - self.smallest + self.minimum, self.minimum, self.maximum)
        return gaps.astype(np.int64) if self.integer and not self.missing else gaps

    def place(self, gaps: NDArray[np.float64] | NDArray[np.int64], values: Mapping[str, Floats]) -> Floats:
        """The inverse of ``measure``: the column's values (n,), NaN where the gap or every base is missing."""
        distance = gaps.astype(np.float64) - self.minimum + self.smallest
        base = self._base(values)
        placed: Floats = base + distance if self.above else base - distance
        return placed

    def _base(self, values: Mapping[str, Floats]) -> Floats | float:
        if not self.bases:
            return self.column.minimum
        own = [values[each.name] for each in self.bases]
        base: Floats = np.fmax.reduce(own) if self.above else np.fmin.reduce(own)  # a missing one is skipped
        return base


def gap_between(
    name: str, column: Numeric, bases: tuple[Numeric, ...], *, above: bool, bounds: Mapping[str, Bounds]
) -> Gap | None:
    """The gap of a column from some bases, for values within ``bounds`` (by name, those of the order constraints).

    None where its range is no range of exact numbers: beyond 2**53 for whole numbers, or the largest float.
    """
    low, high = bounds[column.name]
    certain = [each for each in bases if not each.missing]
    lows, highs = [bounds[each.name][0] for each in bases], [bounds[each.name][1] for each in bases]
    if above:  # from the largest base, which is no smaller than any that is always there
        nearest = low - max(highs)
        farthest = high - max((bounds[each.name][0] for each in certain), default=min(lows))
    else:
        nearest = min(lows) - high
        farthest = min((bounds[each.name][1] for each in certain), default=max(highs)) - low
    smallest = max(nearest, 0.0)
    missing = column.missing or not certain
    return _gap(name, column, bases, above, missing, smallest, farthest - smallest, FLOAT_STEPS)


def part_of_sum(column: Numeric) -> Gap | None:
    """A part of a sum on a log scale, from its minimum on; None where it is declared on one, or its range is none."""
    if column.log:
        return None
    return _gap(column.name, column, (), True, column.missing, 0.0, column.maximum - column.minimum, PART_STEPS)


def _gap(
    name: str,
    column: Numeric,
    bases: tuple[Numeric, ...],
    above: bool,
    missing: bool,
    smallest: float,
    width: float,
    steps: int,
) -> Gap | None:
    finest = 1.0 if column.integer else column.step
    unit = width / steps
    if finest is not None:
        unit = finest if bases else max(finest, finest * math.floor(unit / finest))
    top = width + unit
    if not (0 < unit <= top < math.inf) or (column.integer and top + smallest > LARGEST_WHOLE):
        return None
    return Gap(
        name,
        unit,
        top,
        integer=column.integer,
        log=True,
        missing=missing,
        column=column,
        bases=bases,
        above=above,
        smallest=smallest,
    )
