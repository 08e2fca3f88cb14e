"""What a budget is: (epsilon, delta) under a stated adjacency, for a stated unit of privacy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from functools import cached_property
from typing import TypeVar

from pe.errors import ConfigError
from pe.privacy import gdp

Member = TypeVar("Member", bound=StrEnum)


class Adjacency(StrEnum):
    """Which data sets count as neighbours (Dwork and Roth 2014, section 2.3).

    ``ADD_REMOVE``: one unit of privacy is added or removed; the number of records is itself private.
    ``REPLACE_ONE``: one unit is exchanged for another; the number of records is public.
    """

    ADD_REMOVE = "add-remove"
    REPLACE_ONE = "replace-one"


class Unit(StrEnum):
    """Whose presence is protected."""

    RECORD = "record"


SMALLEST_DELTA = 2.0**-90
"""Below this the tails that the noise certificate leaves out (2**-100 in all) would no longer be negligible."""


@dataclass(frozen=True)
class Budget:
    """An (epsilon, delta) guarantee. Raises ConfigError unless 0 < epsilon < inf and 2**-90 <= delta < 1."""

    epsilon: float
    delta: float
    adjacency: Adjacency
    unit: Unit = Unit.RECORD

    def __post_init__(self) -> None:
        object.__setattr__(self, "adjacency", _member(Adjacency, self.adjacency, "adjacency"))
        object.__setattr__(self, "unit", _member(Unit, self.unit, "unit"))
        for name in ("epsilon", "delta"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ConfigError(f"expected {name} to be a number, got {value!r}. Nothing was spent.")
            try:
                object.__setattr__(self, name, float(value))
            except OverflowError:
                object.__setattr__(self, name, math.inf)
        if not (0 < self.epsilon < math.inf):
            raise ConfigError(f"expected epsilon > 0 and finite, got {self.epsilon}. Nothing was spent.")
        if not (SMALLEST_DELTA <= self.delta < 1):
            raise ConfigError(
                f"expected delta in [2**-90, 1), typically well below 1 / (number of records), got {self.delta}. "
                "Nothing was spent."
            )

    @cached_property
    def mu_squared(self) -> Fraction:
        """The largest squared GDP parameter that is (epsilon, delta)-DP, rounded down."""
        return gdp.mu_squared_within(self.epsilon, self.delta)

    def __str__(self) -> str:
        return f"epsilon {self.epsilon:g} at delta {self.delta:g} ({self.adjacency}, per {self.unit})"


def _member(kind: type[Member], value: object, name: str) -> Member:
    try:
        return kind(str(value))
    except ValueError:
        known = " or ".join(f"'{member}'" for member in kind)
        raise ConfigError(f"expected {name} to be {known}, got {value!r}. Nothing was spent.") from None
