"""Declared targets: what is counted about them, that it is charged as any, and that models learn from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pe
from pe.errors import ConfigError, SchemaError
from pe.tables import plan
from pe.tables.levels import Levels, grid, merge
from pe.tables.measure import Counts
from pe.tables.targets import choose_tables

COLUMNS = (
    pe.Numeric("y", -6, 6),
    *(pe.Numeric(f"x{number}", -3, 3) for number in range(6)),
    pe.Categorical("town", ("a", "b", "c")),
    pe.Categorical("ill", ("no", "yes")),
)


def people(n: int) -> dict[str, Any]:
    """y follows x0 and town, and ill follows x1; the others are noise."""
    rng = np.random.default_rng(0)
    data: dict[str, Any] = {f"x{number}": rng.normal(0, 1, n).clip(-3, 3) for number in range(6)}
    town = rng.integers(0, 3, n)
    data["y"] = (1.5 * data["x0"] + town - 1 + rng.normal(0, 0.4, n)).clip(-6, 6)
    return data | {
        "town": np.array(["a", "b", "c"])[town],
        "ill": np.where(data["x1"] + rng.normal(0, 0.3, n) > 0, "yes", "no"),
    }


def levels() -> list[Levels]:
    rng = np.random.default_rng(0)
    return [merge(grid(column, 32), rng.normal(40, 5, grid(column, 32).size), 5.0, 16) for column in COLUMNS]


def settings_of(labels: int) -> plan.Settings:
    """Those for many records."""
    return plan.settings(4000, len(COLUMNS), labels, 0.3)


@given(st.integers(0, 2**32 - 1), st.sampled_from([(0,), (0, 7), (8, 0)]), st.integers(1, 3), st.floats(0, 1e5))
@settings(max_examples=25)
def test_a_record_adds_one_cell_of_known_weight_to_each_table(
    seed: int, targets: tuple[int, ...], labels: int, records: float
) -> None:
    rng, held = np.random.default_rng(seed), levels()
    tables = choose_tables(targets, held, labels, records, 0.3, settings_of(labels), rng)
    arrays = {each.column.name: each.decode(rng.integers(0, each.size, 50).astype(np.int32), rng) for each in held}
    counts = Counts(tables, tuple(held), "cross-tables")
    cells, _ = counts.entries(arrays, rng.integers(0, labels, 50))
    assert cells.min() >= 0
    assert cells.max() < tables.bins
    assert all(len(set(row)) == len(tables.tables) for row in cells.tolist())
    assert tables.bound_squared == sum(table.weight**2 for table in tables.tables) < 96**2  # start.LARGEST_NORM
    around = sum(table.weight**2 for table in tables.tables if set(table.columns) & set(targets))
    assert around / tables.bound_squared > (0.75 if labels == 1 else 0.4)


@pytest.mark.parametrize("labels", [2, 4])
def test_with_few_records_targets_stand_beside_contrasts(labels: int) -> None:
    rng, held = np.random.default_rng(0), levels()
    few = plan.settings(200, len(COLUMNS), labels, 0.3)
    tables = choose_tables((0,), held, labels, 200, 0.3, few, rng)
    spent = {True: 0, False: 0}
    for each in tables.tables:
        spent[bool(each.centred)] += each.norm_squared(labels)
    assert spent[True] / tables.bound_squared == pytest.approx(0.6, abs=0.1)
    arrays = {each.column.name: each.decode(rng.integers(0, each.size, 50).astype(np.int32), rng) for each in held}
    cells, values = Counts(tables, tuple(held), "cross-tables").entries(arrays, rng.integers(0, labels, 50))
    assert ((values**2).sum(axis=1) == tables.bound_squared).all()
    assert all(len(set(row)) == len(row) for row in cells.tolist())


def test_without_targets_it_is_the_plain_choice() -> None:
    plain = plan.choose(levels(), 2, 4000, 0.3, plan.MOST, np.random.default_rng(3))
    same = choose_tables((), levels(), 2, 4000, 0.3, settings_of(2), np.random.default_rng(3))
    assert [table.columns for table, _ in plain] == [table.columns for table in same.tables]


@pytest.mark.usefixtures("repeated_noise")
def test_models_of_numbers_and_of_a_second_class_learn_from_declared_targets(tmp_path: Path) -> None:
    data, test = people(3000), people(900)
    made = pe.synthesize(
        data,
        schema=pe.Schema(COLUMNS),
        epsilon=2.0,
        delta=1e-6,
        adjacency="add-remove",
        source="people",
        run=tmp_path / "run",
        create=True,
        targets=["y", "ill"],
    )
    found = pe.evaluate(made, test=test)  # whose targets are the run's
    assert [each.target for each in found.utility] == ["y", "ill"]
    assert (found.utility[0].mean("synthetic") or 0) > 0.6
    assert (found.utility[1].mean("synthetic") or 0) > 0.75


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"targets": ["gone"]}, SchemaError, "no column 'gone'"),
        ({"targets": ["y"], "method": "tab-pe"}, ConfigError, "belongs to method 'cross-tables' or 'herded-tables'"),
        ({"targets": "y"}, ConfigError, "evolution.targets"),
    ],
)
def test_targets_that_cannot_be_are_refused(tmp_path: Path, given: dict[str, Any], kind: type, message: str) -> None:
    schema = pe.Schema(COLUMNS)
    with pytest.raises(kind, match=rf"{message}.*Nothing was spent"):
        pe.synthesize(
            people(9), schema=schema, epsilon=1.0, delta=1e-6, adjacency="add-remove", source="s", create=True, **given
        )
