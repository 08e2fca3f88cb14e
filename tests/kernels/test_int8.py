"""The int8 route finds what brute force finds, in any tiling and on any threads; it is not taken where it is wrong."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pe.kernels import int8, nearest, scan
from pe.kernels.floating import Integers
from pe.kernels.nearest import Search

Rows = NDArray[np.int8]


def brute_force(queries: Integers, candidates: Integers, k: int) -> NDArray[np.int64]:
    """All squared distances in int64, sorted stably: ties to the lower index."""
    left, right = queries.astype(np.int64), candidates.astype(np.int64)
    distances = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1) - 2 * left @ right.T
    return np.argsort(distances, axis=1, kind="stable")[:, :k]


@st.composite
def problems(draw: st.DrawFn) -> tuple[Rows, Rows, int]:
    """Ordinary, extreme, and nearly all equal entries; duplicates; queries that are candidates."""
    values = draw(st.sampled_from([range(-128, 128), [-128, 127], [-128], [0, 1], [0], [-128, -127, 126, 127]]))
    n, m, d = draw(st.integers(1, 40)), draw(st.integers(1, 300)), draw(st.integers(int8.NARROWEST, 70))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    candidates, queries = (rng.choice(np.array(values, np.int8), (rows, d)) for rows in (m, n))
    if draw(st.booleans()):
        candidates = candidates[rng.integers(0, m, m)]
    if draw(st.booleans()):
        queries = candidates[rng.integers(0, m, n)]
    return queries, candidates, draw(st.integers(1, min(m, int8.MOST_NEIGHBOURS)))


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    assert torch.get_num_threads() == before
    torch.set_num_threads(before)


@given(problems())
def test_every_route_finds_what_brute_force_finds(problem: tuple[Rows, Rows, int]) -> None:
    queries, candidates, k = problem
    expected = brute_force(queries, candidates, k)
    for route in ("int8", "float32", "float64"):
        found = Search(candidates, k, route=route)(queries)
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, expected)


@given(problems(), st.sampled_from([1, 3, 16]), st.sampled_from([1, 7, 64, 100]), st.booleans())
def test_tiles_and_the_missing_numba_change_nothing(
    problem: tuple[Rows, Rows, int], rows: int, products: int, numba: bool
) -> None:
    queries, candidates, k = problem
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8, "ROWS", rows)
        patch.setattr(int8, "PRODUCTS", products)
        found = np.empty((len(queries), k), np.int64)
        int8.Int8Search(candidates, k, None if numba else scan.plain)(queries, found)
    np.testing.assert_array_equal(found, brute_force(queries, candidates, k))


@given(problems())
def test_the_scan_means_what_its_python_says(problem: tuple[Rows, Rows, int]) -> None:
    """numba compiles the loops; interpreted, they do the same."""
    queries, candidates, k = problem
    found = np.empty((len(queries), k), np.int64)
    int8.Int8Search(candidates, k, scan._loops)(queries, found)
    np.testing.assert_array_equal(found, brute_force(queries, candidates, k))


@given(problems())
def test_other_rows_permutations_and_chunks_change_nothing(problem: tuple[Rows, Rows, int]) -> None:
    queries, candidates, k = problem
    search = Search(candidates, k, route="int8")
    together = search(queries)
    np.testing.assert_array_equal(np.concatenate([search(query[None]) for query in queries]), together)
    order = np.random.default_rng(0).permutation(len(queries))
    np.testing.assert_array_equal(search(queries[order]), together[order])
    np.testing.assert_array_equal(search(queries[1:]), together[1:])
    assert search(queries[:0]).shape == (0, k)
    assert search.route == "int8"


@pytest.mark.parametrize("threads", [2, 3, 7])
@pytest.mark.parametrize("k", [1, 5])
def test_threads_change_nothing_and_torchs_own_setting_stays(
    threads: int, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "ROWS", 32)
    rng = np.random.default_rng(0)
    queries, candidates = (rng.integers(-3, 4, (n, 24), np.int8) for n in (1000, 200))
    one = Search(candidates, k, route="int8")(queries)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        many = Search(candidates, k, route="int8")(queries)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(many, one)


def test_an_error_in_a_thread_comes_out() -> None:
    def broken(*_: object) -> None:
        raise MemoryError("no room")

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(MemoryError, match="no room"):
            int8.Int8Search(np.zeros((3, 8), np.int8), 1, broken)(
                np.zeros((600, 8), np.int8), np.empty((600, 1), np.int64)
            )
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("layout", ["memory-mapped", "transposed", "every other row", "reversed"])
def test_rows_are_read_as_they_lie(layout: str, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(-128, 128, (600, 32), np.int8)
    if layout == "memory-mapped":
        np.save(tmp_path / "rows.npy", rows)
        rows = np.load(tmp_path / "rows.npy", mmap_mode="r")
    elif layout == "transposed":
        rows = np.asfortranarray(rows)
    else:
        rows = rows[::2] if layout == "every other row" else rows[::-1]
    np.testing.assert_array_equal(
        Search(rows[:100], 3, route="int8")(rows), brute_force(np.array(rows), np.array(rows[:100]), 3)
    )


@pytest.mark.parametrize("value", [-128, 127])
def test_the_widest_int8_rows_do_not_overflow(value: int) -> None:
    """Scores up to 2**31 - 1; distances that differ by one step in one of 43,690 entries."""
    queries = np.full((2, int8.WIDEST), value, np.int8)
    candidates = np.full((4, int8.WIDEST), value, np.int8)
    step = -1 if value > 0 else 1
    candidates[0, 0] += 2 * step
    candidates[1, -1] += step
    candidates[3] = -1 - candidates[3]
    expected = [[2, 1, 0, 3]] * 2
    np.testing.assert_array_equal(Search(candidates, 4, route="int8")(queries), expected)


def test_wider_rows_take_int8_only_while_int32_holds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "COLD_START", 0)
    monkeypatch.setattr(nearest, "WARM_START", 0)
    long = np.full((2, int8.WIDEST + 1), -128, np.int8)
    candidates = long.copy()
    candidates[0, 0] = -127
    search = Search(candidates, 1)
    np.testing.assert_array_equal(search(long), [[1], [1]])
    assert search.route == "float64"
    with pytest.raises(ValueError, match="expected a search that the int8 route can do"):
        Search(candidates, 1, route="int8")(long)
    short = Search(candidates // 2, 1)
    short(long // 2)
    assert short.route == "int8"


@pytest.mark.parametrize("width", [0, 1, int8.NARROWEST - 1])
def test_narrow_rows_are_left_to_float32(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "COLD_START", 0)
    monkeypatch.setattr(nearest, "WARM_START", 0)
    rows = np.random.default_rng(0).integers(-128, 128, (50, width), np.int8)
    search = Search(rows[:20], 2)
    np.testing.assert_array_equal(search(rows), brute_force(rows, rows[:20], 2))
    assert search.route == "float32"


@pytest.mark.parametrize("route", ["int8", "float32"])
def test_a_route_that_is_not_exact_for_the_rows_is_refused(route: nearest.Route) -> None:
    rows = np.full((2, 2), 20_000, np.int16)
    with pytest.raises(ValueError, match=f"expected a search that the {route} route can do"):
        Search(rows, route=route)(rows)


def saturating(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Products as AVX2 forms them: pairs added up in int16, the left operand shifted by 128."""
    a, b = left.numpy().astype(np.int64) + 128, right.numpy().astype(np.int64)
    if a.shape[1] % 2:
        a, b = np.pad(a, ((0, 0), (0, 1))), np.pad(b, ((0, 1), (0, 0)))
    pairs = a[:, 0::2, None] * b[None, 0::2] + a[:, 1::2, None] * b[None, 1::2]
    sums = np.clip(pairs, -(2**15), 2**15 - 1).sum(axis=1) - 128 * b.sum(axis=0)
    return torch.from_numpy(sums.astype(np.int32))


def test_the_probe_tells_saturating_products_from_exact_ones() -> None:
    assert int8._exact(lambda left, right: left.int() @ right.int())
    assert not int8._exact(saturating)


def test_the_probe_tells_slow_products_by_time_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy otherwise makes nothing slow."""
    exact, threads = torch._int_mm, []

    def kept_waiting(*arguments: torch.Tensor) -> torch.Tensor:
        time.sleep(0.01)
        threads.append(torch.get_num_threads())
        return exact(*arguments)

    monkeypatch.setattr(torch, "_int_mm", kept_waiting)
    assert int8._fast(torch)
    assert set(threads) == {1}

    def slow(*arguments: torch.Tensor) -> None:
        for _ in range(50):
            exact(*arguments)

    monkeypatch.setattr(torch, "_int_mm", slow)
    assert not int8._fast(torch)


SATURATED = """
import numpy as np
from pe.kernels import int8, nearest
nearest.COLD_START = nearest.WARM_START = 0
rng = np.random.default_rng(0)
queries, candidates = (rng.choice(np.array([-128, 127], np.int8), (n, 512)) for n in (300, 40))
search = nearest.Search(candidates, 2)
left, right = queries.astype(np.int64), candidates.astype(np.int64)
scores = 2 * left @ right.T - (right**2).sum(axis=1)
assert np.array_equal(search(queries), np.argsort(-scores, axis=1, kind="stable")[:, :2])
print(search.route, "|", int8.fault())
"""


def test_a_cpu_on_which_products_saturate_is_found_out() -> None:
    """oneDNN limited to AVX2, which has no exact int8 instruction."""
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SATURATED], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    route, fault = done.stdout.strip().split(" | ")
    if platform.machine() == "x86_64":
        assert (route, "saturates" in fault) == ("float64", True)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    assert scan.fused.__wrapped__() is None
    monkeypatch.setattr(int8, "_fast", lambda _: False)
    assert "far slower than float32" in int8.fault.__wrapped__()
    monkeypatch.delattr(torch, "_int_mm")
    assert "no int8 matrix product" in int8.fault.__wrapped__()
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "pip install 'pe-synth[fast]'" in int8.fault.__wrapped__()
    monkeypatch.setattr(int8, "fault", int8.fault.__wrapped__)
    assert nearest.routes()["float32"] == ""
    rows = np.eye(8, dtype=np.int8)
    with pytest.raises(ValueError, match="torch is not installed"):
        Search(rows, route="int8")(rows)


SHORT = """
import sys
import numpy as np
from pe.kernels import nearest
rows = np.eye(64, dtype=np.int8)
search = nearest.Search(rows)
search(rows)
assert not {"torch", "numba"} & set(sys.modules)
nearest.COLD_START = 3 * 64**3
search(rows)
assert search.route == "float32" and not {"torch", "numba"} & set(sys.modules)
search(rows)
print(search.route, sorted({"torch", "numba"} & set(sys.modules)))
"""


def test_short_searches_import_nothing_and_long_ones_pay_for_it(
    python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = python(SHORT)
    assert done.returncode == 0, done.stderr
    if not int8.fault():
        assert done.stdout.split("\n")[0] == "float32, int8 ['numba', 'torch']"


MEMORY = """
import resource
import sys
import numpy as np
from pe.kernels.nearest import Search
n, m, d, k, route = *map(int, sys.argv[1:5]), sys.argv[5]
rng = np.random.default_rng(0)
queries, candidates = (rng.integers(-90, 91, (rows, d), np.int8) for rows in (n, m))
small = Search(candidates[:300], k, route=route)
small(queries[:300])
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
found = Search(candidates, k, route=route)(queries)
print(peak() - before - found.nbytes / 2**20)
"""


@pytest.mark.parametrize(
    ("n", "m", "d", "k", "route"),
    [
        (600, 200_000, 32, 3, "int8"),
        (400_000, 100, 8, 1, "int8"),
        (300, 300_000, 48, 1, "float32"),
        (40_000, 3_000, 256, 2, "float32"),
    ],
)
def test_memory_does_not_grow_with_queries_and_candidates(
    n: int, m: int, d: int, k: int, route: str, python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = python(MEMORY, n, m, d, k, route)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 64
