"""Words filled in by a masked language model, on one that was trained for it."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import pe
from pe.apis.filler import Filler
from pe.apis.masked import MaskedAPI
from pe.data.population import Population
from pe.errors import ConfigError, SchemaError

SCHEMA = pe.Schema((pe.Text("text", 400),))


@pytest.fixture(scope="module")
def corpus(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts, labels = tiny.reviews(30, 3)
    path: Path = tmp_path_factory.mktemp("corpus") / "public.csv"
    path.write_text("text,kind\n" + "".join(f'"{text}",{kind}\n' for text, kind in zip(texts, labels, strict=True)))
    return path


def made(masked: Path, corpus: Path, **keys: Any) -> MaskedAPI:
    return MaskedAPI(keys.pop("schema", SCHEMA), **({"model": str(masked), "corpus": str(corpus)} | keys))


@pytest.fixture(scope="module")
def api(masked: Path, corpus: Path) -> MaskedAPI:
    return made(masked, corpus)


@pytest.fixture(scope="module")
def given(tiny: Any) -> list[str]:
    texts: list[str] = tiny.reviews(60, 11)[0]
    return texts


def population(texts: list[str]) -> Population:
    return Population.of(pa.table({"text": texts}).cast(SCHEMA.arrow()), 0, "given")


def varied(api: MaskedAPI, texts: list[str], degree: float, seed: int = 0) -> list[str]:
    made = api.vary(population(texts), degree, np.random.default_rng(seed))
    found: list[str] = made.records.column("text").to_pylist()
    return found


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def changed(parent: str, child: str) -> list[tuple[str, str]]:
    """Pairs of words that differ, after a check that nothing else does."""
    assert re.sub(r"\w+", "_", parent) == re.sub(r"\w+", "_", child)
    return [(old, new) for old, new in zip(words(parent), words(child), strict=True) if old != new]


def test_no_more_than_the_share_is_replaced_and_all_else_is_copied(api: MaskedAPI, given: list[str]) -> None:
    assert varied(api, given, 0.0) == given
    before = 0.0
    for degree in (0.01, 0.2, 0.5, 1.0):
        shares = []
        for parent, child in zip(given, varied(api, given, degree), strict=True):
            count = len(words(parent))
            assert len(changed(parent, child)) <= max(1, round(degree * count))
            shares.append(len(changed(parent, child)) / count)
        assert before < np.mean(shares) <= max(degree, 0.1)
        before = float(np.mean(shares))


def test_what_is_filled_in_fits_the_rest(tiny: Any, api: MaskedAPI, given: list[str]) -> None:
    """By chance, a word that has a subject is of the parent's one time in twelve."""
    fits = []
    for parent, child in zip(given, varied(api, given, 0.3), strict=True):
        for old, new in changed(parent, child):
            if tiny.on_subject(new, new) and tiny.on_subject(old, old):
                fits.append(tiny.on_subject(parent, new))
    assert len(fits) > 30
    assert np.mean(fits) > 0.4


def test_a_seed_gives_the_same_texts_however_batches_are_cut(
    masked: Path, corpus: Path, api: MaskedAPI, given: list[str]
) -> None:
    wanted = varied(api, given, 0.5)
    assert varied(api, given, 0.5) == wanted
    assert varied(api, given, 0.5, seed=1) != wanted
    assert varied(made(masked, corpus, batch_tokens=1), given[:8], 0.5) == wanted[:8]


def test_odd_texts_come_back_whole(api: MaskedAPI) -> None:
    odd = [
        "",
        "  ",
        "?!",
        "Ünïcödé 漢字 \U0001f600 [MASK] [SEP] <s>",
        "A  tab\tand\n\nlines, kept. The pasta was good .",
        "THE PASTA WAS GOOD and The Sauce was Bad",
        "supercalifragilisticexpialidocious",
    ]
    got = varied(api, odd, 1.0)
    for parent, child in zip(odd, got, strict=True):
        changed(parent, child)
    assert got[:3] == odd[:3]
    assert got[6] == odd[6]
    assert got[5].split()[0].isupper()
    assert got[5].split()[5].istitle()


def test_no_special_token_comes_out_and_every_word_is_whole(api: MaskedAPI, given: list[str]) -> None:
    text = " ".join(varied(api, given, 1.0))
    assert not re.search(r"\[|##|\]", text)
    kinds = api.filler._pieces[1]
    assert (kinds[api.filler.tokenizer.all_special_ids] == 0).all()
    for number, token in enumerate(api.filler.tokenizer.convert_ids_to_tokens(range(len(kinds)))):
        assert (kinds[number] in (2, 4)) == (token.startswith("##") and token[2:].isalnum())


def test_a_long_text_is_varied_throughout(api: MaskedAPI, given: list[str]) -> None:
    assert api.filler.context < 64
    long = " ".join(given)
    (got,) = varied(made_longer(api), [long], 0.5)
    changes = [old != new for old, new in zip(words(long), words(got), strict=True)]
    assert all(np.mean(part) > 0.15 for part in np.array_split(changes, 8))


def made_longer(api: MaskedAPI) -> MaskedAPI:
    longer = MaskedAPI.__new__(MaskedAPI)
    longer.__dict__ |= api.__dict__
    longer.facts = type(api.facts)(pe.Schema((pe.Text("text", 100_000),)))
    return longer


def test_random_draws_texts_of_the_label(tiny: Any, masked: Path, corpus: Path) -> None:
    schema = pe.Schema((pe.Text("text", 400), pe.Categorical("kind", tiny.labels)), label="kind")
    texts, labels = tiny.reviews(30, 3)
    own = sorted(text for text, kind in zip(texts, labels, strict=True) if kind == "film")
    api = made(masked, corpus, schema=schema, corpus_label="kind")
    drawn = api.random(len(own), 1, np.random.default_rng(0)).records.column("text").to_pylist()
    assert sorted(drawn) == own
    assert len(api.random(2 * len(own) + 1, 1, np.random.default_rng(0))) == 2 * len(own) + 1
    every = made(masked, corpus, schema=schema)
    assert sorted(every.random(30, 1, np.random.default_rng(0)).records.column("text").to_pylist()) == sorted(texts)
    fresh = made(masked, corpus, schema=schema, corpus_label="kind", fresh=0.5)
    assert not set(fresh.random(len(own), 1, np.random.default_rng(0)).records.column("text").to_pylist()) & set(own)
    assert every.public_data == "language model masked; the corpus of its texts, public.csv"


def test_texts_are_handed_over_as_they_are_finished(api: MaskedAPI, given: list[str]) -> None:
    heard: list[pa.Table] = []
    api.listen(heard.append)
    got = varied(api, given, 0.5)
    api.listen(None)
    assert sorted(text for table in heard for text in table.column("text").to_pylist()) == sorted(got)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"model": "/nowhere"}, "folder /nowhere is not there"),
        ({"corpus": "/nowhere.csv"}, "nowhere.csv cannot be read"),
        ({"passes": 0}, "expected passes >= 1"),
        ({"temperature": 0}, "a finite temperature > 0"),
        ({"fresh": 2}, r"fresh in \[0, 1\]"),
    ],
)
def test_bad_settings(masked: Path, corpus: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"{message}.*Nothing was spent"):
        MaskedAPI(SCHEMA, **({"model": str(masked), "corpus": str(corpus)} | keys))


def test_bad_models_and_corpora(tiny: Any, masked: Path, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot fill in words"):
        made(masked, corpus, model=str(tiny.model))
    with pytest.raises(SchemaError, match="has no column"):
        made(masked, corpus, corpus_text="other")
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(ConfigError, match="holds no text at all"):
        made(masked, tmp_path / "empty.txt")
    copied = shutil.copytree(masked, tmp_path / "copied")
    (copied / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ConfigError, match=r"weights of model .* cannot be loaded"):
        made(copied, corpus)
    config = (masked / "config.json").read_text()
    (copied / "config.json").write_text(config.replace('"max_position_embeddings": 64', '"max_position_embeddings": 8'))
    with pytest.raises(ConfigError, match="too short"):
        made(copied, corpus)


def test_byte_pair_tokens_know_where_words_begin(tiny: Any, masked: Path) -> None:
    """A tokenizer of the other kind, whose continuations carry no mark."""
    filler = Filler.__new__(Filler)
    filler.__dict__["tokenizer"] = tiny_tokenizer(tiny)
    texts, kinds = filler._pieces
    tokens = filler.tokenizer.convert_ids_to_tokens(range(len(kinds)))
    for token, text, kind in zip(tokens, texts, kinds, strict=True):
        assert kind == (0 if not text.isalpha() and not text.isdigit() else 1 + 2 * text.isdigit() + (token[0] != "Ġ"))
    assert {1, 2} <= set(kinds.tolist())


def tiny_tokenizer(tiny: Any) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny.model, local_files_only=True)
