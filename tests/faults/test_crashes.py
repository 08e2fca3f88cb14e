"""A run killed with SIGKILL at every step, and what is left: ledger, histograms, result."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pe
from pe.privacy.certificate import read_certificate, verify
from pe.privacy.ledger import spent

WORKER = Path(__file__).with_name("worker.py")


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """A small private table with its schema."""
    rng = np.random.default_rng(7)
    lines = [f"{age},{kind}" for age, kind in zip(rng.integers(20, 60, 300), rng.choice(["a", "b"], 300), strict=True)]
    (tmp_path / "private.csv").write_text("age,kind\n" + "\n".join(lines) + "\n")
    schema = pe.Schema((pe.Numeric("age", 0, 100, integer=True), pe.Categorical("kind", ("a", "b"))))
    (tmp_path / "schema.toml").write_text(schema.to_toml())
    return tmp_path


def work(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(WORKER), str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def charges(folder: Path) -> list[int]:
    """Iterations of all charges, in order."""
    chain = pe.Ledger(folder / "ledger.sqlite3").chain("people")
    return [entry.body["iteration"] for entry in chain if entry.kind == "reserve"]


def histograms(folder: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in sorted(folder.glob("run/iterations/*/histogram.npz"))}


def population(folder: Path, number: int) -> object:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(folder / "run" / "iterations" / f"{number:03d}" / "population.parquet")


@pytest.mark.parametrize("iteration", [0, 2])
@pytest.mark.parametrize("point", ["stored", "population"])
def test_a_stored_histogram_is_reused_free_of_charge(people: Path, point: str, iteration: int) -> None:
    assert work(people, point, str(iteration)).returncode == -9
    before, paid = histograms(people), charges(people)
    assert f"{iteration:03d}" in before
    done = work(people)
    assert done.returncode == 0, done.stderr
    after = histograms(people)
    assert {name: after[name] for name in before} == before
    assert charges(people)[: len(paid)] == paid
    assert charges(people) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("point", ["count", "noise"])
def test_a_charge_whose_histogram_was_lost_stays_spent_and_the_run_ends_within_its_budget(
    people: Path, point: str
) -> None:
    assert work(people, point, "2").returncode == -9
    assert charges(people) == [0, 1, 2]
    assert set(histograms(people)) == {"000", "001"}
    done = work(people)
    assert done.returncode == 0, done.stderr
    # iteration 2 is paid again, and the last iteration no longer fits
    assert charges(people) == [0, 1, 2, 2, 3]
    completed, _, why = done.stdout.partition(" ")
    assert completed == "3"
    assert "iteration 4 needs epsilon" in why
    chain = pe.Ledger(people / "ledger.sqlite3").chain("people")
    assert spent(chain)[0] <= pe.Budget(1.0, 1e-5, pe.Adjacency.ADD_REMOVE).limit[0]
    release = people / "run" / "release"
    certificate = read_certificate(release / "certificate.json")
    assert certificate["iterations"] == {"completed": 3, "planned": 4}
    assert verify(certificate, folder=release, ledger=pe.Ledger(people / "ledger.sqlite3"))
    assert len((release / "synthetic.csv").read_text().splitlines()) == 41


def test_a_run_that_lost_its_last_charge_can_go_on_when_the_source_is_granted_more_but_never_past_its_claim(
    people: Path,
) -> None:
    assert work(people, "noise", "4").returncode == -9
    pe.Ledger(people / "ledger.sqlite3").grant("people", 3.0, 1e-5)
    done = work(people)
    assert done.stdout.startswith("3 ")
    assert "(this run)" in done.stdout


@pytest.mark.parametrize("iteration", [0, 3])
def test_a_run_killed_before_a_charge_has_lost_nothing(people: Path, iteration: int) -> None:
    assert work(people, "reserve", str(iteration)).returncode == -9
    assert charges(people) == list(range(iteration))
    assert work(people).returncode == 0
    assert charges(people) == [0, 1, 2, 3, 4]


def test_a_run_killed_before_its_release_is_finished_free_of_charge(people: Path) -> None:
    assert work(people, "release", "0").returncode == -9
    assert not (people / "run" / "release").exists()
    paid = charges(people)
    assert work(people).returncode == 0
    assert charges(people) == paid == [0, 1, 2, 3, 4]
    assert (people / "run" / "release" / "certificate.json").exists()


def test_a_resumed_run_goes_on_exactly_where_an_uninterrupted_one_would_have_been(people: Path) -> None:
    """Same histograms, same seed: the populations after the interruption do not depend on it."""
    assert work(people, "population", "3").returncode == -9
    stored = histograms(people)
    assert work(people).returncode == 0
    resumed = population(people, 3)
    # the same iteration once more, from the same stored histogram
    for name in ("003", "004"):
        (people / "run" / "iterations" / name / "population.parquet").unlink()
    assert work(people).returncode == 0
    assert population(people, 3).equals(resumed)
    assert {name: histograms(people)[name] for name in stored} == stored


def test_two_processes_cannot_work_on_one_run(people: Path) -> None:
    assert work(people, "release", "0").returncode == -9
    from pe.config import Config
    from pe.run import Run, stored_config
    from pe.schema import Schema

    config = stored_config(people / "run")
    with Run.open(people / "run", config, Schema.read(people / "run" / "schema.toml")):
        done = work(people)
    assert done.returncode == 1
    assert "RunLockedError" in done.stderr
    assert "Nothing was spent" in done.stderr
    assert Config.of(config).private.source == "people"


def test_changed_data_are_refused(people: Path) -> None:
    assert work(people, "population", "3").returncode == -9
    private = people / "private.csv"
    private.write_text(private.read_text().replace("\n", "\n31,a\n", 1))
    done = work(people)
    assert "RunMismatchError: the private data changed" in done.stderr.replace("pe.errors.", "")
    assert charges(people) == [0, 1, 2, 3]


def test_a_full_disk_while_storing_a_histogram_keeps_the_charge_and_says_so(people: Path) -> None:
    """RLIMIT_FSIZE stands in for the disk: the ledger is written already, the histogram's file cannot grow."""
    script = (
        "import resource, signal, sys; sys.argv = ['worker', sys.argv[1]]\n"
        "sys.path.insert(0, sys.argv[1]); import worker, pathlib, pe.run\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "original = pe.run.Run.store_histogram\n"
        "def full(self, number, histogram):\n"
        "    if number == 2: resource.setrlimit(resource.RLIMIT_FSIZE, (16, -1))\n"
        "    try: original(self, number, histogram)\n"
        "    finally: resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))\n"
        "pe.run.Run.store_histogram = full\n"
        "worker.main(pathlib.Path(sys.argv[1]))\n"
    )
    (people / "worker.py").write_text(WORKER.read_text())
    done = subprocess.run([sys.executable, "-c", script, str(people)], capture_output=True, text=True, check=False)
    assert "RunError" in done.stderr
    assert "cannot be written: File too large" in done.stderr
    assert "Budget: epsilon" in done.stderr
    assert charges(people) == [0, 1, 2]
    assert set(histograms(people)) == {"000", "001"}
    assert not list((people / "run").rglob("*.draft"))
