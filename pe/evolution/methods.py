"""Named methods: what each sets for every round, from public facts alone. A setting of the user's replaces it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pe.data.schema import Schema
from pe.errors import ConfigError
from pe.evolution.start import Start
from pe.tables.method import CrossTables

Settings = tuple[int, list[dict[str, Any]]]
"""Size of the first population, and the Round settings (all but sigma and api) of each iteration.

A population of 0: as many records as the start makes. Two more keys of a round: ``budget_weight``, its relative share
of mu**2 (1), and ``noise_threshold``, a threshold in noise standard deviations (0).
"""


def settings(method: str, rows: int, labels: int, iterations: int | None) -> Settings:
    """The settings of a method that releases ``rows`` records over ``labels`` labels."""
    if method not in _METHODS:
        known = ", ".join(sorted(_METHODS))
        raise ConfigError(f"expected method to be one of {known}, got '{method}'. Nothing was spent.")
    default, make = _METHODS[method]
    count = default if iterations is None else iterations
    if count < min(default, 1):
        raise ConfigError(f"expected iterations >= 1, got {count}. Nothing was spent.")
    return make(rows, labels, count)


def default_method(schema: Schema, *, votes: bool) -> str:
    """``image-pe`` for a schema with an image, ``text-pe`` with a text, else ``cross-tables``, or ``tab-pe`` where
    ``votes`` are asked for.
    """
    if schema.image is not None:
        return "image-pe"
    if schema.text is not None:
        return "text-pe"
    return "tab-pe" if votes else "cross-tables"


def start(method: str, targets: tuple[str, ...] = ()) -> tuple[Start | None, float]:
    """What makes the first population in place of the API, and its share of the budget."""
    if method not in _STARTS:
        return None, 0.0
    return CrossTables(targets), _STARTS[method]


def cross_tables(rows: int, labels: int, iterations: int) -> Settings:
    """Everything from noisy cross-tables (``pe.tables``), no vote."""
    if iterations:
        raise ConfigError("method 'cross-tables' has no iterations: leave them out. Nothing was spent.")
    return 0, []


def herded_tables(rows: int, labels: int, iterations: int) -> Settings:
    """Four times ``rows`` records from cross-tables, of which kernel herding keeps those nearest a noisy kernel mean.

    The budget buys both, .7 and .3 of it. Further rounds, if any, herd among the chosen and three near variations.
    """
    near = {"parents": rows, "variations": 3, "keep": True, "degree": 0.05}
    return 4 * rows, [*(dict(near) for _ in range(iterations - 1)), near | {"variations": 0}]


def kernel_settings(method: str) -> dict[str, Any] | None:
    """Settings of the kernel mean, where the method measures one; ``share`` is that of the rounds' budget."""
    return _KERNELS.get(method)


def distinct(method: str) -> float:
    """Cosine above which two candidates are near-duplicates when the released ones are selected; 1: never."""
    return _DISTINCT.get(method, 1.0)


def kernel_votes(rows: int, labels: int, iterations: int) -> Settings:
    """DP-KDE: the budget buys one noisy kernel mean (``pe.evolution.kernel``), no round costs more than its candidates.

    Every round herds ``rows`` out of those of the last round and three variations of each; the last one varies none.
    Degrees fall geometrically from .5 to .03.
    """
    last = max(iterations - 1, 1)
    rounds = [
        {
            "parents": rows,
            "variations": 0 if number == iterations - 1 else 3,
            "keep": True,
            "degree": 0.5 * (0.03 / 0.5) ** (number / last),
        }
        for number in range(iterations)
    ]
    return 4 * rows, rounds


def tab_pe(rows: int, labels: int, iterations: int) -> Settings:
    """Evolution of tables without a model (after Tab-PE), its settings chosen on validation splits.

    Three candidates per released record; every round but the last samples as many parents, above a threshold of .7
    noise standard deviations, and varies each once; the last ranks and keeps ``rows``. Two votes per record; the last
    round gets three times the first one's budget; degrees fall geometrically from .35 to .04.
    """
    last = max(iterations - 1, 1)
    rounds = [
        {
            "parents": rows if number == iterations - 1 else 3 * rows,
            "selection": "rank" if number == iterations - 1 else "sample",
            "noise_threshold": 0.7,
            "variations": 1,
            "degree": 0.35 * (0.04 / 0.35) ** (number / last),
            "nearest": 2,
            "budget_weight": 1 + 2 * number / last,
        }
        for number in range(iterations)
    ]
    return 3 * rows, rounds


def image_pe(rows: int, labels: int, iterations: int) -> Settings:
    """Image PE and Sim-PE (Lin et al. 2024, 2025), its settings chosen on validation splits of digits.

    Two candidates for three released records, so that votes stand out of the noise; sampling above a threshold of 1.4
    noise standard deviations, one variation each, lookahead 4; two votes per record; the last round gets three times
    the first one's budget; degrees fall geometrically from .5 to .05.
    """
    last = max(iterations - 1, 1)
    few = max(labels, 2 * rows // 3)
    rounds = [
        {
            "parents": rows if number == iterations - 1 else few,
            "selection": "sample",
            "noise_threshold": 1.4,
            "variations": 1,
            "degree": 0.5 * 0.1 ** (number / last),
            "lookahead": 4,
            "nearest": 2,
            "budget_weight": 1 + 2 * number / last,
        }
        for number in range(iterations)
    ]
    return few, rounds


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


def text_pe(rows: int, labels: int, iterations: int) -> Settings:
    """Kernel votes for texts, whose candidates are costly: few rounds, each of which judges all of them.

    The first round herds ``rows`` out of 19 times as many fresh texts, each further one out of its own choice and three
    variations of each; the last one varies none. Of a text and its variations one goes on: more of a kind would be near
    duplicates. With four rounds as many candidates as Aug-PE makes (ten rounds, K = 3). Herding repels by .7 and labels
    are contrasted by 1 (``Kernel``): fresh texts are far from most private ones, and hardly differ by label.
    """
    rounds = [
        {"parents": rows, "variations": 0 if number == iterations - 1 else 3, "keep": True, "degree": 0.6}
        for number in range(iterations)
    ]
    return 19 * rows, rounds


_METHODS: dict[str, tuple[int, Callable[[int, int, int], Settings]]] = {
    "cross-tables": (0, cross_tables),
    "herded-tables": (1, herded_tables),
    "tab-pe": (20, tab_pe),
    "image-pe": (5, image_pe),
    "aug-pe": (10, aug_pe),
    "text-pe": (4, text_pe),
    "kernel-votes": (40, kernel_votes),
}

_STARTS = {"cross-tables": 1.0, "herded-tables": 0.7}

_KERNELS: dict[str, dict[str, Any]] = {
    "kernel-votes": {"share": 1.0},
    "herded-tables": {"share": 1.0},
    "text-pe": {"share": 1.0, "bandwidth": 1.2, "family": 1, "repulsion": 0.7, "contrast": 1.0},
}

_DISTINCT = {"text-pe": 0.95}
"""Two texts of an n-gram model beyond that differ in a word or two."""
