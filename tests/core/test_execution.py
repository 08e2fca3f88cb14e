"""Who counts the votes changes none of them, be it that workers die in the middle."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
from numpy.typing import NDArray

import pe.build
import pe.private.blocks
import pe.private.execution
import pe.private.scan
from pe.config import Config
from pe.data.arrays import to_numpy, to_table
from pe.data.population import Population
from pe.data.schema import Categorical, Numeric, Schema
from pe.errors import ConfigError, LedgerError, PrivateDataError
from pe.privacy import Adjacency, Contribution
from pe.private.clusters import DaskExecutor, RayExecutor
from pe.private.dataset import PrivateDataset
from pe.private.execution import Local, Processes, ShardExecutor, gathered
from pe.private.vote import cast_votes, embed_candidates

X = Numeric("x", 0, 999, integer=True)
SCHEMA = Schema((X, Categorical("label", ("a", "b"))), "label")
RULES = [Contribution((1.0, 1.0)), Contribution.of((1.0, 0.5), 2.0)]


class Points:
    name, dim, scale, limit = "points", 3, 1.0, 127

    def embed(self, table: pa.Table) -> NDArray[np.float32]:
        x = to_numpy(table, X).astype(np.float32)
        return np.stack([x % 50, x // 50, x % 7], axis=1)


def private() -> PrivateDataset:
    rng = np.random.default_rng(5)
    records = to_table({"x": rng.integers(0, 1000, 600)}, SCHEMA)
    return PrivateDataset(records, rng.integers(0, 2, 600).astype(np.int32), SCHEMA, rng.integers(0, 90, 600))


def votes(data: PrivateDataset, rule: Contribution) -> list[int]:
    table = to_table({"x": np.arange(0, 1000, 31)}, SCHEMA)
    population = Population.of(table, np.arange(table.num_rows) % 2, "test")
    vectors = embed_candidates(table, Points())
    cast = cast_votes(data, population, vectors, Points(), adjacency=Adjacency.ADD_REMOVE, contribution=rule)
    return [int(each) for each in cast._count()]


EXPECTED = [votes(private(), rule) for rule in RULES]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pe.private.blocks, "BLOCK", 40)


@pytest.fixture
def counted() -> Iterator[Callable[[ShardExecutor], list[list[int]]]]:
    """Both votes by an executor, which is closed at the end."""
    used = []

    def count(executor: ShardExecutor) -> list[list[int]]:
        used.append(executor)
        data = private()
        data.executor = executor
        return [votes(data, rule) for rule in RULES]

    yield count
    for executor in used:
        executor.close()


def signalled(workers: list[int], number: signal.Signals) -> None:
    for worker in workers:
        with contextlib.suppress(ProcessLookupError):  # a cluster ends idle workers by itself
            os.kill(worker, number)


def killed_amid(executor: ShardExecutor, workers: list[int], counted: Any) -> list[list[int]]:
    """The votes while workers are stopped, given tasks that they never finish, and killed."""
    found: list[list[list[int]]] = []
    signalled(workers, signal.SIGSTOP)
    thread = threading.Thread(target=lambda: found.append(counted(executor)))
    thread.start()
    time.sleep(0.5)
    signalled(workers, signal.SIGKILL)
    thread.join(600)
    assert found, "the vote did not end"
    return found[0]


def test_processes_count_the_same_also_when_one_is_killed_amid_a_vote(counted: Any) -> None:
    executor = Processes(2)
    assert counted(executor) == EXPECTED
    before = [process.pid for process in executor._running]
    assert killed_amid(executor, before[:1], counted) == EXPECTED
    after = [process.pid for process in executor._running]
    assert len(after) == 2
    assert before[0] not in after
    executor.close()
    assert counted(executor) == EXPECTED  # they start again


def test_processes_that_keep_dying_are_an_error(counted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.Popen

    def dying(command: list[str], **options: Any) -> Any:
        return real([sys.executable, "-c", "import os; input(); os._exit(1)"], **options)

    monkeypatch.setattr(subprocess, "Popen", dying)
    executor = Processes(2)
    with pytest.raises(PrivateDataError, match=r"^3 worker processes died.*What was charged stays charged\.$"):
        counted(executor)
    assert executor._running == []


def test_an_error_in_a_worker_comes_back_as_it_is_and_quotes_nothing(
    counted: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The cache vanishes between the parent's look and the worker's."""
    run = Processes.run

    def without_shards(self: Processes, job: str, phase: str, tasks: int) -> None:
        for path in Path(job).parent.parent.glob("embeddings/*/*.npy"):
            path.unlink()
        run(self, job, phase, tasks)

    monkeypatch.setattr(Processes, "run", without_shards)
    with pytest.raises(PrivateDataError, match=r"^the private cache is damaged.*What was charged stays charged\.$"):
        counted(Processes(1))


def test_a_worker_without_a_package_says_which() -> None:
    root = str(Path(pe.private.execution.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-S", "-m", "pe.private.worker"],
        input='["job", "shards", 0, 1]\n',
        capture_output=True,
        text=True,
        env={"PYTHONPATH": root},
        check=True,
    )
    kind, text = json.loads(done.stdout)
    assert (kind, done.stderr) == ("PrivateDataError", "")
    assert text.startswith("a worker lacks the package numpy")


def test_an_unguarded_script_may_ask_for_workers(tmp_path: Path, python: Callable[..., Any]) -> None:
    script = """
import sys
import numpy as np, pe
print("once")
made = pe.synthesize(
    {"x": np.arange(300) % 50}, schema=pe.Schema((pe.Numeric("x", 0, 99, integer=True),)), source="s", run=sys.argv[1],
    epsilon=1.0, delta=1e-5, adjacency="add-remove", method="tab-pe", iterations=1, rows=20, create=True,
    execution={"workers": 2},
)
print(made.certificate["iterations"]["completed"])
"""
    done = python(script, tmp_path / "run")
    assert (done.stdout, done.stderr) == ("once\n1\n", "")


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> set[bytes]:
    """Every partial sum that a vote of this test added up, in bytes and as text."""
    seen: set[bytes] = set()

    def loading(*given: Any) -> Any:
        array = load(*given)
        seen.update({array.tobytes(), str(array.tolist()).encode()} if array.any() else {b"0" * 99})
        return array

    load = pe.private.scan.load
    monkeypatch.setattr(pe.private.scan, "load", loading)
    return seen


def assert_none_of(parts: set[bytes], *places: Path) -> None:
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    assert files
    assert len(parts) > 8
    for path in files:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            continue  # the cluster has removed it meanwhile
        assert not any(part in content for part in parts), path


def hiding() -> Callable[[bool, str, int], None]:
    """Hides the package from so many workers at once, or shows it again; made here, so that it travels by value."""

    def hide(hidden: bool, place: str, workers: int) -> None:
        import os
        import sys
        import time
        from pathlib import Path

        if hidden:
            sys.modules["pe.private.scan"] = None  # type: ignore[assignment]
        else:
            sys.modules.pop("pe.private.scan", None)
        here = Path(place, "hidden" if hidden else "shown")
        here.mkdir(exist_ok=True)
        (here / str(os.getpid())).touch()
        while len(list(here.iterdir())) < workers:  # so that none takes two of them
            time.sleep(0.01)

    return hide


def idle() -> list[int]:
    """Ray's workers that have nothing to do."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it ended meanwhile
            if any(part.startswith("ray::IDLE") for part in process.cmdline()):
                found.append(process.pid)
    return found


LACKS = (
    r"^a worker lacks the package pe\.private\.scan: it needs what this process has\. What was charged stays charged\.$"
)


def test_dask_counts_the_same_and_tells_what_a_worker_lacks(counted: Any, parts: set[bytes], tmp_path: Path) -> None:
    executor = DaskExecutor(2)
    assert counted(executor) == EXPECTED
    executor._client.run(hiding(), True, str(tmp_path), 2)
    with pytest.raises(PrivateDataError, match=LACKS):
        counted(executor)
    executor._client.run(hiding(), False, str(tmp_path), 2)
    workers = list(executor._client.run(os.getpid).values())
    assert killed_amid(executor, workers[:1], counted) == EXPECTED
    known = executor._client.scheduler_info()["workers"].values()
    assert_none_of(parts, *{Path(each["local_directory"]).parent for each in known})


def test_ray_counts_the_same_and_tells_what_a_worker_lacks(counted: Any, parts: set[bytes], tmp_path: Path) -> None:
    executor = RayExecutor(2)
    assert counted(executor) == EXPECTED
    hide = executor._ray.remote(num_cpus=1)(hiding())
    executor._ray.get([hide.remote(True, str(tmp_path), 2) for _ in range(2)])
    with pytest.raises(PrivateDataError, match=LACKS):
        counted(executor)
    deadline = time.monotonic() + 600
    while not (workers := idle()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert workers
    assert killed_amid(executor, workers, counted) == EXPECTED
    assert_none_of(parts, Path(executor._ray._private.worker._global_node.get_session_dir_path()))


def test_a_cluster_that_does_not_answer_is_told(counted: Any) -> None:
    import dask

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(PrivateDataError, match=r"no Dask scheduler answers at tcp://127.0.0.1:1\b.*stays charged"),
    ):
        counted(DaskExecutor(1, "tcp://127.0.0.1:1"))


@pytest.mark.parametrize(("executor", "module"), [("dask", "distributed"), ("ray", "ray")])
def test_a_missing_package_is_told_before_anything_is_spent(
    executor: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"pe-synth\[{executor}\].*Nothing was spent"):
        pe.build.build_executor(config({"executor": executor}))


def config(execution: dict[str, Any]) -> Config:
    return Config.of(
        {
            "private": {"source": "s"},
            "privacy": {"epsilon": 1.0, "delta": 1e-5, "adjacency": "add-remove"},
            "api": {"kind": "tabular"},
            "output": {"run": "run"},
            "execution": execution,
        }
    )


def test_the_configuration_names_an_executor() -> None:
    assert isinstance(pe.build.build_executor(config({})), Local)
    executor = pe.build.build_executor(config({"workers": 3}))
    assert isinstance(executor, Processes)
    assert executor.workers == 3
    for each in (Local(), executor, DaskExecutor(1)):
        assert isinstance(each, ShardExecutor)


def test_workers_are_as_many_as_cores_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3, 5}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    executor = pe.build.build_executor(config({"executor": "processes"}))
    assert isinstance(executor, Processes)
    assert executor.workers == 3


@pytest.mark.parametrize(
    ("execution", "told"),
    [
        ({"executor": "spark"}, "execution.executor"),
        ({"workers": 0}, "execution.workers"),
        ({"executor": "local", "workers": 2}, "'local' has no workers"),
        ({"workers": 2, "address": "tcp://x:1"}, "belongs to executor 'dask' or 'ray'"),
        ({"threads": 2}, "unknown key"),
    ],
)
def test_a_wrong_configuration_is_told(execution: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=rf"{told}.*Nothing was spent"):
        config(execution)


def test_a_task_runner_is_that_of_a_flow() -> None:
    with pytest.raises(ConfigError, match=r"run it as one. Nothing was spent"):
        pe.build.build_executor(config({"executor": "prefect"}))


def test_what_a_cluster_raises_is_told_by_its_type_alone() -> None:
    def lost() -> list[None]:
        raise OSError("a worker held canary-4711")

    with pytest.raises(PrivateDataError, match=r"Dask could not run a task \(OSError\).*stays charged") as caught:
        gathered(lost, OSError, "Dask")
    assert "canary" not in str(caught.value)
    assert caught.value.__context__ is caught.value.__cause__ is None
    with pytest.raises(LedgerError, match="first"):
        gathered(lambda: [None, ["LedgerError", "first"], ["RunError", "second"]], OSError, "Dask")
    with pytest.raises(ZeroDivisionError):  # not of the cluster's own
        gathered(lambda: [1 // 0], OSError, "Dask")  # type: ignore[list-item]
