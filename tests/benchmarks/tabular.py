"""Tables: classifiers trained on released rows, tested on real ones, and the distances of their marginals.

    python tests/benchmarks/tabular.py FOLDER SCRIPT.py [--names NAME ...] [--methods cross-tables tab-pe]
        [--epsilon 1 4] [--runs 5] [--times 1]
    python tests/benchmarks/tabular.py [--methods ...] [--epsilon ...] [--runs ...]

FOLDER holds NAME_train.csv and NAME_metadata.json (cat_columns, int_columns, float_columns, label_columns); SCRIPT is
called as ``SCRIPT NAME released.csv ...`` and prints one JSON line per file. Without them, scikit-learn's tables are
split and measured by ``pe.evaluate``. As the peers' published figures do, the benchmark takes n as public in
delta = 1 / (n ln n) and the domains of the training rows as declared; label counts are paid for, adjacency is
add/remove. Prints mean (standard deviation) over runs that differ in noise and seed, the time of a run, and the peak
memory so far.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer, load_iris, load_wine
from sklearn.model_selection import train_test_split

import pe
from pe.evaluation.marginals import Cells, Coded, mean_distance, subsets
from pe.evaluation.tables import align

VOTED_ROWS = 1000
"""Rows released by methods that vote, at most."""

TABLES = ("cross-tables", "herded-tables")
"""Methods that release as many rows as there are private ones."""

OWN = {"wine": load_wine, "iris": load_iris, "breast cancer (scikit-learn)": load_breast_cancer}


def synthesize(folder: Path, data: object, schema: pe.Schema, n: int, epsilon: float, **settings: Any) -> pe.Synthetic:
    """One run with a ledger of its own, at delta = 1 / (n ln n)."""
    os.environ["PE_LEDGER_KEY"] = str(folder / "key")
    return pe.synthesize(
        data,
        schema=schema,
        source="benchmark",
        epsilon=epsilon,
        delta=1 / (n * math.log(n)),
        adjacency="add-remove",
        ledger=folder / "ledger.sqlite3",
        run=folder / "run",
        create=True,
        **settings,
    )


def declared(train: pd.DataFrame, meta: dict[str, list[str]]) -> pe.Schema:
    columns: list[Any] = []
    for name in train.columns:
        values = train[name]
        if name in meta["cat_columns"] or name in meta["label_columns"]:
            columns.append(pe.Categorical(name, tuple(sorted(values.astype(str).str.strip().unique()))))
        else:
            whole = name in meta["int_columns"] and bool((values % 1 == 0).all())
            columns.append(pe.Numeric(name, float(values.min()), float(values.max()), integer=whole))
    return pe.Schema(tuple(columns), label=meta["label_columns"][0])


Measure = Callable[[list[pe.Synthetic]], list[dict[str, float]]]


def benchmark(name: str, train: pd.DataFrame, schema: pe.Schema, options: argparse.Namespace, measure: Measure) -> None:
    """Every method at every epsilon on one data set."""
    for epsilon in options.epsilon:
        for method in options.methods:
            rows = options.times * len(train) if method in TABLES else min(VOTED_ROWS, len(train) // 2)
            with tempfile.TemporaryDirectory() as place:
                made, begun = [], time.perf_counter()
                for seed in range(options.runs):
                    home = Path(place) / str(seed)
                    settings = {"method": method, "rows": rows, "seed": seed, "formats": ["csv"]}
                    made.append(synthesize(home, train, schema, len(train), epsilon, **settings))
                seconds = (time.perf_counter() - begun) / options.runs
                show(f"{name}, {method}, epsilon {epsilon:g}", measure(made), seconds)


def scored(name: str, script: Path, train: pd.DataFrame) -> Measure:
    """The figures that a given script prints, and the distance of 3-way marginals to training rows."""

    def measure(made: list[pe.Synthetic]) -> list[dict[str, float]]:
        files = [str(each.run / "release" / "synthetic.csv") for each in made]
        done = subprocess.run([sys.executable, str(script), name, *files], check=True, capture_output=True, text=True)
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        return [row | {"tvd3": three_way(each, train)} for row, each in zip(rows, made, strict=True)]

    return measure


def three_way(made: pe.Synthetic, train: pd.DataFrame) -> float:
    """Mean total-variation distance of sets of three columns, numbers in 16 equal intervals of their domain."""
    tables = align(made, test=train)
    cells = [Cells.of(field, tables.test, "domain") for field in tables.fields]
    real, drawn = Coded.of(tables.test, cells), Coded.of(tables.synthetic, cells)
    return mean_distance(real, drawn, subsets(cells, 3, np.random.default_rng(0)))


def evaluated(test: pd.DataFrame) -> Measure:
    """The product's own figures."""

    def measure(made: list[pe.Synthetic]) -> list[dict[str, float]]:
        found = []
        for each in made:
            result = pe.evaluate(each, test=test)
            scores = {name: score["accuracy"] or 0.0 for name, score in result.utility[0].synthetic.items()}
            found.append({"tstr": statistics.mean(scores.values()), **scores, **result.distances["test"]})
        return found

    return measure


def show(title: str, rows: list[dict[str, Any]], seconds: float) -> None:
    figures = []
    for key in rows[0]:
        values = [row[key] for row in rows if isinstance(row.get(key), float)]
        if values:
            spread = f" ({statistics.stdev(values):.3f})" if len(values) > 1 else ""
            figures.append(f"{key} {statistics.mean(values):.3f}{spread}")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{title}: {', '.join(figures)}; {seconds:.1f} s a run, {memory:.0f} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, nargs="?")
    parser.add_argument("evaluate", type=Path, nargs="?")
    parser.add_argument("--names", nargs="+")
    parser.add_argument("--methods", nargs="+", default=["cross-tables", "tab-pe"])
    parser.add_argument("--epsilon", type=float, nargs="+", default=[1.0, 4.0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--times", type=int, default=1, help="tables release so many times n records")
    options = parser.parse_args()
    if options.tables is None or options.evaluate is None:
        for name, load in OWN.items():
            frame = load(as_frame=True).frame
            train, test = train_test_split(frame, test_size=0.3, random_state=0, stratify=frame["target"])
            schema = declared(train, {"cat_columns": [], "int_columns": [], "label_columns": ["target"]})
            benchmark(name, train, schema, options, evaluated(test))
        return
    for name in options.names or sorted(
        file.stem.removesuffix("_train") for file in options.tables.glob("*_train.csv")
    ):
        train = pd.read_csv(options.tables / f"{name}_train.csv")
        schema = declared(train, json.loads((options.tables / f"{name}_metadata.json").read_text()))
        benchmark(name, train, schema, options, scored(name, options.evaluate, train))


if __name__ == "__main__":
    main()
