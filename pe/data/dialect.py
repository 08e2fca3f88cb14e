"""How a CSV or TSV file is written: its delimiter, its encoding, and what a record of it is.

``auto`` decides from the byte-order mark and the header alone, which are no record's. The header is the first line that
is not empty, with the lines that its quoted names span in a CSV file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pe.data.lines import MAX_LINE_BYTES, canonical_encoding
from pe.errors import ConfigError, PrivateDataError

AUTO = "auto"

DELIMITERS = (",", ";", "\t", "|")
"""What ``auto`` chooses from, for CSV: the most frequent one outside of quotes in the header, the first of equals."""

MAX_RECORD_LINES = 256
"""Lines that a record may span where fields may hold line breaks."""

MAX_FIELD_CHARACTERS = 2**16
"""Characters of a field that holds line breaks, where no text column declares its own ``max_length``."""

_QUOTE = b'"'


@dataclass(frozen=True)
class CsvOptions:
    """Settings of the reader of CSV and TSV files.

    delimiter  one ASCII character, or "auto": from the header alone.
    encoding   UTF-8, UTF-16, one of the encodings of one byte per character that contain ASCII ("latin-1", "cp1252"),
               or "auto": UTF-8, or what the byte-order mark says.
    multiline  whether quoted fields may hold line breaks; None: in CSV files of schemas with a text column.
    has_text   that the schema of the data has a text column, where a part of its columns is read without it.

    Raises ConfigError for values that are none of these.
    """

    delimiter: str = AUTO
    encoding: str = AUTO
    multiline: bool | None = None
    has_text: bool = False

    def __post_init__(self) -> None:
        if self.delimiter != AUTO and (
            len(self.delimiter) != 1 or not self.delimiter.isascii() or self.delimiter in '"\r\n\0'
        ):
            raise ConfigError(
                f"delimiter: expected 'auto' or one ASCII character other than a quote or a line's end, got "
                f"{self.delimiter!r}. Nothing was spent."
            )
        if self.encoding != AUTO and canonical_encoding(self.encoding) is None:
            raise ConfigError(
                "encoding: expected 'auto', 'utf-8', 'utf-16' or an encoding of one byte per character such as "
                f"'latin-1', got {self.encoding!r}: save the data as UTF-8. Nothing was spent."
            )

    def require_defaults(self, kind: str) -> None:
        """Raise ConfigError if anything is set: data of this kind are neither CSV nor TSV."""
        for name in ("delimiter", "encoding", "multiline"):
            if getattr(self, name) not in (AUTO, None):
                raise ConfigError(f"{name} is a setting for CSV and TSV files, the data are {kind}. Nothing was spent.")


DEFAULT_OPTIONS = CsvOptions()


@dataclass(frozen=True)
class Dialect:
    """What the reader goes by in one file.

    names      of its columns, white space around them trimmed.
    delimiter  one byte.
    encoding   as Python names it.
    multiline  whether a quoted field may hold line breaks.
    """

    names: tuple[str, ...]
    delimiter: bytes
    encoding: str
    multiline: bool

    def description(self) -> str:
        """What a record of the file is, how fields are parted and text is encoded: public facts, in a sentence."""
        form = f"delimiter {self.delimiter.decode()!r}, encoding {self.encoding.upper()}"
        if self.multiline:
            return (
                f"the header of the private file ({form}), and that the file is escaped as RFC 4180 says: a record is "
                f"a line, or the lines, at most {MAX_RECORD_LINES}, over which its quoted fields run"
            )
        return f"the header of the private file ({form}); a record is one line after it"


def split_header(lines: bytes, setting: str, *, tsv: bool, final: bool) -> tuple[bytes, bytes] | None:
    """The header, and what follows it, of whole lines that each end with LF; None where more lines must be seen.

    In CSV, a name whose quote is closed in a later line takes in the line breaks before, if all of the header is then
    quoted as RFC 4180 says. Otherwise the header is one line. ``setting`` is that of the delimiter; ``final`` says that
    no more lines follow. The header is empty where there is none.
    """
    lines = lines.lstrip(b"\n")
    if not lines:
        return (b"", b"") if final else None
    first = end = lines.index(b"\n")
    for _ in range(MAX_RECORD_LINES):
        if tsv or end < 0 or end > MAX_LINE_BYTES or lines.count(_QUOTE, 0, end) % 2 == 0:
            break
        end = lines.find(b"\n", end + 1)
    if end < 0 and len(lines) <= MAX_LINE_BYTES and not final:
        return None
    if end != first and (end < 0 or not _well_quoted(lines[:end], setting)):
        end = first
    return lines[:end], lines[end + 1 :]


def detect_delimiter(header: bytes, setting: str, *, tsv: bool) -> bytes:
    """The delimiter of a header, one byte; see ``DELIMITERS``."""
    if setting != AUTO:
        return setting.encode("ascii")
    if tsv:
        return b"\t"
    unquoted = b"".join(header.split(_QUOTE)[::2])
    return max((each.encode("ascii") for each in DELIMITERS), key=unquoted.count)


def _well_quoted(header: bytes, setting: str) -> bool:
    """Whether every name is without quotes, or quoted from its first to its last byte."""
    delimiter = re.escape(detect_delimiter(header, setting, tsv=False))
    name = rb'(?:"[^"]*(?:""[^"]*)*"|[^"\n%s]*)' % delimiter
    return re.fullmatch(rb"%s(?:%s%s)*" % (name, delimiter, name), header) is not None


def decode_names(fields: list[bytes], name: str) -> tuple[str, ...]:
    """The names in a header; raises PrivateDataError for a header that is not in the encoding."""
    if any(b"\0" in field for field in fields):
        raise PrivateDataError(
            f"{name}: the header holds zero bytes: if the file is UTF-16, set encoding to 'utf-16-le' or 'utf-16-be'. "
            "Nothing was spent."
        )
    try:
        return tuple(field.decode().strip() for field in fields)
    except UnicodeDecodeError:
        raise PrivateDataError(
            f"{name}: the header is not in the file's encoding (UTF-8 unless set): set encoding, such as 'latin-1' or "
            "'cp1252'. Nothing was spent."
        ) from None
