"""What every API and embedder of texts needs: the one text column, and samples of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pe.errors import SchemaError
from pe.population import Population
from pe.schema import Schema, Text


def text_alone(schema: Schema, who: str) -> Text:
    """The text column of a schema that has no other feature; raises SchemaError, which begins with ``who``.

    Such an API fills that column, and nothing would vote on others: they become the label, or are left out.
    """
    if schema.text is None:
        raise SchemaError(f"{who} needs a text column. Nothing was spent.")
    others = [column.name for column in schema.features if column is not schema.text]
    if others:
        raise SchemaError(
            f"{who} knows one text column ('{schema.text.name}') and a label, the schema also has '{others[0]}': make "
            "it the label, or list it in ignore. Nothing was spent."
        )
    return schema.text


def text_population(
    texts: Sequence[str],
    labels: NDArray[Any] | int,
    api: str,
    column: Text,
    parameters: pa.Table | None = None,
) -> Population:
    """Fresh samples of a schema with that text column alone, each cut to its ``max_length``; lone surrogates go."""
    kept = [text[: column.max_length].encode("utf-8", "ignore").decode() for text in texts]
    records = pa.table({column.name: pa.array(kept, pa.string())}, pa.schema([_field(column)]))
    return Population.of(records, np.asarray(labels, np.int32), api, parameters)


def _field(column: Text) -> pa.Field:
    return pa.field(column.name, column.arrow(), nullable=False)
