"""The vote: every private record votes for its nearest candidates of its own label."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pe.errors import EmbedderError, PEError
from pe.kernels.count import count
from pe.kernels.nearest import nearest as nearest_candidates
from pe.kernels.quantise import quantise
from pe.population import Population
from pe.privacy.budget import Adjacency
from pe.privacy.mechanism import votes_sensitivity_squared
from pe.privacy.release import Votes
from pe.private import PrivateDataset
from pe.protocols import Embedder

_Embedded = tuple[NDArray[np.int16], NDArray[np.bool_]]

# Quantised private embeddings, for as long as the data set lives: each record is embedded once.
_embedded: WeakKeyDictionary[PrivateDataset, dict[str, _Embedded]] = WeakKeyDictionary()


def cast_votes(
    private: PrivateDataset,
    candidates: Population,
    vectors: NDArray[np.float32],
    embedder: Embedder,
    *,
    adjacency: Adjacency,
    nearest: int = 1,
) -> Votes:
    """One vote per private record for each of its ``nearest`` candidates, over the candidates of all labels together.

    ``vectors`` are the candidates' embeddings, float32 (m, dim), from ``embed_candidates`` (with lookahead they are
    means over variations). A record may vote only for candidates of its own label; it votes for as many as there are
    when there are fewer than ``nearest``. A record that cannot be embedded, or whose label has no candidate, casts its
    votes for the first candidates (of its label, if it has any). A record's votes depend on that record and the
    candidates alone, so the squared L2 sensitivity is ``nearest`` (add/remove) or twice that (replace-one).

    Nothing private is read until ``release`` has charged and asks for the counts.
    """
    targets, _ = quantise(vectors, embedder.scale, embedder.limit)
    bins = len(candidates)

    def counts() -> NDArray[np.int64]:
        queries, finite = _embed_private(private, embedder)
        total = np.zeros(bins, np.int64)
        for label in range(len(private.schema.labels)):
            rows = np.flatnonzero(private._labels == label)
            own = np.flatnonzero(candidates.labels == label)
            if len(own) == 0:
                own, usable = np.arange(bins), np.zeros(len(rows), np.bool_)
            else:
                usable = finite[rows]
            k = min(nearest, len(own))
            found = nearest_candidates(queries[rows[usable]], targets[own], k)
            total += count(own[found], bins)
            total[own[:k]] += len(rows) - int(usable.sum())
        return total

    return Votes(counts, bins, votes_sensitivity_squared(adjacency, nearest), adjacency)


def count_labels(private: PrivateDataset, adjacency: Adjacency) -> Votes:
    """Records per label, to be released like any votes."""
    bins = len(private.schema.labels)
    return Votes(
        lambda: count(private._labels.astype(np.int64), bins),
        bins,
        votes_sensitivity_squared(adjacency),
        adjacency,
        purpose="label counts",
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
        cache[embedder.name] = quantise(_embed_rows(private._records, embedder), embedder.scale, embedder.limit)
    return cache[embedder.name]


def _embed_rows(table: pa.Table, embedder: Embedder) -> NDArray[np.float32]:
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
    return np.concatenate([_embed_rows(half, embedder) for half in halves])
