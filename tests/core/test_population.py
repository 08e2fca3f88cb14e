"""Populations keep records, labels and lineage together."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from pe.data.arrays import to_numpy, to_table
from pe.data.population import Population, concatenate
from pe.data.schema import Categorical, Image, Numeric, Schema

SCHEMA = Schema(
    (Numeric("x", 0, 1), Categorical("c", ("a", "b")), Image("i", 2, 1), Categorical("y", ("no", "yes"))), "y"
)


def population(n: int, seed: int = 0, *, api: str = "tiny", parameters: bool = True) -> Population:
    rng = np.random.default_rng(seed)
    arrays = {
        "x": rng.random(n),
        "c": rng.integers(0, 2, n, np.int32),
        "i": rng.integers(0, 256, (n, 2, 1, 1), np.uint8),
    }
    table = pa.table({"angle": rng.random(n)}) if parameters else None
    return Population.of(to_table(arrays, SCHEMA), rng.integers(0, 2, n), api, table)


def same(one: Population, other: Population) -> bool:
    return (
        all(np.array_equal(to_numpy(one.records, c), to_numpy(other.records, c)) for c in SCHEMA.features)
        and one.labels.tolist() == other.labels.tolist()
        and one.parents.tolist() == other.parents.tolist()
        and one.origin.to_pylist() == other.origin.to_pylist()
        and (one.parameters is None) == (other.parameters is None)
        and (one.parameters is None or one.parameters.equals(other.parameters))
    )


@given(st.integers(0, 6), st.booleans(), st.integers(0, 99))
def test_a_population_survives_parquet(n: int, parameters: bool, seed: int) -> None:
    made = population(n, seed, parameters=parameters).with_parents(np.arange(n))
    file = io.BytesIO()
    pq.write_table(made.to_table(), file)
    again = Population.from_table(pq.read_table(file), SCHEMA)
    assert same(made, again)
    assert again.records.schema.equals(SCHEMA.arrow())


@given(st.lists(st.integers(0, 5), max_size=12))
def test_taking_remembers_where_each_sample_stood(index: list[int]) -> None:
    made = population(6)
    taken = made.take(np.array(index, np.int64))
    assert taken.parents.tolist() == index
    assert taken.labels.tolist() == made.labels[index].tolist()
    assert (
        to_numpy(taken.records, SCHEMA.columns[0]).tolist() == to_numpy(made.records, SCHEMA.columns[0])[index].tolist()
    )
    assert taken.parameters is not None
    assert len(taken) == taken.parameters.num_rows == len(taken.origin) == len(index)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=4))
def test_concatenating_keeps_the_order_and_every_column(sizes: list[int]) -> None:
    parts = [population(n, seed, api=f"api {seed}") for seed, n in enumerate(sizes)]
    whole = concatenate(parts)
    assert len(whole) == sum(sizes)
    start = 0
    for part in parts:
        piece = whole.take(np.arange(start, start + len(part)))
        assert same(piece.with_parents(part.parents), part) or len(part) == 0
        start += len(part)


def test_parameters_survive_only_where_every_part_has_them() -> None:
    assert concatenate([population(2), population(2, parameters=False)]).parameters is None
    assert concatenate([population(2), population(0, parameters=False)]).parameters is not None


def test_fresh_samples_have_no_parents_and_their_apis_name() -> None:
    made = Population.of(population(3).records, 1, "tiny")
    assert made.parents.tolist() == [-1, -1, -1]
    assert made.labels.tolist() == [1, 1, 1]
    assert made.origin.to_pylist() == ["tiny"] * 3
