"""Evaluation on private records under the ledger: noisy counts, charged first, that may be published.

Three releases, each through ``pe.privacy.release`` on the account of the records' source:

model scores      each record adds one to "right" or "wrong" of each classifier trained on the synthetic table, so its
                  norm is the root of how many there are
marginals of one, of two columns   each record adds one to a cell of each set of columns

Training, thresholds and comparisons use the synthetic table and released counts alone. What a record adds depends on
that record alone: forests and boosting sum over trees, record by record, and linear models are computed in integers.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pe.arrays import to_numpy, to_table
from pe.coerce import coerce
from pe.delivery import Synthetic, load
from pe.errors import BudgetExceededError, ConfigError, SchemaError
from pe.evaluation import learners
from pe.evaluation.tables import Field, Frame, generic, generic_field
from pe.files import refusals, write_atomically
from pe.measure import Features, Marginals, measure
from pe.plan import noise_scales
from pe.privacy.accountant import add, fits
from pe.privacy.budget import Budget, Unit
from pe.privacy.contribution import Contribution
from pe.privacy.ledger import Account, Ledger, canonical, granted, spent
from pe.privacy.mechanism import DiscreteGaussian
from pe.privacy.release import release
from pe.private import PrivateDataset
from pe.read import read
from pe.schema import Schema

SHARES = {"model scores": 2.0, "marginals": 1.0, "pairs": 1.0}
"""How the budget is split."""

PAIR_CELLS = 4
"""Cells of a number in marginals of two columns: few, as every cell gets noise."""

MOST_PAIRS = 100
"""Pairs of columns, those with a target first."""

LARGEST_TABLE = 10_000
"""Cells of a pair's table; larger ones are left out."""


@dataclass(frozen=True)
class ChargedEvaluation:
    """Estimates from released counts, with the ledger entries that paid for them: ``facts`` may be published.

    ``warnings`` are for the owner of the ledger alone.
    """

    facts: dict[str, Any]
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return self.facts

    def save(self, folder: str | Path) -> Path:
        """Write ``charged.json``; raises RunError where one exists, as what it cost cannot be had back."""
        place = Path(folder) / "charged.json"
        with refusals(place):
            place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, (json.dumps(self.facts, indent=1, ensure_ascii=False) + "\n").encode(), once=True)
        return place


def evaluate_charged(
    synthetic: object,
    *,
    test: object,
    epsilon: float,
    delta: float,
    source: str | None = None,
    schema: Schema | str | Path | None = None,
    targets: str | Sequence[str] | None = None,
    ledger: str | Path | None = None,
    sample: int = 20_000,
    seed: int = 0,
) -> ChargedEvaluation:
    """Measure a *released* synthetic table on private records, at a cost of (epsilon, delta) to their source.

    synthetic  a ``Synthetic``, a run directory, or a table or file, which then needs ``schema``.
    test       private records of ``source``: those of the run, or others granted under that name.
    source     by default the run's. It must have been granted (epsilon, delta) beyond what was spent.
    targets    categorical columns; by default the label.
    sample     synthetic records that models are trained on.

    The guarantee is that of the source's budget: its adjacency, its accountant; budgets per user are refused. Raises
    BudgetExceededError before anything is spent.
    """
    learners.require_sklearn()
    if isinstance(synthetic, (str, Path)) and Path(synthetic).is_dir():
        synthetic = load(synthetic)
    head = None
    declared = schema if isinstance(schema, Schema) or schema is None else Schema.read(schema)
    if isinstance(synthetic, Synthetic):
        if synthetic.simulated:
            raise ConfigError("a simulation cannot be evaluated for publication: it is not private. Nothing was spent.")
        declared, source = declared or synthetic.schema, source or str(synthetic.certificate["source"])
        head = synthetic.certificate["head"]
        synthetic = synthetic.to_arrow()
    if declared is None or source is None:
        raise ConfigError("a charged evaluation of a table needs its schema and a source. Nothing was spent.")
    public = _Public.of(synthetic, declared, targets, sample, seed)

    book = Ledger(ledger)
    grant = granted(book.chain(source))
    if grant.unit is not Unit.RECORD:
        raise ConfigError(f"source '{source}' protects users: charged evaluation is per record. Nothing was spent.")
    budget = Budget(epsilon, delta, grant.adjacency, grant.unit, grant.accountant)
    digest = sha256(canonical([declared.to_toml(), [str(each) for each in public.targets], seed]).encode()).hexdigest()
    account = book.account(source, run=f"evaluation-{uuid.uuid4().hex}", budget=budget, config=digest)
    votes = [Contribution.of((1.0,) * each.bound_squared) for each in public.features.values()]
    scales = [sigma for sigma, _ in noise_scales(budget, [SHARES[name] for name in public.features], votes)]
    _check_affordable(account, votes, scales)

    private = PrivateDataset.read(test, declared, adjacency=budget.adjacency)
    _, others = book.bind(source, account.run, book.fingerprint(private.content_digest()))
    counts: dict[str, NDArray[np.float64]] = {}
    released = []
    for number, ((name, features), sigma) in enumerate(zip(public.features.items(), scales, strict=True), start=1):
        votes_cast = measure(private, features, adjacency=budget.adjacency)
        histogram = release(votes_cast, sigma, account=account, iteration=number)
        counts[name] = histogram.votes
        released.append({"counts": name, "bins": features.bins, "sigma": float(sigma), "entry": histogram.entry})
    facts = {
        "private": True,
        "statement": (
            f"Figures from noisy counts: ({epsilon:g}, {delta:g})-DP per {budget.unit} under {budget.adjacency} "
            f"adjacency for the test records of source '{source}'. It adds up with all else released from the source."
        ),
        "claim": budget.to_dict(),
        "spent": {"epsilon": account.epsilon_spent()},
        "source": source,
        "run": account.run,
        "releases": released,
        "synthetic": {"rows": public.rows, "certificate_head": head},
        **public.estimates(counts, dict(zip(public.features, map(float, scales), strict=True)), seed),
        "notes": list(public.notes),
    }
    warnings = (f"source '{other}' was charged for the same data: what both release adds up" for other in others)
    return ChargedEvaluation(facts, tuple(warnings))


def _check_affordable(account: Account, votes: Sequence[Contribution], scales: Sequence[Fraction]) -> None:
    """Refuse before the first release what the source cannot pay in full."""
    chain, budget = account.ledger.chain(account.source), account.budget
    total, grant = spent(chain), granted(chain)
    for each, sigma in zip(votes, scales, strict=True):
        mechanism = DiscreteGaussian(sigma * each.grid, each.sensitivity_squared(budget.adjacency))
        total = add(total, grant.accountant.cost(mechanism, budget.delta))
    if not fits(total, grant.limit):
        raise BudgetExceededError(
            f"with this evaluation source '{account.source}' would have spent epsilon {grant.epsilon_of(total):.4g} of "
            f"{grant.epsilon:g} at delta {grant.delta:g}: lower epsilon, or grant more with 'pe budget grant "
            f"{account.source}'. Nothing was spent."
        )


@dataclass(frozen=True)
class _Public:
    """Everything that does not depend on the private records: models, lists of cells, the synthetic histograms."""

    schema: Schema
    targets: tuple[str, ...]
    features: dict[str, Features]
    histograms: dict[str, list[NDArray[np.float64]]]
    rows: int
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls, synthetic: object, schema: Schema, targets: str | Sequence[str] | None, sample: int, seed: int
    ) -> _Public:
        arrays = coerce(read(synthetic, schema), schema)
        rows = len(next(iter(arrays.values())))
        if rows == 0:
            raise ConfigError("the synthetic table holds no records. Nothing was spent.")
        table = to_table(arrays, schema)
        labels = np.zeros(rows, np.int32) if schema.label is None else arrays[schema.label].astype(np.int32)
        chosen = (schema.label,) if targets is None else (targets,) if isinstance(targets, str) else tuple(targets)
        wanted = tuple(dict.fromkeys(name for name in chosen if name is not None))
        fields = [field for column in schema.columns if (field := generic_field(column, arrays[column.name]))]
        features: dict[str, Features] = {}
        if wanted:
            frame = Frame({field.name: generic(arrays[field.name], field) for field in fields}, rows)
            frame = frame.sample(sample, np.random.default_rng([seed, 0]))
            features["model scores"] = ModelScores.of(schema, fields, wanted, frame, seed)
        single = [(column.name,) for column in schema.columns if _has_cells(schema, column.name)]
        if not single:
            raise SchemaError("the schema has no column of numbers or categories. Nothing was spent.")
        features["marginals"] = Marginals(schema, tuple(single))
        pairs = [(a, b) for (a,), (b,) in combinations(single, 2)]
        fitting = [pair for pair in pairs if Marginals(schema, (pair,), cells=PAIR_CELLS).bins <= LARGEST_TABLE]
        kept = sorted(fitting, key=lambda pair: not set(pair) & set(wanted))[:MOST_PAIRS]
        notes = [f"{len(kept)} of {len(pairs)} pairs of columns were measured"] if len(kept) < len(pairs) else []
        if kept:
            features["pairs"] = Marginals(schema, tuple(kept), cells=PAIR_CELLS)
        histograms = {}
        for name, each in features.items():
            if isinstance(each, Marginals):
                bins, _ = each.vectors(table, labels)
                histograms[name] = each.tables(np.bincount(bins.reshape(-1), minlength=each.bins) / rows)
        return cls(schema, wanted, features, histograms, rows, tuple(notes))

    def estimates(self, counts: dict[str, NDArray[np.float64]], sigmas: dict[str, float], seed: int) -> dict[str, Any]:
        """Accuracies and total-variation distances from released counts: post-processing, free of charge."""
        sizes = []  # (how many records there are, by each release; its variance)
        for name, features in self.features.items():
            sets = features.bound_squared
            sizes.append((float(counts[name].sum()) / sets, features.bins * sigmas[name] ** 2 / sets**2))
        n = max(1.0, sum(size / variance for size, variance in sizes) / sum(1 / variance for _, variance in sizes))
        found: dict[str, Any] = {"test_records_estimate": round(n)}
        scores = self.features.get("model scores")
        if isinstance(scores, ModelScores):
            lines = []
            for (target, name, _), (right, wrong) in zip(
                scores.models, counts["model scores"].reshape(-1, 2).tolist(), strict=True
            ):
                accuracy = min(max(0.5 + (right - wrong) / (2 * n), 0.0), 1.0)
                noise = sigmas["model scores"] / (math.sqrt(2) * n)
                lines.append({"target": target, "model": name, "accuracy": accuracy, "noise_deviation": noise})
            found["models"] = lines
        rng = np.random.default_rng([seed, 5])
        for name, key in (("marginals", "tvd1"), ("pairs", "tvd2")):
            measured = self.features.get(name)
            if not isinstance(measured, Marginals):
                continue
            lines = []
            tables = measured.tables(counts[name])
            for names, noisy, made in zip(measured.columns, tables, self.histograms[name], strict=True):
                lines.append(
                    {
                        "columns": list(names),
                        "distance": _distance(noisy, made),
                        "noise_floor": _floor(made, n, sigmas[name], rng),
                    }
                )
            means = {part: float(np.mean([line[part] for line in lines])) for part in ("distance", "noise_floor")}
            found[key] = {"mean": means, "sets": lines}
        return found


def _distance(noisy: NDArray[np.float64], made: NDArray[np.float64]) -> float:
    kept = np.maximum(noisy, 0.0)
    total = float(kept.sum())
    real = kept / total if total else np.full(noisy.shape, 1 / noisy.size)
    return float(0.5 * np.abs(real - made).sum())


def _floor(made: NDArray[np.float64], n: float, sigma: float, rng: np.random.Generator) -> float:
    """The distance that noise alone shows on average: ``n`` records distributed exactly as the synthetic ones."""
    return float(np.mean([_distance(n * made + rng.normal(0, sigma, made.shape), made) for _ in range(20)]))


def _has_cells(schema: Schema, name: str) -> bool:
    try:
        return Marginals(schema, ((name,),)).bins > 0
    except ConfigError:
        return False


# -- what a record adds to the scores ------------------------------------------------------------------------------


class ModelScores:
    """One bin for right and one for wrong per classifier: a public map of each record, whatever its batch."""

    name = "model scores"
    grid = 1
    signed = False

    def __init__(
        self, schema: Schema, fields: Sequence[Field], models: Sequence[tuple[str, str, learners.Classifier]]
    ) -> None:
        self.schema, self.fields, self.models = schema, tuple(fields), tuple(models)

    @classmethod
    def of(
        cls, schema: Schema, fields: Sequence[Field], targets: Sequence[str], frame: Frame, seed: int
    ) -> ModelScores:
        """Train the classifiers of all targets on synthetic records."""
        models = []
        for name in targets:
            target = next((field for field in fields if field.name == name), None)
            if target is None or target.values is None:
                schema.column(name)
                raise ConfigError(f"target '{name}': a charged evaluation predicts categories. Nothing was spent.")
            trained = learners.train_classifiers(frame, target, fields, seed)
            if not trained:
                raise ConfigError(f"target '{name}': no synthetic record has a value. Nothing was spent.")
            for kind, model in trained.items():
                if kind == "random forest" and model.model is not None:
                    model.model.set_params(n_jobs=1)  # trees are summed in their order
                models.append((name, kind, model))
        return cls(schema, fields, models)

    @property
    def bins(self) -> int:
        return 2 * len(self.models)

    @property
    def bound_squared(self) -> int:
        return len(self.models)

    def vectors(self, table: pa.Table, labels: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        columns = {}
        for field in self.fields:
            own = field.name == self.schema.label
            values = labels if own else to_numpy(table, self.schema.column(field.name))
            columns[field.name] = generic(values, field)
        frame = Frame(columns, table.num_rows)
        wrong = [predictions(kind, model, frame) != frame[target] for target, kind, model in self.models]
        found = np.stack([2 * number + each for number, each in enumerate(wrong)], axis=1).astype(np.int64)
        return found, np.ones_like(found)


_FEATURE_STEPS, _MOST_SPREADS = 2**10, 2**6


def predictions(kind: str, model: learners.Classifier, frame: Frame) -> NDArray[np.int64]:
    """The predicted code of each record, int64 (n,); each depends on its record alone.

    A matrix product in floating point rounds differently in another batch. The linear model's features and weights are
    rounded to integers so small that no sum leaves float64's exact range.
    """
    if kind != "logistic regression" or model.model is None or frame.rows == 0:
        found: NDArray[np.int64] = model.probabilities(frame).argmax(axis=1).astype(np.int64)
        return found
    weights = np.asarray(model.model.coef_, np.float64)
    intercept = np.asarray(model.model.intercept_, np.float64)
    largest = float((np.abs(weights).sum(axis=1) * _MOST_SPREADS + np.abs(intercept)).max()) * _FEATURE_STEPS
    scale = 2.0 ** min(16, math.floor(math.log2(2**51 / max(largest, 1e-9))))
    spreads = np.clip(model.encoding(frame), -_MOST_SPREADS, _MOST_SPREADS)
    features = np.rint(spreads * _FEATURE_STEPS)
    scores = features @ np.rint(weights * scale).T + np.rint(intercept * scale * _FEATURE_STEPS)
    place = (scores[:, 0] > 0).astype(np.int64) if scores.shape[1] == 1 else scores.argmax(axis=1)
    codes: NDArray[np.int64] = np.asarray(model.model.classes_, np.int64)[place]
    return codes
