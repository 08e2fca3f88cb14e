"""The tables of an evaluation, brought to one form: numbers and category codes under shared names.

With a schema, every table is read by its rules, as a run reads private records (``pe.data.coerce``): what is missing or
outside the domain takes the value the schema says. Without one, a column is numeric if every value that is there, in
every table, is a number; one that in some table holds sentences rather than names, and hardly anything twice, is
free text; other columns are categories, and what is missing (empty, null, NaN, infinite) stays missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather
import pyarrow.parquet
from numpy.typing import NDArray

from pe.data import jsonl
from pe.data.coerce import coerce
from pe.data.constraints import Order
from pe.data.delimited import open_delimited
from pe.data.dialect import DEFAULT_OPTIONS
from pe.data.lines import decompressed
from pe.data.parts import format_of
from pe.data.read import read
from pe.data.schema import RESERVED, Categorical, Column, Datetime, Schema, Text
from pe.delivery import Synthetic, load
from pe.errors import ConfigError, PrivateDataError, SchemaError
from pe.run import stored_config
from pe.shield import shielded

MOST_CATEGORIES = 1000
"""Without a schema, a column with more distinct values that is no free text is left out."""

FREE_WORDS, FREE_SHARE = 5, 0.5
"""Without a schema, text of so many words on average, so much of it distinct, is free text."""

MOST_CLASSES = 20
"""Without a schema, a target of so few distinct whole numbers is a class label; one of more is a number to predict."""

LARGEST = 1e100
"""Numbers of a larger magnitude are taken for this one."""

_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,5})?$"


@dataclass(frozen=True)
class Field:
    """A column: its categories, or None for numbers with the declared domain, if there is one.

    dates  what the numbers stand for, where they are steps of time.
    """

    name: str
    values: tuple[str, ...] | None = None
    domain: tuple[float, float] | None = None
    dates: Datetime | None = None

    @property
    def kind(self) -> str:
        return "number" if self.values is None else "categories"

    def text(self, number: float) -> str:
        """A number of the column, short."""
        if self.dates is not None:
            return self.dates.text(math.floor(number))
        return f"{number:,.6g}" if 1e-3 <= abs(number) < 1e6 or number == 0 else f"{number:.3g}"


@dataclass(frozen=True)
class Frame:
    """Columns of ``rows`` records: numbers as float64 (n,), NaN where missing; categories as int64 codes, then -1."""

    columns: dict[str, NDArray[Any]]
    rows: int

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.columns[name]

    def take(self, index: NDArray[np.int64]) -> Frame:
        return Frame({name: values[index] for name, values in self.columns.items()}, len(index))

    def sample(self, limit: int, rng: np.random.Generator) -> Frame:
        """At most ``limit`` records, drawn without replacement, in their order."""
        if self.rows <= limit:
            return self
        return self.take(np.sort(rng.choice(self.rows, limit, replace=False)))


@dataclass(frozen=True)
class Tables:
    """All tables over the same fields. ``targets`` are what models predict; ``notes`` say what was left out and why.

    texts    columns of free text: by name and role, one text per record; what is missing is empty.
    ordered  pairs of columns of which the schema says that the first is at most the second.
    """

    fields: tuple[Field, ...]
    synthetic: Frame
    test: Frame
    train: Frame | None
    holdout: Frame | None
    targets: tuple[str, ...]
    declared: bool
    notes: tuple[str, ...] = ()
    texts: Mapping[str, Mapping[str, list[str]]] = field(default_factory=dict, repr=False)
    ordered: tuple[tuple[str, str], ...] = ()

    def field(self, name: str) -> Field:
        return next(field for field in self.fields if field.name == name)


def align(
    synthetic: object,
    *,
    test: object,
    train: object = None,
    holdout: object = None,
    schema: Schema | None = None,
    targets: tuple[str, ...] | None = None,
) -> Tables:
    """Read all tables. ``synthetic`` is a ``Synthetic``, a run directory, or a table or file like the others.

    targets  by default the columns of the schema's label, if it has one, and those declared for the run.

    Raises SchemaError or PrivateDataError; no text quotes a value.
    """
    if isinstance(synthetic, (str, Path)) and Path(synthetic).is_dir():
        synthetic = load(synthetic)
    declared: list[str] = []
    if isinstance(synthetic, Synthetic):
        schema = schema or synthetic.schema
        declared = stored_config(synthetic.run)["evolution"].get("targets", [])
        synthetic = synthetic.to_arrow()
    given = {"synthetic": synthetic, "test": test, "train": train, "holdout": holdout}
    given = {role: data for role, data in given.items() if data is not None}
    if "test" not in given:
        raise ConfigError("expected test records: nothing can be compared without.")
    if schema is not None and targets is None:
        targets = (*schema.label_columns, *declared)
    fields, frames, notes, texts = _declared(given, schema) if schema else _found(given, targets or ())
    for role, frame in frames.items():
        if frame.rows == 0:
            raise PrivateDataError(f"the {role} table holds no records: nothing can be compared.")
    known = {field.name for field in fields}
    for target in targets or ():
        if target not in known:
            raise SchemaError(f"target '{target}' is no column of numbers or categories that all tables have.")
    if not targets and not texts:
        notes.append("no target: no model was trained; name a column to be predicted")
    optional = (frames.get("train"), frames.get("holdout"))
    unique = tuple(dict.fromkeys(targets or ()))
    return Tables(
        tuple(fields),
        frames["synthetic"],
        frames["test"],
        *optional,
        unique,
        schema is not None,
        tuple(notes),
        texts,
        () if schema is None else ordered_pairs(schema),
    )


def ordered_pairs(schema: Schema) -> tuple[tuple[str, str], ...]:
    """Pairs of columns that follow one another in an order constraint, but for columns that may be missing."""
    pairs: list[tuple[str, str]] = []
    for constraint in schema.constraints:
        if isinstance(constraint, Order):
            for place, lower in enumerate(constraint.columns):
                for upper in constraint.columns[place + 1 :]:
                    pairs.append((lower, upper))
                    if not schema.column(upper).missing:
                        break
    return tuple(dict.fromkeys(pairs))


Texts = dict[str, dict[str, list[str]]]
Aligned = tuple[list[Field], dict[str, Frame], list[str], Texts]


def _declared(given: Mapping[str, object], schema: Schema) -> Aligned:
    frames, texts = {}, Texts()
    free = [column.name for column in schema.columns if isinstance(column, Text)]
    for role, data in given.items():  # one table at a time: each is let go of before the next one is read
        arrays = _shielded(role, _in_schema_form, data, schema)
        rows = len(next(iter(arrays.values())))
        for name in free:
            texts.setdefault(name, {})[role] = arrays[name].tolist()
        found = [generic_field(column, arrays[column.name]) for column in schema.columns]
        fields = [field for field in found if field is not None]
        frames[role] = Frame({field.name: generic(arrays.pop(field.name), field) for field in fields}, rows)
    known = {field.name for field in fields}
    notes = [
        f"column '{column.name}' was left out: it holds no single numbers or categories"
        for column in schema.columns
        if column.name not in known and column.name not in free
    ]
    if not free and not {field.name for field in fields} - set(schema.label_columns if notes else ()):
        raise SchemaError(
            "the schema has no column of text, numbers or categories beside the label: images are not evaluated."
        )
    return fields, frames, notes, texts


def generic_field(column: Column, values: NDArray[Any]) -> Field | None:
    """A declared column of any type as numbers or categories; None where values are neither (images, free text)."""
    if values.ndim > 1 or values.dtype == object:
        return None
    names = ("false", "true") if values.dtype.kind == "b" else getattr(column, "values", None)
    low, high = getattr(column, "minimum", None), getattr(column, "maximum", None)
    domain = (float(low), float(high)) if isinstance(low, (int, float)) and isinstance(high, (int, float)) else None
    dates = column if isinstance(column, Datetime) else None
    return Field(column.name, None if names is None else tuple(map(str, names)), domain, dates)


def generic(values: NDArray[Any], field: Field) -> NDArray[Any]:
    """What ``coerce`` or ``arrays.to_numpy`` made of a column, whatever its declared type."""
    if field.values is not None:
        codes = values.astype(np.int64)
        return np.where((codes >= 0) & (codes < len(field.values)), codes, -1)
    if values.dtype.kind in "mM":
        numbers = values.astype(np.int64).astype(np.float64)
        return np.where(np.isnat(values), np.nan, numbers)
    return _finite(values.astype(np.float64))


def _finite(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """NaN where not finite; magnitudes whose squares would overflow are cut."""
    return np.where(np.isfinite(numbers), np.clip(numbers, -LARGEST, LARGEST), np.nan)


def _found(given: Mapping[str, object], targets: tuple[str, ...]) -> Aligned:
    """Kinds from the values of all tables: allowed here, where nothing that comes out is private."""
    names = {role: _shielded(role, _names, data) for role, data in given.items()}
    everywhere = [name for name in names["synthetic"] if all(name in found for found in names.values())]
    everywhere = [name for name in dict.fromkeys(everywhere) if name and not name.startswith(RESERVED)]
    notes = [
        f"column '{name}' of the synthetic table was left out: not every table has it"
        for name in names["synthetic"]
        if name not in everywhere
    ]
    if not everywhere:
        raise SchemaError("the tables have no column in common; does the first line of each file name the columns?")
    _refuse_lost_texts(given["synthetic"], names)
    asked = Schema(tuple(Categorical(name, ("",)) for name in everywhere))
    raw = {role: _shielded(role, read, data, asked) for role, data in given.items()}
    fields: list[Field] = []
    texts = Texts()
    columns: dict[str, dict[str, NDArray[Any]]] = {role: {} for role in given}
    for name in everywhere:
        parts = {role: _shielded(role, _values, part[name]) for role, part in raw.items()}
        texts_of = {role: _texts_or_none(part) for role, part in parts.items()}
        worded = [part for part in texts_of.values() if part is not None]
        if len(worded) == len(parts) and any(map(_is_free, worded)):  # a synthetic text may be empty, or one for all
            if name in targets:
                raise SchemaError(f"target '{name}' is free text: models predict categories and numbers.")
            filled = (pc.fill_null(part, "").to_pylist() for part in worded)
            texts[name] = dict(zip(parts, filled, strict=True))
            continue
        field, made = _field(name, parts, name in targets)
        if field is None:
            notes.append(f"column '{name}' was left out: it is empty, nested or neither categories nor sentences")
            continue
        fields.append(field)
        for role, values in made.items():
            columns[role][name] = values
    if not fields and not texts:
        raise SchemaError("the tables have no column of numbers, categories or free text in common.")
    sizes = {
        role: len(next(iter(columns[role].values()), next(iter(texts.values()), {}).get(role, ()))) for role in given
    }
    return fields, {role: Frame(columns[role], sizes[role]) for role in given}, notes, texts


def _refuse_lost_texts(synthetic: object, names: Mapping[str, Sequence[str]]) -> None:
    """Raise SchemaError where synthetic free text could be compared with nothing."""
    for name in dict.fromkeys(names["synthetic"]):
        lacking = next((role for role, found in names.items() if name not in found), None)
        if lacking is None or not name or name.startswith(RESERVED):
            continue
        column = _shielded("synthetic", read, synthetic, Schema((Categorical(name, ("",)),)))[name]
        values = _shielded("synthetic", _values, column)
        if isinstance(values, pa.Array) and _is_free(values):
            raise SchemaError(
                f"column '{name}' of the synthetic table is free text, and the {lacking} table has no such column: "
                "give it the same name there, or take it out of the synthetic table."
            )


def _texts_or_none(values: Values) -> pa.Array | None:
    """Text, or nothing but missing values; else None."""
    if isinstance(values, np.ndarray) and values.ndim == 1 and np.isnan(values).all():
        return pa.nulls(len(values), pa.string())
    return values if isinstance(values, pa.Array) else None


def _is_free(values: pa.Array) -> bool:
    """Whether text is free text: sentences, hardly any of them twice."""
    there = pc.drop_null(values)
    if not len(there):
        return False
    count = float(pc.mean(pc.list_value_length(pc.utf8_split_whitespace(there))).as_py())
    return count >= FREE_WORDS and len(pc.unique(there)) >= FREE_SHARE * len(there)


Values: TypeAlias = Any
"""A column as float64 (n,), as an Arrow array of trimmed text with nulls, or None where it is neither."""


def _field(name: str, parts: Mapping[str, Values], target: bool) -> tuple[Field | None, dict[str, NDArray[Any]]]:
    if any(part is None for part in parts.values()):
        return None, {}
    numbers = {role: _as_numbers(part) for role, part in parts.items()}
    if all(part is not None for part in numbers.values()):
        found = {role: part for role, part in numbers.items() if part is not None}
        distinct = np.unique(np.concatenate([part[np.isfinite(part)] for part in found.values()]))
        if len(distinct) == 0:
            return None, {}
        if not (target and len(distinct) <= MOST_CLASSES and np.array_equal(distinct, np.rint(distinct))):
            return Field(name), {role: _finite(part) for role, part in found.items()}
    texts = {role: _as_texts(part) for role, part in parts.items()}
    seen = {value for part in texts.values() for value in pc.unique(part).to_pylist()} - {None}
    if not seen or len(seen) > MOST_CATEGORIES:
        return None, {}
    values = sorted(seen, key=_natural)
    known = pa.array(values, pa.string())
    codes = {role: pc.fill_null(pc.index_in(part, value_set=known), -1).to_numpy(False) for role, part in texts.items()}
    # index_in finds null nowhere, as null is not in ``known``
    return Field(name, tuple(values)), {role: part.astype(np.int64) for role, part in codes.items()}


def _values(raw: pa.ChunkedArray | NDArray[Any]) -> Values:
    if isinstance(raw, np.ndarray):
        if raw.ndim != 1:
            return None
        raw = pa.chunked_array([pa.array(raw.astype(object) if raw.dtype.kind in "US" else raw, from_pandas=True)])
    values = raw.cast(raw.type.value_type) if pa.types.is_dictionary(raw.type) else raw
    kind = values.type
    if pa.types.is_nested(kind):
        return None
    if pa.types.is_temporal(kind):
        if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
            values = pc.cast(values, pa.timestamp("us"), safe=False)
        values, kind = pc.cast(values, pa.int64(), safe=False), pa.int64()
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind):
        numbers: NDArray[np.float64] = pc.cast(values, pa.float64(), safe=False).to_numpy().astype(np.float64)
        return numbers
    text = pa.array([_decoded(value) for value in values.to_pylist()], pa.string()) if _is_binary(kind) else values
    text = pc.utf8_trim_whitespace(pc.cast(text, pa.string()))
    text = text.combine_chunks() if isinstance(text, pa.ChunkedArray) else text
    absent = pc.or_(pc.equal(text, ""), pc.equal(pc.utf8_lower(text), "nan"))
    return pc.if_else(absent, pa.scalar(None, pa.string()), text)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _as_numbers(values: Values) -> NDArray[np.float64] | None:
    """Numbers, or None where some text is no number."""
    if isinstance(values, np.ndarray):
        return values
    if not pc.all(pc.match_substring_regex(values, _NUMBER), min_count=0).as_py():
        return None
    numbers: NDArray[np.float64] = pc.cast(pc.replace_substring_regex(values, r"^\+", ""), pa.float64()).to_numpy(False)
    return numbers


def _as_texts(values: Values) -> pa.Array:
    """Text of each value: 5, 5.0 and "5" read "5"."""
    numbers = _as_numbers(values)
    if numbers is None:
        return values
    whole = [None if not np.isfinite(x) else str(int(x)) if x == int(x) else repr(float(x)) for x in numbers.tolist()]
    return pa.array(whole, pa.string())


def _natural(text: str) -> tuple[float, str]:
    """Numbers in numeric order, before other text."""
    try:
        return (float(text), text)
    except ValueError:
        return (np.inf, text)


def _names(data: object) -> list[str]:
    """The names of a table's columns; PrivateDataError for what is no table."""
    if isinstance(data, (str, Path)):
        path = Path(data)
        kind = format_of(path)
        if not path.is_file():
            raise PrivateDataError(f"{path} does not exist, or is no file.")
        if path.stat().st_size == 0:
            raise PrivateDataError(f"{path} is empty.")
        if kind in ("csv", "tsv"):
            with path.open("rb") as file:
                return list(open_delimited(file, str(path), kind, DEFAULT_OPTIONS, multiline=False)[0].names)
        if kind == "parquet":
            return list(pyarrow.parquet.read_schema(path).names)
        if kind == "arrow":
            return list(pyarrow.feather.read_table(path).column_names)
        if kind == "jsonl":
            with path.open("rb") as lines:
                return jsonl.keys(jsonl.objects(decompressed(lines)))
        if kind == "npz":
            with np.load(path, allow_pickle=False) as archive:
                return list(archive.files)
        raise PrivateDataError(f"{path}: expected a .csv, .tsv, .jsonl, .parquet, .arrow or .npz file.")
    if isinstance(data, pa.Table):
        return list(data.column_names)
    if isinstance(data, Mapping):
        return [str(name) for name in data]
    if type(data).__module__.partition(".")[0] == "pandas":
        frame: Any = data
        return [str(name) for name in frame.columns]
    raise PrivateDataError(f"expected a file, a table, a DataFrame or arrays by name, got {type(data).__name__}.")


def _in_schema_form(data: object, schema: Schema) -> dict[str, NDArray[Any]]:
    return coerce(read(data, schema), schema)


def _shielded(role: str, function: Callable[..., Any], *arguments: Any) -> Any:
    advice = "Is it of the format its name says?"
    return shielded(f"reading the {role} table", partial(function, *arguments), advice)
