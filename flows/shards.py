"""Votes counted by the task runner of the flow, whichever it was given: threads, processes, Dask, Ray.

A task is given a folder's path and three small public values, and returns nothing but, if it failed, an error of this
package by name and text. Counts stay in private files of that folder (``pe.private.scan``): Prefect neither sees nor
keeps them.
"""

from __future__ import annotations

import pe.flows.settings  # noqa: F401

# isort: split
from prefect import task
from prefect.cache_policies import NO_CACHE

from pe.private.execution import TASKS_PER_WORKER, answer, gathered

WORKERS = 4
"""For how many workers a vote is cut where the configuration does not say."""


@task(
    task_run_name="count votes",
    cache_policy=NO_CACHE,
    persist_result=False,
    log_prints=False,
    retries=3,  # of a worker that was lost: what a task finished is not counted again
    retry_delay_seconds=1,
)
def count(job: str, phase: str, task: int, tasks: int) -> list[str] | None:
    return answer(job, phase, task, tasks)


class TaskRunnerExecutor:
    """A ``ShardExecutor``: every task of a vote is a task run of the flow that calls it."""

    def __init__(self, workers: int | None = None) -> None:
        self.tasks = (workers or WORKERS) * TASKS_PER_WORKER

    def run(self, job: str, phase: str, tasks: int) -> None:
        futures = [count.submit(job, phase, number, tasks) for number in range(tasks)]
        gathered(lambda: [future.result() for future in futures], Exception, "the task runner")

    def close(self) -> None:
        """The flow ends its task runner."""
