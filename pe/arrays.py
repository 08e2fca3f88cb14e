"""Between Arrow tables in schema form and numpy arrays, without copying where possible."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pe.schema import Categorical, Column, Image, Numeric, Schema


def to_numpy(table: pa.Table, column: Column) -> NDArray[Any]:
    """One column of a table in schema form.

    Numeric: float64 or int64 (n,). Categorical: int32 codes (n,). Image: uint8 (n, height, width, channels).
    """
    array = table.column(column.name).combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # zero rows
        array = array.chunk(0) if array.num_chunks else pa.array([], array.type)
    if isinstance(column, Categorical):
        codes: NDArray[Any] = array.indices.to_numpy(zero_copy_only=False)
        return codes
    if isinstance(column, Image):
        flat = array.flatten().to_numpy(zero_copy_only=False)
        pixels: NDArray[Any] = flat.reshape(len(array), column.height, column.width, column.channels)
        return pixels
    numbers: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return numbers


def to_arrow(values: NDArray[Any], column: Column) -> pa.Array:
    """The inverse of ``to_numpy``."""
    if isinstance(column, Categorical):
        return pa.DictionaryArray.from_arrays(pa.array(values, pa.int32()), pa.array(column.values, pa.string()))
    if isinstance(column, Image):
        flat = np.ascontiguousarray(values, dtype=np.uint8).reshape(-1)
        return pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.uint8()), column.size)
    return pa.array(values, column.arrow())


def to_table(arrays: Mapping[str, NDArray[Any]], schema: Schema) -> pa.Table:
    """A table of the schema's features from one array per column."""
    columns = [to_arrow(arrays[column.name], column) for column in schema.features]
    return pa.Table.from_arrays(columns, schema=schema.arrow())


def violations(table: pa.Table, schema: Schema) -> Iterator[str]:
    """What breaks the schema in a table of its features, one sentence per column; nothing when all is well."""
    if not table.schema.equals(schema.arrow()):
        yield f"expected columns {_described(schema.arrow())}; got {_described(table.schema)}."
        return
    for column in schema.features:
        if table.column(column.name).null_count:
            yield f"column '{column.name}' has missing values."
        elif isinstance(column, Numeric):
            numbers = to_numpy(table, column)
            if not np.all((numbers >= column.minimum) & (numbers <= column.maximum)):
                yield f"column '{column.name}' leaves its domain [{column.minimum:g}, {column.maximum:g}]."
        elif isinstance(column, Categorical):
            chunks = table.column(column.name).chunks
            if any(chunk.dictionary.to_pylist() != list(column.values) for chunk in chunks):
                yield f"column '{column.name}' has other categories than the schema declares."


def _described(schema: pa.Schema) -> str:
    return ", ".join(f"'{field.name}' ({field.type})" for field in schema)
