"""Whole lines of a text file, in UTF-8 and in bounded memory, whatever its compression and encoding.

A line ends with LF or CRLF; a lone CR is part of it. Every line is decoded by itself: what one holds changes no other.
Bytes that do not decode stay bytes that are not UTF-8, so that the value that holds them can be told to be unreadable.
"""

from __future__ import annotations

import codecs
import gzip
from collections.abc import Iterator
from importlib import import_module
from typing import IO, cast

from pe.errors import PrivateDataError

BLOCK_BYTES = 2**22
"""Bytes read at a time."""

MAX_LINE_BYTES = 2**24
"""Bytes, in UTF-8, of the longest line that is read; of a longer one just enough is kept to tell that it is longer."""

MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
"""Byte-order marks, and the encoding that each stands for."""

_GZIP = b"\x1f\x8b"
_ARCHIVES = {b"PK\x03\x04": "a ZIP archive or an Excel workbook", b"PAR1": "a Parquet file", b"ARRO": "an Arrow file"}


def decompressed(file: IO[bytes]) -> IO[bytes]:
    """The file itself, or what is in it where its first bytes are those of gzip."""
    start = file.read(2)
    file.seek(0)
    return cast(IO[bytes], gzip.GzipFile(fileobj=file)) if start == _GZIP else file


def canonical_encoding(name: str) -> str | None:
    """Python's name of an encoding in which every line can be decoded by itself; None for any other.

    Those are UTF-8, UTF-16, and the encodings of one byte per character that contain ASCII.
    """
    try:
        found = codecs.lookup(name).name
    except LookupError:
        return None
    if found in ("utf-8", "utf-8-sig", "ascii"):
        return "utf-8"
    if found in ("utf-16", "utf-16-le", "utf-16-be"):
        return found
    try:
        module = import_module(f"encodings.{found.replace('-', '_')}")
    except ImportError:
        return None
    table = getattr(module, "decoding_table", "")  # a character for each byte
    return found if table[:128] == bytes(range(128)).decode() else None


def detect_encoding(start: bytes, setting: str, name: str) -> tuple[str, int]:
    """The encoding of a file that begins with ``start``, and the length of its byte-order mark.

    ``setting`` is "auto" (the mark's encoding, UTF-8 without one) or an encoding. Raises PrivateDataError where mark
    and setting contradict each other, and for files that are no text. Looks at the first four bytes alone.
    """
    for archive, kind in _ARCHIVES.items():
        if start.startswith(archive):
            raise PrivateDataError(f"{name} is {kind}, not text: save it as CSV, or set format. Nothing was spent.")
    mark = next((each for each in MARKS if start.startswith(each)), b"")
    marked = MARKS.get(mark, "utf-8")
    if canonical_encoding(marked) is None:
        raise PrivateDataError(f"{name} is in {marked.upper()}: save it as UTF-8. Nothing was spent.")
    if setting == "auto":
        return marked, len(mark)
    chosen = canonical_encoding(setting) or setting
    if chosen == "utf-16":
        return (marked if mark and marked != "utf-8" else "utf-16-le"), len(mark)
    if mark and marked != chosen:
        raise PrivateDataError(
            f"{name} begins with the byte-order mark of {marked.upper()}, encoding is set to {setting!r}: leave "
            "encoding out. Nothing was spent."
        )
    return chosen, len(mark)


def utf8_chunks(file: IO[bytes], encoding: str, skip: int = 0) -> Iterator[bytes]:
    """The bytes of a file after the first ``skip``, transcoded to UTF-8."""
    file.seek(skip)
    if encoding == "utf-8":
        while data := file.read(BLOCK_BYTES):
            yield data
    elif encoding.startswith("utf-16"):
        # lone surrogates come out as bytes that are not UTF-8; half a code unit at the end is dropped
        decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
        while data := file.read(BLOCK_BYTES):
            yield decoder.decode(data).encode("utf-8", "surrogatepass")
        rest = bytes(decoder.getstate()[0])
        yield rest[: len(rest) // 2 * 2].decode(encoding, "surrogatepass").encode("utf-8", "surrogatepass")
    else:
        while data := file.read(BLOCK_BYTES):
            yield data.decode(encoding, "surrogateescape").encode("utf-8", "surrogateescape")


def line_blocks(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Blocks of whole lines, each ended by one LF, the last one too."""
    longest = MAX_LINE_BYTES + 2  # one byte too many, and a CR that may belong to the line's end
    rest = b""
    for chunk in chunks:
        cut = chunk.rfind(b"\n") + 1
        if cut:
            yield _with_plain_ends(rest + chunk[:cut])
            rest = chunk[cut:]
        elif len(rest) < longest:
            rest = (rest + chunk)[:longest]
    if rest:
        yield _with_plain_ends(rest + b"\n")


def _with_plain_ends(lines: bytes) -> bytes:
    return lines.replace(b"\r\n", b"\n") if b"\r" in lines else lines
