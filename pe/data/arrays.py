"""Between Arrow tables in schema form (``pe.data.columns``) and numpy arrays, without copying where possible."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pe.data.columns import Categorical, Column, Image, Numeric, Text
from pe.data.gaps import Gap

if TYPE_CHECKING:
    from pe.data.schema import Schema


def to_numpy(table: pa.Table, column: Column) -> NDArray[Any]:
    """One column of a table in schema form, or a gap that is measured in it.

    Numeric: float64 or int64 (n,). Categorical: int32 codes (n,). Image: uint8 (n, height, width, channels). Text:
    object (n,), of str. Where the column has missing values: float64 with NaN, and the code ``len(values)``.
    """
    if isinstance(column, Gap):
        return column.measure({source.name: to_numpy(table, source) for source in column.sources})
    array = table.column(column.name).combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # zero rows
        array = array.chunk(0) if array.num_chunks else pa.array([], array.type)
    if isinstance(column, Categorical):
        indices = pc.fill_null(array.indices, len(column.values)) if array.null_count else array.indices
        codes: NDArray[Any] = indices.to_numpy(zero_copy_only=False)
        return codes
    if isinstance(column, Image):
        flat = array.flatten().to_numpy(zero_copy_only=False)
        pixels: NDArray[Any] = flat.reshape(len(array), column.height, column.width, column.channels)
        return pixels
    numbers: NDArray[Any] = array.to_numpy(zero_copy_only=False)  # strings too: as objects
    return numbers.astype(np.float64) if column.missing else numbers


def to_arrow(values: NDArray[Any], column: Column) -> pa.Array:
    """The inverse of ``to_numpy``."""
    if isinstance(column, Categorical):
        absent = values == len(column.values) if column.missing else np.False_
        return pa.DictionaryArray.from_arrays(_masked(values, absent, pa.int32()), dictionary(column))
    if isinstance(column, Image):
        flat = np.ascontiguousarray(values, dtype=np.uint8).reshape(-1)
        return pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.uint8()), column.size)
    if isinstance(column, Text):
        return pa.array(values, pa.string())
    return _masked(values, np.isnan(values) if column.missing else np.False_, column.arrow())


def _masked(values: NDArray[Any], absent: NDArray[np.bool_] | np.bool_, kind: pa.DataType) -> pa.Array:
    """Values of an Arrow type, null where absent."""
    if not absent.any():
        return pa.array(values.astype(kind.to_pandas_dtype(), copy=False), kind)
    return pa.array(np.where(absent, 0, values).astype(kind.to_pandas_dtype()), kind, mask=absent)


def dictionary(column: Categorical) -> pa.Array:
    """The values, as tables in schema form hold them."""
    return pa.array(column.values, pa.string())


def to_table(arrays: Mapping[str, NDArray[Any]], schema: Schema) -> pa.Table:
    """A table of the schema's features from one array per column."""
    columns = [to_arrow(arrays[column.name], column) for column in schema.features]
    return pa.Table.from_arrays(columns, schema=schema.arrow())


def contents(table: pa.Table) -> Iterator[bytes]:
    """The values of a table in schema form as bytes: equal for equal values, however their arrays are cut."""
    for column in table.columns:
        for chunk in column.chunks:
            values = chunk.indices if pa.types.is_dictionary(chunk.type) else chunk
            if values.null_count:
                yield np.packbits(pc.is_valid(values).to_numpy(zero_copy_only=False)).tobytes()
                values = pc.fill_null(values, "" if pa.types.is_string(values.type) else 0)
            if pa.types.is_string(values.type):
                lengths = pc.binary_length(values).to_numpy(zero_copy_only=False)
                yield lengths.tobytes()
                start = 0 if values.offset == 0 else int(np.frombuffer(values.buffers()[1], np.int32)[values.offset])
                yield memoryview(values.buffers()[2] or b"")[start : start + int(lengths.sum())].tobytes()
            else:
                flat = values.flatten() if pa.types.is_fixed_size_list(values.type) else values
                yield flat.to_numpy(zero_copy_only=False).tobytes()


def widths(table: pa.Table) -> NDArray[np.int64]:
    """Bytes that each record of a table in schema form takes, int64 (n,)."""
    sizes = np.zeros(table.num_rows, np.int64)
    for column in table.columns:
        kind = column.type
        if pa.types.is_string(kind):
            sizes += pc.binary_length(column).to_numpy().astype(np.int64)
        else:
            listed = pa.types.is_fixed_size_list(kind)
            plain = kind.index_type if pa.types.is_dictionary(kind) else kind.value_type if listed else kind
            sizes += plain.bit_width // 8 * (kind.list_size if listed else 1)
    return sizes


def violations(table: pa.Table, schema: Schema) -> Iterator[str]:
    """What breaks the schema in a table of its features: misfits, else broken constraints; nothing when all is well."""
    from pe.data.constraints import broken  # which reads arrays itself

    problems = list(misfits(table, schema))
    yield from problems or broken(table, schema)


def misfits(table: pa.Table, schema: Schema) -> Iterator[str]:
    """What breaks a column's type or domain in a table of the schema's features, one sentence per column."""
    if not table.schema.equals(schema.arrow()):
        yield f"expected columns {_described(schema.arrow())}; got {_described(table.schema)}."
        return
    for column in schema.features:
        values = table.column(column.name)
        if values.null_count and not column.missing:
            yield f"column '{column.name}' has missing values."
        elif isinstance(column, Numeric):
            numbers = values.drop_null().to_numpy()
            if not np.all((numbers >= column.minimum) & (numbers <= column.maximum)):
                yield f"column '{column.name}' leaves its domain ({column.domain()})."
        elif isinstance(column, Categorical) and any(
            not chunk.dictionary.equals(dictionary(column)) for chunk in values.chunks
        ):
            yield f"column '{column.name}' has other categories than the schema declares."
        elif isinstance(column, Text) and (pc.max(pc.utf8_length(values)).as_py() or 0) > column.max_length:
            yield f"column '{column.name}' holds texts of more than {column.max_length} characters."


def _described(schema: pa.Schema) -> str:
    return ", ".join(f"'{field.name}' ({field.type})" for field in schema)
