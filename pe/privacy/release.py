"""The only way out of the private side: exact counts in, noisy counts out, charged first."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from pe.errors import LedgerError, PrivateDataError, UnconfirmedError
from pe.privacy.budget import Adjacency
from pe.privacy.ledger import Account
from pe.privacy.mechanism import DiscreteGaussian
from pe.shield import shielded


class Votes:
    """Exact integer counts over a public list of bins, not yet counted.

    ``count`` returns int64 (bins,); it is called once, by ``release``, after the charge. ``sensitivity_squared``
    bounds the squared L2 change of that vector between data sets that are neighbours under ``adjacency``. The object
    shows nothing, and neither copies nor pickles.
    """

    __slots__ = ("_count", "adjacency", "bins", "purpose", "sensitivity_squared")

    def __init__(
        self,
        count: Callable[[], NDArray[np.int64]],
        bins: int,
        sensitivity_squared: Fraction,
        adjacency: Adjacency,
        purpose: str = "votes",
    ) -> None:
        self._count = count
        self.bins = bins
        self.sensitivity_squared = sensitivity_squared
        self.adjacency = adjacency
        self.purpose = purpose

    def __repr__(self) -> str:
        return f"Votes(private, bins={self.bins})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("exact votes are private: they cannot be copied or pickled")


@dataclass(frozen=True)
class Histogram:
    """Released noisy counts, int64 (bins,), the noise scale, and the ledger entry that paid for them."""

    counts: NDArray[np.int64] = field(repr=False)
    sigma: Fraction
    entry: str

    def __post_init__(self) -> None:
        self.counts.flags.writeable = False


def release(votes: Votes, sigma: Fraction, *, account: Account, iteration: int) -> Histogram:
    """Charge the account, then count, then add discrete Gaussian noise of scale ``sigma`` to every bin.

    The charge is durable before any private record is read, and it stays whatever happens after. Raises
    BudgetExceededError (nothing read, nothing spent) or PrivateDataError (spent; the text quotes no data).
    """
    if votes.adjacency is not account.budget.adjacency:
        raise LedgerError(
            f"the sensitivity of the {votes.purpose} holds under {votes.adjacency} adjacency, the budget is accounted "
            f"under {account.budget.adjacency}. Nothing was spent."
        )
    mechanism = DiscreteGaussian(sigma, votes.sensitivity_squared)
    charge = partial(
        account.reserve,
        mechanism,
        purpose=votes.purpose,
        iteration=iteration,
        bins=votes.bins,
        attempt=secrets.token_hex(16),
    )
    try:
        entry = charge()
    except UnconfirmedError:
        entry = charge()  # nothing was counted yet, and the same attempt is not charged twice
    counts = shielded(f"counting {votes.purpose}", votes._count, "Its charge stays spent.")
    if counts.shape != (votes.bins,) or counts.dtype != np.int64:
        raise PrivateDataError(f"counting {votes.purpose}: expected {votes.bins} int64 counts; the charge stays spent.")
    return Histogram(mechanism.add_noise(counts), sigma, entry)
