"""Texts from end to end: named by arguments, by a drafted configuration, with labels declared or bought, and users."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import pe
from pe.cli import main
from pe.config import Config
from pe.errors import ConfigError, PEError, SchemaError

BUDGET: dict[str, Any] = {"epsilon": 4.0, "delta": 1e-5, "adjacency": "add-remove", "create": True}
SMALL: dict[str, Any] = {"rows": 12, "iterations": 2, "variations": 1}
OPINIONS = {"1": ("slow", "cold", "rude", "bad"), "5": ("quick", "warm", "kind", "good")}


def reviews(n: int, seed: int) -> list[tuple[str, str]]:
    """Texts with their stars."""
    draw = random.Random(seed)
    found = []
    for _ in range(n):
        stars = draw.choice("15")
        first, second = draw.choices(OPINIONS[stars], k=2)
        found.append((f"The food was {first}. The people were {second}, and the bill was {draw.randint(1, 9)}.", stars))
    return found


def write_csv(path: Path, rows: list[tuple[str, ...]], names: tuple[str, ...] = ("text", "stars")) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    """An n-gram API on public texts of the same kind."""
    path = tmp_path / "public.jsonl"
    lines = [json.dumps({"text": text}) for text, _ in reviews(60, seed=7)]
    path.write_text("\n".join(lines))
    return f"ngram:{path}"


def test_texts_without_a_schema_file(tmp_path: Path, corpus: str) -> None:
    data = write_csv(tmp_path / "reviews.csv", reviews(200, seed=0))
    how = {"text": "text", "label": "stars", "labels": ["1", "5"], "api": corpus, "run": tmp_path / "run"}
    made = pe.synthesize(data, **how, **SMALL, **BUDGET)
    assert len(made) == 12
    table = made.to_arrow()
    assert table.column_names == ["text", "stars"]
    texts = table["text"].to_pylist()
    assert all(texts)
    assert set(made.to_numpy("stars")) <= {"1", "5"}
    release = tmp_path / "run" / "release"
    assert sorted(path.name for path in release.iterdir()) == [
        "CARD.md", "certificate.json", "schema.toml", "synthetic.jsonl", "synthetic.parquet",
    ]  # fmt: skip
    rows = [json.loads(line) for line in (release / "synthetic.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == texts
    card = (release / "CARD.md").read_text()
    assert "| text | text | text of at most 20000 characters |" in card
    assert any(f"`{text}`" in card for text in texts)
    assert "sentence-sentence-transformers/all-MiniLM-L6-v2" in card
    assert "the corpus of an n-gram model, public.jsonl" in str(made.certificate["declared_public"])
    again = pe.synthesize(data, **how, **SMALL, **BUDGET)
    assert again.to_arrow().equals(table)
    assert again.certificate["spent"] == made.certificate["spent"]


def test_per_user_and_with_a_class_of_ones_own(tmp_path: Path) -> None:
    rows = [(text, stars, f"u{number % 40}") for number, (text, stars) in enumerate(reviews(120, seed=1))]
    data = write_csv(tmp_path / "reviews.csv", rows, ("text", "stars", "who"))
    made = pe.synthesize(
        data, text="text", api="tests_own_text_api:Parrot", user="who", run=tmp_path / "run", **SMALL, **BUDGET
    )
    assert made.certificate["claim"]["unit"] == "user"
    assert set(made.to_numpy("text")) <= set(Parrot.PHRASES)


class Parrot:
    """The smallest API of texts."""

    name = "parrot"
    PHRASES = ("The food was cold.", "The people were kind.", "A dog ran.")

    def __init__(self, schema: pe.Schema) -> None:
        self.schema = schema

    def random(self, n: int, label: int, rng: np.random.Generator) -> pe.Population:
        table = pa.table([pa.array(rng.choice(self.PHRASES, n).tolist())], schema=self.schema.arrow())
        return pe.Population.of(table, label, self.name)

    def vary(self, parents: pe.Population, degree: float, rng: np.random.Generator) -> pe.Population:
        return parents


@pytest.fixture(autouse=True)
def _own_api(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    module = types.ModuleType("tests_own_text_api")
    module.Parrot = Parrot  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tests_own_text_api", module)


def test_labels_that_are_bought(tmp_path: Path, corpus: str) -> None:
    data = write_csv(tmp_path / "reviews.csv", reviews(400, seed=2))
    wanted = {
        "columns": {
            "text": {"type": "text"},
            "stars": {"type": "categorical", "values": "buy", "candidates": ["1", "2", "3", "4", "5"]},
        }
    }
    half = BUDGET | {"epsilon": 2.0}
    bought = pe.buy_schema(data, wanted, source="reviews", **half)
    assert {"1", "5"} <= set(bought.schema.with_label("stars").labels)
    pe.Ledger().grant("reviews", epsilon=6.0, delta=1e-5)
    made = pe.synthesize(data, schema=bought.schema, label="stars", api=corpus, run=tmp_path / "run", **SMALL, **half)
    assert any("bought" in note for note in made.certificate["declared_public"])
    assert len(made) == 12


# -- irregular texts and labels --------------------------------------------------------------------------------------

ODD = 'five "stars",\nor so'


def test_every_irregular_text_and_label_has_its_rule(tmp_path: Path, corpus: str) -> None:
    """Empty, a megabyte, undecodable, NUL; and labels with quotes and line breaks, in every format."""
    rows = [("", "1"), ("word " * 200_000, ODD), ("\x01\ttabs\r\n", "1"), ("ZEBRA " * 3, "unknown label")]
    data = write_csv(tmp_path / "reviews.csv", rows + [(text, ODD) for text, _ in reviews(40, seed=3)])
    with data.open("ab") as file:
        file.write(b"\xff\xfe\x80 caf\xe9,1\n")
    formats = ["csv", "jsonl", "parquet", "hf"]
    made = pe.synthesize(
        data, text="text", label="stars", labels=["1", ODD], api=corpus, formats=formats, run=tmp_path / "run",
        rows=12, iterations=1,
        label_shares="uniform", **BUDGET,
    )  # fmt: skip
    stars = made.to_numpy("stars").tolist()
    assert set(stars) == {"1", ODD}
    release = tmp_path / "run" / "release"
    assert [json.loads(line)["stars"] for line in (release / "synthetic.jsonl").read_text().splitlines()] == stars
    with (release / "synthetic.csv").open(newline="") as file:
        assert [row["stars"] for row in csv.DictReader(file)] == stars
    assert pe.Schema.read(release / "schema.toml").with_label("stars").labels == ("1", ODD)


def test_what_is_missing_or_contradicts_itself_is_one_clear_error(tmp_path: Path, corpus: str) -> None:
    data = write_csv(tmp_path / "reviews.csv", reviews(5, seed=4))
    good: dict[str, Any] = {"text": "text", "api": corpus, "run": tmp_path / "run", **BUDGET}
    cases: list[tuple[dict[str, Any], type[PEError], str]] = [
        ({"text": "review"}, SchemaError, "'review'"),
        ({"label": "sterne", "labels": ["1"]}, SchemaError, "'sterne'"),
        ({"label": "stars"}, SchemaError, r"labels=\[...\]; or bought, with pe.buy_schema"),
        ({"labels": ["1"]}, SchemaError, "name it with label="),
        ({"label": "stars", "labels": []}, SchemaError, "stars"),
        ({"schema": pe.Schema((pe.Text("text"),))}, ConfigError, "not both"),
        ({"text": None}, ConfigError, "expected a schema, or text="),
        ({"api": None}, ConfigError, "texts need an API"),
        ({"api": "ngram:"}, ConfigError, "'ngram:' is followed by its corpus"),
        ({"api": f"ngram:{data}"}, ConfigError, "the private data themselves"),
        ({"api": "ngram:nowhere.jsonl"}, ConfigError, "does not exist"),
        ({"api": "tabular"}, SchemaError, "text"),
        ({"api": "no.such.module:Class"}, ConfigError, "cannot be imported"),
        ({"embedder": "tabular"}, SchemaError, "reads no text"),
        ({"embedder": "sentence:https://example.org"}, ConfigError, "leave it for no embedder"),
        ({"embedder": f"sentence:{tmp_path / 'none'}"}, ConfigError, "cannot be loaded"),
        ({"method": "cross-tables"}, ConfigError, "makes tables, not texts"),
    ]
    for number, (change, kind, words) in enumerate(cases):
        with pytest.raises(kind, match=words) as caught:
            pe.synthesize(data, **good | {"source": f"s{number}", "run": tmp_path / f"run{number}"} | change)
        assert "Nothing was spent" in str(caught.value), change


def test_kind_and_value_are_told_apart_in_one_place() -> None:
    base = {
        "private": {"source": "s"},
        "privacy": {"epsilon": 1, "delta": 1e-6, "adjacency": "add-remove"},
        "output": {"run": "r"},
    }
    for given, kind, rest in (
        ("openai:gpt-4o-mini", "openai", {"model": "gpt-4o-mini"}),
        ("openai:org/model:free", "openai", {"model": "org/model:free"}),
        ("transformers:./folder", "transformers", {"model": "./folder"}),
        ({"kind": "ngram:a.jsonl", "order": 3}, "ngram", {"corpus": "a.jsonl", "order": 3}),
        ("mypackage.mod:Class", "mypackage.mod:Class", {}),
    ):
        (found,) = Config.of(base | {"api": given}).api
        assert (found.kind, found.model_extra) == (kind, rest)
    with pytest.raises(ConfigError, match="'ngram:' is followed by its corpus, once"):
        Config.of(base | {"api": {"kind": "ngram:a", "corpus": "b"}})
    embedder = Config.of(base | {"api": "tabular", "embedder": "sentence:folder"}).embedder
    assert embedder is not None
    assert (embedder.kind, embedder.model_extra) == ("sentence", {"model": "folder"})


# -- the command -----------------------------------------------------------------------------------------------------


def test_the_command_drafts_plans_makes_and_exports_texts(
    tmp_path: Path, corpus: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: object) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        told = capsys.readouterr()
        assert ended.value.code == 0, told.err
        return told.out

    write_csv(tmp_path / "reviews.csv", reviews(150, seed=5))
    public = [(f"{text}\nReally.", stars, "x") for text, stars in reviews(30, seed=6)]
    sample = write_csv(tmp_path / "sample.csv", public, ("text", "stars", "note"))
    run("init", tmp_path, "--from-public", sample, "--text", "text", "--label", "stars", "--data", "reviews.csv")
    schema = pe.Schema.read(tmp_path / "schema.toml")
    assert schema.text == pe.Text("text")
    assert schema.ignore == ("note",)
    assert schema.with_label("stars").labels == ("1", "5")
    config = tmp_path / "pe.toml"
    drafted = config.read_text()
    config.write_text(drafted.replace("# rows = 1000", "rows = 10 #").replace("# iterations = 10", "iterations = 2 #"))
    planned = json.loads(run("plan", config, "--records", "150", "--json"))
    assert [each["iteration"] for each in planned["iterations"]] == [1, 2]
    assert run("plan", config).count("ngram") <= 1
    facts = json.loads(run("synthesize", config, "--create", "--json"))
    assert facts["rows"] == 10
    run("export", facts["run"], "--format", "csv", "--format", "hf", "--to", tmp_path / "out")
    assert (tmp_path / "out" / "hf" / "README.md").exists()
    run("budget", "verify", facts["certificate"])
    run("init", tmp_path / "more", "--text", "body", "--label", "tone", "--labels", "up", "--labels", "down")
    assert pe.Schema.read(tmp_path / "more" / "schema.toml").with_label("tone").labels == ("up", "down")
    assert "all-MiniLM-L6-v2" in run("doctor")
