"""Files that are declared public must not be the private data: not by another name, not as a copy, not in part.

Compared are files as such: the same inode, the same bytes, or, among files of lines, mostly the same long lines. That a
file is refused says something of the private data to whoever sees the error; it is meant for who holds them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator
from glob import glob
from hashlib import sha256
from itertools import islice
from pathlib import Path

from pe.data.parts import is_address, place_of
from pe.errors import ConfigError

FILE_KEYS = ("file", "values_file", "candidates_file")
"""Keys of a schema that name public files."""

LONG_LINE = 32
"""Bytes from which on the same line in two files is no coincidence; tables of few short fields repeat theirs."""

FEWEST_LINES = 5
"""Long lines of a public file from which on it is compared by lines."""

COMPARED_LINES = 1000
"""Lines of a public file that are compared."""

COMPARED_BYTES = 2**28
"""Bytes of the private files that are searched for them."""

_OF_LINES = {".csv", ".tsv", ".txt", ".jsonl", ".ndjson"}


def require_public(paths: Iterable[str | Path], private: str | Path | None, whose: str) -> None:
    """Raise ConfigError where one of the public files of ``whose`` is the private data, a copy or a part of them.

    Paths that name no regular file are passed over. Errors quote nothing but the path.
    """
    if private is None:
        return
    own = _files(private)
    for path in paths:
        is_same = place_of(path) == place_of(private)
        if is_same or any(_alike(file, other) for file in _files(path) for other in own):
            raise ConfigError(
                f"{whose} is given {path}, which is the private data themselves, a copy or a part of them: it may only "
                "know what is public. Nothing was spent."
            )


def files_of_schema(path: str | Path) -> list[Path]:
    """The public files that a schema file names; none where it cannot be read, which its reader tells."""
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    columns, constraints = content.get("columns"), content.get("constraints")
    tables = [*(columns.values() if isinstance(columns, dict) else ())]
    tables += constraints if isinstance(constraints, list) else []
    entries = [table for table in tables if isinstance(table, dict)]
    names = [entry[key] for entry in entries for key in FILE_KEYS if isinstance(entry.get(key), str)]
    return [Path(path).parent / name for name in names]


def _files(path: str | Path) -> list[Path]:
    """The regular files behind a path or a pattern; of a folder those that lie in it."""
    if not str(path) or is_address(path):  # an empty setting names nothing, not the current folder
        return []
    try:
        places = [Path(path)] if Path(path).exists() else [Path(name) for name in glob(str(path))]
        files = [file for place in places for file in (place.iterdir() if place.is_dir() else [place])]
        return [file for file in files if file.is_file()]
    except (OSError, ValueError):  # no path at all, or one that may not be looked at
        return []


def _alike(public: Path, private: Path) -> bool:
    try:
        if public.samefile(private):
            return True
        size = public.stat().st_size
        if size and size == private.stat().st_size and _digest(public) == _digest(private):
            return True
        return {public.suffix.lower(), private.suffix.lower()} <= _OF_LINES and _shares_lines(public, private)
    except OSError:
        return False


def _digest(path: Path) -> str:
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _shares_lines(public: Path, private: Path) -> bool:
    """Whether most long lines of the one file, its header aside, stand in the other."""
    lines = set(islice(_long_lines(public), COMPARED_LINES))
    if len(lines) < FEWEST_LINES:
        return False
    found = lines.intersection(_long_lines(private))
    return 2 * len(found) > len(lines)


def _long_lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.readline(2**24)
        while file.tell() < COMPARED_BYTES and (line := file.readline(2**24)):
            if len(line.strip()) >= LONG_LINE:
                yield line.strip()
