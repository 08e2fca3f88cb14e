"""The mechanism audit: the real vote, releaser and noise attacked many times, the leak measured against the charge.

An auditor fixes two neighbouring data sets D and D' and public candidates, runs every round of both many times, and
tells them apart by the sum over rounds of <noisy counts, votes(D') - votes(D)>: the log-likelihood ratio of Gaussian
noise, up to constants. The error rates of that test bound the true epsilon from below (Jagielski, Ullman, Oprea 2020;
for GDP: Nasr et al. 2023). A bound above what the ledger was charged proves a fault; no bound proves there is none.

Only the data sets of ``pe.audit.neighbours`` are audited, so that the account in memory here is no way round a ledger.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pe.audit.bounds import best_errors, epsilon_shown, mu_shown
from pe.audit.neighbours import VARIANTS, Variant
from pe.errors import ConfigError, RunError
from pe.privacy import gdp
from pe.privacy.budget import Adjacency, Budget, Unit
from pe.privacy.discrete_gaussian import check_sigma, sigma_for
from pe.privacy.ledger import Account, Ledger
from pe.privacy.release import Histogram, Votes
from pe.run import Run

FEWEST_TRIALS = 100
SIGMA = Fraction(504, 100)
"""With ten rounds of one vote each, epsilon 2.57 at delta 1e-5 under add/remove."""

CREDIBILITY = 0.95

THREAT_MODEL = (
    "The adversary knows both data sets, which differ in one unit of privacy, and every public setting, chooses the "
    "candidates, sees every noisy histogram that was stored or used, and knows the exact difference of the votes."
)
LIMITS = (
    "A lower bound above the charge proves a fault; a bound below it proves nothing: other neighbours, other "
    "candidates or a sharper test might show more. Only the vote, the releaser, the noise and the charge are audited: "
    "not the API's own knowledge, the embedder, the computing time or the machine."
)

# -- one trial ---------------------------------------------------------------------------------------------------------


class _Crash(Exception):
    """The process died here."""


class _RunInMemory(Run):
    """A run whose store is a dictionary: ``Run.releaser`` is the real one. Remembers what an adversary gets to see."""

    def __init__(self, crash: Literal["before", "after"] | None) -> None:
        self.path = Path("audit")  # for messages; nothing is locked or written
        self.seen: list[Histogram] = []
        self._crash = crash
        self._crashed: set[int] = set()
        self._stored: dict[int, Histogram] = {}

    def histogram(self, number: int, name: str = "histogram") -> Histogram | None:
        return self._stored.get(number)

    def store_histogram(self, number: int, histogram: Histogram, name: str = "histogram") -> None:
        crash = None if number in self._crashed else self._crash
        if crash is not None:
            self._crashed.add(number)
        if crash == "before":
            raise _Crash
        if number in self._stored:
            raise RunError("a histogram is written once")
        self._stored[number] = histogram
        self.see(histogram)
        if crash == "after":
            raise _Crash

    def rehearse(self, number: int, bins: int) -> None:
        """A dictionary has room."""

    def see(self, histogram: Histogram) -> None:
        if not any(histogram is each for each in self.seen):
            self.seen.append(histogram)


@dataclass(frozen=True)
class _AccountInMemory(Account):
    """An account that forgets its charges: a durable one takes milliseconds, and trials are many.

    Private to this module, which hands it nothing but votes over the data sets of ``pe.audit.neighbours``.
    """

    def reserve(self, mechanism: object, **entry: object) -> str:
        return "audit"

    def begin_draw(self, entry: str, attempt: str) -> None:
        """Nothing is noted."""


def _trial(variant: Variant, votes: Votes, sigma: Fraction, rounds: int, account: Account) -> list[Histogram]:
    """Every histogram that an adversary sees of one run. After a crash nothing is left of it but its store."""
    run = _RunInMemory(variant.crash)
    for iteration in range(1, rounds + 1):
        try:
            run.see(run.releaser(account)(votes, sigma, iteration))
        except _Crash:
            run.see(run.releaser(account)(votes, sigma, iteration))
    return run.seen


@contextmanager
def _throwaway_account(variant: Variant, delta: float) -> Iterator[Account]:
    """A durable account on a ledger that is deleted afterwards."""
    budget = Budget(1e9, delta, variant.adjacency, Unit.USER if variant.per_user else Unit.RECORD)
    with TemporaryDirectory(prefix="pe-audit-") as folder:
        ledger = Ledger(Path(folder) / "ledger.sqlite3", key=Path(folder) / "key" / "ledger.key", create=True)
        ledger.create("audit", budget)
        try:
            yield ledger.account("audit", run="audit", budget=budget, config="audit")
        finally:
            ledger.close()


def _charged(variant: Variant, sigma: Fraction, rounds: int, delta: float) -> float:
    """Epsilon of what one run writes to a durable ledger."""
    with _throwaway_account(variant, delta) as account:
        _trial(variant, variant.votes(inside=True), sigma, rounds, account)
        return account.epsilon_spent()


RECOUNT = 500
"""Trials after which the data set is built, embedded and counted anew; in between the exact counts are the same."""


def _scores(variant: Variant, inside: bool, sigma: Fraction, rounds: int, n: int) -> NDArray[np.int64]:
    """The auditor's statistic in ``n`` runs, int64 (n,)."""
    difference = variant.votes(inside=True)._count() - variant.votes(inside=False)._count()
    scores = np.empty(n, np.int64)
    with _throwaway_account(variant, delta=1e-5) as durable:
        account = _AccountInMemory(durable.ledger, durable.source, durable.run, durable.budget, durable.config)
        for trial in range(n):
            if trial % RECOUNT == 0:
                votes = _counted(variant.votes(inside=inside))
            seen = _trial(variant, votes, sigma, rounds, account)
            scores[trial] = sum(int(difference @ each.counts) for each in seen)
    return scores


def _counted(votes: Votes) -> Votes:
    """The same votes, counted now and not again."""
    exact = votes._count()
    votes._count = lambda: exact
    return votes


# -- the audit ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """What the audit of one variant found; epsilons at the audit's delta.

    claim           of all charges of one run in a durable ledger.
    bound_gdp       lower bound if the mechanism is GDP at all, as it is accounted.
    bound_free      lower bound whatever the mechanism.
    posterior_gdp   95 % credible interval behind ``bound_gdp``: around the claim when test and charge are tight.
    posterior_free  the same behind ``bound_free``, the figure of Zanella-Béguelin et al. 2023.
    trials          runs on either data set.
    """

    variant: str
    about: str
    adjacency: str
    sigma: float
    rounds: int
    trials: int
    claim: float
    bound_gdp: float
    bound_free: float
    posterior_gdp: tuple[float, float]
    posterior_free: tuple[float, float]
    seconds: float

    @property
    def holds(self) -> bool:
        return max(self.bound_gdp, self.bound_free) <= self.claim

    @property
    def ratio(self) -> float:
        """How much of the claim the larger lower bound shows."""
        return max(self.bound_gdp, self.bound_free) / self.claim


def audit(
    variants: Sequence[str] = (),
    *,
    trials: int = 20_000,
    rounds: int = 10,
    sigma: Fraction | None = None,
    epsilon: float | None = None,
    delta: float = 1e-5,
    alpha: float = 1e-3,
    workers: int = 1,
) -> Iterator[Finding]:
    """Audit the named variants (default: all of ``VARIANTS``), yielding one finding after the other.

    trials   runs on D and as many on D'.
    sigma    noise scale of every round, by default 5.04; or ``epsilon``: the scale whose charges add up to that.
    alpha    probability, over all bounds of this call together, that a sound mechanism is found to fail.
    workers  processes.

    Raises ConfigError at once. Touches no private data and no ledger but throwaway ones.
    """
    names = list(dict.fromkeys(variants)) or list(VARIANTS)
    for name in names:
        if name not in VARIANTS:
            raise ConfigError(f"unknown variant '{name}': choose from {', '.join(VARIANTS)}. Nothing was spent.")
    for what, number, least in (("trials", trials, FEWEST_TRIALS), ("rounds", rounds, 1), ("workers", workers, 1)):
        if number < least:
            raise ConfigError(f"expected {what} >= {least}, got {number}. Nothing was spent.")
    if not 0 < alpha < 1:
        raise ConfigError(f"expected alpha in (0, 1), got {alpha}. Nothing was spent.")
    if sigma is not None and epsilon is not None:
        raise ConfigError("expected sigma or epsilon, got both: name one. Nothing was spent.")
    Budget(1.0 if epsilon is None else epsilon, delta, Adjacency.ADD_REMOVE)  # refuses what is out of range
    if epsilon is None:
        scales = dict.fromkeys(names, check_sigma(SIGMA if sigma is None else sigma))
    else:
        scales = {name: _sigma_within(VARIANTS[name], epsilon, delta, rounds) for name in names}
    share = alpha / (2 * len(names))  # two bounds each
    return _findings(scales, _Setting(trials, rounds, delta, share, workers))


@dataclass(frozen=True)
class _Setting:
    """``alpha`` is that of a single bound."""

    trials: int
    rounds: int
    delta: float
    alpha: float
    workers: int


_Job = tuple[str, bool, Fraction, int, int]
_Mapped = Callable[[list[_Job]], list[NDArray[np.int64]]]


def _sigma_within(variant: Variant, epsilon: float, delta: float, rounds: int) -> Fraction:
    charges = rounds * (2 if variant.crash == "before" else 1)
    limit = gdp.mu_squared_within(epsilon, delta) / charges
    votes = variant.votes(inside=False)
    return sigma_for(limit, votes.sensitivity_squared) / votes.grid


def _findings(scales: dict[str, Fraction], setting: _Setting) -> Iterator[Finding]:
    with _mapper(setting.workers) as mapped:
        for name, sigma in scales.items():
            yield _found(name, sigma, setting, mapped)


@contextmanager
def _mapper(workers: int) -> Iterator[_Mapped]:
    if workers == 1:
        yield lambda jobs: [_job(job) for job in jobs]
        return
    # spawned: what a forked child inherits of threads and locks is anyone's guess
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield lambda jobs: list(pool.map(_job, jobs))


def _job(job: _Job) -> NDArray[np.int64]:
    name, inside, sigma, rounds, n = job
    return _scores(VARIANTS[name], inside, sigma, rounds, n)


def _found(name: str, sigma: Fraction, setting: _Setting, mapped: _Mapped) -> Finding:
    begun, variant, delta, alpha = time.perf_counter(), VARIANTS[name], setting.delta, setting.alpha
    shares = [len(part) for part in np.array_split(np.arange(setting.trials), setting.workers)]
    parts = mapped([(name, inside, sigma, setting.rounds, n) for inside in (False, True) for n in shares if n])
    without, within = (np.concatenate(side) for side in (parts[: len(parts) // 2], parts[len(parts) // 2 :]))

    def free(positives: Any, negatives: Any) -> Any:
        return epsilon_shown(positives, negatives, delta)

    gdp_errors = best_errors(without, within, mu_shown, alpha)
    free_errors = best_errors(without, within, free, alpha)
    tails = ((1 - CREDIBILITY) / 2, (1 + CREDIBILITY) / 2)
    mus, epsilons = np.quantile(mu_shown(*gdp_errors.posterior()), tails), free(*free_errors.posterior())
    low, high = np.quantile(epsilons, tails)
    return Finding(
        variant=name,
        about=variant.about,
        adjacency=str(variant.adjacency),
        sigma=float(sigma),
        rounds=setting.rounds,
        trials=setting.trials,
        claim=_charged(variant, sigma, setting.rounds, delta),
        bound_gdp=gdp.epsilon_for(float(mu_shown(*gdp_errors.upper(alpha))), delta),
        bound_free=float(free(*free_errors.upper(alpha))),
        posterior_gdp=(gdp.epsilon_for(float(mus[0]), delta), gdp.epsilon_for(float(mus[1]), delta)),
        posterior_free=(float(low), float(high)),
        seconds=time.perf_counter() - begun,
    )
