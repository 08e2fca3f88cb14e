"""Files to raw columns, some records at a time: in bounded memory, however large a file is.

CSV and TSV: see ``pe.data.delimited``. JSON Lines: see ``pe.data.jsonl``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pe.data import arrow_files, jsonl
from pe.data.arrow_files import ROWS
from pe.data.delimited import open_delimited, private_columns
from pe.data.lines import decompressed
from pe.data.parts import Part, Place
from pe.data.records import Counts
from pe.data.schema import Schema
from pe.data.selected import Raw


def batches(place: Place, names: Mapping[str, str], schema: Schema, counts: Counts | None = None) -> Iterator[Raw]:
    """Raw columns of every file of a place, at least once per file; ``names`` maps them to columns of the files.

    ``counts`` is added to, of CSV and TSV files, for the eyes of whoever holds them.
    """
    for part in place.parts:
        if place.kind in ("csv", "tsv"):
            yield from _delimited(part, place, names, schema, counts)
        elif place.kind == "jsonl":
            yield from _jsonl(part, names)
        elif place.kind == "npz":
            yield arrow_files.npz(part, names, place.name)
        elif place.kind == "parquet":
            yield from arrow_files.parquet(part, names, schema, place.name)
        else:
            yield from arrow_files.arrow(part, names, schema, place.name)


def public_form(place: Place, schema: Schema) -> tuple[str, ...]:
    """What is taken to be public about the files of a place, as sentences: what a record is, and how it is written.

    Looks at byte-order marks and header lines alone.
    """
    if place.kind == "jsonl":
        return ("a record is one line of the private JSON Lines file",)
    if place.kind not in ("csv", "tsv"):
        return ()
    sentences: dict[str, None] = {}
    for part in place.parts:
        with part.open() as file:
            multiline = place.options.has_text or schema.text is not None
            dialect, _ = open_delimited(file, place.name, place.kind, place.options, multiline=multiline)
        sentences[dialect.description()] = None
    return tuple(sentences)


def _delimited(
    part: Part, place: Place, names: Mapping[str, str], schema: Schema, counts: Counts | None
) -> Iterator[Raw]:
    with part.open() as file:
        for columns in private_columns(file, place.name, place.kind, names, schema, place.options, counts):
            yield dict(columns)


def _jsonl(part: Part, names: Mapping[str, str]) -> Iterator[Raw]:
    yield dict(jsonl.raw([], names))
    with part.open() as file:
        for records in jsonl.batches(decompressed(file), ROWS):
            yield dict(jsonl.raw(records, names))
