"""What every embedder promises: shape, record-wise, inside its own public bound."""

import numpy as np
import pytest

from pe.apis.tabular import TabularAPI
from pe.apis.text_render import TextRenderAPI
from pe.embedders.pixels import PixelEmbedder
from pe.embedders.tabular import TabularEmbedder
from pe.errors import SchemaError
from pe.kernels.nearest import route
from pe.kernels.quantise import quantise
from pe.schema import Categorical, Image, Numeric, Schema

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
            assert route(integers[:, : len(columns)], integers[:, : len(columns)]) == "float32"


def test_pixels_enter_the_vote_unrounded() -> None:
    records = TextRenderAPI(PICTURES).random(20, 0, np.random.default_rng(0)).records
    embedder = PixelEmbedder(PICTURES)
    integers, _ = quantise(embedder.embed(records), embedder.scale, embedder.limit)
    assert np.array_equal(integers + 128, embedder.embed(records) + 128)


def test_wrong_schemas_are_refused() -> None:
    with pytest.raises(SchemaError, match="needs an image column"):
        PixelEmbedder(TABLE)
    with pytest.raises(SchemaError, match="cannot read images"):
        TabularEmbedder(PICTURES)
