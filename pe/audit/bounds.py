"""From the scores of an attack to bounds on epsilon: error rates, their confidence, and what they rule out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainccinv, ndtri

CHOOSING = 5
"""One trial in five chooses the test; the others, which it never saw, give the bounds."""


@dataclass(frozen=True)
class Errors:
    """Errors of one test, "D' if the score reaches the threshold": false positives on D, negatives on D'.

    Each an integer (or float64 array, one per threshold) out of ``n`` trials.
    """

    positives: Any
    negatives: Any
    n: int

    def upper(self, alpha: float) -> tuple[Any, Any]:
        """Upper bounds of both rates, wrong with probability ``alpha`` at most (Clopper, Pearson 1934; halved)."""
        return _clopper_pearson(self.positives, self.n, alpha / 2), _clopper_pearson(self.negatives, self.n, alpha / 2)

    def posterior(self, draws: int = 100_000) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Rates drawn from their Beta posteriors under Jeffreys' prior (Zanella-Béguelin et al. 2023)."""
        rng = np.random.default_rng(0)  # public arithmetic, no privacy noise
        positives, negatives = (
            rng.beta(errors + 0.5, self.n - errors + 0.5, draws) for errors in (self.positives, self.negatives)
        )
        return positives, negatives


def _clopper_pearson(errors: Any, n: int, alpha: float) -> Any:
    return np.where(errors >= n, 1.0, betainccinv(errors + 1.0, np.maximum(n - errors, 1e-300), alpha))


def mu_shown(positives: Any, negatives: Any) -> Any:
    """The smallest mu under which mu-GDP admits a test with these error rates (Dong, Roth, Su 2022)."""
    with np.errstate(invalid="ignore"):  # a rate of 0 and one of 1: no difference
        return np.nan_to_num(np.maximum(-ndtri(positives) - ndtri(negatives), 0.0), nan=0.0, posinf=np.inf)


def epsilon_shown(positives: Any, negatives: Any, delta: float) -> Any:
    """The smallest epsilon under which (epsilon, delta)-DP admits these rates (Kairouz, Oh, Viswanath 2015)."""
    with np.errstate(divide="ignore"):
        forth = np.log(np.maximum(1 - delta - negatives, 0) / positives)
        back = np.log(np.maximum(1 - delta - positives, 0) / negatives)
    return np.maximum(np.maximum(forth, back), 0.0)


def best_errors(
    without: NDArray[np.int64], within: NDArray[np.int64], measure: Callable[[Any, Any], Any], alpha: float
) -> Errors:
    """Errors, on the trials kept back, of the test with the largest bound on ``measure`` among the others."""
    cut = len(without) // CHOOSING
    best, choice = 0.0, (1, float(np.median(np.concatenate([without[:cut], within[:cut]]))))
    for sign in (1, -1):
        low, high = np.sort(sign * without[:cut]), np.sort(sign * within[:cut])
        both = np.sort(np.concatenate([low, high]))
        thresholds = np.unique(both[np.linspace(0, len(both) - 1, 100).astype(int)])
        # bounds, not rates: what a few trials show in the tails by luck does not decide
        promised = measure(*_errors(low, high, thresholds).upper(alpha))
        if promised.max() > best:
            best, choice = float(promised.max()), (sign, float(thresholds[promised.argmax()]))
    sign, threshold = choice
    found = _errors(np.sort(sign * without[cut:]), np.sort(sign * within[cut:]), np.array([threshold]))
    return Errors(int(found.positives[0]), int(found.negatives[0]), found.n)


def _errors(without: NDArray[np.int64], within: NDArray[np.int64], thresholds: NDArray[Any]) -> Errors:
    """Errors at each threshold; both scores sorted."""
    positives = len(without) - np.searchsorted(without, thresholds, side="left")
    return Errors(positives, np.searchsorted(within, thresholds, side="left"), len(without))
