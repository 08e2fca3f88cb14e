"""What a run asks of its machine, tried once before the first charge: folders, room, formats, workers.

Nothing private is read: samples are made up. What depends on how many private records there are, such as room for their
embeddings, is not estimated but done: they are embedded before the first charge.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pe.cost import TEXT, made_up
from pe.data.population import Population
from pe.data.schema import Categorical, Image, Schema, Text
from pe.delivery import public_files, rehearse_release
from pe.errors import PrivateDataError, RunError
from pe.evolution.plan import Plan
from pe.private.cache import rehearse_cache
from pe.private.execution import Local, ShardExecutor
from pe.private.scan import rehearse_count
from pe.run import Run


def rehearse(run: Run, plan: Plan, schema: Schema, formats: Sequence[str], rows: int, completed: int | None) -> None:
    """Try the ways in which a run will write, and whether there is room for it; raises RunError.

    completed  iterations that are stored; None before the first population.
    """
    require_room(run.path, bytes_to_write(plan, schema, rows, completed))
    run.rehearse(0 if completed is None else completed + 1, max(_largest_release(plan), len(schema.labels)))
    rehearse_release(run.path)
    labels = np.arange(len(schema.labels), dtype=np.int32)[:8]
    samples = Population.of(made_up(schema, len(labels), np.random.default_rng(0)), labels, "made up")
    public_files(samples, schema, formats)


def rehearse_workers(executor: ShardExecutor) -> None:
    """Try the private cache, and let the workers count votes of made-up records in it.

    Raises PrivateDataError or RunError.
    """
    rehearse_cache()
    if isinstance(executor, Local):
        return
    try:
        rehearse_count(executor)
    except PrivateDataError as error:
        text = str(error).removesuffix("What was charged stays charged.").strip()
        raise PrivateDataError(f"{text} This was tried before the first charge of this call.") from None


def bytes_to_write(plan: Plan, schema: Schema, rows: int, completed: int | None) -> int:
    """About how many bytes the rest of a run will write into its directory: released sums, populations, the release."""
    record = sum(_size(column) for column in schema.columns)
    samples = plan.population or rows if completed is None else 0
    sums, candidates = 0, plan.population
    for number, each in enumerate(plan.rounds, start=1):
        if number > (completed or 0):
            sums += candidates
            samples += each.population
        candidates = each.population
    sums += 0 if plan.kernel is None else 2 * plan.kernel.features * len(schema.labels)
    return 8 * sums + record * (samples + 2 * rows)


def require_room(folder: Path, needed: int) -> None:
    """Raise RunError where a disk has no room for so many bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise RunError(
            f"about {needed / 1e6:.3g} MB will be written to {folder}, where {free / 1e6:.3g} MB are free: free the "
            "disk, or name another folder in output.run."
        )


def _size(column: object) -> int:
    """Bytes of a value in a stored population, about."""
    if isinstance(column, Image):
        return column.size
    if isinstance(column, Text):
        return min(column.max_length, TEXT)
    return 1 if isinstance(column, Categorical) else 8


def _largest_release(plan: Plan) -> int:
    """Bins of the largest histogram of votes, or of the kernel mean of a label."""
    sizes = [plan.population, *(each.population for each in plan.rounds[:-1])]
    return max(*sizes, 0 if plan.kernel is None else 2 * plan.kernel.features, 1)
