"""The method "cross-tables", as a whole run: what it pays, keeps, resumes and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import pe
import pe.session
from pe.data.arrays import to_table
from pe.data.constraints import Order
from pe.data.gap_form import GapForm
from pe.errors import BudgetExceededError, ConfigError
from pe.privacy import Adjacency
from pe.privacy.certificate import verify
from pe.private.dataset import PrivateDataset
from pe.private.measure import measure
from pe.run import Run
from pe.tables import plan
from pe.tables.copula import GRID, Correlations, Scores
from pe.tables.levels import grid, merge
from pe.tables.measure import Counts, one_way
from pe.tables.smooth import Cosines

SCHEMA = pe.Schema(
    (
        pe.Numeric("age", 0, 100, integer=True),
        pe.Numeric("income", 1, 1e6, log=True, missing=True),
        pe.Categorical("town", ("a", "b", "c"), missing=True),
        pe.Categorical("ill", ("no", "yes")),
    ),
    "ill",
)


def people(n: int = 3000, seed: int = 0) -> pd.DataFrame:
    """The ill are older and live in town c; a third of the incomes are missing, half of them of the ill."""
    rng = np.random.default_rng(seed)
    ill = rng.random(n) < 0.3
    return pd.DataFrame(
        {
            "age": np.clip(rng.normal(np.where(ill, 70, 35), 10), 0, 100).round(),
            "income": np.where(rng.random(n) < np.where(ill, 0.5, 0.25), np.nan, np.exp(rng.normal(8, 1.5, n))),
            "town": np.where(rng.random(n) < np.where(ill, 0.8, 0.2), "c", rng.choice(["a", "b"], n)),
            "ill": np.where(ill, "yes", "no"),
            "who": rng.integers(0, n // 3, n),
        }
    )


def made(folder: Path, data: pd.DataFrame | None = None, schema: pe.Schema = SCHEMA, **given: Any) -> pe.Synthetic:
    settings: dict[str, Any] = {"epsilon": 2.0, "delta": 1e-6, "adjacency": "add-remove", "source": "people"}
    settings |= {"run": folder / "run", "ledger": folder / "ledger.sqlite3", "create": True}
    return pe.synthesize(people() if data is None else data, schema=schema, **(settings | given))


def purposes(synthetic: pe.Synthetic) -> list[str]:
    return [row["purpose"] for row in synthetic.certificate["entries"] if row["kind"] == "reserve"]


@pytest.mark.usefixtures("repeated_noise")
def test_it_is_the_default_for_tables_and_keeps_what_depends_on_what(tmp_path: Path) -> None:
    result = made(tmp_path)
    assert purposes(result) == ["label counts", "histograms", "cross-tables"]
    assert 1.99 < result.certificate["spent"]["epsilon"] <= 2.0
    assert verify(
        result.certificate, folder=tmp_path / "run" / "release", ledger=pe.Ledger(tmp_path / "ledger.sqlite3")
    )
    frame = result.to_pandas()
    assert len(frame) == pytest.approx(3000, abs=300)
    ill = frame[frame["ill"] == "yes"]
    assert len(ill) / len(frame) == pytest.approx(0.3, abs=0.06)
    assert ill["age"].mean() == pytest.approx(70, abs=6)
    assert frame[frame["ill"] == "no"]["age"].mean() == pytest.approx(35, abs=6)
    assert (ill["town"] == "c").mean() == pytest.approx(0.8, abs=0.12)
    assert ill["income"].isna().mean() == pytest.approx(0.5, abs=0.12)
    assert np.log(frame["income"].dropna()).median() == pytest.approx(8, abs=0.5)
    card = (tmp_path / "run" / "release" / "CARD.md").read_text()
    assert "drawn from a density that was fitted to noisy counts" in card
    assert "never saw" not in card
    assert "Records by `ill` (from a charged, noisy count)" in card
    assert not any("label shares" in note for note in result.certificate["declared_public"])


@pytest.mark.parametrize(
    "given",
    [
        {"adjacency": "replace-one"},
        {"user": "who"},
        {"user": "who", "user_norm": 3.0},
        {"label_shares": "uniform", "rows": 200},
        {"label_shares": [0.9, 0.1], "rows": 100},
        {"schema": SCHEMA.with_label(None)},
        {"rows": 7},
        {"simulate": 3, "create": False},
    ],
    ids=str,
)
def test_it_works_under_any_terms(tmp_path: Path, given: dict[str, Any]) -> None:
    result = made(tmp_path, **given)
    if "rows" in given:
        assert len(result) == given["rows"]
    if "label_shares" in given:
        yes = (result.to_numpy("ill") == "yes").mean()
        assert yes == pytest.approx(0.5 if given["label_shares"] == "uniform" else 0.1)
        assert any("the label shares" in note for note in result.certificate["declared_public"])
    if not result.simulated:
        assert 1.99 < result.certificate["spent"]["epsilon"] <= 2.0
        assert verify(result.certificate)


@pytest.mark.usefixtures("repeated_noise")
def test_herded_tables_pay_for_tables_and_a_kernel_mean(tmp_path: Path) -> None:
    result = made(tmp_path, method="herded-tables", rows=500, seed=3)
    assert purposes(result) == ["label counts", "histograms", "cross-tables", "label counts", "Fourier mean"]
    assert 1.99 < result.certificate["spent"]["epsilon"] <= 2.0
    assert verify(result.certificate)
    frame = result.to_pandas()
    assert len(frame) == 500
    ill = frame[frame["ill"] == "yes"]
    assert len(ill) / len(frame) == pytest.approx(0.3, abs=0.06)
    assert ill["age"].mean() == pytest.approx(70, abs=6)
    card = (tmp_path / "run" / "release" / "CARD.md").read_text()
    assert "drawn from a density" in card
    assert "kernel herding" in card
    assert "proposed by" not in card
    again = made(tmp_path, method="herded-tables", rows=500, seed=3)
    assert again.to_pandas().equals(frame)
    assert again.certificate["spent"] == result.certificate["spent"]


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_hardly_any_records_are_no_special_case(tmp_path: Path, rows: int) -> None:
    assert len(made(tmp_path, people()[:rows], rows=20)) == 20


def test_odd_columns_are_no_special_case(tmp_path: Path) -> None:
    """A constant, an all-missing one, a class with one record, more columns than records."""
    names = [f"x{number}" for number in range(40)]
    columns = [pe.Numeric(name, 0, 1, missing=name == "x1") for name in names]
    schema = pe.Schema((*columns, pe.Numeric("same", 3, 3), pe.Categorical("kind", ("a", "b", "c"))), "kind")
    data = pd.DataFrame({name: np.linspace(0, 1, 30) for name in names} | {"same": 3.0, "kind": ["a"] * 29 + ["b"]})
    data["x1"] = np.nan
    frame = made(tmp_path, data, schema, rows=60).to_pandas()
    assert len(frame) == 60
    assert set(frame["same"]) == {3.0}


def test_columns_of_one_value_each_leave_nothing_to_cross(tmp_path: Path) -> None:
    schema = pe.Schema(
        (pe.Numeric("same", 3, 3), pe.Categorical("one", ("a",)), pe.Categorical("kind", ("a", "b"))), "kind"
    )
    result = made(tmp_path, pd.DataFrame({"same": [3] * 50, "one": "a", "kind": ["a", "b"] * 25}), schema, rows=9)
    assert purposes(result) == ["label counts", "cosines of columns"]
    assert set(result.to_pandas()["same"]) == {3.0}
    assert verify(result.certificate)


def test_a_run_that_died_between_its_releases_pays_for_none_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = made(tmp_path / "whole", simulate=1, create=False).to_pandas()
    store = Run.store_histogram

    def dying(run: Run, number: int, histogram: Any, name: str = "histogram") -> None:
        store(run, number, histogram, name)
        if name == "histograms":
            raise KeyboardInterrupt

    for terms in ({}, {"simulate": 1, "create": False}):
        folder = tmp_path / f"broken {len(terms)}"
        with monkeypatch.context() as patch:
            patch.setattr(Run, "store_histogram", dying)
            with pytest.raises(KeyboardInterrupt):
                made(folder, **terms)
        stored = {path.name: path.read_bytes() for path in (folder / "run" / "iterations" / "000").glob("*.npz")}
        assert set(stored) == {"histogram.npz", "histograms.npz"}
        result = made(folder, **terms)
        for name, content in stored.items():
            assert (folder / "run" / "iterations" / "000" / name).read_bytes() == content
        if terms:
            assert result.to_pandas().equals(whole)
        else:
            assert purposes(result) == ["label counts", "histograms", "cross-tables"]


def test_a_second_run_on_a_spent_source_is_refused_before_it_reads_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tmp_path)
    monkeypatch.setattr(PrivateDataset, "read", lambda *_, **__: pytest.fail("the data were read"))
    with pytest.raises(BudgetExceededError, match="Nothing was spent"):
        made(tmp_path, run=tmp_path / "second")


@pytest.mark.parametrize("given", [{"epsilon": 1e-9}, {}, {"method": "tab-pe"}, {"adjacency": "replace-one"}], ids=str)
def test_a_hopeless_budget_is_refused_before_there_is_a_ledger(tmp_path: Path, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"nothing useful can come out.*Nothing was spent"):
        made(tmp_path, **({"epsilon": 0.01} | given))
    assert not list(tmp_path.iterdir())


def test_a_very_small_budget_is_taken_where_there_are_known_to_be_many_records(tmp_path: Path) -> None:
    small = {"epsilon": 0.02, "rows": 20}
    with pytest.raises(ConfigError, match="at_least = 3239"):
        made(tmp_path, **small)
    with pytest.raises(ConfigError, match="at_least = 3239"):
        made(tmp_path, **small, at_least=3000)
    result = made(tmp_path, **small, at_least=4000)
    assert "that there are at least 4000 private records" in result.certificate["declared_public"]


def test_a_small_budget_per_user_is_spent_to_its_end(tmp_path: Path) -> None:
    """On coarser counts, as the noise would be too large for the finer ones."""
    result = made(tmp_path, epsilon=0.1, user="who", user_norm=3.0, rows=20)
    grids = {row["purpose"]: row["grid"] for row in result.certificate["entries"] if row["kind"] == "reserve"}
    assert grids["cross-tables"] < 16
    assert grids["correlations"] < GRID
    assert 0.099 < result.certificate["spent"]["epsilon"] <= 0.1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "cross-tables", "iterations": 3}, "no iterations"),
        ({"method": "cross-tables", "population": 30}, "output.rows says how many records are made"),
        ({"method": "cross-tables", "degree": 0.3}, r"takes no evolution.degree.*Nothing was spent"),
        ({"method": "cross-tables", "votes": 3}, "unknown key"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(tmp_path, **given)


def test_votes_are_taken_where_something_of_theirs_is_set(tmp_path: Path) -> None:
    assert "votes" in purposes(made(tmp_path, iterations=2, rows=30))


def test_constraints_and_keys_hold_in_what_is_drawn(tmp_path: Path) -> None:
    schema = pe.Schema((pe.Numeric("low", 0, 10), pe.Numeric("high", 0, 10)), constraints=(Order(("low", "high")),))
    data = pd.DataFrame({"low": np.linspace(0, 5, 400), "high": np.linspace(2, 10, 400)})
    frame = made(tmp_path, data, schema, rows=300).to_pandas()
    assert (frame["low"] <= frame["high"]).all()


rows = st.lists(st.tuples(st.integers(0, 100), st.booleans(), st.integers(0, 3)), min_size=1, max_size=25)


IN_ORDER = (Order(("x", "later")),)
LOW, HIGH = [(0, False, 0)] * 9, [(100, True, 0)] * 9


@given(rows, rows, st.sampled_from(Adjacency), st.sampled_from([None, 0.5, 1.0, 40.0]))
@example(LOW[:1], HIGH[:1], Adjacency.REPLACE_ONE, None)  # the furthest apart
@example(LOW, HIGH, Adjacency.REPLACE_ONE, 40.0)  # users are further apart than records
@settings(max_examples=25)
def test_one_unit_moves_the_counts_by_at_most_what_is_charged(
    some: list[tuple[int, bool, int]],
    new: list[tuple[int, bool, int]],
    adjacency: Adjacency,
    norm: float | None,
) -> None:
    columns = (pe.Numeric("x", 0, 100, integer=True), pe.Numeric("y", 0, 50, missing=True), pe.boolean("z"))
    later = pe.Numeric("later", 0, 100, integer=True)  # than x, in half of the records
    schema = pe.Schema((*columns, later, pe.Categorical("kind", ("a", "b"))), "kind", constraints=IN_ORDER)
    fine = [grid(column, 16) for column in GapForm.of(schema).columns]
    rng = np.random.default_rng(0)
    levels = [merge(level, rng.normal(30, 5, level.size), 5.0, 8) for level in fine]
    crossed = plan.weighed(plan.choose(levels, 2, 500, 0.3, plan.MOST, rng), 2, 4, 0.3)
    contrasts = plan.weighed(plan.contrasts(levels, 2, plan.MOST, rng), 2, 4, 0.3)
    first = Counts(one_way(fine), tuple(fine), "histograms", 16 if norm else 1)
    cosines = [Cosines(tuple(fine), terms, steps) for terms, steps in ((3, 64), (9, 16), (99, 8))]
    scores = tuple(Scores.of(level, rng.dirichlet(np.ones(level.size), 2)) for level in levels)
    products = [Correlations(tuple(levels), scores, steps) for steps in (4096, 100, 9)]

    def private(records: list[tuple[int, bool, int]]) -> PrivateDataset:
        x, kind, who = (np.array(column, np.int64) for column in zip(*records, strict=True))
        y = np.where(x == 50, np.nan, x / 2)
        z = (x % 2).astype(np.int32)
        arrays = {"x": x, "y": y, "z": z, "later": 37 * x % 101}
        return PrivateDataset(to_table(arrays, schema), kind.astype(np.int32), schema, who)

    changed = [row for row in some if row[2] != 0] if norm else some[1:]
    if adjacency is Adjacency.REPLACE_ONE:
        changed = changed + [(*row[:2], 0) for row in (new if norm else new[:1])]
    others = [Counts(tables, tuple(levels), "cross-tables", 16 if norm else 1) for tables in (crossed, contrasts)]
    for features in (first, *cosines, *products, *others):
        scale = None if norm is None else norm * (features.bound_squared**0.5 / features.grid)
        votes = measure(private(some), features, adjacency=adjacency, norm=scale)
        after = np.zeros(features.bins, np.int64)
        if changed:
            after = measure(private(changed), features, adjacency=adjacency, norm=scale)._count()
        assert ((votes._count() - after) ** 2).sum() <= votes.sensitivity_squared


@pytest.mark.usefixtures("repeated_noise")
def test_the_plan_command_tells_what_it_does_and_when_it_is_hopeless(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pe.cli import main

    people().to_csv(tmp_path / "people.csv", index=False)
    (tmp_path / "schema.toml").write_text(SCHEMA.to_toml())
    (tmp_path / "pe.toml").write_text(
        '[private]\nsource = "people"\npath = "people.csv"\nschema = "schema.toml"\n'
        '[privacy]\nepsilon = 1.0\ndelta = 1e-6\nadjacency = "add-remove"\n'
        '[api]\nkind = "tabular"\n[output]\nrun = "run"\n'
    )

    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as exit_:
            main(list(arguments))
        assert exit_.value.code == 0
        said = capsys.readouterr()
        assert "0/0" not in said.err
        return " ".join((said.out + said.err).split())

    assert "Three releases" in run("plan", str(tmp_path / "pe.toml"), "--records", "3000")
    assert "It takes more than about 85 private records" in run("plan", str(tmp_path / "pe.toml"))
    assert "20 records are too few: nothing useful" in run("plan", str(tmp_path / "pe.toml"), "--records", "20")
    assert json.loads(run("plan", str(tmp_path / "pe.toml"), "--json"))["start"] == "cross-tables"
    assert "counting and drawing records" in run("synthesize", str(tmp_path / "pe.toml"), "--create")
    shown = json.loads(run("synthesize", str(tmp_path / "pe.toml"), "--json"))
    assert shown["iterations"] == {"completed": 0, "planned": 0}
    assert 2500 < shown["rows"] < 3500
