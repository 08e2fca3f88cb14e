"""The cost model: its counts are those of a run, its paces are measured, and nothing private is asked for."""

from __future__ import annotations

import sys
import types
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

import pe
import pe.cost
import pe.private.poll
import pe.session
from pe.build import build_plan
from pe.config import Config
from pe.cost import Estimate, Pace, estimate, made_up, pace_of, work_of
from pe.data.arrays import misfits
from pe.data.columns import Column
from pe.data.schema import Schema, Text
from pe.embedders.tabular import TabularEmbedder
from pe.errors import EmbedderError
from pe.evolution.kernel import Kernel
from pe.evolution.plan import Plan, Round
from pe.kernels.nearest import routes
from pe.preflight import Checked
from pe.privacy import Contribution

SCHEMA = pe.Schema((pe.Numeric("x", 0, 1), pe.Categorical("kind", ("a", "b"))), label="kind")
PLAN = Plan(
    100,
    (
        Round(Fraction(5), 50, variations=2, lookahead=3),
        Round(Fraction(5), 20, variations=2, keep=True, contribution=Contribution((1.0, 0.5))),
        Round(Fraction(5), 10),
    ),
)


def test_the_work_of_a_plan_by_hand() -> None:
    work = work_of(PLAN, 1000, 2)
    assert work.records == 1000
    # three variations of each of 100; 50 x 2 new ones; 20 x 2 new ones, as their parents are known
    assert work.candidates == 300 + 100 + 40
    assert work.comparisons == 1000 * (100 + 100 + 60) / 2
    assert (work.most, work.nearest, work.features) == (50, 2, 0)
    uneven = work_of(replace(PLAN, shares=(3.0, 1.0)), 1000, 2)
    assert uneven.comparisons == 1000 * 260 * (9 + 1) / 16
    assert uneven.most == 75


def test_a_plan_without_votes_compares_nothing_and_one_without_rounds_embeds_nothing() -> None:
    kernel = Kernel(1.0)
    alone = replace(PLAN, rounds=tuple(replace(each, sigma=None) for each in PLAN.rounds), kernel=kernel)
    assert (work_of(alone, 1000, 2).comparisons, work_of(alone, 1000, 2).features) == (0, kernel.features)
    config = {
        "private": {"source": "s"},
        "privacy": {"epsilon": 1.0, "delta": 1e-5, "adjacency": "add-remove"},
        "api": {"kind": "tabular"},
        "output": {"run": "run"},
        "evolution": {"method": "cross-tables"},
    }
    assert work_of(build_plan(Config.of(config), SCHEMA), 1000, 2).records == 0


class Counting(TabularEmbedder):
    """Counts the records it embeds, all told and once each."""

    seen: list[Any] = []  # noqa: RUF012

    def embed(self, table: pa.Table) -> NDArray[np.float32]:
        Counting.seen += [tuple(row.values()) for row in table.to_pylist()]
        return super().embed(table)


@pytest.mark.usefixtures("repeated_noise")
def test_the_counts_are_those_of_a_run(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a table whose labels are of equal size, as declared: a record meets the candidates of its label alone."""
    module = types.ModuleType("counting")
    module.Counting = Counting  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "counting", module)
    monkeypatch.setattr(Counting, "seen", [])
    compared = []
    search = pe.private.poll.Search.__call__

    def counted(self: Any, queries: Any, groups: Any = None, *more: Any) -> Any:
        sizes = np.bincount(self.groups, minlength=2)
        compared.append(int(sizes[groups[groups >= 0]].sum()))
        return search(self, queries, groups, *more)

    monkeypatch.setattr(pe.private.poll.Search, "__call__", counted)
    data = {"x": np.linspace(0, 1, 400), "kind": np.array(["a", "b"] * 200)}
    # what is tried before the run is no part of it
    monkeypatch.setattr(pe.session, "check_run", lambda *given, **_: Checked(given[3]))
    asked: dict[str, Any] = {"method": "tab-pe", "rows": 30, "iterations": 3, "label_shares": "uniform"}
    plans: list[Plan] = []
    pe.synthesize(
        data, schema=SCHEMA, epsilon=5.0, delta=1e-5, adjacency="add-remove", source="s", create=True,
        run=tmp_path / "run", progress=lambda session: plans.append(session.blueprint.plan),
        embedder="counting:Counting", **asked,
    )  # fmt: skip
    work = work_of(plans[0], 400, 2)
    assert sum(compared) == pytest.approx(work.comparisons, rel=0.02)  # odd sizes
    embedded = len(Counting.seen) - 400
    assert 0.5 * work.candidates < embedded <= work.candidates


def test_seconds_follow_from_work_and_pace() -> None:
    work = work_of(PLAN, 10**6, 2)
    embedder = TabularEmbedder(SCHEMA)
    found = estimate(work, Pace(1000.0, 1e9, 50.0, "float32"), embedder)
    assert found == Estimate(
        embedding=(10**6 + 440) / 1000,
        voting=10**6 * 130 * embedder.dim / 1e9,
        kernel=10**6 / 50,
        kept=10**6 * embedder.dim * np.dtype(np.int16 if embedder.limit > 128 else np.int8).itemsize,
        route="float32",
    )


def test_a_pace_is_measured_on_made_up_records_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pe.cost, "LONG_ENOUGH", 0.01)
    monkeypatch.setattr(Counting, "seen", [])
    pace = pace_of(work_of(replace(PLAN, kernel=Kernel(0.5, features=7)), 1000, 2), Counting(SCHEMA), SCHEMA)
    assert len(Counting.seen) > 64
    assert min(pace.embedded, pace.compared, pace.transformed) > 0
    assert np.isfinite([pace.embedded, pace.compared, pace.transformed]).all()
    assert pace.route in ("float32", "float64")  # so little work is not worth an import


def test_much_work_is_measured_on_the_route_that_it_would_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pe.cost, "LONG_ENOUGH", 0.01)
    schema = pe.Schema(tuple(pe.Numeric(f"x{number}", 0, 1) for number in range(16)))
    work = work_of(PLAN, 10**9, 1)
    embedder = TabularEmbedder(schema)
    embedder.limit = 127  # int8
    route = pace_of(work, embedder, schema).route
    fastest = next(name for name, fault in routes().items() if not fault)
    assert route.startswith(fastest)


COLUMNS: list[Column] = [
    pe.Numeric("a", -3, 5),
    pe.Numeric("a", 2, 2, integer=True),
    pe.Numeric("a", 1, 1000, log=True, missing=True),
    pe.Categorical("a", ("x", "y"), missing=True),
    pe.Image("a", 3, 4, 3),
    Text("a", max_length=9),
]


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.kind)
def test_made_up_records_lie_in_the_domain(column: Column) -> None:
    schema = Schema((column,))
    table = made_up(schema, 50, np.random.default_rng(0))
    assert table.num_rows == 50
    assert table.schema == schema.arrow()
    assert list(misfits(table, schema)) == []


def test_an_embedder_that_fails_is_told() -> None:
    class Failing(TabularEmbedder):
        def embed(self, table: pa.Table) -> NDArray[np.float32]:
            raise ValueError("no model")

    with pytest.raises(EmbedderError, match="no model"):
        pace_of(work_of(PLAN, 10, 2), Failing(SCHEMA), SCHEMA)
