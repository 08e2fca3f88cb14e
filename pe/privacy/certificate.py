"""The certificate: the claim, every ledger entry behind it, and digests of what was released. Checked offline."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pe.errors import CertificateError, ConfigError
from pe.privacy.accountant import add, fits
from pe.privacy.budget import Budget, Unit
from pe.privacy.ledger import Entry, Ledger, entry_hash, spent
from pe.privacy.mechanism import mechanism_from
from pe.privacy.simulation import WARNING, SimulatedAccount

FORMAT = 2

GROUPS = (2, 4, 10)
"""Sizes of the groups (households, say) for which the certificate states the guarantee."""


_UNIT_LIMITS = {
    Unit.RECORD: ["people with several records: each record is protected, not all of a person's together (see groups)"],
    Unit.USER: ["people with several user ids: each id is protected, not all of a person's together (see groups)"],
}


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
    charged = spent(chain, run)
    return {
        "format": FORMAT,
        "claim": budget.to_dict(),
        "groups": [dict(zip(("size", "epsilon", "delta"), (n, *budget.group(n)), strict=True)) for n in GROUPS],
        "spent": {"cost": [str(part) for part in charged], "epsilon": budget.epsilon_of(charged)},
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
            *_UNIT_LIMITS[budget.unit],
        ],
        "files": {},
        "versions": _all_versions(),
    }


def simulated_certificate(
    account: SimulatedAccount, source: str, completed: tuple[int, int], declared_public: Sequence[str]
) -> dict[str, Any]:
    """What stands in a certificate's place after a simulation: it claims nothing, and verifies never."""
    return {
        "format": FORMAT,
        "simulated": True,
        "warning": WARNING,
        "seed": account.seed,
        "would_claim": account.budget.to_dict(),
        "would_spend": {"epsilon": account.epsilon_spent()},
        "iterations": {"completed": completed[0], "planned": completed[1]},
        "source": source,
        "declared_public": list(declared_public),
        "files": {},
        "versions": _all_versions(),
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
    if certificate.get("simulated"):
        raise CertificateError("this is a simulation: nothing in it is private.")
    if certificate["format"] != FORMAT:
        raise CertificateError(f"expected certificate format {FORMAT}, got {certificate['format']}.")
    source, run, claim = certificate["source"], certificate["run"], certificate["claim"]
    budget = Budget.from_dict(claim)
    chain = list(_chain(certificate))
    yield f"hash chain of {len(chain)} ledger entries of source '{source}'"

    total = mine = tuple(Fraction(0) for _ in budget.limit)
    grant = None
    charged: dict[str, str] = {}  # hash of each charge that was not drawn yet, and its run
    for entry in chain:
        if entry.kind == "grant":
            grant = Budget.from_dict(entry.body)
            if grant.terms != budget.terms:
                raise CertificateError(f"entry {entry.number} was granted under other terms than claimed.")
        elif entry.kind == "reserve":
            mechanism = mechanism_from(entry.body)
            cost = budget.accountant.cost(mechanism, entry.body["run_delta"])
            if not fits(cost, tuple(Fraction(part) for part in entry.body["cost"])):
                raise CertificateError(f"entry {entry.number} was charged less than its noise costs.")
            total = add(total, cost)
            mine = add(mine, cost) if entry.body["run"] == run else mine
            charged[entry.hash] = entry.body["run"]
            if grant is None or not fits(total, grant.limit):
                raise CertificateError(f"entry {entry.number} passes the budget granted for source '{source}'.")
        elif entry.kind == "draw":
            if charged.pop(entry.body["entry"], None) != entry.body["run"]:
                raise CertificateError(f"entry {entry.number} draws noise that no charge before it was for.")
        elif entry.kind != "schema":
            raise CertificateError(f"entry {entry.number} is of an unknown kind '{entry.kind}'.")
    yield "the cost of every charge, recomputed from its mechanism and sensitivity"
    if not fits(mine, budget.limit):
        raise CertificateError(f"the run's charges pass the claimed {budget}.")
    if certificate["spent"]["epsilon"] < budget.epsilon_of(mine) * (1 - 1e-9):
        raise CertificateError("the reported spending is lower than the charges add up to.")
    for group in certificate["groups"]:
        epsilon, delta = budget.group(group["size"])
        if group["epsilon"] < epsilon * (1 - 1e-9) or group["delta"] < delta * (1 - 1e-9):
            raise CertificateError(f"the guarantee for groups of {group['size']} is overstated.")
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


def _all_versions() -> dict[str, str]:
    return {"python": platform.python_version()} | dict(_versions("pe-synth", "numpy", "scipy"))


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
