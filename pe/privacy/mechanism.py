"""Sensitivities, and the one object that both charges a release and draws its noise."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from pe.errors import ConfigError
from pe.privacy import discrete_gaussian
from pe.privacy.budget import Adjacency


def votes_sensitivity_squared(adjacency: Adjacency, nearest: int = 1) -> Fraction:
    """Squared L2 sensitivity of a histogram in which each record adds one to ``nearest`` distinct bins.

    Adding or removing a record moves K bins by one: sqrt(K). Replacing one moves at most K bins down and K others up:
    sqrt(2 K). The bound is over the bins of all labels together.
    """
    if adjacency not in tuple(Adjacency):
        raise ConfigError(f"expected an Adjacency, got {adjacency!r}. Nothing was spent.")
    if nearest < 1:
        raise ConfigError(f"expected nearest >= 1, got {nearest}. Nothing was spent.")
    return Fraction(nearest * (2 if adjacency == Adjacency.REPLACE_ONE else 1))


@dataclass(frozen=True)
class DiscreteGaussian:
    """Integer counts of L2 sensitivity sqrt(sensitivity_squared), released with discrete Gaussian noise of scale sigma.

    What is charged and what is drawn come from this one object.
    """

    sigma: Fraction
    sensitivity_squared: Fraction

    def __post_init__(self) -> None:
        discrete_gaussian.check_sigma(self.sigma)
        if not isinstance(self.sensitivity_squared, Fraction) or self.sensitivity_squared <= 0:
            raise ConfigError(
                f"expected a rational sensitivity**2 > 0, got {self.sensitivity_squared}. Nothing was spent."
            )

    @property
    def mu_squared(self) -> Fraction:
        """Squared GDP parameter of one release, rounded up."""
        return self.sensitivity_squared * discrete_gaussian.gdp_mu_squared(self.sigma)

    def add_noise(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        return counts + discrete_gaussian.sample(self.sigma, len(counts))
