"""Numbers as small and as large as floats: refused by the schema, or released within their domain without a word."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import pe
from pe.data.ranges import LARGEST, SMALLEST, check_ranges
from pe.errors import SchemaError

TOO_FAR = [
    (1e-300, 2e-300),
    (0, 1e-200),
    (0, 5e-324),
    (-1e-61, 0),
    (-1.7e308, 1.7e308),
    (-1e308, 0.9e308),
    (1e300, 1.1e300),
    (0, 1e61),
]


@pytest.mark.parametrize(("low", "high"), TOO_FAR)
@pytest.mark.parametrize("log", [False, True])
def test_bounds_that_arithmetic_cannot_hold_are_refused(low: float, high: float, log: bool) -> None:
    if log and low <= 0:
        return
    with pytest.raises(SchemaError, match=r"column 'v': expected min and max within 1e\+60.*another unit"):
        check_ranges(pe.Schema((pe.Numeric("v", low, high, log=log),)))


def test_a_log_scale_begins_where_its_logarithm_is_exact() -> None:
    with pytest.raises(SchemaError, match="another unit"):
        check_ranges(pe.Schema((pe.Numeric("v", 1e-300, 1.0, log=True),)))
    check_ranges(pe.Schema((pe.Numeric("v", SMALLEST, LARGEST, log=True), pe.Numeric("w", 0.5, 0.5))))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("method", ["cross-tables", "aug-pe"])
@pytest.mark.parametrize(
    ("low", "high", "log"),
    [
        (0, SMALLEST, False),
        (-LARGEST, LARGEST, False),
        (1 - 2**-53, 1, False),
        (SMALLEST, LARGEST, True),
        (SMALLEST, 3 * SMALLEST, False),
        (0.25, 0.25, False),
    ],
)
def test_the_extremes_that_a_schema_takes_are_released_within_their_domain(
    tmp_path: Path, method: str, low: float, high: float, log: bool
) -> None:
    rng = np.random.default_rng(0)
    share = rng.random(200)
    values = np.exp((1 - share) * math.log(low) + share * math.log(high)) if log else (1 - share) * low + share * high
    table = pa.table({"v": np.clip(values, low, high), "w": 10 * share, "kind": rng.choice(["a", "b"], 200)})
    schema = pe.Schema(
        (pe.Numeric("v", low, high, log=log), pe.Numeric("w", 0, 10), pe.Categorical("kind", ("a", "b"))), "kind"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        found = pe.synthesize(
            table,
            schema=schema,
            epsilon=4.0,
            delta=1e-5,
            adjacency="add-remove",
            source="s",
            run=tmp_path / "run",
            method=method,
            iterations=None if method == "cross-tables" else 2,
            rows=50,
            simulate=1,
        )
    released = found.to_numpy("v")
    assert len(released) == 50
    assert released.min() >= low
    assert released.max() <= high


def test_a_run_with_such_bounds_is_refused_before_anything_is_spent(tmp_path: Path) -> None:
    schema = pe.Schema((pe.Numeric("v", 1e-300, 2e-300), pe.Categorical("kind", ("a", "b"))), "kind")
    with pytest.raises(SchemaError, match=r"column 'v'.*another unit\. Nothing was spent"):
        pe.synthesize(
            pa.table({"v": [1.5e-300], "kind": ["a"]}),
            schema=schema,
            epsilon=1.0,
            delta=1e-5,
            adjacency="add-remove",
            source="s",
            run=tmp_path / "run",
            create=True,
        )
    assert not (tmp_path / "run").exists()
