"""JSON Lines to raw columns, record by record: what a line holds decides nothing about another.

A line is a record. One that is no JSON object is a record whose every value is missing; an empty line is no record.
Every value is read as text, whatever the types of the others: a string is itself, 1.0 reads "1", true reads "true" (in
a column of numbers "1"), null or an absent key is missing, a list or an object is its JSON text. Lists of numbers are
pictures where the schema declares an image. Of a key that stands twice in a line the last counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import IO, Any

import numpy as np
import pyarrow as pa

from pe.data.schema import Column, Datetime, Image, Numeric
from pe.errors import PrivateDataError

LONGEST_LINE = 2**24
"""Bytes; a longer line is a malformed one."""

FIRST = 1000
"""Lines among which every declared column must occur, and an object at all."""

Record = dict[str, Any] | None


def objects(file: IO[bytes]) -> Iterator[Record]:
    """The records of a file, None for a malformed line."""
    while line := file.readline(LONGEST_LINE):
        whole = len(line) < LONGEST_LINE or line.endswith(b"\n")
        rest = line
        while not whole and rest and not rest.endswith(b"\n"):
            rest = file.readline(LONGEST_LINE)
        line = line.removeprefix(b"\xef\xbb\xbf")  # of every line: which one is the first is no line's own
        if not whole:
            yield None
        elif not line.isspace() and line:
            yield _object(line)


def _object(line: bytes) -> Record:
    try:
        # a value with bytes that are not UTF-8 is missing, its neighbours are not
        found = json.loads(line.decode("utf-8", "surrogateescape"), parse_int=_integer)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) < 400 else digits  # Python refuses to convert thousands of digits


def sampled(records: Iterator[Record], place: str) -> tuple[list[Record], list[str]]:
    """The first records, and the names that occur in them; raises PrivateDataError where none is an object."""
    first = list(islice(records, FIRST))
    names = list(dict.fromkeys(name for record in first if record for name in record))
    if first and not any(record is not None for record in first):
        raise PrivateDataError(f"{place} is not JSON Lines: expected one object per line. Nothing was spent.")
    return first, names


def raw(records: list[Record], names: Mapping[str, str], columns: Mapping[str, Column]) -> dict[str, pa.ChunkedArray]:
    """Raw columns of some records: ``names`` maps them to keys, ``columns`` holds those of the schema."""
    found = {}
    for column, key in names.items():
        values = [None if record is None else record.get(key) for record in records]
        declared = columns.get(column)
        if isinstance(declared, Image):
            pictures = [_picture(value, declared) for value in values]
            found[column] = pa.chunked_array([pa.array(pictures, pa.list_(pa.float64()))])
        else:
            numeric = isinstance(declared, Numeric) and not isinstance(declared, Datetime)
            found[column] = _chunked([value if type(value) is str else _text(value, numeric) for value in values])
    return found


def _chunked(texts: list[str | None]) -> pa.ChunkedArray:
    try:
        array = pa.array(texts, pa.string())
    except UnicodeEncodeError:  # lone surrogates are no text
        array = pa.array([text if text is None or _encodes(text) else None for text in texts], pa.string())
    return array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(value: object, numeric: bool) -> str | None:
    """A value that is no string, by the rules above."""
    if value is None:
        return None
    if isinstance(value, bool):
        return str(int(value)) if numeric else str(value).lower()
    if isinstance(value, float):
        return None if value != value else str(int(value)) if value.is_integer() else str(value)
    if isinstance(value, int):
        return str(value)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _picture(value: object, image: Image) -> list[float] | None:
    shape = (image.height, image.width, image.channels)
    try:
        pixels = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    fits = pixels.shape in (shape, (image.size,)) or (image.channels == 1 and pixels.shape == shape[:2])
    return pixels.reshape(-1).tolist() if fits else None
