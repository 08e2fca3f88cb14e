"""Accountants: what a mechanism costs, how much fits a budget, and what a sum of costs amounts to.

Costs are exact rationals that add up, componentwise, and a charge is admitted while no component passes the limit.
``GDP`` and ``Renyi`` are *filters*: they stay valid when each mechanism is chosen after seeing the answers of those
before it, which is what Private Evolution does. ``FixedPlans`` is none: it charges plans fixed beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from pe.errors import ConfigError
from pe.privacy import gdp
from pe.privacy.mechanism import DiscreteGaussian, FixedPlan, Mechanism, SubsampledGaussian

Cost = tuple[Fraction, ...]

GUARD = Fraction(1, 10**9)
"""Relative margin on costs that are computed in floating point here or by dp-accounting; their error is far below."""


@dataclass(frozen=True)
class GDP:
    """Gaussian DP: squared mu adds up; as tight as static composition, also adaptively (arXiv 2210.17520)."""

    def cost(self, mechanism: Mechanism, delta: float) -> Cost:
        if isinstance(mechanism, SubsampledGaussian):
            raise ConfigError(
                "DP-SGD on samples has no useful GDP parameter: grant the source a budget under accountant 'renyi' "
                "(adaptive, mixes with votes) or 'pld' (plans fixed beforehand). Nothing was spent."
            )
        parts = mechanism.mechanisms if isinstance(mechanism, FixedPlan) else (mechanism,)
        return (sum((_only_discrete(part).mu_squared for part in parts), Fraction(0)),)

    def limit(self, epsilon: float, delta: float) -> Cost:
        return (gdp.mu_squared_within(epsilon, delta),)

    def epsilon(self, total: Cost, delta: float) -> float:
        """What the costs amount to at ``delta``, rounded up."""
        return gdp.epsilon_for(math.sqrt(total[0]) * (1 + 1e-15), delta)

    def group(self, epsilon: float, delta: float, size: int) -> tuple[float, float]:
        """What ``size`` units together are left with: they are (size mu)-GDP (Dong et al. 2022, theorem 2.14)."""
        return gdp.epsilon_for(math.sqrt(self.limit(epsilon, delta)[0]) * (1 + 1e-15) * size, delta), delta

    def to_dict(self) -> dict[str, str]:
        return {"accountant": "gdp"}

    def __str__(self) -> str:
        return "gdp"


@dataclass(frozen=True)
class Renyi:
    """Renyi DP at one order fixed beforehand: a filter (Feldman and Zrnic 2021, theorem 3.1).

    The order is part of the grant. Choosing the best one afterwards would not be covered.
    """

    order: int

    def __post_init__(self) -> None:
        if isinstance(self.order, bool) or not isinstance(self.order, int) or not 2 <= self.order <= 2**14:
            raise ConfigError(f"expected a whole order in [2, 16384], got {self.order!r}. Nothing was spent.")

    @classmethod
    def best(cls, epsilon: float, delta: float) -> Renyi:
        """The order that admits most Gaussian noise-and-sum rounds within (epsilon, delta)."""

        def admitted(order: int) -> Fraction:
            return cls(order).limit(epsilon, delta)[0] / order

        orders = [*range(2, 257), *range(257, 2049, 16), *range(2049, 2**14, 256)]
        return cls(max(orders, key=admitted))

    def cost(self, mechanism: Mechanism, delta: float) -> Cost:
        if isinstance(mechanism, DiscreteGaussian):
            return (gdp.ceil_dyadic(self.order * mechanism.rho),)
        if isinstance(mechanism, SubsampledGaussian):
            return (mechanism.steps * _subsampled_rdp(mechanism, self.order),)
        return (sum((self.cost(each, delta)[0] for each in mechanism.mechanisms), Fraction(0)),)

    def limit(self, epsilon: float, delta: float) -> Cost:
        """(order, rho)-RDP is (epsilon, delta)-DP for rho up to this (Canonne, Kamath, Steinke 2020, prop. 12)."""
        room = Fraction(epsilon) - Fraction(self._price(delta) + gdp.GUARD)
        return (max(gdp.floor_dyadic(room), Fraction(0)),)

    def epsilon(self, total: Cost, delta: float) -> float:
        """What the costs amount to at ``delta``, rounded up."""
        if total[0] == 0:
            return 0.0
        return max(0.0, (float(total[0]) + self._price(delta) + gdp.GUARD) * (1 + 1e-15))

    def group(self, epsilon: float, delta: float, size: int) -> tuple[float, float]:
        return _group(epsilon, delta, size)

    def _price(self, delta: float) -> float:
        order = self.order
        return math.log1p(-1 / order) - (math.log(delta - gdp.TAIL) + math.log(order)) / (order - 1)

    def to_dict(self) -> dict[str, str]:
        return {"accountant": "renyi", "order": str(self.order)}

    def __str__(self) -> str:
        return f"renyi:{self.order}"


@dataclass(frozen=True)
class FixedPlans:
    """Plans fixed beforehand, each priced as a whole by its privacy-loss distribution (Koskela et al. 2020).

    Needs dp-accounting (extra ``pld``). A plan costs (epsilon, delta) at the delta of its run; plans add up by basic
    composition, which holds adaptively (Rogers et al. 2016). Votes, whose rounds follow one another's answers, are
    refused.
    """

    def cost(self, mechanism: Mechanism, delta: float) -> Cost:
        if not isinstance(mechanism, FixedPlan):
            raise ConfigError(
                "accountant 'pld' charges whole plans fixed beforehand, not single releases that follow one another's "
                "answers: grant the source a budget under 'gdp' or 'renyi'. Nothing was spent."
            )
        return (_pld_epsilon(mechanism, delta), Fraction(delta))

    def limit(self, epsilon: float, delta: float) -> Cost:
        return (Fraction(epsilon), Fraction(delta))

    def epsilon(self, total: Cost, delta: float) -> float:
        return math.nextafter(float(total[0]), math.inf) if total[0] else 0.0

    def group(self, epsilon: float, delta: float, size: int) -> tuple[float, float]:
        return _group(epsilon, delta, size)

    def to_dict(self) -> dict[str, str]:
        return {"accountant": "pld"}

    def __str__(self) -> str:
        return "pld"


Accountant = GDP | Renyi | FixedPlans


def accountant_from(value: object) -> Accountant:
    """An accountant from its name ("gdp", "renyi:8", "pld") or a table with ``accountant`` and ``order``."""
    if isinstance(value, (GDP, Renyi, FixedPlans)):
        return value
    if isinstance(value, Mapping):
        order = f":{value['order']}" if "order" in value else ""
        return accountant_from(f"{value['accountant']}{order}")
    name, _, order = str(value).partition(":")
    if name == "renyi" and order.isdecimal() and len(order) < 6:
        return Renyi(int(order))
    for known in (GDP(), FixedPlans()):
        if str(known) == value:
            return known
    raise ConfigError(
        f"expected accountant 'gdp', 'renyi:ORDER' (a whole order, 2 or more) or 'pld', got {value!r}. "
        "Nothing was spent."
    )


def add(one: Cost, other: Cost) -> Cost:
    return tuple(a + b for a, b in zip(one, other, strict=True))


def fits(total: Cost, limit: Cost) -> bool:
    return all(a <= b for a, b in zip(total, limit, strict=True))


def _only_discrete(part: DiscreteGaussian | SubsampledGaussian) -> DiscreteGaussian:
    if isinstance(part, SubsampledGaussian):
        raise ConfigError("a plan with DP-SGD has no useful GDP parameter. Nothing was spent.")
    return part


def _group(epsilon: float, delta: float, size: int) -> tuple[float, float]:
    """(size epsilon, size exp((size - 1) epsilon) delta), delta at most 1 (Vadhan 2017, lemma 2.2)."""
    log_delta = math.log(size) + (size - 1) * epsilon + math.log(delta)
    return size * epsilon, math.exp(min(log_delta * (1 - 1e-12), 0.0))


FULL_RATE = 1 - Fraction(1, 2**50)
"""Sampling rates from here on are charged like 1, which costs more: as floats they lie too close to it."""

SMALLEST_PLD_DELTA = 1e-12
"""Below it dp-accounting's epsilon is not safe: its convolutions round absolutely, by up to 1e-15 or so of delta."""


def _subsampled_rdp(mechanism: SubsampledGaussian, order: int) -> Fraction:
    """RDP of one step at a whole order, rounded up (Mironov, Talwar, Zhang 2019, section 3.3)."""
    if mechanism.sampling_rate >= FULL_RATE:
        return Fraction(order) / (2 * mechanism.noise_multiplier**2)
    q, sigma = float(mechanism.sampling_rate), float(mechanism.noise_multiplier)
    if q < mechanism.sampling_rate:
        q = math.nextafter(q, 1.0)  # a larger rate costs no less
    # the weights of k = 0 .. order add up to 1, so that the moment less 1 is a sum of positive terms: no digit cancels
    terms = []
    for k in range(2, order + 1):
        exponent = (k * k - k) / (2 * sigma * sigma)
        chosen = math.lgamma(order + 1) - math.lgamma(k + 1) - math.lgamma(order - k + 1)
        weight = chosen + (order - k) * math.log1p(-q) + k * math.log(q)
        terms.append(weight + exponent + math.log(-math.expm1(-exponent)))
    largest = max(terms)
    log_excess = largest + math.log(math.fsum(math.exp(term - largest) for term in terms))
    log_moment = max(log_excess, 0.0) + math.log1p(math.exp(-abs(log_excess)))
    return gdp.ceil_dyadic(Fraction(log_moment) / (order - 1) * (1 + GUARD))


def _pld_epsilon(plan: FixedPlan, delta: float) -> Fraction:
    if delta < SMALLEST_PLD_DELTA:
        raise ConfigError(
            f"accountant 'pld' prices plans at a delta of {SMALLEST_PLD_DELTA:g} or more, got {delta:g}: its reference "
            "rounds what lies below. Raise delta, or grant the source a budget under 'renyi'. Nothing was spent."
        )
    try:
        from dp_accounting import dp_event
        from dp_accounting.pld import PLDAccountant
    except ImportError:
        raise ConfigError("accountant 'pld' needs: pip install 'pe-synth[pld]'. Nothing was spent.") from None
    accountant = PLDAccountant()  # pessimistic: it errs towards a larger epsilon
    for part in plan.mechanisms:
        if isinstance(part, DiscreteGaussian):  # dominated by the Gaussian of the same mu
            accountant.compose(dp_event.GaussianDpEvent(1 / math.sqrt(part.mu_squared) * (1 - 1e-15)))
        else:
            step = dp_event.GaussianDpEvent(float(part.noise_multiplier))
            sampled = dp_event.PoissonSampledDpEvent(float(part.sampling_rate), step)
            accountant.compose(dp_event.SelfComposedDpEvent(sampled, part.steps))
    return gdp.ceil_dyadic(Fraction(accountant.get_epsilon(delta - gdp.TAIL)) * (1 + GUARD))
