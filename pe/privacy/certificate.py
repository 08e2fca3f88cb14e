"""The certificate: the claim, every ledger entry behind it, and digests of what was released. Checked offline."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pe.errors import CertificateError, ConfigError
from pe.privacy import gdp
from pe.privacy.budget import Adjacency, Budget, Unit
from pe.privacy.ledger import Entry, Ledger, entry_hash
from pe.privacy.mechanism import DiscreteGaussian

FORMAT = 1


def certify(
    chain: Sequence[Entry],
    *,
    run: str,
    budget: Budget,
    completed: tuple[int, int],
    declared_public: Sequence[str],
) -> dict[str, Any]:
    """The certificate of one run, ready for JSON but for its ``files``: digests of what is released with it.

    chain            the source's ledger entries, all runs.
    completed        iterations done, and planned.
    declared_public  sentences: what the user declared to be public knowledge.

    The claim is the preset budget; what the run's charges amount to is reported beside it.
    """
    charged = sum((Fraction(entry.body["mu_squared"]) for entry in _charges(chain, run)), Fraction(0))
    return {
        "format": FORMAT,
        "claim": _claim(budget),
        "spent": {"mu_squared": str(charged), "epsilon": gdp.epsilon_for(_root(charged), budget.delta)},
        "iterations": {"completed": completed[0], "planned": completed[1]},
        "source": chain[0].source,
        "run": run,
        "entries": [entry.as_dict() for entry in chain],
        "head": chain[-1].hash,
        "declared_public": list(declared_public),
        "not_covered": [
            "what the proposing API itself remembers of other data",
            "how long the run took",
            "releases from the same people's data that were not charged to this source",
        ],
        "files": {},
        "versions": {"python": platform.python_version()} | dict(_versions("pe-synth", "numpy", "scipy")),
    }


def verify(certificate: Mapping[str, Any], *, folder: Path | None = None, ledger: Ledger | None = None) -> list[str]:
    """Recompute every figure of a certificate; return what was checked, in sentences.

    folder  where the released files lie; their digests are compared.
    ledger  if given, its chain must contain the certificate's head: it was not rolled back since.

    Raises CertificateError naming the first thing that does not hold.
    """
    try:
        return list(_checks(certificate, folder, ledger))
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError, OverflowError) as error:
        raise CertificateError(f"the certificate is malformed ({type(error).__name__}: {error}).") from None


def _checks(certificate: Mapping[str, Any], folder: Path | None, ledger: Ledger | None) -> Iterator[str]:
    if certificate["format"] != FORMAT:
        raise CertificateError(f"expected certificate format {FORMAT}, got {certificate['format']}.")
    source, run, claim = certificate["source"], certificate["run"], certificate["claim"]
    budget = _budget(claim)
    chain = list(_chain(certificate))
    yield f"hash chain of {len(chain)} ledger entries of source '{source}'"

    total, mine, granted = Fraction(0), Fraction(0), None
    for entry in chain:
        if entry.kind == "grant":
            granted = _budget(entry.body)
            if (granted.adjacency, granted.unit) != (budget.adjacency, budget.unit):
                raise CertificateError(f"entry {entry.number} was granted under other neighbours than claimed.")
            continue
        if entry.kind == "schema":
            continue
        if entry.kind != "reserve":
            raise CertificateError(f"entry {entry.number} is of an unknown kind '{entry.kind}'.")
        if entry.body["mechanism"] != "discrete gaussian":
            raise CertificateError(f"entry {entry.number} names an unknown mechanism '{entry.body['mechanism']}'.")
        sigma, sensitivity = Fraction(entry.body["sigma"]), Fraction(entry.body["sensitivity_squared"])
        cost = DiscreteGaussian(sigma, sensitivity).mu_squared
        if Fraction(entry.body["mu_squared"]) < cost:
            raise CertificateError(f"entry {entry.number} was charged less than its noise costs.")
        total += cost
        mine += cost if entry.body["run"] == run else 0
        if granted is None or total > granted.mu_squared:
            raise CertificateError(f"entry {entry.number} passes the budget granted for source '{source}'.")
    yield "the cost of every charge, recomputed from its noise scale and sensitivity"
    if mine > budget.mu_squared:
        raise CertificateError(f"the run's charges pass the claimed {budget}.")
    if certificate["spent"]["epsilon"] < gdp.epsilon_for(_root(mine), budget.delta) * (1 - 1e-9):
        raise CertificateError("the reported spending is lower than the charges add up to.")
    yield f"the run's charges stay within the claimed {budget}"
    if folder is not None:
        for name, digest in certificate["files"].items():
            path = folder / name
            if not path.is_file() or sha256(path.read_bytes()).hexdigest() != digest:
                raise CertificateError(f"released file {name} is missing or was changed.")
        yield f"digests of {len(certificate['files'])} released files"
    if ledger is not None:
        if certificate["head"] not in {entry.hash for entry in ledger.chain(source)}:
            raise CertificateError(
                f"the ledger {ledger.path} lacks the certificate's head: it is another one, or was rolled back."
            )
        yield f"the ledger {ledger.path} still contains the certificate's head"


def _chain(certificate: Mapping[str, Any]) -> Iterator[Entry]:
    previous = ""
    for number, row in enumerate(certificate["entries"]):
        body = {key: value for key, value in row.items() if key not in ("number", "kind", "previous", "hash")}
        entry = Entry(certificate["source"], row["number"], row["kind"], body, row["previous"], row["hash"])
        link = entry_hash(entry.previous, entry.source, entry.number, entry.kind, body)
        if (entry.number, entry.previous, entry.hash) != (number, previous, link):
            raise CertificateError(f"ledger entry {number} in the certificate was altered.")
        previous = entry.hash
        yield entry
    if previous != certificate["head"]:
        raise CertificateError("the certificate's head is not the hash of its last entry.")


def _charges(chain: Sequence[Entry], run: str) -> Iterator[Entry]:
    return (entry for entry in chain if entry.kind == "reserve" and entry.body["run"] == run)


def _claim(budget: Budget) -> dict[str, Any]:
    return {
        "epsilon": budget.epsilon,
        "delta": budget.delta,
        "adjacency": str(budget.adjacency),
        "unit": str(budget.unit),
    }


def _budget(claim: Mapping[str, Any]) -> Budget:
    return Budget(claim["epsilon"], claim["delta"], Adjacency(claim["adjacency"]), Unit(claim["unit"]))


def _root(mu_squared: Fraction) -> float:
    return math.sqrt(mu_squared)


def _versions(*names: str) -> Iterator[tuple[str, str]]:
    for name in names:
        try:
            yield name, version(name)
        except PackageNotFoundError:  # run from a source tree
            yield name, "unknown"


def read_certificate(path: Path) -> dict[str, Any]:
    """Parse a certificate file; raises CertificateError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CertificateError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError:
        raise CertificateError(f"{path} is not a certificate: it is not JSON.") from None
    if not isinstance(content, dict):
        raise CertificateError(f"{path} is not a certificate.")
    return content
