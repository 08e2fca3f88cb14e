"""What a run tries of its APIs and its embedder before the first charge: on public samples, a few of each.

Whatever the run would refuse later, once budget is spent, is refused here, by the same checks. Nothing private is read,
nothing is charged, and no journal or random stream of the run is moved, but for the one call by which an API of an
endpoint finds out whether it can be used at all: that one is journaled, and not made again.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from pe.cost import Calls, calls_of, made_up
from pe.data.constraints import repair
from pe.data.population import Population, concatenate
from pe.data.schema import Schema
from pe.embedder_check import check_embedder
from pe.errors import APIError, PEError
from pe.evolution.loop import fresh, offspring
from pe.evolution.plan import Plan
from pe.protocols import API, Adaptive, Capped, Composite, Embedder, Metered, Piecemeal

__all__ = ["Checked", "check_api", "check_embedder", "check_run"]

LABELS = 8
"""Labels of which fresh samples are tried, spread evenly over the label set."""

PARENTS = 8
"""Samples that are varied on trial."""


@dataclass(frozen=True)
class Checked:
    """The embedder to use for the run, and warnings, which are public."""

    embedder: Embedder
    warnings: list[str] = field(default_factory=list)


def check_run(
    plan: Plan,
    schema: Schema,
    apis: Sequence[API],
    embedder: Embedder,
    *,
    completed: int | None = None,
    population: Population | None = None,
) -> Checked:
    """Try all APIs and the embedder that the rest of a run needs.

    completed   iterations that are stored; None before the first population.
    population  of the newest iteration, where there is one.

    Raises APIError, EmbedderError or ConfigError, which say nothing of budget: the caller knows what is spent.
    """
    rest = plan.rounds[completed or 0 :]
    samples, warnings = population, []
    for index, api in enumerate(apis):
        calls = calls_of(plan, index, completed)
        degrees = [each.degree for each in rest if each.api == index and (each.variations or each.lookahead)]
        if not calls.fresh and not degrees:
            continue
        samples, found = check_api(api, schema, calls, degrees=degrees, parents=samples)
        warnings += found
    if not rest and (plan.kernel is None or completed is not None):
        return Checked(embedder, warnings)
    checked, found = check_embedder(embedder, schema, None if samples is None else samples.records)
    return Checked(checked, warnings + found)


def check_api(
    api: API,
    schema: Schema,
    calls: Calls,
    *,
    degrees: Sequence[float] = (),
    parents: Population | None = None,
    labels: Sequence[int] | None = None,
) -> tuple[Population | None, list[str]]:
    """Ask an API for a few samples and variations, by the checks of the run; or only whether it can be used, if its
    answers cost money or time (``Metered``).

    calls    what the run will ask of it.
    degrees  of its rounds; the first and the last of them are tried.
    parents  samples to vary in place of its own, such as those of the API before it; without any they are made up.
    labels   positions of labels to try; by default up to ``LABELS`` of them.

    Returns its samples, or the parents of an API that proposes none here, and warnings. Raises APIError or ConfigError.
    """
    warnings: list[str] = []
    if isinstance(api, Capped):
        warnings += _asked(api, "check_caps", calls.fresh, calls.varied)
    if isinstance(api, Metered):
        _asked(api, "ready")
    if labels is None:
        labels = np.unique(np.linspace(0, len(schema.labels) - 1, LABELS).round().astype(int)).tolist()
    samples = None
    for part in _free_parts(api):
        with _random_states_kept(part), _listening(part):
            made = _tried(part, schema, labels, bool(calls.fresh), degrees, parents)
        samples = made if samples is None else samples
    return parents if samples is None else samples, warnings


def _free_parts(api: API) -> list[API]:
    """The API and its members, as far as their samples cost nothing."""
    members = [part for member in api.members for part in _free_parts(member)] if isinstance(api, Composite) else []
    return [api, *members] if _is_free(api) else members


def _is_free(api: API) -> bool:
    if isinstance(api, Composite):
        return all(_is_free(member) for member in api.members)
    return not isinstance(api, Metered)


def _tried(
    api: API,
    schema: Schema,
    labels: Sequence[int],
    proposes: bool,
    degrees: Sequence[float],
    parents: Population | None,
) -> Population:
    """Fresh samples, if the API proposes any, else the parents; some of them were varied, and that thrown away."""
    rng = np.random.default_rng(0)
    samples = parents
    if proposes:
        samples = concatenate([fresh(api, 1 + (place == 0), label, schema, rng) for place, label in enumerate(labels)])
    if samples is None:
        table = made_up(schema, len(labels), rng)
        table = repair(table, schema, rng) if schema.constraints else table
        samples = Population.of(table, np.asarray(labels, np.int32), "made up")
    chosen = samples.take(np.unique(np.linspace(0, len(samples) - 1, PARENTS).round().astype(np.int64)))
    for degree in dict.fromkeys([*degrees[:1], *degrees[-1:]]):
        varying = api
        if isinstance(api, Adaptive):
            votes = np.arange(len(samples), dtype=np.float64)
            varying = _asked(api, "adapted", samples, votes, 1.0)
        offspring(varying, chosen, degree, schema, rng)
    return samples


def _asked(api: API, method: str, *arguments: Any) -> Any:
    """What a method of an API returns; its exceptions as APIError, as an API knows nothing private."""
    try:
        return getattr(api, method)(*arguments)
    except PEError:
        raise
    except Exception as error:
        raise APIError(f"API '{api.name}', {method} failed: {error!r}.") from error


@contextmanager
def _listening(api: API) -> Iterator[None]:
    """As in the run, take up what an API hands over of its own accord; here nothing is done with it."""

    def drop(_: pa.Table) -> None:
        pass

    if not isinstance(api, Piecemeal):
        yield
        return
    _asked(api, "listen", drop)
    try:
        yield
    finally:
        _asked(api, "listen", None)


@contextmanager
def _random_states_kept(api: API) -> Iterator[None]:
    """Put random streams back where they were: the global ones, and generators among an API's own attributes.

    An API should draw from the generator it is handed; one that draws from elsewhere makes the same samples after a
    trial as without one.
    """
    streams: list[tuple[Callable[[Any], Any], Any]] = [
        (random.setstate, random.getstate()),
        (np.random.set_state, np.random.get_state()),  # noqa: NPY002 - APIs may draw from it
    ]
    for value in getattr(api, "__dict__", {}).values():
        if isinstance(value, np.random.Generator):
            streams.append((partial(setattr, value.bit_generator, "state"), value.bit_generator.state))
        elif isinstance(value, np.random.RandomState):
            streams.append((value.set_state, value.get_state()))
        elif isinstance(value, random.Random):
            streams.append((value.setstate, value.getstate()))
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        streams.append((torch.set_rng_state, torch.get_rng_state()))
    try:
        yield
    finally:
        for restore, state in streams:
            restore(state)
