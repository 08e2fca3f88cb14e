"""Columns: what is public about one value of every record, and the form in which such values are held.

    kind                            Arrow table                             numpy array (``pe.data.arrays``)
    float                           float64                                 float64 (n,)
    integer                         int64                                   int64 (n,); float64 with ``missing``
    date, datetime                  int64: steps since 1970-01-01 UTC       as integer
    categorical, ordinal, boolean   dictionary of int32 to string           int32 (n,), positions in ``values``
    image                           fixed-size list of uint8                uint8 (n, height, width, channels)
    text                            string                                  object (n,), of str

Where ``missing`` is declared, a missing value is a state of its own: null in Arrow, NaN among numbers, and the code
``len(values)`` among categories. A key is no column of a record: it is made for the output and never read.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pe.data.times import DAY, instant, iso
from pe.errors import SchemaError


def _decimal(number: float) -> Fraction:
    """The decimal number that a double is written as: 0.1 is one tenth."""
    return Fraction(Decimal(repr(float(number))))


BOOLEANS = ("false", "true")
EPOCHS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
"""Units in which a column of numbers may count from 1970-01-01 UTC, per second."""

_RESOLUTIONS: dict[str, Any] = {"second": 1, "minute": 60, "hour": 3_600, "day": DAY}


@dataclass(frozen=True)
class Numeric:
    """A number in [minimum, maximum]; stored as float64, or int64 when ``integer``.

    A value outside is clipped to the nearer bound; a missing or unreadable one becomes ``default`` (declared, else the
    middle of the domain), or stays missing where ``missing`` is declared. ``log``: ratios count, not differences.
    ``step``, of a float: released values are multiples of it (``on_step``).
    """

    name: str
    minimum: float
    maximum: float
    integer: bool = False
    default: float | None = None
    log: bool = False
    missing: bool = False
    step: float | None = None

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
        if self.default is not None and self.missing:
            raise SchemaError(f"column '{self.name}': expected a default or missing = true, not both.")
        if self.log and self.minimum <= 0:
            raise SchemaError(f"column '{self.name}': expected min > 0 for scale 'log', got {self.minimum}.")
        if self.step is not None:
            self._check_step(self.step)

    def _check_step(self, step: float) -> None:
        if self.integer:
            raise SchemaError(f"column '{self.name}': a step belongs to type float, the type is {self.kind}.")
        if not (math.isfinite(step) and step > 0):
            raise SchemaError(f"column '{self.name}': expected a step > 0, got {step}.")
        for key, bound in (("min", self.minimum), ("max", self.maximum)):
            if (_decimal(bound) / _decimal(step)).denominator != 1:
                raise SchemaError(
                    f"column '{self.name}': expected '{key}' to be a multiple of step {step:g}, got {bound!r}."
                )
            if abs(_decimal(bound) / _decimal(step)) > 2**53:
                raise SchemaError(f"column '{self.name}': expected at most 2**53 steps of {step:g} up to '{key}'.")

    def steps(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The whole number of steps nearest to each value, float64 (n,); NaN where missing."""
        assert self.step is not None
        numerator, denominator = _decimal(self.step).as_integer_ratio()
        return np.rint(values * denominator / numerator)

    def from_steps(self, steps: NDArray[np.float64]) -> NDArray[np.float64]:
        """The inverse of ``steps``: doubles whose shortest decimal text has no more digits than the step."""
        assert self.step is not None
        numerator, denominator = _decimal(self.step).as_integer_ratio()
        return steps * numerator / denominator  # exact but for one division, which rounds to the nearest double

    @property
    def kind(self) -> str:
        return "integer" if self.integer else "float"

    @property
    def fallback(self) -> float:
        middle = self.minimum / 2 + self.maximum / 2
        value = middle if self.default is None else self.default
        return float(round(value)) if self.integer else value

    def arrow(self) -> pa.DataType:
        return pa.int64() if self.integer else pa.float64()

    def domain(self) -> str:
        """The domain in words."""
        step = "" if self.step is None else f" in steps of {self.step:g}"
        return f"{self.minimum:g} to {self.maximum:g}{step}" + (", log scale" if self.log else "")

    def to_dict(self) -> dict[str, Any]:
        number = int if self.integer else float
        entry: dict[str, Any] = {"type": self.kind, "min": number(self.minimum), "max": number(self.maximum)}
        entry |= {"scale": "log"} if self.log else {}
        entry |= {} if self.step is None else {"step": self.step}
        return entry | _rest(None if self.default is None else number(self.default), self.missing)


@dataclass(frozen=True)
class Datetime(Numeric):
    """An instant, as a whole number of steps of ``resolution`` seconds since 1970-01-01 UTC: an integer column.

    ``minimum``, ``maximum`` and ``default`` count steps too; ``Datetime.of`` takes ISO text. An instant between two
    steps goes to the earlier one. ``date``: a day, exported as a date. ``epoch``: the unit in which numbers count from
    1970 ("s", "ms", "us", "ns"); without it a column of numbers is refused. ``zone`` "UTC": the release says of every
    instant that it is in UTC; without it instants are released without a zone, as wall-clock times. Both are read
    alike: what has an offset is turned to UTC, what has none is taken as it is.
    """

    resolution: int = 1
    date: bool = False
    epoch: str | None = None
    zone: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "integer", True)
        object.__setattr__(self, "resolution", DAY if self.date else self.resolution)
        if self.resolution < 1:
            raise SchemaError(f"column '{self.name}': expected a resolution of at least 1 second.")
        if self.epoch not in (None, *EPOCHS):
            raise SchemaError(f"column '{self.name}': expected epoch 's', 'ms', 'us' or 'ns', got {self.epoch!r}.")
        if self.zone is not None and (self.date or self.zone != "UTC"):
            raise SchemaError(
                f"column '{self.name}': expected zone 'UTC', or none, for a datetime, and none for a date, got "
                f"{self.zone!r} for a {self.kind}; instants of every zone are read, and released in UTC."
            )
        if self.log:
            raise SchemaError(f"column '{self.name}': a {self.kind} has no scale 'log'.")
        super().__post_init__()

    @classmethod
    def of(
        cls,
        name: str,
        minimum: object,
        maximum: object,
        *,
        resolution: int = 1,
        date: bool = False,
        default: object = None,
        missing: bool = False,
        epoch: str | None = None,
        zone: str | None = None,
    ) -> Datetime:
        """From ISO text; a day is its first instant, bounds between two steps go inwards. Raises SchemaError."""
        step = DAY if date else resolution
        if isinstance(step, bool) or not isinstance(step, int) or step < 1:
            raise SchemaError(f"column '{name}': expected a resolution in whole seconds, got {resolution!r}.")
        instants = {"min": instant(minimum), "max": instant(maximum)}
        if default is not None:
            instants["default"] = instant(default)
        for key, value in instants.items():
            if value is None:
                raise SchemaError(f"column '{name}': expected an ISO date for '{key}', such as '2024-01-31'.")
        steps = {key: value // step for key, value in instants.items() if value is not None}
        low = -(-(instants["min"] or 0) // step)
        return cls(
            name,
            low,
            steps["max"],
            default=steps.get("default"),
            missing=missing,
            resolution=step,
            date=date,
            epoch=epoch,
            zone=zone,
        )

    @property
    def kind(self) -> str:
        return "date" if self.date else "datetime"

    def text(self, steps: float) -> str:
        """ISO text of a number of steps."""
        return iso(steps * self.resolution, date=self.date)

    def domain(self) -> str:
        return f"{self.text(self.minimum)} to {self.text(self.maximum)}" + (" UTC" if self.zone else "")

    def to_dict(self) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": self.kind, "min": self.text(self.minimum), "max": self.text(self.maximum)}
        entry |= {"resolution": self.resolution} if self.resolution > 1 and not self.date else {}
        entry |= {} if self.epoch is None else {"epoch": self.epoch}
        entry |= {} if self.zone is None else {"zone": self.zone}
        return entry | _rest(None if self.default is None else self.text(self.default), self.missing)


@dataclass(frozen=True)
class Categorical:
    """One of the declared strings; stored as a dictionary whose codes are positions in ``values``.

    Surrounding white space is ignored. A missing value becomes ``default`` (declared, else the first), or stays missing
    where ``missing`` is declared; an undeclared one becomes the declared default, else what a missing one becomes.
    ``kind`` "ordinal": values stand in their order. "boolean": the values are ``BOOLEANS``.
    """

    name: str
    values: tuple[str, ...]
    default: str | None = None
    kind: Literal["categorical", "ordinal", "boolean"] = "categorical"
    missing: bool = False

    def __post_init__(self) -> None:
        if not self.values:
            raise SchemaError(f"column '{self.name}': expected at least one value.")
        if len(set(self.values)) != len(self.values):
            raise SchemaError(f"column '{self.name}': expected distinct values.")
        if any(value != value.strip() for value in self.values):
            raise SchemaError(f"column '{self.name}': expected values without surrounding white space.")
        if self.kind == "boolean" and self.values != BOOLEANS:
            raise SchemaError(f"column '{self.name}': expected the values {BOOLEANS} of a boolean.")
        if self.default is not None and self.default not in self.values:
            raise SchemaError(f"column '{self.name}': expected default among the values, got '{self.default}'.")

    @property
    def ordered(self) -> bool:
        return self.kind == "ordinal"

    @property
    def states(self) -> int:
        """How many codes there are: the values, and missing where it is declared."""
        return len(self.values) + self.missing

    @property
    def fallback(self) -> int:
        return 0 if self.default is None else self.values.index(self.default)

    def arrow(self) -> pa.DataType:
        return pa.dictionary(pa.int32(), pa.string())

    def domain(self) -> str:
        shown = (" < " if self.ordered else ", ").join(self.values[:12])
        return shown + (f", ... ({len(self.values)} in all)" if len(self.values) > 12 else "")

    def to_dict(self) -> dict[str, Any]:
        if self.kind == "boolean":
            return {"type": self.kind} | _rest(None if self.default is None else self.default == "true", self.missing)
        return {"type": self.kind, "values": list(self.values)} | _rest(self.default, self.missing)


def boolean(name: str, default: bool | None = None, missing: bool = False) -> Categorical:
    """A column of truth values."""
    return Categorical(name, BOOLEANS, None if default is None else BOOLEANS[default], "boolean", missing)


@dataclass(frozen=True)
class Image:
    """A picture of height x width x channels bytes (channels 1 or 3); stored as a fixed-size list of uint8.

    Image files of another size or mode are resized and converted; an unreadable one becomes black.
    """

    name: str
    height: int
    width: int
    channels: int = 1
    kind: ClassVar[str] = "image"
    missing: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1 or self.channels not in (1, 3):
            raise SchemaError(f"column '{self.name}': expected height, width >= 1 and channels 1 or 3.")

    @property
    def size(self) -> int:
        return self.height * self.width * self.channels

    def arrow(self) -> pa.DataType:
        return pa.list_(pa.uint8(), self.size)

    def domain(self) -> str:
        return f"{self.height} x {self.width} x {self.channels}"

    def to_dict(self) -> dict[str, Any]:
        return {"type": "image", "height": self.height, "width": self.width, "channels": self.channels}


@dataclass(frozen=True)
class Text:
    """Free text of at most ``max_length`` characters; what is longer is cut. A missing or unreadable text is empty."""

    LONGEST: ClassVar[int] = 2**24

    name: str
    max_length: int = 20_000
    kind: ClassVar[str] = "text"
    missing: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 1 <= self.max_length <= self.LONGEST:
            raise SchemaError(f"column '{self.name}': expected max_length in [1, 2**24], got {self.max_length}.")

    def arrow(self) -> pa.DataType:
        return pa.string()

    def domain(self) -> str:
        return f"text of at most {self.max_length} characters"

    def to_dict(self) -> dict[str, Any]:
        return {"type": "text", "max_length": self.max_length}


@dataclass(frozen=True)
class Key:
    """Fresh unique ids for the output; the private data's are never read.

    format  "uuid4": random, 122 bits, so that none repeats a private one but with a probability of 1e-27 for a million
            of each; "integer" (start, start + 1, ...) or a pattern with one number such as "P-{:06d}": these may repeat
            private ones by coincidence, unless they begin where no private id can be.
    """

    name: str
    format: str = "uuid4"
    start: int = 1
    kind: ClassVar[str] = "key"
    missing: ClassVar[bool] = False

    def __post_init__(self) -> None:
        pattern = re.fullmatch(r"[^{}]*\{(:d|:0[1-9]\d?d)?\}[^{}]*", self.format)
        if self.format not in ("integer", "uuid4") and not pattern:
            raise SchemaError(
                f"column '{self.name}': expected format 'integer', 'uuid4', or a pattern with one number such as "
                f"'P-{{:06d}}', got '{self.format}'."
            )
        if not 0 <= self.start <= 2**53:
            raise SchemaError(f"column '{self.name}': expected start in [0, 2**53], got {self.start}.")

    def make(self, n: int, rng: np.random.Generator) -> pa.Array:
        """``n`` distinct ids: int64, or strings."""
        if self.format == "uuid4":
            content = rng.bytes(16 * n)
            parts = (content[place : place + 16] for place in range(0, 16 * n, 16))
            return pa.array([str(uuid.UUID(bytes=part, version=4)) for part in parts], pa.string())
        if self.format == "integer":
            return pa.array(np.arange(self.start, self.start + n), pa.int64())
        return pa.array([self.format.format(number) for number in range(self.start, self.start + n)], pa.string())

    def domain(self) -> str:
        if self.format == "uuid4":
            return "fresh random ids, which repeat no private one"
        return f"fresh ids numbered from {self.start}; a private one that is like them was not read"

    def to_dict(self) -> dict[str, Any]:
        return {"type": "key", "format": self.format} | ({} if self.format == "uuid4" else {"start": self.start})


Column = Numeric | Categorical | Image | Text
"""What a record holds. ``Datetime`` is a Numeric."""

_COMMON = {"default": False, "missing": False}
_KEYS: dict[str, dict[str, bool]] = {
    "integer": {"min": True, "max": True, "scale": False} | _COMMON,
    "float": {"min": True, "max": True, "scale": False, "step": False} | _COMMON,
    "date": {"min": True, "max": True, "epoch": False} | _COMMON,
    "datetime": {"min": True, "max": True, "resolution": False, "epoch": False, "zone": False} | _COMMON,
    "categorical": {"values": True, "values_file": False} | _COMMON,
    "ordinal": {"values": True, "values_file": False} | _COMMON,
    "boolean": _COMMON,
    "image": {"height": True, "width": True, "channels": False},
    "text": {"max_length": False},
    "key": {"format": False, "start": False},
}
"""Keys of each type beside ``type``, and whether they are required."""


def column_from(name: str, entry: object, folder: Path = Path()) -> Column | Key:
    """Read one ``[columns.NAME]`` table; raises SchemaError naming the column and the key.

    ``folder`` is where a ``values_file`` lies: a public list of the values, one a line.
    """
    if not isinstance(entry, Mapping):
        raise SchemaError(f"column '{name}': expected a table with a type.")
    if "values_file" in entry and entry.get("type") in ("categorical", "ordinal"):
        if "values" in entry:
            raise SchemaError(f"column '{name}': expected values or a values_file, not both.")
        rest = {key: value for key, value in entry.items() if key != "values_file"}
        entry = rest | {"values": values_from(name, folder / str(entry["values_file"]), "values_file")}
    kind = str(entry.get("type"))
    if "buy" in (entry.get("bounds"), entry.get("values")):
        raise SchemaError(f"column '{name}' is to be bought: 'pe init --from-private' completes the schema first.")
    keys = _KEYS.get(kind)
    if keys is None:
        raise SchemaError(
            f"column '{name}': expected type {', '.join(list(_KEYS)[:-1])} or key, got {entry.get('type')!r}."
        )
    missing = [key for key, required in keys.items() if required and key not in entry]
    unknown = set(entry) - set(keys) - {"type"}
    if missing or unknown:
        wrong = [f"missing key '{key}'" for key in missing] + [f"unknown key '{key}'" for key in sorted(unknown)]
        raise SchemaError(f"column '{name}': {', '.join(wrong)}; type {kind} takes {', '.join(keys)}.")
    if not isinstance(entry.get("missing", False), bool):
        raise SchemaError(f"column '{name}': expected true or false for 'missing', got {entry['missing']!r}.")
    if kind in ("categorical", "ordinal", "boolean"):
        return _categorical(name, kind, entry)
    if kind in ("date", "datetime"):
        return _datetime(name, kind, entry)
    if kind == "key":
        return _key(name, entry)
    if kind == "text":
        return Text(name, _whole(name, "max_length", entry.get("max_length", Text.max_length)))
    return _numeric(name, kind, entry)


def values_from(name: str, path: Path, key: str) -> list[str]:
    """The lines of a public list, trimmed, each once; raises SchemaError naming the column and the key."""
    try:
        if path.exists() and not path.is_file():  # reading from a pipe may never end
            raise SchemaError(f"column '{name}': the {key} {path} is no regular file.")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        raise SchemaError(f"column '{name}': the {key} {path} cannot be read as UTF-8 text.") from None
    return list(dict.fromkeys(line.strip() for line in lines if line.strip()))


def _categorical(name: str, kind: str, entry: Mapping[str, Any]) -> Categorical:
    default, missing = entry.get("default"), entry.get("missing", False)
    if kind == "boolean":
        if not isinstance(default, bool | None):
            raise SchemaError(f"column '{name}': expected true or false for 'default', got {default!r}.")
        return boolean(name, default, missing)
    values = entry["values"]
    if not isinstance(values, list):
        raise SchemaError(f"column '{name}': expected values as a list.")
    chosen: Literal["categorical", "ordinal"] = "ordinal" if kind == "ordinal" else "categorical"
    return Categorical(name, tuple(map(str, values)), None if default is None else str(default), chosen, missing)


def _datetime(name: str, kind: str, entry: Mapping[str, Any]) -> Datetime:
    resolution = entry.get("resolution", 1)
    return Datetime.of(
        name,
        entry["min"],
        entry["max"],
        resolution=_RESOLUTIONS.get(str(resolution), resolution),
        date=kind == "date",
        default=entry.get("default"),
        missing=entry.get("missing", False),
        epoch=entry.get("epoch"),
        zone=entry.get("zone"),
    )


def _key(name: str, entry: Mapping[str, Any]) -> Key:
    key = Key(
        name,
        str(entry.get("format", "integer" if "start" in entry else "uuid4")),
        _whole(name, "start", entry.get("start", 1)),
    )
    if key.format == "uuid4" and "start" in entry:
        raise SchemaError(f"column '{name}': 'uuid4' ids have no start.")
    return key


def _numeric(name: str, kind: str, entry: Mapping[str, Any]) -> Numeric | Image:
    numbers = {key: entry[key] for key in entry if key not in ("type", "missing", "scale")}
    for key, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise SchemaError(f"column '{name}': expected a number for '{key}', got {value!r}.")
    if kind == "image":
        return Image(name, **{key: _whole(name, key, value) for key, value in numbers.items()})
    scale = entry.get("scale", "linear")
    if scale not in ("linear", "log"):
        raise SchemaError(f"column '{name}': expected scale 'linear' or 'log', got {scale!r}.")
    whole, default, missing = kind == "integer", numbers.get("default"), entry.get("missing", False)
    return Numeric(name, numbers["min"], numbers["max"], whole, default, scale == "log", missing, numbers.get("step"))


def _whole(name: str, key: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise SchemaError(f"column '{name}': expected a whole number for '{key}', got {value!r}.")
    return value


def _rest(default: object, missing: bool) -> dict[str, Any]:
    return ({} if default is None else {"default": default}) | ({"missing": True} if missing else {})
