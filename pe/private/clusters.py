"""Votes counted by a Dask or Ray cluster whose workers reach the private cache under the same path as this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pe.errors import ConfigError, PrivateDataError
from pe.private.execution import TASKS_PER_WORKER, gathered

RETRIES = 3
"""How often a task may lose its worker."""


def _carried() -> Callable[[str, str, int, int], list[str] | None]:
    """A task that travels by value, as what is defined within a function does: it starts on any worker.

    A name to be imported there would end a Dask worker that lacks the package, one after the other, and leave the run
    waiting for ever.
    """

    def count(job: str, phase: str, task: int, tasks: int) -> list[str] | None:
        try:
            import pe.private.scan  # noqa: F401  (what the answer needs)
            from pe.private.execution import answer
        except ImportError as missing:
            told = f"a worker lacks the package {missing.name}: it needs what this process has. What was charged stays "
            return ["PrivateDataError", told + "charged."]
        return answer(job, phase, task, tasks)

    return count


class DaskExecutor:
    """Workers of the Dask scheduler at ``address``; without one, of a local cluster of so many processes."""

    def __init__(self, workers: int, address: str | None = None) -> None:
        try:
            import distributed
        except ImportError:
            raise _missing("dask", "distributed") from None
        self._distributed: Any = distributed
        self.workers = workers
        self.address = address
        self.tasks = workers * TASKS_PER_WORKER
        self._cluster: Any = None
        self._client: Any = None

    def run(self, job: str, phase: str, tasks: int) -> None:
        if self._client is None:
            self._connect()
        count, how = _carried(), {"pure": False, "retries": RETRIES}
        calls = [self._client.submit(count, job, phase, number, tasks, **how) for number in range(tasks)]
        gathered(lambda: self._client.gather(calls), Exception, "Dask")

    def close(self) -> None:
        for each in (self._client, self._cluster):
            if each is not None:
                each.close()
        self._client = self._cluster = None

    def _connect(self) -> None:
        place: Any = self.address
        if place is None:
            self._cluster = place = self._distributed.LocalCluster(
                n_workers=self.workers,
                threads_per_worker=1,
                dashboard_address="127.0.0.1:0",  # a fixed port may be another run's
                scheduler_kwargs={"dashboard": False},
            )
        try:
            self._client = self._distributed.Client(place, set_as_default=False)
        except OSError:
            raise PrivateDataError(f"no Dask scheduler answers at {place}. What was charged stays charged.") from None


class RayExecutor:
    """Workers of the Ray cluster at ``address`` ("auto": the one this machine is in); without one, a local one."""

    def __init__(self, workers: int, address: str | None = None) -> None:
        try:
            import ray
        except ImportError:
            raise _missing("ray", "ray") from None
        self._ray: Any = ray
        self.workers = workers
        self.address = address
        self.tasks = workers * TASKS_PER_WORKER
        self._ours = False

    def run(self, job: str, phase: str, tasks: int) -> None:
        if not self._ray.is_initialized():
            local: dict[str, Any] = {"num_cpus": self.workers, "include_dashboard": False}
            local = local if self.address is None else {}
            try:
                self._ray.init(address=self.address or "local", log_to_driver=False, logging_level="ERROR", **local)
            except (ConnectionError, RuntimeError):
                raise PrivateDataError(
                    f"no Ray cluster answers at {self.address}. What was charged stays charged."
                ) from None
            self._ours = True
        task = self._ray.remote(num_cpus=1, max_retries=RETRIES)(_carried())
        gathered(
            lambda: self._ray.get([task.remote(job, phase, number, tasks) for number in range(tasks)]),
            self._ray.exceptions.RayError,
            "Ray",
        )

    def close(self) -> None:
        if self._ours:
            self._ray.shutdown()
            self._ours = False


def _missing(extra: str, package: str) -> ConfigError:
    return ConfigError(
        f"executor '{extra}' needs the package {package}: install 'pe-synth[{extra}]'. Nothing was spent."
    )
