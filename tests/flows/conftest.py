"""A real Prefect server on loopback, and small private tables to run flows on."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import time
import types
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from pe.apis.tabular import TabularAPI
from pe.data.population import Population
from pe.flows.settings import DEFAULTS
from pe.preflight import check_run
from pe.privacy import Ledger

Found = TypeVar("Found")

SCHEMA = """
label = "kind"
[columns]
size = {type = "float", min = 0.0, max = 10.0}
count = {type = "integer", min = 0, max = 20}
kind = {type = "categorical", values = ["a", "b"]}
"""

CONFIG = """
[private]
source = "{source}"
path = "{data}"
schema = "schema.toml"
[privacy]
epsilon = {epsilon}
delta = 1e-5
adjacency = "add-remove"
[api]
kind = "{api}"
[evolution]
iterations = {iterations}
budget_weights = {weights}
{evolution}
[output]
run = "{run}"
rows = 20
"""

ITERATIONS = 3


@dataclass
class Server:
    """A running Prefect server; ``environment`` makes a process its client."""

    url: str
    home: Path
    environment: dict[str, str]

    def wait(self, ask: Callable[[], Found], what: str, seconds: float = 600) -> Found:
        """Ask until the answer is true."""
        deadline = time.monotonic() + seconds
        while not (found := ask()):
            assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
            time.sleep(0.1)
        return found

    def post(self, path: str, **body: Any) -> Any:
        request = urllib.request.Request(
            f"{self.url}/{path}", json.dumps(body).encode(), {"content-type": "application/json"}
        )

        def answer() -> tuple[Any] | None:
            try:
                with urllib.request.urlopen(request, timeout=300) as response:
                    return (json.load(response),)
            except urllib.error.HTTPError as error:
                if error.code != 503:  # its database is locked: try again, like Prefect's own client
                    raise
                return None

        return self.wait(answer, path)[0]

    def flow_runs(self, deployment: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.post("flow_runs/filter", flow_runs={"deployment_id": {"any_": [deployment]}})
        return sorted(found, key=lambda run: str(run["expected_start_time"]))

    def state(self, flow_run: object) -> dict[str, Any]:
        """The state of a flow run as the server knows it."""
        (found,) = self.post("flow_runs/filter", flow_runs={"id": {"any_": [str(flow_run)]}})
        state: dict[str, Any] = found["state"]
        return state

    def assert_tasks(self, flow_run: object, names: dict[str, str]) -> None:
        """Compare state names by task run name, once as many are recorded as ended."""

        def ended() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = self.post("task_runs/filter", flow_runs={"id": {"any_": [str(flow_run)]}})
            return found if sum(bool(run["end_time"]) for run in found) >= len(names) else []

        assert {run["name"]: run["state_name"] for run in self.wait(ended, "the task runs")} == names

    def artifacts(self, flow_run: object) -> dict[str, Any]:
        """Data by type."""
        found = self.post("artifacts/filter", artifacts={"flow_run_id": {"any_": [str(flow_run)]}})
        return {artifact["type"]: artifact["data"] for artifact in found}


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[Server]:
    home, port = tmp_path_factory.mktemp("prefect"), free_port()
    url = f"http://127.0.0.1:{port}/api"
    environment = DEFAULTS | {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": url,
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "1",
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "0.2",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=os.environ | environment, stdout=log, stderr=subprocess.STDOUT)

    def healthy() -> bool:
        assert process.poll() is None, "the server ended: " + (home / "server.log").read_text()
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    try:
        started = Server(url, home, environment)
        started.wait(healthy, "the Prefect server")
        yield started
        if "prefect" in sys.modules:  # what this process has not sent yet would be sent again and again at its exit
            from prefect.events.worker import EventsWorker
            from prefect.logging.handlers import APILogHandler

            APILogHandler().flush()
            EventsWorker.drain_all(timeout=10)
    finally:
        process.terminate()
        process.wait(300)


@pytest.fixture
def prefect(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The server, with this process as its client."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, PREFECT_HOME, temporary_settings

    settings: dict[Any, Any] = {PREFECT_API_URL: server.url, PREFECT_HOME: server.home}
    settings[PREFECT_FLOWS_HEARTBEAT_FREQUENCY] = None  # stopping their thread takes a second per flow run
    with temporary_settings(settings):
        yield server


def told(text: str, *numbers: int) -> re.Match[str] | None:
    """Where a text tells one of these numbers. Ports, identifiers and times in names may hold any digits."""
    text = re.sub(r"(\d+\.\d+\.\d+\.\d+):\d+", r"\1", text)
    return re.search(rf"(?<![\w.])(?:{'|'.join(f'{each}|{each:,}|{each:_}' for each in numbers)})(?!\w)", text)


@pytest.fixture
def telling() -> Callable[..., re.Match[str] | None]:
    found = [told(text, 104729) for text in ("of 104729 records", "n=104,729;", '"104_729"')]
    assert all(found)
    chance = ("demo-20260101T104729Z-a104729f", "http://127.0.0.1:10472/api", "0.104729 s", "1047290")
    assert not any(told(text, 104729, 10472) for text in chance)
    return told


@dataclass
class Project:
    """A folder with a private table and configurations."""

    folder: Path

    def config(
        self,
        name: str = "demo",
        *,
        source: str = "demo",
        epsilon: float = 2.0,
        api: str = "tabular",
        iterations: int = ITERATIONS,
        data: str = "data.csv",
        evolution: str = "",
    ) -> str:
        path = self.folder / f"{name}.toml"
        path.write_text(
            CONFIG.format(
                source=source,
                epsilon=epsilon,
                api=api,
                iterations=iterations,
                weights=[1.0] * iterations,
                data=data,
                evolution=evolution,
                run=f"runs/{name}",
            )
        )
        return str(path)

    def run(self, name: str = "demo") -> Path:
        return self.folder / "runs" / name

    def runs(self) -> list[str]:
        return sorted(place.name for place in (self.folder / "runs").iterdir())

    def charges(self, source: str = "demo") -> list[int]:
        """Iterations that the ledger charged, in order."""
        return [entry.body["iteration"] for entry in Ledger().chain(source) if entry.kind == "reserve"]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "schema.toml").write_text(SCHEMA)
    rng = random.Random(0)
    rows = [f"{rng.uniform(0, 10):.3f},{rng.randint(0, 20)},{rng.choice('ab')}" for _ in range(200)]
    (tmp_path / "data.csv").write_text("\n".join(["size,count,kind", *rows, ""]))
    return Project(tmp_path)


@pytest.fixture
def client(server: Server) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a program as a client of the server: ``client(code, *arguments)``."""

    def run(code: str, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=1200,
            env=os.environ | server.environment,
        )

    return run


@pytest.fixture
def hooked(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An API of kind "hooked:API" that calls ``hooked.hook(n)`` before its n-th variation (of all objects).

    Those that are tried before the first charge do not count.
    """
    module: Any = types.ModuleType("hooked")
    module.calls, module.on_trial = 0, False
    module.hook = lambda number: None

    class API(TabularAPI):
        def vary(self, parents: Population, degree: float, rng: np.random.Generator) -> Population:
            if not module.on_trial:
                module.calls += 1
                module.hook(module.calls)
            return super().vary(parents, degree, rng)

    def trial(*arguments: Any, **settings: Any) -> Any:
        module.on_trial = True
        try:
            return check_run(*arguments, **settings)
        finally:
            module.on_trial = False

    module.API = API
    monkeypatch.setitem(sys.modules, "hooked", module)
    monkeypatch.setattr("pe.session.check_run", trial)
    return module
