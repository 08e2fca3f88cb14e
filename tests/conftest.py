"""Fixtures shared by all tests: nothing reaches the user's home or the network."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from pe.privacy import Account, Adjacency, Budget, Ledger, discrete_gaussian

os.environ["COLUMNS"] = "80"  # tables are as wide as this, from whatever terminal the tests are started

settings.register_profile(
    "pe",
    deadline=None,
    derandomize=True,  # a commit passes or fails, whenever it is tested; HYPOTHESIS_PROFILE=explore looks further
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.register_profile("explore", settings.get_profile("pe"), derandomize=False, max_examples=400)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "pe"))


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ledger, key, data and configuration lie in the test's own directory."""
    home = tmp_path / "home"
    monkeypatch.setenv("PE_LEDGER", str(home / "ledger.sqlite3"))
    monkeypatch.setenv("PE_LEDGER_KEY", str(home / "keys" / "ledger.key"))
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection that leaves this machine."""

    def guarded(connect: Callable[..., object]) -> Callable[..., object]:
        def refusing(self: socket.socket, address: object) -> object:
            host = address[0] if isinstance(address, tuple) else None
            if self.family != socket.AF_UNIX and host not in ("127.0.0.1", "::1", "localhost"):
                raise OSError(f"a test tried to reach {address!r}")
            return connect(self, address)

        return refusing

    monkeypatch.setattr(socket.socket, "connect", guarded(socket.socket.connect))
    monkeypatch.setattr(socket.socket, "connect_ex", guarded(socket.socket.connect_ex))


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Find a port for a server that starts later: nobody listens there, no system hands it out, no other process of
    this test run is given it."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])

    def find() -> int:
        while True:
            port = 10_000 + 64 * secrets.randbelow(350) + worker % 64  # connections leave from 32,768 on
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port

    return find


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """An empty ledger whose key lies in another directory."""
    return Ledger(tmp_path / "ledger" / "ledger.sqlite3", key=tmp_path / "keys" / "ledger.key", create=True)


@pytest.fixture
def account(ledger: Ledger) -> Account:
    """A run with epsilon 1 at delta 1e-6 (add-remove) of a source that was granted just that."""
    budget = Budget(1.0, 1e-6, Adjacency.ADD_REMOVE)
    ledger.create("source", budget)
    return ledger.account("source", run="run", budget=budget, config="config")


@pytest.fixture
def python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a program in a fresh interpreter: ``python(code, *arguments)``."""

    def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=600,  # a busy machine takes its time
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )

    return run


@pytest.fixture
def repeated_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Privacy noise that is the same every time, for tests of how good a noisy result is: no bad luck fails them."""
    random_bytes = np.random.default_rng(0).bytes
    monkeypatch.setattr(
        discrete_gaussian, "sample", lambda sigma, size: discrete_gaussian.draw_from(sigma, size, random_bytes)
    )


@pytest.fixture
def everything_about() -> Callable[[BaseException], str]:
    """All text that a log, a traceback or a debugger could show of an exception."""

    def linked(error: BaseException | None) -> Iterator[BaseException]:
        if error is not None:
            yield error
            yield from linked(error.__cause__)
            yield from linked(error.__context__)

    def text(error: BaseException) -> str:
        texts = ["".join(traceback.format_exception(error))]
        for each in linked(error):
            texts += [str(each), repr(each), repr(each.args), repr(getattr(each, "__notes__", ""))]
        return "\n".join(texts)

    return text
