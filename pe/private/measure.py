"""One-shot sums over the private records: marginals, and means of random Fourier features. Released like votes.

Every unit adds an integer vector whose squared L2 norm is bounded, and the bound is enforced in integers. What comes
out is a ``Votes`` object: nothing is read before ``release`` has charged for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import accumulate
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pe.data.arrays import to_numpy
from pe.data.labels import label_arrays
from pe.data.schema import Categorical, Numeric, Schema
from pe.errors import ConfigError
from pe.kernels.count import bounded, bounded_sum
from pe.kernels.quantise import quantise
from pe.privacy.budget import Adjacency, Unit
from pe.privacy.contribution import sensitivity_squared
from pe.privacy.release import Votes
from pe.private import spill
from pe.private.blocks import Block
from pe.private.cache import Cache, rehearse_cache
from pe.private.dataset import PrivateDataset
from pe.private.embeddings import embeddings, make_ready
from pe.private.question import question_digest
from pe.protocols import Embedder

CHUNK = 2**15
"""Records in memory at a time; a user's records are never parted, however many they are."""

ENTRIES = 2**21
"""Entries of their vectors in memory at a time, dense or sparse: fewer records where theirs are long."""


class Bounded(Protocol):
    """A public map of each record to an integer vector, in grid steps.

    ``bound_squared`` bounds every record's squared norm, ``signed`` says whether entries may be negative.
    """

    @property
    def name(self) -> str: ...
    @property
    def bins(self) -> int: ...
    @property
    def grid(self) -> int: ...
    @property
    def bound_squared(self) -> int: ...
    @property
    def signed(self) -> bool: ...


class Sparse(Bounded, Protocol):
    """``vectors`` returns bins int64 (n, m), distinct within a row, and values int64 (n, m), record by record."""

    def vectors(self, table: pa.Table, labels: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]: ...


@runtime_checkable
class Apart(Protocol):
    """Of signed vectors, where they are less far apart than their norms allow: ``apart_squared`` bounds the squared
    distance of the vectors of any two records."""

    @property
    def apart_squared(self) -> int: ...


@runtime_checkable
class Dense(Bounded, Protocol):
    """Of records' embeddings: ``dense`` maps integers (n, dim), and which rows are an embedding, bool (n,), to values
    int64 (n, bins / labels), row by row, which count in the bins of a record's label."""

    @property
    def labels(self) -> int: ...
    @property
    def embedder(self) -> Embedder: ...

    def dense(self, vectors: NDArray[np.integer[Any]], finite: NDArray[np.bool_]) -> NDArray[np.int64]: ...


Features = Sparse | Dense


def measure(private: PrivateDataset, features: Features, *, adjacency: Adjacency, norm: float | None = None) -> Votes:
    """The sum of all records' vectors, to be released.

    norm  for unit "user": the L2 norm, in votes, to which each user's summed vector is scaled down.
    """
    user_bound = None if norm is None else math.floor((Fraction(norm) * features.grid) ** 2)
    bound = features.bound_squared if user_bound is None else user_bound
    sensitivity = sensitivity_squared(bound, adjacency, signed=features.signed)
    if user_bound is None and adjacency is Adjacency.REPLACE_ONE and isinstance(features, Apart):
        sensitivity = min(sensitivity, Fraction(features.apart_squared))

    def counts() -> NDArray[np.int64]:
        if isinstance(features, Dense):
            return _dense(private, features, user_bound)
        if user_bound is not None:
            return user_sum(private, features.vectors, features.bins, user_bound)
        total = np.zeros(features.bins, np.int64)
        for part in _parts(private, features.vectors):
            total += _sum(features, part.records, part.labels)
        return total

    def ready() -> None:
        if isinstance(features, Dense):
            make_ready(private, features.embedder, users=user_bound is not None)
        elif user_bound is not None and private.streamed:
            rehearse_cache()  # where users' sums will be added up

    return Votes(
        counts,
        features.bins,
        sensitivity,
        adjacency,
        features.name,
        unit=Unit.RECORD if norm is None else Unit.USER,
        grid=features.grid,
        ready=ready,
        question=question_digest(private.schema, features, user_bound),
    )


Vectors = Callable[[pa.Table, NDArray[np.int32]], tuple[NDArray[np.int64], NDArray[np.int64]]]
"""Records and their labels to bins and values, as ``Features.vectors``."""


def user_sum(private: PrivateDataset, vectors: Vectors, size: int, bound: int) -> NDArray[np.int64]:
    """Sum of all users' vectors, each added up over the user's records and scaled down to squared norm ``bound``.

    Streamed records are added up by way of private temporary files.
    """
    private.require_users()
    if private.streamed:
        with Cache.open().temporary("sums") as folder:
            files, entries = [], 0
            for number, part in enumerate(_parts(private, vectors)):
                assert part.users is not None
                bins, values = vectors(part.records, part.labels)
                owners = np.repeat(part.users, bins.shape[1], axis=0)
                files.append(folder / f"{number:06d}.npy")
                spill.write(files[-1], owners, bins.reshape(-1), values.reshape(-1))
                entries += bins.size
            return spill.total(files, entries, size, bound)
    total, users = np.zeros(size, np.int64), private.users
    for index in _chunks(users, _rows(private._records, private._labels, vectors)):
        bins, values = vectors(private._records.take(index), private._labels[index])
        groups = np.repeat(users[index], bins.shape[1])
        total += bounded_sum(groups, bins.reshape(-1), values.reshape(-1), size, bound)
    return total


def _rows(table: pa.Table, labels: NDArray[np.int32], vectors: Vectors) -> int:
    """Records whose vectors are made at a time: those of the first say how long all are."""
    width: int = vectors(table[:1], labels[:1])[0].shape[1] if len(labels) else 1
    return max(1, min(CHUNK, ENTRIES // max(width, 1)))


def _parts(private: PrivateDataset, vectors: Vectors) -> Iterator[Block]:
    """All records, as many at a time as ``_rows`` says."""
    for block in private._blocks():
        rows = _rows(block.records, block.labels, vectors)
        for start in range(0, len(block), rows):
            yield block.cut(start, start + rows)


def _sum(features: Sparse, table: pa.Table, labels: NDArray[np.int32]) -> NDArray[np.int64]:
    """Sum of the records' vectors, each of which must keep its bound."""
    bins, values = features.vectors(table, labels)
    if ((values * values).sum(axis=1) > features.bound_squared).any():
        raise ConfigError(f"the {features.name} of a record pass their own bound.")
    total = np.zeros(features.bins, np.int64)
    np.add.at(total, bins.reshape(-1), values.reshape(-1))
    return total


def _dense(private: PrivateDataset, features: Dense, user_bound: int | None) -> NDArray[np.int64]:
    """Sum of dense vectors, a few rows at a time, each of which must keep its bound."""
    width, bound = features.bins // features.labels, features.bound_squared
    rows = max(1, ENTRIES // width)
    found = embeddings(private, features.embedder, users=user_bound is not None)
    labels = found.labels.astype(np.int64)
    total = np.zeros((features.labels, width), np.int64)

    def add(into: NDArray[np.int64], places: NDArray[np.int64], index: NDArray[np.int64]) -> None:
        for start in range(0, len(index), rows):
            values = features.dense(*found.take(index[start : start + rows]))
            if ((values * values).sum(axis=1) > bound).any():
                raise ConfigError(f"the {features.name} of a record passes its own bound.")
            np.add.at(into, places[start : start + rows], values)

    if user_bound is None:
        add(total, labels, np.arange(len(labels)))
        return total.reshape(-1)
    largest = math.isqrt(2**62 // features.bins)  # no sum of squares overflows
    for index in _chunks(found.users, rows):
        pairs, places = np.unique(np.stack([found.users[index], labels[index]]), axis=1, return_inverse=True)
        sums = np.zeros((pairs.shape[1], width), np.int64)
        add(sums, places.reshape(-1), index)
        np.add.at(total, pairs[1], bounded(pairs[0], np.clip(sums, -largest, largest), user_bound))
    return total.reshape(-1)


def _chunks(groups: NDArray[np.int64], rows: int) -> Iterator[NDArray[np.int64]]:
    """Rows in the order of their groups, ``rows`` or more at a time, no group parted."""
    order = np.argsort(groups, kind="stable")
    ends = np.flatnonzero(np.diff(groups[order], append=-1)) + 1  # groups are >= 0
    start = 0
    for end in ends.tolist():
        if end - start >= rows or end == len(order):
            yield order[start:end]
            start = end


@dataclass(frozen=True)
class Records:
    """How many records each label has; without a label, how many there are. ``grid`` steps per record.

    with_total  the last bin counts all records, ``total_steps`` steps each. A record's squared norm is then
                grid**2 + total_steps**2, whatever its label.
    """

    labels: int
    grid: int = 1
    with_total: bool = False

    name = "label counts"
    signed = False

    @property
    def bins(self) -> int:
        return self.labels + self.with_total

    @property
    def total_steps(self) -> int:
        return max(1, self.grid // 2)

    @property
    def bound_squared(self) -> int:
        return self.grid**2 + (self.total_steps**2 if self.with_total else 0)

    def vectors(self, table: pa.Table, labels: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        bins = labels[:, None].astype(np.int64)
        values = np.full_like(bins, self.grid)
        if self.with_total:
            bins = np.concatenate([bins, np.full_like(bins, self.labels)], axis=1)
            values = np.concatenate([values, np.full_like(values, self.total_steps)], axis=1)
        return bins, values


@dataclass(frozen=True)
class Marginals:
    """Histograms over sets of columns: each record adds one to one cell of each, so its norm is their square root.

    columns  the sets; a name may be one of the label's.
    cells    how many equal cells a numeric column is cut into (equal in their logarithm on a log scale).
    grid     steps per count: more than 1 where users' vectors are scaled down.
    """

    schema: Schema
    columns: tuple[tuple[str, ...], ...]
    cells: int = 16
    grid: int = 1

    name = "marginals"
    signed = False

    def __post_init__(self) -> None:
        if not self.columns or self.cells < 1 or self.grid < 1:
            raise ConfigError("expected at least one set of columns, one cell and one step. Nothing was spent.")
        for names in self.columns:
            for name in names:
                if not isinstance(self.schema.column(name), (Categorical, Numeric)):
                    raise ConfigError(f"column '{name}' has no cells: expected a number or categories.")

    @cached_property
    def shapes(self) -> list[tuple[int, ...]]:
        """Cells along each column, one tuple per set."""
        return [tuple(self._size(name) for name in names) for names in self.columns]

    @property
    def bins(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def bound_squared(self) -> int:
        return len(self.columns) * self.grid**2

    def tables(self, sums: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """Released sums, float64 (bins,), as one array per set, one axis per column."""
        ends = list(accumulate(math.prod(shape) for shape in self.shapes))
        parts = np.split(sums, ends[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def vectors(self, table: pa.Table, labels: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        codes = {name: self._codes(name, table, labels) for names in self.columns for name in names}
        bins, start = [], 0
        for names, shape in zip(self.columns, self.shapes, strict=True):
            bins.append(start + np.ravel_multi_index([codes[name] for name in names], shape))
            start += math.prod(shape)
        found = np.stack(bins, axis=1).astype(np.int64)
        return found, np.full_like(found, self.grid)

    def _size(self, name: str) -> int:
        """Cells of a column; where values may be missing, the last one is theirs."""
        column = self.schema.column(name)
        return column.states if isinstance(column, Categorical) else self.cells + column.missing

    def _codes(self, name: str, table: pa.Table, labels: NDArray[np.int32]) -> NDArray[np.int64]:
        column = self.schema.column(name)
        if name in self.schema.label_columns:
            return label_arrays(labels, self.schema)[name].astype(np.int64)
        values = to_numpy(table, column)
        if isinstance(column, Numeric):
            absent = np.isnan(values)
            if column.log:
                edges = np.geomspace(column.minimum, column.maximum, self.cells + 1)[1:-1]
                found = np.searchsorted(edges, values, side="right").astype(np.float64)
            else:
                width = (column.maximum - column.minimum) / self.cells or 1.0
                found = np.clip(np.floor((values - column.minimum) / width), 0, self.cells - 1)
            values = np.where(absent, self.cells, found)
        return values.astype(np.int64)


PHASES = 2**16
"""Steps of a full turn."""

_FRACTION = 2**8
"""Finer steps in which frequencies are given, so that rounding them does not add up over an embedding's entries."""


def _waves(amplitude: int) -> NDArray[np.int64]:
    """Cosine and sine of a full turn in ``PHASES`` steps, int64 (2, PHASES)."""
    angles = np.arange(PHASES) * (2 * math.pi / PHASES)
    waves: NDArray[np.int64] = np.rint(amplitude * np.stack([np.cos(angles), np.sin(angles)])).astype(np.int64)
    return waves


def fourier_bound(features: int, amplitude: int) -> int:
    """The largest squared norm of a record's Fourier features, in grid steps."""
    return features * int((_waves(amplitude) ** 2).sum(axis=0).max())


class FourierMean:
    """Sum of cosines and sines of random projections of the records' embeddings, per label (Rahimi and Recht 2007).

    One release of it estimates the kernel mean of the private records, for any number of later rounds (DP-KDE). All of
    it is integer arithmetic: a record's quantised embedding times integer frequencies is its phase, in 2**16 steps of a
    turn, and its features are table entries. So a record's vector is the same in any batch, on any machine, and its
    norm is bounded exactly. A record that cannot be embedded adds nothing.

    frequencies  float64 (dim, features), in radians per unit of the embedding: public, drawn by the caller.
    amplitude    steps of a cosine's largest value.
    """

    name = "Fourier mean"
    grid = 1
    signed = True

    def __init__(
        self, embedder: Embedder, frequencies: NDArray[np.float64], labels: int = 1, amplitude: int = 32
    ) -> None:
        turns = np.asarray(frequencies, np.float64) / (2 * math.pi * embedder.scale) * PHASES * _FRACTION
        if turns.ndim != 2 or turns.shape[0] != embedder.dim or not np.isfinite(turns).all():
            raise ConfigError(
                f"expected finite frequencies of shape ({embedder.dim}, features), got {turns.shape}. "
                "Nothing was spent."
            )
        self.embedder = embedder
        self.labels = labels
        self.amplitude = amplitude
        self._steps = np.rint(turns)
        if np.abs(self._steps).sum(axis=0).max(initial=0) * embedder.limit >= 2**53:
            raise ConfigError("frequencies are too large for exact phases: lower them. Nothing was spent.")
        self._table = _waves(amplitude)

    @property
    def features(self) -> int:
        return int(self._steps.shape[1])

    @property
    def bins(self) -> int:
        return self.labels * 2 * self.features

    @property
    def bound_squared(self) -> int:
        return fourier_bound(self.features, self.amplitude)

    @property
    def question(self) -> tuple[object, ...]:
        """All that decides a record's vector, for ``pe.private.question``."""
        return self.embedder, self._steps, self.labels, self.amplitude

    def entries(self, vectors: NDArray[np.float32]) -> NDArray[np.int64]:
        """Cosines, then sines, of embeddings float32 (n, dim): int64 (n, 2 features); zero where not finite."""
        return self.dense(*quantise(vectors, self.embedder.scale, self.embedder.limit))

    def dense(self, vectors: NDArray[np.integer[Any]], finite: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The same of embeddings as integers (n, dim)."""
        phases = vectors.astype(np.float64) @ self._steps  # whole numbers below 2**53: exact in any order
        turn = np.floor(phases / _FRACTION).astype(np.int64) % PHASES
        found: NDArray[np.int64] = np.concatenate([self._table[0][turn], self._table[1][turn]], axis=1)
        found[~finite] = 0
        return found

    def means(self, sums: NDArray[np.float64], sizes: Sequence[float]) -> NDArray[np.float64]:
        """Released sums, float64 (bins,), over the (noisy) sizes of the labels: float64 (labels, 2 features).

        Scaled so that each record's vector has norm 1.
        """
        per_label = sums.reshape(self.labels, -1) / (self.amplitude * math.sqrt(self.features))
        found: NDArray[np.float64] = per_label / np.maximum(np.asarray(sizes, np.float64), 1.0)[:, None]
        return found
