"""The files behind a path: one file, a folder of parts, a pattern, or an address such as s3://bucket/part-*.parquet.

Parts are read in the order of their names. Errors name the path that was given, never a part of it: file names inside
it may be private.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from glob import glob
from pathlib import Path, PurePosixPath
from typing import IO, Any

from pe.data.dialect import DEFAULT_OPTIONS, CsvOptions
from pe.errors import PrivateDataError

FORMATS = {".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".pq": "parquet", ".arrow": "arrow"}
FORMATS |= {".feather": "arrow", ".ipc": "arrow", ".npz": "npz", ".jsonl": "jsonl", ".ndjson": "jsonl"}
KINDS = (*sorted(set(FORMATS.values())), "datasets", "imagefolder")

_PARTED = ("arrow", "csv", "jsonl", "parquet", "tsv")
"""Formats that may come in many files."""


_FOREIGN = (".xls", ".xlsx", ".xlsm", ".ods", ".sav", ".dta", ".sas7bdat", ".xpt", ".rds", ".rdata", ".db", ".sqlite")
"""Suffixes of workbooks, statistics packages and databases, which are not read."""

_COMPRESSED = ("csv", "jsonl", "tsv")
"""Formats that may be compressed by gzip."""

_GZIP_RATIO = 16
"""How many times as large as a file compressed by gzip its content is taken to be; tables are often 3 to 10 times."""


def format_of(path: str | Path) -> str:
    """The format that a file's name says it has, "x.csv.gz" as "x.csv"; an empty text if it says none."""
    name = PurePosixPath(str(path))
    if name.suffix.lower() != ".gz":
        return FORMATS.get(name.suffix.lower(), "")
    kind = FORMATS.get(PurePosixPath(name.stem).suffix.lower(), "")
    return kind if kind in _COMPRESSED else ""


@dataclass(frozen=True)
class Part:
    """One file: its size in bytes, and how to open it."""

    size: int
    open: Callable[[], IO[bytes]]


@dataclass(frozen=True)
class Place:
    """What a path holds: files of one format, or a folder of images. The options are those of CSV and TSV files."""

    name: str
    kind: str
    parts: tuple[Part, ...] = ()
    options: CsvOptions = DEFAULT_OPTIONS

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(part.size for part in self.parts)


def is_address(path: object) -> bool:
    return isinstance(path, str) and "://" in path


def place_of(path: str | Path) -> str:
    """A path made absolute; an address as it is."""
    return str(path) if is_address(path) else str(Path(path).resolve())


def locate(path: str | Path, format: str | None = None, options: CsvOptions | None = None) -> Place:
    """Find the files behind a path; ``format`` says what they are where their names do not.

    ``options`` are settings for CSV and TSV files. Raises PrivateDataError where there is nothing, nothing but empty
    files, or files of several formats, ConfigError for options that the format does not have.
    """
    name, options = str(path), options or DEFAULT_OPTIONS
    found = _remote(name) if is_address(path) else _local(Path(path), name, format)
    if isinstance(found, Place):
        options.require_defaults(found.kind)
        return found
    kinds = {format or format_of(each) for each in found}
    if len(kinds) > 1:
        raise PrivateDataError(f"{name} holds files of several formats: name one kind by a pattern. Nothing was spent.")
    kind = kinds.pop()
    if kind not in FORMATS.values() or (len(found) > 1 and kind not in _PARTED):
        known = ", ".join(KINDS)
        foreign = any(PurePosixPath(each).suffix.lower() in _FOREIGN for each in found)
        advice = "save it as CSV or Parquet" if foreign else f"set format to one of {known}"
        raise PrivateDataError(f"{name}: unknown format; {advice}. Nothing was spent.")
    # without a header line an empty file is one of no records
    parts = tuple(part for part in found.values() if part.size or kind == "jsonl")
    if not parts:
        raise PrivateDataError(f"{name} is empty. Nothing was spent.")
    if kind not in ("csv", "tsv"):
        options.require_defaults(kind)
    return Place(name, kind, parts, options)


def _local(path: Path, name: str, format: str | None) -> dict[str, Part] | Place:
    if path.is_dir():
        if format == "datasets" or (format is None and _saved(path)):
            return Place(name, "datasets", tuple(_part(each) for each in _shards(path)))
        files = {each: _kind(each, format) for each in sorted(path.iterdir()) if each.is_file()}
        if format == "imagefolder" or (format is None and not any(files.values())):
            return Place(str(path), "imagefolder")
        found = [each for each, kind in files.items() if kind]
    elif path.exists():
        if not path.is_file():
            raise PrivateDataError(f"{name} is neither a regular file nor a folder. Nothing was spent.")
        if format in ("datasets", "imagefolder"):
            raise PrivateDataError(f"{name} is a file, format '{format}' a folder. Nothing was spent.")
        found = [path]
    else:
        found = [Path(each) for each in sorted(glob(name)) if Path(each).is_file()]
    if not found:
        lacks = "does not exist" if not path.exists() else f"holds no file of format '{format}'"
        raise PrivateDataError(f"{name} {lacks}. Nothing was spent.")
    return {str(each): _part(each) for each in found}


def _kind(path: Path, format: str | None) -> str:
    """A file's format where it may be a part of a folder, else an empty text; hidden files and marks are none."""
    kind = "" if path.name[0] in "._" else format_of(path)
    return kind if kind in _PARTED and format in (None, kind) else ""


def _part(path: Path) -> Part:
    return Part(_size(path.name, path.stat().st_size), lambda: path.open("rb"))


def _size(name: str, size: int) -> int:
    """Bytes of a file, for a compressed one an estimate of what is in it."""
    return size * _GZIP_RATIO if name.lower().endswith(".gz") else size


def _saved(path: Path) -> bool:
    return (path / "state.json").exists() or (path / "dataset_dict.json").exists()


def _shards(path: Path) -> list[Path]:
    """Arrow files of a data set that the Hugging Face library's ``save_to_disk`` wrote."""
    import json

    if not (path / "state.json").exists():
        splits = (path / "dataset_dict.json").exists()
        hint = "it holds several splits: name the folder of one" if splits else "expected a saved data set"
        raise PrivateDataError(f"{path}: {hint}, with its state.json. Nothing was spent.")
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        selected = state.get("_indices_data_files")
        shards = [path / str(each["filename"]) for each in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise PrivateDataError(f"{path}: its state.json is damaged. Nothing was spent.") from None
    if selected:  # written by versions before 2.0
        raise PrivateDataError(f"{path} holds a selection by index: save it again, flattened. Nothing was spent.")
    if not all(shard.is_file() for shard in shards):
        raise PrivateDataError(f"{path}: a file that its state.json names is missing. Nothing was spent.")
    return shards


def _remote(name: str) -> dict[str, Part]:
    try:
        import fsspec
    except ImportError:
        raise PrivateDataError(
            f"{name}: reading an address needs the package fsspec, and the one for its protocol: install 'pe-synth"
            "[remote]'. Nothing was spent."
        ) from None
    try:
        system, path = fsspec.core.url_to_fs(name)
        paths = system.glob(path) if any(each in path for each in "*?[") else [path]
        if paths == [path] and system.isdir(path):
            paths = [each for each in system.ls(path, detail=False) if _kind(Path(each), None)]
        details: dict[str, Any] = {each: system.info(each) for each in sorted(paths) if system.isfile(each)}
    except Exception as error:
        raise PrivateDataError(f"{name} cannot be reached: {type(error).__name__}. Nothing was spent.") from None
    if not details:
        raise PrivateDataError(f"{name} does not exist. Nothing was spent.")

    def opener(each: str) -> Callable[[], IO[bytes]]:
        return lambda: system.open(each, "rb")

    return {each: Part(_size(each, int(about["size"] or 0)), opener(each)) for each, about in details.items()}
