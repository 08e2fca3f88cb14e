"""Tables to vectors, from the public schema alone: every column a block of entries, every record by itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pe.data.arrays import to_numpy
from pe.data.gap_form import GapForm
from pe.data.schema import Categorical, Image, Numeric, Schema, Text
from pe.errors import SchemaError

WIDEST = 64
"""Values up to which a category is one-hot; above, each is a public pseudo-random vector of so many signs."""

_LOG_CELLS = 4096
_CHUNK = 2**14  # rows written at a time: they stay in the cache


@dataclass(frozen=True)
class _Block:
    """Where a column's entries stand, the most that their squares add up to, and the largest of them."""

    column: Numeric | Categorical
    start: int
    width: int
    square: float
    largest: float
    rounded: int
    """How many entries of a record are not zero."""


class TabularEmbedder:
    """A schema's features as vectors. With ``w`` = ``category_weight`` (Tab-PE: 1/3):

    number, date       (x - middle) / range in [-1/2, 1/2]; on a log scale the same of log x, in 4,096 steps
    ordinal            its place between the first value, -1/2, and the last, 1/2
    category, boolean  one-hot times w; over ``WIDEST`` values, ``WIDEST`` signs times w / 8, a hash of column and
                       value: any two values are then w sqrt 2 apart up to chance (a standard deviation of 6 % of it),
                       and memory does not grow with the number of values
    gap                (``pe.data.gap_form``), in place of a column under an order or sum constraint: a number on a
                       log scale
    missing            a category's own value; for numbers and ordinals the middle, and w sqrt 2 in an entry of its own

    The quantising scale is the largest at which no record can leave the vote's float32-exact range.
    """

    def __init__(self, schema: Schema, *, category_weight: float = 1 / 3) -> None:
        if not 0 <= category_weight <= 10:
            raise SchemaError(f"expected category_weight in [0, 10], got {category_weight}. Nothing was spent.")
        self.schema = schema
        self.category_weight = category_weight
        self.dim = 0
        self._blocks: list[_Block] = []
        form = GapForm.of(schema)
        for column in form.columns:
            if isinstance(column, (Image, Text)):
                raise SchemaError(f"the tabular embedder reads no {column.kind} ('{column.name}'). Nothing was spent.")
            block = _block(column, self.dim, category_weight)
            self._blocks.append(block)
            self.dim += block.width
        self._tables = {
            block.column.name: _signs(block.column) * np.float32(category_weight / math.sqrt(WIDEST))
            for block in self._blocks
            if isinstance(block.column, Categorical) and _hashed(block.column)
        }
        longest = max(sum(block.square for block in self._blocks), 1e-9)
        # rounding lengthens a vector by at most half the root of its entries that are not zero
        slack = math.sqrt(sum(block.rounded for block in self._blocks)) / 2 + 1
        self.scale = float(math.floor(max(min((math.sqrt(2**24 / 3 - 1) - slack) / math.sqrt(longest), 16000), 1)))
        self.limit = math.ceil(self.scale * max(block.largest for block in self._blocks))
        gaps = "-gaps" if form.changed else ""
        self.name = f"tabular{gaps}-{schema.fingerprint()[:16]}-{category_weight:g}"

    @property
    def blocks(self) -> list[slice]:
        """The entries of each column."""
        return [slice(block.start, block.start + block.width) for block in self._blocks]

    def embed(self, table: pa.Table) -> NDArray[np.float32]:
        n = table.num_rows
        vectors = np.zeros((n, self.dim), np.float32)
        columns = [(block, to_numpy(table, block.column)) for block in self._blocks]
        for start in range(0, n, _CHUNK):
            part = vectors[start : start + _CHUNK]
            for block, values in columns:
                self._write(part[:, block.start : block.start + block.width], values[start : start + _CHUNK], block)
        return vectors

    def _write(self, out: NDArray[np.float32], values: NDArray[np.float64], block: _Block) -> None:
        """Fill a block, float32 (rows, width), that holds zeros."""
        column = block.column
        if isinstance(column, Categorical) and not column.ordered:
            if column.name in self._tables:
                out[:] = self._tables[column.name][values]
            else:
                out[np.arange(len(values)), values] = self.category_weight
            return
        if isinstance(column, Categorical):
            absent = values == len(column.values)
            places = values / max(len(column.values) - 1, 1) - 0.5
        else:
            absent = np.isnan(values)
            places = _places(values, column)
        out[:, 0] = np.where(absent, 0.0, places) if column.missing else places
        if column.missing:
            out[:, 1] = absent * (self.category_weight * math.sqrt(2))


def _block(column: Numeric | Categorical, start: int, weight: float) -> _Block:
    if isinstance(column, Categorical) and not column.ordered:
        if _hashed(column):
            return _Block(column, start, WIDEST, weight**2, weight / math.sqrt(WIDEST), WIDEST)
        return _Block(column, start, column.states, weight**2, weight, 1)
    if column.missing:
        absent = weight * math.sqrt(2)
        return _Block(column, start, 2, max(0.25, absent**2), max(0.5, absent), 1)
    return _Block(column, start, 1, 0.25, 0.5, 1)


def _hashed(column: Categorical) -> bool:
    return column.states > WIDEST and not column.ordered


def _signs(column: Categorical) -> NDArray[np.float32]:
    """One row of ``WIDEST`` signs per state: bits of a hash, so that a new value leaves the others where they were."""
    head = sha256(column.name.encode())
    rows = []
    for state in [*(f"={value}" for value in column.values), *([""] if column.missing else [])]:
        digest = head.copy()
        digest.update(state.encode())
        rows.append(digest.digest()[: WIDEST // 8])
    bits = np.unpackbits(np.frombuffer(b"".join(rows), np.uint8)).reshape(-1, WIDEST)
    return bits.astype(np.float32) * 2 - 1


def _places(values: NDArray[np.float64], column: Numeric) -> NDArray[np.float64]:
    """Where in its domain a number lies, in [-1/2, 1/2]."""
    if column.log and column.minimum < column.maximum:
        # compared with public steps: a vectorised logarithm need not be the same in every batch
        edges = np.geomspace(column.minimum, column.maximum, _LOG_CELLS + 1)[1:-1]
        return np.searchsorted(edges, values, side="right") / (_LOG_CELLS - 1) - 0.5
    width = column.maximum - column.minimum
    middle = (column.minimum + column.maximum) / 2
    return (values - middle) / width if width else np.zeros(len(values))
