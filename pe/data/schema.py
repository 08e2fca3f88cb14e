"""The schema: what is public about the records. Declared by the user or bought, never inferred from private rows."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import tomli_w

from pe.data.columns import BOOLEANS as BOOLEANS
from pe.data.columns import Categorical as Categorical
from pe.data.columns import Column as Column
from pe.data.columns import Datetime as Datetime
from pe.data.columns import Image as Image
from pe.data.columns import Key as Key
from pe.data.columns import Numeric as Numeric
from pe.data.columns import Text as Text
from pe.data.columns import boolean as boolean
from pe.data.columns import column_from
from pe.data.constraints import Constraint, check, constraint_from
from pe.data.labels import MOST_LABELS, as_label, joined, label_names
from pe.data.public_files import files_of_schema, require_public
from pe.errors import SchemaError

RESERVED = "pe."
"""Prefix of the columns that a stored population adds to a record; no declared column may start with it."""

_UNSPENT = " Nothing was spent."


@dataclass(frozen=True)
class Purchase:
    """What was learnt from the private data for this schema, and what it cost: a charge of its own in the ledger."""

    what: str
    source: str
    epsilon: float
    delta: float
    entry: str

    def __str__(self) -> str:
        return (
            f"{self.what}: bought from source '{self.source}' at epsilon {self.epsilon:g}, delta {self.delta:g} "
            f"(ledger entry {self.entry[:16]})"
        )


@dataclass(frozen=True)
class Schema:
    """Columns in order; ``label`` names the categorical column that conditions generation, if any, or several.

    label        of several columns every combination of their values is a label; they are kept as a tuple, a list of
                 one as its name.
    keys         ids made for the output; they stand before the columns.
    ignore       columns that the user declares to be dropped. Like all undeclared ones they are not read.
    constraints  what holds within every synthetic record.
    bought       what of this schema was bought from private data.
    """

    columns: tuple[Column, ...]
    label: str | Sequence[str] | None = None
    keys: tuple[Key, ...] = ()
    ignore: tuple[str, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    bought: tuple[Purchase, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", as_label(self.label))
        names = [column.name for column in (*self.columns, *self.keys)]
        for name in names:
            if names.count(name) > 1:
                raise SchemaError(f"column '{name}' is declared twice.")
            if not name or name.startswith(RESERVED):
                raise SchemaError(f"expected column names without the reserved prefix '{RESERVED}', got '{name}'.")
            if name in self.ignore:
                raise SchemaError(f"column '{name}' is declared, and listed in ignore.")
        if not self.columns:
            raise SchemaError("expected at least one column.")
        for name in self.label_columns:
            if not isinstance(self.column(name), Categorical):
                raise SchemaError(
                    f"label '{name}' must be a categorical column: its values are the label set. Nothing was spent."
                )
            if self.column(name).missing:
                raise SchemaError(
                    f"label '{name}' cannot be missing: name a value such as 'unknown' for it, and make it the "
                    "default. Nothing was spent."
                )
        if not self.features:
            raise SchemaError("expected at least one column beside the label.")
        if len(self.label_columns) > 1 and (count := math.prod(self.label_shape)) > MOST_LABELS:
            raise SchemaError(
                f"label '{self.label_name}': its columns have {count} combinations of values, expected at most "
                f"{MOST_LABELS}: each of them is a label. Name fewer columns. Nothing was spent."
            )
        check(self.constraints, {column.name: column for column in self.columns}, self.label_columns)

    def column(self, name: str) -> Column:
        for column in self.columns:
            if column.name == name:
                return column
        declared = ", ".join(f"'{column.name}'" for column in self.columns)
        raise SchemaError(f"the schema has no column '{name}'; it declares {declared}. Nothing was spent.")

    def categorical(self, name: str) -> Categorical:
        """A column that is known to be categorical, such as one of the label."""
        column = self.column(name)
        assert isinstance(column, Categorical)
        return column

    @property
    def features(self) -> tuple[Column, ...]:
        """All columns but those of the label."""
        own = self.label_columns
        return tuple(column for column in self.columns if column.name not in own)

    @property
    def label_columns(self) -> tuple[str, ...]:
        """Names of the columns that together are the label; empty when there is none."""
        return label_names(self.label)

    @property
    def label_name(self) -> str:
        """What people call the label: its column, or its columns "a / b"; empty when there is none."""
        return joined(self.label_columns)

    @property
    def label_shape(self) -> tuple[int, ...]:
        """How many values each of the label's columns has."""
        return tuple(len(self.categorical(name).values) for name in self.label_columns)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The label set; of several columns the joined values, the last column's varying fastest; one empty name when
        there is no label."""
        values = [self.categorical(name).values for name in self.label_columns]
        return tuple(map(joined, product(*values))) if values else ("",)

    @property
    def image(self) -> Image | None:
        """The image column, if there is one."""
        return next((column for column in self.columns if isinstance(column, Image)), None)

    @property
    def text(self) -> Text | None:
        """The text column, if there is one; the first of several."""
        return next((column for column in self.columns if isinstance(column, Text)), None)

    def with_label(self, label: str | Sequence[str] | None) -> Schema:
        return replace(self, label=label)

    def arrow(self) -> pa.Schema:
        """Arrow types of the features."""
        return pa.schema([pa.field(column.name, column.arrow(), nullable=column.missing) for column in self.features])

    def fingerprint(self) -> str:
        return sha256(self.to_toml().encode()).hexdigest()

    def to_toml(self) -> str:
        content: dict[str, Any] = {} if self.label is None else {"label": self.label}  # a tuple is an array
        content |= {"ignore": list(self.ignore)} if self.ignore else {}
        content["columns"] = {column.name: column.to_dict() for column in (*self.keys, *self.columns)}
        content |= {"constraints": [each.to_dict() for each in self.constraints]} if self.constraints else {}
        content |= {"bought": [vars(each) for each in self.bought]} if self.bought else {}
        return tomli_w.dumps(content)

    @classmethod
    def from_toml(cls, text: str, folder: str | Path = ".") -> Schema:
        """Parse ``[columns.NAME]`` tables; raises SchemaError naming the column and the key.

        ``folder`` is where the files lie that constraints name.
        """
        return cls.from_dict(parsed(text), folder)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], folder: str | Path = ".") -> Schema:
        unknown = set(content) - {"columns", "label", "ignore", "constraints", "bought"}
        columns = content.get("columns")
        if unknown or not isinstance(columns, dict):
            raise SchemaError(
                "expected a schema of [columns.NAME] tables and an optional label"
                + (f", got key '{sorted(unknown)[0]}'." if unknown else ".")
            )
        ignore = content.get("ignore", [])
        if not (isinstance(ignore, list) and all(isinstance(name, str) for name in ignore)):
            raise SchemaError("expected names of columns for 'ignore'.")
        constraints, bought = content.get("constraints", []), content.get("bought", [])
        if not isinstance(constraints, list) or not isinstance(bought, list):
            raise SchemaError("expected [[constraints]] and [[bought]] tables.")
        found = [column_from(name, entry, Path(folder)) for name, entry in columns.items()]
        return cls(
            tuple(column for column in found if not isinstance(column, Key)),
            content.get("label"),
            tuple(column for column in found if isinstance(column, Key)),
            tuple(ignore),
            tuple(constraint_from(entry, Path(folder)) for entry in constraints),
            tuple(_purchase(entry) for entry in bought),
        )

    @classmethod
    def read(cls, path: str | Path, *, private: str | Path | None = None) -> Schema:
        """Read a schema file; the public files that it names must not be those of ``private``, where that is known."""
        require_public(files_of_schema(path), private, f"the schema {path}")
        with refused(path):
            return cls.from_toml(Path(path).read_text(encoding="utf-8"), Path(path).parent)


def parsed(text: str) -> dict[str, Any]:
    """The content of a schema file; raises SchemaError."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SchemaError(f"the schema is not valid TOML: {error}.") from None


@contextmanager
def refused(path: str | Path) -> Iterator[None]:
    """Name the schema file in every error about it."""
    try:
        yield
    except OSError as error:
        raise SchemaError(f"the schema {path} cannot be read: {error.strerror}. Nothing was spent.") from None
    except UnicodeDecodeError:
        raise SchemaError(f"the schema {path} is not UTF-8 text. Nothing was spent.") from None
    except SchemaError as error:
        raise SchemaError(f"{path}: {str(error).removesuffix(_UNSPENT)}{_UNSPENT}") from None


def _purchase(entry: object) -> Purchase:
    try:
        return Purchase(**entry)  # type: ignore[arg-type]
    except TypeError:
        raise SchemaError("expected what, source, epsilon, delta and entry in a [[bought]] table.") from None
