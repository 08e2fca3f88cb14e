"""Faults 4 to 13 and 23: what is spent, and what the ledger notices."""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pytest

import pe
from pe.errors import CertificateError, ConfigError, LedgerError
from pe.evolution.plan import noise_scales
from pe.privacy import Budget, Contribution, DiscreteGaussian, SubsampledGaussian
from pe.privacy.accountant import fits
from pe.privacy.certificate import read_certificate, verify
from pe.privacy.ledger import granted, spent

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "accounting.json").read_text())


def test_fault_04_many_processes_on_one_ledger_never_spend_more_than_was_granted(people) -> None:
    """Each run could be paid for alone, and all of them together could not."""
    pe.Ledger(people.folder / "ledger.sqlite3", create=True).create("people", Budget(1.0, 1e-5, "add-remove"))
    people.settings |= {"epsilon": 0.7, "create": False}
    ended = people.all([people.job(run=str(people.folder / f"run{number}")) for number in range(6)])
    chain = people.ledger.chain("people")
    assert fits(spent(chain), granted(chain).limit)
    drawn = sum(len(people.histograms(f"run{number}")) for number in range(6))
    assert drawn == len(people.charges()) > 0
    assert all(each.code == 0 or "BudgetExceededError" in each.err for each in ended), [each.err for each in ended]
    assert any("BudgetExceededError" in each.err or each.result[1] for each in ended)


def garbage(path: Path) -> None:
    path.write_bytes(b"not a database, " * 512)


def torn(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:4096] + bytes(len(content) - 4096))


@pytest.mark.parametrize("damage", [garbage, torn])
def test_fault_05_a_torn_ledger_is_refused_before_private_data_are_read(people, damage) -> None:
    assert people.work("stored", 2).killed
    before = people.histograms()
    people.ledger.close()
    for leftover in people.folder.glob("ledger.sqlite3-*"):
        leftover.unlink()
    damage(people.folder / "ledger.sqlite3")
    (people.folder / "private.csv").unlink()  # nothing asks for it
    ended = people.work()
    assert "LedgerError" in ended.err
    assert people.histograms() == before


def test_fault_06_a_full_disk_at_the_reservation_stops_before_the_private_data(people) -> None:
    """The worker dies, should anything be counted after the charge that could not be written."""
    ended = people.work("full-reserve", 2)
    assert ended.code == 1
    assert "LedgerError" in ended.err
    assert people.charges() == [0, 1]
    assert set(people.histograms()) == {"000", "001"}
    assert people.work().result[0] == 4
    assert people.charges() == [0, 1, 2, 3, 4]


def test_fault_07_a_deleted_ledger_is_an_error_even_with_leave_to_create_one(people) -> None:
    assert people.work("stored", 2).killed
    for file in people.folder.glob("ledger.sqlite3*"):
        file.unlink()
    ended = people.work()
    assert "LedgerError" in ended.err
    assert not (people.folder / "ledger.sqlite3").exists()


@pytest.mark.parametrize("key", ["same key", "other key"])
def test_fault_07_a_run_does_not_go_on_with_another_ledger(people, monkeypatch, key: str) -> None:
    """Its certificate would claim what that ledger does not know of."""
    assert people.work("stored", 2).killed
    before = people.histograms()
    if key == "other key":
        monkeypatch.setenv("PE_LEDGER_KEY", str(people.folder / "other" / "key"))
    ended = people.work(ledger=str(people.folder / "new.sqlite3"))
    assert "LedgerError" in ended.err or "RunMismatchError" in ended.err
    assert "Nothing was spent" in ended.err
    assert people.histograms() == before
    assert not (people.folder / "run" / "release").exists()


def test_fault_08_a_ledger_rolled_back_is_noticed_by_its_witness_and_by_the_last_certificate(people) -> None:
    people.settings |= {"iterations": 2}
    assert people.work("stored", 1).killed
    people.ledger.close()
    shutil.copy(people.folder / "ledger.sqlite3", people.folder / "copy")
    assert people.work().result[0] == 2
    for file in people.folder.glob("ledger.sqlite3*"):
        file.unlink()
    shutil.copy(people.folder / "copy", people.folder / "ledger.sqlite3")
    assert "rolled back" in people.work(run=str(people.folder / "second")).err
    # should the witness be gone too, the certificate remembers
    shutil.rmtree(next((people.folder.parent / "home" / "keys").glob("*.heads")))
    release = people.folder / "run" / "release"
    with pytest.raises((CertificateError, LedgerError)):
        verify(read_certificate(release / "certificate.json"), folder=release, ledger=people.ledger)


@pytest.mark.parametrize(("old", "new"), [('"iteration":2', '"iteration":1'), ('"sensitivity_squared":"1"', '"x":"1"')])
def test_fault_09_an_edited_row_is_refused_by_the_ledger_and_by_verify(people, old: str, new: str) -> None:
    assert people.work().result[0] == 4
    release = people.folder / "run" / "release"
    certificate = read_certificate(release / "certificate.json")
    with closing(sqlite3.connect(people.folder / "ledger.sqlite3")) as connection, connection:
        edit = "UPDATE entries SET body = replace(body, ?, ?) WHERE body LIKE ?"
        assert connection.execute(edit, (old, new, f"%{old}%")).rowcount
    assert "LedgerError" in people.work(run=str(people.folder / "second")).err
    with pytest.raises((CertificateError, LedgerError)):
        verify(certificate, folder=release, ledger=people.ledger)
    for row in certificate["entries"]:
        if row["kind"] == "reserve":
            row["iteration"] += 1
    with pytest.raises(CertificateError, match="was altered"):
        verify(certificate, folder=release)


def test_fault_10_the_same_data_under_an_alias_are_warned_about(people) -> None:
    """By content: whatever the file is called, in whichever format, and also from memory."""
    people.settings |= {"iterations": 1}
    assert people.work().result[2] == []
    table = pyarrow.csv.read_csv(people.folder / "private.csv")
    pa.parquet.write_table(table, people.folder / "copy.parquet")
    (warning,) = people.work(
        source="alias", data=str(people.folder / "copy.parquet"), run=str(people.folder / "alias")
    ).result[2]
    assert "source 'people' was charged for the same data" in warning
    keys = people.settings | {"data": table, "source": "memory", "run": people.folder / "memory"}
    assert any("'people'" in warning and "same data" in warning for warning in pe.synthesize(**keys).warnings)
    assert people.work(source="another", data=table_with_one_more(people), run=str(people.folder / "more")).result


def table_with_one_more(people) -> str:
    path = people.folder / "more.csv"
    path.write_text((people.folder / "private.csv").read_text() + "30,a\n")
    return str(path)


def test_fault_11_data_that_changed_go_on_summing_under_the_same_source(people) -> None:
    people.settings |= {"iterations": 1}
    assert people.work(epsilon=0.5).code == 0
    first = spent(people.ledger.chain("people"))
    changed = {"data": table_with_one_more(people), "run": str(people.folder / "second"), "epsilon": 0.4}
    assert "BudgetExceededError" in people.work(**changed).err
    assert spent(people.ledger.chain("people")) == first
    people.ledger.grant("people", 1.0, 1e-5)
    assert people.work(**changed).code == 0
    chain = people.ledger.chain("people")
    assert spent(chain)[0] > first[0]
    assert people.charges() == [0, 1, 0, 1]


def test_fault_11_a_run_whose_data_changed_is_not_resumed(people) -> None:
    assert people.work("population", 3).killed
    shutil.copy(table_with_one_more(people), people.folder / "private.csv")
    assert "RunMismatchError: the private data changed" in people.work().err.replace("pe.errors.", "")
    assert people.charges() == [0, 1, 2, 3]


NOT_POSITIVE = [math.nan, math.inf, -math.inf, 0, 0.0, -1, -0.0]


@pytest.mark.parametrize("value", NOT_POSITIVE, ids=repr)
def test_fault_12_unusable_epsilon_delta_rounds_and_sigma_are_refused_at_the_type(people, value: float) -> None:
    for setting in ("epsilon", "delta", "iterations", "user_norm"):
        keys = people.settings | {setting: value} | ({"user": "id"} if setting == "user_norm" else {})
        with pytest.raises(ConfigError, match="Nothing was spent"):
            pe.synthesize(**keys)
    for make in (
        lambda: DiscreteGaussian(value, Fraction(1)),
        lambda: DiscreteGaussian(Fraction(1), value),
        lambda: SubsampledGaussian(value, Fraction(1), 1),
        lambda: SubsampledGaussian(Fraction(1), value, 1),
        lambda: Contribution((value,)),
        lambda: Contribution(norm=value),
        lambda: pe.Round(value, 1),
    ):
        with pytest.raises(ConfigError, match="Nothing was spent"):
            make()
    assert not (people.folder / "ledger.sqlite3").exists()
    assert not (people.folder / "run").exists()


@pytest.mark.parametrize("adjacency", ["add-remove", "replace-one"])
def test_fault_13_exactly_T_rounds_fit_every_reference_budget_and_one_more_does_not(adjacency: str) -> None:
    """Sums of exact rationals, from noise that the plan rounded; the limit never passes the one at 80 digits."""
    seen = 0
    for epsilon, rounds, delta, _, mu in VECTORS["calibration"]:
        budget = Budget(float(epsilon), float(delta), adjacency) if float(delta) >= 2.0**-90 else None
        if budget is None or int(rounds) > 100:
            continue
        assert budget.limit[0] <= int(rounds) * Fraction(mu) ** 2 * (1 + Fraction(1, 10**15))
        sigmas = noise_scales(budget, [1.0] * int(rounds), [Contribution()] * int(rounds))
        mechanisms = [DiscreteGaussian(sigma, rule.sensitivity_squared(budget.adjacency)) for sigma, rule in sigmas]
        total = sum(mechanism.mu_squared for mechanism in mechanisms)
        assert fits((total,), budget.limit)
        assert not fits((total + mechanisms[0].mu_squared,), budget.limit)
        seen += 1
    assert seen > 30


def test_fault_23_every_retry_second_run_and_best_of_k_is_charged(people) -> None:
    people.settings |= {"epsilon": 0.3, "iterations": 1}
    one = people.work()
    assert one.code == 0
    cost = spent(people.ledger.chain("people"))[0]
    for number in range(3):
        people.ledger.grant("people", 0.3 + 0.3 * (number + 1), 1e-5)
        assert people.work(run=str(people.folder / f"again{number}"), seed=number).code == 0
        assert spent(people.ledger.chain("people"))[0] == (number + 2) * cost
    shutil.rmtree(people.folder / "run")  # to try once more in the same place
    people.ledger.grant("people", 2.0, 1e-5)
    assert people.work().code == 0
    assert spent(people.ledger.chain("people"))[0] == 5 * cost
    assert people.charges() == [0, 1] * 5
    rows = people.verified()["entries"]
    assert sum(row["kind"] == "reserve" for row in rows) == 10  # the certificate shows the other tries
