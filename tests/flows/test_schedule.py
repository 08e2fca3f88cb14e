"""A schedule spends one budget on run directories of their own, and picks up what was left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from pe.errors import ConfigError, UnknownSourceError
from pe.privacy import Adjacency, Budget, Ledger
from pe.privacy.certificate import read_certificate, verify
from pe.run import Run

ROOT = Path(__file__).resolve().parent.parent.parent
OWN = r"demo-\d{8}T\d{6}Z-[0-9a-f]{8}"

SERVE = """
import sys
from pathlib import Path
from pe.cli.schedule import schedule
schedule(Path(sys.argv[1]), cron=sys.argv[2])
"""


def grant(epsilon: float) -> None:
    Ledger(create=True).create("demo", Budget(epsilon, 1e-5, Adjacency.ADD_REMOVE))


@contextmanager
def served(server: Any, config: str, cron: str) -> Iterator[str]:
    """Serve a configuration in a process; yields the deployment's identifier, stops it by SIGTERM."""
    log = Path(config).with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, config, cron],
            env=os.environ | server.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def deployed() -> str:
        assert process.poll() is None, log.read_text()
        found = server.post("deployments/filter", deployments={"name": {"any_": [Path(config).stem]}})
        return str(found[0]["id"]) if found else ""

    try:
        yield server.wait(deployed, "the deployment")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(300)
    assert process.returncode == 0, log.read_text()


def finished(server: Any, deployment: str, count: int) -> Callable[[], list[dict[str, Any]]]:
    """Ask for ``count`` flow runs that ended and did something."""

    def ask() -> list[dict[str, Any]]:
        found = server.flow_runs(deployment)
        assert not [run for run in found if run["state_type"] in ("FAILED", "CRASHED")], found
        ended = [run for run in found if run["state_type"] == "COMPLETED" and run["state_name"] != "Superseded"]
        return ended if len(ended) >= count else []

    return ask


def test_each_triggered_run_has_a_directory_of_its_own_and_all_share_a_ledger(server: Any, project: Any) -> None:
    grant(3.5)  # for two runs of epsilon 2
    with served(server, project.config(), "0 4 1 1 *") as deployment:
        for _ in range(2):
            server.post(f"deployments/{deployment}/create_flow_run", state={"type": "SCHEDULED"})
        runs = server.wait(finished(server, deployment, 2), "two flow runs")

    assert [run["state_name"] for run in runs] == ["Completed", "Completed"]
    names = project.runs()
    assert len(names) == 2
    for run in runs:
        (own,) = [name for name in names if name.endswith(run["id"].replace("-", "")[-8:])]
        assert re.fullmatch(OWN, own)
        release = project.run(own) / "release"
        assert verify(read_certificate(release / "certificate.json"), folder=release, ledger=Ledger())
    assert project.charges() == [0, 1, 2, 3] * 2
    assert len({entry.body["run"] for entry in Ledger().chain("demo") if entry.kind == "reserve"}) == 2


def test_a_cron_fires_by_itself(server: Any, project: Any) -> None:
    grant(2.0)
    with served(server, project.config("ticking"), "* * * * *") as deployment:
        run, *later = server.wait(finished(server, deployment, 1), "a flow run")

    assert run["auto_scheduled"]
    assert run["state_name"] == "Completed"
    assert {each["state_name"] for each in later} <= {"BudgetExhausted"}  # of the next minute
    (own,) = (name for name in project.runs() if (project.run(name) / "release").exists())
    assert own.endswith(run["id"].replace("-", "")[-8:])
    assert project.charges() == [0, 1, 2, 3]


def test_runs_that_are_refused_leave_one_directory_and_it_is_taken_when_there_is_budget(
    prefect: Any, project: Any
) -> None:
    from pe.flows.schedule import scheduled_flow

    grant(1.0)
    states = [scheduled_flow(project.config(), return_state=True) for _ in range(2)]
    assert [(state.type.value, state.name) for state in states] == [("COMPLETED", "BudgetExhausted")] * 2
    (refused,) = project.runs()
    assert project.charges() == []

    Ledger().grant("demo", 2.0, 1e-5)
    assert Path(scheduled_flow(project.config())["run"]).name == refused


def test_a_late_tick_leaves_the_work_to_a_later_one(prefect: Any, project: Any) -> None:
    from prefect.client.schemas.objects import FlowRun
    from prefect.schedules import Cron

    from pe.flows.schedule import scheduled_flow, superseded

    deployment = str(scheduled_flow.to_deployment("late", schedule=Cron("0 * * * *")).apply())

    def planned() -> list[dict[str, Any]]:
        return prefect.flow_runs(deployment)[:3] if len(prefect.flow_runs(deployment)) >= 3 else []

    first, second, third = (FlowRun.model_validate(run) for run in prefect.wait(planned, "runs of the schedule"))
    due = [run.expected_start_time for run in (first, second, third)]
    assert all(isinstance(time, datetime) for time in due)
    assert [superseded(run, due[0]) for run in (first, second, third)] == [False, False, False]
    assert [superseded(run, due[2]) for run in (first, second, third)] == [True, True, False]
    by_hand = first.model_copy(update={"auto_scheduled": False})
    assert not superseded(by_hand, due[2])


def test_an_interrupted_run_is_continued_before_a_new_one_is_begun(
    prefect: Any, project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pe.flows.schedule import scheduled_flow

    grant(10)
    store = Run.store_population

    def dying(run: Run, number: int, population: Any) -> None:
        if number == 2:
            raise KeyboardInterrupt
        store(run, number, population)

    with monkeypatch.context() as broken:
        broken.setattr(Run, "store_population", dying)
        with pytest.raises(KeyboardInterrupt):
            scheduled_flow(project.config())
    (left,) = project.runs()

    # meanwhile the configuration changed: the old run goes on with its own
    changed = project.config(iterations=2)
    first = scheduled_flow(changed)
    assert (Path(first["run"]).name, first["planned"], first["iterations"]) == (left, 3, 3)
    assert project.charges() == [0, 1, 2, 3]

    second = scheduled_flow(changed)
    assert (second["planned"], second["iterations"]) == (2, 2)
    assert project.runs() == sorted([left, Path(second["run"]).name])
    assert project.charges() == [0, 1, 2, 3, 0, 1, 2]


def test_a_run_that_cannot_be_continued_is_passed_over(
    prefect: Any, project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pe.flows.schedule import scheduled_flow

    grant(20)

    def dying(run: Run, number: int, population: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(Run, "store_population", dying)
        with pytest.raises(KeyboardInterrupt):
            scheduled_flow(project.config())
    (left,) = project.runs()
    data = project.folder / "data.csv"
    before = data.read_text()

    data.write_text(before + "1.0,1,a\n")
    changed = scheduled_flow(project.config())
    assert Path(changed["run"]).name != left
    data.write_text(before)

    from filelock import FileLock

    with FileLock(project.run(left) / ".lock"):
        locked = scheduled_flow(project.config())
    assert Path(locked["run"]).name not in (left, Path(changed["run"]).name)

    assert Path(scheduled_flow(project.config())["run"]).name == left
    assert len(project.runs()) == 3


def test_a_flow_run_that_prefect_repeats_returns_to_its_own_directory(
    prefect: Any, project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pe.flows import schedule

    grant(10)
    own = project.run("demo-20260101T000000Z-00000000")
    monkeypatch.setattr(schedule, "_directory", lambda blueprint, flow_run: own)
    first = schedule.scheduled_flow(project.config())
    assert first["run"] == str(own)
    assert schedule.scheduled_flow(project.config()) == first
    assert project.charges() == [0, 1, 2, 3]


def test_directories_of_others_are_never_taken(project: Any) -> None:
    from pe.flows.schedule import unfinished

    names = ["demo", "demo-old", "demo-20260101T000000Z-0123abcx", "other-20260101T000000Z-0123abcd"]
    ours = ["demo-20260101T000000Z-0123abcd", "demo-20250101T000000Z-ffffffff"]
    for name in names + ours:
        project.run(name).mkdir(parents=True)
    done = project.run("demo-20240101T000000Z-0123abcd") / "release"
    done.mkdir(parents=True)
    (done / "certificate.json").touch()
    assert [place.name for place in unfinished(project.run())] == sorted(ours)
    assert unfinished(project.folder / "nowhere" / "demo") == []


@pytest.mark.parametrize("cron", ["every night", "* * *", "61 * * * *", ""])
def test_a_bad_cron_expression_is_refused_in_one_sentence(project: Any, cron: str) -> None:
    from pe.cli.schedule import schedule

    grant(2)
    with pytest.raises(ConfigError, match=r"^expected a cron expression of five fields .*Nothing was spent\.$"):
        schedule(Path(project.config()), cron=cron)


def test_what_cannot_run_is_not_served(project: Any) -> None:
    from pe.cli.schedule import schedule

    with pytest.raises(UnknownSourceError, match="pe budget create"):
        schedule(Path(project.config()), cron="0 2 * * *")
    grant(2)
    with pytest.raises(ConfigError, match="name without any of / % & < >, got 'a/b'"):
        schedule(Path(project.config()), cron="0 2 * * *", name="a/b")
    with pytest.raises(ConfigError, match="unknown key"):
        schedule(Path(project.config(evolution="typo = 1")), cron="0 2 * * *")


def test_a_schedule_needs_a_server_that_answers(server: Any, project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from pe.cli.schedule import schedule

    grant(2)
    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(ConfigError, match=r"needs a Prefect server.*prefect server start.*Nothing was spent\.$"),
    ):
        schedule(Path(project.config()), cron="0 2 * * *")
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        pytest.raises(ConfigError, match=r"no Prefect server answers at http://127.0.0.1:9/api"),
    ):
        schedule(Path(project.config()), cron="0 2 * * *")


def test_without_prefect_the_command_says_what_to_install(python: Callable[..., Any], project: Any) -> None:
    program = """
import sys
from pathlib import Path
import pe.cli.schedule
assert "prefect" not in sys.modules
sys.modules["prefect"] = None
try:
    pe.cli.schedule.schedule(Path(sys.argv[1]), cron="0 2 * * *")
except pe.errors.ConfigError as error:
    print(error)
"""
    ran = python("import pe.errors\n" + program, project.config())
    assert ran.returncode == 0, ran.stderr
    assert "pip install 'pe-synth[flows]'" in ran.stdout


def test_prefect_yaml_names_a_flow_and_parameters_that_it_takes(prefect: Any) -> None:
    from prefect.flows import load_flow_from_entrypoint
    from prefect.schedules import Cron

    (deployment,) = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    flow = load_flow_from_entrypoint(deployment["entrypoint"])
    assert flow.name == "scheduled-synthesis"
    assert flow.validate_parameters(deployment["parameters"]) == deployment["parameters"] | {"create": False}
    (schedule,) = deployment["schedules"]
    assert Cron(schedule["cron"], timezone=schedule["timezone"]).active
    assert deployment["work_pool"]["name"]
