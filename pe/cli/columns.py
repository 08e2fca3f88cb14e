"""Columns declared by hand: ``pe init --columns``, names from a header, and questions at a terminal."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pe.cli.output import out
from pe.cli.templates import toml_value
from pe.data.columns import values_from
from pe.data.dialect import CsvOptions
from pe.data.labels import label_names
from pe.errors import ConfigError, PrivateDataError, SchemaError

TYPES = {
    "integer": ("min", "max"),
    "float": ("min", "max", "step"),
    "date": ("min", "max"),
    "datetime": ("min", "max"),
    "categorical": ("values",),
    "ordinal": ("values",),
    "boolean": (),
    "text": (),
    "key": (),
}
"""What a column of each type is asked for, in the order of ``--columns``."""

_OPTIONAL = ("step",)
_HINTS = {
    "min": "the least value that may occur; public knowledge, never looked up in the private data",
    "max": "the greatest value that may occur",
    "step": "released numbers are multiples of it",
    "values": 'every value that may occur, or values_file = "values.txt" with one a line',
}
_FORM = "NAME:TYPE[:...] such as 'age:integer:0:120,plan:categorical:basic|pro,zip:categorical:@zips.txt'"

Entry = dict[str, Any]


def declare(
    columns: str | None, header: Path | None, label: Sequence[str], folder: Path, options: CsvOptions, *, ask: bool
) -> tuple[str, list[str]] | None:
    """The text of a schema file for ``folder`` with what was said of each column, and remarks on what is left out.

    columns  as ``--columns`` gives them; ``header``: private data whose names, and nothing else, are taken.
    ask      ask for what is missing. Where nothing at all was said, None is returned for an empty answer.

    Raises ConfigError, nothing written.
    """
    if columns is None and header is None:
        out.print(f"Columns, as {_FORM}; empty for an example to edit.", highlight=False, markup=False)
        columns = _answer("columns")
        if not columns:
            return None
    entries = {} if columns is None else parse_columns(columns)
    if header is not None:
        names = names_of(header, options)
        if strangers := [name for name in entries if name not in names]:
            raise ConfigError(f"--columns: {header} has no column '{strangers[0]}'. Nothing was written.")
        entries = {name: entries.get(name, {}) for name in names}
    for name in label_names(tuple(label) or None):
        if name not in entries:
            raise ConfigError(f"--label: no column '{name}' is declared. Nothing was written.")
        entries[name].setdefault("type", "categorical")
    if ask:
        entries = {name: _asked(name, entry) for name, entry in entries.items()}
    ignored = [name for name, entry in entries.items() if entry.get("type") == "ignore"]
    kept = {name: _from(folder, name, entry) for name, entry in entries.items() if name not in ignored}
    return _schema_text(kept, ignored), _gaps(kept)


def parse_columns(text: str) -> dict[str, Entry]:
    """``NAME:TYPE:...``, separated by commas, to entries of a schema file; raises ConfigError."""
    entries: dict[str, Entry] = {}
    for item in text.split(","):
        name, *said = (part.strip() for part in item.split(":"))
        # times of day hold colons themselves
        kind = said[0] if said else ""
        if kind == "datetime" and len(said) > 3:
            said = [kind, *_instants(":".join(said[1:]), name)]
        if not name or (kind and kind not in (*TYPES, "ignore")):
            known = ", ".join(TYPES)
            raise ConfigError(f"--columns: expected {_FORM}, types {known}; got '{item.strip()}'. Nothing was written.")
        if name in entries:
            raise ConfigError(f"--columns: '{name}' is named twice. Nothing was written.")
        keys = TYPES.get(kind, ())
        if len(said) - 1 > len(keys):
            listed = ":".join(("NAME", kind, *(key.upper() for key in keys)))
            raise ConfigError(f"--columns: expected {listed}, got '{item.strip()}'. Nothing was written.")
        entry: Entry = {"type": kind} if kind else {}
        for key, value in zip(keys, said[1:], strict=False):
            if value:
                entry |= _setting(name, kind, key, value)
        entries[name] = entry
    return entries


def _instants(text: str, name: str) -> list[str]:
    """The two instants of ``2024-01-01T00:00:2024-12-31T23:59``, whose times hold colons."""
    place = next((n for n in range(1, len(text)) if text[n] == ":" and text[n + 1 : n + 6].endswith("-")), None)
    if place is None:
        raise ConfigError(
            f"--columns: expected {name}:datetime:MIN:MAX in ISO form, got '{text}'. Nothing was written."
        )
    return [text[:place], text[place + 1 :]]


def _setting(name: str, kind: str, key: str, value: str) -> Entry:
    """One key of an entry, from its text; raises ConfigError."""
    if key == "values":
        if value.startswith("@"):
            return {"values_file": value[1:]}
        return {"values": [part.strip() for part in value.split("|")]}
    if kind in ("date", "datetime"):
        return {key: value}
    try:
        return {key: int(value) if kind == "integer" else float(value)}
    except ValueError:
        raise ConfigError(f"--columns: expected a number for '{key}' of '{name}', got '{value}'.") from None


def names_of(header: Path, options: CsvOptions) -> list[str]:
    """The names of the columns of private data, and nothing else of them. Raises ConfigError."""
    from pe.data.parts import locate
    from pe.data.sample import declared_fields
    from pe.data.times import instant

    try:
        place = locate(header, options=options)
        if place.kind not in ("csv", "tsv", "parquet", "arrow", "datasets"):
            raise ConfigError(
                f"--header: {header} has no header apart from its records (format {place.kind}): name the columns with "
                "--columns. Nothing was written."
            )
        names = [name for name in declared_fields(place).names if name]
    except (PrivateDataError, SchemaError) as error:
        raise ConfigError(f"--header: {str(error).removesuffix(' Nothing was spent.')} Nothing was written.") from None
    if not names or any(_is_value(name) or instant(name) is not None for name in names):
        raise ConfigError(
            f"--header: the first line of {header} looks like a record, not like names: it was not used. Nothing was "
            "written."
        )
    return names


def _is_value(name: str) -> bool:
    try:
        float(name or "nan")
    except ValueError:
        return False
    return True


def _asked(name: str, entry: Entry) -> Entry:
    """The entry with what was missing, as answered at the terminal."""
    label = f"column {name}"
    if "type" not in entry:
        kinds = (*TYPES, "ignore")
        entry = {"type": _answer(f"{label}: type ({', '.join(kinds)})", lambda answer: answer in kinds)} | entry
    kind = entry["type"]
    for key in TYPES.get(kind, ()):
        if key in entry or (key == "values" and "values_file" in entry):
            continue
        hint = "separated by |, or @FILE with one a line" if key == "values" else _HINTS[key]

        def fits(answer: str, key: str = key) -> bool:
            try:
                _setting(name, kind, key, answer)
            except ConfigError:
                return False
            return bool(answer) or key in _OPTIONAL

        answer = _answer(f"{label}, {kind}: {key} ({hint})", fits if key not in _OPTIONAL else lambda _: True)
        if answer:
            entry |= _setting(name, kind, key, answer)
    return entry


def _from(folder: Path, name: str, entry: Entry) -> Entry:
    """The entry with its file of values, which was named from here, as named from the schema's folder."""
    if "values_file" not in entry:
        return entry
    path = Path(entry["values_file"])
    values_from(name, path, "file of values")
    return entry | {"values_file": os.path.relpath(path.resolve(), folder.resolve())}


def _answer(question: str, fits: Callable[[str], bool] = lambda _: True) -> str:
    while True:
        out.print(f"{question}: ", end="", highlight=False, markup=False)
        try:
            answer = input().strip()
        except EOFError:
            raise ConfigError("the questions were not answered to the end. Nothing was written.") from None
        if fits(answer):
            return answer


def _schema_text(entries: Mapping[str, Entry], ignored: Sequence[str]) -> str:
    """A schema file; what is missing stands in it as a comment."""
    lines = ["# What everyone may know about the records, declared by hand.", ""]
    if ignored:
        lines += [f"ignore = {toml_value(list(ignored))}", ""]
    for name, entry in entries.items():
        lines.append(f"[columns.{_key(name)}]")
        lines += [f"{key} = {toml_value(value)}" for key, value in entry.items()]
        if "type" not in entry:
            lines.append(f"# type =   # {', '.join(TYPES)}")
        for key in _missing(entry):
            lines.append(f"# {key} =   # {_HINTS[key]}")
        lines.append("")
    return "\n".join(lines)


def _missing(entry: Entry) -> list[str]:
    keys = TYPES.get(str(entry.get("type")), ())
    return [
        key
        for key in keys
        if key not in entry and key not in _OPTIONAL and not (key == "values" and "values_file" in entry)
    ]


def _gaps(entries: Mapping[str, Entry]) -> list[str]:
    remarks = []
    for name, entry in entries.items():
        gaps = ["type"] if "type" not in entry else _missing(entry)
        if gaps:
            remarks.append(f"column '{name}': fill in {' and '.join(gaps)} in the schema")
    return remarks


def _key(name: str) -> str:
    """A name as a key of TOML, quoted unless it is bare."""
    return name if name.isascii() and name.replace("_", "").replace("-", "").isalnum() else toml_value(name)
