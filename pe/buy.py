"""Bounds and categories bought from the private data: one noisy release, charged to the source like every other.

A column whose bounds are not public says ``bounds = "buy"`` and a wide public range, ``within = [lo, hi]``; one whose
frequent categories are not, ``values = "buy"`` and public ``candidates = [...]`` or a ``candidates_file`` (one a line).
Every record adds one to one cell of each bought column, or none where the value is missing or no candidate, so its norm
is at most the root of how many columns are bought. Domains without public candidates are refused: they would need
partition selection, which is not offered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import tomli_w
from numpy.typing import NDArray

from pe.data.arrays import to_numpy
from pe.data.columns import Categorical, Datetime, Numeric, column_from, values_from
from pe.data.dialect import AUTO, CsvOptions
from pe.data.public_files import files_of_schema, require_public
from pe.data.schema import Purchase, Schema, parsed, refused
from pe.errors import SchemaError
from pe.evolution.plan import noise_scales
from pe.orders import ordered
from pe.privacy.budget import Adjacency, Budget, Unit
from pe.privacy.contribution import Contribution
from pe.privacy.ledger import Ledger, granted
from pe.privacy.mechanism import DiscreteGaussian
from pe.private.dataset import PrivateDataset
from pe.private.measure import measure

SURE = 4.5
"""Noise standard deviations above which a count is taken for records.

Noise alone passes one time in 300,000 a count; a column's bounds, which rest on hundreds of counts, then reach further
than the records in one of 300 to 2,000 purchases (simulated).
"""

OTHER = "other"
"""The value of all categories that were not found often enough."""

_LINEAR_CELLS = 128
_PER_DOUBLING = 4  # cells between x and 2 x
_DECADES = 9  # below the largest magnitude of a float


@dataclass(frozen=True)
class Bought:
    """A complete schema, what it cost, and remarks (columns of which nothing was found). All of it is released.

    ``certificate`` covers the text of the schema, as ``schema.toml``, as a release's does its files.
    """

    schema: Schema
    purchase: Purchase
    names: tuple[str, ...]
    sigma: float
    remarks: tuple[str, ...]
    certificate: dict[str, Any] = field(default_factory=dict, repr=False)

    def to_toml(self) -> str:
        """The schema with comments that say what was bought."""
        lines = [
            f"# Bought from source '{self.purchase.source}' at epsilon {self.purchase.epsilon:g}, "
            f"delta {self.purchase.delta:g}; noise {self.sigma:.4g} records;",
            f"# ledger entry {self.purchase.entry}.",
            "# Everything else here is declared public.",
            "",
        ]
        heads = {tomli_w.dumps({"columns": {name: {}}}).strip(): name for name in self.names}
        for line in self.schema.to_toml().splitlines():
            if line in heads:
                bought = "values" if isinstance(self.schema.column(heads[line]), Categorical) else "bounds"
                lines.append(f"# {bought} bought, entry {self.purchase.entry[:16]}")
            lines.append(line)
        return "\n".join(lines) + "\n"


def buy_schema(
    data: object,
    wanted: str | Path | Mapping[str, Any],
    *,
    source: str,
    epsilon: float,
    delta: float,
    adjacency: str,
    user: str | None = None,
    user_norm: float | None = None,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    delimiter: str = AUTO,
    encoding: str = AUTO,
    multiline: bool | None = None,
    ledger: str | Path | None = None,
    create: bool = False,
    again: bool = False,
) -> Bought:
    """Complete a schema by one release of (epsilon, delta) on a source's account, which later runs share.

    wanted     path of a schema in which some columns are to be bought, or its parsed content.
    user_norm  with ``user``: the L2 norm to which each user's counts are scaled down; by default one record's.
    create     grant the source exactly this budget if the ledger does not know it.
    delimiter, encoding, multiline  of CSV and TSV files: see ``pe.data.dialect.CsvOptions``.
    again      pay once more where the charge of an earlier call was lost in a crash, or the data changed since.

    The same purchase is paid for once: its noisy answer is stored beside the ledger (``pe.orders``), and another call
    with the same arguments completes the schema from it free of charge.

    Bounds are the edges of the outermost cells that hold records beyond doubt: noisy counts of ``SURE`` standard
    deviations in the cell, or in the 2, 4, 8, ... cells that end with it; then one cell further out. Records beyond are
    too few to be told from noise. Where no cell does, ``within`` stays. Categories are the candidates whose noisy count
    exceeds ``SURE`` standard deviations; all others are ``OTHER``, the column's default. Dates, and numbers of like
    size, are counted in equal cells, other numbers in cells that are log-spaced about 0.

    Raises SchemaError or ConfigError (nothing spent), BudgetExceededError (nothing spent), PrivateDataError.
    """
    with refused("wanted" if isinstance(wanted, Mapping) else wanted):
        if isinstance(wanted, Mapping):
            request = _Request.of(wanted, Path())
        else:
            if isinstance(data, (str, Path)):
                require_public(files_of_schema(wanted), data, f"the schema {wanted}")
            request = _Request.of(parsed(Path(wanted).read_text(encoding="utf-8")), Path(wanted).parent)
    unit = Unit.RECORD if user is None else Unit.USER
    book = Ledger(ledger, create=create)
    budget = Budget(epsilon, delta, cast(Adjacency, adjacency), unit)  # which checks it
    if source in book.sources():
        budget = Budget(epsilon, delta, budget.adjacency, unit, granted(book.chain(source)).accountant)
    elif create:
        book.create(source, budget)
    bought = len(request.columns)
    norm = None if user is None else math.sqrt(bought) if user_norm is None else user_norm
    ((sigma, contribution),) = noise_scales(budget, [1.0], [Contribution.of((1.0,) * bought, norm)])
    cells = _Cells(request, contribution.grid)
    mechanism = DiscreteGaussian(sigma * cells.grid, contribution.sensitivity_squared(budget.adjacency))
    cost = budget.accountant.cost(mechanism, budget.delta)
    asked = [request.content, [user, norm], dict(columns or {})]
    with ordered(book, source, "purchase", asked, budget, again=again) as order:
        order.settle(cost)
        private = PrivateDataset.read(
            data,
            Schema(request.columns),
            adjacency=budget.adjacency,
            format=format,
            columns={name: place for name, place in (columns or {}).items() if name in request.names},
            user=user,
            options=CsvOptions(delimiter, encoding, multiline, request.has_text),
        )
        warnings = order.bind(private, cost)
        histogram = order.release(measure(private, cells, adjacency=budget.adjacency, norm=norm), sigma, 0)
    purchase = Purchase(cells.name, source, epsilon, delta, histogram.entry)
    schema, remarks = request.completed(cells.parts(histogram.votes), float(sigma), purchase)
    made = Bought(schema, purchase, request.names, float(sigma), remarks + warnings)
    public = ["the schema but for what was bought, and the public ranges and candidates that it was bought from"]
    public += private.public_form
    content, answer = made.to_toml().encode(), histogram.counts.tobytes()
    return replace(made, certificate=order.certify({"schema.toml": content}, {cells.name: answer}, public))


@dataclass(frozen=True)
class _Request:
    """The content of a schema file, and a stand-in for each bought column: its widest domain, with missing values."""

    content: dict[str, Any]
    columns: tuple[Numeric | Categorical, ...]
    folder: Path

    @property
    def has_text(self) -> bool:
        """Whether a column of free text is declared: then quoted fields of a CSV file may hold line breaks."""
        entries = self.content.get("columns", {}).values()
        return any(isinstance(entry, Mapping) and entry.get("type") == "text" for entry in entries)

    @classmethod
    def of(cls, content: Mapping[str, Any], folder: Path) -> _Request:
        """Check everything that could be wrong with the completed schema, before anything is spent."""
        entries = content.get("columns")
        if not isinstance(entries, Mapping):
            raise SchemaError("expected a schema of [columns.NAME] tables.")
        complete, bought = {}, []
        for name, entry in entries.items():
            complete[name] = entry
            if isinstance(entry, Mapping) and "buy" in (entry.get("bounds"), entry.get("values")):
                complete[name] = _widest(name, entry, folder)
                bought.append(column_from(name, complete[name] | {"missing": True}))
        if not bought:
            raise SchemaError("no column says bounds = 'buy' or values = 'buy': there is nothing to buy.")
        schema = Schema.from_dict({**content, "columns": complete}, folder)
        stand_ins = tuple(column for column in bought if isinstance(column, (Numeric, Categorical)))
        for constraint in schema.constraints:
            for column in stand_ins:
                if column.name in constraint.names:
                    raise SchemaError(
                        f"constraint {constraint}: the bought domain of '{column.name}' may not allow it; add it to "
                        "the schema that is written."
                    )
        return cls({**content, "columns": complete}, stand_ins, folder)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    def completed(
        self, counts: Sequence[NDArray[np.float64]], sigma: float, purchase: Purchase
    ) -> tuple[Schema, tuple[str, ...]]:
        entries, remarks = dict(self.content["columns"]), []
        for column, found in zip(self.columns, counts, strict=True):
            entry = dict(entries[column.name])
            if isinstance(column, Categorical):
                kept = [value for value, count in zip(column.values, found, strict=True) if count > SURE * sigma]
                entry |= {"values": [*(value for value in kept if value != OTHER), OTHER], "default": OTHER}
                nothing = not kept
            else:
                ends = _outermost(found, sigma)
                nothing = ends is None
                if ends is not None:
                    edges = _edges(column)
                    low, high = float(edges[ends[0]]), float(edges[ends[1] + 1])
                    if column.integer:
                        low, high = max(math.floor(low), column.minimum), min(math.ceil(high), column.maximum)
                    if column.step is not None:  # outwards: the edges of cells know no steps
                        low = max(math.floor(low / column.step) * column.step, column.minimum)
                        high = min(math.ceil(high / column.step) * column.step, column.maximum)
                        low, high = column.from_steps(column.steps(np.array([low, high]))).tolist()
                    ended = Numeric(column.name, low, high, column.integer)
                    text = column.text if isinstance(column, Datetime) else None
                    bounds = ended.to_dict() if text is None else {"min": text(low), "max": text(high)}
                    entry |= {key: bounds[key] for key in ("min", "max")}
            if nothing:
                remarks.append(f"column '{column.name}': the noise hides every count; the widest domain stays")
            entries[column.name] = entry
        content = {**self.content, "columns": entries, "bought": [*self.content.get("bought", []), vars(purchase)]}
        return Schema.from_dict(content, self.folder), tuple(remarks)


def _widest(name: str, entry: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The entry with all of ``within``, or all candidates."""
    kind = entry.get("type")
    rest = {key: value for key, value in entry.items() if key not in ("bounds", "within", "candidates_file")}
    if "default" in entry:
        raise SchemaError(f"column '{name}': a bought column has no default; say missing = true, or leave it out.")
    if entry.get("bounds") == "buy":
        within = entry.get("within")
        if kind not in ("integer", "float", "date", "datetime"):
            raise SchemaError(f"column '{name}': bounds are bought for numbers and dates, its type is {kind!r}.")
        if not isinstance(within, list) or len(within) != 2:
            raise SchemaError(f"column '{name}': bounds = 'buy' needs a public range, within = [lo, hi].")
        return rest | {"min": within[0], "max": within[1]}
    if kind != "categorical":
        raise SchemaError(f"column '{name}': values are bought for categories, its type is {kind!r}.")
    if ("candidates" in entry) == ("candidates_file" in entry):
        raise SchemaError(
            f"column '{name}': values = 'buy' needs public candidates or a candidates_file; an unknown set of "
            "categories would need partition selection, which is not offered."
        )
    candidates = rest.pop("candidates", None)
    if candidates is None:
        candidates = values_from(name, folder / str(entry["candidates_file"]), "candidates_file")
    if not isinstance(candidates, list):
        raise SchemaError(f"column '{name}': expected candidates as a list.")
    return rest | {"values": candidates}


class _Cells:
    """Histograms of the bought columns, as ``pe.private.measure.Features``."""

    signed = False

    def __init__(self, request: _Request, grid: int) -> None:
        self.request = request
        self.grid = grid

    @property
    def name(self) -> str:
        """What the ledger calls it."""
        bounds = ", ".join(column.name for column in self.request.columns if isinstance(column, Numeric))
        values = ", ".join(column.name for column in self.request.columns if isinstance(column, Categorical))
        return "; ".join(f"{what} of {names}" for what, names in (("bounds", bounds), ("values", values)) if names)

    @property
    def bins(self) -> int:
        return self._ends[-1]

    @property
    def bound_squared(self) -> int:
        return len(self.request.columns) * self.grid**2

    @cached_property
    def _ends(self) -> list[int]:
        """Where each column's cells end."""
        columns = self.request.columns
        return list(accumulate(len(each.values) if isinstance(each, Categorical) else _cells(each) for each in columns))

    def parts(self, sums: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """Released sums, one array per column."""
        return np.split(sums, self._ends[:-1])

    def vectors(self, table: pa.Table, labels: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        bins, values = [], []
        for column, start in zip(self.request.columns, [0, *self._ends], strict=False):
            found = to_numpy(table, column)
            if isinstance(column, Numeric):
                held = ~np.isnan(found)
                cell = np.searchsorted(_edges(column)[1:-1], found, side="right")
            else:
                held = found < len(column.values)
                cell = found
            bins.append(start + np.where(held, cell, 0))
            values.append(held * self.grid)
        return np.stack(bins, axis=1).astype(np.int64), np.stack(values, axis=1).astype(np.int64)


def _cells(column: Numeric) -> int:
    return len(_edges(column)) - 1


def _edges(column: Numeric) -> NDArray[np.float64]:
    """Edges of the public cells, ascending from the minimum to the maximum."""
    low, high = column.minimum, column.maximum
    if low == high:
        return np.array([low, high])
    smallest, largest = sorted((abs(low), abs(high)))
    if isinstance(column, Datetime) or (low * high > 0 and largest < 100 * smallest):
        edges = np.linspace(low, high, _LINEAR_CELLS + 1)
        return np.unique(np.rint(edges)) if column.integer else edges
    first = 1.0 if column.integer else largest * 10.0**-_DECADES
    steps = first * 2 ** (np.arange(math.log2(max(largest / first, 1)) * _PER_DOUBLING + 1) / _PER_DOUBLING)
    steps = np.rint(steps) if column.integer else steps
    edges = np.concatenate([-steps, [0.0], steps])
    return np.unique(np.concatenate([[low], edges[(edges > low) & (edges < high)], [high]]))


def _outermost(counts: NDArray[np.float64], sigma: float) -> tuple[int, int] | None:
    """The first and the last cell that hold records beyond doubt, each moved out by one; None where none does."""

    def first(run: NDArray[np.float64]) -> int | None:
        sums, sure, width = np.concatenate([[0.0], np.cumsum(run)]), np.zeros(len(run), np.bool_), 1
        while width <= len(run):
            sure[width - 1 :] |= sums[width:] - sums[:-width] > SURE * sigma * math.sqrt(width)
            width *= 2
        return int(np.argmax(sure)) if sure.any() else None

    left, right = first(counts), first(counts[::-1])
    if left is None or right is None:
        return None
    right = len(counts) - 1 - right
    left, right = min(left, right), max(left, right)
    return max(left - 1, 0), min(right + 1, len(counts) - 1)
