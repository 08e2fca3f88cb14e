"""A small private table, and processes that run it with a fault."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image as Pictures

import pe
from pe.privacy.certificate import read_certificate, verify

SCHEMA = pe.Schema((pe.Numeric("age", 0, 100, integer=True), pe.Categorical("kind", ("a", "b"))))


def unpacked(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file, and what it holds once unpacked: members of npz archives, pixels of pictures, Parquet columns."""
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        name, content = str(path.relative_to(folder)), path.read_bytes()
        yield name, content
        if path.suffix == ".npz":
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                yield from ((f"{name}/{member}", archive.read(member)) for member in archive.namelist())
        if path.suffix == ".png":
            with Pictures.open(path) as picture:
                yield f"{name}/pixels", picture.tobytes()
        if path.suffix == ".parquet":
            table = pyarrow.parquet.read_table(io.BytesIO(content))
            yield f"{name}/schema", str(table.schema).encode()
            for column in table.columns:
                plain = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
                for chunk in plain.chunks:
                    yield from ((f"{name}/column", buffer.to_pybytes()) for buffer in chunk.buffers() if buffer)


@pytest.fixture
def contents() -> Callable[[Path], Iterator[tuple[str, bytes]]]:
    return unpacked


@dataclass
class Ended:
    code: int
    out: str
    err: str

    @property
    def killed(self) -> bool:
        return self.code == -9

    @property
    def result(self) -> list[Any]:
        """Iterations completed, why the run stopped early, warnings."""
        assert self.code == 0, self.err
        found: list[Any] = json.loads(self.out)
        return found


@dataclass
class People:
    """A folder with ``private.csv``, ``schema.toml`` and, after a run, a ledger and ``run``.

    small  stream the data in blocks of so many records, instead of keeping them in memory.
    """

    folder: Path
    send: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]
    settings: dict[str, Any] = field(default_factory=dict)
    small: int | None = None

    def job(self, point: str | None = None, iteration: int = 0, **settings: Any) -> dict[str, Any]:
        keys = {name: os.environ[name] for name in os.environ if name.startswith(("PE_", "XDG_"))}
        job = {"folder": str(self.folder), "environment": keys, "settings": self.settings | settings}
        job["small"] = self.small
        return job | ({"fault": [point, iteration]} if point else {})

    def work(self, point: str | None = None, iteration: int = 0, **settings: Any) -> Ended:
        """Start or resume the run in a process of its own, with a fault at a point of an iteration."""
        return self.all([self.job(point, iteration, **settings)])[0]

    def command(self, *arguments: object, fault: tuple[str, int] | None = None) -> Ended:
        """Run the pe command in a process of its own."""
        job = self.job(*(fault or ()))
        del job["settings"]
        return self.all([job | {"command": [str(each) for each in arguments]}])[0]

    def all(self, jobs: list[dict[str, Any]]) -> list[Ended]:
        """Several processes at once."""
        return [Ended(**each) for each in self.send(jobs)]

    @property
    def ledger(self) -> pe.Ledger:
        return pe.Ledger(self.folder / "ledger.sqlite3")

    def charges(self, source: str = "people") -> list[int]:
        """Iterations of all charges, in order."""
        return [entry.body["iteration"] for entry in self.ledger.chain(source) if entry.kind == "reserve"]

    def histograms(self, run: str = "run") -> dict[str, bytes]:
        files = sorted(self.folder.glob(f"{run}/iterations/*/histogram.npz"))
        return {path.parent.name: path.read_bytes() for path in files}

    def verified(self, run: str = "run") -> dict[str, Any]:
        """The certificate, after every check of it; with as many records as asked for beside it."""
        release = self.folder / run / "release"
        certificate = read_certificate(release / "certificate.json")
        assert verify(certificate, folder=release, ledger=self.ledger)
        assert len((release / "synthetic.csv").read_text().splitlines()) == 1 + self.settings["rows"]
        return certificate


@pytest.fixture(scope="session")
def send() -> Iterator[Callable[[list[dict[str, Any]]], list[dict[str, Any]]]]:
    """Hand jobs to ``worker.py``, which has everything imported and forks a process for each."""
    command = [sys.executable, str(Path(__file__).with_name("worker.py"))]
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | threads
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask(jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
            process.stdin.write(json.dumps(jobs) + "\n")
            process.stdin.flush()
            answer: list[dict[str, Any]] = json.loads(process.stdout.readline())
            return answer

        yield ask
        process.stdin.close()


@pytest.fixture
def people(tmp_path: Path, send: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> People:
    folder = tmp_path / "people"
    folder.mkdir()
    rng = np.random.default_rng(7)
    lines = [f"{age},{kind}" for age, kind in zip(rng.integers(20, 60, 300), rng.choice(["a", "b"], 300), strict=True)]
    (folder / "private.csv").write_text("age,kind\n" + "\n".join(lines) + "\n")
    (folder / "schema.toml").write_text(SCHEMA.to_toml())
    settings = {
        "data": str(folder / "private.csv"),
        "schema": str(folder / "schema.toml"),
        "run": str(folder / "run"),
        "ledger": str(folder / "ledger.sqlite3"),
        "label": "kind",
        "source": "people",
        "create": True,
        "epsilon": 1.0,
        "delta": 1e-5,
        "adjacency": "add-remove",
        "rows": 40,
        "iterations": 4,
        "variations": 2,
        "label_shares": {"budget_share": 0.1},
        "formats": ["csv"],
    }
    return People(folder, send, settings)
