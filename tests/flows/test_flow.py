"""The flow does what the session does, with one task per iteration, and never pays twice."""

from __future__ import annotations

import json
import secrets
import signal
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

import pe
from pe.config import Config
from pe.errors import APIError, ConfigError, PEError
from pe.privacy import Adjacency, Budget, Ledger
from pe.privacy.certificate import read_certificate, verify
from pe.privacy.mechanism import DiscreteGaussian
from pe.synthesis import blueprint_of, complete

EVERY = {"generation 0", "iteration 1", "iteration 2", "iteration 3", "release"}

KILLED = """
import os, signal, sys
from pe.flows.synthesize import synthesize_flow
from pe.run import Run

store = Run.store_population
def dying(run, number, population):
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    store(run, number, population)

Run.store_population = dying
synthesize_flow(sys.argv[1], create=True)
"""


def files(run: Path) -> list[str]:
    return sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())


def histograms(run: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(run.glob("iterations/*/histogram.npz"))}


def test_a_flow_run_is_a_session_with_a_task_per_iteration(prefect: Any, project: Any) -> None:
    from pe.flows.synthesize import synthesize_flow

    state = synthesize_flow(project.config(), create=True, return_state=True)

    assert state.result() == {
        "run": str(project.run()),
        "epsilon": 2.0,
        "delta": 1e-5,
        "iterations": 3,
        "planned": 3,
        "rows": 20,
        "stopped": "",
    }
    run = state.state_details.flow_run_id
    prefect.assert_tasks(run, dict.fromkeys(EVERY, "Completed"))

    shown = prefect.artifacts(run)
    assert shown["progress"] == 100
    table = json.loads(shown["table"])
    plan = blueprint_of(Config.read(project.config())).plan
    assert [row["iteration"] for row in table] == [0, 1, 2, 3]
    assert [row["candidates"] for row in table] == [
        "",
        plan.population,
        *(each.population for each in plan.rounds[:-1]),
    ]
    assert [row["sigma"] for row in table[1:]] == [f"{float(each.sigma):.4g}" for each in plan.rounds]
    spent = [float(row["epsilon spent so far"]) for row in table]
    assert spent == sorted(spent)
    assert 0 < spent[0] < spent[-1] <= table[0]["budget"] == 2.0

    # the same run by the plain function
    twin = project.config("twin", source="twin")
    complete(blueprint_of(Config.read(twin)), str(project.folder / "data.csv"), create=True)
    assert files(project.run()) == files(project.run("twin"))
    release = project.run() / "release"
    assert verify(read_certificate(release / "certificate.json"), folder=release, ledger=Ledger())
    assert len(pe.load(project.run())) == 20
    assert project.charges() == [0, 1, 2, 3]


def test_a_finished_run_is_released_again_and_nothing_else(prefect: Any, project: Any) -> None:
    from pe.flows.synthesize import synthesize_flow

    first = synthesize_flow(project.config(), create=True)
    state = synthesize_flow(project.config(), return_state=True)

    assert state.result() == first
    prefect.assert_tasks(state.state_details.flow_run_id, {"release": "Completed"})
    assert project.charges() == [0, 1, 2, 3]


def test_a_flow_killed_within_an_iteration_goes_on_without_paying_again(
    prefect: Any, project: Any, client: Callable[..., Any]
) -> None:
    from pe.flows.synthesize import synthesize_flow

    killed = client(KILLED, project.config())
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = histograms(project.run())
    assert len(before) == 3  # label counts, iterations 1 and 2
    assert (project.run() / "iterations/001/population.parquet").exists()
    assert not (project.run() / "iterations/002/population.parquet").exists()

    state = synthesize_flow(project.config(), return_state=True)

    assert state.result()["iterations"] == 3
    prefect.assert_tasks(
        state.state_details.flow_run_id, dict.fromkeys(["iteration 2", "iteration 3", "release"], "Completed")
    )
    table = json.loads(prefect.artifacts(state.state_details.flow_run_id)["table"])
    assert [row["epsilon spent so far"] for row in table[:2]] == ["stored earlier"] * 2
    assert {path: histograms(project.run())[path] for path in before} == before
    assert project.charges() == [0, 1, 2, 3]
    release = project.run() / "release"
    assert verify(read_certificate(release / "certificate.json"), folder=release, ledger=Ledger())


def test_a_source_without_budget_ends_in_a_state_that_says_so(prefect: Any, project: Any) -> None:
    from pe.flows.synthesize import synthesize_flow

    synthesize_flow(project.config(), create=True)
    spent = project.charges()
    other = project.config("other")

    state = synthesize_flow(other, return_state=True)

    known = prefect.state(state.state_details.flow_run_id)
    assert (known["type"], known["name"]) == ("COMPLETED", "BudgetExhausted")
    assert "pe budget grant" in known["message"]
    assert "Nothing was spent." in known["message"]
    assert synthesize_flow(other) == {
        "run": str(project.run("other")),
        "epsilon": 2.0,
        "delta": 1e-5,
        "iterations": 0,
        "planned": 3,
        "rows": 0,
        "stopped": known["message"],
    }
    assert project.charges() == spent
    assert not (project.run("other") / "release").exists()


def charge_elsewhere() -> None:
    """Another run on the same source spends most of what is left."""
    account = Ledger().account("demo", run="elsewhere", budget=Budget(2.0, 1e-5, Adjacency.ADD_REMOVE), config="")
    noise = DiscreteGaussian(Fraction(3), Fraction(1))
    account.reserve(noise, purpose="votes", iteration=1, bins=1, attempt=secrets.token_hex(16))


def test_a_run_that_stops_early_is_released_and_says_so(prefect: Any, project: Any, hooked: Any) -> None:
    from pe.flows.synthesize import synthesize_flow

    hooked.hook = lambda number: charge_elsewhere() if number == 1 else None
    state = synthesize_flow(project.config(api="hooked:API"), create=True, return_state=True)

    run = state.state_details.flow_run_id
    known = prefect.state(run)
    assert (known["type"], known["name"]) == ("COMPLETED", "StoppedEarly")
    expected = dict.fromkeys(EVERY - {"iteration 3"}, "Completed") | {"iteration 2": "BudgetExhausted"}
    prefect.assert_tasks(run, expected)
    result = state.result()
    assert (result["iterations"], result["rows"], result["stopped"]) == (1, 20, known["message"])
    assert read_certificate(project.run() / "release" / "certificate.json")["iterations"]["completed"] == 1


def test_a_budget_that_is_gone_before_iteration_1_ends_without_a_release(
    prefect: Any, project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pe.flows.synthesize import synthesize_flow
    from pe.run import Run

    store = Run.store_population

    def charging(self: Any, number: int, *rest: Any) -> None:
        charge_elsewhere()
        store(self, number, *rest)

    monkeypatch.setattr(Run, "store_population", charging)
    state = synthesize_flow(project.config(epsilon=1.0), create=False, return_state=True)
    assert state.is_failed()  # there is no such source yet
    Ledger(create=True).create("demo", Budget(2.0, 1e-5, Adjacency.ADD_REMOVE))

    state = synthesize_flow(project.config(epsilon=1.9), return_state=True)

    run = state.state_details.flow_run_id
    assert (state.type, state.name) == ("COMPLETED", "BudgetExhausted")
    prefect.assert_tasks(run, {"generation 0": "Completed", "iteration 1": "BudgetExhausted"})
    assert state.result()["rows"] == 0
    assert not (project.run() / "release").exists()


def test_an_api_that_fails_once_is_asked_again_at_no_charge(
    prefect: Any, project: Any, hooked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pe.flows.synthesize import advance, synthesize_flow

    monkeypatch.setattr(advance, "retry_delay_seconds", 0)
    seen: dict[str, bytes] = {}

    def fail_once(number: int) -> None:
        if number == 2:
            seen.update(histograms(project.run()))
            raise APIError("the service is overloaded.")

    hooked.hook = fail_once
    state = synthesize_flow(project.config(api="hooked:API"), create=True, return_state=True)

    assert state.result()["iterations"] == 3
    prefect.assert_tasks(state.state_details.flow_run_id, dict.fromkeys(EVERY, "Completed"))
    assert len(seen) >= 2
    assert {path: histograms(project.run())[path] for path in seen} == seen
    assert project.charges() == [0, 1, 2, 3]


def test_an_api_that_goes_on_failing_fails_the_flow_and_the_next_one_goes_on(
    prefect: Any, project: Any, hooked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pe.flows.synthesize import advance, synthesize_flow

    monkeypatch.setattr(advance, "retry_delay_seconds", 0)

    def fail(number: int) -> None:
        raise APIError("the service is overloaded.")

    hooked.hook = fail
    with pytest.raises(APIError, match=r"overloaded.*Budget: epsilon .* is spent, 0 of 3 iterations are stored"):
        synthesize_flow(project.config(api="hooked:API"), create=True)
    assert hooked.calls == 4
    assert project.charges() == [0, 1]

    hooked.hook = lambda number: None
    assert synthesize_flow(project.config(api="hooked:API"))["iterations"] == 3
    assert project.charges() == [0, 1, 2, 3]


def test_no_other_error_is_tried_again_and_a_foreign_one_keeps_its_text(
    prefect: Any, project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pe.flows.synthesize import synthesize_flow

    calls = []

    def fail(*_arguments: Any, **_settings: Any) -> None:
        calls.append(1)
        raise KeyError("held back")

    monkeypatch.setattr("pe.evolution.loop.Evolution.step", fail)
    with pytest.raises(PEError, match=r"iteration 1 failed with KeyError \(details withheld") as caught:
        synthesize_flow(project.config(), create=True)
    assert len(calls) == 1
    assert caught.value.__context__ is None
    assert "held back" not in str(caught.value)


def test_a_warning_about_the_data_stays_on_this_machine(
    prefect: Any, project: Any, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    from pe.flows.synthesize import synthesize_flow

    synthesize_flow(project.config(), create=True)
    synthesize_flow(project.config("twin", source="twin"), create=True)
    assert "pe: source 'demo' was charged for the same data" in capsys.readouterr().err
    assert "same data" not in caplog.text


def test_a_wrong_configuration_fails_with_its_sentence(prefect: Any, project: Any) -> None:
    from pe.flows.synthesize import synthesize_flow

    state = synthesize_flow(project.config(evolution="no_such_key = 1"), return_state=True)

    assert state.is_failed()
    with pytest.raises(ConfigError, match="no_such_key: unknown key"):
        state.result()
    assert "no_such_key" in prefect.state(state.state_details.flow_run_id)["message"]
