"""Evaluation on private records under the ledger: noisy counts, charged first, that may be published.

Up to three releases, and one per column of free text, each through ``pe.privacy.release`` on the account of the
records' source:

model scores      each record adds to a few bins per model trained on the synthetic table (``contributions``)
marginals of one, of two columns   each record adds one to a cell of each set of columns
text scores       each record adds at most one to each of a few parts (``pe.evaluation.text.charged``)

Where the source protects users, all that a user's records add to one release is scaled down together: figures then
weigh users, not records. Training, thresholds and comparisons use the synthetic table and released counts alone. The
same evaluation is paid for once (``pe.orders``), and its figures have a certificate like that of a release.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pe.data.arrays import to_table
from pe.data.coerce import coerce
from pe.data.labels import label_codes
from pe.data.read import read
from pe.data.schema import Schema, Text
from pe.delivery import Synthetic, load
from pe.errors import CertificateError, ConfigError, RunError, SchemaError
from pe.evaluation import learners
from pe.evaluation.contributions import ModelScores
from pe.evaluation.tables import Frame, generic, generic_field
from pe.evolution.plan import noise_scales
from pe.files import refusals, write_atomically
from pe.orders import ordered
from pe.privacy.accountant import Cost, add
from pe.privacy.budget import Budget, Unit
from pe.privacy.certificate import certificate_bytes, digests
from pe.privacy.contribution import Contribution
from pe.privacy.ledger import Ledger, granted
from pe.privacy.mechanism import DiscreteGaussian
from pe.private.dataset import PrivateDataset
from pe.private.measure import Marginals, measure
from pe.run import stored_config

if TYPE_CHECKING:
    from pe.evaluation.text.charged import TextScores

FIGURES = "charged.json"

TABLES = {"models": "model scores", "marginals": "marginals", "pairs": "pairs"}
"""Metrics of tables that may be bought, and the releases they come from."""

SHARES = {"model scores": 2.0, "marginals": 1.0, "pairs": 1.0, "text scores": 3.0}
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

    ``certificate`` covers them as a release's does its files. ``warnings`` are for the owner of the ledger alone.
    """

    facts: dict[str, Any]
    certificate: dict[str, Any] = field(repr=False)
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return self.facts

    def save(self, folder: str | Path) -> list[Path]:
        """Write ``charged.json`` and its ``certificate.json``; raises RunError where another evaluation's lie."""
        place = Path(folder) / FIGURES
        refuse_others(place, self.facts["run"])
        content = _content(self.facts)
        if self.certificate["files"] != digests({FIGURES: content}):
            raise CertificateError("the figures were changed after they were certified: evaluate again; it is free.")
        with refusals(place):
            place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, content)
        write_atomically(place.with_name("certificate.json"), certificate_bytes(self.certificate))
        return [place, place.with_name("certificate.json")]


def _content(facts: dict[str, Any]) -> bytes:
    return (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode()


def refuse_others(place: Path, run: str) -> None:
    """Raise RunError where the figures of another evaluation than ``run``, or another release, lie already."""
    other = place.with_name("certificate.json")
    if not place.exists() and not other.exists():
        return
    try:
        same = json.loads(place.read_text(encoding="utf-8"))["run"] == run
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise RunError(
            f"{place if place.exists() else other} exists already, from another evaluation or release: name another "
            "folder (--out). Nothing was spent by this call."
        )


def check_figures(certificate: Mapping[str, Any], folder: Path) -> str:
    """Compare a charged evaluation's figures with the ledger entries in its certificate; a sentence on what holds.

    Raises CertificateError. The digest of the file is compared by ``pe.privacy.certificate.verify``.
    """
    try:
        facts = json.loads((folder / FIGURES).read_text(encoding="utf-8"))
        entries = {row["hash"]: row for row in certificate["entries"] if row["kind"] == "reserve"}
        for release in facts["releases"]:
            row = entries.get(release["entry"])
            sigma = None if row is None else float(Fraction(row["sigma"]) / row["grid"])
            if row is None or (row["run"], row["bins"], sigma) != (
                certificate["run"],
                release["bins"],
                release["sigma"],
            ):
                raise CertificateError(
                    f"the {release['counts']} in {FIGURES} are not what the ledger's entry paid for."
                )
        if facts["claim"] != certificate["claim"] or facts["run"] != certificate["run"]:
            raise CertificateError(f"{FIGURES} claims something else than its certificate.")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CertificateError(f"{FIGURES} is malformed ({type(error).__name__}).") from None
    return f"{len(facts['releases'])} releases behind {FIGURES}, each charged in the ledger's entries"


def evaluate_charged(
    synthetic: object,
    *,
    test: object,
    epsilon: float,
    delta: float,
    source: str | None = None,
    schema: Schema | str | Path | None = None,
    targets: str | Sequence[str] | None = None,
    user: str | None = None,
    user_norm: float = 1.0,
    ledger: str | Path | None = None,
    sample: int = 20_000,
    seed: int = 0,
    out: str | Path | None = None,
    again: bool = False,
    metrics: Sequence[str] | None = None,
) -> ChargedEvaluation:
    """Measure a *released* synthetic table on private records, at a cost of (epsilon, delta) to their source.

    synthetic  a ``Synthetic``, a run directory, or a table or file, which then needs ``schema``.
    test       private records of ``source``: those of the run, or others granted under that name.
    source     by default the run's. It must have been granted (epsilon, delta) beyond what was spent.
    targets    columns that models predict, categories or numbers; by default the label's, and those the run declared.
    user       where the source protects users: the column that says whose record it is; by default the run's. What all
               records of a user add is scaled down to that of ``user_norm`` records.
    sample     synthetic records that models are trained on.
    out        where the figures are to be saved: refused beforehand if others lie there.
    again      pay once more where the charge of an earlier call was lost in a crash, or the test records changed since.
    metrics    what to buy: "models", "marginals", "pairs"; of free text "classifiers", "next-token", "recall",
               "lengths", "clusters". By default all; the fewer, the less noise. Other metrics of text cannot be bought:
               one record may move them by any amount.

    The guarantee is that of the source's budget: its adjacency, unit and accountant. The same evaluation is paid for
    once: a repeated call goes on with the stored noisy counts. Raises BudgetExceededError before anything is spent.
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
        config = stored_config(synthetic.run)
        user = user or config["private"].get("user")
        if targets is None:
            targets = (*declared.label_columns, *config["evolution"].get("targets", []))
        head = synthetic.certificate["head"]
        synthetic = synthetic.to_arrow()
    if declared is None or source is None:
        raise ConfigError(
            "a charged evaluation of a table needs its schema and a source (--schema, --source). Nothing was spent."
        )
    public = _Public.of(synthetic, declared, targets, sample, seed, bought(metrics))

    book = Ledger(ledger)
    grant = granted(book.chain(source))
    if (grant.unit is Unit.USER) != (user is not None):
        raise ConfigError(
            f"source '{source}' protects {grant.unit}s: "
            + ("name the column that says whose record it is (--user)." if user is None else "leave 'user' out.")
            + " Nothing was spent."
        )
    budget = Budget(epsilon, delta, grant.adjacency, grant.unit, grant.accountant)
    public, scales, cost = public.priced(budget, user_norm if user is not None else None)
    asked = [declared.to_toml(), public.digest, list(public.targets), [user, user_norm], sample, seed]
    asked += [] if metrics is None else [sorted(bought(metrics))]
    with ordered(book, source, "evaluation", asked, budget, again=again) as order:
        order.settle(cost)
        if out is not None:
            refuse_others(Path(out) / FIGURES, order.run)
        private = PrivateDataset.read(test, declared, adjacency=budget.adjacency, user=user)
        warnings = order.bind(private, cost)
        counts: dict[str, NDArray[np.float64]] = {}
        answers: dict[str, bytes] = {}
        released = []
        for number, (name, features) in enumerate(public.features.items(), start=1):
            votes = measure(private, features, adjacency=budget.adjacency, norm=public.norms[name])
            histogram = order.release(votes, scales[name], number)
            counts[name], answers[name] = histogram.votes, histogram.counts.tobytes()
            sigma = float(histogram.sigma)
            released.append({"counts": name, "bins": features.bins, "sigma": sigma, "entry": histogram.entry})
    weight = " Each user counts for so much together as one record may, however many they have." if user else ""
    facts = {
        "private": True,
        "statement": (
            f"Figures from noisy counts: ({epsilon:g}, {delta:g})-DP per {budget.unit} under {budget.adjacency} "
            f"adjacency for the test records of source '{source}'. It adds up with all else released from the source."
            f"{weight}"
        ),
        "claim": budget.to_dict(),
        "spent": {"epsilon": order.account.epsilon_spent()},
        "source": source,
        "run": order.run,
        "releases": released,
        "synthetic": {"rows": public.rows, "certificate_head": head},
        **public.estimates(counts, {name: float(sigma) for name, sigma in scales.items()}, seed),
        "notes": list(public.notes),
    }
    certificate = order.certify({FIGURES: _content(facts)}, answers, _declared_public(head, private.public_form))
    return ChargedEvaluation(facts, certificate, warnings)


def _declared_public(head: str | None, files: Sequence[str]) -> list[str]:
    table = "" if head is None else f", released under the ledger entry {head[:16]}"
    return [
        "the schema: the names and types of its columns, the bounds of every number, the list of every category",
        f"the synthetic table that was evaluated{table}, and the models trained on it",
        "the settings of the evaluation: targets, seed, noise scales, epsilon and delta",
        *files,
    ]


def bought(metrics: Sequence[str] | None) -> frozenset[str]:
    """The metrics asked for, all by default; raises ConfigError for those that cannot be bought."""
    from pe.evaluation.text.charged import PARTS, UNBOUNDED

    may = (*TABLES, *PARTS)
    for name in metrics or ():
        if name not in may:
            why = "one record may move it by any amount" if name in UNBOUNDED else "it is unknown"
            raise ConfigError(f"'{name}' cannot be bought: {why}. Expected {', '.join(may)}. Nothing was spent.")
    return frozenset(metrics or may)


Measured: TypeAlias = "ModelScores | Marginals | TextScores"


@dataclass(frozen=True)
class _Public:
    """Everything that does not depend on the private records: models, lists of cells, the synthetic histograms.

    norms  the norm to which a user is scaled down in each release, in votes; None per record.
    """

    targets: tuple[str, ...]
    features: dict[str, Measured]
    histograms: dict[str, list[NDArray[np.float64]]]
    rows: int
    digest: str
    notes: tuple[str, ...]
    norms: dict[str, float | None] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        synthetic: object,
        schema: Schema,
        targets: str | Sequence[str] | None,
        sample: int,
        seed: int,
        metrics: frozenset[str] | None = None,
    ) -> _Public:
        metrics = bought(None) if metrics is None else metrics
        arrays = coerce(read(synthetic, schema), schema)
        rows = len(next(iter(arrays.values())))
        if rows == 0:
            raise ConfigError("the synthetic table holds no records. Nothing was spent.")
        table = to_table(arrays, schema)
        labels = label_codes(arrays, schema)
        chosen = schema.label_columns if targets is None else (targets,) if isinstance(targets, str) else targets
        wanted = tuple(dict.fromkeys(chosen))
        fields = [field for column in schema.columns if (field := generic_field(column, arrays[column.name]))]
        texts = [column for column in schema.columns if isinstance(column, Text)]
        features: dict[str, Measured] = {}
        if wanted and "models" in metrics and (not texts or any(each.values is None for each in fields)):
            frame = Frame({field.name: generic(arrays[field.name], field) for field in fields}, rows)
            frame = frame.sample(sample, np.random.default_rng([seed, 0]))
            features["model scores"] = ModelScores.of(schema, fields, wanted, frame, seed)
        marginals, notes = _marginals(schema, wanted)
        features |= {name: each for name, each in marginals.items() if name in metrics}
        if texts and metrics - set(TABLES):
            from pe.evaluation.text.charged import TextScores

            known = {each.name: each for each in fields if each.values is not None}
            coded = [(known[name], generic(arrays[name], known[name])) for name in wanted if name in known]
            for column in texts:
                key = "text scores" if len(texts) == 1 else f"text scores of {column.name}"
                own = arrays[column.name].tolist()
                features[key] = TextScores.of(schema, column, own, coded, sorted(metrics), seed)
        if not features:
            raise SchemaError(
                "the schema has no column of text, numbers or categories, or none that the metrics asked for apply to. "
                "Nothing was spent."
            )
        histograms = {}
        for name, each in features.items():
            if isinstance(each, Marginals):
                bins, _ = each.vectors(table, labels)
                histograms[name] = each.tables(np.bincount(bins.reshape(-1), minlength=each.bins) / rows)
        digest = sha256(labels.tobytes())
        for column in table.columns:
            for chunk in column.chunks:
                for buffer in chunk.buffers():
                    digest.update(b"-" if buffer is None else buffer)
        return cls(wanted, features, histograms, rows, digest.hexdigest(), tuple(notes))

    def priced(self, budget: Budget, user_norm: float | None) -> tuple[_Public, dict[str, Fraction], Cost]:
        """The features on the grid that their noise takes, the noise scales, and what all of it costs."""
        contributions, norms = [], {}
        for name, each in self.features.items():
            units = len(each.columns) if isinstance(each, Marginals) else each.units
            norms[name] = norm = None if user_norm is None else user_norm * units**0.5
            own = Contribution.of((1.0,) * units, norm) if isinstance(each, Marginals) else each.contribution(norm)
            contributions.append(own)
        total: Cost = tuple(Fraction(0) for _ in budget.limit)
        features: dict[str, Measured] = {}
        scales = {}
        found = noise_scales(budget, [SHARES[name.partition(" of ")[0]] for name in self.features], contributions)
        for (name, each), (sigma, own) in zip(self.features.items(), found, strict=True):
            mechanism = DiscreteGaussian(sigma * own.grid, own.sensitivity_squared(budget.adjacency))
            total = add(total, budget.accountant.cost(mechanism, budget.delta))
            features[name], scales[name] = replace(each, grid=own.grid), sigma
        return replace(self, features=features, norms=norms), scales, total

    def estimates(self, counts: dict[str, NDArray[np.float64]], sigmas: dict[str, float], seed: int) -> dict[str, Any]:
        """Scores and total-variation distances from released counts: post-processing, free of charge."""
        sizes = {}  # how many records there are, by each release, and its variance; with users: their weight
        for name, each in self.features.items():
            if isinstance(each, Marginals):
                sets = len(each.columns)
                sizes[name] = float(counts[name].sum()) / sets, each.bins * sigmas[name] ** 2 / sets**2
        found: dict[str, Any] = {}
        if sizes and all(norm is None for norm in self.norms.values()):
            n = sum(size / variance for size, variance in sizes.values()) / sum(1 / each for _, each in sizes.values())
            found["test_records_estimate"] = round(max(1.0, n))
            sizes = dict.fromkeys(sizes, (n, 0.0))
        scores = self.features.get("model scores")
        if isinstance(scores, ModelScores):
            rng = np.random.default_rng([seed, 6])
            found["models"] = scores.estimates(counts["model scores"], sigmas["model scores"], rng)
        for number, (name, text) in enumerate(self.features.items()):
            if not isinstance(text, (ModelScores, Marginals)):
                rng = np.random.default_rng([seed, 7, number])
                own = text.estimates(counts[name], sigmas[name], rng)
                found["models"] = [*found.get("models", []), *own.pop("models", [])]
                found.setdefault("texts", {})[text.column.name] = own
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
                        "noise_floor": _floor(made, max(1.0, sizes[name][0]), sigmas[name], rng),
                    }
                )
            means = {part: float(np.mean([line[part] for line in lines])) for part in ("distance", "noise_floor")}
            found[key] = {"mean": means, "sets": lines}
        return found


def _marginals(schema: Schema, wanted: Sequence[str]) -> tuple[dict[str, Marginals], list[str]]:
    """Marginals of one and of two columns, and notes."""
    single = [(column.name,) for column in schema.columns if _has_cells(schema, column.name)]
    if not single:
        return {}, []
    found = {"marginals": Marginals(schema, tuple(single))}
    pairs = [(a, b) for (a,), (b,) in combinations(single, 2)]
    fitting = [pair for pair in pairs if Marginals(schema, (pair,), cells=PAIR_CELLS).bins <= LARGEST_TABLE]
    kept = sorted(fitting, key=lambda pair: not set(pair) & set(wanted))[:MOST_PAIRS]
    if kept:
        found["pairs"] = Marginals(schema, tuple(kept), cells=PAIR_CELLS)
    return found, [f"{len(kept)} of {len(pairs)} pairs of columns were measured"] if len(kept) < len(pairs) else []


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
