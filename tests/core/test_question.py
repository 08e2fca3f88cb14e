"""The digest of a question: equal for equal questions in any process, another one for whatever decides a vector."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest

from pe.data.arrays import to_table
from pe.data.population import Population
from pe.data.schema import Categorical, Numeric, Schema
from pe.embedders.tabular import TabularEmbedder
from pe.privacy import Adjacency, Contribution
from pe.private.dataset import PrivateDataset
from pe.private.measure import FourierMean, Marginals, Records, measure
from pe.private.question import question_digest
from pe.private.vote import cast_votes, count_labels, embed_candidates

SCHEMA = Schema((Numeric("x", 0, 9, integer=True), Categorical("kind", ("a", "b"))), "kind")
TABLE = to_table({"x": np.array([1, 5, 7])}, SCHEMA)
ADD = Adjacency.ADD_REMOVE


@dataclass
class Embeds:
    """An embedder of which only the public facts differ."""

    name: str = "embeds"
    dim: int = 1
    scale: float = 1.0
    limit: int = 127

    def embed(self, table: pa.Table) -> np.ndarray:
        return np.asarray(table["x"], np.float32)[:, None]


def private() -> PrivateDataset:
    return PrivateDataset(TABLE, np.array([0, 1, 1], np.int32), SCHEMA, np.arange(3))


def vote(table: pa.Table = TABLE, labels: tuple[int, ...] = (0, 0, 1), embedder: object = None, **how: object) -> str:
    used = embedder or Embeds()
    candidates = Population.of(table, np.array(labels, np.int32), "test")
    vectors = embed_candidates(table, used)
    return cast_votes(private(), candidates, vectors, used, adjacency=ADD, **how).question


def test_a_vote_is_known_by_its_candidates_the_embedder_and_the_votes_of_a_record() -> None:
    other = to_table({"x": np.array([1, 5, 8])}, SCHEMA)
    digests = [
        vote(),
        vote(other),
        vote(labels=(0, 1, 1)),
        vote(embedder=Embeds(name="embeds@2")),
        vote(embedder=Embeds(scale=2.0)),
        vote(embedder=Embeds(limit=99)),
        vote(contribution=Contribution((1.0, 0.5))),
        vote(contribution=Contribution.of(norm=2.0)),
        vote(stand_ins=(TABLE,)),
        vote(stand_ins=(other,)),
        vote(stand_ins=(TABLE, TABLE)),
    ]
    assert vote() == digests[0] != ""
    assert len({*digests}) == len(digests)


def test_sums_are_known_by_all_that_they_are_made_with() -> None:
    frequencies = np.ones((1, 4))
    mean = FourierMean(Embeds(), frequencies, 2, 8)
    features = [
        Records(2),
        Records(2, 4),
        Marginals(SCHEMA, (("x",),)),
        Marginals(SCHEMA, (("x", "kind"),)),
        Marginals(SCHEMA, (("x",), ("kind",))),
        Marginals(SCHEMA, (("x",),), 8),
        mean,
        FourierMean(Embeds(), 2 * frequencies, 2, 8),
        FourierMean(Embeds(), frequencies, 2, 4),
        FourierMean(Embeds(name="other"), frequencies, 2, 8),
    ]
    digests = [measure(private(), each, adjacency=ADD).question for each in features]
    digests += [
        measure(private(), features[0], adjacency=ADD, norm=2.0).question,
        count_labels(private(), ADD).question,
    ]
    assert len({*digests}) == len(digests)
    assert "" not in digests
    again = measure(private(), FourierMean(Embeds(), frequencies, 2, 8), adjacency=ADD).question
    assert again == digests[6]


def test_another_schema_is_another_question() -> None:
    wider = Schema((Numeric("x", 0, 10, integer=True), Categorical("kind", ("a", "b"))), "kind")
    assert question_digest(SCHEMA) != question_digest(wider)
    assert question_digest(TabularEmbedder(SCHEMA)) != question_digest(TabularEmbedder(wider))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("ab", "c"), ("a", "bc")),
        ((1,), (1.0,)),
        ((1,), (True,)),
        ((1,), ("1",)),
        ((None,), ("None",)),
        (((1, 2), 3), (1, (2, 3))),
        ((np.array([1, 2]),), (np.array([[1, 2]]),)),
        ((np.array([1, 2]),), (np.array([1, 2], np.int32),)),
        ((Fraction(1, 3),), (1 / 3,)),
        (({"a": 1},), ({"a": 2},)),
        ((0.0,), (-0.0,)),
    ],
)
def test_values_of_other_kinds_or_cuts_are_told_apart(one: tuple[object, ...], other: tuple[object, ...]) -> None:
    assert question_digest(*one) != question_digest(*other)


def test_of_what_cannot_be_read_off_nothing_is_said() -> None:
    assert question_digest(1, object()) == ""
    assert question_digest(np.array([object()])) == ""
    assert question_digest(replace(Records(2), labels=lambda: 2)) == ""


def test_it_is_the_same_in_another_process() -> None:
    values = "('a', 1.5, None, [1, 2], {'k': (True, b'x')})"
    command = f"from pe.private.question import question_digest; print(question_digest(*{values}))"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == question_digest(*eval(values))  # noqa: S307
