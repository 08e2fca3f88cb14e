"""The loop: sizes, labels and lineage come out as planned, and broken APIs and embedders are named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pe.data.arrays import to_numpy, to_table
from pe.data.population import Population
from pe.data.schema import Categorical, Numeric, Schema
from pe.errors import APIError, BudgetExceededError, ConfigError, EmbedderError
from pe.evolution.loop import Generation, evolve
from pe.evolution.plan import Plan, Round
from pe.evolution.start import Releaser
from pe.privacy import Account, Adjacency, Budget, Contribution, DiscreteGaussian, Histogram, Votes, release
from pe.private.dataset import PrivateDataset

X = Numeric("x", 0, 99, integer=True)
SCHEMA = Schema((X, Categorical("label", ("a", "b", "c"))), "label")
SIGMA = Fraction(40)


class Walk:
    """Uniform numbers, moved by at most ``degree`` times 20; ``broken`` spoils what ``when`` makes."""

    name = "walk"

    def __init__(self, when: str = "", broken: Callable[[Population], Any] = lambda made: made) -> None:
        self.when, self.broken = when, broken
        self.degrees: list[float] = []

    def random(self, n: int, label: int, rng: np.random.Generator) -> Population:
        made = self._population(rng.integers(0, 100, n), label)
        return self.broken(made) if self.when == "random" else made

    def vary(self, parents: Population, degree: float, rng: np.random.Generator) -> Population:
        self.degrees.append(degree)
        moved = to_numpy(parents.records, X) + rng.integers(-int(20 * degree), int(20 * degree) + 1, len(parents))
        made = self._population(np.clip(moved, 0, 99), parents.labels)
        return self.broken(made) if self.when == "vary" else made

    def _population(self, x: NDArray[np.int64], labels: NDArray[np.int32] | int) -> Population:
        return Population.of(to_table({"x": x}, SCHEMA), labels, self.name, pa.table({"seed": x}))


class Line:
    name, dim, scale, limit = "line", 1, 1.0, 127

    def embed(self, table: pa.Table) -> NDArray[np.float32]:
        return to_numpy(table, X).astype(np.float32)[:, None] - 50


def private(*labels: int, x: int = 30) -> PrivateDataset:
    table = to_table({"x": np.full(len(labels), x)}, SCHEMA)
    return PrivateDataset(table, np.array(labels, np.int32), SCHEMA)


def exact(votes: Votes, sigma: Fraction, iteration: int, name: str = "histogram") -> Histogram:
    """A stand-in for ``release`` without noise or charge, to follow the loop's arithmetic."""
    return Histogram(votes._count(), sigma, "none")


def run(
    data: PrivateDataset,
    plan: Plan,
    *,
    api: Any = None,
    embedder: Any = None,
    release: Releaser = exact,
    seed: int = 1,
    resume: Generation | None = None,
) -> Iterator[Generation]:
    return evolve(
        data,
        api if isinstance(api, list) else [api or Walk()],
        embedder or Line(),
        plan,
        budget=Budget(1.0, 1e-6, Adjacency.ADD_REMOVE),
        release=release,
        seed=seed,
        resume=resume,
    )


def x_of(generation: Generation) -> NDArray[np.int64]:
    return to_numpy(generation.population.records, X)


def sizes(generation: Generation) -> list[int]:
    return np.bincount(generation.population.labels, minlength=3).tolist()


# -- what comes out ------------------------------------------------------------------------------------------------


@given(
    st.sampled_from(["sample", "rank"]),
    st.integers(1, 30),
    st.booleans(),
    st.integers(0, 3),
    st.integers(0, 2),
    st.integers(1, 4),
)
@settings(max_examples=30)
def test_every_population_has_the_planned_size_shares_and_lineage(
    how: Any, parents: int, keep: bool, variations: int, lookahead: int, nearest: int
) -> None:
    variations = max(variations, 0 if keep else 1)
    this = Round(SIGMA, parents, how, 0.0, variations, keep, 0.5, lookahead, Contribution((1.0,) * nearest))
    plan = Plan(12, (this, this), shares=(0.5, 0.25, 0.25))
    generations = list(run(private(0, 0, 1, 2), plan))
    assert [generation.iteration for generation in generations] == [0, 1, 2]
    assert sizes(generations[0]) == [6, 3, 3]
    for before, after in pairwise(generations):
        assert len(after.population) == this.population == parents * (variations + keep)
        lineage = after.population.parents
        assert (after.population.labels == before.population.labels[lineage]).all()
        assert lineage.tolist() == np.tile(lineage[:parents], variations + keep).tolist()
        assert (np.abs(x_of(after) - x_of(before)[lineage]) <= 10).all()
        if keep:
            assert x_of(after)[:parents].tolist() == x_of(before)[lineage[:parents]].tolist()


def test_each_round_has_its_own_settings() -> None:
    apis = [Walk(), Walk()]
    rounds = (Round(SIGMA, 6, degree=0.9), Round(SIGMA, 9, degree=0.1, api=1), Round(SIGMA, 3, degree=0.0, lookahead=2))
    seen: list[tuple[int, Fraction]] = []

    def recording(votes: Votes, sigma: Fraction, iteration: int, name: str = "histogram") -> Histogram:
        seen.append((iteration, sigma))
        return exact(votes, sigma, iteration)

    generations = list(run(private(0, 1, 2), Plan(12, rounds), api=apis, release=recording))
    assert [len(generation.population) for generation in generations] == [12, 6, 9, 3]
    assert (apis[0].degrees, apis[1].degrees) == ([0.9, 0.0, 0.0, 0.0], [0.1])
    assert seen == [(1, SIGMA), (2, SIGMA), (3, SIGMA)]


def test_it_moves_towards_the_private_records() -> None:
    plan = Plan(60, tuple(Round(SIGMA, 60, "rank" if t else "sample", degree=0.3) for t in range(6)))
    *_, last = run(private(*[0, 1, 2] * 20, x=83), plan)
    assert abs(np.median(x_of(last)) - 83) <= 6


def test_the_threshold_removes_candidates_with_few_votes() -> None:
    plan = Plan(30, (Round(SIGMA, 30, threshold=5.0, variations=0, keep=True),), shares=(1.0, 0.0, 0.0))
    data = private(*[0] * 10, x=30)
    first, second = run(data, plan)
    nearest = x_of(first)[np.argmin(np.abs(x_of(first) - 30))]
    assert set(x_of(second).tolist()) == {nearest}


# -- labels --------------------------------------------------------------------------------------------------------


def test_bought_label_shares_are_near_the_truth_and_charged(account: Account) -> None:
    data = private(*[0] * 1400, *[1] * 600)
    plan = Plan(100, (), label_sigma=SIGMA)
    (first,) = run(data, plan, release=lambda v, s, t, *_: release(v, s, account=account, iteration=t))
    np.testing.assert_allclose(first.shares, [0.7, 0.3, 0.0], atol=0.15)  # about 7 standard deviations
    assert first.histogram is not None
    assert len(first.population) == 100
    (entry,) = [entry for entry in account.ledger.chain("source") if entry.kind == "reserve"]
    assert (entry.body["purpose"], entry.body["iteration"], entry.body["bins"]) == ("label counts", 0, 3)


@pytest.mark.parametrize("labels", [(), (0,), (2,) * 5, (0,) * 50 + (1,)], ids=["none", "one", "one class", "rare"])
@pytest.mark.parametrize("shares", [None, (0.98, 0.01, 0.01), (0.0, 0.0, 1.0)])
def test_rare_and_empty_classes_change_nothing_about_how_it_runs(
    labels: tuple[int, ...], shares: tuple[float, ...] | None, account: Account
) -> None:
    """A class may have no records, no candidates, or neither."""
    plan = Plan(
        10,
        (Round(SIGMA, 100, contribution=Contribution((1.0,) * 3)), Round(SIGMA, 10, "rank", lookahead=1)),
        shares=shares,
    )
    generations = list(
        run(private(*labels), plan, release=lambda v, s, t, *_: release(v, s, account=account, iteration=t))
    )
    expected = {None: 100, (0.98, 0.01, 0.01): 98, (0.0, 0.0, 1.0): 100}[shares]
    assert [len(generation.population) for generation in generations] == [10, expected, 10]


def test_label_shares_of_another_length_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected 3 label shares, got 2"):
        next(run(private(0), Plan(10, (), shares=(0.5, 0.5))))


# -- charges and resuming ------------------------------------------------------------------------------------------


def test_each_iteration_is_charged_once_and_the_budget_stops_the_run(account: Account) -> None:
    plan = Plan(10, (Round(SIGMA, 10),) * 100)
    done: list[int] = []
    generations = run(private(0), plan, release=lambda v, s, t, *_: release(v, s, account=account, iteration=t))
    with pytest.raises(BudgetExceededError):
        done.extend(generation.iteration for generation in generations)
    entries = [entry for entry in account.ledger.chain("source") if entry.kind == "reserve"]
    assert [entry.body["iteration"] for entry in entries] == list(range(1, len(entries) + 1))
    assert done == list(range(len(entries) + 1))
    fitting = account.budget.limit[0] // DiscreteGaussian(SIGMA, Fraction(1)).mu_squared
    assert len(entries) == fitting > 0


@pytest.mark.parametrize("stop", [0, 1, 2])
def test_resuming_with_the_stored_histograms_gives_the_identical_populations(stop: int, account: Account) -> None:
    data = private(0, 0, 1, 2)
    rounds = (Round(SIGMA, 12, lookahead=1), Round(SIGMA, 15, "rank", keep=True), Round(SIGMA, 9, variations=2))
    plan = Plan(20, rounds)
    whole = list(run(data, plan, release=lambda v, s, t, *_: release(v, s, account=account, iteration=t)))
    stored = [generation.histogram for generation in whole]

    def replay(votes: Votes, sigma: Fraction, iteration: int) -> Histogram:
        histogram = stored[iteration]
        assert histogram is not None
        assert (votes.bins, sigma) == (len(histogram.counts), histogram.sigma)
        return histogram

    again = list(run(data, plan, release=replay, resume=whole[stop]))
    assert len(again) == len(whole) - stop
    for one, other in zip(again, whole[stop:], strict=True):
        assert one.iteration == other.iteration
        assert one.population.to_table().equals(other.population.to_table())


def test_another_seed_proposes_other_samples() -> None:
    plan = Plan(50, (Round(SIGMA, 50),))
    one, other, again = (list(run(private(0, 1, 2), plan, seed=seed)) for seed in (1, 2, 1))
    assert [x_of(generation).tolist() for generation in one] == [x_of(generation).tolist() for generation in again]
    assert all(x_of(a).tolist() != x_of(b).tolist() for a, b in zip(one, other, strict=True))


# -- broken APIs and embedders -------------------------------------------------------------------------------------


def spoiled(**changes: Callable[[Population], Any]) -> Callable[[Population], Population]:
    return lambda made: replace(made, **{name: change(made) for name, change in changes.items()})


def with_x(values: Callable[[int], Any], type_: pa.DataType | None = None) -> Callable[[Population], Population]:
    def column(made: Population) -> pa.Table:
        array = pa.array(values(len(made)), type_)
        return pa.Table.from_arrays([array], schema=pa.schema([pa.field("x", array.type, nullable=False)]))

    return spoiled(records=column)


BROKEN: dict[str, Callable[[Population], Any]] = {
    "too few": lambda made: made.take(np.arange(len(made) - 1)),
    "too many": lambda made: made.take(np.append(np.arange(len(made)), 0)),
    "no records": lambda made: made.take(np.empty(0, np.int64)),
    "other labels": spoiled(labels=lambda made: (made.labels + 1) % 3),
    "too few labels": spoiled(labels=lambda made: made.labels[1:]),
    "too few origins": spoiled(origin=lambda made: made.origin[1:]),
    "too few parameters": spoiled(parameters=lambda made: made.parameters.slice(1)),
    "above the domain": with_x(lambda n: [100] + [0] * (n - 1)),
    "below the domain": with_x(lambda n: [-1] + [0] * (n - 1)),
    "missing value": with_x(lambda n: [None] + [0] * (n - 1), pa.int64()),
    "another type": with_x(lambda n: [1.5] * n),
    "text": with_x(lambda n: ["7"] * n),
    "another column": spoiled(records=lambda made: made.records.rename_columns(["z"])),
    "one column more": spoiled(records=lambda made: made.records.append_column("z", made.records.column(0))),
    "not a population": lambda made: made.records,
    "nothing": lambda made: None,
    "not a table": spoiled(records=lambda made: {"x": [1] * len(made)}),
}


@pytest.mark.parametrize("when", ["random", "vary"])
@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
def test_an_api_that_breaks_its_contract_is_told(when: str, broken: Callable[[Population], Any]) -> None:
    plan = Plan(9, (Round(SIGMA, 9),))
    with pytest.raises(APIError, match=rf"API 'walk', {when}: "):
        list(run(private(0, 1, 2), plan, api=Walk(when, broken)))


def test_a_broken_lookahead_costs_nothing(account: Account) -> None:
    plan = Plan(9, (Round(SIGMA, 9, lookahead=1),))
    with pytest.raises(APIError):
        list(
            run(
                private(0),
                plan,
                api=Walk("vary", BROKEN["too few"]),
                release=lambda v, s, t, *_: release(v, s, account=account, iteration=t),
            )
        )
    assert account.spent() == (0,)


class Unsound(Line):
    def __init__(self, make: Callable[[NDArray[np.float32]], Any]) -> None:
        self.make = make

    def embed(self, table: pa.Table) -> NDArray[np.float32]:
        return self.make(super().embed(table))


def failing(_: NDArray[np.float32]) -> None:
    raise RuntimeError("out of memory")


@pytest.mark.parametrize("lookahead", [0, 1])
@pytest.mark.parametrize(
    "make", [lambda v: v * np.nan, lambda v: v + np.inf, lambda v: v[1:], lambda v: v.ravel(), lambda v: None, failing]
)
def test_an_embedder_that_fails_on_candidates_costs_nothing(
    account: Account, make: Callable[[NDArray[np.float32]], Any], lookahead: int
) -> None:
    plan = Plan(9, (Round(SIGMA, 9, lookahead=lookahead),))
    with pytest.raises(EmbedderError, match="'line'"):
        list(
            run(
                private(0),
                plan,
                embedder=Unsound(make),
                release=lambda v, s, t, *_: release(v, s, account=account, iteration=t),
            )
        )
    assert account.spent() == (0,)


# -- near-duplicates -------------------------------------------------------------------------------------------------


class OneHot:
    name, dim, scale, limit = "one-hot", 100, 1.0, 1

    def embed(self, table: pa.Table) -> NDArray[np.float32]:
        return np.eye(100, dtype=np.float32)[to_numpy(table, X)]


class Crowd(Walk):
    """Ten numbers, over and over."""

    def random(self, n: int, label: int, rng: np.random.Generator) -> Population:
        return self._population(rng.integers(30, 40, n), label)


def test_no_near_duplicates_are_released_where_enough_others_are_left() -> None:
    def released(distinct: float) -> list[int]:
        plan = Plan(300, (Round(SIGMA, 24, "rank", variations=0, keep=True, distinct=distinct),))
        *_, last = run(private(*[0, 1, 2] * 50, x=33), plan, api=Crowd(), embedder=OneHot())
        assert last.population.labels.tolist() == [0] * 8 + [1] * 8 + [2] * 8
        return [len(set(x_of(last)[last.population.labels == label].tolist())) for label in range(3)]

    assert released(0.9) == [8, 8, 8]
    assert sum(released(1.0)) < 24
    with pytest.raises(ConfigError, match=r"expected distinct in \(0, 1\], got 1.5"):
        released(1.5)
