"""CSV and TSV files: one reader for private data and for public samples, in bounded memory.

``pe.data.dialect`` says what the header decides, ``pe.data.records`` what a record is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc

from pe.data.dialect import (
    DEFAULT_OPTIONS,
    MAX_FIELD_CHARACTERS,
    CsvOptions,
    Dialect,
    decode_names,
    detect_delimiter,
    split_header,
)
from pe.data.lines import MAX_LINE_BYTES, decompressed, detect_encoding, line_blocks, utf8_chunks
from pe.data.parts import format_of
from pe.data.records import Counts, Layout, Parsed, parse, split_fields
from pe.data.schema import Schema, Text
from pe.data.selected import require
from pe.errors import PrivateDataError, SchemaError


@dataclass(frozen=True)
class TextTable:
    """All columns of a public CSV or TSV file, as text.

    columns  string arrays in the order of ``dialect.names``: a field's text as it stands in the file, quotes taken off
             and white space kept; null in records of the wrong number of fields, and where bytes do not decode.
    counts   how the records were read.
    """

    dialect: Dialect
    columns: tuple[pa.ChunkedArray, ...]
    counts: Counts = field(default_factory=Counts)

    @property
    def names(self) -> tuple[str, ...]:
        return self.dialect.names


def read_text_columns(
    path: str | Path,
    *,
    format: str | None = None,
    options: CsvOptions | None = None,
    limits: Mapping[str, int] | None = None,
) -> TextTable:
    """Read a public file whole; its records are those that private data in such a file would have.

    format   "csv" or "tsv"; by default from the suffix, "csv" for any other.
    options  delimiter, encoding and ``multiline``, which is here decided by the file if it is None: True where a record
             spans several lines. Then private data of the same form need ``multiline = true``.
    limits   characters, by column, that a field with line breaks may have: a text column's ``max_length``.

    Raises PrivateDataError where the file cannot be read.
    """
    options, kind = options or DEFAULT_OPTIONS, format or format_of(path) or "csv"
    try:
        with Path(path).open("rb") as file:
            dialect, blocks = open_delimited(file, str(path), kind, options, multiline=kind == "csv")
            found = [(limits or {}).get(name, MAX_FIELD_CHARACTERS) for name in dialect.names]
            batches = list(_parsed(blocks, dialect, range(len(dialect.names)), found))
    except (OSError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is damaged"
        raise PrivateDataError(f"{path} cannot be read: {reason}. Nothing was spent.") from None
    counts = Counts()
    for batch in batches:
        counts.add(batch.counts)
    columns = tuple(
        pa.chunked_array([as_text(batch.columns[place]) for batch in batches], pa.string())
        for place in range(len(dialect.names))
    )
    if options.multiline is None:
        dialect = replace(dialect, multiline=counts.spanning > 0)
    return TextTable(dialect, columns, counts)


def private_columns(
    file: IO[bytes],
    name: str,
    kind: str,
    names: Mapping[str, str],
    schema: Schema,
    options: CsvOptions,
    counts: Counts | None = None,
) -> Iterator[dict[str, pa.ChunkedArray]]:
    """The declared columns of an open file as bytes, some records at a time; at least one batch.

    name    of the file, for errors.
    kind    "csv" or "tsv".
    names   columns of the schema to those of the file.
    counts  is added to, for the holder's own eyes.

    Raises SchemaError for a column that the header lacks or has twice, PrivateDataError for a header that is none.
    Nothing after the header raises.
    """
    dialect, blocks = open_delimited(file, name, kind, options, multiline=options.has_text or schema.text is not None)
    try:
        require(dialect.names, names, name)
    except SchemaError as error:
        form = f"delimiter {dialect.delimiter.decode()!r} and encoding {dialect.encoding.upper()}"
        raise SchemaError(
            f"{str(error).removesuffix(' Nothing was spent.')} The header was read with {form}. Nothing was spent."
        ) from None
    lengths = {names[column.name]: column.max_length for column in schema.columns if isinstance(column, Text)}
    limits = [lengths.get(each, MAX_FIELD_CHARACTERS) for each in dialect.names]
    wanted = {column: dialect.names.index(each) for column, each in names.items()}
    for batch in _parsed(blocks, dialect, wanted.values(), limits):
        if counts is not None:
            counts.add(batch.counts)
        yield {column: pa.chunked_array([values]) for column, values in zip(wanted, batch.columns, strict=True)}


def open_delimited(
    file: IO[bytes], name: str, kind: str, options: CsvOptions, *, multiline: bool
) -> tuple[Dialect, Iterator[bytes]]:
    """The dialect of an open file, and the blocks of lines after its header.

    ``multiline`` is what the options' None stands for, in CSV. Raises PrivateDataError for what is no CSV file.
    """
    tsv = kind == "tsv"
    file = decompressed(file)
    encoding, mark = detect_encoding(file.read(4), options.encoding, name)
    blocks = line_blocks(utf8_chunks(file, encoding, mark))
    lines, halves = b"", None
    while halves is None:
        block = next(blocks, b"")
        lines += block
        halves = split_header(lines, options.delimiter, tsv=tsv, final=not block)
    header, rest = halves
    if len(header) > MAX_LINE_BYTES:
        raise PrivateDataError(f"{name}: its first line has more than {MAX_LINE_BYTES} bytes. Nothing was spent.")
    delimiter = detect_delimiter(header, options.delimiter, tsv=tsv)
    fields, _ = split_fields(header, delimiter)
    spans = options.multiline
    if spans is None:
        spans = multiline and delimiter != b"\t"
    elif spans and delimiter == b"\t":
        raise PrivateDataError(
            f"{name} is tab-separated, where no field holds line breaks: leave multiline out. Nothing was spent."
        )
    return Dialect(decode_names(fields, name), delimiter, encoding, spans), chain([rest], blocks)


def _parsed(
    blocks: Iterator[bytes], dialect: Dialect, wanted: Iterable[int], limits: Iterable[int]
) -> Iterator[Parsed]:
    """Records of all blocks, in batches; at least one."""
    spans = tuple(limits) if dialect.multiline else None
    layout = Layout(dialect.delimiter, len(dialect.names), tuple(wanted), spans)
    rest = b""
    for block in blocks:
        lines = rest + block
        batch = parse(lines, layout, final=False)
        rest = lines[batch.consumed :]
        yield batch
    yield parse(rest, layout)


def as_text(values: pa.Array) -> pa.Array:
    """Bytes as text; null where they are not UTF-8."""
    try:
        return pc.cast(values, pa.string())
    except pa.ArrowInvalid:
        return pa.array([_decoded(value) for value in values.to_pylist()], pa.string())


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None
