"""Folders and files of keys, heads, ledgers and answers belong to their owner alone, whatever the umask."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest

from pe.errors import LedgerError
from pe.permissions import named_folder, private_folder, write_private
from pe.privacy import Adjacency, Budget, DiscreteGaussian, Ledger, signature
from pe.privacy.witness import load_key

BUDGET = Budget(1.0, 1e-6, Adjacency.ADD_REMOVE)


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def charge(ledger: Ledger, iteration: int = 1) -> None:
    account = ledger.account("people", run="r", budget=BUDGET, config="")
    noise = DiscreteGaussian(Fraction(40), Fraction(1))
    account.reserve(noise, purpose="votes", iteration=iteration, attempt=str(iteration))


def test_every_folder_is_0700_and_every_file_0600(umask: None, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "a" / "data" / "l", key=tmp_path / "b" / "keys" / "key", create=True)
    ledger.create("people", BUDGET)
    charge(ledger)
    signature.create_key(ledger.key_path)
    found = [path for part in ("a", "b") for path in (tmp_path / part, *(tmp_path / part).rglob("*"))]
    assert len(found) > 10
    for path in found:
        assert mode(path) == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.parametrize("before", [0o755, 0o770, 0o777])
def test_folders_that_others_can_enter_are_closed(tmp_path: Path, before: int) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    keys.chmod(before)
    ledger = Ledger(tmp_path / "l", key=keys / "key", create=True)
    ledger.create("people", BUDGET)
    assert mode(keys) == 0o700
    heads = next(keys.glob("*.heads"))
    for path in (keys, heads, *(path for path in heads.iterdir() if path.is_dir())):
        path.chmod(before)
    (keys / "key").chmod(0o644)
    charge(Ledger(tmp_path / "l", key=keys / "key"))
    assert {mode(path) for path in (keys, heads, *(path for path in heads.iterdir() if path.is_dir()))} == {0o700}
    assert mode(keys / "key") == 0o600


def test_a_shared_folder_is_refused_and_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, bits in (("sticky", 0o1777), ("here", 0o755)):
        shared = tmp_path / name
        shared.mkdir()
        shared.chmod(bits)
        monkeypatch.chdir(tmp_path / name if name == "here" else tmp_path)
        with pytest.raises(LedgerError, match=r"is open to others \(mode .*'chmod 700' it.*Nothing was spent"):
            load_key(shared / "key", create=True)
        assert mode(shared) == bits
        assert list(shared.iterdir()) == []


def test_a_ledger_in_a_folder_of_other_things_leaves_it_unless_others_can_write(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    tmp_path.chmod(0o755)
    named_folder(tmp_path, "ledger", strict=False)
    assert mode(tmp_path) == 0o755
    tmp_path.chmod(0o777)
    with pytest.raises(OSError, match="is open to others"):
        named_folder(tmp_path, "ledger", strict=False)
    tmp_path.chmod(0o700)


def test_a_private_file_is_replaced_whole_or_kept(umask: None, tmp_path: Path) -> None:
    folder = tmp_path / "x" / "y"
    private_folder(folder)
    write_private(folder / "f", b"one")
    write_private(folder / "f", b"two", once=True)
    assert (folder / "f").read_bytes() == b"one"
    write_private(folder / "f", b"two")
    assert (folder / "f").read_bytes() == b"two"
    assert [path.name for path in folder.iterdir()] == ["f"]


# -- what is remembered beside the key -------------------------------------------------------------------------------


@pytest.fixture
def spent(tmp_path: Path) -> Ledger:
    ledger = Ledger(tmp_path / "l", key=tmp_path / "keys" / "key", create=True)
    ledger.create("people", BUDGET)
    charge(ledger)
    return ledger


def head(ledger: Ledger) -> Path:
    (path,) = ledger.key_path.parent.glob("*.heads/*/*.json")
    return path


def reopened(ledger: Ledger, key: Path | None = None) -> Ledger:
    ledger.close()
    return Ledger(ledger.path, key=key or ledger.key_path)


def test_a_deleted_head_is_missed(spent: Ledger) -> None:
    kept = head(spent).read_bytes()
    place = head(spent)
    place.unlink()
    for use in (lambda: reopened(spent).chain("people"), lambda: charge(reopened(spent), 2)):
        with pytest.raises(LedgerError, match=r"is missing, which remembers the newest entry.*Nothing was spent"):
            use()
    place.write_bytes(kept)
    charge(reopened(spent), 2)


def test_heads_are_remembered_anew_where_all_of_them_are_gone(spent: Ledger) -> None:
    """A key that was restored without them. From then on they are missed again."""
    shutil.rmtree(head(spent).parent)
    assert len(reopened(spent).chain("people")) == 2
    head(spent).unlink()
    with pytest.raises(LedgerError, match="is missing, which remembers"):
        reopened(spent).chain("people")


def test_a_crash_after_a_sources_first_entry_is_no_deletion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(tmp_path / "l", key=tmp_path / "keys" / "key", create=True)
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "_witnessed", lambda self, entry: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ledger.create("people", BUDGET)
    assert len(reopened(ledger).chain("people")) == 1
    charge(reopened(ledger))
    head(ledger).unlink()
    with pytest.raises(LedgerError, match="is missing, which remembers"):
        reopened(ledger).chain("people")


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", '["1", "x"]', '[1.5, "x"]', '[-1, "x"]', '[true, "x"]'])
def test_a_damaged_head_is_one_sentence(spent: Ledger, content: str) -> None:
    head(spent).write_text(content)
    with pytest.raises(LedgerError, match=r"\.json is damaged: restore it\. Nothing was spent\.$"):
        reopened(spent).chain("people")


@pytest.mark.parametrize("content", [b"", b"00", b"zz" * 32, b"\xff" * 64])
def test_a_damaged_key_is_one_sentence(spent: Ledger, content: bytes) -> None:
    spent.key_path.write_bytes(content)
    with pytest.raises(LedgerError, match=r"the ledger's key .* (is damaged|cannot be read).*Nothing was spent\.$"):
        reopened(spent)


def test_a_head_belongs_to_the_keys_file_and_not_to_its_name(spent: Ledger, tmp_path: Path) -> None:
    """A rolled-back ledger is noticed through a link to its key, too."""
    link = tmp_path / "elsewhere" / "other.name"
    link.parent.mkdir(mode=0o700)
    link.symlink_to(spent.key_path)
    spent.close()
    shutil.copy(spent.path, tmp_path / "older")
    charge(reopened(spent, link), 2)
    assert not list(link.parent.glob("*.heads"))
    for file in tmp_path.glob("l*"):
        file.unlink()
    shutil.copy(tmp_path / "older", spent.path)
    for key in (link, spent.key_path):
        with pytest.raises(LedgerError, match="was rolled back"):
            reopened(spent, key).chain("people")
