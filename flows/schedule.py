"""A schedule: one run per tick, all of them on the budget of one source.

Where a scheduled flow run works, with ``RUN`` for the configuration's ``output.run``:

1. In ``RUN-TIME-ID``, if that directory exists: TIME and ID are the flow run's own, so Prefect repeats it.
2. Else in the oldest such directory that was left without a release (its process died, or the budget was gone): it is
   continued, with the configuration it was begun with, before any new one is begun. One that cannot be continued
   (another process works on it, the private data changed) is passed over and left as it is; the log says why.
3. Else in a new ``RUN-TIME-ID``.

A flow run that is late, with a later one of the same schedule already due, does nothing: after an outage the schedule
catches up once, it does not spend the budget on every missed tick.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pe.flows.settings  # noqa: F401

# isort: split
from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterExpectedStartTime,
)
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.schedules import Cron
from prefect.settings import get_current_settings
from prefect.types.entrypoint import EntrypointType

from pe.config import Config
from pe.data.schema import Schema
from pe.errors import ConfigError, PEError, RunLockedError, RunMismatchError
from pe.flows.synthesize import Outcome, ended, evolve_session, open_session, outcome, withheld
from pe.privacy.ledger import Ledger
from pe.run import stored_config
from pe.session import Blueprint, Session
from pe.synthesis import blueprint_of

SUPERSEDED = "Superseded"
"""Name of the Completed state of a late flow run that left the work to a later one of its schedule."""


@flow(name="scheduled-synthesis", persist_result=False, log_prints=False)
def scheduled_flow(config: str, ledger: str | None = None, create: bool = False) -> Outcome:
    """One tick of a schedule: ``synthesize_flow`` in a run directory of its own (see the module's rules)."""
    blueprint = withheld("reading the configuration", lambda: blueprint_of(Config.read(config)))
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    if superseded(context.flow_run, datetime.now(UTC)):
        message = "a later run of this schedule is due and does the work. Nothing was spent."
        return ended(SUPERSEDED, message, outcome(blueprint, message))
    own = _directory(blueprint, context.flow_run)
    return evolve_session(_at(blueprint, own), lambda: _open(blueprint, own, ledger, create))


def serve(
    config: str | Path,
    cron: str,
    *,
    name: str | None = None,
    ledger: str | Path | None = None,
    create: bool = False,
) -> None:
    """Deploy a configuration with a cron schedule (in UTC), and run it whenever it is due, until stopped.

    name  of the deployment; by default the configuration file's. Runs one at a time. Before anything is served, raises
    ConfigError for a bad cron expression, a bad name or a server that does not answer, and whatever a bad configuration
    and an unknown source raise.
    """
    place = Path(config).resolve()
    source = blueprint_of(Config.read(place)).config.private.source
    try:
        schedule = Cron(cron)
    except ValueError:
        raise ConfigError(
            f"expected a cron expression of five fields such as '0 2 * * *', got '{cron}'. Nothing was spent."
        ) from None
    label = name or place.stem
    if set(label) & set("/%&<>"):
        raise ConfigError(f"expected a deployment's name without any of / % & < >, got '{label}'. Nothing was spent.")
    if not create:
        Ledger(ledger).chain(source)
    _require_server()
    scheduled_flow.serve(
        label,
        schedule=schedule,
        parameters={"config": str(place), "ledger": ledger and str(Path(ledger).resolve()), "create": create},
        limit=1,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )


def superseded(this: FlowRun, now: datetime) -> bool:
    """Whether a later automatic run of the same deployment is due."""
    if not (this.auto_scheduled and this.deployment_id and this.expected_start_time):
        return False
    later = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=[this.deployment_id]),
        expected_start_time=FlowRunFilterExpectedStartTime.model_validate(
            {"after_": this.expected_start_time, "before_": now}
        ),
    )
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_run_filter=later)
    return any(run.auto_scheduled and run.id != this.id for run in found)


def unfinished(base: Path) -> list[Path]:
    """Directories of scheduled runs beside ``base`` that hold no release, oldest first."""
    ours = re.compile(re.escape(base.name) + r"-\d{8}T\d{6}Z-[0-9a-f]{8}")
    found = base.parent.iterdir() if base.parent.exists() else ()
    left = [place for place in found if ours.fullmatch(place.name) and place.is_dir()]
    return sorted(place for place in left if not (place / "release" / "certificate.json").exists())


def _require_server() -> None:
    """Raise ConfigError unless a server answers; a temporary one, Prefect's default, runs no schedules."""
    url = get_current_settings().api.url
    advice = "start one with 'prefect server start' and name it with PREFECT_API_URL. Nothing was spent."
    if url is None:
        raise ConfigError(f"a schedule needs a Prefect server, and none is set: {advice}")
    with get_client(sync_client=True) as client:
        if client.api_healthcheck() is not None:
            raise ConfigError(f"no Prefect server answers at {url}: {advice}")


def _directory(blueprint: Blueprint, this: FlowRun) -> Path:
    base = Path(blueprint.config.output.run)
    # the end of the identifier: its beginning may be a time
    due = (this.expected_start_time or datetime.now(UTC)).astimezone(UTC)
    return base.with_name(f"{base.name}-{due:%Y%m%dT%H%M%SZ}-{this.id.hex[-8:]}")


def _open(blueprint: Blueprint, own: Path, ledger: str | None, create: bool) -> Session:
    left = [] if own.exists() else unfinished(Path(blueprint.config.output.run))
    for place in left:
        try:
            session = open_session(_stored(blueprint, place), ledger, create)
        except PEError as error:
            if not (_begun(place) or isinstance(error, (RunLockedError, RunMismatchError))):
                raise  # it is as good as a new one, which would meet the same
            get_run_logger().warning("passed over %s: %s", place.name, error)
        else:
            get_run_logger().info("continuing %s, which was left unfinished", place.name)
            return session
    return open_session(_at(blueprint, own), ledger, create)


def _stored(blueprint: Blueprint, place: Path) -> Blueprint:
    """The blueprint a directory was begun with; the given one, there, if nothing is stored in it."""
    if not _begun(place):
        return _at(blueprint, place)

    def stored() -> Blueprint:
        settings = stored_config(place)
        settings["output"]["run"] = str(place)
        return Blueprint.of(Config.of(settings), Schema.read(place / "schema.toml"))

    return withheld("reading the stored configuration", stored)


def _begun(place: Path) -> bool:
    """Whether anything is stored that a run could go on from."""
    return any(place.glob("iterations/*/*"))


def _at(blueprint: Blueprint, place: Path) -> Blueprint:
    """The same blueprint with another run directory."""
    settings = blueprint.config.resolved()
    settings["output"]["run"] = str(place)
    return replace(blueprint, config=Config.of(settings))
