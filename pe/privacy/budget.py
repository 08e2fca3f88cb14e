"""What a budget is: (epsilon, delta) under a stated adjacency, for a stated unit of privacy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any, TypeVar

from pe.errors import ConfigError
from pe.privacy.accountant import GDP, Accountant, Cost, accountant_from

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
    USER = "user"


SMALLEST_DELTA = 2.0**-90
"""Below this the tails that the noise certificate leaves out (2**-100 in all) would no longer be negligible."""


@dataclass(frozen=True)
class Budget:
    """An (epsilon, delta) guarantee, and the accountant that adds up what is charged to it.

    Raises ConfigError unless 0 < epsilon < inf and 2**-90 <= delta < 1.
    """

    epsilon: float
    delta: float
    adjacency: Adjacency
    unit: Unit = Unit.RECORD
    accountant: Accountant = field(default_factory=GDP)

    def __post_init__(self) -> None:
        object.__setattr__(self, "adjacency", _member(Adjacency, self.adjacency, "adjacency"))
        object.__setattr__(self, "unit", _member(Unit, self.unit, "unit"))
        object.__setattr__(self, "accountant", accountant_from(self.accountant))
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
    def limit(self) -> Cost:
        """The largest sum of costs that is (epsilon, delta)-DP, rounded down."""
        return self.accountant.limit(self.epsilon, self.delta)

    @property
    def terms(self) -> tuple[Adjacency, Unit, Accountant]:
        """What two budgets must share for charges under both to add up."""
        return self.adjacency, self.unit, self.accountant

    def epsilon_of(self, total: Cost) -> float:
        """Epsilon that a sum of costs amounts to at this delta, rounded up."""
        return self.accountant.epsilon(total, self.delta)

    def group(self, size: int) -> tuple[float, float]:
        """The (epsilon, delta) that the guarantee means for ``size`` units together."""
        if size < 1:
            raise ConfigError(f"expected a group of at least 1, got {size}. Nothing was spent.")
        return self.accountant.group(self.epsilon, self.delta, size)

    def to_dict(self) -> dict[str, Any]:
        return {
            "epsilon": self.epsilon,
            "delta": self.delta,
            "adjacency": str(self.adjacency),
            "unit": str(self.unit),
            **self.accountant.to_dict(),
        }

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Budget:
        accountant = accountant_from(body)
        return cls(body["epsilon"], body["delta"], body["adjacency"], body["unit"], accountant)

    def __str__(self) -> str:
        how = "" if self.accountant == GDP() else f", accountant {self.accountant}"
        return f"epsilon {self.epsilon:g} at delta {self.delta:g} ({self.adjacency}, per {self.unit}{how})"


def _member(kind: type[Member], value: object, name: str) -> Member:
    try:
        return kind(str(value))
    except ValueError:
        known = " or ".join(f"'{member}'" for member in kind)
        raise ConfigError(f"expected {name} to be {known}, got {value!r}. Nothing was spent.") from None
