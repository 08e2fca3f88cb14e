"""The only way out of the private side: charged first, noisy always, silent about what it read."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pe.errors
from pe.errors import BudgetExceededError, LedgerError, PEError, PrivateDataError
from pe.privacy import Account, Adjacency, DiscreteGaussian, Histogram, Ledger, Unit, Votes, discrete_gaussian, release
from pe.privacy.ledger import charges
from pe.run import remembering
from pe.shield import shielded

ONE = Fraction(1)
ADD = Adjacency.ADD_REMOVE
SIGMA = Fraction(40)
CANARY = "".join(("can", "ary", "-", "4711"))  # put together, so that no quoted source line holds it


def test_a_histogram_is_counts_plus_noise_of_the_scale_that_was_charged(account: Account) -> None:
    exact = np.arange(50_000, dtype=np.int64)
    histogram = release(Votes(exact.copy, len(exact), ONE, ADD), SIGMA, account=account, iteration=3)
    noise = histogram.counts - exact
    assert histogram.counts.dtype == np.int64
    assert abs(noise.mean()) < 7 * 40 / np.sqrt(len(exact))
    assert noise.std() == pytest.approx(40, rel=7 / np.sqrt(2 * len(exact)))
    entry, draw = account.ledger.chain("source")[-2:]
    assert (histogram.entry, histogram.sigma) == (entry.hash, SIGMA)
    assert (draw.kind, draw.body["entry"], draw.body["run"]) == ("draw", entry.hash, "run")
    assert (entry.body["sigma"], entry.body["bins"], entry.body["iteration"]) == ("40", 50_000, 3)
    assert Fraction(entry.body["cost"][0]) == DiscreteGaussian(SIGMA, ONE).mu_squared


def test_the_charge_is_durable_before_anything_is_counted(account: Account) -> None:
    seen = []

    def count() -> np.ndarray:
        seen.append([entry.kind for entry in account.ledger.chain("source")])
        return np.zeros(2, np.int64)

    release(Votes(count, 2, ONE, ADD), SIGMA, account=account, iteration=1)
    assert seen == [["grant", "reserve"]]


def test_a_refused_charge_counts_nothing(account: Account) -> None:
    with pytest.raises(BudgetExceededError):
        release(Votes(lambda: pytest.fail("counted"), 2, ONE, ADD), Fraction(1), account=account, iteration=1)
    assert account.spent() == (0,)


def test_what_a_count_needs_is_made_before_the_charge_and_not_for_a_stored_histogram(account: Account) -> None:
    done: list[str] = []
    stored: dict[int, Histogram] = {}

    class Memory:
        path = Path("run")

        def histogram(self, number: int, name: str = "histogram") -> Histogram | None:
            return stored.get(number)

        def store_histogram(self, number: int, histogram: Histogram, name: str = "histogram") -> None:
            stored[number] = histogram

        def rehearse(self, number: int, bins: int) -> None:
            done.append(f"room for {bins} bins")

    def note(what: str) -> np.ndarray:
        done.append(f"{what} after {len(account.ledger.chain('source'))} entries")
        return np.zeros(2, np.int64)

    votes = Votes(lambda: note("counted"), 2, ONE, ADD, ready=lambda: note("ready"))
    releaser = remembering(Memory(), account)
    assert releaser(votes, SIGMA, 1) is releaser(votes, SIGMA, 1)
    room = "room for 2 bins"  # tried before the charge, and before noise is drawn
    assert done == ["ready after 1 entries", room, "counted after 2 entries", room]


def test_what_fails_before_the_charge_costs_nothing_and_says_nothing_of_the_data(
    account: Account, everything_about: Callable[[BaseException], str]
) -> None:
    def fail() -> None:
        raise ValueError(CANARY)

    with pytest.raises(PrivateDataError, match=r"preparing the votes failed with ValueError.*not charged") as caught:
        Votes(lambda: pytest.fail("counted"), 2, ONE, ADD, ready=fail).prepare()
    assert CANARY not in everything_about(caught.value)
    assert account.spent() == (0,)


def test_empty_bins_get_noise_like_all_others(account: Account) -> None:
    histogram = release(Votes(lambda: np.zeros(1000, np.int64), 1000, ONE, ADD), SIGMA, account=account, iteration=1)
    assert np.count_nonzero(histogram.counts) > 900


def test_two_releases_draw_different_noise_and_both_are_charged(account: Account) -> None:
    votes = Votes(lambda: np.zeros(100, np.int64), 100, ONE, ADD)
    first, second = (release(votes, SIGMA, account=account, iteration=1) for _ in range(2))
    assert first.counts.tolist() != second.counts.tolist()
    assert account.spent() == (2 * DiscreteGaussian(SIGMA, ONE).mu_squared,)


class Unpicklable(Exception):
    """An exception whose own methods must not be called."""

    def __str__(self) -> str:
        raise AssertionError("the text of a foreign exception was asked for")


@pytest.mark.parametrize(
    "failure", [ValueError, KeyError, MemoryError, RuntimeError, StopIteration, Unpicklable, RecursionError]
)
def test_a_failing_count_says_nothing_of_the_data_and_stays_charged(
    account: Account, failure: type, everything_about: Callable[[BaseException], str]
) -> None:
    def count() -> np.ndarray:
        private = CANARY
        try:
            raise LookupError(private)
        except LookupError as error:
            raise failure(private) from error

    with pytest.raises(PrivateDataError, match=rf"failed with {failure.__name__}.*stays spent") as caught:
        release(Votes(count, 2, ONE, ADD), SIGMA, account=account, iteration=1)
    assert CANARY not in everything_about(caught.value)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    assert account.spent() == (DiscreteGaussian(SIGMA, ONE).mu_squared,)


@pytest.mark.parametrize(
    "counts", [np.zeros(3, np.int64), np.zeros((2, 1), np.int64), np.zeros(2), np.zeros(2, np.int32)], ids=repr
)
def test_counts_of_another_shape_or_type_are_refused_and_stay_charged(account: Account, counts: np.ndarray) -> None:
    with pytest.raises(PrivateDataError, match="stays spent"):
        release(Votes(lambda: counts, 2, ONE, ADD), SIGMA, account=account, iteration=1)
    assert account.spent() > (0,)


def test_without_random_numbers_nothing_is_released_and_the_charge_stays(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    discrete_gaussian.sample(SIGMA, 1)

    def broken(size: int) -> bytes:
        raise OSError("no entropy")

    monkeypatch.setattr(discrete_gaussian.os, "urandom", broken)
    with pytest.raises(OSError, match="no entropy"):
        release(Votes(lambda: np.zeros(2, np.int64), 2, ONE, ADD), SIGMA, account=account, iteration=1)
    monkeypatch.undo()
    assert account.spent() > (0,)


def test_votes_show_copy_and_pickle_nothing() -> None:
    votes = Votes(lambda: np.array([4711]), 1, ONE, ADD)
    assert repr(votes) == str(votes) == f"{votes}" == "Votes(private, bins=1)"
    assert not hasattr(votes, "__dict__")
    for steal in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            steal(votes)


def test_a_histogram_is_read_only_and_prints_no_counts() -> None:
    histogram = Histogram(np.array([4711, 2]), SIGMA, "entry")
    with pytest.raises(ValueError, match="read-only"):
        histogram.counts[0] = 1
    assert "4711" not in repr(histogram)


# -- errors --------------------------------------------------------------------------------------------------------


def test_the_shield_passes_results_and_this_packages_errors() -> None:
    assert shielded("reading", lambda: 7, "") == 7
    error = LedgerError("public")

    def refuse() -> None:
        raise error

    with pytest.raises(LedgerError) as caught:
        shielded("reading", refuse, "")
    assert caught.value is error


def test_the_shield_lets_an_interrupt_through() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shielded("reading", interrupt, "")


@pytest.mark.parametrize(
    "kind", [each for each in vars(pe.errors).values() if isinstance(each, type) and issubclass(each, PEError)]
)
@given(text=st.text())
@settings(max_examples=5)
def test_every_error_survives_pickling(kind: type[PEError], text: str) -> None:
    error = pickle.loads(pickle.dumps(kind(text)))  # noqa: S301
    assert (type(error), str(error)) == (kind, text)
    assert type(error.spent("Nothing was spent.")) is kind


def test_votes_bounded_under_another_adjacency_are_refused_before_the_charge(account: Account) -> None:
    votes = Votes(lambda: pytest.fail("counted"), 2, Fraction(1), Adjacency.REPLACE_ONE)
    with pytest.raises(LedgerError, match=r"holds under replace-one adjacency.*under add-remove.*Nothing was spent"):
        release(votes, SIGMA, account=account, iteration=1)
    assert account.spent() == (0,)


def test_votes_bounded_for_another_unit_are_refused_before_the_charge(account: Account) -> None:
    votes = Votes(lambda: pytest.fail("counted"), 2, ONE, ADD, unit=Unit.USER)
    with pytest.raises(LedgerError, match=r"per user.*per record.*Nothing was spent"):
        release(votes, SIGMA, account=account, iteration=1)
    assert account.spent() == (0,)


def test_on_a_finer_grid_the_same_noise_in_votes_costs_the_same(account: Account) -> None:
    """Sums and noise are whole steps; sigma is given, and the histogram read, in votes."""
    exact = np.full(20_000, 64 * 7, np.int64)
    votes = Votes(exact.copy, len(exact), Fraction(64**2), ADD, grid=64)
    histogram = release(votes, SIGMA, account=account, iteration=1)
    entry = account.ledger.chain("source")[-2].body
    assert (entry["sigma"], entry["sensitivity_squared"], entry["grid"]) == ("2560", "4096", 64)
    assert float(account.spent()[0]) == pytest.approx(float(DiscreteGaussian(SIGMA, ONE).mu_squared), rel=1e-4)
    assert histogram.votes.mean() == pytest.approx(7, abs=7 * 40 / np.sqrt(len(exact)))
    assert histogram.votes.std() == pytest.approx(40, rel=7 / np.sqrt(2 * len(exact)))


# -- charged, and not drawn yet ----------------------------------------------------------------------------------------


def votes_on(question: str, count: object = None, bins: int = 2) -> Votes:
    return Votes(count or (lambda: np.zeros(bins, np.int64)), bins, ONE, ADD, question=question)


def interrupted(account: Account, votes: Votes, sigma: Fraction = SIGMA, iteration: int = 1) -> None:
    """A release whose process ends after the count, before the draw."""

    def die() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        release(votes, sigma, account=account, iteration=iteration, before_draw=die)


def test_a_release_that_was_not_drawn_is_finished_under_its_charge(account: Account) -> None:
    interrupted(account, votes_on("q"))
    interrupted(account, votes_on("q"))
    (charge,) = charges(account.ledger.chain("source"))
    assert release(votes_on("q"), SIGMA, account=account, iteration=1).entry == charge.hash
    assert charges(account.ledger.chain("source")) == [charge]


def test_a_release_that_was_drawn_is_never_drawn_again(account: Account) -> None:
    first, second = (release(votes_on("q"), SIGMA, account=account, iteration=1) for _ in range(2))
    assert first.entry != second.entry
    with pytest.raises(LedgerError, match="noise was drawn for entry 1 of source 'source' already"):
        account.begin_draw(first.entry, "another attempt")


def test_a_draw_whose_noise_failed_stays_spent(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no entropy")

    monkeypatch.setattr(Account, "noisy", fail)
    with pytest.raises(OSError, match="no entropy"):
        release(votes_on("q"), SIGMA, account=account, iteration=1)
    monkeypatch.undo()
    release(votes_on("q"), SIGMA, account=account, iteration=1)
    assert len(charges(account.ledger.chain("source"))) == 2


@pytest.mark.parametrize(
    ("votes", "sigma", "iteration", "run"),
    [
        (votes_on("other"), SIGMA, 1, "run"),
        (votes_on(""), SIGMA, 1, "run"),
        (votes_on("q", bins=3), SIGMA, 1, "run"),
        (votes_on("q"), SIGMA + 1, 1, "run"),
        (votes_on("q"), SIGMA, 2, "run"),
        (votes_on("q"), SIGMA, 1, "another run"),
    ],
    ids=["question", "no question", "bins", "sigma", "iteration", "run"],
)
def test_a_charge_pays_for_nothing_but_what_it_was_for(
    account: Account, votes: Votes, sigma: Fraction, iteration: int, run: str
) -> None:
    interrupted(account, votes_on("q"))
    paid = account.ledger.chain("source")[-1].hash
    other = account.ledger.account("source", run=run, budget=account.budget, config="config")
    assert release(votes, sigma, account=other, iteration=iteration).entry != paid
    assert len(charges(account.ledger.chain("source"))) == 2


def test_without_a_question_a_charge_is_not_taken_up_again(account: Account) -> None:
    interrupted(account, votes_on(""))
    release(votes_on(""), SIGMA, account=account, iteration=1)
    assert len(charges(account.ledger.chain("source"))) == 2


def test_noise_is_drawn_after_its_entry_is_in_the_ledger(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    draw = DiscreteGaussian.add_noise

    def watched(*given: object) -> object:
        seen.extend(entry.kind for entry in Ledger(account.ledger.path, key=account.ledger._key_path).chain("source"))
        return draw(*given)

    monkeypatch.setattr(DiscreteGaussian, "add_noise", watched)
    release(votes_on("q"), SIGMA, account=account, iteration=1)
    assert seen == ["grant", "reserve", "draw"]


def test_noise_is_drawn_for_charges_of_the_run_alone(account: Account) -> None:
    interrupted(account, votes_on("q"))
    paid = account.ledger.chain("source")[-1].hash
    other = account.ledger.account("source", run="another run", budget=account.budget, config="config")
    for purse, entry in ((other, paid), (account, "0" * 64)):
        with pytest.raises(LedgerError, match="lacks the charge"):
            purse.begin_draw(entry, "attempt")
