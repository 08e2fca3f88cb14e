"""``pe budget``: grants, spending, verification."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App
from rich.markup import escape

from pe.cli.output import emit, out
from pe.privacy.budget import Adjacency, Budget, Unit

if TYPE_CHECKING:
    from pe.privacy.ledger import Entry

app = App(name="budget", help="Grant, show and verify privacy budgets.")


@app.command
def create(
    source: str,
    *,
    epsilon: float,
    delta: float,
    adjacency: Adjacency,
    unit: Unit = Unit.RECORD,
    ledger: Path | None = None,
    json: bool = False,
) -> None:
    """Grant a first budget to a private source; all runs on the source share it.

    Parameters
    ----------
    source
        Your name for the private data set.
    epsilon
        Total epsilon.
    delta
        Total delta, well below 1 / (number of records).
    adjacency
        'add-remove' (the number of records is private) or 'replace-one' (it is public).
    unit
        Whose presence is protected: 'record'.
    ledger
        The ledger file; by default PE_LEDGER, else the user's data directory.
    json
        Print one JSON object instead of a sentence.
    """
    from pe.privacy.ledger import Ledger

    budget = Budget(epsilon, delta, adjacency, unit)
    book = Ledger(ledger, create=True)
    book.create(source, budget)
    _say(
        f"Source '{source}' was granted {budget} in {book.path}.",
        {"source": source, **_facts(book.chain(source))},
        json,
    )


@app.command
def grant(
    source: str, *, epsilon: float, delta: float | None = None, ledger: Path | None = None, json: bool = False
) -> None:
    """Set a source's total to a new value; what was spent stays spent.

    Parameters
    ----------
    source
        The private source.
    epsilon
        The new total epsilon (not an increment).
    delta
        The new total delta; by default the old one.
    ledger
        The ledger file; by default PE_LEDGER, else the user's data directory.
    json
        Print one JSON object instead of a sentence.
    """
    from pe.privacy.ledger import Ledger, granted

    book = Ledger(ledger)
    old = granted(book.chain(source))
    book.grant(source, epsilon, old.delta if delta is None else delta)
    chain = book.chain(source)
    _say(f"Source '{source}' now has {granted(chain)}.", {"source": source, **_facts(chain)}, json)


@app.command
def show(source: str | None = None, *, ledger: Path | None = None, json: bool = False) -> None:
    """Print what was granted and spent, for one source or all.

    Parameters
    ----------
    source
        A private source; by default all.
    ledger
        The ledger file; by default PE_LEDGER, else the user's data directory.
    json
        Print one JSON object instead of tables.
    """
    from pe.privacy.ledger import Ledger

    book = Ledger(ledger)
    chains = {name: book.chain(name) for name in ([source] if source else book.sources())}
    if json:
        emit({"ledger": str(book.path), "sources": {name: _facts(chain) for name, chain in chains.items()}})
        return
    from rich.table import Table

    totals = Table(title=escape(f"Ledger {book.path}"), title_justify="left")
    for heading in ("source", "granted", "spent", "left", "releases", "runs"):
        totals.add_column(heading)
    for name, chain in chains.items():
        facts = _facts(chain)
        charges = facts["charges"]
        totals.add_row(
            escape(name),
            f"{facts['epsilon']:g} at delta {facts['delta']:g}, {facts['adjacency']} per {facts['unit']}",
            f"{facts['epsilon_spent']:.4g}",
            f"{facts['share_left']:.1%} of mu²",
            str(len(charges)),
            str(len({charge["run"] for charge in charges})),
        )
    out.print(totals)
    if source is None:
        return
    rows = Table(title="Releases", title_justify="left")
    for heading in ("time", "run", "iteration", "what", "bins", "sigma", "sensitivity²", "mu²"):
        rows.add_column(heading)
    for charge in _facts(chains[source])["charges"]:
        rows.add_row(
            charge["time"],
            charge["run"][:8],
            str(charge["iteration"]),
            charge["purpose"],
            str(charge["bins"]),
            f"{charge['sigma']:.4g}",
            charge["sensitivity_squared"],
            f"{charge['mu_squared']:.4g}",
        )
    out.print(rows)


@app.command
def verify(certificate: Path, *, ledger: Path | None = None, offline: bool = False, json: bool = False) -> None:
    """Recompute every figure of a certificate, and compare the digests of the files beside it.

    Parameters
    ----------
    certificate
        A certificate.json, in its release folder.
    ledger
        A ledger file whose chain must contain the certificate's head; by default PE_LEDGER or the user's, if there is
        one.
    offline
        Do not look for a ledger.
    json
        Print one JSON object instead of lines.
    """
    from pe.privacy.certificate import read_certificate, verify
    from pe.privacy.ledger import Ledger, default_path

    content = read_certificate(certificate)
    book = None
    if not offline and (ledger is not None or default_path().exists()):
        book = Ledger(ledger)
    checked = verify(content, folder=certificate.parent, ledger=book)
    claim = content["claim"]
    if json:
        emit({"valid": True, "claim": claim, "checked": checked})
        return
    for line in checked:
        out.print(f"[green]holds[/]  {escape(line)}", highlight=False)
    if book is None:
        out.print("[yellow]not checked[/]  the ledger itself: none was named", highlight=False)
    out.print(
        f"The files are ({claim['epsilon']:g}, {claim['delta']:g})-differentially private per {claim['unit']} of "
        f"source '{content['source']}' ({claim['adjacency']}), as far as the ledger's entries are true.",
        highlight=False,
        markup=False,
    )


@app.command
def verifier(path: Path = Path("verify_certificate.py"), *, json: bool = False) -> None:
    """Write a program that checks certificates with Python alone, to hand over with a release.

    Parameters
    ----------
    path
        Where to write it: a new file, or a folder.
    json
        Print one JSON object instead of a sentence.
    """
    from importlib.resources import files

    from pe.files import write_atomically

    place = path / "verify_certificate.py" if path.is_dir() else path
    write_atomically(place, files("pe.privacy").joinpath("standalone.py").read_bytes(), once=True)
    _say(f"Wrote {place}: 'python {place.name} release/certificate.json' checks a release.", {"file": str(place)}, json)


def _facts(chain: list[Entry]) -> dict[str, Any]:
    """Grant and spending of one source, as plain numbers."""
    from fractions import Fraction

    from pe.privacy import gdp
    from pe.privacy.ledger import granted, spent

    budget, total = granted(chain), spent(chain)
    charges = [entry.body for entry in chain if entry.kind == "reserve"]
    return {
        "epsilon": budget.epsilon,
        "delta": budget.delta,
        "adjacency": str(budget.adjacency),
        "unit": str(budget.unit),
        "epsilon_spent": gdp.epsilon_for(math.sqrt(total), budget.delta),
        "share_left": float(1 - total / budget.mu_squared),
        "charges": [
            body | {"sigma": float(Fraction(body["sigma"])), "mu_squared": float(Fraction(body["mu_squared"]))}
            for body in charges
        ],
        "head": chain[-1].hash,
    }


def _say(sentence: str, facts: dict[str, Any], json: bool) -> None:
    if json:
        emit(facts)
    else:
        out.print(sentence, highlight=False, markup=False)
