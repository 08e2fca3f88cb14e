"""Files and in-memory data to raw columns: no schema applied yet, no value interpreted.

CSV values are kept as bytes, so that no parser can fail on what a record holds. A CSV line with too few or too many
fields is kept as a record whose every value is missing; an empty line is no record.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet
from numpy.typing import NDArray

from pe.errors import PrivateDataError, SchemaError
from pe.schema import Schema

Raw = dict[str, pa.ChunkedArray | NDArray[Any]]
"""Columns by name: Arrow arrays of any primitive type, or numpy arrays (images)."""

FORMATS = {".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".pq": "parquet", ".arrow": "arrow"}
FORMATS |= {".feather": "arrow", ".ipc": "arrow", ".npz": "npz"}
IMAGE_FILES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"}


def read(data: object, schema: Schema, *, format: str | None = None, columns: Mapping[str, str] | None = None) -> Raw:
    """Read the schema's columns from a path, an Arrow table, a pandas DataFrame or a mapping of arrays.

    format   csv, tsv, parquet, arrow, npz or imagefolder; by default from the suffix (a directory: imagefolder).
    columns  schema column -> its name in the data, where they differ.

    Columns that the schema does not declare are not read. Raises PrivateDataError for a file that is missing, empty
    or not of its format, SchemaError for a declared column that is missing or occurs twice.
    """
    names = {column.name: column.name for column in schema.columns} | dict(columns or {})
    if unknown := set(names) - {column.name for column in schema.columns}:
        raise SchemaError(f"columns maps '{sorted(unknown)[0]}', which the schema does not declare. Nothing was spent.")
    if isinstance(data, (str, Path)):
        return _read_path(Path(data), format, names, schema)
    if isinstance(data, pa.Table):
        return _select({name: data.column(i) for i, name in _distinct(data.column_names)}, names, "the table")
    if isinstance(data, Mapping):
        return _select({str(name): np.asarray(values) for name, values in data.items()}, names, "the mapping")
    if type(data).__module__.partition(".")[0] == "pandas":
        frame: Any = data
        _distinct([str(name) for name in frame.columns])
        return _select({str(name): _series(frame[name]) for name in frame.columns}, names, "the frame")
    raise PrivateDataError(
        f"expected a path, an Arrow table, a pandas DataFrame or a mapping of arrays, got {type(data).__name__}. "
        "Nothing was spent."
    )


def _read_path(path: Path, format: str | None, names: Mapping[str, str], schema: Schema) -> Raw:
    if not path.exists():
        raise PrivateDataError(f"{path} does not exist. Nothing was spent.")
    kind = format or ("imagefolder" if path.is_dir() else FORMATS.get(path.suffix.lower()))
    if kind == "imagefolder":
        return _read_folder(path, schema)
    if path.is_dir() or kind not in set(FORMATS.values()):
        known = ", ".join(sorted(set(FORMATS.values()) | {"imagefolder"}))
        raise PrivateDataError(f"{path}: unknown format; set format to one of {known}. Nothing was spent.")
    if path.stat().st_size == 0:
        raise PrivateDataError(f"{path} is empty. Nothing was spent.")
    if kind in ("csv", "tsv"):
        return _read_csv(path, "," if kind == "csv" else "\t", names)
    if kind == "npz":
        with np.load(path, allow_pickle=False) as archive:
            wanted = [name for name in names.values() if name in archive.files]
            return _select({name: archive[name] for name in wanted}, names, str(path))
    if kind == "parquet":
        found = pyarrow.parquet.read_schema(path).names
        _distinct(found)
        _require(found, names, str(path))
        table = pyarrow.parquet.read_table(path, columns=list(dict.fromkeys(names.values())))
    else:
        table = pyarrow.feather.read_table(path)
    return _select({name: table.column(i) for i, name in _distinct(table.column_names)}, names, str(path))


def _read_csv(path: Path, delimiter: str, names: Mapping[str, str]) -> Raw:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        header = next(csv.reader(file, delimiter=delimiter), [])
    header = [name.strip() for name in header]
    _distinct(header)
    _require(header, names, str(path))
    malformed: list[None] = []

    def keep_place(row: pyarrow.csv.InvalidRow) -> str:
        malformed.append(None)
        return "skip"

    table = pyarrow.csv.read_csv(
        path,
        read_options=pyarrow.csv.ReadOptions(column_names=header, skip_rows=1),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=delimiter, newlines_in_values=True, invalid_row_handler=keep_place
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={name: pa.binary() for name in header},
            include_columns=list(dict.fromkeys(names.values())),
            strings_can_be_null=False,
        ),
    )
    empty = pa.nulls(len(malformed), pa.binary())
    columns = {name: pa.chunked_array([*table.column(name).chunks, empty]) for name in table.column_names}
    return _select(columns, names, str(path))


def _read_folder(path: Path, schema: Schema) -> Raw:
    """Pictures by class: ``path/LABEL/*.png``, or ``path/*.png`` where the schema has no label."""
    from PIL import Image as Pictures

    image = schema.image
    others = [column for column in schema.features if column is not image]
    if image is None or others:
        raise SchemaError("an image folder holds one image column and at most a label. Nothing was spent.")
    pattern = "*" if schema.label is None else "*/*"
    files = sorted(file for file in path.glob(pattern) if file.suffix.lower() in IMAGE_FILES)
    if not files:
        raise PrivateDataError(f"{path}: expected {pattern} to match image files. Nothing was spent.")
    mode = "L" if image.channels == 1 else "RGB"
    pixels = np.zeros((len(files), image.height, image.width, image.channels), np.uint8)
    for row, file in zip(pixels, files, strict=True):
        try:
            with Pictures.open(file) as picture:
                resized = picture.convert(mode).resize((image.width, image.height), Pictures.Resampling.BILINEAR)
                row[:] = np.asarray(resized).reshape(row.shape)
        except (OSError, ValueError, SyntaxError, Pictures.DecompressionBombError):
            row[:] = 0  # an unreadable picture is a black one
    raw: Raw = {image.name: pixels}
    if schema.label is not None:
        raw[schema.label] = pa.chunked_array([pa.array([file.parent.name for file in files], pa.string())])
    return raw


def _series(series: Any) -> pa.ChunkedArray:
    try:
        return pa.chunked_array([pa.Array.from_pandas(series)])
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # an object column of mixed types: take each value's text
        texts = [None if value is None or value != value else str(value) for value in series]
        return pa.chunked_array([pa.array(texts, pa.string())])


def _distinct(names: Sequence[str]) -> list[tuple[int, str]]:
    for name in names:
        if names.count(name) > 1:
            raise SchemaError(f"column '{name}' occurs twice in the data. Nothing was spent.")
    return list(enumerate(names))


def _require(found: Sequence[str], names: Mapping[str, str], place: str) -> None:
    for column, name in names.items():
        if name not in found:
            where = f"'{name}'" if name == column else f"'{name}' (for '{column}')"
            shown = ", ".join(f"'{each}'" for each in list(found)[:20])
            raise SchemaError(f"{place} has no column {where}; it has {shown}. Nothing was spent.")


def _select(columns: Mapping[str, Any], names: Mapping[str, str], place: str) -> Raw:
    _require(list(columns), names, place)
    chosen: Raw = {column: columns[name] for column, name in names.items()}
    if len({len(values) for values in chosen.values()}) > 1:
        raise PrivateDataError(f"{place}: columns differ in length. Nothing was spent.")
    return chosen
