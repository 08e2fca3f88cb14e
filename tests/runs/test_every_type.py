"""A whole run over a table of every column type, from CSV to released files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import pe
from pe.data.arrays import violations

SCHEMA = """
label = "sex"
ignore = ["note"]
[columns.id]
type = "key"
format = "P-{:05d}"
[columns.sex]
type = "categorical"
values = ["f", "m"]
[columns.income]
type = "float"
min = 1
max = 1e6
scale = "log"
missing = true
[columns.size]
type = "ordinal"
values = ["s", "m", "l"]
[columns.code]
type = "categorical"
values = [VALUES]
missing = true
[columns.group]
type = "categorical"
values = ["even", "odd"]
[columns.active]
type = "boolean"
[columns.born]
type = "date"
min = "1930-01-01"
max = "2010-12-31"
[columns.joined]
type = "date"
min = "1990-01-01"
max = "2024-12-31"
missing = true
[[constraints]]
kind = "order"
columns = ["born", "joined"]
[[constraints]]
kind = "determines"
column = "code"
target = "group"
map = { MAP }
"""
CODES = [f"c{number}" for number in range(200)]


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    pairs = ", ".join(f'{code} = "{["even", "odd"][number % 2]}"' for number, code in enumerate(CODES))
    path = tmp_path / "schema.toml"
    path.write_text(SCHEMA.replace("VALUES", ", ".join(f'"{code}"' for code in CODES)).replace("MAP", pairs))
    return path


def private(path: Path) -> Path:
    rng = np.random.default_rng(0)
    born = np.datetime64("1950-01-01") + rng.integers(0, 9000, 400)
    frame = pd.DataFrame(
        {
            "id": [f"secret {number}" for number in range(400)],
            "note": "secret",
            "sex": rng.choice(["f", "m"], 400),
            "income": np.where(rng.random(400) < 0.3, np.nan, np.exp(rng.normal(10, 1, 400))),
            "size": rng.choice(["s", "m", "l"], 400),
            "code": rng.choice(CODES[:5], 400),
            "group": rng.choice(["even", "odd"], 400),  # breaks the constraint, and votes all the same
            "active": rng.choice(["yes", "No"], 400),
            "born": born,
            "joined": born + 8000,
        }
    )
    frame.to_csv(path, index=False)
    return path


def test_a_table_of_every_type_goes_through_a_run(tmp_path: Path, schema: Path) -> None:
    settings: dict[str, Any] = {"epsilon": 4.0, "delta": 1e-6, "adjacency": "add-remove", "create": True}
    data = private(tmp_path / "people.csv")
    made = pe.synthesize(
        data, schema=schema, rows=60, iterations=3, run=tmp_path / "run", formats=["csv", "jsonl", "parquet", "hf"],
        **settings,
    )  # fmt: skip
    declared = made.schema
    assert list(violations(made.population.records, declared)) == []
    table = made.to_arrow()
    assert table.column_names[0] == "id"
    assert table["id"][0].as_py() == "P-00001"
    assert made.to_numpy("born").dtype.kind == "M"
    assert made.to_numpy("active").dtype == bool
    assert set(made.to_numpy("code")) <= {*CODES, None}
    joined, born = made.to_numpy("joined"), made.to_numpy("born")
    assert (np.isnat(joined) | (born <= joined)).all()
    release = tmp_path / "run" / "release"
    assert all("secret" not in path.read_text(errors="replace") for path in release.rglob("*") if path.is_file())
    card = (release / "CARD.md").read_text()
    assert "| joined | date | 1990-01-01 to 2024-12-31, or missing |" in card
    assert "'born' <= 'joined' in every record" in card
    again = pe.load(tmp_path / "run")
    assert again.to_arrow().equals(table)
    assert pd.read_csv(release / "synthetic.csv")["born"].str.fullmatch(r"\d{4}-\d\d-\d\d").all()
