"""The pictures of texts in a report, as PNG bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pe.evaluation.figures import BASE, REAL, SYNTHETIC, figure_of, plain, png
from pe.evaluation.result import Utility
from pe.evaluation.text.figures import Shown

_COLOURS = {"test": REAL, "synthetic": SYNTHETIC, "train": BASE}
_MOST_POINTS = 2_000


def accuracies(labels: Sequence[Utility]) -> bytes:
    """Every classifier of every label, trained on synthetic and on real texts."""
    bars = [(each, model) for each in labels for model in each.synthetic]
    figure = figure_of(min(10.5, 3.5 + 1.2 * len(bars)), 2.8)
    axis = figure.subplots()
    for place, (each, model) in enumerate(bars):
        for shift, scores, colour, name in (
            (-0.2, each.synthetic, SYNTHETIC, "trained on synthetic"),
            (0.2, each.real or {}, REAL, "trained on real"),
        ):
            height = scores.get(model, {}).get("accuracy")
            if height is not None:
                axis.bar(place + shift, height, 0.38, color=colour, label=name)
        base = (each.baseline or {}).get("accuracy")
        if base is not None:
            axis.hlines(base, place - 0.42, place + 0.42, color="black", linestyle="--", lw=1, label="no model")
    kinds = {model for _, model in bars}
    names = [plain(each.target, 16) + (f"\n{model.split()[0]}" if len(kinds) > 1 else "") for each, model in bars]
    axis.set_xticks(range(len(bars)), names, fontsize=7.5)
    axis.set_xlim(-0.6, len(bars) - 0.4)
    axis.set_ylabel("accuracy", fontsize=8)
    axis.tick_params(axis="y", labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
    handles = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    axis.legend(handles.values(), handles, fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return png(figure)


def lengths(shown: Shown) -> bytes:
    """Histograms of the number of words, test and synthetic side by side."""
    figure = figure_of(8, 2.8)
    axis = figure.subplots()
    roles = ("test", "synthetic")
    top = max(float(np.quantile(shown.lengths[role], 0.99)) for role in roles) or 1.0
    edges = np.linspace(0, top, 26)
    width = edges[1] - edges[0]
    for place, role in enumerate(roles):
        counts, _ = np.histogram(np.minimum(shown.lengths[role], top), edges)
        shares = counts / len(shown.lengths[role])
        axis.bar(edges[:-1] + width * (0.3 + 0.4 * place), shares, 0.4 * width, color=_COLOURS[role], label=role)
    axis.set_xlabel("words (the last bar: and more)", fontsize=8)
    axis.set_ylabel("share of texts", fontsize=8)
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=7, frameon=False)
    return png(figure)


def embedding_map(shown: Shown) -> bytes:
    """Test and synthetic texts in the plane in which the test texts vary most."""
    figure = figure_of(10.5, 4.6)
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    for axis, role in zip(axes, ("test", "synthetic"), strict=True):
        points = shown.map[role][:_MOST_POINTS]
        axis.scatter(points[:, 0], points[:, 1], s=7, alpha=0.5, color=_COLOURS[role], linewidths=0)
        axis.set_title(role, fontsize=9)
        axis.tick_params(labelsize=6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlabel(f"first component ({shown.explained[0]:.0%} of the variance of test)", fontsize=7)
    axes[0].set_ylabel(f"second ({shown.explained[1]:.0%})", fontsize=7)
    return png(figure)
