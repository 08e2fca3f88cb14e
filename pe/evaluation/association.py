"""Association of every pair of columns, numbers and categories alike, as one matrix.

two numbers      Pearson's correlation, in [-1, 1], over the records where both are there
two categories   Cramer's V, in [0, 1] (Cramer 1946, chapter 21), a missing value being a category of its own
one of each      the correlation ratio, in [0, 1] (Fisher 1925), over the records where the number is there

Where a column is constant, or there are fewer than two records, association is 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pe.evaluation.tables import Field, Frame


def association(frame: Frame, fields: Sequence[Field]) -> NDArray[np.float64]:
    """Symmetric float64 (d, d) with ones on the diagonal."""
    numeric = [index for index, field in enumerate(fields) if field.values is None]
    matrix = np.eye(len(fields))
    if numeric:
        block = pearson(np.stack([frame[fields[index].name] for index in numeric], axis=1))
        matrix[np.ix_(numeric, numeric)] = block
    for i, one in enumerate(fields):
        if one.values is None:
            continue
        for j, other in enumerate(fields):
            if other.values is None:
                matrix[i, j] = matrix[j, i] = correlation_ratio(frame[one.name], frame[other.name])
            elif j < i:
                matrix[i, j] = matrix[j, i] = cramers_v(frame[one.name], frame[other.name])
    np.fill_diagonal(matrix, 1.0)
    return matrix


def difference(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    """Mean absolute difference over all pairs of columns; None for a single column."""
    above = np.triu_indices(len(one), 1)
    return float(np.abs(one - other)[above].mean()) if len(above[0]) else None


def pearson(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlation of the columns of ``values`` (n, d), NaN where missing, over pairwise complete records."""
    there = np.isfinite(values)
    counts = np.maximum(there.sum(axis=0), 1)
    filled = np.where(there, values, 0.0)
    centred = np.where(there, values - filled.sum(axis=0) / counts, 0.0)
    largest = np.abs(centred).max(axis=0, initial=0.0)
    low, high = np.where(there, values, np.inf).min(axis=0), np.where(there, values, -np.inf).max(axis=0)
    centred = centred / np.where(low < high, largest, 1.0) * (low < high)
    present = there.astype(np.float64)
    n = np.maximum(present.T @ present, 1.0)
    sums = centred.T @ present  # [i, j]: sum of column i where j is there
    products = centred.T @ centred - sums * sums.T / n
    squares = (centred**2).T @ present - sums**2 / n
    scale = np.sqrt(np.maximum(squares, 0.0) * np.maximum(squares.T, 0.0))
    defined = scale > 1e-12
    found: NDArray[np.float64] = np.clip(np.where(defined, products / np.where(defined, scale, 1.0), 0.0), -1.0, 1.0)
    np.fill_diagonal(found, 1.0)
    return found


def cramers_v(one: NDArray[np.int64], other: NDArray[np.int64]) -> float:
    """Cramer's V of two columns of codes, int64 (n,) from -1, without bias correction."""
    size = int(other.max(initial=-1)) + 2  # -1 is a missing value
    table = np.bincount((one + 1) * size + other + 1, minlength=(int(one.max(initial=-1)) + 2) * size) / len(one)
    table = table.reshape(-1, size)
    table = table[table.any(axis=1)][:, table.any(axis=0)]
    shape = table.shape
    if min(shape) < 2:
        return 0.0
    expected = np.outer(table.sum(axis=1), table.sum(axis=0))
    phi_squared = float((table**2 / expected).sum() - 1)
    return float(np.sqrt(min(max(phi_squared, 0.0) / (min(shape) - 1), 1.0)))


def correlation_ratio(codes: NDArray[np.int64], numbers: NDArray[np.float64]) -> float:
    """The share of a number's variance between categories, its square root: eta."""
    there = np.isfinite(numbers)
    values = numbers[there]
    if len(values) < 2 or values.min() == values.max():
        return 0.0
    groups = codes[there] + 1
    centred = values - values.mean()
    centred = centred / np.abs(centred).max()
    sizes = np.maximum(np.bincount(groups), 1)
    between = float((np.bincount(groups, centred) ** 2 / sizes).sum())
    return float(np.sqrt(min(between / float((centred**2).sum()), 1.0)))
