"""The pictures of a report, as PNG bytes; drawn without a display. Needs matplotlib."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pe.errors import ConfigError
from pe.evaluation.result import Correlation, Marginal, Utility

REAL, SYNTHETIC, BASE = "#4c566a", "#c7622b", "#b9bec9"
MOST_BARS = 16
"""Categories shown of a column, the fullest ones."""

MOST_TICKS = 5
"""Edges named on an axis of numbers."""


def figure_of(width: float, height: float) -> Any:
    """An empty figure, in inches."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("the report needs matplotlib: pip install 'pe-synth[evaluate]'.") from None
    return Figure(figsize=(width, height), layout="constrained")


def png(figure: Any) -> bytes:
    """A figure as the bytes of a file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # glyphs that no font has
        warnings.simplefilter("ignore")
        figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()


def plain(text: str, length: int = 24) -> str:
    """A name as it is: no mathematics between dollar signs, and not too long."""
    short = text if len(text) <= length else text[: length - 1] + "…"
    return short.replace("\\", "\\\\").replace("$", r"\$") if "$" in short else short


def marginals(columns: Sequence[Marginal]) -> bytes:
    """Histograms of several columns, test and synthetic side by side."""
    across = 3
    down = math.ceil(len(columns) / across)
    figure = figure_of(10.5, 2.3 * down + 0.3)
    axes = figure.subplots(down, across, squeeze=False).reshape(-1)
    for axis in axes[len(columns) :]:
        axis.set_axis_off()
    for axis, column in zip(axes, columns, strict=False):
        shown = _bars(column)
        places = np.arange(len(shown))
        axis.bar(places - 0.2, column.real[shown], 0.4, color=REAL, label="test")
        axis.bar(places + 0.2, column.synthetic[shown], 0.4, color=SYNTHETIC, label="synthetic")
        _name_bars(axis, column, shown)
        axis.set_title(f"{plain(column.name)}   (distance {column.distance:.3f})", fontsize=8)
        axis.tick_params(axis="y", labelsize=6)
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2, fontsize=8, frameon=False)
    return png(figure)


def _bars(column: Marginal) -> NDArray[np.int64]:
    """The cells to draw: of numbers all, and that of missing ones if there are any; of categories the fullest."""
    both = column.real + column.synthetic
    if column.ticks:
        return np.flatnonzero((both > 0) | (np.arange(len(both)) < len(both) - 1))
    found = np.flatnonzero(both > 0)
    if len(found) > MOST_BARS:
        found = np.sort(found[np.argsort(-both[found], kind="stable")[:MOST_BARS]])
    return found


def _name_bars(axis: Any, column: Marginal, shown: NDArray[np.int64]) -> None:
    """Numbers are named at a few edges between bars, categories at each bar."""
    if column.ticks:
        step = max(1, math.ceil((len(column.ticks) + 1) / MOST_TICKS))
        edges = range(step - 1, len(column.ticks), step)
        places, names = [edge + 0.5 for edge in edges], [plain(column.ticks[edge], 14) for edge in edges]
        if len(shown) == len(column.cells):
            places, names = [*places, len(shown) - 1.0], [*names, "missing"]
    else:
        places, names = list(range(len(shown))), [plain(column.cells[index], 16) for index in shown]
    crowded = sum(map(len, names)) > 48
    axis.set_xticks(places, names, fontsize=6.5, rotation=35 if crowded else 0, ha="right" if crowded else "center")
    axis.tick_params(axis="x", length=3 if column.ticks else 0)


def by_column(columns: Sequence[Marginal]) -> bytes:
    """The distance of every column, in the order given, from the top."""
    figure = figure_of(10.5, max(1.2, 0.22 * len(columns) + 0.6))
    axis = figure.subplots()
    places = range(len(columns))
    axis.barh(places, [each.distance for each in columns], color=SYNTHETIC)
    axis.set_yticks(places, [plain(each.name) for each in columns])
    axis.invert_yaxis()
    axis.set_xlabel("total-variation distance to the test records", fontsize=8)
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
    return png(figure)


def correlations(found: Correlation) -> bytes:
    """Real, synthetic and their difference."""
    size = len(found.columns)
    figure = figure_of(10.5, 4.4)
    parts = (
        ("test", found.real),
        ("synthetic", found.synthetic),
        ("synthetic - test", found.synthetic - found.real),
    )
    names = [plain(name, 18) for name in found.columns]
    image: Any = None
    for axis, (title, matrix) in zip(figure.subplots(1, 3), parts, strict=True):
        image = axis.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu_r", interpolation="nearest")
        axis.set_title(title, fontsize=9)
        if size <= 40:
            axis.set_xticks(range(size), names, rotation=90, fontsize=max(3, 7 - size // 10))
            axis.set_yticks(range(size), names if title == "test" else [], fontsize=max(3, 7 - size // 10))
        else:
            axis.set_xticks([])
            axis.set_yticks([])
    figure.colorbar(image, ax=figure.axes, shrink=0.6).ax.tick_params(labelsize=7)
    return png(figure)


def scores(utility: Utility) -> bytes:
    """The headline score of every model, trained on synthetic and on real records."""
    names = list(utility.synthetic)
    places = np.arange(len(names))
    figure = figure_of(7, 2.4)
    axis = figure.subplots()

    def heights(part: dict[str, dict[str, float | None]]) -> NDArray[np.float64]:
        return np.array([part[name][utility.score] if name in part else None for name in names], np.float64)

    axis.bar(places - 0.2, heights(utility.synthetic), 0.4, color=SYNTHETIC, label="trained on synthetic")
    if utility.real is not None:
        axis.bar(places + 0.2, heights(utility.real), 0.4, color=REAL, label="trained on real")
    base = (utility.baseline or {}).get(utility.score)
    if base is not None:
        axis.axhline(base, color=BASE, linestyle="--", label="no model")
    axis.set_xticks(places, names, fontsize=8)
    axis.set_ylabel(utility.score, fontsize=8)
    axis.tick_params(axis="y", labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return png(figure)


def closest(to_train: NDArray[np.float64], to_holdout: NDArray[np.float64], between: NDArray[np.float64]) -> bytes:
    """Histograms of the distances to the closest record."""
    figure = figure_of(8, 3)
    axis = figure.subplots()
    top = max(float(part.max()) for part in (to_train, to_holdout, between)) or 1.0
    edges = np.linspace(0, top, 41)
    for distances, name, colour in (
        (to_train, "synthetic to train", SYNTHETIC),
        (to_holdout, "synthetic to holdout", REAL),
        (between, "holdout to train", BASE),
    ):
        axis.hist(distances, edges, weights=np.full(len(distances), 1 / len(distances)), histtype="step", lw=1.6,
                  color=colour, label=name)  # fmt: skip
    axis.set_xlabel("distance to the closest record", fontsize=8)
    axis.set_ylabel("share of records", fontsize=8)
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=7, frameon=False)
    return png(figure)
