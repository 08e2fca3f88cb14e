"""The plan: everything public about a run's rounds, fixed before the first private record is read."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from typing import Any

from pe.errors import ConfigError
from pe.evolution.kernel import Kernel
from pe.evolution.select import Selection
from pe.evolution.start import Start
from pe.privacy.accountant import Cost, add
from pe.privacy.budget import Budget
from pe.privacy.contribution import Contribution
from pe.privacy.discrete_gaussian import check_sigma, sigma_for
from pe.privacy.mechanism import DiscreteGaussian


@dataclass(frozen=True)
class Round:
    """One iteration: vote on the candidates, select parents, vary them.

    sigma         noise scale of the vote histogram, in votes; None: no vote, the plan's kernel alone selects.
    parents       how many candidates to select, over all labels.
    selection     "sample" or "rank"; threshold, in votes, is subtracted before sampling.
    variations    variations of each parent that enter the next population; ``keep`` adds the parents, first.
    degree        variation degree in [0, 1].
    lookahead     variations whose mean embedding stands for a candidate in the vote; 0: its own embedding.
    contribution  the votes of a record, and the bound on those of a user.
    api           which of the run's APIs varies the parents.
    distinct      cosine of embeddings above which two candidates of a label are near-duplicates, of which only one can
                  be selected (``pe.evolution.select.distinct``); 1: any may be.
    """

    sigma: Fraction | None
    parents: int
    selection: Selection = "sample"
    threshold: float = 0.0
    variations: int = 1
    keep: bool = False
    degree: float = 0.5
    lookahead: int = 0
    contribution: Contribution = field(default_factory=Contribution)
    api: int = 0
    distinct: float = 1.0

    def __post_init__(self) -> None:
        if self.sigma is not None:
            check_sigma(self.sigma * self.contribution.grid)
        for name, value, least in (
            ("parents", self.parents, 1),
            ("variations", self.variations, 0 if self.keep else 1),
            ("lookahead", self.lookahead, 0),
            ("api", self.api, 0),
        ):
            if value < least:
                raise ConfigError(f"expected {name} >= {least}, got {value}. Nothing was spent.")
        if not 0 <= self.degree <= 1:
            raise ConfigError(f"expected a degree in [0, 1], got {self.degree}. Nothing was spent.")
        if not 0 <= self.threshold < math.inf:
            raise ConfigError(f"expected a threshold >= 0 and finite, got {self.threshold}. Nothing was spent.")
        if not 0 < self.distinct <= 1:
            raise ConfigError(f"expected distinct in (0, 1], got {self.distinct}. Nothing was spent.")
        if self.selection not in ("sample", "rank"):
            raise ConfigError(f"expected selection 'sample' or 'rank', got {self.selection!r}. Nothing was spent.")

    @property
    def population(self) -> int:
        """Size of the population this round leaves."""
        return self.parents * (self.variations + self.keep)


@dataclass(frozen=True)
class Plan:
    """A first population of ``population`` samples, then the rounds.

    start               makes the first population from sums of the private records, which cost ``start_share`` of the
                        budget; without it the API proposes fresh samples. ``population`` 0: about as many records as
                        there are private ones.
    shares              label shares, declared; None for uniform.
    label_sigma         noise scale of a paid release of the label counts before round 1, which then sets the shares.
    label_contribution  what a unit contributes to those counts.
    at_least            how many private units there are known to be, if that was declared.
    kernel              a release of the kernel mean after the first population, by which every round selects: with
                        kernel herding, the round's votes beside it if it has any.
    """

    population: int
    rounds: tuple[Round, ...]
    shares: tuple[float, ...] | None = None
    label_sigma: Fraction | None = None
    label_contribution: Contribution = field(default_factory=Contribution)
    start: Start | None = None
    start_share: float = 1.0
    user_norm: float = 1.0
    at_least: int | None = None
    kernel: Kernel | None = None

    def __post_init__(self) -> None:
        if self.population < (0 if self.start is not None and not self.rounds else 1):
            raise ConfigError(f"expected a population of at least 1, got {self.population}. Nothing was spent.")
        shares = self.shares
        if shares is not None and not (all(0 <= share < math.inf for share in shares) and sum(shares) > 0):
            raise ConfigError(f"expected label shares >= 0, not all of them 0, got {shares}. Nothing was spent.")
        if self.label_sigma is not None:
            check_sigma(self.label_sigma * self.label_contribution.grid)
        if self.kernel is None and any(each.sigma is None for each in self.rounds):
            raise ConfigError("rounds without votes need a kernel to select by. Nothing was spent.")

    @property
    def iterations(self) -> int:
        return len(self.rounds)

    @property
    def buys_labels(self) -> bool:
        """Whether the label shares come from a charged, noisy count."""
        return self.shares is None and (self.label_sigma is not None or self.start is not None)

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides how a stored iteration continues, as plain values ready for JSON."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))  # default: exact fractions
        found["start"] = None if self.start is None else {"name": self.start.name} | found["start"]
        found["rounds"] = {str(number): each for number, each in enumerate(found["rounds"], start=1)}
        return found

    def releases(self, iterations: int | None = None) -> list[tuple[Fraction, Contribution]]:
        """Noise scale and contribution of the label counts and the votes, in order, up to some iteration."""
        labels = [] if self.label_sigma is None else [(self.label_sigma, self.label_contribution)]
        rounds = self.rounds[:iterations]
        return labels + [(each.sigma, each.contribution) for each in rounds if each.sigma is not None]

    def cost(self, budget: Budget, iterations: int | None = None) -> Cost:
        """What the whole plan, or its first iterations, will be charged, at most."""
        shares = Fraction(0) if self.start is None else Fraction(self.start_share)
        shares += 0 if self.kernel is None else Fraction(self.kernel.share)
        total = tuple(part * shares for part in budget.limit)
        for sigma, each in self.releases(iterations):
            mechanism = DiscreteGaussian(sigma * each.grid, each.sensitivity_squared(budget.adjacency))
            total = add(total, budget.accountant.cost(mechanism, budget.delta))
        return total


def noise_scales(
    budget: Budget, weights: Sequence[float], contributions: Sequence[Contribution], share: Fraction | float = 1
) -> list[tuple[Fraction, Contribution]]:
    """Noise scales, in votes, that spend the whole budget, or a ``share`` of it, on one release per weight.

    The budget's limit (mu**2 under GDP) is split in proportion to ``weights``. Each scale is the smallest certified
    one; the rounded charges never add up to more than the budget. A contribution comes back on a coarser grid where
    the noise would be too large for its own.
    """
    if not weights or not all(0 < weight < math.inf for weight in weights):
        raise ConfigError("expected positive budget weights. Nothing was spent.")
    if len(budget.limit) > 1:
        raise ConfigError(
            "accountant 'pld' charges plans fixed beforehand (DP-SGD); rounds of votes follow one another's answers: "
            "use 'gdp' or 'renyi'. Nothing was spent."
        )
    exact = [Fraction(weight) for weight in weights]
    limit = budget.limit[0] * Fraction(share)

    def cost(sigma: Fraction) -> Fraction:
        return budget.accountant.cost(DiscreteGaussian(sigma, Fraction(1)), budget.delta)[0]

    scales = []
    for weight, contribution in zip(exact, contributions, strict=True):
        part = limit * weight / sum(exact)
        while True:
            try:
                sigma = sigma_for(part, contribution.sensitivity_squared(budget.adjacency), cost)
                break
            except ConfigError:
                if contribution.grid == 1:
                    raise
                contribution = replace(contribution, grid=contribution.grid // 2)
        scales.append((sigma / contribution.grid, contribution))
    return scales
