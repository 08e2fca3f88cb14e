"""The vote: every private record votes for its nearest candidates of its own label."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pe.data.population import Population
from pe.errors import ConfigError, EmbedderError, PEError
from pe.kernels.count import bounded_sum, count
from pe.kernels.quantise import quantise
from pe.privacy.budget import Adjacency, Unit
from pe.privacy.contribution import Contribution
from pe.privacy.release import Votes
from pe.private.dataset import PrivateDataset
from pe.private.embedding import embedded
from pe.private.embeddings import make_ready, on_disk
from pe.private.measure import user_sum
from pe.private.poll import Poll
from pe.private.question import question_digest
from pe.private.scan import counted
from pe.private.shards import shards
from pe.protocols import Embedder

ONE_VOTE = Contribution()


def cast_votes(
    private: PrivateDataset,
    candidates: Population,
    vectors: NDArray[np.float32],
    embedder: Embedder,
    *,
    adjacency: Adjacency,
    contribution: Contribution = ONE_VOTE,
    stand_ins: Sequence[pa.Table] = (),
) -> Votes:
    """The votes of every private record for its nearest candidates, over the candidates of all labels together.

    ``vectors`` are the candidates' embeddings, float32 (m, dim), from ``embed_candidates`` (with lookahead they are
    means over variations, ``stand_ins``). A record may vote only for candidates of its own label; it casts as many
    votes as there are candidates when there are fewer than weights. A record that cannot be embedded, or whose label
    has no candidate, casts its votes for the first candidates (of its label, if it has any). A record's votes depend on
    that record and the candidates alone. With a user norm the votes of all records of a user are added up over all
    labels and scaled down together, in integers.

    Nothing is counted until ``release`` has charged and asks for it; embeddings may be stored before (``prepare``).
    """
    if len(candidates) == 0:
        raise ConfigError("expected at least one candidate to vote for. Nothing was spent.")
    targets, _ = quantise(vectors, embedder.scale, embedder.limit)
    bound = None if contribution.norm is None else contribution.bound_squared
    poll = Poll(targets, candidates.labels, len(private.schema.labels), contribution.steps, bound)

    def counts() -> NDArray[np.int64]:
        if bound is not None:
            private.require_users()
        if on_disk(private, embedder):
            return counted(poll, shards(private, embedder), private.executor)
        ballots = poll.ballots(*embedded(private, embedder), private._labels)
        if bound is None:
            return poll.counts(ballots)
        rows, bins, values = poll.entries(ballots)
        return bounded_sum(private.users[rows], bins, values, poll.bins, bound)

    def ready() -> None:
        make_ready(private, embedder, users=bound is not None)

    # the samples, not their vectors: those may differ in the last bit when they are embedded in other batches
    question = question_digest(
        private.schema, candidates.records, candidates.labels, *stand_ins, embedder, contribution
    )
    return _votes(counts, poll.bins, contribution, adjacency, "votes", question, ready)


def count_labels(private: PrivateDataset, adjacency: Adjacency, contribution: Contribution = ONE_VOTE) -> Votes:
    """Records per label, to be released like any votes; with a user norm, each user's counts scaled down to it."""
    bins = len(private.schema.labels)

    def counts() -> NDArray[np.int64]:
        step = contribution.steps[0]
        if contribution.norm is None:
            found = (count(block.labels.astype(np.int64), bins) for block in private._blocks())
            return step * sum(found, np.zeros(bins, np.int64))

        def label_of(_: pa.Table, labels: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
            return labels[:, None].astype(np.int64), np.full((len(labels), 1), step, np.int64)

        return user_sum(private, label_of, bins, contribution.bound_squared)

    question = question_digest(private.schema, contribution)
    return _votes(counts, bins, contribution, adjacency, "label counts", question)


def _votes(
    counts: Callable[[], NDArray[np.int64]],
    bins: int,
    contribution: Contribution,
    adjacency: Adjacency,
    purpose: str,
    question: str,
    ready: Callable[[], None] | None = None,
) -> Votes:
    return Votes(
        counts,
        bins,
        contribution.sensitivity_squared(adjacency),
        adjacency,
        purpose,
        unit=Unit.RECORD if contribution.norm is None else Unit.USER,
        grid=contribution.grid,
        ready=ready,
        question=question,
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
