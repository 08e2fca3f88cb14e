"""A first population made from noisy sums of the private records, instead of fresh samples of an API."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pe.data.population import Population
from pe.data.schema import Schema
from pe.errors import ConfigError
from pe.privacy.budget import Budget, Unit
from pe.privacy.contribution import sensitivity_squared
from pe.privacy.discrete_gaussian import sigma_for
from pe.privacy.mechanism import DiscreteGaussian
from pe.privacy.release import Histogram, Votes
from pe.private.dataset import PrivateDataset
from pe.private.measure import Features, measure


class Releaser(Protocol):
    """Turns exact votes into a noisy histogram: ``pe.privacy.release`` bound to an account, and a store if any.

    ``name`` tells the releases of one iteration apart.
    """

    def __call__(self, votes: Votes, sigma: Fraction, iteration: int, name: str = "histogram") -> Histogram: ...


LARGEST_NORM = 96
"""Norm, in steps, that a record's contribution to a start's release may have where the noise is largest."""

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
        """The noisy sums of ``features`` over all records, int64 (features.bins,), for ``share`` of the budget.

        On a coarser grid than theirs, where the noise would be too large for it: ``features`` is a dataclass.
        """
        while True:
            norm = None
            if self._user_norm is not None:
                norm = self._user_norm * features.bound_squared**0.5 / features.grid
            votes = measure(self._private, features, adjacency=self._budget.adjacency, norm=norm)
            try:
                sigma = sigma_of(self._budget, Fraction(self._part) * Fraction(share), votes.sensitivity_squared)
            except ConfigError:
                if features.grid == 1:
                    raise
                coarser: Any = features
                features = replace(coarser, grid=features.grid // 2)
            else:
                return self._release(votes, sigma / votes.grid, 0, name)


def resolution(budget: Budget, part: float, user_norm: float) -> float:
    """1 / sigma of a count, were a part of the budget spent on one release of contributions of norm 1.

    The GDP parameter, under add/remove adjacency per record. Raises ConfigError where the noise would be too large for
    contributions of norm ``LARGEST_NORM``.
    """
    own = user_norm if budget.unit is Unit.USER else 1.0
    bound = Fraction(LARGEST_NORM * own) ** 2  # finer than 1, too, so that the smallest noise does not count
    sigma = sigma_of(budget, Fraction(part), sensitivity_squared(math.ceil(bound), budget.adjacency)) / LARGEST_NORM
    return 1 / float(sigma)


FEWEST = 20
"""Records times the resolution of a count, below which releases tell next to nothing."""

MOST_NEEDED = 3000
"""A budget that needs more records than this is refused unless there are known to be: epsilon .01 at delta 1e-4."""


def records_needed(budget: Budget, user_norm: float = 1.0, at_least: int | None = None) -> int:
    """Below so many records (users), nothing useful comes out: all together are ``FEWEST`` times one count's noise.

    at_least  how many there are known to be, publicly. Raises ConfigError where that, or ``MOST_NEEDED``, is too few.
    """
    own = user_norm if budget.unit is Unit.USER else 1.0
    try:
        sigma = float(sigma_of(budget, Fraction(1), sensitivity_squared(1, budget.adjacency))) * own
        needed = math.ceil(FEWEST * sigma)
    except ConfigError:
        if len(budget.limit) > 1:
            raise
        sigma, needed = math.inf, sys.maxsize
    if needed > (MOST_NEEDED if at_least is None else at_least):
        raise ConfigError(
            f"nothing useful can come out of {budget}: were all of it spent on a single count, its noise would still "
            f"be {f'{sigma:.3g}' if sigma < math.inf else 'far more than 1000'} {budget.unit}s. Raise epsilon (for a "
            "first try, 1)"
            + (f", or say privacy.at_least = {needed}, if that is known to all" if needed < sys.maxsize else "")
            + ". Nothing was spent."
        )
    return needed


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
