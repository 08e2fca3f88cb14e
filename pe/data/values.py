"""The meaning of a single value: one rule for every format, whatever stands beside the value.

Every value that is no text already is read as the text by which a CSV file would hold it:

text            itself; with lone surrogates: missing
bytes           UTF-8 text; anything else: missing
truth values    "true", "false"; in a column of numbers "1", "0"
whole numbers   their digits: 1 and 1.0 are "1" (floats from 2**53 on as Python prints them)
other numbers   the shortest decimal text that reads as the same number; decimals without trailing zeros
dates, times    ISO 8601 in UTC, "2024-02-29" or "2024-02-29 13:05:00"
lists, objects  their JSON text
missing         None, NaN, NaT, pandas.NA, and whatever has no text

Some values have several usual spellings (True, 1.0, decimals with zeros at their end). In a column of categories the
first one that is declared counts.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pe.data.schema import Categorical, Column, Datetime, Numeric

_EXACT = 2.0**53
"""Whole floats below it are exact integers."""

_PLAIN_DIGITS = 400
"""Decimals of more digits keep their exponent."""


def value_text(value: object, column: Column | None = None) -> str | None:
    """One value as text, None where it is missing. ``column`` is the declared one; None for user ids."""
    numeric = isinstance(column, Numeric) and not isinstance(column, Datetime)
    declared = column.values if isinstance(column, Categorical) else ()
    try:
        spellings = _spellings(value, numeric)
        spelling = next((each for each in spellings if each in declared), spellings[0] if spellings else None)
        if spelling is not None:
            spelling.encode()
    except Exception:  # bytes that are no UTF-8, lone surrogates, objects that fail to say what they are
        return None
    return spelling


def texts_of(values: Iterable[object], column: Column | None = None) -> pa.ChunkedArray:
    """Values of any types, each by ``value_text``: strings, null where missing."""
    texts = [value if type(value) is str else value_text(value, column) for value in values]
    try:
        array = pa.array(texts, pa.string())
    except (UnicodeEncodeError, pa.ArrowException):  # lone surrogates
        array = pa.array([None if text is None else value_text(text) for text in texts], pa.string())
    return array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])


def _spellings(value: Any, numeric: bool) -> tuple[str, ...]:
    """The usual spellings of a value, the preferred one first; none where it is missing. Raises for what has none."""
    if value is None:
        return ()
    if isinstance(value, str):
        return (str.__str__(value),)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return (bytes(value).decode(),)
    if isinstance(value, (bool, np.bool_)):
        word = "true" if value else "false"
        return (str(int(value)),) if numeric else (word, word.capitalize(), word.upper())
    if isinstance(value, (int, np.integer)):
        return _whole(int(value), numeric)
    if isinstance(value, (float, np.floating)):
        return _float(value)
    if isinstance(value, Decimal):
        return _decimal(value)
    if isinstance(value, np.datetime64):
        return _numpy_instant(value)
    if isinstance(value, datetime.date):  # a datetime is one, too, and so is NaT
        return _instant(value)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple, dict)):
        return (json.dumps(value, ensure_ascii=False, separators=(",", ":")),)
    if type(value).__name__ == "NAType" or (isinstance(value, np.timedelta64) and np.isnat(value)):
        return ()
    return (str(value),)


def _whole(value: int, numeric: bool) -> tuple[str, ...]:
    try:
        digits = str(value)
    except ValueError:  # Python refuses to write thousands of digits
        infinity = "-inf" if value < 0 else "inf"
        return (infinity if numeric else hex(value),)
    return (digits, f"{digits}.0")


def _float(value: float | np.floating[Any]) -> tuple[str, ...]:
    number = float(value)
    if np.isnan(number):
        return ()
    if abs(number) < _EXACT and number.is_integer():
        return _whole(int(number), numeric=False)
    return (str(value),)  # numpy's narrower floats are written by their own precision


def _decimal(value: Decimal) -> tuple[str, ...]:
    if value.is_nan():
        return ()
    if value.is_infinite():
        return ("-inf" if value < 0 else "inf",)
    exponent = value.as_tuple().exponent
    assert isinstance(exponent, int)
    if exponent < -_PLAIN_DIGITS or value.adjusted() > _PLAIN_DIGITS:
        return (str(value),)
    written = format(value, "f")
    short = written.rstrip("0").rstrip(".") if "." in written else written
    return ("0" if short == "-0" else short, written)


def _numpy_instant(value: np.datetime64) -> tuple[str, ...]:
    if np.isnat(value):
        return ()
    unit = np.datetime_data(value.dtype)[0]
    if unit in ("Y", "M", "W", "D"):
        return _day(str(value.astype("datetime64[D]")))
    return _moment(str(value.astype("datetime64[s]") if unit in ("h", "m") else value))


def _instant(value: datetime.date) -> tuple[str, ...]:
    if value != value:  # NaT
        return ()
    if not isinstance(value, datetime.datetime):
        return _day(value.isoformat())
    if value.tzinfo is not None:
        value = value.astimezone(datetime.UTC).replace(tzinfo=None)
    return _moment(value.isoformat())


def _day(day: str) -> tuple[str, ...]:
    return (day, f"{day} 00:00:00", f"{day}T00:00:00")


def _moment(text: str) -> tuple[str, ...]:
    day, _, time = text.partition("T")
    whole, _, fraction = time.partition(".")
    fraction = fraction.rstrip("0")
    time = f"{whole}.{fraction}" if fraction else whole
    spellings = (f"{day} {time}", f"{day}T{time}")
    return (*spellings, day) if time == "00:00:00" else spellings


# -- columns of one Arrow type -----------------------------------------------------------------------------------------


_BINARY = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)


def is_text(kind: pa.DataType) -> bool:
    """Whether a type holds text, or bytes that may be text."""
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, *_BINARY)
    return any(test(kind) for test in tests)


def column_texts(values: pa.ChunkedArray, column: Column | None = None) -> pa.ChunkedArray | None:
    """A typed column as text: what ``value_text`` makes of each value; None for a type whose values have no text."""
    kind = values.type
    if is_text(kind):
        return decoded(values)
    if pa.types.is_null(kind):
        return pc.cast(values, pa.string())
    if pa.types.is_time(kind):
        return pc.cast(values, pa.string())
    if pa.types.is_decimal(kind):
        encoded = values.combine_chunks().cast(pa.decimal256(76, kind.scale)).dictionary_encode()
        texts = texts_of(encoded.dictionary.to_pylist(), column).combine_chunks()
        return pa.chunked_array([texts.take(encoded.indices)])
    if not (pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind) or is_instant(kind)):
        return None
    numbers, valid = _integers(values) if not pa.types.is_floating(kind) else _floats(values)
    distinct, places = np.unique(numbers, return_inverse=True)
    scalars: list[object] = list(distinct)
    if pa.types.is_timestamp(kind):
        unit: Any = kind.unit
        scalars = [np.datetime64(int(number), unit) for number in distinct]
    elif pa.types.is_date(kind):
        a_day = 1 if pa.types.is_date32(kind) else 86_400_000  # Arrow counts the milliseconds of a date64
        scalars = [np.datetime64(int(number) // a_day, "D") for number in distinct]
    texts = texts_of(scalars, column).combine_chunks()
    return pa.chunked_array([texts.take(pa.array(places.reshape(-1), mask=~valid))])


def is_instant(kind: pa.DataType) -> bool:
    return bool(pa.types.is_date(kind) or pa.types.is_timestamp(kind))


def _floats(values: pa.ChunkedArray) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    numbers: NDArray[Any] = values.to_numpy()
    return numbers, ~np.isnan(numbers)


def _integers(values: pa.ChunkedArray) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Truth values, integers or counts of instants as integers in their own width, 0 where missing; which are valid."""
    valid: NDArray[np.bool_] = pc.is_valid(values).to_numpy()
    if is_instant(values.type):
        values = counts(values)
    zero = pa.scalar(0).cast(values.type)
    numbers: NDArray[Any] = pc.fill_null(values, zero).to_numpy()
    return numbers, valid


def counts(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Days, milliseconds or whatever units dates and timestamps are counted in: int32 or int64."""
    width = pa.int32() if pa.types.is_date32(values.type) else pa.int64()
    return pa.chunked_array([chunk.view(width) for chunk in values.chunks], width)


def decoded(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text columns, or bytes, as strings; null where a value is no UTF-8 (Arrow takes strings on trust)."""
    kind = values.type
    if pa.types.is_fixed_size_binary(kind):
        values = pc.cast(values, pa.binary())
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        raw = pa.binary() if pa.types.is_string(kind) else pa.large_binary()
        values = pa.chunked_array([chunk.view(raw) for chunk in values.chunks], raw)
    elif pa.types.is_string_view(kind):
        values = pc.cast(values, pa.binary_view())
    try:
        return pc.cast(values, pa.string())
    except pa.ArrowInvalid:
        return texts_of(values.to_pylist())
