"""Simulation: the same loop with seeded noise, for research on data that are not private. Fenced off from every ledger.

Noise that can be drawn again protects nothing. A simulation therefore opens no ledger, charges none, issues no
certificate, and what it writes says so.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pe.errors import BudgetExceededError
from pe.privacy.accountant import Cost, add, fits
from pe.privacy.budget import Budget
from pe.privacy.discrete_gaussian import draw_from
from pe.privacy.mechanism import DiscreteGaussian

STAMP = "SIMULATED"
"""Stands in every artefact of a simulation, in place of a ledger entry's hash."""

WARNING = "This is a simulation with seeded noise: nothing in it is private, and no budget was charged."


class SimulatedAccount:
    """Adds up what a run would be charged, in memory alone, and draws noise from ``seed`` and the charge's number."""

    def __init__(self, budget: Budget, seed: int) -> None:
        self.budget = budget
        self.seed = seed
        self._total: Cost = tuple(part * 0 for part in budget.limit)
        self._iteration = 0

    def reserve(
        self,
        mechanism: DiscreteGaussian,
        *,
        purpose: str,
        iteration: int,
        bins: int,
        grid: int,
        attempt: str,
        question: str = "",
    ) -> str:
        total = add(self._total, self.budget.accountant.cost(mechanism, self.budget.delta))
        if not fits(total, self.budget.limit):
            raise BudgetExceededError(
                f"iteration {iteration} needs epsilon {self.budget.epsilon_of(total):.4g} of {self.budget.epsilon:g} "
                "(simulated). Nothing was charged."
            )
        self._total, self._iteration = total, iteration
        return STAMP

    def begin_draw(self, entry: str, attempt: str) -> None:
        """Nothing to note: this noise may be drawn again."""

    def noisy(self, mechanism: DiscreteGaussian, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Counts plus noise that repeats: for a given seed, iteration and scale it is always the same."""
        rng = np.random.default_rng([self.seed, self._iteration])
        return counts + draw_from(mechanism.sigma, len(counts), rng.bytes)

    def resume(self, cost: Cost) -> None:
        """Take over what an earlier process of the same run simulated."""
        self._total = cost

    def epsilon_spent(self) -> float:
        """What the simulated charges of this process would amount to."""
        return self.budget.epsilon_of(self._total)
