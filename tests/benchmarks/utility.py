"""Utility at epsilon 1: tables by a given evaluation script, digits from scikit-learn.

    python tests/benchmarks/utility.py [--tables FOLDER --evaluate SCRIPT.py] [--epsilon 1] [--runs 5]

FOLDER holds NAME_train.csv and NAME_metadata.json (cat_columns, int_columns, float_columns, label_columns) for the data
sets below; SCRIPT is called as ``SCRIPT NAME released.csv ...`` and prints one JSON line per file. As the peers'
published figures do, the benchmark takes n as public in delta = 1 / (n ln n) and the domains of the training rows as
declared; label shares are paid for. Prints mean (standard deviation) over runs that differ in noise and seed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

import pe

ROWS = {"artificial-characters": 1000, "breast-cancer": 150, "adult": 1000}


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


def table(name: str, folder: Path, script: Path, epsilon: float, runs: int) -> None:
    train = pd.read_csv(folder / f"{name}_train.csv")
    schema = declared(train, json.loads((folder / f"{name}_metadata.json").read_text()))
    with tempfile.TemporaryDirectory() as place:
        files, start = [], time.perf_counter()
        for seed in range(runs):
            home = Path(place) / str(seed)
            made = synthesize(
                home, folder / f"{name}_train.csv", schema, len(train), epsilon, rows=ROWS[name], seed=seed
            )
            files.append(str(made.run / "release" / "synthetic.csv"))
        seconds = (time.perf_counter() - start) / runs
        done = subprocess.run([sys.executable, str(script), name, *files], check=True, capture_output=True, text=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    show(f"{name}, epsilon {epsilon:g}", rows, seconds)


def digits(epsilon: float, runs: int) -> None:
    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    digit = pe.Categorical("digit", tuple(str(label) for label in range(10)))
    schema = pe.Schema((pe.Image("image", 8, 8), digit), label="digit")
    rows, start = [], time.perf_counter()
    train_x, test_x, train_y, test_y = train_test_split(
        images, bunch.target, test_size=360, random_state=0, stratify=bunch.target
    )
    for seed in range(runs):
        with tempfile.TemporaryDirectory() as place:
            data = {"image": train_x, "digit": train_y}
            settings = {"rows": 1500, "iterations": 5, "seed": seed, "formats": ["npz"]}
            made = synthesize(Path(place), data, schema, len(train_x), epsilon, **settings)
        model = LogisticRegression(max_iter=2000)
        model.fit(made.to_numpy("image").reshape(-1, 64) / 255, made.to_numpy("digit").astype(int))
        rows.append({"logreg": model.score(test_x.reshape(-1, 64) / 255, test_y)})
    show(f"digits, epsilon {epsilon:g}", rows, (time.perf_counter() - start) / runs)


def show(title: str, rows: list[dict[str, Any]], seconds: float) -> None:
    figures = []
    for key in ("tstr", "logreg", "rf", "hgb", "tvd1", "tvd2"):
        values = [row[key] for row in rows if key in row]
        if values:
            figures.append(f"{key} {statistics.mean(values):.3f} ({statistics.stdev(values):.3f})")
    print(f"{title}: {', '.join(figures)}; {seconds:.1f} s a run", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path)
    parser.add_argument("--evaluate", type=Path)
    parser.add_argument("--epsilon", type=float, default=1.0)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    digits(options.epsilon, options.runs)
    if options.tables and options.evaluate:
        for name in ROWS:
            table(name, options.tables, options.evaluate, options.epsilon, options.runs)


if __name__ == "__main__":
    main()
