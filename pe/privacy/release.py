"""The only way out of the private side: exact sums in, noisy sums out, charged first.

A release takes four steps, each durable before the next begins:

    charge   an entry in the ledger fixes the mechanism (sensitivity, noise scale, bins), the digest of the question and
             the attempt
    count    the exact sums, in memory alone
    draw     a second entry in the ledger: from here on noise may be drawn for that charge
    noise    is drawn, once, and the noisy sums are returned

Why a release that was charged and not drawn may be finished later under its own charge. Let entry e fix the question q,
its sensitivity and the noise scale. What an adversary sees before the draw entry of e is written does not depend on
any noise of e, for none exists: counting shows nothing, and a failed count says no more than that it failed. Finishing
shows q(D) plus one sample of the noise that e paid for, which is the mechanism of e run once; when it runs, and how
often its sums were counted before, changes neither its sensitivity nor its noise. q and the scale were fixed when e was
charged, so they depend on earlier releases alone, and the adaptive composition that the ledger's filter adds up (arXiv
2210.17520) holds as it stands. A draw entry is written at most once for a charge, whatever process, copy of a run
directory or restored backup asks: in one transaction of the ledger, which itself is refused when rolled back. So at
most one sample is ever drawn for a charge. A draw that was begun and whose result is lost may have been seen: its
charge stays spent, and it is never repeated.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import NoReturn, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from pe.errors import LedgerError, PrivateDataError, UnconfirmedError
from pe.privacy.budget import Adjacency, Budget, Unit
from pe.privacy.mechanism import DiscreteGaussian
from pe.shield import shielded


class Votes:
    """Exact integer sums over a public list of bins, not yet summed: votes for candidates, label counts, marginals.

    count                returns int64 (bins,), in grid steps; called once, by ``release``, after the charge.
    sensitivity_squared  bounds the squared L2 change of that vector, in grid steps, between data sets that are
                         neighbours under ``adjacency`` and differ in one ``unit``.
    grid                 steps per vote.
    ready                makes what the count needs and nothing leaves from, such as stored embeddings: see ``prepare``.
    question             digest of the public facts that decide the vector, by which a charge that was not counted yet
                         is taken up again (``pe.private.question``); empty: never.

    The object shows nothing, and neither copies nor pickles.
    """

    __slots__ = ("_count", "_ready", "adjacency", "bins", "grid", "purpose", "question", "sensitivity_squared", "unit")

    def __init__(
        self,
        count: Callable[[], NDArray[np.int64]],
        bins: int,
        sensitivity_squared: Fraction,
        adjacency: Adjacency,
        purpose: str = "votes",
        *,
        unit: Unit = Unit.RECORD,
        grid: int = 1,
        ready: Callable[[], object] | None = None,
        question: str = "",
    ) -> None:
        self._count = count
        self._ready = ready
        self.bins = bins
        self.sensitivity_squared = sensitivity_squared
        self.adjacency = adjacency
        self.purpose = purpose
        self.unit = unit
        self.grid = grid
        self.question = question

    def prepare(self) -> None:
        """Do beforehand what takes long and fails most: whoever is interrupted at it has not paid for a count yet."""
        if self._ready is not None:
            shielded(f"preparing the {self.purpose}", self._ready, "They were not charged.")

    def __repr__(self) -> str:
        return f"Votes(private, bins={self.bins})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("exact votes are private: they cannot be copied or pickled")


@dataclass(frozen=True)
class Histogram:
    """Released noisy sums: int64 (bins,) in grid steps, the noise scale in votes, and the entry that paid for them."""

    counts: NDArray[np.int64] = field(repr=False)
    sigma: Fraction
    entry: str
    grid: int = 1

    def __post_init__(self) -> None:
        self.counts.flags.writeable = False

    @property
    def votes(self) -> NDArray[np.float64]:
        """The noisy sums in votes, float64 (bins,)."""
        return self.counts / self.grid


class Purse(Protocol):
    """Pays for releases: a ledger's ``Account``, or a ``SimulatedAccount``."""

    @property
    def budget(self) -> Budget: ...

    def reserve(
        self,
        mechanism: DiscreteGaussian,
        *,
        purpose: str,
        iteration: int,
        bins: int,
        grid: int,
        attempt: str,
        question: str,
    ) -> str: ...

    def begin_draw(self, entry: str, attempt: str) -> None: ...

    def noisy(self, mechanism: DiscreteGaussian, counts: NDArray[np.int64]) -> NDArray[np.int64]: ...


def release(
    votes: Votes,
    sigma: Fraction,
    *,
    account: Purse,
    iteration: int,
    before_draw: Callable[[], object] | None = None,
) -> Histogram:
    """Charge the account, then count, then add discrete Gaussian noise of scale ``sigma`` votes to every bin.

    The charge is durable before any private record is counted, and it stays whatever happens after. A charge of the
    same run, iteration, mechanism and question for which no noise was drawn yet is taken up in place of a new one.

    before_draw  called after the count: raises where the noisy sums could not be kept, which then are not drawn.

    Raises BudgetExceededError (nothing read, nothing spent) or PrivateDataError (charged; the text quotes no data).
    """
    if (votes.adjacency, votes.unit) != (account.budget.adjacency, account.budget.unit):
        raise LedgerError(
            f"the sensitivity of the {votes.purpose} holds under {votes.adjacency} adjacency per {votes.unit}, the "
            f"budget is accounted under {account.budget.adjacency} per {account.budget.unit}. Nothing was spent."
        )
    mechanism = DiscreteGaussian(sigma * votes.grid, votes.sensitivity_squared)
    attempt = secrets.token_hex(16)
    charge = partial(
        account.reserve,
        mechanism,
        purpose=votes.purpose,
        iteration=iteration,
        bins=votes.bins,
        grid=votes.grid,
        attempt=attempt,
        question=votes.question,
    )
    entry = _confirmed(charge)
    kept = UNDRAWN if votes.question else "The charge stays spent."
    counts = shielded(f"counting {votes.purpose}", votes._count, kept)
    if counts.shape != (votes.bins,) or counts.dtype != np.int64:
        raise PrivateDataError(f"counting {votes.purpose}: expected {votes.bins} int64 counts. {kept}")
    if before_draw is not None:
        before_draw()
    try:
        _confirmed(partial(account.begin_draw, entry, attempt))
    except UnconfirmedError:
        raise
    except LedgerError as error:  # its text is about the entry that was not written, not about the charge before it
        raise LedgerError(str(error).replace("Nothing was spent by this call.", kept)) from None
    return Histogram(account.noisy(mechanism, counts), sigma, entry, votes.grid)


UNDRAWN = "It was charged and no noise was drawn: the next call finishes it under the same charge."

Result = TypeVar("Result")


def _confirmed(step: Callable[[], Result]) -> Result:
    """Write an entry; once more where the ledger cannot tell whether it was written.

    Nothing was counted, or drawn, between the two, and the same attempt is not written twice.
    """
    try:
        return step()
    except UnconfirmedError:
        return step()
