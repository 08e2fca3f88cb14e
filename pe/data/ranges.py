"""Ranges of numbers that double-precision arithmetic can work in: a schema of a run must keep within them."""

from __future__ import annotations

from pe.data.columns import Numeric
from pe.data.schema import Schema
from pe.errors import SchemaError

LARGEST, SMALLEST = 1e60, 1e-60
"""Of bounds, and of their distance: the fourth power of such a number, or of its reciprocal, is finite in float64."""


def check_ranges(schema: Schema) -> None:
    """Raise SchemaError for a column whose bounds are too large, too near each other or, on a log scale, too near 0."""
    for column in schema.columns:
        if not isinstance(column, Numeric):
            continue
        width = column.maximum - column.minimum
        too_large = max(abs(column.minimum), abs(column.maximum)) > LARGEST
        too_fine = 0 < width < SMALLEST or (column.log and column.minimum < SMALLEST)
        if too_large or too_fine:
            raise SchemaError(
                f"column '{column.name}': expected min and max within {LARGEST:g} and, unless they are equal, at least "
                f"{SMALLEST:g} apart{' and from 0' if column.log else ''}, got {column.domain()}: give the column in "
                "another unit. Nothing was spent."
            )
