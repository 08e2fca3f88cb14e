"""Data on disk, behind an address or in memory to raw columns: no schema applied yet, no value interpreted.

Files are read some records at a time (``pe.data.formats``, ``pe.data.parts``). A column of class labels of the Hugging
Face library is read by the labels' names where the schema declares any of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pe.data import imagefolder
from pe.data.dialect import CsvOptions
from pe.data.formats import batches
from pe.data.parts import Place, locate
from pe.data.records import Counts
from pe.data.schema import Schema
from pe.data.selected import USER, Raw, from_arrow, require
from pe.errors import PrivateDataError, SchemaError


def read(
    data: object,
    schema: Schema,
    *,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    user: str | None = None,
    options: CsvOptions | None = None,
) -> Raw:
    """Read the schema's columns from a path, an Arrow table, a pandas DataFrame or a mapping of arrays.

    A path names a file, a folder of parts, a pattern such as ``part-*.csv``, or an address that fsspec knows.

    format   csv, tsv, jsonl, parquet, arrow, npz, datasets (a folder that the Hugging Face library's ``save_to_disk``
             wrote) or imagefolder; by default from the suffix, for a folder from what is in it.
    columns  schema column -> its name in the data, where they differ.
    user     name in the data of the column that says whose record it is; it comes back as ``USER``.
    options  delimiter, encoding and ``multiline`` of CSV and TSV files.

    Columns that the schema does not declare are not read. Raises PrivateDataError for a file that is missing, empty
    or not of its format, SchemaError for a declared column that is missing or occurs twice.
    """
    names = wanted(schema, columns, user)
    if isinstance(data, (str, Path)):
        return joined(list(stream(locate(data, format, options), names, schema)), str(data))
    if options is not None:
        options.require_defaults("in memory")
    return in_memory(data, names, schema)


def wanted(schema: Schema, columns: Mapping[str, str] | None, user: str | None) -> dict[str, str]:
    """Schema columns, and ``USER``, to their names in the data; raises SchemaError for names that do not fit."""
    names = {column.name: column.name for column in schema.columns} | dict(columns or {})
    if unknown := set(names) - {column.name for column in schema.columns}:
        raise SchemaError(f"columns maps '{sorted(unknown)[0]}', which the schema does not declare. Nothing was spent.")
    if user is not None:
        if user in names.values():
            raise SchemaError(
                f"column '{user}' says whose record it is and stands in the schema too: synthetic records must not "
                "repeat it. Take it out of the schema. Nothing was spent."
            )
        names[USER] = user
    return names


def stream(place: Place, names: Mapping[str, str], schema: Schema, counts: Counts | None = None) -> Iterator[Raw]:
    """Raw columns of what lies behind a path, some records at a time; at least one batch.

    ``counts``: see ``pe.data.formats.batches``.
    """
    if place.kind != "imagefolder":
        yield from batches(place, names, schema, counts)
        return
    if USER in names:
        raise PrivateDataError(f"{place.name}: an image folder has no user column. Nothing was spent.")
    yield from imagefolder.pictures(Path(place.name), schema)


def in_memory(data: object, names: Mapping[str, str], schema: Schema) -> Raw:
    """Raw columns of an Arrow table, a pandas DataFrame or a mapping of arrays."""
    if isinstance(data, pa.Table):
        return from_arrow(data, names, "the table", schema)
    if isinstance(data, Mapping):
        found = [str(name) for name in data]
        arrays = dict(zip(found, data.values(), strict=True))
        require(found, names, "the mapping")
        read = {column: _array(arrays[name]) for column, name in names.items()}
        if len({len(values) for values in read.values()}) > 1:
            raise PrivateDataError("the mapping: columns differ in length. Nothing was spent.")
        return dict(read)
    if type(data).__module__.partition(".")[0] == "pandas":
        frame: Any = data
        found = [str(name) for name in frame.columns]
        require(found, names, "the frame")
        return {column: _series(frame.iloc[:, found.index(name)]) for column, name in names.items()}
    raise PrivateDataError(
        f"expected a path, an Arrow table, a pandas DataFrame or a mapping of arrays, got {type(data).__name__}. "
        "Nothing was spent."
    )


def joined(parts: Sequence[Raw], place: str) -> Raw:
    """Batches as one; raises SchemaError where files hold a column in several types."""
    if len(parts) == 1:
        return parts[0]
    joined: Raw = {}
    for column in parts[0]:
        if isinstance(parts[0][column], np.ndarray):
            joined[column] = np.concatenate([np.asarray(part[column]) for part in parts])
            continue
        pieces: list[Any] = [part[column] for part in parts]
        chunks = [chunk for piece in pieces for chunk in piece.chunks]
        kinds = list(dict.fromkeys(piece.type for piece in pieces if not pa.types.is_null(piece.type)))
        if len(kinds) > 1:
            raise SchemaError(f"{place} holds column '{column}' in several types: store it in one. Nothing was spent.")
        kind = kinds[0] if kinds else pa.null()
        joined[column] = pa.chunked_array([chunk.cast(kind) for chunk in chunks], kind)
    return joined


def _series(series: Any) -> pa.ChunkedArray:
    try:
        return pa.chunked_array([pa.Array.from_pandas(series)])
    except (pa.ArrowException, OverflowError, TypeError, ValueError):  # mixed types: take each value's text
        missing = np.asarray(series.isna(), np.bool_)
        return _as_texts([None if gone else value for gone, value in zip(missing, series, strict=True)])


def _array(values: object) -> pa.ChunkedArray | NDArray[Any]:
    """Numbers as they are; an array of Python objects as pandas would take it."""
    array = np.asarray(values)
    if array.dtype != object or array.ndim != 1:
        return array
    try:
        return pa.chunked_array([pa.array(array, from_pandas=True)])
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return _as_texts(array.tolist())


def _as_texts(values: Sequence[object]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array([_text(value) for value in values], pa.string())])


def _text(value: object) -> str | None:
    """A value of a column of mixed types: 1.0 reads "1"; what is missing, or no text, is None."""
    if isinstance(value, float):
        return None if value != value else str(int(value)) if value.is_integer() else str(value)
    try:
        text = value.decode() if isinstance(value, bytes) else str(value)
        text.encode()
    except Exception:  # undecodable bytes, lone surrogates, objects without a text
        return None
    return None if value is None else text
