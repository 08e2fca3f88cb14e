"""What the commands print: tables for people, JSON for machines, errors on standard error."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console
from rich.markup import escape

from pe.errors import BudgetExceededError, CapReachedError, ConfigError, PEError, PrivateDataError, SchemaError

out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)

WRONG_INPUT, NO_BUDGET = 2, 3


def emit(value: dict[str, Any]) -> None:
    """One JSON object on standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")


def fail(error: PEError) -> int:
    """Print an error as one line and return the exit code."""
    err.print(f"[bold red]{type(error).__name__}[/]: {escape(str(error))}", highlight=False)
    if isinstance(error, (BudgetExceededError, CapReachedError)):
        return NO_BUDGET
    if isinstance(error, (ConfigError, SchemaError, PrivateDataError)):
        return WRONG_INPUT
    return 1


def warn(text: str) -> None:
    err.print(f"[yellow]warning[/]: {escape(text)}", highlight=False)
