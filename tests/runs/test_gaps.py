"""Whole runs of every method keep the gap between two dates: the length of a stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import pe
from pe.data.constraints import Order, Sum
from pe.run import Run
from pe.tables import method as cross_tables
from pe.tables.levels import Levels
from pe.tables.measure import Tables
from pe.tables.targets import choose_tables


def dates(name: str, missing: bool = False) -> pe.Datetime:
    return pe.Datetime.of(name, "2014-01-01", "2024-12-31", date=True, missing=missing)


COLUMNS = (
    pe.Numeric("age", 0, 110, integer=True),
    pe.Categorical("ward", ("surgery", "medicine", "maternity")),
    pe.Categorical("again", ("no", "yes")),
)
IN_ORDER = (Order(("admission", "discharge")),)
SCHEMA = pe.Schema((dates("admission"), dates("discharge"), *COLUMNS), "again", constraints=IN_ORDER)


def patients(n: int = 3000, missing: float = 0.0) -> pd.DataFrame:
    """Stays of median 4 days; the longer, the more often a patient comes again."""
    rng = np.random.default_rng(0)
    admission = np.datetime64("2014-01-01") + rng.integers(0, 3600, n)
    days = np.rint(np.exp(rng.normal(np.log(4), 1.0, n))).astype(int)
    again = rng.random(n) < 1 / (1 + np.exp(2 - np.log(days + 0.5)))
    frame = pd.DataFrame(
        {
            "admission": admission,
            "discharge": admission + days,
            "age": rng.integers(20, 95, n),
            "ward": rng.choice(["surgery", "medicine", "maternity"], n),
            "again": np.where(again, "yes", "no"),
        }
    )
    for name in ("admission", "discharge"):
        frame.loc[rng.random(n) < missing, name] = pd.NaT
    return frame


def released(folder: Path, data: pd.DataFrame, schema: pe.Schema = SCHEMA, **given: Any) -> pd.DataFrame:
    settings: dict[str, Any] = {"epsilon": 1.0, "delta": 1e-6, "adjacency": "add-remove", "source": "patients"}
    settings |= {"run": folder / "run", "ledger": folder / "ledger.sqlite3", "create": True}
    return pe.synthesize(data, schema=schema, **(settings | given)).to_pandas()


def stay(frame: pd.DataFrame) -> pd.Series:
    days = (pd.to_datetime(frame["discharge"]) - pd.to_datetime(frame["admission"])).dt.days
    return days.dropna()


@pytest.mark.usefixtures("repeated_noise")
@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"method": "cross-tables"}, 0.25),
        ({"method": "herded-tables"}, 0.25),
        ({"method": "kernel-votes", "rows": 500}, 0.25),
        ({"method": "tab-pe", "rows": 500}, 0.5),
    ],
    ids=lambda value: value.get("method") if isinstance(value, dict) else "",
)
def test_stays_are_as_long_as_in_private_records(tmp_path: Path, given: dict[str, Any], error: float) -> None:
    private = patients()
    made = released(tmp_path, private, **given)
    assert (stay(made) >= 0).all()
    quartiles = [0.25, 0.5, 0.75]
    np.testing.assert_allclose(stay(made).quantile(quartiles), stay(private).quantile(quartiles), rtol=error)
    longer = stay(made)[made["again"] == "yes"].median() - stay(made)[made["again"] == "no"].median()
    assert longer >= 1  # 2 among private records


@pytest.mark.usefixtures("repeated_noise")
def test_stays_are_kept_where_both_dates_may_be_missing(tmp_path: Path) -> None:
    schema = pe.Schema(
        (dates("admission", missing=True), dates("discharge", missing=True), *COLUMNS), "again", constraints=IN_ORDER
    )
    private = patients(missing=0.2)
    made = released(tmp_path, private, schema)
    quartiles = [0.25, 0.5, 0.75]
    np.testing.assert_allclose(stay(made).quantile(quartiles), stay(private).quantile(quartiles), rtol=0.25)
    for name in ("admission", "discharge"):
        assert made[name].isna().mean() == pytest.approx(0.2, abs=0.05)
        years = [pd.to_datetime(frame[name]).dt.year.median() for frame in (made, private)]
        assert years[0] == pytest.approx(years[1], abs=1)


@pytest.mark.parametrize("method", ["cross-tables", "tab-pe"])
def test_a_run_that_died_goes_on_as_if_it_had_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    given: dict[str, Any] = {"method": method, "rows": 100, "simulate": 1, "create": False}
    private = patients(400)
    whole = released(tmp_path / "whole", private, **given)
    store = Run.store_histogram
    stored: list[str] = []

    def dying(run: Run, number: int, histogram: Any, name: str = "histogram") -> None:
        store(run, number, histogram, name)
        stored.append(name)
        if len(stored) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "store_histogram", dying)
        with pytest.raises(KeyboardInterrupt):
            released(tmp_path / "broken", private, **given)
    pd.testing.assert_frame_equal(released(tmp_path / "broken", private, **given), whole)


@pytest.mark.usefixtures("repeated_noise")
def test_skewed_parts_and_their_total_keep_their_sizes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts = {name: np.rint(np.exp(rng.normal(np.log(size), 1, 3000))) for name, size in (("bed", 900), ("drugs", 250))}
    private = pd.DataFrame(parts).clip(0, 100_000).assign(total=sum(parts.values()).clip(0, 200_000))
    columns = [pe.Numeric(name, 0, 100_000, integer=True) for name in parts]
    schema = pe.Schema(
        (*columns, pe.Numeric("total", 0, 200_000, integer=True)), constraints=(Sum("total", ("bed", "drugs")),)
    )
    made = released(tmp_path, private, schema)
    assert (made["total"] == made["bed"] + made["drugs"]).all()
    for name in schema.arrow().names:
        quartiles = [0.25, 0.5, 0.75]
        np.testing.assert_allclose(made[name].quantile(quartiles), private[name].quantile(quartiles), rtol=0.2)
        assert made[name].mean() == pytest.approx(private[name].mean(), rel=0.5)


@pytest.mark.usefixtures("repeated_noise")
def test_a_total_may_be_a_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parts stand for it."""
    asked: list[list[str]] = []

    def choose(targets: list[int], levels: list[Levels], *given: Any) -> Tables:
        asked.append([levels[place].column.name for place in targets])
        return choose_tables(targets, levels, *given)

    monkeypatch.setattr(cross_tables, "choose_tables", choose)
    rng = np.random.default_rng(0)
    size = rng.integers(0, 4, 3000)
    private = pd.DataFrame({"size": size.astype(str), "bed": 100 * size + 50, "drugs": rng.integers(0, 50, 3000)})
    private["total"] = private["bed"] + private["drugs"]
    schema = pe.Schema(
        (
            pe.Categorical("size", ("0", "1", "2", "3")),
            pe.Numeric("bed", 0, 500, integer=True),
            pe.Numeric("drugs", 0, 100, integer=True),
            pe.Numeric("total", 0, 600, integer=True),
        ),
        constraints=(Sum("total", ("bed", "drugs")),),
    )
    made = released(tmp_path, private, schema, targets=["total"])
    medians = made.groupby("size", observed=True)["total"].median()
    assert asked == [["bed", "drugs"]]
    np.testing.assert_allclose(medians.to_numpy(), [75, 175, 275, 375], atol=40)


def test_the_report_shows_gaps(tmp_path: Path) -> None:
    private, other = patients(400), patients(300)
    other["discharge"] = other["admission"] + pd.to_timedelta(np.arange(300) % 100, "D")
    private.loc[0, "discharge"] = private.loc[0, "admission"] - pd.Timedelta(days=2)
    found = pe.evaluate(other, test=private, schema=SCHEMA)
    (gap,) = found.gaps
    assert (gap.lower, gap.upper, gap.unit) == ("admission", "discharge", "days")
    expected = stay(private).quantile([0.05, 0.25, 0.5, 0.75, 0.95])
    np.testing.assert_allclose(gap.real, expected)
    assert gap.synthetic[2] == pytest.approx(49.5)
    assert 0.5 < gap.distance <= 1
    assert gap.broken == 1 / 400
    assert found.to_dict()["gaps"][0]["quantiles_real"]["0.5"] == expected[0.5]
    page = found.report(tmp_path / "nonprivate.html").read_text()
    assert "admission to discharge, days: synthetic" in page
    assert "0.25% of the test records have discharge below admission" in page
    assert pe.evaluate(private, test=private, schema=SCHEMA).gaps[0].distance == 0


def test_the_report_shows_gaps_on_both_sides_of_what_may_be_missing() -> None:
    names = ("a", "b", "c")
    columns = tuple(pe.Numeric(name, 0, 9, missing=name == "b") for name in names)
    schema = pe.Schema((*columns, pe.Categorical("k", ("x",))), constraints=(Order(names),))
    table = {"a": [1.0, 2.0, 3.0], "b": [2.0, None, None], "c": [5.0, 5.0, 5.0], "k": ["x"] * 3}
    gaps = pe.evaluate(table, test=table, schema=schema).gaps
    assert [(gap.lower, gap.upper, gap.real[2]) for gap in gaps] == [("a", "b", 1), ("a", "c", 3), ("b", "c", 3)]
    nothing = {**table, "b": [None, None, None]}
    assert len(pe.evaluate(nothing, test=table, schema=schema).gaps) == 1
    assert pe.evaluate(table, test=table, schema=pe.Schema(schema.columns)).gaps == ()
