"""Runs whose label is several columns: what is released, in every format, and what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest

import pe
from pe.cli import main
from pe.errors import ConfigError, PEError, SchemaError
from pe.evaluation import evaluate_charged
from pe.privacy.certificate import verify

BUDGET: dict[str, Any] = {"epsilon": 40.0, "delta": 1e-5, "adjacency": "add-remove", "create": True}
COLOURS, SIZES = ("red", "green"), ("s", "m", "l")
TABLE = pe.Schema(
    (pe.Categorical("size", SIZES), pe.Numeric("x", 0, 60), pe.Categorical("colour", COLOURS), pe.boolean("heavy")),
    label=["colour", "size"],
)
FORMATS = ["csv", "jsonl", "parquet", "hf"]


def things(n: int, seed: int) -> pd.DataFrame:
    """``x`` says what colour and size a record has: [0, 10) red and small, ..., [50, 60) green and large."""
    rng = np.random.default_rng(seed)
    colour, size = rng.integers(2, size=n), rng.choice(3, n, p=[0.2, 0.3, 0.5])
    x = 10 * (3 * colour + size) + rng.uniform(0, 10, n)
    return pd.DataFrame(
        {"colour": np.array(COLOURS)[colour], "size": np.array(SIZES)[size], "x": x, "heavy": size == 2}
    )


def cells(table: pd.DataFrame) -> np.ndarray:
    """The label that each record's own columns name."""
    return 3 * table["colour"].map(COLOURS.index).to_numpy() + table["size"].map(SIZES.index).to_numpy()


@pytest.mark.parametrize("method", ["cross-tables", "tab-pe", "kernel-votes"])
def test_a_table_with_two_label_columns_goes_through_a_run(tmp_path: Path, method: str) -> None:
    data, rounds = things(900, seed=0), {} if method == "cross-tables" else {"iterations": 4}
    how = {"source": "t", "schema": TABLE, "method": method, "rows": 120, "run": tmp_path / "run", "formats": FORMATS}
    made = pe.synthesize(data, **how, **rounds, **BUDGET)
    table = made.to_pandas()
    assert list(table) == ["size", "x", "colour", "heavy"]
    assert np.abs(np.bincount(cells(table), minlength=6) / 120 - np.bincount(cells(data)) / 900).max() < 0.02
    assert np.mean(table["x"] // 10 == cells(table)) > 0.75  # what is counted for a label is released with its columns
    release = tmp_path / "run" / "release"
    shown = list(zip(table["colour"], table["size"], strict=True))
    with (release / "synthetic.csv").open(newline="") as file:
        assert [(row["colour"], row["size"]) for row in csv.DictReader(file)] == shown
    lines = [json.loads(line) for line in (release / "synthetic.jsonl").read_text().splitlines()]
    assert [(line["colour"], line["size"]) for line in lines] == shown
    stored = pyarrow.parquet.read_table(release / "synthetic.parquet").to_pandas()
    assert list(zip(stored["colour"], stored["size"], strict=True)) == shown
    codes = pyarrow.parquet.read_table(release / "hf" / "data" / "train-00000-of-00001.parquet").to_pandas()
    assert [(COLOURS[c], SIZES[s]) for c, s in zip(codes["colour"], codes["size"], strict=True)] == shown
    names = [f"{colour} / {size}" for colour in COLOURS for size in SIZES]
    counts = ", ".join(f"{name}: {n}" for name, n in zip(names, np.bincount(cells(table), minlength=6), strict=True))
    card = (release / "CARD.md").read_text()
    assert f"Records by `colour / size` (from a charged, noisy count): {counts}." in card
    assert "| size | categorical | s, m, l |" in card
    assert verify(made.certificate, folder=release, ledger=pe.Ledger())
    again = pe.synthesize(data, **how, **rounds, **BUDGET)  # resumed: from what is stored
    assert again.to_arrow().equals(made.to_arrow())
    assert again.certificate["spent"] == made.certificate["spent"]
    loaded = pe.load(tmp_path / "run")
    assert loaded.to_arrow().equals(made.to_arrow())
    assert loaded.schema.label_columns == ("colour", "size")


@pytest.mark.parametrize("method", ["cross-tables", "tab-pe", "kernel-votes"])
def test_columns_are_the_label_as_if_they_were_joined_by_hand(tmp_path: Path, method: str) -> None:
    """Record by record, in noise that repeats."""
    names = [f"{colour} / {size}" for colour in COLOURS for size in SIZES]
    features = tuple(column for column in TABLE.columns if column.name not in ("colour", "size"))
    by_hand = pe.Schema((*features, pe.Categorical("kind", tuple(names))), label="kind")
    data = things(300, 4)
    joined = data.assign(kind=np.array(names)[cells(data)])
    rounds = {} if method == "cross-tables" else {"iterations": 3}
    how: dict[str, Any] = {"source": "t", "method": method, "rows": 60, "simulate": 1, **rounds, **BUDGET}
    made = pe.synthesize(data, schema=TABLE, run=tmp_path / "columns", **how)
    other = pe.synthesize(joined, schema=by_hand, run=tmp_path / "hand", **how)
    assert made.schema.labels == other.schema.labels
    assert np.array_equal(made.population.labels, other.population.labels)
    assert made.population.records.equals(other.population.records)


def test_declared_shares_are_in_row_major_order_and_a_list_of_one_is_the_same_run(tmp_path: Path) -> None:
    how: dict[str, Any] = {"source": "t", "schema": TABLE, "rows": 100, "iterations": 1, "method": "tab-pe"}
    shares = [0.1, 0, 0, 0, 0.2, 0.7]
    made = pe.synthesize(things(300, 1), **how, label_shares=shares, run=tmp_path / "two", **BUDGET)
    assert np.bincount(cells(made.to_pandas()), minlength=6).tolist() == [10, 0, 0, 0, 20, 70]
    with pytest.raises(ConfigError, match="expected 6 shares"):
        pe.synthesize(things(300, 1), **how, label_shares=[1, 1], run=tmp_path / "no", **BUDGET)
    one = {**how, "schema": TABLE.with_label(None), "source": "one", "run": tmp_path / "one", **BUDGET}
    first = pe.synthesize(things(300, 1), label="colour", **one)
    assert pe.synthesize(things(300, 1), label=["colour"], **one).to_arrow().equals(first.to_arrow())


def test_the_values_of_every_column_may_be_bought(tmp_path: Path) -> None:
    bought: dict[str, Any] = {"type": "categorical", "values": "buy"}
    columns = {
        "x": {"type": "float", "min": 0, "max": 60},
        "colour": bought | {"candidates": ["red", "green", "blue"]},
        "size": bought | {"candidates": ["s", "m", "l"]},
    }
    wanted: dict[str, Any] = {"label": ["colour", "size"], "columns": columns}
    many = {"colour": bought | {"candidates": [str(number) for number in range(5000)]}}
    with pytest.raises(SchemaError, match=r"15000 combinations of values.*Nothing was spent"):
        pe.buy_schema(things(600, 5), wanted | {"columns": columns | many}, source="t", **BUDGET)
    found = pe.buy_schema(things(600, 5), wanted, source="t", **BUDGET).schema
    assert found.label_shape == (3, 4)  # each with the others
    assert found.labels[:4] == ("red / s", "red / m", "red / l", "red / other")
    pe.Ledger().grant("t", epsilon=90.0, delta=1e-5)
    made = pe.synthesize(things(600, 5), schema=found, source="t", rows=50, run=tmp_path / "run", **BUDGET)
    assert set(made.to_numpy("colour")) == set(COLOURS)


def test_every_column_of_the_label_is_a_target(tmp_path: Path) -> None:
    made = pe.synthesize(things(900, 2), schema=TABLE, source="t", rows=300, run=tmp_path / "run", **BUDGET)
    found = pe.evaluate(made, test=things(300, 3))
    assert [each.target for each in found.utility] == ["colour", "size"]
    assert min(each.mean("synthetic") for each in found.utility) > 0.8
    pe.Ledger().grant("t", epsilon=200.0, delta=1e-5)
    bought = evaluate_charged(made, test=things(900, 2), epsilon=40.0, delta=1e-5).facts
    models = {(each["target"], each["model"]): each["accuracy"] for each in bought["models"]}
    assert {target for target, _ in models} == {"colour", "size"}
    assert min(models.values()) > 0.7
    pairs = {tuple(each["columns"]): each["distance"] for each in bought["tvd2"]["sets"]}
    assert pairs["size", "colour"] < 0.1


# -- texts -----------------------------------------------------------------------------------------------------------

WORDS = {
    ("food", "1"): "cold soup, slow waiter", ("food", "5"): "warm bread, quick cook",
    ("shop", "1"): "empty shelf, rude clerk", ("shop", "5"): "full basket, kind owner",
}  # fmt: skip


def reviews(n: int, seed: int) -> list[dict[str, str]]:
    rng, kinds = np.random.default_rng(seed), list(WORDS)
    found = []
    for number in rng.integers(len(kinds), size=n).tolist():
        first, second = WORDS[kinds[number]].split(", ")
        text = f"There was a {first}. We met the {second}, and paid {rng.integers(1, 9)} times."
        found.append({"text": text, "category": kinds[number][0], "stars": kinds[number][1]})
    return found


@pytest.fixture
def corpus(tmp_path: Path) -> dict[str, Any]:
    """An n-gram API on public texts by label; a text of no declared label is for all of them."""
    lines = [{"text": each["text"], "topic": each["category"], "points": each["stars"]} for each in reviews(80, 7)]
    lines += [{"text": "It rained on that day.", "topic": "food", "points": "3"}] * 3
    (tmp_path / "public.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return {"kind": "ngram", "corpus": str(tmp_path / "public.jsonl"), "corpus_label": ["topic", "points"]}


TEXT: dict[str, Any] = {
    "text": "text", "label": ["category", "stars"], "labels": {"stars": ["1", "5"], "category": ["food", "shop"]},
}  # fmt: skip
SMALL: dict[str, Any] = {"rows": 16, "iterations": 2, "variations": 1}


def test_texts_with_two_label_columns_go_through_a_run(tmp_path: Path, corpus: dict[str, Any]) -> None:
    with (tmp_path / "reviews.csv").open("w", newline="") as file:
        csv.DictWriter(file, ["text", "category", "stars"]).writerows(
            [{"text": "text", "category": "category", "stars": "stars"}, *reviews(300, 0)]
        )
    how = {**TEXT, **SMALL, "api": corpus, "run": tmp_path / "run", "formats": FORMATS}
    made = pe.synthesize(tmp_path / "reviews.csv", **how, **BUDGET)
    table = made.to_pandas()
    assert list(table) == ["text", "category", "stars"]
    assert made.schema.labels == ("food / 1", "food / 5", "shop / 1", "shop / 5")
    for text, *kind in table.itertuples(index=False):
        held = {other for other, words in WORDS.items() if any(word in text for word in words.split(", "))}
        assert held <= {tuple(kind)}  # the corpus by label
    release = tmp_path / "run" / "release"
    lines = [json.loads(line) for line in (release / "synthetic.jsonl").read_text().splitlines()]
    assert [list(line.values()) for line in lines] == table.to_numpy().tolist()
    assert "- (`food / 1`) `" in (release / "CARD.md").read_text()
    again = pe.synthesize(tmp_path / "reviews.csv", **how, **BUDGET)
    assert again.to_arrow().equals(made.to_arrow())
    assert again.certificate["spent"] == made.certificate["spent"]
    found = pe.evaluate(made, test=pd.DataFrame(reviews(120, 1)))
    assert [each.target for each in found.texts["text"].labels] == ["category", "stars"]


def test_a_label_that_cannot_be_is_one_clear_error(tmp_path: Path, corpus: dict[str, Any]) -> None:
    table: dict[str, Any] = {"schema": TABLE.with_label(None), "rows": 10}
    text = {**TEXT, **SMALL, "api": corpus}
    lacking = {**corpus, "corpus_label": ["topic", "marks"]}
    cases: list[tuple[dict[str, Any], type[PEError], str]] = [
        ({**table, "label": ["colour", "colour"]}, ConfigError, "list of different ones"),
        ({**table, "label": []}, ConfigError, "list of different ones"),
        ({**table, "label": ["colour", "hue"]}, SchemaError, "no column 'hue'"),
        ({**table, "label": ["colour", "x"]}, SchemaError, "'x' must be a categorical column"),
        ({**text, "labels": ["1", "5"]}, SchemaError, r"labels as \{column: values\}"),
        ({**text, "api": lacking}, SchemaError, "no column 'marks'.*corpus_label"),
        ({**text, "api": {**corpus, "corpus_label": "topic"}}, ConfigError, "corpus_label names 1 columns.* has 2"),
        ({**text, "label": None, "labels": None}, ConfigError, "corpus_label names 2 columns.* has 0"),
    ]
    for number, (change, kind, words) in enumerate(cases):
        data = pd.DataFrame(reviews(9, 0)) if "text" in change else things(9, 0)
        with pytest.raises(kind, match=f"(?s){words}.*Nothing was spent") as caught:
            pe.synthesize(data, source=f"s{number}", run=tmp_path / f"run{number}", **change, **BUDGET)
        assert str(caught.value).count("Nothing was spent") == 1
        assert not (tmp_path / f"run{number}").exists()
    with pytest.raises(SchemaError, match=r"(?s)no column 'stars'.*Nothing was spent"):
        pe.synthesize(
            pd.DataFrame(reviews(9, 0))[["text", "category"]], source="s", run=tmp_path / "run", **text, **BUDGET
        )


def test_folders_of_pictures_are_one_label(tmp_path: Path) -> None:
    kinds = (pe.Categorical("digit", ("0", "1")), pe.Categorical("ink", ("pale", "dark")))
    schema = pe.Schema((pe.Image("image", 4, 4), *kinds), label=["digit", "ink"])
    rng = np.random.default_rng(0)
    data = {"image": rng.integers(0, 256, (40, 4, 4), dtype=np.uint8), "digit": rng.choice(["0", "1"], 40)}
    data["ink"] = rng.choice(["pale", "dark"], 40)
    texts = {"texts": {label: label[0] for label in schema.labels}}
    how: dict[str, Any] = {"source": "p", "schema": schema, "api": {"kind": "text_render", **texts}, "iterations": 1}
    with pytest.raises(ConfigError, match=r"imagefolder has one folder per value of one label.*Nothing was spent"):
        pe.synthesize(data, **how, formats=["imagefolder"], run=tmp_path / "a", **BUDGET)
    made = pe.synthesize(data, **how, rows=8, formats=["npz", "parquet"], run=tmp_path / "b", **BUDGET)
    with np.load(tmp_path / "b" / "release" / "synthetic.npz") as archive:
        for name in ("digit", "ink"):
            assert archive[name].tolist() == made.to_numpy(name).tolist()
    (tmp_path / "folder" / "0").mkdir(parents=True)
    with pytest.raises(SchemaError, match=r"at most one label column.*Nothing was spent"):
        pe.synthesize(tmp_path / "folder", **{**how, "source": "q"}, run=tmp_path / "c", **BUDGET)


def test_the_command_drafts_and_runs_several_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, capsys.readouterr().err

    things(200, 0).to_csv(tmp_path / "private.csv", index=False)
    things(200, 1).to_csv(tmp_path / "sample.csv", index=False)
    both = ["--label", "colour", "--label", "size"]
    assert run("init", tmp_path, "--from-public", tmp_path / "sample.csv", *both) == (0, "")
    config = tmp_path / "pe.toml"
    assert 'label = ["colour", "size"]' in config.read_text()
    config.write_text(config.read_text().replace("# rows = 1000", "rows = 40 #"))
    assert run("plan", config, "--records", 200)[0] == 0
    assert run("synthesize", config, "--create")[0] == 0
    release = tmp_path / "runs" / "private" / "release"
    assert pe.Schema.read(release / "schema.toml").labels[:2] == ("green / l", "green / m")
    assert run("budget", "verify", release / "certificate.json")[0] == 0
    assert run("init", tmp_path / "one", "--from-public", tmp_path / "sample.csv", "--label", "size") == (0, "")
    assert 'label = "size"' in (tmp_path / "one" / "pe.toml").read_text()
    for place, arguments, words in (
        ("a", ["--text", "text", *both], "several labels of a text need the values of each"),
        ("b", ["--text", "text", *both, "--labels", "s"], "several labels of a text need the values of each"),
        ("c", ["--from-public", tmp_path / "sample.csv", "--text", "x", *both, "--labels", "s"], "of one label column"),
        ("d", ["--from-public", tmp_path / "sample.csv", "--label", "size", "--label", "size"], "different ones"),
        ("e", ["--from-public", tmp_path / "sample.csv", *both, "--label", "hue"], "no column 'hue'"),
    ):
        code, told = run("init", tmp_path / place, *arguments)
        assert (code, words in told) == (2, True), told
        assert not (tmp_path / place).exists()
