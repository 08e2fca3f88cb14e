"""Records of CSV text: whole lines to columns of bytes, one record at a time in what they mean, many in how fast.

A line is a record, an empty line is none. A field that begins with a quote ends with the next quote that is not
doubled, and what stands between that and the delimiter is added; a quote that nothing closes in its record is part of
the text, and so is a quote after the first byte. A record of the wrong number of fields, or of too many bytes, is one
of missing values, at its own position. With ``multiline``, a record goes on over further lines if all of it is then
quoted as RFC 4180 says, has the right number of fields, and every field that holds line breaks is within its length;
otherwise its first line is a record by itself, and the next line is read anew.

Lines whose quotes are all regular are parsed by Arrow, a block at a time; the others by ``split_fields``, which is the
definition.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from pe.data.dialect import MAX_RECORD_LINES
from pe.data.lines import MAX_LINE_BYTES

Mask = NDArray[np.bool_]
Ints = NDArray[np.int64]

_LF, _CR, _QUOTE = 10, 13, 34


@dataclass(frozen=True)
class Layout:
    """Fields of a record: how they are parted, how many there are, and which of them are read.

    limits  with ``multiline``, how many characters a field that holds line breaks may have, for each field; None where
            a record is one line.
    """

    delimiter: bytes
    width: int
    wanted: tuple[int, ...]
    limits: tuple[int, ...] | None = None


@dataclass
class Counts:
    """How many records of a file were read in which way. Private, like what they count.

    wrong_width  records with too few or too many fields.
    too_long     records of more than ``MAX_LINE_BYTES``.
    open_quotes  records with a quote that nothing closes.
    spanning     records over more than one line.
    """

    records: int = 0
    wrong_width: int = 0
    too_long: int = 0
    open_quotes: int = 0
    spanning: int = 0

    def add(self, other: Counts) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass
class Parsed:
    """Columns of some records, as bytes, null where missing; and how many of the block's bytes they took."""

    columns: list[pa.Array]
    consumed: int
    counts: Counts = field(default_factory=Counts)


def split_fields(record: bytes, delimiter: bytes, most: int = sys.maxsize) -> tuple[list[bytes], bool]:
    """Fields of one record, of which no more than ``most`` are split off; and whether a quote was left open."""
    if b'"' not in record:
        return record.split(delimiter, most - 1), False
    fields: list[bytes] = []
    start, open_quote = 0, False
    while start <= len(record) and len(fields) < most:
        text, close = b"", _closing_quote(record, start)
        if close is None:
            open_quote = True
        elif close > start:
            text, start = record[start + 1 : close].replace(b'""', b'"'), close + 1
        end = record.find(delimiter, start)
        end = len(record) if end < 0 else end
        fields.append(text + record[start:end])
        start = end + 1
    return fields, open_quote


def _closing_quote(record: bytes, start: int) -> int | None:
    """Where the field that starts at ``start`` closes its quote: ``start`` where it has none, None if it never does."""
    if record[start : start + 1] != b'"':
        return start
    close = record.find(b'"', start + 1)
    while close >= 0 and record[close + 1 : close + 2] == b'"':
        close = record.find(b'"', close + 2)
    return None if close < 0 else close


def parse(block: bytes, layout: Layout, *, final: bool = True) -> Parsed:
    """Records of whole lines, each ended by LF.

    Where a record may go on after the block, unless that is ``final``, it is not consumed, nor is what follows it.
    """
    if not block:
        return Parsed([pa.array([], pa.binary()) for _ in layout.wanted], 0)
    if (columns := _all_regular(block, layout)) is not None:
        return Parsed(columns, len(block), Counts(len(columns[0])))
    lines = _Lines.of(block, layout)
    first, last, consumed = lines.records(final)
    starts, ends = lines.starts[first], lines.ends[last]
    too_long = ends - starts > MAX_LINE_BYTES
    regular = lines.regular(first, last) & ~too_long
    fits = lines.widths(first, last) == layout.width
    fast, slow = regular & fits, ~regular & ~too_long
    counts = Counts(len(first), spanning=int((last > first).sum()))
    counts.too_long, counts.wrong_width = int(too_long.sum()), int((regular & ~fits).sum())

    columns = _of_records(block, starts[fast], ends[fast], layout)
    if columns is None:  # never seen: Arrow found other records than these, and then gets none of them
        columns = [pa.array([], pa.binary()) for _ in layout.wanted]
        slow, fast = slow | fast, np.zeros_like(fast)
    if fast.all():
        return Parsed(columns, consumed, counts)

    # each record's row among those that Arrow parsed, followed by those that were split one by one; -1: missing
    rows = np.full(len(first), -1)
    rows[fast] = np.arange(np.count_nonzero(fast))
    split: list[list[bytes]] = []
    for record in np.flatnonzero(slow).tolist():
        fields, open_quote = split_fields(block[starts[record] : ends[record]], layout.delimiter, layout.width + 1)
        counts.open_quotes += open_quote
        if len(fields) != layout.width:
            counts.wrong_width += 1
        else:
            rows[record] = len(columns[0]) + len(split)
            split.append([fields[place] for place in layout.wanted])
    order = pa.array(rows, mask=rows < 0)
    one_by_one = [pa.array([fields[number] for fields in split], pa.binary()) for number in range(len(columns))]
    columns = [pa.concat_arrays(pair).take(order) for pair in zip(columns, one_by_one, strict=True)]
    return Parsed(columns, consumed, counts)


def _all_regular(block: bytes, layout: Layout) -> list[pa.Array] | None:
    """Columns of a block in which every line is a record of the right width that leaves no quote open; else None.

    Arrow tells: of lines without CR it reads no more rows than there are, and as many only if no quote takes in the end
    of any line. One more line, without quotes, stands for those after the block.
    """
    if b"\r" in block or len(block) > MAX_LINE_BYTES:
        return None
    data = np.frombuffer(block, np.uint8)
    count = block.count(b"\n") - block.startswith(b"\n")
    if b"\n\n" in block:
        count -= int(((data[1:] == _LF) & (data[:-1] == _LF)).sum())
    columns = _by_arrow([block, b"0" + layout.delimiter * (layout.width - 1) + b"\n"], count + 1, layout)
    return None if columns is None else [column.slice(0, count) for column in columns]


def _of_records(block: bytes, starts: Ints, ends: Ints, layout: Layout) -> list[pa.Array] | None:
    """Columns of regular records, which are bytes [start, end) of the block; None unless Arrow finds as many."""
    if len(starts) == 0:
        return [pa.array([], pa.binary()) for _ in layout.wanted]
    cuts = np.flatnonzero(starts[1:] != ends[:-1] + 1) + 1  # where a run of neighbours begins
    heads, tails = starts[np.r_[0, cuts]].tolist(), ends[np.r_[cuts - 1, -1]].tolist()
    runs = [memoryview(block)[head : tail + 1] for head, tail in zip(heads, tails, strict=True)]
    return _by_arrow(runs, len(starts), layout)


def _by_arrow(pieces: Sequence[bytes | memoryview], count: int, layout: Layout) -> list[pa.Array] | None:
    """Columns of lines as Arrow reads them; None unless it finds so many records, all of the right width."""
    # the first bytes are no byte-order mark, whatever they look like, and Arrow skips an empty line
    data = b"".join([b"\n", *pieces])
    names = [str(place) for place in range(layout.width)]
    wanted = list(dict.fromkeys(names[place] for place in layout.wanted))
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(data),
            read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=names),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=layout.delimiter.decode(), newlines_in_values=layout.limits is not None
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.binary()), include_columns=wanted, strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid:
        return None
    if table.num_rows != count:
        return None
    return [pa.concat_arrays(table.column(names[place]).chunks) for place in layout.wanted]


@dataclass(frozen=True)
class _Lines:
    """Lines of a block, and what decides how their quotes are read: sums over all lines before each, (n + 1,).

    A quote that follows an even number of quotes in its record opens a field, one that follows an odd number closes
    one; a doubled quote does both. Which of the two a quote does depends on where its record begins: so there are two
    sums, for records that begin after an even number of quotes in the block, and after an odd one.

    starts, ends  of each line, (n,), the end being its LF.
    leading       quotes at the start of a line or after a delimiter.
    irregular     quotes that open, or close, elsewhere than beside a delimiter, a line's end or another quote.
    separators    delimiters outside of quotes.
    """

    block: bytes
    layout: Layout
    starts: Ints
    ends: Ints
    returns: Ints
    quotes: Ints
    leading: Ints
    delimiters: Ints
    irregular: tuple[Ints, Ints]
    separators: tuple[Ints, Ints]

    @classmethod
    def of(cls, block: bytes, layout: Layout) -> _Lines:
        data = np.frombuffer(block, np.uint8)
        line_end, delimiter = data == _LF, data == ord(layout.delimiter)
        ends = np.flatnonzero(line_end)
        starts = np.r_[0, ends[:-1] + 1]

        def sums(mask: Mask) -> Ints:
            before: Ints = np.searchsorted(np.flatnonzero(mask), ends)
            return np.concatenate(([0], before))

        none, delimiters = np.zeros(len(ends) + 1, np.int64), sums(delimiter)
        returns = sums(data == _CR) if b"\r" in block else none
        if b'"' not in block:
            both = (none, none), (delimiters, delimiters)
            return cls(block, layout, starts, ends, returns, none, none, delimiters, *both)
        quote = data == _QUOTE
        up_to = np.cumsum(quote, dtype=np.int32)
        odd: Mask = (up_to & 1).astype(np.bool_)
        edge = delimiter | line_end
        leading = quote & np.concatenate(([True], edge[:-1]))
        edge |= quote
        opens: Mask = np.concatenate(([True], edge[:-1]))
        closes: Mask = np.concatenate((edge[1:], [True]))
        irregular = sums(quote & ~np.where(odd, opens, closes))
        separators = sums(delimiter & ~odd)
        quotes = np.r_[0, up_to[ends]].astype(np.int64)
        if not (quotes & 1).any():  # no record begins after an odd number
            both = (irregular, irregular), (separators, separators)
        else:
            both = (irregular, sums(quote & ~np.where(odd, closes, opens))), (separators, sums(delimiter & odd))
        return cls(block, layout, starts, ends, returns, quotes, sums(leading), delimiters, *both)

    def records(self, final: bool) -> tuple[Ints, Ints, int]:
        """First and last line of every record, and how many bytes are consumed."""
        single, count = self.ends > self.starts, len(self.ends)
        last = np.arange(count)
        if self.layout.limits is not None:
            opening, closing, count = self._spanning(final)
            last[opening] = closing
            depth = np.zeros(len(last) + 1, np.int8)
            depth[opening + 1] += 1
            depth[closing + 1] -= 1
            single &= np.cumsum(depth)[:-1] == 0
        first = np.flatnonzero(single[:count])
        consumed = len(self.block) if count == len(self.ends) else int(self.starts[count])
        return first, last[first], consumed

    def _spanning(self, final: bool) -> tuple[Ints, Ints, int]:
        """First and last lines of records over several lines, and up to which line the block's records are known.

        A quote left open at the end of a line is closed, if at all, in the next line with an odd number of quotes.
        """
        odd, count = np.flatnonzero(np.diff(self.quotes) & 1), len(self.ends)
        opening, closing = odd[:-1], odd[1:]
        lengths = self.ends[closing] - self.starts[opening]
        fits = (closing - opening < MAX_RECORD_LINES) & (lengths <= MAX_LINE_BYTES)
        fits &= self._between(self.irregular, opening, closing) == 0
        fits &= self._between(self.separators, opening, closing) == self.layout.width - 1
        for pair in np.flatnonzero(fits & (lengths > min(self.layout.limits or (0,)))).tolist():
            fits[pair] = self._within_limits(int(opening[pair]), int(closing[pair]))
        chosen: list[int] = []
        free = 0  # the first pair whose opening line is no other record's closing one
        for pair in np.flatnonzero(fits).tolist():
            if pair >= free:
                chosen.append(pair)
                free = pair + 2
        if not final and free < len(odd):
            begin = odd[-1:]
            may_go_on = count - begin < MAX_RECORD_LINES
            may_go_on &= len(self.block) - self.starts[begin] <= MAX_LINE_BYTES
            may_go_on &= self._between(self.irregular, begin, np.array([count - 1])) == 0
            if may_go_on.all():
                count = int(begin[0])
        return opening[chosen], closing[chosen], count

    def _within_limits(self, opening: int, closing: int) -> bool:
        """Whether every field that holds line breaks has no more characters than it may have."""
        record = self.block[int(self.starts[opening]) : int(self.ends[closing])]
        fields, _ = split_fields(record, self.layout.delimiter)
        pairs = zip(fields, self.layout.limits or (), strict=True)
        return all(b"\n" not in text or _characters(text) <= limit for text, limit in pairs)

    def _between(self, sums: tuple[Ints, Ints], first: Ints, last: Ints) -> Ints:
        """Sums over the lines of records, of the kind that holds where each begins."""
        even, odd = (each[last + 1] - each[first] for each in sums)
        return np.where(self.quotes[first] & 1, odd, even)

    def _unquoted(self, first: Ints, last: Ints) -> Mask:
        """Records of which no field begins with a quote: all quotes are text."""
        mask: Mask = self.leading[last + 1] == self.leading[first]
        return mask

    def regular(self, first: Ints, last: Ints) -> Mask:
        """Records that Arrow reads as ``split_fields`` does, and that end where their last line does."""
        closed = (self.quotes[last + 1] - self.quotes[first]) % 2 == 0
        quoted = closed & (self._between(self.irregular, first, last) == 0)
        mask: Mask = (quoted | self._unquoted(first, last)) & (self.returns[last + 1] == self.returns[first])
        return mask

    def widths(self, first: Ints, last: Ints) -> Ints:
        """Number of fields of regular records."""
        delimiters = self.delimiters[last + 1] - self.delimiters[first]
        return 1 + np.where(self._unquoted(first, last), delimiters, self._between(self.separators, first, last))


def _characters(text: bytes) -> int:
    """Characters of UTF-8: bytes that do not continue one."""
    return int(((np.frombuffer(text, np.uint8) & 0xC0) != 0x80).sum())
