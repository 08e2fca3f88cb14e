"""What a user knows to hold within every record: declared, kept by every candidate, never checked on private data.

Private records that break a constraint vote as they are. ``repair`` is post-processing of synthetic records.
Columns under order and sum constraints are modelled as gaps (``pe.data.gap_form``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pe.data.arrays import to_arrow, to_numpy
from pe.data.columns import Categorical, Column, Datetime, Numeric
from pe.errors import PrivateDataError, SchemaError

if TYPE_CHECKING:
    from pe.data.schema import Schema

Floats = NDArray[np.float64]

TOLERANCE = 1e-9
"""How far a float total may be from the sum of its parts, relative to their magnitudes; whole numbers: not at all."""


@dataclass(frozen=True)
class Order:
    """Each of the columns is at most the next: numbers, or dates. A missing value is skipped."""

    columns: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return self.columns

    def __str__(self) -> str:
        return " <= ".join(f"'{name}'" for name in self.columns)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "order", "columns": list(self.columns)}


@dataclass(frozen=True)
class Sum:
    """The total is the sum of the parts. A record in which one of them is missing satisfies it."""

    total: str
    parts: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return (self.total, *self.parts)

    def __str__(self) -> str:
        return f"'{self.total}' = " + " + ".join(f"'{name}'" for name in self.parts)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "sum", "total": self.total, "parts": list(self.parts)}


@dataclass(frozen=True)
class Determines:
    """The value of ``column`` fixes that of ``target`` by a public table; a value that it does not hold fixes none."""

    column: str
    target: str
    table: tuple[tuple[str, str], ...]
    from_file: bool = field(default=False, compare=False)
    """Whether the table was read from a file, which errors then do not quote: it may be the wrong one."""

    @property
    def names(self) -> tuple[str, ...]:
        return (self.column, self.target)

    def __str__(self) -> str:
        return f"'{self.column}' determines '{self.target}'"

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "determines", "column": self.column, "target": self.target, "map": dict(self.table)}


Constraint = Order | Sum | Determines


def constraint_from(entry: object, folder: Path) -> Constraint:
    """Read one ``[[constraints]]`` table; a file's path is relative to ``folder``. Raises SchemaError."""
    if not isinstance(entry, Mapping):
        raise SchemaError("expected [[constraints]] tables.")
    kind = entry.get("kind")
    keys = {
        "order": ({"columns"}, set()),
        "sum": ({"total", "parts"}, set()),
        "determines": ({"column", "target"}, {"map", "file"}),
    }.get(str(kind))
    if keys is None:
        raise SchemaError(f"expected a constraint of kind order, sum or determines, got {kind!r}.")
    required, optional = keys
    if missing := sorted(required - set(entry)):
        raise SchemaError(f"constraint '{kind}': missing key '{missing[0]}'.")
    if unknown := sorted(set(entry) - required - optional - {"kind"}):
        raise SchemaError(f"constraint '{kind}': unknown key '{unknown[0]}'.")
    for key in required:
        value, several = entry[key], key in ("columns", "parts")
        if (
            not (isinstance(value, list) and all(isinstance(each, str) for each in value))
            if several
            else (not isinstance(value, str))
        ):
            raise SchemaError(f"constraint '{kind}': expected {'names' if several else 'a name'} for '{key}'.")
    if kind == "order":
        return Order(tuple(entry["columns"]))
    if kind == "sum":
        return Sum(entry["total"], tuple(entry["parts"]))
    if len(optional & set(entry)) != 1:
        raise SchemaError("constraint 'determines': expected one of the keys 'map' and 'file'.")
    column, target = entry["column"], entry["target"]
    pairs = entry["map"] if "map" in entry else _pairs(folder / str(entry["file"]), column, target)
    if not isinstance(pairs, Mapping):
        raise SchemaError("constraint 'determines': expected a table of values for 'map'.")
    table = tuple((str(key), str(value)) for key, value in pairs.items())
    return Determines(column, target, table, from_file="file" in entry)


def _pairs(path: Path, column: str, target: str) -> dict[str, str]:
    """The public table in a CSV file whose header names both columns."""
    from pe.data.delimited import read_text_columns  # which knows schemas

    if path.exists() and not path.is_file():  # reading from a pipe may never end
        raise SchemaError(f"constraint 'determines': {path} is no regular file.")
    try:
        table = read_text_columns(path)
    except PrivateDataError:
        raise SchemaError(f"constraint 'determines': {path} cannot be read as a CSV file.") from None
    if not {column, target} <= set(table.names):
        raise SchemaError(f"constraint 'determines': expected the columns '{column}' and '{target}' in {path}.")
    keys, values = (table.columns[table.names.index(name)].to_pylist() for name in (column, target))
    pairs: dict[str, str] = {}
    for number, (key, value) in enumerate(zip(keys, values, strict=True), start=1):
        if key is None or value is None:
            raise SchemaError(
                f"constraint 'determines': expected {len(table.names)} fields of UTF-8 text in every line of {path}."
            )
        if pairs.setdefault(key.strip(), value.strip()) != value.strip():
            raise SchemaError(
                f"constraint 'determines': {path} gives a value of '{column}' two values of '{target}' "
                f"(record {number})."
            )
    return pairs


# -- what constraints can mean together ------------------------------------------------------------------------------


def check(constraints: Sequence[Constraint], columns: Mapping[str, Column], label: Sequence[str]) -> None:
    """Raise SchemaError unless some record can satisfy all constraints, and ``repair`` can find it.

    ``label``: names of the columns that no constraint may hold.
    """
    for constraint in constraints:
        for name in constraint.names:
            if name not in columns:
                raise SchemaError(f"constraint {constraint}: the schema has no column '{name}'.")
            if name in label:
                raise SchemaError(f"constraint {constraint}: the label '{name}' conditions generation, it is not made.")
        if len(set(constraint.names)) != len(constraint.names) or len(constraint.names) < 2:
            raise SchemaError(f"constraint {constraint}: expected at least two columns, each once.")
        if isinstance(constraint, Determines):
            _check_table(constraint, columns)
            continue
        scales = {_scale(columns[name]) for name in constraint.names}
        if len(scales) > 1 or "" in scales:
            raise SchemaError(
                f"constraint {constraint}: expected all integers, all floats of one step, or dates of one type and "
                "resolution."
            )
        if isinstance(constraint, Sum) and isinstance(columns[constraint.total], Datetime):
            raise SchemaError(f"constraint {constraint}: dates have no sum.")
    sums = [name for each in constraints if isinstance(each, Sum) for name in each.names]
    others = {name for each in constraints if isinstance(each, Order) for name in each.names}
    for name in sums:
        if sums.count(name) > 1 or name in others:
            raise SchemaError(
                f"column '{name}' stands in a sum and in another constraint: a sum's columns stand alone."
            )
    for each in constraints:
        if isinstance(each, Sum):
            low, high = _total_bounds(each, columns)
            if low > high:
                raise SchemaError(f"constraint {each}: no numbers in the declared domains satisfy it.")
    targets = [each.target for each in constraints if isinstance(each, Determines)]
    for name in targets:
        if targets.count(name) > 1:
            raise SchemaError(f"column '{name}' is determined by two constraints.")
    try:
        _tables_in_order(constraints)
        low_of, high_of = order_bounds(constraints, columns)
    except CycleError:
        raise SchemaError("the constraints run in a circle.") from None
    for name, low in low_of.items():
        if low > high_of[name]:
            raise SchemaError(f"column '{name}': no numbers in the declared domains satisfy the order constraints.")


def _check_table(constraint: Determines, columns: Mapping[str, Column]) -> None:
    for name, values in zip(constraint.names, zip(*constraint.table, strict=True), strict=False):
        column = columns[name]
        if not isinstance(column, Categorical):
            raise SchemaError(f"constraint {constraint}: expected categorical columns, '{name}' is of {column.kind}s.")
        if strangers := set(values) - set(column.values):
            stranger = "a value of its file" if constraint.from_file else f"'{min(strangers)}'"
            raise SchemaError(f"constraint {constraint}: {stranger} is no value of '{name}'.")
    if not constraint.table:
        raise SchemaError(f"constraint {constraint}: expected at least one value in its table.")


def _scale(column: Column) -> str:
    """What two columns must share for their numbers to be compared; empty for what is no number."""
    if isinstance(column, Datetime):
        return f"{column.kind} {column.resolution}"
    return f"{column.kind} {column.step}" if isinstance(column, Numeric) else ""


def _bounds(column: Column) -> tuple[float, float]:
    assert isinstance(column, Numeric)
    return column.minimum, column.maximum


def _total_bounds(constraint: Sum, columns: Mapping[str, Column]) -> tuple[float, float]:
    """Between which totals both the total's domain and the parts' allow one."""
    lows, highs = zip(*(_bounds(columns[name]) for name in constraint.parts), strict=True)
    low, high = _bounds(columns[constraint.total])
    return max(low, sum(lows)), min(high, sum(highs))


def predecessors(constraints: Sequence[Constraint]) -> dict[str, set[str]]:
    """The columns of the order constraints, in an order that runs along them, and what each must not fall below."""
    before: dict[str, set[str]] = {}
    for each in constraints:
        if isinstance(each, Order):
            for place, name in enumerate(each.columns):
                # all earlier ones, since one in between may be missing
                before.setdefault(name, set()).update(each.columns[:place])
    return {name: before[name] for name in TopologicalSorter(before).static_order()}


def order_bounds(
    constraints: Sequence[Constraint], columns: Mapping[str, Column]
) -> tuple[dict[str, float], dict[str, float]]:
    """The domains that the order constraints leave to their columns."""
    before = predecessors(constraints)
    low = {name: _bounds(columns[name])[0] for name in before}
    high = {name: _bounds(columns[name])[1] for name in before}
    for name, earlier in before.items():
        low[name] = max([low[name], *(low[each] for each in earlier)])
    for name, earlier in reversed(before.items()):
        for each in earlier:
            high[each] = min(high[each], high[name])
    return low, high


def _tables_in_order(constraints: Sequence[Constraint]) -> list[Determines]:
    tables = {each.target: each for each in constraints if isinstance(each, Determines)}
    order = TopologicalSorter({target: [each.column] for target, each in tables.items()}).static_order()
    return [tables[name] for name in order if name in tables]


# -- records -----------------------------------------------------------------------------------------------------------


def repair(table: pa.Table, schema: Schema, rng: np.random.Generator) -> pa.Table:
    """Synthetic records, in schema form, changed as little as needed to satisfy every constraint of the schema.

    order       the values of a record are sorted, then moved into the domains that the constraints leave.
    sum         the total becomes the sum; where that leaves the total's domain, the parts give way in proportion to the
                room each has, and ``rng`` deals out what whole numbers leave over.
    determines  the target becomes what the table says.

    A record that satisfies them comes back as it was. Deterministic under ``rng``.
    """
    columns = {column.name: column for column in schema.columns}
    changed = _ordered(table, schema.constraints, columns)
    for each in schema.constraints:
        if isinstance(each, Sum):
            changed |= _summed(table, each, columns, rng)
    for name, values in changed.items():
        table = _with(table, schema, name, values)
    for each in _tables_in_order(schema.constraints):
        codes, wanted = _looked_up(table, each, columns)
        table = _with(table, schema, each.target, np.where(wanted >= 0, wanted, codes))
    return table


def broken(table: pa.Table, schema: Schema) -> Iterator[str]:
    """One sentence for each constraint that some record of a table in schema form breaks."""
    columns = {column.name: column for column in schema.columns}
    for each in schema.constraints:
        if isinstance(each, Determines):
            codes, wanted = _looked_up(table, each, columns)
            bad = (wanted >= 0) & (codes != wanted)
        else:
            values = _matrix(table, each.names, columns)
            if isinstance(each, Order):
                so_far = np.fmax.accumulate(values, axis=1)
                bad = (values[:, 1:] < so_far[:, :-1]).any(axis=1)
            else:
                off = np.abs(values[:, 0] - values[:, 1:].sum(axis=1))
                bad = off > _slack(columns[each.total]) * np.abs(values).sum(axis=1)
        if bad.any():
            yield f"the constraint {each} is broken."


def _ordered(
    table: pa.Table, constraints: Sequence[Constraint], columns: Mapping[str, Column]
) -> dict[str, NDArray[Any]]:
    before = predecessors(constraints)
    values = {name: _numbers(table, name, columns) for name in before}
    for each in constraints:
        if isinstance(each, Order):
            rows = _sorted(np.stack([values[name] for name in each.columns], axis=1))
            values |= {name: rows[:, place] for place, name in enumerate(each.columns)}
    low, high = order_bounds(constraints, columns)
    for name, earlier in before.items():  # constraints that share a column may have undone each other
        inside = np.clip(values[name], low[name], high[name])
        for lower in earlier:
            inside = np.where(inside < values[lower], values[lower], inside)  # a missing one stays missing
        values[name] = inside
    return dict(values)


def _sorted(rows: Floats) -> Floats:
    """Each row ascending, its missing values in their places."""
    present = ~np.isnan(rows)
    if present.all():
        return np.sort(rows, axis=1)
    rows = rows.copy()
    for pattern in np.unique(present, axis=0):
        block = np.ix_((present == pattern).all(axis=1), pattern)
        rows[block] = np.sort(rows[block], axis=1)
    return rows


def _summed(
    table: pa.Table, constraint: Sum, columns: Mapping[str, Column], rng: np.random.Generator
) -> dict[str, NDArray[Any]]:
    values = _matrix(table, constraint.names, columns)
    total, parts = values[:, 0], values[:, 1:]
    lows, highs = (np.array(each) for each in zip(*(_bounds(columns[name]) for name in constraint.parts), strict=True))
    whole = columns[constraint.total].kind == "integer"
    held = ~np.isnan(values).any(axis=1)
    slack = _slack(columns[constraint.total]) * np.abs(values).sum(axis=1)
    rows = np.flatnonzero(held & (np.abs(total - parts.sum(axis=1)) > slack))
    own = parts[rows]
    sums = own.sum(axis=1)
    gap = np.clip(sums, *_total_bounds(constraint, columns)) - sums
    room = np.where(gap[:, None] > 0, highs - own, own - lows)  # >= |gap| in all, or no total would be allowed
    moves = gap[:, None] * room / np.maximum(room.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    if whole:
        moves = np.trunc(moves)
        for place in rng.permutation(parts.shape[1]):
            left = gap - moves.sum(axis=1)
            moves[:, place] += np.sign(left) * np.minimum(np.abs(left), room[:, place] - np.abs(moves[:, place]))
    parts[rows] = np.clip(own + moves, lows, highs)
    total[rows] = np.clip(parts[rows].sum(axis=1), *_bounds(columns[constraint.total]))
    return {constraint.total: total} | {name: parts[:, place] for place, name in enumerate(constraint.parts)}


def _looked_up(
    table: pa.Table, constraint: Determines, columns: Mapping[str, Column]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The target's codes, and those that the public table asks for: -1 where it asks for none."""
    source, target = columns[constraint.column], columns[constraint.target]
    assert isinstance(source, Categorical)
    assert isinstance(target, Categorical)
    places = {value: place for place, value in enumerate(target.values)}
    asked = dict(constraint.table)
    lookup = np.array([places.get(asked.get(value, ""), -1) if value in asked else -1 for value in source.values])
    codes = to_numpy(table, source)
    return to_numpy(table, target), np.append(lookup, -1)[codes].astype(np.int32)  # the last: a missing source


def _slack(column: Column) -> float:
    return 0.0 if column.kind == "integer" else TOLERANCE


def _numbers(table: pa.Table, name: str, columns: Mapping[str, Column]) -> Floats:
    return to_numpy(table, columns[name]).astype(np.float64)  # whole numbers are within 2**53


def _matrix(table: pa.Table, names: Sequence[str], columns: Mapping[str, Column]) -> Floats:
    return np.stack([_numbers(table, name, columns) for name in names], axis=1)


def _with(table: pa.Table, schema: Schema, name: str, values: NDArray[Any]) -> pa.Table:
    place = table.column_names.index(name)
    return table.set_column(place, table.schema.field(place), to_arrow(values, schema.column(name)))
