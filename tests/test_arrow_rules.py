"""A single value of an Arrow column that breaks the rules of its type stops no other record."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pe.data.coerce import coerce
from pe.data.read import read
from pe.data.schema import Categorical, Schema

CASES = {
    "time": (pa.array([3600, 86400], pa.int32()).view(pa.time32("s")), "01:00:00"),
    "decimal": (pa.array([Decimal(7), Decimal(99999)], pa.decimal128(5, 0)).view(pa.decimal128(4, 0)), "7"),
    "string view": (pa.array([b"a", b"\xff"], pa.binary_view()).view(pa.string_view()), "a"),
}


@pytest.mark.parametrize("name", CASES)
def test_one_value_beyond_its_type_is_missing_or_read_and_stops_no_other(name: str, tmp_path: Path) -> None:
    values, label = CASES[name]
    path = tmp_path / "data.arrow"
    schema = Schema((Categorical("c", ("other", label), default="other"),))
    codes = []
    for rows in (1, 2):
        table = pa.table({"c": values.slice(0, rows)})
        with pa.ipc.new_file(path, table.schema) as file:
            file.write_table(table)
        codes.append(coerce(read(path, schema), schema)["c"].tolist())
    assert codes == [[1], [1, 0]]


def test_a_time_of_24_hours_in_parquet_stops_no_other(tmp_path: Path) -> None:
    schema = Schema((Categorical("c", ("other", "01:00:00.000"), default="other"),))
    pq.write_table(pa.table({"c": CASES["time"][0]}), tmp_path / "data.parquet")
    assert coerce(read(tmp_path / "data.parquet", schema), schema)["c"].tolist() == [1, 0]
