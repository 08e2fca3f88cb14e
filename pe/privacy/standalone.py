"""Check a certificate of pe-synth with nothing but Python's standard library (3.11 or later).

    python standalone.py release/certificate.json [--json]

For whoever receives synthetic data: one file, a second implementation that shares no code with the first. It
recomputes the ledger's hash chain, what every charge costs from its noise and sensitivity, the sums against every
grant in force and against the claim, the epsilon spent, and the digests of the released files. It prints what holds
(exit 0), or one sentence on the first thing that does not (exit 1); exit 2: not readable as a certificate. It shows
that the certificate is consistent, not that its issuer ran what the ledger says, and what it cannot recompute
(privacy-loss distributions) it names.

A charge must be at least its recomputed cost, and a sum at most its limit, both evaluated to about 40 digits and with
no tolerance. The cost of discrete Gaussian noise contains 1e-9 (relative, of mu) for the resolution of the scan of its
trade-off curve; 2**-100 of every delta is set aside for noise beyond 13 standard deviations. Only reported epsilons (of
the spending, of groups), which are floats, may fall short of the recomputed ones by 1e-9.
"""

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
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, localcontext
from fractions import Fraction
from functools import cache, reduce
from itertools import accumulate, islice
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

KNOWN = {"adjacency": ("add-remove", "replace-one"), "unit": ("record", "user"), "accountant": ("gdp", "renyi", "pld")}
TAIL, SMALLEST_DELTA = Fraction(1, 2**100), Fraction(1, 2**90)
SIGMAS = (Fraction(1, 8), Fraction(2**14))
SCAN_REACH = 13  # standard deviations; one draw lies further out with probability below 2**-125
SCAN_MARGIN = Decimal("1e-9")  # floats place each vertex to 5e-15, which is 1e-10 of mu at the largest sigma
MOST_BYTES, MOST_GRANTS, MOST_WORK = 2**26, 1000, 2**24

PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803")
CONTEXT = Context(prec=70, Emax=MAX_EMAX, Emin=MIN_EMIN)

Cost = tuple[Fraction, ...]


class Refused(Exception):
    """Something does not hold: the sentence to print."""


class Unreadable(Exception):
    """Not a certificate at all: the sentence to print."""


# -- the normal distribution, to about 40 digits -------------------------------------------------------------------


def density(x: Decimal) -> Decimal:
    return (-x * x / 2).exp() / (2 * PI).sqrt()


def tail(x: Decimal) -> Decimal:
    """P(N(0, 1) > x), every digit of it however small: Taylor's series near 0, Laplace's continued fraction beyond."""
    if x < 0:
        return 1 - tail(-x)
    if x < 8:
        term, total, n = x, x, 1
        while term > total * Decimal("1e-68"):
            n += 2
            term *= x * x / n
            total += term
        return Decimal("0.5") - density(x) * total
    fraction = x
    for n in range(80, 0, -1):
        fraction = x + n / fraction
    return density(x) / fraction


def quantile(upper: Decimal) -> Decimal:
    """The x >= 0 with tail(x) = upper, for 0 < upper <= 1/2. Newton's method on the logarithm, which is concave."""
    x = (-2 * (2 * upper).ln()).sqrt()
    for _ in range(100):
        value = tail(x)
        step = (value / upper).ln() * value / density(x)
        x += step
        if abs(step) < Decimal("1e-50"):
            break
    return x


# -- Gaussian DP ---------------------------------------------------------------------------------------------------


def gaussian_delta(epsilon: Decimal, mu: Decimal) -> Decimal:
    """The delta at which mu-GDP gives epsilon (Balle and Wang 2018, theorem 8)."""
    a = epsilon / mu - mu / 2
    return tail(a) - epsilon.exp() * tail(a + mu)


@cache
def gaussian_limit(epsilon: Fraction, delta: Fraction) -> Fraction:
    """The largest mu**2 for which mu-GDP is (epsilon, delta - TAIL)-DP."""
    with localcontext(CONTEXT):
        target, level = decimal(delta - TAIL), decimal(epsilon)
        low, high = Decimal(1), Decimal(1)
        while gaussian_delta(level, low) > target:
            low, high = low / 2, low
        while gaussian_delta(level, high) <= target:
            low, high = high, high * 2
        for _ in range(130):
            middle = (low + high) / 2
            low, high = (middle, high) if gaussian_delta(level, middle) <= target else (low, middle)
        return Fraction(low) ** 2


def gaussian_epsilon(mu_squared: Fraction, delta: Fraction) -> float:
    """The smallest epsilon for which mu-GDP is (epsilon, delta - TAIL)-DP."""
    with localcontext(CONTEXT):
        target, mu = decimal(delta - TAIL), decimal(mu_squared).sqrt()
        if mu == 0 or gaussian_delta(Decimal(0), mu) <= target:
            return 0.0
        low, high = Decimal(0), Decimal(1)
        while gaussian_delta(high, mu) > target:
            low, high = high, high * 2
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (low, middle) if gaussian_delta(middle, mu) <= target else (middle, high)
        return float(high)


@cache
def discrete_mu(sigma: Fraction) -> Decimal:
    """GDP parameter of discrete Gaussian noise X on integers that neighbours move by at most one, SCAN_MARGIN included.

    Telling X from X + 1 by the test "at least k" errs with probabilities P(X >= k) and P(X <= k - 2). With
    z(k) = -Phi^-1(P(X >= k)) that is mu-GDP if and only if mu >= z(k) - z(k - 1) for every k. The largest step is
    the one across zero, z(1) - z(0) = 2 z(1), if the scan below finds no larger one. Vectors of integers at distance
    D: D mu.
    """
    with localcontext(CONTEXT):
        scale = decimal(sigma)
        mu = 2 * quantile((1 - 1 / theta(scale)) / 2)
        if not largest_step(scale) <= float(mu * (1 + SCAN_MARGIN / 2)):
            raise Refused(f"noise of scale {float(sigma):g} cannot be certified.")
        return mu * (1 + SCAN_MARGIN)


def theta(scale: Decimal) -> Decimal:
    """Sum of exp(-k**2 / (2 scale**2)) over all integers k; for wide noise by Poisson's summation formula."""
    wide = scale > Decimal("0.4")
    rate = 2 * (PI * scale) ** 2 if wide else 1 / (2 * scale * scale)
    total, k, term = Decimal(1), 0, Decimal(1)
    while term > Decimal("1e-80"):
        k += 1
        term = 2 * (-rate * k * k).exp()
        total += term
    return scale * (2 * PI).sqrt() * total if wide else total


def largest_step(scale: Decimal) -> float:
    """Largest z(k + 1) - z(k), k = 0 .. SCAN_REACH standard deviations; k < 0 mirrors it.

    The tail sums have some 25 digits; each z(k) is solved for in floats, whose erfc keeps its digits in the tail.
    """
    weights, ratio = [Decimal(1)], (-1 / (2 * scale * scale)).exp()
    growth, square = ratio, ratio * ratio
    for _ in range(math.ceil(17 * scale) + 3):
        weights.append(weights[-1] * growth)
        growth *= square
    upper = list(accumulate(reversed(weights)))[::-1]  # sums over j >= k
    total = 2 * upper[1] + 1
    z, worst, root = -1 / (2 * float(scale)), 0.0, math.sqrt(2)
    for k in range(1, math.ceil(SCAN_REACH * scale) + 2):
        before, wanted = (z if k > 1 else None), float(upper[k] / total)
        z += 1 / float(scale)
        for _ in range(50):
            value = math.erfc(z / root) / 2
            step = math.log(value / wanted) * value * root * math.sqrt(math.pi) * math.exp(z * z / 2)
            z += step
            if abs(step) < 1e-8:  # squared by the next step
                break
        worst = max(worst, 2 * z if before is None else z - before)
    return worst


# -- Renyi DP at a fixed order -------------------------------------------------------------------------------------


@cache
def renyi_price(order: Fraction, delta: Fraction) -> Fraction:
    """What (order, rdp)-RDP adds to rdp to become epsilon at delta - TAIL (Canonne, Kamath, Steinke 2020, prop. 12)."""
    with localcontext(CONTEXT):
        a = decimal(order)
        return Fraction((1 - 1 / a).ln() - (decimal(delta - TAIL).ln() + a.ln()) / (a - 1))


@cache
def subsampled_rdp(order: int, multiplier: Fraction, rate: Fraction) -> Fraction:
    """RDP at a whole order of one Gaussian answer on a Poisson sample (Mironov, Talwar, Zhang 2019, section 3.3)."""
    if rate == 1:
        return Fraction(order) / (2 * multiplier * multiplier)
    with localcontext(CONTEXT) as context:
        context.prec = 80  # the moment is one plus something small
        q, exponent = decimal(rate), 1 / (2 * decimal(multiplier) ** 2)
        odds, moment = q / (1 - q), Decimal(0)
        weight = (1 - q) ** order  # C(order, k) (1 - q)**(order - k) q**k
        for k in range(order + 1):
            moment += weight * (exponent * (k * k - k)).exp()
            weight *= odds * (order - k) / (k + 1)
        return Fraction(moment.ln() / (order - 1))


# -- what is written in the file -----------------------------------------------------------------------------------


def decimal(value: Fraction) -> Decimal:
    return Decimal(value.numerator) / Decimal(value.denominator)


def shown(value: object) -> str:
    """Text of a stranger, safe to print: one line, no control characters, not long."""
    text = ascii(value)
    return text if len(text) <= 80 else text[:70] + "..."


def entry_of(table: dict[str, Any], key: str, kind: type, where: str) -> Any:
    value = table.get(key)
    if not isinstance(value, kind):
        raise Refused(f"{where} has no usable {key}: {shown(value)}.")
    return value


def whole(table: dict[str, Any], key: str, where: str, low: int, high: Any) -> int:
    value = table.get(key)
    if type(value) is not int or type(high) is not int or not low <= value <= high:
        raise Refused(f"{where} has no usable {key}: {shown(value)}.")
    return value


def rational(table: dict[str, Any], key: str, where: str, low: Fraction | int, high: Fraction | int) -> Fraction:
    """An exact number: a string of digits with or without a denominator, or a JSON number."""
    value: Any = table.get(key)
    text = isinstance(value, str) and re.fullmatch("[0-9]{1,4000}(/[1-9][0-9]{0,3999})?", value) is not None
    number = Fraction(value) if text or (type(value) in (int, float) and math.isfinite(value)) else None
    if number is None or not low <= number <= high:
        raise Refused(f"{where} has no usable {key}: {shown(value)}.")
    return number


@dataclass(frozen=True)
class Terms:
    """A claim or a grant."""

    epsilon: Fraction
    delta: Fraction
    adjacency: str
    unit: str
    accountant: str
    order: Fraction

    @classmethod
    def read(cls, table: dict[str, Any], where: str) -> Terms:
        epsilon = rational(table, "epsilon", where, Fraction(1, 2**1074), 10**6)
        delta = rational(table, "delta", where, SMALLEST_DELTA, 1 - Fraction(1, 2**53))
        table = {"accountant": "gdp"} | table  # the only one in format 1
        for name, known in KNOWN.items():
            if table.get(name) not in known:
                raise Refused(f"{where} names an unknown {name}: {shown(table.get(name))}.")
        order = Fraction(0)
        if table["accountant"] == "renyi":
            order = rational(table, "order", where, 1 + Fraction(1, 2**20), 2**14)
        return cls(epsilon, delta, table["adjacency"], table["unit"], table["accountant"], order)

    @property
    def limit(self) -> Cost:
        """The largest sum of costs."""
        if self.accountant == "gdp":
            return (gaussian_limit(self.epsilon, self.delta),)
        if self.accountant == "renyi":
            return (max(Fraction(0), self.epsilon - renyi_price(self.order, self.delta)),)
        return self.epsilon, self.delta

    def epsilon_of(self, total: Cost) -> float:
        """What a sum of costs amounts to at this delta."""
        if self.accountant == "gdp":
            return gaussian_epsilon(total[0], self.delta)
        if self.accountant == "renyi" and total[0]:
            return float(max(Fraction(0), total[0] + renyi_price(self.order, self.delta)))
        return float(total[0])

    def group(self, size: int) -> tuple[float, float]:
        """What the guarantee means for ``size`` units together: under gdp mu scales, else Vadhan 2017, lemma 2.2."""
        if self.accountant == "gdp":
            return gaussian_epsilon(size * size * self.limit[0], self.delta), float(self.delta)
        log_delta = math.log(size) + (size - 1) * float(self.epsilon) + math.log(self.delta)
        return size * float(self.epsilon), math.exp(min(log_delta, 0.0))

    def __str__(self) -> str:
        return f"epsilon {float(self.epsilon):g} at delta {float(self.delta):g} ({self.adjacency}, per {self.unit})"


@dataclass
class Verifier:
    """One certificate under scrutiny; raises Refused at the first thing that does not hold."""

    certificate: dict[str, Any]
    holds: list[str] = field(default_factory=list)
    not_recomputed: list[str] = field(default_factory=list)
    not_covered: list[str] = field(default_factory=list)
    epsilon_spent: float = 0.0
    _work: set[tuple[object, ...]] = field(default_factory=set)
    _effort: int = 0

    def check(self) -> Terms:
        """Everything but the files."""
        certificate = self.certificate
        if certificate.get("simulated", False) is not False:
            raise Refused("this is a simulation: nothing in it is private.")
        if type(certificate.get("format")) is not int or certificate["format"] not in (1, 2):
            raise Refused(f"its format is {shown(certificate.get('format'))}, this program reads formats 1 and 2.")
        table = entry_of(certificate, "claim", dict, "the certificate")
        run = entry_of(certificate, "run", str, "the certificate")
        chain = list(self._chain())
        if chain[0][1] != "grant":
            raise Refused("ledger entry 0 is no grant: nothing may be charged before a budget is granted.")
        self.holds.append(f"the hash chain of {len(chain)} ledger entries of source {shown(certificate['source'])}")
        # the claim is accounted as the source is; where it names an accountant itself, it must be the same
        granted = Terms.read(chain[0][2], "ledger entry 0")
        how = {"accountant": granted.accountant, "order": str(granted.order)} if granted.order else {}
        claim = Terms.read({"accountant": granted.accountant, **how, **table}, "the claim")
        mine = self._charges(chain, claim, run)
        if over(mine, claim.limit):
            raise Refused(f"the run was charged more than the claimed {claim}.")
        self._spending(claim, mine)
        return claim

    def _chain(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """(where, kind, body) of each entry, as long as each names the hash of the one before it."""
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
            yield f"ledger entry {number}", str(outside["kind"]), body
        if self.certificate.get("head") != previous:
            raise Refused("the head is not the hash of the last ledger entry: entries were removed or added.")

    def _charges(self, chain: Sequence[tuple[str, str, dict[str, Any]]], claim: Terms, run: str) -> Cost:
        """Check costs, sums and grants along the chain; return what this run was charged."""
        nothing: Cost = (Fraction(0),) * (2 if claim.accountant == "pld" else 1)
        total, mine, granted, grants, count, unknown = nothing, nothing, claim, set(), 0, []
        for where, kind, body in chain:
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
                if entry_of(body, "run", str, where) == run:
                    mine = plus(mine, charge)
                    preset = body.get("run_epsilon", float(claim.epsilon)), body.get("run_delta", float(claim.delta))
                    if preset != (float(claim.epsilon), float(claim.delta)):
                        raise Refused(f"{where} was charged to another budget than the claimed one.")
            elif kind not in ("schema", "draw") or "cost" in body or "mu_squared" in body:
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
        written = body.get("cost") if self.certificate["format"] == 2 else [body.get("mu_squared")]
        if not isinstance(written, list) or len(written) != (2 if claim.accountant == "pld" else 1):
            raise Refused(f"{where} has no usable cost: {shown(written)}.")
        return tuple(rational({"cost": part}, "cost", where, 0, 10**12) for part in written)

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
            sigma = rational(body, "sigma", where, *SIGMAS)
            # integer counts of neighbours differ by at least one, or not at all
            squared = rational(body, "sensitivity_squared", where, 1, 2**80)
            if "grid" in body:
                whole(body, "grid", where, 1, 2**40)
            if claim.accountant == "renyi":  # Canonne, Kamath, Steinke 2020, theorem 4: as the continuous Gaussian
                return (claim.order * squared / (2 * sigma * sigma),)
            if claim.accountant == "pld":
                return None
            self._effort_of("scan", sigma, effort=SCAN_REACH * math.ceil(sigma))
            return (squared * Fraction(discrete_mu(sigma)) ** 2,)
        if kind == "poisson subsampled gaussian" and claim.accountant != "gdp":
            multiplier = rational(body, "noise_multiplier", where, *SIGMAS)
            rate = rational(body, "sampling_rate", where, Fraction(1, 2**60), 1)
            steps = whole(body, "steps", where, 1, 10**9)
            if claim.adjacency != "add-remove":
                raise Refused(f"{where} is priced for add-remove adjacency alone, the claim is for another.")
            if claim.accountant == "pld":
                return None
            if claim.order.denominator != 1:
                raise Refused(f"{where} is priced at order {claim.order}; subsampled noise needs a whole order.")
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
        epsilon = rational(spent, "epsilon", where, 0, 10**12)
        self.epsilon_spent = claim.epsilon_of(mine)
        if float(epsilon) < self.epsilon_spent * (1 - 1e-9):
            raise Refused(
                f"epsilon {float(epsilon):.6g} is reported spent, the charges amount to {self.epsilon_spent:.6g}."
            )
        self.holds.append(f"the run's charges within the claimed {claim}: they amount to {self.epsilon_spent:.6g}")
        groups = entry_of({"groups": []} | self.certificate, "groups", list, "the certificate")
        for table in groups:
            where = "the guarantee for groups"
            size = whole(entry_of({"group": table}, "group", dict, where), "size", where, 1, 10**6)
            for name, least in zip(("epsilon", "delta"), claim.group(size), strict=True):
                if float(rational(table, name, where, 0, 10**15)) < least * (1 - 1e-9):
                    raise Refused(f"{where} of {size} says {name} {shown(table[name])}, the claim means {least:.6g}.")
        self.holds += [f"the guarantees stated for {len(groups)} sizes of groups"] if groups else []
        if "iterations" in self.certificate:
            progress = entry_of(self.certificate, "iterations", dict, "the certificate")
            whole(progress, "completed", "the count of iterations", 0, progress.get("planned"))

    def check_files(self, folder: Path, itself: Path) -> None:
        """Digests of the files that the certificate covers, and the names of those that it does not."""
        files = entry_of(self.certificate, "files", dict, "the certificate")
        root = folder.resolve()
        for name, expected in files.items():
            pure = PurePosixPath(name)
            unsafe = pure.is_absolute() or ".." in pure.parts or "\\" in name or bool(PureWindowsPath(name).drive)
            try:
                path = (root / pure).resolve()
                if unsafe or not path.is_relative_to(root):
                    raise Refused(f"released file {shown(name)} lies outside the folder.")
                intact = path.is_file() and file_digest(path) == expected
            except (OSError, ValueError, RuntimeError):  # too long, unreadable, a loop of links
                intact = False
            if not intact:
                raise Refused(f"released file {shown(name)} is missing or was changed.")
        if files:
            self.holds.append(f"the digests of {len(files)} released files")
        known = {str(PurePosixPath(name)) for name in files} | {itself.name}
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


def canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def names_under(folder: Path) -> Iterator[str]:
    """Files, and links to folders, in and below a folder."""
    for place, folders, files in os.walk(folder):
        for name in files + [name for name in folders if Path(place, name).is_symlink()]:
            yield Path(place, name).relative_to(folder).as_posix()


def read(path: Path) -> dict[str, Any]:
    """Parse strictly: no NaN, no infinity, no endless digits, no key twice (readers would disagree on it)."""

    def number(text: str) -> int | float:
        if len(text) > 300:  # still within the range of floats
            raise ValueError("a number has too many digits")
        value = int(text) if text.lstrip("-").isdigit() else float(text)
        if not math.isfinite(value):
            raise ValueError(f"{text} is no number")
        return value

    def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key occurs twice")
        return found

    try:
        if not path.is_file() or path.stat().st_size > MOST_BYTES:
            raise Unreadable(f"{shown(path.name)} is no file, or too large.")
        strict = json.JSONDecoder(parse_constant=number, parse_float=number, parse_int=number, object_pairs_hook=table)
        content = strict.decode(path.read_bytes().decode())
    except OSError as error:
        raise Unreadable(f"{shown(path.name)} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:80]
        raise Unreadable(f"{shown(path.name)} is not JSON: {reason}.") from None
    if not isinstance(content, dict):
        raise Unreadable(f"{shown(path.name)} is not a certificate.")
    return content


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Check a certificate of pe-synth, and the files beside it.")
    parser.add_argument("certificate", type=Path, help="a certificate.json, in its release folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    options = parser.parse_args(arguments)
    code, reason = 0, ""
    try:
        verifier = Verifier(read(options.certificate))
        claim = verifier.check()
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
        found = {name: getattr(verifier, name) for name in ("holds", "not_recomputed", "not_covered", "epsilon_spent")}
        print(json.dumps({"valid": True, "claim": verifier.certificate["claim"], **found}, indent=1))
        return 0
    for title in ("holds", "not recomputed", "not covered"):
        for line in getattr(verifier, title.replace(" ", "_")):
            print(f"{title:<15} {line}")
    unless = ", if the charges not recomputed are right" if verifier.not_recomputed else ""
    print(
        f"The files are ({float(claim.epsilon):g}, {float(claim.delta):g})-differentially private per {claim.unit} of "
        f"source {shown(verifier.certificate['source'])} ({claim.adjacency}), as far as the ledger's entries are "
        f"true{unless}."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
