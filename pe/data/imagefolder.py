"""A folder of images to raw columns: ``FOLDER/LABEL/*.png``, or ``FOLDER/*.png`` where the schema has no label.

A label may stand there as the name that a release gives its folder (``pe.data.label_folders``), too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pe.data.images import decode
from pe.data.label_folders import folder_names
from pe.data.schema import Schema
from pe.data.selected import Raw
from pe.errors import PrivateDataError, SchemaError

IMAGE_FILES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"}
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
    if not _laid_out(path, schema):
        layout = "image files alone, no folders" if schema.label is None else "a folder of image files for each label"
        raise PrivateDataError(f"{path}: expected {layout}. Nothing was spent.")
    files = _files(path, schema)
    for start in range(0, max(len(files), 1), PICTURES):
        yield _decoded(files[start : start + PICTURES], schema)


def _pattern(schema: Schema) -> str:
    return "*" if schema.label is None else "*/*"


def _files(path: Path, schema: Schema) -> list[Path]:
    return sorted(file for file in path.glob(_pattern(schema)) if file.suffix.lower() in IMAGE_FILES)


def _decoded(files: list[Path], schema: Schema) -> Raw:
    image = schema.image
    assert image is not None
    pixels = np.zeros((len(files), image.height, image.width, image.channels), np.uint8)
    for row, file in zip(pixels, files, strict=True):
        if file.is_file():  # reading a pipe would never end
            row[:] = decode(file, image)
    raw: Raw = {image.name: pixels}
    if schema.label is not None:
        label_of = _labels_by_folder(schema)
        labels = [label_of.get(file.parent.name, file.parent.name) for file in files]
        raw[schema.label_name] = np.fromiter(labels, object, len(labels))
    return raw


def _labels_by_folder(schema: Schema) -> dict[str, str]:
    """The label of each folder that a release may hold, or that has a label's own name."""
    return dict(zip(folder_names(schema.labels), schema.labels, strict=True)) | {
        label: label for label in schema.labels
    }


def _laid_out(path: Path, schema: Schema) -> bool:
    """Whether the folders look as expected: one for some label, or none where there are no labels.

    Decided by the folders alone, not by the pictures: these are records.
    """
    folders = {place.name for place in path.iterdir() if place.is_dir()}
    if schema.label is not None:
        return bool(folders & set(_labels_by_folder(schema)))
    return all(name.startswith(".") or Path(name).suffix.lower() in IMAGE_FILES for name in folders)
