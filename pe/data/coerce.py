"""Raw columns to schema form, record by record: one rule for every value, and none can fail.

number       outside the domain: the nearer bound (infinities too); missing or unreadable: the column's default. Text
             is read as digits with a decimal point; "1,234" and "1 234" are unreadable
date         ISO text (``pe.data.times``), Arrow and pandas dates, times and zones, numbers where ``epoch`` is declared;
             then as a number: the nearer bound, the default
category     white space trimmed; missing or undeclared: the column's default
boolean      true, yes, t, y, 1 and their opposites in any case; anything else as a category
image        bytes as they are; other integers and floats are clipped to 0..255
text         white space around it trimmed, cut at ``max_length`` characters; missing or not UTF-8: empty

Where ``missing`` is declared, a missing or unreadable value stays missing, and so does an undeclared category unless a
default is declared. Missing are null, NaN and text of nothing but white space (unless that is a declared category).
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pe.data.columns import EPOCHS
from pe.data.schema import Categorical, Column, Datetime, Image, Numeric, Schema, Text
from pe.data.selected import Raw
from pe.data.times import DAY, seconds
from pe.errors import PrivateDataError, SchemaError

_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,5})?$|^[+-]?(?i:inf|infinity)$"

_BOOLEAN = {"false": "false", "no": "false", "f": "false", "n": "false", "0": "false"}
_BOOLEAN |= {"true": "true", "yes": "true", "t": "true", "y": "true", "1": "true"}


def coerce(raw: Raw, schema: Schema, *, first: bool = True) -> dict[str, NDArray[Any]]:
    """One array per declared column, as ``arrays.to_numpy`` gives them.

    Raises SchemaError for a column whose type as a whole does not fit: dates where numbers are declared, or lists of
    which none is a picture (among the ``first`` records alone).
    """
    return {column.name: _column(raw[column.name], column, first) for column in schema.columns}


def _column(values: pa.ChunkedArray | NDArray[Any], column: Column, first: bool) -> NDArray[Any]:
    if isinstance(column, Image):
        return _pixels(values, column, first)
    values = _chunked(values, column.name)
    if isinstance(column, Categorical):
        return _codes(values, column)
    if isinstance(column, Text):
        return _cut(values, column)
    numbers = _steps(values, column) if isinstance(column, Datetime) else _numbers(values, column)
    return _settled(numbers, column)


def _chunked(values: pa.ChunkedArray | NDArray[Any], name: str) -> pa.ChunkedArray:
    if isinstance(values, np.ndarray):
        if values.ndim != 1:
            raise SchemaError(f"column '{name}': expected one value per record, got shape {values.shape[1:]} each.")
        if values.dtype.kind == "M" and np.datetime_data(values.dtype)[0] not in ("D", *EPOCHS):
            values = values.astype("datetime64[s]")  # Arrow knows no hours, months or years
        # Arrow cuts fixed-width text at a zero byte, and reads no foreign byte order
        kind = object if values.dtype.kind in "US" else values.dtype.newbyteorder("=")
        values = pa.chunked_array([pa.array(values.astype(kind))])
    return values.cast(values.type.value_type) if pa.types.is_dictionary(values.type) else values


def _settled(numbers: NDArray[np.float64], column: Numeric) -> NDArray[Any]:
    """Numbers, NaN where missing, by the column's rules."""
    if not column.missing:
        numbers = np.where(np.isnan(numbers), column.fallback, numbers)
    numbers = np.clip(numbers, column.minimum, column.maximum)
    if column.integer:
        numbers = np.rint(numbers)
    return numbers.astype(np.int64) if column.integer and not column.missing else numbers


def _numbers(values: pa.ChunkedArray, column: Numeric) -> NDArray[np.float64]:
    kind = values.type
    if _is_text(kind):
        values = _parsed(_texts(values))
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        values = pc.cast(values, pa.float64(), safe=False)
    elif pa.types.is_boolean(kind) or pa.types.is_null(kind):
        values = pc.cast(pc.cast(values, pa.int8()), pa.float64())
    else:
        raise SchemaError(f"column '{column.name}': expected numbers, the data hold {_named(kind)}. Nothing was spent.")
    numbers: NDArray[np.float64] = values.to_numpy().astype(np.float64)
    return numbers


def _parsed(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Numbers in trimmed text, float64; null where there is none."""
    texts = pc.if_else(pc.match_substring_regex(texts, _NUMBER), texts, pa.scalar(None, pa.string()))
    return pc.cast(pc.replace_substring_regex(texts, r"^\+", ""), pa.float64())


def _steps(values: pa.ChunkedArray, column: Datetime) -> NDArray[np.float64]:
    """Steps since 1970, NaN where missing or unreadable."""
    kind = values.type
    if _is_text(kind):
        texts = _texts(values)
        found = seconds(texts)
        if column.epoch is not None:
            counted = _parsed(texts).to_numpy() / EPOCHS[column.epoch]
            found = np.where(np.isnan(found), counted, found)
    elif pa.types.is_date(kind):
        found = pc.cast(pc.cast(values, pa.date32()), pa.int32()).to_numpy() * float(DAY)
    elif pa.types.is_timestamp(kind):
        found = _whole_seconds(pc.cast(values, pa.int64()), EPOCHS[kind.unit])
    elif pc.all(pc.is_null(values, nan_is_null=True), min_count=0).as_py():  # of whatever type: pandas has floats
        found = np.full(len(values), np.nan)
    elif column.epoch is not None and pa.types.is_integer(kind):
        found = _whole_seconds(pc.cast(values, pa.int64(), safe=False), EPOCHS[column.epoch])
    elif column.epoch is not None and (pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        found = pc.cast(values, pa.float64(), safe=False).to_numpy() / EPOCHS[column.epoch]
    else:
        hint = "; numbers need a declared epoch" if column.epoch is None else ""
        raise SchemaError(
            f"column '{column.name}': expected dates or ISO text, the data hold {_named(kind)}{hint}. "
            "Nothing was spent."
        )
    return np.floor(found / column.resolution)


def _whole_seconds(values: pa.ChunkedArray, per_second: int) -> NDArray[np.float64]:
    """Integers over their unit, rounded down before they lose precision as floats."""
    absent = pc.is_null(values).to_numpy()
    return np.where(absent, np.nan, pc.fill_null(values, 0).to_numpy() // per_second)


def _codes(values: pa.ChunkedArray, column: Categorical) -> NDArray[Any]:
    texts = _as_text(values, column.name, "categories")
    if column.kind == "boolean":
        spelt = pc.index_in(pc.utf8_lower(texts), value_set=pa.array(list(_BOOLEAN), pa.string()))
        texts = pc.if_else(
            pc.is_valid(spelt), pa.array(list(_BOOLEAN.values())).take(spelt.combine_chunks()), texts.combine_chunks()
        )
    codes = pc.index_in(texts, value_set=pa.array(column.values, pa.string()))
    fallback = pa.scalar(column.fallback, pa.int32())
    if column.missing:
        absent = pa.scalar(len(column.values), pa.int32())
        fallback = absent if column.default is None else fallback
        fallback = pc.if_else(pc.fill_null(pc.equal(texts, ""), True), absent, fallback)
    found: NDArray[Any] = pc.coalesce(codes, fallback).to_numpy(zero_copy_only=False).astype(np.int32)
    return found


def _cut(values: pa.ChunkedArray, column: Text) -> NDArray[Any]:
    texts = pc.fill_null(_as_text(values, column.name, "text"), "")
    found: NDArray[Any] = pc.utf8_slice_codeunits(texts, 0, column.max_length).to_numpy()
    return found


def identities(values: pa.ChunkedArray | NDArray[Any], name: str) -> NDArray[np.uint64]:
    """Whose record each is, uint64 (n, 2): 16-byte BLAKE2b digests of the ids, the same wherever an id occurs.

    Two of 2**32 users share one with a probability below 2**-64. Raises PrivateDataError where an id is missing.
    """
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
    digests = b"".join(blake2b(each.encode(), digest_size=16).digest() for each in encoded.dictionary.to_pylist())
    found: NDArray[np.uint64] = np.frombuffer(digests, np.uint64).reshape(-1, 2)
    owners: NDArray[np.uint64] = found[encoded.indices.to_numpy(zero_copy_only=False)]
    return owners


def _as_text(values: pa.ChunkedArray, name: str, what: str) -> pa.ChunkedArray:
    """Trimmed text of values that name something: 1.0 is "1", white space around does not count."""
    if pa.types.is_float16(values.type):
        values = pc.cast(values, pa.float32())
    kind = values.type
    if pa.types.is_floating(kind):
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, kind), values)
        whole = pc.and_(pc.equal(values, pc.round(values)), pc.less(pc.abs(values), 2.0**53))
        integers = pc.cast(pc.cast(pc.if_else(whole, values, 0.0), pa.int64()), pa.string())
        return pc.if_else(whole, integers, pc.cast(values, pa.string()))
    if _is_text(kind):
        return _texts(values)
    if pa.types.is_nested(kind):
        raise SchemaError(f"column '{name}': expected {what}, the data hold {_named(kind)}. Nothing was spent.")
    return pc.cast(values, pa.string())


def _pixels(values: pa.ChunkedArray | NDArray[Any], column: Image, first: bool) -> NDArray[Any]:
    shape = (column.height, column.width, column.channels)
    accepted = {shape, (column.size,)} | ({shape[:2]} if column.channels == 1 else set())
    if not isinstance(values, np.ndarray):
        values = _stacked(values, column, accepted, first)
    if values.shape[1:] not in accepted or values.dtype.kind not in "buif":
        raise SchemaError(
            f"column '{column.name}': expected pictures of shape {shape}, the data hold {values.dtype} of shape "
            f"{values.shape[1:]} each. Nothing was spent."
        )
    if values.dtype != np.uint8:
        numbers = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=255.0, neginf=0.0)
        values = np.clip(np.rint(numbers), 0, 255).astype(np.uint8)
    return values.reshape(-1, *shape)


def _stacked(values: pa.ChunkedArray, column: Image, accepted: set[tuple[int, ...]], first: bool) -> NDArray[Any]:
    """One row of numbers per picture; a missing one, or one of another length, becomes zeros."""
    kind = values.type
    if pa.types.is_fixed_size_list(kind) and kind.list_size == column.size and not values.null_count:
        flat = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in values.chunks]
        return np.concatenate([np.empty(0, np.uint8), *flat]).reshape(-1, column.size)
    rows = np.zeros((len(values), column.size))
    fitting = 0
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if listed:
        for row, value in zip(rows, values.to_pylist(), strict=True):
            try:
                picture = np.asarray(value, np.float64)
            except (TypeError, ValueError):
                continue
            if picture.shape in accepted:
                row[:] = picture.reshape(-1)
                fitting += 1
    if fitting == 0 and len(rows) and (first or not listed):
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
