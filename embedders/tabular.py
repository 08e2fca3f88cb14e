"""Tables to vectors, from the public schema alone: numbers scaled to an interval of length 1, categories one-hot."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pe.arrays import to_numpy
from pe.errors import SchemaError
from pe.schema import Categorical, Image, Numeric, Schema


class TabularEmbedder:
    """Numbers become (x - middle) / range in [-1/2, 1/2], categories one-hot times ``category_weight`` (Tab-PE: 1/3).

    The quantising scale is the largest at which no record can leave the vote's float32-exact range.
    """

    def __init__(self, schema: Schema, *, category_weight: float = 1 / 3) -> None:
        if not 0 <= category_weight <= 10:
            raise SchemaError(f"expected category_weight in [0, 10], got {category_weight}. Nothing was spent.")
        self.schema = schema
        self.category_weight = category_weight
        self.dim = 0
        longest = 0.0
        for column in schema.features:
            if isinstance(column, Image):
                raise SchemaError(f"the tabular embedder cannot read images ('{column.name}'). Nothing was spent.")
            self.dim += len(column.values) if isinstance(column, Categorical) else 1
            longest += category_weight**2 if isinstance(column, Categorical) else 0.25
        self.scale = float(math.floor(min(math.sqrt((2**24 / 3 - 1) / max(longest, 1e-9)) - self.dim, 16000)))
        self.limit = math.ceil(self.scale * max(category_weight, 0.5))
        self.name = f"tabular-{schema.fingerprint()[:16]}-{category_weight:g}"

    def embed(self, table: pa.Table) -> NDArray[np.float32]:
        n = table.num_rows
        vectors = np.zeros((n, self.dim), np.float32)
        start = 0
        for column in self.schema.features:
            values = to_numpy(table, column)
            if isinstance(column, Categorical):
                vectors[np.arange(n), start + values.astype(np.int64)] = self.category_weight
                start += len(column.values)
            elif isinstance(column, Numeric):
                width = column.maximum - column.minimum
                middle = (column.minimum + column.maximum) / 2
                vectors[:, start] = (values - middle) / width if width else 0.0
                start += 1
        return vectors
