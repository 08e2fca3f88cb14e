"""Faults 1, 2, 3 and 25: a run killed with SIGKILL at every step, and what is left: ledger, histograms, result."""

from __future__ import annotations

import pyarrow.parquet
import pytest

from pe.build import build_plan
from pe.config import Config
from pe.data.schema import Schema
from pe.privacy.accountant import fits
from pe.privacy.ledger import granted, spent
from pe.run import Run, stored_config


def test_fault_01_a_crash_between_reservation_and_noise_stays_spent(people) -> None:
    for point in ("commit", "count", "counted"):
        people.settings |= {"run": str(people.folder / point), "source": point}
        assert people.work(point, 2).killed
        assert people.charges(point) == [0, 1, 2]
        assert set(people.histograms(point)) == {"000", "001"}
        completed, why, _ = people.work().result
        # iteration 2 is paid again, and the last iteration no longer fits
        assert people.charges(point) == [0, 1, 2, 2, 3]
        assert completed == 3
        assert "iteration 4 needs epsilon" in why
        chain = people.ledger.chain(point)
        assert fits(spent(chain), granted(chain).limit)
        assert people.verified(point)["iterations"] == {"completed": 3, "planned": 4}


@pytest.mark.parametrize("point", ["noise", "draft"])
def test_fault_02_a_crash_between_noise_and_write_stays_spent_and_the_next_try_reserves_anew(people, point) -> None:
    assert people.work(point, 2).killed
    assert people.charges() == [0, 1, 2]
    before = people.histograms()
    assert set(before) == {"000", "001"}
    completed, _, _ = people.work().result
    assert completed == 3
    assert people.charges() == [0, 1, 2, 2, 3]
    after = people.histograms()
    assert {name: after[name] for name in before} == before
    assert people.verified()["iterations"] == {"completed": 3, "planned": 4}


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
    for point in ("reserve", "commit", "noise", "stored", "population"):
        if point == "population":
            drawn = people.histograms()["001"]
        assert people.work(point, 1).killed, point
    assert people.histograms()["001"] == drawn
    assert people.charges() == [0, 1, 1, 1]
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
