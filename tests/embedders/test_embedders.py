"""What every embedder promises: shape, record-wise, inside its own public bound."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pe.apis.tabular import TabularAPI
from pe.apis.text_render import TextRenderAPI
from pe.data.arrays import to_table
from pe.data.schema import Categorical, Datetime, Image, Numeric, Schema, boolean
from pe.embedders.pixels import PixelEmbedder
from pe.embedders.tabular import TabularEmbedder
from pe.errors import SchemaError
from pe.kernels.floating import exact_type, largest_squared_norm
from pe.kernels.quantise import quantise

TABLE = Schema(
    (
        Numeric("a", -5, 5, integer=True),
        Numeric("b", 0.0, 1e9),
        Numeric("constant", 1.0, 1.0),
        Categorical("c", tuple("uvwxyz")),
    )
)
PICTURES = Schema((Image("image", 8, 8), Categorical("digit", ("0", "1"))), label="digit")


@pytest.mark.parametrize("kind", ["tabular", "pixels"])
def test_rows_are_embedded_one_by_one_within_the_bound(kind: str) -> None:
    rng = np.random.default_rng(0)
    if kind == "tabular":
        embedder, records = TabularEmbedder(TABLE), TabularAPI(TABLE).random(100, 0, rng).records
    else:
        embedder, records = PixelEmbedder(PICTURES), TextRenderAPI(PICTURES).random(100, 1, rng).records
    vectors = embedder.embed(records)
    assert vectors.shape == (100, embedder.dim)
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors[37:38], embedder.embed(records.slice(37, 1)))
    unbounded, _ = quantise(vectors, embedder.scale, 32767)
    assert np.abs(unbounded).max() <= embedder.limit
    assert embedder.embed(records.slice(0, 0)).shape == (0, embedder.dim)


def test_no_table_leaves_the_single_precision_route() -> None:
    """The corners of the domain are the longest vectors."""
    for columns in (TABLE.columns, tuple(Numeric(f"n{i}", 0, 1) for i in range(60))):
        schema = Schema(columns)
        embedder = TabularEmbedder(schema)
        api = TabularAPI(schema)
        records = api.random(200, 0, np.random.default_rng(0)).records
        corners = api.vary(api.random(200, 0, np.random.default_rng(1)), 1.0, np.random.default_rng(2)).records
        for table in (records, corners):
            integers, _ = quantise(np.sign(embedder.embed(table)), embedder.scale * 0.5, embedder.limit)
            assert exact_type(largest_squared_norm(integers[:, : len(columns)])) == np.float32


def test_pixels_enter_the_vote_unrounded() -> None:
    records = TextRenderAPI(PICTURES).random(20, 0, np.random.default_rng(0)).records
    embedder = PixelEmbedder(PICTURES)
    integers, _ = quantise(embedder.embed(records), embedder.scale, embedder.limit)
    assert np.array_equal(integers, embedder.embed(records))


def test_wrong_schemas_are_refused() -> None:
    with pytest.raises(SchemaError, match="needs an image column"):
        PixelEmbedder(TABLE)
    with pytest.raises(SchemaError, match="reads no image"):
        TabularEmbedder(PICTURES)


CODES = tuple(f"code {number}" for number in range(10_000))
TYPES = Schema(
    (
        Numeric("ratio", 1, 1e8, log=True),
        Numeric("gap", 0, 10, missing=True),
        Categorical("size", ("s", "m", "l", "xl"), kind="ordinal"),
        Categorical("code", CODES, missing=True),
        Datetime.of("day", "2000-01-01", "2020-01-01", date=True),
        boolean("flag", missing=True),
    )
)


def distances(name: str, values: list[Any]) -> NDArray[np.float64]:
    """Between the embeddings of values of one column, in schema form."""
    schema = Schema((TYPES.column(name),))
    embedder = TabularEmbedder(schema)
    vectors = embedder.embed(to_table({name: np.array(values)}, schema)).astype(np.float64)
    return np.linalg.norm(vectors[:, None] - vectors[None], axis=2)


def test_each_type_has_its_own_distance() -> None:
    ordinal = distances("size", [0, 1, 2, 3])
    assert ordinal == pytest.approx(np.abs(np.subtract.outer(range(4), range(4))) / 3)
    assert distances("ratio", [1.0, 1e4, 1e8]) == pytest.approx(
        np.array([[0, 0.5, 1], [0.5, 0, 0.5], [1, 0.5, 0]]), abs=4e-4
    )
    categories = math.sqrt(2) / 3
    assert distances("flag", [0, 1, 2])[0, 1:] == pytest.approx(categories)
    assert distances("gap", [np.nan, 5.0, 10.0])[0, 1:] == pytest.approx([categories, math.hypot(categories, 0.5)])
    assert distances("day", [10957, 18262])[0, 1] == pytest.approx(1)


def test_thousands_of_categories_are_told_apart_in_a_few_entries() -> None:
    found = distances("code", list(range(0, 10_001, 5)))
    assert TabularEmbedder(Schema((TYPES.column("code"),))).dim == 64
    apart = found[~np.eye(len(found), dtype=bool)]
    assert apart.min() > 0.2
    assert apart.mean() == pytest.approx(math.sqrt(2) / 3, rel=0.01)
    assert apart.std() == pytest.approx(math.sqrt(2) / 3 / 16, rel=0.1)


def test_a_new_category_leaves_the_others_where_they_were() -> None:
    small, large = (Schema((Categorical("c", CODES[:size]),)) for size in (100, 101))
    codes = {"c": np.arange(100, dtype=np.int32)}
    one, other = (TabularEmbedder(each).embed(to_table(codes, each)) for each in (small, large))
    assert np.array_equal(one, other)


def test_every_type_is_embedded_row_by_row_within_the_bound() -> None:
    wide = Schema(
        (
            *TYPES.columns,
            *(Categorical(f"c{i}", CODES[:60]) for i in range(60)),
            *(Numeric(f"n{i}", 0, 1) for i in range(40)),
        )
    )
    for schema in (TYPES, wide):
        for weight in (0.0, 1 / 3, 2.0):
            embedder = TabularEmbedder(schema, category_weight=weight)
            records = TabularAPI(schema).random(300, 0, np.random.default_rng(0)).records
            vectors = embedder.embed(records)
            assert vectors.shape == (300, embedder.dim)
            for row in (0, 7, 299):
                assert np.array_equal(vectors[row : row + 1], embedder.embed(records.slice(row, 1)))
            integers, finite = quantise(vectors, embedder.scale, 32767)
            assert finite.all()
            assert np.abs(integers).max() <= embedder.limit
            assert exact_type(largest_squared_norm(integers)) == np.float32
