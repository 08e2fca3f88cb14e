"""``pe check``: which of the private data fit the schema, for the holder's own eyes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from pe.check import Check


def check(config: Path) -> None:
    """Show which private values a run could not take as they are, and why. Spends nothing and stores nothing.

    What is shown is NOT private: it is for the holder of the data, at a terminal, and has no form for machines.

    Parameters
    ----------
    config
        The TOML file of the run.
    """
    from pe.cli.output import out
    from pe.config import Config
    from pe.data.schema import Schema
    from pe.errors import ConfigError
    from pe.synthesis import check_private

    private = Config.read(config).private
    if private.schema_ is None or private.path is None:
        raise ConfigError("private.path and private.schema must name files. Nothing was spent.")
    schema = Schema.read(private.schema_, private=private.path)
    schema = schema.with_label(private.label or schema.label)
    show(check_private(private, schema, private.path), out)


def show(report: Check, console: Console) -> None:
    """Print a report, its first and its last line set off."""
    first, *rest = report.lines()
    console.print(f"[bold yellow]{first}[/]", highlight=False)
    for line in rest:
        console.print(line, highlight=False, markup=False)
