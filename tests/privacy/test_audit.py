"""The audit passes the mechanism as it is, and fails it with each of a dozen bugs injected.

The mechanism is audited with its own noise, which has no seed, at alpha 1e-8, all bounds together: that is how often
such a test fails without cause. The bugs are looked for at the command's own alpha, 1e-3, in noise that repeats.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

import pe.private.embedding
import pe.private.measure
import pe.private.poll
import pe.private.vote
import pe.run
from pe.audit.attack import Finding, audit
from pe.audit.bounds import Errors, best_errors, epsilon_shown, mu_shown
from pe.audit.neighbours import UNREADABLE, VARIANTS
from pe.cli import main
from pe.errors import ConfigError
from pe.kernels.nearest import Search
from pe.privacy import Account, Adjacency, Contribution, DiscreteGaussian, Histogram, Votes, discrete_gaussian, gdp
from pe.privacy.release import release
from pe.protocols import Embedder

ROOT = Path(__file__).resolve().parents[2]
ALPHA = 1e-8
DELTA = 1e-5


def audited(*names: str, trials: int = 2500, rounds: int = 2, alpha: float = ALPHA) -> list[Finding]:
    return list(audit(names, trials=trials, rounds=rounds, sigma=Fraction(1), delta=DELTA, alpha=alpha))


def test_the_mechanism_as_it_is_passes_and_the_audit_sees_much_of_what_it_charges() -> None:
    found = audited()
    assert [each.variant for each in found] == list(VARIANTS)
    assert [each.variant for each in found if not each.holds] == []
    shown = {each.variant: each.ratio for each in found}
    assert shown.pop("resume-lost") > 0.2  # pays for twice as much as is seen
    assert {name for name, ratio in shown.items() if ratio < 0.4} == set()  # about 0.7, standard deviation 0.03


def test_the_claim_is_what_a_durable_ledger_was_charged() -> None:
    one = DiscreteGaussian(Fraction(1), Fraction(1)).mu_squared
    for name, units in (("add-remove", 2), ("three-replaced", 12), ("many-labels", 4), ("resume-lost", 4)):
        (found,) = audited(name, trials=100)
        assert found.claim == pytest.approx(gdp.epsilon_for(float(units * one) ** 0.5, DELTA), rel=1e-12), name


# -- injected bugs -----------------------------------------------------------------------------------------------------

Patch = Callable[[pytest.MonkeyPatch], None]


def too_little_noise(patch: pytest.MonkeyPatch) -> None:
    real = discrete_gaussian.sample
    patch.setattr(discrete_gaussian, "sample", lambda sigma, size: real(sigma * Fraction(7071, 10000), size))


def no_noise_on_empty_bins(patch: pytest.MonkeyPatch) -> None:
    real = DiscreteGaussian.add_noise
    patch.setattr(DiscreteGaussian, "add_noise", lambda self, counts: np.where(counts == 0, 0, real(self, counts)))


def drawn(votes: Votes, sigma: Fraction) -> Histogram:
    """A histogram nobody was charged for."""
    return Histogram(
        DiscreteGaussian(sigma * votes.grid, votes.sensitivity_squared).add_noise(votes._count()),
        sigma,
        "free",
        votes.grid,
    )


def every_second_round_is_free(patch: pytest.MonkeyPatch) -> None:
    def forgetful(votes: Votes, sigma: Fraction, *, account: Account, iteration: int, **_: object) -> Histogram:
        if iteration % 2 == 0:
            return drawn(votes, sigma)
        return release(votes, sigma, account=account, iteration=iteration)

    patch.setattr(pe.run, "release", forgetful)


def noise_is_drawn_anew_on_resume(patch: pytest.MonkeyPatch) -> None:
    def releaser(self: pe.run.Run, account: Account) -> Callable[..., Histogram]:
        def redrawing(votes: Votes, sigma: Fraction, iteration: int) -> Histogram:
            if self.histogram(iteration) is not None:
                return drawn(votes, sigma)
            histogram = release(votes, sigma, account=account, iteration=iteration)
            self.store_histogram(iteration, histogram)
            return histogram

        return redrawing

    patch.setattr(pe.run.Run, "releaser", releaser)


def one_histogram_is_stored_and_another_used(patch: pytest.MonkeyPatch) -> None:
    def releaser(self: pe.run.Run, account: Account) -> Callable[..., Histogram]:
        def twice(votes: Votes, sigma: Fraction, iteration: int) -> Histogram:
            self.store_histogram(iteration, release(votes, sigma, account=account, iteration=iteration))
            return drawn(votes, sigma)

        return twice

    patch.setattr(pe.run.Run, "releaser", releaser)


def replacing_is_charged_as_adding(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Contribution, "sensitivity_squared", lambda self, adjacency: Fraction(self.bound_squared))


def many_votes_are_charged_as_one(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Contribution, "bound_squared", property(lambda self: self.steps[0] ** 2))


def users_are_bounded_label_by_label(patch: pytest.MonkeyPatch) -> None:
    real = pe.private.vote.bounded_sum

    def by_label(groups: NDArray[np.int64], bins: NDArray[np.int64], *rest: Any) -> NDArray[np.int64]:
        return real(groups * 32 + bins, bins, *rest)  # one candidate per label

    for room in (pe.private.vote, pe.private.measure):
        patch.setattr(room, "bounded_sum", by_label)


def users_are_not_bounded(patch: pytest.MonkeyPatch) -> None:
    real = pe.private.vote.bounded_sum
    for room in (pe.private.vote, pe.private.measure):
        patch.setattr(
            room, "bounded_sum", lambda groups, bins, values, size, bound: real(groups, bins, values, size, 2**40)
        )


def a_vote_counts_twice(patch: pytest.MonkeyPatch) -> None:
    real = pe.private.poll.count
    patch.setattr(pe.private.poll, "count", lambda ids, bins: 2 * real(ids, bins))


def ties_go_by_the_size_of_the_batch(patch: pytest.MonkeyPatch) -> None:
    class Tied(Search):
        def __call__(self, queries: NDArray[Any], *others: Any, **named: Any) -> NDArray[np.int64]:
            return (super().__call__(queries, *others, **named) + len(queries)) % len(self.candidates)

    patch.setattr(pe.private.poll, "Search", Tied)


def one_failing_record_fails_all(patch: pytest.MonkeyPatch) -> None:
    def fragile(table: pa.Table, embedder: Embedder) -> NDArray[np.float32]:
        try:
            return embedder.embed(table)
        except ValueError:
            return np.full((table.num_rows, embedder.dim), np.nan, np.float32)

    patch.setattr(pe.private.embedding, "embed_rows", fragile)


@pytest.mark.parametrize(
    ("bug", "variant"),
    [
        (too_little_noise, "add-remove"),
        (too_little_noise, "label-counts"),
        (no_noise_on_empty_bins, "empty-bins"),
        (no_noise_on_empty_bins, "only-record"),
        (every_second_round_is_free, "add-remove"),
        (every_second_round_is_free, "resume-stored"),
        (noise_is_drawn_anew_on_resume, "resume-stored"),
        (one_histogram_is_stored_and_another_used, "add-remove"),
        (replacing_is_charged_as_adding, "replace-one"),
        (replacing_is_charged_as_adding, "three-replaced"),
        (replacing_is_charged_as_adding, "labels-replaced"),
        (replacing_is_charged_as_adding, "many-labels"),
        (many_votes_are_charged_as_one, "three-votes"),
        (users_are_bounded_label_by_label, "user-in-labels"),
        (users_are_bounded_label_by_label, "user-label-counts"),
        (users_are_bounded_label_by_label, "user-replaced"),
        (users_are_not_bounded, "user"),
        (replacing_is_charged_as_adding, "user-replaced"),
        (a_vote_counts_twice, "add-remove"),
        (ties_go_by_the_size_of_the_batch, "duplicates"),
        (one_failing_record_fails_all, "unreadable"),
    ],
)
@pytest.mark.usefixtures("repeated_noise")
def test_an_injected_bug_fails_the_audit(bug: Patch, variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    (found,) = audited(variant, rounds=4, alpha=1e-3)
    assert not found.holds, f"charged {found.claim}, shown {found.bound_gdp} and {found.bound_free}"


# -- the statistics ----------------------------------------------------------------------------------------------------


def test_every_variant_is_a_pair_of_neighbours_that_votes_tell_apart_within_the_charge() -> None:
    for name, variant in VARIANTS.items():
        assert variant.per_user or len(variant.unit) == 1, name
        assert bool(variant.instead) == (variant.adjacency == Adjacency.REPLACE_ONE), name
        assert variant.per_user or len(variant.instead) <= 1, name
        assert all(each[0] != UNREADABLE for each in variant.candidates), name
        within, without = variant.votes(inside=True), variant.votes(inside=False)
        moved = ((within._count() - without._count()) ** 2).sum()
        assert within.sensitivity_squared == without.sensitivity_squared, name
        least = Fraction(8, 10) if variant.per_user else 1  # a user's votes are rounded down to the grid
        assert least * within.sensitivity_squared <= moved <= within.sensitivity_squared, name


def test_upper_bounds_are_those_of_clopper_and_pearson() -> None:
    """Without errors 1 - alpha**(1/n); with some, the rate at which so few are that improbable."""
    positives, negatives = Errors(np.array([0, 3, 50]), np.array([50, 0, 3]), 50).upper(0.02)
    assert positives[0] == pytest.approx(1 - 0.01 ** (1 / 50), rel=1e-12)
    rate = positives[1]
    terms = (1.0, 50.0, 1225.0, 19600.0)
    assert sum(c * rate**k * (1 - rate) ** (50 - k) for k, c in enumerate(terms)) == pytest.approx(0.01, rel=1e-9)
    assert positives[2] == 1
    assert negatives.tolist() == positives[[2, 0, 1]].tolist()


def test_error_rates_of_a_tight_mechanism_give_its_parameter_back() -> None:
    assert mu_shown(0.3085375387259869, 0.3085375387259869) == pytest.approx(1, rel=1e-12)  # Phi(-1/2)
    response = 1 / (1 + np.exp(1.5))  # randomised response of epsilon 1.5
    assert epsilon_shown(response, response, 0.0) == pytest.approx(1.5, rel=1e-12)
    assert epsilon_shown(0.2, 0.9, 1e-5) == epsilon_shown(0.9, 0.2, 1e-5) == 0
    assert mu_shown(0.5, 0.9) == mu_shown(1.0, 0.0) == 0


def test_bounds_pass_the_truth_no_more_often_than_alpha_allows() -> None:
    """Scores exactly as far apart as mu = 1 allows; an adversary who reads them backwards learns as much."""
    rng, alpha, times, passed = np.random.default_rng(0), 0.2, 300, 0
    for turn in range(times):
        sign = 1 if turn % 2 else -1
        without, within = (np.rint(1000 * rng.normal(mean, 1, 1000)).astype(np.int64) for mean in (0.0, 1.0))
        errors = best_errors(sign * without, sign * within, mu_shown, alpha)
        bound = float(mu_shown(*errors.upper(alpha)))
        assert bound > 0.5
        passed += bound > 1
    assert passed <= alpha * times + 4 * (alpha * (1 - alpha) * times) ** 0.5


def test_the_posterior_surrounds_the_rates_and_narrows_as_trials_are_added() -> None:
    widths = []
    for n in (1000, 100_000):
        draws = Errors(n * 3 // 10, n // 5, n).posterior()
        for rates, truth in zip(draws, (0.3, 0.2), strict=True):
            low, high = np.quantile(rates, (0.025, 0.975))
            assert low < truth < high
            widths.append(high - low)
            assert high - low == pytest.approx(2 * 1.96 * (truth * (1 - truth) / n) ** 0.5, rel=0.02)
    assert widths[2] < widths[0] / 9


def test_the_verdict_is_the_larger_of_both_bounds() -> None:
    (found,) = audited("add-remove", trials=100)
    assert replace(found, claim=2.0, bound_gdp=1.9, bound_free=2.0).holds
    assert not replace(found, claim=2.0, bound_gdp=2.1, bound_free=0.0).holds
    assert not replace(found, claim=2.0, bound_gdp=0.0, bound_free=2.1).holds


# -- the fence and the command -----------------------------------------------------------------------------------------


def test_the_account_in_memory_stays_inside_the_audit() -> None:
    """What takes no durable charge must not be at hand where private data are."""
    texts = {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for folder in ("pe", "apis", "embedders", "flows", "kernels")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert {path for path, text in texts.items() if "_AccountInMemory" in text} == {"pe/audit/attack.py"}
    assert {path for path, text in texts.items() if "pe.audit.attack" in text and path != "pe/audit/neighbours.py"} == {
        "pe/cli/audit.py"
    }


def test_an_audit_leaves_no_ledger_and_no_key(tmp_path: Path) -> None:
    audited("add-remove", trials=100)
    assert not Path(os.environ["PE_LEDGER"]).exists()
    assert not Path(os.environ["PE_LEDGER_KEY"]).exists()


def test_processes_share_the_trials() -> None:
    (found,) = audit(["many-labels"], trials=151, rounds=1, workers=2, alpha=ALPHA)
    assert (found.trials, found.holds) == (151, True)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"variants": ["nonsense"]}, r"unknown variant 'nonsense': choose from add-remove, .*, unreadable, .*Nothing"),
        ({"trials": 99}, "trials >= 100, got 99"),
        ({"rounds": 0}, "rounds >= 1, got 0"),
        ({"workers": 0}, "workers >= 1, got 0"),
        ({"alpha": 0.0}, r"alpha in \(0, 1\)"),
        ({"alpha": float("nan")}, r"alpha in \(0, 1\)"),
        ({"delta": 0.0}, "delta in"),
        ({"epsilon": -1.0}, "epsilon > 0"),
        ({"epsilon": 1e-9}, "the budget (is too small|calls for)"),
        ({"sigma": Fraction(0)}, "sigma in"),
        ({"sigma": Fraction(1), "epsilon": 1.0}, "sigma or epsilon, got both"),
    ],
)
def test_wrong_settings_are_refused_before_anything_runs(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        audit(**wrong)
    assert str(caught.value).endswith("Nothing was spent.")


@pytest.mark.parametrize("variant", ["three-replaced", "resume-lost"])
def test_an_epsilon_is_met_by_the_charges(variant: str) -> None:
    (found,) = audit([variant], trials=100, rounds=3, epsilon=1.5, delta=1e-6, alpha=ALPHA)
    assert found.claim <= 1.5
    assert found.claim == pytest.approx(1.5, rel=1e-4)


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(["audit", *arguments])
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


def test_the_command_prints_figures_threat_model_and_limits(capsys: pytest.CaptureFixture[str]) -> None:
    settings = ("--trials", "100", "--rounds", "1", "--variant", "add-remove", "--variant", "label-counts")
    assert command(*settings, "--alpha", "1e-8", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["holds"] is True
    assert [each["variant"] for each in facts["findings"]] == ["add-remove", "label-counts"]
    assert facts["findings"][0]["claim"] == pytest.approx(0.7205, abs=1e-4)
    assert command(*settings, "--alpha", "1e-8") == 0
    shown = capsys.readouterr().out
    for part in (
        "N = 100 runs a side",
        "label-counts",
        "Threat model",
        "4 bounds, alpha 2.5e-09 each",
        "proves nothing",
    ):
        assert part in shown


@pytest.mark.usefixtures("repeated_noise")
def test_the_command_fails_with_the_mechanism(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    too_little_noise(monkeypatch)
    settings = ("--trials", "2500", "--rounds", "4", "--sigma", "1", "--variant", "add-remove")
    assert command(*settings) == 1
    assert "More leaks than is charged: add-remove" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong", [("--variant", "nonsense"), ("--trials", "5"), ("--sigma", "nan"), ("--sigma", "1", "--epsilon", "1")]
)
def test_wrong_input_is_one_line(wrong: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert command(*wrong) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "Nothing was spent." in captured.err
