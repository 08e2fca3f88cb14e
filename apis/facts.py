"""The columns beside the text of a record: made by the tabular API, and told to whoever writes the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from pe.apis.tabular import TabularAPI
from pe.data.arrays import to_numpy
from pe.data.columns import Datetime
from pe.data.labels import label_arrays
from pe.data.population import Population
from pe.data.schema import Categorical, Column, Schema, Text
from pe.errors import SchemaError


class Facts:
    """What a record says beside its one text: drawn uniformly, varied with the degree, and spelled out in prompts.

    Raises SchemaError for a schema without exactly one text column, or with a column that the tabular API cannot make.
    """

    def __init__(self, schema: Schema) -> None:
        texts = [column for column in schema.features if isinstance(column, Text)]
        if len(texts) != 1:
            raise SchemaError(
                f"an API that writes text needs a schema with exactly one column of type 'text', got {len(texts)}. "
                "Nothing was spent."
            )
        self.schema = schema
        self.text = texts[0]
        self._label = tuple(schema.categorical(name) for name in schema.label_columns)
        self._columns = tuple(column for column in schema.features if column != self.text)
        self._others = None
        if self._columns:
            self._others = TabularAPI(replace(schema, columns=(*self._columns, *self._label)))

    def random(self, n: int, label: int, rng: np.random.Generator) -> pa.Table | None:
        """``n`` fresh rows of the other columns; None where there are none."""
        return None if self._others is None else self._others.random(n, label, rng).records

    def vary(self, parents: Population, degree: float, rng: np.random.Generator) -> pa.Table | None:
        """One variation of each parent's other columns; None where there are none."""
        if self._others is None:
            return None
        rest = parents.records.select([column.name for column in self._columns])
        return self._others.vary(replace(parents, records=rest, parameters=None), degree, rng).records

    def texts(self, population: Population) -> list[str]:
        found: list[str] = population.records.column(self.text.name).to_pylist()
        return found

    def told(self, label: int, rows: pa.Table | None, row: int) -> dict[str, str]:
        """Column to value, as text: those of the label first, then what is not missing in one row."""
        codes = label_arrays(np.array([label], np.int32), self.schema)
        told = {column.name: column.values[codes[column.name][0]] for column in self._label}
        for column in self._columns:
            assert rows is not None
            value = _spelled(column, rows.slice(row, 1))
            if value is not None:
                told[column.name] = value
        return told

    def records(self, texts: Sequence[str], rows: pa.Table | None) -> pa.Table:
        """A table of the schema's features; a text that is too long is cut."""
        cut = pa.array([text[: self.text.max_length] for text in texts], pa.string())
        columns = {self.text.name: cut} | (
            {} if rows is None else {name: rows.column(name) for name in rows.column_names}
        )
        return pa.table(columns).select(self.schema.arrow().names).cast(self.schema.arrow())


def _spelled(column: Column, row: pa.Table) -> str | None:
    value = to_numpy(row, column)[0]
    if isinstance(column, Categorical):
        return None if value == len(column.values) else column.values[int(value)]
    if value != value:
        return None
    if isinstance(column, Datetime):
        return column.text(float(value))
    return f"{value:.6g}"
