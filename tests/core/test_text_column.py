"""Free text as a column: read by one rule per irregularity, checked, stored and exported unchanged."""

import io
import json
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pe
from pe.data.arrays import to_numpy, to_table, violations
from pe.data.coerce import coerce
from pe.data.population import Population
from pe.data.read import read
from pe.errors import SchemaError
from pe.export import default_formats, export, records

SCHEMA = pe.Schema((pe.Text("text", 12), pe.Categorical("stars", ("1", "5"))), "stars")
TEXTS = ["plain", 'quoted "words", and', "two\nlines", "", "ünï cödé 𝄞"]


def population(texts: list[str], schema: pe.Schema = SCHEMA) -> Population:
    labels = np.zeros(len(texts), np.int32)
    return Population.of(to_table({"text": np.array(texts, object)}, schema), labels, "test")


def test_a_text_schema_survives_toml() -> None:
    assert pe.Schema.from_toml(SCHEMA.to_toml()) == SCHEMA
    assert SCHEMA.text == pe.Text("text", 12)
    assert pe.Schema((pe.Numeric("x", 0, 1),)).text is None


def test_every_irregularity_has_a_rule(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(b'text,stars\n"  a, b\nc ",1\n\xff\xfe,5\n,5\nfar longer than twelve,1\na,b,c\n')
    arrays = coerce(read(path, SCHEMA), SCHEMA)
    assert arrays["text"].tolist() == ["a, b\nc", "", "", "far longer t", ""]
    mixed = {"text": np.array(["aéß€𝄞", None, 3.0], object), "stars": np.array(["1", "5", "5"])}
    assert coerce(read(mixed, SCHEMA), SCHEMA)["text"].tolist() == ["aéß€𝄞", "", "3"]


def test_nested_values_are_no_text() -> None:
    table = pa.table({"text": pa.array([["a"]]), "stars": ["1"]})
    with pytest.raises(SchemaError, match="column 'text': expected text, the data hold nested values"):
        coerce(read(table, SCHEMA), SCHEMA)


@given(st.lists(st.text(max_size=20)))
def test_coerced_texts_keep_the_schema(texts: list[str]) -> None:
    raw = {"text": np.array(texts, object), "stars": np.array(["1"] * len(texts), object)}
    arrays = coerce(read(raw, SCHEMA), SCHEMA)
    table = to_table(arrays, SCHEMA)
    assert not list(violations(table, SCHEMA))
    assert to_numpy(table, SCHEMA.columns[0]).tolist() == arrays["text"].tolist()
    assert all(len(found) <= 12 and found in text for found, text in zip(arrays["text"], texts, strict=True))


def test_a_text_beyond_its_length_is_a_violation() -> None:
    assert "more than 12 characters" in next(violations(population(["x" * 13]).records, SCHEMA))


def test_populations_and_files_hold_every_text() -> None:
    made = population(TEXTS)
    back = Population.from_table(made.to_table(), SCHEMA)
    assert back.records.equals(made.records)
    assert default_formats(SCHEMA) == ["jsonl", "parquet"]
    files = export(made, SCHEMA, ["csv", "jsonl", "parquet", "hf"])
    rows = [json.loads(line) for line in files["synthetic.jsonl"].decode().splitlines()]
    assert [row["text"] for row in rows] == TEXTS
    parquet = pa.parquet.read_table(io.BytesIO(files["synthetic.parquet"]))
    assert parquet["text"].to_pylist() == TEXTS
    options = pa.csv.ParseOptions(newlines_in_values=True)
    read_back = pa.csv.read_csv(io.BytesIO(files["synthetic.csv"]), parse_options=options)
    assert read_back["text"].to_pylist() == TEXTS


def test_hugging_face_reads_texts(tmp_path: Path) -> None:
    for name, content in export(population(TEXTS), SCHEMA, ["hf"]).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    loaded = datasets.load_dataset(str(tmp_path / "hf"), split="train", cache_dir=str(tmp_path / "cache"))
    assert list(loaded["text"]) == TEXTS


def test_keys_of_a_text_release_follow_its_texts() -> None:
    schema = pe.Schema((pe.Text("text"),), keys=(pe.Key("id", "uuid4"),))
    first, again, other = (records(population(texts, schema), schema) for texts in (["a"], ["a"], ["b"]))
    assert first["id"].to_pylist() == again["id"].to_pylist() != other["id"].to_pylist()
