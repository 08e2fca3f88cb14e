"""What is written in a certificate's file: strict JSON, and the types and ranges of what stands in it."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from pe.privacy.standalone.accounting import Refused, gaussian_epsilon, gaussian_limit, renyi_price

KNOWN = {"adjacency": ("add-remove", "replace-one"), "unit": ("record", "user"), "accountant": ("gdp", "renyi", "pld")}
SMALLEST_DELTA = Fraction(1, 2**90)
MOST_BYTES = 2**26

Cost = tuple[Fraction, ...]


class Unreadable(Exception):
    """Not a certificate at all: the sentence to print."""


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
        canonical(content).encode()  # half a surrogate pair, escaped, has no digest
    except OSError as error:
        raise Unreadable(f"{shown(path.name)} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:80]
        raise Unreadable(f"{shown(path.name)} is not JSON: {reason}.") from None
    if not isinstance(content, dict):
        raise Unreadable(f"{shown(path.name)} is not a certificate.")
    return content


def canonical(value: object) -> str:
    """The JSON text whose digest is taken: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest_of(value: object) -> str:
    return hashlib.sha256(canonical(value).encode()).hexdigest()


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


def exact(table: dict[str, Any], key: str, where: str, low: Fraction | int, high: Fraction | int) -> Fraction:
    """An exact number: digits, with or without a denominator, in lowest terms."""
    value: Any = table.get(key)
    text = isinstance(value, str) and re.fullmatch("[0-9]{1,4000}(/[1-9][0-9]{0,3999})?", value) is not None
    number = Fraction(value) if text else None
    if number is None or str(number) != value or not low <= number <= high:
        raise Refused(f"{where} has no usable {key}: {shown(value)}.")
    return number


def real(table: dict[str, Any], key: str, where: str, low: Fraction | int, high: Fraction | int) -> Fraction:
    """A JSON number with a decimal point or an exponent, exactly as the float it is."""
    value: Any = table.get(key)
    if type(value) is not float or not math.isfinite(value) or not low <= value <= high:
        raise Refused(f"{where} has no usable {key}: {shown(value)}.")
    return Fraction(value)


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
        epsilon = real(table, "epsilon", where, Fraction(1, 2**1074), 10**6)
        delta = real(table, "delta", where, SMALLEST_DELTA, 1 - Fraction(1, 2**53))
        for name, known in KNOWN.items():
            if table.get(name) not in known:
                raise Refused(f"{where} names an unknown {name}: {shown(table.get(name))}.")
        order = Fraction(0)
        if table["accountant"] == "renyi":
            order = exact(table, "order", where, 2, 2**14)
        if (order.denominator, "order" in table) != (1, order > 0):
            raise Refused(f"{where} has no usable order: {shown(table.get('order'))}.")
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
