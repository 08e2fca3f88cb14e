"""The ledger: budgets bind, charges last, and every way of losing or changing it is noticed."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest

from pe.errors import BudgetExceededError, ConfigError, LedgerError, UnknownSourceError
from pe.privacy import Account, Adjacency, Budget, DiscreteGaussian, Ledger, Votes, release
from pe.privacy.discrete_gaussian import sigma_for
from pe.privacy.ledger import canonical, charges, declared, entry_hash, granted, spent

ONE = Fraction(1)
BUDGET = Budget(1.0, 1e-6, Adjacency.ADD_REMOVE)
COARSE = DiscreteGaussian(Fraction(40), ONE)  # about epsilon 0.1 at delta 1e-6
WHOLE = DiscreteGaussian(sigma_for(BUDGET.limit[0], ONE), ONE)  # all of BUDGET

ZEROS = Votes(lambda: np.zeros(3, np.int64), 3, ONE, Adjacency.ADD_REMOVE)

Python = Callable[..., CompletedProcess[str]]


def charge(
    account: Account, mechanism: DiscreteGaussian = COARSE, iteration: int = 1, bins: int = 3, attempt: str = ""
) -> str:
    attempt = attempt or secrets.token_hex(16)
    return account.reserve(mechanism, purpose="votes", iteration=iteration, bins=bins, attempt=attempt)


def reopened(ledger: Ledger, tmp_path: Path) -> Ledger:
    return Ledger(ledger.path, key=tmp_path / "keys" / "ledger.key")


def execute(ledger: Ledger, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(ledger.path)) as connection, connection:
        assert connection.execute(statement, values).rowcount == 1


# -- grants and charges --------------------------------------------------------------------------------------------


def test_a_charge_is_recorded_with_all_that_it_paid_for(account: Account) -> None:
    digest = charge(account, DiscreteGaussian(Fraction(81, 2), Fraction(2)), iteration=4, attempt="a4")
    entry = account.ledger.chain("source")[-1]
    assert (entry.hash, entry.kind, entry.number) == (digest, "reserve", 1)
    body = dict(entry.body)
    assert body.pop("time").endswith("Z")
    assert Fraction(body.pop("cost")[0]) == account.spent()[0] > Fraction(2) / Fraction(81, 2) ** 2
    assert body == {
        "run": "run",
        "config": "config",
        "iteration": 4,
        "purpose": "votes",
        "attempt": "a4",
        "mechanism": "discrete gaussian",
        "bins": 3,
        "grid": 1,
        "question": "",
        "sensitivity_squared": "2",
        "sigma": "81/2",
        "run_epsilon": 1.0,
        "run_delta": 1e-6,
    }


def test_a_charge_beyond_the_runs_budget_is_refused_and_leaves_no_trace(account: Account) -> None:
    account.ledger.grant("source", 4.0, 1e-6)
    charge(account, WHOLE)
    before = account.ledger.chain("source")
    with pytest.raises(BudgetExceededError, match=r"\(this run\).*Nothing was charged or released for it"):
        charge(account)
    assert account.ledger.chain("source") == before


def test_a_charge_beyond_the_sources_grant_is_refused_whichever_run_spent_it(ledger: Ledger, account: Account) -> None:
    charge(account, WHOLE)
    other = ledger.account("source", run="second run", budget=BUDGET, config="config")
    with pytest.raises(BudgetExceededError, match=r"source 'source'.*Nothing was charged or released for it"):
        charge(other)
    assert other.spent() == (0,)


def test_raising_the_grant_lets_another_run_spend_the_difference(ledger: Ledger, account: Account) -> None:
    charge(account, WHOLE)
    ledger.grant("source", 1.5, 1e-6)
    charge(ledger.account("source", run="second run", budget=BUDGET, config="config"))
    assert granted(ledger.chain("source")).epsilon == 1.5
    assert [entry.kind for entry in ledger.chain("source")] == ["grant", "reserve", "grant", "reserve"]


def test_sources_do_not_share_a_budget(ledger: Ledger, account: Account) -> None:
    charge(account, WHOLE)
    ledger.create("other", BUDGET)
    charge(ledger.account("other", run="run", budget=BUDGET, config="config"), WHOLE)
    assert ledger.sources() == ["other", "source"]


def test_a_grant_below_what_was_spent_is_refused(ledger: Ledger, account: Account) -> None:
    charge(account, WHOLE)
    with pytest.raises(LedgerError, match=r"has spent epsilon 1 .*The grant stays epsilon 1 .*Nothing was spent"):
        ledger.grant("source", 0.5, 1e-6)
    with pytest.raises(LedgerError, match="Nothing was spent"):
        ledger.grant("source", 1.0, 1e-9)
    assert granted(ledger.chain("source")) == BUDGET


def test_a_grant_keeps_the_adjacency(ledger: Ledger) -> None:
    ledger.create("source", Budget(1.0, 1e-6, Adjacency.REPLACE_ONE))
    ledger.grant("source", 2.0, 1e-6)
    assert granted(ledger.chain("source")).adjacency is Adjacency.REPLACE_ONE


def test_a_source_is_created_once(ledger: Ledger, account: Account) -> None:
    with pytest.raises(LedgerError, match=r"already has a budget.*Nothing was spent"):
        ledger.create("source", Budget(9.0, 1e-6, Adjacency.ADD_REMOVE))
    assert granted(ledger.chain("source")) == BUDGET


@pytest.mark.parametrize("name", ["", "  "])
def test_a_source_has_a_name(ledger: Ledger, name: str) -> None:
    with pytest.raises(ConfigError, match="Nothing was spent"):
        ledger.create(name, BUDGET)


def test_a_source_without_a_budget_cannot_be_used(ledger: Ledger) -> None:
    for use in (
        lambda: ledger.chain("unknown"),
        lambda: ledger.grant("unknown", 1.0, 1e-6),
        lambda: ledger.account("unknown", run="run", budget=BUDGET, config=""),
    ):
        with pytest.raises(UnknownSourceError, match=r"pe budget create unknown.*Nothing was spent"):
            use()


def test_a_run_under_another_adjacency_is_refused(ledger: Ledger, account: Account) -> None:
    with pytest.raises(LedgerError, match=r"add-remove.*replace-one.*Nothing was spent"):
        ledger.account("source", run="run", budget=Budget(1.0, 1e-6, Adjacency.REPLACE_ONE), config="")


def test_equal_data_under_another_name_is_noticed(ledger: Ledger, account: Account) -> None:
    ledger.create("alias", BUDGET)
    print_ = ledger.fingerprint(b"content")
    assert ledger.bind("source", "run 1", print_) == (None, [])
    assert ledger.bind("source", "run 1", print_) == (print_, [])
    assert ledger.bind("alias", "run 2", print_) == (None, ["source"])
    assert ledger.bind("alias", "run 3", ledger.fingerprint(b"other content")) == (None, [])


def test_a_fingerprint_means_nothing_without_the_key(ledger: Ledger, tmp_path: Path) -> None:
    other = Ledger(tmp_path / "b.sqlite3", key=tmp_path / "keys" / "b.key", create=True)
    assert ledger.fingerprint(b"content") != other.fingerprint(b"content")
    assert hashlib.sha256(b"content").hexdigest() not in ledger.fingerprint(b"content")


# -- schemas -------------------------------------------------------------------------------------------------------


def test_a_source_is_declared_under_one_schema(ledger: Ledger, account: Account) -> None:
    assert declared(ledger.chain("source")) is None
    ledger.declare("source", "a" * 64)
    ledger.declare("source", "a" * 64)
    charge(account)
    with pytest.raises(LedgerError, match=r"another schema \(aaaaaaaaaaaa, .*pe budget schema source.*Nothing was"):
        ledger.declare("source", "b" * 64)
    assert [entry.kind for entry in ledger.chain("source")] == ["grant", "schema", "reserve"]
    ledger.declare("source", "b" * 64, replace=True)
    ledger.declare("source", "b" * 64)
    chain = ledger.chain("source")
    assert declared(chain) == "b" * 64
    assert len(chain) == 4
    assert (granted(chain), spent(chain)) == (BUDGET, (COARSE.mu_squared,))


def test_a_schema_under_which_nothing_was_charged_binds_nobody(ledger: Ledger, account: Account) -> None:
    """A misspelt column costs no amendment."""
    ledger.declare("source", "a" * 64)
    ledger.declare("source", "b" * 64)
    charge(account)
    with pytest.raises(LedgerError, match="another schema"):
        ledger.declare("source", "a" * 64)
    assert declared(ledger.chain("source")) == "b" * 64


def test_a_schema_is_declared_for_a_source_that_has_a_budget(ledger: Ledger) -> None:
    with pytest.raises(UnknownSourceError, match="Nothing was spent"):
        ledger.declare("unknown", "a" * 64)


# -- attempts ------------------------------------------------------------------------------------------------------


def test_an_attempt_is_charged_once(account: Account) -> None:
    first = charge(account, attempt="a")
    charge(account)
    assert charge(account, attempt="a") == first
    assert account.spent() == (2 * COARSE.mu_squared,)


def test_an_attempt_that_was_charged_is_returned_even_when_nothing_is_left(account: Account) -> None:
    assert charge(account, WHOLE, attempt="a") == charge(account, WHOLE, attempt="a")
    with pytest.raises(BudgetExceededError):
        charge(account, WHOLE, attempt="b")


def test_a_new_attempt_at_the_same_iteration_is_a_new_charge(account: Account) -> None:
    assert charge(account, attempt="a") != charge(account, attempt="b")
    assert account.spent() == (2 * COARSE.mu_squared,)


def test_attempts_of_other_iterations_purposes_and_runs_are_others(ledger: Ledger, account: Account) -> None:
    other = ledger.account("source", run="second run", budget=BUDGET, config="config")
    hashes = {charge(account, attempt="a"), charge(account, attempt="a", iteration=2), charge(other, attempt="a")}
    hashes.add(account.reserve(COARSE, purpose="labels", iteration=1, bins=3, attempt="a"))
    assert len(hashes) == 4 == spent(ledger.chain("source"))[0] / COARSE.mu_squared


@pytest.mark.parametrize(
    ("mechanism", "bins"),
    [
        (DiscreteGaussian(Fraction(39), ONE), 3),
        (DiscreteGaussian(Fraction(40), Fraction(2)), 3),
        (COARSE, 4),
    ],
)
def test_an_attempt_cannot_pay_for_another_release(account: Account, mechanism: DiscreteGaussian, bins: int) -> None:
    charge(account, attempt="a")
    with pytest.raises(LedgerError, match=r"attempt a at iteration 1 was charged for another release.*Nothing was"):
        charge(account, mechanism, bins=bins, attempt="a")
    assert account.spent() == (COARSE.mu_squared,)


def test_an_attempt_has_an_id(account: Account) -> None:
    with pytest.raises(ConfigError, match="Nothing was spent"):
        account.reserve(COARSE, purpose="votes", iteration=1, bins=3, attempt="")


def test_the_file_itself_refuses_a_second_charge_of_an_attempt(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    charge(account, attempt="a")
    monkeypatch.setattr("pe.privacy.ledger._paid", lambda *_: None)
    with pytest.raises(LedgerError, match="UNIQUE constraint failed"):
        charge(account, attempt="a")
    assert account.spent() == (COARSE.mu_squared,)


# -- files ---------------------------------------------------------------------------------------------------------


def test_the_ledger_and_its_key_are_for_their_owner_alone(ledger: Ledger, tmp_path: Path) -> None:
    assert ledger.path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "keys" / "ledger.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700


def test_a_committed_charge_is_on_the_disk(ledger: Ledger) -> None:
    """SQLite: in WAL mode only synchronous = FULL (2) or more syncs every commit."""
    with ledger._connect() as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone()[0] >= 2


def test_the_environment_names_the_ledger_and_its_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PE_LEDGER", str(tmp_path / "here" / "l"))
    monkeypatch.setenv("PE_LEDGER_KEY", str(tmp_path / "there" / "k"))
    assert Ledger(create=True).path == tmp_path / "here" / "l"
    assert len(bytes.fromhex((tmp_path / "there" / "k").read_text())) == 32


def test_the_default_places_are_the_users_data_and_configuration(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("PE_LEDGER")
    monkeypatch.delenv("PE_LEDGER_KEY")
    assert Ledger(create=True).path == tmp_path / "home" / "data" / "pe" / "ledger.sqlite3"
    assert (tmp_path / "home" / "config" / "pe" / "ledger.key").exists()


def test_a_missing_ledger_is_an_error_unless_creation_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UnknownSourceError, match=r"no ledger at .*Nothing was spent"):
        Ledger(tmp_path / "missing.sqlite3", key=tmp_path / "key")
    assert not (tmp_path / "missing.sqlite3").exists()
    assert not (tmp_path / "key").exists()


def test_a_missing_key_is_an_error_even_when_creation_is_asked_for(ledger: Ledger, tmp_path: Path) -> None:
    """A new key would make every old entry look altered."""
    key = tmp_path / "keys" / "ledger.key"
    key.unlink()
    for create in (False, True):
        with pytest.raises(LedgerError, match=r"key is missing.*Nothing was spent"):
            Ledger(ledger.path, key=key, create=create)
    assert not key.exists()


@pytest.mark.parametrize("content", ["", "zz", "00" * 31, "00" * 33])
def test_a_damaged_key_is_an_error(ledger: Ledger, tmp_path: Path, content: str) -> None:
    (tmp_path / "keys" / "ledger.key").write_text(content)
    with pytest.raises(LedgerError, match="Nothing was spent"):
        reopened(ledger, tmp_path)


def test_a_key_that_cannot_be_read_is_an_error(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(LedgerError, match=r"cannot be read \(IsADirectoryError\)"):
        Ledger(ledger.path, key=tmp_path / "directory")


def test_another_key_does_not_open_the_ledger(ledger: Ledger, account: Account, tmp_path: Path) -> None:
    Ledger(tmp_path / "other.sqlite3", key=tmp_path / "other" / "key", create=True)
    for create in (False, True):
        with pytest.raises(LedgerError, match=r"belongs to another key.*Nothing was spent"):
            Ledger(ledger.path, key=tmp_path / "other" / "key", create=create)


# -- tampering -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "edit",
    [
        "body = replace(body, '\"iteration\":1', '\"iteration\":2')",
        'body = replace(body, \'"sensitivity_squared":"1"\', \'"sensitivity_squared":"0"\')',
        "kind = 'grant'",
        "source = 'elsewhere'",
        "number = 7",
        "previous = ''",
        "hash = 'x' || substr(hash, 2)",
        "mac = 'x' || substr(mac, 2)",
    ],
)
def test_an_edited_entry_is_noticed_before_anything_is_charged(ledger: Ledger, account: Account, edit: str) -> None:
    charge(account)
    execute(ledger, f"UPDATE entries SET {edit} WHERE number = 1")
    for use in (
        lambda: ledger.chain("source"),
        lambda: charge(account),
        lambda: ledger.grant("source", 2.0, 1e-6),
        lambda: ledger.account("source", run="run", budget=BUDGET, config=""),
    ):
        with pytest.raises(LedgerError, match=r"altered|rolled back"):
            use()


def test_an_entry_rewritten_with_a_fitting_hash_still_lacks_its_mac(ledger: Ledger, account: Account) -> None:
    charge(account, WHOLE)
    first, entry = ledger.chain("source")
    body = entry.body | {"cost": ["0"]}
    digest = entry_hash(first.hash, "source", 1, "reserve", body)
    execute(ledger, "UPDATE entries SET body = ?, hash = ? WHERE number = 1", canonical(body), digest)
    with pytest.raises(LedgerError, match="altered"):
        charge(account)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_deleted_entry_is_noticed(ledger: Ledger, account: Account, number: int) -> None:
    charge(account)
    charge(account)
    execute(ledger, "DELETE FROM entries WHERE number = ?", number)
    with pytest.raises(LedgerError, match=r"altered|rolled back"):
        charge(account)


def test_a_deleted_ledger_is_noticed(ledger: Ledger, account: Account, tmp_path: Path) -> None:
    charge(account)
    ledger.path.unlink()
    with pytest.raises(LedgerError, match=r"is gone although budget was spent.*Nothing was spent"):
        Ledger(ledger.path, key=tmp_path / "keys" / "ledger.key", create=True)
    with pytest.raises(LedgerError):
        reopened(ledger, tmp_path)
    with pytest.raises(LedgerError):
        charge(account)


def test_a_ledger_replaced_by_an_empty_one_is_noticed(ledger: Ledger, account: Account, tmp_path: Path) -> None:
    charge(account)
    ledger.close()
    ledger.path.write_bytes(b"")
    for create in (False, True):
        with pytest.raises(LedgerError, match=r"is gone although budget was spent.*Nothing was spent"):
            Ledger(ledger.path, key=tmp_path / "keys" / "ledger.key", create=create)
    with pytest.raises(LedgerError, match="is gone although budget was spent"):
        charge(account)


def test_a_ledger_restored_from_an_older_copy_is_noticed(ledger: Ledger, account: Account, tmp_path: Path) -> None:
    charge(account)
    ledger.close()
    shutil.copy(ledger.path, tmp_path / "copy")
    charge(account)
    ledger.close()
    shutil.copy(tmp_path / "copy", ledger.path)
    with pytest.raises(LedgerError, match=r"rolled back: source 'source' had 3 entries or more, now 2"):
        charge(account)


def test_a_ledger_rolled_back_and_continued_is_noticed(ledger: Ledger, account: Account, tmp_path: Path) -> None:
    """As on a second machine with the same key: the entry the witness remembers is not in this chain."""
    charge(account)
    ledger.close()
    shutil.copy(ledger.path, tmp_path / "copy.sqlite3")
    shutil.copytree(tmp_path / "keys", tmp_path / "keys2")
    charge(account, iteration=2)
    ledger.close()
    shutil.copy(tmp_path / "copy.sqlite3", ledger.path)
    there = Ledger(ledger.path, key=tmp_path / "keys2" / "ledger.key")
    there_account = there.account("source", run="run", budget=BUDGET, config="config")
    charge(there_account, iteration=3)
    charge(there_account, iteration=4)
    with pytest.raises(LedgerError, match="rolled back"):
        charge(account)


@pytest.mark.parametrize("content", ["", "5", "[1]", "{}", '["x", "y"]'])
def test_a_damaged_witness_is_an_error(account: Account, tmp_path: Path, content: str) -> None:
    (witness,) = (tmp_path / "keys" / "ledger.key.heads").rglob("*.json")
    witness.write_text(content)
    with pytest.raises(LedgerError, match="Nothing was spent"):
        charge(account)


def test_a_witness_that_is_behind_is_no_error(account: Account, tmp_path: Path) -> None:
    """A crash between the commit and the witness loses the latter's update only."""
    (witness,) = (tmp_path / "keys" / "ledger.key.heads").rglob("*.json")
    before = witness.read_text()
    charge(account)
    witness.write_text(before)
    charge(account)
    assert len(account.ledger.chain("source")) == 3
    assert witness.read_text().startswith("[2,")


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_witness_that_cannot_be_written_is_noticed_before_the_charge(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pe.privacy.witness.os.fsync", full)
    with pytest.raises(LedgerError, match="Nothing was spent by this call"):
        charge(account)
    monkeypatch.undo()
    assert charges(account.ledger.chain("source")) == []


def test_a_witness_that_fails_all_the_same_says_that_the_charge_stays(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pe.privacy.witness.Witness.rehearse", lambda *_: None)
    monkeypatch.setattr("pe.privacy.witness.os.fsync", full)
    with pytest.raises(LedgerError, match="stays spent"):
        charge(account)
    monkeypatch.undo()
    assert account.spent() == (COARSE.mu_squared,)


def test_a_release_whose_witness_failed_once_is_charged_once(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = iter([OSError(28, "No space left on device")])
    monkeypatch.setattr("pe.privacy.witness.Witness.rehearse", lambda *_: None)
    sync = os.fsync

    def full_once(descriptor: int) -> None:
        for failure in failures:
            raise failure
        sync(descriptor)

    monkeypatch.setattr("pe.privacy.witness.os.fsync", full_once)
    histogram = release(ZEROS, Fraction(40), account=account, iteration=1)
    assert next(failures, None) is None
    assert [entry.hash for entry in charges(account.ledger.chain("source"))] == [histogram.entry]


class Unsure(sqlite3.Connection):
    """A connection whose commits fail as if the disk could not be synchronised, having written all or nothing."""

    written = True
    failures = 1

    def commit(self) -> None:
        if not self.in_transaction or Unsure.failures == 0:
            return super().commit()
        Unsure.failures -= 1
        if self.written:
            super().commit()
        else:
            self.rollback()
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorname = "SQLITE_IOERR_FSYNC"
        raise error


@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("failures", [1, 2])
def test_a_commit_of_unknown_outcome_is_retried_and_charged_once(
    account: Account, monkeypatch: pytest.MonkeyPatch, written: bool, failures: int
) -> None:
    account.ledger.close()
    connect = sqlite3.connect
    monkeypatch.setattr(Unsure, "written", written)
    monkeypatch.setattr(Unsure, "failures", failures)
    monkeypatch.setattr("pe.privacy.store.sqlite3.connect", lambda *a, **k: connect(*a, factory=Unsure, **k))
    if failures == 1:
        histogram = release(ZEROS, Fraction(40), account=account, iteration=1)
        assert histogram.entry == charges(account.ledger.chain("source"))[-1].hash
        assert account.spent() == (COARSE.mu_squared,)
        return
    votes = Votes(lambda: pytest.fail("private data was read"), 3, ONE, Adjacency.ADD_REMOVE)
    if written:  # the second time the entry is found, and the empty transaction has nothing to lose
        monkeypatch.setattr("pe.privacy.ledger._paid", lambda *_: None)
    with pytest.raises(LedgerError, match=r"UNIQUE|could not confirm an entry .*may be spent"):
        release(votes, Fraction(40), account=account, iteration=1)
    assert account.spent() == (COARSE.mu_squared if written else 0,)
