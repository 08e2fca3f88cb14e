"""Tiles shared out among threads, on each of which torch computes alone: no thread waits for another one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor


def spread(n: int, rows: int, work: Callable[[Iterator[int], int], None]) -> None:
    """Call ``work(starts, threads)`` on as many threads as torch uses, so that every tile of n rows is begun by one.

    Each call works on the tiles that begin at the starts it draws, until none are left. A single tile is left to
    torch's own threads. An error in a thread is raised here.
    """
    import torch

    before = torch.get_num_threads()
    threads = min(before, -(-n // rows))
    starts = iter(range(0, n, rows))  # shared: next() of it is atomic
    if threads <= 1:
        work(starts, 1)
        return

    def alone() -> None:
        torch.set_num_threads(1)  # of this thread, and of threads yet to start
        work(starts, threads)

    try:
        with ThreadPoolExecutor(threads) as pool:
            for done in [pool.submit(alone) for _ in range(threads)]:
                done.result()
    finally:
        torch.set_num_threads(before)
