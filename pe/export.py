"""Synthetic records as files: CSV, JSONL, Parquet, npz, image folder, Hugging Face datasets folder."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from pe.arrays import to_arrow, to_numpy
from pe.errors import ConfigError
from pe.pictures import png
from pe.population import Population
from pe.schema import Categorical, Image, Numeric, Schema

Files = dict[str, bytes]


def default_formats(schema: Schema) -> list[str]:
    return ["csv", "parquet"] if schema.image is None else ["imagefolder", "parquet"]


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


def export(population: Population, schema: Schema, formats: Iterable[str]) -> Files:
    """File contents by relative path, for each of ``formats``."""
    formats = list(formats)
    check_formats(formats, schema)
    files: Files = {}
    for name in formats:
        files |= _WRITERS[name](population, schema)
    return files


def records(population: Population, schema: Schema) -> pa.Table:
    """All declared columns in declared order, the label among them, without lineage."""
    columns = []
    for column in schema.columns:
        if column.name == schema.label:
            columns.append(to_arrow(population.labels, column))
        else:
            columns.append(population.records.column(column.name))
    return pa.table(columns, names=[column.name for column in schema.columns])


def _plain(population: Population, schema: Schema) -> pa.Table:
    """Categories as strings."""
    table = records(population, schema)
    fields = [pa.field(f.name, pa.string() if pa.types.is_dictionary(f.type) else f.type) for f in table.schema]
    return table.cast(pa.schema(fields))


def _csv(population: Population, schema: Schema) -> Files:
    buffer = io.BytesIO()
    pyarrow.csv.write_csv(_plain(population, schema), buffer)
    return {"synthetic.csv": buffer.getvalue()}


def _jsonl(population: Population, schema: Schema) -> Files:
    lines = (json.dumps(row, ensure_ascii=False) for row in _plain(population, schema).to_pylist())
    return {"synthetic.jsonl": "".join(line + "\n" for line in lines).encode()}


def _parquet_bytes(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _parquet(population: Population, schema: Schema) -> Files:
    return {"synthetic.parquet": _parquet_bytes(records(population, schema))}


def _npz(population: Population, schema: Schema) -> Files:
    """Arrays by column name: images uint8 (n, height, width, channels), categories as codes."""
    arrays: dict[str, Any] = {column.name: to_numpy(population.records, column) for column in schema.features}
    if schema.label is not None:
        arrays[schema.label] = np.array(schema.labels)[population.labels]
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return {"synthetic.npz": buffer.getvalue()}


def _imagefolder(population: Population, schema: Schema) -> Files:
    """``images/LABEL/000001.png``: what torchvision, Keras and Hugging Face read as an image folder."""
    files: Files = {}
    for index, content in enumerate(_pngs(population, schema)):
        label = _safe(schema.labels[population.labels[index]]) + "/" if schema.label is not None else ""
        files[f"images/{label}{index:06d}.png"] = content
    return files


def _hf(population: Population, schema: Schema) -> Files:
    """A folder for ``datasets.load_dataset``: Parquet with typed features (ClassLabel, Image) and a card."""
    columns: list[Any] = []
    features: dict[str, Any] = {}
    table = _plain(population, schema)
    for column in schema.columns:
        if isinstance(column, Categorical):
            codes = population.labels if column.name == schema.label else to_numpy(population.records, column)
            columns.append(pa.array(codes, pa.int64()))
            features[column.name] = {"names": list(column.values), "_type": "ClassLabel"}
        elif isinstance(column, Image):
            pictures = [{"bytes": content, "path": None} for content in _pngs(population, schema)]
            columns.append(pa.array(pictures, pa.struct([("bytes", pa.binary()), ("path", pa.string())])))
            features[column.name] = {"_type": "Image"}
        else:
            columns.append(table.column(column.name))
            dtype = "int64" if isinstance(column, Numeric) and column.integer else "float64"
            features[column.name] = {"dtype": dtype, "_type": "Value"}
    out = pa.table(columns, names=[column.name for column in schema.columns])
    metadata = json.dumps({"info": {"features": features}})
    content = _parquet_bytes(out.replace_schema_metadata({"huggingface": metadata}))
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*\n---\n"
    return {
        "hf/data/train-00000-of-00001.parquet": content,
        "hf/README.md": (card + "\nDifferentially private synthetic data; the claim stands in CARD.md.\n").encode(),
    }


def _pngs(population: Population, schema: Schema) -> list[bytes]:
    assert schema.image is not None
    return [png(pixels) for pixels in to_numpy(population.records, schema.image)]


def _safe(name: str) -> str:
    """A label as a folder name."""
    kept = "".join(c if c.isalnum() or c in "-_ " else "_" for c in name).strip()
    return kept or "_"


_WRITERS: dict[str, Callable[[Population, Schema], Files]] = {
    "csv": _csv,
    "jsonl": _jsonl,
    "parquet": _parquet,
    "npz": _npz,
    "imagefolder": _imagefolder,
    "hf": _hf,
}
