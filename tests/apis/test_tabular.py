"""Tab-PE's random and vary."""

import numpy as np
import pytest

from pe.apis.tabular import TabularAPI
from pe.data.arrays import to_numpy, violations
from pe.data.schema import Categorical, Datetime, Image, Numeric, Schema, boolean
from pe.errors import SchemaError

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
    with pytest.raises(SchemaError, match="makes no image"):
        TabularAPI(Schema((Image("picture", 2, 2),)))
    with pytest.raises(SchemaError, match="expected mutation"):
        TabularAPI(SCHEMA, mutation="wild")


TYPES = Schema(
    (
        Numeric("ratio", 1e-3, 1e6, log=True),
        Numeric("count", 1, 10_000, integer=True, log=True),
        Numeric("gap", 0, 1, missing=True),
        Numeric("whole gap", 1, 100, integer=True, log=True, missing=True),
        Categorical("size", tuple("abcdefghij"), kind="ordinal"),
        Categorical("size gap", ("s", "m", "l"), kind="ordinal", missing=True),
        Categorical("code", tuple(f"c{number}" for number in range(5000)), missing=True),
        boolean("flag"),
        Datetime.of("day", "2000-01-01", "2029-12-31", date=True, missing=True),
    )
)


@pytest.mark.parametrize("mutation", ["uniform", "gaussian"])
@pytest.mark.parametrize("degree", [0.0, 0.05, 1.0])
def test_every_type_stays_in_its_domain(mutation: str, degree: float) -> None:
    api, rng = TabularAPI(TYPES, mutation=mutation), np.random.default_rng(0)
    parents = api.random(500, 0, rng)
    varied = api.vary(parents, degree, rng)
    for population in (parents, varied):
        assert list(violations(population.records, TYPES)) == []
    if degree == 0:
        assert varied.records.equals(parents.records)


def test_a_log_scale_draws_and_moves_ratios() -> None:
    api, rng = TabularAPI(TYPES), np.random.default_rng(0)
    parents = api.random(20_000, 0, rng)
    ratio = np.log10(to_numpy(parents.records, TYPES.column("ratio")))
    assert np.histogram(ratio, 9, (-3, 6))[0] == pytest.approx(np.full(9, 20_000 / 9), rel=0.1)
    moved = np.log10(to_numpy(api.vary(parents, 0.01, rng).records, TYPES.column("ratio")))
    assert 0.08 < np.abs(moved - ratio).max() <= 0.09 + 1e-9  # a hundredth of nine decades


def test_an_ordinal_moves_to_its_neighbours_even_by_small_degrees() -> None:
    api, rng = TabularAPI(TYPES), np.random.default_rng(0)
    parents = api.random(20_000, 0, rng)
    size = TYPES.column("size")
    before, after = (to_numpy(each.records, size) for each in (parents, api.vary(parents, 0.1, rng)))
    steps = np.abs(after - before)
    assert 0.2 < steps.mean() < 0.5
    assert steps.max() == 1


@pytest.mark.parametrize("name", ["gap", "whole gap", "size gap", "day"])
def test_missing_values_come_and_go_with_the_degree(name: str) -> None:
    api, rng = TabularAPI(TYPES), np.random.default_rng(0)
    parents = api.random(20_000, 0, rng)
    before, after = (each.records.column(name).is_null().to_numpy() for each in (parents, api.vary(parents, 0.5, rng)))
    assert before.mean() == pytest.approx(0.1, abs=0.01)
    assert after[~before].mean() == pytest.approx(0.05, abs=0.01)
    assert after[before].mean() == pytest.approx(0.55, abs=0.06)
