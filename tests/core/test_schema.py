"""The schema: a public declaration that survives a round trip through TOML and refuses what it cannot mean."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pe.arrays import to_numpy, to_table, violations
from pe.errors import SchemaError
from pe.schema import Categorical, Column, Image, Numeric, Schema

words = st.text(min_size=1, max_size=8).map(str.strip).filter(bool)
whole = st.integers(-(2**53), 2**53)


@st.composite
def columns(draw: st.DrawFn, name: str) -> Column:
    kind = draw(st.sampled_from(["integer", "float", "categorical", "image"]))
    if kind == "image":
        return Image(name, draw(st.integers(1, 5)), draw(st.integers(1, 5)), draw(st.sampled_from([1, 3])))
    if kind == "categorical":
        values = tuple(draw(st.lists(words, min_size=1, max_size=4, unique=True)))
        return Categorical(name, values, draw(st.none() | st.sampled_from(values)))
    numbers = whole if kind == "integer" else st.floats(allow_nan=False, allow_infinity=False)
    low, default, high = sorted(draw(st.tuples(numbers, numbers, numbers)))
    return Numeric(name, low, high, kind == "integer", draw(st.none() | st.just(default)))


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    names = draw(st.lists(words.filter(lambda name: not name.startswith("pe.")), min_size=1, max_size=4, unique=True))
    found = tuple(draw(columns(name)) for name in names)
    labels = [column.name for column in found if isinstance(column, Categorical)] if len(found) > 1 else []
    return Schema(found, draw(st.none() | st.sampled_from(labels)) if labels else None)


@given(schemas())
def test_a_schema_survives_toml(schema: Schema) -> None:
    again = Schema.from_toml(schema.to_toml())
    assert again == schema
    assert again.fingerprint() == schema.fingerprint()


@given(schemas(), schemas())
def test_fingerprints_tell_schemas_apart(one: Schema, other: Schema) -> None:
    assert (one.fingerprint() == other.fingerprint()) == (one.to_toml() == other.to_toml())


@given(schemas())
def test_the_fallback_of_a_column_lies_in_its_domain(schema: Schema) -> None:
    for column in schema.columns:
        if isinstance(column, Numeric):
            assert column.minimum <= column.fallback <= column.maximum
            assert not column.integer or float(column.fallback).is_integer()
        elif isinstance(column, Categorical):
            assert column.values[column.fallback] == (column.default or column.values[0])


@given(schemas(), st.integers(0, 4), st.integers(0, 2**32))
def test_arrays_survive_the_table(schema: Schema, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    arrays = {}
    for column in schema.features:
        if isinstance(column, Image):
            arrays[column.name] = rng.integers(0, 256, (n, column.height, column.width, column.channels), np.uint8)
        elif isinstance(column, Categorical):
            arrays[column.name] = rng.integers(0, len(column.values), n, np.int32)
        else:
            dtype = np.int64 if column.integer else np.float64
            arrays[column.name] = np.full(n, column.fallback).astype(dtype)
    table = to_table(arrays, schema)
    assert list(violations(table, schema)) == []
    for column in schema.features:
        np.testing.assert_array_equal(to_numpy(table, column), arrays[column.name])
        np.testing.assert_array_equal(to_numpy(table.slice(n // 2), column), arrays[column.name][n // 2 :])


def test_labels_are_the_values_of_the_label_column() -> None:
    schema = Schema((Numeric("x", 0, 1), Categorical("y", ("no", "yes"))), "y")
    assert schema.labels == ("no", "yes")
    assert [column.name for column in schema.features] == ["x"]
    assert schema.with_label(None).labels == ("",)
    assert schema.arrow().names == ["x"]


@pytest.mark.parametrize(
    ("toml", "told"),
    [
        ("", "tables"),
        ("[columns", "not valid TOML"),
        ("columns = 5", "tables"),
        ("[columns]", "at least one column"),
        ("x = 1\n[columns.a]\ntype='image'\nheight=1\nwidth=1", "key 'x'"),
        ("columns.a = 5", "column 'a'.*table"),
        ("[columns.a]\ntype='date'", "column 'a'.*'date'"),
        ("[columns.a]\ntype='float'\nmin=0", "column 'a'.*'max'"),
        ("[columns.a]\ntype='float'\nmin=0\nmax=1\nstep=2", "column 'a'.*'step'"),
        ("[columns.a]\ntype='float'\nmin='0'\nmax=1", "column 'a'.*'min'"),
        ("[columns.a]\ntype='float'\nmin=true\nmax=1", "column 'a'.*'min'"),
        ("[columns.a]\ntype='float'\nmin=nan\nmax=1", "column 'a'.*finite"),
        ("[columns.a]\ntype='float'\nmin=0\nmax=inf", "column 'a'.*finite"),
        ("[columns.a]\ntype='float'\nmin=2\nmax=1", "column 'a'.*min <= max"),
        ("[columns.a]\ntype='float'\nmin=0\nmax=1\ndefault=3", "column 'a'.*default"),
        ("[columns.a]\ntype='float'\nmin=0\nmax=1\ndefault=nan", "column 'a'.*default"),
        ("[columns.a]\ntype='integer'\nmin=0.5\nmax=1", "column 'a'.*whole"),
        ("[columns.a]\ntype='integer'\nmin=0\nmax=9223372036854775807", "column 'a'.*2\\*\\*53"),
        ("[columns.a]\ntype='categorical'\nvalues=[]", "column 'a'.*at least one"),
        ("[columns.a]\ntype='categorical'\nvalues='ab'", "column 'a'.*list"),
        ("[columns.a]\ntype='categorical'\nvalues=['b', 'b']", "column 'a'.*distinct"),
        ("[columns.a]\ntype='categorical'\nvalues=['1', 1]", "column 'a'.*distinct"),
        ("[columns.a]\ntype='categorical'\nvalues=['b ']", "column 'a'.*white space"),
        ("[columns.a]\ntype='categorical'\nvalues=['b']\ndefault='c'", "column 'a'.*default"),
        ("[columns.a]\ntype='image'\nheight=0\nwidth=1", "column 'a'.*height"),
        ("[columns.a]\ntype='image'\nheight=2.5\nwidth=1", "column 'a'.*height"),
        ("[columns.a]\ntype='image'\nheight=1\nwidth=1\nchannels=4", "column 'a'.*channels"),
        ("label='b'\n[columns.a]\ntype='float'\nmin=0\nmax=1", "no column 'b'"),
        ("label=5\n[columns.a]\ntype='float'\nmin=0\nmax=1", "no column '5'"),
        ("label='a'\n[columns.a]\ntype='float'\nmin=0\nmax=1", "categorical"),
        ("label='a'\n[columns.a]\ntype='categorical'\nvalues=['b']", "beside the label"),
        ("[columns.'pe.a']\ntype='float'\nmin=0\nmax=1", "reserved prefix"),
        ("[columns.'']\ntype='float'\nmin=0\nmax=1", "reserved prefix"),
    ],
)
def test_what_a_schema_cannot_mean_is_refused_with_the_column_and_key_named(toml: str, told: str) -> None:
    with pytest.raises(SchemaError, match=told):
        Schema.from_toml(toml)


def test_a_column_declared_twice_is_refused() -> None:
    with pytest.raises(SchemaError, match="'a' is declared twice"):
        Schema((Numeric("a", 0, 1), Categorical("a", ("b",))))


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"[columns"], ids=["missing", "not UTF-8", "not TOML"])
def test_a_schema_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "schema.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SchemaError, match=r"schema\.toml.*Nothing was spent"):
        Schema.read(path)


SCHEMA = Schema((Numeric("x", 0, 1), Numeric("n", 0, 9, integer=True), Categorical("c", ("a", "b")), Image("i", 1, 2)))


def table(**changes: pa.Array) -> pa.Table:
    good = {
        "x": pa.array([0.5]),
        "n": pa.array([3]),
        "c": pa.DictionaryArray.from_arrays(pa.array([1], pa.int32()), pa.array(["a", "b"])),
        "i": pa.FixedSizeListArray.from_arrays(pa.array([1, 2], pa.uint8()), 2),
    } | changes
    fields = [pa.field(name, values.type, nullable=False) for name, values in good.items()]
    return pa.Table.from_arrays(list(good.values()), schema=pa.schema(fields))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("x", pa.array([1.0000001])),
        ("x", pa.array([-0.1])),
        ("x", pa.array([math.nan])),
        ("x", pa.array([math.inf])),
        ("x", pa.array([None], pa.float64())),
        ("x", pa.array([0.5], pa.float32())),
        ("n", pa.array([10])),
        ("n", pa.array([0.5])),
        ("c", pa.array(["a"])),
        ("c", pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), pa.array(["b", "a"]))),
        ("c", pa.DictionaryArray.from_arrays(pa.array([2], pa.int32()), pa.array(["a", "b", "c"]))),
        ("c", pa.DictionaryArray.from_arrays(pa.array([None], pa.int32()), pa.array(["a", "b"]))),
        ("i", pa.FixedSizeListArray.from_arrays(pa.array([1, 2, 3], pa.uint8()), 3)),
        ("extra", pa.array([1])),
    ],
)
def test_records_that_break_the_schema_are_told(name: str, values: pa.Array) -> None:
    assert list(violations(table(), SCHEMA)) == []
    assert len(list(violations(table(**{name: values}), SCHEMA))) == 1
