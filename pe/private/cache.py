"""The private cache: a folder that only this user can enter, for what is derived from private records.

It lies at ``PE_CACHE``, else at ``pe`` in the user's cache directory. Names in it are keyed digests: they say nothing
about what is inside without the key, which lies there too. It may be deleted at any time when no run is at work.
"""

from __future__ import annotations

import hmac
import io
import os
import platform
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pe.errors import PrivateDataError
from pe.files import publish_once, refusals, write_atomically
from pe.permissions import private_folder


@dataclass(frozen=True)
class Cache:
    """An open private cache."""

    root: Path
    _key: bytes = field(repr=False)

    @classmethod
    def open(cls) -> Cache:
        """Make the folder, or check that nobody else can enter it; raises PrivateDataError, RunError."""
        place = os.environ.get("PE_CACHE")
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        root = Path(place) if place else home / "pe"
        with refusals(root):
            if not root.exists():
                private_folder(root)
            if root.stat().st_mode & 0o077:
                raise PrivateDataError(
                    f"the private cache {root} can be entered by others: 'chmod 700' it, or name another folder with "
                    "PE_CACHE."
                )
            key = root / "key"
            if not key.exists():
                with suppress(FileExistsError):
                    _create(key, secrets.token_bytes(32))
            return cls(root, key.read_bytes())

    def name(self, kind: str, content: bytes) -> str:
        """Keyed digest of private content, 64 characters."""
        return hmac.new(self._key, kind.encode() + b"\0" + content, sha256).hexdigest()

    def folder(self, *names: str) -> Path:
        """A private folder within the cache."""
        place = self.root
        with refusals(place):
            for name in names:
                place = place / name
                private_folder(place)
        return place

    @contextmanager
    def temporary(self, kind: str) -> Iterator[Path]:
        """A private folder of a random name, removed afterwards; those that dead processes left are removed first."""
        for left in self.folder(kind).iterdir():
            if _dead(left.name):
                shutil.rmtree(left, ignore_errors=True)
        place = self.folder(kind, f"{platform.node()}-{os.getpid()}-{secrets.token_hex(16)}")
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)


def rehearse_cache() -> None:
    """Try the cache: open it, write an array and read it back; raises PrivateDataError or RunError."""
    with Cache.open().temporary("trial") as folder:
        array = np.arange(8)
        save(folder / "array.npy", array)
        leave(folder / "other.npy", array)
        for name in ("array.npy", "other.npy"):
            load(folder / name, array.dtype, (len(array),))


def _create(path: Path, content: bytes) -> None:
    """Write a file that must not exist, whole or not at all."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    try:
        publish_once(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _dead(name: str) -> bool:
    """Whether the process of this machine that a folder is named after runs no more."""
    host, _, rest = name.rpartition("-")[0].rpartition("-")
    if host != platform.node() or not rest.isdigit():
        return False
    try:
        os.kill(int(rest), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def save(path: Path, array: NDArray[Any]) -> None:
    """Store an array: whole, durably, or not at all. An existing file is replaced."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_atomically(path, buffer.getvalue())


def leave(path: Path, array: NDArray[Any]) -> None:
    """Store an array for as long as this machine runs: whole or not at all, whoever else writes the same."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with refusals(path):
        with draft.open("wb") as file:
            np.save(file, array, allow_pickle=False)
        draft.replace(path)


def load(path: Path, dtype: np.dtype[Any] | type, shape: tuple[int | None, ...]) -> NDArray[Any]:
    """A stored array, memory-mapped; raises PrivateDataError unless it is whole and as expected (None: any length)."""
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        raise _damaged() from None
    fits = len(array.shape) == len(shape) and all(b in (None, a) for a, b in zip(array.shape, shape, strict=True))
    if not fits or array.dtype != dtype:
        raise _damaged()
    return array


def _damaged() -> PrivateDataError:
    return PrivateDataError(
        "the private cache is damaged: a stored file is missing, cut or altered. Start again: it is made anew. What "
        "was charged stays charged."
    )
