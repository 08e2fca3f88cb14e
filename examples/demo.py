"""``make demo``: a private table and private digit images, each at epsilon 1, on real data, with no network.

Both data sets ship with scikit-learn and are public; the demo treats four fifths of each as private and keeps the rest
to see what the synthetic records are good for. Its ledger is thrown away at every start; yours should never be.
"""

import shutil
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import pe

HOME = Path("runs") / "demo"
BUDGET = {"epsilon": 1.0, "delta": 1e-4, "adjacency": "add-remove", "create": True}


def accuracy(train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray) -> float:
    """Share of real held-out records that a logistic regression fitted to the training records gets right."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(train_x, train_y)
    return float(model.score(test_x, test_y))


def breast_cancer() -> tuple[pe.Synthetic, float, float]:
    bunch = load_breast_cancer(as_frame=True)
    frame = bunch.frame.rename(columns=lambda name: name.replace(" ", "_"))
    train, test = train_test_split(frame, test_size=0.2, random_state=0, stratify=frame["target"])
    features = [name for name in frame.columns if name != "target"]
    # The domains are declared public: this is what the user would write into schema.toml.
    numbers = [pe.Numeric(name, float(frame[name].min()), float(frame[name].max())) for name in features]
    schema = pe.Schema((*numbers, pe.Categorical("target", ("0", "1"))), label="target")
    synthetic = pe.synthesize(train, schema=schema, source="breast-cancer", rows=150, run=HOME / "table", **BUDGET)
    made = synthetic.to_pandas()
    real = accuracy(train[features], train["target"], test[features], test["target"])
    return synthetic, accuracy(made[features], made["target"].astype(int), test[features], test["target"]), real


def digits() -> tuple[pe.Synthetic, float, float]:
    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    train_x, test_x, train_y, test_y = train_test_split(
        images, bunch.target, test_size=0.2, random_state=0, stratify=bunch.target
    )
    schema = pe.Schema(
        (pe.Image("image", 8, 8), pe.Categorical("digit", tuple(str(digit) for digit in range(10)))), label="digit"
    )
    data = {"image": train_x, "digit": train_y}
    synthetic = pe.synthesize(data, schema=schema, source="digits", rows=1500, run=HOME / "digits", **BUDGET)
    made_x, made_y = synthetic.to_numpy("image").reshape(-1, 64), synthetic.to_numpy("digit").astype(int)
    flat = test_x.reshape(-1, 64)
    return synthetic, accuracy(made_x, made_y, flat, test_y), accuracy(train_x.reshape(-1, 64), train_y, flat, test_y)


def main() -> None:
    shutil.rmtree(HOME, ignore_errors=True)
    BUDGET["ledger"] = HOME / "ledger.sqlite3"
    console = Console()
    table = Table(title="Differentially private synthetic data", title_justify="left")
    for heading in ("data", "claim", "epsilon spent", "rows", "files", "accuracy*", "with real data", "seconds"):
        table.add_column(heading)
    for name, make in (("breast cancer", breast_cancer), ("digits", digits)):
        start = time.perf_counter()
        synthetic, ours, real = make()
        claim = synthetic.certificate["claim"]
        table.add_row(
            name,
            f"({claim['epsilon']:g}, {claim['delta']:g}), {claim['adjacency']}",
            f"{synthetic.certificate['spent']['epsilon']:.4f}",
            str(len(synthetic)),
            f"{len(synthetic.certificate['files'])} in {synthetic.run / 'release'}",
            f"{ours:.1%}",
            f"{real:.1%}",
            f"{time.perf_counter() - start:.1f}",
        )
    console.print(table)
    console.print("* of a logistic regression fitted to the synthetic records, on real records it never saw")
    console.print(f"contact sheet: {HOME / 'digits' / 'release' / 'contact_sheet.png'}")
    console.print(f"check a claim: pe budget verify {HOME / 'table' / 'release' / 'certificate.json'} --offline")


if __name__ == "__main__":
    main()
