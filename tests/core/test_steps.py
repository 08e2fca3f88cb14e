"""Released numbers are multiples of the declared step, print without dust, and keep what constraints say."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pe.data.arrays import to_numpy, to_table, violations
from pe.data.constraints import Order, Sum, repair
from pe.data.population import Population
from pe.data.schema import Categorical, Datetime, Numeric, Schema
from pe.data.steps import round_to_steps
from pe.errors import SchemaError
from pe.export import export

STEPS = st.sampled_from([1.0, 0.1, 0.01, 0.001, 1e-6, 0.5, 0.25, 0.05, 2.5, 10.0])


def on_step(text: str, step: float) -> bool:
    return Decimal(text) % Decimal(repr(step)) == 0


@given(STEPS, st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_rounded_numbers_are_the_nearest_multiples_and_print_as_such(step: float, numbers: list[float]) -> None:
    column = Numeric("x", -1e6, 1e6, step=step)
    values = column.from_steps(column.steps(np.array(numbers)))
    assert all(on_step(repr(value), step) for value in values.tolist())
    assert (np.abs(values - numbers) <= step / 2 * (1 + 1e-6) + 1e-9).all()
    assert (column.from_steps(column.steps(values)) == values).all()


SCHEMA = Schema(
    (
        Numeric("low", 0, 100, step=0.1),
        Numeric("high", 0.5, 100, step=0.1, missing=True),
        Numeric("total", 0, 50, step=0.05),
        Numeric("one", 0, 40, step=0.05),
        Numeric("two", 0, 30, step=0.05),
        Numeric("free", -1, 1),
        Numeric("count", 0, 9, integer=True),
        Datetime.of("day", "2020-01-01", "2021-01-01", date=True),
        Categorical("kind", ("u", "v")),
    ),
    constraints=(Order(("low", "high")), Sum("total", ("one", "two"))),
)


def random_records(seed: int, n: int = 50) -> pa.Table:
    rng = np.random.default_rng(seed)
    arrays = {}
    for column in SCHEMA.columns:
        if isinstance(column, Categorical):
            arrays[column.name] = rng.integers(0, 2, n).astype(np.int32)
            continue
        assert isinstance(column, Numeric)
        values = rng.uniform(column.minimum, column.maximum, n)
        if column.integer:
            values = np.rint(values).astype(np.int64)
        arrays[column.name] = np.where(rng.random(n) < 0.2, np.nan, values) if column.missing else values
    return repair(to_table(arrays, SCHEMA), SCHEMA, rng)


@given(st.integers(0, 2**32))
def test_constraints_hold_on_steps_and_other_columns_stay(seed: int) -> None:
    table = random_records(seed)
    rounded = round_to_steps(table, SCHEMA, np.random.default_rng(0))
    assert list(violations(rounded, SCHEMA)) == []
    for column in SCHEMA.columns:
        before, after = to_numpy(table, column), to_numpy(rounded, column)
        if getattr(column, "step", None) is None:
            assert np.array_equal(before, after)
        else:
            assert np.array_equal(np.isnan(before), np.isnan(after))
            assert all(on_step(repr(value), column.step) for value in after[~np.isnan(after)].tolist())
    assert round_to_steps(rounded, SCHEMA, np.random.default_rng(1)).equals(rounded)


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet", "hf"])
def test_every_export_holds_multiples_of_the_step(form: str) -> None:
    from pe.delivery import on_steps

    population = on_steps(Population.of(random_records(0), 0, "test"), SCHEMA)
    files = export(population, SCHEMA, [form])
    content = next(content for name, content in files.items() if not name.endswith(".md"))
    if form == "csv":
        names, *lines = content.decode().splitlines()
        place = names.replace('"', "").split(",").index("low")
        texts = [line.split(",")[place] for line in lines]
    elif form == "jsonl":
        import json

        texts = [repr(json.loads(line)["low"]) for line in content.decode().splitlines()]
    else:
        texts = [repr(value) for value in pa.parquet.read_table(pa.BufferReader(content))["low"].to_pylist()]
    assert len(texts) == len(population)
    assert all(on_step(text, 0.1) for text in texts)


def test_a_step_is_declared_written_and_shared_by_the_columns_of_a_constraint() -> None:
    column = Numeric("x", 0, 1, step=0.05)
    assert Schema.from_toml(Schema((column,)).to_toml()).columns == (column,)
    assert "in steps of 0.05" in column.domain()
    with pytest.raises(SchemaError, match="all floats of one step"):
        Schema((column, Numeric("y", 0, 1, step=0.1)), constraints=(Order(("x", "y")),))
