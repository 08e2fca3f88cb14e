"""Votes by approximate indices over the candidates (faiss IVF and HNSW): time gained, votes moved.

    python tests/benchmarks/approximate.py RECORDS CANDIDATES [--column text] [--candidates-column sentence]
        [--records 4000] [--candidates 2000 8000] [--repeat 20]

RECORDS and CANDIDATES are public texts, CSV or JSON Lines, embedded by the default text embedder. Each index is built
from the candidates alone, so that a record's vote would still be a function of that record and the candidates, and
needs no more noise; the loss is the share of records whose vote goes to another candidate, and the distance in total
variation between the vote shares. Time is processor time of one thread, building included, for ``repeat`` times as
many records; "x vote" is the vote's time over an index's.

News titles among 8,000 film snippets, AMD EPYC with VNNI: IVF is 3.1, 1.6 and .5 times as fast as the exact vote at 1,
4 and 16 of 89 lists, and moves 77, 59 and 36 % of the votes; HNSW is .2 and .08 times as fast at widths 16 and 64, and
moves 21 and 5 %. Nothing pays, so the vote has no such route.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import torch
from numpy.typing import NDArray

from pe.data.schema import Schema, Text
from pe.embedders.sentence import SentenceEmbedder
from pe.kernels.nearest import Search
from pe.kernels.quantise import quantise

Ids = NDArray[np.int64]
Rows = NDArray[np.int8]


def embedded(path: Path, column: str, limit: int) -> Rows:
    """Texts as the vote reads them, doubles left out."""
    if path.suffix == ".csv":
        table = pa.csv.read_csv(path, parse_options=pa.csv.ParseOptions(newlines_in_values=True))
    else:
        table = pa.json.read_json(path)
    texts = list(dict.fromkeys(table[column].to_pylist()))
    texts = [texts[place] for place in np.random.default_rng(0).permutation(len(texts))[:limit]]
    schema = Schema((Text("text"),))
    embedder = SentenceEmbedder(schema)
    vectors = embedder.embed(pa.table({"text": texts}))
    return quantise(vectors, embedder.scale, embedder.limit)[0]


def exact(queries: Rows, candidates: Rows) -> Ids:
    return Search(candidates, route="int8")(queries)[:, 0]


def flat(queries: Rows, candidates: Rows) -> Ids:
    return searched(faiss.IndexFlatL2(candidates.shape[1]), queries, candidates)


def lists(probes: int) -> Callable[[Rows, Rows], Ids]:
    """An inverted file of sqrt(m) lists, of which the nearest ``probes`` are searched."""

    def search(queries: Rows, candidates: Rows) -> Ids:
        d = candidates.shape[1]
        index = faiss.IndexIVFFlat(faiss.IndexFlatL2(d), d, round(len(candidates) ** 0.5))
        index.cp.min_points_per_centroid = 1
        index.train(candidates.astype(np.float32))
        index.nprobe = probes
        return searched(index, queries, candidates)

    return search


def graph(width: int) -> Callable[[Rows, Rows], Ids]:
    """A navigable graph of 32 neighbours, searched with a list of ``width``."""

    def search(queries: Rows, candidates: Rows) -> Ids:
        index = faiss.IndexHNSWFlat(candidates.shape[1], 32)
        index.hnsw.efSearch = width
        return searched(index, queries, candidates)

    return search


def searched(index: Any, queries: Rows, candidates: Rows) -> Ids:
    index.add(candidates.astype(np.float32))
    parts = [queries[start : start + 4096].astype(np.float32) for start in range(0, len(queries), 4096)]
    return np.concatenate([index.search(part, 1)[1][:, 0] for part in parts])


ENGINES = {
    "vote, int8": exact,
    "faiss flat": flat,
    **{f"IVF, {probes} probes": lists(probes) for probes in (1, 4, 16)},
    **{f"HNSW, width {width}": graph(width) for width in (16, 64, 256)},
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("paths", nargs=2, type=Path)
    parser.add_argument("--column", default="text")
    parser.add_argument("--candidates-column", default="sentence")
    parser.add_argument("--records", type=int, default=4000)
    parser.add_argument("--candidates", type=int, nargs="+", default=[2000, 8000])
    parser.add_argument("--repeat", type=int, default=20)
    given = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    records = embedded(given.paths[0], given.column, given.records)
    every = embedded(given.paths[1], given.candidates_column, max(given.candidates))
    queries = np.tile(records, (given.repeat, 1))
    for m in given.candidates:
        candidates = every[:m]
        print(f"\n{len(records):,} records, {len(candidates):,} candidates, {records.shape[1]} entries")
        print(f"{'':16} {'seconds':>8} {'x vote':>7} {'moved':>7} {'variation':>9}")
        expected = exact(records, candidates)
        seconds = 0.0
        for name, search in ENGINES.items():
            begun = time.process_time()
            found = search(queries, candidates)[: len(records)]
            spent = time.process_time() - begun
            seconds = seconds or spent
            shares = [np.bincount(ids, minlength=m) / len(ids) for ids in (expected, found.clip(0))]
            variation = np.abs(shares[0] - shares[1]).sum() / 2
            moved = (found != expected).mean()
            print(f"{name:16} {spent:8.2f} {seconds / spent:7.2f} {moved:7.2%} {variation:9.4f}")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
