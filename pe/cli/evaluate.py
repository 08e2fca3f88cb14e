"""``pe evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pe.cli.output import emit, warn
from pe.cli.output import out as console

if TYPE_CHECKING:
    from pe.evaluation import Evaluation


def evaluate(
    synthetic: Path,
    *,
    test: Path,
    train: Path | None = None,
    holdout: Path | None = None,
    schema: Path | None = None,
    target: list[str] | None = None,
    bins: Literal["domain", "range", "quantiles"] | None = None,
    sample: int = 20_000,
    seed: int = 0,
    out: Path | None = None,
    epsilon: float | None = None,
    delta: float | None = None,
    source: str | None = None,
    ledger: Path | None = None,
    json: bool = False,
) -> None:
    """Measure a synthetic table against real records, and write a report. What comes out is NOT private.

    Models trained on synthetic and tested on real records, marginals, correlations, a classifier two-sample test, and
    with --train upper bounds and the distance to the closest record. Written to the run's folder "nonprivate", never
    into a release. Needs scikit-learn and matplotlib: pip install 'pe-synth[evaluate]'.

    With --epsilon and --delta instead: noisy accuracies and marginals of the test records, charged to their source,
    which may be published. Written to the run's folder "evaluation".

    Parameters
    ----------
    synthetic
        A run directory, or a file: CSV, TSV, Parquet, Arrow or npz.
    test
        Real records that took no part in the run.
    train
        The records of the run.
    holdout
        Real records to compare with train for closeness; by default the test records.
    schema
        The schema as a TOML file; by default the run's, else column kinds are found from the tables.
    target
        A column to predict; repeat for several. By default the label.
    bins
        How numbers are cut for marginals: by the declared domain, the real range, or quantiles.
    sample
        Records of each table that models and distances use.
    seed
        Seed of sampling and models.
    out
        Folder for report and figures; one whose name does not say "nonprivate" gets a folder of that name inside. By
        default the run's own; required for a file.
    epsilon
        Measure under the ledger, at this cost to the source of the test records.
    delta
        The delta of --epsilon.
    source
        The source that pays; by default the run's.
    ledger
        The ledger file; by default PE_LEDGER, else the user's data directory.
    json
        Print one JSON object instead of a table.
    """
    from pe.errors import ConfigError
    from pe.evaluation import evaluate as measure

    if not synthetic.exists():
        raise ConfigError(f"{synthetic} does not exist: expected a run directory or a table.")
    if epsilon is not None or delta is not None:
        if epsilon is None or delta is None or train or holdout or bins:
            raise ConfigError(
                "a charged evaluation needs --epsilon and --delta, and takes no --train, --holdout or --bins. "
                "Nothing was spent."
            )
        _charged(synthetic, test, (epsilon, delta), source, schema, target, ledger, sample, seed, out, json)
        return
    if source is not None or ledger is not None:
        raise ConfigError("--source and --ledger belong to a charged evaluation: give --epsilon and --delta as well.")
    folder = destination(synthetic, out)
    if folder is None:
        raise ConfigError("--out must name a folder for the report of a file, such as --out nonprivate.")
    found = measure(
        synthetic,
        test=test,
        train=train,
        holdout=holdout,
        schema=schema,
        targets=target or None,
        bins=bins,
        sample=sample,
        seed=seed,
    )
    written = found.save(folder)
    if json:
        emit({**found.to_dict(), "files": [str(path) for path in written]})
    else:
        _show(found, written)


def _charged(
    synthetic: Path,
    test: Path,
    cost: tuple[float, float],
    source: str | None,
    schema: Path | None,
    target: list[str] | None,
    ledger: Path | None,
    sample: int,
    seed: int,
    folder: Path | None,
    json: bool,
) -> None:
    from pe.errors import ConfigError
    from pe.evaluation import evaluate_charged
    from pe.files import refusals

    if folder is None and not synthetic.is_dir():
        raise ConfigError("--out must name a folder for the figures of a file. Nothing was spent.")
    place = folder or synthetic / "evaluation"
    if (place / "charged.json").exists():
        raise ConfigError(f"{place / 'charged.json'} exists already: name another --out. Nothing was spent.")
    with refusals(place):  # before anything is spent
        place.mkdir(parents=True, exist_ok=True)
    found = evaluate_charged(
        synthetic,
        test=test,
        epsilon=cost[0],
        delta=cost[1],
        source=source,
        schema=schema,
        targets=target or None,
        ledger=ledger,
        sample=sample,
        seed=seed,
    )
    written = found.save(place)
    for text in found.warnings:
        warn(text)
    if json:
        emit({**found.to_dict(), "files": [str(written)]})
        return
    facts = found.to_dict()
    for line in facts.get("models", []):
        noise = f"(noise {line['noise_deviation']:.3f})"
        console.print(f"accuracy of {line['model']} for {line['target']}: {line['accuracy']:.3f} {noise}", markup=False)
    for key in ("tvd1", "tvd2"):
        if key in facts:
            mean = facts[key]["mean"]
            noise = f"(noise alone {mean['noise_floor']:.3f})"
            console.print(f"mean total-variation distance, {key}: {mean['distance']:.3f} {noise}", markup=False)
    console.print(facts["statement"], markup=False, highlight=False)
    console.print(str(written), markup=False, highlight=False)


def destination(synthetic: Path, chosen: Path | None) -> Path | None:
    """Where an evaluation goes: a folder that says that it is not private, checked before anything is measured."""
    from pe.evaluation.result import NONPRIVATE, fenced

    if chosen is None:
        if not synthetic.is_dir():
            return None
        chosen = synthetic
    folder = chosen if NONPRIVATE in chosen.resolve().name.lower() else chosen / NONPRIVATE
    fenced(folder / "evaluation.json")
    return folder


def _show(found: Evaluation, written: list[Path]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from pe.evaluation import WARNING
    from pe.evaluation.report import headline

    shown = Table(title="Evaluation: NOT PRIVATE", title_justify="left")
    for name in ("", "found", "best", "what it says"):
        shown.add_column(name)
    for line in headline(found):
        shown.add_row(*map(escape, line))
    console.print(shown)
    for note in found.notes:
        console.print(f"{note}.", highlight=False, markup=False)
    for path in written:
        console.print(str(path), highlight=False, markup=False)
    warn(WARNING)
