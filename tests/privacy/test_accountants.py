"""Accountants: costs never below the truth, limits never above it, and kinds that cannot be confused."""

from __future__ import annotations

import math
import secrets
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp

from pe.errors import BudgetExceededError, ConfigError, LedgerError
from pe.privacy import (
    GDP,
    Adjacency,
    Budget,
    DiscreteGaussian,
    FixedPlan,
    FixedPlans,
    Ledger,
    Renyi,
    SubsampledGaussian,
    Votes,
    release,
)
from pe.privacy.accountant import Accountant, accountant_from, add, fits
from pe.privacy.mechanism import Mechanism, mechanism_from

ONE, DELTA = Fraction(1), 1e-5
SGD = SubsampledGaussian(ONE, Fraction(1, 100), 1000)


def votes_at(sigma: str) -> DiscreteGaussian:
    return DiscreteGaussian(Fraction(sigma), ONE)


def composed(accountant: Accountant, *mechanisms: Mechanism) -> tuple[Fraction, ...]:
    total = accountant.cost(mechanisms[0], DELTA)
    for each in mechanisms[1:]:
        total = add(total, accountant.cost(each, DELTA))
    return total


# -- reference values ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sigma", "rounds", "delta", "zcdp"),
    [
        ("1", 1, 1e-5, 4.728386984943313),
        ("1", 10, 1e-5, 19.047259552325183),
        ("5.04", 10, 1e-5, 2.788652917834548),
        ("10", 20, 1e-6, 2.141938928385474),
        ("20", 20, 1e-9, 1.30739376370485),
    ],
)
def test_renyi_at_the_best_whole_order_is_close_to_the_best_zcdp_conversion(
    sigma: str, rounds: int, delta: float, zcdp: float
) -> None:
    """The reference minimises over real orders; a whole one can only be worse."""
    mechanism = votes_at(sigma)
    found = min(
        Renyi(order).epsilon((rounds * Renyi(order).cost(mechanism, delta)[0],), delta) for order in range(2, 200)
    )
    assert zcdp * (1 - 1e-9) <= found <= zcdp * (1.05 if zcdp > 10 else 1.01)


@pytest.mark.parametrize(
    ("pe_sigma", "rounds", "sgd", "pld", "rdp"),
    [
        ("5.04", 10, SGD, 3.2223035404228333, 3.511206824325426),
        (
            "10",
            20,
            SubsampledGaussian(Fraction("0.8"), Fraction("0.004"), 2000),
            2.4177889704306996,
            2.8238070353381817,
        ),
    ],
)
def test_votes_and_dp_sgd_together_cost_what_the_reference_says(
    pe_sigma: str, rounds: int, sgd: SubsampledGaussian, pld: float, rdp: float
) -> None:
    """Both a little more: the votes' noise is discrete, the order a whole number."""
    votes = [votes_at(pe_sigma)] * rounds
    renyi = min(Renyi(order).epsilon(composed(Renyi(order), sgd, *votes), DELTA) for order in range(2, 64))
    assert rdp <= renyi <= rdp * 1.02
    (fixed, delta) = FixedPlans().cost(FixedPlan((sgd, *votes)), DELTA)
    assert pld <= fixed <= pld * 1.005
    assert delta == Fraction(DELTA)


@pytest.mark.parametrize("order", [2, 3, 16, 64, 512])
@pytest.mark.parametrize(
    ("sigma", "rate"), [("3", "0.0024"), ("1", "0.01"), ("0.6", "0.001"), ("2", "1"), ("8", "0.5"), ("20", "0.000001")]
)
def test_the_cost_of_a_sampled_step_is_the_exact_moment_rounded_up(order: int, sigma: str, rate: str) -> None:
    """Mironov, Talwar, Zhang 2019, at 60 digits."""
    cost = Renyi(order).cost(SubsampledGaussian(Fraction(sigma), Fraction(rate), 1), DELTA)[0]
    with mp.workdps(60):
        q, s = mp.mpf(rate), mp.mpf(sigma)
        moments = (
            mp.binomial(order, k) * (1 - q) ** (order - k) * q**k * mp.exp((k * k - k) / (2 * s * s))
            for k in range(order + 1)
        )
        exact = mp.log(mp.fsum(moments)) / (order - 1)
        found = mp.mpf(cost.numerator) / cost.denominator
        assert exact * (1 - mp.mpf("1e-50")) <= found <= exact * (1 + mp.mpf("1e-6"))


@given(st.floats(0.1, 20), st.floats(-12, -2).map(lambda power: 10**power), st.integers(2, 300))
def test_the_renyi_limit_is_never_above_the_truth_and_epsilon_never_below(
    epsilon: float, delta: float, order: int
) -> None:
    """delta = exp((a - 1)(rdp - epsilon)) / a (1 - 1/a)**(a - 1), at 60 digits."""
    accountant = Renyi(order)
    limit = accountant.limit(epsilon, delta)[0]
    with mp.workdps(60):
        a = mp.mpf(order)
        price = mp.log(1 - 1 / a) - (mp.log(mp.mpf(delta)) + mp.log(a)) / (a - 1)
        true = mp.mpf(epsilon) - price
        found = mp.mpf(limit.numerator) / limit.denominator
        assert found <= max(true, 0)
        assert found >= true - mp.mpf("1e-8")
        if limit:
            assert accountant.epsilon((limit,), delta) <= epsilon * (1 + 1e-8) + 1e-8
            assert mp.mpf(accountant.epsilon((limit,), delta)) >= found + price


@pytest.mark.parametrize(("epsilon", "delta"), [(0.1, 1e-6), (1.0, 1e-5), (8.0, 1e-9)])
def test_the_best_order_admits_more_than_its_neighbours(epsilon: float, delta: float) -> None:
    best = Renyi.best(epsilon, delta)
    admitted = best.limit(epsilon, delta)[0] / best.order
    for order in {max(2, best.order - 1), best.order + 1, 2 * best.order}:
        assert Renyi(order).limit(epsilon, delta)[0] / order <= admitted
    mu_squared = GDP().limit(epsilon, delta)[0]
    assert 0.6 < 2 * admitted / mu_squared < 1


# -- groups --------------------------------------------------------------------------------------------------------


def test_a_group_pays_with_mu_times_its_size() -> None:
    budget = Budget(1.0, 1e-6, Adjacency.ADD_REMOVE)
    sizes = [budget.group(size) for size in (1, 2, 3)]
    assert sizes[0][0] == pytest.approx(1.0, rel=1e-8)
    assert [delta for _, delta in sizes] == [1e-6] * 3
    assert 2 < sizes[1][0] < 2.2
    # the textbook bound is weaker: (2 epsilon, 2 e^epsilon delta)
    assert sizes[1][0] < GDP().epsilon((4 * budget.limit[0],), 1e-6) * (1 + 1e-9)


@pytest.mark.parametrize("accountant", ["renyi:20", "pld"])
def test_other_accountants_know_the_textbook_bound_for_groups(accountant: str) -> None:
    budget = Budget(1.0, 1e-6, Adjacency.ADD_REMOVE, accountant=accountant_from(accountant))
    epsilon, delta = budget.group(3)
    assert epsilon == 3
    assert delta == pytest.approx(3 * math.exp(2) * 1e-6)
    assert budget.group(1000)[1] == 1.0
    with pytest.raises(ConfigError):
        budget.group(0)


# -- kinds that cannot be confused ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", [SGD, FixedPlan((SGD, votes_at("5")))], ids=["step", "plan"])
def test_gdp_refuses_dp_sgd(mechanism: Mechanism) -> None:
    with pytest.raises(ConfigError, match="Nothing was spent"):
        GDP().cost(mechanism, DELTA)


@pytest.mark.parametrize("mechanism", [SGD, votes_at("5")], ids=["step", "votes"])
def test_a_privacy_loss_distribution_prices_whole_plans_alone(mechanism: Mechanism) -> None:
    with pytest.raises(ConfigError, match=r"whole plans fixed beforehand.*Nothing was spent"):
        FixedPlans().cost(mechanism, DELTA)


def test_filters_price_a_plan_as_the_sum_of_its_parts() -> None:
    plan = FixedPlan((votes_at("5"), votes_at("7")))
    assert GDP().cost(plan, DELTA) == composed(GDP(), *plan.mechanisms)
    mixed = FixedPlan((votes_at("5"), SGD))
    assert Renyi(8).cost(mixed, DELTA) == composed(Renyi(8), *mixed.mechanisms)


@pytest.mark.parametrize("name", ["gdp", "renyi:2", "renyi:16384", "pld"])
def test_an_accountant_survives_its_names(name: str) -> None:
    accountant = accountant_from(name)
    assert str(accountant) == name
    assert accountant_from(accountant.to_dict()) == accountant_from(accountant) == accountant


@pytest.mark.parametrize(
    "name", ["", "rdp", "renyi", "renyi:", "renyi:1", "renyi:2.5", "renyi:99999", "renyi:-3", "gdp:2", "GDP", 8, None]
)
def test_an_unknown_accountant_is_refused(name: object) -> None:
    with pytest.raises(ConfigError, match="Nothing was spent"):
        accountant_from(name)


@pytest.mark.parametrize("mechanism", [SGD, votes_at("5"), FixedPlan((SGD, votes_at("81/2")))], ids=str)
def test_a_mechanism_survives_the_ledger(mechanism: Mechanism) -> None:
    assert mechanism_from(mechanism.to_dict()) == mechanism


@pytest.mark.parametrize(
    "body",
    [
        {"mechanism": "laplace"},
        {},
        [],
        {"mechanism": "plan", "mechanisms": []},
        {"mechanism": "plan", "mechanisms": [FixedPlan((SGD,)).to_dict()]},
        SGD.to_dict() | {"sampling_rate": "2"},
        SGD.to_dict() | {"sampling_rate": "0"},
        SGD.to_dict() | {"steps": 0},
        SGD.to_dict() | {"noise_multiplier": "0"},
    ],
    ids=str,
)
def test_a_malformed_mechanism_is_refused(body: object) -> None:
    with pytest.raises(ConfigError):
        mechanism_from(body)


# -- with the ledger -----------------------------------------------------------------------------------------------


def test_a_source_under_renyi_pays_for_votes_and_dp_sgd_alike(ledger: Ledger) -> None:
    budget = Budget(4.0, DELTA, Adjacency.ADD_REMOVE, accountant=Renyi(6))
    ledger.create("mixed", budget)
    account = ledger.account("mixed", run="run", budget=budget, config="")
    votes = Votes(lambda: np.zeros(2, np.int64), 2, ONE, Adjacency.ADD_REMOVE)
    release(votes, Fraction(20), account=account, iteration=1)
    account.reserve(SGD, purpose="DP-SGD", iteration=1, attempt=secrets.token_hex(8))
    assert account.spent() == composed(Renyi(6), votes_at("20"), SGD)
    assert fits(account.spent(), budget.limit)
    assert 2 < account.epsilon_spent() < 4
    with pytest.raises(BudgetExceededError):
        account.reserve(votes_at("1"), purpose="votes", iteration=2, attempt=secrets.token_hex(8))


def test_a_fixed_plan_is_charged_once_as_a_whole(ledger: Ledger) -> None:
    budget = Budget(4.0, DELTA, Adjacency.ADD_REMOVE, accountant=FixedPlans())
    ledger.create("trained", budget)
    account = ledger.account("trained", run="run", budget=budget, config="")
    account.reserve(FixedPlan((SGD,)), purpose="DP-SGD", iteration=0, attempt=secrets.token_hex(8))
    assert account.epsilon_spent() == pytest.approx(1.8282436, abs=1e-5)
    with pytest.raises(BudgetExceededError):  # epsilon would do; the delta is spent
        account.reserve(FixedPlan((SGD,)), purpose="DP-SGD", iteration=0, attempt=secrets.token_hex(8))


def test_votes_are_not_released_from_a_source_of_fixed_plans(ledger: Ledger) -> None:
    budget = Budget(4.0, DELTA, Adjacency.ADD_REMOVE, accountant=FixedPlans())
    ledger.create("trained", budget)
    account = ledger.account("trained", run="run", budget=budget, config="")
    votes = Votes(lambda: pytest.fail("counted"), 2, ONE, Adjacency.ADD_REMOVE)
    with pytest.raises(ConfigError, match=r"whole plans fixed beforehand.*Nothing was spent"):
        release(votes, Fraction(20), account=account, iteration=1)
    assert len(ledger.chain("trained")) == 1


def test_dp_sgd_on_poisson_samples_is_refused_under_replace_one(ledger: Ledger) -> None:
    budget = Budget(4.0, DELTA, Adjacency.REPLACE_ONE, accountant=Renyi(6))
    ledger.create("fixed size", budget)
    account = ledger.account("fixed size", run="run", budget=budget, config="")
    with pytest.raises(LedgerError, match=r"add-remove.*Nothing was spent"):
        account.reserve(SGD, purpose="DP-SGD", iteration=0, attempt=secrets.token_hex(8))


def test_a_run_under_another_accountant_is_refused(ledger: Ledger) -> None:
    ledger.create("votes", Budget(1.0, DELTA, Adjacency.ADD_REMOVE))
    other = Budget(1.0, DELTA, Adjacency.ADD_REMOVE, accountant=Renyi(8))
    with pytest.raises(LedgerError, match=r"by 'gdp'.*by 'renyi:8'.*Nothing was spent"):
        ledger.account("votes", run="run", budget=other, config="")


@given(
    st.lists(st.tuples(st.integers(2, 60), st.integers(1, 3)), min_size=1, max_size=8),
    st.sampled_from(["gdp", "renyi:5", "renyi:30"]),
)
@settings(max_examples=25)
def test_a_filter_admits_exactly_what_fits(tmp_path: Path, plan: list[tuple[int, int]], name: str) -> None:
    """Whatever noise is chosen round by round: a charge is admitted if and only if the exact sum stays in the limit."""
    ledger = Ledger(tmp_path / "l.sqlite3", key=tmp_path / "keys" / "key", create=True)
    budget = Budget(0.7, DELTA, Adjacency.ADD_REMOVE, accountant=accountant_from(name))
    source = f"source {len(ledger.sources())}"
    ledger.create(source, budget)
    account = ledger.account(source, run="run", budget=budget, config="")
    total = tuple(Fraction(0) for _ in budget.limit)
    for sigma, sensitivity in plan:
        mechanism = DiscreteGaussian(Fraction(sigma), Fraction(sensitivity))
        after = add(total, budget.accountant.cost(mechanism, DELTA))
        if fits(after, budget.limit):
            account.reserve(mechanism, purpose="votes", iteration=1, attempt=secrets.token_hex(8))
            total = after
        else:
            with pytest.raises(BudgetExceededError):
                account.reserve(mechanism, purpose="votes", iteration=1, attempt=secrets.token_hex(8))
    assert account.spent() == total


@pytest.mark.parametrize("order", [2, 3, 40])
@pytest.mark.parametrize(
    "rate", [Fraction(1, 2**60), 1 - Fraction(1, 2**49), 1 - Fraction(1, 2**50), 1 - Fraction(1, 2**70), Fraction(1, 3)]
)
def test_sampling_rates_that_floats_cannot_tell_from_0_or_1_are_never_charged_less(order: int, rate: Fraction) -> None:
    (cost,) = Renyi(order).cost(SubsampledGaussian(Fraction(2), rate, 1), DELTA)
    with mp.workdps(80):
        q = mp.mpf(rate.numerator) / rate.denominator
        moment = mp.fsum(
            mp.binomial(order, k) * (1 - q) ** (order - k) * q**k * mp.exp(mp.mpf(k * k - k) / 8)
            for k in range(order + 1)
        )
        exact = mp.log(moment) / (order - 1)
        charged = mp.mpf(cost.numerator) / cost.denominator
        assert 0 < exact <= charged <= exact * (1 + mp.mpf("1e-8")) + mp.mpf(2) ** -95


@pytest.mark.parametrize("rate", [Fraction(1, 2**60) / 2, Fraction(1, 10**400), Fraction(1) + Fraction(1, 2**70)])
def test_sampling_rates_out_of_range_are_refused(rate: Fraction) -> None:
    with pytest.raises(ConfigError, match=r"sampling_rate in \[2\*\*-60, 1\].*Nothing was spent"):
        SubsampledGaussian(Fraction(2), rate, 1)


def test_a_privacy_loss_distribution_is_not_read_where_its_reference_rounds() -> None:
    plan = FixedPlan((votes_at("2"),))
    with pytest.raises(ConfigError, match=r"delta of 1e-12 or more, got 9e-13.*Nothing was spent"):
        FixedPlans().cost(plan, 9e-13)
    pytest.importorskip("dp_accounting")
    truth = GDP().epsilon((votes_at("2").mu_squared,), 1e-12)
    assert truth <= FixedPlans().cost(plan, 1e-12)[0] <= truth * 1.001
