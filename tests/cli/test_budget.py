"""``pe budget`` on ledgers that are not as they should be: one sentence, exit code 1, nothing spent."""

import re
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from pe.cli import main
from pe.privacy import Account, Adjacency, Budget, DiscreteGaussian, Ledger
from pe.privacy.ledger import default_path

BUDGET = Budget(1.0, 1e-6, Adjacency.ADD_REMOVE)


@pytest.fixture
def spending(tmp_path: Path) -> Account:
    """The user's own ledger, with one charge of about epsilon 0.6."""
    ledger = Ledger(create=True)
    ledger.create("people", BUDGET)
    account = ledger.account("people", run="run", budget=BUDGET, config="config")
    account.reserve(DiscreteGaussian(Fraction(8), Fraction(1)), purpose="votes", iteration=1, bins=1, attempt="a")
    ledger.close()
    return account


def corrupt(path: Path, key: Path) -> Path:
    content = bytearray(path.read_bytes())
    content[5000:] = bytes(len(content) - 5000)
    path.write_bytes(content)
    return path


def truncated(path: Path, key: Path) -> Path:
    path.write_bytes(path.read_bytes()[:6000])
    return path


def no_database(path: Path, key: Path) -> Path:
    path.write_text("source,epsilon\n" * 400)
    return path


def emptied(path: Path, key: Path) -> Path:
    path.write_bytes(b"")
    return path


def missing(path: Path, key: Path) -> Path:
    path.unlink()
    return path


def folder(path: Path, key: Path) -> Path:
    path.unlink()
    path.mkdir()
    return path


def copied(path: Path, key: Path) -> Path:
    return Path(shutil.copy(path, path.with_name("copy.sqlite3")))


def without_its_key(path: Path, key: Path) -> Path:
    key.unlink()
    return path


def under_another_key(path: Path, key: Path) -> Path:
    key.write_text("ab" * 32)
    return path


def under_a_damaged_key(path: Path, key: Path) -> Path:
    key.write_text("ab" * 31)
    return path


FAULTS: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "corrupt": (corrupt, "damaged|malformed"),
    "truncated": (truncated, "damaged|malformed"),
    "no database": (no_database, "file is not a database"),
    "emptied": (emptied, "is gone although budget was spent"),
    "missing": (missing, "no ledger at|is gone although budget was spent"),
    "folder": (folder, "cannot be used"),
    "copied": (copied, "is a copy of the ledger"),
    "key missing": (without_its_key, "key is missing"),
    "key wrong": (under_another_key, "belongs to another key"),
    "key damaged": (under_a_damaged_key, "key .* is damaged"),
}

COMMANDS = {
    "create": ("create", "other", "--epsilon", 1, "--delta", 1e-6, "--adjacency", "add-remove"),
    "grant": ("grant", "people", "--epsilon", 2),
    "show": ("show",),
    "history": ("history", "people"),
}


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main(["budget", *map(str, arguments)])
    printed = capsys.readouterr()
    assert (exit_.value.code, printed.out) == (1, "")
    (line,) = printed.err.strip().splitlines()
    assert "Nothing was spent" in line
    return line


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize(("fault", "text"), FAULTS.values(), ids=FAULTS)
def test_a_ledger_that_is_not_as_it_should_be_is_refused_in_one_sentence(
    spending: Account,
    capsys: pytest.CaptureFixture[str],
    fault: Callable[[Path, Path], Path],
    text: str,
    command: tuple[object, ...],
) -> None:
    place = fault(default_path(), default_path().parent / "keys" / "ledger.key")
    line = refused(capsys, *command, "--ledger", place)
    assert re.search(text, line)


def test_a_rolled_back_ledger_is_refused_in_one_sentence(spending: Account, capsys: pytest.CaptureFixture[str]) -> None:
    old = default_path().read_bytes()
    spending.ledger.grant("people", 2.0, 1e-6)
    spending.ledger.close()
    default_path().write_bytes(old)
    assert "rolled back: source 'people' had 3 entries or more, now 2" in refused(capsys, "history", "people")


def test_a_grant_below_what_was_spent_is_refused_in_one_sentence(
    spending: Account, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "has spent epsilon" in refused(capsys, "grant", "people", "--epsilon", 0.1)


def test_a_source_of_another_ledger_is_refused_in_one_sentence(
    spending: Account, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    create = ("create", "people", "--epsilon", 1, "--delta", 1e-6, "--adjacency", "add-remove")
    line = refused(capsys, *create, "--ledger", tmp_path / "second.sqlite3")
    assert f"has its budget in the ledger {default_path()}" in line


def test_a_moved_ledger_is_shown_at_its_new_place(
    spending: Account, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    moved = default_path().rename(tmp_path / "moved.sqlite3")
    with pytest.raises(SystemExit) as exit_:
        main(["budget", "history", "people", "--ledger", str(moved)])
    assert exit_.value.code == 0
    assert "votes" in capsys.readouterr().out
