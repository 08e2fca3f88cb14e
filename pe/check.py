"""What private data look like under a schema, for the holder of the data alone: what does not fit, and why.

Not private: exact shares of the records. Shown where the holder asks, at a terminal; stored, logged and counted on
nowhere, and no result depends on it. The data are read by the code that a run reads them with (``pe.data.read``,
``pe.data.outcomes``), so that a value is said to fit exactly where a run takes it as it is.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pe.data.dialect import CsvOptions
from pe.data.formats import public_form
from pe.data.forms import MARKERS, common_form, outline
from pe.data.lines import decompressed
from pe.data.outcomes import Outcome, Values, outcomes, read_as, wide_numbers
from pe.data.parts import Place, format_of, is_address, locate
from pe.data.read import in_memory, stream, wanted
from pe.data.records import Counts
from pe.data.sample import declared_fields, undecodable
from pe.data.schema import Categorical, Column, Datetime, Image, Numeric, Schema, Text
from pe.data.selected import USER, Raw
from pe.errors import PEError, SchemaError
from pe.shield import shielded

TOLERATED = 0.01
"""Share of a column's values that may not fit without a remark."""

ALARMING = 0.5
"""Share of a column's values from which on, when they do not fit, a run is likely to be in vain."""

EXAMINED = 10_000
"""Values that do not fit, of each column, that are kept while a cause is looked for."""

HEADER_LINES = 50
"""Lines of a file among which a misplaced header is looked for."""

BANNER = (
    "NOT PRIVATE: exact facts about the private records, for the holder of these data alone. Shown here and stored "
    "nowhere; do not pass it on."
)
WARNING = (
    "The schema is public. Bounds and categories that are chosen by what is shown here are no longer public facts, and "
    "nothing protects what they tell: mend how the data are written, or take bounds and categories from public "
    "knowledge; or buy them ('pe init --from-private')."
)


@dataclass
class ColumnCheck:
    """What became of the values of one column: how many of each outcome, and of the misfits some, to name a cause."""

    column: Column
    counts: Counter[Outcome] = field(default_factory=Counter)
    misfits: dict[Outcome, list[str]] = field(default_factory=dict)
    undecodable: int = 0
    below: int = 0
    """Of the clipped values, those below the minimum."""

    @property
    def records(self) -> int:
        return sum(self.counts.values())

    def share(self, *kinds: Outcome) -> float:
        """The share of the values with one of these outcomes."""
        return sum(self.counts[kind] for kind in kinds) / max(self.records, 1)

    @property
    def unfit(self) -> float:
        """The share of the values that are there but are not read as they are."""
        return self.share(Outcome.UNREADABLE, Outcome.UNDECLARED, Outcome.CLIPPED) + self.undecodable / max(
            self.records, 1
        )

    def add(self, values: Values) -> NDArray[np.uint8]:
        """Count a batch of values; returns their outcomes, uint8 (n,)."""
        found = outcomes(values, self.column)
        for kind in Outcome:
            self.counts[kind] += int(np.count_nonzero(found == kind))
        self.undecodable += undecodable(values)
        if isinstance(self.column, Numeric) and (found == Outcome.CLIPPED).any():
            self.below += int(np.count_nonzero(wide_numbers(values, self.column) < self.column.minimum))
        for kind in (Outcome.UNREADABLE, Outcome.UNDECLARED):
            kept = self.misfits.setdefault(kind, [])
            places = np.flatnonzero(found == kind)[: EXAMINED - len(kept)]
            if len(places) and not isinstance(self.column, Image):
                some = values[places] if isinstance(values, np.ndarray) else values.take(pa.array(places))
                kept += read_as(some, Text(self.column.name, Text.LONGEST)).tolist()
        return found


@dataclass
class Check:
    """What was found. ``lines`` tells it; nothing else does, so that it does not reach a log by accident."""

    source: str
    columns: list[ColumnCheck]
    records: int = 0
    blank: int = 0
    """Records of which no declared column holds anything."""
    lines_read: Counts = field(default_factory=Counts)
    without_user: int | None = None
    notes: list[str] = field(default_factory=list)
    problem: str = ""
    """Why the data could not be read at all."""

    def __repr__(self) -> str:
        return "Check(private)"

    @property
    def alarming(self) -> bool:
        """Whether the data are unreadable, empty, or some column hardly fits."""
        return bool(self.problem) or not self.records or any(each.unfit >= ALARMING for each in self.columns)

    def lines(self) -> Iterator[str]:
        """The report as lines of text, with its banner and its warning."""
        yield BANNER
        if self.problem:
            yield f"These data cannot be read: {self.problem}"
            return
        yield f"{self.source}: {self.records} records."
        yield from self.notes
        yield from _malformed(self.lines_read, self.records)
        blank = self.blank - self.lines_read.wrong_width - self.lines_read.too_long
        if blank > 0:
            yield f"{_times(blank, self.records)} hold nothing in any declared column. A run takes them for records."
        if self.without_user:
            yield f"{_times(self.without_user, self.records)} have no user id."
        if not self.records:
            return
        yield from _table(self.columns)
        misfits = [each for each in self.columns if each.unfit > TOLERATED or _mostly_missing(each)]
        for each in sorted(misfits, key=lambda each: -each.unfit):
            yield from _sentences(each)
        yield "Every declared column fits." if not misfits else WARNING


def check(
    data: object,
    schema: Schema,
    *,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    user: str | None = None,
    options: CsvOptions | None = None,
) -> Check:
    """Read private data as a run does, and count what fits the schema. Arguments as of ``pe.data.read.read``.

    What makes reading impossible stands in ``Check.problem``; configuration errors are raised as SchemaError.
    """
    names = wanted(schema, columns, user)
    source = str(data) if isinstance(data, (str, Path)) else "the data"
    report = Check(source, [ColumnCheck(column) for column in schema.columns])
    place: Place | None = None

    def read() -> None:
        nonlocal place
        if not isinstance(data, (str, Path)):
            _add(report, in_memory(data, names, schema), user)
            return
        place = locate(data, format, options)
        report.notes += _skipped(data, place)
        for raw in stream(place, names, schema, report.lines_read):
            _add(report, raw, user)
        report.notes += [f"Taken to be public about the files: {sentence}." for sentence in public_form(place, schema)]

    try:
        shielded("reading the private data", read, "Is it the declared format?")
        if place is not None and place.kind != "imagefolder":
            report.notes += _undeclared_columns(place, names, schema)
    except PEError as error:
        report.problem = str(error).replace(" Nothing was spent.", "")
        if place is not None and isinstance(error, SchemaError):
            report.problem += _why_no_column(place, list(names.values()))
    return report


def _add(report: Check, raw: Raw, user: str | None) -> None:
    count = len(next(iter(raw.values())))
    report.records += count
    if user is not None:
        owners = raw[USER]
        absent = int(np.count_nonzero(outcomes(owners, Text(user)) == Outcome.MISSING))
        report.without_user = (report.without_user or 0) + absent
    empty = np.ones(count, np.bool_)
    for each in report.columns:
        empty &= each.add(raw[each.column.name]) == Outcome.MISSING
    report.blank += int(np.count_nonzero(empty))


# -- causes ------------------------------------------------------------------------------------------------------------


def _sentences(found: ColumnCheck) -> Iterator[str]:
    """What does not fit in one column, why that is likely, and what a run would make of it."""
    column, name = found.column, f"column '{_printable(found.column.name)}'"
    if found.undecodable:
        yield (
            f"{name}: {_times(found.undecodable, found.records)} are not UTF-8 text, and taken for missing: name the "
            "encoding in private.encoding, such as 'latin-1' or 'cp1252'"
        )
    unreadable, undeclared = found.counts[Outcome.UNREADABLE], found.counts[Outcome.UNDECLARED]
    if isinstance(column, Image):
        if unreadable > TOLERATED * found.records:
            yield (
                f"{name}: {_times(unreadable, found.records)} are black, as pictures become that are damaged, "
                f"missing or of another kind or shape ({column.domain()})"
            )
    elif unreadable > TOLERATED * found.records:
        yield (
            f"{name}: {_times(unreadable, found.records)} cannot be read as {_plural(column)}"
            f"{_cause_of_unreadable(found.misfits[Outcome.UNREADABLE])}. A run takes {_fallback(column)}"
        )
    if undeclared > TOLERATED * found.records:
        assert isinstance(column, Categorical)
        cause = _cause_of_undeclared(found.misfits[Outcome.UNDECLARED], column)
        yield (
            f"{name}: {_times(undeclared, found.records)} are not among the declared values{cause}. A run takes "
            f"{_fallback(column, undeclared=True)}"
        )
    clipped = found.counts[Outcome.CLIPPED]
    if clipped > TOLERATED * found.records:
        yield f"{name}: {_times(clipped, found.records)} {_clipped(found)}"
    if _mostly_missing(found) and not found.undecodable:
        missing = _times(found.counts[Outcome.MISSING], found.records)
        yield f"{name}: {missing} are missing. A run takes {_fallback(column)}"


def _cause_of_unreadable(texts: Sequence[str]) -> str:
    """The most likely cause, as the end of a sentence: what most of the texts look like, and what to do."""
    markers = sum(text in MARKERS for text in texts)
    if markers >= len(texts) / 2:
        return ", most of them marks for a missing value such as 'NA' or '?': write an empty field, and missing = true"
    form = common_form(texts)
    if form is not None:
        return f": most look like {form.name}; {form.advice}"
    shape, count = Counter(outline(text) for text in texts).most_common(1)[0]
    if count >= len(texts) / 4:
        return f": many have the shape {shape!r} (9 stands for a digit, a for a letter)"
    return ""


def _cause_of_undeclared(texts: Sequence[str], column: Categorical) -> str:
    """The most likely cause, as the end of a sentence: how most of the texts differ from declared ones."""
    for difference, normal in _SPELLINGS:
        declared = {normal(value) for value in column.values}
        if sum(normal(text) in declared for text in texts) >= len(texts) / 2:
            return f": most differ from declared ones in {difference}; write them as the schema does"
    if sum(text in MARKERS for text in texts) >= len(texts) / 2:
        return ", most of them marks for a missing value such as 'NA' or '?': write an empty field"
    return ""


def _as_number(text: str) -> str:
    try:
        return f"{float(text):.15g}"
    except ValueError:
        return text


def _as_truth(text: str) -> str:
    lowered = text.casefold()
    for spellings in (("true", "yes", "y", "t", "1", "1.0"), ("false", "no", "n", "f", "0", "0.0")):
        if lowered in spellings:
            return spellings[0]
    return lowered


_SPELLINGS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("case", str.casefold),
    ("white space", lambda text: "".join(text.split())),
    ("case, white space or the form of Unicode", lambda text: "".join(_folded(text).split())),
    ("how the same numbers are written (1, 1.0, 01)", _as_number),
    ("how truth values are written", _as_truth),
    ("accents, hyphens or punctuation", lambda text: "".join(c for c in _folded(text) if c.isalnum())),
)
"""Ways in which two spellings of one value differ, and what makes them equal; the least change first."""


def _folded(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in decomposed if not unicodedata.combining(c))


def _clipped(found: ColumnCheck) -> str:
    """Which values leave the domain, and what a run makes of them."""
    column, clipped = found.column, found.counts[Outcome.CLIPPED]
    if isinstance(column, Text):
        return f"are longer than {column.max_length} characters. A run cuts them"
    side = "below min" if found.below == clipped else "above max" if found.below == 0 else "below min or above max"
    unit = "; is it another unit?" if clipped >= ALARMING * found.records and found.below in (0, clipped) else ""
    return f"are {side} ({column.domain()}); a run moves them to the nearer bound{unit}"


def _fallback(column: Column, *, undeclared: bool = False) -> str:
    """What a run takes in place of a value that it cannot use."""
    if isinstance(column, Text):
        return "an empty text"
    if column.missing and not (undeclared and getattr(column, "default", None) is not None):
        return "them for missing"
    if isinstance(column, Categorical):
        return f"'{column.values[column.fallback]}' for each of them"
    if isinstance(column, Datetime):
        return f"{column.text(column.fallback)} for each of them"
    return f"{column.fallback:g} for each of them" if isinstance(column, Numeric) else "a black picture"


def _plural(column: Column) -> str:
    if isinstance(column, Datetime):
        return "dates (ISO, such as 2024-01-31)"
    return "numbers" if isinstance(column, Numeric) else f"{column.kind}s"


def _mostly_missing(found: ColumnCheck) -> bool:
    """Whether so many values are missing that it may be an accident; nothing is said where the schema expects them."""
    return found.share(Outcome.MISSING) > (ALARMING if found.column.missing else TOLERATED)


# -- files and lines ---------------------------------------------------------------------------------------------------


def _skipped(data: str | Path, place: Place) -> Iterator[str]:
    """Files of a folder that a run does not read."""
    if is_address(data) or not Path(data).is_dir() or place.kind in ("datasets", "imagefolder"):
        return
    others = [path.name for path in sorted(Path(data).iterdir()) if not _is_part(path, place.kind)]
    if others:
        listed = ", ".join(map(_printable, others[:5])) + (", ..." if len(others) > 5 else "")
        yield f"Not read in {data}, which holds {place.kind}: {len(others)} hidden, empty or other entries ({listed})."


def _is_part(path: Path, kind: str) -> bool:
    """Whether an entry of a folder is read as one of its files."""
    return path.is_file() and path.name[0] not in "._" and format_of(path) == kind and path.stat().st_size > 0


def _malformed(counts: Counts, records: int) -> Iterator[str]:
    """Lines of CSV and TSV files that are not what they should be."""
    if counts.wrong_width:
        yield (
            f"{_times(counts.wrong_width, records)} have too few or too many fields (a stray delimiter, quote or line "
            "break?). A run takes every value of them for missing."
        )
    if counts.open_quotes:
        yield (
            f"{_times(counts.open_quotes, records)} have a quote that nothing closes: such a record ends with its line."
        )
    if counts.too_long:
        yield f"{_times(counts.too_long, records)} are too long. A run takes every value of them for missing."


def _undeclared_columns(place: Place, names: Mapping[str, str], schema: Schema) -> Iterator[str]:
    """Columns of the data that the schema neither declares nor ignores."""
    known = {*names.values(), *schema.ignore, *(key.name for key in schema.keys)}
    others = [name for name in declared_fields(place).names if name not in known]
    if others:
        listed = ", ".join(f"'{_printable(name)}'" for name in others[:10]) + (", ..." if len(others) > 10 else "")
        yield f"Not declared, and not read: {listed}."


def _why_no_column(place: Place, names: Sequence[str]) -> str:
    """Where else in a text file the names of the columns stand, as the end of an error."""
    if place.kind not in ("csv", "tsv"):
        return ""
    with place.parts[0].open() as opened:
        file = decompressed(opened)
        lines = [file.readline(2**16).decode("utf-8", "replace").strip("\r\n\ufeff") for _ in range(HEADER_LINES)]
    best = (0, 0, "")
    for number, line in enumerate(lines, start=1):
        for delimiter in ",;\t|":
            fields = {part.strip().strip('"') for part in line.split(delimiter)}
            best = max(best, (sum(name in fields for name in names), -number, delimiter))
    matched, line_number, delimiter = best[0], -best[1], best[2]
    if matched < max(len(names) / 2, 1):
        return ""
    if line_number > 1:
        return (
            f" Line {line_number} holds the names: take the lines before it out of the file, so that the first line "
            "names the columns."
        )
    return f" With the delimiter {delimiter!r}, {matched} of {len(names)} columns are found: set private.delimiter."


# -- text --------------------------------------------------------------------------------------------------------------


def _printable(name: str) -> str:
    """A name without what would steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in name)


def _times(count: int, records: int) -> str:
    """A number of values with its share, such as "12 of 340 (3.5 %)"."""
    return f"{count} of {records} ({100 * count / max(records, 1):.3g} %)"


def _table(columns: Sequence[ColumnCheck]) -> Iterator[str]:
    """One line per column: the shares of its outcomes, in percent."""
    heads = ("read", "unreadable", "undeclared", "missing", "clipped")
    names = [_printable(each.column.name) for each in columns]
    width = max(len("column"), *map(len, names))
    yield "  ".join(["column".ljust(width), "type".ljust(11), *(head.rjust(10) for head in heads)])
    for each, name in zip(columns, names, strict=True):
        shares = [each.share(Outcome[head.upper()]) for head in heads]
        cells = [("-" if share == 0 else f"{100 * share:.1f} %").rjust(10) for share in shares]
        yield "  ".join([name.ljust(width), each.column.kind.ljust(11), *cells])
