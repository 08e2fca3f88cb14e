"""Text from an n-gram model of a public corpus: what varies resembles its parent, and only the corpus is known."""

import json
import sys
import types
from difflib import SequenceMatcher
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pe
from pe.apis.ngram import NGramAPI
from pe.apis.ngrams import END, NGrams
from pe.apis.words import text_of, tokens
from pe.build import build_apis
from pe.config import Config
from pe.data.population import Population
from pe.errors import ConfigError, SchemaError

SCHEMA = pe.Schema((pe.Text("text", 400), pe.Categorical("kind", ("food", "travel"))), label="kind")

SUBJECTS = {
    "food": ("the soup", "our dinner", "this salad", "the bread"),
    "travel": ("the train", "our hotel", "a bus"),
}
VERBS = ("was", "seemed", "looked", "turned out")
QUALITIES = ("rather good", "far too cold", "quite slow", "the best of all", "worth its price", "sadly late")
ENDS = ("on Monday", "this time", "for us all", "as ever", "in New York")


def sentences(kind: str, n: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    parts = (SUBJECTS[kind], VERBS, QUALITIES, ENDS)
    return [" ".join(str(rng.choice(part)) for part in parts).capitalize() + "." for _ in range(n)]


def texts(population: Population) -> list[str]:
    found: list[str] = population.records["text"].to_pylist()
    return found


def words(text: str) -> list[str]:
    return text.lower().replace(".", " .").split()


def likeness(a: str, b: str) -> float:
    return SequenceMatcher(None, words(a), words(b), autojunk=False).ratio()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "public.jsonl"
    rows = [{"text": each, "kind": kind} for kind in SUBJECTS for each in sentences(kind, 300, 0)]
    rows += [{"text": "Nobody knows what a cinema is.", "kind": "other"}] * 30
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def api(corpus: Path) -> NGramAPI:
    return NGramAPI(SCHEMA, corpus=corpus, corpus_label="kind", words=(5, 40))


def population(found: list[str], labels: Any = 0, schema: pe.Schema = SCHEMA) -> Population:
    return Population.of(pa.table({"text": pa.array(found, pa.string())}), labels, "test")


def test_the_same_generator_proposes_the_same_texts(corpus: Path, api: NGramAPI) -> None:
    other = NGramAPI(SCHEMA, corpus=str(corpus), corpus_label="kind", words=(5, 40))
    api.vary(population(["Words that no corpus holds, zebra after zebra."]), 1.0, np.random.default_rng(9))
    made = [each.random(20, 1, np.random.default_rng(1)) for each in (api, other)]
    assert texts(made[0]) == texts(made[1])
    varied = [each.vary(made[0], 0.4, np.random.default_rng(2)) for each in (api, other)]
    assert texts(varied[0]) == texts(varied[1]) != texts(made[0])


def test_labels_of_the_corpus_condition_and_other_texts_are_for_all(api: NGramAPI) -> None:
    for label, (own, foreign) in enumerate((("food", "travel"), ("travel", "food"))):
        made = api.random(200, label, np.random.default_rng(label))
        assert (made.labels == label).all()
        varied = api.vary(made, 0.8, np.random.default_rng(label))
        assert (varied.labels == label).all()
        for population in (made, varied):
            text = " ".join(texts(population)).lower()
            assert all(subject in text for subject in SUBJECTS[own])
            assert not any(subject.split()[1] in words(text) for subject in SUBJECTS[foreign])
        assert "cinema" in " ".join(texts(api.random(600, label, np.random.default_rng(label))))


def test_without_a_label_column_all_texts_are_for_all_labels(corpus: Path) -> None:
    text = " ".join(texts(NGramAPI(SCHEMA, corpus=corpus).random(100, 0, np.random.default_rng(0))))
    assert "hotel" in text
    assert "salad" in text


def test_variations_resemble_their_parents_less_with_the_degree(api: NGramAPI) -> None:
    rng = np.random.default_rng(0)
    parents = api.random(400, 0, rng)
    assert texts(api.vary(parents, 0.0, rng)) == texts(parents)
    near = []
    for degree in (0.02, 0.2, 0.5, 1.0):
        varied = texts(api.vary(parents, degree, rng))
        near.append(np.mean([likeness(a, b) for a, b in zip(texts(parents), varied, strict=True)]))
    strangers = np.mean([likeness(a, b) for a, b in zip(texts(parents), texts(api.random(400, 0, rng)), strict=True)])
    assert near[0] > 0.85
    assert near == sorted(near, reverse=True)
    assert near[-1] > strangers


def test_a_variation_of_any_degree_but_zero_changes_something(api: NGramAPI) -> None:
    rng = np.random.default_rng(0)
    parents = api.random(300, 0, rng)
    changed = [a != b for a, b in zip(texts(parents), texts(api.vary(parents, 0.01, rng)), strict=True)]
    assert np.mean(changed) > 0.9  # of few words, often nothing else joins


def test_length_is_a_walk_that_drifts_little_and_spreads(api: NGramAPI) -> None:
    rng = np.random.default_rng(0)
    parents = population(texts(api.random(1, 0, rng))[:1] * 300)
    long = population([" ".join(sentences("food", 6, 1))] * 300)
    varied = [len(words(text)) for text in texts(api.vary(long, 0.5, rng))]
    assert abs(np.mean(varied) / len(words(texts(long)[0])) - 1) < 0.1
    assert min(varied) < 0.75 * len(words(texts(long)[0])) < 1.3 * len(words(texts(long)[0])) < max(varied)
    assert len(parents) == 300


def test_phrases_of_the_parents_recombine(api: NGramAPI) -> None:
    """A word that no corpus has reaches the variations of parents without it."""
    strange = [
        text.replace("The soup", "The zebra") for text in sentences("food", 200, 5) if text.startswith("The soup")
    ]
    parents = population(strange + sentences("food", 100, 2))
    varied = texts(api.vary(parents, 0.5, np.random.default_rng(0)))[len(strange) :]
    assert 3 < sum("zebra" in text.lower() for text in varied) < 60


def test_spans_join_what_stands_around_them(api: NGramAPI) -> None:
    """Nearly every pair of neighbours in a variation is one that the corpus or a parent has."""
    rng = np.random.default_rng(0)
    parents = api.random(300, 0, rng)
    known = {pair for text in (*sentences("food", 300, 0), *texts(parents)) for pair in pairwise(words(text))}
    varied = [pair for text in texts(api.vary(parents, 0.3, rng)) for pair in pairwise(words(text))]
    strange = [pair for pair in varied if pair not in known and pair[0] != "."]
    assert len(strange) < 0.01 * len(varied)


def test_texts_keep_the_schema(corpus: Path) -> None:
    short = pe.Schema((pe.Text("text", 30),))
    api, rng = NGramAPI(short, corpus=corpus), np.random.default_rng(0)
    made = api.random(200, 0, rng)
    for population in (made, api.vary(made, 0.7, rng)):
        assert population.records.schema.names == ["text"]
        assert all(0 < len(text) <= 30 for text in texts(population))
        assert all(text.endswith(".") or len(text) > 15 for text in texts(population))  # cut after a sentence or a word


@pytest.mark.parametrize(
    "text", ["", "   ", "!!!", "zebra", "\"'([", "日本語のテキスト", "x" * 500, "a\nb\x00c", "𝄞 é 1,000.5% $3"]
)
def test_any_text_can_be_varied(api: NGramAPI, text: str) -> None:
    varied = texts(api.vary(population([text, "The soup was rather good this time."]), 0.5, np.random.default_rng(0)))
    assert len(varied) == 2
    assert all(0 < len(each) <= 400 for each in varied)


def test_draws_follow_the_counts_of_their_context() -> None:
    """Interpolated Kneser-Ney with discount d: P(w|c) = (n(cw) - d)/n(c) + d types/n(c) P(w|shorter c)."""
    model = NGrams([[1, 2], [1, 2], [1, 2], [1, 3]], order=3, discount=0.5)
    drawn = model.draw(np.tile([END, 1], (40_000, 1)), np.full(40_000, 2), np.random.default_rng(0))
    # after 1 alone, 2 and 3 each follow one distinct token: a half
    share = (3 - 0.5) / 4 + 0.5 * 2 / 4 / 2
    assert np.bincount(drawn, minlength=4)[2] / 40_000 == pytest.approx(share, abs=0.01)
    unseen = model.draw(np.tile([2, 9], (1000, 1)), np.full(1000, 2), np.random.default_rng(0))
    assert set(unseen) == {END, 1, 2, 3}
    paired = model.draw(np.tile([9, 1], (1000, 1)), np.full(1000, 2), np.random.default_rng(0))
    assert set(paired) == {2, 3}
    assert model.follows(np.array([[1, 3], [3, END], [2, 3]])).tolist() == [True, True, False]
    assert model.follows(np.array([[END, 1, 2], [1, 2, 3]])).tolist() == [True, False]


@given(st.text(max_size=60))
def test_tokens_of_a_written_text_are_its_tokens(text: str) -> None:
    once = text_of(tokens(text))
    assert [[w.lower() for w in s] for s in tokens(once)] == [
        [w.lower() for w in s] for s in tokens(text_of(tokens(once)))
    ]


def test_spelling() -> None:
    assert text_of(tokens("the film 's \" best \" scene , ca n't be beat . i #39;d go & see it ... twice")) == (
        "The film's best scene, can't be beat. I'd go & see it... Twice."
    )


@pytest.mark.parametrize("suffix", ["csv", "txt", "parquet"])
def test_corpora_of_every_kind(tmp_path: Path, suffix: str) -> None:
    path, lines = tmp_path / f"public.{suffix}", sentences("food", 50, 0)
    if suffix == "parquet":
        pyarrow.parquet.write_table(pa.table({"text": lines}), path)
    else:
        path.write_text("\n".join((["text"] if suffix == "csv" else []) + lines))
    made = texts(NGramAPI(SCHEMA, corpus=[path]).random(50, 0, np.random.default_rng(0)))
    assert set(words(" ".join(made))) <= set(words(" ".join(lines)))


def test_a_label_with_a_quote_or_a_newline_is_a_label(tmp_path: Path) -> None:
    odd = ('the "best"', "two\nlines")
    schema = pe.Schema((pe.Text("text"), pe.Categorical("kind", odd)), label="kind")
    pyarrow.parquet.write_table(
        pa.table({"text": ["The soup was good.", "The train was late."] * 9, "kind": list(odd) * 9}),
        tmp_path / "c.parquet",
    )
    api = NGramAPI(schema, corpus=tmp_path / "c.parquet", corpus_label="kind")
    assert "train" not in " ".join(texts(api.random(30, 0, np.random.default_rng(0))))
    assert "soup" not in " ".join(texts(api.random(30, 1, np.random.default_rng(0))))


def test_what_is_not_utf8_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"The soup was good.\n\xff\xfe The train was late.\n")
    (tmp_path / "b.csv").write_bytes(b"text\nThe bread was warm.\n\xff\xfe\n")
    found = set(
        words(
            " ".join(
                texts(
                    NGramAPI(SCHEMA, corpus=[tmp_path / "a.txt", tmp_path / "b.csv"]).random(
                        50, 0, np.random.default_rng(0)
                    )
                )
            )
        )
    )
    assert {"soup", "train", "bread"} <= found


def test_a_corpus_beyond_its_limit_is_thinned_evenly(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(f"Word{number} stands here." for number in range(1000)))
    api = NGramAPI(SCHEMA, corpus=tmp_path / "a.txt", limit=5000)
    assert 100 < api.vocabulary.known < 300
    assert "word0" in api.vocabulary.numbers


def test_bad_corpora_and_settings_are_one_clear_error(tmp_path: Path, corpus: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "marks.csv").write_text("text\n...\n\n")
    (tmp_path / "bad.parquet").write_bytes(b"nonsense")
    for keys, message in (
        ({"corpus": tmp_path / "none.csv"}, "none.csv cannot be read"),
        ({"corpus": tmp_path / "none.txt"}, "none.txt cannot be read: No such file"),
        ({"corpus": tmp_path / "empty.txt"}, "holds no sentence"),
        ({"corpus": tmp_path / "marks.csv"}, "holds no sentence"),
        ({"corpus": tmp_path / "bad.parquet"}, "cannot be read"),
        ({"corpus": []}, "corpus of one path or more"),
        ({"corpus": corpus, "corpus_text": ["a", "b"]}, "corpus_text for each"),
        ({"corpus": corpus, "order": 1}, "order in"),
        ({"corpus": corpus, "words": [5, 2]}, "fewest <= most"),
    ):
        with pytest.raises(ConfigError, match=f"{message}.*Nothing was spent"):
            NGramAPI(SCHEMA, **keys)
    with pytest.raises(SchemaError, match=r"no column 'body'.*corpus_text.*Nothing was spent"):
        NGramAPI(SCHEMA, corpus=corpus, corpus_text="body")
    with pytest.raises(SchemaError, match=r"no column 'stars'.*Nothing was spent"):
        NGramAPI(SCHEMA, corpus=corpus, corpus_label="stars")
    with pytest.raises(SchemaError, match="one column of text"):
        NGramAPI(pe.Schema((pe.Text("text"), pe.Numeric("x", 0, 1))), corpus=corpus)


class Letters:
    """Counts of letters: enough to tell one phrase from another."""

    name, dim, scale, limit = "letters", 26, 16.0, 2**10

    def __init__(self, schema: pe.Schema) -> None: ...

    def embed(self, table: pa.Table) -> np.ndarray:
        counts = [[text.lower().count(chr(97 + k)) for k in range(26)] for text in table["text"].to_pylist()]
        return np.array(counts, np.float32).reshape(-1, 26) / 4


@pytest.mark.usefixtures("repeated_noise")
def test_a_run_moves_towards_the_private_texts_and_says_what_was_public(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("planted_letters")
    module.Letters = Letters  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    schema = pe.Schema((pe.Text("text", 200),))
    private = tmp_path / "private.csv"
    private.write_text(
        "\n".join(["text", *(f"{each} was far too cold for us all." for each in SUBJECTS["food"] * 100)])
    )
    settings: dict[str, Any] = {
        "schema": schema,
        "source": "s",
        "embedder": "planted_letters:Letters",
        "method": "tab-pe",
        "iterations": 6,
        "rows": 40,
        "epsilon": 20.0,
        "delta": 1e-4,
        "adjacency": "replace-one",
        "create": True,
    }
    own = {"kind": "ngram", "corpus": [str(corpus), str(private)]}
    with pytest.raises(ConfigError, match=r"the private data themselves.*Nothing was spent"):
        pe.synthesize(private, api=own, run=tmp_path / "run", **settings)
    api = {"kind": "ngram", "corpus": [str(corpus)], "words": [5, 20]}
    made = pe.synthesize(private, api=api, run=tmp_path / "run", **settings)
    text = " ".join(made.to_numpy("text")).lower()
    (fresh,) = build_apis(Config.model_validate(settings_of(corpus)), schema)
    before = " ".join(texts(fresh.random(40, 0, np.random.default_rng(0)))).lower()

    assert before.count("cold") < 20
    assert text.count("cold") > 2 * before.count("cold")
    assert (
        "the public data of the API: the corpus of an n-gram model, public.jsonl" in made.certificate["declared_public"]
    )


def settings_of(corpus: Path) -> dict[str, Any]:
    return {
        "private": {"source": "s"},
        "privacy": {"epsilon": 1, "delta": 1e-6, "adjacency": "add-remove"},
        "api": [{"kind": "ngram", "corpus": [str(corpus)], "words": [5, 20]}],
        "output": {"run": "run"},
    }
