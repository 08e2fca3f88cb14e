"""A builder of certificates, from the format's description alone."""

from __future__ import annotations

import copy
import json
import math
from fractions import Fraction
from hashlib import sha256
from typing import Any

from pe.privacy import discrete_gaussian, gdp


def dumps(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def chained(rows: list[dict[str, Any]], source: str = "people") -> list[dict[str, Any]]:
    """Rows with number, previous and hash made right."""
    done: list[dict[str, Any]] = []
    for number, row in enumerate(rows):
        body = {key: value for key, value in row.items() if key not in ("number", "kind", "previous", "hash")}
        previous = done[-1]["hash"] if done else ""
        link = sha256(dumps([previous, source, number, row["kind"], dumps(body)]).encode()).hexdigest()
        done.append({"number": number, "kind": row["kind"], **body, "previous": previous, "hash": link})
    return done


TERMS = {"epsilon": 1.0, "delta": 1e-6, "adjacency": "add-remove", "unit": "record", "accountant": "gdp"}

FILE, CONTENT = "data.csv", b"x\n1\n"
"""What a certificate of the builder covers, unless told otherwise."""


def grant(**changes: Any) -> dict[str, Any]:
    return {"kind": "grant", **TERMS, "time": "2025-01-01T00:00:00Z"} | changes


def charge(cost: list[str], **changes: Any) -> dict[str, Any]:
    return {
        "kind": "reserve",
        "run": "r1",
        "config": "c",
        "iteration": 1,
        "purpose": "votes",
        "bins": 100,
        "mechanism": "discrete gaussian",
        "sigma": "20",
        "sensitivity_squared": "1",
        "grid": 1,
        "cost": cost,
        "run_epsilon": 1.0,
        "run_delta": 1e-6,
    } | changes


def votes(sigma: str = "20", squared: int = 1, **changes: Any) -> dict[str, Any]:
    cost = squared * discrete_gaussian.gdp_mu_squared(Fraction(sigma))
    return charge([str(cost)], sigma=sigma, sensitivity_squared=str(squared), **changes)


def certificate(*rows: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A certificate of run "r1" over the rows; its reported spending is pe's own figure under gdp."""
    parts = [
        [Fraction(part) for part in row["cost"]] for row in rows if row["kind"] == "reserve" and row["run"] == "r1"
    ]
    spent = [sum(column, Fraction(0)) for column in zip(*parts, strict=True)] or [Fraction(0)]
    made = {
        "format": 3,
        "claim": TERMS | {key: rows[0][key] for key in ("accountant", "order") if key in rows[0]},
        "spent": {"cost": [str(part) for part in spent], "epsilon": gdp.epsilon_for(math.sqrt(spent[0]), 1e-6)},
        "iterations": {"completed": 2, "planned": 3},
        "source": "people",
        "run": "r1",
        "groups": [{"size": 2, "epsilon": 100.0, "delta": 1.0}],
        "declared_public": [],
        "not_covered": [],
        "files": {FILE: sha256(CONTENT).hexdigest()},
        "data": {"released.parquet": "0" * 64},
        "versions": {},
    }
    return bound(copy.deepcopy(made | changes), copy.deepcopy(list(rows)))


def digest_of(value: object) -> str:
    return sha256(dumps(value).encode(errors="surrogatepass")).hexdigest()


def bound(made: dict[str, Any], rows: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """The certificate with its release entry, hashes and head made right, as a forger could: who has no ledger.

    rows  the entries before it; by default the certificate's, without the release at their end.
    """
    if rows is None:
        rows = made["entries"][:-1]
    statement = {key: value for key, value in made.items() if key not in ("entries", "head", "signature")}
    entries = chained(rows, made["source"])
    paid = [row["hash"] for row in entries if row["kind"] == "reserve" and row["run"] == made["run"]]
    release = {
        "kind": "release",
        **{key: made.get(key) for key in ("run", "claim", "spent", "data")},
        "files": {"count": len(made["files"]), "digest": digest_of(made["files"])},
        "statement": digest_of(statement),
        "last_charge": paid[-1] if paid else None,
        "time": "2025-01-01T00:00:00Z",
    }
    entries = chained([*rows, release], made["source"])
    return statement | {"entries": entries, "head": entries[-1]["hash"]}


GDP = (grant(), {"kind": "schema", "schema": "abc"}, votes(), votes("25", 2, run="r2"), votes("30"))


def renyi(order: str = "16") -> list[dict[str, Any]]:
    cost = gdp.ceil_dyadic(Fraction(order) * 2 / (2 * Fraction("33.5") ** 2))
    sampled = {"mechanism": "poisson subsampled gaussian", "noise_multiplier": "4", "sampling_rate": "1/100"}
    return [
        grant(accountant="renyi", order=order),
        charge([str(cost)], sigma="67/2", sensitivity_squared="2"),
        charge([str(Fraction(1, 100))], **sampled, steps=100),
        charge([str(cost + Fraction(1, 100))], mechanism="plan", mechanisms=[
            {"mechanism": "discrete gaussian", "sigma": "67/2", "sensitivity_squared": "2"}, sampled | {"steps": 100}
        ]),
    ]  # fmt: skip


def pld(*cost: str) -> list[dict[str, Any]]:
    parts = [
        {"mechanism": "discrete gaussian", "sigma": "20", "sensitivity_squared": "1"},
        {"mechanism": "poisson subsampled gaussian", "noise_multiplier": "1", "sampling_rate": "1/50", "steps": 9},
    ]
    return [grant(accountant="pld"), charge(list(cost or ("9/10", "1/2000000")), mechanism="plan", mechanisms=parts)]


class Outcome:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
