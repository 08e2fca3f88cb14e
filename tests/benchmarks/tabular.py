"""Tables by noisy cross-tables: train, release, evaluate.

    python tests/benchmarks/tabular.py FOLDER SCRIPT.py [--names ...] [--epsilon 1 4] [--runs 5]

FOLDER holds NAME_train.csv and NAME_metadata.json, SCRIPT is called as ``SCRIPT NAME released.csv ...``: see
``utility.py``, whose conventions hold here too: delta = 1 / (n ln n), the training rows' domains as declared, label
counts paid for, add/remove adjacency. Noise is the product's discrete Gaussian; nothing is written to a ledger.
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
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from utility import declared, show

import pe
from pe.coerce import coerce
from pe.privacy.discrete_gaussian import sigma_for
from pe.privacy.gdp import mu_squared_within
from pe.privacy.mechanism import DiscreteGaussian
from pe.read import read
from pe.schema import Categorical
from pe.select import apportion
from pe.tables.fit import fit
from pe.tables.levels import grid, merge
from pe.tables.measure import Tables, one_way
from pe.tables.plan import choose, settings


def noisy(counts: NDArray[np.int64], bound_squared: int, mu_squared: float) -> tuple[NDArray[np.int64], float]:
    bound = Fraction(bound_squared)
    sigma = sigma_for(Fraction(mu_squared), bound)
    return DiscreteGaussian(sigma, bound).add_noise(counts), float(sigma)


def synthesize(arrays: dict[str, NDArray[Any]], schema: pe.Schema, epsilon: float, seed: int) -> pd.DataFrame:
    """Three releases: label counts, 1-way histograms, cross-tables; then as many rows as the label counts add up to."""
    rng = np.random.default_rng(seed)
    labels, n = arrays[str(schema.label)], len(arrays[str(schema.label)])
    budget = float(mu_squared_within(epsilon, 1 / (n * math.log(n))))
    plan = settings(n, len(schema.features), len(schema.labels), math.sqrt(budget))

    counted, sigma = noisy(np.bincount(labels, minlength=len(schema.labels)), 1, budget * plan.label_share)
    records = np.maximum(counted, sigma)

    fine = [grid(column, plan.bins) for column in schema.features]
    first = one_way(fine)
    answers, sigma = noisy(first.count(fine, arrays, labels), first.bound_squared, budget * plan.histogram_share)
    levels = [merge(level, part[0], sigma, plan.levels) for level, part in zip(fine, first.split(answers), strict=True)]

    share = budget * plan.table_share
    tables: Tables = choose(levels, len(schema.labels), float(records.sum()), math.sqrt(share), plan.most, rng)
    answers, sigma = noisy(tables.count(levels, arrays, labels), tables.bound_squared, share)
    density = fit(tables, levels, answers, sigma, records, rng, particles=plan.particles, rounds=plan.rounds)

    sizes = apportion(round(records.sum()), records)
    made = density.sample(sizes, rng, sharpness=plan.sharpness)
    frame = pd.DataFrame({c.name: _values(made[c.name], c) for c in schema.features})
    frame[str(schema.label)] = np.repeat(np.array(schema.labels, object), sizes)
    return frame


def _values(values: NDArray[Any], column: pe.schema.Column) -> NDArray[Any]:
    return np.array(column.values, object)[values] if isinstance(column, Categorical) else values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path)
    parser.add_argument("evaluate", type=Path)
    parser.add_argument("--names", nargs="+", default=["artificial-characters", "breast-cancer", "adult"])
    parser.add_argument("--epsilon", type=float, nargs="+", default=[1.0])
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    for name in options.names:
        train = options.tables / f"{name}_train.csv"
        schema = declared(pd.read_csv(train), json.loads((options.tables / f"{name}_metadata.json").read_text()))
        arrays = coerce(read(train, schema), schema)
        for epsilon in options.epsilon:
            with tempfile.TemporaryDirectory() as place:
                files, seconds = [], []
                for seed in range(options.runs):
                    start = time.perf_counter()
                    made = synthesize(arrays, schema, epsilon, seed)
                    seconds.append(time.perf_counter() - start)
                    files.append(str(Path(place) / f"{seed}.csv"))
                    made.to_csv(files[-1], index=False)
                command = [sys.executable, str(options.evaluate), name, *files]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
            rows = [json.loads(line) for line in done.stdout.splitlines()]
            show(f"{name}, epsilon {epsilon:g}", rows, statistics.mean(seconds))


if __name__ == "__main__":
    main()
