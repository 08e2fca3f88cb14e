"""The ledger's file: SQLite, one connection per process, opened and checked anew whenever the file is not as it was.

A file that was overwritten in place, or whose write-ahead log was taken away, must not be read through the pages that
an old connection still holds. So every use compares size, times and inodes first; a checkpoint changes them too, and
costs one opening more.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from pe.errors import LedgerError, UnconfirmedError
from pe.permissions import named_folder

FORMAT = 1
"""Kept as SQLite's ``user_version``."""

TABLES = (
    "CREATE TABLE meta (identity TEXT NOT NULL, mac TEXT NOT NULL) STRICT",
    """CREATE TABLE entries (
        source TEXT NOT NULL, number INTEGER NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL,
        previous TEXT NOT NULL, hash TEXT NOT NULL UNIQUE, mac TEXT NOT NULL, PRIMARY KEY (source, number)
    ) STRICT""",
    """CREATE TABLE fingerprints (
        source TEXT NOT NULL, run TEXT NOT NULL, fingerprint TEXT NOT NULL, PRIMARY KEY (source, run)
    ) STRICT""",
    """CREATE UNIQUE INDEX attempts ON entries (
        source, json_extract(body, '$.run'), json_extract(body, '$.iteration'), json_extract(body, '$.purpose'),
        json_extract(body, '$.attempt')
    ) WHERE kind = 'reserve'""",
)

_NEVER_WRITTEN = {"SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_BUSY", "SQLITE_READONLY"}
"""Failures of a commit whose last frame, without which the log's reader ignores the others, was not written."""


class Store:
    """The file at ``path``. ``connect`` yields a checked connection, ``transaction`` a durable ``BEGIN IMMEDIATE``.

    ``recognise`` is called with each new connection and raises LedgerError if this is not the ledger it should be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._guard = threading.RLock()
        self._held: tuple[tuple[int, ...], Callable[[], object], sqlite3.Connection] | None = None

    @contextmanager
    def connect(self, recognise: Callable[[sqlite3.Connection], None]) -> Iterator[sqlite3.Connection]:
        with self._guard:
            try:
                yield self._connection(recognise)
            except (sqlite3.Error, OSError) as error:
                self.close()
                raise LedgerError(
                    f"the ledger {self.path} cannot be used ({error}): free the disk, make it writable, or restore it "
                    "from a backup that is not older than the last certificate. Nothing was spent by this call."
                ) from None

    @contextmanager
    def transaction(self, recognise: Callable[[sqlite3.Connection], None]) -> Iterator[sqlite3.Connection]:
        """Commit what the block wrote. Raises UnconfirmedError if the commit may have happened although it failed."""
        with self.connect(recognise) as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            try:
                connection.commit()
            except sqlite3.Error as error:
                if getattr(error, "sqlite_errorname", "") in _NEVER_WRITTEN:
                    raise
                self.close()
                raise UnconfirmedError(
                    f"the ledger {self.path} could not confirm an entry ({error}): free the disk, or make it writable, "
                    "and look for it with 'pe budget history'. A charge in that entry may be spent."
                ) from None

    def close(self) -> None:
        """Close the connection; the next use opens it again."""
        if self._held is not None:
            self._held[1]()
            self._held = None

    def _connection(self, recognise: Callable[[sqlite3.Connection], None]) -> sqlite3.Connection:
        """This process's connection; a new one after a fork, or when the file is not as it was left."""
        before = self._mark()
        if self._held is not None:
            mark, _, connection = self._held
            if mark == before or (mark[0] == before[0] and connection.in_transaction):
                return connection
        self.close()
        connection = sqlite3.connect(
            f"{self.path.resolve().as_uri()}?mode=rw",  # never creates a file
            uri=True,
            timeout=60,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            self._prepare(connection)
            recognise(connection)
        except BaseException:
            connection.close()
            raise
        # the log is made by the first read; what else changed since is noticed at the next use
        self._held = (
            (*before[:-1], self._mark()[-1]),
            weakref.finalize(self, _close, connection, os.getpid()),
            connection,
        )
        return connection

    def _mark(self) -> tuple[int, ...]:
        """What changes when another hand touches the file: process, inode, size, times, and the log's inode."""
        file = self.path.stat()
        try:
            log = os.stat(f"{self.path.resolve()}-wal").st_ino
        except FileNotFoundError:
            log = 0
        return (os.getpid(), file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns, file.st_ctime_ns, log)

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN")  # both questions to one state: another process may be making the tables
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        empty = _is_empty(connection)
        connection.rollback()
        if version != FORMAT and not (version == 0 and empty):
            raise LedgerError(
                f"{self.path} is no ledger of format {FORMAT} (it says {version}): use the version of pe-synth that "
                "wrote it, or name another file. Nothing was spent."
            )
        _log_ahead(connection)
        connection.execute("PRAGMA synchronous = FULL")
        (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            raise LedgerError(
                f"the ledger {self.path} is damaged: restore it from a backup that is not older than the last "
                "certificate. Nothing was spent."
            )


def _log_ahead(connection: sqlite3.Connection, patience: float = 60.0) -> None:
    """Switch to a write-ahead log; unlike other statements this one does not wait for a busy file by itself."""
    end = time.monotonic() + patience
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > end:
                raise
            time.sleep(0.02)


def initialise(connection: sqlite3.Connection, identity: str, mac: str) -> None:
    """Make the tables, inside the caller's transaction."""
    for statement in TABLES:
        connection.execute(statement)
    connection.execute("INSERT INTO meta VALUES (?, ?)", (identity, mac))
    connection.execute(f"PRAGMA user_version = {FORMAT}")


def identity_in(connection: sqlite3.Connection) -> tuple[str, str] | None:
    """A ledger's identity and its MAC; None for an empty file."""
    if _is_empty(connection):
        return None
    rows = connection.execute("SELECT identity, mac FROM meta").fetchall()
    return rows[0] if len(rows) == 1 else ("", "")


def identity_at(path: Path) -> str | None:
    """The identity of the ledger in a file, None if there is no ledger. Raises sqlite3.Error, OSError if unreadable."""
    return _look(path, "SELECT identity FROM meta")


def holds(path: Path, identity: str, source: str) -> bool:
    """Whether a file is the ledger of that identity, readable, and has entries of a source."""
    query = "SELECT source FROM meta, entries WHERE identity = ? AND source = ? LIMIT 1"
    try:
        return _look(path, query, identity, source) is not None
    except (sqlite3.Error, OSError):
        return False


def _look(path: Path, query: str, *values: str) -> str | None:
    if not path.is_file():
        return None
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=60)) as connection:
            row = connection.execute(query, values).fetchone()
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorname in ("SQLITE_NOTADB", "SQLITE_CORRUPT", "SQLITE_ERROR"):  # damaged, or no ledger
            return None
        raise
    return None if row is None else str(row[0])


def touch(path: Path) -> None:
    """Make an empty private file, if there is none."""
    try:
        named_folder(path.parent, path.name, strict=False)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)
    except OSError as error:
        reason = error.strerror or str(error)
        raise LedgerError(f"the ledger {path} cannot be made: {reason}. Nothing was spent.") from None


def _is_empty(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None


def _close(connection: sqlite3.Connection, process: int) -> None:
    if os.getpid() == process:  # a connection inherited by a fork is not ours to close
        connection.close()
