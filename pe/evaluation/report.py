"""The report: one HTML file with its pictures inside, readable without a network or scripts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from pe.evaluation import figures, page
from pe.evaluation.result import QUANTILES, WARNING, Evaluation, OrderGap
from pe.evaluation.text.report import headline as text_headline
from pe.evaluation.text.report import sections

MOST_COLUMNS = 60
"""Columns whose histograms are shown, those furthest apart first."""

_PER_PICTURE = 12


def render(evaluation: Evaluation) -> str:
    """The whole page. Column names and categories are escaped."""
    body = "\n".join(_sections(evaluation))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Evaluation (not private)</title>'
        f"<style>{page.STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def _sections(found: Evaluation) -> Iterator[str]:
    yield f'<h1>Evaluation of a synthetic table</h1><p class="warning">{escape(WARNING)}</p>'
    sizes = ", ".join(f"{count:,} {role}" for role, count in found.rows.items())
    yield f"<p>Records: {sizes}. Columns: {len(found.kinds)}. {escape(_settings(found))}</p>"
    yield f'<div class="words">{page.table(("", "found", "best", "what it says"), headline(found))}</div>'
    yield "".join(f'<p class="note">{escape(note)}.</p>' for note in found.notes)
    for utility in found.utility:
        yield f"<h2>Models of {escape(utility.target)}</h2>" + page.image(figures.scores(utility), "scores of models")
        yield page.scores(utility)
    for name, texts in found.texts.items():
        yield from sections(name, texts)
    if found.marginals:
        yield from _marginals(found)
    if found.gaps:
        yield from _gaps(found.gaps)
    yield from _compared(found)


def _marginals(found: Evaluation) -> Iterator[str]:
    yield "<h2>Marginals</h2>"
    yield page.table(
        ("mean total-variation distance", "one column", "two", "three"),
        [
            (f"synthetic to {name}" if "to" not in name.split() else name, *map(page.number, distances.values()))
            for name, distances in found.distances.items()
        ],
    )
    ordered = sorted(found.marginals, key=lambda each: -each.distance)
    yield page.image(figures.by_column(ordered[:200]), "distance by column")
    worst = ordered[:MOST_COLUMNS]
    if len(worst) < len(found.marginals):
        yield f'<p class="note">The {MOST_COLUMNS} columns that are furthest apart:</p>'
    for start in range(0, len(worst), _PER_PICTURE):
        yield page.image(figures.marginals(worst[start : start + _PER_PICTURE]), "histograms of columns")
    yield "<h2>Correlation</h2>" + page.image(figures.correlations(found.correlation), "correlation matrices")
    yield (
        f"<p>Mean absolute difference over pairs of columns: {page.number(found.correlation.difference)}. Pearson's "
        "correlation for two numbers, Cramer's V for two categories, the correlation ratio for one of each.</p>"
    )


def _gaps(gaps: Sequence[OrderGap]) -> Iterator[str]:
    yield "<h2>Gaps</h2><p>How far the second of two columns lies above the first, where the schema declares an order: "
    yield "quantiles in test and synthetic records that have both values, and their total-variation distance.</p>"
    rows: list[tuple[str, ...]] = []
    for gap in gaps:
        name = f"{gap.lower} to {gap.upper}" + (f", {gap.unit}" if gap.unit else "")
        rows.append((f"{name}: test", *map(_quantile, gap.real), ""))
        rows.append((f"{name}: synthetic", *map(_quantile, gap.synthetic), page.number(gap.distance)))
    yield page.table(("", *(f"{quantile:.0%}" for quantile in QUANTILES), "distance"), rows)
    for gap in gaps:
        if gap.broken > 0:
            yield (
                f'<p class="note">{gap.broken:.2%} of the test records have {escape(gap.upper)} below '
                f"{escape(gap.lower)}, against the constraint.</p>"
            )


def _quantile(value: float) -> str:
    return f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def _compared(found: Evaluation) -> Iterator[str]:
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
        yield page.image(
            figures.closest(close.to_train, close.to_holdout, close.between), "distances to closest records"
        )
        yield (
            f"<p><b>{escape(close.verdict)}</b> {close.copies:.2%} of the synthetic records equal one of all training "
            f"records. Of as many training as holdout records, {close.duplicates['train']:.2%} equal a training "
            f"record, {close.duplicates['holdout']:.2%} a holdout record. "
            f"{close.share:.1%} of {close.rows['synthetic']:,} synthetic records (95 % interval {low:.1%} to "
            f"{high:.1%}) lie nearer to one of {close.rows['train']:,} training records than to any of as many holdout "
            f"records; 50 % is what no memorisation shows. No such figure proves privacy: only the certificate's claim "
            "does.</p>"
        )


def headline(found: Evaluation) -> list[tuple[str, str, str, str]]:
    """Name, value, best value and meaning of the figures that sum an evaluation up."""
    several = len(found.texts) > 1
    lines = [line for name, each in found.texts.items() for line in text_headline(name if several else "", each)]
    for each in found.utility:
        bound = each.mean("real")
        best = "1" if bound is None else f"{bound:.3f} (trained on real)"
        what = f"{each.score} of models trained on synthetic, tested on real records; mean of {len(each.synthetic)}"
        lines.append((f"models of {each.target}", page.number(each.mean("synthetic")), best, what))
    floor = found.distances.get("train to test", {})
    for name, words in (("tvd1", "one column"), ("tvd2", "two columns"), ("tvd3", "three columns")):
        distance, floor_of = found.distances["test"].get(name), floor.get(name)
        if distance is not None:
            shown = "0" if floor_of is None else f"{floor_of:.3f} (train to test)"
            lines.append(
                (f"marginals of {words}", page.number(distance), shown, "mean total-variation distance to test")
            )
    if found.correlation.difference is not None:
        apart = found.correlation.difference
        lines.append(("correlation", page.number(apart), "0", "mean absolute difference over pairs of columns"))
    if found.two_sample is not None:
        area = found.two_sample.auc
        lines.append(("two-sample test", page.number(area), "0.5", "AUC of a classifier telling synthetic from real"))
    if found.closeness is not None:
        low, high = found.closeness.interval
        shown = f"{found.closeness.share:.3f} [{low:.3f}, {high:.3f}]"
        lines.append(("nearer to train", shown, "0.5", "share of records nearer to train than to the holdout"))
        train, holdout = (f"{found.closeness.duplicates[role]:.2%}" for role in ("train", "holdout"))
        lines.append(("exact duplicates", train, f"{holdout} (holdout)", "share of records equal to a training record"))
        verdict = "suspected" if found.closeness.suspected else "not suspected"
        tests = "; ".join(found.closeness.reasons) or "two tests, of equal and of closest records"
        lines.append(("copying", verdict, "not suspected", tests))
    return lines


def _settings(found: Evaluation) -> str:
    how = found.settings
    cut = {
        "domain": "16 equal parts of the declared domain",
        "range": "16 equal parts of the reference table's range",
        "quantiles": "at most 16 parts between quantiles of the reference table",
    }
    return f"Numbers are cut into {cut[how['bins']]}; seed {how['seed']}."
