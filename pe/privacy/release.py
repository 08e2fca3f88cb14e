"""The only way out of the private side: exact sums in, noisy sums out, charged first."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import NoReturn, Protocol

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

    The object shows nothing, and neither copies nor pickles.
    """

    __slots__ = ("_count", "_ready", "adjacency", "bins", "grid", "purpose", "sensitivity_squared", "unit")

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
    ) -> None:
        self._count = count
        self._ready = ready
        self.bins = bins
        self.sensitivity_squared = sensitivity_squared
        self.adjacency = adjacency
        self.purpose = purpose
        self.unit = unit
        self.grid = grid

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
        self, mechanism: DiscreteGaussian, *, purpose: str, iteration: int, bins: int, grid: int, attempt: str
    ) -> str: ...

    def noisy(self, mechanism: DiscreteGaussian, counts: NDArray[np.int64]) -> NDArray[np.int64]: ...


def release(votes: Votes, sigma: Fraction, *, account: Purse, iteration: int) -> Histogram:
    """Charge the account, then count, then add discrete Gaussian noise of scale ``sigma`` votes to every bin.

    The charge is durable before any private record is counted, and it stays whatever happens after. Raises
    BudgetExceededError (nothing read, nothing spent) or PrivateDataError (spent; the text quotes no data).
    """
    if (votes.adjacency, votes.unit) != (account.budget.adjacency, account.budget.unit):
        raise LedgerError(
            f"the sensitivity of the {votes.purpose} holds under {votes.adjacency} adjacency per {votes.unit}, the "
            f"budget is accounted under {account.budget.adjacency} per {account.budget.unit}. Nothing was spent."
        )
    mechanism = DiscreteGaussian(sigma * votes.grid, votes.sensitivity_squared)
    charge = partial(
        account.reserve,
        mechanism,
        purpose=votes.purpose,
        iteration=iteration,
        bins=votes.bins,
        grid=votes.grid,
        attempt=secrets.token_hex(16),
    )
    try:
        entry = charge()
    except UnconfirmedError:
        entry = charge()  # nothing was counted yet, and the same attempt is not charged twice
    counts = shielded(f"counting {votes.purpose}", votes._count, "Its charge stays spent.")
    if counts.shape != (votes.bins,) or counts.dtype != np.int64:
        raise PrivateDataError(f"counting {votes.purpose}: expected {votes.bins} int64 counts; the charge stays spent.")
    return Histogram(account.noisy(mechanism, counts), sigma, entry, votes.grid)
