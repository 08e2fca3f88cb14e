"""What a run needs of its machine is tried before the first charge; what gives out later costs no second one."""

from __future__ import annotations

import errno
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import pe
import pe.rehearsal
from pe.errors import LedgerError, PrivateDataError, RunError
from pe.files import publish_once, write_atomically
from pe.privacy.ledger import charges, drawn
from pe.private.execution import ShardExecutor
from pe.private.scan import perform, rehearse_count
from pe.rehearsal import bytes_to_write

SCHEMA = pe.Schema((pe.Numeric("age", 0, 100, integer=True), pe.Categorical("kind", ("a", "b"))))


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    return {
        "data": pa.table({"age": rng.integers(20, 60, 200), "kind": rng.choice(["a", "b"], 200)}),
        "schema": SCHEMA,
        "run": tmp_path / "run",
        "ledger": tmp_path / "ledger.sqlite3",
        "label": "kind",
        "source": "people",
        "create": True,
        "epsilon": 1.0,
        "delta": 1e-5,
        "adjacency": "add-remove",
        "method": "aug-pe",
        "rows": 20,
        "iterations": 2,
        "formats": ["csv"],
    }


def charged(settings: dict[str, Any]) -> list[int]:
    return [entry.body["iteration"] for entry in charges(pe.Ledger(settings["ledger"]).chain("people"))]


def failing(number: int) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


# -- ways of writing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_without_hard_links_a_run_is_stored_all_the_same(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """As on exFAT, and on some FUSE and SMB mounts."""
    monkeypatch.setattr(os, "link", failing(number))
    assert len(pe.synthesize(**settings)) == 20
    assert charged(settings) == [0, 1, 2]
    assert len(pe.synthesize(**settings)) == 20
    assert charged(settings) == [0, 1, 2]


@pytest.mark.parametrize("links", [True, False])
def test_what_is_written_once_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:
        monkeypatch.setattr(os, "link", failing(errno.EPERM))
    path = tmp_path / "once"
    write_atomically(path, b"first", once=True)
    with pytest.raises(RunError, match="never overwritten"):
        write_atomically(path, b"second", once=True)
    (tmp_path / "draft").write_bytes(b"third")
    with pytest.raises(FileExistsError):
        publish_once(tmp_path / "draft", path)
    assert path.read_bytes() == b"first"


def test_a_link_that_fails_otherwise_is_found_before_the_charge(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pe.Ledger(settings["ledger"], create=True).create("people", pe.privacy.Budget(1.0, 1e-5, "add-remove"))
    monkeypatch.setattr(os, "link", failing(errno.EIO))
    with pytest.raises(RunError, match=r"cannot be written.*epsilon 0 of 1 is spent"):
        pe.synthesize(**settings)
    assert charged(settings) == []


@pytest.mark.parametrize("kind", ["link", "file", "dangling link"])
def test_a_release_that_cannot_take_its_place_is_found_before_the_charge(settings: dict[str, Any], kind: str) -> None:
    def refuse_all(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pe.synthesize(**settings, progress=refuse_all)  # makes the directory, charges nothing
    place, elsewhere = settings["run"] / "release", settings["run"].parent / "elsewhere"
    if kind == "file":
        place.write_text("mine")
    else:
        place.symlink_to(elsewhere)
    if kind == "link":
        elsewhere.mkdir()
    with pytest.raises(RunError, match=r"release is (a symbolic link|no folder).*Nothing was spent"):
        pe.synthesize(**settings)
    assert charged(settings) == []
    place.unlink()
    assert len(pe.synthesize(**settings)) == 20
    assert not (elsewhere.exists() and list(elsewhere.iterdir()))


def test_a_disk_without_room_is_found_before_the_charge(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 500, 500))
    with pytest.raises(RunError, match=r"MB will be written.*are free.*epsilon 0 of 1 is spent"):
        pe.synthesize(**settings)
    assert charged(settings) == []


def test_room_is_reckoned_by_the_plan_alone() -> None:
    def plan(rows: int) -> pe.Plan:
        return pe.Plan(
            rows, (pe.Round(None, rows, variations=1, keep=True),) * 3, kernel=pe.evolution.kernel.Kernel(0.5)
        )

    text = pe.Schema((pe.Text("text"),))
    few, many = (bytes_to_write(plan(rows), text, rows, None) for rows in (100, 10_000))
    assert 50 * few < many < 200 * few
    assert bytes_to_write(plan(100), text, 100, 2) < few
    assert 100 * 200 * 3 < few < 10**7


def test_a_format_that_cannot_be_written_is_found_before_the_charge(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise pe.errors.ConfigError("the format needs a package.")

    monkeypatch.setattr(pe.rehearsal, "public_files", missing)
    with pytest.raises(pe.errors.ConfigError, match="epsilon 0 of 1 is spent"):
        pe.synthesize(**settings)
    assert charged(settings) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_head_folder_that_cannot_be_written_is_found_before_every_charge(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    for _ in range(2):
        with monkeypatch.context() as patch:

            def stop(session: Any, patch: pytest.MonkeyPatch = patch) -> None:
                if session.generation is not None and session.generation.iteration == 1:
                    patch.setattr("pe.privacy.witness._write", failing(number))

            with pytest.raises(LedgerError, match=r"beside its key, cannot be written"):
                pe.synthesize(**settings, progress=stop)
        assert charged(settings) == [0, 1]
    assert len(pe.synthesize(**settings)) == 20
    assert charged(settings) == [0, 1, 2]


def test_what_can_no_longer_be_stored_after_the_count_is_not_drawn(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills while records are counted: five calls, one charge."""
    calls = []

    def full_at_the_draw(folder: Path, bins: int) -> None:
        calls.append(folder)
        if len(calls) > 2:  # those of the whole run and before the charge
            raise RunError("no room.")

    for _ in range(5):
        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr("pe.run.rehearse_histogram", full_at_the_draw)
            with pytest.raises(RunError, match="no room"):
                pe.synthesize(**settings)
    chain = pe.Ledger(settings["ledger"]).chain("people")
    assert charged(settings) == [0]
    assert drawn(chain, charges(chain)[0].body["run"]) == set()
    assert len(pe.synthesize(**settings)) == 20
    assert charged(settings) == [0, 1, 2]


# -- workers and the cache ---------------------------------------------------------------------------------------------


def test_a_cache_that_others_can_enter_is_found_before_the_charge(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cache").mkdir(mode=0o755)
    monkeypatch.setenv("PE_CACHE", str(tmp_path / "cache"))
    settings["execution"] = {"workers": 1}
    with pytest.raises(PrivateDataError, match="can be entered by others"):
        pe.synthesize(**settings)
    assert charged(settings) == []
    settings["execution"] = {"executor": "local"}  # which needs no cache for a small table
    assert len(pe.synthesize(**settings)) == 20


class InTasks:
    """An executor that is no ``Local``: votes are counted from stored embeddings, in three tasks."""

    tasks = 3

    def run(self, job: str, phase: str, tasks: int) -> None:
        for task in range(tasks):
            perform(job, phase, task, tasks)

    def close(self) -> None:
        """Nothing is held."""


class Down(InTasks):
    """Workers that cannot be reached."""

    def run(self, job: str, phase: str, tasks: int) -> None:
        raise PrivateDataError("no scheduler answers. What was charged stays charged.")


class Lazy(InTasks):
    """Workers that leave out a task, and say nothing of it."""

    def run(self, job: str, phase: str, tasks: int) -> None:
        for task in range(tasks - 1):
            perform(job, phase, task, tasks)


@pytest.mark.parametrize("executor", [Down(), Lazy()], ids=["down", "lazy"])
def test_workers_that_do_no_task_are_found_before_the_charge(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, executor: ShardExecutor
) -> None:
    monkeypatch.setattr("pe.session.build_executor", lambda _: executor)
    with pytest.raises(PrivateDataError, match="epsilon 0 of 1 is spent") as caught:
        pe.synthesize(**settings)
    assert "What was charged" not in str(caught.value)
    assert charged(settings) == []


def test_workers_that_go_down_later_are_waited_for_at_no_charge(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first time amid an iteration, whose charge the last call finishes; then before anything."""

    class Failing(InTasks):
        calls = 0

        def run(self, job: str, phase: str, tasks: int) -> None:
            Failing.calls += 1
            if Failing.calls > 1:
                raise PrivateDataError("no scheduler answers.")
            super().run(job, phase, tasks)

    with monkeypatch.context() as patch:
        patch.setattr("pe.session.build_executor", lambda _: Failing())
        for _ in range(4):
            with pytest.raises(PrivateDataError, match="no scheduler"):
                pe.synthesize(**settings)
            assert charged(settings) == [0, 1]
    assert len(pe.synthesize(**settings)) == 20
    assert charged(settings) == [0, 1, 2]


def test_a_rehearsal_counts_by_every_task_and_leaves_nothing(tmp_path: Path) -> None:
    class Watched(InTasks):
        tasks = 5
        done: list[int] = []  # noqa: RUF012

        def run(self, job: str, phase: str, tasks: int) -> None:
            self.done.extend(range(tasks))
            super().run(job, phase, tasks)

    rehearse_count(Watched())
    assert Watched.done == list(range(5))
    cache = tmp_path / "home" / "cache" / "pe"
    assert [path for folder in ("trial", "votes") for path in (cache / folder).iterdir()] == []


def test_a_second_call_of_a_finished_run_needs_no_worker(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pe.synthesize(**settings)
    monkeypatch.setattr("pe.session.build_executor", lambda _: Down())
    assert len(pe.synthesize(**settings)) == 20
