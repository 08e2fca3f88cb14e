"""What is tried of APIs before the first charge: by the checks of the run, and without a trace in it."""

from __future__ import annotations

import random
import sys
import types
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import pe
from pe.apis.mixture import MixtureAPI
from pe.apis.tabular import TabularAPI
from pe.apis.text_render import TextRenderAPI
from pe.cost import Calls, calls_of
from pe.data.population import Population
from pe.embedders.tabular import TabularEmbedder
from pe.errors import APIError, EmbedderError, PEError
from pe.evolution.plan import Plan, Round
from pe.journal import Journal, Usage
from pe.preflight import LABELS, PARENTS, check_api, check_run

SCHEMA = pe.Schema((pe.Numeric("x", 0, 1), pe.Categorical("kind", ("a", "b", "c"))), label="kind")
ASKED = Calls(50, 100)


class Own(TabularAPI):
    """A class of a user's, which does what it should."""

    name = "own"

    def __init__(self, schema: pe.Schema = SCHEMA) -> None:
        super().__init__(schema)
        self.asked: list[Any] = []

    def random(self, n: int, label: int, rng: np.random.Generator) -> Any:
        self.asked.append((n, label))
        return super().random(n, label, rng)

    def vary(self, parents: Population, degree: float, rng: np.random.Generator) -> Any:
        self.asked.append((len(parents), degree))
        return super().vary(parents, degree, rng)


def altered(what: str, change: Any) -> type[Own]:
    """A class whose samples are altered in one of the two methods."""

    class Altered(Own):
        def random(self, n: int, label: int, rng: np.random.Generator) -> Any:
            made = super().random(n, label, rng)
            return change(made) if what == "random" else made

        def vary(self, parents: Population, degree: float, rng: np.random.Generator) -> Any:
            made = super().vary(parents, degree, rng)
            return change(made) if what == "vary" else made

    return Altered


def records(made: Population, **columns: Any) -> Population:
    return replace(made, records=pa.table({"x": made.records["x"]} | columns))


def raising(made: Population) -> Population:
    raise KeyError("no model here")


FAULTS: dict[str, tuple[Any, str]] = {
    "raises": (raising, "no model here"),
    "None": (lambda made: None, "expected a Population, got NoneType"),
    "a frame": (lambda made: made.records.to_pandas(), "expected a Population, got DataFrame"),
    "records as a frame": (
        lambda made: replace(made, records=pd.DataFrame({"x": [1.0]})),
        "Arrow table, got DataFrame",
    ),
    "one too few": (lambda made: made.take(np.arange(len(made) - 1)), "samples, got"),
    "one too many": (lambda made: made.take(np.arange(len(made) + 1) % len(made)), "samples, got"),
    "other label": (lambda made: replace(made, labels=made.labels + 1), "other labels than asked for"),
    "labels of another length": (lambda made: replace(made, labels=made.labels[:-1]), "labels, got"),
    "no labels": (lambda made: replace(made, labels=None), "labels"),
    "other columns": (lambda made: records(made, y=made.records["x"]), "expected columns 'x'"),
    "other type": (lambda made: replace(made, records=pa.table({"x": ["a"] * len(made)})), "expected columns 'x'"),
    "outside": (
        lambda made: replace(made, records=pa.table({"x": np.full(len(made), 7.0)}, SCHEMA.arrow())),
        "leaves its domain",
    ),
    "NaN": (
        lambda made: replace(made, records=pa.table({"x": np.full(len(made), np.nan)}, SCHEMA.arrow())),
        "leaves its domain",
    ),
    "null": (
        lambda made: replace(made, records=pa.table({"x": pa.nulls(len(made), pa.float64())}, SCHEMA.arrow())),
        "has missing values",
    ),
    "origin as a list": (lambda made: replace(made, origin=["own"] * len(made)), "origin as an Arrow array"),
    "origin of another length": (
        lambda made: replace(made, origin=made.origin[:1].take(pa.array([], pa.int64()))),
        "origin",
    ),
    "parameters as a dict": (lambda made: replace(made, parameters={"a": 1}), "parameters as an Arrow table"),
    "parameters of another length": (
        lambda made: replace(made, parameters=pa.table({"a": [1] * 99})),
        "parameters, got 99",
    ),
}


@pytest.mark.parametrize("what", ["random", "vary"])
@pytest.mark.parametrize("fault", FAULTS)
def test_an_api_of_the_users_that_breaks_its_contract_is_refused(what: str, fault: str) -> None:
    change, says = FAULTS[fault]
    with pytest.raises(APIError, match=says) as caught:
        check_api(altered(what, change)(), SCHEMA, ASKED, degrees=[0.5])
    assert f"API 'own', {what}" in str(caught.value)


def test_origins_as_plain_strings_and_labels_as_a_list_are_taken() -> None:
    def plain(made: Population) -> Population:
        return replace(made, origin=made.origin.cast(pa.string()), labels=made.labels.tolist())

    for what in ("random", "vary"):
        samples, _ = check_api(altered(what, plain)(), SCHEMA, ASKED, degrees=[0.5])
        assert samples is not None
        assert samples.labels.dtype == np.int32
        assert pa.types.is_dictionary(samples.origin.type)


def test_a_few_samples_of_many_labels_are_asked_for_and_the_first_and_last_degree() -> None:
    schema = pe.Schema((pe.Numeric("x", 0, 1), pe.Categorical("k", tuple(map(str, range(100))))), label="k")
    api = Own(schema)
    samples, warnings = check_api(api, schema, ASKED, degrees=[0.9, 0.5, 0.1])
    assert samples is not None
    assert warnings == []
    assert len(samples) == LABELS + 1
    labels = [label for n, label in api.asked if n <= 2]
    assert (labels[0], labels[-1], len(labels)) == (0, 99, LABELS)
    assert api.asked[-2:] == [(PARENTS, 0.9), (PARENTS, 0.1)]
    only = Own()
    check_api(only, SCHEMA, ASKED, labels=[1])
    assert only.asked == [(2, 1)]


class Remembers(Own):
    """Draws from random streams that a run does not hand it."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.old, self.plain = np.random.default_rng(5), np.random.RandomState(5), random.Random(5)

    def random(self, n: int, label: int, rng: np.random.Generator) -> Any:
        return super().random(n, label, np.random.default_rng(self.draws()))

    def draws(self) -> list[int]:
        first = [int(self.own.integers(2**31)), int(self.old.randint(2**31)), self.plain.randrange(2**31)]
        return [*first, random.randrange(2**31), int(np.random.randint(2**31))]  # noqa: NPY002


def test_random_streams_are_left_where_they_were() -> None:
    tried, untried = Remembers(), Remembers()
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    check_api(tried, SCHEMA, ASKED, degrees=[0.5])
    first = tried.draws()
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    assert first == untried.draws()


class Costly(Own):
    """Its answers cost money: no sample is asked for on trial."""

    def __init__(self, error: PEError | Exception | None = None) -> None:
        super().__init__()
        self.error = error

    def record(self, journal: Journal | None) -> None: ...

    def ready(self) -> None:
        self.asked.append("ready")
        if self.error is not None:
            raise self.error

    def estimate(self, fresh: int, varied: int) -> Usage:
        return Usage(fresh + varied)

    def check_caps(self, fresh: int, varied: int) -> list[str]:
        self.asked.append((fresh, varied))
        return ["the cap"]


def test_an_api_whose_answers_cost_something_is_asked_whether_it_is_ready() -> None:
    api = Costly()
    assert check_api(api, SCHEMA, ASKED, degrees=[0.5]) == (None, ["the cap"])
    assert api.asked == [(50, 100), "ready"]
    with pytest.raises(APIError, match=r"API 'own', ready failed: ValueError\('oops'\)"):
        check_api(Costly(ValueError("oops")), SCHEMA, ASKED)


def test_members_of_a_mixture_are_tried_and_costly_ones_are_not() -> None:
    good, costly = Own(), Costly()
    check_api(MixtureAPI.of([good, costly]), SCHEMA, ASKED, degrees=[0.5])
    assert costly.asked == ["ready"]
    assert good.asked
    bad = altered("vary", raising)()
    bad.name = "bad"
    for members in ([costly, bad], [good, bad]):
        with pytest.raises(APIError, match="no model here"):
            check_api(MixtureAPI.of(members, [0.99, 0.01]), SCHEMA, ASKED, degrees=[0.5])


PLAN = Plan(60, (Round(Fraction(5), 30, variations=2), Round(Fraction(5), 20, lookahead=3, api=1)))


def test_what_a_plan_asks_of_its_apis_by_hand() -> None:
    assert calls_of(PLAN, 0) == Calls(60, 60)
    assert calls_of(PLAN, 1) == Calls(0, 60 * 3 + 20)
    assert [calls_of(PLAN, 0, 0), calls_of(PLAN, 0, 1)] == [Calls(0, 60), Calls(0, 0)]
    assert [calls_of(PLAN, 1, 1), calls_of(PLAN, 1, 2)] == [Calls(0, 200), Calls(0, 0)]


def test_each_stage_is_tried_on_samples_of_the_one_before_and_only_what_is_left_of_a_run() -> None:
    embedder = TabularEmbedder(SCHEMA)
    first, second = Own(), Own()
    assert check_run(PLAN, SCHEMA, [first, second], embedder).embedder is embedder
    assert [len(first.asked), len(second.asked)] == [3 + 1, 1]
    first, second = Own(), Own()
    population = Population.of(TabularAPI(SCHEMA).random(20, 0, np.random.default_rng(0)).records, 0, "own")
    check_run(PLAN, SCHEMA, [first, second], embedder, completed=1, population=population)
    assert [first.asked, second.asked] == [[], [(PARENTS, 0.5)]]
    check_run(PLAN, SCHEMA, [first, second], embedder, completed=2, population=population)
    assert len(second.asked) == 1


def test_a_resumed_run_varies_its_own_samples_with_the_parameters_that_they_have() -> None:
    schema = pe.Schema((pe.Image("image", 12, 12), pe.Categorical("digit", ("0", "1"))), label="digit")
    api = TextRenderAPI(schema)
    population = api.random(5, 1, np.random.default_rng(0))
    assert check_api(api, schema, Calls(0, 9), degrees=[0.5], parents=population)[0] is population
    with pytest.raises(APIError):  # as in the run
        check_api(api, schema, Calls(0, 9), degrees=[0.5])


def test_samples_of_the_api_must_be_embedded() -> None:
    class Picky(TabularEmbedder):
        def embed(self, table: pa.Table) -> Any:
            found = super().embed(table)
            found[(table["x"].to_numpy() == 0.25)] = np.nan
            return found

    def quarter(made: Population) -> Population:
        return replace(made, records=pa.table({"x": np.full(len(made), 0.25)}, SCHEMA.arrow()))

    plan = replace(PLAN, rounds=PLAN.rounds[:1])
    check_run(plan, SCHEMA, [Own()], Picky(SCHEMA))
    with pytest.raises(EmbedderError, match="NaN or infinity for synthetic samples"):
        check_run(plan, SCHEMA, [altered("random", quarter)()], Picky(SCHEMA))


class Centred(TabularEmbedder):
    """A vector that depends on its batch."""

    def embed(self, table: pa.Table) -> Any:
        found = super().embed(table)
        return found - found.mean(axis=0)


@pytest.mark.parametrize(
    ("keys", "kind", "says"),
    [
        ({"embedder": "mine:Centred"}, EmbedderError, "in a batch of 2 than alone"),
        ({"api": "mine:Bad"}, APIError, "API 'own', vary failed: KeyError"),
    ],
)
def test_a_whole_run_is_refused_before_its_first_charge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any], kind: Any, says: str
) -> None:
    module: Any = types.ModuleType("mine")
    module.Centred, module.Bad, module.Own = Centred, altered("vary", raising), Own
    monkeypatch.setitem(sys.modules, "mine", module)
    data = {"x": np.linspace(0, 1, 300), "kind": np.array(["a", "b", "c"] * 100)}
    asked: dict[str, Any] = {"schema": SCHEMA, "epsilon": 2.0, "delta": 1e-5, "adjacency": "add-remove", "rows": 20}
    asked |= {"source": "s", "create": True, "run": tmp_path / "run", "method": "tab-pe", "iterations": 2}
    with pytest.raises(kind, match=says) as caught:
        pe.synthesize(data, **asked | keys)
    assert "epsilon 0 of 2 is spent" in str(caught.value)
    made = pe.synthesize(data, **asked | {"api": "mine:Own"})  # nothing stands in the way of another try
    assert [row["iteration"] for row in made.certificate["entries"] if row["kind"] == "reserve"] == [0, 1, 2]


class Rounding(TabularEmbedder):
    """Sums in another order in batches than alone."""

    def embed(self, table: pa.Table) -> Any:
        found = super().embed(table)
        return found if table.num_rows == 1 else found * np.float32(1 + 2e-7)


def test_warnings_are_told_before_anything_is_spent_and_come_with_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And an embedder whose batches differ by rounding is asked row by row for private records, too."""
    module: Any = types.ModuleType("mine")
    module.Rounding = Rounding
    monkeypatch.setitem(sys.modules, "mine", module)
    data = {"x": np.linspace(0, 1, 300), "kind": np.array(["a", "b", "c"] * 100)}
    made = pe.synthesize(
        data, schema=SCHEMA, epsilon=2.0, delta=1e-5, adjacency="add-remove", rows=20, source="s", create=True,
        run=tmp_path / "run", method="tab-pe", iterations=1, embedder="mine:Rounding",
    )  # fmt: skip
    assert "differ by rounding" in caplog.messages[0]
    assert caplog.messages[0] in made.warnings
