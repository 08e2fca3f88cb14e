"""Embeddings of all private records by position, wherever they lie: in memory, or in stored shards."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pe.private.dataset import PrivateDataset, numbered
from pe.private.embedding import Embedded, embedded
from pe.private.execution import Local
from pe.private.shards import shards
from pe.protocols import Embedder


def on_disk(private: PrivateDataset, embedder: Embedder) -> bool:
    """Whether private embeddings are stored: where they are costly or many, or counted by other processes."""
    return private.streamed or bool(getattr(embedder, "costly", False)) or not isinstance(private.executor, Local)


def make_ready(private: PrivateDataset, embedder: Embedder, *, users: bool = False) -> None:
    """Store what is not stored yet, where embeddings are stored; raises PrivateDataError where users are not known."""
    if users:
        private.require_users()
    if on_disk(private, embedder):
        shards(private, embedder)


@dataclass(frozen=True, repr=False)
class Embeddings:
    """Of n records, in pieces: labels int32 (n,), and where asked for whose they are, int64 (n,). Private."""

    pieces: list[Embedded]
    labels: NDArray[np.int32]
    users: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def take(self, index: NDArray[np.int64]) -> Embedded:
        """Vectors (m, dim) of the records at ``index``, and which of them are an embedding, bool (m,)."""
        if len(self.pieces) == 1:
            vectors, finite = self.pieces[0]
            return vectors[index], finite[index]
        ends = np.cumsum([len(finite) for _, finite in self.pieces])
        which = np.searchsorted(ends, index, side="right")
        found: Any = np.empty((len(index), self.pieces[0][0].shape[1]), self.pieces[0][0].dtype)
        good = np.empty(len(index), np.bool_)
        for number in np.unique(which).tolist():
            here = which == number
            vectors, finite = self.pieces[number]
            places = index[here] - (ends[number] - len(finite))
            found[here], good[here] = vectors[places], finite[places]
        return found, good


def embeddings(private: PrivateDataset, embedder: Embedder, *, users: bool = False) -> Embeddings:
    """The embeddings of a data set; raises PrivateDataError where ``users`` are asked for and were not read."""
    if users:
        private.require_users()
    if not on_disk(private, embedder):
        pieces = [embedded(private, embedder)]
        return Embeddings(pieces, private._labels, *([private.users] if users else []))
    found = shards(private, embedder)
    if not found:
        none = np.empty((0, embedder.dim), np.int8), np.empty(0, np.bool_)
        return Embeddings([none], np.empty(0, np.int32))
    owners = [numbered(np.concatenate([shard.users() for shard in found]))] if users else []
    labels = np.concatenate([shard.labels() for shard in found])
    return Embeddings([(shard.vectors(), shard.finite()) for shard in found], labels, *owners)
