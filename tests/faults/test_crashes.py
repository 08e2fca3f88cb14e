"""Faults 1, 2, 3 and 25: a run killed with SIGKILL at every step, and what is left: ledger, histograms, result.

The rows of the state table in the docstring of ``pe.run`` are the parameters.
"""

from __future__ import annotations

import os
import shutil

import pyarrow.parquet
import pytest

import pe.run
from pe.build import build_plan
from pe.config import Config
from pe.data.schema import Schema
from pe.privacy.accountant import fits
from pe.privacy.ledger import granted, spent
from pe.run import Run, read_histogram, stored_config

LINES = [line.split(" | ") for line in (pe.run.__doc__ or "").splitlines() if line.count(" | ") == 4]
STATES = [tuple(cell.strip() for cell in line) for line in LINES[2:]]
"""Point of death, what happened, entries in the ledger, whether a histogram is stored, what the next call does."""


def states(outcome: str) -> list[str]:
    """The points after which the next call does what ``outcome`` begins with."""
    return [point for point, *_, then in STATES if then.startswith(outcome)]


def kinds(people, source: str = "people") -> list[str]:
    """Charges and draws of the ledger, in order."""
    return [entry.kind for entry in people.ledger.chain(source) if entry.kind in ("reserve", "draw")]


def test_the_state_table_covers_every_step_of_a_release_and_every_outcome() -> None:
    assert states("charges") == ["reserve", "draw-commit", "drawing", "noise", "draft"]
    assert states("finishes") == ["commit", "count", "counting", "counted"]
    assert states("uses") == ["stored", "vary", "population"]
    assert len(STATES) == 12


@pytest.mark.parametrize(("point", "_what", "ledger", "stored", "then"), STATES, ids=[row[0] for row in STATES])
def test_an_iteration_that_died_goes_on_as_the_state_table_says(people, point, _what, ledger, stored, then) -> None:
    ended = people.work(point, 2)
    assert ended.killed or point == "counting"
    charged, drawn = ("charge" in ledger), ("draw" in ledger)
    assert kinds(people) == ["reserve", "draw"] * 2 + ["reserve"] * charged + ["draw"] * drawn
    before = people.histograms()
    assert set(before) == {"000", "001"} | ({"002"} if stored else set())
    hashes = {entry.hash for entry in people.ledger.chain("people")}

    completed, why, _ = people.work().result
    anew = then.startswith("charges anew")
    assert people.charges() == ([0, 1, 2, 2, 3] if anew else [0, 1, 2, 3, 4])
    assert completed == (3 if anew else 4)
    assert ("iteration 4 needs epsilon" in why) == anew
    after = people.histograms()
    assert {name: after[name] for name in before} == before
    paid = read_histogram(people.folder / "run" / "iterations" / "002" / "histogram.npz").entry
    assert (paid in hashes) == (charged and not anew)
    chain = people.ledger.chain("people")
    drawn_for = [entry.body["entry"] for entry in chain if entry.kind == "draw"]
    assert len(drawn_for) == len(set(drawn_for)) == len(people.charges())
    assert fits(spent(chain), granted(chain).limit)
    assert people.verified()["iterations"] == {"completed": completed, "planned": 4}


def test_a_count_that_fails_again_and_again_is_charged_once(people) -> None:
    """As every retry does while a cluster is down."""
    for _ in range(3):
        ended = people.work("counting", 1)
        assert "no noise was drawn: the next call finishes it under the same charge" in ended.err
        assert people.charges() == [0, 1]
    assert people.work().result[:2] == [4, ""]
    assert people.charges() == [0, 1, 2, 3, 4]


def test_a_copy_of_the_run_directory_draws_no_second_noise_for_a_charge(people) -> None:
    """Original and copy hold the same iteration, charged and not drawn: who comes second is charged anew."""
    assert people.work("counted", 2).killed
    shutil.copytree(people.folder / "run", people.folder / "copy")
    assert people.work().result[:2] == [4, ""]
    assert people.charges() == [0, 1, 2, 3, 4]
    ended = people.work(run=str(people.folder / "copy"))
    assert ended.result[0] == 1  # nothing is left of the run's budget
    assert people.charges() == [0, 1, 2, 3, 4]
    assert kinds(people).count("draw") == 5


@pytest.mark.parametrize("place", ["run", "copy"])
def test_two_processes_that_finish_one_charge_at_once_draw_once(people, place) -> None:
    assert people.work("counted", 4).killed
    if place == "copy":
        shutil.copytree(people.folder / "run", people.folder / "copy")
    ended = people.all([people.job(), people.job(run=str(people.folder / place))])
    assert [each.code for each in ended].count(0) >= 1
    assert people.charges() == [0, 1, 2, 3, 4]
    assert kinds(people).count("draw") == 5
    for each in ended:
        assert each.code == 0 or "noise was drawn" in each.err or "RunLockedError" in each.err


def test_a_ledger_rolled_back_to_before_a_draw_is_refused_with_the_histogram_it_drew(people) -> None:
    """Though the heads beside the key were rolled back with it."""
    assert people.work("counted", 2).killed
    people.ledger.close()
    heads = people.folder.parent / "home" / "keys"
    for place in (people.folder / "ledger.sqlite3", heads):
        backup = place.with_name(f"{place.name}.backup")
        shutil.copytree(place, backup) if place.is_dir() else shutil.copy(place, backup)
    assert people.work("stored", 2).killed
    for leftover in people.folder.glob("ledger.sqlite3-*"):
        leftover.unlink()
    os.replace(people.folder / "ledger.sqlite3.backup", people.folder / "ledger.sqlite3")
    assert "rolled back" in people.work().err
    shutil.rmtree(heads)
    os.replace(heads.with_name("keys.backup"), heads)
    ended = people.work()
    assert "this ledger drew no noise for it: it was rolled back" in ended.err
    assert kinds(people) == ["reserve", "draw"] * 2 + ["reserve"]


def test_fault_02_more_of_the_sources_budget_does_not_raise_the_claim_of_a_run_that_lost_a_charge(people) -> None:
    assert people.work("noise", 4).killed
    people.ledger.grant("people", 3.0, 1e-5)
    completed, why, _ = people.work().result
    assert completed == 3
    assert "(this run)" in why


@pytest.mark.parametrize("iteration", [0, 2])
@pytest.mark.parametrize("point", ["stored", "population"])
def test_fault_03_a_crash_after_the_write_reuses_the_histogram_free_of_charge(people, point, iteration) -> None:
    assert people.work(point, iteration).killed
    before, paid = people.histograms(), people.charges()
    assert f"{iteration:03d}" in before
    assert paid == list(range(iteration + 1))
    assert people.work().result[0] == 4
    after = people.histograms()
    assert {name: after[name] for name in before} == before
    assert people.charges() == [0, 1, 2, 3, 4]
    assert people.verified()["iterations"] == {"completed": 4, "planned": 4}


def test_fault_03_a_resumed_run_makes_of_a_stored_histogram_what_an_uninterrupted_one_would_have(people) -> None:
    def population(number: int) -> object:
        return pyarrow.parquet.read_table(people.folder / "run" / "iterations" / f"{number:03d}" / "population.parquet")

    assert people.work("population", 3).killed
    stored = people.histograms()
    assert people.work().result[0] == 4
    resumed, release = population(3), (people.folder / "run" / "release" / "synthetic.csv").read_bytes()
    # the last two iterations once more, from the same stored histograms
    for name in ("003", "004"):
        (people.folder / "run" / "iterations" / name / "population.parquet").unlink()
    assert people.work().result[0] == 4
    assert population(3).equals(resumed)
    assert (people.folder / "run" / "release" / "synthetic.csv").read_bytes() == release
    assert {name: people.histograms()[name] for name in stored} == stored


@pytest.mark.parametrize("iteration", [0, 3])
def test_a_crash_before_a_charge_has_lost_nothing(people, iteration) -> None:
    assert people.work("reserve", iteration).killed
    assert people.charges() == list(range(iteration))
    assert people.work().result[0] == 4
    assert people.charges() == [0, 1, 2, 3, 4]


def test_a_crash_before_the_release_costs_nothing(people) -> None:
    assert people.work("release").killed
    assert not (people.folder / "run" / "release").exists()
    paid = people.charges()
    assert people.work().result[0] == 4
    assert people.charges() == paid == [0, 1, 2, 3, 4]
    people.verified()


def test_a_run_killed_at_every_step_of_one_iteration_pays_once_for_each_noise_it_drew(people) -> None:
    """Each time it is resumed, only to be killed at the next step."""
    for point in ("reserve", "commit", "count", "counted", "noise", "commit", "drawing", "stored", "population"):
        if point == "population":
            drawn = people.histograms()["001"]
        assert people.work(point, 1).killed, point
    assert people.histograms()["001"] == drawn
    assert people.charges() == [0, 1, 1, 1]  # for "noise", "drawing" and "stored"
    assert people.work().result[0] == 3  # two more charges of iteration 1, the cheapest, cost the last iteration
    assert people.charges() == [0, 1, 1, 1, 2, 3]


@pytest.mark.parametrize("point", ["vary", "api"])
def test_fault_25_an_api_that_fails_halfway_through_an_iteration_costs_no_second_charge(people, point) -> None:
    """At the second of two variations: once with the process, once with an exception."""
    ended = people.work(point, 2)
    assert ended.killed if point == "vary" else "APIError" in ended.err
    before = people.histograms()
    assert set(before) == {"000", "001", "002"}
    assert people.charges() == [0, 1, 2]
    assert people.work().result[0] == 4
    after = people.histograms()
    assert {name: after[name] for name in before} == before
    assert people.charges() == [0, 1, 2, 3, 4]


def test_two_processes_cannot_work_on_one_run(people) -> None:
    assert people.work("release").killed
    config, schema = stored_config(people.folder / "run"), Schema.read(people.folder / "run" / "schema.toml")
    with Run.open(people.folder / "run", config, schema, build_plan(Config.of(config), schema)):
        ended = people.work()
    assert ended.code == 1
    assert "RunLockedError" in ended.err
    assert "Nothing was spent" in ended.err
    assert Config.of(config).private.source == "people"


@pytest.mark.parametrize(
    ("point", "left"), [("full-histogram", ["000", "001"]), ("full-population", ["000", "001", "002"])]
)
def test_a_full_disk_in_the_middle_of_an_iteration_keeps_the_charge_and_says_so(people, point, left) -> None:
    """A limit on the size of files stands for the disk."""
    ended = people.work(point, 2)
    assert "RunError" in ended.err
    assert "cannot be written: File too large" in ended.err
    assert "Budget: epsilon" in ended.err
    assert people.charges() == [0, 1, 2]
    assert list(people.histograms()) == left
    assert not list((people.folder / "run").rglob("*.draft"))
