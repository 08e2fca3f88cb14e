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

from pe.data import imagefolder, jsonl
from pe.data.dialect import CsvOptions
from pe.data.formats import batches
from pe.data.lines import decompressed
from pe.data.parts import Place, locate
from pe.data.records import Counts
from pe.data.schema import Schema
from pe.data.selected import USER, Raw, from_arrow, require
from pe.data.values import is_text
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
        place = locate(data, format, options)
        if place.kind == "jsonl":
            _require_keys(place, names)
        return joined(list(stream(place, names, schema)), str(data))
    if options is not None:
        options.require_defaults("in memory")
    return in_memory(data, names, schema)


def _require_keys(place: Place, names: Mapping[str, str]) -> None:
    """Raise SchemaError where a key occurs in none of the first lines: data that are read whole are not private.

    In private JSON Lines such a key is missing in every record, since an error would hang on single ones.
    """
    found: list[str] = []
    for part in place.parts:
        with part.open() as file:
            found += jsonl.keys(jsonl.objects(decompressed(file)))
    if found:
        require(list(dict.fromkeys(found)), names, place.name)


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
        try:
            read = {column: _array(arrays[name]) for column, name in names.items()}
        except TypeError:
            raise PrivateDataError("the mapping: expected a sequence for each column. Nothing was spent.") from None
        if any(isinstance(values, np.ndarray) and values.ndim == 0 for values in read.values()):
            raise PrivateDataError("the mapping: expected a sequence for each column. Nothing was spent.")
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
        all_pieces: list[Any] = [part[column] for part in parts]
        pieces = [piece for piece in all_pieces if len(piece)] or all_pieces[:1]
        chunks = [chunk for piece in pieces for chunk in piece.chunks]
        if len({piece.type for piece in pieces}) == 1:
            joined[column] = pa.chunked_array(chunks, pieces[0].type)
            continue
        kinds = list(dict.fromkeys(_value_type(piece.type) for piece in pieces if not pa.types.is_null(piece.type)))
        if len(kinds) > 1:
            raise SchemaError(f"{place} holds column '{column}' in several types: store it in one. Nothing was spent.")
        kind = kinds[0] if kinds else pa.null()
        joined[column] = pa.chunked_array([chunk.cast(kind) for chunk in chunks], kind)
    return joined


def _value_type(kind: pa.DataType) -> pa.DataType:
    """The type of a column's values, however they are encoded; text and bytes are one."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.binary() if is_text(kind) else kind


def _series(series: Any) -> pa.ChunkedArray | NDArray[Any]:
    """A pandas column: typed where its dtype is that of one type, else as objects, which are read one by one."""
    kind = series.dtype
    if isinstance(kind, np.dtype):
        return np.asarray(series.to_numpy())
    if type(kind).__name__ in _TYPED_EXTENSIONS:
        try:
            typed = pa.array(series.array)
        except (pa.ArrowException, UnicodeEncodeError):  # a lone surrogate in a column of text
            typed = None
        if typed is not None:
            return typed if isinstance(typed, pa.ChunkedArray) else pa.chunked_array([typed])
    return _objects(series.astype(object))


_TYPED_EXTENSIONS = frozenset(
    {"ArrowDtype", "StringDtype", "BooleanDtype", "DatetimeTZDtype", "Float32Dtype", "Float64Dtype"}
    | {f"{sign}Int{bits}Dtype" for sign in ("", "U") for bits in (8, 16, 32, 64)}
)
"""Pandas dtypes all of whose values are of one type; of categories, say, they may be of many."""


def _array(values: Any) -> pa.ChunkedArray | NDArray[Any]:
    """A column of a mapping: a numpy or Arrow array as it is, any other sequence as objects."""
    if isinstance(values, np.ma.MaskedArray):
        masked: Any = values.astype(object)
        values = masked.filled(None)
    if isinstance(values, (np.ndarray, pa.ChunkedArray)):
        return values
    if isinstance(values, pa.Array):
        return pa.chunked_array([values])
    if type(values).__module__.partition(".")[0] == "pandas":
        return _series(values)
    return _objects(values)


def _objects(values: Any) -> NDArray[Any]:
    """Any values as an object array (n,), unchanged: numpy itself would bring them to one type."""
    return np.fromiter(values, object)
