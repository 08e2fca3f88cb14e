"""Votes counted by a Dask or Ray cluster whose workers reach the private cache under the same path as this process."""

from __future__ import annotations

from typing import Any

from pe.errors import ConfigError, PrivateDataError
from pe.execution import TASKS_PER_WORKER, all_done, answer

RETRIES = 3
"""How often a task may lose its worker."""

_ELSEWHERE = (
    "every worker needs this version of pe-synth and its packages, and PE_CACHE under the same path. What was charged "
    "stays charged."
)


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
        calls = [self._client.submit(answer, job, phase, n, tasks, pure=False, retries=RETRIES) for n in range(tasks)]
        try:
            results = self._client.gather(calls)
        except Exception as error:
            failure = type(error).__name__
        else:
            all_done(results)
            return
        raise PrivateDataError(f"Dask could not run a task ({failure}): {_ELSEWHERE}")

    def close(self) -> None:
        for each in (self._client, self._cluster):
            if each is not None:
                each.close()
        self._client = self._cluster = None

    def _connect(self) -> None:
        place: Any = self.address
        if place is None:
            self._cluster = place = self._distributed.LocalCluster(
                n_workers=self.workers, threads_per_worker=1, dashboard_address=None
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
        task = self._ray.remote(num_cpus=1, max_retries=RETRIES)(answer)
        try:
            results = self._ray.get([task.remote(job, phase, number, tasks) for number in range(tasks)])
        except self._ray.exceptions.RayError as error:
            failure = type(error).__name__
        else:
            all_done(results)
            return
        raise PrivateDataError(f"Ray could not run a task ({failure}): {_ELSEWHERE}")

    def close(self) -> None:
        if self._ours:
            self._ray.shutdown()
            self._ours = False


def _missing(extra: str, package: str) -> ConfigError:
    return ConfigError(
        f"executor '{extra}' needs the package {package}: install 'pe-synth[{extra}]'. Nothing was spent."
    )
