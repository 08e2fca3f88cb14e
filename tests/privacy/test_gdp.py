"""Conversions between mu and (epsilon, delta) against high-precision arithmetic.

``tests/vectors/accounting.json`` holds mpmath values at 80 digits; the properties use a second oracle, written here in
480-digit ``decimal``.
"""

from __future__ import annotations

import json
import math
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pe.privacy import gdp
from pe.privacy.budget import SMALLEST_DELTA
from pe.privacy.discrete_gaussian import gdp_mu_squared

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "accounting.json").read_text())
GAUSSIAN = [row for row in VECTORS["gaussian"] if float(row[2]) >= SMALLEST_DELTA]  # smaller ones: see test_budget
EXCESS = Decimal("1e-9")
DIGITS = 480


def arctan_inverse(n: int, unit: int) -> int:
    """Arctan(1 / n) in multiples of 1 / unit."""
    total, power, k = 0, unit // n, 1
    while power:
        total += power // k if k % 4 == 1 else -(power // k)
        power, k = power // (n * n), k + 2
    return total


with localcontext(Context(prec=DIGITS)):
    _UNIT = 10 ** (DIGITS + 10)
    PI = Decimal(4 * (4 * arctan_inverse(5, _UNIT) - arctan_inverse(239, _UNIT))) / _UNIT


def phi(x: Decimal) -> Decimal:
    """Phi(x) = 1/2 + exp(-x**2 / 2) / sqrt(2 pi) (x + x**3 / 3 + x**5 / (3 5) + ...)."""
    term, total, n = x, x, 1
    while abs(term) > abs(total).scaleb(-DIGITS):
        n += 2
        term = term * x * x / n
        total += term
    return Decimal("0.5") + (-x * x / 2).exp() / (2 * PI).sqrt() * total


def exact_delta(epsilon: float | Decimal, mu: float | Decimal) -> Decimal:
    """Phi(mu/2 - epsilon/mu) - exp(epsilon) Phi(-mu/2 - epsilon/mu); 60 digits or more while epsilon/mu < 40."""
    with localcontext(Context(prec=DIGITS)):
        e, m = Decimal(epsilon), Decimal(mu)
        return phi(m / 2 - e / m) - e.exp() * phi(-m / 2 - e / m)


def decimal(value: Fraction) -> Decimal:
    with localcontext(Context(prec=DIGITS)):
        return Decimal(value.numerator) / Decimal(value.denominator)


def test_both_oracles_agree() -> None:
    for mu, epsilon, log_delta in VECTORS["log_delta"]:
        if float(epsilon) / float(mu) < 30 and float(mu) < 20:
            assert abs(exact_delta(Decimal(epsilon), Decimal(mu)).ln() - Decimal(log_delta)) < Decimal("1e-15")


def test_log_delta_is_good_to_1e_12() -> None:
    for mu, epsilon, expected in VECTORS["log_delta"]:
        found = gdp.log_delta(float(epsilon), float(mu))
        assert found == pytest.approx(float(expected), rel=1e-12, abs=1e-79), f"mu {mu}, epsilon {epsilon}"


def test_epsilon_is_never_below_the_truth_and_at_most_1e_9_above() -> None:
    assert len(GAUSSIAN) > 1000
    for sigma, rounds, delta, mu, epsilon in GAUSSIAN:
        found = Decimal(gdp.epsilon_for(float(mu), float(delta)))
        case = f"sigma {sigma}, T {rounds}, delta {delta}"
        assert Decimal(epsilon) <= found <= Decimal(epsilon) * (1 + EXCESS), case


def test_mu_is_never_above_the_truth_and_at_most_1e_9_below() -> None:
    for epsilon, rounds, delta, _, mu in VECTORS["calibration"]:
        exact = Decimal(mu) ** 2
        found = decimal(gdp.mu_squared_within(float(epsilon), float(delta)))
        assert exact * (1 - EXCESS) <= found <= exact, f"epsilon {epsilon}, T {rounds}, delta {delta}"


@pytest.mark.parametrize(("sigma", "epsilon"), [(1, "17.8565868301"), (5, "2.5943833805")], ids=["sigma 1", "sigma 5"])
def test_ten_rounds_cost_what_PRIVACY_md_says(sigma: int, epsilon: str) -> None:
    assert gdp.epsilon_for(math.sqrt(10) / sigma, 1e-5) == pytest.approx(float(epsilon), rel=1e-9)


def test_epsilon_1_over_ten_rounds_needs_the_sigma_that_PRIVACY_md_says() -> None:
    sigma = math.sqrt(10 / gdp.mu_squared_within(1.0, 1e-5))
    assert sigma == pytest.approx(11.7972930771, rel=1e-9)


def test_discrete_noise_costs_at_most_a_fifth_of_a_percent_more_than_continuous_at_sigma_5() -> None:
    mu = math.sqrt(10 * gdp_mu_squared(Fraction(5)))
    assert 2.5943833805 < gdp.epsilon_for(mu, 1e-5) <= 1.002 * 2.5943833805


smallest_charge = 1 / 2**14  # mu of one answer under the largest supported noise
mus = st.floats(math.log(smallest_charge), math.log(30)).map(math.exp)
deltas = st.floats(math.log(SMALLEST_DELTA), math.log(0.9)).map(math.exp).map(lambda d: max(d, SMALLEST_DELTA))


def test_the_guarded_delta_is_never_below_the_truth() -> None:
    """Down to mu = 1e-6, where the two terms agree in all but a few of their digits."""
    for step in range(18):
        mu = gdp.SMALLEST_MU * 2.7**step
        for a in range(0, 30, 5):
            epsilon = mu * (mu / 2 + a / 3 + step / 50)
            truth = float(exact_delta(epsilon, mu).ln())
            guarded = gdp._log_delta_above(epsilon, mu)
            assert truth < guarded < truth + 2e-10 + 3e-14 / mu, f"mu {mu}, epsilon {epsilon}"


@given(mus, deltas)
def test_epsilon_holds_at_its_delta_and_is_tight_unless_tiny(mu: float, delta: float) -> None:
    epsilon = gdp.epsilon_for(mu, delta)
    assert exact_delta(epsilon, mu) <= Decimal(delta)
    if epsilon > 1e-3 and delta > 1e-18:  # smaller deltas pay for the tail that is set aside
        assert exact_delta(epsilon * (1 - 1e-6), mu) > Decimal(delta)


@given(mus, st.floats(0, 12), deltas)
def test_the_gate_admits_no_mu_above_the_truth(mu: float, ratio: float, delta: float) -> None:
    epsilon = max(mu * ratio, 1e-9)
    within = gdp.mu_squared_within(epsilon, delta)
    if within >= Fraction(smallest_charge) ** 2:  # a smaller budget buys nothing
        with localcontext(Context(prec=DIGITS)):
            assert exact_delta(epsilon, decimal(within).sqrt()) <= Decimal(delta)


@given(mus, deltas)
def test_the_gate_admits_what_the_report_says(mu: float, delta: float) -> None:
    epsilon = gdp.epsilon_for(mu, delta)
    if epsilon > 1e-3:
        within = gdp.mu_squared_within(epsilon * (1 + 1e-9), delta)
        assert float(within) == pytest.approx(mu * mu, rel=1e-6)


@pytest.mark.parametrize("epsilon", [1e-300, 1e-30, 1e-9])
@pytest.mark.parametrize("delta", [SMALLEST_DELTA, 1e-20])
def test_a_budget_below_any_charge_admits_nothing(epsilon: float, delta: float) -> None:
    assert gdp.mu_squared_within(epsilon, delta) == 0


@pytest.mark.parametrize("epsilon", [800.0, 1e6, 1e300])
def test_a_huge_epsilon_does_not_overflow(epsilon: float) -> None:
    mu = math.sqrt(gdp.mu_squared_within(epsilon, 1e-6))
    assert mu < math.sqrt(2 * epsilon)  # mu**2 / 2 is the privacy loss's mean
    assert mu == pytest.approx(math.sqrt(2 * epsilon), rel=0.2)


def test_no_charge_is_no_epsilon() -> None:
    assert gdp.epsilon_for(0.0, 1e-6) == 0


@given(st.fractions(), st.integers(1, 96))
def test_dyadic_rounding_encloses_the_number(value: Fraction, bits: int) -> None:
    low, high = gdp.floor_dyadic(value, bits), gdp.ceil_dyadic(value, bits)
    assert low <= value <= high
    assert high - low <= Fraction(1, 2**bits)
    assert (low * 2**bits).denominator == (high * 2**bits).denominator == 1
