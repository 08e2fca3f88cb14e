"""Named methods: what each sets for every round, from public facts alone. A setting of the user's replaces it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pe.errors import ConfigError
from pe.schema import Schema

Settings = tuple[int, list[dict[str, Any]]]
"""Size of the first population, and the Round settings (all but sigma and api) of each iteration."""


def settings(method: str, rows: int, labels: int, iterations: int | None) -> Settings:
    """The settings of a method that releases ``rows`` records over ``labels`` labels."""
    if method not in _METHODS:
        known = ", ".join(sorted(_METHODS))
        raise ConfigError(f"expected method to be one of {known}, got '{method}'. Nothing was spent.")
    default, make = _METHODS[method]
    count = default if iterations is None else iterations
    if count < 1:
        raise ConfigError(f"expected iterations >= 1, got {count}. Nothing was spent.")
    return make(rows, labels, count)


def default_method(schema: Schema) -> str:
    """``image-pe`` for a schema with an image, else ``tab-pe``."""
    return "tab-pe" if schema.image is None else "image-pe"


def tab_pe(rows: int, labels: int, iterations: int) -> Settings:
    """Tab-PE: a third of the rounds (at most five) sample, then rank with three variations and the parents kept."""
    rounds = []
    for number in range(iterations):
        last, explore = number == iterations - 1, number < min(5, iterations // 3)
        rounds.append(
            {
                "parents": rows,
                "selection": "sample" if explore else "rank",
                "variations": 0 if last else 1 if explore else 3,
                "keep": last or not explore,
                "degree": 0.5 - 0.49 * (number / iterations) ** 0.2,
            }
        )
    return rows, rounds


def image_pe(rows: int, labels: int, iterations: int) -> Settings:
    """Image PE and Sim-PE: sampling, one variation each, lookahead 4, degrees falling to zero."""
    rounds = [
        {
            "parents": rows,
            "selection": "sample",
            "variations": 1,
            "degree": 1 - number / iterations,
            "lookahead": 4,
        }
        for number in range(1, iterations + 1)
    ]
    return rows, rounds


def aug_pe(rows: int, labels: int, iterations: int) -> Settings:
    """Aug-PE (Xie et al. 2024): rank, the best ``rows`` of four times as many; the selected set is released."""
    rounds = [
        {
            "parents": rows,
            "selection": "rank",
            "variations": 0 if number == iterations else 3,
            "keep": True,
            "degree": 0.5,
        }
        for number in range(1, iterations + 1)
    ]
    return rows, rounds


_METHODS: dict[str, tuple[int, Callable[[int, int, int], Settings]]] = {
    "tab-pe": (15, tab_pe),
    "image-pe": (5, image_pe),
    "aug-pe": (10, aug_pe),
}
