"""What an evaluation found, and where it may be written."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pe.errors import RunError
from pe.evaluation.closeness import Closeness
from pe.evaluation.learners import TwoSample
from pe.files import refusals, write_atomically

if TYPE_CHECKING:
    from pe.evaluation.text import TextFigures

NONPRIVATE = "nonprivate"
"""Stands in the name of the folder, or of the file, that an evaluation is written to."""

WARNING = (
    "NOT PRIVATE: computed from real records without noise. No privacy guarantee covers these figures; "
    "keep them with the real records and do not release them."
)


@dataclass(frozen=True)
class Utility:
    """Models of one target, tested on the test table: scores by model.

    synthetic  trained on the synthetic table; real: on the training records (the upper bound), None without them.
    baseline   what needs no model: the majority class, or the mean, of the training records; None without them.

    Classes: accuracy, macro f1, macro auc. Numbers: r2, rmse. None where a score is undefined.
    """

    target: str
    kind: str
    synthetic: dict[str, dict[str, float | None]]
    real: dict[str, dict[str, float | None]] | None
    baseline: dict[str, float | None] | None

    @property
    def score(self) -> str:
        """The score that headlines: accuracy or r2."""
        return "accuracy" if self.kind == "classification" else "r2"

    def mean(self, trained_on: str, score: str | None = None) -> float | None:
        """A score, by default the headline, averaged over the models trained on "synthetic" or "real"."""
        scores = self.synthetic if trained_on == "synthetic" else self.real
        known = [value for each in (scores or {}).values() if (value := each[score or self.score]) is not None]
        return float(np.mean(known)) if known else None

    def to_dict(self) -> dict[str, Any]:
        return {
            "target": self.target,
            "kind": self.kind,
            "score": self.score,
            "mean_synthetic": self.mean("synthetic"),
            "mean_real": self.mean("real"),
            "synthetic": self.synthetic,
            "real": self.real,
            "baseline": self.baseline,
        }


@dataclass(frozen=True)
class Marginal:
    """One column's histogram: the share of records per cell, in the test table and in the synthetic one.

    ticks  texts of the edges between cells of numbers, the last cell being that of missing ones; none for categories.
    """

    name: str
    cells: list[str]
    real: NDArray[np.float64] = field(repr=False)
    synthetic: NDArray[np.float64] = field(repr=False)
    ticks: list[str] = field(default_factory=list)

    @property
    def distance(self) -> float:
        return float(0.5 * np.abs(self.real - self.synthetic).sum())


QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class OrderGap:
    """How far the ``upper`` of two columns lies above the ``lower``, where an order constraint holds both.

    unit       what the gaps count, for dates; empty for numbers.
    real, synthetic  ``QUANTILES`` of the gaps of records that have both values, of the test and the synthetic table.
    distance   total variation between the two, over at most 16 cells cut at quantiles of the test table.
    broken     share of the test records that have both values and break the constraint.
    """

    lower: str
    upper: str
    unit: str
    real: list[float] = field(repr=False)
    synthetic: list[float] = field(repr=False)
    distance: float
    broken: float

    def to_dict(self) -> dict[str, Any]:
        names = [f"{quantile:g}" for quantile in QUANTILES]
        return {
            "lower": self.lower,
            "upper": self.upper,
            "unit": self.unit,
            "total_variation": self.distance,
            "quantiles_real": dict(zip(names, self.real, strict=True)),
            "quantiles_synthetic": dict(zip(names, self.synthetic, strict=True)),
            "broken_real": self.broken,
        }


Distances = dict[str, float | None]
"""Mean total-variation distances "tvd1", "tvd2", "tvd3" of all sets of one, two and three columns."""


@dataclass(frozen=True)
class Correlation:
    """Association matrices (see ``pe.evaluation.association``) and their mean absolute difference over pairs."""

    columns: tuple[str, ...]
    real: NDArray[np.float64] = field(repr=False)
    synthetic: NDArray[np.float64] = field(repr=False)
    difference: float | None

    def to_dict(self) -> dict[str, Any]:
        matrices = {"real": self.real.round(6).tolist(), "synthetic": self.synthetic.round(6).tolist()}
        return {"mean_absolute_difference": self.difference, "columns": list(self.columns), **matrices}


@dataclass(frozen=True)
class Evaluation:
    """All that was measured. **Not private**: no noise was added.

    distances  by reference: "test", "train" if given, and "train to test", what real records show between them.
    two_sample, closeness   None where too few records, or no training records, were given.
    texts      by column of free text. Beside such columns, what compares whole tables (``utility``, ``two_sample``,
               ``closeness``) is measured where there are numbers.
    gaps       between columns that the schema declares as ordered.
    """

    rows: dict[str, int]
    kinds: dict[str, str]
    settings: dict[str, Any]
    utility: tuple[Utility, ...] = field(repr=False)
    distances: dict[str, Distances] = field(repr=False)
    marginals: tuple[Marginal, ...] = field(repr=False)
    correlation: Correlation = field(repr=False)
    two_sample: TwoSample | None = field(repr=False)
    closeness: Closeness | None = field(repr=False)
    notes: tuple[str, ...] = ()
    texts: dict[str, TextFigures] = field(default_factory=dict, repr=False)
    gaps: tuple[OrderGap, ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; the first one says that they are not private."""
        two = self.two_sample
        return {
            "warning": WARNING,
            "private": False,
            "rows": self.rows,
            "columns": self.kinds,
            "settings": self.settings,
            "utility": [each.to_dict() for each in self.utility],
            "marginals": {
                "mean_total_variation": self.distances,
                "by_column": {each.name: each.distance for each in self.marginals},
            },
            "gaps": [each.to_dict() for each in self.gaps],
            "correlation": self.correlation.to_dict(),
            "classifier_two_sample": None
            if two is None
            else {"auc": two.auc, "deviation": two.deviation, "folds": two.folds, "rows": two.rows},
            "closeness": None if self.closeness is None else self.closeness.to_dict(),
            "texts": {name: each.to_dict() for name, each in self.texts.items()},
            "notes": list(self.notes),
        }

    def report(self, path: str | Path) -> Path:
        """Write one self-contained HTML file. Its name, or its folder's, must say "nonprivate". Needs matplotlib."""
        from pe.evaluation.report import render

        place = fenced(Path(path))
        content = render(self).encode()
        return _written(place, content)

    def save(self, folder: str | Path) -> list[Path]:
        """Write ``evaluation.json`` and ``report.html`` into a folder whose name says "nonprivate"."""
        from pe.evaluation.report import render

        place = fenced(Path(folder) / "evaluation.json")
        content = json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n"
        page = render(self)  # before the first file is written
        return [_written(place, content.encode()), _written(place.with_name("report.html"), page.encode())]


def fenced(path: Path) -> Path:
    """The path, if it says that what lies there is not private and it is in no release; else RunError."""
    place = path.resolve()
    if NONPRIVATE not in place.name.lower() and NONPRIVATE not in place.parent.name.lower():
        raise RunError(
            f"an evaluation on real records is not private: write it to a file or folder whose name says "
            f"'{NONPRIVATE}', got '{path}'."
        )
    for folder in place.parents:
        if folder.name == "release" or (folder / "certificate.json").exists():
            raise RunError(f"an evaluation on real records is not private: it never goes into a release, got '{path}'.")
    return place


def _written(place: Path, content: bytes) -> Path:
    with refusals(place):
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomically(place, content)
    return place
