"""Populations: synthetic samples with their labels and their lineage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pe.data.schema import RESERVED, Schema


@dataclass(frozen=True)
class Population:
    """``n`` synthetic samples.

    records     Arrow table of the schema's features (n rows).
    labels      int32 (n,): positions in the label set; zeros when there is none.
    parents     int64 (n,): index in the previous population, -1 for a sample that has no parent.
    origin      name of the API that made each sample, one per row.
    parameters  Arrow table (n rows) of what a simulator needs to vary its samples, or None.
    """

    records: pa.Table
    labels: NDArray[np.int32]
    parents: NDArray[np.int64] = field(repr=False)
    origin: pa.Array = field(repr=False)
    parameters: pa.Table | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls, records: pa.Table, labels: NDArray[Any] | int, api: str, parameters: pa.Table | None = None
    ) -> Population:
        """Fresh samples of one API; ``labels`` is an array (n,) or one label for all."""
        n = records.num_rows
        return cls(
            records,
            np.broadcast_to(np.asarray(labels, np.int32), (n,)).copy(),
            np.full(n, -1, np.int64),
            pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([api])),
            parameters,
        )

    def __len__(self) -> int:
        return int(self.records.num_rows)

    def take(self, index: NDArray[np.int64]) -> Population:
        """The samples at ``index`` (m,), in that order, with ``parents`` set to where they stood."""
        chosen = pa.array(index)
        return Population(
            self.records.take(chosen),
            self.labels[index],
            np.asarray(index, np.int64),
            self.origin.take(chosen),
            None if self.parameters is None else self.parameters.take(chosen),
        )

    def with_parents(self, parents: NDArray[np.int64]) -> Population:
        return Population(self.records, self.labels, np.asarray(parents, np.int64), self.origin, self.parameters)

    def to_table(self) -> pa.Table:
        """Everything in one table, for storage: records, and the rest under reserved names."""
        table = self.records
        extra: list[tuple[str, Any]] = [
            ("label", pa.array(self.labels)),
            ("parent", pa.array(self.parents)),
            ("api", self.origin),
        ]
        if self.parameters is not None:
            extra += [(f"parameter.{name}", self.parameters.column(name)) for name in self.parameters.column_names]
        for name, column in extra:
            table = table.append_column(RESERVED + name, column)
        return table

    @classmethod
    def from_table(cls, table: pa.Table, schema: Schema) -> Population:
        """The inverse of ``to_table``."""
        prefix = RESERVED + "parameter."
        names = [name for name in table.column_names if name.startswith(prefix)]
        parameters = table.select(names).rename_columns([name.removeprefix(prefix) for name in names])
        origin = table.column(RESERVED + "api").combine_chunks()
        return cls(
            table.select([column.name for column in schema.features]).cast(schema.arrow()),
            table.column(RESERVED + "label").to_numpy().astype(np.int32),
            table.column(RESERVED + "parent").to_numpy().astype(np.int64),
            origin.chunk(0) if isinstance(origin, pa.ChunkedArray) else origin,
            parameters if names else None,
        )


def concatenate(populations: Sequence[Population]) -> Population:
    """Stack populations of one schema; ``parameters`` survive only where every part has them."""
    parts = [p for p in populations if len(p)] or list(populations[:1])
    if len(parts) == 1:
        return parts[0]
    parameters = [p.parameters for p in parts if p.parameters is not None]
    alike = len(parameters) == len(parts) and all(p.schema.equals(parameters[0].schema) for p in parameters)
    origin = pa.chunked_array([p.origin for p in parts]).unify_dictionaries().combine_chunks()
    return Population(
        pa.concat_tables([p.records for p in parts]).combine_chunks(),
        np.concatenate([p.labels for p in parts]),
        np.concatenate([p.parents for p in parts]),
        origin,
        pa.concat_tables(parameters).combine_chunks() if alike else None,
    )
