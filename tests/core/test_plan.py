"""The plan: its noise scales spend the whole budget and never more."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pe.errors import ConfigError
from pe.plan import Plan, Round, noise_scales
from pe.privacy import Adjacency, Budget, DiscreteGaussian, votes_sensitivity_squared

SIGMA = Fraction(5)


@given(
    st.floats(0.1, 8),
    st.sampled_from(Adjacency),
    st.lists(st.tuples(st.floats(0.1, 10), st.integers(1, 5)), min_size=1, max_size=6),
    st.floats(0, 0.5),
)
@settings(max_examples=20)
def test_the_scales_spend_the_whole_budget_and_no_more(
    epsilon: float, adjacency: Adjacency, rounds: list[tuple[float, int]], label_share: float
) -> None:
    budget = Budget(epsilon, 1e-6, adjacency)
    weights, nearest = [weight for weight, _ in rounds], [k for _, k in rounds]
    label_share = label_share if label_share > 0.01 else 0.0
    scales, label_scale = noise_scales(budget, weights, nearest, label_share)
    costs = [
        DiscreteGaussian(sigma, votes_sensitivity_squared(adjacency, k)).mu_squared
        for sigma, k in zip(scales, nearest, strict=True)
    ]
    labels = Fraction(0)
    assert (label_scale is None) == (label_share == 0)
    if label_scale is not None:
        labels = DiscreteGaussian(label_scale, votes_sensitivity_squared(adjacency)).mu_squared
        assert float(labels / budget.mu_squared) == pytest.approx(label_share, rel=1e-3)
    assert budget.mu_squared * Fraction(999, 1000) < sum(costs) + labels <= budget.mu_squared
    for cost, weight in zip(costs, weights, strict=True):
        assert float(cost / sum(costs)) == pytest.approx(weight / sum(weights), rel=2e-3)


@pytest.mark.parametrize("weights", [[], [0.0], [1.0, -1.0], [math.nan], [math.inf]])
def test_unusable_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(ConfigError, match="Nothing was spent"):
        noise_scales(Budget(1.0, 1e-6, Adjacency.ADD_REMOVE), weights, [1] * len(weights))


@pytest.mark.parametrize("share", [-0.1, 1.0, math.nan, math.inf])
def test_an_unusable_label_share_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match="Nothing was spent"):
        noise_scales(Budget(1.0, 1e-6, Adjacency.ADD_REMOVE), [1.0], [1], share)


@pytest.mark.parametrize("epsilon", [1e-300, 1e-12, 1e-6])
def test_a_budget_that_buys_nothing_useful_is_refused(epsilon: float) -> None:
    with pytest.raises(ConfigError, match="Nothing was spent"):
        noise_scales(Budget(epsilon, 1e-9, Adjacency.ADD_REMOVE), [1.0] * 10, [1] * 10)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sigma": Fraction(0)},
        {"sigma": 5.0},
        {"parents": 0},
        {"variations": 0},
        {"variations": -1, "keep": True},
        {"lookahead": -1},
        {"nearest": 0},
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
