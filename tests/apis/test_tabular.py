"""Tab-PE's random and vary."""

import numpy as np
import pytest

from pe.apis.tabular import TabularAPI
from pe.arrays import to_numpy, violations
from pe.errors import SchemaError
from pe.schema import Categorical, Image, Numeric, Schema

SCHEMA = Schema(
    (
        Numeric("whole", -3, 5, integer=True),
        Numeric("real", 0.0, 1.0),
        Numeric("constant", 2.0, 2.0),
        Categorical("kind", ("a", "b", "c")),
    )
)
ARRAYS = ("whole", "real", "constant", "kind")


@pytest.mark.parametrize("mutation", ["uniform", "gaussian"])
@pytest.mark.parametrize("degree", [0.0, 0.1, 1.0])
def test_samples_and_variations_stay_in_the_domain(mutation: str, degree: float) -> None:
    api, rng = TabularAPI(SCHEMA, mutation=mutation), np.random.default_rng(0)
    parents = api.random(500, 0, rng)
    for population in (parents, api.vary(parents, degree, rng)):
        assert list(violations(population.records, SCHEMA)) == []
        assert len(population) == 500


def test_degree_zero_returns_the_parents_and_larger_degrees_move_further() -> None:
    api, rng = TabularAPI(SCHEMA), np.random.default_rng(0)
    parents = api.random(4000, 0, rng)
    real = to_numpy(parents.records, SCHEMA.column("real"))
    moves = []
    for degree in (0.0, 0.1, 0.4):
        varied = api.vary(parents, degree, rng)
        moves.append(np.abs(to_numpy(varied.records, SCHEMA.column("real")) - real).mean())
        if degree == 0:
            assert varied.records.equals(parents.records)
    assert moves[0] == 0 < moves[1] < moves[2]


def test_a_category_is_redrawn_with_the_degree_as_probability() -> None:
    api, rng = TabularAPI(SCHEMA), np.random.default_rng(0)
    parents = api.random(30_000, 0, rng)
    before, after = (
        to_numpy(population.records, SCHEMA.column("kind")) for population in (parents, api.vary(parents, 0.3, rng))
    )
    # a redraw keeps the value one time in three: 0.3 * 2/3, standard error 0.0023
    assert np.mean(before != after) == pytest.approx(0.2, abs=0.012)


def test_one_seed_gives_one_population() -> None:
    api = TabularAPI(SCHEMA)
    first, second = (api.vary(api.random(50, 0, rng), 0.5, rng) for rng in map(np.random.default_rng, (3, 3)))
    assert first.records.equals(second.records)


def test_wrong_schemas_and_settings_are_refused() -> None:
    with pytest.raises(SchemaError, match="cannot make images"):
        TabularAPI(Schema((Image("picture", 2, 2),)))
    with pytest.raises(SchemaError, match="expected mutation"):
        TabularAPI(SCHEMA, mutation="wild")
