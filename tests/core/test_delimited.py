"""CSV and TSV: a line is a record, and what it holds changes no other record, wherever blocks end."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pe.data.delimited
import pe.data.dialect
import pe.data.lines
import pe.data.records
from pe.data.delimited import private_columns
from pe.data.dialect import CsvOptions
from pe.data.schema import Categorical, Schema, Text

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


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (pe.data.dialect, pe.data.records):
        monkeypatch.setattr(module, "MAX_RECORD_LINES", MOST_LINES)
    for module in (pe.data.lines, pe.data.records):
        monkeypatch.setattr(module, "MAX_LINE_BYTES", MOST_BYTES)
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
