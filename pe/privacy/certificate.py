"""The certificate: the claim, every ledger entry behind it, and digests of what was released. Checked offline.

A certificate is a *statement* (claim, spending, what was declared public, digests of the released files) and the
source's ledger chain up to the release entry that names it. That entry binds run, claim, spending, the data that the
files were exported from, the files, and the statement as a whole; ``pe.privacy.signature`` may bind it to its issuer.
"""

from __future__ import annotations

import json
import math
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from hashlib import file_digest, sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from pe.errors import CertificateError, ConfigError
from pe.privacy import signature
from pe.privacy.accountant import Cost, add, fits
from pe.privacy.budget import Budget, Unit
from pe.privacy.ledger import Entry, Ledger, canonical, charges, entry_hash, spent
from pe.privacy.mechanism import DiscreteGaussian, FixedPlan, mechanism_from
from pe.privacy.simulation import WARNING, SimulatedAccount

FORMAT = 3

GROUPS = (2, 4, 10)
"""Sizes of the groups (households, say) for which the certificate states the guarantee."""

NOT_STATED = ("entries", "head", "signature")
"""Keys that are not part of the statement: the evidence for it."""

LARGEST_FILE = 2**26
"""Bytes of a certificate's file: beyond, it is not read."""

LARGEST_EPSILON = 10.0**6

_DIGEST = re.compile("[0-9a-f]{64}")

_UNIT_LIMITS = {
    Unit.RECORD: ["people with several records: each record is protected, not all of a person's together (see groups)"],
    Unit.USER: ["people with several user ids: each id is protected, not all of a person's together (see groups)"],
}


# -- issuing -------------------------------------------------------------------------------------------------------


def draft(
    chain: Sequence[Entry],
    *,
    run: str,
    budget: Budget,
    completed: tuple[int, int],
    declared_public: Sequence[str],
) -> dict[str, Any]:
    """The certificate of one run before it is issued: without files, and without the release entry that binds it.

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
        "declared_public": list(declared_public),
        "not_covered": [
            "what the proposing API itself remembers of other data",
            "how long the run took",
            "releases from the same people's data that were not charged to this source",
            *_UNIT_LIMITS[budget.unit],
        ],
        "versions": _all_versions(),
    }


def issue(
    ledger: Ledger, certificate: Mapping[str, Any], *, files: Mapping[str, str], data: Mapping[str, str]
) -> dict[str, Any]:
    """Bind a draft, or an earlier certificate, to ``files``: append a release entry and return the whole certificate.

    files  SHA-256 digests of what is released, by relative path: all but the certificate itself.
    data   digests, by name, of what the files were made from.

    The same release is entered once. Signed where the ledger has a signing key. Raises LedgerError where the run was
    never charged or was charged since the draft.
    """
    statement = {name: part for name, part in certificate.items() if name not in NOT_STATED}
    statement |= {"files": dict(sorted(files.items())), "data": dict(sorted(data.items()))}
    if not files or not data:
        raise CertificateError("a certificate needs at least one file, and the data that it was made from.")
    chain = ledger.enter_release(statement["source"], _binding(statement))
    issued = statement | {"entries": [entry.as_dict() for entry in chain], "head": chain[-1].hash}
    signer = signature.signer(ledger.key_path)
    return issued if signer is None else issued | {"signature": signer(issued)}


def digests(files: Mapping[str, bytes]) -> dict[str, str]:
    """SHA-256 of each file's content."""
    return {name: sha256(content).hexdigest() for name, content in sorted(files.items())}


def _binding(statement: Mapping[str, Any]) -> dict[str, Any]:
    """What the release entry says of a statement. Files are bound by one digest: chains stay short."""
    return {
        "run": statement["run"],
        "claim": statement["claim"],
        "spent": statement["spent"],
        "data": statement["data"],
        "files": {"count": len(statement["files"]), "digest": _digest(statement["files"])},
        "statement": _digest(statement),
    }


def _digest(value: object) -> str:
    return sha256(canonical(value).encode()).hexdigest()


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


# -- verifying -----------------------------------------------------------------------------------------------------


def verify(
    certificate: Mapping[str, Any],
    *,
    folder: Path | None = None,
    ledger: Ledger | None = None,
    public_key: bytes | None = None,
) -> list[str]:
    """Recompute every figure of a certificate; return what was checked, in sentences.

    folder      where the released files lie; their digests are compared.
    ledger      if given, it must hold the release entry, and the certificate every charge of its run.
    public_key  if given, the 32 bytes of the Ed25519 key that must have signed the certificate.

    Raises CertificateError naming the first thing that does not hold.
    """
    try:
        return list(_checks(certificate, folder, ledger, public_key))
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError, OverflowError, RecursionError) as error:
        raise CertificateError(f"the certificate is malformed ({type(error).__name__}).") from None


def _checks(
    certificate: Mapping[str, Any], folder: Path | None, ledger: Ledger | None, public_key: bytes | None
) -> Iterator[str]:
    if certificate.get("simulated", False) is not False:
        raise CertificateError("this is a simulation: nothing in it is private.")
    if type(certificate["format"]) is not int or certificate["format"] != FORMAT:
        raise CertificateError(
            f"expected certificate format {FORMAT}, got {certificate['format']!r}: certificates of earlier formats do "
            "not bind run, claim and files together, and are not read any more."
        )
    source, run = certificate["source"], certificate["run"]
    budget = _budget(certificate["claim"], "the claim")
    if canonical(budget.to_dict()) != canonical(certificate["claim"]):
        raise CertificateError("the claim is not written as a claim is.")
    chain = list(_chain(certificate))
    yield f"hash chain of {len(chain)} ledger entries of source '{source}'"
    yield _check_release(certificate, chain)
    charged = _check_charges(chain, run, budget)
    yield "the cost of every charge, recomputed from its mechanism and sensitivity"
    _check_statement(certificate, budget, charged)
    yield f"the run's charges stay within the claimed {budget}"
    if folder is not None:
        _check_files(certificate["files"], folder)
        yield f"digests of {len(certificate['files'])} released files"
    if ledger is not None:
        yield _check_ledger(ledger, source, run, chain[-1])
    yield signature.check(certificate, public_key)


def _chain(certificate: Mapping[str, Any]) -> Iterator[Entry]:
    previous = ""
    source = _text(certificate["source"], "source")
    for number, row in enumerate(_typed(certificate["entries"], list, "entries")):
        body = {key: value for key, value in row.items() if key not in ("number", "kind", "previous", "hash")}
        entry = Entry(source, number, _text(row["kind"], "kind"), body, previous, row["hash"])
        link = entry_hash(previous, source, number, entry.kind, body)
        if (entry.hash, canonical(row["number"]), row["previous"]) != (link, str(number), previous):
            raise CertificateError(f"ledger entry {number} in the certificate was altered.")
        previous = entry.hash
        yield entry
    if not previous or previous != certificate["head"]:
        raise CertificateError("the certificate's head is not the hash of its last entry.")


def _check_release(certificate: Mapping[str, Any], chain: Sequence[Entry]) -> str:
    """Compare the statement with the release entry that must end the chain."""
    entry, run, files = chain[-1], _text(certificate["run"], "run", empty=True), certificate["files"]
    if entry.kind != "release":
        raise CertificateError("the certificate's last entry is no release: it was cut, or was never issued.")
    if entry.body["run"] != run:
        raise CertificateError("the certificate's release entry is of another run.")
    for name in ("files", "data"):
        values = _typed(certificate[name], dict, name).values()
        if not values or not all(isinstance(value, str) and _DIGEST.fullmatch(value) for value in values):
            raise CertificateError(f"expected {name} as digests by name, at least one.")
    for name in files:
        _check_name(name)
    paid = charges(chain, run)
    if not paid or entry.body["last_charge"] != paid[-1].hash:
        raise CertificateError("the charges of the certificate's run are missing, or are not those of its release.")
    statement = {name: part for name, part in certificate.items() if name not in NOT_STATED}
    for name, expected in _binding(statement).items():
        if canonical(entry.body[name]) != canonical(expected):
            raise CertificateError(f"the certificate's {name} is not what its release entry in the ledger names.")
    return f"run, claim, spending and {len(files)} files are those of the release entry"


def _check_charges(chain: Sequence[Entry], run: str, budget: Budget) -> Cost:
    """Recompute costs and sums along the chain; return what the run was charged."""
    total = mine = tuple(Fraction(0) for _ in budget.limit)
    grant = None
    undrawn: dict[str, str] = {}  # hash of each charge that was not drawn yet, and its run
    for entry in chain:
        where, body = f"entry {entry.number}", entry.body
        if entry.kind == "grant":
            grant = _budget(body, where)
            if grant.terms != budget.terms:
                raise CertificateError(f"{where} was granted under other terms than claimed.")
        elif entry.kind == "reserve":
            cost = _check_charge(body, budget, where)
            total = add(total, cost)
            undrawn[entry.hash] = body["run"]
            if _text(body["run"], "run", empty=True) == run:
                mine = add(mine, cost)
                if (body["run_epsilon"], body["run_delta"]) != (budget.epsilon, budget.delta):
                    raise CertificateError(f"{where} was charged to another budget than the claimed one.")
        elif entry.kind == "draw":
            if undrawn.pop(_text(body["entry"], "entry"), None) != _text(body["run"], "run", empty=True):
                raise CertificateError(f"{where} draws noise that no charge before it was for.")
        elif entry.kind not in ("schema", "release") or "cost" in body:
            raise CertificateError(f"{where} is of an unknown kind '{entry.kind}'.")
        if grant is None or not fits(total, grant.limit):
            raise CertificateError(f"{where} passes the budget granted for source '{entry.source}'.")
    return mine


def _check_charge(body: Mapping[str, Any], budget: Budget, where: str) -> Cost:
    """What an entry was charged, if that is no less than its noise costs."""
    mechanism = mechanism_from(body)
    if any(canonical(body.get(name)) != canonical(value) for name, value in mechanism.to_dict().items()):
        raise CertificateError(f"{where} does not write its mechanism as a ledger does.")
    if body.get("simulated", False) is not False:
        raise CertificateError("this is a simulation: nothing in it is private.")
    for part in mechanism.mechanisms if isinstance(mechanism, FixedPlan) else (mechanism,):
        # integer counts of neighbours differ by at least one, or not at all
        if isinstance(part, DiscreteGaussian) and not 1 <= part.sensitivity_squared <= 2**80:
            raise CertificateError(f"{where} has no usable sensitivity.")
    if isinstance(mechanism, DiscreteGaussian):
        _whole(body["grid"], "grid", 1, 2**40)
    for name, largest in (("run_epsilon", LARGEST_EPSILON), ("run_delta", 1.0)):
        if not 0 <= _typed(body[name], float, name) <= largest:
            raise CertificateError(f"{where} has no usable {name}.")
    cost = _costs(body["cost"], where)
    if len(cost) != len(budget.limit) or not fits(budget.accountant.cost(mechanism, body["run_delta"]), cost):
        raise CertificateError(f"{where} was charged less than its noise costs.")
    return cost


def _check_statement(certificate: Mapping[str, Any], budget: Budget, charged: Cost) -> None:
    """Compare what the certificate reports with what its charges come to."""
    if not fits(charged, budget.limit):
        raise CertificateError(f"the run's charges pass the claimed {budget}.")
    reported = _typed(certificate["spent"], dict, "spent")
    if _costs(reported["cost"], "the reported spending") != charged:
        raise CertificateError("the reported spending is not the sum of the run's charges.")
    if not budget.epsilon_of(charged) * (1 - 1e-9) <= _typed(reported["epsilon"], float, "epsilon") <= 10**12:
        raise CertificateError("the reported spending is lower than the charges add up to.")
    for group in _typed(certificate["groups"], list, "groups"):
        epsilon, delta = budget.group(_whole(group["size"], "size", 1, 10**6))
        stated = [_typed(group[name], float, name) for name in ("epsilon", "delta")]
        if stated[0] < epsilon * (1 - 1e-9) or stated[1] < delta * (1 - 1e-9) or max(stated) > 10**15:
            raise CertificateError(f"the guarantee for groups of {group['size']} is overstated.")
    planned = _whole(certificate["iterations"]["planned"], "planned", 0, math.inf)
    _whole(certificate["iterations"]["completed"], "completed", 0, planned)


def _check_files(files: Mapping[str, str], folder: Path) -> None:
    root = folder.resolve()
    for name, digest in files.items():
        try:
            path = (root / name).resolve()
            inside = path.is_relative_to(root)
            intact = inside and path.is_file() and _file_digest(path) == digest
        except (OSError, RuntimeError):  # too long, unreadable, a loop of links
            inside, intact = True, False
        if not intact:
            raise CertificateError(
                f"released file {name!r} {'is missing or was changed' if inside else 'lies outside the folder'}."
            )


def _check_ledger(ledger: Ledger, source: str, run: str, entry: Entry) -> str:
    """The ledger holds the release entry, and charged the run nothing after it."""
    chain = ledger.chain(source)
    if entry.hash not in {known.hash for known in chain}:
        raise CertificateError(
            f"the ledger {ledger.path} lacks the certificate's release entry: it is another one, or was rolled back."
        )
    if later := [charge for charge in charges(chain, run) if charge.number > entry.number]:
        raise CertificateError(
            f"the run was charged after this certificate was issued (entry {later[0].number}): finish it again."
        )
    return f"the ledger {ledger.path} holds the release entry, and no charge of the run that the certificate lacks"


def _check_name(name: str) -> None:
    """Raise for the name of a file that may lead out of the folder, here or on another system, or is not its only."""
    pure = PurePosixPath(name)
    outside = pure.is_absolute() or ".." in pure.parts or "\\" in name or PureWindowsPath(name).drive
    if outside or "\0" in name or name in ("", ".") or str(pure) != name:
        raise CertificateError(f"released file {name!r} lies outside the folder, or its name is ambiguous.")


def _budget(body: Mapping[str, Any], where: str) -> Budget:
    """A claim or a grant, written as ``Budget.to_dict`` writes it."""
    budget = Budget.from_dict(_typed(body, dict, where))
    plain = budget.to_dict()
    if any(canonical(body.get(name)) != canonical(value) for name, value in plain.items()) or (
        "order" in body and "order" not in plain
    ):
        raise CertificateError(f"{where} is not written as a ledger does.")
    if budget.epsilon > LARGEST_EPSILON:
        raise CertificateError(f"{where} has no usable epsilon.")
    return budget


def _costs(values: object, where: str) -> Cost:
    costs = tuple(Fraction(value) for value in _typed(values, list, "cost"))
    if [str(cost) for cost in costs] != values or not all(0 <= cost <= 10**12 for cost in costs):
        raise CertificateError(f"{where} has no usable cost.")
    return costs


def _text(value: Any, name: str, *, empty: bool = False) -> str:
    if not isinstance(value, str) or not (value or empty):
        raise CertificateError(f"expected {name} as text.")
    return value


def _typed(value: Any, kind: type, name: str) -> Any:
    if type(value) is not kind:
        raise CertificateError(f"expected {name} to be of type {kind.__name__}.")
    return value


def _whole(value: Any, name: str, low: int, high: float) -> int:
    if type(value) is not int or not low <= value <= high:
        raise CertificateError(f"expected {name} to be a whole number from {low} to {high}.")
    return value


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _all_versions() -> dict[str, str]:
    return {"python": platform.python_version()} | dict(_versions("pe-synth", "numpy", "scipy"))


def _versions(*names: str) -> Iterator[tuple[str, str]]:
    for name in names:
        try:
            yield name, version(name)
        except PackageNotFoundError:  # run from a source tree
            yield name, "unknown"


# -- files ---------------------------------------------------------------------------------------------------------


def certificate_bytes(certificate: Mapping[str, Any]) -> bytes:
    """Content of a certificate's file."""
    return (json.dumps(certificate, indent=1) + "\n").encode()


def read_certificate(path: Path) -> dict[str, Any]:
    """Parse a certificate's file strictly: no key twice, no NaN, no endless numbers. Raises CertificateError."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise CertificateError(f"{path} is not a certificate: it is too large.")
        content = json.loads(
            path.read_bytes().decode(),
            parse_constant=_number,
            parse_float=_number,
            parse_int=_number,
            object_pairs_hook=_distinct,
        )
        canonical(content).encode()  # half a surrogate pair, escaped, has no digest
    except OSError as error:
        raise CertificateError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError):
        raise CertificateError(f"{path} is not a certificate: it is not JSON that all read alike.") from None
    if not isinstance(content, dict):
        raise CertificateError(f"{path} is not a certificate.")
    return content


def _number(text: str) -> int | float:
    if len(text) > 300:
        raise ValueError("too many digits")
    value = int(text) if re.fullmatch("-?[0-9]+", text) else float(text)
    if not math.isfinite(value):
        raise ValueError("not a finite number")
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key occurs twice")
    return table
