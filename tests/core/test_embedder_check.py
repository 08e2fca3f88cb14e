"""An embedder must map every record by itself: what depends on a batch is found on public records, and named."""

from __future__ import annotations

import itertools
import zlib
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

import pe
from pe.embedder_check import BATCH_BYTES, RECORDS, RowByRow, check_embedder, odd_records, trial_records
from pe.embedders.pixels import PixelEmbedder
from pe.embedders.tabular import TabularEmbedder
from pe.errors import EmbedderError

TEXT = pe.Schema((pe.Text("text", max_length=300),))
TABLE = pe.Schema(
    (
        pe.Numeric("x", -1, 1),
        pe.Numeric("year", 1900, 2100, integer=True),
        pe.Numeric("income", 1, 1e6, log=True, missing=True),
        pe.Categorical("kind", ("a", "b", "c"), missing=True),
    )
)
EXTREME = pe.Schema((pe.Numeric("x", -8e307, 8e307), pe.Numeric("one", 3, 3), pe.Categorical("c", ("a",))))
IMAGE = pe.Schema((pe.Image("image", 8, 8),))


class Words:
    """Counts of words by their checksum, scaled to unit length; of a text without words, zeros."""

    name: Any = "words"
    dim: Any = 16
    scale: Any = 64.0
    limit: Any = 127

    def counts(self, table: pa.Table) -> NDArray[np.float64]:
        counts = np.zeros((table.num_rows, 16))
        for row, text in enumerate(table.column("text").to_pylist()):
            for word in text.split():
                counts[row, zlib.crc32(word.encode()) % 16] += 1
        return counts

    def embed(self, table: pa.Table) -> Any:
        counts = self.counts(table)
        return (counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1)).astype(np.float32)


class Strict(Words):
    """Fails on a text without words, and with it on the whole batch."""

    def embed(self, table: pa.Table) -> Any:
        if not all(text.split() for text in table.column("text").to_pylist()):
            raise ValueError("no words")
        return super().embed(table)


class Nan(Words):
    """NaN for a text without words."""

    def embed(self, table: pa.Table) -> Any:
        counts = self.counts(table)
        with np.errstate(invalid="ignore"):
            return counts / np.linalg.norm(counts, axis=1, keepdims=True)


class Short(Words):
    """Leaves out what it cannot embed."""

    def embed(self, table: pa.Table) -> Any:
        made = super().embed(table)
        return made[[bool(text.split()) for text in table.column("text").to_pylist()]]


class Lists(Words):
    def embed(self, table: pa.Table) -> Any:
        return super().embed(table).tolist()


@pytest.mark.parametrize("embedder", [Words(), Strict(), Nan(), Short(), Lists()], ids=lambda e: type(e).__name__)
def test_one_that_maps_every_record_by_itself_passes_whatever_fails_and_returns(embedder: Any) -> None:
    """A record may fail, by an exception, NaN or a missing row, where it leaves the others as they are."""
    assert check_embedder(embedder, TEXT) == (embedder, [])


@pytest.mark.parametrize("schema", [TABLE, EXTREME, pe.Schema((*TABLE.columns, pe.Categorical("l", ("0", "1"))), "l")])
def test_the_tabular_embedder_passes(schema: pe.Schema) -> None:
    embedder = TabularEmbedder(schema)
    assert check_embedder(embedder, schema) == (embedder, [])


def test_the_pixel_embedder_passes() -> None:
    embedder = PixelEmbedder(IMAGE)
    assert check_embedder(embedder, IMAGE) == (embedder, [])


class Centred(Words):
    def embed(self, table: pa.Table) -> Any:
        made = super().embed(table)
        return made - made.mean(axis=0)


class CentredInLargeBatches(Centred):
    def embed(self, table: pa.Table) -> Any:
        return super().embed(table) if table.num_rows > 32 else Words.embed(self, table)


class Padded(Words):
    """A mean over words in which the padding to the longest text of the batch counts."""

    def embed(self, table: pa.Table) -> Any:
        counts = self.counts(table)
        return counts / max(counts.sum(axis=1).max(), 1)


class Ranked(Words):
    """One that looks at its place in the batch."""

    def embed(self, table: pa.Table) -> Any:
        made = super().embed(table)
        made[:, 0] += np.arange(len(made)) % 2
        return made


class Deduplicated(Words):
    """Zeros for a text that stood in the batch before."""

    def embed(self, table: pa.Table) -> Any:
        made, seen = super().embed(table), set()
        for row, text in enumerate(table.column("text").to_pylist()):
            if text in seen:
                made[row] = 0
            seen.add(text)
        return made


class Chunks(Words):
    """One that reads the first chunk of a column alone, and pads."""

    def embed(self, table: pa.Table) -> Any:
        column = table.column("text").chunk(0)
        made = super().embed(pa.table({"text": column}))
        return np.concatenate([made, np.zeros((table.num_rows - len(made), 16), np.float32)])


class Poisoned(Words):
    """All NaN where one record fails."""

    def embed(self, table: pa.Table) -> Any:
        made = super().embed(table)
        return made if made.any(axis=1).all() else np.full_like(made, np.nan)


class Shadowed(Words):
    """Vectors change beside a record that fails."""

    def embed(self, table: pa.Table) -> Any:
        made = super().embed(table)
        empty = ~made.any(axis=1)
        made[empty] = np.nan
        return made * np.float32(0.5 if empty.any() else 1)


class Dropout(Words):
    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def embed(self, table: pa.Table) -> Any:
        return super().embed(table) * (self.rng.random((table.num_rows, 16)) < 0.9)


class Running(Words):
    """Statistics of all that it has seen: a batch normalisation in training mode."""

    def __init__(self) -> None:
        self.total, self.seen = np.zeros(16), 0

    def embed(self, table: pa.Table) -> Any:
        made = super().embed(table)
        self.total, self.seen = self.total + made.sum(axis=0), self.seen + len(made)
        return made - self.total / self.seen


class Learns(Words):
    """Changes once, in the first batch of several records."""

    factor = 1.0

    def embed(self, table: pa.Table) -> Any:
        made = super().embed(table) * np.float32(self.factor)
        if table.num_rows > 90:
            self.factor = 0.5
        return made


class Squeezed(Words):
    def embed(self, table: pa.Table) -> Any:
        return super().embed(table).squeeze()


DEPENDENT = {
    Centred: "in a batch of 2 than alone",
    CentredInLargeBatches: "beside copies of itself, in a batch of 96",
    Padded: "in a batch of",
    Ranked: "in a batch of",
    Deduplicated: "beside copies of itself",
    Chunks: "in a table of two chunks",
    Poisoned: "beside one that cannot be embedded",
    Shadowed: "beside one that cannot be embedded",
    Dropout: "when it is asked again",
    Running: "when it is asked again",
    Learns: "when it is asked again",
}


@pytest.mark.parametrize("kind", DEPENDENT, ids=lambda kind: kind.__name__)
def test_whatever_a_vector_depends_on_beside_its_record_is_found_and_named(kind: Any) -> None:
    with pytest.raises(EmbedderError, match=DEPENDENT[kind]) as caught:
        check_embedder(kind(), TEXT)
    assert "follow from that record alone" in str(caught.value)


class Product(Words):
    """A float32 product whose order of summation follows the size of the batch, as in a library for matrices."""

    weights = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)

    def embed(self, table: pa.Table) -> Any:
        counts = super().embed(table)
        order = range(16) if table.num_rows == 1 else range(15, -1, -1)
        total = np.zeros((len(counts), 16), np.float32)
        for place in order:
            total += counts[:, place : place + 1] * self.weights[place]
        return total / np.float32(4)


def test_one_whose_batches_differ_by_rounding_is_asked_row_by_row() -> None:
    embedder = Product()
    found, warnings = check_embedder(embedder, TEXT)
    assert isinstance(found, RowByRow)
    assert "differ by rounding" in warnings[0]
    assert (found.name, found.dim, found.scale, found.limit) == ("words-row-by-row", 16, 64.0, 127)
    assert not hasattr(found, "blocks")
    table = trial_records(TEXT, 7)
    alone = np.concatenate([embedder.embed(table.slice(row, 1)) for row in range(7)])
    assert not np.array_equal(embedder.embed(table), alone)
    np.testing.assert_array_equal(found.embed(table), alone)
    assert found.embed(table.slice(0, 0)).shape == (0, 16)
    assert check_embedder(found, TEXT) == (found, [])


DECLARED = {
    "name": ["", None, 3],
    "dim": [0, -1, 16.0, None, True],
    "limit": [0, 32768, 127.0, None],
    "scale": [0, -1.0, float("nan"), float("inf"), 1e-50, "64", None],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in DECLARED.items() for value in values])
def test_what_it_says_of_itself_is_checked(key: str, value: object) -> None:
    embedder = Words()
    setattr(embedder, key, value)
    with pytest.raises(EmbedderError, match=key):
        check_embedder(embedder, TEXT)


@pytest.mark.parametrize(
    "blocks",
    [[], [slice(0, 9), slice(8, 16)], [slice(0, 0)], [slice(20, 30)]],
    ids=["none", "twice", "empty", "beyond"],
)
def test_blocks_are_disjoint_parts_of_a_vector(blocks: list[slice]) -> None:
    embedder: Any = Words()
    embedder.blocks = [slice(0, 8), slice(8, 16)]
    assert check_embedder(embedder, TEXT)[1] == []
    embedder.blocks = blocks
    with pytest.raises(EmbedderError, match="blocks as disjoint slices"):
        check_embedder(embedder, TEXT)


class Fails(Words):
    def embed(self, table: pa.Table) -> Any:
        raise KeyError("no such model")


class Nothing(Words):
    def embed(self, table: pa.Table) -> Any:
        return None


class Named(Words):
    def embed(self, table: pa.Table) -> Any:
        return np.array([["a"] * 16] * table.num_rows)


@pytest.mark.parametrize(
    ("kind", "says"),
    [(Fails, "no such model"), (Nothing, r"got \(\)"), (Named, "could not convert"), (Squeezed, r"got \(16,\)")],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_one_that_embeds_no_record_says_why(kind: Any, says: str) -> None:
    with pytest.raises(EmbedderError, match=says):
        check_embedder(kind(), TEXT)


@pytest.mark.parametrize("scale", [0.001, 1e6], ids=["rounded away", "clipped"])
def test_a_scale_that_leaves_nothing_of_the_vectors_is_refused(scale: float) -> None:
    embedder = Words()
    embedder.scale = scale

    def shifted(table: pa.Table) -> Any:
        return Words.embed(embedder, table) + np.float32(1)

    if scale > 1:
        embedder.embed = shifted  # type: ignore[method-assign]
    with pytest.raises(EmbedderError, match="tells no records apart"):
        check_embedder(embedder, TEXT)


def test_a_scale_at_which_most_entries_are_clipped_is_warned_of() -> None:
    embedder: Any = Words()
    embedder.embed = lambda table: np.concatenate(
        [Words.embed(embedder, table)[:, :4], np.full((table.num_rows, 12), 9, np.float32)], axis=1
    )
    found, warnings = check_embedder(embedder, TEXT)
    assert found is embedder
    assert "entries of embedder 'words' are clipped at its limit of 127" in warnings[0]


def test_samples_of_the_api_must_all_have_a_vector() -> None:
    with pytest.raises(EmbedderError, match="failed on synthetic samples"):
        check_embedder(Strict(), TEXT, pa.table({"text": ["fine", ""]}, TEXT.arrow()))
    assert check_embedder(Strict(), TEXT, pa.table({"text": ["fine", "good"]}, TEXT.arrow()))[1] == []


class Half(Words):
    """No vector of longer texts."""

    def embed(self, table: pa.Table) -> Any:
        made = super().embed(table)
        made[[len(text) > 120 for text in table.column("text").to_pylist()]] = np.nan
        return made


def test_records_of_which_many_have_no_vector_are_warned_of() -> None:
    warnings = check_embedder(Half(), TEXT)[1]
    assert f"cannot embed 5 of {RECORDS} public records" in warnings[0]


class Counting(Words):
    costly = False

    def __init__(self) -> None:
        self.rows = 0

    def embed(self, table: pa.Table) -> Any:
        self.rows += table.num_rows
        return super().embed(table)


def test_a_costly_embedder_is_tried_on_fewer_records() -> None:
    cheap, costly = Counting(), Counting()
    costly.costly = True
    check_embedder(cheap, TEXT)
    check_embedder(costly, TEXT)
    assert costly.rows < 100 < cheap.rows < 300


def test_batches_of_long_vectors_stay_small() -> None:
    large = pe.Schema((pe.Image("image", 256, 256, 3),))
    embedder: Any = PixelEmbedder(large)
    sizes: list[int] = []
    embed = embedder.embed
    embedder.embed = lambda table: (sizes.append(table.num_rows), embed(table))[1]
    check_embedder(embedder, large)
    assert max(sizes) <= max(RECORDS + 5, BATCH_BYTES // (4 * embedder.dim))


def test_trial_records_are_public_lie_in_the_domain_and_repeat() -> None:
    from pe.data.arrays import misfits

    for schema in (TEXT, TABLE, EXTREME, IMAGE):
        for made in (trial_records(schema, 9), odd_records(schema)):
            assert list(misfits(made, schema)) == []
        assert trial_records(schema, 9).equals(trial_records(schema, 9))
    lengths = [len(text) for text in trial_records(TEXT, 9).column("text").to_pylist()]
    assert all(a < b for a, b in itertools.pairwise(lengths))
