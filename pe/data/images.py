"""Pictures to 8-bit pixels, one by one: from image files, encoded bytes, or numbers; an unreadable one is black.

Image files are turned as their EXIF orientation says, their depth is scaled to 8 bits (16-bit grey: 65535 is white;
1-bit: 1 is white), transparent parts are laid on white, palettes and CMYK become colours; then they are resized.
Numbers are taken as bytes: rounded, and clipped to 0..255.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pe.data.columns import Image
from pe.errors import SchemaError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

DECODERS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")
"""Whatever a file's name says. Others, libtiff among them, print what they find wrong in a file."""

_SIXTEEN_BIT = ("I", "I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's modes of grey PNGs of 16 bits."""


def pixels(values: pa.ChunkedArray | NDArray[Any], column: Image) -> NDArray[np.uint8]:
    """Pictures of one column, uint8 (n, height, width, channels). Raises SchemaError for a type that holds none.

    Taken are numpy arrays of numbers, lists of numbers, encoded images as bytes or as the Hugging Face library stores
    them (``bytes`` and ``path``, of which the path is not followed), and any of these among Python objects.
    """
    shape = (column.height, column.width, column.channels)
    if isinstance(values, np.ndarray) and values.dtype == object and values.ndim == 1:
        return _one_by_one(values, column)
    if isinstance(values, np.ndarray):
        if values.shape[1:] not in _shapes(column) or values.dtype.kind not in "buif":
            raise SchemaError(
                f"column '{column.name}': expected pictures of shape {shape}, the data hold {values.dtype} of shape "
                f"{values.shape[1:]} each. Nothing was spent."
            )
        return _bytes(values).reshape(-1, *shape)
    kind = values.type
    if pa.types.is_fixed_size_list(kind) and kind.list_size == column.size and not values.null_count:
        flat = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in values.chunks]
        return _bytes(np.concatenate([np.empty(0, np.uint8), *flat])).reshape(-1, *shape)
    if not _holds_pictures(kind, column):
        raise SchemaError(
            f"column '{column.name}': expected pictures of {column.size} numbers, or encoded ones, the data hold "
            f"{type_name(kind)}. Nothing was spent."
        )
    return _one_by_one((_python(value, column) for value in values), column)


def type_name(kind: pa.DataType) -> str:
    """An Arrow type without the field names inside it, which may come from the data."""
    return "nested values" if pa.types.is_nested(kind) else str(kind)


def _holds_pictures(kind: pa.DataType, column: Image) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" for field in kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        number = kind.value_type
        numbers = pa.types.is_integer(number) or pa.types.is_floating(number) or pa.types.is_boolean(number)
        fixed = numbers and pa.types.is_fixed_size_list(kind)
        return kind.list_size == column.size if fixed else numbers or _lists(number)
    encoded = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_null)
    return any(test(kind) for test in encoded)


def _lists(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _python(value: Any, column: Image) -> object:
    """One value of an Arrow column as Python has it; None for lists of more numbers than a picture has."""
    if value.is_valid and _lists(value.type):
        numbers = value.values
        while _lists(numbers.type):
            numbers = numbers.flatten()
        if len(numbers) > column.size:
            return None
    return value.as_py()


def _shapes(column: Image) -> set[tuple[int, ...]]:
    """Shapes of an array of numbers that is one picture."""
    shape = (column.height, column.width, column.channels)
    return {shape, (column.size,)} | ({shape[:2]} if column.channels == 1 else set())


def _bytes(numbers: NDArray[Any]) -> NDArray[np.uint8]:
    if numbers.dtype == np.uint8:
        return numbers
    finite = np.nan_to_num(numbers.astype(np.float64), nan=0.0, posinf=255.0, neginf=0.0)
    return np.clip(np.rint(finite), 0, 255).astype(np.uint8)


def _one_by_one(values: Iterable[object], column: Image) -> NDArray[np.uint8]:
    found = [_picture(value, column) for value in values]
    shape = (column.height, column.width, column.channels)
    return np.stack(found) if found else np.zeros((0, *shape), np.uint8)


def _picture(value: Any, column: Image) -> NDArray[np.uint8]:
    shape = (column.height, column.width, column.channels)
    if isinstance(value, dict):
        value = value.get("bytes")
    if isinstance(value, (bytes, bytearray, memoryview)):
        return decode(io.BytesIO(bytes(value)), column)
    try:
        numbers = np.asarray(value, np.float64)
    except Exception:  # ragged lists, texts, whatever a record holds
        numbers = np.empty(0)
    if numbers.shape not in _shapes(column):
        return np.zeros(shape, np.uint8)
    return _bytes(numbers).reshape(shape)


# -- image files -------------------------------------------------------------------------------------------------------


def decode(file: Path | io.BytesIO, column: Image) -> NDArray[np.uint8]:
    """One image file as uint8 (height, width, channels); black where it cannot be read."""
    from PIL import Image as Pictures

    shape = (column.height, column.width, column.channels)
    try:
        with _silence(), Pictures.open(file, formats=DECODERS) as picture:
            whole = _eight_bit(_upright(picture)).convert("L" if column.channels == 1 else "RGB")
            resized = whole.resize((column.width, column.height), Pictures.Resampling.BILINEAR)
            return np.asarray(resized, np.uint8).reshape(shape)
    except Exception:  # whatever the decoder meets
        return np.zeros(shape, np.uint8)


def _upright(picture: Picture) -> Picture:
    """Turned as its EXIF orientation says; as it is stored where it says nothing readable."""
    from PIL import ImageOps

    picture.load()
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # damaged EXIF data are no reason to lose the picture
        return picture


def _eight_bit(picture: Picture) -> Picture:
    """Depths scaled to 8 bits, transparent parts on white."""
    from PIL import Image as Pictures

    if picture.mode in _SIXTEEN_BIT:
        deep = np.clip(np.asarray(picture, np.int64), 0, 65535)
        return Pictures.fromarray(((deep + 128) // 257).astype(np.uint8))
    if picture.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in picture.info:
        coloured = picture.convert("RGBA")
        return Pictures.alpha_composite(Pictures.new("RGBA", coloured.size, "white"), coloured)
    return picture


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
