"""The vote: a record's votes depend on that record and the candidates alone, and are bounded as declared.

``reference`` restates the documented rule one record at a time; everything private is compared with it.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from fractions import Fraction

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
from pe.privacy import Adjacency, Contribution
from pe.private import embedding
from pe.private.dataset import PrivateDataset
from pe.private.vote import cast_votes, count_labels, embed_candidates

X, Y = Numeric("x", -9, 9, integer=True), Numeric("y", -9, 9, integer=True)
SCHEMA = Schema((X, Y, Categorical("label", ("a", "b", "c"))), "label")

Record = tuple[int, int, int]
NAN, INFINITE, RAISES = 7, 8, 9  # what the embedder does with records whose x is this


class Points:
    """Embeds a record as (x, y); fails on some, as a real embedder might."""

    name, dim, scale, limit = "points", 2, 1.0, 127

    def __init__(self) -> None:
        self.rows = 0

    def embed(self, table: pa.Table) -> NDArray[np.float32]:
        x, y = to_numpy(table, X), to_numpy(table, Y)
        if (x == RAISES).any():
            raise ValueError(f"cannot embed {x}")
        self.rows += len(x)
        special = np.where(x == NAN, np.nan, np.where(x == INFINITE, np.inf, x))
        return np.stack([special, y], axis=1).astype(np.float32)


def tables(records: list[Record]) -> tuple[pa.Table, NDArray[np.int32]]:
    x, y, label = np.array(records, np.int64).reshape(-1, 3).T
    return to_table({"x": x, "y": y}, SCHEMA), label.astype(np.int32)


def private(records: list[Record], users: Sequence[int] | None = None) -> PrivateDataset:
    return PrivateDataset(*tables(records), SCHEMA, None if users is None else np.array(users, np.int64))


def votes_of(
    records: list[Record],
    candidates: list[Record],
    contribution: Contribution,
    adjacency: Adjacency = Adjacency.ADD_REMOVE,
    users: Sequence[int] | None = None,
) -> tuple[NDArray[np.int64], Fraction]:
    table, labels = tables(candidates)
    population, embedder = Population.of(table, labels, "test"), Points()
    vectors = embed_candidates(table, embedder)
    data = private(records, users)
    votes = cast_votes(data, population, vectors, embedder, adjacency=adjacency, contribution=contribution)
    assert (votes.bins, votes.grid) == (len(candidates), contribution.grid)
    return votes._count(), votes.sensitivity_squared


def reference(
    records: list[Record], candidates: list[Record], contribution: Contribution, users: Sequence[int] | None = None
) -> list[int]:
    """The documented rule, one record and one user at a time, in exact arithmetic."""
    vectors: dict[int, list[int]] = {}
    for row, (x, y, label) in enumerate(records):
        own = [i for i, candidate in enumerate(candidates) if candidate[2] == label]
        order = own or list(range(len(candidates)))
        if own and x not in (NAN, INFINITE, RAISES):
            order = sorted(own, key=lambda i: ((candidates[i][0] - x) ** 2 + (candidates[i][1] - y) ** 2, i))
        vector = vectors.setdefault(row if users is None else users[row], [0] * len(candidates))
        for i, weight in zip(order, contribution.weights, strict=False):
            vector[i] += math.floor(Fraction(weight) * contribution.grid)
    if contribution.norm is not None:
        bound = math.floor((Fraction(contribution.norm) * contribution.grid) ** 2)
        for user, vector in vectors.items():
            square = sum(each * each for each in vector)
            if square > bound:  # floor(each sqrt(bound / square)), exactly
                vectors[user] = [math.isqrt(each * each * bound // square) for each in vector]
    return [sum(column) for column in zip(*vectors.values(), [0] * len(candidates), strict=True)]


labels = st.integers(0, 2)
points = st.tuples(st.integers(-3, 9), st.integers(-3, 3), labels)  # x in 7..9 cannot be embedded
few = st.lists(points, max_size=12)
candidates = st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2), labels), min_size=1, max_size=12)
record_rules = st.one_of(
    st.integers(1, 4).map(lambda k: Contribution((1.0,) * k)),
    st.lists(st.sampled_from([1.0, 0.5, 1 / 3, 2.0, 0.1]), min_size=1, max_size=4).map(
        lambda weights: Contribution.of(tuple(weights))
    ),
)
user_rules = st.tuples(
    st.lists(st.sampled_from([1.0, 0.5, 1 / 3, 2.0]), min_size=1, max_size=3), st.sampled_from([0.7, 1.0, 1.9, 3.0, 50])
).map(lambda given: Contribution.of(tuple(given[0]), given[1]))
adjacencies = st.sampled_from(Adjacency)
owned = st.lists(st.tuples(points, st.integers(0, 3)), max_size=12)  # records and whose they are


def split(records: list[tuple[Record, int]]) -> tuple[list[Record], list[int]]:
    return [record for record, _ in records], [user for _, user in records]


@given(few, candidates, record_rules)
def test_votes_are_those_of_the_rule(records: list[Record], candidates: list[Record], rule: Contribution) -> None:
    counts, _ = votes_of(records, candidates, rule)
    assert counts.dtype == np.int64
    assert counts.tolist() == reference(records, candidates, rule)


@given(owned, candidates, user_rules)
def test_votes_of_users_are_those_of_the_rule(
    records: list[tuple[Record, int]], candidates: list[Record], rule: Contribution
) -> None:
    rows, users = split(records)
    counts, _ = votes_of(rows, candidates, rule, users=users)
    assert counts.dtype == np.int64
    assert counts.tolist() == reference(rows, candidates, rule, users)


@given(few, candidates, record_rules)
def test_a_records_votes_do_not_depend_on_other_records(
    records: list[Record], candidates: list[Record], rule: Contribution
) -> None:
    together, _ = votes_of(records, candidates, rule)
    alone = [votes_of([record], candidates, rule)[0] for record in records]
    assert together.tolist() == np.sum([np.zeros(len(candidates), int), *alone], axis=0).tolist()


@given(owned, candidates, user_rules)
def test_a_users_votes_do_not_depend_on_other_users(
    records: list[tuple[Record, int]], candidates: list[Record], rule: Contribution
) -> None:
    rows, users = split(records)
    together, bound = votes_of(rows, candidates, rule, users=users)
    total = np.zeros(len(candidates), int)
    for user in set(users):
        own = [row for row, whose in records if whose == user]
        alone, _ = votes_of(own, candidates, rule, users=[user] * len(own))
        assert (alone**2).sum() <= bound
        total += alone
    assert together.tolist() == total.tolist()


@given(few, points, candidates, record_rules)
def test_adding_a_record_moves_the_votes_by_at_most_the_sensitivity(
    records: list[Record], extra: Record, candidates: list[Record], rule: Contribution
) -> None:
    before, bound = votes_of(records, candidates, rule)
    after, _ = votes_of([*records[: len(records) // 2], extra, *records[len(records) // 2 :]], candidates, rule)
    assert ((after - before) ** 2).sum() <= bound
    assert (after >= before).all()


@given(st.lists(points, min_size=1, max_size=12), points, st.integers(0, 11), candidates, record_rules)
def test_replacing_a_record_moves_the_votes_by_at_most_the_sensitivity(
    records: list[Record], other: Record, place: int, candidates: list[Record], rule: Contribution
) -> None:
    place %= len(records)
    before, bound = votes_of(records, candidates, rule, Adjacency.REPLACE_ONE)
    after, _ = votes_of([*records[:place], other, *records[place + 1 :]], candidates, rule, Adjacency.REPLACE_ONE)
    assert ((after - before) ** 2).sum() <= bound
    if rule.nearest == 1:
        assert after.sum() == before.sum() == len(records) * rule.steps[0]


@given(owned, owned, candidates, user_rules, adjacencies)
def test_removing_or_replacing_a_user_moves_the_votes_by_at_most_the_sensitivity(
    records: list[tuple[Record, int]],
    others: list[tuple[Record, int]],
    candidates: list[Record],
    rule: Contribution,
    adjacency: Adjacency,
) -> None:
    """Whatever the user's records are, however many, in however many labels."""
    before, bound = votes_of(*_swapped(split(records), candidates, rule, adjacency))
    rest = [(row, user) for row, user in records if user != 0]
    replaced = rest if adjacency == Adjacency.ADD_REMOVE else rest + [(row, 0) for row, _ in others]
    after, _ = votes_of(*_swapped(split(replaced), candidates, rule, adjacency))
    assert ((after - before) ** 2).sum() <= bound
    if adjacency == Adjacency.ADD_REMOVE:
        assert (after <= before).all()


def _swapped(
    records: tuple[list[Record], list[int]], candidates: list[Record], rule: Contribution, adjacency: Adjacency
) -> tuple[list[Record], list[Record], Contribution, Adjacency, list[int]]:
    return records[0], candidates, rule, adjacency, records[1]


@pytest.mark.parametrize("spread", [1, 3])
def test_a_user_in_many_labels_is_bounded_over_all_of_them(spread: int) -> None:
    """Bounded label by label, a user in L labels would reach sqrt(L) times the bound."""
    candidates = [(0, 0, label) for label in range(3)]
    records = [(0, 0, row % spread) for row in range(300)]
    counts, bound = votes_of(records, candidates, Contribution.of(norm=2.0), users=[7] * 300)
    assert bound == 128**2
    assert bound * 0.97 < (counts**2).sum() <= bound
    assert np.count_nonzero(counts) == spread


def test_users_within_the_bound_keep_every_vote() -> None:
    counts, _ = votes_of(
        [(0, 0, 0)] * 3 + [(0, 0, 1)] * 4, [(0, 0, 0), (0, 0, 1)], Contribution.of(norm=5.0), users=[1] * 7
    )
    assert counts.tolist() == [3 * 64, 4 * 64]


@pytest.mark.parametrize(
    ("adjacency", "k", "bound"), [("add-remove", 1, 1), ("add-remove", 3, 3), ("replace-one", 2, 4)]
)
def test_the_declared_sensitivity_is_reached(adjacency: str, k: int, bound: int) -> None:
    """It is no larger than it need be: a record far from another moves K votes each way."""
    candidates, rule = [(-2, 0, 0)] * 3 + [(2, 0, 0)] * 3, Contribution((1.0,) * k)
    before, declared = votes_of([(-2, 0, 0)], candidates, rule, Adjacency(adjacency))
    after, _ = votes_of([] if adjacency == "add-remove" else [(2, 0, 0)], candidates, rule, Adjacency(adjacency))
    assert ((after - before) ** 2).sum() == declared == bound


@given(owned, st.sampled_from([0.5, 1.0, 3.0]))
def test_the_label_counts_of_users_are_bounded_together(records: list[tuple[Record, int]], norm: float) -> None:
    rows, users = split(records)
    rule = Contribution.of(norm=norm)
    counts = count_labels(private(rows, users), Adjacency.ADD_REMOVE, rule)._count()
    centres = [(0, 0, label) for label in range(3)]
    assert counts.tolist() == reference([(0, 0, label) for _, _, label in rows], centres, rule, users)


@given(few)
def test_the_label_counts_are_those_of_the_records(records: list[Record]) -> None:
    votes = count_labels(private(records), Adjacency.REPLACE_ONE)
    assert votes._count().tolist() == [sum(record[2] == label for record in records) for label in range(3)]
    assert (votes.bins, votes.sensitivity_squared, votes.purpose) == (3, 2, "label counts")


def test_nothing_private_is_read_before_the_count_and_each_record_is_embedded_once() -> None:
    data, embedder = private([(1, 1, 0)] * 10), Points()
    table, own = tables([(0, 0, 0), (1, 1, 0)])
    vectors = embed_candidates(table, embedder)
    embedder.rows = 0
    population = Population.of(table, own, "test")
    all_votes = [cast_votes(data, population, vectors, embedder, adjacency=Adjacency.ADD_REMOVE) for _ in range(3)]
    assert embedder.rows == 0
    assert [votes._count().tolist() for votes in all_votes] == [[0, 10]] * 3
    assert embedder.rows == 10


def test_embeddings_are_forgotten_with_their_data_set() -> None:
    before = len(embedding._kept)
    counts, _ = votes_of([(1, 1, 0)], [(0, 0, 0)], Contribution())
    gc.collect()
    assert counts.tolist() == [1]
    assert len(embedding._kept) == before


def test_an_embedder_of_the_wrong_shape_gives_every_record_the_default_vote() -> None:
    class Flat(Points):
        def embed(self, table: pa.Table) -> NDArray[np.float32]:
            return np.zeros(table.num_rows, np.float32)

    table, own = tables([(0, 0, 0), (1, 1, 0)])
    votes = cast_votes(
        private([(1, 1, 0)] * 5),
        Population.of(table, own, "test"),
        np.zeros((2, 2), np.float32),
        Flat(),
        adjacency=Adjacency.ADD_REMOVE,
    )
    assert votes._count().tolist() == [5, 0]


@pytest.mark.parametrize("x", [NAN, INFINITE, RAISES])
def test_synthetic_samples_that_cannot_be_embedded_are_the_embedders_error(x: int) -> None:
    table, _ = tables([(0, 0, 0), (x, 0, 0)])
    with pytest.raises(EmbedderError, match="'points'"):
        embed_candidates(table, Points())


def test_synthetic_embeddings_of_another_shape_are_the_embedders_error() -> None:
    class Wide(Points):
        def embed(self, table: pa.Table) -> NDArray[np.float32]:
            return np.zeros((table.num_rows, 3), np.float32)

    with pytest.raises(EmbedderError, match=r"expected shape \(1, 2\), got \(1, 3\)"):
        embed_candidates(tables([(0, 0, 0)])[0], Wide())


def test_no_more_than_a_chunk_of_records_is_embedded_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Watched(Points):
        largest = 0

        def embed(self, table: pa.Table) -> NDArray[np.float32]:
            self.largest = max(self.largest, table.num_rows)
            return super().embed(table)

    records = [(number % 19 - 9, number % 7, number % 3) for number in range(50)]
    counts = []
    for chunk in (8, 1000):
        monkeypatch.setattr(embedding, "CHUNK", chunk)
        embedder, (table, labels) = Watched(), tables(records[:9])
        population = Population.of(table, labels, "test")
        vectors = np.stack([np.arange(9), np.arange(9)], axis=1).astype(np.float32)
        votes = cast_votes(private(records), population, vectors, embedder, adjacency=Adjacency.ADD_REMOVE)
        counts.append(votes._count().tolist())
        assert embedder.largest == min(chunk, 50)
    assert counts[0] == counts[1]
