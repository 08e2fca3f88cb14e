"""Checks, on public records, that an embedder maps every record to a vector by itself.

The privacy claim rests on it: were a record's vector to depend on the other records of its batch, adding one private
record would move the votes of others, and the sensitivity that the ledger charges for would be wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pe.cost import made_up
from pe.data.arrays import to_table
from pe.data.schema import Categorical, Image, Numeric, Schema, Text
from pe.errors import EmbedderError
from pe.evolution.candidates import contents
from pe.kernels.quantise import integer_type, quantise
from pe.private.embedding import embed_table
from pe.private.vote import embed_candidates
from pe.protocols import Blocked, Embedder

RECORDS, COSTLY_RECORDS = 12, 6
"""Records that are tried; fewer where embedding is costly."""

LARGE_BATCH = 96
"""Rows of the largest batch: matrix products take another route there than for a few rows."""

BATCH_BYTES = 2**25
"""Bytes of vectors in a batch, at most: pictures make long ones."""

LONG_TEXT = 1_000
"""Characters of the longest text that is tried, where the schema allows so many."""

ODD_TEXTS = ("", " \n\t", "é 漢字 \U0001f600 \u200b %s </p> \x00")

_REMEDY = (
    "The vector of a record must follow from that record alone, or one private record moves the votes of others and "
    "the guarantee does not hold. Compute it row by row: no statistics of the batch, no padding without a mask, no "
    "dropout, no random numbers, no memory of earlier calls."
)


class RowByRow:
    """An embedder that is asked for one record at a time, so that no other record can take part in a vector.

    It stands in for one whose vectors differ between batches by rounding alone: the same records take another route
    through a matrix product in a batch of another size.
    """

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder
        self.name = f"{embedder.name}-row-by-row"

    def __getattr__(self, name: str) -> Any:
        """Everything but ``name`` and ``embed``: dim, scale, limit, and blocks or costly where there are any."""
        if name == "embedder":  # not set yet: while this is unpickled
            raise AttributeError(name)
        return getattr(self.embedder, name)

    def embed(self, table: pa.Table) -> NDArray[np.float32]:
        rows = [np.asarray(self.embedder.embed(table.slice(row, 1)), np.float32) for row in range(table.num_rows)]
        return np.concatenate([np.empty((0, self.embedder.dim), np.float32), *rows])


def check_embedder(embedder: Embedder, schema: Schema, samples: pa.Table | None = None) -> tuple[Embedder, list[str]]:
    """Embed public records alone, repeatedly, in batches and beside records that cannot be embedded, and compare.

    samples  records that an API made, in schema form: the embedder must give each of them a finite vector. Others are
             made up from the schema, its extremes among them.

    Returns the embedder for the run (``RowByRow`` of it where batches change its vectors by no more than rounding, and
    no integer of theirs), and warnings. Raises EmbedderError, which names what a vector depended on, and for a name,
    dim, scale, limit or shape that breaks the contract.
    """
    check_declaration(embedder)
    costly = bool(getattr(embedder, "costly", False))
    count = COSTLY_RECORDS if costly else RECORDS
    ordinary = trial_records(schema, count)
    if samples is not None and samples.num_rows:
        spread = np.unique(np.linspace(0, samples.num_rows - 1, count).round().astype(np.int64))
        chosen = samples.take(pa.array(spread))
        embed_candidates(chosen, embedder)
        ordinary = pa.concat_tables([chosen, ordinary.slice(0, max(2, count - chosen.num_rows))]).combine_chunks()
    table = pa.concat_tables([ordinary, odd_records(schema)]).combine_chunks()
    vectors, reasons = _alone(table, embedder)
    good = np.array([not reason for reason in reasons])
    if not good[: ordinary.num_rows].any():
        raise EmbedderError(f"embedder '{embedder.name}' embeds no public record: {reasons[0]}.")
    _check_repetition(embedder, table, vectors, good)
    rounding = _check_batches(embedder, table, vectors, good, costly=costly)
    _check_failures(embedder, table, vectors, good)
    _check_repetition(embedder, table, vectors, good)  # once more: batches in between may have left something behind
    warnings = _check_resolution(embedder, table, vectors, good)
    failed = int((~good[: ordinary.num_rows]).sum())
    if failed:
        reason = next(reason for reason in reasons[: ordinary.num_rows] if reason)
        warnings.append(
            f"embedder '{embedder.name}' cannot embed {failed} of {ordinary.num_rows} public records ({reason}): a "
            "private record like them casts a default vote, and a synthetic one like them ends the run"
        )
    if not rounding:
        return embedder, warnings
    warnings.append(
        f"vectors of embedder '{embedder.name}' differ by rounding (up to {rounding:.2g}) from one batch to another: "
        "it is asked for one record at a time, which is slower, so that no record takes part in another one's vector"
    )
    return RowByRow(embedder), warnings


def check_declaration(embedder: Embedder) -> None:
    """Raise EmbedderError unless name, dim, scale, limit and blocks are what the protocol promises."""
    name = embedder.name
    if not isinstance(name, str) or not name:
        raise EmbedderError(f"an embedder's name must be a text that is not empty, got {name!r}.")
    if _no_integer(embedder.dim) or embedder.dim < 1:
        raise EmbedderError(f"embedder '{name}': expected a whole dim >= 1, got {embedder.dim!r}.")
    if _no_integer(embedder.limit) or not 1 <= embedder.limit <= 32767:
        raise EmbedderError(f"embedder '{name}': expected a whole limit in [1, 32767], got {embedder.limit!r}.")
    scale: Any = embedder.scale
    numeric = isinstance(scale, int | float | np.number) and not isinstance(scale, bool)
    with np.errstate(over="ignore"):
        if not numeric or not 0 < np.float32(scale) < np.inf:
            raise EmbedderError(f"embedder '{name}': expected a scale > 0, finite in float32, got {scale!r}.")
    if not isinstance(embedder, Blocked):
        return
    blocks = list(embedder.blocks)
    places = [place for block in blocks for place in range(embedder.dim)[block]]
    if not blocks or len(set(places)) < len(places) or any(not range(embedder.dim)[block] for block in blocks):
        raise EmbedderError(f"embedder '{name}': expected blocks as disjoint slices of its {embedder.dim} entries.")


def trial_records(schema: Schema, n: int) -> pa.Table:
    """``n`` public records, uniform in the schema's domain; texts of different lengths. The same every time."""
    table = made_up(schema, n, np.random.default_rng(0))
    for place, column in enumerate(schema.features):
        if isinstance(column, Text):
            texts = table.column(column.name).to_pylist()
            cut = [text[: max(1, len(text) * (row + 1) // n)] for row, text in enumerate(texts)]
            table = table.set_column(place, table.schema.field(place), pa.array(cut, pa.string()))
    return table


def odd_records(schema: Schema) -> pa.Table:
    """Public records at the ends of the schema's domain, on which an embedder may fail."""
    arrays: dict[str, NDArray[Any]] = {}
    for column in schema.features:
        if isinstance(column, Numeric):
            last = np.nan if column.missing else column.minimum
            ends = np.array([column.minimum, column.maximum, last, column.maximum], np.float64)
            arrays[column.name] = ends if column.missing or not column.integer else ends.astype(np.int64)
        elif isinstance(column, Categorical):
            end = len(column.values) - 1
            arrays[column.name] = np.array([0, end, column.states - 1, 0], np.int32)
        elif isinstance(column, Image):
            values = np.array([0, 255, 128, 1], np.uint8)
            arrays[column.name] = np.repeat(values[:, None], column.size, axis=1)
        else:
            texts = [*ODD_TEXTS, "word, " * (LONG_TEXT // 6)]
            arrays[column.name] = np.array([text[: column.max_length] for text in texts], object)
    return to_table(arrays, schema)


def _no_integer(value: object) -> bool:
    return isinstance(value, bool) or not isinstance(value, int | np.integer)


def _alone(table: pa.Table, embedder: Embedder) -> tuple[NDArray[np.float32], list[str]]:
    """Each record's vector when it is embedded alone, float32 (n, dim), NaN where there is none; and why not, or ""."""
    vectors = np.full((table.num_rows, embedder.dim), np.nan, np.float32)
    reasons = []
    for row in range(table.num_rows):
        try:
            vectors[row] = embed_candidates(table.slice(row, 1), embedder)[0]
            reasons.append("")
        except EmbedderError as error:
            reasons.append(str(error).removeprefix(f"embedder '{embedder.name}'").lstrip(": ").rstrip("."))
    return vectors, reasons


def _check_repetition(
    embedder: Embedder, table: pa.Table, vectors: NDArray[np.float32], good: NDArray[np.bool_]
) -> None:
    """Raise EmbedderError where a record that is embedded once more has another vector than before."""
    for row in np.flatnonzero(good)[:2].tolist():
        again = embed_candidates(table.slice(row, 1), embedder)[0]
        if not np.array_equal(again, vectors[row]):
            raise EmbedderError(
                f"embedder '{embedder.name}' gives the same record another vector when it is asked again. {_REMEDY}"
            )


def _check_batches(
    embedder: Embedder, table: pa.Table, vectors: NDArray[np.float32], good: NDArray[np.bool_], *, costly: bool
) -> float:
    """The largest difference of a vector in a batch from the same alone; 0 where they are equal bit for bit.

    Raises EmbedderError where the integers differ that enter the vote.
    """
    expected, _ = quantise(vectors, embedder.scale, embedder.limit)
    largest = 0.0
    for arrangement, batch, index in _arrangements(table, np.flatnonzero(good), embedder.dim, costly=costly):
        made = embed_candidates(batch, embedder)
        integers, _ = quantise(made, embedder.scale, embedder.limit)
        wrong = np.flatnonzero((integers != expected[index]).any(axis=1))
        if len(wrong):
            steps = np.abs(integers.astype(np.int64) - expected[index])
            raise EmbedderError(
                f"embedder '{embedder.name}' gives a record another vector {arrangement} than alone: {len(wrong)} of "
                f"{len(index)} public records differ, by up to {int(steps.max())} steps of its scale. {_REMEDY}"
            )
        largest = max(largest, float(np.abs(made.astype(np.float64) - vectors[index]).max(initial=0.0)))
    return largest


def _arrangements(
    table: pa.Table, rows: NDArray[np.int64], dim: int, *, costly: bool
) -> Iterator[tuple[str, pa.Table, NDArray[np.int64]]]:
    """How a batch is described, the batch, and which of the records stand in it, int64 (rows of the batch,)."""
    shuffled = np.random.default_rng(1).permutation(rows)
    for size in (2, 3):
        yield f"in a batch of {size}", table.take(pa.array(rows[-size:])), rows[-size:]
    yield f"in a batch of {len(rows)}", table.take(pa.array(rows)), rows
    yield f"in another order, in a batch of {len(rows)}", table.take(pa.array(shuffled)), shuffled
    halves = [table.take(pa.array(part)) for part in np.array_split(rows, 2)]
    yield "in a table of two chunks", pa.concat_tables(halves), rows
    whole = table.take(pa.array(np.concatenate([shuffled[:1], rows])))
    yield "in a slice of a larger table", whole.slice(1), rows
    size = 2 * len(rows) if costly else LARGE_BATCH
    repeated = np.resize(shuffled, max(1, min(size, BATCH_BYTES // (4 * dim))))
    yield f"beside copies of itself, in a batch of {len(repeated)}", table.take(pa.array(repeated)), repeated


def _check_failures(embedder: Embedder, table: pa.Table, vectors: NDArray[np.float32], good: NDArray[np.bool_]) -> None:
    """Raise EmbedderError where a record that cannot be embedded changes others, by the route of private records."""
    if good.all():
        return
    expected, finite = quantise(vectors, embedder.scale, embedder.limit)
    integers, found = embed_table(table, embedder)
    wrong = int(((integers != expected).any(axis=1) | (found != finite)).sum())
    if wrong:
        raise EmbedderError(
            f"embedder '{embedder.name}' gives a record another vector beside one that cannot be embedded than alone: "
            f"{wrong} of {len(expected)} public records differ. {_REMEDY}"
        )


def _check_resolution(
    embedder: Embedder, table: pa.Table, vectors: NDArray[np.float32], good: NDArray[np.bool_]
) -> list[str]:
    """Raise EmbedderError where scale and limit leave nothing of the vectors; warn where they clip most of it."""
    integers, _ = quantise(vectors[good], embedder.scale, embedder.limit)
    different = len(set(contents(table.filter(pa.array(good)))))
    if different > 1 and (integers == integers[0]).all():
        raise EmbedderError(
            f"embedder '{embedder.name}' tells no records apart: {different} different public records have one vector "
            f"once it is multiplied by scale {embedder.scale:g}, rounded and clipped at {embedder.limit}. Votes would "
            "be lost: raise scale if entries are small, raise limit or lower scale if they are clipped."
        )
    limit = min(embedder.limit, np.iinfo(integer_type(embedder.limit)).max)
    clipped = float((np.abs(vectors[good] * np.float32(embedder.scale)) > limit + 1).mean())
    if clipped <= 0.5:
        return []
    return [
        f"{clipped:.0%} of the entries of embedder '{embedder.name}' are clipped at its limit of {embedder.limit}: "
        "lower its scale, or most of what its vectors say is lost"
    ]
