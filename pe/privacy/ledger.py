"""The durable ledger: what was granted for each private source, and every charge against it.

One SQLite file holds one append-only hash chain per source: ``hash = SHA-256(previous, source, number, kind, body)``,
and ``mac = HMAC-SHA256(key, hash)`` under a key kept outside the ledger's directory. Beside the key stands a witness of
the newest hash seen per source, so that a ledger restored from an older copy, or deleted, is noticed.

A charge is one transaction: ``BEGIN IMMEDIATE``, verify the source's chain, sum the exact rationals, compare with both
the source's grant and the run's own budget, insert, commit with fsync. Charges are never refunded.
"""

from __future__ import annotations

import hmac
import json
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pe.errors import BudgetExceededError, ConfigError, LedgerError, UnknownSourceError
from pe.privacy.accountant import Cost, add, fits
from pe.privacy.budget import Adjacency, Budget
from pe.privacy.mechanism import DiscreteGaussian, FixedPlan, Mechanism, SubsampledGaussian
from pe.privacy.witness import Witness, load_key

_TABLES = """
CREATE TABLE IF NOT EXISTS entries (
    source TEXT NOT NULL, number INTEGER NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL,
    previous TEXT NOT NULL, hash TEXT NOT NULL UNIQUE, mac TEXT NOT NULL, PRIMARY KEY (source, number)
) STRICT;
CREATE TABLE IF NOT EXISTS fingerprints (
    source TEXT NOT NULL, run TEXT NOT NULL, fingerprint TEXT NOT NULL, PRIMARY KEY (source, run)
) STRICT;
"""


@dataclass(frozen=True)
class Entry:
    """One row of a source's chain. ``kind`` is "grant" or "reserve"; ``body`` holds public settings only."""

    source: str
    number: int
    kind: str
    body: dict[str, Any]
    previous: str
    hash: str

    def as_dict(self) -> dict[str, Any]:
        return {"number": self.number, "kind": self.kind, **self.body, "previous": self.previous, "hash": self.hash}


def entry_hash(previous: str, source: str, number: int, kind: str, body: dict[str, Any]) -> str:
    """The chain's link: SHA-256 over canonical JSON."""
    return _link(previous, source, number, kind, canonical(body))


def _link(previous: str, source: str, number: int, kind: str, body: str) -> str:
    return sha256(canonical([previous, source, number, kind, body]).encode()).hexdigest()


def canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def default_path() -> Path:
    """``PE_LEDGER``, else ``pe/ledger.sqlite3`` in the user's data directory."""
    if path := os.environ.get("PE_LEDGER"):
        return Path(path)
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "pe" / "ledger.sqlite3"


class Ledger:
    """A ledger file. ``create=True`` makes it when it does not exist; otherwise a missing file is an error."""

    def __init__(self, path: str | Path | None = None, *, key: str | Path | None = None, create: bool = False) -> None:
        self.path = Path(path) if path is not None else default_path()
        if not self.path.exists() and not create:
            raise UnknownSourceError(
                f"no ledger at {self.path}: 'pe budget create SOURCE --epsilon E --delta D --adjacency A' makes one, "
                "'--ledger' or PE_LEDGER names another, 'pe synthesize --create' grants a first run's budget. "
                "Nothing was spent."
            )
        # a new key beside an old ledger would make every entry in it look altered
        self._key, key_path = load_key(key, create=create and not self.path.exists())
        self._witness = Witness(key_path, self.path)
        self._witness.refuse_a_lost_ledger()
        if create:
            _touch(self.path)
        self._guard = threading.RLock()
        self._held: tuple[tuple[int, int, int], Callable[[], object], sqlite3.Connection] | None = None
        with self._connect():
            pass

    # -- grants ----------------------------------------------------------------------------------------------------

    def create(self, source: str, budget: Budget) -> Entry:
        """Grant a first budget to a new source. Raises LedgerError if the source is known."""
        if not source.strip():
            raise ConfigError("expected a source name, got an empty one. Nothing was spent.")
        with self._transaction() as connection:
            if self._chain(connection, source):
                raise LedgerError(
                    f"source '{source}' already has a budget: 'pe budget show {source}' prints it, "
                    "'pe budget grant' raises it. Nothing was spent."
                )
            entry = self._append(connection, source, "grant", self._grant_body(budget), [])
        return self._witnessed(entry)

    def grant(self, source: str, epsilon: float, delta: float) -> Entry:
        """Replace a source's total by a larger one; what was spent stays spent. Raises LedgerError below the spent."""
        with self._transaction() as connection:
            chain = self._require(connection, source)
            old = granted(chain)
            budget = Budget(epsilon, delta, old.adjacency, old.unit, old.accountant)
            if not fits(spent(chain), budget.limit):
                raise LedgerError(
                    f"source '{source}' has spent epsilon {budget.epsilon_of(spent(chain)):.4g} at delta {delta:g}, "
                    f"more than the new total {epsilon:g}. The grant stays {old}. Nothing was spent."
                )
            entry = self._append(connection, source, "grant", self._grant_body(budget), chain)
        return self._witnessed(entry)

    # -- reading ---------------------------------------------------------------------------------------------------

    def sources(self) -> list[str]:
        with self._connect() as connection:
            return [name for (name,) in connection.execute("SELECT DISTINCT source FROM entries ORDER BY source")]

    def chain(self, source: str) -> list[Entry]:
        """Every entry of a source, verified against hashes, MACs and the witness."""
        with self._connect() as connection:
            return self._require(connection, source)

    def account(self, source: str, *, run: str, budget: Budget, config: str) -> Account:
        """The purse of one run: charges go to ``source`` and stop at ``budget`` as well as at the source's grant."""
        old = granted(self.chain(source))
        if old.terms != budget.terms:
            (a, u, how), (b, v, other) = old.terms, budget.terms
            raise LedgerError(
                f"source '{source}' is accounted under {a} adjacency per {u} by '{how}', the run asks for {b} per {v} "
                f"by '{other}': charges under both cannot be added. Nothing was spent."
            )
        return Account(self, source, run, budget, config)

    # -- fingerprints ----------------------------------------------------------------------------------------------

    def fingerprint(self, content: bytes) -> str:
        """Keyed digest of private content: equal for equal data, meaningless without the key. Stays in the ledger."""
        return hmac.new(self._key, b"fingerprint" + content, sha256).hexdigest()

    def bind(self, source: str, run: str, fingerprint: str) -> tuple[str | None, list[str]]:
        """Remember a run's data; return what was remembered for it before, and other sources with the same data."""
        with self._transaction() as connection:
            row = connection.execute("SELECT fingerprint FROM fingerprints WHERE run = ?", (run,)).fetchone()
            if row is None:
                connection.execute("INSERT INTO fingerprints VALUES (?, ?, ?)", (source, run, fingerprint))
            others = connection.execute(
                "SELECT DISTINCT source FROM fingerprints WHERE fingerprint = ? AND source != ? ORDER BY source",
                (fingerprint, source),
            ).fetchall()
        return (row[0] if row else None), [name for (name,) in others]

    # -- inside ----------------------------------------------------------------------------------------------------

    def _grant_body(self, budget: Budget) -> dict[str, Any]:
        return budget.to_dict() | {"time": _now()}

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        with self._guard:
            try:
                yield self._connection()
            except (sqlite3.Error, OSError) as error:
                self.close()
                raise LedgerError(
                    f"the ledger {self.path} cannot be used ({error}): free the disk, make it writable, or restore it "
                    "from a backup that is not older than the last certificate. Nothing was spent by this call."
                ) from None

    def _connection(self) -> sqlite3.Connection:
        """This process's connection; a new one after a fork, or when another file took the ledger's place."""
        place = self.path.stat()
        identity = (os.getpid(), place.st_dev, place.st_ino)
        if self._held is None or self._held[0] != identity:
            self.close()
            connection = sqlite3.connect(
                f"{self.path.resolve().as_uri()}?mode=rw",  # never creates a file
                uri=True,
                timeout=60,
                isolation_level=None,
                check_same_thread=False,
            )
            self._held = (identity, weakref.finalize(self, _close, connection, os.getpid()), connection)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(_TABLES)
        return self._held[2]

    def close(self) -> None:
        """Close the connection; the next use opens it again."""
        if self._held is not None:
            self._held[1]()
            self._held = None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._connect() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()

    def _append(
        self, connection: sqlite3.Connection, source: str, kind: str, body: dict[str, Any], chain: list[Entry]
    ) -> Entry:
        previous, number = (chain[-1].hash if chain else ""), len(chain)
        digest = entry_hash(previous, source, number, kind, body)
        row = (source, number, kind, canonical(body), previous, digest, self._mac(digest))
        connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        return Entry(source, number, kind, body, previous, digest)

    def _witnessed(self, entry: Entry) -> Entry:
        """Call after the commit: the witness may lag behind the ledger, never lead it."""
        try:
            self._witness.advance(entry.source, entry.number, entry.hash)
        except OSError as error:
            raise LedgerError(
                f"entry {entry.number} of source '{entry.source}' is in the ledger, but its witness beside the key "
                f"could not be written ({type(error).__name__}): free the disk, or make it writable. A charge in that "
                "entry stays spent."
            ) from None
        return entry

    def _mac(self, digest: str) -> str:
        return hmac.new(self._key, digest.encode(), sha256).hexdigest()

    def _require(self, connection: sqlite3.Connection, source: str) -> list[Entry]:
        chain = self._chain(connection, source)
        if not chain:
            raise UnknownSourceError(
                f"source '{source}' has no budget in {self.path}: 'pe budget create {source} --epsilon E --delta D "
                "--adjacency A' grants one, '--create' grants a first run's budget. Nothing was spent."
            )
        return chain

    def _chain(self, connection: sqlite3.Connection, source: str) -> list[Entry]:
        seen = self._witness.seen(source)
        rows = connection.execute(
            "SELECT number, kind, body, previous, hash, mac FROM entries WHERE source = ? ORDER BY number", (source,)
        ).fetchall()
        entries: list[Entry] = []
        previous = ""
        for expected, (number, kind, text, before, digest, mac) in enumerate(rows):
            sound = (
                (number, before) == (expected, previous)
                and digest == _link(before, source, number, kind, text)
                and hmac.compare_digest(mac, self._mac(digest))
            )
            if not sound:
                raise LedgerError(
                    f"entry {expected} of source '{source}' in {self.path} was altered, or the key is another one: "
                    "restore both from a backup. Nothing was spent."
                )
            entries.append(Entry(source, number, kind, json.loads(text), before, digest))
            previous = digest
        self._witness.check(source, seen, [entry.hash for entry in entries])
        return entries


@dataclass(frozen=True)
class Account:
    """Charges of one run against one source."""

    ledger: Ledger
    source: str
    run: str
    budget: Budget
    config: str

    def reserve(self, mechanism: Mechanism, *, purpose: str, iteration: int, bins: int = 0, grid: int = 1) -> str:
        """Charge one mechanism durably and return the entry's hash; raise BudgetExceededError if it does not fit."""
        parts = mechanism.mechanisms if isinstance(mechanism, FixedPlan) else (mechanism,)
        sampled = any(isinstance(part, SubsampledGaussian) for part in parts)
        if sampled and self.budget.adjacency is not Adjacency.ADD_REMOVE:
            raise LedgerError(
                f"DP-SGD on Poisson samples is accounted under add-remove adjacency, this source under "
                f"{self.budget.adjacency}. Nothing was spent."
            )
        cost = self.budget.accountant.cost(mechanism, self.budget.delta)
        with self.ledger._transaction() as connection:
            chain = self.ledger._require(connection, self.source)
            for limit, total, owner in (
                (granted(chain), add(spent(chain), cost), f"source '{self.source}'"),
                (self.budget, add(spent(chain, self.run), cost), "this run"),
            ):
                if not fits(total, limit.limit):
                    raise BudgetExceededError(
                        f"iteration {iteration} needs epsilon {limit.epsilon_of(total):.4g} of {limit.epsilon:g} at "
                        f"delta {limit.delta:g} ({owner}): lower the iterations, or grant more with 'pe budget grant'. "
                        "Nothing was charged or released for it."
                    )
            body = {
                "run": self.run,
                "config": self.config,
                "iteration": iteration,
                "purpose": purpose,
                **mechanism.to_dict(),
                "bins": bins,
                "grid": grid,
                "cost": [str(part) for part in cost],
                "run_epsilon": self.budget.epsilon,
                "run_delta": self.budget.delta,
                "time": _now(),
            }
            entry = self.ledger._append(connection, self.source, "reserve", body, chain)
        return self.ledger._witnessed(entry).hash

    def spent(self) -> Cost:
        """What this run was charged so far."""
        return spent(self.ledger.chain(self.source), self.run)

    def epsilon_spent(self) -> float:
        """What the run's charges so far amount to at its delta; the certified figure is the preset budget."""
        return self.budget.epsilon_of(self.spent())

    def noisy(self, mechanism: DiscreteGaussian, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Counts plus fresh noise from the operating system's generator."""
        return mechanism.add_noise(counts)


def granted(chain: Sequence[Entry]) -> Budget:
    """The budget in force: the last grant."""
    return Budget.from_dict(next(entry.body for entry in reversed(chain) if entry.kind == "grant"))


def charges(chain: Sequence[Entry], run: str | None = None) -> list[Entry]:
    """The reservations of all runs, or of one."""
    return [entry for entry in chain if entry.kind == "reserve" and run in (None, entry.body["run"])]


def spent(chain: Sequence[Entry], run: str | None = None) -> Cost:
    """Sum of the costs of all reservations, or of one run's."""
    total = tuple(Fraction(0) for _ in granted(chain).limit)
    for entry in charges(chain, run):
        total = add(total, tuple(Fraction(part) for part in entry.body["cost"]))
    return total


def _touch(path: Path) -> None:
    """Make an empty private file, if there is none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise LedgerError(f"the ledger {path} cannot be made: {error.strerror}. Nothing was spent.") from None


def _close(connection: sqlite3.Connection, process: int) -> None:
    if os.getpid() == process:  # a connection inherited by a fork is not ours to close
        connection.close()


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
