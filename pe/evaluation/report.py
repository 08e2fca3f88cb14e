"""The report: one HTML file with its pictures inside, readable without a network or scripts."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from html import escape

from pe.evaluation import figures
from pe.evaluation.result import WARNING, Evaluation, Utility

MOST_COLUMNS = 60
"""Columns whose histograms are shown, those furthest apart first."""

_PER_PICTURE = 12

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #22252b; max-width: 68rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #d8dbe0 }
.warning { border-left: 4px solid #b3261e; background: #fbeceb; padding: .6rem 1rem }
table { border-collapse: collapse; margin: .8rem 0 } img { max-width: 100% }
td, th { padding: .25rem .9rem .25rem 0; text-align: right; border-bottom: 1px solid #e7e9ed; font-weight: normal }
td:first-child, th:first-child { text-align: left } .words td:last-child, .words th:last-child { text-align: left }
td { white-space: nowrap } .words td:last-child { white-space: normal }
th { color: #5b6270 } .note { color: #5b6270; font-size: .9rem }
"""


def render(evaluation: Evaluation) -> str:
    """The whole page. Column names and categories are escaped."""
    body = "\n".join(_sections(evaluation))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Evaluation (not private)</title>'
        f"<style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def _sections(found: Evaluation) -> Iterator[str]:
    yield f'<h1>Evaluation of a synthetic table</h1><p class="warning">{escape(WARNING)}</p>'
    sizes = ", ".join(f"{count:,} {role}" for role, count in found.rows.items())
    yield f"<p>Records: {sizes}. Columns: {len(found.kinds)}. {escape(_settings(found))}</p>"
    yield f'<div class="words">{_table(("", "found", "best", "what it says"), headline(found))}</div>'
    yield "".join(f'<p class="note">{escape(note)}.</p>' for note in found.notes)
    for utility in found.utility:
        yield f"<h2>Models of {escape(utility.target)}</h2>" + _image(figures.scores(utility), "scores of models")
        yield _scores(utility)
    yield "<h2>Marginals</h2>"
    yield _table(
        ("mean total-variation distance", "one column", "two", "three"),
        [
            (f"synthetic to {name}" if "to" not in name.split() else name, *map(_number, distances.values()))
            for name, distances in found.distances.items()
        ],
    )
    ordered = sorted(found.marginals, key=lambda each: -each.distance)
    yield _image(figures.by_column(ordered[:200]), "distance by column")
    worst = ordered[:MOST_COLUMNS]
    if len(worst) < len(found.marginals):
        yield f'<p class="note">The {MOST_COLUMNS} columns that are furthest apart:</p>'
    for start in range(0, len(worst), _PER_PICTURE):
        yield _image(figures.marginals(worst[start : start + _PER_PICTURE]), "histograms of columns")
    yield "<h2>Correlation</h2>" + _image(figures.correlations(found.correlation), "correlation matrices")
    yield (
        f"<p>Mean absolute difference over pairs of columns: {_number(found.correlation.difference)}. Pearson's "
        "correlation for two numbers, Cramer's V for two categories, the correlation ratio for one of each.</p>"
    )
    if found.two_sample is not None:
        two = found.two_sample
        yield (
            "<h2>Telling synthetic from real records</h2><p>A classifier that tries to tell them apart, validated "
            f"across {two.folds} folds on {two.rows:,} records of each table, has an AUC of <b>{two.auc:.3f}</b> "
            f"(standard deviation over folds {two.deviation:.3f}). 0.5: it cannot; 1: it always can.</p>"
        )
    if found.closeness is not None:
        close = found.closeness
        low, high = close.interval
        yield "<h2>Distance to the closest record</h2>"
        yield _image(figures.closest(close.to_train, close.to_holdout, close.between), "distances to closest records")
        yield (
            f"<p><b>{close.share:.1%}</b> of {close.rows['synthetic']:,} synthetic records (95 % interval {low:.1%} to "
            f"{high:.1%}) lie nearer to one of {close.rows['train']:,} training records than to any of as many holdout "
            f"records; 50 % is what no memorisation shows. {close.duplicates['train']:.2%} of the synthetic records "
            f"equal a training record, {close.duplicates['holdout']:.2%} a holdout record. No such figure proves "
            "privacy: only the certificate's claim does.</p>"
        )


def headline(found: Evaluation) -> list[tuple[str, str, str, str]]:
    """Name, value, best value and meaning of the figures that sum an evaluation up."""
    lines = []
    for each in found.utility:
        bound = each.mean("real")
        best = "1" if bound is None else f"{bound:.3f} (trained on real)"
        what = f"{each.score} of models trained on synthetic, tested on real records; mean of {len(each.synthetic)}"
        lines.append((f"models of {each.target}", _number(each.mean("synthetic")), best, what))
    floor = found.distances.get("train to test", {})
    for name, words in (("tvd1", "one column"), ("tvd2", "two columns"), ("tvd3", "three columns")):
        distance, floor_of = found.distances["test"][name], floor.get(name)
        if distance is not None:
            shown = "0" if floor_of is None else f"{floor_of:.3f} (train to test)"
            lines.append((f"marginals of {words}", _number(distance), shown, "mean total-variation distance to test"))
    if found.correlation.difference is not None:
        apart = found.correlation.difference
        lines.append(("correlation", _number(apart), "0", "mean absolute difference over pairs of columns"))
    if found.two_sample is not None:
        area = found.two_sample.auc
        lines.append(("two-sample test", _number(area), "0.5", "AUC of a classifier telling synthetic from real"))
    if found.closeness is not None:
        low, high = found.closeness.interval
        shown = f"{found.closeness.share:.3f} [{low:.3f}, {high:.3f}]"
        lines.append(("nearer to train", shown, "0.5", "share of records nearer to train than to the holdout"))
        train, holdout = (f"{found.closeness.duplicates[role]:.2%}" for role in ("train", "holdout"))
        lines.append(("exact duplicates", train, f"{holdout} (holdout)", "share of records equal to a training record"))
    return lines


def _settings(found: Evaluation) -> str:
    how = found.settings
    cut = {
        "domain": "16 equal parts of the declared domain",
        "range": "16 equal parts of the reference table's range",
        "quantiles": "at most 16 parts between quantiles of the reference table",
    }
    return f"Numbers are cut into {cut[how['bins']]}; seed {how['seed']}."


def _scores(utility: Utility) -> str:
    lines = [(f"{name}, trained on synthetic", scores) for name, scores in utility.synthetic.items()]
    lines += [(f"{name}, trained on real", scores) for name, scores in (utility.real or {}).items()]
    if utility.baseline is not None:
        what = "the majority class" if utility.kind == "classification" else "the mean"
        lines.append((f"no model: {what}", utility.baseline))
    names = list(next(iter(utility.synthetic.values())))
    return _table(("", *names), [(name, *(_number(scores[key]) for key in names)) for name, scores in lines])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if abs(value) < 1000 else f"{value:.4g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(each)}</th>" for each in head)
    lines = "".join("<tr>" + "".join(f"<td>{escape(each)}</td>" for each in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{lines}</table>"


def _image(content: bytes, text: str) -> str:
    return f'<p><img alt="{escape(text)}" src="data:image/png;base64,{base64.b64encode(content).decode()}"></p>'
