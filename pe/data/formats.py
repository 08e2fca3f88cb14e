"""Files to raw columns, some records at a time: in bounded memory, however large a file is.

CSV values are kept as bytes, so that no parser can fail on what a record holds. A CSV line with too few or too many
fields is kept as a record whose every value is missing, after the file's last record; an empty line is no record. JSON
Lines: see ``pe.data.jsonl``.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.csv

from pe.data import arrow_files, jsonl
from pe.data.arrow_files import ROWS
from pe.data.parts import Part, Place
from pe.data.schema import Schema
from pe.data.selected import Raw, require

LONGEST_RECORD = 2**24
"""Bytes of the longest CSV record; also how much is parsed at a time."""


def batches(place: Place, names: Mapping[str, str], schema: Schema) -> Iterator[Raw]:
    """Raw columns of every file of a place, at least once per file; ``names`` maps them to columns of the files."""
    for part in place.parts:
        if place.kind in ("csv", "tsv"):
            yield from _csv(part, "," if place.kind == "csv" else "\t", names, place.name)
        elif place.kind == "jsonl":
            yield from _jsonl(part, names, schema, place.name)
        elif place.kind == "npz":
            yield arrow_files.npz(part, names, place.name)
        elif place.kind == "parquet":
            yield from arrow_files.parquet(part, names, schema, place.name)
        else:
            yield from arrow_files.arrow(part, names, schema, place.name)


def _csv(part: Part, delimiter: str, names: Mapping[str, str], place: str) -> Iterator[Raw]:
    with io.TextIOWrapper(part.open(), encoding="utf-8-sig", errors="replace", newline="") as file:
        header = [name.strip() for name in next(csv.reader(file, delimiter=delimiter), [])]
        require(header, names, place)
        empty = not any(line.strip() for line in file)
    if empty:  # Arrow refuses a file that ends with its header
        yield {column: pa.chunked_array([], pa.binary()) for column in names}
        return
    malformed: list[None] = []

    def keep_place(row: pyarrow.csv.InvalidRow) -> str:
        malformed.append(None)
        return "skip"

    wanted = list(dict.fromkeys(names.values()))
    with part.open() as source, _opened(source, header, wanted, delimiter, keep_place) as reader:
        for batch in reader:
            yield {column: pa.chunked_array([batch.column(name)]) for column, name in names.items()}
    while malformed:
        missing = pa.nulls(len(malformed[:ROWS]), pa.binary())
        del malformed[:ROWS]
        yield {column: pa.chunked_array([missing]) for column in names}


def _opened(source: Any, header: list[str], wanted: list[str], delimiter: str, handler: Any) -> Any:
    return pyarrow.csv.open_csv(
        source,
        read_options=pyarrow.csv.ReadOptions(column_names=header, skip_rows=1, block_size=LONGEST_RECORD),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=delimiter, newlines_in_values=True, invalid_row_handler=handler
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={name: pa.binary() for name in header}, include_columns=wanted, strings_can_be_null=False
        ),
    )


def _jsonl(part: Part, names: Mapping[str, str], schema: Schema, place: str) -> Iterator[Raw]:
    columns = {column.name: column for column in schema.columns}
    with part.open() as file:
        records = jsonl.objects(file)
        batch, found = jsonl.sampled(records, place)
        if batch:
            require(found, names, place)
        yield dict(jsonl.raw(batch, names, columns))
        while batch := list(islice(records, ROWS)):
            yield dict(jsonl.raw(batch, names, columns))
