"""Private records a block at a time, with the digests that tell whether they are the same as before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pe.data.arrays import contents, widths

BLOCK, BLOCK_BYTES = 2**16, 2**26
"""A block ends with the record that makes it so many, or so large: where blocks end depends on the records alone."""


@dataclass(frozen=True, repr=False)
class Block:
    """Some private records: a table in schema form (n rows), labels int32 (n,), and whose they are, uint64 (n, 2)."""

    records: pa.Table
    labels: NDArray[np.int32]
    users: NDArray[np.uint64] | None

    def __len__(self) -> int:
        return len(self.labels)

    def cut(self, start: int, stop: int | None = None) -> Block:
        users = None if self.users is None else self.users[start:stop]
        return Block(self.records[start:stop], self.labels[start:stop], users)

    @classmethod
    def joined(cls, parts: Sequence[Block]) -> Block:
        users = [part.users for part in parts if part.users is not None]
        return cls(
            pa.concat_tables([part.records for part in parts]).combine_chunks(),
            np.concatenate([part.labels for part in parts]),
            np.concatenate(users) if users else None,
        )

    def records_digest(self) -> bytes:
        """Digest of the records without labels and users: of what an embedder sees."""
        digest = sha256()
        for part in contents(self.records):
            digest.update(part)
        return digest.digest()

    def digest(self) -> bytes:
        digest = sha256(self.records_digest())
        digest.update(self.labels.tobytes())
        digest.update(b"" if self.users is None else self.users.tobytes())
        return digest.digest()


def blocks(parts: Iterator[Block]) -> Iterator[Block]:
    """The same records, cut anew; only the last block may be neither full nor large. None of no records."""
    held: list[Block] = []
    rows, size = BLOCK, BLOCK_BYTES
    for part in parts:
        while len(part):
            reached = np.cumsum(widths(part.records[:rows]))
            taken = min(rows, int(np.searchsorted(reached, size)) + 1, len(part))
            held.append(part.cut(0, taken))
            rows, size = rows - taken, size - int(reached[taken - 1])
            part = part.cut(taken)
            if rows == 0 or size <= 0:
                yield Block.joined(held) if len(held) > 1 else held[0]
                held, rows, size = [], BLOCK, BLOCK_BYTES
    if held:
        yield Block.joined(held) if len(held) > 1 else held[0]
