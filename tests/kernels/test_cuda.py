"""The CUDA route: interpreted in a process of its own, and compiled ahead of time. No GPU is needed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from pe.kernels import devices
from pe.kernels.cuda import _depth, _up
from pe.kernels.devices import SEVERAL, SINGLE, Tiles
from pe.kernels.nearest import Search
from pe.kernels.triton_nearest import search


def test_interpreted() -> None:
    """Triton reads the variable when it is imported."""
    here = Path(__file__).with_name("interpreted_cuda.py")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", str(here)]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert re.search(r"\d+ passed", done.stdout)


PLAIN = {"queries": "*i8", "order": "*i32", "candidates": "*i8", "norms": "*i32", "spans": "*i32", "scores": "*i32"}
SIGNATURE = PLAIN | {"places": "*i32", "longest": "i32", "width": "i32"}
COMPILED = [
    (SINGLE[0], 1, True, False),
    (SINGLE[0], 1, False, True),
    (SINGLE[2], 1, True, True),
    (SEVERAL[0], 3, True, True),
    (SEVERAL[2], 16, False, False),
]


@pytest.mark.parametrize(("tiles", "k", "packed", "gather"), COMPILED)
@pytest.mark.parametrize(
    ("capability", "instruction"),
    [(80, r"mma\.sync\S*\.s32\.s8\.s8"), (90, r"(wgmma\.mma_async|mma)\.sync\S*\.s32\.s8\.s8")],
)
def test_it_compiles_to_int8_products_and_keeps_its_scores_in_registers(
    capability: int,
    instruction: str,
    tiles: Tiles,
    k: int,
    packed: bool,
    gather: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    constants = {"K": k, "SLOTS": triton.next_power_of_2(k), "PACKED": packed, "GATHER": gather, "FLAT": tiles.flat}
    constants |= {"BM": tiles.rows, "BN": tiles.candidates, "BK": tiles.depth}
    aligned = {(number,): [["tt.divisibility", 16]] for number, name in enumerate(SIGNATURE) if name != "longest"}
    source = ASTSource(search, SIGNATURE | dict.fromkeys(constants, "constexpr"), constants, aligned)
    options = {"num_warps": tiles.warps, "num_stages": tiles.stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    assert re.search(instruction, compiled.asm["ptx"])
    assert ("wgmma" in compiled.asm["ptx"]) == (capability == 90 and tiles.rows >= 64)
    binary = tmp_path / "kernel.cubin"
    binary.write_bytes(compiled.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    usage = subprocess.run([tool, "-res-usage", binary], capture_output=True, text=True, check=True).stdout
    assert re.search(r"STACK:0\b", usage), usage
    assert compiled.metadata.shared <= (227 if capability == 90 else 163) * 1024


@pytest.mark.parametrize("width", [1, 31, 32, 33, 64, 100, 384, 512, 768, 1000])
@pytest.mark.parametrize("most", [64, 128])
def test_steps_are_what_compilers_take_and_little_is_filled_up(width: int, most: int) -> None:
    """Triton's compiler refuses int8 products of fewer than 32 entries; its interpreter does not."""
    depth = _depth(width, most)
    assert depth in (32, 64, 128)
    assert depth <= most
    assert 0 <= _up(width, depth) - width <= max(31, width // 8 + 31)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = devices._found.__wrapped__
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert found() == ([], "there is no CUDA device")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"card {number}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda number: (7, 5) if number else (9, 0))
    monkeypatch.setattr(devices, "tune", lambda device: device.name == "card 0")
    assert [device.name for device in found()[0]] == ["card 0"]
    monkeypatch.setattr(devices, "tune", lambda device: False)
    assert found() == ([], "card 1 is older than compute capability 8.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert found() == ([], "card 0 does not find what it should")
    monkeypatch.setitem(sys.modules, "triton", None)
    assert "triton is not installed" in found()[1]
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "torch is not installed" in found()[1]
    monkeypatch.setattr(devices, "_found", found)
    rows = np.eye(8, dtype=np.int8)
    with pytest.raises(ValueError, match="cuda route can do, but torch is not installed"):
        Search(rows, device="cuda")(rows)


def test_devices_are_named_with_their_number() -> None:
    three = [devices.Device(torch.device("cuda", number), name) for number, name in enumerate("ABA")]
    assert devices.named(three) == "2 x A, B"


@pytest.mark.parametrize(("device", "route"), [("cpu", "cuda"), ("cuda", "int8")])
def test_a_route_is_asked_of_its_own_device(device: str, route: str) -> None:
    with pytest.raises(ValueError, match=f"expected a route of the device {device}, got {route}"):
        Search(np.eye(8, dtype=np.int8), device=device, route=route)
