"""Embeddings of synthetic samples: each content once, and while an API is still making the next ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from threading import Condition, Lock, Thread
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pe.private.vote import embed_candidates
from pe.protocols import Embedder, Piecemeal

MEMORY = 2**28
"""Bytes of embeddings that are kept."""


class CandidateEmbedder:
    """An embedder's vectors of synthetic samples; a content that it has embedded before is not embedded again.

    ``prefetch`` embeds in a thread of its own, so that an iteration takes about as long as the longer of generating
    and embedding. The embedder is never called from two threads at a time here, and sees each content as a row of
    some batch, as always: only if its rows depend on their batch can a result differ from ``embed_candidates``.

    Public samples only: private records have no business in a cache by content, and this is no ``Embedder``, so that
    it cannot be passed to the vote as one. The least recently used vectors go when ``memory`` bytes are full.
    """

    def __init__(self, embedder: Embedder, *, memory: int = MEMORY) -> None:
        self.embedder = embedder
        self._rows = max(1, memory // (4 * embedder.dim))
        self._known: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()
        self._embedding = Lock()
        self._changed = Condition()
        self._waiting: list[pa.Table] = []
        self._thread: Thread | None = None

    def vectors(self, table: pa.Table) -> NDArray[np.float32]:
        """Embeddings of synthetic records, float32 (n, dim); raises EmbedderError unless they are all finite."""
        with self._changed:
            self._changed.wait_for(lambda: self._thread is None)
        return self._vectors(table)

    def prefetch(self, table: pa.Table) -> None:
        """Embed samples in the background; returns at once.

        What fails there is embedded again by ``vectors``, if it is asked for, and then raises what it raises.
        """
        with self._changed:
            self._waiting.append(table)
            if self._thread is None:
                self._thread = Thread(target=self._work, name="embed candidates", daemon=True)
                self._thread.start()

    @contextmanager
    def listening(self, api: object, *, wanted: bool = True) -> Iterator[None]:
        """Prefetch what the API hands over meanwhile, if it does (``Piecemeal``) and it is ``wanted``."""
        if not (wanted and isinstance(api, Piecemeal)):
            yield
            return
        api.listen(self.prefetch)
        try:
            yield
        finally:
            api.listen(None)

    def close(self) -> None:
        """Drop what waits, and wait for what is being embedded."""
        with self._changed:
            self._waiting.clear()
            self._changed.wait_for(lambda: self._thread is None)

    def _work(self) -> None:
        """Embed what waits, all that there is at a time, until nothing waits."""
        while True:
            with self._changed:
                if not self._waiting:
                    self._thread = None
                    self._changed.notify_all()
                    return
                tables, self._waiting = self._waiting, []
            # the API may yet drop what fails here; for what it returns, ``vectors`` raises the same
            with suppress(BaseException):  # this thread must not end while others wait for it
                self._vectors(pa.concat_tables(tables))

    def _vectors(self, table: pa.Table) -> NDArray[np.float32]:
        keys = contents(table)
        found = np.empty((len(keys), self.embedder.dim), np.float32)
        with self._embedding:
            first: dict[bytes, int] = {}
            for row, key in enumerate(keys):
                if key in self._known:
                    self._known.move_to_end(key)
                    found[row] = self._known[key]
                else:
                    first.setdefault(key, row)
            if first:
                fresh = embed_candidates(table.take(pa.array(list(first.values()))), self.embedder)
                place = dict(zip(first, range(len(first)), strict=True))
                rows = [row for row, key in enumerate(keys) if key in place]
                found[rows] = fresh[[place[keys[row]] for row in rows]]
                for key, vector in zip(first, fresh, strict=True):
                    self._known[key] = vector.copy()  # a view would keep the whole batch
                while len(self._known) > self._rows:
                    self._known.popitem(last=False)
        return found


def contents(table: pa.Table) -> list[bytes]:
    """A digest of each row: equal where all columns hold equal values under equal names and types."""
    if table.num_rows == 0:
        return []
    head, fixed, varying = sha256(), [], []
    for field, column in zip(table.schema, table.columns, strict=True):
        array = column.combine_chunks()
        head.update(f"{field.name!r} {field.type};".encode())
        if pa.types.is_dictionary(field.type):
            head.update(repr(array.dictionary.to_pylist()).encode())
            array = array.indices
        if not _even(array):
            varying.append([_packed(value) for value in array.to_pylist()])
            continue
        fixed.append(pc.is_valid(array).to_numpy(zero_copy_only=False)[:, None].view(np.uint8))
        if pa.types.is_fixed_size_list(array.type):
            values = array.flatten()
        else:
            values = pc.fill_null(array, 0) if array.null_count else array
        numbers = np.ascontiguousarray(values.to_numpy(zero_copy_only=False))
        fixed.append(numbers.view(np.uint8).reshape(table.num_rows, -1))
    rows = np.concatenate([np.empty((table.num_rows, 0), np.uint8), *fixed], axis=1)
    digests = []
    for row, *parts in zip(rows, *varying, strict=True):
        digest = head.copy()
        digest.update(row)
        for part in parts:
            digest.update(part)
        digests.append(digest.digest())
    return digests


def _even(array: pa.Array) -> bool:
    """Whether all values are numbers, or as many numbers each."""
    kind = array.type
    if pa.types.is_fixed_size_list(kind) and not array.null_count:
        kind = kind.value_type
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _packed(value: Any) -> bytes:
    """A value of any length as bytes that say what it is and where it ends."""
    tag, content = (b"s", value.encode()) if isinstance(value, str) else (b"r", repr(value).encode())
    return tag + len(content).to_bytes(8, "little") + content
