"""The ledger on damaged files and full disks, and under many processes: it refuses, or every charge lasts."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from pe.errors import BudgetExceededError, LedgerError
from pe.privacy import Account, Adjacency, Budget, DiscreteGaussian, Ledger, Votes, release
from pe.privacy.discrete_gaussian import sigma_for
from pe.privacy.ledger import granted, spent

ONE = Fraction(1)
BUDGET = Budget(1.0, 1e-6, Adjacency.ADD_REMOVE)
WHOLE = DiscreteGaussian(sigma_for(BUDGET.limit[0], ONE), ONE)  # all of BUDGET

Python = Callable[..., CompletedProcess[str]]


# -- damage --------------------------------------------------------------------------------------------------------


def garbage(path: Path) -> None:
    path.write_bytes(b"not a database, " * 512)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def torn(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:] = bytes(len(content) - 4096)
    path.write_bytes(content)


def replaced_by_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [garbage, truncated, torn, replaced_by_a_directory])
def test_a_damaged_ledger_refuses_and_nothing_is_counted(account: Account, damage: Callable[[Path], None]) -> None:
    account.ledger.close()
    damage(account.ledger.path)
    votes = Votes(lambda: pytest.fail("private data was read"), 3, ONE, Adjacency.ADD_REMOVE)
    with pytest.raises(LedgerError, match="Nothing was spent"):
        release(votes, Fraction(40), account=account, iteration=1)


FULL_DISK = """
import resource, sys
from fractions import Fraction
import numpy as np
from pe.errors import LedgerError
from pe.privacy import Adjacency, Budget, Ledger, Votes, release

account = Ledger(sys.argv[1], key=sys.argv[2]).account(
    "source", run="run", budget=Budget(1.0, 1e-6, Adjacency.ADD_REMOVE), config=""
)

def count():
    print("counted")
    return np.zeros(1, np.int64)

for limit in map(int, sys.argv[3:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        release(Votes(count, 1, Fraction(1), Adjacency.ADD_REMOVE), Fraction(40), account=account, iteration=limit)
        print("released")
    except LedgerError as error:
        print("spent" if "stays spent" in str(error) else "refused" if "Nothing was spent" in str(error) else error)
"""


def test_a_full_disk_at_the_reservation_stops_before_private_data(
    account: Account, tmp_path: Path, python: Python
) -> None:
    """A limit on the size of files written stands for the disk."""
    limits = [0, 1, 4000, 8000, 20_000, 32_768, 40_000]
    done = python(FULL_DISK, account.ledger.path, tmp_path / "keys" / "ledger.key", *limits)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.split()
    assert lines[0] == "refused"
    assert set(lines) <= {"refused", "spent", "counted", "released"}
    kinds = [entry.kind for entry in account.ledger.chain("source")]
    assert kinds.count("reserve") >= lines.count("counted") >= kinds.count("draw") >= lines.count("released")
    assert lines.count("released") + lines.count("spent") >= kinds.count("reserve")


READ_ONLY = """
import os, sys
from fractions import Fraction
from pathlib import Path
import numpy as np
from pe.errors import LedgerError
from pe.privacy import Adjacency, Budget, Ledger, Votes, release

def use(folder, create=False):
    budget = Budget(1.0, 1e-6, Adjacency.ADD_REMOVE)
    ledger = Ledger(folder / "data" / "ledger.sqlite3", key=folder / "keys" / "key", create=create)
    if create:
        ledger.create("source", budget)
    account = ledger.account("source", run="run", budget=budget, config="")
    release(Votes(count, 1, Fraction(1), Adjacency.ADD_REMOVE), Fraction(40), account=account, iteration=1)
    ledger.close()

def count():
    print("counted")
    return np.zeros(1, np.int64)

folder = Path(sys.argv[1])
use(folder, create=True)  # imports all that is needed, while the interpreter's own files can still be read
for name, mode in (word.split("=") for word in sys.argv[2:]):
    (folder / name).chmod(int(mode, 8))
if os.geteuid() == 0:  # no mode keeps root from writing: go on as nobody, who owns the files
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, 65534, 65534)
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    use(folder)
except LedgerError as error:
    print(error)
(folder / "data").chmod(0o700)
(folder / "data" / "ledger.sqlite3").chmod(0o600)
print(len(Ledger(folder / "data" / "ledger.sqlite3", key=folder / "keys" / "key").chain("source")))
"""


@pytest.mark.parametrize(
    ("modes", "message", "entries"),
    [
        (["data/ledger.sqlite3=400"], r"the ledger .*cannot be used \(.*\): .*make it writable.*Nothing was spent", 3),
        (["data=500"], r"the ledger .*cannot be used \(.*\): .*make it writable.*Nothing was spent", 3),
        (["data/ledger.sqlite3=400", "data=500"], r"the ledger .*cannot be used.*Nothing was spent", 3),
        (["data/ledger.sqlite3=000"], r"the ledger .*cannot be used.*Nothing was spent", 3),
        (["keys/key=000"], r"key .*cannot be read \(PermissionError\)\. Nothing was spent", None),
        (["keys/key.heads=500", "keys=500"], "", 5),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_files_and_folders_that_cannot_be_written_stop_before_private_data(
    python: Python, modes: list[str], message: str, entries: int | None
) -> None:
    """The folder of one ledger's witness is written; the folders above it need not be."""
    with tempfile.TemporaryDirectory() as folder:  # which nobody can reach, unlike pytest's
        Path(folder).chmod(0o755)
        done = python(READ_ONLY, folder, *modes)
    first, *lines = done.stdout.splitlines()
    assert first == "counted"
    if message:
        assert re.search(message, lines.pop(0))
    else:
        assert lines.pop(0) == "counted"
    if entries is not None:
        assert (done.stderr, lines) == ("", [str(entries)])


def test_a_witness_folder_that_cannot_be_written_stops_before_private_data(python: Python) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        script = READ_ONLY.replace(
            "if os.geteuid",
            "for path in (folder / 'keys' / 'key.heads').iterdir(): path.chmod(0o500)\nif os.geteuid",
            1,
        )
        done = python(script, folder)
    first, message, entries = done.stdout.splitlines()
    assert (done.stderr, first, entries) == ("", "counted", "3")  # a grant, a charge and its draw, of the first
    assert re.search(r"cannot be written \(Permission denied\).*Nothing was spent by this call\.$", message)


# -- many processes ------------------------------------------------------------------------------------------------

MANY = """
import os, sys, traceback
from fractions import Fraction
from pe.errors import BudgetExceededError
from pe.privacy import Adjacency, Budget, DiscreteGaussian, Ledger

def hammer(number):
    if sys.argv[3] == "create":
        Ledger(sys.argv[1], key=sys.argv[2], create=True).create(f"source {number}", budget)
        return 1
    account = inherited or Ledger(sys.argv[1], key=sys.argv[2]).account("source", run="run", budget=budget, config="")
    for done in range(1000):
        attempt = f"{done}" if sys.argv[3] == "same" else f"{number} {done}"
        try:
            account.reserve(mechanism, purpose="votes", iteration=done, bins=1, attempt=attempt)
        except BudgetExceededError:
            return done

budget = Budget(1.0, 1e-6, Adjacency.ADD_REMOVE)
mechanism = DiscreteGaussian(Fraction(sys.argv[4]), Fraction(1))
mechanism.mu_squared
inherited = None
if sys.argv[3] == "inherit":
    inherited = Ledger(sys.argv[1], key=sys.argv[2]).account("source", run="run", budget=budget, config="")
    inherited.spent()
start, go = os.pipe()
children = []
for number in range(16):
    receive, send = os.pipe()
    if os.fork() == 0:
        os.close(go)
        try:
            os.read(start, 1)  # until the parent closes the other end
            os.write(send, b"%d" % hammer(number))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(0)
    os.close(send)
    children.append(receive)
os.close(start)
os.close(go)
print(*[os.read(child, 10).decode() or "failed" for child in children])
"""


@pytest.mark.parametrize(("how", "sigma"), [("reserve", 40), ("inherit", 40), ("same", 20)])
def test_sixteen_processes_on_one_ledger_never_spend_more_than_the_grant(
    account: Account, tmp_path: Path, python: Python, how: str, sigma: int
) -> None:
    """Each opens the ledger itself, or uses the one its parent had opened, or all make the same attempts."""
    done = python(MANY, account.ledger.path, tmp_path / "keys" / "ledger.key", how, sigma)
    assert done.stderr == ""
    successes = [int(word) for word in done.stdout.split()]
    chain = account.ledger.chain("source")
    cost = DiscreteGaussian(Fraction(sigma), ONE).mu_squared
    fitting = BUDGET.limit[0] // cost
    assert len(successes) == 16
    assert len(chain) - 1 == fitting
    assert successes == [fitting] * 16 if how == "same" else sum(successes) == fitting
    assert spent(chain)[0] == fitting * cost <= BUDGET.limit[0]
    assert len({entry.hash for entry in chain}) == len(chain)
    assert len({entry.body["attempt"] for entry in chain[1:]}) == fitting


def test_sixteen_processes_can_make_one_ledger_at_once(tmp_path: Path, python: Python) -> None:
    done = python(MANY, tmp_path / "l.sqlite3", tmp_path / "keys" / "key", "create", 40)
    assert (done.stderr, done.stdout.split()) == ("", ["1"] * 16)
    ledger = Ledger(tmp_path / "l.sqlite3", key=tmp_path / "keys" / "key")
    assert all(granted(ledger.chain(f"source {number}")) == BUDGET for number in range(16))


KILLED = """
import os, signal, sys
from fractions import Fraction
from pe.privacy import Adjacency, Budget, Ledger, Votes, release

account = Ledger(sys.argv[1], key=sys.argv[2]).account(
    "source", run="run", budget=Budget(1.0, 1e-6, Adjacency.ADD_REMOVE), config="config"
)
votes = Votes(lambda: os.kill(os.getpid(), signal.SIGKILL), 3, Fraction(1), Adjacency.ADD_REMOVE)
release(votes, Fraction(sys.argv[3]), account=account, iteration=1)
"""


def test_a_kill_between_reservation_and_noise_keeps_the_charge(
    account: Account, tmp_path: Path, python: Python
) -> None:
    done = python(KILLED, account.ledger.path, tmp_path / "keys" / "ledger.key", WHOLE.sigma)
    assert (done.returncode, done.stderr) == (-9, "")
    assert account.spent() == (WHOLE.mu_squared,)
    with pytest.raises(BudgetExceededError):
        account.reserve(DiscreteGaussian(Fraction(40), ONE), purpose="votes", iteration=1, bins=3, attempt="another")
