"""Discrete Gaussian noise on integer counts: its GDP parameter, certified, and an exact sampler.

P(X = k) is proportional to exp(-k**2 / (2 sigma**2)) for integer k (Canonne, Kamath, Steinke 2020). Continuous
noise rounded to floats is no substitute: its low-order bits give exact counts away (Mironov 2012).
"""

from __future__ import annotations

import math
import os
from bisect import bisect_right
from collections.abc import Callable
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from pe.errors import ConfigError
from pe.privacy.gdp import ceil_dyadic

LARGEST_SIGMA = 2**14
"""Above this the tables of the sampler become slow to build."""

SIGMA_STEPS = 2**16
"""Noise scales are multiples of 1 / SIGMA_STEPS."""

_SCAN_TAIL = 13  # standard deviations scanned; Q(13) < 2**-126, so even 2**20 releases leave out less than gdp.TAIL
_SCAN_GUARD = 1e-7  # relative; the scan's own float error is below 1e-8 at LARGEST_SIGMA
_BITS = 192  # resolution of the sampler's inverse CDF
_WORKING_BITS = 320


def check_sigma(sigma: Fraction) -> Fraction:
    """Return sigma if the noise can be drawn and certified at that scale; else raise ConfigError."""
    if not isinstance(sigma, Fraction) or not (Fraction(1, 8) <= sigma <= LARGEST_SIGMA):
        shown = float(sigma) if isinstance(sigma, (Fraction, int, float)) else sigma
        raise ConfigError(f"expected a rational sigma in [1/8, {LARGEST_SIGMA}], got {shown}. Nothing was spent.")
    return sigma


@lru_cache(maxsize=256)
def gdp_mu_squared(sigma: Fraction) -> Fraction:
    """Squared GDP parameter of one discrete Gaussian answer of sensitivity 1, rounded up.

    The candidate is mu = 2 Phi^-1((1 + p0) / 2) with p0 = P(X = 0), about (1 + 1 / (24 sigma**2)) / sigma. Noise on
    neighbours differing by one is X against X + 1; its trade-off curve is piecewise linear with vertices at
    (P(X >= k), P(X <= k - 2)), so mu-GDP holds if and only if every vertex lies on or above the Gaussian curve,
    mu >= -Phi^-1(P(X >= k)) - Phi^-1(P(X <= k - 2)). All vertices within 13 sigma are evaluated here; should one
    exceed the candidate the scale is refused. A vote vector of L2 norm D is D mu-GDP: a shift by m is a chain of m
    unit shifts, and independent coordinates compose.
    """
    mu, worst = _vertices(check_sigma(sigma))
    if not worst <= mu * (1 + _SCAN_GUARD):
        raise ConfigError(f"sigma {float(sigma):g} could not be certified; choose another. Nothing was spent.")
    bound = Fraction(mu) * (1 + Fraction(_SCAN_GUARD))
    return ceil_dyadic(bound * bound)


def _vertices(sigma: Fraction) -> tuple[float, float]:
    """The closed-form mu at the vertex k = 1, and the largest mu over all scanned vertices."""
    scale = float(sigma)
    reach = math.ceil(_SCAN_TAIL * scale) + 2
    k = np.arange(0, reach + 2 * math.ceil(scale) + 8)
    weights = np.exp(-((k / scale) ** 2) / 2)
    above = _suffix_sums(weights)  # sum over j >= k, for k >= 0
    total = 2 * above[1] + 1.0
    upper = above / total  # P(X >= k) = P(X <= -k), k >= 0
    mu = -2 * float(ndtri(upper[1]))
    # vertex k >= 1: alpha = P(X >= k); beta = P(X <= k - 2) = 1 - P(X >= k - 1) for k >= 2. The mirrored vertices
    # 2 - k swap the two. For beta above one half, Phi^-1(beta) = -Phi^-1(P(X >= k - 1)) keeps every digit.
    z = ndtri(upper[1 : reach + 1])  # Phi^-1(P(X >= k)), k = 1 .. reach
    steps = np.concatenate([[mu], z[:-1] - z[1:]])
    return mu, float(steps.max())


def _suffix_sums(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Suffix sums in two levels, so that the rounding error grows with the square root of the length."""
    width = math.isqrt(len(weights)) + 1
    padded = np.zeros(width * width)
    padded[: len(weights)] = weights
    blocks = np.cumsum(padded.reshape(width, width)[::-1, ::-1], axis=1)
    before = np.concatenate([[0.0], np.cumsum(blocks[:, -1])[:-1]])
    sums: NDArray[np.float64] = (blocks + before[:, None])[::-1, ::-1].reshape(-1)
    return sums[: len(weights)].copy()


def sigma_for(
    limit: Fraction, sensitivity_squared: Fraction, cost: Callable[[Fraction], Fraction] | None = None
) -> Fraction:
    """Smallest sigma (a multiple of 2**-16) whose release costs at most ``limit``.

    cost  what sensitivity 1 costs at a scale, falling; by default ``gdp_mu_squared``.
    """
    per_unit = cost or gdp_mu_squared

    def fits(steps: int) -> bool:
        return steps >= least and sensitivity_squared * per_unit(Fraction(steps, SIGMA_STEPS)) <= limit

    least, largest = SIGMA_STEPS // 8, LARGEST_SIGMA * SIGMA_STEPS
    if limit <= 0 or not fits(largest):
        wanted = math.sqrt(sensitivity_squared / limit) if limit > 0 else math.inf
        raise ConfigError(
            f"the budget calls for noise of about {wanted:.3g}, above {LARGEST_SIGMA}: nothing useful can come out. "
            "Raise epsilon or lower the iterations. Nothing was spent."
        )
    # sigma**2 lies just above sensitivity**2 / mu**2; walk up from there (one or two steps in practice)
    low = min(max(least, math.isqrt(math.floor(sensitivity_squared / limit * SIGMA_STEPS**2))), largest)
    back = 1
    while low > least and fits(low):
        low, back = max(least, low - back), 2 * back
    if fits(low):
        return Fraction(low, SIGMA_STEPS)
    stride = 1
    while not fits(min(low + stride, largest)):
        stride *= 2
    high = min(low + stride, largest)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return Fraction(high, SIGMA_STEPS)


def sample(sigma: Fraction, size: int) -> NDArray[np.int64]:
    """Draw ``size`` independent discrete Gaussians from the operating system's generator; it cannot be seeded."""
    return draw_from(sigma, size, os.urandom)


def draw_from(sigma: Fraction, size: int, random_bytes: Callable[[int], bytes]) -> NDArray[np.int64]:
    """Draw ``size`` independent discrete Gaussians from uniform random bytes, int64 (size,).

    Inverse CDF with thresholds floor(2**192 CDF): 64 random bits settle almost every draw by binary search, further
    bits settle exact ties. The number of operations hardly depends on the value drawn (timing: arXiv 2112.05307).
    The distance to the exact distribution is below 2**-175 per draw. Only ``sample`` and the simulation call this.
    """
    thresholds, heads, reach = _table(check_sigma(sigma))
    head = np.frombuffer(random_bytes(8 * size), dtype=np.uint64)
    index = np.searchsorted(heads, head, side="left")
    undecided = np.flatnonzero(heads[np.minimum(index, len(heads) - 1)] == head)
    for i in undecided:
        exact = (int(head[i]) << 128) | int.from_bytes(random_bytes(16), "little")
        index[i] = bisect_right(thresholds, exact)
    return index.astype(np.int64) - reach


@lru_cache(maxsize=64)
def _table(sigma: Fraction) -> tuple[list[int], NDArray[np.uint64], int]:
    """Integer CDF thresholds of -reach .. reach - 1, their leading 64 bits, and reach."""
    with localcontext() as context:
        context.prec = 120
        two_sigma_squared = 2 * sigma * sigma
        exponent = -Decimal(two_sigma_squared.denominator) / Decimal(two_sigma_squared.numerator)
        ratio = int(exponent.exp() * 2**_WORKING_BITS)  # exp(-1 / (2 sigma**2))
    reach = math.ceil(16.7 * sigma) + 2  # exp(-16.7**2 / 2) < 2**-201
    weights, weight, step, square = [], 1 << _WORKING_BITS, ratio, (ratio * ratio) >> _WORKING_BITS
    for _ in range(reach + 1):  # w(k + 1) = w(k) ratio**(2 k + 1)
        weights.append(weight)
        weight = (weight * step) >> _WORKING_BITS
        step = (step * square) >> _WORKING_BITS
    total = weights[0] + 2 * sum(weights[1:])
    thresholds, running = [], 0
    for k in range(-reach, reach):
        running += weights[abs(k)]
        thresholds.append(min((running << _BITS) // total, 2**_BITS - 1))
    heads = np.array([t >> (_BITS - 64) for t in thresholds], dtype=np.uint64)
    return thresholds, heads, reach
