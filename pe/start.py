"""A first population made from noisy sums of the private records, instead of fresh samples of an API."""

from __future__ import annotations

from fractions import Fraction
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pe.errors import ConfigError
from pe.measure import Features, measure
from pe.population import Population
from pe.privacy.budget import Budget, Unit
from pe.privacy.contribution import sensitivity_squared
from pe.privacy.discrete_gaussian import sigma_for
from pe.privacy.mechanism import DiscreteGaussian
from pe.privacy.release import Histogram, Votes
from pe.private import PrivateDataset
from pe.schema import Schema


class Releaser(Protocol):
    """Turns exact votes into a noisy histogram: ``pe.privacy.release`` bound to an account, and a store if any.

    ``name`` tells the releases of one iteration apart.
    """

    def __call__(self, votes: Votes, sigma: Fraction, iteration: int, name: str = "histogram") -> Histogram: ...


LABELS = "histogram"
"""Name of a start's release of label counts, whether there is a label or only the number of records."""


class Start(Protocol):
    """Makes the first population: asks for sums, each for a share of the start's budget, and draws from the answers.

    Shares may follow earlier answers; together they may not pass 1. Raises ConfigError before anything is spent where
    the budget is too small to be useful.
    """

    @property
    def name(self) -> str: ...

    def __call__(
        self, ask: Ask, schema: Schema, n: int | None, shares: NDArray[np.float64] | None, rng: np.random.Generator
    ) -> tuple[Population, NDArray[np.float64]]:
        """``n`` records (None: about as many as there are private ones), and the label shares, declared or found."""
        ...


class Ask:
    """Releases sums of the private records, for shares of a part of the budget.

    part       of the budget's limit that all shares together are of.
    user_norm  for unit "user": how many records' worth a user may contribute.
    """

    def __init__(
        self, private: PrivateDataset, budget: Budget, release: Releaser, *, part: float, user_norm: float
    ) -> None:
        self._private, self._budget, self._release = private, budget, release
        self._part = part
        self._user_norm = user_norm if budget.unit is Unit.USER else None

    @property
    def finer(self) -> int:
        """By how many grid steps per count features should be finer, so that users can be scaled down."""
        return 1 if self._user_norm is None else 16

    @cached_property
    def resolution(self) -> float:
        return resolution(self._budget, self._part, self._user_norm or 1.0)

    def __call__(self, features: Features, share: float, name: str) -> Histogram:
        """The noisy sums of ``features`` over all records, int64 (features.bins,), for ``share`` of the budget."""
        norm = None
        if self._user_norm is not None:
            norm = self._user_norm * features.bound_squared**0.5 / features.grid
        votes = measure(self._private, features, adjacency=self._budget.adjacency, norm=norm)
        sigma = sigma_of(self._budget, Fraction(self._part) * Fraction(share), votes.sensitivity_squared)
        return self._release(votes, sigma / votes.grid, 0, name)


def resolution(budget: Budget, part: float, user_norm: float) -> float:
    """1 / sigma of a count, were a part of the budget spent on one release of contributions of norm 1.

    The GDP parameter, under add/remove adjacency per record. Raises ConfigError where the noise would be too large.
    """
    bound = Fraction(64 * 64)  # finer than 1, so that the smallest noise does not count
    sigma = sigma_of(budget, Fraction(part), sensitivity_squared(int(bound), budget.adjacency)) / 64
    return 1 / float(sigma) / (user_norm if budget.unit is Unit.USER else 1.0)


def sigma_of(budget: Budget, share: Fraction, squared: Fraction) -> Fraction:
    """The noise whose cost for this squared sensitivity is a share of the budget."""

    def cost(sigma: Fraction) -> Fraction:
        return budget.accountant.cost(DiscreteGaussian(sigma, Fraction(1)), budget.delta)[0]

    if len(budget.limit) > 1:
        raise ConfigError(
            "accountant 'pld' charges plans fixed beforehand (DP-SGD); these releases follow one another's answers: "
            "use 'gdp' or 'renyi'. Nothing was spent."
        )
    return sigma_for(budget.limit[0] * share, squared, cost)
