"""One run as a Prefect flow: the session that the command line runs, with a task for every iteration.

Whatever Prefect is given reaches its server: parameters, names, logs, artifacts, exception text. So tasks take and
return the run directory's path and small public numbers; the open session, which holds the private data, stays in
this process. Nothing is kept by Prefect that a run needs: a flow run that died, even by SIGKILL, is continued by
running the flow again on the same configuration, which reuses every stored histogram and pays for none twice.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

import pe.flows.settings  # noqa: F401

# isort: split
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import task_run
from prefect.states import Completed
from prefect.tasks import Task

from pe.config import Config
from pe.errors import APIError, BudgetExceededError, PEError
from pe.flows.progress import Progress
from pe.flows.shards import TaskRunnerExecutor
from pe.session import Blueprint, Session
from pe.shield import shielded
from pe.synthesis import blueprint_of

Result = TypeVar("Result")
Outcome = dict[str, Any]

EXHAUSTED = "BudgetExhausted"
"""Name of the Completed state of a run, or an iteration, that could not be done: no budget was left for it."""
STOPPED_EARLY = "StoppedEarly"
"""Name of the Completed state of a run that was released before its last iteration, when the budget was gone."""

_sessions: dict[str, Session] = {}


@flow(name="synthesize", persist_result=False, log_prints=False)
def synthesize_flow(config: str, ledger: str | None = None, create: bool = False) -> Outcome:
    """Run, or continue, the run that a configuration file describes, and write its release.

    config  path of the TOML file; ledger, create  as for ``pe.synthesize``.

    Returns run (a path), epsilon, delta, iterations, planned, rows and stopped (why it ended early, or empty). The
    flow ends Completed; in a state named BudgetExhausted when the source has no budget left to do an iteration, or
    StoppedEarly when only some were done. It fails with the text of any other PEError.
    """
    blueprint = withheld("reading the configuration", lambda: blueprint_of(Config.read(config)))
    return evolve_session(blueprint, lambda: open_session(blueprint, ledger, create))


def open_session(blueprint: Blueprint, ledger: str | None, create: bool) -> Session:
    """``Session.open`` on the configuration's own data."""
    path, asked = blueprint.config.private.path, blueprint.config.execution
    executor = TaskRunnerExecutor(asked.workers) if asked.executor == "prefect" else None
    return withheld(
        "opening the run", lambda: Session.open(blueprint, path, ledger=ledger, create=create, executor=executor)
    )


def evolve_session(blueprint: Blueprint, opened: Callable[[], Session]) -> Outcome:
    """Open a session, take it to its end with a task per iteration, and release; call it from within a flow."""
    try:
        session = opened()
    except BudgetExceededError as error:
        return ended(EXHAUSTED, str(error), outcome(blueprint, str(error)))
    run = str(session.run.path)
    with session:
        for warning in session.warnings:
            print(f"pe: {warning}", file=sys.stderr)  # tells about the data: for this machine, not for the server
        _sessions[run] = session
        try:
            progress = Progress(session)
            while not session.done:
                number = 0 if session.generation is None else session.generation.iteration + 1
                state = advance(run, number, return_state=True)
                if state.name == EXHAUSTED and not session.stopped:
                    message = str(state.message)
                    return ended(EXHAUSTED, message, outcome(session.blueprint, message))
                state.result()  # raises what the task raised
                progress.update()
            released = release(run)
        finally:
            del _sessions[run]
    return ended(STOPPED_EARLY, session.stopped, released) if session.stopped else released


def _open(run: str) -> Session:
    """The open session of a run. Tasks call this: a task runner sends a task's globals along, these by name alone."""
    return _sessions[run]


def _only_api_errors(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    return isinstance(state.result(raise_on_failure=False), APIError)


def _named(iteration: int) -> str:
    return f"iteration {iteration}" if iteration else "generation 0"


@task(
    task_run_name=lambda: _named(task_run.parameters["iteration"]),
    cache_policy=NO_CACHE,
    persist_result=False,
    log_prints=False,
    # A repeated iteration reuses its stored histogram: nothing is drawn or charged again. Other errors would recur.
    retries=3,
    retry_delay_seconds=[1, 10, 60],
    retry_condition_fn=_only_api_errors,
)
def advance(run: str, iteration: int) -> int:
    """Make and store one generation of an open run; returns the number of the newest stored one."""
    session = _open(run)
    try:
        made = withheld(_named(iteration), session.advance)
    except BudgetExceededError as error:
        return ended(EXHAUSTED, str(error), iteration - 1)
    return ended(EXHAUSTED, session.stopped, made.iteration) if session.stopped else made.iteration


@task(task_run_name="release", cache_policy=NO_CACHE, persist_result=False, log_prints=False)
def release(run: str) -> Outcome:
    """Write the release folder of an open run."""
    session = _open(run)
    made = withheld("writing the release", session.finish)
    done = made.certificate["iterations"]["completed"]
    return outcome(session.blueprint, made.stopped) | {"iterations": done, "rows": len(made)}


def withheld(action: str, function: Callable[[], Result]) -> Result:
    """Call ``function``; of a foreign exception only the type is told, in a PEError: Prefect keeps every text."""
    advice = (
        "What was charged stays charged. 'pe synthesize' with the same configuration, or 'pe resume', goes on from "
        "what is stored, pays for none of it again, and shows the details."
    )
    return shielded(action, function, advice, PEError)


def ended(name: str, message: str, value: Result) -> Result:
    """A Completed state under a name of its own; to Prefect's callers it is ``value``."""
    return cast(Result, Completed(name=name, message=message, data=value))


def outcome(blueprint: Blueprint, stopped: str) -> Outcome:
    """What a flow returns: public settings, and nothing done yet."""
    return {
        "run": blueprint.config.output.run,
        "epsilon": blueprint.budget.epsilon,
        "delta": blueprint.budget.delta,
        "iterations": 0,
        "planned": blueprint.plan.iterations,
        "rows": 0,
        "stopped": stopped,
    }
