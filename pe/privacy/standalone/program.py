"""The checks of one certificate, and the command line."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import reduce
from itertools import islice
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from pe.privacy.standalone.accounting import SCAN_REACH, Refused, discrete_mu, subsampled_rdp
from pe.privacy.standalone.reading import (
    Cost,
    Terms,
    Unreadable,
    canonical,
    digest_of,
    entry_of,
    exact,
    read,
    real,
    shown,
    whole,
)
from pe.privacy.standalone.signature import public_key, verified

FORMAT = 3
SIGMAS = (Fraction(1, 8), Fraction(2**14))
MOST_GRANTS, MOST_WORK = 1000, 2**24
NOT_STATED = ("entries", "head", "signature")
UNSIGNED = "unsigned: as far as the issuer's ledger is to be believed"


@dataclass(frozen=True)
class Row:
    """One ledger entry: what to call it, its kind, what stands in it, and its hash."""

    where: str
    kind: str
    body: dict[str, Any]
    link: str


@dataclass
class Verifier:
    """One certificate under scrutiny; raises Refused at the first thing that does not hold."""

    certificate: dict[str, Any]
    holds: list[str] = field(default_factory=list)
    not_recomputed: list[str] = field(default_factory=list)
    not_covered: list[str] = field(default_factory=list)
    epsilon_spent: float = 0.0
    signer: str = UNSIGNED
    _work: set[tuple[object, ...]] = field(default_factory=set)
    _effort: int = 0

    def check(self, public: bytes | None = None) -> Terms:
        """Everything but the files; ``public`` is the issuer's public key."""
        certificate = self.certificate
        if certificate.get("simulated", False) is not False:
            raise Refused("this is a simulation: nothing in it is private.")
        if type(certificate.get("format")) is not int or certificate["format"] != FORMAT:
            raise Refused(
                f"its format is {shown(certificate.get('format'))}, this program reads format {FORMAT}: earlier ones "
                "do not bind run, claim and files together."
            )
        table = entry_of(certificate, "claim", dict, "the certificate")
        run = entry_of(certificate, "run", str, "the certificate")
        chain = list(self._chain())
        if chain[0].kind != "grant":
            raise Refused("ledger entry 0 is no grant: nothing may be charged before a budget is granted.")
        self.holds.append(f"the hash chain of {len(chain)} ledger entries of source {shown(certificate['source'])}")
        self._release(chain, run)
        claim = Terms.read(table, "the claim")
        mine = self._charges(chain, claim, run)
        if over(mine, claim.limit):
            raise Refused(f"the run was charged more than the claimed {claim}.")
        self._spending(claim, mine)
        self._signature(public)
        return claim

    def _chain(self) -> Iterator[Row]:
        """Every ledger entry, as long as each names the hash of the one before it."""
        source = entry_of(self.certificate, "source", str, "the certificate")
        entries = entry_of(self.certificate, "entries", list, "the certificate")
        previous = ""
        if not source or not entries:
            raise Refused("the certificate names no source or holds no ledger entries.")
        for number, row in enumerate(entries):
            if not isinstance(row, dict):
                raise Refused(f"ledger entry {number} is not a table.")
            outside = {key: row.get(key) for key in ("number", "kind", "previous", "hash")}
            body = {key: value for key, value in row.items() if key not in outside}
            linked = canonical([previous, source, number, outside["kind"], canonical(body)])
            link = hashlib.sha256(linked.encode()).hexdigest()
            expected = {"number": number, "kind": outside["kind"], "previous": previous, "hash": link}
            if canonical(outside) != canonical(expected):  # tells 1 from 1.0 and true
                raise Refused(f"ledger entry {number} was altered, moved or removed: its hash does not fit.")
            previous = link
            yield Row(f"ledger entry {number}", str(outside["kind"]), body, link)
        if self.certificate.get("head") != previous:
            raise Refused("the head is not the hash of the last ledger entry: entries were removed or added.")

    def _release(self, chain: Sequence[Row], run: str) -> None:
        """Compare the certificate with its last ledger entry, which binds run, claim, spending, data and files."""
        entry = chain[-1]
        if entry.kind != "release":
            raise Refused("its last ledger entry is no release: the certificate was cut, or was never issued.")
        if entry.body.get("run") != run:
            raise Refused("its last ledger entry releases another run than the certificate names.")
        paid = [row.link for row in chain if row.kind == "reserve" and row.body.get("run") == run]
        if not paid:
            raise Refused("the ledger entries hold no charge of its run.")
        if entry.body.get("last_charge") != paid[-1]:
            raise Refused("the release entry names another last charge of the run.")
        files = entry_of(self.certificate, "files", dict, "the certificate")
        data = entry_of(self.certificate, "data", dict, "the certificate")
        if not files or not all(map(is_digest, [*files.values(), *data.values()])) or not data:
            raise Refused("the certificate names no files, no data, or something else than their digests.")
        for name in files:
            if unsafe(name):
                raise Refused(f"released file {shown(name)} lies outside the folder, or its name is ambiguous.")
        expected = {name: self.certificate.get(name) for name in ("claim", "spent", "data")}
        expected["files"] = {"count": len(files), "digest": digest_of(files)}
        expected["statement"] = digest_of({k: v for k, v in self.certificate.items() if k not in NOT_STATED})
        for name, value in expected.items():
            if canonical(entry.body.get(name)) != canonical(value):
                raise Refused(f"the certificate's {name} is not what its release entry names.")
        self.holds.append(f"run, claim, spending and list of {len(files)} files, as the release entry names them")

    def _signature(self, public: bytes | None) -> None:
        """Check the issuer's signature, if there is one; with a public key there must be one, by that key."""
        signature = self.certificate.get("signature")
        if signature is None:
            if public is not None or "signature" in self.certificate:
                raise Refused("it is not signed, although a public key was given, or its signature was taken out.")
            return
        fields = signature if isinstance(signature, dict) else {}
        key, value = str(fields.get("public_key")), str(fields.get("value"))
        if fields != {"algorithm": "ed25519", "public_key": key, "value": value} or not (
            re.fullmatch("[0-9a-f]{64}", key) and re.fullmatch("[0-9a-f]{128}", value)
        ):
            raise Refused("its signature is malformed.")
        if public is not None and key != public.hex():
            raise Refused(f"it is signed with another key, {key[:16]}, than the one given.")
        signed = {name: part for name, part in self.certificate.items() if name != "signature"}
        message = b"pe-synth certificate\0" + canonical(signed).encode()
        if not verified(bytes.fromhex(key), message, bytes.fromhex(value)):
            raise Refused("its signature does not hold: something was altered after it was signed.")
        whose = "the key given" if public is not None else "compare it with the issuer's (--public-key)"
        self.signer = f"signed with the Ed25519 key {key}: {whose}"

    def _charges(self, chain: Sequence[Row], claim: Terms, run: str) -> Cost:
        """Check costs, sums and grants along the chain; return what this run was charged."""
        undrawn: dict[str, str] = {}  # the hash of each charge that was not drawn yet, and its run
        nothing: Cost = (Fraction(0),) * (2 if claim.accountant == "pld" else 1)
        total, mine, granted, grants, count, unknown = nothing, nothing, claim, set(), 0, []
        for row in chain:
            where, kind, body = row.where, row.kind, row.body
            if kind == "grant":
                granted = Terms.read(body, where)
                grants.add(granted)
                if (granted.adjacency, granted.unit) != (claim.adjacency, claim.unit):
                    raise Refused(f"{where} was granted under other neighbours than claimed.")
                if (granted.accountant, granted.order) != (claim.accountant, claim.order):
                    raise Refused(f"{where} changes the accountant: costs under two of them do not add up.")
                if len(grants) > MOST_GRANTS:
                    raise Refused(f"the ledger holds more than {MOST_GRANTS} different grants.")
            elif kind == "reserve":
                count += 1
                charge, needed = self._charged(body, claim, where), self._cost(body, claim, where)
                if needed is None:
                    unknown.append(where.rpartition(" ")[2])
                elif over(needed, charge):
                    raise Refused(f"{where} was charged less than its noise costs.")
                total = plus(total, charge)
                undrawn[row.link] = entry_of(body, "run", str, where)
                preset = real(body, "run_epsilon", where, 0, 10**6), real(body, "run_delta", where, 0, 1)
                if body["run"] == run:
                    mine = plus(mine, charge)
                    if preset != (claim.epsilon, claim.delta):
                        raise Refused(f"{where} was charged to another budget than the claimed one.")
            elif kind == "draw":
                if undrawn.pop(entry_of(body, "entry", str, where), None) != entry_of(body, "run", str, where):
                    raise Refused(f"{where} draws noise that no charge before it was for.")
            elif kind not in ("schema", "release") or "cost" in body:
                raise Refused(f"{where} is of a kind that this program does not know: {shown(kind)}.")
            if over(total, granted.limit):
                raise Refused(f"{where} takes the source past the {granted} that it was granted.")
        if count > len(unknown):
            self.holds.append(f"the cost of {count - len(unknown)} charges, recomputed from noise and sensitivity")
        if unknown:
            listed = ", ".join(unknown[:10]) + (", ..." if len(unknown) > 10 else "")
            self.not_recomputed.append(f"the cost of ledger entries {listed}: it takes privacy-loss distributions")
        self.holds.append("the sum of all charges within the budget granted to the source, at every entry")
        return mine

    def _charged(self, body: dict[str, Any], claim: Terms, where: str) -> Cost:
        written = body.get("cost")
        if not isinstance(written, list) or len(written) != (2 if claim.accountant == "pld" else 1):
            raise Refused(f"{where} has no usable cost: {shown(written)}.")
        return tuple(exact({"cost": part}, "cost", where, 0, 10**12) for part in written)

    def _cost(self, body: dict[str, Any], claim: Terms, where: str, *, nested: bool = False) -> Cost | None:
        """What a mechanism costs, recomputed; None where that takes a privacy-loss distribution."""
        if body.get("simulated", False) is not False:
            raise Refused("this is a simulation: nothing in it is private.")
        kind = body.get("mechanism")
        if kind == "plan" and not nested:
            parts = entry_of(body, "mechanisms", list, where)
            if not parts or not all(isinstance(part, dict) for part in parts):
                raise Refused(f"{where} has a plan without mechanisms.")
            costs = [self._cost(part, claim, where, nested=True) for part in parts]
            known = [cost for cost in costs if cost is not None]
            return reduce(plus, known) if len(known) == len(costs) else None
        if kind == "discrete gaussian":
            sigma = exact(body, "sigma", where, *SIGMAS)
            # integer counts of neighbours differ by at least one, or not at all
            squared = exact(body, "sensitivity_squared", where, 1, 2**80)
            if not nested:
                whole(body, "grid", where, 1, 2**40)
            if claim.accountant == "renyi":  # Canonne, Kamath, Steinke 2020, theorem 4: as the continuous Gaussian
                return (claim.order * squared / (2 * sigma * sigma),)
            if claim.accountant == "pld":
                return None
            self._effort_of("scan", sigma, effort=SCAN_REACH * math.ceil(sigma))
            return (squared * Fraction(discrete_mu(sigma)) ** 2,)
        if kind == "poisson subsampled gaussian" and claim.accountant != "gdp":
            multiplier = exact(body, "noise_multiplier", where, *SIGMAS)
            rate = exact(body, "sampling_rate", where, Fraction(1, 2**60), 1)
            steps = whole(body, "steps", where, 1, 10**9)
            if claim.adjacency != "add-remove":
                raise Refused(f"{where} is priced for add-remove adjacency alone, the claim is for another.")
            if claim.accountant == "pld":
                return None
            order = int(claim.order)
            self._effort_of("sampled", order, multiplier, rate, effort=40 * order)
            return (steps * subsampled_rdp(order, multiplier, rate),)
        raise Refused(f"{where} names a mechanism that accountant '{claim.accountant}' does not know: {shown(kind)}.")

    def _effort_of(self, *what: object, effort: int) -> None:
        """Count each computation once, and stop before they take minutes."""
        if what not in self._work:
            self._work.add(what)
            self._effort += effort
        if self._effort > MOST_WORK:
            raise Refused("the ledger names more different noise scales than can be recomputed in a minute.")

    def _spending(self, claim: Terms, mine: Cost) -> None:
        where = "the reported spending"
        spent = entry_of(self.certificate, "spent", dict, "the certificate")
        for reported, summed in zip(self._charged(spent, claim, where), mine, strict=True):
            if abs(reported - summed) > Fraction(1, 2**200):
                raise Refused("the reported spending is not the sum of the run's charges.")
        epsilon = real(spent, "epsilon", where, 0, 10**12)
        self.epsilon_spent = claim.epsilon_of(mine)
        if float(epsilon) < self.epsilon_spent * (1 - 1e-9):
            raise Refused(
                f"epsilon {float(epsilon):.6g} is reported spent, the charges amount to {self.epsilon_spent:.6g}."
            )
        self.holds.append(f"the run's charges within the claimed {claim}: they amount to {self.epsilon_spent:.6g}")
        groups = entry_of(self.certificate, "groups", list, "the certificate")
        for table in groups:
            where = "the guarantee for groups"
            size = whole(entry_of({"group": table}, "group", dict, where), "size", where, 1, 10**6)
            for name, least in zip(("epsilon", "delta"), claim.group(size), strict=True):
                if real(table, name, where, 0, 10**15) < least * (1 - 1e-9):
                    raise Refused(f"{where} of {size} says {name} {shown(table[name])}, the claim means {least:.6g}.")
        self.holds += [f"the guarantees stated for {len(groups)} sizes of groups"] if groups else []
        progress = entry_of(self.certificate, "iterations", dict, "the certificate")
        whole(progress, "completed", "the count of iterations", 0, progress.get("planned"))

    def check_files(self, folder: Path, itself: Path) -> None:
        """Digests of the files that the certificate covers, and the names of those that it does not."""
        files = entry_of(self.certificate, "files", dict, "the certificate")
        root = folder.resolve()
        for name, expected in files.items():
            try:
                path = (root / name).resolve()
                if not path.is_relative_to(root):
                    raise Refused(f"released file {shown(name)} lies outside the folder.")
                intact = path.is_file() and file_digest(path) == expected
            except (OSError, ValueError, RuntimeError):  # too long, unreadable, a loop of links
                intact = False
            if not intact:
                raise Refused(f"released file {shown(name)} is missing or was changed.")
        self.holds.append(f"the digests of {len(files)} released files")
        known = {*files, itself.name}
        others = [name for name in islice(names_under(folder), 10_000) if name not in known]
        if others:
            listed = ", ".join(map(shown, sorted(others)[:20])) + (", ..." if len(others) > 20 else "")
            self.not_covered.append(f"{len(others)} other files in the folder: {listed}")


def over(sums: Cost, limits: Cost) -> bool:
    return any(part > limit for part, limit in zip(sums, limits, strict=True))


def plus(one: Cost, other: Cost) -> Cost:
    """The sum; rounded up where exact fractions would grow without bound."""
    sums = [a + b for a, b in zip(one, other, strict=True)]
    return tuple(s if s.denominator < 2**4096 else Fraction(math.ceil(s * 2**256), 2**256) for s in sums)


def is_digest(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def unsafe(name: str) -> bool:
    """Whether a name may lead out of the folder, here or on another system, or is not the only one of its file."""
    pure = PurePosixPath(name)
    outside = pure.is_absolute() or ".." in pure.parts or "\\" in name or bool(PureWindowsPath(name).drive)
    return outside or "\0" in name or name in ("", ".") or str(pure) != name


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def names_under(folder: Path) -> Iterator[str]:
    """Files, and links to folders, in and below a folder."""
    for place, folders, files in os.walk(folder):
        for name in files + [name for name in folders if Path(place, name).is_symlink()]:
            yield Path(place, name).relative_to(folder).as_posix()


def read_key(path: Path) -> bytes:
    try:
        return public_key(path)
    except (OSError, ValueError):
        raise Unreadable(f"{shown(path.name)} is no public key that can be read.") from None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Check a certificate of pe-synth, and the files beside it.")
    parser.add_argument("certificate", type=Path, help="a certificate.json, in its release folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    parser.add_argument("--public-key", type=Path, metavar="FILE", help="the issuer's key: it must have signed this")
    options = parser.parse_args(arguments)
    code, reason = 0, ""
    try:
        verifier = Verifier(read(options.certificate))
        claim = verifier.check(None if options.public_key is None else read_key(options.public_key))
        verifier.check_files(options.certificate.parent, options.certificate)
    except Refused as error:
        code, reason = 1, str(error)
    except Unreadable as error:
        code, reason = 2, str(error)
    except Exception as error:  # whatever a hostile file brings about, it is no proof
        code, reason = 2, f"the certificate could not be checked ({type(error).__name__})."
    if code:
        text = f"{'DOES NOT HOLD' if code == 1 else 'NOT READABLE'}  {reason}"
        text = json.dumps({"valid": False, "reason": reason}) if options.json else text
        print(text, file=sys.stdout if options.json else sys.stderr)
        return code
    if options.json:
        found = {
            name: getattr(verifier, name)
            for name in ("holds", "not_recomputed", "not_covered", "epsilon_spent", "signer")
        }
        print(json.dumps({"valid": True, "claim": verifier.certificate["claim"], **found}, indent=1))
        return 0
    for title in ("holds", "not recomputed", "not covered"):
        for line in getattr(verifier, title.replace(" ", "_")):
            print(f"{title:<15} {line}")
    print(verifier.signer)
    unless = ", if the charges not recomputed are right" if verifier.not_recomputed else ""
    print(
        f"The files are ({float(claim.epsilon):g}, {float(claim.delta):g})-differentially private per {claim.unit} of "
        f"source {shown(verifier.certificate['source'])} ({claim.adjacency}), as far as the ledger's entries are "
        f"true{unless}."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
