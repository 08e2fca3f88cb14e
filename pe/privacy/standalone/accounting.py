"""What charges cost and budgets admit, to about 40 digits: Gaussian DP and Renyi DP at a fixed order."""

from __future__ import annotations

import math
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, localcontext
from fractions import Fraction
from functools import cache
from itertools import accumulate

TAIL = Fraction(1, 2**100)
SCAN_REACH = 13  # standard deviations; one draw lies further out with probability below 2**-125
SCAN_MARGIN = Decimal("1e-9")  # floats place each vertex to 5e-15, which is 1e-10 of mu at the largest sigma

PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803")
CONTEXT = Context(prec=70, Emax=MAX_EMAX, Emin=MIN_EMIN)


class Refused(Exception):
    """Something does not hold: the sentence to print."""


# -- the normal distribution, to about 40 digits -------------------------------------------------------------------


def density(x: Decimal) -> Decimal:
    return (-x * x / 2).exp() / (2 * PI).sqrt()


def tail(x: Decimal) -> Decimal:
    """P(N(0, 1) > x), every digit of it however small: Taylor's series near 0, Laplace's continued fraction beyond."""
    if x < 0:
        return 1 - tail(-x)
    if x < 8:
        term, total, n = x, x, 1
        while term > total * Decimal("1e-68"):
            n += 2
            term *= x * x / n
            total += term
        return Decimal("0.5") - density(x) * total
    fraction = x
    for n in range(80, 0, -1):
        fraction = x + n / fraction
    return density(x) / fraction


def quantile(upper: Decimal) -> Decimal:
    """The x >= 0 with tail(x) = upper, for 0 < upper <= 1/2. Newton's method on the logarithm, which is concave."""
    x = (-2 * (2 * upper).ln()).sqrt()
    for _ in range(100):
        value = tail(x)
        step = (value / upper).ln() * value / density(x)
        x += step
        if abs(step) < Decimal("1e-50"):
            break
    return x


# -- Gaussian DP ---------------------------------------------------------------------------------------------------


def gaussian_delta(epsilon: Decimal, mu: Decimal) -> Decimal:
    """The delta at which mu-GDP gives epsilon (Balle and Wang 2018, theorem 8)."""
    a = epsilon / mu - mu / 2
    return tail(a) - epsilon.exp() * tail(a + mu)


@cache
def gaussian_limit(epsilon: Fraction, delta: Fraction) -> Fraction:
    """The largest mu**2 for which mu-GDP is (epsilon, delta - TAIL)-DP."""
    with localcontext(CONTEXT):
        target, level = decimal(delta - TAIL), decimal(epsilon)
        low, high = Decimal(1), Decimal(1)
        while gaussian_delta(level, low) > target:
            low, high = low / 2, low
        while gaussian_delta(level, high) <= target:
            low, high = high, high * 2
        for _ in range(130):
            middle = (low + high) / 2
            low, high = (middle, high) if gaussian_delta(level, middle) <= target else (low, middle)
        return Fraction(low) ** 2


def gaussian_epsilon(mu_squared: Fraction, delta: Fraction) -> float:
    """The smallest epsilon for which mu-GDP is (epsilon, delta - TAIL)-DP."""
    with localcontext(CONTEXT):
        target, mu = decimal(delta - TAIL), decimal(mu_squared).sqrt()
        if mu == 0 or gaussian_delta(Decimal(0), mu) <= target:
            return 0.0
        low, high = Decimal(0), Decimal(1)
        while gaussian_delta(high, mu) > target:
            low, high = high, high * 2
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (low, middle) if gaussian_delta(middle, mu) <= target else (middle, high)
        return float(high)


@cache
def discrete_mu(sigma: Fraction) -> Decimal:
    """GDP parameter of discrete Gaussian noise X on integers that neighbours move by at most one, SCAN_MARGIN included.

    Telling X from X + 1 by the test "at least k" errs with probabilities P(X >= k) and P(X <= k - 2). With
    z(k) = -Phi^-1(P(X >= k)) that is mu-GDP if and only if mu >= z(k) - z(k - 1) for every k. The largest step is
    the one across zero, z(1) - z(0) = 2 z(1), if the scan below finds no larger one. Vectors of integers at distance
    D: D mu.
    """
    with localcontext(CONTEXT):
        scale = decimal(sigma)
        mu = 2 * quantile((1 - 1 / theta(scale)) / 2)
        if not largest_step(scale) <= float(mu * (1 + SCAN_MARGIN / 2)):
            raise Refused(f"noise of scale {float(sigma):g} cannot be certified.")
        return mu * (1 + SCAN_MARGIN)


def theta(scale: Decimal) -> Decimal:
    """Sum of exp(-k**2 / (2 scale**2)) over all integers k; for wide noise by Poisson's summation formula."""
    wide = scale > Decimal("0.4")
    rate = 2 * (PI * scale) ** 2 if wide else 1 / (2 * scale * scale)
    total, k, term = Decimal(1), 0, Decimal(1)
    while term > Decimal("1e-80"):
        k += 1
        term = 2 * (-rate * k * k).exp()
        total += term
    return scale * (2 * PI).sqrt() * total if wide else total


def largest_step(scale: Decimal) -> float:
    """Largest z(k + 1) - z(k), k = 0 .. SCAN_REACH standard deviations; k < 0 mirrors it.

    The tail sums have some 25 digits; each z(k) is solved for in floats, whose erfc keeps its digits in the tail.
    """
    weights, ratio = [Decimal(1)], (-1 / (2 * scale * scale)).exp()
    growth, square = ratio, ratio * ratio
    for _ in range(math.ceil(17 * scale) + 3):
        weights.append(weights[-1] * growth)
        growth *= square
    upper = list(accumulate(reversed(weights)))[::-1]  # sums over j >= k
    total = 2 * upper[1] + 1
    z, worst, root = -1 / (2 * float(scale)), 0.0, math.sqrt(2)
    for k in range(1, math.ceil(SCAN_REACH * scale) + 2):
        before, wanted = (z if k > 1 else None), float(upper[k] / total)
        z += 1 / float(scale)
        for _ in range(50):
            value = math.erfc(z / root) / 2
            step = math.log(value / wanted) * value * root * math.sqrt(math.pi) * math.exp(z * z / 2)
            z += step
            if abs(step) < 1e-8:  # squared by the next step
                break
        worst = max(worst, 2 * z if before is None else z - before)
    return worst


# -- Renyi DP at a fixed order -------------------------------------------------------------------------------------


@cache
def renyi_price(order: Fraction, delta: Fraction) -> Fraction:
    """What (order, rdp)-RDP adds to rdp to become epsilon at delta - TAIL (Canonne, Kamath, Steinke 2020, prop. 12)."""
    with localcontext(CONTEXT):
        a = decimal(order)
        return Fraction((1 - 1 / a).ln() - (decimal(delta - TAIL).ln() + a.ln()) / (a - 1))


@cache
def subsampled_rdp(order: int, multiplier: Fraction, rate: Fraction) -> Fraction:
    """RDP at a whole order of one Gaussian answer on a Poisson sample (Mironov, Talwar, Zhang 2019, section 3.3)."""
    if rate >= 1 - Fraction(1, 2**50):  # as if it were 1, which costs more
        return Fraction(order) / (2 * multiplier * multiplier)
    with localcontext(CONTEXT) as context:
        context.prec = 80  # the moment is one plus something small
        q, exponent = decimal(rate), 1 / (2 * decimal(multiplier) ** 2)
        odds, moment = q / (1 - q), Decimal(0)
        weight = (1 - q) ** order  # C(order, k) (1 - q)**(order - k) q**k
        for k in range(order + 1):
            moment += weight * (exponent * (k * k - k)).exp()
            weight *= odds * (order - k) / (k + 1)
        return Fraction(moment.ln() / (order - 1))


def decimal(value: Fraction) -> Decimal:
    return Decimal(value.numerator) / Decimal(value.denominator)
