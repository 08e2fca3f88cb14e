"""Embedded private records on disk: immutable shards, written once each, and what puts them in order.

    embeddings/EMBEDDER/embedder.json     name, dim, scale, limit, type and columns: another one gets another folder
    embeddings/EMBEDDER/RECORDS.npy       int8 or int16 (n, dim), the integers that the vote reads
    embeddings/EMBEDDER/RECORDS.finite.npy, RECORDS.sum     bool (n,): what could be embedded; a keyed digest of both
    datasets/DATA/manifest.json           the shards of a data set, in order
    datasets/DATA/NUMBER.labels.npy, NUMBER.users.npy       int32 (n,), uint64 (n, 2)

All of it lies in the private cache (``pe.private.cache``). A shard is named by a keyed digest of its records, so one
is embedded once for all runs and data sets in which its block occurs: records that are appended cost their own
embedding and that of the last block. Writing goes on where a killed process stopped. A shard that is missing, cut or
altered is embedded again; one of another embedder, scale or schema is never looked at.
"""

from __future__ import annotations

import hmac
import json
import shutil
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from pe.data.schema import Schema
from pe.errors import PrivateDataError
from pe.files import refusals, write_atomically
from pe.kernels.quantise import integer_type
from pe.private.blocks import Block
from pe.private.cache import Cache, load, save
from pe.private.dataset import PrivateDataset
from pe.private.embedding import embed_table
from pe.protocols import Embedder

FORMAT = 1

_sound: set[tuple[object, ...]] = set()
"""Files that this process found to be whole, by place, size and time of their last change: they are read once."""


@dataclass(frozen=True)
class Shard:
    """Where a block's embeddings, labels and users lie. Private, like its arrays."""

    name: str
    folder: Path
    dataset: Path
    number: int
    dim: int
    dtype: str

    def labels(self) -> NDArray[np.int32]:
        return load(self.dataset / f"{self.number:06d}.labels.npy", np.int32, (None,))

    def users(self) -> NDArray[np.uint64]:
        return load(self.dataset / f"{self.number:06d}.users.npy", np.uint64, (len(self.labels()), 2))

    def vectors(self) -> NDArray[Any]:
        return load(self.folder / f"{self.name}.npy", np.dtype(self.dtype), (len(self.labels()), self.dim))

    def finite(self) -> NDArray[np.bool_]:
        return load(self.folder / f"{self.name}.finite.npy", np.bool_, (len(self.labels()),))


def identity(embedder: Embedder, schema: Schema) -> dict[str, Any]:
    """All that decides what a record's stored embedding is; public."""
    columns = {column.name: column.to_dict() for column in schema.features}
    return {
        "format": FORMAT,
        "name": embedder.name,
        "dim": embedder.dim,
        "scale": float(embedder.scale),
        "limit": embedder.limit,
        "type": str(integer_type(embedder.limit)),
        "columns": sha256(json.dumps(columns).encode()).hexdigest(),
    }


def shards(private: PrivateDataset, embedder: Embedder) -> list[Shard]:
    """The stored embeddings of a data set, block by block; what is not stored yet is embedded first.

    Raises PrivateDataError, and RunError when the disk refuses: what was stored until then is kept.
    """
    cache, about = Cache.open(), identity(embedder, private.schema)
    kind = sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    store = _Store(cache, cache.folder("embeddings", kind), about)
    # two runs on the same data: the second one waits, and finds everything
    with FileLock(store.folder / ".lock"):
        place = cache.folder("datasets") / cache.name("dataset", private.content_digest() + bytes.fromhex(kind))
        found = store.ordered(place)
        return store.written(private, embedder, place) if found is None else found


@dataclass(frozen=True)
class _Store:
    """The shards of one embedder."""

    cache: Cache
    folder: Path
    about: dict[str, Any]

    def ordered(self, place: Path) -> list[Shard] | None:
        """The shards of a stored data set, or None where one is missing or unsound."""
        try:
            manifest = json.loads((place / "manifest.json").read_text())
            if manifest["embedder"] != self.about:
                return None
            found = [self._shard(name, place, number) for number, name in enumerate(manifest["shards"])]
            return found if all(self.sound(shard, len(shard.labels())) for shard in found) else None
        except (OSError, ValueError, KeyError, TypeError, PrivateDataError):
            return None

    def written(self, private: PrivateDataset, embedder: Embedder, place: Path) -> list[Shard]:
        """Embed the blocks that are not stored, then put all in order under one name."""
        for left in (*self.folder.glob(".*.draft"), *place.parent.glob(f".{place.name}.*")):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        write_atomically(self.folder / "embedder.json", json.dumps(self.about).encode())
        draft = place.with_name(f".{place.name}.draft")
        with refusals(draft):
            draft.mkdir(mode=0o700)
        names = []
        for number, block in enumerate(private._blocks()):
            shard = self._shard(self.cache.name("records", block.records_digest()), draft, number)
            save(draft / f"{number:06d}.labels.npy", block.labels)
            if block.users is not None:
                save(draft / f"{number:06d}.users.npy", block.users)
            if not self.sound(shard, len(block)):
                self._embed(block, shard, embedder)
            names.append(shard.name)
        write_atomically(draft / "manifest.json", json.dumps({"embedder": self.about, "shards": names}).encode())
        with refusals(place):
            shutil.rmtree(place, ignore_errors=True)
            draft.rename(place)
        return [self._shard(name, place, number) for number, name in enumerate(names)]

    def _shard(self, name: str, dataset: Path, number: int) -> Shard:
        return Shard(name, self.folder, dataset, number, self.about["dim"], self.about["type"])

    def _embed(self, block: Block, shard: Shard, embedder: Embedder) -> None:
        """Write a shard; its vectors last: with them it is there."""
        vectors, finite = embed_table(block.records, embedder)
        write_atomically(self.folder / f"{shard.name}.sum", self._sum(shard.name, vectors, finite))
        save(self.folder / f"{shard.name}.finite.npy", finite)
        save(self.folder / f"{shard.name}.npy", vectors)

    def sound(self, shard: Shard, rows: int) -> bool:
        """Whether a shard is stored, whole and unaltered, at least since this process last looked into it."""
        try:
            seen = (rows, *(self._stamp(shard, end) for end in (".npy", ".finite.npy", ".sum")))
            if seen in _sound:
                return True
            vectors = load(self.folder / f"{shard.name}.npy", np.dtype(shard.dtype), (rows, shard.dim))
            finite = load(self.folder / f"{shard.name}.finite.npy", np.bool_, (rows,))
            expected = (self.folder / f"{shard.name}.sum").read_bytes()
        except (OSError, PrivateDataError):
            return False
        if not hmac.compare_digest(expected, self._sum(shard.name, vectors, finite)):
            return False
        _sound.add(seen)
        return True

    def _stamp(self, shard: Shard, end: str) -> tuple[object, ...]:
        path = self.folder / f"{shard.name}{end}"
        found = path.stat()
        return path, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def _sum(self, name: str, *arrays: NDArray[Any]) -> bytes:
        """Of whose it is, of which embedder, and every entry: so a folder that was copied is not taken for ours."""
        digest = sha256(json.dumps([name, self.about], sort_keys=True).encode())
        for array in arrays:
            digest.update(np.ascontiguousarray(array).data)
        return self.cache.name("sum", digest.digest()).encode()
