"""One value has one meaning: whatever stands beside it, and in whatever form it comes."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pe.data.arrays import to_table
from pe.data.coerce import coerce, identities
from pe.data.read import read
from pe.data.schema import Categorical, Column, Datetime, Image, Numeric, Schema, Text, boolean
from pe.data.values import value_text
from pe.privacy import Adjacency
from pe.private.dataset import PrivateDataset

NUMBER = Numeric("c", -1000, 1000, missing=True)
WHOLE = Numeric("c", -1000, 1000, integer=True, missing=True)
DAY = Datetime.of("c", "2000-01-01", "2030-12-31", date=True, missing=True)
TIME = Datetime.of("c", "2000-01-01", "2030-12-31", missing=True)
COUNTED = Datetime.of("c", "2000-01-01", "2030-12-31", missing=True, epoch="ns")
TOWN = Categorical("c", ("a", "1", "2.5", "true", "2020-01-01", "0"), missing=True)
SPELT = Categorical("c", ("True", "1.0", "2.50", "a"), missing=True)
COLUMNS = [NUMBER, WHOLE, DAY, TIME, COUNTED, TOWN, SPELT, boolean("c", missing=True), Text("c", 12), Image("c", 2, 2)]
KINDS = [f"{column.kind}-{place}" for place, column in enumerate(COLUMNS)]


def outcomes(data: object, column: Column) -> list[Any]:
    """How each value comes out, as plain Python; None where it is missing."""
    schema = Schema((column,))
    found = to_table(coerce(read(data, schema), schema), schema).column(0).to_pylist()
    return [None if isinstance(value, float) and math.isnan(value) else value for value in found]


class Silent:
    """An object that fails to say what it is."""

    def __str__(self) -> str:
        raise RuntimeError

    __repr__ = __str__


ODD: list[Any] = [
    1,
    1.0,
    "1",
    " 1 ",
    b"1",
    True,
    False,
    None,
    math.nan,
    math.inf,
    -0.0,
    1e300,
    2.5,
    "2.50",
    Decimal("2.5"),
    Decimal("2.50"),
    Decimal("1E+999999"),
    Decimal("sNaN"),
    Decimal("-Infinity"),
    "x",
    "a",
    "",
    "\ud800",
    "\x00",
    b"\xff",
    bytearray(b"a"),
    2**63,
    2**80,
    -(10**5000),
    np.int8(1),
    np.uint64(2**63),
    np.float16(2.5),
    np.float32(0.1),
    np.bool_(True),
    pd.NA,
    pd.NaT,
    dt.date(2020, 1, 1),
    dt.datetime(2020, 1, 1),
    dt.datetime(2020, 1, 1, 5, tzinfo=dt.timezone(dt.timedelta(hours=5))),
    dt.datetime(1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=5))),
    np.datetime64("2020-01-01"),
    np.datetime64("NaT"),
    np.datetime64("2020-01-01T00:00:00.5", "ns"),
    np.datetime64(2**62, "D"),
    pd.Timestamp("2020-01-01", tz="Asia/Tokyo"),
    pd.Period("2020-01"),
    pd.Timedelta(5),
    np.timedelta64("NaT"),
    dt.timedelta(1),
    [1, 2, 3, 4],
    [[1, 2], [3, 4]],
    [1, [2]],
    {"a": 1},
    {"bytes": b"no picture"},
    {1, 2},
    np.arange(4),
    np.eye(2),
    (1, 2, 3, 4),
    object,
    Silent(),
    1j,
    "2020-01-01",
    "1577836800000000000",
    1_577_836_800_000_000_000,
    1.5778368e18,
    np.str_("a"),
]

values = (
    st.sampled_from(ODD) | st.integers() | st.floats() | st.text(max_size=4) | st.binary(max_size=4) | st.decimals()
)


def as_list(items: Sequence[Any]) -> object:
    return {"c": list(items)}


def as_objects(items: Sequence[Any]) -> object:
    return {"c": np.fromiter(items, object, len(items))}


def as_frame(items: Sequence[Any]) -> object:
    return pd.DataFrame({"c": pd.Series(np.fromiter(items, object, len(items)), dtype=object)})


FORMS = [as_list, as_objects, as_frame]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("column", COLUMNS, ids=KINDS)
def test_no_value_changes_how_another_is_read(column: Column, form: Callable[[Sequence[Any]], object]) -> None:
    """All odd values side by side, in both orders, come out as each of them alone."""
    alone = [outcomes(form([value]), column)[0] for value in ODD]
    assert outcomes(form(ODD), column) == alone
    assert outcomes(form(ODD[::-1]), column) == alone[::-1]
    assert outcomes(form([]), column) == []


@given(st.lists(values, max_size=6), values, st.sampled_from(FORMS), st.sampled_from(COLUMNS))
@settings(max_examples=200)
def test_one_more_record_changes_nothing_else(
    items: list[Any], more: Any, form: Callable[[Sequence[Any]], object], column: Column
) -> None:
    with_more = outcomes(form([*items, more]), column)
    assert len(with_more) == len(items) + 1
    assert with_more[:-1] == outcomes(form(items), column)


@pytest.mark.parametrize(
    "odd", ["x", None, True, b"\xff", Decimal("7.25"), 1.5, dt.date(2020, 1, 1), "\ud800"], ids=str
)
def test_one_odd_value_leaves_numbers_and_categories_as_they_were(odd: Any) -> None:
    assert outcomes({"c": [1, 2, 3, odd]}, NUMBER)[:3] == [1, 2, 3]
    labels = Categorical("c", ("1", "2"))
    for form in FORMS:
        assert outcomes(form([1.0, 2.0, 1.0, odd]), labels)[:3] == ["1", "2", "1"]
        assert outcomes(form([True, False, odd]), boolean("c"))[:2] == ["true", "false"]
        assert outcomes(form([Decimal("1"), Decimal("2.0"), odd]), labels)[:2] == ["1", "2"]


# -- the same in every format ------------------------------------------------------------------------------------------


def in_csv(items: Sequence[Any]) -> bytes:
    """As the standard library writes them: None is an empty field."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, quoting=csv.QUOTE_ALL)
    writer.writerows([["c"], *([item] for item in items)])
    return out.getvalue().encode()


def written(folder: Path, items: Sequence[Any], kind: pa.DataType | None) -> dict[str, object]:
    """The same values in every format that can hold them."""
    plain = [str(item) if isinstance(item, (Decimal, dt.date)) else item for item in items]
    (folder / "d.csv").write_bytes(in_csv(items))
    (folder / "d.jsonl").write_text("".join(json.dumps({"c": item}) + "\n" for item in plain))
    typed = pa.table({"c": pa.array(items, kind)})
    pyarrow.parquet.write_table(typed, folder / "d.parquet")
    with pa.ipc.new_file(folder / "d.arrow", typed.schema) as sink:
        sink.write_table(typed)
    coded = (
        {} if typed["c"].null_count == len(items) else {"dictionary": pa.table({"c": typed["c"].dictionary_encode()})}
    )
    return coded | {
        "csv": folder / "d.csv",
        "jsonl": folder / "d.jsonl",
        "parquet": folder / "d.parquet",
        "arrow": folder / "d.arrow",
        "table": typed,
        "list": list(items),
        "objects": np.fromiter(items, object, len(items)),
        "pandas": pd.DataFrame({"c": pd.Series(list(items), dtype=object)}),
        "pandas typed": typed.to_pandas(),
        "pandas arrow": typed.to_pandas(types_mapper=pd.ArrowDtype),
    }


def missing(some: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.none() | some, min_size=1, max_size=5)


days = st.dates(dt.date(1990, 1, 1), dt.date(2040, 1, 1))
SAME: dict[str, tuple[st.SearchStrategy[list[Any]], pa.DataType, list[Column]]] = {
    "integers": (missing(st.integers(-(2**53), 2**53)), pa.int64(), [NUMBER, WHOLE, TOWN, Text("c", 12)]),
    "epochs": (missing(st.integers(-(2**62), 2**62)), pa.int64(), [COUNTED]),
    "floats": (missing(st.floats(allow_nan=False)), pa.float64(), [NUMBER, WHOLE]),
    "decimals": (missing(st.decimals(-2000, 2000, places=3)), pa.decimal128(12, 3), [NUMBER, WHOLE]),
    "truth": (missing(st.booleans()), pa.bool_(), [boolean("c", missing=True), SPELT]),
    "text": (missing(st.text(st.characters(codec="utf-8", exclude_characters="\r\n\x00"), max_size=5)), pa.string(),
             [NUMBER, DAY, TOWN, Text("c", 3)]),
    "dates": (missing(days), pa.date32(), [DAY, TIME, TOWN]),
    "times": (missing(st.datetimes(dt.datetime(1990, 1, 1), dt.datetime(2040, 1, 1))), pa.timestamp("us"), [DAY, TIME]),
}  # fmt: skip


@pytest.mark.parametrize("kind", SAME)
def test_the_same_values_are_read_alike_in_every_format(tmp_path: Path, kind: str) -> None:
    items_of, type_, columns = SAME[kind]

    @given(items_of, st.sampled_from(columns))
    @settings(max_examples=25)
    def alike(items: list[Any], column: Column) -> None:
        found = {
            name: outcomes({"c": data} if isinstance(data, (list, np.ndarray)) else data, column)
            for name, data in written(tmp_path, items, type_).items()
            if not (name == "pandas typed" and kind in ("integers", "epochs", "truth"))  # floats and objects for nulls
        }
        for name, outcome in found.items():
            assert outcome == found["list"], name

    alike()


TYPED = [
    pa.array([1, None, 127], pa.int8()),
    pa.array([1, None, 2**63], pa.uint64()),
    pa.array([1.0, None, 0.1, 1e300, math.nan, -0.0]),
    pa.array([1.0, None, 0.1, 1e30], pa.float32()),
    pa.array([1.0, None, 0.1, math.inf], pa.float16()),
    pa.array([True, None, False]),
    pa.array([Decimal("2.50"), None, Decimal("1.00")]),
    pa.array([Decimal("2.50")], pa.decimal256(60, 4)),
    pa.array([0, None, 18262, -(2**31)], pa.int32()).view(pa.date32()),
    pa.array([0, None, 86_400_001, -1, 2**62], pa.int64()).view(pa.date64()),
    *(
        pa.array([0, None, 1_577_836_800, -1, 2**62], pa.int64()).view(pa.timestamp(unit))
        for unit in ("s", "ms", "us", "ns")
    ),
    pa.array(["a", None, " 1", "2.50"]),
    pa.array(["a", None], pa.large_string()),
    pa.array(["a", None], pa.string_view()),
    pa.array([b"a", None, b"\xff", b"1"]),
    pa.array([b"a", b"\xff"], pa.large_binary()),
    pa.array([b"\xff", b"a", None]).view(pa.string()),
    pa.nulls(2),
]


def scalars(values: pa.Array) -> list[Any]:
    """The values of a typed column as numpy or Python objects of the same type, without loss."""
    kind = values.type
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        unit = {pa.date32(): "D", pa.date64(): "ms"}.get(kind) or kind.unit
        counts = values.view(pa.int32() if pa.types.is_date32(kind) else pa.int64()).to_pylist()
        moments = [None if count is None else np.datetime64(count, unit) for count in counts]
        to_days = pa.types.is_date64(kind)
        return [None if each is None else each.astype("datetime64[D]") if to_days else each for each in moments]
    if pa.types.is_string(kind):
        return values.view(pa.binary()).to_pylist()
    if pa.types.is_floating(kind):
        width = {"halffloat": np.float16, "float": np.float32, "double": np.float64}[str(kind)]
        return [None if value is None else width(value) for value in values.to_pylist()]
    return values.to_pylist()


@pytest.mark.parametrize("typed", TYPED, ids=lambda typed: str(typed.type))
def test_columns_read_at_once_give_what_the_rule_gives(typed: pa.Array) -> None:
    for column in COLUMNS:
        is_date = pa.types.is_date(typed.type) or pa.types.is_timestamp(typed.type)
        numeric = isinstance(column, Numeric) and not isinstance(column, Datetime)
        unfit = (numeric and is_date) or isinstance(column, Image)
        unfit |= isinstance(column, Datetime) and str(typed.type).startswith(("bool", "int", "uint", "decimal"))
        if not unfit:
            expected = outcomes({"c": scalars(typed)}, column)
            assert outcomes(pa.table({"c": typed}), column) == expected
            backwards = pa.chunked_array([typed[:1], typed[1:]])
            assert outcomes(pa.table({"c": backwards}), column) == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"), (2.0**53, "9007199254740992.0"), (0.1, "0.1"), (np.float32(0.1), "0.1"), (Decimal("2.50"), "2.5"),
        (Decimal("1E+3"), "1000"), (True, "true"), (b"\xc3\xa9", "é"), (dt.date(2020, 2, 3), "2020-02-03"),
        (dt.datetime(2020, 2, 3, 4, 5, 6, 500_000), "2020-02-03 04:05:06.5"), ([1, None], "[1,null]"),
        (math.nan, None), (pd.NaT, None), (pd.NA, None), ("\ud800", None), (Silent(), None), (None, None),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_the_text_of_a_value(value: object, text: str | None) -> None:
    assert value_text(value) == text


def test_of_several_spellings_the_declared_one_counts() -> None:
    typed = pa.table({"c": [True, False]})
    assert outcomes(typed, Categorical("c", ("False", "True"))) == ["True", "False"]
    assert outcomes({"c": np.array([1.0, 2.0])}, Categorical("c", ("2.0", "1.0"))) == ["1.0", "2.0"]
    assert outcomes({"c": [Decimal("2.50"), Decimal("2.5")]}, Categorical("c", ("2.5", "9"))) == ["2.5", "2.5"]
    assert outcomes({"c": ["1.0"]}, Categorical("c", ("9", "1"))) == ["9"]  # a text is spelt as it is


def test_masked_and_categorical_columns_are_read_value_by_value() -> None:
    masked = np.ma.array([1, 2, 3], mask=[False, True, False])
    assert outcomes({"c": masked}, NUMBER) == [1, None, 3]
    mixed = pd.DataFrame({"c": pd.Categorical([1, "x", 2.0, None])})
    assert outcomes(mixed, NUMBER) == [1, None, 2, None]
    assert outcomes(pd.DataFrame({"c": pd.array([1, None, 3], "Int64")}), NUMBER) == [1, None, 3]
    assert outcomes(pd.DataFrame({"c": pd.Series(["1", "\ud800"], dtype="string[python]")}), NUMBER) == [1, None]


# -- users -------------------------------------------------------------------------------------------------------------


def test_an_id_means_the_same_user_in_every_type() -> None:
    same = [[1], [1.0], ["1"], [" 1 "], [b"1"], [Decimal("1.00")], np.array([1], np.int8), np.array([1.0], np.float32)]
    found = [identities(np.fromiter(ids, object) if isinstance(ids, list) else ids, "who") for ids in same]
    found.append(identities(pa.chunked_array([pa.array(["1"]).dictionary_encode()]), "who"))
    assert len({owner.tobytes() for owner in found}) == 1


@pytest.mark.parametrize("ids", [[None, "", math.nan, "\ud800", " "], [None] * 5], ids=["mixed", "none"])
def test_a_record_without_an_id_is_a_user_of_its_own(ids: list[Any]) -> None:
    data = {"c": [1, 2, 3, 4, 5, 6, 7], "who": [*ids, "u", "u"]}
    private = PrivateDataset.read(data, Schema((NUMBER,)), adjacency=Adjacency.ADD_REMOVE, user="who")
    users = private.users.tolist()
    assert len(set(users)) == 6
    assert users[5] == users[6]
    again = PrivateDataset.read(data, Schema((NUMBER,)), adjacency=Adjacency.ADD_REMOVE, user="who")
    assert again.content_digest() == private.content_digest()
    coded = pa.table({"c": [1, 2, 3], "who": pa.array([None, "u", "u"]).dictionary_encode()})
    private = PrivateDataset.read(coded, Schema((NUMBER,)), adjacency=Adjacency.ADD_REMOVE, user="who")
    assert len(set(private.users.tolist())) == 2
