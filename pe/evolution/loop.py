"""Private Evolution (Lin et al. 2024, algorithm 1): propose, vote, select, vary."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

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
from pe.evolution.plan import Plan, Round
from pe.evolution.select import apportion, distinct, select, shares_from
from pe.evolution.start import Ask, Releaser
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

    ``notes`` takes up public facts, the squared MMD of every iteration among them, where the plan has a kernel.

    ``seed`` drives proposals and selection, afresh in every iteration, so that a resumed run proposes what an
    uninterrupted one would have. The noise is not seeded.
    """
    candidates, notes = CandidateEmbedder(embedder), {} if notes is None else notes
    how: dict[str, Any] = {"budget": budget, "release": release, "seed": seed, "notes": notes}
    try:
        generation = resume or first(private, apis[0], candidates, plan, **how)
        yield generation
        while generation.iteration < plan.iterations and not converged(plan, generation, notes):
            generation = step(private, apis, candidates, plan, generation, **how)
            yield generation
    finally:
        candidates.close()


def converged(plan: Plan, generation: Generation, notes: Notes) -> bool:
    """Whether further rounds without votes would bring the population no nearer to the kernel mean."""
    left = plan.rounds[generation.iteration :]
    if plan.kernel is None or any(each.sigma is not None for each in left):
        return False
    return settled(notes, generation.iteration, plan.kernel.patience)


def first(
    private: PrivateDataset,
    api: API,
    embedder: CandidateEmbedder,
    plan: Plan,
    *,
    budget: Budget,
    release: Releaser,
    seed: int,
    notes: Notes,
) -> Generation:
    """Generation 0: the plan's start, or label shares (uniform, declared, or bought) and fresh samples.

    Where the plan has a kernel, its mean is released by then.
    """
    if plan.start is not None:
        made = started(private, plan, budget=budget, release=release, seed=seed)
        return aimed(made, private, embedder, plan, budget=budget, release=release, seed=seed, notes=notes)
    histogram = None
    if plan.label_sigma is not None:
        histogram = release(count_labels(private, budget.adjacency, plan.label_contribution), plan.label_sigma, 0)
    shares = label_shares(plan, private.schema, histogram)
    rng = np.random.default_rng([seed, 0])
    sizes = apportion(plan.population, shares)
    with embedder.listening(api, wanted=_embeds(plan, 1)):
        parts = [fresh(api, int(size), label, private.schema, rng) for label, size in enumerate(sizes) if size]
    made = Generation(0, concatenate(parts), shares, histogram)
    return aimed(made, private, embedder, plan, budget=budget, release=release, seed=seed, notes=notes)


def aimed(
    generation: Generation,
    private: PrivateDataset,
    embedder: CandidateEmbedder,
    plan: Plan,
    *,
    budget: Budget,
    release: Releaser,
    seed: int,
    notes: Notes,
) -> Generation:
    """Generation 0 with the kernel mean, released or found stored, if the plan has one."""
    if plan.kernel is None:
        return generation
    target = aim(
        private,
        generation.population,
        embedder,
        plan.kernel,
        generation.histogram,
        budget=budget,
        release=release,
        user_norm=plan.user_norm,
        seed=seed,
        notes=notes,
    )
    return replace(generation, target=target)


def started(private: PrivateDataset, plan: Plan, *, budget: Budget, release: Releaser, seed: int) -> Generation:
    """Generation 0, drawn from released sums of the private records."""
    assert plan.start is not None
    declared = None if plan.shares is None else label_shares(plan, private.schema, None)
    ask = Ask(private, budget, release, part=plan.start_share, user_norm=plan.user_norm)
    rng = np.random.default_rng([seed, 0])
    population, shares = plan.start(ask, private.schema, plan.population or None, declared, rng)
    checked = _checked(population, len(population), population.labels, private.schema, plan.start.name, rng)
    return Generation(0, checked, shares)


def label_shares(plan: Plan, schema: Schema, counts: Histogram | None) -> NDArray[np.float64]:
    """Shares of the labels: from bought counts, else as declared, else uniform; float64 (labels,), sum 1."""
    if counts is not None and plan.shares is None:
        return shares_from(counts.counts)
    labels = len(schema.labels)
    if plan.shares is None:
        return np.full(labels, 1 / labels)
    if len(plan.shares) != labels:
        raise ConfigError(f"expected {labels} label shares, got {len(plan.shares)}. Nothing was spent.")
    return np.asarray(plan.shares, np.float64)


def step(
    private: PrivateDataset,
    apis: Sequence[API],
    embedder: CandidateEmbedder,
    plan: Plan,
    generation: Generation,
    *,
    budget: Budget,
    release: Releaser,
    seed: int,
    notes: Notes,
) -> Generation:
    """One iteration: embed the candidates, vote, add noise, select, vary; or compare them to the kernel mean."""
    iteration = generation.iteration + 1
    this = plan.rounds[iteration - 1]
    api, schema = apis[this.api], private.schema
    look, choose, vary = (np.random.default_rng([seed, iteration, stage]) for stage in range(3))
    candidates = generation.population
    vectors = stand_ins(candidates, this, api, embedder, schema, look)
    contribution, adjacency = this.contribution, budget.adjacency
    histogram = None
    if this.sigma is not None:
        votes = cast_votes(
            private, candidates, vectors, embedder.embedder, adjacency=adjacency, contribution=contribution
        )
        histogram = release(votes, this.sigma, iteration)
    sizes = apportion(this.parents, generation.shares)
    labels, noisy = candidates.labels, None if histogram is None else histogram.votes
    left = np.arange(len(candidates))
    if this.distinct < 1:
        left = distinct(vectors, labels, sizes, noisy, this.distinct)
        labels, noisy = labels[left], None if noisy is None else noisy[left]
    if generation.target is None:
        assert noisy is not None
        chosen = left[select(labels, noisy, sizes, this.selection, this.threshold, choose)]
    else:
        kin = candidates.parents[left]
        chosen = left[_herded(generation.target, vectors[left], labels, kin, sizes, this, noisy, generation, notes)]
    parents = candidates.take(chosen)
    parts = [parents] if this.keep else []
    api = adapted(api, candidates, chosen, histogram)
    with embedder.listening(api, wanted=_embeds(plan, iteration + 1)):
        parts += [offspring(api, parents, this.degree, schema, vary) for _ in range(this.variations)]
    return Generation(iteration, concatenate(parts), generation.shares, histogram, generation.target)


def adapted(api: API, candidates: Population, chosen: NDArray[np.int64], histogram: Histogram | None) -> API:
    """The API as the released votes change it, if it is one that they change (``Adaptive``)."""
    if not isinstance(api, Adaptive):
        return api
    if histogram is not None:
        return api.adapted(candidates, histogram.votes, float(histogram.sigma))
    return api.adapted(candidates, np.bincount(chosen, minlength=len(candidates)).astype(np.float64), 0.0)


def _herded(
    target: Target,
    vectors: NDArray[np.float32],
    labels: NDArray[np.int32],
    kin: NDArray[np.int64],
    sizes: NDArray[np.int64],
    this: Round,
    noisy: NDArray[np.float64] | None,
    generation: Generation,
    notes: Notes,
) -> NDArray[np.int64]:
    """Candidates by kernel herding, with the round's votes where it has any; notes how near they come."""
    features, votes = target.features(vectors), None
    if noisy is not None and this.sigma is not None:
        cast = sum(this.contribution.weights)
        votes = noisy / cast, float(this.sigma) / cast
    if generation.iteration == 0:
        notes[noted(0)] = target.distance(features, labels, generation.shares)
    chosen = target.select(features, labels, sizes, votes, kin)
    notes[noted(generation.iteration + 1)] = target.distance(features[chosen], labels[chosen], generation.shares)
    return chosen


def _embeds(plan: Plan, iteration: int) -> bool:
    """Whether an iteration, or the kernel mean before the first, embeds the candidates themselves."""
    if iteration == 1 and plan.kernel is not None:
        return True
    return iteration <= plan.iterations and plan.rounds[iteration - 1].lookahead == 0


def stand_ins(
    candidates: Population, this: Round, api: API, embedder: CandidateEmbedder, schema: Schema, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Embeddings that stand for the candidates: their own, or the mean over ``lookahead`` variations of each."""
    if this.lookahead == 0:
        return embedder.vectors(candidates.records)
    total = np.zeros((len(candidates), embedder.embedder.dim), np.float32)
    for _ in range(this.lookahead):
        with embedder.listening(api):
            ahead = offspring(api, candidates, this.degree, schema, rng)
        total += embedder.vectors(ahead.records)
    return total / np.float32(this.lookahead)


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
    if not isinstance(made.records, pa.Table):
        raise APIError(f"{who}: expected the records as an Arrow table, got {type(made.records).__name__}.")
    parts = (made, made.labels, made.origin, made if made.parameters is None else made.parameters)
    for part in parts:
        if len(part) != n:
            raise APIError(f"{who}: expected {n} samples, got {len(part)}.")
    if not np.array_equal(made.labels, labels):
        raise APIError(f"{who}: samples have other labels than asked for.")
    for problem in misfits(made.records, schema):
        raise APIError(f"{who}: {problem}")
    return replace(made, records=repair(made.records, schema, rng)) if schema.constraints else made
