"""The schema: what is public about the records. Declared by the user, never inferred from private rows."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import tomli_w

from pe.errors import SchemaError

RESERVED = "pe."
"""Prefix of the columns that a stored population adds to a record; no declared column may start with it."""


@dataclass(frozen=True)
class Numeric:
    """A number in [minimum, maximum]; stored as float64, or int64 when ``integer``.

    A value outside is clipped to the nearer bound; a missing or unreadable one becomes ``default`` (declared, else the
    middle of the domain).
    """

    name: str
    minimum: float
    maximum: float
    integer: bool = False
    default: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.minimum) and math.isfinite(self.maximum) and self.minimum <= self.maximum):
            raise SchemaError(
                f"column '{self.name}': expected finite min <= max, got min {self.minimum}, max {self.maximum}."
            )
        if self.integer and not (float(self.minimum).is_integer() and float(self.maximum).is_integer()):
            raise SchemaError(f"column '{self.name}': expected whole min and max for an integer column.")
        if self.integer and max(abs(self.minimum), abs(self.maximum)) > 2**53:
            raise SchemaError(f"column '{self.name}': expected min and max within 2**53 for an integer column.")
        if self.default is not None and not self.minimum <= self.default <= self.maximum:
            raise SchemaError(f"column '{self.name}': expected default in [min, max], got {self.default}.")

    @property
    def fallback(self) -> float:
        middle = self.minimum / 2 + self.maximum / 2
        value = middle if self.default is None else self.default
        return float(round(value)) if self.integer else value

    def arrow(self) -> pa.DataType:
        return pa.int64() if self.integer else pa.float64()

    def to_dict(self) -> dict[str, Any]:
        number = int if self.integer else float
        entry: dict[str, Any] = {"type": "integer" if self.integer else "float"}
        entry |= {"min": number(self.minimum), "max": number(self.maximum)}
        return entry | ({} if self.default is None else {"default": number(self.default)})


@dataclass(frozen=True)
class Categorical:
    """One of the declared strings; stored as a dictionary whose codes are positions in ``values``.

    Surrounding white space is ignored. A missing or undeclared value becomes ``default`` (declared, else the first).
    """

    name: str
    values: tuple[str, ...]
    default: str | None = None

    def __post_init__(self) -> None:
        if not self.values:
            raise SchemaError(f"column '{self.name}': expected at least one value.")
        if len(set(self.values)) != len(self.values):
            raise SchemaError(f"column '{self.name}': expected distinct values.")
        if any(value != value.strip() for value in self.values):
            raise SchemaError(f"column '{self.name}': expected values without surrounding white space.")
        if self.default is not None and self.default not in self.values:
            raise SchemaError(f"column '{self.name}': expected default among the values, got '{self.default}'.")

    @property
    def fallback(self) -> int:
        return 0 if self.default is None else self.values.index(self.default)

    def arrow(self) -> pa.DataType:
        return pa.dictionary(pa.int32(), pa.string())

    def to_dict(self) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "categorical", "values": list(self.values)}
        return entry | ({} if self.default is None else {"default": self.default})


@dataclass(frozen=True)
class Image:
    """A picture of height x width x channels bytes (channels 1 or 3); stored as a fixed-size list of uint8.

    Image files of another size or mode are resized and converted; an unreadable one becomes black.
    """

    name: str
    height: int
    width: int
    channels: int = 1

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1 or self.channels not in (1, 3):
            raise SchemaError(f"column '{self.name}': expected height, width >= 1 and channels 1 or 3.")

    @property
    def size(self) -> int:
        return self.height * self.width * self.channels

    def arrow(self) -> pa.DataType:
        return pa.list_(pa.uint8(), self.size)

    def to_dict(self) -> dict[str, Any]:
        return {"type": "image", "height": self.height, "width": self.width, "channels": self.channels}


Column = Numeric | Categorical | Image


@dataclass(frozen=True)
class Schema:
    """Columns in order; ``label`` names the categorical column that conditions generation, if any."""

    columns: tuple[Column, ...]
    label: str | None = None

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        for name in names:
            if names.count(name) > 1:
                raise SchemaError(f"column '{name}' is declared twice.")
            if not name or name.startswith(RESERVED):
                raise SchemaError(f"expected column names without the reserved prefix '{RESERVED}', got '{name}'.")
        if self.label is not None:
            if not isinstance(self.column(self.label), Categorical):
                raise SchemaError(
                    f"label '{self.label}' must be a categorical column: its values are the label set. "
                    "Nothing was spent."
                )
            if len(names) == 1:
                raise SchemaError("expected at least one column beside the label.")
        if not names:
            raise SchemaError("expected at least one column.")

    def column(self, name: str) -> Column:
        for column in self.columns:
            if column.name == name:
                return column
        declared = ", ".join(f"'{column.name}'" for column in self.columns)
        raise SchemaError(f"the schema has no column '{name}'; it declares {declared}. Nothing was spent.")

    @property
    def features(self) -> tuple[Column, ...]:
        """All columns but the label."""
        return tuple(column for column in self.columns if column.name != self.label)

    @property
    def labels(self) -> tuple[str, ...]:
        """The label set; one empty name when there is no label."""
        if self.label is None:
            return ("",)
        column = self.column(self.label)
        assert isinstance(column, Categorical)
        return column.values

    @property
    def image(self) -> Image | None:
        """The image column, if there is one."""
        return next((column for column in self.columns if isinstance(column, Image)), None)

    def with_label(self, label: str | None) -> Schema:
        return replace(self, label=label)

    def arrow(self) -> pa.Schema:
        """Arrow types of the features."""
        return pa.schema([pa.field(column.name, column.arrow(), nullable=False) for column in self.features])

    def fingerprint(self) -> str:
        return sha256(self.to_toml().encode()).hexdigest()

    def to_toml(self) -> str:
        head = {} if self.label is None else {"label": self.label}
        return tomli_w.dumps(head | {"columns": {column.name: column.to_dict() for column in self.columns}})

    @classmethod
    def from_toml(cls, text: str) -> Schema:
        """Parse ``[columns.NAME]`` tables; raises SchemaError naming the column and the key."""
        try:
            content = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise SchemaError(f"the schema is not valid TOML: {error}.") from None
        unknown = set(content) - {"columns", "label"}
        columns = content.get("columns")
        if unknown or not isinstance(columns, dict):
            raise SchemaError(
                "expected a schema of [columns.NAME] tables and an optional label"
                + (f", got key '{sorted(unknown)[0]}'." if unknown else ".")
            )
        return cls(tuple(_column(name, entry) for name, entry in columns.items()), content.get("label"))

    @classmethod
    def read(cls, path: str | Path) -> Schema:
        try:
            return cls.from_toml(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise SchemaError(f"the schema {path} cannot be read: {error.strerror}. Nothing was spent.") from None
        except UnicodeDecodeError:
            raise SchemaError(f"the schema {path} is not UTF-8 text. Nothing was spent.") from None
        except SchemaError as error:
            raise SchemaError(f"{path}: {error} Nothing was spent.") from None


def _column(name: str, entry: object) -> Column:
    if not isinstance(entry, Mapping):
        raise SchemaError(f"column '{name}': expected a table with a type.")
    kind = entry.get("type")
    keys = {
        "integer": {"min": True, "max": True, "default": False},
        "float": {"min": True, "max": True, "default": False},
        "categorical": {"values": True, "default": False},
        "image": {"height": True, "width": True, "channels": False},
    }.get(str(kind))
    if keys is None:
        raise SchemaError(f"column '{name}': expected type integer, float, categorical or image, got {kind!r}.")
    missing = [key for key, required in keys.items() if required and key not in entry]
    unknown = set(entry) - set(keys) - {"type"}
    if missing or unknown:
        raise SchemaError(
            f"column '{name}': "
            + (f"missing key '{missing[0]}'." if missing else f"unknown key '{sorted(unknown)[0]}'.")
        )
    if kind == "categorical":
        values = entry["values"]
        if not isinstance(values, list):
            raise SchemaError(f"column '{name}': expected values as a list.")
        default = entry.get("default")
        return Categorical(name, tuple(str(v) for v in values), None if default is None else str(default))
    numbers = {key: entry[key] for key in keys if key in entry}
    for key, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise SchemaError(f"column '{name}': expected a number for '{key}', got {value!r}.")
    if kind == "image":
        for key, value in numbers.items():
            if not isinstance(value, int):
                raise SchemaError(f"column '{name}': expected a whole number for '{key}', got {value!r}.")
        return Image(name, **numbers)
    return Numeric(name, numbers["min"], numbers["max"], kind == "integer", numbers.get("default"))
