"""Parquet, Arrow and npz files to raw columns, some records at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet
from numpy.typing import NDArray

from pe.data.parts import Part
from pe.data.schema import Schema
from pe.data.selected import Raw, from_arrow, require
from pe.errors import PrivateDataError

ROWS = 2**14
"""Records read at a time from formats that can be asked for a number."""


def npz(part: Part, names: Mapping[str, str], place: str) -> Raw:
    with part.open() as file, np.load(file, allow_pickle=False) as archive:
        require(archive.files, names, place)
        found: dict[str, NDArray[Any]] = {column: archive[name] for column, name in names.items()}
    if len({len(values) for values in found.values()}) > 1:
        raise PrivateDataError(f"{place}: columns differ in length. Nothing was spent.")
    return dict(found)


def parquet(part: Part, names: Mapping[str, str], schema: Schema, place: str) -> Iterator[Raw]:
    with part.open() as source, pyarrow.parquet.ParquetFile(source) as file:
        require(file.schema_arrow.names, names, place)
        wanted = list(dict.fromkeys(names.values()))
        kinds = pa.schema([file.schema_arrow.field(name) for name in wanted], file.schema_arrow.metadata)
        yield from_arrow(kinds.empty_table(), names, place, schema)
        for batch in file.iter_batches(ROWS, columns=wanted):
            yield from_arrow(pa.Table.from_batches([batch]).select(wanted), names, place, schema, kinds.metadata)


def arrow(part: Part, names: Mapping[str, str], schema: Schema, place: str) -> Iterator[Raw]:
    """An Arrow file in any of its forms: file, stream, or the first version of Feather."""
    with part.open() as source:
        start = source.read(4)
        if start == b"FEA1":
            yield from_arrow(pyarrow.feather.read_table(part.open()), names, place, schema)
            return
        source.seek(0)
        with (pa.ipc.open_file if start == b"ARRO" else pa.ipc.open_stream)(source) as reader:
            yield from_arrow(reader.schema.empty_table(), names, place, schema)
            for batch in _record_batches(reader):
                yield from_arrow(pa.Table.from_batches([batch]), names, place, schema, reader.schema.metadata)


def _record_batches(reader: Any) -> Iterator[pa.RecordBatch]:
    if hasattr(reader, "num_record_batches"):
        yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
    else:
        yield from reader
