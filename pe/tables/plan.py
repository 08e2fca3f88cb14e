"""Which queries to ask, from public facts: columns, labels, an estimate of n, and the budget.

Chosen on validation splits and simulated tables; see ``choose``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pe.privacy.discrete_gaussian import LARGEST_SIGMA
from pe.tables.copula import ranked
from pe.tables.levels import Levels, coarse
from pe.tables.measure import Table, Tables
from pe.tables.smooth import COARSEST

SHARES = {1: 0.3, 2: 0.4, 3: 0.3}
"""Share of the last release's mu**2 spent on label x 1, 2 and 3 columns."""

LABEL_SHARE = 0.03
"""Share of mu**2 for the label counts, which say how many records there are."""

CONTRASTS = ((1, 2, 4, 0.4), (1, 4, 8, 0.4), (2, 2, 3, 0.2))
"""Of few records: order, groups of a number and of categories, and share of the mu**2 that is left, for tables of
contrasts. Halves of numbers weigh most: sums of many finer parts carry the noise of all of them. Instead of pairs of
ranked columns, their correlations are released, for their part of the share (``pe.tables.copula``)."""

MOST_CORRELATED, FEWEST_STEPS = 200, 2
"""Columns whose correlations are released, at most, and steps of their scores, on root mean square."""

MOST_LABELS = 6
"""Labels up to which contrasts are asked for: with more, centring the label's axis saves next to nothing (tables of
eight and ten classes did worse)."""

FEW, FEW_FOR_CONTRASTS = 38.0, 63.0
"""Records are few up to so many standard deviations of the noise in a column, were all the budget spent on single
columns. The second where contrasts are asked for: above it counts of finer parts say more."""

FEW_PER_COLUMN = 40.0
"""The same over the square root of the number of columns, up to which contrasts are asked for, too, where most pairs
are of ranked columns and of these more than can be had of tables of three: correlations tell of all."""

SMOOTH = 70.0
"""The same, of the release of single columns, up to which that is one of cosines: above it intervals stand out of the
noise, and with them spikes, which no cosine tells (artificial-characters' training records, at 180, lose .01)."""

TERMS = 2.6
"""Cosines of a number are this times that number**.4: about the best for simulated beta densities."""

MOST = {1: 1 << 30, 2: 91, 3: 60}
MOST_SMALL = {1: 1 << 30, 2: 30, 3: 30}
"""Tables of each order, at most; above it a balanced random choice. The second for few records."""


@dataclass(frozen=True)
class Settings:
    """Share of mu**2 for the 1-way histograms (the cross-tables get what these and the labels leave), and sizes.

    bins        intervals of a number's grid.
    terms       cosines of a number, where they are released instead of its intervals (``pe.tables.smooth``), or 0.
    levels      levels of a number.
    most        cross-tables of each order.
    contrasts   whether tables only say what columns' own counts leave open, few groups each (``contrasts``).
    particles, rounds, sharpness, slopes, weighted  of ``pe.tables.fit``.
    """

    histogram_share: float
    bins: int
    terms: int
    levels: int
    most: dict[int, int]
    contrasts: bool
    particles: int
    rounds: int
    sharpness: float
    slopes: bool
    weighted: bool

    @property
    def table_share(self) -> float:
        return 1 - LABEL_SHARE - self.histogram_share


def settings(
    records: float, columns: int, labels: int, mu: float, *, with_ranks: int = 0, targets: bool = False
) -> Settings:
    """For about ``records`` records (an estimate, or the sum of released label counts) of ``columns`` features, of
    which ``with_ranks`` are ``ranked``, and ``labels`` labels.

    ``mu`` is the GDP parameter of the whole budget, for contributions of L2 norm 1 (add/remove). ``targets``: whether
    most tables are about declared targets.
    """
    detail = max(records, 0) * mu / math.sqrt(columns)
    scarce = detail < FEW_FOR_CONTRASTS
    if targets:
        contrasts = scarce and labels > 1
    else:
        mostly = 2 * math.comb(with_ranks, 2) > math.comb(columns, 2)
        wide = mostly and math.comb(with_ranks, 3) > MOST[3] and detail < FEW_PER_COLUMN * math.sqrt(columns)
        contrasts = wide or (scarce and (labels > 1 or mostly))
    contrasts = contrasts and labels <= MOST_LABELS
    few = contrasts or detail < FEW
    share = (0.45 if labels > 1 else 0.6) if contrasts else 0.3 if few else 0.1
    resolved = detail * math.sqrt(share)
    sharpness = 1 + 0.5 * min(1.0, 200 * labels / max(records * mu, 1.0))  # the ridge shrinks weak signals most
    terms, bins = 0, min(max(round(resolved / (1.5 if few else 3.0)), 4), 128)
    if (contrasts or resolved < SMOOTH) and LARGEST_SIGMA * mu * math.sqrt(share) > 2 * COARSEST * math.sqrt(columns):
        terms, bins = max(round(TERMS * resolved**0.4), 3), 32
    return Settings(
        histogram_share=share,
        bins=bins,
        terms=terms,
        levels=32,
        most=MOST_SMALL if few else MOST,
        contrasts=contrasts,
        particles=2000 if few else 6000,
        rounds=50,
        sharpness=(1.25 if scarce else 1.1) if contrasts else sharpness,
        slopes=not few,
        weighted=(contrasts and labels > 1) or not few,
    )


Query = tuple[Table, float]
"""A table, its weight still to be found (``weighed``), and its relative share of mu**2."""


def choose(
    levels: Sequence[Levels], labels: int, records: float, mu: float, most: dict[int, int], rng: np.random.Generator
) -> list[Query]:
    """Cross-tables of the label with 1, 2 and 3 columns, for a release with GDP parameter ``mu``.

    Each axis has as many groups as leave about 0.4 noise standard deviations per record-count of a cell; columns of
    many levels get a second, coarser 1-way table. The label is part of every table.
    """
    columns = [i for i, level in enumerate(levels) if level.size > 1]
    orders = {order: share for order, share in SHARES.items() if order <= len(columns)}
    asked: list[tuple[tuple[int, ...], int, float]] = []
    for order, share in orders.items():
        subsets = subsets_of(columns, order, most[order], rng)
        part = share / sum(orders.values()) / len(subsets)
        cells = max(records, 0) / labels * math.sqrt(part) * mu / 0.4
        bins = min(max(math.floor(cells ** (1 / order) + 0.3), 2 if order > 1 else 3), 32)
        if order == 1 and bins >= 12:
            asked += [(subset, bins, 0.6 * part) for subset in subsets]
            asked += [(subset, round(1.5 * math.sqrt(bins)), 0.4 * part) for subset in subsets]
        else:
            asked += [(subset, bins, part) for subset in subsets]
    return [(Table(subset, tuple(coarse(levels[i], bins) for i in subset)), part) for subset, bins, part in asked]


def correlated(levels: Sequence[Levels], labels: int, mu: float, rng: np.random.Generator) -> tuple[list[int], float]:
    """Of few records: the columns whose correlations are released, and for which share of mu**2.

    ``mu`` is the GDP parameter of all that is left. None where there are no two ranked columns, or their scores would
    have to be rounded to less than ``FEWEST_STEPS`` for the noise to be drawn.
    """
    columns = [i for i, level in enumerate(levels) if level.size > 1]
    some = [i for i in columns if ranked(levels[i].column)]
    if len(some) > MOST_CORRELATED:
        some = sorted(rng.permutation(some)[:MOST_CORRELATED].tolist())
    if len(some) < 2:
        return [], 0.0
    share = math.comb(len(some), 2) / math.comb(len(columns), 2) * (CONTRASTS[-1][-1] if labels > 1 else 1)
    if LARGEST_SIGMA * mu * math.sqrt(share) < FEWEST_STEPS**2 * len(some):
        return [], 0.0
    return some, share


def contrasts(
    levels: Sequence[Levels], labels: int, most: dict[int, int], rng: np.random.Generator, apart: Sequence[int] = ()
) -> list[Query]:
    """The same for few records: how labels differ in halves and quarters of a column, and which columns hang together.

    Their tables are ``centred``: how many records a label or a part of a column has is known by then. Between two
    labels that leaves .25 to .44 of the squared norm. Pairs of the columns ``apart`` are left out, and single columns
    where there is one label.
    """
    columns = [i for i, level in enumerate(levels) if level.size > 1]
    asked: list[Query] = []
    for order, parts, kinds, share in CONTRASTS if labels > 1 else CONTRASTS[-1:]:
        subsets = subsets_of(columns, order, most[order], rng, apart if order > 1 else ())
        share *= 1 - (math.comb(len(apart), order) / math.comb(len(columns), order) if order > 1 and subsets else 0)
        if subsets:
            centred = (0, 1) if order == 1 else (1, 2)
            for subset in subsets:
                groups = [parts + levels[i].absent if levels[i].groups is None else kinds for i in subset]
                maps = tuple(coarse(levels[i], size) for i, size in zip(subset, groups, strict=True))
                asked.append((Table(subset, maps, centred=centred), share / len(subsets)))
    return asked


def weighed(asked: Sequence[Query], labels: int, least: int, mu: float) -> Tables:
    """Tables whose squared norms are about as the shares, for a release with GDP parameter ``mu``.

    The smallest weight is ``least``, or less where the noise would otherwise be larger than can be drawn.
    """
    wanted = [math.sqrt(part / table.norm_squared(labels)) for table, part in asked]
    smallest = min(wanted, default=1.0)
    while True:
        weights = [max(1, round(least * each / smallest)) for each in wanted]
        found = Tables(
            tuple(replace(table, weight=weight) for (table, _), weight in zip(asked, weights, strict=True)), labels
        )
        if least == 1 or drawable(found, mu):
            return found
        least -= 1


def drawable(tables: Tables, mu: float) -> bool:
    """Whether the noise of a release with GDP parameter ``mu`` is small enough to be drawn."""
    # mu is that of counts, which replacing a record moves by sqrt(2) times their norm
    return tables.apart_squared / 2 <= (LARGEST_SIGMA * mu) ** 2


def subsets_of(
    columns: Sequence[int], order: int, most: int, rng: np.random.Generator, apart: Sequence[int] = ()
) -> list[tuple[int, ...]]:
    """All subsets of ``order`` columns, or ``most`` in which every column is about equally frequent; none of columns
    ``apart`` alone."""
    if math.comb(len(columns), order) - math.comb(len(apart), order) <= most:
        return [subset for subset in itertools.combinations(columns, order) if not set(subset) <= set(apart)]
    chosen: dict[tuple[int, ...], None] = {}
    while len(chosen) < most:
        mixed = rng.permutation(np.asarray(columns))
        for start in range(0, len(columns) - order + 1, order):
            subset = tuple(sorted(int(c) for c in mixed[start : start + order]))
            if not set(subset) <= set(apart):
                chosen[subset] = None
    return list(chosen)[:most]
