"""Journals: what is written is read again, whatever cut it short, and adds up to what was spent."""

from __future__ import annotations

from pathlib import Path
from threading import Thread

import pytest

from pe.errors import RunError
from pe.journal import Journal, Usage, usage, usage_of


def place(folder: Path, iteration: int = 0) -> Path:
    path = folder / "iterations" / f"{iteration:03d}" / "api.jsonl"
    path.parent.parent.mkdir(exist_ok=True)
    return path


ASKED = {"asked": 0, "bound": [30, 50], "cost": 0.5}
ENDED = {"call": 0, "outcome": "answered", "tokens": [20, 10], "cost": 0.2, "text": 'a "text"\n\ud800'}


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    journal = Journal(place(tmp_path))
    assert journal.lines == []
    for line in (ASKED, ENDED):
        journal.write(line)
    journal.close()
    assert Journal(place(tmp_path)).lines == [ASKED, ENDED]
    assert place(tmp_path).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("torn", [b'{"call": 1, "outc', b"\x00\x00\x00", b"\xff\xfe", b"[]", b"7"])
def test_a_line_that_a_crash_left_half_written_costs_that_line_alone(tmp_path: Path, torn: bytes) -> None:
    journal = Journal(place(tmp_path))
    journal.write(ENDED)
    journal.close()
    with place(tmp_path).open("ab") as file:
        file.write(torn)
    journal = Journal(place(tmp_path))
    assert journal.lines == [ENDED]
    journal.write(ASKED)
    journal.close()
    assert Journal(place(tmp_path)).lines == [ENDED, ASKED]


def test_usage_adds_up_calls_losses_and_risks() -> None:
    lines = [
        {"asked": 0, "bound": [30, 50], "cost": 0.5},
        {"asked": 1, "bound": [30, 50], "cost": 0.5},
        {"asked": 2, "bound": [40, 50], "cost": 0.6},
        {"call": 1, "outcome": "answered", "tokens": [20, 10], "cost": 0.2},
        {"call": 0, "outcome": "timeout", "at_risk": 80, "cost_at_risk": 0.5},
        {"batch": 0, "kept": 1},
        {"batch": 0, "kept": 2},  # the same one, after a resume
        {"batch": 1, "replaced": 4},
        {"own": "business"},
    ]
    found = usage(lines)
    assert found == Usage(2, 1, 20, 10, 0, 0.2, 2, 4, {"timeout": 1}, 170, 1.1)
    assert found.tokens == 30
    twice = found + found
    assert (twice.calls, twice.cost, twice.failures) == (4, 0.4, {"timeout": 2})
    assert (Usage() + Usage()).cost is None
    for part in ("2 calls", "20 prompt", "1 timeout", "1 lost", "2 variations kept", "4 fresh"):
        assert part in str(found)


def test_a_journal_knows_what_the_other_iterations_of_its_api_came_to(tmp_path: Path) -> None:
    for iteration in range(3):
        journal = Journal(place(tmp_path, iteration))
        other = journal.part("b")
        for line in (ASKED, ENDED):
            journal.write(line)
            other.write(line)
        journal.close()
        other.close()
    assert Journal(place(tmp_path, 1)).before.calls == 3
    assert Journal(place(tmp_path, 3)).before.tokens == 90
    whole = usage_of(tmp_path)
    assert whole is not None
    assert whole.calls == 6
    assert usage_of(tmp_path / "other") is None


def test_lines_of_many_threads_stay_whole(tmp_path: Path) -> None:
    journal = Journal(place(tmp_path))
    threads = [
        Thread(target=lambda t=t: [journal.write({"t": t, "text": "x" * 5000}) for _ in range(50)]) for t in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close()
    assert sorted(line["t"] for line in Journal(place(tmp_path)).lines) == sorted(list(range(8)) * 50)


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "iterations").mkdir()
    (tmp_path / "iterations" / "000").write_text("a file")
    with pytest.raises(RunError):
        Journal(place(tmp_path)).write(ASKED)
