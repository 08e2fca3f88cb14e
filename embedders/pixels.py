"""Pictures to vectors: their pixels."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pe.data.arrays import to_numpy
from pe.data.schema import Schema
from pe.errors import SchemaError


class PixelEmbedder:
    """The image column's bytes minus 128, exact in the vote. Raises SchemaError if there is no image column."""

    scale = 1.0
    limit = 128

    def __init__(self, schema: Schema) -> None:
        if schema.image is None:
            raise SchemaError("the pixel embedder needs an image column. Nothing was spent.")
        self.image = schema.image
        self.dim = self.image.size
        self.name = f"pixels-{self.image.name}-{self.dim}"

    def embed(self, table: pa.Table) -> NDArray[np.float32]:
        pixels = to_numpy(table, self.image).reshape(table.num_rows, self.dim)
        return pixels.astype(np.float32) - np.float32(128)
