"""The method "cross-tables": count records in small tables, fit a density to the noisy counts, draw records from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pe.data.arrays import to_table
from pe.data.gap_form import GapForm
from pe.data.population import Population
from pe.data.schema import Schema
from pe.evolution.label_counts import estimate_label_counts, label_query
from pe.evolution.select import apportion
from pe.evolution.start import LABELS, Ask
from pe.tables.copula import Correlations, Scores, ranked, rearranged
from pe.tables.fit import fit
from pe.tables.levels import Levels, grid, merge
from pe.tables.measure import Counts, one_way
from pe.tables.plan import LABEL_SHARE, Settings, correlated, settings
from pe.tables.smooth import Cosines
from pe.tables.targets import choose_tables


@dataclass(frozen=True)
class CrossTables:
    """Three releases: records per label; every column on its own; the label with one, two and three columns.

    The first says how large the others can be, the second how numbers are best cut. A maximum-entropy density is fitted
    to the third (``pe.tables.fit``), and any number of records drawn from it. Where records are few, a fourth release
    says how columns are correlated within labels, and what was drawn is rearranged accordingly (``pe.tables.copula``).

    targets  columns that most tables are about, beside the label (``pe.tables.targets``).
    """

    targets: tuple[str, ...] = ()

    name = "cross-tables"

    def __call__(
        self, ask: Ask, schema: Schema, n: int | None, shares: NDArray[np.float64] | None, rng: np.random.Generator
    ) -> tuple[Population, NDArray[np.float64]]:
        form = GapForm.of(schema)
        labels, mu, columns = len(schema.labels), ask.resolution, form.columns
        counted = ask(label_query(labels, ask.finer), LABEL_SHARE, LABELS)
        estimate = estimate_label_counts(counted, labels)
        total = float(estimate.sum())
        # The density needs some records of every label: as many as noise may hide, together a tenth of all at most.
        records = np.maximum(estimate, min(float(counted.sigma), total / (10 * labels)))
        wanted = form.modelled(self.targets)
        targets = [place for place, column in enumerate(columns) if column.name in wanted]
        plan = settings(
            total, len(columns), labels, mu, with_ranks=sum(ranked(column) for column in columns), targets=bool(targets)
        )

        fine = [grid(column, plan.bins, refined=not plan.terms) for column in columns]
        levels = self._levels(ask, fine, plan, total)

        left, places, apart = plan.table_share, list[int](), 0.0
        if plan.contrasts and not targets:
            places, apart = correlated(levels, labels, mu * math.sqrt(left), rng)
        share = left * (1 - apart)
        tables = choose_tables(targets, levels, labels, total, mu * math.sqrt(share), plan, rng, places)
        answers, sigma = np.zeros(0), 1.0
        if tables.tables:  # none where every column has one level
            answer = ask(Counts(tables, tuple(levels), "cross-tables", ask.finer), share, "tables")
            answers, sigma = answer.votes, float(answer.sigma)
        density = fit(tables, levels, answers, sigma, records, rng, particles=plan.particles, rounds=plan.rounds)
        found = estimate / total if shares is None else shares
        sizes = apportion(round(total) if n is None else n, found)
        made = density.sample(sizes, rng, sharpness=plan.sharpness, slopes=plan.slopes, weighted=plan.weighted)
        owners = np.repeat(np.arange(labels), sizes)
        if places:
            some, within = tuple(levels[place] for place in places), density.shares()
            products = Correlations(some, tuple(Scores.of(levels[place], within[place]) for place in places))
            answer = ask(products, left * apart, "correlations")
            matrix = products.matrix(answer.counts, answer.grid, float(answer.sigma), total)
            made = rearranged(made, some, owners, matrix, rng)
        return Population.of(to_table(form.rebuild(made, rng), schema), owners.astype(np.int32), self.name), found

    def _levels(self, ask: Ask, fine: Sequence[Levels], plan: Settings, records: float) -> list[Levels]:
        """The second release: what each column looks like on its own."""
        if plan.terms:
            cosines = Cosines(tuple(fine), plan.terms)
            answer = ask(cosines, plan.histogram_share, "histograms")
            return cosines.divide(answer.counts, answer.grid, float(answer.sigma), records, plan.levels)
        histograms = Counts(one_way(fine), tuple(fine), "histograms", ask.finer)
        answer = ask(histograms, plan.histogram_share, "histograms")
        parts, sigma = histograms.tables.split(answer.votes), float(answer.sigma)
        return [merge(level, part[0], sigma, plan.levels) for level, part in zip(fine, parts, strict=True)]
