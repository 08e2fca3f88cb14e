"""A public data set as simulator (Sim-PE, "only data"): random = draw records, vary = move to a near public record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pe.data.arrays import to_table
from pe.data.coerce import coerce
from pe.data.labels import label_codes
from pe.data.population import Population
from pe.data.read import read
from pe.data.schema import Schema
from pe.embedders.pixels import PixelEmbedder
from pe.embedders.sentence import SentenceEmbedder
from pe.embedders.tabular import TabularEmbedder
from pe.errors import ConfigError
from pe.kernels.nearest import nearest
from pe.kernels.quantise import quantise
from pe.protocols import Embedder

INDEX = "public_record"
"""The one parameter: which public record a sample is."""

_SEARCHED = 512
"""Parents whose neighbour lists are held at a time."""


class NearestAPI:
    """Proposes the records of a public data set; makes none of its own.

    ``random`` draws records of the label without replacement; where more are asked for than there are, it starts over.
    ``vary`` draws uniformly from the ``q`` public records of the parent's label nearest to the parent, itself
    included, with ``q = m ** degree`` rounded for a label of m records: 1 at degree 0, all of them at degree 1 (Sim-PE
    lists q = 1000 ... 20 of about 6,000: degrees .8 ... .35). A parent that another API made moves to public records
    near its own embedding.

    path      the public data: what ``pe.data.read`` reads.
    format    as in ``pe.data.read``, and ``columns`` too.
    embedder  what near means; by default the sentence embedder for a text, pixels for an image, else the tabular one.

    Records are coerced to the schema by the rules of ``pe.data.coerce``; where they lack a column of the label, pass a
    schema without label. Raises SchemaError or PrivateDataError when the data cannot be read, ConfigError when a label
    has no public record.
    """

    name = "nearest"

    def __init__(
        self,
        schema: Schema,
        *,
        path: object,
        format: str | None = None,
        columns: Mapping[str, str] | None = None,
        embedder: Embedder | None = None,
    ) -> None:
        self.schema = schema
        self.embedder = embedder or _usual(schema)
        self.public_data = Path(path).name if isinstance(path, str | Path) else "a table handed over in memory"
        arrays = coerce(read(path, schema, format=format, columns=columns), schema)
        labels = label_codes(arrays, schema)
        self.records = to_table(arrays, schema)
        self._vectors = self._integers(self.records)
        self._pools = [np.flatnonzero(labels == label) for label in range(len(schema.labels))]
        for name, pool in zip(schema.labels, self._pools, strict=True):
            if len(pool) == 0:
                what = f"of label '{name}'" if name else "at all"
                raise ConfigError(f"the public data of the nearest API hold no record {what}. Nothing was spent.")

    def random(self, n: int, label: int, rng: np.random.Generator) -> Population:
        pool = self._pools[label]
        drawn = np.concatenate([rng.permutation(pool) for _ in range(max(1, -(-n // len(pool))))])
        return self._population(drawn[:n], np.full(n, label, np.int32))

    def vary(self, parents: Population, degree: float, rng: np.random.Generator) -> Population:
        if parents.parameters is not None and parents.parameters.column_names == [INDEX]:
            places = self._vectors[parents.parameters.column(INDEX).to_numpy()]
        else:
            places = self._integers(parents.records)
        chosen = np.empty(len(parents), np.int64)
        for label, pool in enumerate(self._pools):
            own = np.flatnonzero(parents.labels == label)
            q = max(1, round(len(pool) ** degree))
            if q == len(pool):
                chosen[own] = pool[rng.integers(q, size=len(own))]
                continue
            ranks = rng.integers(q, size=len(own))
            for start in range(0, len(own), _SEARCHED):
                part = slice(start, start + _SEARCHED)
                lists = nearest(places[own[part]], self._vectors[pool], q)
                chosen[own[part]] = pool[lists[np.arange(len(lists)), ranks[part]]]
        return self._population(chosen, parents.labels)

    def _population(self, index: NDArray[np.int64], labels: NDArray[Any]) -> Population:
        parameters = pa.table({INDEX: pa.array(index, pa.int64())})
        return Population.of(self.records.take(pa.array(index)), labels, self.name, parameters)

    def _integers(self, table: pa.Table) -> NDArray[np.signedinteger[Any]]:
        return quantise(self.embedder.embed(table), self.embedder.scale, self.embedder.limit)[0]


def _usual(schema: Schema) -> Embedder:
    if schema.image is not None:
        return PixelEmbedder(schema)
    return TabularEmbedder(schema) if schema.text is None else SentenceEmbedder(schema)
