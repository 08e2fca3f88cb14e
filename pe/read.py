"""Files and in-memory data to raw columns: no schema applied yet, no value interpreted.

CSV values are kept as bytes, so that no parser can fail on what a record holds. A CSV line with too few or too many
fields is kept as a record whose every value is missing; an empty line is no record. JSON Lines: see ``pe.jsonl``.
A column of class labels of the Hugging Face library is read by the labels' names where the schema declares any of them.
"""

from __future__ import annotations

import csv
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet
from numpy.typing import NDArray

from pe import jsonl
from pe.errors import PrivateDataError, SchemaError
from pe.schema import RESERVED, Categorical, Schema

Raw = dict[str, pa.ChunkedArray | NDArray[Any]]
"""Columns by name: Arrow arrays of any primitive type, or numpy arrays (images)."""

FORMATS = {".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".pq": "parquet", ".arrow": "arrow"}
FORMATS |= {".feather": "arrow", ".ipc": "arrow", ".npz": "npz", ".jsonl": "jsonl", ".ndjson": "jsonl"}
LONGEST_RECORD = 2**24
"""Bytes of the longest CSV record; also how much is parsed at a time."""

USER = f"{RESERVED}user"
"""Name under which ``read`` returns the user column; no declared column can have it."""

IMAGE_FILES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"}
DECODERS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")
"""Whatever a file's name says. Others, libtiff among them, print what they find wrong in a file."""


def read(
    data: object,
    schema: Schema,
    *,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    user: str | None = None,
) -> Raw:
    """Read the schema's columns from a path, an Arrow table, a pandas DataFrame or a mapping of arrays.

    format   csv, tsv, jsonl, parquet, arrow, npz, datasets (a folder that the Hugging Face library's ``save_to_disk``
             wrote) or imagefolder; by default from the suffix, for a directory from what is in it.
    columns  schema column -> its name in the data, where they differ.
    user     name in the data of the column that says whose record it is; it comes back as ``USER``.

    Columns that the schema does not declare are not read. Raises PrivateDataError for a file that is missing, empty
    or not of its format, SchemaError for a declared column that is missing or occurs twice.
    """
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
    if isinstance(data, (str, Path)):
        return _read_path(Path(data), format, names, schema)
    if isinstance(data, pa.Table):
        return _from_arrow(data, names, "the table", schema)
    if isinstance(data, Mapping):
        found = [str(name) for name in data]
        arrays = dict(zip(found, data.values(), strict=True))
        _require(found, names, "the mapping")
        return _aligned({column: _array(arrays[name]) for column, name in names.items()}, "the mapping")
    if type(data).__module__.partition(".")[0] == "pandas":
        frame: Any = data
        found = [str(name) for name in frame.columns]
        _require(found, names, "the frame")
        return {column: _series(frame.iloc[:, found.index(name)]) for column, name in names.items()}
    raise PrivateDataError(
        f"expected a path, an Arrow table, a pandas DataFrame or a mapping of arrays, got {type(data).__name__}. "
        "Nothing was spent."
    )


def _read_path(path: Path, format: str | None, names: Mapping[str, str], schema: Schema) -> Raw:
    if not path.exists():
        raise PrivateDataError(f"{path} does not exist. Nothing was spent.")
    kind = format or (_folder_kind(path) if path.is_dir() else FORMATS.get(path.suffix.lower()))
    if kind == "datasets":
        return _from_arrow(_read_saved(path), names, str(path), schema)
    if kind == "imagefolder":
        if USER in names:
            raise PrivateDataError(f"{path}: an image folder has no user column. Nothing was spent.")
        return _read_folder(path, schema)
    if path.is_dir() or kind not in set(FORMATS.values()):
        known = ", ".join(sorted(set(FORMATS.values()) | {"imagefolder", "datasets"}))
        raise PrivateDataError(f"{path}: unknown format; set format to one of {known}. Nothing was spent.")
    if path.stat().st_size == 0:
        raise PrivateDataError(f"{path} is empty. Nothing was spent.")
    if kind in ("csv", "tsv"):
        return _read_csv(path, "," if kind == "csv" else "\t", names)
    if kind == "jsonl":
        return _read_jsonl(path, names, schema)
    if kind == "npz":
        with np.load(path, allow_pickle=False) as archive:
            _require(archive.files, names, str(path))
            return _aligned({column: archive[name] for column, name in names.items()}, str(path))
    if kind == "parquet":
        _require(pyarrow.parquet.read_schema(path).names, names, str(path))
        table = pyarrow.parquet.read_table(path, columns=list(dict.fromkeys(names.values())))
    else:
        table = _read_arrow(path)
    return _from_arrow(table, names, str(path), schema)


def _folder_kind(path: Path) -> str:
    return "datasets" if (path / "state.json").exists() or (path / "dataset_dict.json").exists() else "imagefolder"


def _read_arrow(path: Path) -> pa.Table:
    """An Arrow file in any of its forms: file (Feather), or stream."""
    with path.open("rb") as file:
        stream = file.read(4) not in (b"ARRO", b"FEA1")
    if not stream:
        return pyarrow.feather.read_table(path)
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
        return reader.read_all()


def _read_saved(path: Path) -> pa.Table:
    """A data set in a folder that the Hugging Face library's ``save_to_disk`` wrote."""
    if not (path / "state.json").exists():
        splits = (path / "dataset_dict.json").exists()
        hint = "it holds several splits: name the folder of one" if splits else "expected a saved data set"
        raise PrivateDataError(f"{path}: {hint}, with its state.json. Nothing was spent.")
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    if state.get("_indices_data_files"):  # written by versions before 2.0
        raise PrivateDataError(f"{path} holds a selection by index: save it again, flattened. Nothing was spent.")
    return pa.concat_tables([_read_arrow(path / each["filename"]) for each in state["_data_files"]])


def _read_jsonl(path: Path, names: Mapping[str, str], schema: Schema) -> Raw:
    with path.open("rb") as file:
        records = jsonl.objects(file)
        first, found = jsonl.sampled(records, str(path))
        if first:
            _require(found, names, str(path))
        columns = {column.name: column for column in schema.columns}
        return dict(jsonl.raw([*first, *records], names, columns))


def _read_csv(path: Path, delimiter: str, names: Mapping[str, str]) -> Raw:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        header = [name.strip() for name in next(csv.reader(file, delimiter=delimiter), [])]
        _require(header, names, str(path))
        if not any(line.strip() for line in file):  # Arrow refuses a file that ends with its header
            return {column: pa.chunked_array([], pa.binary()) for column in names}
    malformed: list[None] = []

    def keep_place(row: pyarrow.csv.InvalidRow) -> str:
        malformed.append(None)
        return "skip"

    table = pyarrow.csv.read_csv(
        path,
        read_options=pyarrow.csv.ReadOptions(column_names=header, skip_rows=1, block_size=LONGEST_RECORD),
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
    return {column: columns[name] for column, name in names.items()}


def _read_folder(path: Path, schema: Schema) -> Raw:
    """Pictures by class: ``path/LABEL/*.png``, or ``path/*.png`` where the schema has no label."""
    from PIL import Image as Pictures

    image = schema.image
    others = [column for column in schema.features if column is not image]
    if image is None or others:
        raise SchemaError("an image folder holds one image column and at most a label. Nothing was spent.")
    pattern = "*" if schema.label is None else "*/*"
    files = sorted(file for file in path.glob(pattern) if file.suffix.lower() in IMAGE_FILES)
    if not files and not _laid_out(path, schema):  # decided by the folders, not by how many pictures they hold
        raise PrivateDataError(f"{path}: expected {pattern} to match image files. Nothing was spent.")
    mode = "L" if image.channels == 1 else "RGB"
    pixels = np.zeros((len(files), image.height, image.width, image.channels), np.uint8)
    with _silence():
        for row, file in zip(pixels, files, strict=True):
            try:
                with Pictures.open(file, formats=DECODERS) as picture:
                    resized = picture.convert(mode).resize((image.width, image.height), Pictures.Resampling.BILINEAR)
                    row[:] = np.asarray(resized).reshape(row.shape)
            except Exception:  # whatever the decoder meets: an unreadable picture is a black one
                row[:] = 0
    raw: Raw = {image.name: pixels}
    if schema.label is not None:
        raw[schema.label] = pa.chunked_array([pa.array([file.parent.name for file in files], pa.string())])
    return raw


@contextmanager
def _silence() -> Iterator[None]:
    """Decoders warn about single pictures, and log what they find in them: EXIF texts, at level DEBUG."""
    decoders = logging.getLogger("PIL")
    level = decoders.level
    decoders.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        decoders.setLevel(level)


def _laid_out(path: Path, schema: Schema) -> bool:
    """Whether the folders, pictures aside, look as expected: one for some label, or none where there are no labels."""
    folders = {place.name for place in path.iterdir() if place.is_dir()}
    return not folders if schema.label is None else bool(folders & set(schema.labels))


def _from_arrow(table: pa.Table, names: Mapping[str, str], place: str, schema: Schema) -> Raw:
    _require(table.column_names, names, place)
    classes, raw = _class_labels(table.schema), {}
    for column, name in names.items():
        values = table.column(table.column_names.index(name))
        declared = next((each for each in schema.columns if each.name == column), None)
        if isinstance(declared, Categorical) and set(classes.get(name, ())) & set(declared.values):
            values = pa.chunked_array([_named(chunk, classes[name]) for chunk in values.chunks], pa.string())
        raw[column] = values
    return raw


def _class_labels(schema: pa.Schema) -> dict[str, list[str]]:
    """Names of the class labels of each such column, from what the Hugging Face library notes in an Arrow schema."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {name: list(each["names"]) for name, each in features.items() if each.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _named(codes: pa.Array, names: Sequence[str]) -> pa.Array:
    """Positions as names; missing where there is none (the library's own mark is -1)."""
    held = pc.if_else(pc.and_(pc.greater_equal(codes, 0), pc.less(codes, len(names))), codes, None)
    return pa.array(names, pa.string()).take(held)


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


def _require(found: Sequence[str], names: Mapping[str, str], place: str) -> None:
    """Raise SchemaError unless each name is found once. Quotes no other name: it may be a value (no header line)."""
    for column, name in names.items():
        if found.count(name) > 1:
            raise SchemaError(f"{place}: column '{name}' occurs twice. Nothing was spent.")
        if name not in found:
            where = f"'{name}'" if column in (name, USER) else f"'{name}' (for '{column}')"
            near = next((each for each in found if each.strip().casefold() == name.strip().casefold()), None)
            hint = f"is it '{near}'?" if near else "does the first line name the columns?"
            raise SchemaError(f"{place} has no column {where} among its {len(found)}; {hint} Nothing was spent.")


def _aligned(columns: Raw, place: str) -> Raw:
    if len({len(values) for values in columns.values()}) > 1:
        raise PrivateDataError(f"{place}: columns differ in length. Nothing was spent.")
    return columns
