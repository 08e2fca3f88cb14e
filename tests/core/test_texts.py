"""What a schema of texts means to a configuration."""

from __future__ import annotations

import pytest

from pe.build import build_embedder, build_plan
from pe.config import Config
from pe.data.schema import Categorical, Numeric, Schema, Text
from pe.data.texts import word_count
from pe.embedders.sentence import SentenceEmbedder
from pe.errors import ConfigError, SchemaError

SCHEMA = Schema((Text("text", 12), Categorical("stars", ("1", "5"))), "stars")


def config(**sections: object) -> Config:
    return Config.of(
        {
            "private": {"source": "reviews"},
            "privacy": {"epsilon": 1.0, "delta": 1e-6, "adjacency": "add-remove"},
            "api": {"kind": "somewhere:Somewhat"},
            "output": {"run": "runs/reviews", "rows": 50},
        }
        | sections
    )


def test_a_text_is_embedded_as_one_and_evolved_by_text_pe() -> None:
    assert isinstance(build_embedder(config(), SCHEMA), SentenceEmbedder)
    plan = build_plan(config(), SCHEMA)
    assert plan == build_plan(config(evolution={"method": "text-pe"}), SCHEMA)
    assert plan.kernel is not None
    assert all(each.keep and each.sigma is None for each in plan.rounds)
    assert [each.distinct for each in plan.rounds] == [1.0] * (plan.iterations - 1) + [0.95]
    assert build_plan(config(evolution={"distinct": 1.0}), SCHEMA).rounds[-1].distinct == 1
    assert build_plan(config(evolution={"method": "aug-pe"}), SCHEMA).rounds[-1].distinct == 1
    assert plan.rounds[-1].population == 50


def test_private_texts_are_embedded_on_this_machine() -> None:
    with pytest.raises(ConfigError, match="'openai' would send private records away"):
        build_embedder(config(embedder={"kind": "openai"}), SCHEMA)


def test_cross_tables_are_no_texts() -> None:
    with pytest.raises(ConfigError, match="makes tables, not texts"):
        build_plan(config(evolution={"method": "cross-tables"}), SCHEMA)


def test_other_features_beside_a_text_are_refused_before_anything_is_read() -> None:
    wide = Schema((Text("text"), Numeric("x", 0, 1)))
    with pytest.raises(SchemaError, match="the schema also has 'x': make it the label, or list it in ignore"):
        build_embedder(config(), wide)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 0),
        (" ?! ... -- ", 0),
        ("Hello, world!", 2),
        ("Well - it's 3.50, isn't it?!", 5),
        ("a well-known fact (of 1999)", 5),
        ("_ _ blank _", 1),
        ("日本 テキスト。", 2),
    ],
)
def test_punctuation_is_no_word(text: str, words: int) -> None:
    assert word_count(text) == words
