"""Stored embeddings under fire: killed in the middle of an embed or a vote, damaged, foreign, spread over shards."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import pe.private.blocks
import pe.private.spill
from pe.data.arrays import to_numpy, to_table
from pe.data.population import Population
from pe.data.schema import Categorical, Numeric, Schema
from pe.kernels.count import bounded_sum
from pe.privacy import Adjacency, Contribution
from pe.private.dataset import PrivateDataset
from pe.private.execution import Local, Processes
from pe.private.scan import perform
from pe.private.vote import cast_votes, embed_candidates
from pe.run import read_histogram

SHARDS = 8
"""Of the private table, in blocks of 40 records."""


@pytest.fixture
def streaming(people: Any, tmp_path: Path) -> Any:
    """People whose data do not fit into memory, in a simulated run: its noise repeats, and so do its results."""
    people.small, people.settings["simulate"], people.settings["iterations"] = 40, 3, 2
    people.settings |= {"user": "who", "user_norm": 2.0}
    lines = (people.folder / "private.csv").read_text().split()
    owned = [f"{line},u{number * 7 % 90}" for number, line in enumerate(lines[1:])]
    (people.folder / "private.csv").write_text("\n".join([lines[0] + ",who", *owned, ""]))
    return people


def embedded(people: Any) -> int:
    """Shards that were embedded since the last call."""
    path = people.folder / "embedded.txt"
    count = len(path.read_text().splitlines()) if path.exists() else 0
    path.unlink(missing_ok=True)
    return count


def results(people: Any) -> tuple[list[list[int]], bytes]:
    """All histograms, and the released records."""
    assert people.work().code == 0
    run = people.folder / "run"
    found = [read_histogram(path) for path in sorted(run.glob("iterations/*/histogram.npz"))]
    released = (run / "simulation" / "SIMULATED-synthetic.csv").read_bytes()
    return [each.counts.tolist() for each in found if each is not None], released


def cache_of(people: Any) -> Path:
    return Path(people.folder.parent / "home" / "cache" / "pe")


def assert_private(cache: Path) -> None:
    """No folder of the cache can be entered by others, whoever made it, and however it ended."""
    assert {path.stat().st_mode & 0o777 for path in (cache, *cache.rglob("*")) if path.is_dir()} == {0o700}


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, Any]:
    return {}


KILLS = [  # at a point, of so many shards: how many shards were begun, and are left to embed
    ("shard", 1, 1, SHARDS - 1),
    ("shard", 3, 3, SHARDS - 3),
    ("shard-half", 3, 3, SHARDS - 2),
    ("shard-draft", 3, 3, SHARDS - 2),
    ("data-set", 0, SHARDS, 0),
    ("part", 3, SHARDS, 0),
    ("part", SHARDS + 1, SHARDS, 0),  # amid the sums of whole users
]


@pytest.mark.parametrize(("point", "number", "begun", "left"), KILLS)
def test_an_embed_killed_goes_on_by_shard_and_ends_as_an_undisturbed_one(
    streaming: Any, undisturbed: dict[str, Any], point: str, number: int, begun: int, left: int
) -> None:
    if not undisturbed:
        undisturbed["found"] = results(streaming)
        assert embedded(streaming) == SHARDS
        shutil.rmtree(streaming.folder / "run")
        shutil.rmtree(cache_of(streaming))
    assert streaming.work(point, number).killed
    assert embedded(streaming) == begun
    assert_private(cache_of(streaming))
    assert results(streaming) == undisturbed["found"]
    assert embedded(streaming) == left
    assert_private(cache_of(streaming))
    assert list((cache_of(streaming) / "votes").iterdir()) == []
    assert not list(cache_of(streaming).rglob("*.draft"))


def test_it_can_be_killed_again_and_again(streaming: Any) -> None:
    for _ in range(3):
        assert streaming.work("shard", 2).killed
    assert embedded(streaming) == 6
    results(streaming)
    assert embedded(streaming) == 2


def test_an_embed_that_is_killed_costs_nothing_as_its_votes_are_charged_afterwards(people: Any) -> None:
    people.small = 40
    for number in (1, 3, 2):
        assert people.work("shard", number).killed
        assert people.charges() == []
    assert people.work().result[:2] == [4, ""]
    assert people.charges() == [0, 1, 2, 3, 4]
    people.verified()


def test_a_vote_that_is_killed_is_finished_under_its_charge(people: Any) -> None:
    people.small = 40
    for number in (3, 1):
        assert people.work("part", number).killed
        assert people.charges() == [0, 1]
    assert people.work().result[:2] == [4, ""]
    assert people.charges() == [0, 1, 2, 3, 4]


def test_a_kernel_mean_is_charged_after_the_embed_too(people: Any) -> None:
    people.small = 40
    people.settings["method"] = "kernel-votes"
    assert people.work("shard", 3).killed
    assert people.charges() == []
    assert people.work().result[:2] == [4, ""]
    assert people.charges() == [0, 0]


def test_nothing_is_embedded_for_a_histogram_that_is_stored(people: Any) -> None:
    people.small = 40
    assert people.work("stored", 4).killed
    assert embedded(people) == SHARDS
    shutil.rmtree(cache_of(people))
    assert people.work().result[0] == 4
    assert embedded(people) == 0


# -- workers ---------------------------------------------------------------------------------------------------------

X = Numeric("x", -99, 99, integer=True)
SCHEMA = Schema((X, Categorical("label", ("a", "b"))), "label")
CANDIDATES = [(number * 13 % 60 - 30, number % 2) for number in range(17)]
Record = tuple[int, int, int]  # x, label, user


class Stored:
    """Embeds x as (x, x**2 mod 17); costly, so that embeddings are stored."""

    name, dim, scale, limit, costly = "stored", 2, 1.0, 127, True

    def __init__(self, **about: Any) -> None:
        self.seen = 0
        vars(self).update(about)

    def embed(self, table: pa.Table) -> NDArray[np.float32]:
        x = to_numpy(table, X)
        self.seen += len(x)
        return np.stack([x, x**2 % 17], axis=1).astype(np.float32) / self.scale


def dataset(records: list[Record]) -> PrivateDataset:
    x, label, user = np.array(records, np.int64).reshape(-1, 3).T
    return PrivateDataset(to_table({"x": x}, SCHEMA), label.astype(np.int32), SCHEMA, user)


def votes(private: PrivateDataset, rule: Contribution, embedder: Stored | None = None) -> list[int]:
    used = embedder or Stored()
    x, labels = np.array(CANDIDATES).T
    table = to_table({"x": x}, SCHEMA)
    population = Population.of(table, labels.astype(np.int32), "test")
    vectors = embed_candidates(table, Stored(scale=used.scale))
    cast = cast_votes(private, population, vectors, used, adjacency=Adjacency.ADD_REMOVE, contribution=rule)
    return [int(each) for each in cast._count()]


def by_hand(records: list[Record], rule: Contribution) -> list[int]:
    """The votes by their definition: for the nearest of the label, ties to the lowest; those of a user bounded."""
    rows, bins, values = [], [], []
    for row, (x, label, _) in enumerate(records):
        own = [index for index, (_, each) in enumerate(CANDIDATES) if each == label]
        near = sorted(
            own, key=lambda each: (CANDIDATES[each][0] - x) ** 2 + (CANDIDATES[each][0] ** 2 % 17 - x**2 % 17) ** 2
        )
        for step, chosen in zip(rule.steps, near, strict=False):
            rows.append(row)
            bins.append(chosen)
            values.append(step)
    if rule.norm is None:
        return [sum(value for each, value in zip(bins, values, strict=True) if each == b) for b in range(17)]
    users = np.array([records[row][2] for row in rows], np.int64)
    entries = users, np.array(bins, np.int64), np.array(values, np.int64)
    return [int(each) for each in bounded_sum(*entries, 17, rule.bound_squared)]


rules = st.sampled_from(
    [Contribution(), Contribution((1.0, 0.5)), Contribution.of(norm=1.0), Contribution.of((2, 1), 1.5)]
)
records = st.lists(st.tuples(st.integers(-40, 40), st.integers(0, 1), st.integers(0, 3)), max_size=25)


class Cut(Local):
    """This process, in so many tasks."""

    def __init__(self, tasks: int) -> None:
        self.tasks = tasks


@given(records, rules, st.integers(1, 30), st.integers(1, 40), st.integers(1, 5))
def test_no_sharding_changes_a_vote(
    given_: list[Record], rule: Contribution, block: int, entries: int, tasks: int
) -> None:
    """Users' records lie in any number of shards, ranges of users and tasks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pe.private.blocks, "BLOCK", block)
        patch.setattr(pe.private.spill, "ENTRIES", entries)
        patch.setattr(os, "fsync", lambda descriptor: None)
        private = dataset(given_)
        private.executor = Cut(tasks)
        assert votes(private, rule) == by_hand(given_, rule)


MANY = [(number * 37 % 80 - 40, number * 11 % 7 % 2, number * 29 % 97) for number in range(2000)]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pe.private.blocks, "BLOCK", 8)
    monkeypatch.setattr(pe.private.spill, "ENTRIES", 300)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


MORTAL = """
import os, signal
from pathlib import Path

import pe.private.scan, pe.private.spill

def mortal(leave):
    def leaving(path, array):
        leave(path, array)
        try:
            Path(__file__).with_name("users" if path.name.startswith("users") else "shards").touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)
    return leaving

for room in (pe.private.scan, pe.private.spill):
    room.leave = mortal(room.leave)
"""
"""Imported by workers as they start: the first to leave a part of the votes dies of it, once in each phase."""


@pytest.mark.parametrize("rule", [Contribution((1.0, 0.5)), Contribution.of((1.0, 0.5), 2.0)], ids=["record", "user"])
@pytest.mark.usefixtures("small")
def test_a_worker_killed_amid_its_shards_changes_nothing(
    rule: Contribution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "sitecustomize.py").write_text(MORTAL)
    monkeypatch.syspath_prepend(str(tmp_path / "start"))
    private = dataset(MANY)
    private.executor = executor = Processes(2)
    try:
        assert votes(private, rule) == by_hand(MANY, rule)
    finally:
        executor.close()
    deaths = {path.name for path in (tmp_path / "start").iterdir()} & {"shards", "users"}
    assert deaths == ({"shards"} if rule.norm is None else {"shards", "users"})  # amid the users' ranges, too


# -- stores that are not ours ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("about", [{"name": "stored@revision-2"}, {"scale": 2.0}, {"limit": 100}], ids=str)
def test_a_store_of_another_embedder_put_in_place_of_ours_is_not_taken_for_it(
    tmp_path: Path, about: dict[str, Any]
) -> None:
    """By restoring a backup under the wrong name, or by hand: whole, of the right records, shapes and types."""
    given_, rule, root = MANY[:50], Contribution(), tmp_path / "home" / "cache" / "pe"
    expected = votes(dataset(given_), rule)
    ours = {*(root / "embeddings").iterdir()}
    votes(dataset(given_), rule, Stored(**about))
    (other,) = {*(root / "embeddings").iterdir()} - ours
    shutil.rmtree(*ours)
    shutil.copytree(other, *ours)
    again = Stored()
    assert votes(dataset(given_), rule, again) == expected
    assert again.seen == 50


# -- where partial counts lie ----------------------------------------------------------------------------------------


class Watched(Processes):
    """Looks at every file that there is after each phase of a vote, before the folder of the vote is removed."""

    def __init__(self, places: Path) -> None:
        super().__init__(2)
        self.places, self.found = places, list[Path]()

    def run(self, job: str, phase: str, tasks: int) -> None:
        super().run(job, phase, tasks)
        self.found += [path for path in self.places.rglob("*") if path.is_file()]
        assert Path(job).stat().st_mode & 0o777 == 0o700


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Home, temporary files and working directory, for worker processes, too."""
    for name in ("TMPDIR", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "HOME")
    return tmp_path


@pytest.mark.usefixtures("small")
def test_partial_counts_lie_in_the_private_cache_alone(elsewhere: Path) -> None:
    cache = elsewhere / "home" / "cache" / "pe"
    private = dataset(MANY[:200])
    private.executor = executor = Watched(elsewhere)
    votes(private, Contribution.of(norm=1.0))
    executor.close()
    parts = [path for path in executor.found if path.parent.parent == cache / "votes" and path.suffix == ".npy"]
    assert len({*parts}) == 25 + 1 + (200 // 300)  # shards, ranges of users
    outside = {path for path in executor.found if cache not in path.parents}
    assert {path for path in outside if path.suffix not in (".nbc", ".nbi")} == set()  # numba keeps programs
    assert_private(cache)
    assert list((cache / "votes").iterdir()) == []


def test_a_task_returns_nothing_and_tells_no_more_than_that_it_failed(
    tmp_path: Path, small: None, everything_about: Any
) -> None:
    """Whatever an executor carries, logs or stores: None, or an error of this package."""
    answers: list[object] = []

    class Recording(Local):
        def run(self, job: str, phase: str, tasks: int) -> None:
            answers.append(perform(job, phase, 0, 1))

    private = dataset(MANY[:50])
    private.executor = Recording()
    votes(private, Contribution.of(norm=1.0))
    assert answers == [None, None]
