"""Draft a schema from a sample that the user declares to be public."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet

from pe.errors import SchemaError
from pe.read import FORMATS, IMAGE_FILES
from pe.schema import Categorical, Column, Image, Numeric, Schema

MOST_CATEGORIES = 1000
"""A text column with more distinct values than this is taken for free text and left out."""


def draft(sample: str | Path, label: str | None = None) -> tuple[Schema, list[str]]:
    """A schema that fits a public sample (CSV, TSV, Parquet, Arrow, npz, image folder), and remarks on it.

    Whole numbers become integers, other numbers floats, text and booleans categories; bounds and categories are those
    of the sample, so it must cover what may occur. The label column becomes categorical. Raises SchemaError.
    """
    path = Path(sample)
    if not path.exists():
        raise SchemaError(f"{path} does not exist.")
    if path.is_dir():
        return _from_folder(path, label)
    kind = FORMATS.get(path.suffix.lower())
    if kind == "npz":
        return _from_npz(path, label)
    try:
        if kind in ("csv", "tsv"):
            options = pyarrow.csv.ParseOptions(delimiter="," if kind == "csv" else "\t")
            table = pyarrow.csv.read_csv(path, parse_options=options)
        elif kind == "parquet":
            table = pyarrow.parquet.read_table(path)
        elif kind == "arrow":
            table = pyarrow.feather.read_table(path)
        else:
            raise SchemaError(f"{path}: expected a .csv, .tsv, .parquet, .arrow or .npz file, or a folder of images.")
    except pa.ArrowInvalid as error:
        raise SchemaError(f"{path} cannot be read: {error}.") from None
    names = [name.strip() for name in table.column_names]
    if label is not None and label not in names:
        raise SchemaError(f"{path} has no column '{label}'; it has {', '.join(names)}.")
    columns: list[Column] = []
    remarks: list[str] = []
    for name, values in zip(names, table.columns, strict=True):
        column = _categorical(name, values) if name == label else _column(name, values)
        if column is None:
            remarks.append(f"column '{name}' was left out: it is empty, or neither numbers nor a few categories")
        else:
            columns.append(column)
    return Schema(tuple(columns), label), remarks


def _column(name: str, values: pa.ChunkedArray) -> Column | None:
    kind = values.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        return _categorical(name, values)
    numbers = pc.cast(values, pa.float64(), safe=False).to_numpy()
    numbers = numbers[np.isfinite(numbers)]
    if len(numbers) == 0:
        return None
    low, high = float(numbers.min()), float(numbers.max())
    if pa.types.is_integer(kind):
        return Numeric(name, low, high, integer=True)
    return Numeric(name, low, high)


def _categorical(name: str, values: pa.ChunkedArray) -> Categorical | None:
    if pa.types.is_nested(values.type) or pa.types.is_temporal(values.type):
        return None
    if pa.types.is_floating(values.type):
        numbers = values.drop_null().to_numpy()
        if not np.all(numbers == np.rint(numbers)):
            return None
        values = pa.chunked_array([pa.array(numbers.astype(np.int64))])
    texts = pc.utf8_trim_whitespace(pc.cast(values, pa.string()).drop_null())
    distinct = sorted(set(pc.unique(texts).to_pylist()) - {""}, key=_natural)
    if not distinct or len(distinct) > MOST_CATEGORIES or len(distinct) > max(20, len(values) // 2):
        return None
    return Categorical(name, tuple(distinct))


def _natural(text: str) -> tuple[float, str]:
    """Numbers in numeric order, before other text."""
    try:
        return (float(text), text)
    except ValueError:
        return (math.inf, text)


def _from_folder(path: Path, label: str | None) -> tuple[Schema, list[str]]:
    from PIL import Image as Pictures

    files = sorted(file for file in path.glob("*/*") if file.suffix.lower() in IMAGE_FILES)
    if not files:
        raise SchemaError(f"{path}: expected image files in one folder per label.")
    with Pictures.open(files[0]) as picture:
        width, height = picture.size
        channels = 1 if picture.mode in ("1", "L", "I", "I;16") else 3
    labels = sorted({file.parent.name for file in files}, key=_natural)
    name = label or "label"
    return Schema((Image("image", height, width, channels), Categorical(name, tuple(labels))), name), []


def _from_npz(path: Path, label: str | None) -> tuple[Schema, list[str]]:
    columns: list[Column] = []
    remarks: list[str] = []
    with np.load(path, allow_pickle=False) as archive:
        for name in archive.files:
            array = archive[name]
            if array.ndim in (3, 4) and not any(isinstance(column, Image) for column in columns):
                channels = 1 if array.ndim == 3 else array.shape[3]
                columns.append(Image(name, array.shape[1], array.shape[2], channels))
            elif array.ndim == 1 and name == label:
                columns.append(Categorical(name, tuple(sorted({str(v) for v in array.tolist()}, key=_natural))))
            else:
                remarks.append(f"array '{name}' was left out; name it with --label if it is the label")
    return Schema(tuple(columns), label), remarks
