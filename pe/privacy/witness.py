"""What is kept outside the ledger: its key, and the newest hash seen per source.

A ledger that was deleted, or restored from an older copy, no longer holds the hash the witness remembers.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from filelock import FileLock

from pe.errors import LedgerError


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
                os.link(draft, place)  # never replaces a key that another process made meanwhile
            except FileExistsError:
                pass
            finally:
                draft.unlink()
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
    """Newest (number, hash) of each source of one ledger file, in a directory beside the key."""

    def __init__(self, key_path: Path, ledger: Path) -> None:
        self._ledger = ledger.resolve()
        place = sha256(str(self._ledger).encode()).hexdigest()[:16]
        self._directory = key_path.parent / f"{key_path.name}.heads" / place

    def refuse_a_lost_ledger(self) -> None:
        """Raise LedgerError if this ledger file is gone although it once held entries."""
        if not self._ledger.exists() and any(self._directory.glob("*.json")):
            raise LedgerError(
                f"the ledger {self._ledger} is gone although budget was spent from it: restore it from a backup. To "
                f"give up its record on purpose, delete {self._directory}. Nothing was spent."
            )

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
                f"{len(hashes)}. Restore the newest copy. Nothing was spent."
            )

    def advance(self, source: str, number: int, digest: str) -> None:
        """Remember a committed head. Lost in a crash, it is merely behind."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._path(source)
        with FileLock(path.with_suffix(".lock")):
            before = self.seen(source)
            if before is None or before[0] < number:
                draft = path.with_suffix(".draft")
                with draft.open("w") as file:
                    file.write(json.dumps([number, digest]))
                    file.flush()
                    os.fsync(file.fileno())
                draft.replace(path)

    def _path(self, source: str) -> Path:
        return self._directory / f"{sha256(source.encode()).hexdigest()[:32]}.json"
