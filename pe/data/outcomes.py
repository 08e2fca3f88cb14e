"""What becomes of every value of a column when it is read under a schema: the reader itself, asked in other words.

A value is read under variants of its column, with the same code as in a run: wider bounds tell what would be clipped,
``missing = true`` what would take the default. So what is said here of a value cannot differ from what is done with it.
Exact, hence private: for the holder of the data alone (``pe.check``), or for public samples (``pe.data.draft``).
"""

from __future__ import annotations

import sys
from dataclasses import replace
from enum import IntEnum
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pe.data.coerce import coerce
from pe.data.schema import Categorical, Column, Datetime, Image, Numeric, Schema, Text

Values: TypeAlias = pa.ChunkedArray | NDArray[Any]
"""Raw values of one column, as ``pe.data.read`` gives them."""


class Outcome(IntEnum):
    """What became of a value."""

    READ = 0
    CLIPPED = 1
    """Outside the declared bounds, or longer than declared: moved to the nearer bound, or cut."""
    MISSING = 2
    UNREADABLE = 3
    """Neither missing nor a value of the column's type; of pictures, a black one, as unreadable ones become."""
    UNDECLARED = 4
    """A category that is not among the declared values."""


def outcomes(values: Values, column: Column) -> NDArray[np.uint8]:
    """The outcome of every value, uint8 (n,). Raises SchemaError where the column's type as a whole does not fit."""
    if isinstance(column, Image):
        pixels = read_as(values, column)
        black = ~pixels.reshape(len(pixels), -1).any(axis=1)
        return np.where(black, Outcome.UNREADABLE, Outcome.READ).astype(np.uint8)
    if isinstance(column, Categorical):
        return _categories(values, column)
    if isinstance(column, Text):
        texts = read_as(values, replace(column, max_length=Text.LONGEST))
        lengths = np.array([len(text) for text in texts], np.int64)
        clipped = np.where(lengths > column.max_length, Outcome.CLIPPED, Outcome.READ)
        return np.where(lengths == 0, Outcome.MISSING, clipped).astype(np.uint8)
    numbers = wide_numbers(values, column)
    missing = missing_among(values, column)
    result = np.where(missing, Outcome.MISSING, Outcome.UNREADABLE)
    inside = (numbers >= column.minimum) & (numbers <= column.maximum)
    result = np.where(np.isnan(numbers), result, np.where(inside, Outcome.READ, Outcome.CLIPPED))
    return result.astype(np.uint8)


def read_as(values: Values, column: Column) -> NDArray[Any]:
    """Values read as those of a column, as ``pe.data.arrays.to_numpy`` gives them."""
    return coerce({column.name: values}, Schema((column,)))[column.name]


def wide_numbers(values: Values, column: Numeric) -> NDArray[np.float64]:
    """The numbers that are read, before they are clipped: float64 (n,), NaN where missing or unreadable."""
    if isinstance(column, Datetime):
        wide: Numeric = replace(column, minimum=-(2**53), maximum=2**53, default=None, missing=True)
    else:
        wide = Numeric(column.name, -sys.float_info.max, sys.float_info.max, missing=True)
    numbers: NDArray[np.float64] = read_as(values, wide).astype(np.float64)
    return numbers


def missing_among(values: Values, column: Column) -> NDArray[np.bool_]:
    """Which values are missing: null, NaN, or text of nothing but white space; bool (n,)."""
    texts = read_as(values, Text(column.name, Text.LONGEST))
    return np.array([text == "" for text in texts], np.bool_)


def _categories(values: Values, column: Categorical) -> NDArray[np.uint8]:
    absent = len(column.values)
    # under the one an undeclared value is missing, under the other it takes a declared default
    kept = read_as(values, replace(column, default=None, missing=True))
    replaced = read_as(values, replace(column, default=column.values[0], missing=True))
    result = np.where(replaced == absent, Outcome.MISSING, Outcome.UNDECLARED)
    return np.where(kept != absent, Outcome.READ, result).astype(np.uint8)
