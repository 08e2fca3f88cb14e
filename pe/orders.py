"""Orders: releases that are paid for outside a run, once, however often the command that asks for them is repeated.

An order is what was asked for (settings, schema, budget), by its digest. The ledger holds its charges under a run of
that name, and beside the ledger its noisy answers are stored, write-once:

    LEDGER.answers/purchase-DIGEST-1/000/histogram.npz

The same command again finds them and pays nothing, and finishes under its own charge what was charged and not drawn
yet. A charge whose answer was lost, because the process died after its noise may have been drawn or the folder was
taken away, stays spent; it is never replaced without being told to (``again``), and then by a further try under a
further name, which is charged anew. The folder is private (0700), although what it holds has its noise.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pe.errors import BudgetExceededError, RunLockedError, RunMismatchError
from pe.evolution.start import Releaser
from pe.files import refusals
from pe.permissions import private_folder
from pe.privacy.accountant import Cost, add, fits
from pe.privacy.budget import Budget
from pe.privacy.certificate import digests, draft, issue
from pe.privacy.ledger import Account, Entry, Ledger, charges, drawn, granted, spent, undrawn
from pe.privacy.release import Histogram
from pe.private.dataset import PrivateDataset
from pe.run import read_histogram, rehearse_histogram, remembering, write_histogram


@dataclass
class Order:
    """One order, held against other processes: see ``ordered``."""

    book: Ledger
    source: str
    budget: Budget
    name: str
    digest: str
    again: bool
    root: Path
    number: int = 1

    @property
    def run(self) -> str:
        """What the ledger calls this try."""
        return f"{self.name}-{self.number}"

    @property
    def path(self) -> Path:
        return self.root / self.run

    @property
    def account(self) -> Account:
        return self.book.account(self.source, run=self.run, budget=self.budget, config=self.digest)

    @property
    def release(self) -> Releaser:
        """Charges, counts, adds noise and stores; what is stored comes back as it is."""
        return remembering(self, self.account, self.digest)

    def histogram(self, number: int, name: str = "histogram") -> Histogram | None:
        return read_histogram(self.path / f"{number:03d}" / f"{name}.npz")

    def store_histogram(self, number: int, histogram: Histogram, name: str = "histogram") -> None:
        write_histogram(self.path / f"{number:03d}" / f"{name}.npz", histogram)

    def rehearse(self, number: int, bins: int) -> None:
        """Try whether an answer can be stored; raises RunError."""
        rehearse_histogram(self.path / f"{number:03d}", bins)

    def certify(self, files: Mapping[str, bytes], data: Mapping[str, bytes], public: Sequence[str]) -> dict[str, Any]:
        """The certificate of files that were made from ``data`` (released answers, by name), entered in the ledger.

        public  sentences: what the user declared to be public knowledge.
        """
        chain = self.book.chain(self.source)
        begun = draft(chain, run=self.run, budget=self.budget, completed=(0, 0), declared_public=public)
        return issue(self.book, begun, files=digests(files), data=digests(data))

    def settle(self, cost: Cost) -> None:
        """Find the try to go on with, and refuse what cannot be had, before private data are read.

        Raises RunMismatchError where a charge was lost and ``again`` was not said, BudgetExceededError where a new try
        of this ``cost`` does not fit what the source was granted.
        """
        chain = self.book.chain(self.source)
        tries = {str(entry.body["run"]).rpartition("-") for entry in charges(chain)}
        self.number = max((int(number) for name, _, number in tries if name == self.name), default=1)
        paid, stored = {entry.hash for entry in charges(chain, self.run)}, self._stored()
        if stranger := stored - paid:
            raise RunMismatchError(
                f"{self.path} holds an answer that this ledger did not charge for ({min(stranger)[:16]}): restore the "
                "ledger, or take the folder away. Nothing was spent by this call."
            )
        self._refuse_unknown_draws(chain, stored)
        if lost := paid - stored - {entry.hash for entry in undrawn(chain, self.run)}:
            if not self.again:
                raise RunMismatchError(
                    f"this was paid for before (ledger entry {min(lost)[:16]} of source '{self.source}'), and its "
                    f"answer is not in {self.path}: it was lost in a crash, or the folder stayed behind when the "
                    "ledger was moved. Put the folder back, or pay once more with 'again' (--again). The charge stays "
                    "spent; nothing was spent by this call."
                )
            self.number += 1
        self._afford(cost)

    def bind(self, private: PrivateDataset, cost: Cost) -> tuple[str, ...]:
        """Compare the data with those that were paid for; return warnings about other sources that hold the same.

        Raises RunMismatchError where they changed, unless ``again`` was said: then a new try begins.
        """
        fingerprint = self.book.fingerprint(private.content_digest())
        while True:
            before, others = self.book.bind(self.source, self.run, fingerprint)
            if before in (None, fingerprint):
                break
            if charges(self.book.chain(self.source), self.run) and not self.again:
                raise RunMismatchError(
                    f"the records of source '{self.source}' changed since this was paid for: restore them, or pay once "
                    "more with 'again' (--again). Nothing was spent by this call."
                )
            self.number += 1
            self._afford(cost)
        with refusals(self.path):
            private_folder(self.path)
        return tuple(
            f"source '{other}' was charged for the same data: what both release adds up for the same people"
            for other in others
        )

    def _refuse_unknown_draws(self, chain: Sequence[Entry], stored: set[str]) -> None:
        """Raise RunMismatchError for a stored answer whose noise the ledger says was never drawn."""
        if unknown := stored - drawn(chain, self.run):
            raise RunMismatchError(
                f"{self.path} holds an answer to entry {min(unknown)[:16]}, for which this ledger drew no noise: it "
                "was rolled back. Restore its newest copy. Nothing was spent by this call."
            )

    def _stored(self) -> set[str]:
        """Ledger entries of the answers that are stored."""
        found = (read_histogram(file) for file in self.path.glob("*/*.npz") if file.name[0] != ".")
        return {each.entry for each in found if each is not None}

    def _afford(self, cost: Cost) -> None:
        chain = self.book.chain(self.source)
        if charges(chain, self.run):
            return  # begun: what is stored is free
        grant, total = granted(chain), add(spent(chain), cost)
        if not fits(total, grant.limit):
            raise BudgetExceededError(
                f"with this source '{self.source}' would have spent epsilon {grant.epsilon_of(total):.4g} of "
                f"{grant.epsilon:g} at delta {grant.delta:g}: lower epsilon, or grant more with 'pe budget grant "
                f"{self.source}'. Nothing was spent."
            )


@contextmanager
def ordered(
    book: Ledger, source: str, kind: str, asked: object, budget: Budget, *, again: bool = False
) -> Iterator[Order]:
    """The order for what is ``asked`` (plain values that decide the answers), open until the block ends.

    again  where an earlier charge for the same was lost, or was for data that changed since, pay once more.

    Raises RunLockedError while another process works on it.
    """
    plain = json.dumps([source, kind, asked, budget.to_dict()], sort_keys=True, default=str)  # TOML knows dates
    digest = sha256(plain.encode()).hexdigest()
    root = book.path.with_name(f"{book.path.name}.answers")
    name = f"{kind}-{digest[:32]}"
    with refusals(root):
        private_folder(root)
        lock = FileLock(root / f".{name}.lock", mode=0o600)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RunLockedError(
                "another process works on the same order: wait for it, or stop it. Nothing was spent."
            ) from None
    try:
        yield Order(book, source, budget, name, digest, again, root)
    finally:
        lock.release()
