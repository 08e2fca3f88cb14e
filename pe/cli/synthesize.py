"""``pe synthesize`` and ``pe resume``."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pe.cli.output import emit, err, out, warn

if TYPE_CHECKING:
    from pe.delivery import Synthetic
    from pe.session import Blueprint, Session


WORTH_A_WARNING = 300
"""Private records that a small budget takes, from which on a run says so before it begins."""


def synthesize(
    config: Path,
    *,
    ledger: Path | None = None,
    create: bool = False,
    check: bool | None = None,
    json: bool = False,
) -> None:
    """Run a configuration to its end and write the release folder.

    Running it again resumes: stored histograms are reused and paid for once.

    Parameters
    ----------
    config
        The TOML file that 'pe init' drafts.
    ledger
        The ledger file; by default PE_LEDGER, else the user's data directory.
    create
        Grant the source exactly this run's budget if the ledger does not know it.
    check
        Before the first charge, show which private values do not fit the schema, as 'pe check' does, on standard
        error; what is shown is not private. By default only at a terminal, where a run that is likely to be in vain is
        asked about.
    json
        Print one JSON object instead of tables.
    """
    from pe.config import Config
    from pe.errors import ConfigError, PrivateDataError, SchemaError
    from pe.synthesis import blueprint_of

    if check and json:
        raise ConfigError(
            "--check goes with no --json: what it shows is not private and has no form for machines. Nothing was spent."
        )
    settings = Config.read(config)
    blueprint = blueprint_of(settings)
    wanted = _at_a_terminal() and not json if check is None else check
    try:
        _complete(blueprint, settings.private.path, ledger, create, json, wanted)
    except (PrivateDataError, SchemaError):
        if _at_a_terminal():
            warn(f"'pe check {shlex.quote(str(config))}' may say more about the data, here at the terminal.")
        raise


def simulate(config: Path, *, seed: int = 0, json: bool = False) -> None:
    """Run a configuration with noise that repeats from a seed: for research on data that are not private.

    No ledger is opened, nothing is certified, and every file written says so. The run directory is the
    configuration's, with "-simulated" appended.

    Parameters
    ----------
    config
        The TOML file that 'pe init' drafts.
    seed
        The seed of the noise.
    json
        Print one JSON object instead of tables.
    """
    from pe.config import Config
    from pe.synthesis import blueprint_of

    settings = Config.read(config).resolved()
    settings["privacy"]["simulate"] = seed
    settings["output"]["run"] += "-simulated"
    simulated = Config.of(settings)
    _complete(blueprint_of(simulated), simulated.private.path, None, False, json)


def resume(run: Path, *, ledger: Path | None = None, json: bool = False) -> None:
    """Go on with an interrupted run from its directory, without paying for stored iterations again.

    Parameters
    ----------
    run
        The run directory.
    ledger
        The ledger file the run was begun with.
    json
        Print one JSON object instead of tables.
    """
    from pe.config import Config
    from pe.data.schema import Schema
    from pe.errors import RunError
    from pe.run import stored_config
    from pe.session import Blueprint

    settings = stored_config(run)
    settings["output"]["run"] = str(run.resolve())  # the directory may have been moved
    config = Config.of(settings)
    if config.private.path is None:
        raise RunError(
            f"{run} was started from data in memory: call pe.synthesize again with the same arguments and run='{run}'. "
            "Nothing was spent."
        )
    _complete(Blueprint.of(config, Schema.read(run / "schema.toml")), config.private.path, ledger, False, json)


def _complete(
    blueprint: Blueprint, data: object, ledger: Path | None, create: bool, json: bool, check: bool = False
) -> None:
    from pe.evolution.start import records_needed
    from pe.synthesis import complete

    needed = records_needed(blueprint.budget, blueprint.plan.user_norm, blueprint.plan.at_least)
    if needed >= WORTH_A_WARNING:
        warn(
            f"at {blueprint.budget} it takes more than about {needed} {blueprint.budget.unit}s for anything useful to "
            "come out. Stop now and raise epsilon if there are fewer: nothing is spent yet."
        )
    for text in blueprint.warnings:
        warn(text)
    before_charge = partial(_check, blueprint, data) if check else None
    with _progress(blueprint, silent=json) as follow:
        result = complete(blueprint, data, ledger=ledger, create=create, progress=follow, before_charge=before_charge)
    for text in result.warnings:
        if text not in blueprint.warnings:  # those were told before
            warn(text)
    if result.stopped:
        warn(f"stopped early. {result.stopped}")
    if json:
        emit(summary(result))
    else:
        out.print(table(result))


def _at_a_terminal() -> bool:
    """Whether what is written to standard error is read by a person, who can answer; output may go to a file."""
    return sys.stderr.isatty() and sys.stdin.isatty()


def _check(blueprint: Blueprint, data: object) -> None:
    """Show what does not fit; at a terminal, ask about a run that is likely to be in vain."""
    from pe.cli.check import show
    from pe.errors import PEError
    from pe.synthesis import check_private

    report = check_private(blueprint.config.private, blueprint.schema, data)
    show(report, err)
    if report.alarming and _at_a_terminal():
        err.print("Go on, and spend the budget all the same? [y/N] ", end="", highlight=False, markup=False)
        if sys.stdin.readline().strip().casefold() not in ("y", "yes"):
            raise PEError("the run was stopped before its first charge. Nothing was spent.")


def summary(result: Synthetic) -> dict[str, object]:
    """Public facts of a finished run."""
    from pe.delivery import SIMULATED_CERTIFICATE, release_folder

    certificate, folder = result.certificate, release_folder(result.run, result.certificate)
    if result.simulated:
        facts = {"simulated": True, "seed": certificate["seed"]}
    else:
        facts = {**certificate["claim"], "epsilon_spent": certificate["spent"]["epsilon"]}
    return {
        "run": str(result.run),
        **facts,
        "iterations": certificate["iterations"],
        "rows": len(result),
        "files": [str(folder / name) for name in sorted(certificate["files"])],
        "certificate": str(folder / (SIMULATED_CERTIFICATE if result.simulated else "certificate.json")),
        "stopped": result.stopped,
        "warnings": list(result.warnings),
        **({} if result.usage is None else {"usage": asdict(result.usage)}),
    }


def table(result: Synthetic) -> object:
    """The summary as a rich table."""
    from rich.markup import escape
    from rich.table import Table

    from pe.delivery import release_folder

    facts = result.certificate
    iterations = facts["iterations"]
    shown = Table(
        title=escape(f"Synthetic data of source '{facts['source']}'"), show_header=False, title_justify="left"
    )
    if result.simulated:
        shown.add_row("claim", "none: simulated noise, nothing here is private")
    else:
        claim, spent = facts["claim"], facts["spent"]
        shown.add_row(
            "claim", f"({claim['epsilon']:g}, {claim['delta']:g})-DP per {claim['unit']}, {claim['adjacency']}"
        )
        shown.add_row("epsilon spent", f"{spent['epsilon']:.6g} of {claim['epsilon']:g}")
    if iterations["planned"]:
        shown.add_row("iterations", f"{iterations['completed']} of {iterations['planned']}")
    shown.add_row("rows", str(len(result)))
    if result.usage is not None:
        shown.add_row("API", str(result.usage))
    names = sorted(facts["files"])
    folders: dict[str, list[str]] = {}
    for name in names:
        folders.setdefault(name.split("/")[0] + ("/" if "/" in name else ""), []).append(name)
    listed = [first if len(all_) == 1 else f"{first} ({len(all_)} files)" for first, all_ in folders.items()]
    folder = release_folder(result.run, facts)
    certificate = [] if result.simulated else ["certificate.json"]
    shown.add_row(escape(f"files in {folder}"), escape("\n".join([*listed, *certificate])))
    return shown


class _progress:
    """A progress bar on standard error: iterations done, budget used, time left."""

    def __init__(self, blueprint: Blueprint, *, silent: bool) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        rounds = blueprint.plan.iterations
        self._bar = Progress(
            *(
                [TextColumn("iteration"), MofNCompleteColumn()]
                if rounds
                else [TextColumn("counting and drawing records")]
            ),
            BarColumn(),
            TextColumn("epsilon {task.fields[spent]:.3g} of {task.fields[budget]:g}{task.fields[distance]}"),
            TimeRemainingColumn(),
            console=err,
            disable=silent,
        )
        self._task = self._bar.add_task(
            "run", total=rounds or None, spent=0.0, budget=blueprint.budget.epsilon, distance=""
        )

    def __enter__(self) -> _progress:
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()

    def __call__(self, session: Session) -> None:
        generation = session.generation
        done = 0 if generation is None else generation.iteration
        if generation is not None and not session.blueprint.plan.rounds:
            self._bar.update(self._task, total=1)
            done = 1
        self._bar.start()  # once the run is open, so that an error before that stands alone
        distance = "" if session.distance is None else f", squared MMD {session.distance:.3g}"
        self._bar.update(self._task, completed=done, spent=session.account.epsilon_spent(), distance=distance)
