"""The vote against faiss, numpy, scikit-learn and the full distance matrix, beside what the machine can do at most.

    python tests/benchmarks/vote.py [--threads 2] [--shapes 50000,2000,384 ...] [--times 3] [--without ENGINE ...]

One table. Peaks are those of matrix products alone, int8 (``torch._int_mm``) and float32, measured in every turn. Time
is the processor time of all threads, the least of ``times`` turns in which every engine has one, so that what else the
machine does falls on all of them; "x faiss" is faiss's time over an engine's. The share of a peak is time at that peak
over the engine's time. Peers are given floats that they need not convert. Memory is the growth of the peak resident
size in a process of its own (Linux), beyond the ids. Every id is compared: no engine may find a nearer candidate than
the vote does. Where there are CUDA devices, the kernel is timed on rows that lie there, against the int8 product of
cuBLAS, and with copies.

Threads that wait sleep (OMP_WAIT_POLICY), so that a busy machine does not add their spinning to an engine's time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

THREADS = "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"
SHAPES = ["50000,2000,384", "50000,5000,384", "50000,5000,768", "200000,1000,384"]
SCALING = ["12500,2000,384", "25000,2000,384", "100000,2000,384", "50000,500,384", "50000,8000,384", "50000,2000,96"]
SCALING += ["50000,2000,192", "50000,2000,1024"]
TILE = 1024


def vectors(n: int, m: int, d: int) -> tuple[Any, Any]:
    """Directions around a few centres, quantised as embeddings of texts are."""
    import numpy as np

    from pe.kernels.quantise import quantise

    rng = np.random.default_rng(0)
    centres = rng.normal(size=(20, d)).astype(np.float32)
    found = []
    for rows in (n, m):
        drawn = rng.normal(size=(rows, d)).astype(np.float32) * 1.5 + centres[rng.integers(0, len(centres), rows)]
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        found.append(quantise(drawn, 127 * d**0.5 / 4.5, 127)[0])
    return found[0], found[1]


def route(name: str, k: int = 1) -> Callable[[Any, Any], Any]:
    def search(queries: Any, candidates: Any) -> Any:
        from pe.kernels.nearest import Search

        return Search(candidates, k, route=name)(queries)[:, 0]

    return search


def faiss_flat(queries: Any, candidates: Any) -> Any:
    import faiss
    import numpy as np

    index = faiss.IndexFlatL2(candidates.shape[1])
    index.add(candidates.astype(np.float32))
    ids = [index.search(np.asarray(part, np.float32), 1)[1][:, 0] for part in parts(queries, 4096)]
    return np.concatenate(ids)


def numpy_sgemm(queries: Any, candidates: Any) -> Any:
    import numpy as np

    weights, norms = candidates.astype(np.float32).T * 2, (candidates.astype(np.float32) ** 2).sum(axis=1)
    tiles = parts(queries, TILE)
    return np.concatenate([(np.asarray(tile, np.float32) @ weights - norms).argmax(axis=1) for tile in tiles])


def cdist(queries: Any, candidates: Any) -> Any:
    import torch

    return torch.cdist(torch.from_numpy(queries).float(), torch.from_numpy(candidates).float()).argmin(dim=1).numpy()


def sklearn_l2(queries: Any, candidates: Any) -> Any:
    from sklearn.neighbors import NearestNeighbors

    found = NearestNeighbors(n_neighbors=1, metric="l2", n_jobs=1).fit(candidates.astype("float32"))
    return found.kneighbors(queries.astype("float32"), return_distance=False)[:, 0]


ENGINES: dict[str, tuple[Callable[[Any, Any], Any], float]] = {
    "faiss flat": (faiss_flat, 1),
    "vote, int8": (route("int8"), 1),
    "vote, float32": (route("float32"), 1),
    "vote, float64": (route("float64"), 0.25),
    "vote, int8, K = 4": (route("int8", 4), 1),
    "numpy sgemm": (numpy_sgemm, 1),
    "torch.cdist, whole": (cdist, 0.4),
    "sklearn, l2": (sklearn_l2, 500),
}
"""And the share of the rows, or number of rows, for which they are timed."""


def parts(rows: Any, size: int) -> list[Any]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def cost(work: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.process_time()
    result = work()
    return time.process_time() - begun, result


def peak(kind: str, d: int) -> float:
    """Multiply-adds per second of processor time of large products, on all threads or one, whichever is faster.

    Many products, as the clock of other threads is coarse.
    """
    import torch

    left, right = torch.randint(-90, 91, (2048, d)), torch.randint(-90, 91, (2048, d)).t()
    left, right = (each.to(torch.int8 if kind == "int8" else torch.float32) for each in (left, right))
    out = torch.empty((2048, 2048), dtype=torch.int32 if kind == "int8" else torch.float32)
    product: Any = torch._int_mm if kind == "int8" else torch.matmul
    times = int(2e11 if kind == "int8" else 5e10) // (2048 * 2048 * d) + 1

    def work() -> None:
        for _ in range(times):
            product(left, right, out=out)

    threads, spent = torch.get_num_threads(), [cost(work)[0]]
    torch.set_num_threads(1)
    spent.append(cost(work)[0])
    torch.set_num_threads(threads)
    return times * 2048 * 2048 * d / min(spent)


def memory(engine: str, n: int, m: int, d: int, threads: int) -> float:
    """MiB by which the peak grows in a search, beyond the ids, in a process that did a small one before."""
    command = [sys.executable, __file__, "--memory", engine, "--shapes", f"{n},{m},{d}", "--threads", str(threads)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def grown(engine: str, n: int, m: int, d: int) -> float:
    import numpy as np

    def status(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name))

    search = ENGINES[engine][0]
    rng = np.random.default_rng(0)
    queries, candidates = (rng.integers(-90, 91, (rows, d), np.int8) for rows in (n, m))
    small = queries[:3000], candidates[:300]
    given = queries if engine.startswith("vote") else queries.astype(np.float32)
    search(*small)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = status("VmRSS")
    ids = search(given, candidates)
    return (status("VmHWM") - before) / 1024 - ids.nbytes / 2**20


def compare(n: int, m: int, d: int, times: int, engines: list[str], threads: int, with_memory: bool) -> int:
    """Print the rows of one shape; returns how many ids were compared."""
    import numpy as np

    queries, candidates = vectors(n, m, d)
    given = {name: queries if name.startswith("vote") else queries.astype(np.float32) for name in engines}
    rows = {name: int(share if share > 1 else share * n) for name, (_, share) in ENGINES.items()}
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    peaks: dict[str, list[float]] = {"int8": [], "float32": []}
    ids: dict[str, Any] = {}
    for name in engines:
        ENGINES[name][0](given[name][:300], candidates[:300])  # compiled, loaded, threads started
    for _ in range(times):
        for kind, measured in peaks.items():
            measured.append(peak(kind, d))
        for name in engines:
            spent, ids[name] = cost(partial(ENGINES[name][0], given[name][: rows[name]], candidates))
            seconds[name].append(spent * n / rows[name])
    int8, float32, reference = max(peaks["int8"]), max(peaks["float32"]), min(seconds["faiss flat"])
    print(
        f"\n{n:,} x {m:,} x {d}: int8 {2e-9 * int8:.0f}, float32 {2e-9 * float32:.0f} Gop per second of processor time"
    )
    print(f"{'':20} {'seconds':>9} {'x faiss':>8} {'of int8':>8} {'of float32':>11} {'MiB':>6}")
    compared = 0
    for name in engines:
        spent = min(seconds[name])
        extra = f"{memory(name, n, m, d, threads):6.0f}" if with_memory and rows[name] == n else ""
        shares = f"{n * m * d / int8 / spent:8.0%} {n * m * d / float32 / spent:11.0%}"
        expected, found = ids["vote, int8"][: rows[name]], ids[name]
        compared += len(found)
        farther = 0
        if not np.array_equal(found, expected):  # floats round, and not all break ties alike
            here = queries[: rows[name]].astype(np.int32)
            theirs, ours = (((here - candidates[each]) ** 2).sum(axis=1) for each in (found, expected))
            farther = int((theirs > ours).sum())
            assert not name.startswith("vote"), f"{name} finds other candidates"
            assert (theirs >= ours).all(), f"{name} finds nearer candidates"
        print(
            f"{name:20} {spent:9.2f} {reference / spent:8.2f} {shares} {extra}", f"{farther} farther" if farther else ""
        )
    return compared


def on_devices(shapes: list[str]) -> None:
    """The kernel on each CUDA device against the int8 product of its library, and what copies cost."""
    import numpy as np
    import torch

    from pe.kernels import devices
    from pe.kernels.cuda import CudaSearch
    from pe.kernels.nearest import Search

    print(f"\nCUDA: {devices.fault() or devices.named(devices.usable())}")
    for shape in shapes if devices.usable() else []:
        n, m, d = map(int, shape.split(","))
        rng = np.random.default_rng(0)
        queries, candidates = (rng.integers(-40, 41, (rows, d), np.int8) for rows in (n, m))
        expected = Search(candidates, device="cpu")(queries[:20_000])
        for device in devices.usable():
            square = torch.randint(-40, 41, (8192, 8192), dtype=torch.int8, device=device.device)
            top = 8192**3 / min(elapsed(partial(torch._int_mm, square, square.t())) for _ in range(5))
            print(f"{device.name}, {n:,} x {m:,} x {d}; int8 peak {2e-12 * top:.0f} Top/s")
            for tiles in devices.SINGLE:
                device.single = tiles
                try:
                    spent = devices.seconds(device, 1, n, m, d)
                except Exception as error:  # of any type where tiles do not fit
                    print(f"  {tiles}: {type(error).__name__}")
                    continue
                print(f"  {spent:.4f} s, {n * m * d / spent / top:.0%} of the peak; {tiles}")
            devices.tune(device)
            search, found = CudaSearch(candidates, 1, None, [device]), np.empty((n, 1), np.int64)
            spent = min(elapsed(partial(search, queries, found)) for _ in range(3))
            same = np.array_equal(found[:20_000], expected)
            print(f"  {spent:.4f} s with copies; {'the ids of the CPU' if same else 'OTHER IDS THAN THE CPU'}")


def elapsed(work: Callable[[], Any]) -> float:
    import torch

    torch.cuda.synchronize()
    begun = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--shapes", nargs="+", default=SHAPES)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--without", nargs="*", default=[], choices=list(ENGINES))
    parser.add_argument("--scaling", action="store_true", help="also how time grows with N, M and d")
    parser.add_argument("--cuda-shapes", nargs="+", default=["1000000,10000,768"])
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    given = parser.parse_args()
    import faiss
    import torch

    torch.set_num_threads(given.threads)
    faiss.omp_set_num_threads(given.threads)
    if given.memory:
        print(grown(given.memory, *map(int, given.shapes[0].split(","))))
        return
    engines = [name for name in ENGINES if name not in given.without]
    compared = sum(
        compare(*map(int, shape.split(",")), given.times, engines, given.threads, True) for shape in given.shapes
    )
    for shape in SCALING if given.scaling else []:
        few = ["faiss flat", "vote, int8", "vote, float32"]
        compared += compare(*map(int, shape.split(",")), given.times, few, given.threads, False)
    print(f"\n{compared:,} ids compared")
    on_devices(given.cuda_shapes)


if __name__ == "__main__":
    for variable in THREADS:  # before numpy is loaded
        os.environ[variable] = sys.argv[sys.argv.index("--threads") + 1] if "--threads" in sys.argv else "2"
    os.environ["OMP_WAIT_POLICY"] = "passive"
    main()
