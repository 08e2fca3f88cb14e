"""Where the time of a whole durable run goes, against faiss doing the same searches alone, in one process.

    python tests/benchmarks/run_phases.py [TABLE.csv --label NAME] [--rounds 30] [--candidates 4000]

Without a table, one of the shape of artificial-characters is made: 7,152 records, 7 numbers, 10 classes. Prints seconds
per phase, their share, peak memory, and the run's time over faiss's, once for the per-label searches that the run does
and once for the unlabelled search of all candidates. Ratios within one run are what counts: machines differ.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.csv

import pe
import pe.delivery
import pe.evolution.candidates
import pe.evolution.loop
import pe.private.vote
import pe.run
import pe.session
from pe.data.draft import draft
from pe.privacy.ledger import Ledger
from pe.privacy.mechanism import DiscreteGaussian

NEAREST = 1
"""Votes per record, for the run and for faiss."""

PHASES: dict[str, list[tuple[Any, str]]] = {
    "read private data": [(pe.PrivateDataset, "read")],
    "ledger": [(Ledger, "chain"), (pe.privacy.ledger.Account, "reserve"), (Ledger, "bind"), (Ledger, "create")],
    "embed": [(pe.private.vote, "_embed_private"), (pe.evolution.candidates.CandidateEmbedder, "vectors")],
    "nearest": [(pe.private.vote, "nearest_candidates")],
    "noise": [(DiscreteGaussian, "add_noise")],
    "select": [(pe.evolution.loop, "select")],
    "propose": [(pe.evolution.loop, "fresh"), (pe.evolution.loop, "offspring")],
    "store": [(pe.run.Run, "store_histogram"), (pe.run.Run, "store_population"), (pe.run.Run, "store_released")],
    "release folder": [(pe.session, "public_files"), (pe.session, "replace_folder")],
}


@contextmanager
def stopwatches() -> Iterator[dict[str, float]]:
    """Wrap the functions of each phase; the innermost phase gets the time."""
    spent: dict[str, float] = defaultdict(float)
    inside: list[float] = []
    originals = []

    def timed(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **keywords: Any) -> Any:
            start = time.perf_counter()
            inside.append(0.0)
            try:
                return function(*args, **keywords)
            finally:
                took = time.perf_counter() - start
                spent[phase] += took - inside.pop()
                if inside:
                    inside[-1] += took

        return call

    for phase, places in PHASES.items():
        for owner, name in places:
            raw = vars(owner)[name]
            originals.append((owner, name, raw))
            wrapped = timed(phase, raw.__func__ if isinstance(raw, classmethod) else raw)
            setattr(owner, name, classmethod(wrapped) if isinstance(raw, classmethod) else wrapped)
    try:
        yield spent
    finally:
        for owner, name, raw in originals:
            setattr(owner, name, raw)


def made_up(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    labels = rng.integers(10, size=7152)
    centres = rng.uniform(0, 100, (10, 7))
    numbers = np.rint(centres[labels] + rng.normal(0, 12, (7152, 7))).astype(int)
    table = pa.table({f"v{i}": numbers[:, i] for i in range(7)} | {"label": labels})
    pa.csv.write_csv(table, folder / "table.csv")
    return folder / "table.csv"


def faiss_seconds(queries: np.ndarray, labels: np.ndarray, candidates: int, rounds: int, per_label: bool) -> float:
    """Time of the same number of IndexFlatL2 searches, index building included."""
    rng = np.random.default_rng(1)
    kinds = np.unique(labels)
    groups = [queries[labels == kind] for kind in kinds] if per_label else [queries]
    size = candidates // len(groups)
    total = 0.0
    for _ in range(rounds):
        for group in groups:
            points = rng.random((size, queries.shape[1]), dtype=np.float32) - 0.5
            start = time.perf_counter()
            index = faiss.IndexFlatL2(queries.shape[1])
            index.add(points)
            index.search(group, NEAREST)
            total += time.perf_counter() - start
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", type=Path)
    parser.add_argument("--label", default="label")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--candidates", type=int, default=4000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = options.table or made_up(folder)
        schema = draft(table, options.label).schema
        settings: dict[str, Any] = {
            "rows": options.candidates // 4,
            "iterations": options.rounds,
            "population": options.candidates,
            "parents": options.candidates // 4,
            "selection": "rank",
            "variations": 3,
            "keep": True,
            "nearest": NEAREST,
        }
        import os

        os.environ["PE_LEDGER_KEY"] = str(folder / "key")
        with stopwatches() as spent:
            start = time.perf_counter()
            pe.synthesize(
                table,
                schema=schema,
                epsilon=1.0,
                delta=1e-5,
                adjacency="add-remove",
                run=folder / "run",
                ledger=folder / "ledger.sqlite3",
                create=True,
                **settings,
            )
            whole = time.perf_counter() - start
        private = pe.PrivateDataset.read(table, schema, adjacency=pe.Adjacency.ADD_REMOVE)
        from pe.embedders.tabular import TabularEmbedder

        queries, labels = TabularEmbedder(schema).embed(private._records), private._labels
        alone = faiss_seconds(queries, labels, options.candidates, options.rounds, per_label=True)
        flat = faiss_seconds(queries, labels, options.candidates, options.rounds, per_label=False)
    spent["other"] = whole - sum(spent.values())
    print(f"{len(queries)} records, {options.rounds} rounds of {options.candidates} candidates")
    print(f"{'phase':20} {'seconds':>8} {'share':>7}")
    for phase, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"{phase:20} {seconds:8.3f} {seconds / whole:7.1%}")
    print(f"{'whole run':20} {whole:8.3f}")
    print(f"whole run / faiss, all candidates searched: {whole / flat:.2f} ({flat:.3f} s)")
    print(f"whole run / faiss, per label: {whole / alone:.2f} ({alone:.3f} s)")
    print(f"nearest / faiss, per label: {spent['nearest'] / alone:.2f}")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
