"""Where a ledger lies: copies, moves, duplicates, and files that are replaced while a process holds them open."""

from __future__ import annotations

import os
import secrets
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from pe.errors import LedgerError
from pe.privacy import Account, Adjacency, Budget, DiscreteGaussian, Ledger
from pe.privacy.store import FORMAT

BUDGET = Budget(1.0, 1e-6, Adjacency.ADD_REMOVE)
COARSE = DiscreteGaussian(Fraction(40), Fraction(1))

Python = Callable[..., CompletedProcess[str]]


def charge(account: Account) -> str:
    return account.reserve(COARSE, purpose="votes", iteration=1, bins=3, attempt=secrets.token_hex(16))


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "ledger.key"


@pytest.fixture
def spent(account: Account) -> Path:
    """A closed ledger with one charge."""
    charge(account)
    account.ledger.close()
    return account.ledger.path


def heads(key: Path) -> Path:
    """The witness's folder of the only ledger under the key."""
    (folder,) = (path for path in key.with_name("ledger.key.heads").iterdir() if path.is_dir())
    return folder


def account_in(path: Path, key: Path) -> Account:
    return Ledger(path, key=key).account("source", run="run", budget=BUDGET, config="config")


# -- copies and moves ----------------------------------------------------------------------------------------------


def test_a_copy_is_refused_while_the_original_is_there(spent: Path, key: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(spent, tmp_path / "copy.sqlite3"))
    for create in (False, True):
        with pytest.raises(LedgerError, match=rf"copy\.sqlite3 is a copy of the ledger {spent}.*Nothing was spent"):
            Ledger(copy, key=key, create=create)
    charge(account_in(spent, key))


def test_a_copy_that_was_used_once_its_original_was_gone_is_the_ledger(spent: Path, key: Path, tmp_path: Path) -> None:
    """It was moved; the old file, should it come back, is the copy then."""
    copy = Path(shutil.copy(spent, tmp_path / "copy.sqlite3"))
    away = spent.rename(tmp_path / "away")
    charge(account_in(copy, key))
    away.rename(spent)
    with pytest.raises(LedgerError, match=rf"is a copy of the ledger {copy}"):
        Ledger(spent, key=key)


def test_a_hard_link_is_a_copy(spent: Path, key: Path, tmp_path: Path) -> None:
    """SQLite keeps one log per name: under two names it would lose entries."""
    os.link(spent, tmp_path / "link.sqlite3")
    with pytest.raises(LedgerError, match="is a copy of the ledger"):
        Ledger(tmp_path / "link.sqlite3", key=key)


def test_a_symbolic_link_is_the_ledger_itself(spent: Path, key: Path, tmp_path: Path) -> None:
    (tmp_path / "link.sqlite3").symlink_to(spent)
    charge(account_in(tmp_path / "link.sqlite3", key))
    charge(account_in(spent, key))
    spent.rename(tmp_path / "moved.sqlite3")
    spent.symlink_to(tmp_path / "moved.sqlite3")
    assert len(account_in(spent, key).ledger.chain("source")) == 4


def test_an_original_that_cannot_be_looked_into_counts_as_there(
    spent: Path, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copy(spent, tmp_path / "copy.sqlite3"))

    def unreadable(path: Path) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pe.privacy.witness.identity_at", unreadable)
    with pytest.raises(LedgerError, match="is a copy of the ledger"):
        Ledger(copy, key=key)


def test_a_moved_ledger_goes_on_at_its_new_place(spent: Path, key: Path, tmp_path: Path) -> None:
    moved = spent.rename(tmp_path / "moved.sqlite3")
    account = account_in(moved, key)
    charge(account)
    assert len(account.ledger.chain("source")) == 3
    assert (heads(key) / "place").read_text() == f'"{moved}"'
    Ledger(spent, key=key, create=True)  # its old place is free again


def test_an_older_copy_does_not_pass_as_a_moved_ledger(account: Account, key: Path, tmp_path: Path) -> None:
    charge(account)
    account.ledger.close()
    copy = Path(shutil.copy(account.ledger.path, tmp_path / "copy.sqlite3"))
    charge(account)
    account.ledger.close()
    account.ledger.path.unlink()
    with pytest.raises(LedgerError, match=r"rolled back: source 'source' had 3 entries or more, now 2.*Nothing was"):
        Ledger(copy, key=key)
    assert (heads(key) / "place").read_text() == f'"{account.ledger.path}"'


def test_a_copy_from_before_a_source_was_made_does_not_pass_as_a_moved_ledger(
    ledger: Ledger, key: Path, tmp_path: Path
) -> None:
    ledger.close()
    copy = Path(shutil.copy(ledger.path, tmp_path / "copy.sqlite3"))
    ledger.create("source", BUDGET)
    ledger.close()
    ledger.path.unlink()
    with pytest.raises(LedgerError, match=r"rolled back: it lacks a source.*Nothing was spent"):
        Ledger(copy, key=key)


def test_a_ledger_moved_without_its_log_is_refused_until_the_log_follows(
    account: Account, key: Path, tmp_path: Path
) -> None:
    """The process that held it open was killed, so the log was never folded in."""
    charge(account)
    there = tmp_path / "there"
    there.mkdir()
    for name in ("ledger.sqlite3", "ledger.sqlite3-wal"):
        shutil.copy(account.ledger.path.with_name(name), there / name)
    account.ledger.close()
    account.ledger.path.unlink()
    log = (there / "ledger.sqlite3-wal").rename(there / "log")
    with pytest.raises(LedgerError, match="Nothing was spent"):
        Ledger(there / "ledger.sqlite3", key=key)
    log.rename(there / "ledger.sqlite3-wal")
    assert len(account_in(there / "ledger.sqlite3", key).ledger.chain("source")) == 2


def test_a_ledger_put_in_the_place_of_another_is_refused(spent: Path, key: Path, tmp_path: Path) -> None:
    other = Ledger(tmp_path / "other.sqlite3", key=key, create=True)
    other.close()
    held = Ledger(spent, key=key)
    other.path.replace(spent)
    with pytest.raises(LedgerError, match="another ledger took the place of"):
        held.sources()
    with pytest.raises(LedgerError, match=r"is gone although budget was spent.*Nothing was spent"):
        Ledger(spent, key=key)


def test_a_copy_with_its_key_but_without_the_witness_is_accepted_once(spent: Path, key: Path, tmp_path: Path) -> None:
    """What cannot be noticed from here: another machine. The certificate's head remains."""
    (tmp_path / "machine").mkdir()
    shutil.copy(key, tmp_path / "machine" / "key")
    shutil.copy(spent, tmp_path / "machine" / "l")
    assert len(account_in(tmp_path / "machine" / "l", tmp_path / "machine" / "key").ledger.chain("source")) == 2


@pytest.mark.parametrize("content", ["", "{"])
def test_a_damaged_note_of_the_place_is_an_error(spent: Path, key: Path, content: str) -> None:
    (heads(key) / "place").write_text(content)
    with pytest.raises(LedgerError, match=r"place is damaged: restore it\. Nothing was spent"):
        Ledger(spent, key=key)


def test_a_place_that_was_not_noted_before_a_crash_is_noted_at_the_next_use(spent: Path, key: Path) -> None:
    place = heads(key) / "place"
    place.unlink()
    Ledger(spent, key=key)
    assert place.read_text() == f'"{spent}"'


def test_entries_of_one_ledger_do_not_fit_into_another_under_the_same_key(
    spent: Path, key: Path, tmp_path: Path
) -> None:
    other = Ledger(tmp_path / "other.sqlite3", key=key, create=True)
    other.close()
    with closing(sqlite3.connect(other.path)) as connection, connection:
        connection.execute("ATTACH ? AS first", (str(spent),))
        connection.execute("INSERT INTO entries SELECT * FROM first.entries")
    with pytest.raises(LedgerError, match=r"entry 0 of source 'source'.*altered"):
        other.chain("source")


@pytest.mark.parametrize("edit", ["identity = hex(randomblob(16))", "mac = 'x' || substr(mac, 2)"])
def test_an_edited_identity_is_noticed(spent: Path, key: Path, edit: str) -> None:
    with closing(sqlite3.connect(spent)) as connection, connection:
        assert connection.execute(f"UPDATE meta SET {edit}").rowcount == 1
    with pytest.raises(LedgerError, match=r"identity was altered.*Nothing was spent"):
        Ledger(spent, key=key)


@pytest.mark.parametrize("rows", [0, 2])
def test_a_ledger_has_one_identity(spent: Path, key: Path, rows: int) -> None:
    with closing(sqlite3.connect(spent)) as connection, connection:
        connection.execute("DELETE FROM meta" if rows == 0 else "INSERT INTO meta SELECT * FROM meta")
    with pytest.raises(LedgerError, match=r"identity was altered.*Nothing was spent"):
        Ledger(spent, key=key)


# -- formats -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [0, FORMAT + 1])
def test_a_ledger_of_another_format_is_refused_and_left_alone(spent: Path, key: Path, version: int) -> None:
    with closing(sqlite3.connect(spent)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    before = spent.read_bytes()
    for create in (False, True):
        with pytest.raises(LedgerError, match=rf"no ledger of format {FORMAT} \(it says {version}\).*Nothing was"):
            Ledger(spent, key=key, create=create)
    assert spent.read_bytes() == before


def test_an_empty_file_becomes_a_ledger_only_when_creation_is_asked_for(ledger: Ledger, key: Path) -> None:
    """As a crash during the creation leaves it."""
    empty = ledger.path.with_name("empty")
    empty.touch()
    with pytest.raises(LedgerError, match=r"is empty: .*Nothing was spent"):
        Ledger(empty, key=key)
    Ledger(empty, key=key, create=True).create("source", BUDGET)


# -- one source, one ledger ----------------------------------------------------------------------------------------


def test_a_source_cannot_be_made_in_a_second_ledger(spent: Path, key: Path, tmp_path: Path) -> None:
    second = Ledger(tmp_path / "second.sqlite3", key=key, create=True)
    with pytest.raises(LedgerError, match=rf"has its budget in the ledger {spent}.*do not add up.*Nothing was spent"):
        second.create("source", BUDGET)
    assert second.sources() == []
    second.create("other", BUDGET)


def test_a_source_whose_witness_was_not_written_before_a_crash_is_found_in_its_ledger(
    spent: Path, key: Path, tmp_path: Path
) -> None:
    (witness,) = heads(key).glob("*.json")
    witness.unlink()
    with pytest.raises(LedgerError, match=f"has its budget in the ledger {spent}"):
        Ledger(tmp_path / "second.sqlite3", key=key, create=True).create("source", BUDGET)


def test_a_source_of_a_lost_ledger_is_given_up_on_purpose_only(spent: Path, key: Path, tmp_path: Path) -> None:
    record = heads(key)
    spent.unlink()
    second = Ledger(tmp_path / "second.sqlite3", key=key, create=True)
    with pytest.raises(LedgerError, match=rf"or delete {record} if that one is gone for good"):
        second.create("source", BUDGET)
    shutil.rmtree(record)
    second.create("source", BUDGET)


RIVALS = """
import os, sys, traceback
from pathlib import Path
from pe.errors import LedgerError
from pe.privacy import Adjacency, Budget, Ledger

start, go = os.pipe()
for number in range(8):
    if os.fork() == 0:
        os.close(go)
        try:
            made = Ledger(Path(sys.argv[1]) / f"{number}.sqlite3", key=sys.argv[2], create=True)
            os.read(start, 1)  # until the parent closes the other end
            for source in range(10):
                try:
                    made.create(f"source {source}", Budget(1.0, 1e-6, Adjacency.ADD_REMOVE))
                    os.write(1, b"%d " % source)
                except LedgerError as error:
                    if "do not add up" not in str(error):
                        raise
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(0)
os.close(start)
os.close(go)
for number in range(8):
    os.wait()
"""


def test_of_eight_ledgers_that_make_one_source_at_once_one_gets_it(tmp_path: Path, key: Path, python: Python) -> None:
    done = python(RIVALS, tmp_path, key)
    assert (done.stderr, sorted(map(int, done.stdout.split()))) == ("", list(range(10)))


# -- replaced while it is held open --------------------------------------------------------------------------------


def overwrite(path: Path, content: bytes) -> None:
    """As ``cp`` does: the inode stays."""
    time.sleep(0.05)  # to the file system, what happens within a tick of its clock happens at one time
    with path.open("r+b") as file:
        file.truncate()
        file.write(content)


@pytest.mark.parametrize("log", ["kept", "deleted", "emptied"])
@pytest.mark.parametrize("elsewhere", [False, True], ids=["alone", "beside another process's connection"])
@pytest.mark.parametrize("charges", [1, 40])
def test_an_older_copy_restored_in_place_is_noticed_at_the_next_use(
    account: Account, key: Path, log: str, elsewhere: bool, charges: int
) -> None:
    """Or it is undone by the log that still holds the newer pages; then nothing is lost."""
    book = account.ledger
    charge(account)
    book.close()
    old = book.path.read_bytes()
    for _ in range(charges):
        charge(account)
    second = account_in(book.path, key) if elsewhere else None
    overwrite(book.path, old)
    wal = book.path.with_name("ledger.sqlite3-wal")
    if log == "deleted":
        wal.unlink()
    elif log == "emptied":
        overwrite(wal, b"")
    for use in (book, second.ledger if second else book):
        try:
            assert len(use.chain("source")) == charges + 2
        except LedgerError as error:
            refusal = str(error)
            reasons = ("rolled back", "damaged", "cannot be used")
            if not any(word in refusal for word in reasons) or "Nothing was spent" not in refusal:
                raise


def test_an_older_copy_restored_in_place_after_a_checkpoint_is_refused(account: Account) -> None:
    """All newer pages lie in the file alone: a connection that trusted its cached pages would not notice."""
    book = account.ledger
    charge(account)
    book.close()
    old = book.path.read_bytes()
    charge(account)
    with book._connect() as connection:
        assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    assert len(book.chain("source")) == 3
    overwrite(book.path, old)
    for _ in range(2):
        with pytest.raises(LedgerError, match=r"rolled back: source 'source' had 3 entries or more, now 2"):
            charge(account)


def test_a_charge_whose_log_was_deleted_is_not_lost(account: Account) -> None:
    """The log's inode is part of what is compared: entries written into a deleted log would vanish with it."""
    charge(account)
    account.ledger.path.with_name("ledger.sqlite3-wal").unlink()
    charge(account)
    assert account.ledger.path.with_name("ledger.sqlite3-wal").stat().st_nlink == 1
    shutil.copytree(account.ledger.path.parent, account.ledger.path.parent.with_name("crashed"))
    with closing(sqlite3.connect(account.ledger.path.parent.with_name("crashed") / "ledger.sqlite3")) as connection:
        assert connection.execute("SELECT count(*) FROM entries").fetchone() == (3,)


def test_an_undisturbed_file_is_opened_once(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    account.spent()
    monkeypatch.setattr("pe.privacy.store.sqlite3.connect", lambda *_, **__: pytest.fail("opened again"))
    for _ in range(20):
        charge(account)
    assert len(account.ledger.chain("source")) == 21


def test_an_index_that_lost_its_rows_is_found_at_the_opening(account: Account, key: Path) -> None:
    """Pages of two times, as a restore beside a log can leave them: no hash covers an index."""
    book = account.ledger
    book.bind("source", "run", book.fingerprint(b"content"))
    book.close()
    with closing(sqlite3.connect(book.path)) as connection:
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_fingerprints_1'"
        (page,) = connection.execute(query).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    content = bytearray(book.path.read_bytes())
    content[(page - 1) * size + 3 : (page - 1) * size + 5] = bytes(2)  # how many rows the index's page holds
    book.path.write_bytes(content)
    with pytest.raises(LedgerError, match=r"is damaged: restore it from a backup.*Nothing was spent"):
        Ledger(book.path, key=key)
