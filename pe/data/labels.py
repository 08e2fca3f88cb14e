"""The label of a record: the value of one categorical column, or of several together.

A label is a code. Those of several columns are numbered in row-major order, the last column's values vary fastest; the
joined names are for people.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pe.errors import SchemaError

if TYPE_CHECKING:
    from pe.data.schema import Schema

MOST_LABELS = 10_000
"""Combinations of values that several columns may have: each is a label, with noise of its own."""

_SEPARATOR = " / "
_MISLEADING = re.compile(r'(^|\s)/|/(\s|$)|^"')  # what could be taken for a separator, or for a quoted value


def as_label(label: object) -> str | tuple[str, ...] | None:
    """What a user names as label, as a schema keeps it: one column, also from a list of one, or several.

    Raises SchemaError for anything but a name or a list of different ones.
    """
    if label is None or isinstance(label, str):
        return label
    names = tuple(label) if isinstance(label, (list, tuple)) else ()
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise SchemaError(f"label: expected a column or a list of different ones, got {label!r}. Nothing was spent.")
    return names[0] if len(names) == 1 else names


def label_names(label: object) -> tuple[str, ...]:
    """The columns that ``label`` names, none without one; raises SchemaError as ``as_label`` does."""
    found = as_label(label)
    return () if found is None else (found,) if isinstance(found, str) else found


def joined(values: Sequence[str]) -> str:
    """One value as it is, several as "a / b"; different ones have different names, for misleading ones are quoted."""
    if len(values) == 1:
        return values[0]
    quoted = (json.dumps(value, ensure_ascii=False) if _MISLEADING.search(value) else value for value in values)
    return _SEPARATOR.join(quoted)


def label_codes(arrays: Mapping[str, NDArray[Any]], schema: Schema) -> NDArray[np.int32]:
    """The label of each record, int32 (n,), from the codes of the label's columns, integers (n,); zeros without one.

    ``arrays`` holds at least one column of the records, in schema form (``pe.data.arrays.to_numpy``).
    """
    if not schema.label_columns:
        return np.zeros(len(next(iter(arrays.values()))), np.int32)
    codes = [arrays[name] for name in schema.label_columns]
    return np.ravel_multi_index(codes, schema.label_shape).astype(np.int32)


def label_arrays(labels: NDArray[np.int32], schema: Schema) -> dict[str, NDArray[np.int32]]:
    """The inverse of ``label_codes``: the codes of each of the label's columns, int32 (n,), by its name."""
    if not schema.label_columns:
        return {}
    codes = np.unravel_index(labels, schema.label_shape)
    return {name: code.astype(np.int32) for name, code in zip(schema.label_columns, codes, strict=True)}
