"""The schema: a public declaration that survives a round trip through TOML and refuses what it cannot mean."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pe.data.arrays import to_numpy, to_table, violations
from pe.data.schema import Categorical, Column, Datetime, Image, Key, Numeric, Schema, boolean
from pe.errors import SchemaError

words = st.text(min_size=1, max_size=8).map(str.strip).filter(bool)
whole = st.integers(-(2**53), 2**53)
days = st.integers(-719_162, 2_932_896)
reals = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def columns(draw: st.DrawFn, name: str) -> Column:
    kind = draw(st.sampled_from(["integer", "float", "log", "date", "categorical", "ordinal", "boolean", "image"]))
    missing = draw(st.booleans())
    if kind == "image":
        return Image(name, draw(st.integers(1, 5)), draw(st.integers(1, 5)), draw(st.sampled_from([1, 3])))
    if kind == "boolean":
        return boolean(name, draw(st.none() | st.booleans()), missing)
    if kind in ("categorical", "ordinal"):
        values = tuple(draw(st.lists(words, min_size=1, max_size=4, unique=True)))
        return Categorical(name, values, draw(st.none() | st.sampled_from(values)), kind, missing)
    numbers = {"integer": whole, "date": days, "log": st.floats(1e-300, 1e300)}.get(kind, reals)
    low, default, high = sorted(draw(st.tuples(numbers, numbers, numbers)))
    preset = None if missing else draw(st.none() | st.just(default))
    if kind == "date":
        daily = draw(st.booleans())
        step = draw(st.sampled_from([1, 60, 86_400]))
        if not daily:
            low, high, preset = low * 86_400 // step, high * 86_400 // step, preset and preset * 86_400 // step
        return Datetime(
            name,
            low,
            high,
            default=preset,
            missing=missing,
            resolution=step,
            date=daily,
            epoch=draw(st.sampled_from([None, "ms"])),
        )
    return Numeric(name, low, high, kind == "integer", preset, kind == "log", missing)


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    names = draw(st.lists(words.filter(lambda name: not name.startswith("pe.")), min_size=1, max_size=4, unique=True))
    found = tuple(draw(columns(name)) for name in names)
    labels = [each.name for each in found if isinstance(each, Categorical) and not each.missing] * (len(found) > 1)
    keys = (Key("the key", draw(st.sampled_from(["integer", "uuid4", "P-{:06d}"]))),) * draw(st.booleans())
    label = draw(st.none() | st.sampled_from(labels)) if labels else None
    return Schema(found, label, keys, ("the notes",) * draw(st.booleans()))


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
            arrays[column.name] = rng.integers(0, column.states, n, np.int32)
        else:
            dtype = np.int64 if column.integer and not column.missing else np.float64
            arrays[column.name] = np.full(n, column.fallback).astype(dtype)
            if column.missing:
                arrays[column.name][rng.random(n) < 0.5] = np.nan
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
        ("[columns.a]\ntype='time'", "column 'a'.*'time'"),
        ("[columns.a]\ntype='text'\nmax_length=0", "column 'a'.*max_length in"),
        ("[columns.a]\ntype='text'\nmissing=true", "column 'a'.*unknown key 'missing'"),
        (
            "[columns.a]\ntype='float'\nminimum=0\nmax=1",
            "column 'a': missing key 'min', unknown key 'minimum'; type float takes min, max, scale, ",
        ),
        ("[columns.a]\ntype='integer'\nbounds='buy'\nwithin=[0, 1]", "column 'a'.*bought"),
        ("[columns.a]\ntype='float'\nmin=0\nmax=1\nscale='log'", "column 'a'.*min > 0"),
        ("[columns.a]\ntype='float'\nmin=1\nmax=2\nscale='cubic'", "column 'a'.*'linear' or 'log'"),
        ("[columns.a]\ntype='float'\nmin=0\nmax=1\ndefault=0\nmissing=true", "column 'a'.*not both"),
        ("[columns.a]\ntype='float'\nmin=0\nmax=1\nmissing=1", "column 'a'.*true or false for 'missing'"),
        ("[columns.a]\ntype='date'\nmin='2020-01-01'", "column 'a'.*'max'"),
        ("[columns.a]\ntype='date'\nmin='2020-02-30'\nmax='2021-01-01'", "column 'a'.*ISO date for 'min'"),
        ("[columns.a]\ntype='date'\nmin=5\nmax='2021-01-01'", "column 'a'.*ISO date for 'min'"),
        ("[columns.a]\ntype='date'\nmin='2022-01-01'\nmax='2021-01-01'", "column 'a'.*min <= max"),
        ("[columns.a]\ntype='date'\nmin='2020-01-01'\nmax='2021-01-01'\nepoch='h'", "column 'a'.*epoch"),
        ("[columns.a]\ntype='datetime'\nmin='2020-01-01'\nmax='2021-01-01'\nresolution=0", "column 'a'.*resolution"),
        ("[columns.a]\ntype='datetime'\nmin='2020-01-01'\nmax='2021-01-01'\nresolution='week'", "column 'a'.*resolut"),
        ("[columns.a]\ntype='boolean'\ndefault='maybe'", "column 'a'.*true or false for 'default'"),
        ("[columns.a]\ntype='boolean'\nvalues=['y', 'n']", "column 'a'.*'values'"),
        ("[columns.a]\ntype='key'\nformat='P-{}-{}'", "column 'a'.*pattern"),
        ("[columns.a]\ntype='key'\nformat='P'", "column 'a'.*pattern"),
        ("[columns.a]\ntype='key'\nformat='{0.__class__}'", "column 'a'.*pattern"),
        ("[columns.a]\ntype='key'\nstart=-1", "column 'a'.*start"),
        ("[columns.a]\ntype='key'", "at least one column"),
        ("ignore=['a']\n[columns.a]\ntype='float'\nmin=0\nmax=1", "'a' is declared, and listed in ignore"),
        ("ignore='a'\n[columns.b]\ntype='float'\nmin=0\nmax=1", "'ignore'"),
        ("label='a'\n[columns.a]\ntype='boolean'\nmissing=true\n[columns.b]\ntype='boolean'", "cannot be missing"),
        ("[columns.a]\ntype='float'\nmin=0", "column 'a'.*'max'"),
        ("[columns.a]\ntype='float'\nmin=0\nmax=1\nstep=2", "column 'a'.*'max' to be a multiple of step 2"),
        ("[columns.a]\ntype='float'\nmin=0\nmax=1\nstep=0", "column 'a'.*step > 0"),
        ("[columns.a]\ntype='float'\nmin=0\nmax=1\nstep='x'", "column 'a'.*number for 'step'"),
        ("[columns.a]\ntype='float'\nmin=0\nmax=1e9\nstep=1e-8", "column 'a'.*2\\*\\*53 steps"),
        ("[columns.a]\ntype='integer'\nmin=0\nmax=1\nstep=1", "column 'a'.*unknown key 'step'"),
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
        ("label=5\n[columns.a]\ntype='float'\nmin=0\nmax=1", "a list of different ones, got 5"),
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


SCHEMA = Schema(
    (
        Numeric("x", 0, 1),
        Numeric("n", 0, 9, integer=True),
        Categorical("c", ("a", "b")),
        Image("i", 1, 2),
        Numeric("m", 0, 1, missing=True),
    )
)


def table(**changes: pa.Array) -> pa.Table:
    good = {
        "x": pa.array([0.5]),
        "n": pa.array([3]),
        "c": pa.DictionaryArray.from_arrays(pa.array([1], pa.int32()), pa.array(["a", "b"])),
        "i": pa.FixedSizeListArray.from_arrays(pa.array([1, 2], pa.uint8()), 2),
        "m": pa.array([None], pa.float64()),
    } | changes
    fields = [pa.field(name, values.type, nullable=name == "m") for name, values in good.items()]
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
        ("m", pa.array([math.nan])),
        ("m", pa.array([2.0])),
        ("i", pa.FixedSizeListArray.from_arrays(pa.array([1, 2, 3], pa.uint8()), 3)),
        ("extra", pa.array([1])),
    ],
)
def test_records_that_break_the_schema_are_told(name: str, values: pa.Array) -> None:
    assert list(violations(table(), SCHEMA)) == []
    assert len(list(violations(table(**{name: values}), SCHEMA))) == 1


def test_bounds_between_two_steps_of_a_resolution_go_inwards() -> None:
    found = Datetime.of("t", "2020-01-01T00:30", "2020-01-02T00:30", resolution=3600)
    assert found.domain() == "2020-01-01T01:00:00 to 2020-01-02T00:00:00"
    assert Datetime.of("t", "2020-01-01T12:00", "2020-03-01", date=True).domain() == "2020-01-02 to 2020-03-01"


def test_toml_dates_are_read_like_their_text() -> None:
    text = "[columns.a]\ntype='datetime'\nmin={}\nmax={}\nresolution='minute'"
    one = Schema.from_toml(text.format("2020-01-01", "2020-01-01T12:00:00+02:00"))
    assert one == Schema.from_toml(text.format("'2020-01-01'", "'2020-01-01 10:00'"))


@pytest.mark.parametrize("form", ["integer", "P-{:03d}", "{}", "uuid4"])
def test_keys_are_unique(form: str) -> None:
    made = Key("id", form).make(2000, np.random.default_rng(0)).to_pylist()
    assert len(set(made)) == 2000
    assert made == Key("id", form).make(2000, np.random.default_rng(0)).to_pylist()
    assert {"integer": 1, "P-{:03d}": "P-001", "{}": "1"}.get(form, made[0]) == made[0]


def test_keys_are_random_unless_a_format_or_a_start_is_named() -> None:
    text = "[columns.a]\ntype='integer'\nmin=0\nmax=9\n[columns.id]\ntype='key'\n"
    made = [Schema.from_toml(text + more).keys[0] for more in ("", "start=7", "format='integer'")]
    assert [key.format for key in made] == ["uuid4", "integer", "integer"]
    first, second = (Key("id").make(1000, np.random.default_rng(seed)).to_pylist() for seed in (0, 1))
    assert not set(first) & set(second)
    assert "repeat no private one" in made[0].domain()
    assert "numbered from 7" in made[1].domain()


def test_the_readmes_schema_is_one() -> None:
    text = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    declared = Schema.from_toml(text.split("```toml\n")[1].split("```")[0])
    assert [column.kind for column in (*declared.keys, *declared.columns)] == [
        "key",
        "integer",
        "float",
        "ordinal",
        "date",
        "date",
    ]
