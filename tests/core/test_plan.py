"""The plan: its noise scales spend the whole budget and never more."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pe.errors import ConfigError
from pe.evolution.plan import Plan, Round, noise_scales
from pe.privacy import Adjacency, Budget, Contribution, DiscreteGaussian, FixedPlans
from pe.privacy.accountant import accountant_from

SIGMA = Fraction(5)


def votes(count: int) -> Contribution:
    return Contribution((1.0,) * count)


contributions = st.one_of(
    st.integers(1, 5).map(votes),
    st.lists(st.floats(0.1, 2), min_size=1, max_size=3).map(lambda weights: Contribution.of(tuple(weights))),
    st.floats(0.5, 20).map(lambda norm: Contribution.of(norm=norm)),
)


@given(
    st.floats(0.1, 8),
    st.sampled_from(Adjacency),
    st.lists(st.tuples(st.floats(0.1, 10), contributions), min_size=1, max_size=6),
    st.sampled_from(["gdp", "renyi:2", "renyi:17", "renyi:100"]),
)
@settings(max_examples=20)
def test_the_scales_spend_the_whole_budget_and_no_more(
    epsilon: float, adjacency: Adjacency, rounds: list[tuple[float, Contribution]], accountant: str
) -> None:
    budget = Budget(epsilon, 1e-6, adjacency, accountant=accountant_from(accountant))
    weights = [weight for weight, _ in rounds]
    if budget.limit[0] == 0:
        return  # no sum of Renyi costs at that order is worth so small an epsilon
    scales = noise_scales(budget, weights, [each for _, each in rounds])
    costs = []
    for (sigma, used), (_, asked) in zip(scales, rounds, strict=True):
        assert (used.weights, used.norm) == (asked.weights, asked.norm)
        mechanism = DiscreteGaussian(sigma * used.grid, used.sensitivity_squared(adjacency))
        costs.append(budget.accountant.cost(mechanism, budget.delta)[0])
    assert budget.limit[0] * Fraction(999, 1000) < sum(costs) <= budget.limit[0]
    for cost, weight in zip(costs, weights, strict=True):
        assert float(cost / sum(costs)) == pytest.approx(weight / sum(weights), rel=2e-3)


def test_large_noise_calls_for_a_coarser_grid() -> None:
    asked = Contribution.of((1.0, 0.5))
    ((sigma, used),) = noise_scales(Budget(0.005, 1e-6, Adjacency.ADD_REMOVE), [1.0], [asked])
    assert used.grid < asked.grid == 64
    assert used.steps == (used.grid, used.grid // 2)
    assert sigma * used.grid <= 2**14 < sigma * used.grid * 2


@pytest.mark.parametrize("weights", [[], [0.0], [1.0, -1.0], [math.nan], [math.inf]])
def test_unusable_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(ConfigError, match="Nothing was spent"):
        noise_scales(Budget(1.0, 1e-6, Adjacency.ADD_REMOVE), weights, [votes(1)] * len(weights))


def test_rounds_of_votes_have_no_fixed_plan() -> None:
    budget = Budget(1.0, 1e-6, Adjacency.ADD_REMOVE, accountant=FixedPlans())
    with pytest.raises(ConfigError, match=r"'gdp' or 'renyi'.*Nothing was spent"):
        noise_scales(budget, [1.0], [votes(1)])


@pytest.mark.parametrize("epsilon", [1e-300, 1e-12, 1e-6])
def test_a_budget_that_buys_nothing_useful_is_refused(epsilon: float) -> None:
    with pytest.raises(ConfigError, match="Nothing was spent"):
        noise_scales(Budget(epsilon, 1e-9, Adjacency.ADD_REMOVE), [1.0] * 10, [votes(1)] * 10)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sigma": Fraction(0)},
        {"sigma": 5.0},
        {"parents": 0},
        {"variations": 0},
        {"variations": -1, "keep": True},
        {"lookahead": -1},
        {"contribution": Contribution.of((1.0, 0.5)), "sigma": Fraction(300)},
        {"api": -1},
        {"degree": 1.01},
        {"degree": -0.01},
        {"degree": math.nan},
        {"threshold": -1.0},
        {"threshold": math.nan},
        {"threshold": math.inf},
        {"selection": "best"},
    ],
    ids=str,
)
def test_a_round_refuses_what_it_cannot_do(wrong: dict[str, object]) -> None:
    good: dict[str, object] = {"sigma": SIGMA, "parents": 10}
    Round(**good)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="Nothing was spent"):
        Round(**(good | wrong))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        {"population": 0},
        {"label_sigma": 5.0},
        {"shares": (0.0, 0.0)},
        {"shares": (1.5, -0.5)},
        {"shares": (math.nan, 1.0)},
        {"shares": (math.inf, 1.0)},
    ],
    ids=str,
)
def test_a_plan_refuses_what_it_cannot_do(wrong: dict[str, object]) -> None:
    good: dict[str, object] = {"population": 10, "rounds": (Round(SIGMA, 10),), "shares": (0.5, 0.5)}
    Plan(**good)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="Nothing was spent"):
        Plan(**(good | wrong))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("variations", "keep", "expected"), [(1, False, 7), (3, False, 21), (0, True, 7), (2, True, 21)]
)
def test_a_rounds_population_counts_variations_and_the_parents_it_keeps(
    variations: int, keep: bool, expected: int
) -> None:
    assert Round(SIGMA, 7, variations=variations, keep=keep).population == expected
