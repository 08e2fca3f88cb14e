"""The private data set: read once, in schema form, shown to nobody but the vote."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pe.arrays import to_table
from pe.coerce import coerce, identities
from pe.errors import PrivateDataError
from pe.privacy.budget import Adjacency
from pe.read import read
from pe.schema import Schema
from pe.selected import USER
from pe.shield import shielded


class PrivateDataset:
    """Private records under a declared schema. Shows nothing, does not iterate, does not pickle.

    Under add/remove adjacency the number of records is private, so zero records are a data set like any other. Under
    replace-one it is public, and zero records are refused.
    """

    __slots__ = ("__weakref__", "_labels", "_records", "_users", "schema")

    def __init__(
        self, records: pa.Table, labels: NDArray[np.int32], schema: Schema, users: NDArray[np.int64] | None = None
    ) -> None:
        self._records = records
        self._labels = labels
        self._users = users
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
        user: str | None = None,
    ) -> PrivateDataset:
        """Read a file, a folder of images, an Arrow table, a DataFrame or a mapping of arrays (see ``pe.read``).

        user  the column that says whose record it is; every record must have an id. It is no feature.

        The rules for missing and out-of-domain values stand in ``pe.coerce``. Raises PrivateDataError or SchemaError,
        whose texts name columns, files and types, never values.
        """

        def load() -> tuple[dict[str, NDArray[Any]], NDArray[np.int64] | None]:
            raw = read(data, schema, format=format, columns=columns, user=user)
            users = None if user is None else identities(raw.pop(USER), user)
            return coerce(raw, schema), users

        arrays, users = shielded("reading the private data", load, "Is it the declared format? Nothing was spent.")
        n = len(arrays[schema.columns[0].name])
        if n == 0 and adjacency == Adjacency.REPLACE_ONE:
            raise PrivateDataError("the private data hold no records. Nothing was spent.")
        labels = arrays[schema.label] if schema.label is not None else np.zeros(n, np.int32)
        return cls(to_table(arrays, schema), labels.astype(np.int32), schema, users)

    def __repr__(self) -> str:
        return "PrivateDataset(private)"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("private data cannot be copied or pickled")

    @property
    def users(self) -> NDArray[np.int64]:
        """Whose record each is, int64 (n,). Private, like all that the sums read. Raises PrivateDataError without."""
        if self._users is None:
            raise PrivateDataError("the private data were read without a user column: name it in private.user.")
        return self._users

    def content_digest(self) -> bytes:
        """Digest of the records in order, for the ledger's keyed fingerprint. Private: never store it bare."""
        digest = sha256(self.schema.to_toml().encode())
        digest.update(self._labels.tobytes())
        digest.update(b"" if self._users is None else self._users.tobytes())
        for column in self._records.columns:
            for chunk in column.chunks:
                for buffer in chunk.buffers():
                    digest.update(b"-" if buffer is None else buffer)
        return digest.digest()
