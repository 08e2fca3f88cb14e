"""Digest of a question put to the private records: of the public facts that decide which integer vector each adds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from fractions import Fraction
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa

from pe.data.arrays import contents
from pe.data.schema import Schema


def question_digest(*parts: object) -> str:
    """SHA-256 over plain values, arrays, tables, schemas, embedders and dataclasses of these, in hexadecimal.

    Equal for equal values in any process. Empty where a part is of another kind, so that nothing can be said of it: a
    charge for such a question is never taken up again (``pe.privacy.release``).
    """
    digest = sha256()
    try:
        for chunk in _chunks(parts):
            digest.update(len(chunk).to_bytes(8, "little"))  # tells ("ab", "c") from ("a", "bc")
            digest.update(chunk)
    except _Unknown:
        return ""
    return digest.hexdigest()


class _Unknown(Exception):
    """A value whose content cannot be read off."""


def _chunks(value: Any) -> Iterator[bytes]:
    """The type and the content of a value, as bytes."""
    yield type(value).__qualname__.encode()
    if value is None or isinstance(value, (bool, int, str, Fraction, Enum)):
        yield str(value).encode()
    elif isinstance(value, float):
        yield (value.hex() if math.isfinite(value) else repr(value)).encode()
    elif isinstance(value, bytes):
        yield value
    elif isinstance(value, np.generic):
        yield repr(value).encode()
    elif isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise _Unknown
        yield f"{value.dtype.str} {value.shape}".encode()
        yield np.ascontiguousarray(value).tobytes()
    elif isinstance(value, pa.Table):
        yield str(value.schema).encode()
        yield from contents(value)
    elif isinstance(value, Schema):
        yield value.to_toml().encode()
    elif isinstance(value, Mapping):
        yield from _chunks([item for pair in value.items() for item in pair])
    elif isinstance(value, (list, tuple)):
        yield str(len(value)).encode()
        for item in value:
            yield from _chunks(item)
    elif hasattr(value, "question"):  # the parts that decide it, named by the value itself
        yield from _chunks(value.question)
    elif hasattr(value, "embed"):  # an embedder is known by its name and scale, as stored embeddings are
        yield from _chunks([value.name, value.dim, float(value.scale), value.limit])
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield field.name.encode()
            yield from _chunks(getattr(value, field.name))
    else:
        raise _Unknown
