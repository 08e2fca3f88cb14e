"""Embeddings of private records, as the integers that the vote reads: each record embedded once."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pe.kernels.quantise import integer_type, quantise
from pe.private.dataset import PrivateDataset
from pe.protocols import Embedder

CHUNK = 2**16
"""Records whose float embeddings are in memory at a time; quantised ones take a quarter, or half, as much and stay."""

Embedded = tuple[NDArray[np.signedinteger[Any]], NDArray[np.bool_]]
"""Vectors (n, dim), int8 or int16, and which of them are an embedding, bool (n,)."""

# Quantised private embeddings, for as long as the data set lives.
_kept: WeakKeyDictionary[PrivateDataset, dict[str, Embedded]] = WeakKeyDictionary()


def embedded(private: PrivateDataset, embedder: Embedder) -> Embedded:
    """Embeddings of a data set that is in memory."""
    cache = _kept.setdefault(private, {})
    if embedder.name not in cache:
        cache[embedder.name] = embed_table(private._records, embedder)
    return cache[embedder.name]


def embed_table(table: pa.Table, embedder: Embedder) -> Embedded:
    """Embeddings of private records; one on which the embedder fails becomes zeros, marked as none."""
    integers = np.empty((table.num_rows, embedder.dim), integer_type(embedder.limit))
    finite = np.empty(table.num_rows, np.bool_)
    for start in range(0, table.num_rows, CHUNK):
        part = slice(start, start + CHUNK)
        vectors = embed_rows(table.slice(start, CHUNK), embedder)
        integers[part], finite[part] = quantise(vectors, embedder.scale, embedder.limit)
    return integers, finite


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
