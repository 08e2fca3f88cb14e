"""Stored embeddings: each record embedded once, votes those of memory, nothing unsound ever used."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import pe.private.blocks
import pe.private.poll
import pe.private.spill
from pe.data.arrays import to_numpy, to_table
from pe.data.population import Population
from pe.data.schema import Categorical, Numeric, Schema
from pe.errors import ConfigError, PrivateDataError, RunError
from pe.privacy import Adjacency, Contribution
from pe.private import cache, scan
from pe.private.blocks import Block
from pe.private.dataset import PrivateDataset
from pe.private.shards import Shard, shards
from pe.private.vote import cast_votes, embed_candidates

X = Numeric("x", -99, 99, integer=True)
SCHEMA = Schema((X, Categorical("label", ("a", "b", "c"))), "label")
NAN, RAISES = 97, 98  # what the embedder does with records whose x is this

Record = tuple[int, int, int]  # x, label, user


class Costly:
    """Embeds x as (x, x**2 mod 17), counts what it embeds, and fails on some."""

    dim, limit, costly = 2, 127, True

    def __init__(self, name: str = "costly", scale: float = 1.0, limit: int = 127) -> None:
        self.name, self.scale, self.limit = name, scale, limit
        self.seen: list[int] = []

    def embed(self, table: pa.Table) -> NDArray[np.float32]:
        x = to_numpy(table, X)
        if (x == RAISES).any():
            raise ValueError(f"cannot embed {x}")
        self.seen += x.tolist()
        vectors = np.stack([x, x**2 % 17], axis=1).astype(np.float32)
        vectors[x == NAN] = np.nan
        return vectors


class Cheap(Costly):
    costly = False


def data(records: list[Record]) -> PrivateDataset:
    x, label, user = np.array(records, np.int64).reshape(-1, 3).T
    return PrivateDataset(to_table({"x": x}, SCHEMA), label.astype(np.int32), SCHEMA, user)


def votes(
    private: PrivateDataset,
    embedder: Costly,
    candidates: list[tuple[int, int]],
    contribution: Contribution | None = None,
) -> list[int]:
    x, labels = np.array(candidates, np.int64).reshape(-1, 2).T
    table = to_table({"x": x}, SCHEMA)
    population = Population.of(table, labels.astype(np.int32), "test")
    vectors = embed_candidates(table, Cheap(embedder.name, embedder.scale, embedder.limit))
    rule = contribution or Contribution()
    cast = cast_votes(private, population, vectors, embedder, adjacency=Adjacency.ADD_REMOVE, contribution=rule)
    return [int(each) for each in cast._count()]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pe.private.blocks, "BLOCK", 4)
    monkeypatch.setattr(pe.private.poll, "CHUNK", 3)
    monkeypatch.setattr(pe.private.spill, "ENTRIES", 5)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # these tests survive


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "home" / "cache" / "pe"


RECORDS = [(number * 7 % 40 - 20, number % 3, number % 5) for number in range(22)]
CANDIDATES = [(number * 5 % 30 - 15, number % 2) for number in range(9)]

labels = st.integers(0, 2)
records = st.lists(st.tuples(st.integers(90, 99) | st.integers(-20, 20), labels, st.integers(0, 3)), max_size=14)
candidates = st.lists(st.tuples(st.integers(-20, 20), labels), min_size=1, max_size=9)
rules = st.sampled_from(
    [
        Contribution(),
        Contribution.of((1.0, 1 / 3)),
        Contribution.of(norm=1.0),
        Contribution.of((2.0, 1.0, 0.5), 1.9),
        Contribution.of(norm=50.0),
    ]
)


@given(records, candidates, rules, st.sampled_from([127, 1000]))
def test_votes_from_shards_are_those_of_memory(
    given_: list[Record], candidates: list[tuple[int, int]], rule: Contribution, limit: int
) -> None:
    """Whatever cannot be embedded, whatever users' records are spread over how many shards."""
    private = data(given_)
    expected = votes(private, Cheap(limit=limit), candidates, rule)
    assert votes(private, Costly(limit=limit), candidates, rule) == expected
    order = np.random.default_rng(len(given_)).permutation(len(given_))
    assert votes(data([given_[row] for row in order]), Costly(limit=limit), candidates, rule) == expected


def test_every_record_is_embedded_once_for_all_runs() -> None:
    first, again = Costly(), Costly()
    expected = votes(data(RECORDS), first, CANDIDATES)
    assert sorted(first.seen) == sorted(x for x, _, _ in RECORDS)
    assert votes(data(RECORDS), again, CANDIDATES) == expected
    assert again.seen == []
    other = [(x, 2 - label, user + 7) for x, label, user in RECORDS]
    votes(data(other), again, CANDIDATES)
    assert again.seen == []  # labels and users are no part of an embedding


def test_appended_records_cost_no_more_than_the_last_block_and_themselves() -> None:
    votes(data(RECORDS), Costly(), CANDIDATES)
    longer = Costly()
    votes(data([*RECORDS, (1, 0, 0), (2, 0, 0), (3, 0, 0)]), longer, CANDIDATES)
    assert longer.seen == [x for x, _, _ in RECORDS[20:]] + [1, 2, 3]


@pytest.mark.parametrize(
    "other",
    [Costly("another"), Costly("costly@revision-2"), Costly(scale=2.0), Costly(limit=126), Costly(limit=1000)],
    ids=["name", "revision", "scale", "limit", "type"],
)
def test_another_embedder_never_reads_the_shards_of_the_first(other: Costly) -> None:
    votes(data(RECORDS), Costly(), CANDIDATES)
    found = votes(data(RECORDS), other, CANDIDATES)
    assert sorted(other.seen) == sorted(x for x, _, _ in RECORDS)
    assert found == votes(data(RECORDS), Cheap(other.name, other.scale, other.limit), CANDIDATES)


def test_nor_does_another_schema() -> None:
    votes(data(RECORDS), Costly(), CANDIDATES)
    wider, embedder = Schema((Numeric("x", -99, 100, integer=True),)), Costly()
    table = to_table({"x": np.array([x for x, _, _ in RECORDS])}, wider)
    shards(PrivateDataset(table, np.zeros(len(RECORDS), np.int32), wider), embedder)
    assert len(embedder.seen) == len(RECORDS)


# -- what is unsound -------------------------------------------------------------------------------------------------


def vectors_of(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("embeddings/*/*.npy") if path.name.count(".") == 1)


def cut(root: Path) -> None:
    path = vectors_of(root)[0]
    path.write_bytes(path.read_bytes()[:-3])


def emptied(root: Path) -> None:
    vectors_of(root)[0].write_bytes(b"")


def altered(root: Path) -> None:
    path = vectors_of(root)[0]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def foreign(root: Path) -> None:
    """Whole, of the right shape, but other records'."""
    one, other = [path for path in vectors_of(root) if np.load(path).shape == (4, 2)][:2]
    shutil.copy(other, one)
    shutil.copy(other.with_suffix(".finite.npy"), one.with_suffix(".finite.npy"))
    shutil.copy(other.with_suffix(".sum"), one.with_suffix(".sum"))


def of_another_type(root: Path) -> None:
    path = vectors_of(root)[0]
    np.save(path, np.load(path).astype(np.int16))


def missing_flags(root: Path) -> None:
    vectors_of(root)[0].with_suffix(".finite.npy").unlink()


def missing_sum(root: Path) -> None:
    vectors_of(root)[0].with_suffix(".sum").unlink()


def missing(root: Path) -> None:
    vectors_of(root)[0].unlink()


def half_written(root: Path) -> None:
    """A process died while it wrote: a draft lies there, and no manifest."""
    path = vectors_of(root)[0]
    path.rename(path.with_name(f".{path.name}.123.draft"))
    next(root.glob("datasets/*/manifest.json")).unlink()


DAMAGE = [cut, emptied, altered, foreign, of_another_type, missing_flags, missing_sum, missing, half_written]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_shard_that_is_unsound_is_embedded_again_and_no_other(root: Path, damage: Callable[[Path], None]) -> None:
    expected = votes(data(RECORDS), Costly(), CANDIDATES)
    time.sleep(0.05)  # to the file system, what happens within a tick of its clock happens at one time
    damage(root)
    again, later = Costly(), Costly()
    assert votes(data(RECORDS), again, CANDIDATES) == expected
    assert 0 < len(again.seen) <= 4
    assert votes(data(RECORDS), later, CANDIDATES) == expected
    assert later.seen == []
    assert not list(root.rglob("*.draft"))


def no_manifest(place: Path) -> None:
    (place / "manifest.json").write_text("{")


def another_manifest(place: Path) -> None:
    about = json.loads((place / "manifest.json").read_text())
    about["embedder"]["format"] = 99
    (place / "manifest.json").write_text(json.dumps(about))


def no_labels(place: Path) -> None:
    (place / "000002.labels.npy").unlink()


def short_labels(place: Path) -> None:
    np.save(place / "000002.labels.npy", np.zeros(3, np.int32))


@pytest.mark.parametrize("damage", [no_manifest, another_manifest, no_labels, short_labels])
def test_a_damaged_data_set_is_put_in_order_again_without_embedding(root: Path, damage: Callable[[Path], None]) -> None:
    expected = votes(data(RECORDS), Costly(), CANDIDATES)
    damage(next(root.glob("datasets/*")))
    again = Costly()
    assert votes(data(RECORDS), again, CANDIDATES) == expected
    assert again.seen == []


def test_damage_done_during_a_vote_is_an_error_that_quotes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, embedder = data(RECORDS), Costly()
    votes(private, embedder, CANDIDATES)

    def damaged(*given_: Any) -> list[Shard]:
        found = shards(*given_)
        cut(root)
        return found

    monkeypatch.setattr(pe.private.vote, "shards", damaged)
    with pytest.raises(PrivateDataError, match=r"^the private cache is damaged.*What was charged stays charged\.$"):
        votes(private, embedder, CANDIDATES)
    assert list((root / "votes").iterdir()) == []


def test_a_full_disk_is_told_and_what_was_written_is_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder, save = Costly(), cache.save

    def full(path: Path, array: Any) -> None:
        if len(vectors_of(root)) == 2 and array.ndim == 2 and array.shape[1] == 2 and array.dtype == np.int8:
            with pe.private.cache.refusals(path):
                raise OSError(28, "No space left on device")
        save(path, array)

    with monkeypatch.context() as patch:
        patch.setattr(pe.private.shards, "save", full)
        with pytest.raises(RunError, match="No space left on device"):
            votes(data(RECORDS), embedder, CANDIDATES)
    again = Costly()
    votes(data(RECORDS), again, CANDIDATES)
    assert len(again.seen) == len(RECORDS) - 8


# -- the cache -------------------------------------------------------------------------------------------------------


def test_nobody_else_can_enter_and_names_say_nothing(root: Path, tmp_path: Path) -> None:
    os.umask(os.umask(0o022))
    votes(data(RECORDS), Costly(), CANDIDATES, Contribution.of(norm=1.0))
    assert {path.stat().st_mode & 0o777 for path in (root, *root.rglob("*")) if path.is_dir()} == {0o700}
    assert (root / "key").stat().st_mode & 0o777 == 0o600
    block = next(data(RECORDS)._blocks())
    plain = {block.records_digest().hex(), block.digest().hex(), data(RECORDS).content_digest().hex()}
    assert not plain & {path.name.partition(".")[0] for path in root.rglob("*")}
    names = {path.name for path in vectors_of(root)}
    shutil.rmtree(root)
    votes(data(RECORDS), Costly(), CANDIDATES)
    assert not names & {path.name for path in vectors_of(root)}  # under another key


def test_a_cache_that_others_can_enter_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "open").chmod(0o755)
    monkeypatch.setenv("PE_CACHE", str(tmp_path / "open"))
    with pytest.raises(PrivateDataError, match="can be entered by others"):
        votes(data(RECORDS), Costly(), CANDIDATES)
    assert list((tmp_path / "open").iterdir()) == []


def test_cheap_embedders_of_data_in_memory_store_nothing(root: Path) -> None:
    votes(data(RECORDS), Cheap(), CANDIDATES)
    assert not root.exists()


def test_two_runs_at_once_embed_once() -> None:
    embedder, found = Costly(), []
    expected = votes(data(RECORDS), Cheap(), CANDIDATES)
    threads = [
        threading.Thread(target=lambda: found.append(votes(data(RECORDS), embedder, CANDIDATES))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4
    assert sorted(embedder.seen) == sorted(x for x, _, _ in RECORDS)


def test_folders_that_dead_processes_left_are_removed(root: Path, python: Callable[..., Any]) -> None:
    votes(data(RECORDS), Costly(), CANDIDATES)
    done = python(
        "import os, sys\nfrom pe.private.cache import Cache\n"
        "with Cache.open().temporary('votes') as place:\n (place / 'part').touch(); os._exit(9)"
    )
    assert done.returncode == 9
    assert len(list((root / "votes").iterdir())) == 1
    with cache.Cache.open().temporary("votes") as mine:
        assert list((root / "votes").iterdir()) == [mine]
        with cache.Cache.open().temporary("votes"):
            assert mine.exists()
    assert list((root / "votes").iterdir()) == []


# -- partial sums ----------------------------------------------------------------------------------------------------


class Repeating:
    """Runs every task several times, in a strange order, and from several threads at once."""

    tasks = 3

    def run(self, job: str, phase: str, tasks: int) -> None:
        assert Path(job).stat().st_mode & 0o777 == 0o700
        for _ in range(2):
            threads = [
                threading.Thread(target=scan.perform, args=(job, phase, task, tasks)) for task in (2, 0, 1, 2, 0)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    def close(self) -> None: ...


@pytest.mark.parametrize("rule", [Contribution((1.0, 1.0)), Contribution.of((1.0, 0.5), 2.0)], ids=["record", "user"])
def test_tasks_that_are_run_again_are_counted_once(root: Path, rule: Contribution) -> None:
    twice = RECORDS * 3 + RECORDS[:1]  # equal blocks, too
    twice = [*twice[:4], *twice[:4], *twice]
    private = data(twice)
    expected = votes(private, Cheap(), CANDIDATES, rule)
    private.executor = Repeating()
    assert votes(private, Cheap(), CANDIDATES, rule) == expected
    assert list((root / "votes").iterdir()) == []


class Losing(Repeating):
    """Loses a task, and does not say so."""

    def run(self, job: str, phase: str, tasks: int) -> None:
        scan.perform(job, phase, 0, tasks)


def test_a_vote_of_which_a_part_is_missing_is_no_vote() -> None:
    private = data(RECORDS)
    private.executor = Losing()
    with pytest.raises(PrivateDataError, match="missing"):
        votes(private, Cheap(), CANDIDATES)


def test_a_worker_of_another_version_and_one_that_sees_no_folder_are_told(tmp_path: Path) -> None:
    class Older(Repeating):
        def run(self, job: str, phase: str, tasks: int) -> None:
            about = json.loads(Path(job, "job.json").read_text())
            Path(job, "job.json").write_text(json.dumps(about | {"format": 0}))
            scan.perform(job, phase, 0, tasks)

    private = data(RECORDS)
    private.executor = Older()
    with pytest.raises(PrivateDataError, match=r"another version.*stays charged"):
        votes(private, Cheap(), CANDIDATES)
    with pytest.raises(PrivateDataError, match=r"PE_CACHE must lie where every worker.*stays charged"):
        scan.perform(str(tmp_path / "elsewhere"), "shards", 0, 1)


@pytest.mark.parametrize("embedder", [Costly(), Cheap()], ids=["stored", "memory"])
def test_hardly_any_records_or_candidates(embedder: Costly) -> None:
    assert votes(data([]), embedder, CANDIDATES, Contribution.of(norm=1.0)) == [0] * 9
    assert votes(data([]), embedder, [(1, 0)]) == [0]
    assert votes(data(RECORDS), embedder, [(1, 0)], Contribution((1.0, 1.0))) == [22]
    assert votes(data([(RAISES, 0, 0), (NAN, 1, 0)]), embedder, [(1, 2), (2, 1), (3, 0)]) == [0, 1, 1]
    with pytest.raises(ConfigError, match=r"at least one candidate.*Nothing was spent"):
        votes(data(RECORDS), embedder, [])


def test_users_are_asked_for_where_they_are_needed() -> None:
    private = PrivateDataset(to_table({"x": np.arange(9)}, SCHEMA), np.zeros(9, np.int32), SCHEMA)
    for embedder in (Cheap(), Costly()):
        with pytest.raises(PrivateDataError, match="without a user column"):
            votes(private, embedder, CANDIDATES, Contribution.of(norm=1.0))


def test_a_block_shows_nothing() -> None:
    assert "Block object" in repr(Block.joined(list(data(RECORDS)._blocks())))
