"""The vote over stored shards, cut into tasks that any executor may run: exact, counted once, whatever fails between.

A job is a private folder (0700) that holds the poll, which is public, and where the shards lie. A task works on every
``tasks``-th shard and leaves one file per shard and poll in the folder: exact counts, or a user's votes. A task that is
run again, after its process was killed or because an executor lost its answer, finds or replaces equal files. The sum
takes every file once. So partial sums stay where the private embeddings are, and never pass through an executor.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pe.errors import PrivateDataError
from pe.files import write_atomically
from pe.private import spill
from pe.private.cache import Cache, leave, load, save
from pe.private.execution import ShardExecutor
from pe.private.poll import Poll
from pe.private.shards import Shard
from pe.shield import shielded

FORMAT = 1
"""Of the folder: driver and workers must agree."""


def counted(poll: Poll, found: Sequence[Shard], executor: ShardExecutor) -> NDArray[np.int64]:
    """All votes over stored shards, int64 (bins,), in grid steps; users' votes bounded over all shards together."""
    with Cache.open().temporary("votes") as job:
        votes = sum(len(shard.labels()) for shard in found) * len(poll.steps)
        ranges = 0 if poll.bound is None else spill.ranges(votes)
        about = {"format": FORMAT, "poll": poll.digest(), "ranges": ranges, "shards": [_stored(each) for each in found]}
        poll.write(job / "poll.npz")
        write_atomically(job / "job.json", json.dumps(about).encode())
        executor.run(str(job), "shards", executor.tasks)
        if poll.bound is not None:
            executor.run(str(job), "users", executor.tasks)
        done = _Job(job)
        files = [done.of_range(each) for each in range(ranges)] if ranges else [done.of(each) for each in found]
        total = np.zeros(poll.bins, np.int64)
        for file in files:
            total += load(file, np.int64, (poll.bins,))
        return total


def perform(job: str, phase: str, task: int, tasks: int) -> None:
    """Do one of ``tasks`` tasks of a job: its share of the "shards", or, once all are done, of the "users".

    Returns nothing and raises PEErrors alone, so that nothing private leaves the folder by way of an executor.
    """
    work = _shards if phase == "shards" else _users
    shielded("counting votes", lambda: work(_Job(Path(job)), task, tasks), "What was charged stays charged.")


def rehearse_count(executor: ShardExecutor) -> None:
    """Let an executor's workers count the votes of made-up records, three in each task.

    Raises PrivateDataError where a worker fails, or where the count is not what it must be.
    """
    with Cache.open().temporary("trial") as folder:
        found = []
        for number in range(executor.tasks):
            shard = Shard(f"made-up-{number}", folder, folder, number, 2, "int8")
            save(folder / f"{shard.name}.npy", np.array([[1, 0], [0, 1], [1, 0]], np.int8))
            save(folder / f"{shard.name}.finite.npy", np.ones(3, np.bool_))
            save(folder / f"{number:06d}.labels.npy", np.zeros(3, np.int32))
            found.append(shard)
        poll = Poll(np.array([[1, 0], [0, 1]], np.int8), np.zeros(2, np.int32), 1, (1,), None)
        if counted(poll, found, executor).tolist() != [2 * len(found), len(found)]:
            raise PrivateDataError("the workers miscount the votes of made-up records: run 'pe doctor' where they run.")


class _Job:
    """An open job folder."""

    def __init__(self, folder: Path) -> None:
        try:
            about = json.loads((folder / "job.json").read_text())
        except FileNotFoundError:
            raise PrivateDataError(
                "the folder of the vote cannot be seen here: PE_CACHE must lie where every worker can reach it under "
                "the same path. What was charged stays charged."
            ) from None
        self.poll = Poll.read(folder / "poll.npz")
        if (about["format"], about["poll"]) != (FORMAT, self.poll.digest()):
            raise PrivateDataError(
                "a worker has another version of this package than the run: install the same. What was charged stays "
                "charged."
            )
        self.folder = folder
        self.ranges: int = about["ranges"]
        self.shards = [_restored(each) for each in about["shards"]]
        self._digest = about["poll"]

    def of(self, shard: Shard) -> Path:
        """Where a shard's part lies: named by the shard, and by what it was asked."""
        return self.folder / f"{shard.number:06d}-{shard.name[:32]}-{self._digest[:32]}.npy"

    def of_range(self, number: int) -> Path:
        return self.folder / f"users-{number:06d}-{self._digest[:32]}.npy"


def _shards(job: _Job, task: int, tasks: int) -> None:
    for shard in job.shards[task::tasks]:
        if job.of(shard).exists():  # whole, as files here are renamed into place
            continue
        ballots = job.poll.ballots(shard.vectors(), shard.finite(), shard.labels(), str(shard.folder / shard.name))
        if job.poll.bound is None:
            leave(job.of(shard), job.poll.counts(ballots))
        else:
            rows, bins, values = job.poll.entries(ballots)
            spill.write(job.of(shard), shard.users()[rows], bins, values)


def _users(job: _Job, task: int, tasks: int) -> None:
    assert job.poll.bound is not None
    files = [job.of(shard) for shard in job.shards]
    for number in range(task, job.ranges, tasks):
        if not job.of_range(number).exists():
            leave(job.of_range(number), spill.bounded(files, number, job.ranges, job.poll.bins, job.poll.bound))


def _stored(shard: Shard) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(shard).items()}


def _restored(about: dict[str, Any]) -> Shard:
    return Shard(**about | {"folder": Path(about["folder"]), "dataset": Path(about["dataset"])})
