"""``pe audit``: attack the mechanism, compare what leaks with what is charged."""

from __future__ import annotations

from dataclasses import asdict
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from pe.cli.output import emit, err, out
from pe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pe.audit.attack import Finding


def audit(
    *,
    variant: list[str] | None = None,
    trials: int = 20_000,
    rounds: int = 10,
    sigma: float | None = None,
    epsilon: float | None = None,
    delta: float = 1e-5,
    alpha: float = 1e-3,
    workers: Annotated[int, Parameter(name=["--workers", "-j"])] = 1,
    json: bool = False,
) -> int:
    """Measure how well an adversary tells neighbours apart; exit code 1 if better than the charges allow.

    Runs the installed vote, releaser, noise and ledger on data sets of its own: no private data, no budget.

    Parameters
    ----------
    variant
        What to audit, by name; repeat for several; by default everything.
    trials
        Runs on either of the two neighbours; 100000 show nine tenths of an epsilon of 2.6.
    rounds
        Rounds of one run.
    sigma
        Noise scale of every round; by default 5.04.
    epsilon
        Instead of sigma: choose it so that one run's charges add up to this.
    delta
        The delta at which epsilons are given.
    alpha
        Probability that a sound mechanism fails this audit, over all variants and both bounds together.
    workers
        Processes.
    json
        Print one JSON object instead of a table.
    """
    from pe.audit.attack import LIMITS, THREAT_MODEL
    from pe.audit.attack import audit as findings_of

    findings = findings_of(
        variant or (),
        trials=trials,
        rounds=rounds,
        sigma=None if sigma is None else _rational(sigma),
        epsilon=epsilon,
        delta=delta,
        alpha=alpha,
        workers=workers,
    )
    found = list(_reported(findings, silent=json))
    holds = all(each.holds for each in found)
    if json:
        lines = [asdict(each) | {"ratio": each.ratio, "holds": each.holds} for each in found]
        emit(
            {
                "holds": holds,
                "delta": delta,
                "alpha": alpha,
                "threat_model": THREAT_MODEL,
                "limits": LIMITS,
                "findings": lines,
            }
        )
        return 0 if holds else 1
    _show(found, delta)
    out.print(f"Threat model: {THREAT_MODEL}", highlight=False)
    out.print(
        f"Bounds: Clopper-Pearson on trials that did not choose the test. A sound mechanism fails this audit with "
        f"probability {alpha:g} at most ({2 * len(found)} bounds, alpha {alpha / (2 * len(found)):.2g} each). "
        "Shown: the larger bound, as a share of what is charged.",
        highlight=False,
    )
    out.print(
        "Posterior: 95 % credible interval of the epsilon that the test shows, in the GDP family (Zanella-Béguelin et "
        "al. 2023); a guide, not a bound.",
        highlight=False,
    )
    out.print(f"Limits: {LIMITS}", highlight=False)
    if not holds:
        failed = ", ".join(each.variant for each in found if not each.holds)
        out.print(f"[bold red]More leaks than is charged[/]: {failed}. Do not release anything with this version.")
    return 0 if holds else 1


def _rational(sigma: float) -> Fraction:
    try:
        return Fraction(str(sigma))
    except ValueError:
        raise ConfigError(f"expected sigma to be a finite number, got {sigma}. Nothing was spent.") from None


def _reported(findings: Iterator[Finding], *, silent: bool) -> Iterator[Finding]:
    """The findings as they come, with a word on standard error about each."""
    for each in findings:
        if not silent:
            err.print(f"{each.variant}: {'holds' if each.holds else 'FAILS'} ({each.seconds:.0f} s)", highlight=False)
        yield each


def _show(found: list[Finding], delta: float) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    first, scales = found[0], {f"{each.sigma:.4g}" for each in found}
    title = f"Audit: N = {first.trials} runs a side of {first.rounds} rounds, epsilons at delta {delta:g}"
    if len(scales) == 1:
        title += f", sigma {scales.pop()}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("variant", no_wrap=True)
    for heading in ("charged", "bound, GDP", "bound, any", "posterior", "shown", "verdict"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in found:
        table.add_row(
            each.variant,
            *(f"{epsilon:.3f}" for epsilon in (each.claim, each.bound_gdp, each.bound_free)),
            "{:.2f}-{:.2f}".format(*each.posterior_gdp),
            f"{each.ratio:.0%}",
            "[green]holds[/]" if each.holds else "[bold red]FAILS[/]",
        )
    out.print(table)
    for each in found:
        out.print(f"{each.variant}: {each.about} ({each.adjacency}).", highlight=False)
