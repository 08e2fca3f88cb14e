"""What is kept outside the ledgers: their key, and for each the place it lies at and the newest hash seen per source.

A ledger that was deleted, or restored from an older copy, no longer holds the hash the witness remembers; one that was
copied has its original at the place the witness remembers.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from filelock import FileLock

from pe.errors import LedgerError
from pe.files import publish_once
from pe.privacy.store import holds, identity_at


def default_key_path() -> Path:
    """``PE_LEDGER_KEY``, else ``pe/ledger.key`` in the user's configuration directory."""
    if path := os.environ.get("PE_LEDGER_KEY"):
        return Path(path)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "pe" / "ledger.key"


def load_key(path: str | Path | None, *, create: bool) -> tuple[bytes, Path]:
    """The 32-byte ledger key and where it lies; ``create`` makes it (0600 in a 0700 directory) when missing."""
    place = Path(path) if path is not None else default_key_path()
    try:
        if create and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            draft = place.with_name(f".{place.name}.{os.getpid()}")
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32))
                file.flush()
                os.fsync(file.fileno())
            try:
                publish_once(draft, place)  # never replaces a key that another process made meanwhile
            except FileExistsError:
                pass
            finally:
                draft.unlink(missing_ok=True)
        key = bytes.fromhex(place.read_text().strip())
    except FileNotFoundError:
        raise LedgerError(
            f"the ledger's key is missing: expected it at {place}. Restore it, or name its place with PE_LEDGER_KEY. "
            "Nothing was spent."
        ) from None
    except (OSError, ValueError) as error:
        raise LedgerError(
            f"the ledger's key {place} cannot be read ({type(error).__name__}). Nothing was spent."
        ) from None
    if len(key) != 32:
        raise LedgerError(f"the ledger's key {place} is damaged: expected 32 bytes in hex. Nothing was spent.")
    return key, place


class Witness:
    """What is known of one ledger, by its identity: where it lies, and the newest (number, hash) of each source.

    Kept in ``KEY.heads/IDENTITY/``, beside the key: ``place``, and one file per source. ``identity`` is empty until
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

    def settle(self, verify: Callable[[], None]) -> None:
        """Remember where the ledger lies; raise LedgerError if it is a copy of one that still lies elsewhere.

        ``verify`` is called for a ledger that was moved and raises LedgerError if it lacks a remembered head.
        """
        self.refuse_a_lost_ledger()
        if self._place(self._identity) == self._ledger:
            return
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with FileLock(self._directory / "place.lock"):
            before = self._place(self._identity)
            if before is not None and before != self._ledger:
                if _same_place(before, self._ledger):
                    return  # a link or a mount
                if _still_holds(before, self._identity):
                    raise LedgerError(
                        f"{self._ledger} is a copy of the ledger {before}: charges to the two would not add up. Use "
                        "the original, or delete it if the copy is newer. Nothing was spent."
                    )
                verify()
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
        """Hold the block in which a source is created; raise LedgerError if another ledger holds it already."""
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        with FileLock(self._root / "sources.lock"):
            for identity, place in self._others():
                if self._path(source, identity).exists() or holds(place, identity, source):
                    gone = "" if place.exists() else f", or delete {self._root / identity} if that one is gone for good"
                    raise LedgerError(
                        f"source '{source}' has its budget in the ledger {place}, and two ledgers for one source do "
                        f"not add up: use that one, or another name for other data{gone}. Nothing was spent."
                    )
            yield

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
        except (OSError, ValueError):
            raise LedgerError(f"{path} is damaged: restore it. Nothing was spent.") from None

    # -- heads -----------------------------------------------------------------------------------------------------

    def seen(self, source: str) -> tuple[int, str] | None:
        """The remembered head. Read it before reading the chain, so that it can only be behind."""
        try:
            number, digest = json.loads(self._path(source).read_text())
            return int(number), str(digest)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError):
            raise LedgerError(f"{self._path(source)} is damaged: restore it. Nothing was spent.") from None

    def check(self, source: str, seen: tuple[int, str] | None, hashes: Sequence[str]) -> None:
        """Raise LedgerError if the chain does not contain the remembered head."""
        if seen is not None and (len(hashes) <= seen[0] or hashes[seen[0]] != seen[1]):
            raise LedgerError(
                f"the ledger {self._ledger} was rolled back: source '{source}' had {seen[0] + 1} entries or more, now "
                f"{len(hashes)}. Restore the newest copy, with the -wal file beside it if there is one. Nothing was "
                "spent."
            )

    def rehearse(self, source: str) -> None:
        """Try the writing that ``advance`` will do; raises LedgerError where it would fail.

        Called before an entry is committed, so that a full or read-only disk beside the key costs no charge.
        """
        path = self._path(source)
        trial = path.with_suffix(".trial")
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            with FileLock(path.with_suffix(".lock")):
                _write(trial, json.dumps([2**53, "0" * 64]))
                trial.unlink()
        except OSError as error:
            raise LedgerError(
                f"{self._directory}, where the ledger's newest entries are remembered beside its key, cannot be "
                f"written ({error.strerror}): free the disk, or make it writable. Nothing was spent by this call."
            ) from None

    def advance(self, source: str, number: int, digest: str) -> None:
        """Remember a committed head. Lost in a crash, it is merely behind."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._path(source)
        with FileLock(path.with_suffix(".lock")):
            before = self.seen(source)
            if before is None or before[0] < number:
                _write(path, json.dumps([number, digest]))

    def _path(self, source: str, identity: str | None = None) -> Path:
        directory = self._root / identity if identity else self._directory
        return directory / f"{sha256(source.encode()).hexdigest()[:32]}.json"


def _write(path: Path, text: str) -> None:
    """Replace a file whole; call it under its lock."""
    draft = path.with_suffix(".draft")
    with draft.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


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
