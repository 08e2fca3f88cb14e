"""Marginal-based mechanisms (AIM, MST of private-pgm) on the tables of ``tabular.py``, scored by the same script.

    python -m venv pgm && pgm/bin/pip install dpmm pandas          # Python 3.10 or 3.11; an environment of its own
    pgm/bin/python tests/benchmarks/marginal_methods.py FOLDER SCRIPT.py [--names NAME ...] [--methods aim mst]
        [--epsilon 1] [--runs 3] [--iterations 1000] [--model-size 80] [--python PYTHON]

FOLDER and SCRIPT are those of ``tabular.py``; PYTHON runs the script (by default this one), so that all methods are
scored under the same scikit-learn. ``dpmm`` is a package of Private-PGM's mechanisms (Mahiou et al. 2025). As there,
delta = 1 / (n ln n), n and the domains of the training rows are public, and n rows are released. Numbers are cut into
32 equal bins and drawn evenly within them. Prints mean (standard deviation) and the time of a run.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from dpmm.models.aim import AIMGM
from dpmm.models.mst import MSTGM

BINS = 32
METHODS: dict[str, Any] = {"aim": AIMGM, "mst": MSTGM}


class Codes:
    """Columns as whole numbers and back."""

    def __init__(self, train: pd.DataFrame, numeric: list[str]) -> None:
        self.columns: dict[str, Any] = {}
        for name, values in train.items():
            if name in numeric and values.nunique() > BINS:
                self.columns[name] = np.linspace(values.min(), values.max(), BINS + 1)
            else:
                self.columns[name] = sorted(values.unique())
        self.whole = [name for name in numeric if (train[name] % 1 == 0).all()]

    def domain(self) -> dict[str, int]:
        """How many codes each column has."""
        return {name: len(held) - isinstance(held, np.ndarray) for name, held in self.columns.items()}

    def encode(self, table: pd.DataFrame) -> pd.DataFrame:
        codes = {}
        for name, held in self.columns.items():
            if isinstance(held, np.ndarray):
                codes[name] = np.clip(np.digitize(table[name], held) - 1, 0, BINS - 1)
            else:
                codes[name] = table[name].map({value: code for code, value in enumerate(held)}).to_numpy()
        return pd.DataFrame(codes).astype(int)

    def decode(self, codes: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
        made = {}
        for name, held in self.columns.items():
            code = codes[name].to_numpy().astype(int)
            if isinstance(held, np.ndarray):
                drawn = held[code] + rng.random(len(code)) * (held[1] - held[0])
                made[name] = np.rint(drawn) if name in self.whole else drawn
            else:
                made[name] = np.asarray(held, object)[code]
        return pd.DataFrame(made)


def synthesize(
    train: pd.DataFrame, numeric: list[str], method: str, options: argparse.Namespace, epsilon: float, seed: int
) -> pd.DataFrame:
    n = len(train)
    codes = Codes(train, numeric)
    settings = {"epsilon": epsilon, "delta": 1 / (n * math.log(n)), "n_iters": options.iterations, "n_jobs": 1}
    settings |= {"domain": codes.domain(), "random_state": np.random.RandomState(seed)}
    if method == "aim":
        settings |= {"max_model_size": options.model_size, "degree": 2}
    model = METHODS[method](**settings)
    model.set_domain(codes.domain())
    model.fit(codes.encode(train))
    return codes.decode(model.generate(n_records=n), np.random.default_rng(seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path)
    parser.add_argument("evaluate", type=Path)
    parser.add_argument("--names", nargs="+")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--epsilon", type=float, nargs="+", default=[1.0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=1000, help="of the estimation of the graphical model")
    parser.add_argument("--model-size", type=float, default=80, help="AIM's largest model, in MB")
    parser.add_argument("--python", default=sys.executable)
    options = parser.parse_args()
    found = sorted(file.stem.removesuffix("_train") for file in options.tables.glob("*_train.csv"))
    for name in options.names or found:
        train = pd.read_csv(options.tables / f"{name}_train.csv")
        meta = json.loads((options.tables / f"{name}_metadata.json").read_text())
        numeric = [column for column in meta["int_columns"] + meta["float_columns"] if column in train]
        for epsilon in options.epsilon:
            for method in options.methods:
                with tempfile.TemporaryDirectory() as place:
                    files, begun = [], time.perf_counter()
                    for seed in range(options.runs):
                        made = synthesize(train, numeric, method, options, epsilon, seed)
                        files.append(f"{place}/{seed}.csv")
                        made.to_csv(files[-1], index=False)
                    seconds = (time.perf_counter() - begun) / options.runs
                    command = [options.python, str(options.evaluate), name, *files]
                    done = subprocess.run(command, check=True, capture_output=True, text=True)
                rows = [json.loads(line) for line in done.stdout.splitlines()]
                figures = []
                for key in ("tstr", "logreg", "rf", "hgb", "tvd1", "tvd2"):
                    values = [row[key] for row in rows]
                    spread = statistics.stdev(values) if len(values) > 1 else math.nan
                    figures.append(f"{key} {statistics.mean(values):.3f} ({spread:.3f})")
                print(f"{name}, {method}, epsilon {epsilon:g}: {', '.join(figures)}; {seconds:.1f} s a run", flush=True)


if __name__ == "__main__":
    main()
