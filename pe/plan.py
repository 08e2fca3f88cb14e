"""The plan: everything public about a run's rounds, fixed before the first private record is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from pe.errors import ConfigError
from pe.privacy.budget import Budget
from pe.privacy.discrete_gaussian import check_sigma, sigma_for
from pe.privacy.mechanism import votes_sensitivity_squared
from pe.select import Selection


@dataclass(frozen=True)
class Round:
    """One iteration: vote on the candidates, select parents, vary them.

    sigma       noise scale of the vote histogram.
    parents     how many candidates to select, over all labels.
    selection   "sample" or "rank"; threshold is subtracted before sampling.
    variations  variations of each parent that enter the next population; ``keep`` adds the parents themselves, first.
    degree      variation degree in [0, 1].
    lookahead   variations whose mean embedding stands for a candidate in the vote; 0: its own embedding.
    nearest     votes per record (K).
    api         which of the run's APIs varies the parents.
    """

    sigma: Fraction
    parents: int
    selection: Selection = "sample"
    threshold: float = 0.0
    variations: int = 1
    keep: bool = False
    degree: float = 0.5
    lookahead: int = 0
    nearest: int = 1
    api: int = 0

    def __post_init__(self) -> None:
        check_sigma(self.sigma)
        for name, value, least in (
            ("parents", self.parents, 1),
            ("variations", self.variations, 0 if self.keep else 1),
            ("lookahead", self.lookahead, 0),
            ("nearest", self.nearest, 1),
            ("api", self.api, 0),
        ):
            if value < least:
                raise ConfigError(f"expected {name} >= {least}, got {value}. Nothing was spent.")
        if not 0 <= self.degree <= 1:
            raise ConfigError(f"expected a degree in [0, 1], got {self.degree}. Nothing was spent.")
        if not 0 <= self.threshold < math.inf:
            raise ConfigError(f"expected a threshold >= 0 and finite, got {self.threshold}. Nothing was spent.")
        if self.selection not in ("sample", "rank"):
            raise ConfigError(f"expected selection 'sample' or 'rank', got {self.selection!r}. Nothing was spent.")

    @property
    def population(self) -> int:
        """Size of the population this round leaves."""
        return self.parents * (self.variations + self.keep)


@dataclass(frozen=True)
class Plan:
    """A first population of ``population`` samples, then the rounds.

    shares       label shares, declared; None for uniform.
    label_sigma  noise scale of a paid release of the label counts before round 1, which then sets the shares.
    """

    population: int
    rounds: tuple[Round, ...]
    shares: tuple[float, ...] | None = None
    label_sigma: Fraction | None = None

    def __post_init__(self) -> None:
        if self.population < 1:
            raise ConfigError(f"expected a population of at least 1, got {self.population}. Nothing was spent.")
        shares = self.shares
        if shares is not None and not (all(0 <= share < math.inf for share in shares) and sum(shares) > 0):
            raise ConfigError(f"expected label shares >= 0, not all of them 0, got {shares}. Nothing was spent.")
        if self.label_sigma is not None:
            check_sigma(self.label_sigma)

    @property
    def iterations(self) -> int:
        return len(self.rounds)


def noise_scales(
    budget: Budget, weights: Sequence[float], nearest: Sequence[int], label_share: float = 0.0
) -> tuple[tuple[Fraction, ...], Fraction | None]:
    """Noise scales that spend the whole budget: one per round, and one for the label counts if they get a share.

    mu**2 is split: ``label_share`` of it goes to the label counts, the rest to the rounds in proportion to
    ``weights``. ``nearest`` holds each round's votes per record. Each scale is the smallest certified one; the rounded
    charges never add up to more than the budget.
    """
    if not 0 <= label_share < 1:
        raise ConfigError(f"expected a budget share in [0, 1), got {label_share}. Nothing was spent.")
    if not weights or not all(0 < weight < math.inf for weight in weights):
        raise ConfigError("expected one positive weight per iteration. Nothing was spent.")
    exact = [Fraction(weight) for weight in weights]
    paid = Fraction(label_share) * budget.mu_squared
    left = budget.mu_squared - paid
    scales = tuple(
        sigma_for(left * weight / sum(exact), votes_sensitivity_squared(budget.adjacency, k))
        for weight, k in zip(exact, nearest, strict=True)
    )
    return scales, sigma_for(paid, votes_sensitivity_squared(budget.adjacency)) if label_share else None
