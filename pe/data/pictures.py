"""Image records as PNG bytes and contact sheets."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray


def png(pixels: NDArray[np.uint8]) -> bytes:
    """PNG bytes of one picture, uint8 (height, width, channels) with 1 or 3 channels."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def contact_sheet(pixels: NDArray[np.uint8], labels: NDArray[Any], columns: int = 20, rows: int = 10) -> bytes:
    """PNG of the first pictures of each label, one block of lines per label; small pictures are enlarged."""
    kinds = np.unique(labels)
    lines = max(1, rows // len(kinds))
    height, width, channels = pixels.shape[1:]
    gap = 1
    cells = [pixels[labels == kind][: columns * lines] for kind in kinds]
    used = sum(math.ceil(len(block) / columns) for block in cells)
    sheet = np.full((used * (height + gap) + gap, columns * (width + gap) + gap, channels), 64, np.uint8)
    line = 0
    for block in cells:
        for index, picture in enumerate(block):
            top = gap + (line + index // columns) * (height + gap)
            left = gap + (index % columns) * (width + gap)
            sheet[top : top + height, left : left + width] = picture
        line += math.ceil(len(block) / columns)
    zoom = max(1, 640 // sheet.shape[1])
    return png(sheet.repeat(zoom, axis=0).repeat(zoom, axis=1))


def contact_page(pixels: NDArray[np.uint8], labels: NDArray[Any], names: Sequence[str]) -> str:
    """HTML page with a contact sheet of each label that has pictures, under its name.

    A page, not a picture: a picture beside a folder of pictures is loaded as one of them.
    """
    kinds = np.unique(labels)
    lines = max(1, 10 // max(len(kinds), 1))
    blocks = []
    for kind in kinds:
        own = labels == kind
        sheet = base64.b64encode(contact_sheet(pixels[own], labels[own], rows=lines)).decode()
        title = f"<h2>{escape(names[kind])}</h2>\n" if names[kind] else ""
        blocks.append(f'{title}<p><img alt="" src="data:image/png;base64,{sheet}"></p>\n')
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Contact sheet</title></head><body>\n'
        f"<h1>The first of {len(labels):,} synthetic pictures</h1>\n{''.join(blocks)}</body></html>\n"
    )
