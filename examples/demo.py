"""``make demo``: a private table and private digit images, each at epsilon 1, on real data, with no network.

Both data sets ship with scikit-learn and are public; the demo treats four fifths of each as private and keeps the rest
to see what the synthetic records are good for. Its ledger is thrown away at every start; yours should never be.
"""

import os
import shutil
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

import pe

HOME = Path("runs") / "demo"
BUDGET = {"epsilon": 1.0, "delta": 1e-4, "adjacency": "add-remove", "create": True}


def accuracy(train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray) -> float:
    """Share of real held-out records that a logistic regression fitted to the training records gets right."""
    model = make_pipeline(MinMaxScaler(), LogisticRegression(max_iter=2000)).fit(train_x, train_y)
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
    os.environ["PE_LEDGER_KEY"] = str(HOME / "key" / "ledger.key")
    made = [breast_cancer(), digits()]
    console = Console()
    table = Table(title="Differentially private synthetic data", title_justify="left", show_header=False)
    table.add_column()
    for title in ("breast cancer (569 patients, 30 numbers)", "handwritten digits (1,797 pictures)"):
        table.add_column(title)
    facts = [synthetic.certificate for synthetic, _, _ in made]
    table.add_row("claim", *(f"({f['claim']['epsilon']:g}, {f['claim']['delta']:g})-DP, add-remove" for f in facts))
    table.add_row("epsilon spent", *(f"{f['spent']['epsilon']:.4f}" for f in facts))
    table.add_row("synthetic rows", *(str(len(synthetic)) for synthetic, _, _ in made))
    table.add_row("files", *(str(len(f["files"])) for f in facts))
    table.add_row("in", *(os.path.relpath(synthetic.run / "release") for synthetic, _, _ in made))
    table.add_row("accuracy, synthetic*", *(f"{ours:.1%}" for _, ours, _ in made))
    table.add_row("accuracy, real*", *(f"{real:.1%}" for _, _, real in made))
    console.print(table)
    console.print("* on real records never seen, of a logistic regression fitted to the synthetic or the real ones")
    release = HOME / "digits" / "release"
    console.print(f"contact sheet: {release / 'contact_sheet.html'}")
    console.print(f"the claim in words: {release / 'CARD.md'}")
    console.print(f"check it: .venv/bin/pe budget verify {release / 'certificate.json'} --offline")


if __name__ == "__main__":
    main()
