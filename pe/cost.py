"""What a run asks of a machine: records to embed, multiply-adds to vote, bytes to keep; and about how long that takes.

The work follows from the plan, which is public, and a guess at the number of records. Seconds are measured: the
embedder on a few made-up records, the search on their vectors, a second or two in all. Nothing private is read.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pe.data.arrays import to_table
from pe.data.schema import Categorical, Image, Numeric, Schema
from pe.evolution.plan import Plan
from pe.kernels.nearest import COLD_START, DEVICE_START, Route, Search
from pe.kernels.quantise import integer_type, quantise
from pe.private.measure import FourierMean
from pe.private.vote import embed_candidates
from pe.protocols import Embedder

Found = TypeVar("Found")

OFF = 2.0
"""Times may be wrong by this factor: other records, other programs, a processor that changes its pace."""

TEXT = 200
"""Characters of a made-up text, where the schema allows so many."""

WORDS = (
    "the",
    "people",
    "in",
    "this",
    "small",
    "town",
    "would",
    "often",
    "talk",
    "about",
    "it",
    "and",
    "their",
    "work",
)
"""Of made-up texts: common ones, each of which is a token to most models."""

LONG_ENOUGH = 0.2
"""Seconds after which a measurement ends."""

QUERIES, MOST = 2048, 16_384
"""Rows of a measured search; and records embedded at a time, at most."""


@dataclass(frozen=True)
class Work:
    """What a plan asks for, if its labels share the records as they share the candidates.

    records        private records to embed, once for all rounds.
    candidates     synthetic samples to embed, at most: one that did not change is not embedded again.
    comparisons    pairs of a record and a candidate of its label, over all rounds of votes; times the dimension of
                   the embedding it is the vote's multiply-adds.
    most           the largest number of candidates of a label in any round.
    nearest        candidates that a record votes for, at most.
    features       of the kernel mean: each takes a multiply-add per record and entry of the embedding. 0 without.
    """

    records: int
    candidates: int
    comparisons: int
    most: int
    nearest: int
    features: int


def work_of(plan: Plan, records: int, labels: int) -> Work:
    """The work of a whole plan, without its start; ``records`` is a guess, ``labels`` the size of the label set."""
    shares = np.array(plan.shares or [1.0] * labels)
    shares = shares / shares.sum()
    candidates, fresh, size = 0, plan.population, plan.population
    comparisons, most, nearest = 0.0, 0, 0
    for each in plan.rounds:
        candidates += size * each.lookahead if each.lookahead else fresh
        if each.sigma is not None:
            comparisons += records * size * float((shares**2).sum())
            most, nearest = max(most, round(size * shares.max())), max(nearest, len(each.contribution.weights))
        size, fresh = each.population, each.parents * each.variations
    features = 0 if plan.kernel is None else plan.kernel.features
    embeds = bool(plan.rounds) or features
    return Work(records if embeds else 0, candidates, round(comparisons), max(1, most), max(1, nearest), features)


@dataclass(frozen=True)
class Calls:
    """Samples that a plan still asks of one API: fresh ones, and variations, those for lookahead among them."""

    fresh: int = 0
    varied: int = 0


def calls_of(plan: Plan, api: int, completed: int | None = None) -> Calls:
    """What a plan asks of the API at a position once ``completed`` iterations are done; None: not even the first
    population is made."""
    fresh = plan.population if api == 0 and plan.start is None and completed is None else 0
    varied, candidates = 0, plan.population
    for number, each in enumerate(plan.rounds, start=1):
        if each.api == api and number > (completed or 0):
            varied += candidates * each.lookahead + each.parents * each.variations
        candidates = each.population
    return Calls(fresh, varied)


@dataclass(frozen=True)
class Pace:
    """What this machine does in a second: records embedded, multiply-adds of a search, records' Fourier features.

    route  of the search: the fastest that a run of that size would take.
    """

    embedded: float
    compared: float
    transformed: float
    route: str


def pace_of(work: Work, embedder: Embedder, schema: Schema, seed: int = 0) -> Pace:
    """Measure an embedder and the search, on made-up records; raises EmbedderError where the embedder fails on them."""
    rng = np.random.default_rng(seed)

    def embedded(size: int) -> tuple[tuple[NDArray[np.signedinteger[Any]], NDArray[np.bool_]], float]:
        table = made_up(schema, size, rng)
        return _timed(lambda: quantise(embed_candidates(table, embedder), embedder.scale, embedder.limit))

    embedded(2)  # loads, compiles, caches
    size = 64
    (integers, finite), spent = embedded(size)
    while spent < LONG_ENOUGH and size < MOST:
        size *= 4
        (integers, finite), spent = embedded(size)
    compared, route = _searching(work, integers)
    transformed = math.inf
    if work.features:
        mean = FourierMean(embedder, rng.normal(0, 0.01, (embedder.dim, work.features)))
        some = integers[:256], finite[:256]
        transformed = len(some[0]) / min(_timed(partial(mean.dense, *some))[1] for _ in range(3))
    return Pace(size / spent, compared, transformed, route)


def _searching(work: Work, vectors: NDArray[np.signedinteger[Any]]) -> tuple[float, str]:
    """Multiply-adds per second of a search among ``work.most`` candidates like ``vectors`` (n, dim), and its route."""
    targets, queries = (np.resize(vectors, (rows, vectors.shape[1])) for rows in (work.most, QUERIES))
    total = work.comparisons * vectors.shape[1]
    # a run imports what fast routes need once it has work enough
    wanted: list[tuple[Route | None, int]] = [("cuda", DEVICE_START), ("int8", COLD_START), (None, 0)]
    for route in [route for route, least in wanted if total >= least]:
        search = Search(targets, min(work.nearest, len(targets)), route=route)
        try:
            search(queries)
        except ValueError:  # not to be had here, or not exact for such vectors
            continue
        break
    best, begun = np.inf, time.perf_counter()
    while time.perf_counter() < begun + LONG_ENOUGH:
        best = min(best, _timed(lambda: search(queries))[1])
    return QUERIES * targets.size / best, search.route


@dataclass(frozen=True)
class Estimate:
    """Seconds on this machine, each right within a factor ``OFF``: embedding all, all votes, the kernel mean; bytes."""

    embedding: float
    voting: float
    kernel: float
    kept: int
    route: str


def estimate(work: Work, pace: Pace, embedder: Embedder) -> Estimate:
    voting = work.comparisons * embedder.dim / pace.compared
    embedding = (work.records + work.candidates) / pace.embedded
    kept = work.records * embedder.dim * integer_type(embedder.limit).itemsize
    return Estimate(embedding, voting, work.records / pace.transformed, kept, pace.route)


def made_up(schema: Schema, n: int, rng: np.random.Generator) -> pa.Table:
    """Records uniform in a schema's domain: numbers, categories, noise for images, common words."""
    arrays: dict[str, NDArray[Any]] = {}
    for column in schema.features:
        if isinstance(column, Numeric):
            share = rng.random(n)  # of each end: their difference may be more than a float64 holds
            values = np.clip((1 - share) * column.minimum + share * column.maximum, column.minimum, column.maximum)
            arrays[column.name] = np.floor(values) if column.integer else values
        elif isinstance(column, Categorical):
            arrays[column.name] = rng.integers(0, len(column.values), n).astype(np.int32)
        elif isinstance(column, Image):
            arrays[column.name] = rng.integers(0, 256, (n, column.size), np.uint8)
        else:
            length = min(TEXT, column.max_length)
            rows = rng.choice(WORDS, (n, 1 + length // 3))
            arrays[column.name] = np.array([" ".join(row)[:length] for row in rows], object)
    return to_table(arrays, schema)


def _timed(function: Callable[[], Found]) -> tuple[Found, float]:
    begun = time.perf_counter()
    found = function()
    return found, max(time.perf_counter() - begun, 1e-6)
