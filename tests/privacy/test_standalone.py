"""The second implementation: it agrees with the first and with references, and refuses whatever does not add up."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal, localcontext
from fractions import Fraction
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate

from pe.cli import main as pe_main
from pe.privacy import discrete_gaussian, gdp, standalone
from pe.privacy.standalone import Refused, main

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "accounting.json").read_text())
SOURCE = Path(standalone.__file__)
SIGMAS = [
    Fraction(s) for s in ("1/8", "1/5", "2/5", "13/32", "1/2", "3/4", "1", "2", "5", "12", "50", "377/3", "16384")
]


# -- a builder of certificates, from the format's description alone ---------------------------------------------------


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


TERMS = {"epsilon": 1.0, "delta": 1e-6, "adjacency": "add-remove", "unit": "record"}


def grant(**changes: Any) -> dict[str, Any]:
    return {"kind": "grant", **TERMS, "accountant": "gdp", "time": "2025-01-01T00:00:00Z"} | changes


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
    """A format 2 certificate of run "r1" over the rows; its reported spending is pe's own figure under gdp."""
    entries = chained(list(rows))
    parts = [
        [Fraction(part) for part in row["cost"]] for row in rows if row["kind"] == "reserve" and row["run"] == "r1"
    ]
    spent = [sum(column, Fraction(0)) for column in zip(*parts, strict=True)] or [Fraction(0)]
    made = {
        "format": 2,
        "claim": TERMS,
        "spent": {"cost": [str(part) for part in spent], "epsilon": gdp.epsilon_for(math.sqrt(spent[0]), 1e-6)},
        "iterations": {"completed": 2, "planned": 3},
        "source": "people",
        "run": "r1",
        "entries": entries,
        "head": entries[-1]["hash"],
        "groups": [{"size": 2, "epsilon": 100.0, "delta": 1}],
        "declared_public": [],
        "not_covered": [],
        "files": {},
        "versions": {},
    }
    return copy.deepcopy(made | changes)


GDP = (grant(), {"kind": "schema", "fingerprint": "abc"}, votes(), votes("25", 2, run="r2"), votes("30"))


def renyi(order: str = "16") -> list[dict[str, Any]]:
    cost = Fraction(order) * 2 / (2 * Fraction("33.5") ** 2)
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


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run the program on a certificate, or on bytes."""

    def call(content: object, *options: str, folder: Path = tmp_path) -> Outcome:
        path = folder / "certificate.json"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        capsys.readouterr()
        code = main([str(path), *options])
        captured = capsys.readouterr()
        if code:
            assert (captured.out if "--json" in options else captured.err).count("\n") <= 4
            assert "Traceback" not in captured.err
        return Outcome(code, captured.out, captured.err)

    return call


# -- agreement --------------------------------------------------------------------------------------------------------


def test_the_normal_tail_has_forty_digits_wherever_it_is_evaluated() -> None:
    with localcontext(standalone.CONTEXT):
        for mu, epsilon, expected in VECTORS["log_delta"]:
            delta = standalone.gaussian_delta(Decimal(epsilon), Decimal(mu)).ln()
            assert abs(delta - Decimal(expected)) <= abs(Decimal(expected)) * Decimal("1e-19") + Decimal("1e-19")
        # both expansions, where one takes over from the other (the derivative there is known)
        below, above = Decimal("7.9999999999"), Decimal(8)
        step = standalone.tail(below) - standalone.tail(above)
        middle = standalone.density((below + above) / 2) * (above - below)
        assert abs(step / middle - 1) < Decimal("1e-18")
        assert abs(standalone.tail(standalone.quantile(Decimal("1e-30"))) * 10**30 - 1) < Decimal("1e-40")


def test_limits_agree_with_the_references_and_are_never_below_the_ledgers() -> None:
    for epsilon, _, delta, _, mu in VECTORS["calibration"][::4]:
        exact = standalone.gaussian_limit(Fraction(epsilon), Fraction(delta) + standalone.TAIL)
        assert abs(float(exact / Fraction(mu) ** 2) - 1) < 1e-15
        limit = standalone.gaussian_limit(Fraction(float(epsilon)), Fraction(float(delta)))
        assert limit * (1 - Fraction(1, 10**9)) < gdp.mu_squared_within(float(epsilon), float(delta)) <= limit


def test_epsilon_agrees_with_the_references_and_is_never_above_the_reported() -> None:
    for sigma, rounds, delta, _, expected in VECTORS["gaussian"][::64]:
        mu_squared = int(rounds) / Fraction(sigma) ** 2
        exact = standalone.gaussian_epsilon(mu_squared, Fraction(delta) + standalone.TAIL)
        assert exact == pytest.approx(float(expected), rel=1e-15)
        ours = standalone.gaussian_epsilon(mu_squared, Fraction(float(delta)))
        assert ours <= gdp.epsilon_for(math.sqrt(mu_squared), float(delta)) <= ours * (1 + 1e-8)


@pytest.mark.parametrize("sigma", SIGMAS, ids=str)
def test_the_cost_of_noise_agrees_with_the_ledgers_and_is_never_above_it(sigma: Fraction) -> None:
    ours = Fraction(standalone.discrete_mu(sigma)) ** 2
    assert 0 <= discrete_gaussian.gdp_mu_squared(sigma) / ours - 1 < 3e-7
    mu, worst = discrete_gaussian._vertices(sigma)
    assert float(ours) == pytest.approx(mu**2, rel=3e-9)
    with localcontext(standalone.CONTEXT):
        assert standalone.largest_step(standalone.decimal(sigma)) == pytest.approx(worst, rel=1e-8)


def test_the_cost_of_noise_agrees_with_the_references() -> None:
    for sigma, _, _, mu, _, _ in VECTORS["discrete_gaussian"]:
        ours = standalone.discrete_mu(Fraction(sigma))
        assert Decimal(mu) < ours < Decimal(mu) * (1 + Decimal("1.001e-9"))


@pytest.mark.parametrize("sigma", ["0.3", "0.4", "0.41", "0.6", "2"])
def test_both_sums_of_the_normaliser_agree(sigma: str) -> None:
    with localcontext(standalone.CONTEXT):
        scale = Decimal(sigma)
        direct = sum((-Decimal(k * k) / (2 * scale * scale)).exp() for k in range(-60, 61))
        assert abs(standalone.theta(scale) / direct - 1) < Decimal("1e-60")


@pytest.mark.parametrize("vertex", [2, 8, 20])
def test_a_scale_whose_scan_exceeds_the_closed_form_is_refused(monkeypatch: pytest.MonkeyPatch, vertex: int) -> None:
    def thinner(weights: Iterator[Decimal]) -> list[Decimal]:
        """Tail sums from the far end on, with one vertex of the trade-off curve moved outwards."""
        sums = list(accumulate(weights))
        sums[-1 - vertex] *= Decimal("0.999")
        return sums

    monkeypatch.setattr(standalone, "accumulate", thinner)
    with pytest.raises(Refused, match="certified"):
        standalone.discrete_mu.__wrapped__(Fraction(17, 4))


@pytest.mark.parametrize(("order", "sigma", "rate"), [(2, 1, 0.01), (8, 2, 0.3), (32, 4, 0.001), (5, 0.5, 0.999)])
def test_the_renyi_cost_of_sampled_noise_is_the_integral_that_defines_it(order: int, sigma: float, rate: float) -> None:
    def moment(x: float) -> float:
        ratio = 1 - rate + rate * math.exp((2 * x - 1) / (2 * sigma**2))
        return ratio**order * math.exp(-(x**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))

    value, _ = integrate.quad(
        moment, -20 * sigma, order + 20 * sigma, points=[0.0, float(order)], epsrel=1e-13, limit=500
    )
    ours = standalone.subsampled_rdp(order, Fraction(sigma), Fraction(rate))
    assert float(ours) == pytest.approx(math.log(value) / (order - 1), rel=1e-6)
    assert standalone.subsampled_rdp(order, Fraction(3), Fraction(1)) == Fraction(order, 18)


@pytest.mark.parametrize("order", [Fraction(3, 2), Fraction(2), Fraction(40), Fraction(1000)])
def test_a_renyi_budget_never_admits_more_than_it_promises(order: Fraction) -> None:
    """N(0, sigma**2) noise has RDP order / (2 sigma**2): its exact delta is at most the one converted to."""
    for epsilon in (0.1, 1.0, 10.0):
        price = standalone.renyi_price(order, Fraction(1e-6))
        limit = Fraction(epsilon) - price
        a = float(order)
        log_delta = (a - 1) * float(-price) - math.log(a) + (a - 1) * math.log1p(-1 / a)
        assert log_delta == pytest.approx(math.log(1e-6), rel=1e-12)
        if limit > 0:
            assert gdp.log_delta(epsilon, math.sqrt(2 * limit / order)) < math.log(1e-6)


# -- what holds -------------------------------------------------------------------------------------------------------


def test_a_certificate_that_holds(check: Callable[..., Outcome]) -> None:
    done = check(certificate(*GDP))
    assert done.code == 0, done.err
    for text in ("5 ledger entries", "cost of 3 charges", "at every entry", "(1, 1e-06)-differentially private"):
        assert text in done.out
    facts = json.loads(check(certificate(*GDP), "--json").out)
    assert (facts["valid"], facts["not_recomputed"], facts["not_covered"]) == (True, [], [])
    total = sum(discrete_gaussian.gdp_mu_squared(Fraction(s)) for s in (20, 30))
    assert facts["epsilon_spent"] == pytest.approx(gdp.epsilon_for(math.sqrt(total), 1e-6), rel=1e-9)


GROUP_EPSILON = gdp.epsilon_for(3 * math.sqrt(gdp.mu_squared_within(1.0, 1e-6)), 1e-6)


@pytest.mark.parametrize(
    ("rows", "group", "holds"),
    [
        (GDP, {"size": 3, "epsilon": GROUP_EPSILON, "delta": 1e-6}, True),
        (GDP, {"size": 3, "epsilon": GROUP_EPSILON * (1 - 1e-7), "delta": 1e-6}, False),
        (GDP, {"size": 3, "epsilon": GROUP_EPSILON, "delta": 9e-7}, False),
        (GDP, {"size": 0, "epsilon": GROUP_EPSILON, "delta": 1e-6}, False),
        (GDP, {"size": 10**7, "epsilon": 1e14, "delta": 1e-6}, False),
        (GDP, ["size"], False),
        (pld(), {"size": 3, "epsilon": 3, "delta": 3 * math.exp(2) * 1e-6}, True),
        (pld(), {"size": 3, "epsilon": 3, "delta": 3 * math.exp(2) * 0.999e-6}, False),
        (pld(), {"size": 3, "epsilon": 2.999, "delta": 1e-4}, False),
        (pld(), {"size": 1000, "epsilon": 1000, "delta": 1}, True),
    ],
)
def test_what_is_said_of_groups_is_recomputed(
    check: Callable[..., Outcome], rows: Any, group: object, holds: bool
) -> None:
    made = certificate(*rows, groups=[group])
    made["spent"]["epsilon"] = 1.0
    done = check(made)
    assert done.code == (0 if holds else 1)
    assert holds or "the guarantee for groups" in done.err


@pytest.mark.parametrize("order", ["16", "2", "100"])
def test_renyi_charges_are_recomputed(check: Callable[..., Outcome], order: str) -> None:
    rows = renyi(order)
    claim = TERMS | {"epsilon": 20.0}
    rows = [row | {"epsilon": 20.0} if row["kind"] == "grant" else row | {"run_epsilon": 20.0} for row in rows]
    made = certificate(*rows, claim=claim | {"accountant": "renyi", "order": order})
    made["spent"]["epsilon"] = 20.0
    if order == "100":
        assert "charged less" in check(made).err  # 1/100 is too little at this order
        return
    done = check(made, "--json")
    assert done.code == 0, done.out
    facts = json.loads(done.out)
    a, rdp = float(order), float(Fraction(made["spent"]["cost"][0]))
    expected = rdp + math.log1p(-1 / a) - (math.log(1e-6) + math.log(a)) / (a - 1)
    assert facts["epsilon_spent"] == pytest.approx(expected, rel=1e-9)
    made["spent"]["epsilon"] = expected * (1 - 1e-6)
    assert "reported spent" in check(made).err


def test_privacy_loss_distributions_are_reported_as_not_recomputed(check: Callable[..., Outcome]) -> None:
    made = certificate(*pld())
    made["spent"]["epsilon"] = 0.9
    done = check(made)
    assert done.code == 0, done.err
    assert "not recomputed  the cost of ledger entries 1" in done.out
    assert "recomputed from noise" not in done.out
    assert "if the charges not recomputed are right" in done.out
    for cost in (("11/10", "1/2000000"), ("9/10", "1/500000")):
        assert "past the epsilon" in check(certificate(*pld(*cost))).err


def test_a_real_release_and_its_first_format(tmp_path: Path, check: Callable[..., Outcome]) -> None:
    rng = np.random.default_rng(0)
    rows = [f"{x},{k}" for x, k in zip(rng.integers(0, 50, 200), ["u", "v"] * 100, strict=True)]
    (tmp_path / "sample.csv").write_text("\n".join(["age,kind", *rows]) + "\n")
    config = tmp_path / "pe.toml"
    for command in (
        ["init", tmp_path, "--from-public", tmp_path / "sample.csv", "--label", "kind", "--data", "sample.csv"],
        ["synthesize", config, "--create"],
        ["budget", "verifier", tmp_path],
    ):
        with pytest.raises(SystemExit) as done:
            pe_main([str(part) for part in command])
        assert done.value.code == 0
        config.write_text(
            config.read_text().replace("# rows = 1000", "rows = 30 #").replace("# iterations = 10", "iterations = 3 #")
        )
    (release,) = tmp_path.glob("runs/*/release")
    assert main([str(release / "certificate.json")]) == 0
    program = tmp_path / "verify_certificate.py"
    assert program.read_bytes() == SOURCE.read_bytes()
    with pytest.raises(SystemExit) as refused:
        pe_main(["budget", "verifier", str(program)])
    assert refused.value.code == 1

    first = certificate(*[row | {"mu_squared": row["cost"][0]} if "cost" in row else row for row in GDP], format=1)
    first["entries"] = chained(
        [{k: v for k, v in row.items() if k not in ("cost", "accountant")} for row in first["entries"]]
    )
    first["head"] = first["entries"][-1]["hash"]
    first["spent"]["mu_squared"] = first["spent"].pop("cost")[0]
    assert check(first).code == 0


def test_one_copied_file_runs_isolated_in_an_empty_folder(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    shutil.copy(SOURCE, folder / "standalone.py")
    (tmp_path / "certificate.json").write_text(json.dumps(certificate(*GDP)))
    (tmp_path / "broken.json").write_text(json.dumps(certificate(*GDP, head="")))

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", "-S", "-W", "error", "standalone.py", *map(str, arguments)]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, env={})

    assert call(tmp_path / "certificate.json").returncode == 0
    broken = call(tmp_path / "broken.json")
    assert (broken.returncode, broken.stdout) == (1, "")
    assert broken.stderr.startswith("DOES NOT HOLD  the head is not")
    assert call(tmp_path / "none.json").returncode == 2
    assert call(tmp_path).returncode == 2
    assert call().returncode == 2


# -- what does not ----------------------------------------------------------------------------------------------------


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from leaves(value[key], (*path, key))
    else:
        yield path


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def altered(value: object) -> object:
    return value + "0" if isinstance(value, str) else value + 1  # type: ignore[operator]


def test_no_ledger_field_can_be_altered_removed_or_added(check: Callable[..., Outcome]) -> None:
    base = certificate(*GDP)
    for path in leaves(base["entries"]):
        changed = copy.deepcopy(base)
        holder = at(changed["entries"], path[:-1])
        holder[path[-1]] = altered(holder[path[-1]])
        assert check(changed).code == 1, path
        if isinstance(holder, dict):
            del holder[path[-1]]
            assert check(changed).code == 1, path
    for index in range(len(GDP)):
        changed = copy.deepcopy(base)
        del changed["entries"][index]
        assert check(changed).code == 1
        changed = copy.deepcopy(base)
        changed["entries"][index]["more"] = 1
        assert check(changed).code == 1
        changed["entries"][index] = base["entries"][index] | {"number": float(index)}
        assert check(changed).code == 1


TOP = {
    "format 3": ({"format": 3}, "format"),
    "format true": ({"format": True}, "format"),
    "another source": ({"source": "others"}, "altered"),
    "another run": ({"run": "r2"}, "not the sum"),
    "no run": ({"run": None}, "no usable run"),
    "another head": ({"head": "0" * 64}, "head"),
    "no entries": ({"entries": []}, "holds no ledger entries"),
    "entries as text": ({"entries": "x"}, "no usable entries"),
    "an entry as text": ({"entries": ["x"]}, "not a table"),
    "simulated": ({"simulated": True}, "this is a simulation: nothing in it is private."),
    "simulated, in other words": ({"simulated": 1}, "this is a simulation: nothing in it is private."),
    "a smaller claim": ({"claim": TERMS | {"epsilon": 0.5}}, "another budget"),
    "a larger claim": ({"claim": TERMS | {"epsilon": 2.0}}, "another budget"),
    "a smaller delta": ({"claim": TERMS | {"delta": 1e-9}}, "another budget"),
    "delta 1": ({"claim": TERMS | {"delta": 1}}, "no usable delta"),
    "delta 0": ({"claim": TERMS | {"delta": 0.0}}, "no usable delta"),
    "delta tiny": ({"claim": TERMS | {"delta": 1e-30}}, "no usable delta"),
    "epsilon 0": ({"claim": TERMS | {"epsilon": 0}}, "no usable epsilon"),
    "epsilon negative": ({"claim": TERMS | {"epsilon": -1.0}}, "no usable epsilon"),
    "epsilon a trillion": ({"claim": TERMS | {"epsilon": 1e12}}, "no usable epsilon"),
    "epsilon as true": ({"claim": TERMS | {"epsilon": True}}, "no usable epsilon"),
    "another adjacency": ({"claim": TERMS | {"adjacency": "replace-one"}}, "other neighbours"),
    "another unit": ({"claim": TERMS | {"unit": "user"}}, "other neighbours"),
    "an unknown unit": ({"claim": TERMS | {"unit": "household"}}, "unknown unit"),
    "a list as unit": ({"claim": TERMS | {"unit": []}}, "unknown unit"),
    "another accountant": ({"claim": TERMS | {"accountant": "pld"}}, "changes the accountant"),
    "no claim": ({"claim": None}, "no usable claim"),
    "spent nothing": ({"spent": {"cost": ["0"], "epsilon": 0.9}}, "not the sum"),
    "spent too little": ({"spent": {"epsilon": 0.1}}, "is reported spent"),
    "spent a fraction of nothing": ({"spent": {"cost": ["1/0"], "epsilon": 1}}, "no usable cost"),
    "spent minus": ({"spent": {"cost": ["-1"], "epsilon": 1}}, "no usable cost"),
    "spent twice": ({"spent": {"cost": ["0", "0"], "epsilon": 1}}, "no usable cost"),
    "more done than planned": ({"iterations": {"completed": 4, "planned": 3}}, "iterations"),
    "files as text": ({"files": "x"}, "no usable files"),
}


@pytest.mark.parametrize(("change", "text"), TOP.values(), ids=TOP)
def test_no_claim_or_figure_can_be_altered(check: Callable[..., Outcome], change: dict[str, Any], text: str) -> None:
    changed = certificate(*GDP)
    if change.get("spent") and "cost" not in change["spent"]:
        change["spent"]["cost"] = changed["spent"]["cost"]
    done = check(changed | change)
    assert done.code == 1
    assert text in done.err


LOW = str(Fraction(math.floor(Fraction(standalone.discrete_mu(Fraction(20))) ** 2 * 10**12), 10**12))
SAMPLED = {"mechanism": "poisson subsampled gaussian", "noise_multiplier": "4", "sampling_rate": "1/100", "steps": 9}

FORGED = {
    "charged a little less": ((grant(), charge([LOW])), "charged less"),
    "charged as continuous noise": ((grant(), charge(["1/400"])), "charged less"),
    "charged half the sensitivity": ((grant(), votes() | {"sensitivity_squared": "2"}), "charged less"),
    "past the grant": ((grant(), *[votes("10")] * 6), "ledger entry 6 takes the source past the epsilon 1"),
    "past the grant by another run": ((grant(), *[votes("10", run="r2")] * 6), "ledger entry 6 takes"),
    "past the grant by one user's records": ((grant(unit="user"), votes("20", 64)), "past the epsilon"),
    "past the claim, within the grant": ((grant(epsilon=9.0), *[votes("10")] * 6), "charged more than the claimed"),
    "a grant below the spending": ((grant(), votes("10"), grant(epsilon=0.1)), "entry 2 takes the source past"),
    "a charge before the raise": ((grant(epsilon=0.1), votes("10"), grant()), "entry 1 takes the source past"),
    "a charge before the grant": ((votes(), grant()), "entry 0 is no grant"),
    "a schema before the grant": (({"kind": "schema"}, grant(), votes()), "entry 0 is no grant"),
    "a schema that costs": ((grant(), {"kind": "schema", "cost": ["1"]}), "of a kind"),
    "a refund": ((grant(), votes(), {"kind": "refund", "cost": ["1"]}), "of a kind"),
    "no kind": ((grant(), {"kind": None}), "of a kind"),
    "a kind that is a table": ((grant(), {"kind": {"a": []}}), "of a kind"),
    "negative cost": ((grant(), charge(["-1/400"])), "no usable cost"),
    "infinite cost": ((grant(), charge(["inf"])), "no usable cost"),
    "exponent": ((grant(), charge(["1e999999999"])), "no usable cost"),
    "no cost": ((grant(), charge([])), "no usable cost"),
    "two costs": ((grant(), charge(["1/300", "0"])), "no usable cost"),
    "sigma zero": ((grant(), charge(["1/300"], sigma="0")), "no usable sigma"),
    "sigma huge": ((grant(), charge(["1/300"], sigma="9" * 50)), "no usable sigma"),
    "sigma nan": ((grant(), charge(["1/300"], sigma="nan")), "no usable sigma"),
    "sigma in other digits": ((grant(), charge(["1/300"], sigma="\u0662\u0660")), "no usable sigma"),
    "sigma endless": ((grant(), charge(["1/300"], sigma="1" * 9999)), "no usable sigma"),
    "sensitivity zero": ((grant(), charge(["1/300"], sensitivity_squared="0")), "no usable sensitivity_squared"),
    "sensitivity below one vote": ((grant(), charge(["1/300"], sensitivity_squared="1/2")), "sensitivity_squared"),
    "grid zero": ((grant(), votes(grid=0)), "no usable grid"),
    "unknown mechanism": ((grant(), charge(["1"], mechanism="laplace")), "does not know: 'laplace'"),
    "a mechanism that is a list": ((grant(), charge(["1"], mechanism=["x"])), "does not know"),
    "sampled noise under gdp": ((grant(), charge(["1/300"], **SAMPLED)), "does not know"),
    "a plan in a plan": (
        (grant(), charge(["1"], mechanism="plan", mechanisms=[{"mechanism": "plan", "mechanisms": [votes()]}])),
        "does not know: 'plan'",
    ),
    "an empty plan": ((grant(), charge(["1"], mechanism="plan", mechanisms=[])), "plan without mechanisms"),
    "a cheap plan": (
        (grant(), charge(["1/300"], mechanism="plan", mechanisms=[votes(), votes()])),
        "charged less",
    ),
    "the accountant changes": ((grant(), votes(), grant(accountant="renyi", order="2")), "changes the accountant"),
    "the order changes": ((*renyi()[:2], grant(accountant="renyi", order="17")), "changes the accountant"),
    "the adjacency changes": ((grant(), grant(adjacency="replace-one"), votes()), "other neighbours"),
    "an unknown accountant": ((grant(accountant="zcdp"), votes()), "unknown accountant"),
    "order 1": ((grant(accountant="renyi", order="1"), votes()), "no usable order"),
    "no order": ((grant(accountant="renyi"), votes()), "no usable order"),
    "a broken order": ((grant(accountant="renyi", order="5/2"), charge(["1/9"], **SAMPLED)), "needs a whole order"),
    "sampled, replace-one": (
        (grant(accountant="renyi", order="8", adjacency="replace-one"), charge(["1/9"], **SAMPLED)),
        "add-remove adjacency alone",
    ),
    "renyi charged less": (
        (grant(accountant="renyi", order="16"), charge(["16/801"], sigma="20")),
        "charged less",
    ),
    "sampled charged less": ((grant(accountant="renyi", order="16"), charge(["1/9999"], **SAMPLED)), "charged less"),
    "sampled never": ((grant(accountant="pld"), charge(["1", "0"], **SAMPLED | {"sampling_rate": "0"})), "rate"),
    "sampled always more": ((grant(accountant="pld"), charge(["1", "0"], **SAMPLED | {"steps": 0})), "no usable steps"),
    "another run budget": ((grant(), votes(run_epsilon=4.0)), "another budget than the claimed"),
    "a charge of a simulation": ((grant(), votes(simulated=True)), "this is a simulation"),
    "no run": ((grant(), votes(run=None)), "no usable run"),
    "grant of nan": ((grant(epsilon="nan"), votes()), "no usable epsilon"),
    "order past all bounds": ((grant(accountant="renyi", order="99999"), votes()), "no usable order"),
    "too many scales": ((grant(epsilon=1e6), *[charge(["1"], sigma=f"{5000 - k}") for k in range(9)]), "noise scales"),
}  # fmt: skip


@pytest.mark.parametrize(("rows", "text"), FORGED.values(), ids=FORGED)
def test_a_chain_forged_with_right_hashes_must_still_add_up(
    check: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, rows: tuple[dict[str, Any], ...], text: str
) -> None:
    monkeypatch.setattr(standalone, "MOST_WORK", 2**18)  # so that the test of it is quick
    entries = chained(list(rows))
    first = next(row for row in rows if row["kind"] == "grant")
    claim = TERMS | {key: first[key] for key in ("adjacency", "unit") if first[key] != TERMS[key]}
    changed = certificate(grant()) | {"claim": claim, "entries": entries, "head": entries[-1]["hash"]}
    done = check(changed)
    assert done.code == 1
    assert text in done.err


def test_the_charge_of_exactly_the_recomputed_cost_is_enough(check: Callable[..., Outcome]) -> None:
    exact = Fraction(math.ceil(Fraction(standalone.discrete_mu(Fraction(20))) ** 2 * 10**30), 10**30)
    assert check(certificate(grant(), charge([str(exact)]))).code == 0
    rdp = [grant(accountant="renyi", order="7/2"), charge([str(Fraction(7, 2) / 800)])]
    made = certificate(*rdp)
    made["spent"]["epsilon"] = 20.0
    assert "past the epsilon" in check(made).err  # order 7/2 costs more than epsilon 1 to convert at delta 1e-6
    rdp = [grant(accountant="renyi", order="7/2", epsilon=9), charge([str(Fraction(7, 2) / 800)], run_epsilon=9)]
    made = certificate(*rdp, claim=TERMS | {"epsilon": 9}) | {"spent": {"cost": [str(Fraction(7, 1600))], "epsilon": 9}}
    assert check(made).code == 0


FILES = {
    "up": "../outside.txt",
    "up in the middle": "a/../../outside.txt",
    "absolute": "/etc/passwd",
    "empty": "",
    "itself": ".",
    "drive": "C:outside.txt",
    "backslash": "..\\outside.txt",
    "link": "link.txt",
    "linked folder": "linked/outside.txt",
    "loop": "loop/x",
    "null": "a\0b",
    "long": "x" * 5000,
    "surrogate": "\ud800",
    "missing": "none.csv",
    "folder": "folder",
    "pipe": "pipe",
}


@pytest.mark.parametrize("name", FILES.values(), ids=FILES)
def test_files_are_looked_for_inside_the_folder_alone(tmp_path: Path, check: Callable[..., Outcome], name: str) -> None:
    folder = tmp_path / "release"
    (folder / "folder").mkdir(parents=True)
    (tmp_path / "outside.txt").write_bytes(b"x")
    (folder / "link.txt").symlink_to(tmp_path / "outside.txt")
    (folder / "linked").symlink_to(tmp_path)
    (folder / "loop").symlink_to(folder / "loop")
    os.mkfifo(folder / "pipe")
    done = check(certificate(*GDP, files={name: sha256(b"x").hexdigest()}), folder=folder)
    assert done.code == 1
    assert "released file" in done.err


def test_a_changed_file_is_noticed_and_an_uncovered_one_listed(tmp_path: Path, check: Callable[..., Outcome]) -> None:
    folder = tmp_path / "release"
    (folder / "images").mkdir(parents=True)
    names = {"images/1.png": b"one", "a.csv": b"two"}
    for name, content in names.items():
        (folder / name).write_bytes(content)
    made = certificate(*GDP, files={name: sha256(content).hexdigest() for name, content in names.items()})
    done = check(made, folder=folder)
    assert (done.code, "not covered" in done.out) == (0, False)
    assert "digests of 2 released files" in done.out
    (folder / "images" / "other\x1b[2J\n.png").write_bytes(b"")
    (folder / "linked").symlink_to(tmp_path)
    done = check(made, folder=folder)
    assert "2 other files in the folder: 'images/other\\x1b[2J\\n.png', 'linked'" in done.out
    (folder / "a.csv").write_bytes(b"twO")
    assert "'a.csv' is missing or was changed" in check(made, folder=folder).err


UNREADABLE = {
    "empty": b"",
    "text": b"certificate",
    "not utf-8": b"\xff\xfe{}",
    "a list": b"[]",
    "deep": b"[" * 100_000,
    "deep and closed": b'{"claim":' * 50_000 + b"0" + b"}" * 50_000,
    "nan": b'{"format": NaN}',
    "infinity": b'{"format": -Infinity}',
    "too large": b'{"format": 1e999}',
    "endless": b'{"format": ' + b"9" * 100_000 + b"}",
    "a key twice": b'{"format": 1, "format": 2}',
}


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_what_is_no_certificate_is_said_to_be_none(check: Callable[..., Outcome], content: bytes) -> None:
    done = check(content)
    assert done.code == 2
    assert "certificate.json' is not " in done.err
    assert json.loads(check(content, "--json").out)["valid"] is False


STRANGE = [
    None,
    True,
    -1,
    10**299,
    1e308,
    5e-324,
    0.5,
    "",
    "nan",
    "1/0",
    "9" * 4000,
    "1/" + "9" * 4000,
    "\ud800",
    [],
    {},
    [[]],
    {"a": 1},
]


@given(st.data())
def test_nothing_that_parses_gets_past_the_checks_of_types_and_ranges(data: st.DataObject) -> None:
    """Whatever takes a value's place, with hashes made right again, is refused by a sentence of its own."""
    base = certificate(*data.draw(st.sampled_from([GDP, renyi(), pld()])))
    rows = [path for path in leaves(base) if path[0] not in ("declared_public", "versions", "not_covered", "head")]
    prefixes = sorted({path[:n] for path in rows for n in range(1, len(path) + 1)}, key=str)
    path = data.draw(st.sampled_from(prefixes))
    at(base, path[:-1])[path[-1]] = data.draw(st.sampled_from(STRANGE))
    with contextlib.suppress(TypeError, ValueError, KeyError, AttributeError, IndexError):
        base["entries"] = chained(base["entries"], base["source"])
        base["head"] = base["entries"][-1]["hash"]
    with contextlib.suppress(Refused, UnicodeEncodeError):
        standalone.Verifier(base).check()
