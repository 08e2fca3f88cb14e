"""Which settings may change when a run is resumed: those that only decide what is made of released sums.

What the sums are, of which data and with how much noise, is the mechanism that was charged for: it may not change. The
rest is post-processing, on which no claim depends: which API proposes samples, its options, prompts and caps, how
parents are selected and varied, how many records are released and in which formats, and where things lie.
"""

from __future__ import annotations

from typing import Any

RESUMABLE_SETTINGS = (
    "api",
    "execution.*",
    "output.*",
    "private.path",
    "private.format",
    "private.delimiter",
    "private.encoding",
    "private.schema",
    "evolution.population",
    "evolution.parents",
    "evolution.selection",
    "evolution.threshold",
    "evolution.variations",
    "evolution.keep",
    "evolution.degree",
    "evolution.lookahead",
    "evolution.distinct",
)
"""Of a configuration. Schema and data are compared by content; whatever is not named here may not change."""

TECHNICAL = ("execution.*", "output.run", "private.*")
"""Those of them that leave no trace in what is released."""


def mechanism_settings(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of a resolved configuration that may not change, by their dotted names."""
    return {name: value for name, value in flatten(config).items() if not _matches(name, RESUMABLE_SETTINGS)}


def mechanism_plan(plan: dict[str, Any]) -> dict[str, Any]:
    """The settings of a plan (``Plan.settings``) that decide its noise and what a record contributes."""
    kept = {name: value for name, value in plan.items() if name not in ("population", "rounds")}
    rounds = {
        number: {name: round_[name] for name in ("sigma", "contribution")} for number, round_ in plan["rounds"].items()
    }
    return kept | {"rounds": rounds}


def first_difference(before: dict[str, Any], after: dict[str, Any]) -> str:
    """The first setting, by name, that differs; empty if none does."""
    old, new = flatten(before), flatten(after)
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            return f"{name} was {old.get(name, 'not set')}, is {new.get(name, 'not set')}"
    return ""


def changed_settings(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names of the settings that differ and may leave a trace in what is released, without their values."""
    old, new = flatten(before), flatten(after)
    names = (name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name))
    return [name for name in names if not _matches(name, TECHNICAL)]


def flatten(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, by dotted names."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return name in patterns or f"{name.partition('.')[0]}.*" in patterns
