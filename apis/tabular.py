"""Tables without a model (Tab-PE): random = uniform in the declared domain, vary = redraw or move within the degree."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pe.data.arrays import to_numpy, to_table
from pe.data.gap_form import GapForm
from pe.data.population import Population
from pe.data.schema import Categorical, Column, Image, Numeric, Schema, Text
from pe.errors import SchemaError

MISSING = 0.1
"""Share of missing values among the numbers and ordinals that are drawn, where the schema declares them."""


class TabularAPI:
    """Draws and perturbs records of all columns but images.

    ``random`` draws uniformly from the domain: numbers on a log scale uniformly in their logarithm, categories with
    "missing" as one more value. ``vary`` redraws each category uniformly with probability ``degree`` and moves each
    number, date and ordinal by ``degree`` times its range times a standard uniform on [-1, 1] or, with
    ``mutation="gaussian"``, a normal of the same variance; they reflect at the bounds of their domain. Ordinals are
    rounded up or down at random, so that small moves reach a neighbour now and then. Whether a number is missing is
    redrawn with probability ``degree``. Columns under an order or sum constraint are drawn and moved as gaps
    (``pe.data.gap_form``). Raises SchemaError if the schema has other columns.
    """

    name = "tabular"

    def __init__(self, schema: Schema, *, mutation: str = "uniform") -> None:
        for column in schema.features:
            if isinstance(column, (Image, Text)):
                raise SchemaError(
                    f"the tabular API makes no {column.kind} (column '{column.name}'). Nothing was spent."
                )
        if mutation not in ("uniform", "gaussian"):
            raise SchemaError(f"expected mutation 'uniform' or 'gaussian', got {mutation!r}. Nothing was spent.")
        self.schema = schema
        self.mutation = mutation
        self._form = GapForm.of(schema)

    def random(self, n: int, label: int, rng: np.random.Generator) -> Population:
        arrays = {}
        for column in self._form.columns:
            values = _drawn(column, n, rng)
            if column.missing and _moves(column):
                values = np.where(rng.random(n) < MISSING, _absent(column), values)
            arrays[column.name] = values
        return Population.of(to_table(self._form.rebuild(arrays, rng), self.schema), label, self.name)

    def vary(self, parents: Population, degree: float, rng: np.random.Generator) -> Population:
        n = len(parents)
        arrays: dict[str, NDArray[Any]] = {}
        for column in self._form.columns:
            values = to_numpy(parents.records, column)
            if not _moves(column):
                redrawn = _drawn(column, n, rng)
                arrays[column.name] = np.where(rng.random(n) < degree, redrawn, values)
                continue
            moved = self._moved(values, column, degree, rng)
            if column.missing:
                absent = np.isnan(values) if isinstance(column, Numeric) else values == _absent(column)
                moved = np.where(absent, _drawn(column, n, rng), moved)
                absent = np.where(rng.random(n) < degree, rng.random(n) < MISSING, absent)
                moved = np.where(absent, _absent(column), moved)
            arrays[column.name] = moved
        return Population.of(to_table(self._form.rebuild(arrays, rng), self.schema), parents.labels, self.name)

    def _moved(
        self, values: NDArray[Any], column: Column, degree: float, rng: np.random.Generator
    ) -> NDArray[np.float64] | NDArray[np.int64]:
        steps = self._steps(len(values), rng)
        if isinstance(column, Categorical):
            last = len(column.values) - 1
            return np.floor(_reflected(values + degree * last * steps, 0, last) + rng.random(len(values))).astype(
                np.int64
            )
        assert isinstance(column, Numeric)
        low, high = column.minimum, column.maximum
        if not column.log:
            moved = _reflected(values + degree * (high - low) * steps, low, high)
        else:
            start, end = np.log([low, high])
            places = _reflected(np.log(values) + degree * (end - start) * steps, start, end)
            moved = values if degree == 0 else np.clip(np.exp(places), low, high)
        return np.rint(moved).astype(np.int64) if column.integer and not column.missing else _rounded(moved, column)

    def _steps(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        if self.mutation == "uniform":
            return rng.uniform(-1, 1, size=n)
        return rng.normal(0, 1 / np.sqrt(3), size=n)


def _moves(column: Column) -> bool:
    """Whether neighbouring values are alike."""
    return isinstance(column, Numeric) or (isinstance(column, Categorical) and column.ordered)


def _absent(column: Column) -> float:
    """How a missing value is held."""
    return len(column.values) if isinstance(column, Categorical) else np.nan


def _drawn(column: Column, n: int, rng: np.random.Generator) -> NDArray[Any]:
    """Uniform in the domain; numbers and ordinals are never missing here."""
    if isinstance(column, Categorical):
        return rng.integers(len(column.values) if column.ordered else column.states, size=n, dtype=np.int32)
    assert isinstance(column, Numeric)
    low, high = column.minimum, column.maximum
    if column.log:
        return _rounded(np.clip(np.exp(rng.uniform(np.log(low), np.log(high), size=n)), low, high), column)
    if column.integer:
        return rng.integers(int(low), int(high), size=n, endpoint=True)
    return rng.uniform(low, high, size=n)


def _rounded(values: NDArray[np.float64], column: Numeric) -> NDArray[np.float64]:
    return np.rint(values) if column.integer else values


def _reflected(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """Fold values back into [low, high] at its ends."""
    width = high - low
    if width == 0:
        return np.full_like(values, low)
    offset = np.mod(values - low, 2 * width)
    return np.clip(low + np.minimum(offset, 2 * width - offset), low, high)
