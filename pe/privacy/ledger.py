"""The durable ledger: what was granted for each private source, and every charge against it.

One SQLite file holds one append-only hash chain per source: ``hash = SHA-256(previous, source, number, kind, body)``,
and ``mac = HMAC-SHA256(key, identity, hash)`` under a key kept outside the ledger's directory and a random identity
that the file was given at its creation. Beside the key stands a witness of where the ledger lies and of the newest hash
seen per source, so that a ledger restored from an older copy, deleted, or duplicated is noticed; a moved one is not
disturbed.

A charge is one transaction: ``BEGIN IMMEDIATE``, verify the source's chain, sum the exact rationals, compare with both
the source's grant and the run's own budget, insert, commit with fsync. Charges are never refunded. Before noise is
drawn for a charge a "draw" entry names it, at most once (``pe.privacy.release`` says why that is enough).
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fractions import Fraction
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pe.errors import BudgetExceededError, ConfigError, LedgerError, UnconfirmedError, UnknownSourceError
from pe.privacy.accountant import Cost, add, fits
from pe.privacy.budget import Adjacency, Budget
from pe.privacy.mechanism import DiscreteGaussian, FixedPlan, Mechanism, SubsampledGaussian
from pe.privacy.store import Store, identity_in, initialise, touch
from pe.privacy.witness import Witness, load_key


@dataclass(frozen=True)
class Entry:
    """One row of a source's chain: "grant", "schema", "reserve", "draw" or "release"; ``body`` is public."""

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
        self._key, self._key_path = load_key(key, create=create and not self.path.exists())
        self._identity = ""
        self._witness = Witness(self._key_path, self.path)
        self._store = Store(self.path)
        self._new = create
        if create and not self.path.exists():
            try:
                self._witness.refuse_a_lost_ledger()
            except LedgerError:
                if not self.path.exists():  # else another process made it meanwhile
                    raise
            touch(self.path)
        with self._connect():
            self._new = False

    # -- grants ----------------------------------------------------------------------------------------------------

    def create(self, source: str, budget: Budget) -> Entry:
        """Grant a first budget to a new source. Raises LedgerError if this or another ledger under the key knows it."""
        if not source.strip():
            raise ConfigError("expected a source name, got an empty one. Nothing was spent.")
        with self._connect(), self._witness.creating(source):
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

    def declare(self, source: str, fingerprint: str, *, replace: bool = False) -> None:
        """Note the schema, by its fingerprint, that a source's data are read with.

        Columns, values and bounds are declared, not inferred: raises LedgerError if the source was charged under
        another one, unless ``replace`` says that this is meant.
        """
        with self._transaction() as connection:
            chain = self._require(connection, source)
            before = declared(chain)
            if before == fingerprint:
                return
            if before is not None and charges(chain) and not replace:
                raise LedgerError(
                    f"source '{source}' was declared under another schema ({before[:12]}, this one is "
                    f"{fingerprint[:12]}): use the first one, give other data another source name, or amend it with "
                    f"'pe budget schema {source} SCHEMA.toml'. Nothing was spent."
                )
            entry = self._append(connection, source, "schema", {"schema": fingerprint, "time": _now()}, chain)
        self._witnessed(entry)

    def enter_release(self, source: str, binding: Mapping[str, Any]) -> list[Entry]:
        """Note what is handed out of a run, and return the chain up to and with that entry.

        binding  of a certificate: the run, its claim and spending, and digests of the files, the data they were made
                 from, and the certificate's statement.

        The same release is entered once, as long as its run is not charged again. Raises LedgerError for a run that
        was never charged, or was charged otherwise than the binding says.
        """
        run = str(binding["run"])
        with self._transaction() as connection:
            chain = self._require(connection, source)
            paid = charges(chain, run)
            if not paid or [str(part) for part in spent(chain, run)] != binding["spent"]["cost"]:
                raise LedgerError(
                    f"run {run} of source '{source}' was not charged what its release says: it was charged meanwhile, "
                    "or the ledger is another one. Finish it again, under its own ledger. Nothing was spent by this "
                    "call."
                )
            body = {**binding, "last_charge": paid[-1].hash}
            for known in reversed(chain):
                if known.kind == "release" and {**known.body, "time": None} == {**body, "time": None}:
                    return chain[: known.number + 1]
            entry = self._append(connection, source, "release", {**body, "time": _now()}, chain)
        return [*chain, self._witnessed(entry)]

    # -- reading ---------------------------------------------------------------------------------------------------

    def sources(self) -> list[str]:
        with self._connect() as connection:
            return _sources(connection)

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

    @property
    def key_path(self) -> Path:
        """Where the key really lies; what is private of this ledger's owner lies beside it."""
        return self._key_path

    # -- inside ----------------------------------------------------------------------------------------------------

    def _grant_body(self, budget: Budget) -> dict[str, Any]:
        return budget.to_dict() | {"time": _now()}

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        self._store.close()

    def _connect(self) -> AbstractContextManager[sqlite3.Connection]:
        return self._store.connect(self._recognise)

    def _transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        return self._store.transaction(self._recognise)

    def _recognise(self, connection: sqlite3.Connection) -> None:
        """Called at each opening: is this a ledger under this key, the one it was before, and not a copy?"""
        identity, mac = identity_in(connection) or self._initialise(connection)
        if not hmac.compare_digest(mac, self._sign(f"identity {identity}")):
            raise LedgerError(
                f"the ledger {self.path} belongs to another key, or its identity was altered: name its key with "
                "PE_LEDGER_KEY, or restore both from a backup. Nothing was spent."
            )
        if self._identity not in ("", identity):
            raise LedgerError(f"another ledger took the place of {self.path}: restore it. Nothing was spent.")
        self._identity, self._witness = identity, Witness(self._key_path, self.path, identity)
        self._witness.settle(lambda: self._verify(connection))

    def _initialise(self, connection: sqlite3.Connection) -> tuple[str, str]:
        """Give an empty file its identity, unless another process was faster."""
        connection.execute("BEGIN IMMEDIATE")
        try:
            found = identity_in(connection)
            if found is None:
                Witness(self._key_path, self.path).refuse_a_lost_ledger()  # be it this one
                if not self._new:
                    raise LedgerError(
                        f"the ledger {self.path} is empty: restore it from a backup, or delete the file and make a new "
                        "one with 'pe budget create'. Nothing was spent."
                    )
                identity = secrets.token_hex(16)
                found = identity, self._sign(f"identity {identity}")
                initialise(connection, *found)
            connection.commit()
        except BaseException:
            connection.rollback()
            raise
        return found

    def _verify(self, connection: sqlite3.Connection) -> dict[str, tuple[int, str]]:
        """Verify every chain, and that none which the witness remembers is missing; return the newest heads."""
        newest = {source: self._chain(connection, source)[-1] for source in _sources(connection)}
        self._witness.refuse_missing_sources(newest)
        return {source: (entry.number, entry.hash) for source, entry in newest.items()}

    def _append(
        self, connection: sqlite3.Connection, source: str, kind: str, body: dict[str, Any], chain: list[Entry]
    ) -> Entry:
        self._witness.rehearse(source)
        previous, number = (chain[-1].hash if chain else ""), len(chain)
        digest = entry_hash(previous, source, number, kind, body)
        row = (source, number, kind, canonical(body), previous, digest, self._mac(digest))
        connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        return Entry(source, number, kind, json.loads(row[3]), previous, digest)  # as it will be read again

    def _witnessed(self, entry: Entry) -> Entry:
        """Call after the commit: the witness may lag behind the ledger, never lead it."""
        try:
            self._witness.advance(entry.source, entry.number, entry.hash)
        except (OSError, LedgerError) as error:
            raise UnconfirmedError(
                f"entry {entry.number} of source '{entry.source}' is in the ledger, but its witness beside the key "
                f"could not be written ({type(error).__name__}): free the disk, or make it writable. A charge in that "
                "entry stays spent."
            ) from None
        return entry

    def _mac(self, digest: str) -> str:
        return self._sign(f"{self._identity} {digest}")  # an entry fits into no other ledger under the key

    def _sign(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), sha256).hexdigest()

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

    def reserve(
        self,
        mechanism: Mechanism,
        *,
        purpose: str,
        iteration: int,
        attempt: str,
        bins: int = 0,
        grid: int = 1,
        question: str = "",
    ) -> str:
        """Charge one mechanism durably and return the entry's hash; raise BudgetExceededError if it does not fit.

        ``attempt`` is drawn at random for every attempt at a release. After an UnconfirmedError, and before anything
        was counted, the same one may be used again: an entry that is there is returned and not charged twice.
        ``question`` is the digest of what is asked: a charge of this run and iteration for the same question by the
        same mechanism, for which no noise was drawn yet, is returned and not charged again, whichever attempt it was.
        """
        if not attempt:
            raise ConfigError("expected the id of an attempt, got an empty one. Nothing was spent.")
        parts = mechanism.mechanisms if isinstance(mechanism, FixedPlan) else (mechanism,)
        sampled = any(isinstance(part, SubsampledGaussian) for part in parts)
        if sampled and self.budget.adjacency is not Adjacency.ADD_REMOVE:
            raise LedgerError(
                f"DP-SGD on Poisson samples is accounted under add-remove adjacency, this source under "
                f"{self.budget.adjacency}. Nothing was spent."
            )
        cost = self.budget.accountant.cost(mechanism, self.budget.delta)
        asked = mechanism.to_dict() | {"bins": bins, "grid": grid, "question": question}
        with self.ledger._transaction() as connection:
            chain = self.ledger._require(connection, self.source)
            if paid := _paid(chain, self.run, iteration, purpose, attempt):
                if not asked.items() <= paid.body.items():
                    raise LedgerError(
                        f"attempt {attempt} at iteration {iteration} was charged for another release (entry "
                        f"{paid.number} of source '{self.source}'): begin a new attempt. Nothing was spent by this "
                        "call."
                    )
                return self.ledger._witnessed(paid).hash
            asked |= {"run": self.run, "iteration": iteration, "purpose": purpose}
            if question and (undrawn := _undrawn(chain, asked)):
                return self.ledger._witnessed(undrawn).hash
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
                "attempt": attempt,
                **mechanism.to_dict(),
                "bins": bins,
                "grid": grid,
                "question": question,
                "cost": [str(part) for part in cost],
                "run_epsilon": self.budget.epsilon,
                "run_delta": self.budget.delta,
                "time": _now(),
            }
            entry = self.ledger._append(connection, self.source, "reserve", body, chain)
        return self.ledger._witnessed(entry).hash

    def begin_draw(self, entry: str, attempt: str) -> None:
        """Note durably that noise may be drawn for a charge from now on; raises LedgerError if that was noted before.

        After an UnconfirmedError, and before anything was drawn, the same ``attempt`` may be noted again.
        """
        with self.ledger._transaction() as connection:
            chain = self.ledger._require(connection, self.source)
            charge = next((each for each in charges(chain, self.run) if each.hash == entry), None)
            if charge is None:
                raise LedgerError(f"the ledger {self.ledger.path} lacks the charge {entry[:16]}: restore it.")
            before = next((each for each in chain if each.kind == "draw" and each.body["entry"] == entry), None)
            if before is not None:
                if before.body["attempt"] != attempt:
                    raise LedgerError(
                        f"noise was drawn for entry {charge.number} of source '{self.source}' already, by another "
                        "process or in another copy of the run directory: go on there. The charge stays spent; nothing "
                        "was drawn by this call."
                    )
                self.ledger._witnessed(before)
                return
            body = {"run": self.run, "entry": entry, "attempt": attempt, "time": _now()}
            draw = self.ledger._append(connection, self.source, "draw", body, chain)
        self.ledger._witnessed(draw)

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


def declared(chain: Sequence[Entry]) -> str | None:
    """Fingerprint of the schema in force, if one was declared."""
    return next((str(entry.body["schema"]) for entry in reversed(chain) if entry.kind == "schema"), None)


def charges(chain: Sequence[Entry], run: str | None = None) -> list[Entry]:
    """The reservations of all runs, or of one."""
    return [entry for entry in chain if entry.kind == "reserve" and run in (None, entry.body["run"])]


def releases(chain: Sequence[Entry], run: str) -> list[Entry]:
    """What was handed out of a run."""
    return [entry for entry in chain if entry.kind == "release" and entry.body["run"] == run]


def spent(chain: Sequence[Entry], run: str | None = None) -> Cost:
    """Sum of the costs of all reservations, or of one run's."""
    total = tuple(Fraction(0) for _ in granted(chain).limit)
    for entry in charges(chain, run):
        total = add(total, tuple(Fraction(part) for part in entry.body["cost"]))
    return total


def _paid(chain: Sequence[Entry], run: str, iteration: int, purpose: str, attempt: str) -> Entry | None:
    """The charge of an attempt, if there is one: read from the verified chain, not from the index."""
    wanted = {"run": run, "iteration": iteration, "purpose": purpose, "attempt": attempt}.items()
    return next((entry for entry in charges(chain) if wanted <= entry.body.items()), None)


def drawn(chain: Sequence[Entry], run: str) -> set[str]:
    """Hashes of the charges of a run for which noise may have been drawn."""
    return {str(entry.body["entry"]) for entry in chain if entry.kind == "draw" and entry.body["run"] == run}


def undrawn(chain: Sequence[Entry], run: str) -> list[Entry]:
    """The charges of a run that can be finished: for a known question, and without noise that may have been drawn."""
    done = drawn(chain, run)
    return [entry for entry in charges(chain, run) if entry.body.get("question") and entry.hash not in done]


def _undrawn(chain: Sequence[Entry], asked: dict[str, Any]) -> Entry | None:
    """The first charge for what is asked that can be finished, if there is one."""
    wanted = asked.items()
    return next((entry for entry in undrawn(chain, asked["run"]) if wanted <= entry.body.items()), None)


def _sources(connection: sqlite3.Connection) -> list[str]:
    return [name for (name,) in connection.execute("SELECT DISTINCT source FROM entries ORDER BY source")]


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
