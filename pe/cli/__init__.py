"""The ``pe`` command."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from cyclopts import App

from pe.cli import audit, budget, check, doctor, evaluate, export, init, plan, schedule, synthesize
from pe.cli.output import fail
from pe.errors import PEError


def _version() -> str:
    try:
        return version("pe-synth")
    except PackageNotFoundError:
        return "unknown"


app = App(
    name="pe",
    help="Differentially private synthetic data by Private Evolution.",
    version=_version,
    result_action="return_value",
)
app.command(init.init)
app.command(check.check)
app.command(plan.plan)
app.command(synthesize.synthesize)
app.command(synthesize.resume)
app.command(synthesize.simulate)
app.command(export.export)
app.command(evaluate.evaluate)
app.command(budget.app)
app.command(schedule.schedule)
app.command(doctor.doctor)
app.command(audit.audit)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; exit with 0, 1 (failed), 2 (wrong input), 3 (no budget) or 130 (interrupted)."""
    try:
        code = app(list(sys.argv[1:] if arguments is None else arguments))
    except PEError as error:
        sys.exit(fail(error))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)
