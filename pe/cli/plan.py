"""``pe plan``: noise, sizes and calls of a run, from public settings alone."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pe.cli.output import emit, out, warn

if TYPE_CHECKING:
    from pe.journal import Usage
    from pe.session import Blueprint


HEADINGS = {
    "iteration": "round",
    "candidates": "voted on",
    "votes_per_candidate": "votes each",
    "api_calls": "calls",
    "variations": "each",
}
CONSTANT = ("api", "lookahead", "variations")
"""Columns that the table leaves out where they never change."""

HOPELESS = 30
"""Runs with noise of 15 times a candidate's expected votes were still useful (breast-cancer, epsilon 1)."""


def plan(config: Path, *, records: int | None = None, measure: bool = False, json: bool = False) -> None:
    """Show what a run would do and spend. Reads no private data and charges nothing.

    Parameters
    ----------
    config
        The TOML file of the run.
    records
        A guess at the number of private records; adds the expected votes per candidate, and what the run will ask of
        this machine: a second or two are measured.
    measure
        Measure also an embedder that is costly, such as a language model: it is loaded.
    json
        Print one JSON object instead of a table.
    """
    from pe.config import Config
    from pe.evolution.start import records_needed
    from pe.synthesis import blueprint_of

    blueprint = blueprint_of(Config.read(config))
    rounds, kernel = _rounds(blueprint, records), blueprint.plan.kernel
    usage = _usage(blueprint)
    calls = sum(each["api_calls"] for each in rounds) + blueprint.plan.population
    facts = {
        "budget": str(blueprint.budget),
        "label_sigma": None if blueprint.plan.label_sigma is None else float(blueprint.plan.label_sigma),
        "first_population": blueprint.plan.population,
        "iterations": rounds,
        "api_calls": calls,
        "rows": blueprint.rows,
        "start": None if blueprint.plan.start is None else blueprint.plan.start.name,
        "usage": None if usage is None else asdict(usage),
        "work": None if records is None else _work(blueprint, records, measure),
        "kernel_noise": None if kernel is None else kernel.noise(blueprint.budget, blueprint.plan.user_norm),
        "warnings": blueprint.warnings,
    }
    if json:
        emit(facts)
        return
    for text in blueprint.warnings:
        warn(text)
    from rich.table import Table

    rows = "about as many records as there are private ones" if blueprint.rows is None else f"{blueprint.rows} records"
    if not rounds:
        out.print(f"Plan: {blueprint.budget}", highlight=False, markup=False)
        out.print(
            f"Three releases: label counts, every column on its own, {facts['start']}; of few records correlations, "
            f"too. Records are drawn from a density that is fitted to them, without an API; {rows} are released."
        )
        needed = records_needed(blueprint.budget, blueprint.plan.user_norm, blueprint.plan.at_least)
        unit = f"{blueprint.budget.unit}s"
        out.print(f"It takes more than about {needed} private {unit} for anything useful to come out at this budget.")
        if records is not None and records < needed:
            out.print(f"[yellow]{records} {unit} are too few: nothing useful is likely to come out. Raise epsilon.[/]")
        return
    shown = Table(title=f"Plan: {blueprint.budget}", title_justify="left")
    names = [name for name in rounds[0] if name not in CONSTANT or len({each[name] for each in rounds}) > 1]
    for name in names:
        shown.add_column(HEADINGS.get(name, name), justify="right")
    for each in rounds:
        shown.add_row(*("no vote" if each[name] is None else _short(each[name]) for name in names))
    out.print(shown)
    if facts["label_sigma"] is not None:
        out.print(f"Label counts are bought first, with noise of standard deviation {facts['label_sigma']:.4g}.")
    if facts["start"] is not None:
        out.print(
            f"{blueprint.plan.start_share:.0%} of the budget buys label counts, every column on its own, and "
            "cross-tables: the first candidates are drawn from a density that is fitted to them, without an API."
        )
    if kernel is not None:
        out.print(
            f"The mean of {kernel.features} Fourier features of each label's records is bought next, and every round "
            f"selects by it: noise {facts['kernel_noise']:.3g} times the length of a record's vector, in each entry."
        )
    out.print(f"{calls} samples are asked of the API in all; {rows} are released.")
    if usage is not None:
        out.print(f"That is about {usage}; more where answers are of no use and samples are asked for again.")
    if facts["work"] is not None:
        out.print(_told(facts["work"]))
    if records is not None and kernel is None and _hopeless(rounds):
        out.print(
            f"[yellow]In every iteration the noise is more than {HOPELESS} times the votes a candidate expects: "
            "nothing useful is likely to come out. Raise epsilon, or lower output.rows or the iterations.[/]"
        )


def _usage(blueprint: Blueprint) -> Usage | None:
    """What metered APIs estimate for the whole plan; None without any."""
    from pe.cost import calls_of
    from pe.protocols import Metered

    total = None
    for index, api in enumerate(blueprint.apis):
        if isinstance(api, Metered):
            calls = calls_of(blueprint.plan, index)
            estimate = api.estimate(calls.fresh, calls.varied)
            if estimate.calls:
                total = estimate if total is None else total + estimate
    return total


def _work(blueprint: Blueprint, records: int, measure: bool) -> dict[str, Any]:
    """What the rounds ask of a machine, and in seconds of this one, unless the embedder is costly to ask."""
    from pe.cost import estimate, pace_of, work_of

    embedder, plan = blueprint.embedder, blueprint.plan
    work = work_of(plan, records, len(blueprint.schema.labels))
    found = asdict(work) | {"seconds": None}
    if work.records and (measure or not getattr(embedder, "costly", False)):
        found["seconds"] = asdict(estimate(work, pace_of(work, embedder, blueprint.schema), embedder))
    return found


def _told(work: dict[str, Any]) -> str:
    from pe.cost import OFF

    told = (
        f"{work['records']} private records are embedded once, and up to {work['candidates']} samples; records and "
        f"candidates are compared {work['comparisons']:.2g} times."
    )
    seconds = work["seconds"]
    if seconds is None:
        return f"{told} How long that takes, --measure tells: the embedder is costly to load."
    kernel = f", the kernel mean {_lasting(seconds['kernel'])}" if work["features"] else ""
    return (
        f"{told} On this machine, within a factor of {OFF:g}: embedding takes {_lasting(seconds['embedding'])}, voting "
        f"{_lasting(seconds['voting'])} ({seconds['route']}){kernel}; the API and disks come on top. "
        f"{seconds['kept'] / 1e6:.2g} MB of embeddings are kept."
    )


def _lasting(seconds: float) -> str:
    if seconds < 1:
        return "under a second"
    unit, name = next((unit, name) for unit, name in ((3600, "h"), (60, "min"), (1, "s")) if seconds >= unit)
    return f"{seconds / unit:.2g} {name}"


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _hopeless(rounds: list[dict[str, Any]]) -> bool:
    return all(HOPELESS * each["votes_per_candidate"] < each["sigma"] for each in rounds)


def _rounds(blueprint: Blueprint, records: int | None) -> list[dict[str, Any]]:
    """One line per iteration; ``candidates`` is the population voted on."""
    lines, candidates = [], blueprint.plan.population
    for number, each in enumerate(blueprint.plan.rounds, start=1):
        line: dict[str, Any] = {
            "iteration": number,
            "api": blueprint.apis[each.api].name,
            "candidates": candidates,
            "sigma": None if each.sigma is None else float(each.sigma),
            "selection": each.selection,
            "parents": each.parents,
            "variations": each.variations,
            "degree": each.degree,
            "lookahead": each.lookahead,
            "api_calls": candidates * each.lookahead + each.parents * each.variations,
        }
        if records is not None:
            line["votes_per_candidate"] = records * sum(each.contribution.weights) / candidates
        lines.append(line)
        candidates = each.population
    return lines
