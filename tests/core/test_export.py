"""What a release looks like to whoever reads it: order of rows, order of categories, folders, spreadsheets, loaders."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import tomllib
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pe
from pe.card import _file_notes
from pe.data.arrays import to_table
from pe.data.coerce import coerce
from pe.data.inference import infer
from pe.data.population import Population
from pe.data.read import read
from pe.data.sample import SampleColumn
from pe.delivery import public_files, released
from pe.errors import SchemaError
from pe.export import export, records

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

STAGES = ("low", "mid", "high", "top")
ORDERED = pe.Schema(
    (
        pe.Categorical("stage", STAGES, kind="ordinal", missing=True),
        pe.Categorical("risk", STAGES[::-1], kind="ordinal"),
        pe.Categorical("town", ("b", "a")),
    ),
    "risk",
)


def population(schema: pe.Schema, labels: Sequence[int], **arrays: Any) -> Population:
    return Population.of(to_table({n: np.asarray(v) for n, v in arrays.items()}, schema), np.array(labels), "test")


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


# -- order ---------------------------------------------------------------------------------------------------------


def test_rows_are_shuffled_the_same_way_every_time() -> None:
    schema = pe.Schema((pe.Numeric("x", 0, 1000, integer=True), pe.Categorical("y", ("a", "b", "c"))), "y")
    made = population(schema, [0] * 300 + [1] * 300 + [2] * 300, x=np.arange(900))
    shares = np.array([0.5, 0.25, 0.25])
    first, again, other = (released(made, shares, 400, seed) for seed in (0, 0, 1))
    assert np.bincount(first.labels).tolist() == [200, 100, 100]
    assert sorted(first.parents.tolist()) == [*range(200), *range(300, 400), *range(600, 700)]
    assert first.records.equals(again.records)
    assert not first.records.equals(other.records)
    for start in range(0, 400, 50):
        assert np.bincount(first.labels[start : start + 50], minlength=3).min() > 0
    assert abs(np.corrcoef(np.arange(400), first.labels)[0, 1]) < 0.2


def test_ordinals_are_ordered_in_arrow_pandas_and_parquet() -> None:
    made = population(ORDERED, [0, 0, 3], stage=[2, 4, 2], town=[1, 0, 0])
    table = records(made, ORDERED)
    (stored,) = export(made, ORDERED, ["parquet"]).values()
    for found in (table, pa.parquet.read_table(io.BytesIO(stored))):
        assert [found.schema.field(name).type.ordered for name in ("stage", "risk", "town")] == [True, True, False]
    for frame in (table.to_pandas(), pd.read_parquet(io.BytesIO(stored))):
        assert frame["stage"].cat.ordered
        assert frame["stage"].cat.categories.tolist() == list(STAGES)
        assert frame["stage"].isna().tolist() == [False, True, False]
        assert frame["risk"].cat.categories.tolist() == list(STAGES[::-1])
        assert (frame["risk"].min(), frame["risk"].max()) == ("top", "low")
        assert not frame["town"].cat.ordered


INSTANTS = """
[columns.at]
type = "datetime"
min = "2024-01-01"
max = "2024-12-31"
missing = true
"""


@pytest.mark.parametrize("zone", [None, "UTC"])
def test_instants_are_released_with_the_zone_that_is_declared(zone: str | None) -> None:
    schema = pe.Schema.from_toml(INSTANTS + (f'zone = "{zone}"' if zone else ""))
    assert pe.Schema.from_toml(schema.to_toml()) == schema
    (column,) = schema.columns
    assert isinstance(column, pe.Datetime)
    made = population(schema, [0, 0], at=[column.minimum + 61.0, np.nan])
    files = export(made, schema, ["csv", "jsonl", "parquet"])
    first = "2024-01-01T00:01:01" + ("Z" if zone else "")
    assert files["synthetic.csv"].decode() == f'"at"\n"{first}"\n""\n'
    assert json.loads(files["synthetic.jsonl"].splitlines()[0]) == {"at": first}
    for frame in (records(made, schema).to_pandas(), pd.read_parquet(io.BytesIO(files["synthetic.parquet"]))):
        assert frame["at"][0] == pd.Timestamp(first)
        assert (frame["at"].dt.tz is None) == (zone is None)
    assert pd.read_csv(io.BytesIO(files["synthetic.csv"]), parse_dates=["at"])["at"].isna().tolist() == [False, True]


def test_what_is_read_does_not_depend_on_the_zone() -> None:
    texts = {"at": ["2024-03-01T12:00:00", "2024-03-01T12:00:00Z", "2024-03-01T12:00:00+02:00"]}
    plain, zoned = (pe.Schema.from_toml(INSTANTS + more) for more in ("", 'zone = "UTC"'))
    found = [coerce(read(texts, schema), schema)["at"].tolist() for schema in (plain, zoned)]
    assert found[0] == found[1]
    assert np.diff(found[0]).tolist() == [0, -7200]


@pytest.mark.parametrize(
    ("texts", "zone"),
    [
        (["2024-03-01T12:00:00Z", "2024-03-01 12:30+02:00"], "UTC"),
        (["2024-03-01T12:00:00Z", "2024-03-01T12:30:00"], None),
        (["2024-03-01T12:00:00", "2024-03-01T12:30:00"], None),
        (["2024-03-01", "2024-03-02"], None),
    ],
)
def test_a_zone_is_drafted_where_all_instants_have_one(texts: list[str], zone: str | None) -> None:
    column = infer(SampleColumn("at", pa.chunked_array([texts]))).column
    assert isinstance(column, pe.Datetime)
    assert column.zone == zone


@pytest.mark.parametrize("more", ['zone = "Europe/Berlin"', "zone = 1"])
def test_no_other_zone_is_declared(more: str) -> None:
    with pytest.raises(SchemaError, match="expected zone 'UTC'"):
        pe.Schema.from_toml(INSTANTS + more)


def test_a_missing_value_alone_in_its_line_is_a_record() -> None:
    schema = pe.Schema((pe.Numeric("x", 0, 9, missing=True),))
    content = export(population(schema, [0] * 3, x=[1.5, np.nan, 2.0]), schema, ["csv"])["synthetic.csv"]
    assert content == b'"x"\n"1.5"\n""\n"2"\n'
    assert pd.read_csv(io.BytesIO(content))["x"].tolist()[::2] == [1.5, 2.0]


# -- spreadsheets --------------------------------------------------------------------------------------------------

TEXTS = pe.Schema((pe.Text("note"),))


def cells(texts: Sequence[str]) -> list[str]:
    made = Population.of(pa.table({"note": pa.array(texts, pa.string())}), 0, "test")
    content = export(made, TEXTS, ["csv"])["synthetic.csv"].decode()
    return [row[0] for row in csv.reader(io.StringIO(content, newline=""))][1:]


@pytest.mark.parametrize(
    "text",
    ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1+1", "-", "+", "+49 170 12", "-1\n"],
)
def test_a_cell_that_a_spreadsheet_would_run_stands_behind_an_apostrophe(text: str) -> None:
    assert cells([text]) == ["'" + text]


@pytest.mark.parametrize("text", ["", "a=1", "-1", "+1", "-1.5e3", "-,5", "'=1", "2-1", " plain", "über", '"=1"'])
def test_other_texts_and_numbers_stay_as_they_are(text: str) -> None:
    assert cells([text]) == [text]


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20), min_size=1, max_size=5))
def test_no_cell_begins_like_a_formula_and_other_formats_keep_every_text(texts: list[str]) -> None:
    for cell, text in zip(cells(texts), texts, strict=True):
        assert cell == text or (cell == "'" + text and text[0] in "=+-@\t\r\n＝＋－＠")
        if cell[:1] in ("=", "+", "-", "@", "\t", "\r"):
            float(cell.replace(",", "."))
    made = Population.of(pa.table({"note": pa.array(texts, pa.string())}), 0, "test")
    files = export(made, TEXTS, ["jsonl", "parquet"])
    assert [json.loads(line)["note"] for line in files["synthetic.jsonl"].decode().split("\n")[:-1]] == texts
    assert pa.parquet.read_table(io.BytesIO(files["synthetic.parquet"]))["note"].to_pylist() == texts


def test_categories_are_texts_and_numbers_are_not() -> None:
    columns = (pe.Numeric("x", -9, 9), pe.Categorical("y", ("=A1", "-1", "ok"), missing=True))
    schema = pe.Schema(columns, keys=(pe.Key("id", "@{:02d}"),))
    made = population(schema, [0] * 4, x=[-1.5, 1.0, -0.5, 2.0], y=[0, 1, 2, 3])
    lines = export(made, schema, ["csv"])["synthetic.csv"].decode().splitlines()
    assert lines == ['"id","x","y"', '"\'@01",-1.5,"\'=A1"', '"\'@02",1,"-1"', '"\'@03",-0.5,"ok"', '"\'@04",2,']


# -- loaders -------------------------------------------------------------------------------------------------------


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()

    def load_dataset(*given: object, **keys: object) -> Any:
        return datasets.load_dataset(*map(str, given), split="train", cache_dir=str(tmp_path / "cache"), **keys)

    return load_dataset


TABLE = pe.Schema((pe.Numeric("v", 0, 999, integer=True), pe.Categorical("y", ("q", "p"))), "y")
TEXT = pe.Schema((pe.Text("v"), pe.Categorical("y", ("q", "p"))), "y")
IMAGE = pe.Schema((pe.Image("v", 2, 2), pe.Categorical("y", ("q", "p"))), "y")


def releases(schema: pe.Schema) -> list[dict[str, bytes]]:
    """Three releases of one schema that differ in their records alone."""
    values: list[Any] = [np.full(4, number) for number in (7, 500, 900)]
    if schema is TEXT:
        values = [np.array([f"text {number}"] * 4, object) for number in range(3)]
    if schema is IMAGE:
        values = [np.full((4, 2, 2, 1), number, np.uint8) for number in (7, 100, 200)]
    return [export(population(schema, [0, 1, 1, 0], v=each), schema, ["hf"]) for each in values]


@pytest.mark.parametrize("schema", [TABLE, TEXT, IMAGE], ids=["table", "text", "image"])
def test_two_releases_and_one_rewritten_in_place_load_as_themselves(
    tmp_path: Path, load: Any, schema: pe.Schema
) -> None:
    found = []
    places = [tmp_path / "first" / "release", tmp_path / "second" / "release", tmp_path / "first" / "release"]
    for place, files in zip(places, releases(schema), strict=True):
        shutil.rmtree(place, ignore_errors=True)
        write(place, files)
        loaded = load(place / "hf")
        assert loaded.features["y"].names == ["q", "p"]
        assert loaded["y"] == [0, 1, 1, 0]
        first = loaded[0]["v"]
        found.append(int(np.asarray(first)[0, 0]) if schema is IMAGE else first)
    assert len(set(found)) == 3


def test_pictures_load_with_their_labels_and_nothing_beside_them(tmp_path: Path, load: Any) -> None:
    """From the folder of pictures, and from the release as a whole; labels that say "test" are no splits."""
    labels = ("train", "test", "<=5", ">=5", "_x", "Test")
    schema = pe.Schema((pe.Image("image", 2, 2), pe.Categorical("y", labels)), "y")
    made = population(schema, [0, 1, 2, 3, 4, 5, 5], image=np.arange(7 * 4, dtype=np.uint8).reshape(7, 2, 2, 1))
    release = write(tmp_path / "run" / "release", public_files(made, schema, ["imagefolder", "parquet"]))
    folders = tomllib.loads((release / "images" / "labels.toml").read_text())
    assert list(folders.values()) == list(labels)
    for loaded in (load("imagefolder", data_dir=str(release)), load(release / "images"), load(release)):
        names = loaded.features["label"].names
        found = sorted((int(np.asarray(row["image"])[0, 0]), folders[names[row["label"]]]) for row in loaded)
        assert found == [(4 * index, labels[label]) for index, label in enumerate(made.labels)]
    raw = read(release / "images", schema)
    assert sorted(raw["y"].tolist()) == sorted(labels[label] for label in made.labels)


def test_the_contact_sheet_is_a_page_that_shows_every_label_and_loads_nothing() -> None:
    labels = ("<script>", "b", "unused")
    schema = pe.Schema((pe.Image("image", 2, 2, 3), pe.Categorical("y", labels)), "y")
    made = population(schema, [0, 1, 1], image=np.zeros((3, 2, 2, 3), np.uint8))
    files = public_files(made, schema, ["parquet"])
    assert [name for name in files if Path(name).suffix.lower() in (".png", ".jpg", ".gif", ".webp", ".pdf")] == []
    page, tags = files["contact_sheet.html"].decode(), list[tuple[str, dict[str, str | None]]]()

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            tags.append((tag, dict(attributes)))

    Parser().feed(page)
    pictures = [str(attributes["src"]) for tag, attributes in tags if tag == "img"]
    assert len(pictures) == 2
    assert all(source.startswith("data:image/png;base64,") for source in pictures)
    assert "script" not in {tag for tag, _ in tags}
    assert "&lt;script&gt;" in page
    assert os.linesep not in pictures[0]


def test_the_card_says_how_values_are_written() -> None:
    """Only what concerns the schema, and folders that are not named like their labels."""
    numbers = _file_notes(pe.Schema((pe.Numeric("x", 0, 1),)))
    assert numbers == ["Rows stand in random order, shuffled by a public seed."]
    image = pe.Schema((pe.Image("i", 2, 2), pe.Categorical("y", ("a", "<=5", "`x`"))), "y")
    (folders,) = (note for note in _file_notes(image) if "one folder per label" in note)
    assert "`%3C%3D5` for `<=5`, `%60x%60` for `'x'`" in folders
    assert "`a`" not in folders
    mixed = pe.Schema.from_toml(INSTANTS + '[columns.note]\ntype = "text"\n')
    told = " ".join(_file_notes(mixed))
    assert all(words in told for words in ("apostrophe", "empty cell", "ISO 8601"))
