"""Whole runs by kernel votes: tables and images, alone and beside votes, their claim and what is told of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pe
from pe.cli import main
from pe.errors import ConfigError
from pe.privacy.certificate import verify

TABLE = pe.Schema((pe.Numeric("x", 0, 1), pe.Categorical("kind", ("a", "b"))), label="kind")
PICTURES = pe.Schema((pe.Image("image", 8, 8), pe.Categorical("digit", ("0", "1"))), label="digit")
BUDGET = {"epsilon": 2.0, "delta": 1e-5, "adjacency": "add-remove", "create": True, "method": "kernel-votes"}


def points(n: int = 1500) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    kinds = rng.random(n) < 0.7
    return {"x": np.where(kinds, rng.beta(2, 20, n), rng.beta(20, 2, n)), "kind": np.where(kinds, "a", "b")}


def purposes(made: pe.Synthetic) -> list[str]:
    return [row["purpose"] for row in made.certificate["entries"] if row["kind"] == "reserve"]


@pytest.mark.usefixtures("repeated_noise")
def test_a_table_by_one_release(tmp_path: Path) -> None:
    seen: list[float | None] = []
    made = pe.synthesize(
        points(),
        schema=TABLE,
        source="p",
        rows=100,
        iterations=30,
        run=tmp_path / "run",
        progress=lambda session: seen.append(session.distance),
        **BUDGET,
    )
    assert purposes(made) == ["label counts", "Fourier mean"]
    frame = made.to_pandas()
    assert frame.x[frame.kind == "a"].mean() == pytest.approx(2 / 22, abs=0.05)
    assert frame.x[frame.kind == "b"].mean() == pytest.approx(20 / 22, abs=0.05)
    assert (frame.kind == "a").mean() == pytest.approx(0.7, abs=0.05)
    assert seen[-1] is not None
    assert seen[-1] < 0.1 * max(distance for distance in seen if distance is not None)
    verify(made.certificate, folder=tmp_path / "run" / "release")
    completed = made.certificate["iterations"]["completed"]
    assert completed < 30
    assert made.stopped == ""
    card = (tmp_path / "run" / "release" / "CARD.md").read_text()
    assert "when further ones brought the records no nearer" in card
    assert "kernel herding towards a noisy mean of 1000 random Fourier features" in card
    assert "Estimated squared distance of their kernel mean" in card
    assert "noisy vote" not in card
    assert made.certificate["spent"]["epsilon"] == pytest.approx(2.0, rel=1e-3)


@pytest.mark.parametrize("unit", ["record", "user"])
@pytest.mark.parametrize("adjacency", ["add-remove", "replace-one"])
def test_images_of_any_unit_and_adjacency_with_votes_beside(tmp_path: Path, unit: str, adjacency: str) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (200, 8, 8), np.uint8)
    data = {"image": images, "digit": rng.integers(2, size=200), "who": np.arange(200) // 2}
    user = {"user": "who", "user_norm": 2.0} if unit == "user" else {}
    made = pe.synthesize(
        data,
        schema=PICTURES,
        source="p",
        rows=20,
        iterations=2,
        kernel={"share": 0.4, "features": 50},
        run=tmp_path / "run",
        **(BUDGET | user | {"adjacency": adjacency}),
    )
    assert purposes(made) == ["label counts", "Fourier mean", "votes", "votes"]
    assert len(made) == 20
    verify(made.certificate, folder=tmp_path / "run" / "release")
    assert "and their noisy vote" in (tmp_path / "run" / "release" / "CARD.md").read_text()


@pytest.mark.parametrize("shares", ["uniform", [0.2, 0.8]])
def test_numbers_of_records_are_bought_also_where_the_shares_are_declared(tmp_path: Path, shares: Any) -> None:
    made = pe.synthesize(
        points(300),
        schema=TABLE,
        source="p",
        rows=10,
        iterations=1,
        label_shares=shares,
        run=tmp_path / "run",
        **BUDGET,
    )
    assert purposes(made) == ["label counts", "Fourier mean"]
    sizes = np.bincount(made.population.labels).tolist()
    assert sizes == ([5, 5] if shares == "uniform" else [2, 8])


@pytest.mark.usefixtures("repeated_noise")
def test_a_table_without_label(tmp_path: Path) -> None:
    schema = pe.Schema((pe.Numeric("x", 0, 1),))
    made = pe.synthesize(
        {"x": points()["x"]}, schema=schema, source="p", rows=50, iterations=10, run=tmp_path / "run", **BUDGET
    )
    near = np.abs(made.to_numpy("x") - 0.5) > 0.25
    assert near.mean() > 0.9


def test_a_simulation_is_resumed_and_says_so(tmp_path: Path) -> None:
    settings = {"schema": TABLE, "source": "p", "rows": 20, "iterations": 2, "run": tmp_path / "run", "simulate": 1}
    one, again = (pe.synthesize(points(), **(BUDGET | settings)) for _ in range(2))
    assert one.simulated
    assert one.to_pandas().equals(again.to_pandas())


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"method": "cross-tables", "kernel": {"share": 0.5}}, "no iterations that a kernel could select in"),
        ({"kernel": {"share": 1.5}}, "evolution.kernel.share"),
        ({"kernel": {"bandwidth": 0}}, "evolution.kernel.bandwidth"),
        ({"kernel": {"features": 0}}, "evolution.kernel.features"),
        ({"kernel": {"nonsense": 1}}, "evolution.kernel.nonsense"),
        ({"epsilon": 0.0002}, "Nothing was spent"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_spent(tmp_path: Path, wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text) as refused:
        pe.synthesize(points(50), schema=TABLE, source="p", rows=10, run=tmp_path / "run", **(BUDGET | wrong))
    assert "Nothing was spent" in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_notes_of_another_configuration_are_forgotten(tmp_path: Path) -> None:
    run = tmp_path / "run"
    pe.synthesize(points(50), schema=TABLE, source="p", rows=10, iterations=1, run=run, **BUDGET)
    notes = run / "iterations" / "notes.json"
    assert len(json.loads(notes.read_text())["spread"]) == 1
    for folder in [run / "release", *(run / "iterations").glob("0*")]:
        shutil.rmtree(folder)
    (run / "released.parquet").unlink()
    notes.write_text('{"spread": [1e9], "frequencies": "others"}')
    more = {"source": "q", "rows": 12, "iterations": 1, "run": run}
    assert len(pe.synthesize(points(50), schema=TABLE, **(BUDGET | more))) == 12


def test_the_plan_tells_what_the_budget_buys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "schema.toml").write_text(TABLE.to_toml())
    (tmp_path / "pe.toml").write_text(
        '[private]\nsource = "p"\npath = "x.csv"\nschema = "schema.toml"\n[privacy]\nepsilon = 1.0\ndelta = 1e-5\n'
        'adjacency = "add-remove"\n[api]\nkind = "tabular"\n[evolution]\nmethod = "kernel-votes"\niterations = 3\n'
        '[output]\nrun = "run"\nrows = 100\n'
    )

    def shown(*more: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["plan", str(tmp_path / "pe.toml"), "--records", "1000", *more])
        assert ended.value.code == 0
        return capsys.readouterr().out

    facts = json.loads(shown("--json"))
    assert [each["sigma"] for each in facts["iterations"]] == [None, None, None]
    assert facts["api_calls"] == 400 + 300 + 300
    assert 3 < facts["kernel_noise"] < 5
    text = shown()
    assert "no vote" in text
    assert "mean of 1000 Fourier features" in text
