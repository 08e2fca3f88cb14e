"""Tables without a model (Tab-PE): random = uniform in the declared domain, vary = redraw or move within the degree."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pe.arrays import to_numpy, to_table
from pe.errors import SchemaError
from pe.population import Population
from pe.schema import Categorical, Image, Numeric, Schema


class TabularAPI:
    """Draws and perturbs records of numeric and categorical columns.

    ``vary`` redraws each category uniformly with probability ``degree`` and moves each number by ``degree`` times its
    range times a standard uniform on [-1, 1] or, with ``mutation="gaussian"``, a normal of the same variance;
    numbers reflect at the bounds of their domain. Raises SchemaError if the schema has other columns.
    """

    name = "tabular"

    def __init__(self, schema: Schema, *, mutation: str = "uniform") -> None:
        for column in schema.features:
            if isinstance(column, Image):
                raise SchemaError(f"the tabular API cannot make images (column '{column.name}'). Nothing was spent.")
        if mutation not in ("uniform", "gaussian"):
            raise SchemaError(f"expected mutation 'uniform' or 'gaussian', got {mutation!r}. Nothing was spent.")
        self.schema = schema
        self.mutation = mutation

    def random(self, n: int, label: int, rng: np.random.Generator) -> Population:
        arrays: dict[str, NDArray[Any]] = {}
        for column in self.schema.features:
            if isinstance(column, Categorical):
                arrays[column.name] = rng.integers(len(column.values), size=n, dtype=np.int32)
            elif isinstance(column, Numeric) and column.integer:
                arrays[column.name] = rng.integers(int(column.minimum), int(column.maximum), size=n, endpoint=True)
            elif isinstance(column, Numeric):
                arrays[column.name] = rng.uniform(column.minimum, column.maximum, size=n)
        return Population.of(to_table(arrays, self.schema), label, self.name)

    def vary(self, parents: Population, degree: float, rng: np.random.Generator) -> Population:
        n = len(parents)
        arrays: dict[str, NDArray[Any]] = {}
        for column in self.schema.features:
            values = to_numpy(parents.records, column)
            if isinstance(column, Categorical):
                redrawn = rng.integers(len(column.values), size=n, dtype=np.int32)
                arrays[column.name] = np.where(rng.random(n) < degree, redrawn, values)
            elif isinstance(column, Numeric):
                moved = values + degree * (column.maximum - column.minimum) * self._steps(n, rng)
                moved = _reflected(moved, column.minimum, column.maximum)
                arrays[column.name] = np.rint(moved).astype(np.int64) if column.integer else moved
        return Population.of(to_table(arrays, self.schema), parents.labels, self.name)

    def _steps(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        if self.mutation == "uniform":
            return rng.uniform(-1, 1, size=n)
        return rng.normal(0, 1 / np.sqrt(3), size=n)


def _reflected(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """Fold values back into [low, high] at its ends."""
    width = high - low
    if width == 0:
        return np.full_like(values, low)
    offset = np.mod(values - low, 2 * width)
    return np.clip(low + np.minimum(offset, 2 * width - offset), low, high)
