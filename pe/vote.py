"""The vote: every private record votes for its nearest candidates of its own label."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pe.errors import EmbedderError, PEError
from pe.kernels.count import bounded_sum, count
from pe.kernels.nearest import nearest as nearest_candidates
from pe.kernels.quantise import integer_type, quantise
from pe.population import Population
from pe.privacy.budget import Adjacency, Unit
from pe.privacy.contribution import Contribution
from pe.privacy.release import Votes
from pe.private import PrivateDataset
from pe.protocols import Embedder

ONE_VOTE = Contribution()

CHUNK = 2**16
"""Records whose float embeddings are in memory at a time; quantised ones take a quarter, or half, as much and stay."""

_Embedded = tuple[NDArray[np.signedinteger[Any]], NDArray[np.bool_]]

# Quantised private embeddings, for as long as the data set lives: each record is embedded once.
_embedded: WeakKeyDictionary[PrivateDataset, dict[str, _Embedded]] = WeakKeyDictionary()


def cast_votes(
    private: PrivateDataset,
    candidates: Population,
    vectors: NDArray[np.float32],
    embedder: Embedder,
    *,
    adjacency: Adjacency,
    contribution: Contribution = ONE_VOTE,
) -> Votes:
    """The votes of every private record for its nearest candidates, over the candidates of all labels together.

    ``vectors`` are the candidates' embeddings, float32 (m, dim), from ``embed_candidates`` (with lookahead they are
    means over variations). A record may vote only for candidates of its own label; it casts as many votes as there are
    candidates when there are fewer than weights. A record that cannot be embedded, or whose label has no candidate,
    casts its votes for the first candidates (of its label, if it has any). A record's votes depend on that record and
    the candidates alone. With a user norm the votes of all records of a user are added up over all labels and scaled
    down together, in integers.

    Nothing private is read until ``release`` has charged and asks for the counts.
    """
    targets, _ = quantise(vectors, embedder.scale, embedder.limit)
    bins = len(candidates)
    steps = np.array(contribution.steps, np.int64)

    def ballots() -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Rows, and the candidates they vote for, best first: int64 (rows,) and (rows, k)."""
        queries, finite = _embed_private(private, embedder)
        for label in range(len(private.schema.labels)):
            rows = np.flatnonzero(private._labels == label)
            own = np.flatnonzero(candidates.labels == label)
            usable = finite[rows] & (len(own) > 0)
            own = own if len(own) else np.arange(bins)
            k = min(contribution.nearest, len(own))
            yield rows[usable], own[nearest_candidates(queries[rows[usable]], targets[own], k)]
            yield rows[~usable], np.broadcast_to(own[:k], (len(rows) - int(usable.sum()), k))

    def counts() -> NDArray[np.int64]:
        if contribution.norm is None:
            total = np.zeros(bins, np.int64)
            for _, chosen in ballots():
                for rank in range(chosen.shape[1]):
                    total += steps[rank] * count(chosen[:, rank], bins)
            return total
        cast = [(np.repeat(rows, chosen.shape[1]), chosen.reshape(-1), chosen.shape) for rows, chosen in ballots()]
        rows = np.concatenate([row for row, _, _ in cast])
        values = np.concatenate([np.tile(steps[: shape[1]], shape[0]) for _, _, shape in cast])
        chosen = np.concatenate([each for _, each, _ in cast])
        return bounded_sum(private.users[rows], chosen, values, bins, contribution.bound_squared)

    return _votes(counts, bins, contribution, adjacency, "votes")


def count_labels(private: PrivateDataset, adjacency: Adjacency, contribution: Contribution = ONE_VOTE) -> Votes:
    """Records per label, to be released like any votes; with a user norm, each user's counts scaled down to it."""
    bins = len(private.schema.labels)

    def counts() -> NDArray[np.int64]:
        labels = private._labels.astype(np.int64)
        if contribution.norm is None:
            return contribution.steps[0] * count(labels, bins)
        values = np.full(len(labels), contribution.steps[0], np.int64)
        return bounded_sum(private.users, labels, values, bins, contribution.bound_squared)

    return _votes(counts, bins, contribution, adjacency, "label counts")


def _votes(
    counts: Callable[[], NDArray[np.int64]], bins: int, contribution: Contribution, adjacency: Adjacency, purpose: str
) -> Votes:
    return Votes(
        counts,
        bins,
        contribution.sensitivity_squared(adjacency),
        adjacency,
        purpose,
        unit=Unit.RECORD if contribution.norm is None else Unit.USER,
        grid=contribution.grid,
    )


def embed_candidates(table: pa.Table, embedder: Embedder) -> NDArray[np.float32]:
    """Embeddings of synthetic records, float32 (n, dim); raises EmbedderError unless they are all finite."""
    try:
        vectors = np.asarray(embedder.embed(table), np.float32)
    except PEError:
        raise
    except Exception as error:
        raise EmbedderError(f"embedder '{embedder.name}' failed on synthetic samples: {error!r}.") from error
    if vectors.shape != (table.num_rows, embedder.dim):
        raise EmbedderError(
            f"embedder '{embedder.name}': expected shape {(table.num_rows, embedder.dim)}, got {vectors.shape}."
        )
    if not np.isfinite(vectors).all():
        raise EmbedderError(f"embedder '{embedder.name}' returned NaN or infinity for synthetic samples.")
    return vectors


def _embed_private(private: PrivateDataset, embedder: Embedder) -> _Embedded:
    cache = _embedded.setdefault(private, {})
    if embedder.name not in cache:
        table = private._records
        integers = np.empty((table.num_rows, embedder.dim), integer_type(embedder.limit))
        finite = np.empty(table.num_rows, np.bool_)
        for start in range(0, table.num_rows, CHUNK):
            part = slice(start, start + CHUNK)
            vectors = embed_rows(table.slice(start, CHUNK), embedder)
            integers[part], finite[part] = quantise(vectors, embedder.scale, embedder.limit)
        cache[embedder.name] = integers, finite
    return cache[embedder.name]


def embed_rows(table: pa.Table, embedder: Embedder) -> NDArray[np.float32]:
    """Embeddings of private records; a record on which the embedder fails becomes NaN, and no other record with it."""
    n = table.num_rows
    if n == 0:
        return np.empty((0, embedder.dim), np.float32)
    try:
        vectors = np.asarray(embedder.embed(table), np.float32)
        if vectors.shape == (n, embedder.dim):
            return vectors
    except Exception:  # its text may quote a record
        pass
    if n == 1:
        return np.full((1, embedder.dim), np.nan, np.float32)
    halves = (table.slice(0, n // 2), table.slice(n // 2))
    return np.concatenate([embed_rows(half, embedder) for half in halves])
