"""``pe budget``: grants, spending, verification."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App
from rich.markup import escape

from pe.cli.output import emit, out
from pe.privacy.accountant import Renyi, accountant_from
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
    accountant: str = "gdp",
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
        Whose presence is protected: 'record', or 'user' (all records with one user id).
    accountant
        How charges add up: 'gdp' (votes), 'renyi' or 'renyi:ORDER' (votes and DP-SGD), 'pld' (fixed DP-SGD plans).
    ledger
        The ledger file; by default PE_LEDGER, else the user's data directory.
    json
        Print one JSON object instead of a sentence.
    """
    from pe.privacy.ledger import Ledger

    budget = Budget(epsilon, delta, adjacency, unit)
    how = Renyi.best(budget.epsilon, budget.delta) if accountant == "renyi" else accountant_from(accountant)
    budget = Budget(epsilon, delta, adjacency, unit, how)
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
    """Print what was granted and spent, for one source or all; 'pe budget history' prints each entry.

    Parameters
    ----------
    source
        A private source; by default all.
    ledger
        The ledger file; by default PE_LEDGER, else the user's data directory.
    json
        Print one JSON object instead of a table.
    """
    from pe.privacy.ledger import Ledger, granted

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
            str(granted(chain)).removeprefix("epsilon "),
            f"{facts['epsilon_spent']:.4g}",
            f"{facts['share_left']:.1%}",
            str(len(charges)),
            str(len({charge["run"] for charge in charges})),
        )
    out.print(totals)


@app.command
def history(source: str, *, ledger: Path | None = None, json: bool = False) -> None:
    """Print every entry of a source in order: grants, schemas, charges and releases, with what was spent so far.

    Parameters
    ----------
    source
        A private source.
    ledger
        The ledger file; by default PE_LEDGER, else the user's data directory.
    json
        Print one JSON object instead of a table.
    """
    from rich.table import Table

    from pe.privacy.ledger import Ledger, granted

    book = Ledger(ledger)
    chain = book.chain(source)
    delta = granted(chain).delta
    lines = list(_history(chain))
    if json:
        emit({"ledger": str(book.path), "source": source, "delta": delta, "entries": lines})
        return
    table = Table(title=escape(f"Source {source} in {book.path}"), title_justify="left")
    for heading in ("", "time", "what", "run", "iteration", "sigma", f"epsilon so far at delta {delta:g}", "hash"):
        table.add_column(heading)
    for line in lines:
        sigma = f"{line['sigma']:.4g}" if "sigma" in line else ""
        cells = (
            line["number"],
            line["time"][:16].replace("T", " "),
            line["what"],
            line.get("run", "")[:8],
            line.get("iteration", ""),
            sigma,
        )
        table.add_row(*(escape(str(cell)) for cell in cells), f"{line['epsilon_so_far']:.4g}", line["hash"][:12])
    out.print(table)


@app.command
def schema(source: str, schema: Path, *, ledger: Path | None = None, json: bool = False) -> None:
    """Declare the schema that a source's data are read with, in place of the one it was declared under before.

    A first run declares its own. Changing a schema because of what was seen in the private data is not covered by any
    budget.

    Parameters
    ----------
    source
        The private source.
    schema
        A schema.toml; its label does not matter.
    ledger
        The ledger file; by default PE_LEDGER, else the user's data directory.
    json
        Print one JSON object instead of a sentence.
    """
    from pe.data.schema import Schema
    from pe.privacy.ledger import Ledger

    fingerprint = Schema.read(schema).with_label(None).fingerprint()
    book = Ledger(ledger)
    book.declare(source, fingerprint, replace=True)
    _say(
        f"Source '{source}' is declared under schema {fingerprint[:12]}.",
        {"source": source, "schema": fingerprint, "head": book.chain(source)[-1].hash},
        json,
    )


@app.command
def verify(
    certificate: Path,
    *,
    ledger: Path | None = None,
    offline: bool = False,
    public_key: Path | None = None,
    json: bool = False,
) -> None:
    """Recompute every figure of a certificate, and compare the digests of the files beside it.

    Parameters
    ----------
    certificate
        A certificate.json, in its release folder or beside the figures of a charged evaluation.
    ledger
        A ledger file, which must hold the certificate's release entry, and no charge of its run that the certificate
        lacks; by default PE_LEDGER or the user's, if there is one.
    offline
        Do not look for a ledger.
    public_key
        The issuer's public key (PEM, as 'pe budget sign-key' names it), which must have signed the certificate.
    json
        Print one JSON object instead of lines.
    """
    from pe.errors import CertificateError
    from pe.privacy.certificate import read_certificate, verify
    from pe.privacy.ledger import Ledger, default_path
    from pe.privacy.signature import read_public_key

    content = read_certificate(certificate)
    if "entries" not in content and (proof := certificate.with_name("certificate.json")).exists():
        raise CertificateError(f"{certificate} is no certificate; {proof.name} beside it is.")
    book = None
    if not offline and (ledger is not None or default_path().exists()):
        book = Ledger(ledger)
    key = None if public_key is None else read_public_key(public_key)
    *checked, signer = verify(content, folder=certificate.parent, ledger=book, public_key=key)
    if "charged.json" in content["files"]:
        from pe.evaluation.charged import check_figures

        checked.append(check_figures(content, certificate.parent))
    claim = content["claim"]
    if json:
        emit({"valid": True, "claim": claim, "checked": checked, "signer": signer})
        return
    for line in checked:
        out.print(f"[green]holds[/]  {escape(line)}", highlight=False)
    if book is None:
        out.print("[yellow]not checked[/]  the ledger itself: none was named", highlight=False)
    out.print(signer, highlight=False, markup=False, soft_wrap=True)
    out.print(
        f"The files are ({claim['epsilon']:g}, {claim['delta']:g})-differentially private per {claim['unit']} of "
        f"source '{content['source']}' ({claim['adjacency']}), as far as the ledger's entries are true.",
        highlight=False,
        markup=False,
    )


@app.command
def sign_key(*, ledger: Path | None = None, json: bool = False) -> None:
    """Make a key pair with which certificates are signed from now on, and print where its public half lies.

    The private half stays beside the ledger's key, readable by its owner alone. Hand the public one to whoever verifies
    ('pe budget verify --public-key FILE', or the standalone verifier). A key that is there is never replaced.

    Parameters
    ----------
    ledger
        The ledger file; by default PE_LEDGER, else the user's data directory.
    json
        Print one JSON object instead of a sentence.
    """
    from pe.privacy.ledger import Ledger
    from pe.privacy.signature import create_key, read_public_key

    place = create_key(Ledger(ledger).key_path)
    key = read_public_key(place).hex()
    _say(
        f"Certificates are signed with the Ed25519 key {key}. Its public half, to be handed out: {place}",
        {"public_key": key, "file": str(place)},
        json,
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
    from pe.files import write_atomically
    from pe.privacy.single_file import verifier_program

    place = path / "verify_certificate.py" if path.is_dir() else path
    write_atomically(place, verifier_program(), once=True)
    _say(f"Wrote {place}: 'python {place.name} release/certificate.json' checks a release.", {"file": str(place)}, json)


def _facts(chain: list[Entry]) -> dict[str, Any]:
    """Grant and spending of one source, as plain numbers; sigma and sensitivity in votes."""
    from fractions import Fraction

    from pe.privacy.ledger import charges, granted, spent

    budget, total = granted(chain), spent(chain)
    used = max((part / whole if whole else 1 for part, whole in zip(total, budget.limit, strict=True)), default=0)
    shown = []
    for entry in charges(chain):
        share = float(Fraction(entry.body["cost"][0]) / budget.limit[0]) if budget.limit[0] else 1.0
        shown.append(entry.body | _in_votes(entry.body) | {"share": share})
    return {
        **budget.to_dict(),
        "epsilon_spent": budget.epsilon_of(total),
        "share_left": float(1 - used),
        "charges": shown,
        "head": chain[-1].hash,
    }


def _history(chain: list[Entry]) -> Iterator[dict[str, Any]]:
    """Every entry with a phrase that tells it, and the epsilon that it and those before it amount to."""
    from fractions import Fraction

    from pe.privacy.accountant import add
    from pe.privacy.ledger import declared, granted

    budget = granted(chain)
    total = tuple(Fraction(0) for _ in budget.limit)
    for number, entry in enumerate(chain):
        before, body = chain[:number], entry.body
        line: dict[str, Any] = {"number": entry.number, "kind": entry.kind, "time": body["time"]}
        if entry.kind == "grant":
            new = granted([entry])
            line |= {"epsilon": new.epsilon, "delta": new.delta}
            line["what"] = f"grant {new}"
            if before:
                old = granted(before)
                line["what"] = (
                    f"grant epsilon {old.epsilon:g} at delta {old.delta:g} -> {new.epsilon:g} at delta {new.delta:g}"
                )
        elif entry.kind == "schema":
            line["schema"] = body["schema"]
            was = declared(before)
            line["what"] = f"schema {f'{was[:12]} -> ' if was else ''}{line['schema'][:12]}"
        elif entry.kind == "draw":
            line |= {"run": body["run"], "entry": body["entry"], "what": f"noise for {body['entry'][:12]}"}
        elif entry.kind == "release":
            line |= {name: body[name] for name in ("run", "files", "data", "statement")}
            count = body["files"]["count"]
            line["what"] = f"release of {count} file{'s' if count > 1 else ''}"
        else:
            line |= {name: body[name] for name in ("purpose", "run", "iteration", "mechanism", "bins", "cost")}
            line["what"] = body["purpose"]
            line |= _in_votes(body)
            total = add(total, tuple(Fraction(part) for part in body["cost"]))
        yield line | {"epsilon_so_far": budget.epsilon_of(total), "hash": entry.hash}


def _in_votes(body: dict[str, Any]) -> dict[str, float]:
    """Noise and sensitivity of a release of votes; nothing for other mechanisms."""
    from fractions import Fraction

    if "sigma" not in body:
        return {}
    sensitivity = math.sqrt(Fraction(body["sensitivity_squared"])) / body["grid"]
    return {"sigma": float(Fraction(body["sigma"]) / body["grid"]), "sensitivity": sensitivity}


def _say(sentence: str, facts: dict[str, Any], json: bool) -> None:
    if json:
        emit(facts)
    else:
        out.print(sentence, highlight=False, markup=False)
