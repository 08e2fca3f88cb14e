"""CUDA devices: which there are, how the kernel cuts its work on each, and what is kept in their memory."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Hashable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

OLDEST = (8, 0)
"""Compute capability from which the kernel is compiled in the tests."""

MOST_NEIGHBOURS = 16
"""The kernel keeps them in registers."""

KEPT = 0.5
"""Share of a device's memory that rows kept between searches may take."""


@dataclass(frozen=True)
class Tiles:
    """How the kernel cuts the work: rows and candidates at a time, entries per step; warps, steps loaded ahead."""

    rows: int
    candidates: int
    depth: int
    warps: int
    stages: int
    flat: bool


SINGLE = (
    Tiles(128, 256, 128, 8, 3, True),
    Tiles(128, 256, 128, 8, 3, False),
    Tiles(128, 128, 128, 8, 3, False),
    Tiles(64, 64, 64, 4, 2, False),
)
SEVERAL = (Tiles(128, 128, 128, 8, 3, False), Tiles(64, 128, 64, 4, 3, False), Tiles(32, 64, 64, 4, 2, False))
"""What to choose from, for one neighbour and for several; the last of each fits into any device's shared memory."""


@dataclass(eq=False)
class Device:
    """A device, the tiles that are exact and fastest on it, and the rows kept there by name."""

    device: torch.device
    name: str
    single: Tiles = SINGLE[0]
    several: Tiles = SEVERAL[0]
    kept: dict[Hashable, torch.Tensor] = field(default_factory=dict)

    @property
    def _real(self) -> bool:
        return self.device.type == "cuda"

    def tiles(self, k: int) -> Tiles:
        return self.single if k == 1 else self.several

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Zeros in host memory from which the device copies on its own."""
        import torch

        return torch.zeros(shape, dtype=dtype, pin_memory=self._real)

    def stream(self) -> Any:
        import torch

        return torch.cuda.Stream(self.device) if self._real else None  # type: ignore[no-untyped-call]

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        import torch

        return torch.cuda.stream(stream) if self._real else nullcontext()

    def finish(self, stream: Any) -> None:
        """Wait for what was asked of a stream."""
        if self._real:
            stream.synchronize()

    def current(self) -> AbstractContextManager[Any]:
        """Kernels are launched on the device that is current in the thread."""
        import torch

        return torch.cuda.device(self.device) if self._real else nullcontext()

    def wait(self) -> None:
        """Until all is done that was asked of the device."""
        import torch

        if self._real:
            torch.cuda.synchronize(self.device)

    def room(self) -> int:
        """Bytes that further rows may take to be kept."""
        import torch

        if not self._real:
            return 2**40
        free = torch.cuda.mem_get_info(self.device)[0]
        free += torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        held = sum(rows.nbytes for rows in self.kept.values())
        return int(KEPT * (free + held)) - held

    def forget(self) -> None:
        """Let go of all rows kept, once nothing uses them."""
        import torch

        self.wait()
        self.kept.clear()
        if self._real:
            torch.cuda.empty_cache()


def named(devices: list[Device]) -> str:
    """Such as "NVIDIA H100 NVL" or "2 x NVIDIA A100-SXM4-40GB"."""
    counts = Counter(device.name for device in devices)
    return ", ".join(name if number == 1 else f"{number} x {name}" for name, number in counts.items())


def fault() -> str:
    """Why no CUDA device can be used here; empty where one can."""
    return _found()[1]


def usable() -> list[Device]:
    """The devices on which the kernel finds what it should."""
    return _found()[0]


@cache
def _found() -> tuple[list[Device], str]:
    """Devices, and what is wrong where there is none. Compiling takes some ten seconds, once per machine."""
    try:
        import torch
    except ImportError:
        return [], "torch is not installed: pip install 'pe-synth[fast]'"
    if not torch.cuda.is_available():
        return [], "there is no CUDA device"
    try:
        import triton  # noqa: F401
    except ImportError:
        return [], "triton is not installed: pip install 'pe-synth[fast]'"
    devices, fault = [], ""
    for number in range(torch.cuda.device_count()):
        device = Device(torch.device("cuda", number), torch.cuda.get_device_name(number))
        if torch.cuda.get_device_capability(number) < OLDEST:
            fault = f"{device.name} is older than compute capability {'.'.join(map(str, OLDEST))}"
        elif tune(device):
            devices.append(device)
        else:
            fault = f"{device.name} does not find what it should"
    return devices, "" if devices else fault


def tune(device: Device) -> bool:
    """Choose the fastest tiles, for one neighbour and for several; False where none are exact."""
    for choices, k in ((SINGLE, 1), (SEVERAL, 4)):
        timed = []
        for number, tiles in enumerate(choices):
            device.single = device.several = tiles
            try:
                if exact(device, k):
                    timed.append((seconds(device, k), number))
            except Exception:  # tiles beyond its shared memory; what compilers and drivers raise is of any type
                continue
        if not timed:
            return False
        chosen = choices[min(timed)[1]]
        if k == 1:
            single = chosen
    device.single, device.several = single, chosen
    device.forget()
    return True


def exact(device: Device, k: int) -> bool:
    """Whether the device finds what integers on the host say, for extreme and for short rows, ties included."""
    from pe.kernels.cuda import CudaSearch

    rng = np.random.default_rng(0)
    for n, m, d, values in ((1, 17, 8, [127]), (300, 515, 200, [-128, -127, 0, 126, 127]), (130, 300, 64, [-2, 0, 1])):
        queries, candidates = (rng.choice(np.array(values, np.int8), (rows, d)) for rows in (n, m))
        left, right = queries.astype(np.int64), candidates.astype(np.int64)
        expected = np.argsort((right**2).sum(axis=1) - 2 * left @ right.T, axis=1, kind="stable")[:, :k]
        found = np.empty((n, k), np.int64)
        CudaSearch(candidates, k, None, [device])(queries, found)
        if not np.array_equal(found, expected):
            return False
    return True


def seconds(device: Device, k: int, n: int = 2**16, m: int = 2**12, d: int = 768) -> float:
    """Of a search among rows that are on the device already, the fastest of three."""
    from pe.kernels.cuda import CudaSearch

    rng = np.random.default_rng(0)
    queries, candidates = (rng.integers(-40, 41, (rows, d), np.int8) for rows in (n, m))
    search, found, spent = CudaSearch(candidates, k, None, [device]), np.empty((n, k), np.int64), []
    for _ in range(4):
        begun = time.perf_counter()
        search(queries, found, name="timed")
        spent.append(time.perf_counter() - begun)
    device.kept.clear()
    return min(spent[1:])
