"""Private Evolution (Lin et al. 2024, algorithm 1): propose, vote, select, vary."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pe.data.arrays import misfits
from pe.data.constraints import repair
from pe.data.population import Population, concatenate
from pe.data.schema import Schema
from pe.errors import APIError, ConfigError, PEError
from pe.evolution.candidates import CandidateEmbedder
from pe.evolution.kernel import Notes, Target, aim, noted, settled
from pe.evolution.label_counts import label_shares_from
from pe.evolution.plan import Plan, Round
from pe.evolution.select import apportion, distinct, select
from pe.evolution.start import Ask, Releaser, Start
from pe.privacy.budget import Budget
from pe.privacy.release import Histogram
from pe.private.dataset import PrivateDataset
from pe.private.vote import cast_votes, count_labels
from pe.protocols import API, Adaptive, Embedder


@dataclass(frozen=True)
class Generation:
    """A population, the iteration that made it, the label shares, and the histogram that selected its parents.

    target  the released kernel mean by which every iteration selects, where the plan has one.
    """

    iteration: int
    population: Population
    shares: NDArray[np.float64]
    histogram: Histogram | None = None
    target: Target | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Evolution:
    """What all iterations of a run share.

    apis        the first proposes fresh samples; each round says which one varies.
    candidates  embeds what the APIs propose.
    release     turns exact votes into a noisy histogram.
    seed        drives proposals and selection, afresh in every iteration, so that a resumed run proposes what an
                uninterrupted one would have. The noise is not seeded.
    notes       takes up public facts, the squared MMD of every iteration among them, where the plan has a kernel.
    """

    private: PrivateDataset
    apis: Sequence[API]
    candidates: CandidateEmbedder
    plan: Plan
    budget: Budget
    release: Releaser
    seed: int
    notes: Notes

    @property
    def schema(self) -> Schema:
        return self.private.schema

    def first(self) -> Generation:
        """Generation 0: the plan's start, or label shares (uniform, declared, or bought) and fresh samples.

        Where the plan has a kernel, its mean is released by then.
        """
        plan = self.plan
        if plan.start is not None:
            return self.aimed(self._started(plan.start))
        histogram = None
        if plan.label_sigma is not None:
            votes = count_labels(self.private, self.budget.adjacency, plan.label_contribution)
            histogram = self.release(votes, plan.label_sigma, 0)
        shares = label_shares(plan, self.schema, histogram)
        rng = np.random.default_rng([self.seed, 0])
        sizes, api = apportion(plan.population, shares), self.apis[0]
        with self.candidates.listening(api, wanted=self._embeds(1)):
            parts = [fresh(api, int(size), label, self.schema, rng) for label, size in enumerate(sizes) if size]
        return self.aimed(Generation(0, concatenate(parts), shares, histogram))

    def _started(self, start: Start) -> Generation:
        """Generation 0, drawn from released sums of the private records."""
        plan, schema = self.plan, self.schema
        declared = None if plan.shares is None else label_shares(plan, schema, None)
        ask = Ask(self.private, self.budget, self.release, part=plan.start_share, user_norm=plan.user_norm)
        rng = np.random.default_rng([self.seed, 0])
        population, shares = start(ask, schema, plan.population or None, declared, rng)
        return Generation(0, _checked(population, len(population), population.labels, schema, start.name, rng), shares)

    def aimed(self, generation: Generation) -> Generation:
        """Generation 0 with the kernel mean, released or found stored, if the plan has one."""
        if self.plan.kernel is None:
            return generation
        target = aim(
            self.private,
            generation.population,
            self.candidates,
            self.plan.kernel,
            generation.histogram,
            budget=self.budget,
            release=self.release,
            user_norm=self.plan.user_norm,
            seed=self.seed,
            notes=self.notes,
        )
        return replace(generation, target=target)

    def step(self, generation: Generation) -> Generation:
        """One iteration: embed the candidates, vote, add noise, select, vary; or compare them to the kernel mean."""
        iteration = generation.iteration + 1
        this, candidates = self.plan.rounds[iteration - 1], generation.population
        api = self.apis[this.api]
        look, choose, vary = (np.random.default_rng([self.seed, iteration, stage]) for stage in range(3))
        vectors, ahead = self._stand_ins(candidates, this, api, look)
        histogram = self._voted(candidates, vectors, ahead, this, iteration)
        chosen = self._selected(generation, vectors, this, histogram, choose)
        parents = candidates.take(chosen)
        parts = [parents] if this.keep else []
        api = adapted(api, candidates, chosen, histogram)
        with self.candidates.listening(api, wanted=self._embeds(iteration + 1)):
            parts += [offspring(api, parents, this.degree, self.schema, vary) for _ in range(this.variations)]
        return Generation(iteration, concatenate(parts), generation.shares, histogram, generation.target)

    def converged(self, generation: Generation) -> bool:
        """Whether further rounds without votes would bring the population no nearer to the kernel mean."""
        kernel, left = self.plan.kernel, self.plan.rounds[generation.iteration :]
        if kernel is None or not kernel.minimises or any(each.sigma is not None for each in left):
            return False
        return settled(self.notes, generation.iteration, kernel.patience)

    def _stand_ins(
        self, candidates: Population, this: Round, api: API, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], list[pa.Table]]:
        """Embeddings that stand for the candidates: their own, or the mean over ``lookahead`` variations of each.

        Returns these variations beside them.
        """
        if this.lookahead == 0:
            return self.candidates.vectors(candidates.records), []
        tables = []
        total = np.zeros((len(candidates), self.candidates.embedder.dim), np.float32)
        for _ in range(this.lookahead):
            with self.candidates.listening(api):
                ahead = offspring(api, candidates, this.degree, self.schema, rng)
            total += self.candidates.vectors(ahead.records)
            tables.append(ahead.records)
        return total / np.float32(this.lookahead), tables

    def _voted(
        self,
        candidates: Population,
        vectors: NDArray[np.float32],
        ahead: Sequence[pa.Table],
        this: Round,
        iteration: int,
    ) -> Histogram | None:
        """The released votes of a round that has any."""
        if this.sigma is None:
            return None
        votes = cast_votes(
            self.private,
            candidates,
            vectors,
            self.candidates.embedder,
            adjacency=self.budget.adjacency,
            contribution=this.contribution,
            stand_ins=ahead,
        )
        return self.release(votes, this.sigma, iteration)

    def _selected(
        self,
        generation: Generation,
        vectors: NDArray[np.float32],
        this: Round,
        histogram: Histogram | None,
        rng: np.random.Generator,
    ) -> NDArray[np.int64]:
        """Indices of the parents among the candidates, by votes, kernel mean or both; near-duplicates left out."""
        sizes = apportion(this.parents, generation.shares)
        labels, noisy = generation.population.labels, None if histogram is None else histogram.votes
        left = np.arange(len(labels))
        if this.distinct < 1:
            left = distinct(vectors, labels, sizes, noisy, this.distinct)
            labels, noisy = labels[left], None if noisy is None else noisy[left]
        if generation.target is None:
            assert noisy is not None
            return left[select(labels, noisy, sizes, this.selection, this.threshold, rng)]
        votes = None
        if noisy is not None and this.sigma is not None:
            cast = sum(this.contribution.weights)
            votes = noisy / cast, float(this.sigma) / cast
        target, features = generation.target, generation.target.features(vectors[left])
        if generation.iteration == 0:
            self.notes[noted(0)] = target.distance(features, labels, generation.shares)
        chosen = target.select(features, labels, sizes, votes, generation.population.parents[left])
        now = target.distance(features[chosen], labels[chosen], generation.shares)
        self.notes[noted(generation.iteration + 1)] = now
        return left[chosen]

    def _embeds(self, iteration: int) -> bool:
        """Whether an iteration, or the kernel mean before the first, embeds the candidates themselves."""
        if iteration == 1 and self.plan.kernel is not None:
            return True
        return iteration <= self.plan.iterations and self.plan.rounds[iteration - 1].lookahead == 0


def evolve(
    private: PrivateDataset,
    apis: Sequence[API],
    embedder: Embedder,
    plan: Plan,
    *,
    budget: Budget,
    release: Releaser,
    seed: int,
    resume: Generation | None = None,
    notes: Notes | None = None,
) -> Iterator[Generation]:
    """Yield generation 0, then one generation per iteration; ``resume`` starts from a stored one.

    See ``Evolution`` for the arguments.
    """
    candidates = CandidateEmbedder(embedder)
    run = Evolution(private, apis, candidates, plan, budget, release, seed, {} if notes is None else notes)
    try:
        generation = resume or run.first()
        yield generation
        while generation.iteration < plan.iterations and not run.converged(generation):
            generation = run.step(generation)
            yield generation
    finally:
        candidates.close()


def label_shares(plan: Plan, schema: Schema, counts: Histogram | None) -> NDArray[np.float64]:
    """Shares of the labels: from bought counts, else as declared, else uniform; float64 (labels,), sum 1."""
    labels = len(schema.labels)
    if counts is not None and plan.shares is None:
        return label_shares_from(counts, labels)
    if plan.shares is None:
        return np.full(labels, 1 / labels)
    if len(plan.shares) != labels:
        raise ConfigError(f"expected {labels} label shares, got {len(plan.shares)}. Nothing was spent.")
    return np.asarray(plan.shares, np.float64)


def adapted(api: API, candidates: Population, chosen: NDArray[np.int64], histogram: Histogram | None) -> API:
    """The API as the released votes change it, if it is one that they change (``Adaptive``)."""
    if not isinstance(api, Adaptive):
        return api
    if histogram is not None:
        return api.adapted(candidates, histogram.votes, float(histogram.sigma))
    return api.adapted(candidates, np.bincount(chosen, minlength=len(candidates)).astype(np.float64), 0.0)


def fresh(api: API, n: int, label: int, schema: Schema, rng: np.random.Generator) -> Population:
    """``n`` checked samples of one label."""
    made = _asked(lambda: api.random(n, label, rng), api, "random")
    return _checked(made, n, np.full(n, label, np.int32), schema, f"API '{api.name}', random", rng)


def offspring(api: API, parents: Population, degree: float, schema: Schema, rng: np.random.Generator) -> Population:
    """One checked variation of each parent."""
    made = _asked(lambda: api.vary(parents, degree, rng), api, "vary")
    checked = _checked(made, len(parents), parents.labels, schema, f"API '{api.name}', vary", rng)
    return checked.with_parents(parents.parents)


def _asked(call: Callable[[], Population], api: API, what: str) -> Population:
    """An API knows nothing private, so its own words may be passed on."""
    try:
        return call()
    except PEError:
        raise
    except Exception as error:
        raise APIError(f"API '{api.name}', {what} failed: {error!r}.") from error


def _checked(
    made: Population, n: int, labels: NDArray[np.int32], schema: Schema, who: str, rng: np.random.Generator
) -> Population:
    """The samples, made to satisfy the schema's constraints.

    Raises APIError unless they keep the API's contract: right number, right columns, labels, domains.
    """
    if not isinstance(made, Population):
        raise APIError(f"{who}: expected a Population, got {type(made).__name__}.")
    tables = {"records": made.records}
    if made.parameters is not None:
        tables["parameters"] = made.parameters
    for what, table in tables.items():
        if not isinstance(table, pa.Table):
            raise APIError(f"{who}: expected the {what} as an Arrow table, got {type(table).__name__}.")
    if not isinstance(made.origin, pa.Array):
        raise APIError(f"{who}: expected the origin as an Arrow array of names, got {type(made.origin).__name__}.")
    lengths = {"samples": len(made), "labels": np.size(made.labels), "names of their origin": len(made.origin)}
    if made.parameters is not None:
        lengths["rows of parameters"] = made.parameters.num_rows
    for what, length in lengths.items():
        if length != n:
            raise APIError(f"{who}: expected {n} {what}, got {length}.")
    if not np.array_equal(made.labels, labels):
        raise APIError(f"{who}: samples have other labels than asked for.")
    for problem in misfits(made.records, schema):
        raise APIError(f"{who}: {problem}")
    records = repair(made.records, schema, rng) if schema.constraints else made.records
    origin = made.origin if pa.types.is_dictionary(made.origin.type) else made.origin.dictionary_encode()
    return replace(made, records=records, labels=labels, parents=np.full(n, -1, np.int64), origin=origin)
