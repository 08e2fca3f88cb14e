"""Draft a schema from a sample that the user declares to be public."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pe.data.dialect import CsvOptions
from pe.data.imagefolder import IMAGE_FILES
from pe.data.inference import Inference, infer, infer_label, like_ids, natural_order
from pe.data.labels import label_names
from pe.data.parts import locate
from pe.data.records import Counts
from pe.data.sample import SampleColumn, read_sample
from pe.data.schema import RESERVED, Categorical, Column, Datetime, Image, Numeric, Schema, Text
from pe.data.times import instant
from pe.errors import PrivateDataError, SchemaError


@dataclass(frozen=True)
class Draft:
    """A drafted schema, and remarks on it: unpacks to these two.

    ``multiline``: private data in the sample's form need that setting.
    """

    schema: Schema
    remarks: list[str]
    multiline: bool = False

    def __iter__(self) -> Iterator[Any]:
        return iter((self.schema, self.remarks))


def draft(
    sample: str | Path,
    label: str | Sequence[str] | None = None,
    text: str | None = None,
    labels: Sequence[str] | None = None,
    options: CsvOptions | None = None,
) -> Draft:
    """A schema that fits a public sample (CSV, TSV, JSONL, Parquet, Arrow, npz, image folder), and remarks on it.

    The sample is read as private data are (``pe.data.sample``), and what a column is follows from the texts of its
    values (``pe.data.inference``). A column with missing values gets ``missing``. Bounds and categories are those of
    the sample, so it must cover what may occur; an order of categories is never guessed, but kept where the file
    declares one. The label's columns become categorical, a single one with ``labels`` where they are given; columns
    that fit none of these go to ``ignore``, and a remark says why. ``text`` names a column of free text: all others but
    the label then go to ``ignore``. ``options``: delimiter, encoding and ``multiline`` of CSV and TSV files. Raises
    SchemaError.
    """
    path, label_columns = Path(sample), label_names(label)
    if labels is not None and len(label_columns) != 1:
        raise SchemaError(
            f"labels are the values of one label column, got {len(label_columns)} columns: leave them out."
        )
    try:
        place = locate(sample, options=options)
        if place.kind == "imagefolder":
            return Draft(_from_folder(path, label_columns), [])
        found = read_sample(place, text)
    except (PrivateDataError, SchemaError) as error:
        raise SchemaError(str(error).removesuffix(" Nothing was spent.")) from None
    names = [column.name for column in found.columns]
    for wanted in (*label_columns, *([] if text is None else [text])):
        if wanted not in names:
            raise SchemaError(f"{path} has no column '{wanted}'; it has {', '.join(names)}.")
    remarks = [*_remarks_on_lines(found.counts), *(_remark_on_name(name) for name in found.nameless)]
    if any(_is_value(name) for name in names) or 2 * found.counts.wrong_width > found.counts.records:
        remarks.insert(0, f"{path}: does its first line name the columns? It does not look like it")
    drafted: list[Column] = []
    ignored: list[str] = []
    for column in found.columns:
        if text is not None and column.name not in (text, *label_columns):
            ignored.append(column.name)
            continue
        if column.pixels is not None:
            guess = _picture(column, drafted)
        elif column.name == text:
            guess = Inference(Text(column.name))
        elif column.name in label_columns and labels is not None:
            guess = Inference(Categorical(column.name, tuple(labels)))
        elif column.name in label_columns:
            guess = infer_label(column)
            if guess.column is None:
                raise SchemaError(f"{path}: {guess.cause}.")
        else:
            guess = _infer_feature(column)
        remarks += guess.remarks
        if guess.column is None:
            ignored.append(column.name)
            remarks.append(f"column '{column.name}' was left out: {guess.cause}")
            continue
        drafted.append(guess.column)
        identifies = isinstance(guess.column, Categorical | Numeric) and not isinstance(guess.column, Datetime)
        if identifies and column.name not in label_columns and like_ids(column):
            remarks.append(
                f"column '{column.name}' has no two equal values: if it is an id, give it type = \"key\": that makes "
                "fresh ones and never reads the private ones"
            )
    if not [column for column in drafted if column.name not in label_columns]:
        listed = "".join(f"\n  {remark}" for remark in remarks)
        raise SchemaError(f"{path}: no column beside the label could be drafted.{listed}")
    needs_multiline = found.multiline and text is None
    return Draft(Schema(tuple(drafted), label, ignore=tuple(ignored)), remarks, needs_multiline)


def _remarks_on_lines(counts: Counts) -> Iterator[str]:
    """What of a CSV or TSV file was not read as it looks."""
    if counts.wrong_width:
        yield (
            f"{counts.wrong_width} of {counts.records} lines have too few or too many fields: every value of such a "
            "line is taken for missing, in a run too"
        )
    if counts.open_quotes:
        yield f"{counts.open_quotes} of {counts.records} lines have a quote that nothing closes: a line ends at its end"


def _is_value(name: str) -> bool:
    """Whether the name of a column looks like a value: a number, or a date."""
    return natural_order(name)[0] < math.inf or instant(name) is not None


def _infer_feature(column: SampleColumn) -> Inference:
    if column.name.startswith(RESERVED):
        return Inference(None, f"names that begin with '{RESERVED}' are reserved: rename it, in the private data too")
    try:
        return infer(column)
    except SchemaError as error:  # one column is never the end of a draft
        return Inference(None, str(error).removeprefix(f"column '{column.name}': ").removesuffix("."))


def _remark_on_name(name: str) -> str:
    if not name:
        return "a column without a name was left out: give it one in the first line (row numbers need none)"
    return f"column '{name}' was left out: it occurs twice, rename one of them, in the private data too"


def _picture(column: SampleColumn, drafted: Sequence[Column]) -> Inference:
    """An image column of an array of pictures, the first one; pictures of a second are left out."""
    pixels = column.pixels
    assert pixels is not None
    if pixels.ndim not in (3, 4):
        return Inference(None, f"its array has {pixels.ndim} dimensions, expected 1, or 3 or 4 of pictures")
    if any(isinstance(each, Image) for each in drafted):
        return Inference(None, "a schema has one image column")
    channels = 1 if pixels.ndim == 3 else pixels.shape[3]
    return Inference(Image(column.name, pixels.shape[1], pixels.shape[2], channels))


def _from_folder(path: Path, label: tuple[str, ...]) -> Schema:
    from PIL import Image as Pictures

    if len(label) > 1:
        raise SchemaError(f"{path}: the folders of images are one label, got {len(label)} columns.")
    files = sorted(file for file in path.glob("*/*") if file.suffix.lower() in IMAGE_FILES)
    if not files:
        raise SchemaError(f"{path}: expected image files in one folder per label.")
    try:
        with Pictures.open(files[0]) as picture:
            width, height = picture.size
            channels = 1 if picture.mode in ("1", "L", "I", "I;16") else 3
    except OSError:
        raise SchemaError(f"{files[0]} cannot be read as a picture: the size of all is taken from it.") from None
    labels = sorted({file.parent.name for file in files}, key=natural_order)
    name = label[0] if label else "label"
    return Schema((Image("image", height, width, channels), Categorical(name, tuple(labels))), name)
