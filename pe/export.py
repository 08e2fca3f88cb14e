"""Synthetic records as files: CSV, JSONL, Parquet, npz, image folder, Hugging Face datasets folder."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
import tomli_w

from pe.data.arrays import to_arrow, to_numpy
from pe.data.label_folders import folder_names
from pe.data.labels import label_arrays
from pe.data.pictures import png
from pe.data.population import Population
from pe.data.schema import Categorical, Column, Datetime, Image, Schema, Text
from pe.errors import ConfigError

Files = dict[str, bytes]


def default_formats(schema: Schema) -> list[str]:
    if schema.text is not None and schema.image is None:
        return ["jsonl", "parquet"]
    if schema.image is None:
        return ["csv", "parquet"]
    return ["imagefolder", "parquet"] if len(schema.label_columns) < 2 else ["parquet"]


def check_formats(formats: Iterable[str], schema: Schema) -> None:
    """Raise ConfigError for a format that is unknown or cannot hold the schema."""
    for name in formats:
        if name not in _WRITERS:
            known = ", ".join(_WRITERS)
            raise ConfigError(f"expected formats among {known}, got '{name}'. Nothing was spent.")
        if name in ("csv", "jsonl") and schema.image is not None:
            raise ConfigError(f"{name} cannot hold images: use imagefolder, npz, parquet or hf. Nothing was spent.")
        if name in ("imagefolder", "npz") and schema.image is None:
            raise ConfigError(f"{name} needs an image column: use csv, jsonl, parquet or hf. Nothing was spent.")
        if name == "imagefolder" and len(schema.label_columns) > 1:
            raise ConfigError(
                f"imagefolder has one folder per value of one label, not of '{schema.label_name}': use npz, parquet or "
                "hf. Nothing was spent."
            )


def export(population: Population, schema: Schema, formats: Iterable[str]) -> Files:
    """File contents by relative path, for each of ``formats``."""
    formats = list(formats)
    check_formats(formats, schema)
    files: Files = {}
    for name in formats:
        files |= _WRITERS[name](population, schema)
    return files


def records(population: Population, schema: Schema) -> pa.Table:
    """Keys, then all declared columns in declared order, those of the label among them, without lineage.

    Booleans are truth values, dates date32, instants timestamps to the second (in UTC, and said to be where that is
    declared), categories dictionaries, ordered where the column is an ordinal.
    """
    columns, names = [], []
    rng = np.random.default_rng(_seed(population, schema)) if schema.keys else None
    for key in schema.keys:
        assert rng is not None
        columns.append(key.make(len(population), rng))
        names.append(key.name)
    label = label_arrays(population.labels, schema)
    for column in schema.columns:
        if column.name in label:
            values = to_arrow(label[column.name], column)
        else:
            values = population.records.column(column.name)
        columns.append(_natural(values, column))
        names.append(column.name)
    return pa.table(columns, names=names)


def _seed(population: Population, schema: Schema) -> int:
    """From the synthetic records themselves: the same ids in every export of a release, other ids in another one."""
    digest = sha256(schema.to_toml().encode())
    digest.update(np.ascontiguousarray(population.labels).tobytes())
    for column in schema.features:
        values = to_numpy(population.records, column)
        if isinstance(column, Text):
            values = np.frombuffer("\0".join(values).encode(), np.uint8)
        digest.update(np.ascontiguousarray(values).tobytes())
    return int.from_bytes(digest.digest())


def _natural(values: Any, column: Column) -> Any:
    """A column in schema form as a data team expects it."""
    if isinstance(column, Datetime):
        if column.date:
            return values.cast(pa.int32()).cast(pa.date32())
        return pc.multiply(values, column.resolution).cast(pa.timestamp("s", column.zone))
    if column.kind == "boolean":
        return pc.equal(values.cast(pa.string()), "true")
    if isinstance(column, Categorical) and column.ordered:
        return values.cast(pa.dictionary(pa.int32(), pa.string(), ordered=True))
    return values


def _plain(population: Population, schema: Schema) -> pa.Table:
    """Categories as strings."""
    table = records(population, schema)
    fields = [pa.field(f.name, pa.string() if pa.types.is_dictionary(f.type) else f.type) for f in table.schema]
    return table.cast(pa.schema(fields))


def _texts(population: Population, schema: Schema) -> pa.Table:
    """Categories as strings, dates and instants as ISO text."""
    table = _plain(population, schema)
    for place, name in enumerate(table.column_names):
        kind = table.schema.field(place).type
        if pa.types.is_temporal(kind):
            form = "%Y-%m-%d" if pa.types.is_date(kind) else "%Y-%m-%dT%H:%M:%S"
            if pa.types.is_timestamp(kind) and kind.tz is not None:  # UTC
                form += "Z"
            table = table.set_column(place, name, pc.strftime(table[place], form))
    return table


_FORMULA = "^[=+\\-@\\t\\r\\n＝＋－＠]"
_NUMBER = "^[+-]?([0-9]+[.,]?[0-9]*|[.,][0-9]+)([eE][+-]?[0-9]+)?$"
_APOSTROPHE = "'"


def formula_cells(column: pa.ChunkedArray) -> Any:
    """Which texts a spreadsheet would run as a formula, bool (n,): those that begin like one and are no number."""
    begins = pc.match_substring_regex(column, _FORMULA)
    return pc.and_not(begins, pc.match_substring_regex(column, _NUMBER))


def _without_formulas(table: pa.Table) -> pa.Table:
    """Texts that a spreadsheet would run stand behind an apostrophe, which says that they are text.

    Numbers, dates and truth values are no text, and names of columns are looked up as they are.
    """
    for place, name in enumerate(table.column_names):
        column = table[place]
        if pa.types.is_string(column.type):
            harmless = pc.binary_join_element_wise(_APOSTROPHE, column, "")
            table = table.set_column(place, name, pc.if_else(formula_cells(column), harmless, column))
    return table


def _csv(population: Population, schema: Schema) -> Files:
    """RFC 4180 but for the line ends (LF): UTF-8 without a byte-order mark, a missing value is an empty cell."""
    buffer, table = io.BytesIO(), _without_formulas(_texts(population, schema))
    if table.num_columns == 1:  # a line with nothing on it is no record to most readers: "" is
        table = pa.table([pc.fill_null(table[0].cast(pa.string()), "")], names=table.column_names)
    pyarrow.csv.write_csv(table, buffer)
    return {"synthetic.csv": buffer.getvalue()}


def _jsonl(population: Population, schema: Schema) -> Files:
    lines = (json.dumps(row, ensure_ascii=False) for row in _texts(population, schema).to_pylist())
    return {"synthetic.jsonl": "".join(line + "\n" for line in lines).encode()}


def _parquet_bytes(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _parquet(population: Population, schema: Schema) -> Files:
    return {"synthetic.parquet": _parquet_bytes(records(population, schema))}


def _npz(population: Population, schema: Schema) -> Files:
    """Arrays by column name: images uint8 (n, height, width, channels), categories as codes, dates as datetime64."""
    table = records(population, schema)
    arrays: dict[str, Any] = {key.name: np.array(table[key.name].to_pylist()) for key in schema.keys}
    for column in schema.features:
        if isinstance(column, Datetime):
            arrays[column.name] = table[column.name].to_numpy()
        else:
            values = to_numpy(population.records, column)
            arrays[column.name] = values.astype(np.str_) if isinstance(column, Text) else values
    for name, codes in label_arrays(population.labels, schema).items():
        arrays[name] = np.array(schema.categorical(name).values)[codes]
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return {"synthetic.npz": buffer.getvalue()}


def _imagefolder(population: Population, schema: Schema) -> Files:
    """``images/LABEL/000001.png``: what torchvision, Keras and Hugging Face read as an image folder.

    ``images/labels.toml`` says which label each folder holds, in the order of the schema.
    """
    files: Files = {}
    folders = folder_names(schema.labels)
    for index, content in enumerate(_pngs(population, schema)):
        folder = folders[population.labels[index]] + "/" if schema.label is not None else ""
        files[f"images/{folder}{index:06d}.png"] = content
    if schema.label is not None:
        files["images/labels.toml"] = tomli_w.dumps(dict(zip(folders, schema.labels, strict=True))).encode()
    return files


def _hf(population: Population, schema: Schema) -> Files:
    """A folder for ``datasets.load_dataset``: Parquet with typed features (ClassLabel, Image) and a card.

    The card has no ``configs``: with them the library's cache goes by the card alone, and loads the records of another
    release, or those that a folder held before, without a word.
    """
    columns: list[Any] = []
    features: dict[str, Any] = {}
    table, label = _plain(population, schema), label_arrays(population.labels, schema)
    for key in schema.keys:
        columns.append(table.column(key.name))
        features[key.name] = _value(table.schema.field(key.name).type)
    for column in schema.columns:
        if isinstance(column, Categorical) and column.kind != "boolean":
            codes = label[column.name] if column.name in label else to_numpy(population.records, column)
            columns.append(pa.array(codes, pa.int64(), mask=codes == len(column.values)))
            features[column.name] = {"names": list(column.values), "_type": "ClassLabel"}
        elif isinstance(column, Image):
            pictures = [{"bytes": content, "path": None} for content in _pngs(population, schema)]
            columns.append(pa.array(pictures, pa.struct([("bytes", pa.binary()), ("path", pa.string())])))
            features[column.name] = {"_type": "Image"}
        else:
            columns.append(table.column(column.name))
            features[column.name] = _value(table.schema.field(column.name).type)
    out = pa.table(columns, names=[column.name for column in (*schema.keys, *schema.columns)])
    metadata = json.dumps({"info": {"features": features}})
    content = _parquet_bytes(out.replace_schema_metadata({"huggingface": metadata}))
    card = "---\ntags:\n- synthetic\n- differential-privacy\n---\n"
    return {
        "hf/data/train-00000-of-00001.parquet": content,
        "hf/README.md": (card + "\nDifferentially private synthetic data; the claim stands in CARD.md.\n").encode(),
    }


def _value(kind: pa.DataType) -> dict[str, str]:
    names = {pa.float64(): "float64", pa.bool_(): "bool"}
    return {"dtype": names.get(kind) or str(kind).replace("[day]", ""), "_type": "Value"}


def _pngs(population: Population, schema: Schema) -> list[bytes]:
    assert schema.image is not None
    return [png(pixels) for pixels in to_numpy(population.records, schema.image)]


_WRITERS: dict[str, Callable[[Population, Schema], Files]] = {
    "csv": _csv,
    "jsonl": _jsonl,
    "parquet": _parquet,
    "npz": _npz,
    "imagefolder": _imagefolder,
    "hf": _hf,
}
