"""Released numbers as multiples of their columns' declared steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from pe.data.arrays import to_arrow, to_numpy, to_table
from pe.data.constraints import Sum, repair
from pe.data.schema import Numeric, Schema


def round_to_steps(table: pa.Table, schema: Schema, rng: np.random.Generator) -> pa.Table:
    """Synthetic records, in schema form, with every number on its column's step; constraints hold as before.

    Order survives rounding, as the columns of a constraint share one step. Sums are repaired in whole steps; ``rng``
    deals out what is left over.
    """
    stepped = {
        column.name: column for column in schema.features if isinstance(column, Numeric) and column.step is not None
    }
    if not stepped:
        return table
    counts = {name: column.steps(to_numpy(table, column)) for name, column in stepped.items()}
    sums = tuple(each for each in schema.constraints if isinstance(each, Sum) and each.total in stepped)
    if sums:
        names = [name for each in sums for name in each.names]
        twins = tuple(_in_steps(stepped[name]) for name in names)
        twin = Schema(twins, constraints=sums)
        arrays = {column.name: counts[column.name] for column in twins}
        repaired = repair(to_table(arrays, twin), twin, rng)
        counts |= {column.name: to_numpy(repaired, column).astype(np.float64) for column in twins}
    for name, column in stepped.items():
        place = table.column_names.index(name)
        values = np.clip(column.from_steps(counts[name]), column.minimum, column.maximum)
        table = table.set_column(place, table.schema.field(place), to_arrow(values, column))
    return table


def _in_steps(column: Numeric) -> Numeric:
    """The integer column that counts a column's steps."""
    low, high = column.steps(np.array([column.minimum, column.maximum])).tolist()
    return replace(column, minimum=low, maximum=high, integer=True, default=None, log=False, step=None)
