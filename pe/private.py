"""The private data set: read once, in schema form, shown to nobody but the vote."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pe.arrays import to_table
from pe.coerce import coerce
from pe.errors import PrivateDataError
from pe.privacy.budget import Adjacency
from pe.read import read
from pe.schema import Schema
from pe.shield import shielded


class PrivateDataset:
    """Private records under a declared schema. Shows nothing, does not iterate, does not pickle.

    Under add/remove adjacency the number of records is private, so zero records are a data set like any other. Under
    replace-one it is public, and zero records are refused.
    """

    __slots__ = ("__weakref__", "_labels", "_records", "schema")

    def __init__(self, records: pa.Table, labels: NDArray[np.int32], schema: Schema) -> None:
        self._records = records
        self._labels = labels
        self.schema = schema

    @classmethod
    def read(
        cls,
        data: object,
        schema: Schema,
        *,
        adjacency: Adjacency,
        format: str | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> PrivateDataset:
        """Read a file, a folder of images, an Arrow table, a DataFrame or a mapping of arrays (see ``pe.read``).

        The rules for missing and out-of-domain values stand in ``pe.coerce``. Raises PrivateDataError or SchemaError,
        whose texts name columns, files and types, never values.
        """

        def load() -> dict[str, NDArray[Any]]:
            return coerce(read(data, schema, format=format, columns=columns), schema)

        arrays = shielded("reading the private data", load, "Is it the declared format? Nothing was spent.")
        n = len(arrays[schema.columns[0].name])
        if n == 0 and adjacency == Adjacency.REPLACE_ONE:
            raise PrivateDataError("the private data hold no records. Nothing was spent.")
        labels = arrays[schema.label] if schema.label is not None else np.zeros(n, np.int32)
        return cls(to_table(arrays, schema), labels.astype(np.int32), schema)

    def __repr__(self) -> str:
        return "PrivateDataset(private)"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("private data cannot be copied or pickled")

    def content_digest(self) -> bytes:
        """Digest of the records in order, for the ledger's keyed fingerprint. Private: never store it bare."""
        digest = sha256(self.schema.to_toml().encode())
        digest.update(self._labels.tobytes())
        for column in self._records.columns:
            for chunk in column.chunks:
                for buffer in chunk.buffers():
                    digest.update(b"-" if buffer is None else buffer)
        return digest.digest()
