"""A run in a process of its own, killed with SIGKILL at a named point of a named iteration.

    python worker.py FOLDER [POINT ITERATION]

FOLDER holds private.csv, schema.toml and ledger.sqlite3. Points, in the order they are passed:

    reserve    before the charge is written
    count      after the charge, before the votes are counted
    noise      after the noise was drawn, before the histogram is stored
    stored     after the histogram is stored, before parents are selected
    population before the population is stored
    release    before the release folder is put in place (ITERATION is ignored)
"""

import os
import signal
import sys
from pathlib import Path

import pe
import pe.evolve
import pe.run
import pe.session
from pe.privacy.ledger import Account
from pe.privacy.mechanism import DiscreteGaussian

BUDGET = {"epsilon": 1.0, "delta": 1e-5, "adjacency": "add-remove"}
SETTINGS = {"source": "people", "rows": 40, "iterations": 4, "label_shares": {"budget_share": 0.1}, "formats": ["csv"]}
POINTS = ("reserve", "count", "noise", "stored", "population", "release")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def plant(point: str, iteration: int) -> None:
    """Wrap one function of the product so that the process dies there."""
    now = {"iteration": -1}
    reserve, count_noise = Account.reserve, DiscreteGaussian.add_noise

    def reserving(self, mechanism, **keys):
        now["iteration"] = keys["iteration"]
        if point == "reserve" and now["iteration"] == wanted:
            die()
        entry = reserve(self, mechanism, **keys)
        if point == "count" and now["iteration"] == wanted:
            die()
        return entry

    def adding(self, counts):
        noisy = count_noise(self, counts)
        if point == "noise" and now["iteration"] == wanted:
            die()
        return noisy

    store_histogram, store_population = pe.run.Run.store_histogram, pe.run.Run.store_population

    def storing(self, number, histogram):
        store_histogram(self, number, histogram)
        if point == "stored" and number == wanted:
            die()

    def populating(self, number, population):
        if point == "population" and number == wanted:
            die()
        store_population(self, number, population)

    wanted = iteration
    Account.reserve, DiscreteGaussian.add_noise = reserving, adding
    pe.run.Run.store_histogram, pe.run.Run.store_population = storing, populating
    if point == "release":
        pe.session.replace_folder = lambda *_: die()


def main(folder: Path) -> None:
    result = pe.synthesize(
        folder / "private.csv",
        schema=folder / "schema.toml",
        label="kind",
        run=folder / "run",
        ledger=folder / "ledger.sqlite3",
        create=True,
        **BUDGET,
        **SETTINGS,
    )
    print(result.certificate["iterations"]["completed"], result.stopped)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        plant(sys.argv[2], int(sys.argv[3]))
    main(Path(sys.argv[1]))
