"""The CUDA route on tensors of the CPU, its kernel interpreted: run by test_cuda.py, where Triton is not loaded yet."""

from __future__ import annotations

import warnings
from threading import Lock
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pe.kernels import cuda, devices, nearest
from pe.kernels.cuda import CudaSearch
from pe.kernels.devices import SEVERAL, SINGLE, Device, Tiles
from pe.kernels.nearest import Search

SMALL = Tiles(16, 32, 32, 4, 2, True)


@pytest.fixture(autouse=True)
def _one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter works in one thread at a time; devices need not."""
    lock, start = Lock(), cuda._Part._start

    def alone(*arguments: Any) -> None:
        with lock:
            start(*arguments)

    monkeypatch.setattr(cuda._Part, "_start", alone)


def device(tiles: Tiles = SMALL, name: str = "interpreter") -> Device:
    return Device(torch.device("cpu"), name, tiles, tiles)


def found(
    queries: NDArray[np.int8],
    candidates: NDArray[np.int8],
    k: int,
    tiles: Tiles = SMALL,
    own: NDArray[np.int64] | None = None,
    groups: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    ids = np.empty((len(queries), k), np.int64)
    CudaSearch(candidates, k, own, [device(tiles)])(queries, ids, groups)
    return ids


def brute_force(queries: NDArray[np.int8], candidates: NDArray[np.int8], k: int) -> NDArray[np.int64]:
    left, right = queries.astype(np.int64), candidates.astype(np.int64)
    return np.argsort((right**2).sum(axis=1) - 2 * left @ right.T, axis=1, kind="stable")[:, :k]


@st.composite
def problems(draw: st.DrawFn) -> tuple[NDArray[np.int8], NDArray[np.int8], int]:
    values = draw(st.sampled_from([range(-128, 128), [-128, 127], [-127, 127], [-128], [0, 1], [0], range(-9, 10)]))
    n, m, d = draw(st.integers(1, 40)), draw(st.integers(1, 100)), draw(st.integers(1, 70))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    candidates, queries = (rng.choice(np.array(values, np.int8), (rows, d)) for rows in (m, n))
    if draw(st.booleans()):
        candidates = candidates[rng.integers(0, m, m)]
    if draw(st.booleans()):
        queries = candidates[rng.integers(0, m, n)]
    return queries, candidates, draw(st.integers(1, min(m, 5)))


@settings(max_examples=25)
@given(problems())
def test_it_finds_what_the_routes_of_the_cpu_find(problem: tuple[NDArray[np.int8], NDArray[np.int8], int]) -> None:
    queries, candidates, k = problem
    ids = found(queries, candidates, k)
    np.testing.assert_array_equal(ids, brute_force(queries, candidates, k))
    for route in ("int8", "float32", "float64"):
        if route != "int8" or candidates.shape[1] >= 8:
            np.testing.assert_array_equal(ids, Search(candidates, k, route=route)(queries))


@settings(max_examples=25)
@given(problems(), st.integers(1, 4), st.integers(0, 2**32))
def test_groups_are_those_of_the_cpu(
    problem: tuple[NDArray[np.int8], NDArray[np.int8], int], labels: int, seed: int
) -> None:
    queries, candidates, k = problem
    rng = np.random.default_rng(seed)
    own, groups = rng.integers(0, labels, len(candidates)), rng.integers(-1, labels + 1, len(queries))
    expected = Search(candidates, k, own, device="cpu")(queries, groups)
    np.testing.assert_array_equal(found(queries, candidates, k, SMALL, own, groups), expected)


@pytest.mark.parametrize(("tiles", "k"), [*((each, 1) for each in SINGLE), *((each, 3) for each in SEVERAL)])
def test_all_tiles_are_exact(tiles: Tiles, k: int) -> None:
    assert devices.exact(device(tiles), k)


@pytest.mark.parametrize("k", [1, 7, 16])
@pytest.mark.parametrize(("n", "m", "d"), [(1, 1, 1), (1, 300, 384), (129, 1, 40), (130, 257, 129), (128, 256, 128)])
def test_shapes_at_the_edges_of_tiles(n: int, m: int, d: int, k: int) -> None:
    rng = np.random.default_rng(0)
    queries, candidates = (rng.integers(-30, 31, (rows, d), np.int8) for rows in (n, m))
    k = min(k, m)
    expected = brute_force(queries, candidates, k)
    np.testing.assert_array_equal(found(queries, candidates, k, SINGLE[0]), expected)


@pytest.mark.parametrize("value", [-128, -127, 127])
@pytest.mark.parametrize("k", [1, 4])
def test_extreme_rows_and_short_ones_in_one_search(value: int, k: int) -> None:
    """Rows of 768 such entries are too long for a key of score and column, short ones are not: each tile by itself."""
    rng = np.random.default_rng(0)
    candidates = rng.integers(-20, 21, (300, 768), np.int8)
    queries = rng.integers(-20, 21, (300, 768), np.int8)
    queries[130] = value
    for long in (False, True):
        if long:
            candidates[200:204] = value
            candidates[201, 5] -= np.sign(value)
        np.testing.assert_array_equal(found(queries, candidates, k, SINGLE[0]), brute_force(queries, candidates, k))


def test_the_widest_rows_do_not_overflow() -> None:
    queries = np.full((2, 43_690), -128, np.int8)
    candidates = np.full((3, 43_690), -128, np.int8)
    candidates[0, 0], candidates[1] = -127, 127
    np.testing.assert_array_equal(found(queries, candidates, 3, SINGLE[0]), [[2, 0, 1]] * 2)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "PIECE_BYTES", 64 * 64)
    monkeypatch.setattr(cuda, "PIECE_ROWS", 96)
    monkeypatch.setattr(cuda, "FEWEST_ROWS", 16)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each copy took."""
    copied: list[int] = []
    send = cuda._Lane.send

    def counting(self: cuda._Lane, queries: NDArray[np.int8], to: torch.Tensor) -> None:
        copied.append(len(queries))
        send(self, queries, to)

    monkeypatch.setattr(cuda._Lane, "send", counting)
    return copied


ROWS = np.random.default_rng(1).integers(-9, 10, (170, 40), np.int8)
OWN, GROUPS = np.arange(50) % 3, np.arange(170) % 4


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("name", [None, "shard"])
@pytest.mark.parametrize("grouped", [False, True])
def test_pieces_devices_and_kept_rows_change_nothing(
    count: int, name: str | None, grouped: bool, sent: list[int]
) -> None:
    own, groups = (OWN, GROUPS) if grouped else (None, None)
    all_devices = [device() for _ in range(count)]
    for k in (1, 2):
        for candidates in (ROWS[:50], ROWS[50:100]):
            before, ids = len(sent), np.empty((170, k), np.int64)
            CudaSearch(candidates, k, own, all_devices)(ROWS, ids, groups, name)
            np.testing.assert_array_equal(ids, Search(candidates, k, own, device="cpu")(ROWS, groups))
            again = name is not None and before > 0
            assert sum(sent[before:]) == (0 if again else 170), "rows that are kept are not copied again"
    assert max(sent) <= 64


def test_kept_rows_are_enough_for_larger_tiles_too() -> None:
    one = device(Tiles(16, 32, 32, 4, 2, False))
    one.single = Tiles(64, 32, 32, 4, 2, False)
    for k in (2, 1):  # by several neighbours' tiles first
        ids = np.empty((170, k), np.int64)
        CudaSearch(ROWS[:50], k, None, [one])(ROWS, ids, name="shard")
        np.testing.assert_array_equal(ids, brute_force(ROWS, ROWS[:50], k))
    assert [len(rows) for rows in one.kept.values()] == [cuda.WIDEST]
    assert max(tiles.rows for tiles in (*SINGLE, *SEVERAL)) <= cuda.WIDEST


@pytest.mark.usefixtures("small_pieces")
def test_rows_for_which_there_is_no_memory_are_not_kept(sent: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Device, "room", lambda self: 100 * 64)
    one = device()
    for _ in range(2):
        ids = np.empty((170, 1), np.int64)
        CudaSearch(ROWS[:50], 1, None, [one])(ROWS, ids, name="shard")
        np.testing.assert_array_equal(ids, brute_force(ROWS, ROWS[:50], 1))
    assert sum(sent) == 2 * 170
    assert not one.kept


def full(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """A device on which there is memory for so many rows at a time."""
    asked: list[int] = []
    made = cuda._Lane.__init__

    def refusing(self: cuda._Lane, part: cuda._Part, rows: int, copied: bool) -> None:
        asked.append(rows)
        if rows > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 170 rows")
        made(self, part, rows, copied)

    monkeypatch.setattr(cuda._Lane, "__init__", refusing)
    return asked


@pytest.mark.usefixtures("small_pieces")
def test_a_full_device_gets_fewer_rows_at_a_time_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = full(monkeypatch, 20)
    one = device()
    one.kept["another shard"] = torch.zeros(1)
    ids = np.empty((170, 2), np.int64)
    with pytest.warns(RuntimeWarning, match=r"^interpreter is out of memory: .* fewer rows at a time$"):
        CudaSearch(ROWS[:50], 2, None, [one])(ROWS, ids, name="shard")
    np.testing.assert_array_equal(ids, brute_force(ROWS, ROWS[:50], 2))
    assert asked == [64, 16, 16]
    assert not one.kept


@pytest.fixture
def present(monkeypatch: pytest.MonkeyPatch) -> Device:
    """A device of this machine, with which a search begins at once."""
    one = device()
    monkeypatch.setattr(devices, "_found", lambda: ([one], ""))
    monkeypatch.setattr(nearest, "DEVICE_START", 0)
    return one


@pytest.mark.usefixtures("present")
def test_a_device_is_used_unasked_and_named() -> None:
    search = Search(ROWS[:50], 2)
    np.testing.assert_array_equal(search(ROWS), brute_force(ROWS, ROWS[:50], 2))
    assert search.route == "cuda (interpreter)"
    for keywords in ({"device": "cpu"}, {"route": "int8"}):
        search = Search(ROWS[:50], 2, **keywords)
        search(ROWS)
        assert "cuda" not in search.route
    with pytest.raises(ValueError, match="expected a search that the cuda route can do"):
        Search(ROWS[:50].astype(np.int16), device="cuda")(ROWS.astype(np.int16))
    many = Search(ROWS[:50], devices.MOST_NEIGHBOURS + 1)
    np.testing.assert_array_equal(many(ROWS), brute_force(ROWS, ROWS[:50], devices.MOST_NEIGHBOURS + 1))
    assert "cuda" not in many.route


def broken(*_: object) -> None:
    raise RuntimeError("CUDA error: rows 170")


@pytest.mark.usefixtures("present")
@pytest.mark.parametrize("what", ["full", "no room for candidates", "broken"])
@pytest.mark.parametrize("grouped", [False, True])
def test_a_device_that_gives_up_leaves_the_vote_to_the_cpu_and_says_so(
    what: str, grouped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "PIECE_BYTES", 0)  # the fewest rows from the beginning
    if what == "full":
        full(monkeypatch, 0)
    elif what == "broken":
        monkeypatch.setattr(cuda._Part, "_start", broken)
    else:

        def no_room(*_: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 170 rows")

        monkeypatch.setattr(cuda._Part, "_send_candidates", no_room)
    own, groups = (OWN, GROUPS) if grouped else (None, None)
    search = Search(ROWS[:50], 2, own)
    with pytest.warns(RuntimeWarning, match="the vote goes on on the CPU$") as told:
        ids = search(ROWS, groups)
    assert "170" not in str(told[0].message)
    np.testing.assert_array_equal(ids, Search(ROWS[:50], 2, own, device="cpu")(ROWS, groups))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(search(ROWS, groups), ids)
    assert "cuda" not in search.route
    with pytest.raises(ValueError, match="expected a search that the cuda route can do, but"):
        Search(ROWS[:50], 2, own, device="cuda")(ROWS, groups)


def test_tiles_are_the_fastest_of_those_that_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = dict(zip((*SINGLE, *SEVERAL), (9, 1, 3, 2, 5, 4, 6), strict=True))

    def exact(one: Device, k: int) -> bool:
        if one.single == SINGLE[1]:
            raise RuntimeError("out of resource: shared memory")
        return one.single != SEVERAL[1]

    monkeypatch.setattr(devices, "exact", exact)
    monkeypatch.setattr(devices, "seconds", lambda one, k: tried[one.single])
    one = device()
    assert devices.tune(one)
    assert (one.single, one.several) == (SINGLE[3], SEVERAL[0])
    monkeypatch.setattr(devices, "exact", lambda one, k: k == 1)
    assert not devices.tune(one)


def test_a_device_that_errs_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    place = cuda._Part._finish

    def later_of_equals(self: cuda._Part, lane: cuda._Lane) -> None:
        if lane.busy is not None:
            lane.places_here[0, 0] += 1
        place(self, lane)

    monkeypatch.setattr(cuda._Part, "_finish", later_of_equals)
    assert not devices.exact(device(), 1)


def test_the_time_of_a_search_is_taken_with_rows_in_place(sent: list[int]) -> None:
    one = device()
    assert devices.seconds(one, 1, n=64, m=32, d=32) > 0
    assert sum(sent) == 64
    assert not one.kept


def test_an_empty_search_asks_no_device() -> None:
    ids = np.empty((0, 2), np.int64)
    CudaSearch(ROWS[:50], 2, None, [device()])(ROWS[:0], ids)
    ids = np.empty((3, 2), np.int64)
    CudaSearch(ROWS[:50], 2, OWN, [device()])(ROWS[:3], ids, np.full(3, 7))
    assert (ids == -1).all()
