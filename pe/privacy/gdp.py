"""Gaussian differential privacy: exact conversion between mu and (epsilon, delta), rounded to the safe side.

A mechanism is mu-GDP when telling neighbours apart is at least as hard as telling N(0, 1) from N(mu, 1)
(Dong, Roth, Su 2022). Squared parameters add up under adaptive composition, and a run that stops as soon as the
next round would pass a preset mu is mu-GDP even when every round's noise was chosen adaptively (arXiv 2210.17520,
2209.15596). mu-GDP is (epsilon, delta)-DP for exactly

    delta(epsilon) = Phi(mu/2 - epsilon/mu) - exp(epsilon) Phi(-mu/2 - epsilon/mu).
"""

from __future__ import annotations

import math
from fractions import Fraction

from scipy.special import erfcx, log_ndtr

GUARD = 1e-10
"""Relative safety margin of every conversion; scipy's special functions are good to about 1e-13."""

CANCELLATION = 2e-14
"""Further margin, over mu: ``log_delta`` is a difference of two functions at points mu apart."""

SMALLEST_MU = 1e-6
"""Below this no conversion is attempted. One answer under the largest supported noise costs 6e-5."""

TAIL = 2.0**-100
"""Part of delta set aside for the tails that the discrete noise's certificate leaves out."""


def log_delta(epsilon: float, mu: float) -> float:
    """Natural logarithm of the delta at which mu-GDP gives epsilon (Balle and Wang 2018, theorem 8).

    With a = epsilon/mu - mu/2 and b = a + mu this is log(phi(a) (R(a) - R(b))), R the Mills ratio: nothing
    overflows, whatever epsilon.
    """
    a = epsilon / mu - mu / 2
    b = a + mu
    if a < 0:  # the Mills ratio grows like exp(a**2 / 2) here; the first term alone is above one half
        first, second = float(log_ndtr(-a)), epsilon + float(log_ndtr(-b))
        return first + math.log1p(-math.exp(min(second - first, 0.0))) if second < first else -math.inf
    mills = math.sqrt(math.pi / 2) * (float(erfcx(a / math.sqrt(2))) - float(erfcx(b / math.sqrt(2))))
    if mills <= 0:
        return -math.inf
    return -a * a / 2 - math.log(2 * math.pi) / 2 + math.log(mills)


def _log_delta_above(epsilon: float, mu: float) -> float:
    """``log_delta``, never below the truth, for mu >= SMALLEST_MU."""
    return log_delta(epsilon, mu) + GUARD + CANCELLATION / mu


def epsilon_for(mu: float, delta: float) -> float:
    """Smallest epsilon for which mu-GDP is (epsilon, delta)-DP, rounded up; 0 when mu is 0."""
    if mu == 0:
        return 0.0
    mu = max(mu, SMALLEST_MU)
    target = math.log(delta - TAIL)
    low, high = 0.0, mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / (delta - TAIL))) + mu
    if _log_delta_above(0.0, mu) <= target:
        return 0.0
    while high - low > 1e-14 * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (low, middle) if _log_delta_above(middle, mu) <= target else (middle, high)
    return high * (1 + 1e-13)


def mu_squared_within(epsilon: float, delta: float) -> Fraction:
    """Largest mu**2 for which mu-GDP is (epsilon, delta)-DP, an exact rational rounded down; 0 below 1e-12."""
    target = math.log(delta - TAIL)
    low, high = SMALLEST_MU, 1.0
    if _log_delta_above(epsilon, low) > target:
        return Fraction(0)
    while _log_delta_above(epsilon, high) <= target:
        low, high = high, 2 * high
    while high - low > 1e-14 * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if _log_delta_above(epsilon, middle) <= target else (low, middle)
    mu = Fraction(low * (1 - 1e-13))
    return floor_dyadic(mu * mu)


def ceil_dyadic(value: Fraction, bits: int = 96) -> Fraction:
    """The next multiple of 2**-bits: ledger rows stay short and their sums exact."""
    return Fraction(math.ceil(value * 2**bits), 2**bits)


def floor_dyadic(value: Fraction, bits: int = 96) -> Fraction:
    """The previous multiple of 2**-bits."""
    return Fraction(math.floor(value * 2**bits), 2**bits)
