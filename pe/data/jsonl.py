"""JSON Lines to raw columns, record by record: what a line holds decides nothing about another.

A line is a record. One that is no JSON object is a record whose every value is missing; an empty line is no record.
Values are read by the one rule of ``pe.data.values``, null or an absent key is missing, even one that no record has:
which keys there are depends on the records. Lists of numbers are pictures where the schema declares an image. Of a key
that stands twice in a line the last counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

LONGEST_LINE = 2**24
"""Bytes; a longer line is a malformed one."""

BATCH_BYTES = 2**24
"""Bytes of lines that are parsed at a time."""

FIRST = 1000
"""Lines in which ``keys`` looks for names."""

Record = dict[str, Any] | None


def objects(file: IO[bytes]) -> Iterator[Record]:
    """The records of a file, None for a malformed line."""
    for line in _lines(file):
        yield _object(line)


def batches(file: IO[bytes], rows: int) -> Iterator[list[Record]]:
    """The records of a file, at most ``rows`` at a time, fewer where lines are long."""
    batch: list[Record] = []
    size = 0
    for line in _lines(file):
        batch.append(_object(line))
        size += len(line)
        if len(batch) == rows or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """Lines but empty ones; of one that is too long, a beginning that is no JSON."""
    while line := file.readline(LONGEST_LINE):
        whole = len(line) < LONGEST_LINE or line.endswith(b"\n")
        rest = line
        while not whole and rest and not rest.endswith(b"\n"):
            rest = file.readline(LONGEST_LINE)
        line = line.removeprefix(b"\xef\xbb\xbf")  # of every line: which one is the first is no line's own
        if not whole:
            yield b"["
        elif not line.isspace() and line:
            yield line


def _object(line: bytes) -> Record:
    try:
        # a value with bytes that are not UTF-8 is missing, its neighbours are not
        found = json.loads(line.decode("utf-8", "surrogateescape"), parse_int=_integer)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) < 400 else digits  # Python refuses to convert thousands of digits


def keys(records: Iterator[Record]) -> list[str]:
    """Names that occur in the first records, for data that are not private."""
    return list(dict.fromkeys(name for record in islice(records, FIRST) if record for name in record))


def raw(records: list[Record], names: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    """Raw columns of some records, object (n,): ``names`` maps them to keys; None where a record lacks one."""
    columns = {}
    for column, key in names.items():
        values = [None if record is None else record.get(key) for record in records]
        columns[column] = np.fromiter(values, object, len(values))
    return columns
