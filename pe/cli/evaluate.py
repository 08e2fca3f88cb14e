"""``pe evaluate``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pe.cli.output import emit, err, warn
from pe.cli.output import out as console

if TYPE_CHECKING:
    from pe.evaluation import Evaluation
    from pe.evaluation.text import Embeddings


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
    language_model: Path | None = None,
    classifier: Path | None = None,
    epsilon: float | None = None,
    delta: float | None = None,
    metric: list[str] | None = None,
    source: str | None = None,
    user: str | None = None,
    again: bool = False,
    ledger: Path | None = None,
    json: bool = False,
) -> None:
    """Measure a synthetic table against real records, and write a report. What comes out is NOT private.

    Models trained on synthetic and tested on real records, marginals, correlations, a classifier two-sample test, and
    with --train upper bounds and the distance to the closest record. Of columns of free text: classifiers of their
    labels, next-token accuracy, precision and recall, MAUVE, distances, lengths, variety, and with --train a check for
    memorised texts; that needs pip install 'pe-synth[text]'. Written to the run's folder "nonprivate", never
    into a release. Needs scikit-learn and matplotlib: pip install 'pe-synth[evaluate]'.

    With --epsilon and --delta instead: noisy scores and marginals of the test records, charged to their source, which
    may be published. Written to the run's folder "evaluation", with a certificate. The same command again pays nothing.

    Parameters
    ----------
    synthetic
        A run directory, or a file: CSV, TSV, JSON Lines, Parquet, Arrow or npz.
    test
        Real records that took no part in the run.
    train
        The records of the run.
    holdout
        Real records to compare with train for closeness; by default the test records.
    schema
        The schema as a TOML file; by default the run's, else column kinds are found from the tables.
    target
        A column to predict; repeat for several. By default the label, and the targets declared for the run; from text
        all columns of at most 50 categories.
    bins
        How numbers are cut for marginals: by the declared domain, the real range, or quantiles.
    sample
        Records of each table that models and distances use; of texts at most 5,000.
    seed
        Seed of sampling and models.
    out
        Folder for report and figures; one whose name does not say "nonprivate" gets a folder of that name inside. By
        default the run's own; required for a file.
    language_model
        A folder with a causal language model to fine-tune for next-token accuracy; by default an n-gram model.
    classifier
        A folder with a small transformer to fine-tune as a classifier of texts, beside logistic regression.
    epsilon
        Measure under the ledger, at this cost to the source of the test records.
    delta
        The delta of --epsilon.
    metric
        With --epsilon, what to buy; repeat for several, by default all: models, marginals, pairs; of free text
        classifiers, next-token, recall, lengths, clusters.
    source
        The source that pays; by default the run's.
    user
        With --epsilon, where the source protects users: the column that says whose record it is; by default the run's.
    again
        With --epsilon: pay once more where an earlier charge was lost in a crash, or the test records changed since.
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
        if epsilon is None or delta is None or train or holdout or bins or language_model or classifier:
            raise ConfigError(
                "a charged evaluation needs --epsilon and --delta, and takes no --train, --holdout, --bins, "
                "--language-model or --classifier. Nothing was spent."
            )
        if out is None and not synthetic.is_dir():
            raise ConfigError("--out must name a folder for the figures of a file. Nothing was spent.")
        settings: dict[str, Any] = {"schema": schema, "targets": target or None, "source": source, "user": user}
        settings |= {"ledger": ledger, "sample": sample, "seed": seed, "again": again, "metrics": metric or None}
        _charged(synthetic, test, epsilon, delta, out or synthetic / "evaluation", settings, json)
        return
    if source is not None or ledger is not None or user is not None or again or metric:
        raise ConfigError(
            "--source, --user, --ledger, --metric and --again belong to a charged evaluation: give --epsilon and "
            "--delta as well."
        )
    folder = destination(synthetic, out)
    if folder is None:
        raise ConfigError("--out must name a folder for the report of a file, such as --out nonprivate.")
    with _embedding(silent=json) as embeddings:
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
            embeddings=embeddings,
            language_model=language_model,
            classifier=classifier,
        )
    written = found.save(folder)
    if json:
        emit({**found.to_dict(), "files": [str(path) for path in written]})
    else:
        _show(found, written)


@contextmanager
def _embedding(*, silent: bool) -> Iterator[Embeddings]:
    """What embeds texts, with a bar on standard error that appears when there are any."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from pe.evaluation.text import Embeddings

    columns = (TextColumn("embedding texts"), TaskProgressColumn(), BarColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=err, disable=silent)
    task = bar.add_task("embedding", total=1.0)

    def show(share: float) -> None:
        bar.start()
        bar.update(task, completed=share)

    try:
        yield Embeddings(progress=show)
    finally:
        if bar.live.is_started:
            bar.stop()


def _charged(
    synthetic: Path, test: Path, epsilon: float, delta: float, folder: Path, settings: dict[str, Any], json: bool
) -> None:
    from pe.evaluation import evaluate_charged
    from pe.files import refusals

    with refusals(folder):  # before anything is spent
        folder.mkdir(parents=True, exist_ok=True)
    found = evaluate_charged(synthetic, test=test, epsilon=epsilon, delta=delta, out=folder, **settings)
    written = found.save(folder)
    for text in found.warnings:
        warn(text)
    facts = found.to_dict()
    if json:
        emit({**facts, "files": [str(path) for path in written]})
        return
    for line in facts.get("models", []):
        shown = [
            f"{score} {_figure(line[score])} (noise {_figure(noise)})"
            for score, noise in (
                [("accuracy", line["noise_deviation"])] if "accuracy" in line else line["noise_deviation"].items()
            )
        ]
        console.print(f"{line['model']} for {line['target']}: {', '.join(shown)}", markup=False, highlight=False)
    for key in ("tvd1", "tvd2"):
        if key in facts:
            mean = facts[key]["mean"]
            noise = f"(noise alone {mean['noise_floor']:.3f})"
            console.print(f"mean total-variation distance, {key}: {mean['distance']:.3f} {noise}", markup=False)
    for column, parts in facts.get("texts", {}).items():
        for name, part in parts.items():
            key = next(iter(part))
            noise = (
                f"noise alone {part['noise_floor']:.3f}"
                if key == "distance"
                else f"noise {part['noise_deviation']:.3f}"
            )
            label = name.replace("_", " ") if key == name else f"{name.replace('_', ' ')} {key}"
            console.print(f"{label} of {column}: {part[key]:.3f} ({noise})", markup=False, highlight=False)
    console.print(facts["statement"], markup=False, highlight=False)
    for path in written:
        console.print(str(path), markup=False, highlight=False)


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}" if abs(value) < 1000 else f"{value:.4g}"


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
