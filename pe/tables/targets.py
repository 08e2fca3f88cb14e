"""Cross-tables around declared targets: columns, numbers too, that models are to predict from the others.

A label is part of every table; without one, and for further targets, tables of any two or three columns say little
about what hangs together with a target. Here most of the release goes to tables of each target with one, two and three
others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from pe.tables.levels import Levels, coarse
from pe.tables.measure import Table, Tables
from pe.tables.plan import Query, Settings, choose, contrasts, drawable, subsets_of, weighed

SHARE = 0.8
"""Share of the last release's mu**2 for tables around the targets, where there is no label; half of it with one."""

ORDERS = {1: 0.5, 2: 0.35, 3: 0.15}
"""How that is split over a target's tables with one, two and three columns."""

GROUPS, FEW_GROUPS = 6, 3
"""Groups of a numeric target's levels; the second for few records. Chosen, like the shares, on simulated regressions
(Friedman 1991)."""

FEW = 500
"""Records times the GDP parameter, up to which they are few."""


def around(
    targets: Sequence[int],
    levels: Sequence[Levels],
    labels: int,
    records: float,
    mu: float,
    most: Mapping[int, int],
    rng: np.random.Generator,
) -> list[Query]:
    """Tables of each of the ``targets``, positions in the list of levels, with others; shares of mu**2 add up to 1."""
    asked: list[Query] = []
    most_groups = FEW_GROUPS if records * mu < FEW else GROUPS
    for target in targets:
        groups = min(levels[target].size, most_groups if levels[target].groups is None else 32)
        others = [i for i, level in enumerate(levels) if level.size > 1 and i != target]
        orders = {order: part for order, part in ORDERS.items() if order <= len(others)}
        for order, weight in orders.items():
            subsets = subsets_of(others, order, max(1, most[order] // len(targets)), rng)
            part = weight / sum(orders.values()) / len(targets) / len(subsets)
            cells = max(records, 0) / labels / groups * math.sqrt(part) * mu / 0.4
            bins = min(max(math.floor(cells ** (1 / order) + 0.3), 2 if order > 1 else 3), 32)
            for subset in subsets:
                maps = (coarse(levels[target], groups), *(coarse(levels[i], bins) for i in subset))
                asked.append((Table((target, *subset), maps), part))
    return asked


def choose_tables(
    targets: Sequence[int],
    levels: Sequence[Levels],
    labels: int,
    records: float,
    mu: float,
    plan: Settings,
    rng: np.random.Generator,
    apart: Sequence[int] = (),
) -> Tables:
    """The tables of a plan, for a release with GDP parameter ``mu``: most of it for the ``targets``, if any.

    Of pairs of the columns ``apart`` alone there are no contrasts. Contrasts of many columns are left for counts where
    the budget is so small that their noise could not be drawn.
    """
    targets = [target for target in targets if levels[target].size > 1]
    share = (SHARE / (1 if labels == 1 else 2)) if targets else 0.0
    own = around(targets, levels, labels, records, mu * math.sqrt(share), plan.most, rng)

    def with_own(base: list[Query]) -> Tables:
        total = sum(part for _, part in base)
        asked = [(table, part / total * (1 - share)) for table, part in base]
        asked += [(table, part * share) for table, part in own]
        return weighed(asked, labels, 2 if targets else 4, mu)

    if plan.contrasts:
        made = with_own(contrasts(levels, labels, plan.most, rng, apart))
        if drawable(made, mu):
            return made
    return with_own(choose(levels, labels, records, mu * math.sqrt(1 - share), plan.most, rng))
