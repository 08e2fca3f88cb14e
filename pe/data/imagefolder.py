"""A folder of images to raw columns: ``FOLDER/LABEL/*.png``, or ``FOLDER/*.png`` where the schema has no label.

A label may stand there as the name that a release gives its folder (``pe.data.label_folders``), too.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from pe.data.label_folders import folder_names
from pe.data.schema import Schema
from pe.data.selected import Raw
from pe.errors import PrivateDataError, SchemaError

IMAGE_FILES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"}
DECODERS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")
"""Whatever a file's name says. Others, libtiff among them, print what they find wrong in a file."""

PICTURES = 2**12
"""Pictures decoded at a time."""


def size(path: Path, schema: Schema) -> int:
    """Bytes of all pictures once decoded."""
    return 0 if schema.image is None else schema.image.size * len(_files(path, schema))


def pictures(path: Path, schema: Schema) -> Iterator[Raw]:
    """Pictures and their labels, in the order of their paths; at least one batch. Raises SchemaError,
    PrivateDataError."""
    image = schema.image
    others = [column for column in schema.features if column is not image] or schema.label_columns[1:]
    if image is None or others:
        raise SchemaError("an image folder holds one image column and at most one label column. Nothing was spent.")
    files = _files(path, schema)
    if not files and not _laid_out(path, schema):  # decided by the folders, not by how many pictures they hold
        raise PrivateDataError(f"{path}: expected {_pattern(schema)} to match image files. Nothing was spent.")
    for start in range(0, max(len(files), 1), PICTURES):
        yield _decoded(files[start : start + PICTURES], schema)


def _pattern(schema: Schema) -> str:
    return "*" if schema.label is None else "*/*"


def _files(path: Path, schema: Schema) -> list[Path]:
    return sorted(file for file in path.glob(_pattern(schema)) if file.suffix.lower() in IMAGE_FILES)


def _decoded(files: list[Path], schema: Schema) -> Raw:
    from PIL import Image as Pictures

    image = schema.image
    assert image is not None
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
        label_of = _labels_by_folder(schema)
        labels = [label_of.get(file.parent.name, file.parent.name) for file in files]
        raw[schema.label_name] = pa.chunked_array([pa.array(labels, pa.string())])
    return raw


def _labels_by_folder(schema: Schema) -> dict[str, str]:
    """The label of each folder that a release may hold, or that has a label's own name."""
    return dict(zip(folder_names(schema.labels), schema.labels, strict=True)) | {
        label: label for label in schema.labels
    }


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
    return not folders if schema.label is None else bool(folders & set(_labels_by_folder(schema)))
