"""Orders outside a run (bought schemas, charged evaluations) killed at every step: paid for once, or said."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from pe.privacy.ledger import charges
from pe.run import read_histogram

WANTED = """
[columns.age]
type = "integer"
bounds = "buy"
within = [0, 1000]
"""


@pytest.fixture
def buy(people):
    """``pe init --from-private`` in a process of its own, with a fault at a point of the purchase."""
    (people.folder / "wanted.toml").write_text(WANTED)

    def command(folder: str, *more: object, point: str | None = None):
        how = ["--from-private", people.folder / "private.csv", "--schema", people.folder / "wanted.toml"]
        how += ["--source", "people", "--epsilon", 4, "--delta", 1e-5, "--adjacency", "add-remove", "--create"]
        how += ["--ledger", people.folder / "ledger.sqlite3"]
        fault = (point, 0) if point else None
        return people.command("init", people.folder / folder, *how, *more, fault=fault)

    return command


def answers(people) -> list[Path]:
    return sorted((people.folder / "ledger.sqlite3.answers").glob("*/*/*.npz"))


def test_a_purchase_is_paid_for_once_however_often_it_is_asked_for(people, buy) -> None:
    assert buy("a").code == 0
    (stored,) = answers(people)
    content = stored.read_bytes()
    for place in (stored.parent, stored.parent.parent, stored.parent.parent.parent):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert buy("b").code == 0
    assert people.charges() == [0]
    assert (people.folder / "a" / "schema.toml").read_bytes() == (people.folder / "b" / "schema.toml").read_bytes()
    assert answers(people) == [stored]
    assert stored.read_bytes() == content
    assert buy("c", "--again").code == 0  # nothing was lost, so nothing is paid again
    assert people.charges() == [0]


def test_a_purchase_killed_before_its_charge_has_lost_nothing(people, buy) -> None:
    assert buy("a", point="reserve").killed
    assert people.charges() == []
    assert buy("a").code == 0
    assert people.charges() == [0]


def test_a_purchase_killed_after_its_answer_was_stored_is_free(people, buy) -> None:
    assert buy("a", point="stored").killed
    assert not (people.folder / "a" / "schema.toml").exists()
    (stored,) = answers(people)
    content = stored.read_bytes()
    assert buy("a").code == 0
    assert people.charges() == [0]
    assert stored.read_bytes() == content


@pytest.mark.parametrize("point", ["commit", "count", "counted"])
def test_a_purchase_killed_before_its_noise_was_drawn_is_finished_under_its_charge(people, buy, point) -> None:
    assert buy("a", point=point).killed
    assert (people.charges(), answers(people)) == ([0], [])
    assert buy("a").code == 0
    assert people.charges() == [0]
    (stored,) = answers(people)
    (charge,) = charges(people.ledger.chain("people"))
    assert read_histogram(stored).entry == charge.hash


@pytest.mark.parametrize("point", ["draw-commit", "drawing", "noise", "draft"])
def test_a_purchase_killed_after_its_charge_stays_spent_and_is_never_silently_paid_again(people, buy, point) -> None:
    assert buy("a", point=point).killed
    assert people.charges() == [0]
    assert answers(people) == []
    refused = buy("a")
    assert refused.code == 1
    assert "paid for before" in refused.err
    assert "--again" in refused.err
    assert people.charges() == [0]
    assert buy("a", "--again").code == 3  # the source was granted this once
    assert people.charges() == [0]
    people.ledger.grant("people", 8.0, 1e-5)
    assert buy("a").code == 1
    assert buy("a", "--again").code == 0
    assert buy("b").code == 0
    assert people.charges() == [0, 0]
    assert len({entry.body["run"] for entry in charges(people.ledger.chain("people"))}) == 2


def test_an_answer_that_was_taken_away_or_damaged_is_not_drawn_again(people, buy) -> None:
    assert buy("a").code == 0
    (stored,) = answers(people)
    os.rename(stored, people.folder / "aside.npz")
    assert "its answer is not in" in " ".join(buy("b").err.split())
    stored.write_bytes(b"PK torn")
    assert "is damaged" in " ".join(buy("b").err.split())
    os.replace(people.folder / "aside.npz", stored)
    assert buy("b").code == 0
    assert people.charges() == [0]


def test_records_that_changed_are_not_answered_from_what_others_paid_for(people, buy) -> None:
    assert buy("a").code == 0
    data = people.folder / "private.csv"
    before = data.read_text()
    data.write_text(before + "33,a\n")
    refused = buy("b")
    assert (refused.code, "changed since" in " ".join(refused.err.split())) == (1, True)
    data.write_text(before)
    assert buy("b").code == 0
    assert people.charges() == [0]


def test_two_processes_do_not_pay_for_one_order_twice(people, buy) -> None:
    jobs = []
    people.send, send = (lambda given: jobs.extend(given) or [{"code": 0, "out": "", "err": ""}]), people.send
    buy("a")
    buy("b")
    people.send = send
    ended = people.all(jobs)
    assert {each.code for each in ended} <= {0, 1}
    told = [" ".join(each.err.split()) for each in ended if each.code]
    assert [text for text in told if "Nothing was spent" not in text] == []  # the lock, or the grant, was another's
    assert people.charges() == [0]
