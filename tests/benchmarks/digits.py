"""Images: a classifier trained on released digits, tested on real ones.

    python tests/benchmarks/digits.py [--epsilon 1] [--runs 5]

As the peers' published figures do, the benchmark takes n as public in delta = 1 / (n ln n); label shares are paid for.
Prints mean (standard deviation) over runs that differ in noise and seed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from tabular import show, synthesize

import pe


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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epsilon", type=float, default=1.0)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    digits(options.epsilon, options.runs)
