"""Votes counted by the task runner of a flow: the same votes, and nothing exact ever reaches Prefect."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pe.config import Config
from pe.errors import PrivateDataError
from pe.private.execution import TASKS_PER_WORKER
from pe.run import read_histogram
from pe.synthesis import blueprint_of, complete

EXECUTION = '[execution]\nexecutor = "prefect"\nworkers = 1\n'
TASKS = TASKS_PER_WORKER
"""Of a vote."""


def histograms(run: Path) -> list[list[int]]:
    found = [read_histogram(path) for path in sorted(run.glob("iterations/*/histogram.npz"))]
    return [each.counts.tolist() for each in found if each is not None]


def simulated(project: Any, name: str, more: str = "") -> str:
    """A configuration whose noise repeats, so that two runs can be compared."""
    path = Path(project.config(name, source=name, iterations=2))
    path.write_text(path.read_text().replace("delta =", "simulate = 5\ndelta =") + more)
    return str(path)


def runner_of(kind: str) -> Any:
    if kind == "dask":
        from prefect_dask import DaskTaskRunner

        keys = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
        return DaskTaskRunner(cluster_kwargs=keys)
    if kind == "ray":
        from prefect_ray import RayTaskRunner

        return RayTaskRunner(init_kwargs={"num_cpus": 2, "include_dashboard": False})
    from prefect.task_runners import ThreadPoolTaskRunner

    return ThreadPoolTaskRunner(max_workers=2)


@pytest.mark.parametrize("kind", ["threads", "dask", "ray"])
def test_a_task_runner_counts_the_votes_of_a_flow_as_this_process_would(
    prefect: Any, project: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pe.flows.synthesize import synthesize_flow

    monkeypatch.setattr("pe.private.blocks.BLOCK", 30)
    config = simulated(project, "flow", EXECUTION)
    state = synthesize_flow.with_options(task_runner=runner_of(kind))(config, create=True, return_state=True)
    assert state.result()["iterations"] == 2

    complete(blueprint_of(Config.read(simulated(project, "alone"))), project.folder / "data.csv")
    assert histograms(project.run("flow")) == histograms(project.run("alone"))
    assert len(histograms(project.run("flow"))) == 3

    def ended() -> list[dict[str, Any]]:
        run = {"id": {"any_": [str(state.state_details.flow_run_id)]}}
        found: list[dict[str, Any]] = prefect.post("task_runs/filter", flow_runs=run)
        return found if sum(bool(each["end_time"]) for each in found) >= TASKS * 3 + 4 else []

    tasks = Counter((each["name"], each["state_name"]) for each in prefect.wait(ended, "the task runs"))
    assert tasks["count votes", "Completed"] == TASKS * 3  # two votes, after one of made-up records
    assert set(tasks) == {(name, "Completed") for name in ("count votes", "generation 0", "release")} | {
        (f"iteration {number}", "Completed") for number in (1, 2)
    }
    cache = project.folder / "home" / "cache" / "pe"
    assert list((cache / "votes").iterdir()) == []
    assert {path.stat().st_mode & 0o777 for path in (cache, *cache.rglob("*")) if path.is_dir()} == {0o700}


def test_a_task_whose_worker_is_lost_is_tried_again_and_nothing_counted_twice(
    prefect: Any, project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pe.flows import shards
    from pe.flows.synthesize import synthesize_flow

    monkeypatch.setattr("pe.private.blocks.BLOCK", 30)
    monkeypatch.setattr(shards.count, "retry_delay_seconds", 0)
    answer, lost = shards.answer, list[int]()

    def losing(job: str, phase: str, task: int, tasks: int) -> list[str] | None:
        told = answer(job, phase, task, tasks)
        if task == 3 and len(lost) < 2:
            lost.append(task)
            raise ConnectionError("the worker is gone")
        return told

    monkeypatch.setattr(shards, "answer", losing)
    assert synthesize_flow(simulated(project, "flow", EXECUTION))["iterations"] == 2
    assert len(lost) == 2
    complete(blueprint_of(Config.read(simulated(project, "alone"))), project.folder / "data.csv")
    assert histograms(project.run("flow")) == histograms(project.run("alone"))


def test_a_task_that_keeps_failing_is_told_and_charged_once(
    prefect: Any, project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pe.flows import shards
    from pe.flows.synthesize import synthesize_flow

    monkeypatch.setattr(shards.count, "retry_delay_seconds", 0)

    answer, answered, allowed = shards.answer, list[int](), list[int]()

    def failing(job: str, phase: str, task: int, tasks: int) -> list[str] | None:
        if len(answered) >= allowed[-1]:
            raise ConnectionError("the worker is gone")
        answered.append(task)
        return answer(job, phase, task, tasks)

    config = Path(project.config())
    config.write_text(config.read_text() + EXECUTION)
    monkeypatch.setattr(shards, "answer", failing)
    for tasks, said, charges in (
        (0, "before the first charge", []),
        (TASKS, "stays charged", [0, 1]),
        (TASKS, "stays charged", [0, 1]),
    ):
        answered.clear()
        allowed.append(tasks)
        with pytest.raises(PrivateDataError, match=rf"could not run a task \(ConnectionError\).*{said}"):
            synthesize_flow(str(config), create=True)
        assert project.charges() == charges
    monkeypatch.setattr(shards, "answer", answer)
    assert synthesize_flow(str(config))["iterations"] == 3
    assert project.charges() == [0, 1, 2, 3]


# -- what reaches Prefect --------------------------------------------------------------------------------------------

N = 104729
"""Records: no other count looks like it."""

CANARY = "7.123454321"

PROGRAM = """
import numpy as np

import pe.private.poll, pe.private.scan
from pe.errors import PEError
from pe.flows.synthesize import synthesize_flow
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.task_runners import ProcessPoolTaskRunner

def noting(load):
    def noted(*arguments):
        array = load(*arguments)
        with open("exact.txt", "a") as file:
            np.savetxt(file, array[None], "%d")
        return array
    return noted

def blow(*arguments):
    try:
        raise RuntimeError("canary-trace within")
    except RuntimeError as error:
        raise ValueError("canary-trace of 104729 records") from error

with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):  # their thread takes a second to stop
    pe.private.scan.load = noting(pe.private.scan.load)
    counting = synthesize_flow.with_options(task_runner=ProcessPoolTaskRunner(max_workers=2))
    print("done:", counting("good.toml", create=True))
    pe.private.poll.Poll.counts = blow
    try:
        synthesize_flow("broken.toml", create=True)
    except PEError as error:
        print("failed:", type(error).__name__, error)
"""


def everything(database: Path) -> Iterator[str]:
    """Every value of every table."""
    with closing(sqlite3.connect(database)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for row in connection.execute(f'SELECT * FROM "{table}"'):
                yield from (value.decode(errors="replace") if isinstance(value, bytes) else str(value) for value in row)


def test_no_count_no_row_and_no_number_of_records_reaches_prefect(
    server: Any, project: Any, client: Callable[..., Any], telling: Callable[..., Any]
) -> None:
    rng = random.Random(1)
    crowd = [f"5.0,10,{rng.choice('ab')}" for _ in range(N - 9000)]  # so that some counts have five digits
    others = [f"{rng.uniform(0, 10):.3f},{rng.randint(0, 20)},{rng.choice('ab')}" for _ in range(8999)]
    (project.folder / "data.csv").write_text("\n".join(["size,count,kind", *crowd, *others, f"{CANARY},3,a", ""]))
    for name in ("good", "broken"):
        path = Path(project.config(name, source=name))
        path.write_text(path.read_text() + EXECUTION)

    ran = client(PROGRAM, cwd=project.folder)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("done:") == 1, ran.stdout
    assert "failed: PrivateDataError counting votes failed with ValueError (details withheld" in ran.stdout

    database = server.home / "prefect.db"
    server.wait(lambda: "broken" in "".join(everything(database)), "the last flow run")
    exact = [[int(each) for each in line.split()] for line in (project.folder / "exact.txt").read_text().splitlines()]
    totals = [
        sum(pair) for one, other in zip(exact[::2], exact[1::2], strict=True) for pair in zip(one, other, strict=True)
    ]
    counts = {each for each in (N, N - 2**16, *totals, *(each for row in exact for each in row)) if each > 9999}
    assert len(counts) > 6
    raw = {b"".join(each.to_bytes(8, "little") for each in row) for row in exact}
    files = {path: path.read_bytes() for path in server.home.rglob("*") if path.is_file()}
    assert database in files
    for path, content in files.items():
        assert CANARY.encode() not in content, path
        assert b"canary-trace" not in content, path
        assert not any(each in content for each in raw), path
    texts = {
        "database": "\n".join(everything(database)),
        "server's log": (server.home / "server.log").read_text(),
        "output": ran.stdout + ran.stderr,
    }
    assert "count votes" in texts["database"]
    for place, text in texts.items():
        assert "canary" not in text, place
        found = telling(text, *counts)
        assert not found, f"a count in {place}: {found.string[found.start() - 200 : found.end() + 100]}"
