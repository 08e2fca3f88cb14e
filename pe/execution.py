"""What runs the tasks of a vote over stored shards: this process, processes of this machine, or a cluster.

A task is known by a folder and three small public values; what it computes stays in private files of that folder. So
an executor sees and carries nothing private, may run a task more than once, and cannot change a result.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class ShardExecutor(Protocol):
    """Runs every task of a job at least once, wherever the job's folder can be reached."""

    @property
    def tasks(self) -> int:
        """Into how many tasks a vote is cut: a public number, whatever the data."""
        ...

    def run(self, job: str, phase: str, tasks: int) -> None:
        """Call ``pe.scan.perform(job, phase, task, tasks)`` for every task; raises the PEError of one that fails."""
        ...

    def close(self) -> None: ...


class Local:
    """All tasks in this process, one after the other: the search itself uses every core."""

    tasks = 1

    def run(self, job: str, phase: str, tasks: int) -> None:
        from pe.scan import perform

        for task in range(tasks):
            perform(job, phase, task, tasks)

    def close(self) -> None:
        """Nothing is held."""
