"""How much one unit of privacy may contribute to a vector of sums: the source of every sensitivity."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from pe.errors import ConfigError
from pe.privacy.budget import Adjacency

FINEST = 64
"""Grid steps per vote where votes are not whole numbers, unless the noise calls for a coarser grid."""


def sensitivity_squared(bound_squared: int, adjacency: Adjacency, *, signed: bool = False) -> Fraction:
    """Squared L2 sensitivity of a sum of vectors, one per unit, each of squared norm at most ``bound_squared``.

    Adding or removing a unit moves the sum by its vector. Replacing one moves it by the difference of two vectors:
    sqrt(2) times the bound where no entry is negative, twice the bound where entries may be (``signed``).
    """
    if adjacency not in tuple(Adjacency):
        raise ConfigError(f"expected an Adjacency, got {adjacency!r}. Nothing was spent.")
    if bound_squared < 1:
        raise ConfigError(f"expected a bound > 0, got {bound_squared}. Nothing was spent.")
    if adjacency == Adjacency.ADD_REMOVE:
        return Fraction(bound_squared)
    return Fraction((4 if signed else 2) * bound_squared)


@dataclass(frozen=True)
class Contribution:
    """The votes a record casts, and the bound on all votes of one unit together, over the candidates of all labels.

    weights  votes for the nearest candidate, the second nearest, ...: >= 0, the first > 0.
    norm     for unit "user": each user's joint vector of votes is scaled down to this L2 norm. None for unit "record",
             where the weights are the bound.
    grid     integer steps per vote. Votes are cast, bounded and counted in whole steps, rounded down.

    A user is bounded over all labels together: bounded label by label, a user in L of them would contribute sqrt(L)
    times the bound.
    """

    weights: tuple[float, ...] = (1.0,)
    norm: float | None = None
    grid: int = 1

    def __post_init__(self) -> None:
        if not self.weights or not all(0 <= weight < math.inf for weight in self.weights) or self.weights[0] <= 0:
            raise ConfigError(
                f"expected vote weights >= 0, the first of them > 0, got {list(self.weights)}. Nothing was spent."
            )
        if self.norm is not None and not 0 < self.norm < math.inf:
            raise ConfigError(f"expected a user norm > 0 and finite, got {self.norm}. Nothing was spent.")
        if self.grid < 1 or self.steps[0] < 1 or self.bound_squared < 1 or self.bound_squared >= 2**53:
            raise ConfigError(
                f"votes {list(self.weights)} with norm {self.norm} do not fit a grid of {self.grid} steps per vote. "
                "Nothing was spent."
            )

    @classmethod
    def of(
        cls, weights: tuple[float, ...] = (1.0,), norm: float | None = None, *, grid: int | None = None
    ) -> Contribution:
        """The contribution on the grid it needs: whole votes when they are, else ``FINEST`` steps or ``grid``."""
        whole = norm is None and all(float(weight).is_integer() for weight in weights)
        return cls(weights, norm, 1 if whole else grid or FINEST)

    @property
    def nearest(self) -> int:
        """Votes per record (K)."""
        return len(self.weights)

    @property
    def steps(self) -> tuple[int, ...]:
        """The weights in grid steps, rounded down."""
        return tuple(math.floor(Fraction(weight) * self.grid) for weight in self.weights)

    @property
    def bound_squared(self) -> int:
        """Largest squared norm of one unit's votes, in grid steps."""
        if self.norm is None:
            return sum(step * step for step in self.steps)
        return math.floor((Fraction(self.norm) * self.grid) ** 2)

    def sensitivity_squared(self, adjacency: Adjacency) -> Fraction:
        """Squared L2 sensitivity of the vote histogram, in grid steps."""
        return sensitivity_squared(self.bound_squared, adjacency)
