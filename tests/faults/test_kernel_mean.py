"""A run by kernel votes killed around its one release: the stored mean is reused, a lost one is never drawn again."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet
import pytest

KERNEL = {"method": "kernel-votes", "label_shares": {"budget_share": 0.1}, "variations": 3}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "run" / "iterations").glob("000/*.npz")}


@pytest.mark.parametrize(("point", "iteration"), [("kernel-stored", 0), ("population", 0), ("population", 2)])
def test_the_stored_mean_is_reused_free_of_charge(people, point, iteration) -> None:
    assert people.work(point, iteration, **KERNEL).killed
    before = files(people.folder)
    assert set(before) == {"histogram.npz", "kernel.npz"}
    assert people.charges() == [0, 0]
    assert people.work(**KERNEL).result[:2] == [4, ""]
    assert files(people.folder) == before
    assert people.charges() == [0, 0]
    assert people.verified()["iterations"] == {"completed": 4, "planned": 4}


def test_a_resumed_run_makes_what_an_uninterrupted_one_would_have(people) -> None:
    assert people.work(**KERNEL).result[0] == 4
    folder = people.folder / "run" / "iterations"
    notes = json.loads((folder / "notes.json").read_text())
    whole = {name: pyarrow.parquet.read_table(folder / name / "population.parquet") for name in ("003", "004")}
    for name in whole:
        (folder / name / "population.parquet").unlink()
    assert people.work(**KERNEL).result[0] == 4
    for name, population in whole.items():
        assert pyarrow.parquet.read_table(folder / name / "population.parquet").equals(population)
    assert json.loads((folder / "notes.json").read_text()) == notes


def test_a_mean_that_was_drawn_and_lost_stays_spent(people) -> None:
    assert people.work("kernel-drawn", **KERNEL).killed
    assert people.charges() == [0, 0]
    ended = people.work(**KERNEL)
    assert ended.code == 1
    assert "BudgetExceededError" in ended.err
    assert people.charges() == [0, 0]


def test_a_stored_mean_that_was_removed_is_not_drawn_again(people) -> None:
    assert people.work("population", 2, **KERNEL).killed
    (people.folder / "run" / "iterations" / "000" / "kernel.npz").unlink()
    people.ledger.grant("people", 9.0, 1e-5)
    ended = people.work(**KERNEL)
    assert "kernel.npz is missing: restore it from a backup" in ended.err
    assert "Nothing was spent by this call" in ended.err
    assert people.charges() == [0, 0]
