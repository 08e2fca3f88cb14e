"""What is kept outside the ledgers: their key, and for each the place it lies at and the newest hash seen per source.

A ledger that was deleted, or restored from an older copy, no longer holds the hash the witness remembers; one that was
copied has its original at the place the witness remembers.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from filelock import FileLock

from pe.errors import LedgerError
from pe.permissions import OpenFolderError, named_folder, private_folder, write_private
from pe.privacy.store import holds, identity_at


def default_key_path() -> Path:
    """``PE_LEDGER_KEY``, else ``pe/ledger.key`` in the user's configuration directory."""
    if path := os.environ.get("PE_LEDGER_KEY"):
        return Path(path)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "pe" / "ledger.key"


def load_key(path: str | Path | None, *, create: bool) -> tuple[bytes, Path]:
    """The 32-byte ledger key and where it really lies; ``create`` makes it (0600 in a 0700 directory) when missing.

    Links are followed: what is remembered beside the key is remembered beside the file, whatever it is called.
    """
    place = Path(path) if path is not None else default_key_path()
    try:
        place = place.resolve()
        if create and not place.exists():
            named_folder(place.parent, place.name, strict=True)
            write_private(place, secrets.token_hex(32).encode(), once=True)
        key = bytes.fromhex(place.read_text().strip())
        named_folder(place.parent, place.name, strict=True)
        if place.stat().st_mode & 0o077:
            place.chmod(0o600)
    except FileNotFoundError:
        raise LedgerError(
            f"the ledger's key is missing: expected it at {place}. Restore it, or name its place with PE_LEDGER_KEY. "
            "Nothing was spent."
        ) from None
    except OpenFolderError as error:
        raise LedgerError(f"the ledger's key {place} cannot be used: {error}. Nothing was spent.") from None
    except (OSError, RuntimeError, ValueError) as error:
        raise LedgerError(
            f"the ledger's key {place} cannot be read ({type(error).__name__}). Nothing was spent."
        ) from None
    if len(key) != 32:
        raise LedgerError(f"the ledger's key {place} is damaged: expected 32 bytes in hex. Nothing was spent.")
    return key, place


class Witness:
    """What is known of one ledger, by its identity: where it lies, and the newest (number, hash) of each source.

    Kept in ``KEY.heads/IDENTITY/``, beside the key: ``place``, and one file per source. Once there is a place, a source
    without its file had it deleted. ``identity`` is empty until
    the ledger was opened.
    """

    def __init__(self, key_path: Path, ledger: Path, identity: str = "") -> None:
        self._ledger = ledger.resolve()
        self._root = key_path.parent / f"{key_path.name}.heads"
        self._directory = self._root / identity
        self._identity = identity

    # -- places ----------------------------------------------------------------------------------------------------

    def refuse_a_lost_ledger(self) -> None:
        """Raise LedgerError if another ledger, from which budget was spent, is remembered at this path."""
        for identity, place in self._others():
            if place == self._ledger and any((self._root / identity).glob("*.json")):
                raise LedgerError(
                    f"the ledger {self._ledger} is gone although budget was spent from it: restore it from a backup, "
                    "or, if it was moved, use it once at its new place. To give up its record on purpose, delete "
                    f"{self._root / identity}. Nothing was spent."
                )

    def settle(self, verify: Callable[[], Mapping[str, tuple[int, str]]]) -> None:
        """Remember where the ledger lies; raise LedgerError if it is a copy of one that still lies elsewhere.

        ``verify`` is called for a ledger that is new here, or was moved: it raises LedgerError if the ledger lacks a
        remembered head, and returns the newest head of every source.
        """
        self.refuse_a_lost_ledger()
        if self._place(self._identity) == self._ledger:
            return
        self._make()
        with _lock(self._directory / "place.lock"):
            before = self._place(self._identity)
            if before == self._ledger:
                return  # another process was faster
            if before is not None:
                if _same_place(before, self._ledger):
                    return  # a link or a mount
                if _still_holds(before, self._identity):
                    raise LedgerError(
                        f"{self._ledger} is a copy of the ledger {before}: charges to the two would not add up. Use "
                        "the original, or delete it if the copy is newer. Nothing was spent."
                    )
            # heads first: from the moment that the place is known, a head that is missing was deleted
            heads = verify()
            if before is None:
                for source, (number, digest) in heads.items():
                    self.advance(source, number, digest)
            _write(self._directory / "place", json.dumps(str(self._ledger)))

    def refuse_missing_sources(self, sources: Iterable[str]) -> None:
        """Raise LedgerError if a head is remembered of a source that the ledger does not know."""
        if {path.name for path in self._directory.glob("*.json")} - {self._path(source).name for source in sources}:
            raise LedgerError(
                f"the ledger {self._ledger} was rolled back: it lacks a source that it held. Restore the newest copy, "
                "with the -wal file beside it if there is one. Nothing was spent."
            )

    @contextmanager
    def creating(self, source: str) -> Iterator[None]:
        """Hold the block in which a source is created; raise LedgerError if another ledger holds it already.

        Until its first head is written, a mark says that it is not missing for having been deleted.
        """
        self._make()
        mark = self._mark(source)
        with _lock(self._root / "sources.lock"):
            for identity, place in self._others():
                if self._path(source, identity).exists() or holds(place, identity, source):
                    gone = "" if place.exists() else f", or delete {self._root / identity} if that one is gone for good"
                    raise LedgerError(
                        f"source '{source}' has its budget in the ledger {place}, and two ledgers for one source do "
                        f"not add up: use that one, or another name for other data{gone}. Nothing was spent."
                    )
            if not self._path(source).exists():
                _write(mark, "")
            try:
                yield
            finally:
                if self._path(source).exists():
                    mark.unlink(missing_ok=True)

    def _others(self) -> Iterator[tuple[str, Path]]:
        """Identity and remembered place of every other ledger under this key."""
        for path in sorted(self._root.glob("*/place")):
            identity = path.parent.name
            if identity != self._identity and (place := self._place(identity)) is not None:
                yield identity, place

    def _place(self, identity: str) -> Path | None:
        path = self._root / identity / "place"
        try:
            return Path(str(json.loads(path.read_text())))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError):
            raise LedgerError(f"{path} is damaged: restore it. Nothing was spent.") from None

    # -- heads -----------------------------------------------------------------------------------------------------

    def seen(self, source: str) -> tuple[int, str] | None:
        """The remembered head. Read it before reading the chain, so that it can only be behind."""
        path = self._path(source)
        try:
            number, digest = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, RecursionError):
            number = digest = None
        if type(number) is not int or number < 0 or not isinstance(digest, str):
            raise LedgerError(f"{path} is damaged: restore it. Nothing was spent.")
        return number, digest

    def check(self, source: str, seen: tuple[int, str] | None, hashes: Sequence[str]) -> None:
        """Raise LedgerError if the chain does not contain the remembered head, or if that was deleted."""
        if seen is not None and (len(hashes) <= seen[0] or hashes[seen[0]] != seen[1]):
            raise LedgerError(
                f"the ledger {self._ledger} was rolled back: source '{source}' had {seen[0] + 1} entries or more, now "
                f"{len(hashes)}. Restore the newest copy, with the -wal file beside it if there is one. Nothing was "
                "spent."
            )
        if seen is None and hashes and self._place(self._identity) is not None:
            if len(hashes) == 1 and self._mark(source).exists():  # a crash after the first entry
                self.advance(source, 0, hashes[0])
            elif self.seen(source) is None:  # another process may have written it meanwhile
                raise LedgerError(
                    f"{self._path(source)} is missing, which remembers the newest entry of source '{source}': restore "
                    f"it from a backup. If it is gone for good, and the ledger {self._ledger} is the newest there is, "
                    f"delete {self._directory}. Nothing was spent."
                )

    def rehearse(self, source: str) -> None:
        """Try the writing that ``advance`` will do; raises LedgerError where it would fail.

        Called before an entry is committed, so that a full or read-only disk beside the key costs no charge.
        """
        path = self._path(source)
        trial = path.with_suffix(".trial")
        try:
            self._make()
            with _lock(path.with_suffix(".lock")):
                _write(trial, json.dumps([2**53, "0" * 64]))
                trial.unlink()
        except OSError as error:
            raise LedgerError(
                f"{self._directory}, where the ledger's newest entries are remembered beside its key, cannot be "
                f"written ({error.strerror}): free the disk, or make it writable. Nothing was spent by this call."
            ) from None

    def advance(self, source: str, number: int, digest: str) -> None:
        """Remember a committed head. Lost in a crash, it is merely behind."""
        self._make()
        path = self._path(source)
        with _lock(path.with_suffix(".lock")):
            before = self.seen(source)
            if before is None or before[0] < number:
                _write(path, json.dumps([number, digest]))

    def _make(self) -> None:
        """The folders, private whatever the umask; raises LedgerError."""
        try:
            private_folder(self._root)
            private_folder(self._directory)
        except OSError as error:
            raise LedgerError(
                f"{self._directory}, where a ledger's newest entries are remembered, cannot be made or kept to "
                f"yourself ({error.strerror}): make {self._root.parent} writable. Nothing was spent by this call."
            ) from None

    def _path(self, source: str, identity: str | None = None) -> Path:
        directory = self._root / identity if identity else self._directory
        return directory / f"{sha256(source.encode()).hexdigest()[:32]}.json"

    def _mark(self, source: str) -> Path:
        return self._path(source).with_suffix(".begun")


def _lock(path: Path) -> FileLock:
    return FileLock(path, mode=0o600)


def _write(path: Path, text: str) -> None:
    """Replace a file whole; call it under its lock."""
    write_private(path, text.encode())


def _same_place(one: Path, other: Path) -> bool:
    """Whether two paths lead to one name in one folder. Not two names of one file: each has a log of its own."""
    if one.resolve() == other:
        return True
    return one.name == other.name and one.exists() and one.parent.samefile(other.parent)


def _still_holds(place: Path, identity: str) -> bool:
    try:
        return identity_at(place) == identity
    except (sqlite3.Error, OSError):
        return True  # something is there that cannot be looked into
