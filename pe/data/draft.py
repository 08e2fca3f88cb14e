"""Draft a schema from a sample that the user declares to be public."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
from numpy.typing import NDArray

from pe.data import jsonl
from pe.data.imagefolder import IMAGE_FILES
from pe.data.labels import label_names
from pe.data.parts import FORMATS
from pe.data.schema import Categorical, Column, Datetime, Image, Numeric, Schema, Text, boolean
from pe.data.times import DAY, iso, seconds
from pe.errors import SchemaError

MOST_CATEGORIES = 1000
"""A text column with more distinct values than this is taken for free text and left out."""

FEWEST_IDS = 20
"""Records from which on it is no accident that every one has another value."""

_TRUTH = ({"true", "false"}, {"yes", "no"}, {"t", "f"})
_GROUPED = r"^\s*\d{1,3}(,\d{3})+\s*$"
_DATED = r"^\d{4}-\d\d-\d\d"


def draft(
    sample: str | Path,
    label: str | Sequence[str] | None = None,
    text: str | None = None,
    labels: Sequence[str] | None = None,
) -> tuple[Schema, list[str]]:
    """A schema that fits a public sample (CSV, TSV, JSONL, Parquet, Arrow, npz, image folder), and remarks on it.

    Whole numbers become integers, other numbers floats (on a log scale where they are positive and very skewed), truth
    values booleans, dates dates, other text categories, in the order of their text: an order of the values is never
    guessed. A column with missing values gets ``missing``. Bounds and categories are those of the sample, so it must
    cover what may occur. The label's columns become categorical, a single one with ``labels`` where they are given;
    columns that fit none of these go to ``ignore``. ``text`` names a column of free text: all others but the label then
    go to ``ignore``. Raises SchemaError.
    """
    path, own = Path(sample), label_names(label)
    if labels is not None and len(own) != 1:
        raise SchemaError(f"labels are the values of one label column, got {len(own)} columns: leave them out.")
    if not path.exists():
        raise SchemaError(f"{path} does not exist.")
    if path.is_dir():
        return _from_folder(path, own)
    kind = FORMATS.get(path.suffix.lower())
    if kind == "npz":
        return _from_npz(path, own)
    try:
        if kind in ("csv", "tsv"):
            delimiter = "," if kind == "csv" else "\t"
            options = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=text is not None)
            table = pyarrow.csv.read_csv(path, parse_options=options)
        elif kind == "jsonl":
            with path.open("rb") as file:
                records = [record for record in jsonl.objects(file) if record is not None]
            keys = dict.fromkeys(key for record in records for key in record)
            table = pa.table({key: pa.array([record.get(key) for record in records]) for key in keys})
        elif kind == "parquet":
            table = pyarrow.parquet.read_table(path)
        elif kind == "arrow":
            table = pyarrow.feather.read_table(path)
        else:
            raise SchemaError(
                f"{path}: expected a .csv, .tsv, .jsonl, .parquet, .arrow or .npz file, or a folder of images."
            )
    except pa.ArrowInvalid as error:
        raise SchemaError(f"{path} cannot be read: {error}.") from None
    names = [name.strip() for name in table.column_names]
    for asked in (*own, *([] if text is None else [text])):
        if asked not in names:
            raise SchemaError(f"{path} has no column '{asked}'; it has {', '.join(names)}.")
    columns: list[Column] = []
    ignored = [name for name in names if text is not None and name not in (text, *own)]
    remarks: list[str] = []
    for name, values in zip(names, table.columns, strict=True):
        if name in ignored:
            continue
        column: Column | None
        if name == text:
            column = Text(name)
        elif name in own and labels is not None:
            column = Categorical(name, tuple(labels))
        else:
            column = _categorical(name, values, label=True) if name in own else _column(name, values)
        if column is None:
            ignored.append(name)
            remarks.append(f"column '{name}' was left out: {_why_not(values)}")
        else:
            columns.append(column)
        if name not in own and _like_ids(values):
            remarks.append(
                f"column '{name}' has no two equal values: if it is an id, give it type = \"key\": that makes "
                "fresh ones and never reads the private ones"
            )
    return Schema(tuple(columns), label, ignore=tuple(dict.fromkeys(ignored))), remarks


def _column(name: str, values: pa.ChunkedArray) -> Column | None:
    kind = values.type
    if pa.types.is_dictionary(kind):
        return _column(name, values.cast(kind.value_type))
    if pa.types.is_boolean(kind):
        return boolean(name, missing=values.null_count > 0) if values.null_count < len(values) else None
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return _instants(name, values, pa.types.is_date(kind))
    if _is_text(kind):
        return _from_text(name, values)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        return _categorical(name, values)
    numbers = pc.cast(values, pa.float64(), safe=False).to_numpy()
    missing = bool(np.isnan(numbers).any())
    numbers = numbers[np.isfinite(numbers)]
    if len(numbers) == 0:
        return None
    whole = pa.types.is_integer(kind)
    if not whole and missing and np.all(numbers == np.rint(numbers)) and np.abs(numbers).max() < 2**53:
        whole = True  # whole numbers that became floats for the sake of the missing ones
    log = _skewed(numbers)
    return Numeric(name, float(numbers.min()), float(numbers.max()), whole, None, log, missing)


def _skewed(numbers: NDArray[np.float64]) -> bool:
    """Positive, over three decades, and half of them in the lowest twentieth of the range."""
    low, high = float(numbers.min()), float(numbers.max())
    return low > 0 and high >= 1000 * low and float(np.median(numbers)) - low <= (high - low) / 20


def _from_text(name: str, values: pa.ChunkedArray) -> Column | None:
    """Text that spells truth values or dates throughout, else categories."""
    texts = pc.utf8_trim_whitespace(pc.cast(values, pa.string()))
    held = texts.filter(pc.fill_null(pc.not_equal(texts, ""), False))
    missing = len(held) < len(texts)
    spelt = {text.lower() for text in pc.unique(held).to_pylist()}
    if any(spelt and spelt <= pair for pair in _TRUTH):
        return boolean(name, missing=missing)
    if len(held) and pc.all(pc.match_substring_regex(held, _DATED)).as_py():
        instants = seconds(held)
        if not np.isnan(instants).any():
            return _spanning(name, instants, bool(np.all(instants % DAY == 0)), missing)
    return _categorical(name, values)


def _instants(name: str, values: pa.ChunkedArray, date: bool) -> Column | None:
    held = values.drop_null()
    if len(held) == 0:
        return None
    return _spanning(name, seconds(_iso_texts(held)), date, values.null_count > 0)


def _iso_texts(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Dates and timestamps as text to the second, in UTC."""
    if pa.types.is_date(values.type):
        return pc.cast(pc.cast(values, pa.date32()), pa.string())
    naive = pc.cast(pc.cast(values, pa.int64()), pa.timestamp(values.type.unit))
    return pc.cast(pc.floor_temporal(naive, unit="second").cast(pa.timestamp("s")), pa.string())


def _spanning(name: str, instants: NDArray[np.float64], date: bool, missing: bool) -> Datetime:
    ends = (iso(float(end), date=date) for end in (instants.min(), instants.max()))
    return Datetime.of(name, *ends, date=date, missing=missing)


def _categorical(name: str, values: pa.ChunkedArray, *, label: bool = False) -> Categorical | None:
    if pa.types.is_nested(values.type) or pa.types.is_temporal(values.type):
        return None
    if pa.types.is_floating(values.type):
        numbers = values.drop_null().to_numpy()
        if not np.all(numbers == np.rint(numbers)):
            return None
        values = pa.chunked_array([pa.array(numbers.astype(np.int64))])
    texts = pc.utf8_trim_whitespace(pc.cast(values, pa.string()))
    distinct = sorted(set(pc.unique(texts.drop_null()).to_pylist()) - {""}, key=_natural)
    if not distinct or len(distinct) > MOST_CATEGORIES or len(distinct) > max(20, len(values) // 2):
        return None
    missing = bool(pc.any(pc.fill_null(pc.equal(texts, ""), True), min_count=0).as_py())
    return Categorical(name, tuple(distinct), missing=missing and not label)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _why_not(values: pa.ChunkedArray) -> str:
    """Why a column has no place in a drafted schema."""
    if _is_text(values.type) and pc.any(pc.match_substring_regex(values, _GROUPED)).as_py():
        return "its numbers have thousands separators, which are not read: write 1234, not 1,234"
    if _is_text(values.type) and len(pc.unique(values)) > MOST_CATEGORIES:
        return "it has too many values for categories; --text names a column of free text"
    return "it is empty, or neither numbers, dates nor a few categories"


def _like_ids(values: pa.ChunkedArray) -> bool:
    """Whole numbers or texts without spaces, no two alike."""
    held = values.drop_null()
    if len(held) < FEWEST_IDS or not (_is_text(held.type) or pa.types.is_integer(held.type)):
        return False
    if _is_text(held.type) and pc.any(pc.match_substring(held, " ")).as_py():
        return False
    return bool(pc.count_distinct(held).as_py() == len(held))


def _natural(text: str) -> tuple[float, str]:
    """Numbers in numeric order, before other text."""
    try:
        return (float(text), text)
    except ValueError:
        return (math.inf, text)


def _from_folder(path: Path, label: tuple[str, ...]) -> tuple[Schema, list[str]]:
    from PIL import Image as Pictures

    if len(label) > 1:
        raise SchemaError(f"{path}: the folders of images are one label, got {len(label)} columns.")
    files = sorted(file for file in path.glob("*/*") if file.suffix.lower() in IMAGE_FILES)
    if not files:
        raise SchemaError(f"{path}: expected image files in one folder per label.")
    with Pictures.open(files[0]) as picture:
        width, height = picture.size
        channels = 1 if picture.mode in ("1", "L", "I", "I;16") else 3
    labels = sorted({file.parent.name for file in files}, key=_natural)
    name = label[0] if label else "label"
    return Schema((Image("image", height, width, channels), Categorical(name, tuple(labels))), name), []


def _from_npz(path: Path, label: tuple[str, ...]) -> tuple[Schema, list[str]]:
    columns: list[Column] = []
    remarks: list[str] = []
    with np.load(path, allow_pickle=False) as archive:
        for name in archive.files:
            array = archive[name]
            if array.ndim in (3, 4) and not any(isinstance(column, Image) for column in columns):
                channels = 1 if array.ndim == 3 else array.shape[3]
                columns.append(Image(name, array.shape[1], array.shape[2], channels))
            elif array.ndim == 1 and name in label:
                columns.append(Categorical(name, tuple(sorted({str(v) for v in array.tolist()}, key=_natural))))
            else:
                remarks.append(f"array '{name}' was left out; name it with --label if it is the label")
    return Schema(tuple(columns), label or None), remarks
