"""What ``pe plan --records`` estimates, against what a run takes.

    python tests/benchmarks/cost.py [--scale 1.0]

One line per case: seconds foretold and seconds spent, of embedding (private records and samples), of votes, of the
kernel mean, and their ratio, which the plan says is within a factor of ``pe.cost.OFF``. Runs are simulated: no ledger.
Times are the process's own (CPU seconds of all threads), so that other programs disturb them less.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import pe
import pe.cost
import pe.evolution.candidates
import pe.private.embedding
import pe.private.vote
from pe.cost import estimate, pace_of, work_of
from pe.data.schema import Text
from pe.private.measure import FourierMean
from pe.private.poll import Poll

CLAIM = {"epsilon": 4.0, "delta": 1e-6, "adjacency": "add-remove", "simulate": 0, "label_shares": "uniform"}


def wide(n: int) -> tuple[pe.Schema, dict[str, Any]]:
    names = [f"x{number}" for number in range(40)]
    data = np.random.default_rng(0).random((len(names) + 1, n))
    schema = pe.Schema((*(pe.Numeric(name, 0, 1) for name in names), pe.Categorical("kind", ("a", "b"))), label="kind")
    return schema, dict(zip(names, data[1:], strict=True)) | {"kind": np.where(data[0] < 0.5, "a", "b")}


def pictures(n: int) -> tuple[pe.Schema, dict[str, Any]]:
    rng = np.random.default_rng(0)
    schema = pe.Schema((pe.Image("image", 28, 28), pe.Categorical("digit", tuple("0123456789"))), label="digit")
    return schema, {"image": rng.integers(0, 256, (n, 28, 28), np.uint8), "digit": rng.choice(list("0123456789"), n)}


def texts(n: int) -> tuple[pe.Schema, dict[str, Any]]:
    """Reviews of words from a list, 20 to 60 of them."""
    rng = np.random.default_rng(0)
    words = ["the", "a", "film", "was", "not", "very", "good", "long", "story", "actor", "scene", "and", "of", "this"]
    data = [" ".join(rng.choice(words, rng.integers(20, 60))) for _ in range(n)]
    return pe.Schema((Text("text", max_length=400),)), {"text": data}


CASES: dict[str, tuple[Callable[[int], tuple[pe.Schema, dict[str, Any]]], int, dict[str, Any]]] = {
    "table, few": (wide, 5_000, {"method": "tab-pe", "iterations": 5, "rows": 500}),
    "table, many": (wide, 200_000, {"method": "tab-pe", "iterations": 5, "rows": 1000}),
    "table, kernel": (wide, 50_000, {"method": "kernel-votes", "iterations": 3, "rows": 500}),
    "pictures": (pictures, 20_000, {"iterations": 3, "rows": 1000, "api": "text_render"}),
    "texts": (texts, 300, {"iterations": 2, "rows": 50, "embedder": "sentence", "method": "tab-pe"}),
}


class Clock:
    """CPU seconds within functions."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self._undo: list[tuple[Any, str, Any]] = []

    def watch(self, owner: Any, name: str, what: str) -> None:
        function = getattr(owner, name)
        self._undo.append((owner, name, function))
        self.spent.setdefault(what, 0.0)

        def timed(*given: Any, **named: Any) -> Any:
            begun = time.process_time()
            try:
                return function(*given, **named)
            finally:
                self.spent[what] += time.process_time() - begun

        setattr(owner, name, timed)

    def stop(self) -> dict[str, float]:
        for owner, name, function in self._undo:
            setattr(owner, name, function)
        return self.spent


def case(name: str, scale: float, folder: Path) -> None:
    made, n, settings = CASES[name]
    n = max(100, int(n * scale))
    schema, data = made(n)
    if schema.text is not None:
        (folder / "public.txt").write_text("\n".join(texts(500)[1]["text"]))
        settings = settings | {"api": {"kind": "ngram", "corpus": str(folder / "public.txt"), "words": [20, 60]}}
    foretold: dict[str, float] = {}
    clock = Clock()

    def begin(session: Any) -> None:
        """Before the first generation: foretell, then watch."""
        if session.generation is not None:
            return
        plan, embedder = session.blueprint.plan, session.blueprint.embedder
        work = work_of(plan, n, len(schema.labels))
        found = estimate(work, pace_of(work, embedder, schema), embedder)
        foretold.update({"embedding": found.embedding, "voting": found.voting, "kernel": found.kernel})
        clock.watch(pe.private.embedding, "embed_table", "embedding")
        clock.watch(pe.evolution.candidates, "embed_candidates", "embedding")
        clock.watch(Poll, "counts", "voting")
        clock.watch(FourierMean, "dense", "kernel")

    pe.synthesize(data, schema=schema, source="cost", run=folder / "run", progress=begin, **CLAIM, **settings)
    for what, seconds in clock.stop().items():
        if seconds > 0.01:
            ratio = foretold[what] / seconds
            print(f"{name:14}  {n:8d}  {what:10}  {foretold[what]:9.3f}  {seconds:9.3f}  {ratio:6.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of records")
    parser.add_argument("--cases", nargs="*", default=list(CASES))
    asked = parser.parse_args()
    pe.cost.time.perf_counter = time.process_time  # type: ignore[attr-defined]
    print("case             records  part         foretold      spent   ratio")
    for name in asked.cases:
        with tempfile.TemporaryDirectory() as folder:
            case(name, asked.scale, Path(folder))


if __name__ == "__main__":
    main()
