"""Raw columns to schema form, record by record: one rule for every value, and none can fail.

number       outside the domain: the nearer bound (infinities too); missing or unreadable: the column's default
category     white space trimmed; missing or undeclared: the column's default
image        bytes as they are; other integers and floats are clipped to 0..255
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pe.errors import PrivateDataError, SchemaError
from pe.read import Raw
from pe.schema import Categorical, Column, Image, Numeric, Schema

_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,5})?$|^[+-]?(?i:inf|infinity)$"


def coerce(raw: Raw, schema: Schema) -> dict[str, NDArray[Any]]:
    """One array per declared column, as ``arrays.to_numpy`` gives them.

    Raises SchemaError for a column whose type as a whole does not fit (dates where numbers are declared).
    """
    return {column.name: _column(raw[column.name], column) for column in schema.columns}


def _column(values: pa.ChunkedArray | NDArray[Any], column: Column) -> NDArray[Any]:
    if isinstance(column, Image):
        return _pixels(values, column)
    values = _chunked(values, column.name)
    return _numbers(values, column) if isinstance(column, Numeric) else _codes(values, column)


def _chunked(values: pa.ChunkedArray | NDArray[Any], name: str) -> pa.ChunkedArray:
    if isinstance(values, np.ndarray):
        if values.ndim != 1:
            raise SchemaError(f"column '{name}': expected one value per record, got shape {values.shape[1:]} each.")
        # Arrow cuts fixed-width text at a zero byte, and reads no foreign byte order
        kind = object if values.dtype.kind in "US" else values.dtype.newbyteorder("=")
        values = pa.chunked_array([pa.array(values.astype(kind))])
    return values.cast(values.type.value_type) if pa.types.is_dictionary(values.type) else values


def _numbers(values: pa.ChunkedArray, column: Numeric) -> NDArray[Any]:
    kind = values.type
    if _is_text(kind):
        texts = _texts(values)
        texts = pc.if_else(pc.match_substring_regex(texts, _NUMBER), texts, pa.scalar(None, pa.string()))
        values = pc.cast(pc.replace_substring_regex(texts, r"^\+", ""), pa.float64())
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        values = pc.cast(values, pa.float64(), safe=False)
    elif pa.types.is_boolean(kind) or pa.types.is_null(kind):
        values = pc.cast(pc.cast(values, pa.int8()), pa.float64())
    else:
        raise SchemaError(f"column '{column.name}': expected numbers, the data hold {_named(kind)}. Nothing was spent.")
    numbers = values.to_numpy().astype(np.float64)
    numbers = np.where(np.isnan(numbers), column.fallback, numbers)
    numbers = np.clip(numbers, column.minimum, column.maximum)
    return np.rint(numbers).astype(np.int64) if column.integer else numbers


def _codes(values: pa.ChunkedArray, column: Categorical) -> NDArray[Any]:
    codes = pc.index_in(_as_text(values, column.name, "categories"), value_set=pa.array(column.values, pa.string()))
    found: NDArray[Any] = pc.fill_null(codes, column.fallback).to_numpy().astype(np.int32)
    return found


def identities(values: pa.ChunkedArray | NDArray[Any], name: str) -> NDArray[np.int64]:
    """Whose record each is, int64 (n,): equal ids are equal numbers. Raises PrivateDataError where an id is missing."""
    given = _chunked(values, name)
    texts = _as_text(given, name, "user ids")
    missing = pc.fill_null(pc.equal(texts, ""), True)
    if pa.types.is_floating(given.type):
        missing = pc.or_(missing, pc.is_nan(pc.fill_null(given, 0.0)))
    if pc.any(missing, min_count=0).as_py():
        raise PrivateDataError(
            f"column '{name}' has records without a user id: give every record one, or protect single records with "
            "unit = 'record'. Nothing was spent."
        )
    encoded = pc.dictionary_encode(texts.combine_chunks())
    found: NDArray[np.int64] = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def _as_text(values: pa.ChunkedArray, name: str, what: str) -> pa.ChunkedArray:
    """Trimmed text of values that name something: 1.0 is "1", white space around does not count."""
    if pa.types.is_float16(values.type):
        values = pc.cast(values, pa.float32())
    kind = values.type
    if pa.types.is_floating(kind):
        whole = pc.and_(pc.equal(values, pc.round(values)), pc.less(pc.abs(values), 2.0**53))
        integers = pc.cast(pc.cast(pc.if_else(whole, values, 0.0), pa.int64()), pa.string())
        return pc.if_else(whole, integers, pc.cast(values, pa.string()))
    if _is_text(kind):
        return _texts(values)
    if pa.types.is_nested(kind):
        raise SchemaError(f"column '{name}': expected {what}, the data hold {_named(kind)}. Nothing was spent.")
    return pc.cast(values, pa.string())


def _pixels(values: pa.ChunkedArray | NDArray[Any], column: Image) -> NDArray[Any]:
    shape = (column.height, column.width, column.channels)
    accepted = {shape, (column.size,)} | ({shape[:2]} if column.channels == 1 else set())
    if not isinstance(values, np.ndarray):
        values = _stacked(values, column, accepted)
    if values.shape[1:] not in accepted or values.dtype.kind not in "buif":
        raise SchemaError(
            f"column '{column.name}': expected pictures of shape {shape}, the data hold {values.dtype} of shape "
            f"{values.shape[1:]} each. Nothing was spent."
        )
    if values.dtype != np.uint8:
        numbers = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=255.0, neginf=0.0)
        values = np.clip(np.rint(numbers), 0, 255).astype(np.uint8)
    return values.reshape(-1, *shape)


def _stacked(values: pa.ChunkedArray, column: Image, accepted: set[tuple[int, ...]]) -> NDArray[Any]:
    """One row of numbers per picture; a missing one, or one of another length, becomes zeros."""
    kind = values.type
    if pa.types.is_fixed_size_list(kind) and kind.list_size == column.size and not values.null_count:
        flat = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in values.chunks]
        return np.concatenate([np.empty(0, np.uint8), *flat]).reshape(-1, column.size)
    rows = np.zeros((len(values), column.size))
    fitting = 0
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        for row, value in zip(rows, values.to_pylist(), strict=True):
            try:
                picture = np.asarray(value, np.float64)
            except (TypeError, ValueError):
                continue
            if picture.shape in accepted:
                row[:] = picture.reshape(-1)
                fitting += 1
    if fitting == 0 and len(rows):
        raise SchemaError(
            f"column '{column.name}': expected pictures of {column.size} numbers, the data hold {_named(kind)}, "
            "and none fits. Nothing was spent."
        )
    return rows


def _named(kind: pa.DataType) -> str:
    """An Arrow type without the field names inside it, which may come from the data."""
    return "nested values" if pa.types.is_nested(kind) else str(kind)


def _is_text(kind: pa.DataType) -> bool:
    return any(
        test(kind)
        for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    ) or (pa.types.is_string_view(kind) or pa.types.is_binary_view(kind))


def _texts(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Trimmed text; bytes that are not UTF-8 are missing values."""
    kind = values.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        try:
            values = pc.cast(values, pa.string())
        except pa.ArrowInvalid:
            values = pa.chunked_array([pa.array([_decoded(value) for value in values.to_pylist()], pa.string())])
    elif not pa.types.is_string(kind):
        values = pc.cast(values, pa.string())
    return pc.utf8_trim_whitespace(values)


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None
