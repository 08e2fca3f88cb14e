"""Mechanisms: what is charged. For histograms the same object also draws the noise."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from pe.errors import ConfigError
from pe.privacy import discrete_gaussian


@dataclass(frozen=True)
class DiscreteGaussian:
    """Integer sums of L2 sensitivity sqrt(sensitivity_squared), released with discrete Gaussian noise of scale sigma.

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

    @property
    def rho(self) -> Fraction:
        """Its zCDP parameter, exactly (Canonne, Kamath, Steinke 2020, theorem 4 and proposition 5)."""
        return self.sensitivity_squared / (2 * self.sigma * self.sigma)

    def add_noise(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        return counts + discrete_gaussian.sample(self.sigma, len(counts))

    def to_dict(self) -> dict[str, object]:
        return {
            "mechanism": "discrete gaussian",
            "sigma": str(self.sigma),
            "sensitivity_squared": str(self.sensitivity_squared),
        }


SMALLEST_RATE = Fraction(1, 2**60)
"""Sampling rates below it are refused: far below, a step's cost would round to nothing."""


@dataclass(frozen=True)
class SubsampledGaussian:
    """``steps`` Gaussian answers on Poisson samples of the units: DP-SGD (Abadi et al. 2016), add/remove adjacency.

    noise_multiplier  noise standard deviation over the clipping norm.
    sampling_rate     probability with which each unit enters a step's sample, in [2**-60, 1].
    """

    noise_multiplier: Fraction
    sampling_rate: Fraction
    steps: int

    def __post_init__(self) -> None:
        for name in ("noise_multiplier", "sampling_rate"):
            value = getattr(self, name)
            if not isinstance(value, Fraction) or value <= 0:
                raise ConfigError(f"expected a rational {name} > 0, got {value!r}. Nothing was spent.")
        if not Fraction(1, 8) <= self.noise_multiplier <= 2**14:
            raise ConfigError(
                f"expected noise_multiplier in [1/8, 2**14], got {float(self.noise_multiplier):g}. Nothing was spent."
            )
        if not SMALLEST_RATE <= self.sampling_rate <= 1 or self.steps < 1:
            raise ConfigError("expected sampling_rate in [2**-60, 1] and steps >= 1. Nothing was spent.")

    def to_dict(self) -> dict[str, object]:
        return {
            "mechanism": "poisson subsampled gaussian",
            "noise_multiplier": str(self.noise_multiplier),
            "sampling_rate": str(self.sampling_rate),
            "steps": self.steps,
        }


@dataclass(frozen=True)
class FixedPlan:
    """Mechanisms whose parameters are all fixed before the first is run: charged once, as a whole.

    Privacy-loss distributions compose only such plans: no filter is valid for them when a parameter may depend on
    earlier answers (arXiv 2602.06756).
    """

    mechanisms: tuple[DiscreteGaussian | SubsampledGaussian, ...]

    def __post_init__(self) -> None:
        if not self.mechanisms:
            raise ConfigError("expected a plan of at least one mechanism. Nothing was spent.")

    def to_dict(self) -> dict[str, object]:
        return {"mechanism": "plan", "mechanisms": [each.to_dict() for each in self.mechanisms]}


Mechanism = DiscreteGaussian | SubsampledGaussian | FixedPlan


def mechanism_from(body: object) -> Mechanism:
    """The mechanism of a ledger entry; raises ConfigError for one that is unknown or out of range."""
    if not isinstance(body, dict):
        raise ConfigError("expected a mechanism as a table.")
    kind = body.get("mechanism")
    if kind == "discrete gaussian":
        return DiscreteGaussian(Fraction(body["sigma"]), Fraction(body["sensitivity_squared"]))
    if kind == "poisson subsampled gaussian":
        rate = Fraction(body["sampling_rate"])
        return SubsampledGaussian(Fraction(body["noise_multiplier"]), rate, int(body["steps"]))
    if kind == "plan":
        parts = tuple(mechanism_from(each) for each in body["mechanisms"])
        if any(isinstance(each, FixedPlan) for each in parts):
            raise ConfigError("a plan cannot hold a plan.")
        return FixedPlan(parts)  # type: ignore[arg-type]
    raise ConfigError(f"unknown mechanism '{kind}'.")
