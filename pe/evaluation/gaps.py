"""Gaps between columns that a schema declares as ordered: what single columns' marginals do not show."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pe.data.columns import Datetime
from pe.data.times import DAY
from pe.evaluation.marginals import Cells, Coded, total_variation
from pe.evaluation.result import QUANTILES, OrderGap
from pe.evaluation.tables import Field, Frame, Tables

UNITS = {1: "seconds", 60: "minutes", 3_600: "hours", DAY: "days"}


def order_gaps(tables: Tables, frames: Mapping[str, Frame]) -> tuple[OrderGap, ...]:
    """The gap of each ordered pair in the test and the synthetic table; none of a pair that a table does not hold."""
    found = [_gap(tables.field(lower), tables.field(upper), frames) for lower, upper in tables.ordered]
    return tuple(gap for gap in found if gap is not None)


def _gap(lower: Field, upper: Field, frames: Mapping[str, Frame]) -> OrderGap | None:
    field = Field(f"{upper.name} - {lower.name}")
    gaps = {}
    for role in ("test", "synthetic"):
        values = frames[role][upper.name] - frames[role][lower.name]
        values = values[~np.isnan(values)]
        if len(values) == 0:
            return None
        gaps[role] = Frame({field.name: values}, len(values))
    cells = Cells.of(field, gaps["test"], "quantiles")
    real, made = (Coded.of(gaps[role], [cells]) for role in ("test", "synthetic"))
    quantiles = {role: np.quantile(frame[field.name], QUANTILES).tolist() for role, frame in gaps.items()}
    return OrderGap(
        lower.name,
        upper.name,
        _unit(upper.dates),
        quantiles["test"],
        quantiles["synthetic"],
        total_variation(real, made, [cells]),
        float((gaps["test"][field.name] < 0).mean()),
    )


def _unit(dates: Datetime | None) -> str:
    if dates is None:
        return ""
    return UNITS.get(dates.resolution, f"steps of {dates.resolution} seconds")
