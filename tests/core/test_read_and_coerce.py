"""Reading: one rule per value, the same for every format, and none that a single record can break.

Rules are stated in ``pe.data.read`` and ``pe.data.coerce``; ``number`` and ``category`` restate them in plain Python.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pe.data.dialect import CsvOptions
from pe.data.schema import Categorical, Image, Numeric, Schema
from pe.errors import PrivateDataError, SchemaError
from pe.privacy import Adjacency
from pe.private.dataset import PrivateDataset

X, N = Numeric("x", -10, 10, default=1.5), Numeric("n", 0, 100, integer=True)
C = Categorical("c", ("a", "1", "élan", "two words"), default="1")
SCHEMA = Schema((X, N, C))


def read(data: object, schema: Schema = SCHEMA, adjacency: str = "add-remove", **options: Any) -> PrivateDataset:
    return PrivateDataset.read(data, schema, adjacency=Adjacency(adjacency), **options)


def records(data: object, schema: Schema = SCHEMA, **options: Any) -> dict[str, list[Any]]:
    return read(data, schema, **options)._records.to_pydict()


def column(values: Any, of: Numeric | Categorical | Image = X) -> list[Any]:
    """How values of one column come out."""
    return records({of.name: values}, Schema((of,)))[of.name]


def file(tmp_path: Path, content: str | bytes, name: str = "data.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# -- the rules -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5", 5.0),
        ("+5", 5.0),
        (" 7 ", 7.0),
        ("\t7\u00a0", 7.0),
        ("-3.25", -3.25),
        (".5", 0.5),
        ("5.", 5.0),
        ("1e0", 1.0),
        ("+2.5E-1", 0.25),
        ("11", 10.0),
        ("-1e9", -10.0),
        ("1e99999", 10.0),
        ("9" * 400, 10.0),
        ("1e-99999", 0.0),
        ("inf", 10.0),
        ("+Infinity", 10.0),
        ("-INF", -10.0),
        ("nan", 1.5),
        ("", 1.5),
        ("seven", 1.5),
        ("1,5", 1.5),
        ("1_0", 1.5),
        ("0x1", 1.5),
        ("1 2", 1.5),
        ("--1", 1.5),
        ("٣", 1.5),
        ("1e999999", 1.5),
        ("5\x005", 1.5),
    ],
)
def test_text_is_read_as_a_number(text: str, expected: float) -> None:
    assert column(np.array([text])) == [expected]
    assert column(np.array([text.encode()], object)) == [expected]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([np.nan, np.inf, -np.inf, 11.0, -0.5]), [1.5, 10, -10, 10, -0.5]),
        (np.array([np.nan, np.inf, 3], np.float16), [1.5, 10, 3]),
        (np.array([2**63, 5], np.uint64), [10, 5]),
        (np.array([-128, 5], np.int8), [-10, 5]),
        (np.array([7, -7], ">i4"), [7, -7]),
        (np.array([True, False]), [1, 0]),
        ([None, 2.5], [1.5, 2.5]),
        ([2**70, -(2**70)], [10, -10]),
        ([None, None], [1.5, 1.5]),
        ([Decimal("2.5"), Decimal(99)], [2.5, 10]),
    ],
    ids=["float64", "float16", "uint64", "int8", "big endian", "bool", "None", "huge", "all missing", "decimal"],
)
def test_numbers_of_any_type_are_clipped_and_missing_ones_become_the_default(
    values: Any, expected: list[float]
) -> None:
    assert column(values) == expected


def test_without_a_default_a_missing_number_becomes_the_middle_of_the_domain() -> None:
    assert column([None, 4.0], Numeric("x", -10, 20)) == [5.0, 4.0]
    assert column([None, 4.0], Numeric("x", 0, 5, integer=True)) == [2, 4]


def test_integers_are_rounded_after_clipping() -> None:
    values = np.array([0.4, 0.6, 99.7, 100.4, -7, np.nan])
    assert column(values, N) == [0, 1, 100, 100, 0, 50]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["a", " a", "\ta\u00a0\n", "A", "", "b", None], ["a", "a", "a", "1", "1", "1", "1"]),
        (["élan", "two words", "two  words"], ["élan", "two words", "1"]),
        (np.array([1, 2]), ["1", "1"]),
        (np.array([1.0, np.nan, np.inf, 1.5]), ["1"] * 4),
        (np.array([True]), ["1"]),
        (np.array([b"a", b"\xff", "élan".encode()], object), ["a", "1", "élan"]),
    ],
    ids=["white space", "unicode", "integers", "floats", "bool", "bytes"],
)
def test_categories_are_trimmed_and_undeclared_ones_become_the_default(values: Any, expected: list[str]) -> None:
    assert column(values, C) == expected


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64, np.uint8])
def test_the_number_1_is_the_category_1(dtype: type) -> None:
    digits = Categorical("c", ("0", "1", "-2"))
    assert column(np.array([1, 0], dtype), digits) == ["1", "0"]
    assert column(np.array([-0.0, -2.0, 1.0]), digits) == ["0", "-2", "1"]
    assert column(["1.0"], digits) == ["0"]  # as text it is another category


def test_without_a_default_an_undeclared_category_becomes_the_first() -> None:
    assert column(["z"], Categorical("c", ("a", "b"))) == ["a"]


def number(text: str, of: Numeric) -> float:
    text = text.strip()
    if re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,5})?|[+-]?(?i:inf|infinity)", text):
        value = min(max(float(text), of.minimum), of.maximum)
    else:
        value = of.fallback
    return round(value) if of.integer else value


def category(text: str, of: Categorical) -> str:
    return text.strip() if text.strip() in of.values else of.values[of.fallback]


cells = (
    st.text(max_size=6)
    | st.from_regex(r"\A\s?[+-]?[0-9]{0,4}\.?[0-9]{0,3}([eE][+-]?[0-9]{1,6})?\s?\Z")
    | st.sampled_from([" a", "élan", "1", "two words\n", "inf", '"', ",", "\r\n", "\ufeff", "\x00", "NA", "null"])
)


@given(st.lists(st.tuples(cells, cells, cells), max_size=8))
@settings(max_examples=100)
def test_any_text_in_a_csv_comes_out_by_the_rules(tmp_path: Path, rows: list[tuple[str, str, str]]) -> None:
    with (tmp_path / "any.csv").open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, quoting=csv.QUOTE_ALL)
        writer.writerows([("x", "n", "c"), *rows])
    assert records(tmp_path / "any.csv", options=CsvOptions(multiline=True)) == {
        "x": [number(x, X) for x, _, _ in rows],
        "n": [number(n, N) for _, n, _ in rows],
        "c": [category(c, C) for _, _, c in rows],
    }


# -- formats -------------------------------------------------------------------------------------------------------

ROWS = [("1.25", "7", "a"), ("-3", "100", "élan"), ("0.5", "12", "two words"), ("10", "0", "zebra")]


def as_csv(tmp_path: Path) -> object:
    return file(tmp_path, "x,n,c\n" + "".join(",".join(row) + "\n" for row in ROWS))


def as_tsv(tmp_path: Path) -> object:
    return file(
        tmp_path, b"\xef\xbb\xbf" + "\r\n".join("\t".join(r) for r in [("x", "n", "c"), *ROWS]).encode(), "d.tsv"
    )


def as_table(_: Path) -> pa.Table:
    x, n, c = zip(*ROWS, strict=True)
    return pa.table(
        {"n": [int(each) for each in n], "extra": [0] * len(ROWS), "c": c, "x": [float(each) for each in x]}
    )


def as_chunks(tmp_path: Path) -> object:
    table = as_table(tmp_path)
    return pa.concat_tables([table.slice(0, 1), table.slice(1, 0), table.slice(1)])


def as_text_table(_: Path) -> object:
    types = [pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
    columns = zip(("x", "n", "c"), zip(*ROWS, strict=True), types, strict=True)
    return pa.table({name: pa.array(values, type_) for name, values, type_ in columns})


def as_parquet(tmp_path: Path) -> object:
    pa.parquet.write_table(as_table(tmp_path), tmp_path / "d.parquet")
    return str(tmp_path / "d.parquet")


def as_feather(tmp_path: Path) -> object:
    pa.feather.write_feather(as_table(tmp_path), tmp_path / "d.arrow", compression="uncompressed")
    return tmp_path / "d.arrow"


def as_pandas(tmp_path: Path) -> object:
    return as_table(tmp_path).to_pandas().set_index("extra")


def as_mixed_pandas(_: Path) -> object:
    frame = pd.DataFrame(ROWS, columns=["x", "n", "c"], dtype=object)
    frame.loc[0, "x"], frame.loc[1, "n"] = 1.25, 100.0
    return frame.assign(c=frame["c"].astype("category"))


def as_mapping(tmp_path: Path) -> object:
    return {name: values.to_numpy() for name, values in as_table(tmp_path).to_pandas().items()}


def as_npz(tmp_path: Path) -> object:
    x, n, c = zip(*ROWS, strict=True)
    np.savez(tmp_path / "d.npz", x=np.array(x, float), n=np.array(n, int), c=np.array(c), other=np.zeros((2, 2)))
    return tmp_path / "d.npz"


FORMATS = [
    as_csv, as_tsv, as_table, as_chunks, as_text_table, as_parquet, as_feather, as_pandas, as_mixed_pandas, as_mapping,
    as_npz,
]  # fmt: skip


@pytest.mark.parametrize("build", FORMATS, ids=lambda build: build.__name__)
def test_every_format_gives_the_same_records_and_digest(tmp_path: Path, build: Callable[[Path], object]) -> None:
    data = read(build(tmp_path))
    assert data._records.to_pydict() == {
        "x": [1.25, -3, 0.5, 10],
        "n": [7, 100, 12, 0],
        "c": ["a", "élan", "two words", "1"],
    }
    assert data.content_digest() == read(as_csv(tmp_path)).content_digest()


@pytest.mark.parametrize("build", FORMATS, ids=lambda build: build.__name__)
def test_declared_columns_can_have_other_names_in_the_data(tmp_path: Path, build: Callable[[Path], object]) -> None:
    schema = Schema((Numeric("price", -10, 10),))
    assert records(build(tmp_path), schema, columns={"price": "x"}) == {"price": [1.25, -3, 0.5, 10]}


def test_a_format_can_be_named(tmp_path: Path) -> None:
    path = Path(as_csv(tmp_path)).rename(tmp_path / "data.txt")  # type: ignore[arg-type]
    assert records(path, format="csv")["n"] == [7, 100, 12, 0]


def test_a_malformed_csv_line_is_a_record_of_missing_values(tmp_path: Path) -> None:
    data = records(file(tmp_path, "x,n,c\n1,2,a\n1,2\n\n1,2,a,b\n3,4,a\n"))
    assert sorted(zip(*data.values(), strict=True)) == [(1.0, 2, "a"), (1.5, 50, "1"), (1.5, 50, "1"), (3.0, 4, "a")]


def test_bytes_that_are_not_utf8_are_missing_values(tmp_path: Path) -> None:
    data = records(file(tmp_path, b"x,n,c\n\xff,1,a\n2,2,\xc3\n3,3,\xc3\xa9lan\n"))
    assert data == {"x": [1.5, 2, 3], "n": [1, 2, 3], "c": ["a", "1", "élan"]}


def test_one_long_csv_record_hinders_no_other(tmp_path: Path) -> None:
    data = records(file(tmp_path, "x,n,c,essay\n1,1,a," + "z" * 3_000_000 + "\n2,2,a,short\n"))
    assert data["x"] == [1, 2]


@pytest.mark.parametrize("content", ["x,n,c", "x,n,c\n", "x,n,c\r\n\r\n", '"x", n ,c\n'])
def test_a_csv_of_a_header_alone_holds_no_records(tmp_path: Path, content: str) -> None:
    """Under add/remove the number of records is private; under replace-one it is public, and none is refused."""
    assert records(file(tmp_path, content)) == {"x": [], "n": [], "c": []}
    with pytest.raises(PrivateDataError, match=r"no records.*Nothing was spent"):
        read(file(tmp_path, content), adjacency="replace-one")


@pytest.mark.parametrize("build", [as_table, as_pandas], ids=lambda build: build.__name__)
def test_tables_may_be_empty(tmp_path: Path, build: Callable[[Path], Any]) -> None:
    assert records(build(tmp_path)[:0]) == {"x": [], "n": [], "c": []}


@pytest.mark.parametrize(
    ("content", "name", "told"),
    [
        (b"", "d.csv", "is empty"),
        (b"", "d.parquet", "is empty"),
        (b"x,n,c\n", "d.xlsx", "unknown format.*CSV"),
        (b"x,n,c\n", "d", "unknown format"),
        (b"PAR1 nonsense", "d.parquet", "failed with"),
        (b"nonsense", "d.arrow", "failed with"),
        (b"PK nonsense", "d.npz", "failed with"),
        (None, "d.csv", "does not exist"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, name: str, told: str) -> None:
    if content is not None:
        file(tmp_path, content, name)
    with pytest.raises(PrivateDataError, match=f"(?s){told}.*Nothing was spent"):
        read(tmp_path / name)


@pytest.mark.parametrize(
    "data",
    [
        "x,n\n1,2\n",
        "x,n,C\n1,2,a\n",
        pa.table({"x": [1], "n": [2]}),
        pd.DataFrame({"x": [1], "n": [2]}),
        {"x": [1], "n": [2]},
    ],
    ids=["csv", "other case", "table", "frame", "mapping"],
)
def test_a_missing_column_is_named(tmp_path: Path, data: object) -> None:
    with pytest.raises(SchemaError, match=r"no column 'c'.*Nothing was spent"):
        read(file(tmp_path, data) if isinstance(data, str) else data)


@pytest.mark.parametrize("double", ["c", "z"])
def test_only_a_declared_column_must_not_occur_twice(tmp_path: Path, double: str) -> None:
    csv_file = file(tmp_path, f"x,n,c,z,{double}\n1,2,a,4,5\n")
    frame = pd.DataFrame([[1, 2, "a", 4, 5]], columns=["x", "n", "c", "z", double])
    table = pa.Table.from_arrays([pa.array([v]) for v in (1, 2, "a", 4, 5)], names=["x", "n", "c", "z", double])
    for data in (csv_file, frame, table):
        if double == "z":
            assert records(data) == {"x": [1.0], "n": [2], "c": ["a"]}
        else:
            with pytest.raises(SchemaError, match=r"'c' occurs twice.*Nothing was spent"):
                read(data)


def test_a_mapping_to_an_undeclared_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"'price'.*Nothing was spent"):
        read(as_csv(tmp_path), columns={"price": "x"})


@pytest.mark.parametrize("data", [7, None, [1, 2], (1,)])
def test_data_of_another_kind_are_refused(data: object) -> None:
    with pytest.raises(PrivateDataError, match=r"expected a path.*Nothing was spent"):
        read(data)


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(PrivateDataError, match=r"differ in length.*Nothing was spent"):
        read({"x": [1, 2], "n": [1], "c": ["a"]})


@pytest.mark.parametrize(
    ("of", "values"),
    [
        (X, pa.array([0], pa.timestamp("us"))),
        (X, pa.array([[1.0]])),
        (C, pa.array([["a"]])),
        (C, pa.array([{"a": 1}])),
        (X, np.zeros((2, 2))),
        (C, np.zeros((2, 2))),
        (Image("i", 2, 2), np.zeros((3, 2, 3), np.uint8)),
        (Image("i", 2, 2), np.zeros((3, 5), np.uint8)),
        (Image("i", 2, 2), np.array(["a", "b"])),
        (Image("i", 2, 2), pa.array(["a"])),
        (Image("i", 2, 2), pa.array([[1, 2, 3]], pa.list_(pa.uint8(), 3))),
        (Image("i", 2, 2), pa.array([["a"] * 4])),
    ],
    ids=str,
)
def test_a_column_whose_type_cannot_fit_is_refused(of: Numeric | Categorical | Image, values: Any) -> None:
    data = pa.table({of.name: values}) if isinstance(values, pa.Array) else {of.name: values}
    with pytest.raises(SchemaError, match=f"column '{of.name}'"):
        read(data, Schema((of,)))


# -- pandas --------------------------------------------------------------------------------------------------------

ODD = [1, 1.0, "1", " 1 ", b"1", True, None, float("nan"), pd.NA, pd.NaT, "\ud800", 2**80, -(2**80), [1], {"a": 1},
       np.array([1, 2]), object(), b"\xff", math.inf, Decimal(1), np.int8(1), np.float32(1), "seven"]  # fmt: skip


@given(st.lists(st.sampled_from(range(len(ODD))), min_size=1, max_size=6))
@settings(max_examples=60)
def test_no_object_in_a_pandas_column_of_mixed_types_hinders_the_others(places: list[int]) -> None:
    """A text puts the column among the mixed ones; each other value then comes out as it would beside any other."""
    series = pd.Series([ODD[place] for place in places] + ["4", object()], dtype=object)
    alone = [pd.Series([ODD[place], "4", object()], dtype=object) for place in places]
    for of in (X, N, Categorical("c", ("0", "1", "4"))):
        schema = Schema((of,))
        together = records(pd.DataFrame({of.name: series}), schema)[of.name]
        assert together[:-1] == [
            *(records(pd.DataFrame({of.name: each}), schema)[of.name][0] for each in alone),
            "4" if of.name == "c" else 4,
        ]


def test_mixed_types_are_read_by_their_text() -> None:
    ones = Categorical("c", ("0", "1"))
    frame = pd.DataFrame({"c": pd.Series([1, 1.0, "1", " 1 ", b"1", None, pd.NA, "x"], dtype=object)})
    assert records(frame, Schema((ones,)))["c"] == ["1"] * 5 + ["0"] * 3
    frame = pd.DataFrame({"x": pd.Series([1, "2", 2.5, None, pd.NA, b"+3", "inf", "x"], dtype=object)})
    assert records(frame, Schema((X,)))["x"] == [1, 2, 2.5, 1.5, 1.5, 3, 10, 1.5]


# -- silence -------------------------------------------------------------------------------------------------------

CANARY = "".join(("can", "ary", "-", "4711"))  # put together, so that no quoted source line holds it


def headerless(tmp_path: Path) -> object:
    return file(tmp_path, f"{CANARY},5\n{CANARY},6\n")


def headerless_twice(tmp_path: Path) -> object:
    return file(tmp_path, f"{CANARY},{CANARY},5\n1,2,3\n")


def headerless_frame(tmp_path: Path) -> object:
    return pd.DataFrame({CANARY: [1], "n": [2]})


def nested_keys(tmp_path: Path) -> object:
    return pa.table({"x": pa.array([{CANARY: 1}]), "n": [1], "c": pa.array([{CANARY: 2}])})


def nested_keys_of_one_column(tmp_path: Path) -> object:
    return pa.table({"x": [1.0], "n": [1], "c": pa.array([{CANARY: 2}])})


def text_for_numbers_in_npz(tmp_path: Path) -> object:
    np.savez(tmp_path / "d.npz", x=np.array([CANARY]), n=np.array([[CANARY]]), c=np.array([CANARY]))
    return tmp_path / "d.npz"


def objects_in_npz(tmp_path: Path) -> object:
    np.savez(tmp_path / "d.npz", x=np.array([CANARY, 1], object), n=np.zeros(2), c=np.zeros(2))
    return tmp_path / "d.npz"


def text_in_parquet(tmp_path: Path) -> object:
    return file(tmp_path, CANARY, "d.parquet")


def text_in_arrow(tmp_path: Path) -> object:
    return file(tmp_path, CANARY, "d.arrow")


def cut_parquet(tmp_path: Path) -> object:
    table = pa.table({"x": [CANARY] * 100, "n": [1] * 100, "c": [CANARY] * 100})
    pa.parquet.write_table(table, tmp_path / "d.parquet", compression=None)
    content = bytearray((tmp_path / "d.parquet").read_bytes())
    content[4:60] = bytes(56)
    return file(tmp_path, bytes(content), "d.parquet")


def wrong_lengths(tmp_path: Path) -> object:
    return {"x": [CANARY], "n": [1, 2], "c": ["a"]}


def unprintable(tmp_path: Path) -> object:
    class Loud:
        def __str__(self) -> str:
            raise ValueError(CANARY)

        __array__ = __str__

    return {"x": Loud(), "n": [1], "c": ["a"]}


BROKEN = [
    headerless, headerless_twice, headerless_frame, nested_keys, nested_keys_of_one_column, text_for_numbers_in_npz,
    objects_in_npz, text_in_parquet, text_in_arrow, cut_parquet, wrong_lengths, unprintable,
]  # fmt: skip


@pytest.mark.parametrize("build", BROKEN, ids=lambda build: build.__name__)
def test_no_error_quotes_the_private_data(
    tmp_path: Path,
    build: Callable[[Path], object],
    everything_about: Callable[[BaseException], str],
    capfd: pytest.CaptureFixture[str],
) -> None:
    data = build(tmp_path)
    with pytest.raises((PrivateDataError, SchemaError)) as caught:
        read(data)
    assert CANARY not in everything_about(caught.value)
    assert capfd.readouterr() == ("", "")


def test_broken_lines_are_read_without_a_word(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = records(file(tmp_path, f'x,n,c\n{CANARY},1,a\n{CANARY}\n1,2,3,{CANARY}\n1,"{CANARY}\n'))
    assert CANARY not in str(data)
    assert capfd.readouterr() == ("", "")
