"""A public data set as simulator."""

import numpy as np
import pyarrow as pa
import pytest

from pe.apis.nearest import INDEX, NearestAPI
from pe.apis.tabular import TabularAPI
from pe.data.arrays import to_numpy
from pe.data.population import Population
from pe.data.schema import Categorical, Numeric, Schema, Text
from pe.errors import ConfigError

SCHEMA = Schema((Numeric("x", 0, 99, integer=True), Categorical("kind", ("a", "b"))), label="kind")
PUBLIC = pa.table({"x": np.arange(100), "kind": ["a", "b"] * 50})


def values(population: Population) -> np.ndarray:
    return to_numpy(population.records, SCHEMA.column("x"))


@pytest.fixture
def api() -> NearestAPI:
    return NearestAPI(SCHEMA, path=PUBLIC)


def test_random_draws_without_replacement_and_starts_over(api: NearestAPI) -> None:
    drawn = values(api.random(50, 1, np.random.default_rng(0)))
    assert sorted(drawn) == list(range(1, 100, 2))
    counts = np.bincount(values(api.random(120, 0, np.random.default_rng(0))), minlength=100)
    assert set(counts[::2]) == {2, 3}
    assert counts[1::2].sum() == 0


def test_records_of_a_label_of_two_columns() -> None:
    schema = Schema((*SCHEMA.columns, Categorical("half", ("low", "high"))), label=["half", "kind"])
    table = PUBLIC.append_column("half", pa.array(["low"] * 50 + ["high"] * 50))
    api = NearestAPI(schema, path=table)
    assert sorted(values(api.random(25, 2, np.random.default_rng(0)))) == list(range(50, 100, 2))  # high, a
    with pytest.raises(ConfigError, match="no record of label 'low / b'"):
        NearestAPI(schema, path=table.filter(pa.array([number % 2 == 0 or number > 50 for number in range(100)])))


def test_degree_zero_stays_and_degree_one_goes_anywhere_within_the_label(api: NearestAPI) -> None:
    rng = np.random.default_rng(0)
    parents = api.random(50, 0, rng)
    assert api.vary(parents, 0.0, rng).records.equals(parents.records)
    everywhere = np.concatenate([values(api.vary(parents, 1.0, rng)) for _ in range(20)])
    assert set(everywhere) == set(range(0, 100, 2))


def test_a_variation_is_one_of_the_nearest_records(api: NearestAPI) -> None:
    rng = np.random.default_rng(0)
    parents = api.random(50, 0, rng)
    varied = api.vary(parents, 0.5, rng)  # round(50 ** .5) = 7 records: three on each side, seldom more at an end
    steps = np.abs(values(varied) - values(parents))
    assert 0 < steps.max() <= 12
    assert (varied.labels == 0).all()
    assert np.array_equal(varied.parameters.column(INDEX).to_numpy(), values(varied))


def test_samples_of_another_api_move_to_near_public_records(api: NearestAPI) -> None:
    rng = np.random.default_rng(0)
    foreign = TabularAPI(SCHEMA).random(40, 1, rng)
    assert np.abs(values(api.vary(foreign, 0.0, rng)) - values(foreign)).max() <= 1


def test_a_label_without_public_records_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no record of label 'b'"):
        NearestAPI(SCHEMA, path=PUBLIC.slice(0, 1))


def test_texts_move_to_texts_of_like_meaning() -> None:
    schema = Schema((Text("text"),))
    topics = (
        ["A dog ran home.", "My dog sleeps.", "Dogs bark."],
        ["Stocks fell.", "Shares lost value.", "A market fell."],
    )
    api = NearestAPI(schema, path=pa.table({"text": [text for topic in topics for text in topic]}))
    rng = np.random.default_rng(0)
    parents = api.random(60, 0, rng)
    degree = np.log(3) / np.log(6)  # of six the nearest three
    for before, after in zip(
        parents.records["text"].to_pylist(), api.vary(parents, degree, rng).records["text"].to_pylist(), strict=True
    ):
        assert (before in topics[0]) == (after in topics[0])
