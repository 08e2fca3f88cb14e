"""A public sample as columns of text: what the readers of private data find in the same file, without a schema.

Every value is the text that a run would compare with a declared category. What only the file's own types tell (truth
values, dates, the order of categories, names of classes) stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather
import pyarrow.parquet
from numpy.typing import NDArray

from pe.data import jsonl
from pe.data.delimited import open_delimited
from pe.data.dialect import AUTO, MAX_FIELD_CHARACTERS
from pe.data.lines import decompressed
from pe.data.outcomes import Values, read_as
from pe.data.parts import Part, Place
from pe.data.read import joined, stream
from pe.data.records import Counts
from pe.data.schema import Schema, Text
from pe.data.selected import class_labels
from pe.errors import SchemaError


@dataclass(frozen=True)
class SampleColumn:
    """One column of a sample.

    values   as ``pe.data.read`` gives them.
    kind     its type in a file that declares types; None in CSV, TSV and JSON Lines, where all is text.
    classes  categories that the file itself names, in their order; ``ordered``: it says that they have one.
    """

    name: str
    values: Values
    kind: pa.DataType | None = None
    classes: tuple[str, ...] = ()
    ordered: bool = False

    def __len__(self) -> int:
        return len(self.values)

    @property
    def pixels(self) -> NDArray[Any] | None:
        """An array of more than one dimension, of pictures; None for single values."""
        return self.values if isinstance(self.values, np.ndarray) and self.values.ndim > 1 else None

    @cached_property
    def texts(self) -> pa.Array:
        """Trimmed texts as a run reads them, string (n,); null where missing."""
        if self.named_codes:
            assert isinstance(self.values, pa.ChunkedArray)
            names = pa.array(self.classes, pa.string())
            codes = pa.chunked_array(self.values.chunks, self.kind).combine_chunks()
            held = pc.and_(pc.greater_equal(codes, 0), pc.less(codes, len(names)))
            return names.take(pc.if_else(held, codes, None))
        texts = read_as(self.values, Text(self.name or "column", Text.LONGEST))
        return pa.array([text or None for text in texts], pa.string())

    @property
    def named_codes(self) -> bool:
        """Whether values are positions in ``classes`` (Hugging Face class labels)."""
        return bool(self.classes) and self.kind is not None and pa.types.is_integer(self.kind) and not self.ordered

    @cached_property
    def present(self) -> pa.Array:
        """The texts that are not missing."""
        return self.texts.drop_null()

    @cached_property
    def counts(self) -> dict[str, int]:
        """How often every text occurs."""
        found = pc.value_counts(self.present)
        return dict(zip(found.field(0).to_pylist(), found.field(1).to_pylist(), strict=True))

    @property
    def missing(self) -> int:
        """How many values are missing."""
        return len(self) - len(self.present)


@dataclass(frozen=True)
class Sample:
    """The columns of a public table.

    nameless   names that are no column's: empty ones, and those that occur twice.
    counts     how the lines of a CSV or TSV file were read.
    multiline  whether records of a CSV file span several lines: private data of that form need the setting.
    """

    columns: list[SampleColumn]
    nameless: list[str]
    counts: Counts
    multiline: bool = False


def read_sample(place: Place, text: str | None = None) -> Sample:
    """A table as a run reads it, where ``text`` names the column of free text, if there is one; raises PEError.

    Values that are not in the encoding raise a SchemaError, unless an encoding is set: then they are missing.
    """
    declared = declared_fields(place)
    names = declared.names
    nameless = list(dict.fromkeys(name for name in names if not name or names.count(name) > 1))
    fields = [field for field in declared if field.name not in nameless]
    counts = Counts()
    if not fields:
        return Sample([], nameless, counts)
    # columns are called by numbers here: those of the file may have names that no schema can have
    places = {str(number): field.name for number, field in enumerate(fields)}
    limits = (Text.max_length if name == text else MAX_FIELD_CHARACTERS for name in places.values())
    schema = Schema(tuple(Text(number, limit) for number, limit in zip(places, limits, strict=True)))
    raw = joined(list(stream(place, places, schema, counts)), place.name)
    if place.options.encoding == AUTO:
        _require_utf8(place, {places[number]: values for number, values in raw.items()})
    classes = class_labels(declared.metadata or {})
    columns = [_column(field, raw[str(number)], classes) for number, field in enumerate(fields)]
    return Sample(columns, nameless, counts, place.kind == "csv" and counts.spanning > 0)


def declared_fields(place: Place) -> pa.Schema:
    """Names of the columns of a table, without any of its values; and types, null where the format declares none."""
    if place.kind in ("parquet", "arrow", "datasets"):
        return _declared_types(place)
    with place.parts[0].open() as file:
        if place.kind == "npz":
            with np.load(file, allow_pickle=False) as archive:
                names = list(archive.files)
        elif place.kind == "jsonl":
            names = list(dict.fromkeys(name for part in place.parts for name in _keys(part)))
        else:
            dialect, _ = open_delimited(file, place.name, place.kind, place.options, multiline=False)
            names = list(dialect.names)
    return pa.schema([pa.field(name, pa.null()) for name in names])


def _keys(part: Part) -> Iterator[str]:
    """Keys of all objects of a JSON Lines file."""
    with part.open() as file:
        for record in jsonl.objects(decompressed(file)):
            yield from record or ()


def _require_utf8(place: Place, columns: Mapping[str, Values]) -> None:
    """Raise SchemaError where values of a text file are not UTF-8."""
    if place.kind == "jsonl":
        for part in place.parts:
            with part.open() as file:
                for number, line in enumerate(decompressed(file), start=1):
                    if not _is_utf8(line):
                        raise SchemaError(f"{place.name} is not UTF-8 text (line {number}): save it as UTF-8.")
    if place.kind not in ("csv", "tsv"):
        return
    for name, values in columns.items():
        if count := undecodable(values):
            raise SchemaError(
                f"{place.name} is not UTF-8 text (column '{name}', {count} values): name its encoding, such as "
                "--encoding latin-1 or --encoding cp1252, or save it as UTF-8. With --encoding utf-8 such values are "
                "taken for missing."
            )


def undecodable(values: Values) -> int:
    """How many values are bytes that are not UTF-8: they are read as missing."""
    if isinstance(values, np.ndarray) or not pa.types.is_binary(values.type):
        return 0
    try:
        values.cast(pa.string())
    except pa.ArrowInvalid:
        return sum(not _is_utf8(value) for value in values.to_pylist() if value)
    return 0


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _declared_types(place: Place) -> pa.Schema:
    with place.parts[0].open() as source:
        if place.kind == "parquet":
            return pyarrow.parquet.read_schema(source)
        start = source.read(4)
        source.seek(0)
        if start == b"FEA1":
            return pyarrow.feather.read_table(source).schema
        with (pa.ipc.open_file if start == b"ARRO" else pa.ipc.open_stream)(source) as reader:
            return reader.schema


def _column(field: pa.Field, values: Values, names: dict[str, list[str]]) -> SampleColumn:
    if isinstance(values, np.ndarray):
        if values.ndim > 1:
            return SampleColumn(field.name, values)
        array = pa.array(values.astype(object) if values.dtype.kind in "US" else values, from_pandas=True)
        return SampleColumn(field.name, values, array.type)
    kind = None if pa.types.is_null(field.type) else field.type
    if kind is None or not pa.types.is_dictionary(kind):
        return SampleColumn(field.name, values, kind, tuple(names.get(field.name, ())))
    categories: dict[str, None] = {}
    for chunk in values.chunks if kind.ordered else ():
        categories |= dict.fromkeys(_texts_of(chunk.dictionary))
    return SampleColumn(field.name, values, kind.value_type, tuple(categories), bool(kind.ordered))


def _texts_of(dictionary: pa.Array) -> list[str]:
    """The categories of a dictionary, as a run reads them."""
    texts = read_as(pa.chunked_array([dictionary]), Text("categories", Text.LONGEST))
    return [text for text in texts if text]
