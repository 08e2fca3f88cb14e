"""CSV and TSV: a line is a record, and what it holds changes no other record, wherever blocks end."""

from __future__ import annotations

import csv
import gzip
import io
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pe
import pe.data.delimited
import pe.data.dialect
import pe.data.lines
import pe.data.records
from pe.buy import buy_schema
from pe.data import jsonl
from pe.data.constraints import Determines
from pe.data.delimited import TextTable, private_columns, read_text_columns
from pe.data.dialect import CsvOptions
from pe.data.read import read
from pe.data.records import Counts, split_fields
from pe.data.schema import Categorical, Schema, Text
from pe.errors import ConfigError, PrivateDataError, SchemaError
from pe.privacy import Adjacency
from pe.private.dataset import PrivateDataset

WIDTH, LIMIT, MOST_LINES, MOST_BYTES = 3, 9, 4, 24
SCHEMA = Schema((Text("t", LIMIT), Categorical("a", ("x",)), Categorical("b", ("x",))))
NAMES = {"t": "t", "a": "a", "b": "b"}

Rows = list[list[bytes | None]]

pieces = st.sampled_from(
    [b'"', b'""', b",", b"\t", b"\n", b"\r\n", b"\r", b"a", b'"a"', b"bc", b"\xc3\xa9", b"\xef\xbb\xbf"]
)
contents = st.lists(pieces | st.binary(max_size=3), max_size=30).map(b"".join)
one_line = contents.map(lambda data: data.replace(b"\n", b""))
blocks = st.integers(1, 40)


def limit_bytes(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    for module in (pe.data.lines, pe.data.records, pe.data.dialect, pe.data.delimited):
        monkeypatch.setattr(module, "MAX_LINE_BYTES", most)


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (pe.data.dialect, pe.data.records):
        monkeypatch.setattr(module, "MAX_RECORD_LINES", MOST_LINES)
    limit_bytes(monkeypatch, MOST_BYTES)
    monkeypatch.setattr(pe.data.delimited, "MAX_FIELD_CHARACTERS", 5)


def parsed(data: bytes, kind: str = "csv", *, multiline: bool = False, block: int = 2**20) -> Rows:
    """Records after a header, as they come out of blocks of so many bytes."""
    header = b"\t".join([b"t", b"a", b"b"]) if kind == "tsv" else b"t,a,b"
    options = CsvOptions(multiline=multiline)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pe.data.lines, "BLOCK_BYTES", block)
        found = list(private_columns(io.BytesIO(header + b"\n" + data), "data", kind, NAMES, SCHEMA, options))
    columns = [[value for batch in found for value in batch[name].to_pylist()] for name in NAMES]
    return [list(row) for row in zip(*columns, strict=True)]


# -- against the definition -----------------------------------------------------------------------------------------


def fields_of(record: bytes, delimiter: bytes) -> list[bytes]:
    """Fields of a record, byte by byte."""
    fields, rest = [], record
    while True:
        quoted = re.match(rb'"((?:[^"]|"")*)"(?!")', rest, re.DOTALL)
        text, rest = (quoted[1].replace(b'""', b'"'), rest[quoted.end() :]) if quoted else (b"", rest)
        tail, parted, rest = rest.partition(delimiter)
        fields.append(text + tail)
        if not parted:
            return fields


def is_escaped(record: bytes, delimiter: bytes) -> bool:
    field = rb'(?:"(?:[^"]|"")*"|[^"\n%s]*)' % delimiter
    return re.fullmatch(rb"%s(?:%s%s)*" % (field, delimiter, field), record) is not None


def records_of(data: bytes, kind: str, *, multiline: bool) -> Rows:
    """The definition: line after line, without blocks."""
    delimiter = b"\t" if kind == "tsv" else b","
    lines = [line.removesuffix(b"\r") for line in data.split(b"\n")]
    records: Rows = []
    while lines:
        record, spans = lines[0], 1
        for count in range(2, min(MOST_LINES, len(lines)) + 1) if multiline and record.count(b'"') % 2 else ():
            longer = b"\n".join(lines[:count])
            if longer.count(b'"') % 2 == 0:
                fields = fields_of(longer, delimiter)
                fits = is_escaped(longer, delimiter) and len(fields) == WIDTH and len(longer) <= MOST_BYTES
                for field, limit in zip(fields, (LIMIT, 5, 5), strict=False):
                    characters = sum(byte & 0xC0 != 0x80 for byte in field)
                    fits = fits and (b"\n" not in field or characters <= limit)
                if fits:
                    record, spans = longer, count
                break
        del lines[:spans]
        if record:
            fields = fields_of(record, delimiter)
            fits = len(fields) == WIDTH and len(record) <= MOST_BYTES
            records.append(list(fields) if fits else [None] * WIDTH)
    return records


FORMS = [("csv", False), ("csv", True), ("tsv", False)]
forms = pytest.mark.parametrize(("kind", "multiline"), FORMS, ids=["csv", "multiline csv", "tsv"])


@forms
@given(data=contents, block=blocks)
@settings(max_examples=400)
def test_any_bytes_are_read_as_defined_wherever_blocks_end(kind: str, multiline: bool, data: bytes, block: int) -> None:
    expected = records_of(data, kind, multiline=multiline)
    assert parsed(data, kind, multiline=multiline) == expected
    assert parsed(data, kind, multiline=multiline, block=block) == expected


@given(one_line)
def test_fields_are_those_of_the_csv_module_where_every_quote_is_closed(line: bytes) -> None:
    fields, open_quote = split_fields(line, b",")
    assert fields == fields_of(line, b",")
    if not open_quote:
        text = line.decode("latin-1").replace("\r", "r")  # which the module takes for the end of a line
        expected = next(csv.reader([text]), [""]) or [""]
        assert [field.replace(b"\r", b"r") for field in fields] == [each.encode("latin-1") for each in expected]


# -- a record is its own --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "tsv"])
@given(before=contents, line=one_line, after=contents, block=blocks)
@settings(max_examples=300)
def test_one_more_line_is_one_more_record_and_changes_no_other(
    kind: str, before: bytes, line: bytes, after: bytes, block: int
) -> None:
    before = before + b"\n"
    first, added, last = (parsed(each, kind) for each in (before, line + b"\n", after))
    assert len(added) == (line not in (b"", b"\r"))
    assert parsed(before + after, kind, block=block) == first + last
    assert parsed(before + line + b"\n" + after, kind, block=block) == first + added + last


def escaped(record: tuple[bytes, bytes, bytes]) -> bytes:
    return b",".join(b'"' + field.replace(b'"', b'""') + b'"' for field in record) + b"\n"


short = st.lists(st.sampled_from([b'"', b",", b"\n", b"a", b"\r", b"\xc3\xa9"]), max_size=3).map(b"".join)
record = st.tuples(short, short, short)


@given(before=st.lists(record, max_size=4), added=record, after=st.lists(record, max_size=4), block=blocks)
@settings(max_examples=300)
def test_one_more_escaped_record_changes_no_other_where_fields_hold_line_breaks(
    monkeypatch: pytest.MonkeyPatch, before: list[Any], added: Any, after: list[Any], block: int
) -> None:
    monkeypatch.setattr(pe.data.dialect, "MAX_RECORD_LINES", 99)
    monkeypatch.setattr(pe.data.records, "MAX_RECORD_LINES", 99)
    limit_bytes(monkeypatch, 99)
    records = [*before, added, *after]
    found = parsed(b"".join(map(escaped, records)), multiline=True, block=block)
    assert found == [[field.replace(b"\r\n", b"\n") for field in each] for each in records]


@given(before=contents, line=one_line, after=contents)
@settings(max_examples=300)
def test_one_more_line_of_json_changes_no_other_record(before: bytes, line: bytes, after: bytes) -> None:
    def objects(data: bytes) -> list[Any]:
        return list(jsonl.objects(io.BytesIO(data)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonl, "LONGEST_LINE", 12)
        before, line = before + b"\n", line + b"\n"
        assert objects(before + line + after) == objects(before) + objects(line) + objects(after)


def test_a_stray_quote_costs_its_own_record_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [b"%d,x,y\n" % number for number in range(2000)]
    for kind, parting, multiline in (("csv", b",", False), ("csv", b",", True), ("tsv", b"\t", False)):
        for stray in (b'5,1,"x', b'"5,1,x', b'5,"1,x'):
            lines = [row.replace(b",", parting) for row in rows]
            lines.insert(700, stray.replace(b",", parting) + b"\n")
            found = parsed(b"".join(lines), kind, multiline=multiline, block=512)
            assert len(found) == 2001
            assert found[700] == stray.split(b",")
            del found[700]
            assert found == [row.rstrip().split(b",") for row in rows]


def test_a_long_field_is_a_record_of_missing_values(monkeypatch: pytest.MonkeyPatch) -> None:
    for multiline in (False, True):
        for size in (MOST_BYTES - 4, MOST_BYTES - 3, 50 * MOST_BYTES):
            for end in (b"\n", b"\r\n"):
                found = parsed(b"1,2,3\n" + b"z" * size + b",x,y" + end + b"4,5,6\n", multiline=multiline, block=16)
                assert found[::2] == [[b"1", b"2", b"3"], [b"4", b"5", b"6"]]
                assert found[1] == ([b"z" * size, b"x", b"y"] if size == MOST_BYTES - 4 else [None] * 3)


def test_lines_that_no_record_may_take_in_are_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quoted field over lines ends at its own line where it is longer than declared, or runs over too many lines."""
    limit_bytes(monkeypatch, 1000)
    fits = b'"' + b"\xc3\xa9" * 4 + b"\n" + b"b" * 4 + b'",x,y\n'
    assert parsed(fits, multiline=True) == [[fits[1:-6], b"x", b"y"]]
    too_long = b'"' + b"a" * 5 + b"\n" + b"b" * 4 + b'",x,y\n1,2,3\n'
    assert parsed(too_long, multiline=True) == [[None] * 3, [b'bbbb"', b"x", b"y"], [b"1", b"2", b"3"]]
    too_many = b'"' + b"\n" * MOST_LINES + b'",x,y\n1,2,3\n'
    assert parsed(too_many, multiline=True)[-1] == [b"1", b"2", b"3"]
    assert len(parsed(too_many, multiline=True)) == 3
    undeclared = b'1,"' + b"a" * 5 + b'\n",y\n'
    assert parsed(undeclared, multiline=True) == [[None] * 3, [None] * 3]


# -- header, delimiter, encoding ------------------------------------------------------------------------------------


def read_file(tmp_path: Path, content: bytes, name: str = "d.csv", **options: Any) -> TextTable:
    path = tmp_path / name
    path.write_bytes(content)
    return read_text_columns(path, options=CsvOptions(**options))


def listed(table: TextTable) -> list[list[str | None]]:
    return [column.to_pylist() for column in table.columns]


TEXT = "näme;b\nä;1,5\nß;2\n"


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (TEXT.encode(), {}),
        (TEXT.encode("utf-8-sig"), {}),
        (TEXT.encode("utf-8-sig"), {"encoding": "utf-8"}),
        (TEXT.encode("utf-16"), {}),
        (TEXT.encode("utf-16"), {"encoding": "utf-16"}),
        (b"\xfe\xff" + TEXT.encode("utf-16-be"), {}),
        (TEXT.encode("utf-16-le"), {"encoding": "utf-16-le"}),
        (TEXT.encode("latin-1"), {"encoding": "latin-1"}),
        (TEXT.encode("cp1252"), {"encoding": "cp1252"}),
        (TEXT.replace(";", "\t").encode(), {}),
        (TEXT.replace(";", "|").replace("\n", "\r\n").encode(), {}),
        (TEXT.replace(";", "~").encode(), {"delimiter": "~"}),
        (gzip.compress(TEXT.encode(), mtime=0), {}),
        (b"\n\n" + TEXT.encode(), {}),
    ],
)
def test_files_are_read_whatever_their_delimiter_encoding_and_compression(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, options: dict[str, Any]
) -> None:
    for block in (1, 3, 2**20):
        monkeypatch.setattr(pe.data.lines, "BLOCK_BYTES", block)
        table = read_file(tmp_path, content, "d.csv.gz" if content[:2] == b"\x1f\x8b" else "d.csv", **options)
        assert table.names == ("näme", "b")
        assert listed(table) == [["ä", "ß"], ["1,5", "2"]]
        assert table.counts == Counts(records=2)


@given(units=st.lists(st.integers(0, 2**16 - 1), max_size=6), block=blocks)
def test_a_line_of_any_utf_16_is_one_record(units: list[int], block: int) -> None:
    line = b"".join(unit.to_bytes(2, "little") for unit in units if unit not in (10, 13, 34, 44))
    data = "t,a,b\n1,2,3\n".encode("utf-16") + line + ",x,y\n4,5,6\n".encode("utf-16-le")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pe.data.lines, "BLOCK_BYTES", block)
        found = list(private_columns(io.BytesIO(data), "data", "csv", NAMES, SCHEMA, CsvOptions()))
    columns = [[value for batch in found for value in batch[name].to_pylist()] for name in NAMES]
    assert columns[1:] == [[b"2", b"x", b"5"], [b"3", b"y", b"6"]]


def test_bytes_that_do_not_decode_are_missing_values(tmp_path: Path) -> None:
    assert listed(read_file(tmp_path, b"a,b\n\xff,1\n2,\xc3\xa9\n")) == [[None, "2"], ["1", "é"]]
    assert listed(read_file(tmp_path, b"a,b\n\x81,1\n2,\xe9\n", encoding="cp1252")) == [[None, "2"], ["1", "é"]]
    lone = "a,b\n".encode("utf-16") + b"\x00\xd8" + ",1\n".encode("utf-16-le")
    assert listed(read_file(tmp_path, lone)) == [[None], ["1"]]


@pytest.mark.parametrize(
    ("header", "names", "rows"),
    [
        (b'"x\n(mm)",y', ("x\n(mm)", "y"), 2),
        (b'"x\n(mm)";y', ("x\n(mm)", "y"), 2),
        (b'"a, b";c', ("a, b", "c"), 2),
        (b'"x ""1""\n,",y', ('x "1"\n,', "y"), 2),
        (b'"x,y', ('"x', "y"), 2),  # a quote that nothing closes is no reason to take in a record
        (b' x , "y"', ("x", '"y"'), 2),
        (b"x,y", ("x", "y"), 2),
    ],
)
def test_a_quoted_name_may_hold_line_breaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: bytes, names: tuple[str, ...], rows: int
) -> None:
    limit_bytes(monkeypatch, 2**20)
    delimiter = b";" if b";" in header else b","
    data = delimiter.join([b"1", b'"2"']) + b"\n" + delimiter.join([b"3", b"4"]) + b"\n"
    for block in (1, 4, 2**20):
        monkeypatch.setattr(pe.data.lines, "BLOCK_BYTES", block)
        table = read_file(tmp_path, header + b"\n" + data, multiline=False)
        assert table.names == names
        assert listed(table) == [["1", "3"], ["2", "4"]]


@pytest.mark.parametrize(
    ("content", "name", "options", "told"),
    [
        ("prénom\n".encode("latin-1"), "d.csv", {}, "header is not in the file's encoding.*set encoding"),
        ("a,b\n".encode("utf-16-le"), "d.csv", {}, "zero bytes.*utf-16-le"),
        ("a,b\n".encode("utf-32"), "d.csv", {}, "UTF-32-LE: save it as UTF-8"),
        (
            "a,b\n".encode("utf-16"),
            "d.csv",
            {"encoding": "latin-1"},
            "byte-order mark of UTF-16-LE.*leave enc",
        ),
        (b"PK\x03\x04rest", "d.csv", {}, "ZIP archive or an Excel workbook"),
        (b"a" * 99 + b"\n1\n", "d.csv", {}, "first line has more than"),
        (b"a\tb\n1\t2\n", "d.tsv", {"multiline": True}, "no field holds line breaks"),
        (gzip.compress(b"a,b\n" * 999, mtime=0)[:-12], "d.csv.gz", {}, "it is damaged"),
    ],
)
def test_what_is_no_csv_file_is_told_in_one_sentence(
    tmp_path: Path, content: bytes, name: str, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(PrivateDataError, match=f"(?s)d.*{told}.*Nothing was spent"):
        read_file(tmp_path, content, name, **options)


@pytest.mark.parametrize(
    "options", [{"delimiter": ""}, {"delimiter": ",,"}, {"delimiter": '"'}, {"delimiter": "é"}, {"encoding": "utf-7"},
                {"encoding": "shift_jis"}, {"encoding": "klingon"}, {"encoding": "cp037"}],
)  # fmt: skip
def test_settings_that_no_file_can_have_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"expected 'auto'.*Nothing was spent"):
        CsvOptions(**options)


def test_settings_for_csv_are_refused_for_other_data(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text('{"x": "a"}\n')
    schema = Schema((Categorical("x", ("a",)),))
    for data in (tmp_path / "d.jsonl", {"x": ["a"]}):
        with pytest.raises(ConfigError, match=r"delimiter is a setting for CSV and TSV.*Nothing was spent"):
            read(data, schema, options=CsvOptions(delimiter=";"))


def test_a_column_that_the_header_lacks_is_told_with_the_delimiter(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("x~y\n1~2\n")
    with pytest.raises(SchemaError, match=r"no column 'x' among its 1.*delimiter ',' and encoding UTF-8. Nothing was"):
        read(tmp_path / "d.csv", Schema((Categorical("x", ("a",)),)))


def test_line_breaks_are_the_fields_own_by_default_where_a_csv_has_a_text_column(tmp_path: Path) -> None:
    plain = Schema((Categorical("a", ("1", "2")),))
    content = 'a,t\n1,"x\ny"\n2,z\n'
    (tmp_path / "d.csv").write_text(content)
    (tmp_path / "d.tsv").write_text(content.replace(",", "\t"))
    counts = {}
    for name in ("d.csv", "d.tsv"):
        for schema in (plain, Schema((*plain.columns, Text("t", 9)))):
            private = PrivateDataset.read(tmp_path / name, schema, adjacency=Adjacency.ADD_REMOVE)
            counts[name, len(schema.columns)] = len(read(tmp_path / name, schema)["a"])
            (sentence,) = private.public_form
            assert ("RFC 4180" in sentence) == (name == "d.csv" and len(schema.columns) == 2)
            assert f"delimiter {',' if name == 'd.csv' else chr(9)!r}, encoding UTF-8" in sentence
    assert counts == {("d.csv", 1): 3, ("d.csv", 2): 2, ("d.tsv", 1): 3, ("d.tsv", 2): 3}
    assert len(read(tmp_path / "d.csv", plain, options=CsvOptions(multiline=True))["a"]) == 2


def test_a_public_sample_tells_whether_its_records_span_lines(tmp_path: Path) -> None:
    assert read_file(tmp_path, b'a,b\n1,"x\ny"\n').dialect.multiline
    assert not read_file(tmp_path, b"a,b\n1,x\n").dialect.multiline
    table = read_file(tmp_path, b'a,b\n1,"x\n2\n3,4,5\n6, 7\n')
    assert not table.dialect.multiline
    assert listed(table) == [["1", None, None, "6"], ['"x', None, None, " 7"]]
    assert table.counts == Counts(records=4, wrong_width=2, open_quotes=1)


def test_a_purchase_for_texts_takes_the_records_that_the_run_will_take(tmp_path: Path) -> None:
    """Though it reads no text column, it knows that one is declared."""
    (tmp_path / "d.csv").write_text('a,t\n1,"x\ny"\n2,z\n')
    part = Schema((Categorical("a", ("1", "2")),))
    for has_text, count in ((False, 3), (True, 2)):
        options = CsvOptions(has_text=has_text)
        assert len(read(tmp_path / "d.csv", part, options=options)["a"]) == count
    content = {"columns": {"a": {"type": "integer", "bounds": "buy", "within": [0, 9]}, "t": {"type": "text"}}}
    bought = buy_schema(
        tmp_path / "d.csv", content, source="s", epsilon=1, delta=1e-6, adjacency="add-remove",
        ledger=tmp_path / "ledger", create=True,
    )  # fmt: skip
    assert any("RFC 4180" in sentence for sentence in bought.certificate["declared_public"])


def test_certificate_and_card_say_what_a_record_is(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("a;b\n" + "1;x\n2;y\n" * 40)
    schema = Schema((Categorical("a", ("1", "2")), Categorical("b", ("x", "y"))))
    made = pe.synthesize(
        tmp_path / "d.csv", schema=schema, epsilon=1, delta=1e-6, adjacency="add-remove", rows=10, create=True,
        ledger=tmp_path / "ledger", run=tmp_path / "run",
    )  # fmt: skip
    sentence = "the header of the private file (delimiter ';', encoding UTF-8); a record is one line after it"
    assert sentence in made.certificate["declared_public"]
    assert sentence in (tmp_path / "run" / "release" / "CARD.md").read_text()


def test_other_public_tables_are_read_by_the_same_reader(tmp_path: Path) -> None:
    (tmp_path / "map.csv").write_bytes("city;land\n Köln ;NRW\nBonn;NRW\n".encode("utf-16"))
    constraint = {"kind": "determines", "column": "city", "target": "land", "file": "map.csv"}
    content = {
        "columns": {
            "city": {"type": "categorical", "values": ["Köln", "Bonn"]},
            "land": {"type": "categorical", "values": ["NRW", "BE"]},
        },
        "constraints": [constraint],
    }
    (determines,) = Schema.from_dict(content, tmp_path).constraints
    assert isinstance(determines, Determines)
    assert dict(determines.table) == {"Köln": "NRW", "Bonn": "NRW"}
    (tmp_path / "map.csv").write_text("city,land\nBonn\n")
    with pytest.raises(SchemaError, match="expected 2 fields"):
        Schema.from_dict(content, tmp_path)


def test_a_carriage_return_before_the_ends_of_a_line_is_part_of_the_last_field() -> None:
    assert parsed(b"1,2,3\r\r\n4,5,6\r\n7,8,9\r") == [[b"1", b"2", b"3\r"], [b"4", b"5", b"6"], [b"7", b"8", b"9"]]


def test_a_record_that_closes_the_quote_of_a_name_is_no_part_of_the_header_unless_all_is_escaped(
    tmp_path: Path,
) -> None:
    table = read_file(tmp_path, b'"x,y\n1,a"b\n3,4\n')
    assert table.names == ('"x', "y")
    assert listed(table) == [["1", "3"], ['a"b', "4"]]


def test_a_byte_order_mark_is_taken_off_any_line_of_json() -> None:
    """Which line is the first is no property of a record: files may have been joined."""
    mark = b"\xef\xbb\xbf"
    assert list(jsonl.objects(io.BytesIO(mark + b'{"a":1}\n' + mark + b'{"a":2}\n'))) == [{"a": 1}, {"a": 2}]
