"""A budget, a sensitivity and a mechanism refuse at the type what they cannot account for."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest

from pe.errors import ConfigError
from pe.privacy import Adjacency, Budget, Contribution, DiscreteGaussian, sensitivity_squared
from pe.privacy.budget import SMALLEST_DELTA

UNUSABLE = [math.nan, math.inf, -math.inf, 0, 0.0, -1, -0.0, "1", None, True, 1j, Fraction(1, 2), 10**400]


@pytest.mark.parametrize("epsilon", UNUSABLE, ids=lambda value: f"{value!r:.12}")
def test_a_budget_refuses_an_unusable_epsilon(epsilon: float) -> None:
    with pytest.raises(ConfigError, match=r"epsilon.*Nothing was spent"):
        Budget(epsilon, 1e-6, Adjacency.ADD_REMOVE)


@pytest.mark.parametrize("delta", [*UNUSABLE, 1, 1.5, SMALLEST_DELTA / 2, 1e-30], ids=lambda value: f"{value!r:.12}")
def test_a_budget_refuses_an_unusable_delta(delta: float) -> None:
    with pytest.raises(ConfigError, match=r"delta.*Nothing was spent"):
        Budget(1.0, delta, Adjacency.ADD_REMOVE)


def test_a_budget_accepts_the_smallest_delta_and_whole_numbers() -> None:
    assert Budget(4, SMALLEST_DELTA, Adjacency.ADD_REMOVE).epsilon == 4.0


@pytest.mark.parametrize("adjacency", [None, "", "unbounded", "ADD_REMOVE"])
def test_adjacency_is_mandatory_and_known(adjacency: Adjacency) -> None:
    with pytest.raises(ConfigError, match="'add-remove' or 'replace-one'"):
        Budget(1.0, 1e-6, adjacency)


def test_a_budget_prints_its_adjacency_and_unit() -> None:
    assert str(Budget(1.0, 1e-6, Adjacency.REPLACE_ONE)) == "epsilon 1 at delta 1e-06 (replace-one, per record)"


@pytest.mark.parametrize(
    ("weights", "norm", "grid", "bound_squared"),
    [
        ((1.0,), None, 1, 1),
        ((1.0,) * 4, None, 1, 4),
        ((3.0, 2.0, 1.0), None, 1, 14),
        ((1.0, 0.5, 0.25), None, 64, 64**2 + 32**2 + 16**2),
        ((1.0, 1 / 3), None, 64, 64**2 + 21**2),
        ((1.0,), 1.0, 64, 64**2),
        ((1.0, 1.0), 5.0, 64, 320**2),
        ((1.0,), 0.7, 64, 2007),  # 44.8**2 = 2007.04, rounded down
    ],
)
@pytest.mark.parametrize(("adjacency", "factor"), [("add-remove", 1), ("replace-one", 2)])
def test_sensitivities_are_those_of_the_table(
    weights: tuple[float, ...], norm: float | None, grid: int, bound_squared: int, adjacency: str, factor: int
) -> None:
    """norm(weights) of a record, the norm of a user; sqrt 2 times that under replace-one, all in grid steps."""
    contribution = Contribution.of(weights, norm)
    assert (contribution.grid, contribution.bound_squared) == (grid, bound_squared)
    assert contribution.sensitivity_squared(Adjacency(adjacency)) == factor * bound_squared
    assert contribution.sensitivity_squared(adjacency) == factor * bound_squared  # type: ignore[arg-type]


def test_sums_of_vectors_with_negative_entries_move_twice_the_bound_when_a_unit_is_replaced() -> None:
    assert sensitivity_squared(9, Adjacency.ADD_REMOVE, signed=True) == 9
    assert sensitivity_squared(9, Adjacency.REPLACE_ONE, signed=True) == 36


@pytest.mark.parametrize("weights", [(), (0.0,), (-1.0,), (1.0, -0.1), (math.nan,), (math.inf,), (1.0, math.inf)])
def test_unusable_vote_weights_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match=r"vote weights.*Nothing was spent"):
        Contribution(weights)


@pytest.mark.parametrize("norm", [0.0, -1.0, math.nan, math.inf])
def test_an_unusable_user_norm_is_refused(norm: float) -> None:
    with pytest.raises(ConfigError, match=r"user norm.*Nothing was spent"):
        Contribution.of(norm=norm)


@pytest.mark.parametrize("given", [{"weights": (0.001,)}, {"norm": 0.001}, {"norm": 1e9}, {"grid": 0}])
def test_votes_that_do_not_fit_the_grid_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="Nothing was spent"):
        Contribution(**({"grid": 64} | given))


def test_an_unknown_adjacency_has_no_sensitivity() -> None:
    with pytest.raises(ConfigError):
        Contribution().sensitivity_squared("unbounded")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "sigma",
    [math.nan, math.inf, 0, -1, 1.5, 5, Fraction(0), Fraction(-5), Fraction(1, 9), Fraction(2**14 + 1)],
    ids=str,
)
def test_a_mechanism_refuses_an_unusable_sigma(sigma: Fraction) -> None:
    with pytest.raises(ConfigError, match=r"sigma.*Nothing was spent"):
        DiscreteGaussian(sigma, Fraction(1))


@pytest.mark.parametrize("sensitivity", [math.nan, math.inf, 0, -1, 1.5, Fraction(0), Fraction(-1)], ids=str)
def test_a_mechanism_refuses_an_unusable_sensitivity(sensitivity: Fraction) -> None:
    with pytest.raises(ConfigError, match=r"sensitivity.*Nothing was spent"):
        DiscreteGaussian(Fraction(5), sensitivity)
