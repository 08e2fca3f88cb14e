"""``pe.evaluate``: a synthetic table against real ones. What comes out is not private."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from pe.data.schema import Schema
from pe.errors import ConfigError
from pe.evaluation import learners
from pe.evaluation.association import association, difference
from pe.evaluation.closeness import Closeness, closeness
from pe.evaluation.gaps import order_gaps
from pe.evaluation.marginals import Bins, Cells, Coded, mean_distance, shares, subsets
from pe.evaluation.result import Correlation, Distances, Evaluation, Marginal, Utility
from pe.evaluation.tables import Field, Frame, Tables, align
from pe.shield import shielded

if TYPE_CHECKING:
    from pe.evaluation.text import Embeddings, TextFigures

SAMPLE = 20_000
"""Records of each table that models are trained on and tested with, and that distances are sought among."""

MARGINAL_SAMPLES = 10
"""Marginals and correlations use up to so many times as many records."""

MOST_CORRELATED = 100
"""Columns whose pairwise associations are computed; of more, so many are drawn."""


def evaluate(
    synthetic: object,
    *,
    test: object,
    train: object = None,
    holdout: object = None,
    schema: Schema | str | Path | None = None,
    targets: str | Sequence[str] | None = None,
    bins: Bins | None = None,
    sample: int = SAMPLE,
    seed: int = 0,
    embeddings: Embeddings | None = None,
    language_model: str | Path | None = None,
    classifier: str | Path | None = None,
) -> Evaluation:
    """Measure how useful a synthetic table is, and how close it comes to the records it was made from.

    synthetic  a ``Synthetic``, a run directory, or a table: a file (CSV, Parquet, Arrow, npz), an Arrow table, a
               DataFrame, arrays by name. The other tables may be any of the latter.
    test       real records that took no part in making the synthetic ones.
    train      the records it was made from: adds upper bounds, baselines and the distance to the closest record.
    holdout    real records to compare with train for closeness; by default the test records.
    schema     declared columns; by default the run's, else kinds are found from the tables (``pe.evaluation.tables``).
    targets    columns that models predict; by default the label of the schema, from text every column of at most 50
               categories. Categories are classified, numbers regressed.
    bins       how numbers are cut for marginals: "domain" (16 equal cells of the declared domain; the default with a
               schema), "range" (16 equal cells of the reference table's range; the default without) or "quantiles".
    sample     records of each table used by models and for distances; ten times as many for marginals. Larger tables
               are sampled without replacement, so that time is bounded; all figures repeat for a ``seed``. Of texts
               at most 5,000 are embedded.
    embeddings, language_model, classifier   for columns of free text: ``pe.evaluation.text.measure``.

    Models are tested on records that have the target (Esteban et al. 2017: train on synthetic, test on real). Real
    records enter without noise: nothing that comes out is private. Raises ConfigError, SchemaError or
    PrivateDataError; no text quotes a value.
    """
    learners.require_sklearn()
    if bins is not None and bins not in get_args(Bins):
        raise ConfigError(f"expected bins {', '.join(map(repr, get_args(Bins)))}, got {bins!r}.")
    if sample < 1 or seed < 0:
        raise ConfigError(f"expected sample >= 1 and seed >= 0, got {sample} and {seed}.")
    tables = align(
        synthetic,
        test=test,
        train=train,
        holdout=holdout,
        schema=schema if isinstance(schema, Schema) or schema is None else Schema.read(schema),
        targets=None if targets is None else (targets,) if isinstance(targets, str) else tuple(targets),
    )
    chosen: Bins = bins or ("domain" if tables.declared else "range")
    models = {"embeddings": embeddings, "language_model": language_model, "classifier": classifier}
    work = _Work(tables, chosen, sample, seed, targets is not None, models)
    return shielded("evaluating", work.evaluation, "Please report it, with the kinds of the columns.")


class _Work:
    """One evaluation at work; every part draws from the seed by itself."""

    def __init__(
        self, tables: Tables, bins: Bins, sample: int, seed: int, asked: bool, models: Mapping[str, Any]
    ) -> None:
        self.tables, self.bins, self.limit, self.seed = tables, bins, sample, seed
        self.asked, self.models = asked, models
        self.notes = list(tables.notes)
        self.fields = tables.fields
        self.whole = not tables.texts or any(each.values is None for each in tables.fields)
        roles = {"synthetic": tables.synthetic, "test": tables.test, "train": tables.train, "holdout": tables.holdout}
        self.given = {role: frame for role, frame in roles.items() if frame is not None}

    def evaluation(self) -> Evaluation:
        wide = {role: self._sampled(frame, role, MARGINAL_SAMPLES * self.limit) for role, frame in self.given.items()}
        small = {role: self._sampled(frame, role, self.limit) for role, frame in self.given.items()}
        distances, marginals = self._marginals(wide)
        two, close, utility = self._compared(small) if self.whole else (None, None, [])
        texts: dict[str, TextFigures] = {}
        if self.tables.texts:
            from pe.evaluation.text.tables import measure_tables

            texts, notes = measure_tables(self.tables, self.asked, self.limit, self.seed, self.models)
            self.notes += notes
        for role, frame in self.given.items():
            if frame.rows > self.limit:
                self.notes.append(
                    f"models and distances use {self.limit} of the {frame.rows} records of the {role} table, marginals "
                    f"{wide[role].rows}"
                )
        return Evaluation(
            {role: frame.rows for role, frame in self.given.items()},
            {field.name: field.kind for field in self.fields} | dict.fromkeys(self.tables.texts, "text"),
            {"seed": self.seed, "bins": self.bins, "sample": self.limit},
            tuple(each for each in utility if each is not None),
            distances,
            marginals,
            self._correlation(wide),
            two,
            close,
            tuple(self.notes),
            texts,
            order_gaps(self.tables, wide),
        )

    def _compared(
        self, small: dict[str, Frame]
    ) -> tuple[learners.TwoSample | None, Closeness | None, list[Utility | None]]:
        """What sees all columns at once."""
        two = learners.two_sample(small["synthetic"], small["test"], self.fields, self.limit, self.seed)
        if two is None:
            self.notes.append("no two-sample test: it needs two synthetic and two test records")
        close = None
        if "train" in small:
            given = self.given
            other = given.get("holdout", given["test"])
            close = closeness(given["synthetic"], given["train"], other, self.fields, self.limit, self.seed)
        else:
            self.notes.append("no distances to training records, upper bounds or baselines: no training records")
        return two, close, [self._utility(self.tables.field(target), small) for target in self.tables.targets]

    def _sampled(self, frame: Frame, role: str, limit: int) -> Frame:
        return frame.sample(limit, np.random.default_rng([self.seed, 0, *role.encode()]))

    def _marginals(self, frames: dict[str, Frame]) -> tuple[dict[str, Distances], tuple[Marginal, ...]]:
        pairs = {"test": ("synthetic", "test")}
        if "train" in frames:
            pairs |= {"train": ("synthetic", "train"), "train to test": ("train", "test")}
        found: dict[str, Distances] = {}
        marginals: list[Marginal] = []
        for name, (role, reference) in pairs.items():
            cells = [Cells.of(field, frames[reference], self.bins) for field in self.fields]
            coded, real = Coded.of(frames[role], cells), Coded.of(frames[reference], cells)
            rng = np.random.default_rng([self.seed, 3])
            found[name] = {f"tvd{k}": mean_distance(real, coded, subsets(cells, k, rng)) for k in (1, 2, 3)}
            if name == "test":
                marginals = [
                    Marginal(each.field.name, each.names(), shares(real, each), shares(coded, each), each.ticks())
                    for each in cells
                ]
        return found, tuple(marginals)

    def _correlation(self, frames: dict[str, Frame]) -> Correlation:
        fields: Sequence[Field] = self.fields
        if len(fields) > MOST_CORRELATED:
            rng = np.random.default_rng([self.seed, 4])
            drawn = np.sort(rng.choice(len(fields), MOST_CORRELATED, replace=False))
            fields = [fields[index] for index in drawn]
            self.notes.append(f"correlations are those of {MOST_CORRELATED} columns, drawn")
        real, made = (association(frames[role], fields) for role in ("test", "synthetic"))
        return Correlation(tuple(field.name for field in fields), real, made, difference(real, made))

    def _utility(self, target: Field, frames: dict[str, Frame]) -> Utility | None:
        """Models of one target; None, with a note, where no record has it."""
        values = frames["test"][target.name]
        test = frames["test"].take(np.flatnonzero(np.isfinite(values) if target.values is None else values >= 0))
        if test.rows == 0:
            self.notes.append(f"target '{target.name}': no test record has a value")
            return None
        score = self._regressed if target.values is None else self._classified
        made = score(frames["synthetic"], test, target)
        if not made:
            self.notes.append(f"target '{target.name}': no synthetic record has a value")
            return None
        kind = "regression" if target.values is None else "classification"
        if "train" not in frames:
            return Utility(target.name, kind, made, None, None)
        real = score(frames["train"], test, target)
        return Utility(target.name, kind, made, real or None, _baseline(frames["train"], test, target))

    def _classified(self, training: Frame, test: Frame, target: Field) -> dict[str, Any]:
        models = learners.train_classifiers(training, target, self.fields, self.seed)
        return {
            name: learners.classification(model.probabilities(test), test[target.name])
            for name, model in models.items()
        }

    def _regressed(self, training: Frame, test: Frame, target: Field) -> dict[str, Any]:
        models = learners.train_regressors(training, target, self.fields, self.seed)
        return {name: learners.regression(model.predict(test), test[target.name]) for name, model in models.items()}


def _baseline(training: Frame, test: Frame, target: Field) -> dict[str, float | None] | None:
    """The majority class, or the mean, of the training records; None where none has the target."""
    values = training[target.name]
    if target.values is None:
        values = values[np.isfinite(values)]
        guess = np.full(test.rows, values.mean() if len(values) else 0.0)
        return learners.regression(guess, test[target.name]) if len(values) else None
    values = values[values >= 0]
    if len(values) == 0:
        return None
    scores = np.tile(np.bincount(values, minlength=len(target.values)) / len(values), (test.rows, 1))
    return learners.classification(scores, test[target.name])
