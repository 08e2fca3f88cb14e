"""The gap form of a schema: columns under order and sum constraints as gaps, and records rebuilt from them.

Methods that model or compare single columns lose what lies between two of them: the length of a stay among dates of
admission and discharge. They read a record in gap form instead (``GapForm.columns``, by ``pe.data.arrays.to_numpy``)
and rebuild synthetic records from it. The form follows from the schema alone, a record's gaps from that record alone.

order  A column becomes its distance above the largest earlier column of its record, on a log scale. A column that may
       be missing stands on those that may not, above or below them, whichever range is narrower; where all its
       neighbours may be missing it stays, and its gap is modelled beside it.
sum    The parts are put on a log scale. The total follows from them, unless one of the columns may be missing: then it
       stays, and ``pe.data.constraints.repair`` makes it the sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pe.data.columns import Column, Numeric
from pe.data.constraints import Order, Sum, order_bounds, predecessors
from pe.data.gaps import Bounds, Floats, Gap, gap_between, part_of_sum
from pe.data.schema import Schema

DIGITS = 9
"""Significant digits, of the domain's width, of a float that is rebuilt."""


@dataclass(frozen=True)
class _Ordered:
    """A column under order constraints, and what its values lie between: bounds, and columns that are rebuilt before.

    gap  replaces the column where both have one name, else is modelled beside it; None: the column is modelled itself.
    """

    column: Numeric
    gap: Gap | None
    bounds: Bounds
    lower: tuple[str, ...]
    upper: tuple[str, ...]


@dataclass(frozen=True)
class GapForm:
    """``columns`` are modelled in place of the ``features`` of a schema: the same ones where nothing is a gap."""

    features: tuple[Column, ...]
    columns: tuple[Column, ...]
    ordered: tuple[_Ordered, ...]
    parts: tuple[Gap, ...]
    sums: tuple[Sum, ...]

    @classmethod
    def of(cls, schema: Schema) -> GapForm:
        known = {column.name: column for column in schema.features if isinstance(column, Numeric)}
        ordered = _ordered(schema, known)
        sums = [each for each in schema.constraints if isinstance(each, Sum)]
        scaled = [part_of_sum(known[name]) for each in sums for name in each.parts]
        parts = tuple(part for part in scaled if part is not None)
        following = tuple(each for each in sums if not any(known[name].missing for name in each.names))
        gaps = {each.gap.name: each.gap for each in ordered if each.gap is not None} | {gap.name: gap for gap in parts}
        totals = {each.total for each in following}
        columns = [gaps.pop(column.name, column) for column in schema.features if column.name not in totals]
        return cls(schema.features, (*columns, *gaps.values()), ordered, parts, following)

    @property
    def changed(self) -> bool:
        """Whether the form differs from the schema's own."""
        return self.columns != self.features

    def modelled(self, names: Iterable[str]) -> list[str]:
        """Which columns of the form stand for columns of the schema: the parts for a total that follows from them."""
        parts = {each.total: each.parts for each in self.sums}
        return list(dict.fromkeys(own for name in names for own in parts.get(name, (name,))))

    def rebuild(self, arrays: Mapping[str, NDArray[Any]], rng: np.random.Generator) -> dict[str, NDArray[Any]]:
        """Columns of the schema, by name, from those of the form, both as ``pe.data.arrays.to_numpy`` gives them.

        Order constraints hold, also through a column that is missing, and all columns but totals are in their domains
        (a total that is not is for ``repair``). ``rng`` draws the gaps that are missing between columns that are not.
        """
        found = {column.name: arrays[column.name] for column in self.features if column.name in arrays}
        if not self.changed:
            return found
        values: dict[str, Floats] = {}
        for each in self.ordered:
            values[each.column.name] = _placed(each, arrays, values, rng)
        for gap in self.parts:
            bounds = gap.column.minimum, gap.column.maximum
            values[gap.name] = np.clip(_rounded(gap.place(arrays[gap.name], {}), gap.column), *bounds)
        found |= {name: _typed(numbers, self._numeric(name)) for name, numbers in values.items()}
        for constraint in self.sums:
            total = self._numeric(constraint.total)
            added = np.sum([found[name] for name in constraint.parts], axis=0)
            found[total.name] = _typed(np.clip(added, total.minimum, total.maximum), total)
        return found

    def _numeric(self, name: str) -> Numeric:
        column = next(column for column in self.features if column.name == name)
        assert isinstance(column, Numeric)
        return column


def _ordered(schema: Schema, known: Mapping[str, Numeric]) -> tuple[_Ordered, ...]:
    """The columns of the order constraints in the order in which they are rebuilt: first those never missing."""
    orders = [each for each in schema.constraints if isinstance(each, Order)]
    earlier = _closure(predecessors(orders))
    low, high = order_bounds(orders, known)
    bounds = {name: (low[name], high[name]) for name in earlier}
    taken = {column.name for column in schema.columns}
    done: list[_Ordered] = []
    for name in sorted(earlier, key=lambda name: known[name].missing):  # stable: along the constraints
        lower = [each.column for each in done if each.column.name in earlier[name]]
        upper = [each.column for each in done if name in earlier[each.column.name]]
        gap = _gap_of(known[name], lower, upper, bounds, taken)
        done.append(_Ordered(known[name], gap, bounds[name], _names(lower), _names(upper)))
    return tuple(done)


def _gap_of(
    column: Numeric,
    lower: Sequence[Numeric],
    upper: Sequence[Numeric],
    bounds: Mapping[str, Bounds],
    taken: set[str],
) -> Gap | None:
    """The narrowest gap from bases of which one is never missing; else one beside the column; None without bases."""
    sides = [(tuple(bases), above) for bases, above in ((lower, True), (upper, False)) if bases]
    certain = [side for side in sides if not all(base.missing for base in side[0])]
    name = column.name
    if sides and not certain:
        name = next(free for free in _beside(column, sides[0][0][-1]) if free not in taken)
    gaps = [gap_between(name, column, bases, above=above, bounds=bounds) for bases, above in certain or sides]
    return min((gap for gap in gaps if gap is not None), key=lambda gap: gap.maximum, default=None)


def _beside(column: Numeric, base: Numeric) -> Iterable[str]:
    """Names for a gap that has no column's."""
    name = f"{column.name} - {base.name}"
    while True:
        yield name
        name += "'"


def _closure(direct: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """All that comes before each column, from what does directly; keys run along the constraints."""
    closed: dict[str, set[str]] = {}
    for name, before in direct.items():
        closed[name] = before.union(*(closed[each] for each in before))
    return closed


def _names(columns: Sequence[Numeric]) -> tuple[str, ...]:
    return tuple(column.name for column in columns)


def _placed(
    each: _Ordered, arrays: Mapping[str, NDArray[Any]], values: Mapping[str, Floats], rng: np.random.Generator
) -> Floats:
    """A column's values (n,), NaN where missing, between those of the columns that were rebuilt before."""
    column, gap = each.column, each.gap
    if gap is None:
        own = arrays[column.name].astype(np.float64)
    elif gap.name == column.name:
        own = gap.place(arrays[gap.name], values)
    else:
        own = arrays[column.name].astype(np.float64)
        beside = gap.place(_completed(arrays[gap.name], rng), values)
        own = np.where(np.isnan(own) | np.isnan(beside), own, beside)
    own = _rounded(own, column)
    low = np.fmax.reduce([np.full(len(own), each.bounds[0]), *(values[name] for name in each.lower)])
    high = np.fmin.reduce([np.full(len(own), each.bounds[1]), *(values[name] for name in each.upper)])
    return np.clip(own, low, high)


def _completed(gaps: Floats, rng: np.random.Generator) -> Floats:
    """Gaps, those that are missing drawn from the others."""
    absent = np.isnan(gaps)
    if absent.all() or not absent.any():
        return gaps
    gaps = gaps.copy()
    gaps[absent] = rng.choice(gaps[~absent], int(absent.sum()))
    return gaps


def _rounded(values: Floats, column: Numeric) -> Floats:
    """On the column's step, or without digits beyond those of its domain: sums of rounded floats have them."""
    if column.step is not None:
        return column.from_steps(column.steps(values))
    width = column.maximum - column.minimum
    if column.integer or not 0 < width < math.inf:
        return values
    decimals = DIGITS - 1 - math.floor(math.log10(width))
    return np.round(values, decimals) if abs(decimals) <= 300 else values


def _typed(values: Floats, column: Numeric) -> NDArray[Any]:
    return values.astype(np.int64) if column.integer and not column.missing else values
