"""Parquet, Arrow and npz files to raw columns: in memory that is bounded by bytes, whatever is in the files.

Records are read some at a time, fewer where they are large. Text comes as a dictionary of distinct values, so that one
long text that a small file repeats a million times takes its length once; where it is expanded, batches are cut by the
bytes that come of it. What Arrow decodes from a damaged file is checked before anything is computed from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet
from numpy.typing import NDArray

from pe.data.columns import EPOCHS
from pe.data.parts import Part
from pe.data.schema import Image, Schema, Text
from pe.data.selected import Raw, from_arrow, require
from pe.data.times import DAY
from pe.data.values import is_text
from pe.errors import PrivateDataError

ROWS = 2**14
"""Records read at a time, at most."""

BATCH_BYTES = 2**26
"""Bytes of values that are decoded, or texts expanded, at a time, where the format can be cut there."""

LARGEST_LISTS = 2**30
"""Bytes of lists in a Parquet row group, which may all be one record's and are then decoded at once."""

LARGEST_ARCHIVE = 2**32
"""Bytes of the arrays of an npz file, which are decoded whole."""


def npz(part: Part, names: Mapping[str, str], place: str) -> Raw:
    with part.open() as file, np.load(file, allow_pickle=False) as archive:
        require(archive.files, names, place)
        wanted = set(names.values())
        sizes = [entry.file_size for entry in archive.zip.infolist() if entry.filename.removesuffix(".npy") in wanted]
        if sum(sizes) > LARGEST_ARCHIVE:
            raise _too_large(place, "its arrays take", LARGEST_ARCHIVE)
        found: dict[str, NDArray[Any]] = {column: archive[name] for column, name in names.items()}
    if any(values.ndim == 0 for values in found.values()) or len({len(values) for values in found.values()}) > 1:
        raise PrivateDataError(f"{place}: columns differ in length. Nothing was spent.")
    return dict(found)


def parquet(part: Part, names: Mapping[str, str], schema: Schema, place: str) -> Iterator[Raw]:
    wanted = list(dict.fromkeys(names.values()))
    with part.open() as source, pyarrow.parquet.ParquetFile(source) as plain:
        require(plain.schema_arrow.names, names, place)
        kinds = pa.schema([plain.schema_arrow.field(name) for name in wanted], plain.schema_arrow.metadata)
        texts = [field.name for field in kinds if is_text(field.type)]
        rows = _rows_at_a_time(plain.metadata, kinds, schema, place)
        yield from_arrow(kinds.empty_table(), names, place, schema)
        with pyarrow.parquet.ParquetFile(source, metadata=plain.metadata, read_dictionary=texts) as file:
            for batch in file.iter_batches(rows, columns=wanted):
                table = pa.Table.from_batches([_checked(batch, wanted)])
                for piece in _pieces(table, names, schema):
                    yield from_arrow(piece, names, place, schema, kinds.metadata)


def _rows_at_a_time(metadata: Any, kinds: pa.Schema, schema: Schema, place: str) -> int:
    """Records whose values take about BATCH_BYTES in the row group where they are largest.

    Run-length encoding makes bytes on disk say little of values other than text, so values are counted. Raises
    PrivateDataError for a row group with lists beyond LARGEST_LISTS that are no pictures.
    """
    kinds_of_values = [field.type.value_type if pa.types.is_dictionary(field.type) else field.type for field in kinds]
    widths = [kind.byte_width if pa.types.is_fixed_size_binary(kind) else 8 for kind in kinds_of_values]
    nested = {field.name for field in kinds if pa.types.is_nested(field.type)}
    largest_list = max((column.size for column in schema.columns if isinstance(column, Image)), default=1)
    rows = ROWS
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        lists = 0
        if nested:  # only then: of a damaged footer pyarrow dies where it looks at single columns
            columns = [group.column(index) for index in range(group.num_columns)]
            lists = sum(
                8 * column.num_values for column in columns if column.path_in_schema.partition(".")[0] in nested
            )
        if lists > max(LARGEST_LISTS, 16 * largest_list * group.num_rows):
            raise _too_large(place, "the lists of a row group take", LARGEST_LISTS)
        size = group.total_byte_size + sum(widths) * group.num_rows + lists
        rows = min(rows, max(1, BATCH_BYTES * group.num_rows // max(size, 1)))
    return max(rows, 1)


def arrow(part: Part, names: Mapping[str, str], schema: Schema, place: str) -> Iterator[Raw]:
    """An Arrow file in any of its forms: file, stream, or the first version of Feather."""
    wanted = list(dict.fromkeys(names.values()))
    with part.open() as source:
        start = source.read(4)
        source.seek(0)
        if start == b"FEA1":
            table = pyarrow.feather.read_table(source, columns=wanted)
            for batch in table.to_batches():
                yield from_arrow(pa.Table.from_batches([_checked(batch, wanted)]), names, place, schema)
            return
        opener = pa.ipc.open_file if start == b"ARRO" else pa.ipc.open_stream
        with opener(source) as reader:
            require(reader.schema.names, names, place)
            kinds = pa.schema([reader.schema.field(name) for name in wanted], reader.schema.metadata)
            yield from_arrow(kinds.empty_table(), names, place, schema)
            for batch in _record_batches(reader):
                table = pa.Table.from_batches([_checked(batch, wanted)])
                for piece in _pieces(table, names, schema):
                    yield from_arrow(piece, names, place, schema, reader.schema.metadata)


def _record_batches(reader: Any) -> Iterator[pa.RecordBatch]:
    if hasattr(reader, "num_record_batches"):
        yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
    else:
        yield from reader


def _checked(batch: pa.RecordBatch, wanted: list[str]) -> pa.RecordBatch:
    """The wanted columns after a check of every length, offset and index in them; raises ArrowInvalid.

    Left to the rules for single values, so that no record stops the others: text that is no UTF-8, dates that are no
    whole days, times beyond the day ("24:00:00"), decimals of more digits than their type declares.
    """
    columns = [batch.column(batch.schema.get_field_index(name)) for name in wanted]
    for column in columns:
        column.validate()
    columns = [_without_rules(column) for column in columns]
    for column in columns:
        column.validate(full=True)
    return pa.RecordBatch.from_arrays(columns, wanted)


def _without_rules(column: pa.Array) -> pa.Array:
    """The same buffers as a type in which no single value can be wrong."""
    kind = column.type
    if pa.types.is_date64(kind):
        return column.view(pa.timestamp("ms"))
    if pa.types.is_string(kind):
        return column.view(pa.binary())
    if pa.types.is_large_string(kind):
        return column.view(pa.large_binary())
    if pa.types.is_string_view(kind):
        return column.view(pa.binary_view())
    if pa.types.is_time(kind):
        return _times_of_day(column)
    if pa.types.is_decimal(kind) and not pa.types.is_decimal256(kind):
        return column.cast(pa.decimal256(76, kind.scale), safe=False)
    if pa.types.is_struct(kind):
        fields = [_without_rules(column.field(index)) for index in range(kind.num_fields)]
        names = [field.name for field in kind]
        return pa.StructArray.from_arrays(fields, names, mask=column.is_null())
    if pa.types.is_dictionary(kind):
        column.indices.validate(full=True)
        distinct = _without_rules(column.dictionary)
        return pa.DictionaryArray.from_arrays(column.indices, distinct, ordered=kind.ordered, safe=True)
    return column


def _times_of_day(column: pa.Array) -> pa.Array:
    """Times of day, null where a count is not within one day."""
    kind = column.type
    width = pa.int32() if pa.types.is_time32(kind) else pa.int64()
    counts = column.view(width)
    within = pc.and_(pc.greater_equal(counts, 0), pc.less(counts, DAY * EPOCHS[kind.unit]))
    return pc.if_else(within, counts, pa.scalar(None, width)).view(kind)


def _pieces(table: pa.Table, names: Mapping[str, str], schema: Schema) -> Iterator[pa.Table]:
    """A table cut where the texts of its dictionaries, once expanded, pass BATCH_BYTES."""
    sizes = np.zeros(table.num_rows, np.int64)
    for column in schema.columns:
        values = table.column(names[column.name])
        if isinstance(column, Text) and pa.types.is_dictionary(values.type) and is_text(values.type.value_type):
            sizes += np.minimum(_lengths(values), 4 * column.max_length)  # bytes of what is not cut off
    pieces = np.cumsum(sizes) // BATCH_BYTES
    starts = [0, *(np.flatnonzero(np.diff(pieces)) + 1).tolist()]
    for start, stop in zip(starts, [*starts[1:], table.num_rows], strict=True):
        yield table.slice(start, stop - start)


def _lengths(values: pa.ChunkedArray) -> NDArray[np.int64]:
    """Bytes of each text of a dictionary column, int64 (n,)."""
    found = [np.zeros(0, np.int64)]
    for chunk in values.chunks:
        lengths = pc.fill_null(pc.binary_length(chunk.dictionary), 0).take(chunk.indices)
        found.append(pc.fill_null(pc.cast(lengths, pa.int64()), 0).to_numpy(zero_copy_only=False))
    return np.concatenate(found)


def _too_large(place: str, what: str, limit: int) -> PrivateDataError:
    return PrivateDataError(
        f"{place}: {what} more than {limit >> 30} GiB once unpacked: store the data as Parquet, in row groups "
        "of fewer records. Nothing was spent."
    )
