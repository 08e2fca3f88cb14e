"""Candidates are embedded once per content, in the background where an API hands them over, and as if by themselves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pe.data.arrays import to_numpy, to_table
from pe.data.population import Population
from pe.data.schema import Categorical, Numeric, Schema
from pe.errors import EmbedderError
from pe.evolution.candidates import CandidateEmbedder, contents
from pe.evolution.loop import evolve
from pe.evolution.plan import Plan, Round
from pe.privacy import Adjacency, Budget, Histogram, Votes
from pe.private.dataset import PrivateDataset
from pe.private.vote import embed_candidates

X = Numeric("x", 0, 999, integer=True)
SCHEMA = Schema((X, Categorical("label", ("a",))), "label")


def table(*x: int) -> pa.Table:
    return to_table({"x": np.array(x, np.int64)}, SCHEMA)


class Counting:
    """Remembers every x it was given; fails on x = 13; may be held back."""

    name, dim, scale, limit = "counting", 2, 1.0, 2000

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.inside = 0

    @property
    def given(self) -> list[int]:
        return [x for batch in self.batches for x in batch]

    def embed(self, table: pa.Table) -> NDArray[np.float32]:
        self.inside += 1
        try:
            assert self.inside == 1, "embedded from two threads at a time"
            x = to_numpy(table, X)
            self.batches.append(x.tolist())
            self.threads.add(threading.get_ident())
            self.entered.set()
            assert self.gate.wait(600)
            if (x == 13).any():
                raise ValueError("unlucky")
        finally:
            self.inside -= 1
        return np.stack([x, -x], axis=1).astype(np.float32)


batches = st.lists(st.lists(st.integers(0, 9), max_size=12), max_size=8)


@given(batches, st.integers(1, 12), st.booleans())
def test_vectors_are_those_of_the_embedder_whatever_is_kept(asked: list[list[int]], rows: int, early: bool) -> None:
    embedder = CandidateEmbedder(Counting(), memory=rows * 8)
    for x in asked:
        if early:
            embedder.prefetch(table(*x))
        assert np.array_equal(embedder.vectors(table(*x)), embed_candidates(table(*x), Counting()))
        assert len(embedder._known) <= rows


def test_each_content_is_embedded_once() -> None:
    counting = Counting()
    embedder = CandidateEmbedder(counting)
    embedder.vectors(table(1, 2, 1, 3))
    embedder.vectors(table(3, 4, 2))
    embedder.vectors(table(4, 1))
    assert counting.batches == [[1, 2, 3], [4]]


def test_the_least_recently_used_goes_first() -> None:
    counting = Counting()
    embedder = CandidateEmbedder(counting, memory=3 * 8)
    embedder.vectors(table(1, 2, 3))
    embedder.vectors(table(1))
    embedder.vectors(table(4))  # 2 goes
    counting.batches.clear()
    embedder.vectors(table(1, 3, 4))
    assert counting.given == []
    embedder.vectors(table(2))
    assert counting.given == [2]


def test_prefetching_returns_at_once_and_its_work_is_not_done_again() -> None:
    counting = Counting()
    embedder = CandidateEmbedder(counting)
    counting.gate.clear()
    embedder.prefetch(table(1))
    assert counting.entered.wait(600)
    for x in (2, 3, 2):  # while the first is being embedded
        embedder.prefetch(table(x))
    counting.gate.set()
    assert embedder.vectors(table(3, 2, 1, 5))[:, 0].tolist() == [3, 2, 1, 5]
    assert counting.batches == [[1], [2, 3], [5]]  # what had come meanwhile went together
    assert threading.get_ident() in counting.threads
    assert len(counting.threads) == 2


def test_an_error_in_the_background_is_that_of_the_foreground_and_spares_what_is_not_asked_for() -> None:
    embedder = CandidateEmbedder(Counting())
    embedder.prefetch(table(1, 13))
    embedder.prefetch(pa.table({"stranger": [1]}))
    assert embedder.vectors(table(1)).tolist() == [[1, -1]]
    embedder.prefetch(table(13))
    for _ in range(2):
        with pytest.raises(EmbedderError, match=r"'counting' failed on synthetic samples: ValueError\('unlucky'\)"):
            embedder.vectors(table(13, 2))
    assert embedder.vectors(table(2)).tolist() == [[2, -2]]


def test_closing_drops_what_waits() -> None:
    counting = Counting()
    embedder = CandidateEmbedder(counting)
    counting.gate.clear()
    embedder.prefetch(table(1))
    assert counting.entered.wait(600)
    embedder.prefetch(table(2))
    closing = threading.Thread(target=embedder.close)
    closing.start()
    deadline = time.monotonic() + 600
    while embedder._waiting and time.monotonic() < deadline:
        time.sleep(0.001)
    counting.gate.set()
    closing.join()
    assert counting.given == [1]
    assert embedder._thread is None


# -- contents ------------------------------------------------------------------------------------------------------

texts = st.text(max_size=4)
rows = st.tuples(
    texts | st.none(),
    st.integers(-3, 3) | st.none(),
    st.sampled_from(["a", "b"]) | st.none(),
    st.binary(max_size=2),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
    st.sampled_from([0.0, 0.5, 1e300]),
)
Row = tuple[Any, ...]


def wide(rows: list[Row], names: str = "tncbif") -> pa.Table:
    types = [
        pa.string(),
        pa.int64(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.binary(),
        pa.list_(pa.uint8(), 2),
        pa.float64(),
    ]
    columns = list(zip(*rows, strict=True))
    arrays = [pa.array(column, type_) for column, type_ in zip(columns, types, strict=True)]
    return pa.table(dict(zip(names, arrays, strict=True)))


@given(st.lists(rows, min_size=1, max_size=8), st.data())
def test_rows_have_the_same_digest_just_when_they_are_equal(made: list[Row], data: st.DataObject) -> None:
    digests = contents(wide(made))
    for i, one in enumerate(made):
        for j, other in enumerate(made):
            assert (digests[i] == digests[j]) == (one == other)
    order = data.draw(st.permutations(range(len(made))))
    chosen = wide(made).take(pa.array(order, pa.int64()))
    assert contents(chosen) == [digests[i] for i in order]
    start = data.draw(st.integers(0, len(made) - 1))
    halves = pa.concat_tables([wide(made).slice(start), wide(made).slice(0, start)])
    assert contents(halves) == digests[start:] + digests[:start]
    assert contents(wide(made, "tncbix"))[0] != digests[0]


def test_a_text_is_not_mistaken_for_another_type_or_for_two() -> None:
    pairs = [("ab", "c"), ("a", "bc"), (None, "c"), ("None", "c"), ("", "abc")]
    made = pa.table({"one": [one for one, _ in pairs], "two": [two for _, two in pairs]})
    assert len(set(contents(made))) == len(pairs)
    dictionaries = [pa.array(["x"]).dictionary_encode(), pa.array(["y"]).dictionary_encode()]
    assert len({contents(pa.table({"c": each}))[0] for each in dictionaries}) == 2


def test_an_empty_table_has_no_contents() -> None:
    assert contents(table()) == []
    assert CandidateEmbedder(Counting()).vectors(table()).shape == (0, 2)


# -- in the loop ---------------------------------------------------------------------------------------------------


class Slow:
    """Makes samples one by one and hands each over; every call counts up, so that no content comes twice."""

    name = "slow"

    def __init__(self) -> None:
        self.callback: Callable[[pa.Table], None] | None = None
        self.listened: list[bool] = []
        self.next = 20

    def listen(self, callback: Callable[[pa.Table], None] | None) -> None:
        self.callback = callback

    def random(self, n: int, label: int, rng: np.random.Generator) -> Population:
        self.listened.append(self.callback is not None)
        made = list(range(self.next, self.next + n))
        self.next += n
        if self.callback is not None:
            for x in made:
                self.callback(table(x))
        return Population.of(table(*made), label, self.name)

    def vary(self, parents: Population, degree: float, rng: np.random.Generator) -> Population:
        return self.random(len(parents), 0, rng)


def exact(votes: Votes, sigma: Fraction, iteration: int, name: str = "histogram") -> Histogram:
    return Histogram(votes._count(), sigma, "none")


@pytest.mark.parametrize(("lookahead", "listened"), [(0, [True, True, False]), (1, [False, True, False, True, False])])
def test_the_loop_listens_just_where_samples_will_be_embedded(lookahead: int, listened: list[bool]) -> None:
    api, counting = Slow(), Counting()
    data = PrivateDataset(table(5), np.zeros(1, np.int32), SCHEMA)
    this = Round(Fraction(40), 4, "rank", keep=True, lookahead=lookahead)
    budget = Budget(1.0, 1e-6, Adjacency.ADD_REMOVE)
    *_, last = evolve(data, [api], counting, Plan(4, (this, this)), budget=budget, release=exact, seed=0)
    assert api.listened == listened
    assert api.callback is None
    public = [x for x in counting.given if x != 5]
    assert sorted(public) == sorted(set(public))  # kept parents among them
    assert counting.given.count(5) == 1  # the private record, by the vote
    assert len(last.population) == 8
