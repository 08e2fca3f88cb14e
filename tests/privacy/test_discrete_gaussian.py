"""The noise: its certified cost, its smallest fitting scale, and the exact distribution of the sampler."""

from __future__ import annotations

import math
import os
import random
from collections import Counter
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from itertools import accumulate, count, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri
from scipy.stats import chi2

from pe.errors import BudgetExceededError, ConfigError
from pe.privacy import Adjacency, Budget, Contribution, DiscreteGaussian, Ledger, discrete_gaussian, gdp
from pe.privacy.discrete_gaussian import SIGMA_STEPS, gdp_mu_squared, sample, sigma_for

from .test_gdp import VECTORS, decimal

SIGMAS = [Fraction(1, 8), Fraction(1, 2), Fraction(1), Fraction(2), Fraction(504, 100), Fraction(20)]


def exact_pmf(sigma: Fraction, reach: int) -> dict[int, Decimal]:
    """P(X = k) for |k| <= reach at 100 digits."""
    with localcontext(Context(prec=100)):
        scale = 2 * decimal(sigma) ** 2
        weights = [(-(Decimal(k) ** 2) / scale).exp() for k in range(math.ceil(22 * sigma) + 3)]
        total = weights[0] + 2 * sum(weights[1:])
        return {k: weights[abs(k)] / total if abs(k) < len(weights) else Decimal(0) for k in range(-reach, reach + 1)}


# -- cost ----------------------------------------------------------------------------------------------------------


def test_the_cost_is_never_below_the_certified_mu_and_less_than_3e_7_above() -> None:
    for sigma, *_, mu, _, _ in VECTORS["discrete_gaussian"]:
        exact, found = Decimal(mu) ** 2, decimal(gdp_mu_squared(Fraction(sigma)))
        assert exact <= found < exact * (1 + Decimal("3e-7")), f"sigma {sigma}"


def test_the_epsilon_of_repeated_answers_is_that_of_the_vectors() -> None:
    for sigma, rounds, delta, _, continuous, epsilon in VECTORS["discrete_gaussian"]:
        found = gdp.epsilon_for(math.sqrt(int(rounds) * gdp_mu_squared(Fraction(sigma))), float(delta))
        assert found == pytest.approx(float(epsilon), rel=1e-6)
        assert found > float(continuous)


@pytest.mark.parametrize("sigma", SIGMAS, ids=str)
def test_every_vertex_of_the_trade_off_curve_lies_above_the_gaussian_one(sigma: Fraction) -> None:
    """Brute force over P(X >= k) against P(X + 1 < k), from the exact probabilities."""
    reach = math.ceil(20 * sigma) + 3
    pmf = exact_pmf(sigma, reach)
    upper = dict(zip(range(reach, -1, -1), accumulate(pmf[k] for k in range(reach, -1, -1)), strict=True))

    def quantile(k: int) -> float:  # Phi^-1(P(X >= k)), by the shorter tail
        return float(ndtri(float(upper[k]))) if k > 0 else -float(ndtri(float(upper[1 - k])))

    vertices = range(-math.ceil(12 * sigma), math.ceil(12 * sigma) + 1)
    needed = max(quantile(k - 1) - quantile(k) for k in vertices)  # P(X <= k - 2) = 1 - P(X >= k - 1)
    certified = math.sqrt(gdp_mu_squared(sigma))
    assert needed <= certified <= needed * (1 + 3e-7)


@pytest.mark.parametrize("sigma", SIGMAS[1:5], ids=str)
@pytest.mark.parametrize(("shift", "norm_squared"), [((1,), 1), ((2,), 4), ((1, -1), 2), ((2, 1), 5)], ids=str)
def test_the_hockey_stick_divergence_stays_below_the_certified_delta(
    sigma: Fraction, shift: tuple[int, ...], norm_squared: int
) -> None:
    """sum over x of max(P(x) - exp(epsilon) P(x - shift), 0), summed exactly over the integer grid."""
    reach = math.ceil(9 * sigma)
    pmf = exact_pmf(sigma, reach)
    line = np.array([float(pmf[k]) for k in range(-reach, reach + 1)])
    first, second = np.ones(()), np.ones(())
    for moved in shift:
        there = np.zeros_like(line)
        there[max(moved, 0) : len(line) + min(moved, 0)] = line[max(-moved, 0) : len(line) - max(moved, 0)]
        first, second = np.multiply.outer(first, line), np.multiply.outer(second, there)
    mu = math.sqrt(norm_squared * gdp_mu_squared(sigma))
    for epsilon in np.array([0.0, 0.1, 0.5, 1.0, 2.0]) * mu * max(mu, 1):
        divergence = np.maximum(first - math.exp(epsilon) * second, 0).sum()
        assert divergence <= math.exp(gdp.log_delta(float(epsilon), mu)) + 1e-13


def test_a_scale_that_a_scan_does_not_certify_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    vertices = discrete_gaussian._vertices
    monkeypatch.setattr(discrete_gaussian, "_vertices", lambda sigma: (vertices(sigma)[0], vertices(sigma)[1] * 1.01))
    with pytest.raises(ConfigError, match="certified"):
        gdp_mu_squared.__wrapped__(Fraction(7))


# -- the smallest scale --------------------------------------------------------------------------------------------


@given(st.fractions(Fraction(1, 10**6), Fraction(100)), st.integers(1, 8))
@settings(max_examples=25)
def test_the_scale_fits_and_one_step_less_does_not(mu_squared: Fraction, sensitivity_squared: int) -> None:
    sigma = sigma_for(mu_squared, Fraction(sensitivity_squared))
    assert (sigma * SIGMA_STEPS).denominator == 1
    assert sensitivity_squared * gdp_mu_squared(sigma) <= mu_squared
    less = sigma - Fraction(1, SIGMA_STEPS)
    assert less < Fraction(1, 8) or sensitivity_squared * gdp_mu_squared(less) > mu_squared


@pytest.mark.parametrize("mu_squared", [Fraction(0), Fraction(1, 10**12), Fraction(1, 2**28)], ids=str)
def test_a_budget_too_small_for_any_scale_is_refused(mu_squared: Fraction) -> None:
    with pytest.raises(ConfigError, match="Nothing was spent"):
        sigma_for(mu_squared, Fraction(1))


_SOURCES = count()


@given(
    st.floats(0.1, 10),
    st.floats(-20, -1).map(lambda power: 10**power),
    st.integers(1, 8),
    st.sampled_from(Adjacency),
    st.integers(1, 3),
)
@settings(max_examples=15)
def test_exactly_T_rounds_fit_a_budget(
    tmp_path: Path, epsilon: float, delta: float, rounds: int, adjacency: Adjacency, nearest: int
) -> None:
    ledger = Ledger(tmp_path / "l.sqlite3", key=tmp_path / "keys" / "key", create=True)
    budget = Budget(epsilon, delta, adjacency)
    name = f"source {next(_SOURCES)}"
    ledger.create(name, budget)
    account = ledger.account(name, run="run", budget=budget, config="")
    sensitivity_squared = Contribution((1.0,) * nearest).sensitivity_squared(adjacency)
    mechanism = DiscreteGaussian(sigma_for(budget.limit[0] / rounds, sensitivity_squared), sensitivity_squared)
    for iteration in range(1, rounds + 1):
        account.reserve(mechanism, purpose="votes", iteration=iteration, bins=1, attempt="a")
    assert account.epsilon_spent() <= epsilon * (1 + 1e-9)
    with pytest.raises(BudgetExceededError):
        account.reserve(mechanism, purpose="votes", iteration=rounds + 1, bins=1, attempt="a")
    assert account.spent()[0] == rounds * mechanism.mu_squared <= budget.limit[0]


# -- the sampler ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [*SIGMAS, Fraction(1234567, SIGMA_STEPS)], ids=str)
def test_the_sampler_has_the_exact_distribution(sigma: Fraction) -> None:
    """Differences of the integer thresholds against the PMF at 100 digits; symmetric; tails below 2**-190."""
    thresholds, heads, reach = discrete_gaussian._table(sigma)
    edges = [0, *thresholds, 2**192]
    drawn = [high - low for low, high in pairwise(edges)]
    assert len(drawn) == 2 * reach + 1
    assert min(drawn) >= 0
    pmf = exact_pmf(sigma, reach)
    with localcontext(Context(prec=100)):
        bound = Decimal(2) ** -190
        for k, mass in enumerate(drawn, start=-reach):
            probability = Decimal(mass) / 2**192
            assert abs(probability - pmf[k]) <= bound, f"P(X = {k})"
            assert abs(mass - drawn[reach - k]) <= 4
        beyond = (1 - sum(pmf.values())) / 2
        assert beyond < bound
    assert [int(head) for head in heads] == [threshold >> 128 for threshold in thresholds]


def test_ties_in_the_first_64_bits_are_settled_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    thresholds, _, reach = discrete_gaussian._table(Fraction(5))
    for place in (0, 1, reach - 1, reach, 2 * reach - 1):  # both tails have runs of equal leading bits
        for offset in (-1, 0, 1):
            uniform = min(max(thresholds[place] + offset, 0), 2**192 - 1)
            answers = iter([(uniform >> 128).to_bytes(8, "little"), (uniform % 2**128).to_bytes(16, "little")])
            monkeypatch.setattr(discrete_gaussian.os, "urandom", lambda size, answers=answers: next(answers))
            expected = sum(threshold <= uniform for threshold in thresholds) - reach
            assert sample(Fraction(5), 1).tolist() == [expected]


def chi_square(observed: np.ndarray, expected: np.ndarray, variance: np.ndarray) -> float:
    return float(chi2.sf(((observed - expected) ** 2 / variance).sum(), len(observed) - 1))


@pytest.mark.parametrize("sigma", [Fraction(1, 2), Fraction(5)], ids=str)
def test_draws_follow_the_distribution(sigma: Fraction) -> None:
    n = 200_000
    pmf = exact_pmf(sigma, math.ceil(17 * sigma))
    reach = max(k for k, mass in pmf.items() if n * mass > 20)
    expected = np.zeros(2 * reach + 1)  # the tails join the outermost bins
    for k, mass in pmf.items():
        expected[min(max(k, -reach), reach) + reach] += n * float(mass)
    draws = sample(sigma, n)
    assert draws.dtype == np.int64
    observed = np.bincount(np.clip(draws, -reach, reach) + reach, minlength=2 * reach + 1)
    assert chi_square(observed, expected, expected) > 1e-12


def rejection_sample(sigma: int, rng: random.Random) -> int:
    """Canonne, Kamath and Steinke (2020), algorithms 1 to 3, in integers."""

    def bernoulli_exp(numerator: int, denominator: int) -> bool:  # probability exp(-numerator / denominator)
        while numerator > denominator:
            if not bernoulli_exp(1, 1):
                return False
            numerator -= denominator
        k = 1
        while rng.randrange(denominator * k) < numerator:
            k += 1
        return k % 2 == 1

    t = sigma + 1
    while True:
        u = rng.randrange(t)
        if not bernoulli_exp(u, t):
            continue
        v = 0
        while bernoulli_exp(1, 1):
            v += 1
        size, negative = u + t * v, rng.randrange(2) == 1
        if negative and size == 0:
            continue
        # accept with probability exp(-(|Y| - sigma**2 / t)**2 / (2 sigma**2))
        if bernoulli_exp((size * t - sigma**2) ** 2, 2 * sigma**2 * t * t):
            return -size if negative else size


def test_draws_match_a_second_implementation() -> None:
    n, sigma = 10_000, 3
    rng = random.Random(7)
    theirs = Counter(max(-8, min(8, rejection_sample(sigma, rng))) for _ in range(n))
    ours = Counter(np.clip(sample(Fraction(sigma), n), -8, 8).tolist())
    one = np.array([ours[k] for k in range(-8, 9)], float)
    two = np.array([theirs[k] for k in range(-8, 9)], float)
    assert chi_square(one - two, np.zeros(17), one + two) > 1e-12


def test_noise_cannot_be_seeded() -> None:
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    first = sample(Fraction(50), 64)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    assert first.tolist() != sample(Fraction(50), 64).tolist()


def test_no_random_numbers_means_no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(size: int) -> bytes:
        raise OSError("no entropy")

    monkeypatch.setattr(os, "urandom", broken)
    with pytest.raises(OSError, match="no entropy"):
        sample(Fraction(5), 3)


def test_no_bins_take_no_noise() -> None:
    assert sample(Fraction(5), 0).shape == (0,)
