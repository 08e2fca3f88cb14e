"""The private data set: read in schema form, shown to nobody but the sums over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pe.data import imagefolder
from pe.data.arrays import to_table
from pe.data.coerce import coerce, identities
from pe.data.dialect import CsvOptions
from pe.data.formats import public_form
from pe.data.labels import label_codes
from pe.data.parts import Place, locate
from pe.data.read import in_memory, stream, wanted
from pe.data.schema import Schema
from pe.data.selected import USER, Raw
from pe.errors import PEError, PrivateDataError
from pe.privacy.budget import Adjacency
from pe.private.blocks import Block, blocks
from pe.private.execution import Local, ShardExecutor
from pe.shield import shielded

IN_MEMORY = 2**28
"""Bytes of files, and of what is read from them, up to which records are kept in memory; more are read anew whenever
they are needed."""

CHUNK = 2**16
"""Records brought into schema form at a time where files are large."""


class PrivateDataset:
    """Private records under a declared schema. Shows nothing, does not iterate, does not pickle.

    Large files are streamed: read block by block whenever their records are needed, and compared with what they held
    at first. Under add/remove adjacency the number of records is private, so zero records are a data set like any
    other. Under replace-one it is public, and zero records are refused.

    users     whose record each is: int64 (n,), or uint64 (n, 2) as ``pe.data.coerce.identities`` gives them.
    executor  what runs the vote; decides no result.

    ``public_form`` says what a record of the files is and how they are written: ``pe.data.formats.public_form``.
    """

    __slots__ = (
        "__weakref__",
        "_digests",
        "_labels",
        "_owned",
        "_records",
        "_stream",
        "_users",
        "executor",
        "public_form",
        "schema",
    )

    def __init__(
        self, records: pa.Table, labels: NDArray[np.int32], schema: Schema, users: NDArray[Any] | None = None
    ) -> None:
        self._records = records
        self._labels = labels
        self._users = None if users is None else _keys(users)
        self._owned = users is not None
        self._stream: Callable[[], Iterator[Block]] | None = None
        self._digests: list[bytes] = []
        self.schema = schema
        self.executor: ShardExecutor = Local()
        self.public_form: tuple[str, ...] = ()

    @classmethod
    def read(
        cls,
        data: object,
        schema: Schema,
        *,
        adjacency: Adjacency,
        format: str | None = None,
        columns: Mapping[str, str] | None = None,
        user: str | None = None,
        options: CsvOptions | None = None,
    ) -> PrivateDataset:
        """Read files, a folder of images, an Arrow table, a DataFrame or a mapping of arrays (see ``pe.data.read``).

        user     the column that says whose record it is, no feature. A record without an id is a user of its own.
        options  delimiter, encoding and ``multiline`` of CSV and TSV files.

        The rules for missing and out-of-domain values stand in ``pe.data.coerce``. Raises PrivateDataError or
        SchemaError, whose texts name columns, files and types, never values.
        """

        def load() -> PrivateDataset:
            names = wanted(schema, columns, user)
            if not isinstance(data, (str, Path)):
                if options is not None:
                    options.require_defaults("in memory")
                return cls._of(list(_coerced(iter([in_memory(data, names, schema)]), schema, user)), schema)
            place = locate(data, format, options)
            source = partial(_stream, place, names, schema, user)
            held = None if _size(place, schema) > IN_MEMORY else _held(source())
            large = held is None
            private = cls._streamed(source, schema, owned=user is not None) if large else cls._of(held or [], schema)
            private.public_form = public_form(place, schema)
            return private

        private = shielded("reading the private data", load, "Is it the declared format? Nothing was spent.")
        if adjacency == Adjacency.REPLACE_ONE and not (private._digests or len(private._labels)):
            raise PrivateDataError("the private data hold no records. Nothing was spent.")
        return private

    @classmethod
    def _of(cls, parts: list[Block], schema: Schema) -> PrivateDataset:
        whole = parts[0] if len(parts) == 1 else Block.joined(parts)
        return cls(whole.records, whole.labels, schema, whole.users)

    @classmethod
    def _streamed(cls, parts: Callable[[], Iterator[Block]], schema: Schema, *, owned: bool) -> PrivateDataset:
        """Large data, after one pass over all of them: what cannot be read is told before anything is spent."""
        private = cls(schema.arrow().empty_table(), np.empty(0, np.int32), schema)
        private._digests = [block.digest() for block in blocks(parts())]
        private._stream, private._owned = parts, owned
        return private

    def __repr__(self) -> str:
        return "PrivateDataset(private)"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("private data cannot be copied or pickled")

    @property
    def streamed(self) -> bool:
        """Whether the records are not kept in memory."""
        return self._stream is not None

    @property
    def users(self) -> NDArray[np.int64]:
        """Whose record each is, int64 (n,): equal numbers for equal users. Private, like all that the sums read.

        Raises PrivateDataError where no user column was read.
        """
        self.require_users()
        assert self._users is not None
        return numbered(self._users)

    def _blocks(self) -> Iterator[Block]:
        """All records, block by block: the same blocks every time, in memory or not."""
        if self._stream is None:
            yield from blocks(iter([Block(self._records, self._labels, self._users)]))
            return
        number = 0
        try:
            for number, block in enumerate(blocks(self._stream()), start=1):
                if number > len(self._digests) or self._digests[number - 1] != block.digest():
                    raise _changed()
                yield block
        except PEError:
            raise _changed() from None
        if number != len(self._digests):
            raise _changed()

    def content_digest(self) -> bytes:
        """Digest of the records in order, for the ledger's keyed fingerprint. Private: never store it bare."""
        digest = sha256(self.schema.to_toml().encode())
        for each in self._digests if self.streamed else (block.digest() for block in self._blocks()):
            digest.update(each)
        return digest.digest()

    def require_users(self) -> None:
        """Raise PrivateDataError unless a user column was read."""
        if not self._owned:
            raise PrivateDataError("the private data were read without a user column: name it in private.user.")


def numbered(users: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Users uint64 (n, 2) as numbers >= 0, int64 (n,): equal ones for equal users."""
    order = np.lexsort(users.T)
    ordered = users[order]
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.cumsum(np.r_[False, (ordered[1:] != ordered[:-1]).any(axis=1)])[: len(order)]
    return numbers


def _size(place: Place, schema: Schema) -> int:
    """Bytes of the files; of a folder of images, bytes of the decoded ones."""
    return imagefolder.size(Path(place.name), schema) if place.kind == "imagefolder" else place.size


def _stream(place: Place, names: Mapping[str, str], schema: Schema, user: str | None) -> Iterator[Block]:
    return _coerced(stream(place, names, schema), schema, user, CHUNK)


def _held(parts: Iterator[Block]) -> list[Block] | None:
    """Records in memory; None where small files come to more than IN_MEMORY."""
    held: list[Block] = []
    size = 0
    for block in parts:
        held.append(block)
        size += block.records.nbytes
        if size > IN_MEMORY:
            return None
    return held


def _coerced(raws: Iterator[Raw], schema: Schema, user: str | None, rows: int | None = None) -> Iterator[Block]:
    """Raw columns in schema form, at most ``rows`` records at a time; at least one block, which may be empty."""
    before = 0
    for raw in raws:
        count = len(next(iter(raw.values())))
        step = rows or max(count, 1)
        for start in range(0, max(count, 1), step):
            some = {name: values[start : start + step] for name, values in raw.items()}
            owners = None if user is None else identities(some.pop(USER), user, before + start)
            arrays = coerce(some, schema)
            yield Block(to_table(arrays, schema), label_codes(arrays, schema), owners)
        before += count


def _changed() -> PrivateDataError:
    return PrivateDataError(
        "the private data changed while they were in use, or cannot be read any more: restore them and resume. What "
        "was charged stays charged."
    )


def _keys(users: NDArray[Any]) -> NDArray[np.uint64]:
    """Users as uint64 (n, 2); numbers are mixed one to one, so that the first halves are spread evenly."""
    if users.ndim == 2:
        return users
    mixed = users.astype(np.uint64)
    with np.errstate(over="ignore"):
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # SplitMix64 (Steele et al. 2014)
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return np.stack([mixed, np.zeros_like(mixed)], axis=1)
