"""Hospital stays: how well each method keeps the gap between two dates, and sums, at a small budget.

    python tests/benchmarks/stays.py [--methods cross-tables herded-tables tab-pe kernel-votes] [--runs 10]
        [--epsilon 1] [--records 3000]

Simulated records: admissions uniform over ten years, log-normal stays of median 4 days, costs of two parts and their
total, age, ward, and a label that depends on the stay. Prints, per method and for the stay and the costs: the median
over runs of each quartile, its largest relative error, the mean (standard deviation over runs); and how well the stay
tells the label.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

import pe
from pe.data.constraints import Order, Sum

QUARTILES = (0.25, 0.5, 0.75)


def stays(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    admission = np.datetime64("2014-01-01") + rng.integers(0, 3600, n)
    days = np.rint(np.exp(rng.normal(np.log(4), 1.0, n))).clip(0, 365).astype(int)
    bed = np.rint(days * rng.normal(400, 40, n).clip(200, 600) + 300)
    drugs = np.rint(np.exp(rng.normal(5.5, 1.2, n)))
    return pd.DataFrame(
        {
            "age": rng.normal(58, 18, n).round().clip(0, 100).astype(int),
            "ward": rng.choice(["surgery", "medicine", "maternity", "intensive"], n, p=[0.3, 0.4, 0.2, 0.1]),
            "admission": admission,
            "discharge": admission + days,
            "bed": bed.astype(int),
            "drugs": drugs.astype(int),
            "total": (bed + drugs).astype(int),
            "readmitted": np.where(rng.random(n) < 1 / (1 + np.exp(-(np.log(days + 0.5) - 2))), "yes", "no"),
        }
    )


SCHEMA = pe.Schema(
    (
        pe.Numeric("age", 0, 110, integer=True),
        pe.Categorical("ward", ("surgery", "medicine", "maternity", "intensive")),
        pe.Datetime.of("admission", "2014-01-01", "2024-12-31", date=True),
        pe.Datetime.of("discharge", "2014-01-01", "2024-12-31", date=True),
        pe.Numeric("bed", 0, 200_000, integer=True),
        pe.Numeric("drugs", 0, 50_000, integer=True),
        pe.Numeric("total", 0, 250_000, integer=True),
        pe.Categorical("readmitted", ("no", "yes")),
    ),
    "readmitted",
    constraints=(Order(("admission", "discharge")), Sum("total", ("bed", "drugs"))),
)


def days(frame: pd.DataFrame) -> np.ndarray:
    return (pd.to_datetime(frame["discharge"]) - pd.to_datetime(frame["admission"])).dt.days.to_numpy()


def released(method: str, seed: int, options: argparse.Namespace) -> tuple[pd.DataFrame, pd.DataFrame]:
    private = stays(options.records, seed)
    with tempfile.TemporaryDirectory() as place:
        os.environ["PE_LEDGER_KEY"] = str(Path(place) / "key")
        rows = None if method in ("cross-tables", "herded-tables") else 1000
        made = pe.synthesize(
            private,
            schema=SCHEMA,
            source="benchmark",
            epsilon=options.epsilon,
            delta=1e-6,
            adjacency="add-remove",
            ledger=Path(place) / "ledger.sqlite3",
            run=Path(place) / "run",
            create=True,
            method=method,
            seed=seed,
            formats=["csv"],
            **({} if rows is None else {"rows": rows}),
        )
        return private, made.to_pandas()


def show(title: str, real: list[np.ndarray], made: list[np.ndarray]) -> None:
    wanted = np.array([np.quantile(each, QUARTILES) for each in real])
    found = np.array([np.quantile(each, QUARTILES) for each in made])
    worst = np.abs(found / wanted - 1).max(axis=0)
    print(
        f"  {title}: quartiles {np.median(found, axis=0).round(1).tolist()} of {np.median(wanted, axis=0).tolist()}, "
        f"largest errors {(100 * worst).round().tolist()} %; mean {np.mean([each.mean() for each in made]):.1f} "
        f"({np.std([each.mean() for each in made]):.1f}) of {np.mean([each.mean() for each in real]):.1f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["cross-tables", "herded-tables", "tab-pe", "kernel-votes"])
    parser.add_argument("--epsilon", type=float, default=1.0)
    parser.add_argument("--records", type=int, default=3000)
    parser.add_argument("--runs", type=int, default=10)
    options = parser.parse_args()
    for method in options.methods:
        begun = time.perf_counter()
        pairs = [released(method, seed, options) for seed in range(options.runs)]
        seconds = (time.perf_counter() - begun) / options.runs
        print(f"{method}, epsilon {options.epsilon:g}, {options.records} records, {seconds:.1f} s a run", flush=True)
        show("stay", [days(real) for real, _ in pairs], [days(made) for _, made in pairs])
        for column in ("total", "bed", "drugs"):
            show(column, [real[column].to_numpy() for real, _ in pairs], [made[column].to_numpy() for _, made in pairs])
        areas = [[roc_auc_score(frame["readmitted"] == "yes", days(frame)) for frame in pair] for pair in pairs]
        real, made = np.mean(areas, axis=0)
        print(f"  AUC of the stay for the label: {made:.3f}, of private records {real:.3f}", flush=True)


if __name__ == "__main__":
    main()
