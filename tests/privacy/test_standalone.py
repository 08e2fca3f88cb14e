"""The second implementation: it agrees with the first and with references, and refuses whatever does not add up."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import integrate

from pe.cli import main as pe_main
from pe.privacy import discrete_gaussian, gdp
from pe.privacy.single_file import verifier_program
from pe.privacy.standalone import Refused, accounting, main

from .certificates import CONTENT, FILE, GDP, TERMS, Outcome, bound, certificate, pld, renyi

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "accounting.json").read_text())
SIGMAS = [
    Fraction(s) for s in ("1/8", "1/5", "2/5", "13/32", "1/2", "3/4", "1", "2", "5", "12", "50", "377/3", "16384")
]


# -- agreement --------------------------------------------------------------------------------------------------------


def test_the_normal_tail_has_forty_digits_wherever_it_is_evaluated() -> None:
    with localcontext(accounting.CONTEXT):
        for mu, epsilon, expected in VECTORS["log_delta"]:
            delta = accounting.gaussian_delta(Decimal(epsilon), Decimal(mu)).ln()
            assert abs(delta - Decimal(expected)) <= abs(Decimal(expected)) * Decimal("1e-19") + Decimal("1e-19")
        # both expansions, where one takes over from the other (the derivative there is known)
        below, above = Decimal("7.9999999999"), Decimal(8)
        step = accounting.tail(below) - accounting.tail(above)
        middle = accounting.density((below + above) / 2) * (above - below)
        assert abs(step / middle - 1) < Decimal("1e-18")
        assert abs(accounting.tail(accounting.quantile(Decimal("1e-30"))) * 10**30 - 1) < Decimal("1e-40")


def test_limits_agree_with_the_references_and_are_never_below_the_ledgers() -> None:
    for epsilon, _, delta, _, mu in VECTORS["calibration"][::4]:
        exact = accounting.gaussian_limit(Fraction(epsilon), Fraction(delta) + accounting.TAIL)
        assert abs(float(exact / Fraction(mu) ** 2) - 1) < 1e-15
        limit = accounting.gaussian_limit(Fraction(float(epsilon)), Fraction(float(delta)))
        assert limit * (1 - Fraction(1, 10**9)) < gdp.mu_squared_within(float(epsilon), float(delta)) <= limit


def test_epsilon_agrees_with_the_references_and_is_never_above_the_reported() -> None:
    for sigma, rounds, delta, _, expected in VECTORS["gaussian"][::64]:
        mu_squared = int(rounds) / Fraction(sigma) ** 2
        exact = accounting.gaussian_epsilon(mu_squared, Fraction(delta) + accounting.TAIL)
        assert exact == pytest.approx(float(expected), rel=1e-15)
        ours = accounting.gaussian_epsilon(mu_squared, Fraction(float(delta)))
        assert ours <= gdp.epsilon_for(math.sqrt(mu_squared), float(delta)) <= ours * (1 + 1e-8)


@pytest.mark.parametrize("sigma", SIGMAS, ids=str)
def test_the_cost_of_noise_agrees_with_the_ledgers_and_is_never_above_it(sigma: Fraction) -> None:
    ours = Fraction(accounting.discrete_mu(sigma)) ** 2
    assert 0 <= discrete_gaussian.gdp_mu_squared(sigma) / ours - 1 < 3e-7
    mu, worst = discrete_gaussian._vertices(sigma)
    assert float(ours) == pytest.approx(mu**2, rel=3e-9)
    with localcontext(accounting.CONTEXT):
        assert accounting.largest_step(accounting.decimal(sigma)) == pytest.approx(worst, rel=1e-8)


def test_the_cost_of_noise_agrees_with_the_references() -> None:
    for sigma, _, _, mu, _, _ in VECTORS["discrete_gaussian"]:
        ours = accounting.discrete_mu(Fraction(sigma))
        assert Decimal(mu) < ours < Decimal(mu) * (1 + Decimal("1.001e-9"))


@pytest.mark.parametrize("sigma", ["0.3", "0.4", "0.41", "0.6", "2"])
def test_both_sums_of_the_normaliser_agree(sigma: str) -> None:
    with localcontext(accounting.CONTEXT):
        scale = Decimal(sigma)
        direct = sum((-Decimal(k * k) / (2 * scale * scale)).exp() for k in range(-60, 61))
        assert abs(accounting.theta(scale) / direct - 1) < Decimal("1e-60")


@pytest.mark.parametrize("vertex", [2, 8, 20])
def test_a_scale_whose_scan_exceeds_the_closed_form_is_refused(monkeypatch: pytest.MonkeyPatch, vertex: int) -> None:
    def thinner(weights: Iterator[Decimal]) -> list[Decimal]:
        """Tail sums from the far end on, with one vertex of the trade-off curve moved outwards."""
        sums = list(accumulate(weights))
        sums[-1 - vertex] *= Decimal("0.999")
        return sums

    monkeypatch.setattr(accounting, "accumulate", thinner)
    with pytest.raises(Refused, match="certified"):
        accounting.discrete_mu.__wrapped__(Fraction(17, 4))


@pytest.mark.parametrize(("order", "sigma", "rate"), [(2, 1, 0.01), (8, 2, 0.3), (32, 4, 0.001), (5, 0.5, 0.999)])
def test_the_renyi_cost_of_sampled_noise_is_the_integral_that_defines_it(order: int, sigma: float, rate: float) -> None:
    def moment(x: float) -> float:
        ratio = 1 - rate + rate * math.exp((2 * x - 1) / (2 * sigma**2))
        return ratio**order * math.exp(-(x**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))

    value, _ = integrate.quad(
        moment, -20 * sigma, order + 20 * sigma, points=[0.0, float(order)], epsrel=1e-13, limit=500
    )
    ours = accounting.subsampled_rdp(order, Fraction(sigma), Fraction(rate))
    assert float(ours) == pytest.approx(math.log(value) / (order - 1), rel=1e-6)
    assert accounting.subsampled_rdp(order, Fraction(3), Fraction(1)) == Fraction(order, 18)


@pytest.mark.parametrize("order", [Fraction(3, 2), Fraction(2), Fraction(40), Fraction(1000)])
def test_a_renyi_budget_never_admits_more_than_it_promises(order: Fraction) -> None:
    """N(0, sigma**2) noise has RDP order / (2 sigma**2): its exact delta is at most the one converted to."""
    for epsilon in (0.1, 1.0, 10.0):
        price = accounting.renyi_price(order, Fraction(1e-6))
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
    for text in ("6 ledger entries", "cost of 3 charges", "at every entry", "(1, 1e-06)-differentially private"):
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
        (pld(), {"size": 3, "epsilon": 3.0, "delta": 3 * math.exp(2) * 1e-6}, True),
        (pld(), {"size": 3, "epsilon": 3.0, "delta": 3 * math.exp(2) * 0.999e-6}, False),
        (pld(), {"size": 3, "epsilon": 2.999, "delta": 1e-4}, False),
        (pld(), {"size": 1000, "epsilon": 1000.0, "delta": 1.0}, True),
    ],
)
def test_what_is_said_of_groups_is_recomputed(
    check: Callable[..., Outcome], rows: Any, group: object, holds: bool
) -> None:
    made = certificate(*rows, groups=[group])
    made["spent"]["epsilon"] = 1.0
    done = check(bound(made))
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
        assert "charged less" in check(bound(made)).err  # 1/100 is too little at this order
        return
    done = check(bound(made), "--json")
    assert done.code == 0, done.out
    facts = json.loads(done.out)
    a, rdp = float(order), float(Fraction(made["spent"]["cost"][0]))
    expected = rdp + math.log1p(-1 / a) - (math.log(1e-6) + math.log(a)) / (a - 1)
    assert facts["epsilon_spent"] == pytest.approx(expected, rel=1e-9)
    made["spent"]["epsilon"] = expected * (1 - 1e-6)
    assert "reported spent" in check(bound(made)).err


def test_privacy_loss_distributions_are_reported_as_not_recomputed(check: Callable[..., Outcome]) -> None:
    made = certificate(*pld())
    made["spent"]["epsilon"] = 0.9
    done = check(bound(made))
    assert done.code == 0, done.err
    assert "not recomputed  the cost of ledger entries 1" in done.out
    assert "recomputed from noise" not in done.out
    assert "if the charges not recomputed are right" in done.out
    for cost in (("11/10", "1/2000000"), ("9/10", "1/500000")):
        assert "past the epsilon" in check(certificate(*pld(*cost))).err


def test_a_real_release(tmp_path: Path) -> None:
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
    assert program.read_bytes() == verifier_program()
    with pytest.raises(SystemExit) as refused:
        pe_main(["budget", "verifier", str(program)])
    assert refused.value.code == 1


def test_one_copied_file_runs_isolated_in_an_empty_folder(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "standalone.py").write_bytes(verifier_program())
    (tmp_path / FILE).write_bytes(CONTENT)
    (tmp_path / "certificate.json").write_text(json.dumps(certificate(*GDP)))
    (tmp_path / "broken.json").write_text(json.dumps(certificate(*GDP) | {"head": ""}))

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
