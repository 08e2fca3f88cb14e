"""``pe schedule``."""

from __future__ import annotations

from pathlib import Path


def schedule(config: Path, *, cron: str, name: str | None = None, ledger: Path | None = None) -> None:
    """Serve a configuration as a Prefect deployment that runs on a cron schedule, until stopped.

    Every run gets a directory of its own beside the configured one, and all of them spend the budget of one source:
    grant enough for several with 'pe budget create'. A run that was interrupted is continued before a new one is begun,
    and ticks missed while nothing was served are caught up by one run. When the budget is gone, runs end in the state
    'BudgetExhausted'. Needs a Prefect server: 'prefect server start', and its address in PREFECT_API_URL. Stop with
    Ctrl-C or SIGTERM.

    Parameters
    ----------
    config
        The TOML file that 'pe init' drafts.
    cron
        When to run: a cron expression of five fields in UTC, such as '0 2 * * *' for every night at two.
    name
        Name of the deployment; by default that of the configuration file.
    ledger
        The ledger file; by default PE_LEDGER, else the user's data directory.
    """
    from pe.errors import ConfigError

    try:
        from pe.flows.schedule import serve
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "prefect":
            raise
        raise ConfigError("pe schedule needs Prefect: pip install 'pe-synth[flows]'. Nothing was spent.") from None
    serve(config, cron, name=name, ledger=ledger)
