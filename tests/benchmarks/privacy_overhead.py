"""What privacy costs in time: ledger, noise and certificate of a run, beside the vote they protect.

    python tests/benchmarks/privacy_overhead.py [--rounds 10] [--candidates 5000] [--records 20000] [--sigma 5]

Prints seconds of each part, their sum over the time of the votes, and what discrete, certified noise and outward
rounding cost in epsilon against continuous noise accounted exactly.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import numpy as np

from pe.kernels.count import count
from pe.kernels.nearest import nearest
from pe.privacy import Adjacency, Budget, DiscreteGaussian, Ledger, Votes, discrete_gaussian, gdp, release
from pe.privacy.certificate import draft, issue, verify


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--candidates", type=int, default=5000)
    parser.add_argument("--records", type=int, default=20000)
    parser.add_argument("--sigma", type=Fraction, default=Fraction(5))
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    records, candidates = (rng.integers(-100, 101, (n, 64), dtype=np.int16) for n in (given.records, given.candidates))
    seconds = dict.fromkeys(("votes", "charge", "noise", "certificate"), 0.0)

    def timed(part: str, function, *arguments, **keys):
        begun = time.perf_counter()
        try:
            return function(*arguments, **keys)
        finally:
            seconds[part] += time.perf_counter() - begun

    def votes() -> np.ndarray:
        return timed("votes", lambda: count(nearest(records, candidates), given.candidates))

    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        ledger = Ledger(Path(folder) / "ledger.sqlite3", key=Path(folder) / "key", create=True)
        budget = Budget(100.0, 1e-5, Adjacency.ADD_REMOVE)
        ledger.create("benchmark", budget)
        account = ledger.account("benchmark", run="run", budget=budget, config="")
        seconds["open"] = time.perf_counter() - begun
        for iteration in range(1, given.rounds + 1):
            before = sum(seconds.values())
            begun = time.perf_counter()
            release(
                Votes(votes, given.candidates, Fraction(1), budget.adjacency),
                given.sigma,
                account=account,
                iteration=iteration,
            )
            seconds["charge"] += time.perf_counter() - begun - (sum(seconds.values()) - before)
        discrete_gaussian.sample(given.sigma, 1)
        for _ in range(given.rounds):
            timed("noise", discrete_gaussian.sample, given.sigma, given.candidates)
        seconds["charge"] -= seconds["noise"]
        begun = time.perf_counter()
        chain, done = ledger.chain("benchmark"), (given.rounds, given.rounds)
        begun_certificate = draft(chain, run="run", budget=budget, completed=done, declared_public=[])
        verify(issue(ledger, begun_certificate, files={"f": "0" * 64}, data={"d": "0" * 64}), ledger=ledger)
        seconds["certificate"] = time.perf_counter() - begun
    begun = time.perf_counter()
    discrete_gaussian.sample(given.sigma, 1_000_000)
    million = time.perf_counter() - begun

    overhead = sum(value for part, value in seconds.items() if part != "votes")
    for part, value in seconds.items():
        print(f"{part:12} {value:8.4f} s")
    print(f"{'overhead':12} {overhead:8.4f} s, {overhead / seconds['votes']:.3f} times the votes")
    print(f"{'1M draws':12} {million:8.4f} s")
    mu_squared = given.rounds * DiscreteGaussian(given.sigma, Fraction(1)).mu_squared
    ours, exact = (gdp.epsilon_for(math.sqrt(each), 1e-5) for each in (mu_squared, given.rounds / given.sigma**2))
    print(f"epsilon at delta 1e-5: {ours:.6f}; continuous noise, exactly: {exact:.6f}; loss {ours / exact - 1:.4%}")


if __name__ == "__main__":
    main()
