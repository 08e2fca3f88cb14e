"""The declared columns among those that data hold: found by name, once each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pe.data.schema import RESERVED, Categorical, Schema
from pe.errors import SchemaError

Raw = dict[str, pa.ChunkedArray | NDArray[Any]]
"""Columns by name: Arrow arrays of any primitive type, or numpy arrays (images)."""

USER = f"{RESERVED}user"
"""Name under which ``read`` returns the user column; no declared column can have it."""


def require(found: Sequence[str], names: Mapping[str, str], place: str) -> None:
    """Raise SchemaError unless each name is found once. Quotes no other name: it may be a value (no header line)."""
    for column, name in names.items():
        if found.count(name) > 1:
            raise SchemaError(f"{place}: column '{name}' occurs twice. Nothing was spent.")
        if name not in found:
            where = f"'{name}'" if column in (name, USER) else f"'{name}' (for '{column}')"
            near = next((each for each in found if each.strip().casefold() == name.strip().casefold()), None)
            hint = f"is it '{near}'?" if near else "does the first line name the columns?"
            raise SchemaError(f"{place} has no column {where} among its {len(found)}; {hint} Nothing was spent.")


def from_arrow(
    table: pa.Table,
    names: Mapping[str, str],
    place: str,
    schema: Schema,
    metadata: Mapping[bytes, bytes] | None = None,
) -> Raw:
    """The columns of a table; class labels by name where the schema declares any of them.

    ``metadata`` is that of the table's file, where the table has none of its own.
    """
    require(table.column_names, names, place)
    classes, raw = class_labels(table.schema.metadata or metadata or {}), {}
    for column, name in names.items():
        values = table.column(table.column_names.index(name))
        declared = next((each for each in schema.columns if each.name == column), None)
        if isinstance(declared, Categorical) and set(classes.get(name, ())) & set(declared.values):
            values = pa.chunked_array([_named(chunk, classes[name]) for chunk in values.chunks], pa.string())
        raw[column] = values
    return raw


def class_labels(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """Names of the class labels of each such column, from what the Hugging Face library notes in an Arrow schema."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return {name: list(each["names"]) for name, each in features.items() if each.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _named(codes: pa.Array, names: Sequence[str]) -> pa.Array:
    """Positions as names; missing where there is none (the library's own mark is -1)."""
    held = pc.if_else(pc.and_(pc.greater_equal(codes, 0), pc.less(codes, len(names))), codes, None)
    return pa.array(names, pa.string()).take(held)
