"""What runs the tasks of a vote over stored shards: this process, processes of this machine, or a cluster.

A task is known by a folder and three small public values; what it computes stays in private files of that folder. So
an executor sees and carries nothing private, may run a task more than once, and cannot change a result.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import local
from typing import Any, Protocol, runtime_checkable

import pe.errors
from pe.errors import PEError, PrivateDataError

TASKS_PER_WORKER = 4
"""So that a slow worker keeps the others from waiting."""

ATTEMPTS = 3
"""How often a task may lose its worker."""


@runtime_checkable
class ShardExecutor(Protocol):
    """Runs every task of a job at least once, wherever the job's folder can be reached."""

    @property
    def tasks(self) -> int:
        """Into how many tasks a vote is cut: a public number, whatever the data."""
        ...

    def run(self, job: str, phase: str, tasks: int) -> None:
        """Call ``pe.private.scan.perform(job, phase, task, tasks)`` for every task; raises what one of them raises."""
        ...

    def close(self) -> None:
        """Let workers go; ``run`` calls them again."""
        ...


class Local:
    """All tasks in this process, one after the other: the search itself uses every core."""

    tasks = 1

    def run(self, job: str, phase: str, tasks: int) -> None:
        from pe.private.scan import perform

        for task in range(tasks):
            perform(job, phase, task, tasks)

    def close(self) -> None:
        """Nothing is held."""


class Processes:
    """Worker processes of this machine, started at the first vote and kept; each with its share of the cores.

    They are programs of their own: nothing is forked or pickled, and a script that asks for them is not run again. A
    task whose process dies is given to another one, up to ``ATTEMPTS`` times.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.tasks = workers * TASKS_PER_WORKER
        self._local = local()
        self._running: list[subprocess.Popen[str]] = []
        self._threads: ThreadPoolExecutor | None = None
        self._stopped = False

    def run(self, job: str, phase: str, tasks: int) -> None:
        if self._threads is None:
            self._threads, self._local, self._stopped = ThreadPoolExecutor(self.workers), local(), False
        answers = [self._threads.submit(self._perform, [job, phase, task, tasks]) for task in range(tasks)]
        try:
            for answer in answers:
                answer.result()
        except BaseException:  # the first error, or the user's interruption
            self.close()
            raise

    def close(self) -> None:
        self._stopped = True
        for process in self._running:
            process.kill()
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        for process in self._running:
            _end(process)
        self._threads, self._running = None, []

    def _perform(self, task: list[str | int]) -> None:
        """Have this thread's worker do a task."""
        for _ in range(ATTEMPTS):
            process: subprocess.Popen[str] | None = getattr(self._local, "process", None)
            if self._stopped:
                return
            if process is None:
                process = self._local.process = _start(self.workers)
                self._running.append(process)
            if told := _ask(process, task):
                if error := json.loads(told):
                    raise restored(*error)
                return
            self._local.process = None
            self._running.remove(process)
            _end(process)
        raise PrivateDataError(
            f"{ATTEMPTS} worker processes died at the same task: is there enough memory for {self.workers} of them? "
            "What was charged stays charged."
        )


def cores() -> int:
    """How many cores this process may use: those of a container or a batch job, not of the machine."""
    allowed: Any = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def _start(workers: int) -> subprocess.Popen[str]:
    threads = str(max(1, cores() // workers))
    shares = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), threads)
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        [sys.executable, "-m", "pe.private.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | shares | {"PYTHONPATH": paths},
    )


def _ask(process: subprocess.Popen[str], task: list[str | int]) -> str:
    """A worker's answer; an empty text from one that died."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(task) + "\n")
        process.stdin.flush()
    except OSError:
        return ""
    return process.stdout.readline()


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(OSError):  # what was written to a process that died
                stream.close()


def restored(kind: str, text: str) -> PEError:
    """The error of this package that a worker told by name and text."""
    found = getattr(pe.errors, kind, PEError)
    assert issubclass(found, PEError)
    return found(text)


def gathered(collect: Callable[[], Iterable[list[str] | None]], failures: type[Exception], who: str) -> None:
    """Wait for the tasks of a cluster; raises the first error among their answers.

    What the cluster itself raises (``failures``) is told by its type alone, and is no context of what is raised: it may
    quote what a worker held.
    """
    try:
        answers = collect()
    except failures as error:
        failure = type(error).__name__
    else:
        for told in answers:
            if told:
                raise restored(*told)
        return
    raise PrivateDataError(
        f"{who} could not run a task ({failure}): every worker needs this version of pe-synth and its packages, and "
        "PE_CACHE under the same path. What was charged stays charged."
    )


def answer(job: str, phase: str, task: int, tasks: int) -> list[str] | None:
    """``pe.private.scan.perform`` for a cluster: an error comes back as its name and text."""
    from pe.private.scan import perform

    try:
        perform(job, phase, task, tasks)
    except PEError as error:
        return [type(error).__name__, str(error)]
    return None
