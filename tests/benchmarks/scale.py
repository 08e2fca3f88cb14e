"""Votes over a store larger than memory should be: time, memory, and what a second worker brings.

    python tests/benchmarks/scale.py [FOLDER] [--rows 10000000] [--dim 384] [--candidates 1000] [--workers 1 2]

Writes ROWS x DIM random int8 embeddings to FOLDER (a temporary one by default), as the shards of a private cache: 3.84
GB for ten million of 384. Each line is a vote over all of them, by so many worker processes of one thread each, or, 0,
by one process with the threads that its environment gives it. All is deleted at the end.

Memory is that of the processes that vote, as the kernel counts it. Pages of the memory-mapped shards are counted
apart: they are the system's cache of a file, which it takes back whenever memory is wanted elsewhere. ``anonymous`` is
what the process needs for itself; ``resident`` is all of its pages at the peak, those of mapped files among them
(VmHWM). With --limit the same vote runs where data and heap may not grow beyond so many MB (RLIMIT_DATA).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

import pe.private.execution
from pe.private.cache import Cache, save
from pe.private.execution import Local, Processes
from pe.private.poll import Poll
from pe.private.scan import counted
from pe.private.shards import Shard

BLOCK = 2**16


def write(root: Path, rows: int, dim: int) -> None:
    """The shards of made-up records, as an embed would have left them."""
    os.environ["PE_CACHE"] = str(root)
    cache = Cache.open()
    folder, place = cache.folder("embeddings", "scale"), cache.folder("datasets", "scale")
    rng = np.random.default_rng(0)
    for number, start in enumerate(range(0, rows, BLOCK)):
        n = min(BLOCK, rows - start)
        name = f"{number:06d}"
        save(folder / f"{name}.finite.npy", np.ones(n, np.bool_))
        save(folder / f"{name}.npy", rng.integers(-127, 128, (n, dim), np.int8))
        save(place / f"{number:06d}.labels.npy", np.zeros(n, np.int32))


def stored(root: Path, rows: int, dim: int) -> list[Shard]:
    folder, place = root / "embeddings" / "scale", root / "datasets" / "scale"
    return [Shard(f"{n:06d}", folder, place, n, dim, "int8") for n in range(-(-rows // BLOCK))]


def poll(m: int, dim: int) -> Poll:
    rng = np.random.default_rng(1)
    return Poll(rng.integers(-127, 128, (m, dim), np.int8), np.zeros(m, np.int32), 1, (1,), None)


@dataclass
class Peaks:
    """The largest memory of processes, in MB: summed over them, looked at every few milliseconds."""

    anonymous: float = 0.0
    resident: float = 0.0

    def watch(self, ended: threading.Event) -> None:
        while not ended.wait(0.005):
            tree = [os.getpid(), *children(os.getpid())]
            seen = [memory(process) for process in tree]
            self.anonymous = max(self.anonymous, sum(each.get("RssAnon", 0) for each in seen) / 1024)
            self.resident = max(self.resident, sum(each.get("VmRSS", 0) for each in seen) / 1024)


def memory(process: int) -> dict[str, int]:
    """Kilobytes by name, of /proc/PID/status."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return {}
    return {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if "kB" in rest}


def children(process: int) -> list[int]:
    """All processes that a process and its children started, from whichever thread."""
    found: list[int] = []
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(each) for each in path.read_text().split()]
    return found + [below for each in found for below in children(each)]


def vote(root: Path, rows: int, dim: int, m: int, workers: int) -> dict[str, Any]:
    """One vote by so many workers (0: in this process); called in a process of its own."""
    os.environ["PE_CACHE"] = str(root)
    pe.private.execution.cores = lambda: workers  # so that each worker has one thread
    executor = Processes(workers) if workers else Local()
    shards, asked = stored(root, rows, dim), poll(m, dim)
    counted(asked, shards[: 2 * max(workers, 1)], executor)  # starts workers, imports, compiles
    peaks, ended = Peaks(), threading.Event()
    watching = threading.Thread(target=peaks.watch, args=(ended,))
    watching.start()
    before, begun = spent(executor), time.perf_counter()
    found = counted(asked, shards, executor)
    wall, cpu = time.perf_counter() - begun, spent(executor) - before
    ended.set()
    watching.join()
    executor.close()
    digest = sha256(found.tobytes()).hexdigest()[:12]
    return {"workers": workers, "wall": wall, "cpu": cpu, "sum": int(found.sum()), "digest": digest} | vars(peaks)


def spent(executor: Local | Processes) -> float:
    """CPU seconds of this process and of its workers."""
    running = [] if isinstance(executor, Local) else [each.pid for each in executor._running]
    ticks = os.sysconf("SC_CLK_TCK")
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in [os.getpid(), *running]]
    return sum(int(each[11]) + int(each[12]) for each in fields) / ticks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--limit", type=int, help="MB of data and heap that each process may have")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    size = (asked.rows, asked.dim, asked.candidates)
    if asked.one is not None:
        if asked.limit:
            resource.setrlimit(resource.RLIMIT_DATA, (asked.limit * 2**20, asked.limit * 2**20))
        print(json.dumps(vote(asked.folder, *size, asked.one)))
        return
    root = Path(tempfile.mkdtemp(dir=asked.folder))
    try:
        begun = time.perf_counter()
        write(root, asked.rows, asked.dim)
        print(f"{asked.rows} x {asked.dim} int8 written in {time.perf_counter() - begun:.0f} s", flush=True)
        print("workers  wall s  CPU s  CPUs  G multiply-adds/CPU s  anonymous MB  resident MB  votes")
        for workers in asked.workers * asked.repeat:
            command = [sys.executable, __file__, str(root), "--one", str(workers)]
            for name, value in zip(("rows", "dim", "candidates", "limit"), (*size, asked.limit), strict=True):
                command += [f"--{name}", str(value)] if value else []
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{workers:7d}  failed: {done.stderr.strip().splitlines()[-1]}")
                continue
            found = json.loads(done.stdout)
            pace = asked.rows * asked.dim * asked.candidates / found["cpu"] / 1e9
            told = found["anonymous"], found["resident"]
            print(
                f"{workers:7d}  {found['wall']:6.1f}  {found['cpu']:5.1f}  {found['cpu'] / found['wall']:4.2f}"
                f"  {pace:21.0f}  {told[0]:12.0f}  {told[1]:11.0f}  {found['sum']} {found['digest']}",
                flush=True,
            )
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
