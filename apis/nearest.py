"""A public data set as simulator (Sim-PE, "only data"): random = draw records, vary = move to a near public record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pe.arrays import to_table
from pe.coerce import coerce
from pe.errors import APIError, ConfigError, PrivateDataError, SchemaError
from pe.kernels.nearest import nearest
from pe.kernels.quantise import quantise
from pe.population import Population
from pe.protocols import Embedder
from pe.read import read
from pe.schema import Categorical, Schema

INDEX = "public"
"""The one parameter: which public record a sample is."""

_OTHER = "\0other"
_LIST_BYTES = 2**26


@dataclass
class _Pool:
    """The public records of one label, and the neighbour lists found last.

    rows     int64 (m,): their positions in the public table.
    vectors  int16 (m, dim): their quantised embeddings.
    known    int64 (u,): sorted positions in ``rows`` whose lists are kept; lists int64 (u, q), nearest first.
    """

    rows: NDArray[np.int64]
    vectors: NDArray[np.int16]
    known: NDArray[np.int64]
    lists: NDArray[np.int64]


class NearestAPI:
    """Proposes the records of a public data set; makes none of its own.

    ``random`` draws records of the label without replacement; where more are asked for than there are, it starts over.
    ``vary`` draws uniformly from the ``q`` public records of the parent's label that lie nearest to the parent, itself
    included, with ``q = m ** degree`` rounded for a label of m records: 1 at degree 0, all of them at degree 1, and
    half the degree for the square root of the number (Sim-PE lists 1000 ... 20 of about 6,000: degrees .8 ... .35). A
    parent that another API made moves to public records near to its own embedding.

    data      what ``pe.read`` reads: a path, an Arrow table, a DataFrame or a mapping of arrays. Public.
    format    as in ``pe.read``, and ``columns`` too.
    labelled  whether the public data has the schema's label column; if not, all labels share all records. Records of
              labels that the schema does not declare are left out.
    embedder  what near means; by default pixels where the schema has an image, else the tabular embedder.

    Raises SchemaError or APIError when the data cannot be read or a label has no public record.
    """

    name = "nearest"

    def __init__(
        self,
        schema: Schema,
        *,
        data: object,
        format: str | None = None,
        columns: Mapping[str, str] | None = None,
        labelled: bool = True,
        embedder: Embedder | None = None,
    ) -> None:
        self.schema = schema
        self.embedder = embedder or _embedder(schema)
        arrays, labels = _read(schema, data, format, columns, labelled)
        self.records = to_table(arrays, schema)
        vectors, finite = quantise(self.embedder.embed(self.records), self.embedder.scale, self.embedder.limit)
        if not finite.all():
            raise APIError(f"embedder '{self.embedder.name}' failed on public records. Nothing was spent.")
        self._pools = []
        for label, name in enumerate(schema.labels):
            rows = np.flatnonzero(labels == label) if labelled else np.arange(len(labels))
            if len(rows) == 0:
                what = f"label '{name}'" if name else "any kind"
                raise APIError(f"the public data hold no record of {what}. Nothing was spent.")
            empty = np.empty((0, 0), np.int64)
            self._pools.append(_Pool(rows, vectors[rows], empty[:, 0], empty))

    def random(self, n: int, label: int, rng: np.random.Generator) -> Population:
        rows = self._pools[label].rows
        rounds = -(-n // len(rows))
        drawn = [rng.permutation(rows) for _ in range(rounds)]
        return self._population(np.concatenate([np.empty(0, np.int64), *drawn])[:n], np.full(n, label, np.int32))

    def vary(self, parents: Population, degree: float, rng: np.random.Generator) -> Population:
        own = parents.parameters is not None and parents.parameters.column_names == [INDEX]
        chosen = np.empty(len(parents), np.int64)
        for label, pool in enumerate(self._pools):
            which = np.flatnonzero(parents.labels == label)
            if len(which) == 0:
                continue
            q = max(1, round(len(pool.rows) ** degree))
            if own:
                held = parents.parameters.column(INDEX).to_numpy()[which]
                position, inverse = np.unique(np.searchsorted(pool.rows, held), return_inverse=True)
                lists = _lists(pool, position, q)
