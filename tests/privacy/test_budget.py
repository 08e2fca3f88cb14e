"""A budget, a sensitivity and a mechanism refuse at the type what they cannot account for."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from pe.errors import ConfigError
from pe.privacy import Adjacency, Budget, DiscreteGaussian, votes_sensitivity_squared
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
    ("adjacency", "nearest", "expected"),
    [("add-remove", 1, 1), ("add-remove", 4, 4), ("replace-one", 1, 2), ("replace-one", 4, 8)],
)
def test_vote_sensitivities_are_those_of_the_table(adjacency: str, nearest: int, expected: int) -> None:
    """PRIVACY.md: sqrt K under add/remove, sqrt 2K under replace-one; also when the name comes as plain text."""
    assert votes_sensitivity_squared(Adjacency(adjacency), nearest) == expected
    assert votes_sensitivity_squared(adjacency, nearest) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("nearest", [0, -1])
def test_a_vote_for_nobody_is_refused(nearest: int) -> None:
    with pytest.raises(ConfigError):
        votes_sensitivity_squared(Adjacency.ADD_REMOVE, nearest)


def test_an_unknown_adjacency_has_no_sensitivity() -> None:
    with pytest.raises(ConfigError):
        votes_sensitivity_squared("unbounded")  # type: ignore[arg-type]


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
