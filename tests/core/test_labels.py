"""Labels of one column and of several: codes, names, and what cannot be a label."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pe.config import Config
from pe.data.labels import label_arrays, label_codes
from pe.data.schema import Categorical, Numeric, Schema, boolean
from pe.errors import ConfigError, SchemaError
from pe.synthesis import text_schema

X = Numeric("x", 0, 1)
values = st.lists(st.text('/ "\\ab', max_size=5).map(str.strip), min_size=1, max_size=4, unique=True)


@st.composite
def labelled(draw: st.DrawFn) -> Schema:
    """Columns in any order, some of which are the label, in any order."""
    columns = [Categorical(f"c{number}", tuple(draw(values))) for number in range(draw(st.integers(0, 3)))]
    label = draw(st.permutations([column.name for column in columns]))[: draw(st.integers(0, 3))]
    return Schema(tuple(draw(st.permutations([X, *columns]))), label or None)


@given(labelled(), st.data())
def test_labels_and_the_codes_of_their_columns_are_one_to_one(schema: Schema, data: st.DataObject) -> None:
    shape = [len(schema.categorical(name).values) for name in schema.label_columns]
    labels = np.array(data.draw(st.lists(st.integers(0, prod(shape) - 1), max_size=20)), np.int32)
    codes = label_arrays(labels, schema)
    assert list(codes) == list(schema.label_columns)
    assert all((code >= 0).all() and (code < size).all() for code, size in zip(codes.values(), shape, strict=True))
    again = label_codes({"x": np.zeros(len(labels)), **codes}, schema)
    assert again.dtype == np.int32
    assert np.array_equal(again, labels)


@given(labelled())
def test_every_combination_of_values_has_a_name_of_its_own_in_row_major_order(schema: Schema) -> None:
    every = np.arange(len(schema.labels), dtype=np.int32)
    codes = list(label_arrays(every, schema).values())
    assert len(set(schema.labels)) == len(every)
    assert codes == [] or (np.lexsort(codes[::-1]) == every).all()
    values = [schema.categorical(name).values for name in schema.label_columns]
    for number, name in enumerate(schema.labels):
        parts = [own[code[number]] for own, code in zip(values, codes, strict=True)]
        plain = len(parts) < 2 or not any(letter in part for part in parts for letter in '/"')
        assert (name == " / ".join(parts)) or not plain


@given(labelled())
def test_a_schema_with_any_label_survives_toml(schema: Schema) -> None:
    assert Schema.from_toml(schema.to_toml()) == schema
    assert hash(Schema.from_toml(schema.to_toml())) == hash(schema)


A, B = Categorical("a", ("u", "v w")), Categorical("b", ("1", "2", "3"))


def test_names_are_for_reading() -> None:
    schema = Schema((A, X, B), ["b", "a"])
    assert schema.label_name == "b / a"
    assert schema.labels == ("1 / u", "1 / v w", "2 / u", "2 / v w", "3 / u", "3 / v w")
    assert schema.features == (X,)
    odd = Schema((Categorical("a", ("x", "x / y")), Categorical("b", ("y / z", "n/a")), X), ("a", "b"))
    assert odd.labels == ('x / "y / z"', "x / n/a", '"x / y" / "y / z"', '"x / y" / n/a')
    assert Schema((A, X)).label_name == ""


def test_a_list_of_one_column_is_that_column() -> None:
    one, listed = Schema((A, X), "a"), Schema((A, X), ["a"])
    assert listed == one
    assert listed.to_toml() == one.to_toml()
    assert one.to_toml().startswith('label = "a"\n')
    assert Schema.from_toml(one.to_toml().replace('"a"', '["a"]', 1)) == one
    assert one.labels == A.values


BAD: dict[str, tuple[Any, str]] = {
    "twice": (["a", "a"], "list of different ones, got .'a', 'a'"),
    "unknown": (["a", "nonsense"], "the schema has no column 'nonsense'"),
    "numeric": (["a", "x"], "label 'x' must be a categorical column"),
    "missing": (["a", "m"], "label 'm' cannot be missing"),
    "empty": ([], "list of different ones, got"),
    "no names": ([1, 2], "list of different ones, got"),
    "a number": (3, "list of different ones, got 3"),
    "many": (["a", "wide", "wider"], "200000 combinations of values, expected at most 10000"),
}


@pytest.mark.parametrize(("label", "text"), BAD.values(), ids=BAD)
def test_what_is_no_label_is_one_sentence(label: Any, text: str) -> None:
    wide = [Categorical(name, tuple(map(str, range(size)))) for name, size in (("wide", 100), ("wider", 1000))]
    columns = (A, B, X, Categorical("m", ("y", "n"), missing=True), *wide)
    with pytest.raises(SchemaError, match=f"{text}.*Nothing was spent"):
        Schema(columns, label)
    with pytest.raises(SchemaError, match=f"{text}.*Nothing was spent"):
        Schema(columns).with_label(label)


def test_something_must_be_left_beside_the_label() -> None:
    with pytest.raises(SchemaError, match="at least one column beside the label"):
        Schema((A, B), ["a", "b"])
    wide = Categorical("wide", tuple(map(str, range(20_000))))
    assert len(Schema((wide, X), "wide").labels) == 20_000  # declared value by value


def test_no_constraint_holds_a_column_of_the_label() -> None:
    text = Schema((A, B, X, boolean("c")), ["a", "b"]).to_toml()
    text += '[[constraints]]\nkind = "determines"\ncolumn = "c"\ntarget = "b"\nmap = { true = "1" }\n'
    with pytest.raises(SchemaError, match="the label 'b' conditions generation"):
        Schema.from_toml(text)


def settings(label: object) -> dict[str, Any]:
    return {
        "private": {"source": "s", "label": label},
        "privacy": {"epsilon": 1.0, "delta": 1e-6, "adjacency": "add-remove"},
        "api": "tabular",
        "output": {"run": "run"},
    }


def test_a_configuration_keeps_one_column_as_a_name_and_several_as_a_list() -> None:
    assert Config.of(settings(["a"])).resolved() == Config.of(settings("a")).resolved()
    several = Config.of(settings(["b", "a"]))
    assert several.resolved()["private"]["label"] == ["b", "a"]
    assert Config.of(several.resolved()) == several
    for wrong in ([], ["a", "a"], ["a", 1], 3):
        with pytest.raises(ConfigError, match=r"private\.label.*list of different ones.*Nothing was spent"):
            Config.of(settings(wrong))


def test_a_text_with_several_labels_needs_the_values_of_each() -> None:
    kinds = {"b": ["1", "2"], "a": ["u"]}
    schema = text_schema("text", ["a", "b"], kinds)
    assert [column.name for column in schema.columns] == ["text", "a", "b"]
    assert schema.labels == ("u / 1", "u / 2")
    assert text_schema("text", ["a"], {"a": ["u"]}) == text_schema("text", "a", ["u"])
    for label, labels, text in (
        (["a", "b"], ["1", "2"], r"labels as \{column: values\} of a, b, got"),
        (["a", "b"], {"a": ["u"]}, r"labels as \{column: values\} of a, b, got"),
        (["a"], kinds, r"labels as \{column: values\} of a, got"),
        (["a", "b"], None, "are public and must be declared"),
        (None, kinds, "name it with label"),
        ([], kinds, "list of different ones"),
        (["a", "text"], {"a": ["u"], "text": ["v"]}, "column 'text' is declared twice"),
        (["a", "b"], {"a": [], "b": ["1"]}, "column 'a': expected at least one value"),
    ):
        with pytest.raises(SchemaError, match=f"{text}.*Nothing was spent") as told:
            text_schema("text", label, labels)
        assert str(told.value).count("Nothing was spent") == 1
