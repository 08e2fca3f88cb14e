"""Raw columns to schema form, record by record: one rule for every value, and none can fail.

A value means what its text means (``pe.data.values``), in whatever format it comes. Columns of one Arrow type are read
at once where that gives the same.

number       outside the domain: the nearer bound (infinities too); missing or unreadable: the column's default. Text
             is read as digits with a decimal point; "1,234" and "1 234" are unreadable
date         ISO text (``pe.data.times``), dates, times and zones, numbers where ``epoch`` is declared (where not,
             floats are unreadable); then as a number: the nearer bound, the default
category     white space trimmed; missing or undeclared: the column's default
boolean      true, yes, t, y, 1 and their opposites in any case; anything else as a category
image        see ``pe.data.images``
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
from pe.data.images import pixels, type_name
from pe.data.schema import Categorical, Column, Datetime, Image, Numeric, Schema, Text
from pe.data.selected import Raw
from pe.data.times import DAY, FIRST_SECOND, LAST_SECOND, seconds
from pe.data.values import column_texts, counts, decoded, is_instant, is_text, texts_of
from pe.errors import SchemaError

_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,5})?$|^[+-]?(?i:inf|infinity)$"

_BOOLEAN = {"false": "false", "no": "false", "f": "false", "n": "false", "0": "false"}
_BOOLEAN |= {"true": "true", "yes": "true", "t": "true", "y": "true", "1": "true"}


def coerce(raw: Raw, schema: Schema) -> dict[str, NDArray[Any]]:
    """One array per declared column, as ``arrays.to_numpy`` gives them.

    Raises SchemaError for a column whose type as a whole does not fit, whatever its values: dates where numbers are
    declared, say, or numbers where pictures are.
    """
    return {column.name: _column(raw[column.name], column) for column in schema.columns}


def _column(values: pa.ChunkedArray | NDArray[Any], column: Column) -> NDArray[Any]:
    if isinstance(column, Image):
        return pixels(values, column)
    values = _chunked(values, column)
    if pa.types.is_dictionary(values.type):
        return _by_dictionary(values, column)
    if isinstance(column, Categorical):
        return _codes(values, column)
    if isinstance(column, Text):
        return _cut(values, column)
    numbers = _steps(values, column) if isinstance(column, Datetime) else _numbers(values, column)
    return _settled(numbers, column)


def _by_dictionary(values: pa.ChunkedArray, column: Column) -> NDArray[Any]:
    """Each distinct value is read once, so that a long one that is repeated takes no more memory than it has to."""
    kind = values.type.value_type
    parts = [_column(pa.chunked_array([], kind), column)]
    for chunk in values.chunks:
        distinct = _column(pa.chunked_array([chunk.dictionary, pa.nulls(1, kind)], kind), column)
        parts.append(distinct[_places(chunk)])
    return np.concatenate(parts)


def _chunked(values: pa.ChunkedArray | NDArray[Any], column: Column | None, name: str = "") -> pa.ChunkedArray:
    """A column as Arrow holds it: typed where numpy's is, else the text of each value (``pe.data.values``)."""
    if not isinstance(values, np.ndarray):
        return values
    name = name if column is None else column.name
    if values.ndim != 1:
        raise SchemaError(
            f"column '{name}': expected one value per record, got shape {values.shape[1:]} each. Nothing was spent."
        )
    kind = values.dtype.kind
    if kind in "OUS":  # text too: Arrow cuts that of fixed width at a zero byte
        return texts_of(values.tolist(), column)
    if kind == "M":
        return pa.chunked_array([_instants(values)])
    if kind not in "biufm":
        raise SchemaError(f"column '{name}': values of numpy's type {values.dtype} cannot be read. Nothing was spent.")
    return pa.chunked_array([pa.array(values.astype(values.dtype.newbyteorder("=")))])


def _instants(values: NDArray[Any]) -> pa.Array:
    """Numpy's dates as Arrow's; those beyond its range become the last one in it."""
    unit, step = np.datetime_data(values.dtype)
    missing = np.isnat(values)
    values = values.astype(values.dtype.newbyteorder("="))
    if unit in EPOCHS and step == 1:
        return pa.array(values.view(np.int64), mask=missing).view(pa.timestamp(unit))
    if unit in ("Y", "M", "W", "D", "h", "m"):  # coarse enough to leave the range of finer ones
        values = np.clip(np.where(missing, 0, values.view(np.int64)), -(2**31), 2**31 - 1).view(values.dtype)
    if unit in ("Y", "M", "W", "D"):
        days = np.clip(values.astype("datetime64[D]").view(np.int64), -(2**31), 2**31 - 1)
        return pa.array(days.astype(np.int32), mask=missing).view(pa.date32())
    return pa.array(values.astype("datetime64[s]").view(np.int64), mask=missing).view(pa.timestamp("s"))


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
    if is_text(kind):
        values = _parsed(_trimmed(values))
    elif pa.types.is_decimal(kind):
        values = _parsed(pc.cast(values, pa.string()))  # Arrow's own way to floats is not the nearest one
    elif pa.types.is_integer(kind):
        values = pc.cast(values, pa.float64(), safe=False)
    elif pa.types.is_floating(kind):
        values = _doubles(values)
    elif pa.types.is_boolean(kind) or pa.types.is_null(kind):
        values = pc.cast(pc.cast(values, pa.int8()), pa.float64())
    else:
        raise _misfit(column.name, "numbers", kind)
    numbers: NDArray[np.float64] = values.to_numpy().astype(np.float64)
    return numbers


def _doubles(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Floats as float64; narrower ones by their shortest text, as a file would hold them: .1 is not .10000000149."""
    if pa.types.is_float64(values.type):
        return values
    texts = pc.cast(values, pa.string()) if pa.types.is_float32(values.type) else column_texts(values)
    return _parsed(texts)


def _parsed(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Numbers in trimmed text, float64; null where there is none."""
    texts = pc.if_else(pc.match_substring_regex(texts, _NUMBER), texts, pa.scalar(None, pa.string()))
    return pc.cast(pc.replace_substring_regex(texts, r"^\+", ""), pa.float64())


def _steps(values: pa.ChunkedArray, column: Datetime) -> NDArray[np.float64]:
    """Steps since 1970, NaN where missing or unreadable."""
    kind, epoch = values.type, column.epoch
    if is_text(kind) or (pa.types.is_decimal(kind) and epoch is not None):
        texts = _trimmed(values) if is_text(kind) else pc.cast(values, pa.string())
        found = seconds(texts)
        if epoch is not None:
            found = np.where(np.isnan(found), _counted_in_text(texts, EPOCHS[epoch]), found)
    elif is_instant(kind):
        per_second = 1 if pa.types.is_date32(kind) else EPOCHS["ms" if pa.types.is_date64(kind) else kind.unit]
        found = _whole_seconds(counts(values), per_second) * (DAY if pa.types.is_date32(kind) else 1)
        found = np.where((found >= FIRST_SECOND) & (found <= LAST_SECOND), found, np.nan)
    elif pa.types.is_null(kind) or (pa.types.is_floating(kind) and epoch is None):
        # floats: what pandas makes of a column without any value
        found = np.full(len(values), np.nan)
    elif epoch is not None and pa.types.is_integer(kind):
        found = _whole_seconds(values, EPOCHS[epoch])
    elif epoch is not None and pa.types.is_floating(kind):
        found = _counted(_doubles(values).to_numpy(), EPOCHS[epoch])
    else:
        raise _misfit(column.name, "dates or ISO text", kind, "; numbers need a declared epoch" if not epoch else "")
    return np.floor(found / column.resolution)


def _counted(numbers: NDArray[np.float64], per_second: int) -> NDArray[np.float64]:
    """Floats over their unit: whole ones exactly, as if they were integers."""
    whole = (np.abs(numbers) < 2.0**53) & (numbers == np.rint(numbers))
    exact = np.where(whole, numbers, 0).astype(np.int64) // per_second
    return np.where(whole, exact, numbers / per_second)


def _counted_in_text(texts: pa.ChunkedArray, per_second: int) -> NDArray[np.float64]:
    """Numbers in trimmed text over their unit: digits exactly, others as floats."""
    found = _counted(_parsed(texts).to_numpy(), per_second)
    digits = pc.fill_null(pc.match_substring_regex(texts, r"^[+-]?\d{1,19}$"), False)
    negative = pc.fill_null(pc.starts_with(texts, "-"), False).to_numpy()
    magnitudes = pc.cast(
        pc.if_else(digits, pc.replace_substring_regex(texts, "^[+-]", ""), "0"), pa.uint64()
    ).to_numpy()
    downwards = magnitudes // per_second + (negative & (magnitudes % per_second > 0))
    whole = np.where(negative, -1.0, 1.0) * downwards
    return np.where(digits.to_numpy(), whole, found)


def _whole_seconds(values: pa.ChunkedArray, per_second: int) -> NDArray[np.float64]:
    """Integers over their unit, rounded down before they lose precision as floats."""
    absent = pc.is_null(values).to_numpy()
    return np.where(absent, np.nan, pc.fill_null(values, 0).to_numpy() // per_second)


def _codes(values: pa.ChunkedArray, column: Categorical) -> NDArray[Any]:
    texts = _as_text(values, column, column.name, "categories")
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
    texts = pc.fill_null(_as_text(values, column, column.name, "text"), "")
    found: NDArray[Any] = pc.utf8_slice_codeunits(texts, 0, column.max_length).to_numpy()
    return found


def identities(values: pa.ChunkedArray | NDArray[Any], name: str, start: int = 0) -> NDArray[np.uint64]:
    """Whose record each is, uint64 (n, 2): 16-byte BLAKE2b digests of the ids, the same wherever an id occurs.

    Two of 2**32 users share one with a probability below 2**-64. A record without an id is a user of its own, told from
    others by its place among all records, which ``start`` of them precede.
    """
    owners, missing = _owners(_chunked(values, None, name), name)
    for row in np.flatnonzero(missing):
        own = blake2b(str(start + int(row)).encode(), digest_size=16, person=b"no user id").digest()
        owners[row] = np.frombuffer(own, np.uint64)
    return owners


def _owners(values: pa.ChunkedArray, name: str) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Digests of ids, uint64 (n, 2), and which are missing, bool (n,)."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        parts = [_owners(pa.chunked_array([], kind.value_type), name)]
        for chunk in values.chunks:
            distinct = pa.chunked_array([chunk.dictionary, pa.nulls(1, kind.value_type)], kind.value_type)
            known, absent = _owners(distinct, name)
            places = _places(chunk)
            parts.append((known[places], absent[places]))
        owners, missing = zip(*parts, strict=True)
        return np.concatenate(owners), np.concatenate(missing)
    encoded = pc.dictionary_encode(pc.fill_null(_as_text(values, None, name, "user ids"), "").combine_chunks())
    distinct_ids = encoded.dictionary.to_pylist()
    digests = b"".join(blake2b(text.encode(), digest_size=16).digest() for text in distinct_ids)
    places = encoded.indices.to_numpy(zero_copy_only=False)
    unknown = np.array([text == "" for text in distinct_ids], np.bool_)
    return np.frombuffer(digests, np.uint64).reshape(-1, 2)[places], unknown[places]


def _places(chunk: pa.DictionaryArray) -> NDArray[np.int64]:
    """Positions in the dictionary, int64 (n,); one behind its end where a value is missing."""
    places = pc.fill_null(pc.cast(chunk.indices, pa.int64()), len(chunk.dictionary))
    found: NDArray[np.int64] = places.to_numpy(zero_copy_only=False)
    return found


def _as_text(values: pa.ChunkedArray, column: Column | None, name: str, what: str) -> pa.ChunkedArray:
    """Trimmed text of values that name something; raises SchemaError for a type whose values have no text."""
    texts = column_texts(values, column)
    if texts is None:
        raise _misfit(name, what, values.type)
    return pc.utf8_trim_whitespace(texts)


def _trimmed(values: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.utf8_trim_whitespace(decoded(values))


def _misfit(name: str, what: str, kind: pa.DataType, hint: str = "") -> SchemaError:
    return SchemaError(f"column '{name}': expected {what}, the data hold {type_name(kind)}{hint}. Nothing was spent.")
