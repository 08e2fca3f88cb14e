"""Text without a language model: Yelp reviews from an n-gram model of film reviews and news, at three budgets.

    python tests/benchmarks/text.py FOLDER OUT [--methods text-pe aug-pe none] [--epsilon 1 2 4] [--seeds 0 1 2]
        [--rows 1000] [--length 200]

FOLDER holds yelp_reviews.csv (text, label1: category, label2: stars; the first 4,000 are private, the last 1,000 the
test), and the public movie_snippets.jsonl and agnews.csv. Texts are cut at ``--length`` characters, real and synthetic
ones. Category and stars in three groups (1-2, 3, 4-5) are the label, its counts are paid for; adjacency is add/remove,
delta = 1 / (n ln n). ``--rows`` texts are released, of 28 times as many candidates by both methods: ``aug-pe`` by its
published settings (rank, K = 3, T = 10), ``text-pe`` of 19 times as many to begin with and the others in four rounds.
``none`` is text-pe at epsilon 0: its parents are drawn at random; to be strict it gets the label counts that epsilon 1
pays for. ``real`` is as many of the private reviews.

Releases and figures are kept in OUT, and what is there is not done again. Prints a table; lower is better for bits,
distances and ``distinct-n``, which is here the distance from that of the test reviews.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import time
from collections import Counter
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from tabular import synthesize

import pe
from pe.apis.ngram import NGramAPI
from pe.data.population import concatenate
from pe.embedders.sentence import SentenceEmbedder
from pe.evaluation.text.corpus import Corpus
from pe.evaluation.text.embed import Embeddings
from pe.evaluation.text.measure import measure
from pe.evolution.methods import settings
from pe.evolution.select import apportion
from pe.export import records

PRIVATE = 4000
VOTED = ("text-pe", "aug-pe")
ROUNDS = {"aug-pe": 10, "text-pe": 4, "none": 4}
LABEL = ["category", "stars"]
STARS = {"1": "1-2", "2": "1-2", "3": "3", "4": "4-5", "5": "4-5"}
EMBEDDER = {"kind": "sentence", "dtype": "bfloat16", "length": 0.4}


def reviews(folder: Path, length: int) -> pa.Table:
    """Text, category and stars, in the order of the file."""
    with (folder / "yelp_reviews.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return pa.table(
        {
            "text": [row["text"].strip()[:length] for row in rows],
            "category": [row["label1"].split(": ")[1] for row in rows],
            "stars": [STARS[row["label2"].split(": ")[1][0]] for row in rows],
        }
    )


def declared(table: pa.Table, length: int) -> pe.Schema:
    kinds = (pe.Categorical(name, tuple(sorted(set(table[name].to_pylist())))) for name in LABEL)
    return pe.Schema((pe.Text("text", length), *kinds), label=LABEL)


def public(folder: Path, length: int) -> dict[str, Any]:
    """The API: words of a fresh text as many as fit."""
    paths = [str(folder / name) for name in ("movie_snippets.jsonl", "agnews.csv")]
    return {"corpus": paths, "corpus_text": ["sentence", "Description"], "words": [8, max(length // 5, 8)]}


def released(method: str, epsilon: float, seed: int, data: pa.Table, schema: pe.Schema, options: Any) -> pa.Table:
    """The released texts of one run of the product."""
    api = {"kind": "ngram", **public(options.folder, options.length)}
    home = options.out / f"{method}-{epsilon:g}-{seed}"
    made = synthesize(
        home,
        data,
        schema,
        len(data),
        epsilon,
        method=method,
        iterations=ROUNDS[method],
        rows=options.rows,
        seed=seed,
        api=api,
        embedder=EMBEDDER,
        formats=["parquet"],
    )
    return pyarrow.parquet.read_table(made.run / "release" / "synthetic.parquet")


def counted(table: pa.Table, schema: pe.Schema) -> list[int]:
    """Records of each label."""
    held = Counter(zip(*(table[name].to_pylist() for name in LABEL), strict=True))
    return [held[kind] for kind in product(*(schema.categorical(name).values for name in LABEL))]


def unvoted(seed: int, counts: Iterable[int], schema: pe.Schema, options: Any) -> pa.Table:
    """text-pe where parents are drawn at random."""
    api = NGramAPI(schema, **public(options.folder, options.length))
    first, rounds = settings("text-pe", options.rows, len(schema.labels), ROUNDS["none"])
    rng, shares = np.random.default_rng(seed), np.array(list(counts), np.float64)
    sizes = apportion(first, shares)
    population = concatenate([api.random(int(n), label, rng) for label, n in enumerate(sizes) if n])
    for each in rounds:
        chosen = [
            rng.choice(np.flatnonzero(population.labels == label), size, replace=False)
            for label, size in enumerate(apportion(options.rows, shares))
        ]
        parents = population.take(np.concatenate(chosen))
        population = concatenate(
            [parents, *(api.vary(parents, each["degree"], rng) for _ in range(each["variations"]))]
        )
    return records(population, schema)


def corpus(table: pa.Table) -> Corpus:
    return Corpus.of(table["text"].to_pylist(), {name: table[name].to_pylist() for name in LABEL})


def figures(made: pa.Table, test: pa.Table, embeddings: Embeddings) -> dict[str, float]:
    found = measure(corpus(made), corpus(test), embeddings=embeddings)
    scores = found.headline()
    for n, share in found.variety["test"].distinct.items():
        own = found.variety["synthetic"].distinct[n]
        scores[f"distinct-{n}"] = abs((share or 0) - (own or 0))
    scores["words"] = found.variety["synthetic"].mean_words
    return {name: value for name, value in scores.items() if value is not None}


def table(rows: dict[str, list[dict[str, float]]]) -> str:
    names = list(next(iter(rows.values()))[0])
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for title, runs in rows.items():
        cells = [statistics.mean(run[name] for run in runs) for name in names]
        spread = [statistics.stdev(run[name] for run in runs) if len(runs) > 1 else None for name in names]
        shown = [f"{a:.3g}" + ("" if b is None else f" ({b:.1g})") for a, b in zip(cells, spread, strict=True)]
        lines.append(f"| {title}, {len(runs)} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def order(options: argparse.Namespace) -> list[tuple[str, float]]:
    """Rows of the table, smallest epsilon first."""
    voted = [(method, epsilon) for epsilon in options.epsilon for method in options.methods if method in VOTED]
    return voted[:2] + [(method, 0.0) for method in options.methods if method not in VOTED] + voted[2:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--methods", nargs="+", default=["text-pe", "aug-pe", "none", "real"])
    parser.add_argument("--epsilon", type=float, nargs="+", default=[1.0, 2.0, 4.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--length", type=int, default=200)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    os.environ["PE_CACHE"] = str(options.out.resolve() / "cache")
    everything = reviews(options.folder, options.length)
    schema = declared(everything, options.length)
    data, test = everything.slice(0, PRIVATE), everything.slice(len(everything) - 1000)
    inner = SentenceEmbedder(schema, dtype="bfloat16")
    embeddings = Embeddings(lambda texts: inner.embed(pa.table({"text": texts})))
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in options.seeds:
        for method, epsilon in order(options):
            begun = time.perf_counter()
            file = options.out / f"{method}-{epsilon:g}-{seed}.json"
            if not file.exists():
                if method == "real":
                    drawn = np.random.default_rng(seed).choice(PRIVATE, options.rows, replace=False)
                    made = data.take(pa.array(np.sort(drawn)))
                elif method == "none":
                    paid = released("text-pe", 1.0, seed, data, schema, options)
                    made = unvoted(seed, counted(paid, schema), schema, options)
                else:
                    made = released(method, epsilon, seed, data, schema, options)
                pyarrow.parquet.write_table(made, file.with_suffix(".parquet"))
                file.write_text(json.dumps(figures(made, test, embeddings)))
                print(f"{file.stem}: {time.perf_counter() - begun:.0f} s", flush=True)
            rows.setdefault(f"{method}, epsilon {epsilon:g}", []).append(json.loads(file.read_text()))
    print(table(rows))


if __name__ == "__main__":
    main()
