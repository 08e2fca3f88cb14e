"""The public half of a vote: candidates as integers, and the rule by which a record votes for them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pe.files import write_atomically
from pe.kernels.count import count
from pe.kernels.nearest import Search

CHUNK = 2**16
"""Records that vote at a time."""

Ballots = Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]
"""Rows that vote, and the candidates they vote for, best first: int64 (rows,) and (rows, k)."""


@dataclass(frozen=True)
class Poll:
    """What the records are asked.

    targets  the candidates' embeddings as integers (m, dim), m >= 1.
    own      their labels, int32 (m,); ``labels`` is the size of the label set.
    steps    votes in grid steps for the nearest candidate of a record's label, the second nearest, ...
    bound    for unit "user": the squared norm to which a user's votes are scaled down, in grid steps.
    """

    targets: NDArray[np.signedinteger[Any]]
    own: NDArray[np.int32]
    labels: int
    steps: tuple[int, ...]
    bound: int | None
    _searches: list[Search] = field(default_factory=list, repr=False, compare=False)

    @property
    def bins(self) -> int:
        return len(self.own)

    def digest(self) -> str:
        """Digest of everything that decides the votes."""
        head = [self.targets.shape, str(self.targets.dtype), self.labels, self.steps, self.bound]
        digest = sha256(repr(head).encode())
        digest.update(np.ascontiguousarray(self.targets).data)
        digest.update(np.ascontiguousarray(self.own).data)
        return digest.hexdigest()

    def ballots(
        self,
        vectors: NDArray[np.signedinteger[Any]],
        finite: NDArray[np.bool_],
        labels: NDArray[np.int32],
        name: str | None = None,
    ) -> Ballots:
        """How records vote: embeddings as integers (n, dim), whether there is one, bool (n,), labels, int32 (n,).

        ``name`` is that of a shard, whose vectors never change.
        """
        if not self._searches:
            k = min(len(self.steps), self.bins)
            self._searches.append(Search(np.ascontiguousarray(self.targets), k, self.own.astype(np.int64)))
        for start in range(0, len(labels), CHUNK):
            here = slice(start, start + CHUNK)
            groups = np.where(finite[here], labels[here], -1).astype(np.int64)
            chosen = self._searches[0](vectors[here], groups, None if name is None else (name, start))
            for rows, own in self._by_label(labels[here], chosen):
                yield rows + start, own

    def _by_label(self, labels: NDArray[np.int32], chosen: NDArray[np.int64]) -> Ballots:
        """What was found for a chunk; those for whom nothing was vote for the first candidates."""
        for label in range(self.labels):
            rows = np.flatnonzero(labels == label)
            own = np.flatnonzero(self.own == label)
            own = own if len(own) else np.arange(self.bins)
            k = min(len(self.steps), len(own))
            able = chosen[rows, 0] >= 0
            if able.any():
                yield rows[able], chosen[rows[able], :k]
            if not able.all():
                yield rows[~able], np.broadcast_to(own[:k], (int((~able).sum()), k))

    def counts(self, ballots: Ballots) -> NDArray[np.int64]:
        """Sum of the votes, int64 (m,), in grid steps."""
        total = np.zeros(self.bins, np.int64)
        for _, chosen in ballots:
            for rank in range(chosen.shape[1]):
                total += self.steps[rank] * count(chosen[:, rank], self.bins)
        return total

    def entries(self, ballots: Ballots) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Every vote: whose row it is, for which candidate, of how many steps; int64 (votes,) each."""
        none = np.empty(0, np.int64)
        rows, bins, values = [none], [none], [none]
        for voting, chosen in ballots:
            rows.append(np.repeat(voting, chosen.shape[1]))
            bins.append(chosen.reshape(-1))
            values.append(np.tile(np.array(self.steps[: chosen.shape[1]], np.int64), len(voting)))
        return np.concatenate(rows), np.concatenate(bins), np.concatenate(values)

    def write(self, path: Path) -> None:
        buffer = io.BytesIO()
        bound = -1 if self.bound is None else self.bound
        np.savez(buffer, targets=self.targets, own=self.own, labels=self.labels, steps=self.steps, bound=bound)
        write_atomically(path, buffer.getvalue())

    @classmethod
    def read(cls, path: Path) -> Poll:
        with np.load(path, allow_pickle=False) as stored:
            bound = int(stored["bound"])
            steps = tuple(int(each) for each in stored["steps"])
            return cls(stored["targets"], stored["own"], int(stored["labels"]), steps, None if bound < 0 else bound)
