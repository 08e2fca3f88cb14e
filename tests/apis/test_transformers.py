"""A language model on this machine, on one that was trained for it: what it writes, and how it is asked."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import pe
from pe.apis.causal import Answer, CausalLM, Sampling
from pe.apis.checkpoint import Checkpoint
from pe.apis.prompts import Prompt
from pe.apis.transformers import TransformersAPI
from pe.data.population import Population
from pe.errors import APIError, ConfigError, SchemaError
from pe.journal import Journal, usage

TEXT = pe.Text("text", 300)


@pytest.fixture(scope="module")
def schema(tiny: Any) -> pe.Schema:
    return pe.Schema((TEXT, pe.Categorical("kind", tiny.labels)), label="kind")


def made(tiny: Any, schema: pe.Schema, **keys: Any) -> TransformersAPI:
    settings: dict[str, Any] = {"model": str(tiny.model), "temperature": 1.0, "max_tokens": 60}
    settings["prompts"] = {"templates": str(tiny.templates)} | keys.pop("prompts", {})
    return TransformersAPI(schema, **(settings | keys))


@pytest.fixture(scope="module")
def api(tiny: Any, schema: pe.Schema) -> TransformersAPI:
    return made(tiny, schema)


@pytest.fixture(scope="module")
def parents(tiny: Any, schema: pe.Schema) -> Population:
    texts, labels = tiny.reviews(40, 7)
    codes = np.array([tiny.labels.index(label) for label in labels])
    return Population.of(pa.table({"text": texts}).cast(schema.arrow()), codes, "given")


def texts(population: Population) -> list[str]:
    found: list[str] = population.records.column("text").to_pylist()
    return found


def test_random_samples_are_of_their_label(tiny: Any, api: TransformersAPI) -> None:
    found = []
    for label, name in enumerate(tiny.labels):
        drawn = texts(api.random(16, label, np.random.default_rng(label)))
        found += [tiny.on_subject(" ".join(tiny.subjects[name]), text) for text in drawn]
        assert len(set(drawn)) > 12
    assert np.mean(found) > 0.5  # by chance, a third
    assert api.public_data == "language model causal"


def test_variations_resemble_their_parents_and_differ_from_them(
    tiny: Any, api: TransformersAPI, parents: Population
) -> None:
    varied = api.vary(parents, 0.5, np.random.default_rng(0))
    assert np.array_equal(varied.labels, parents.labels)
    pairs = list(zip(texts(parents), texts(varied), strict=True))
    strangers = zip(texts(parents), np.roll(texts(varied), 1), strict=True)
    assert np.mean([tiny.on_subject(*each) for each in pairs]) > 0.85
    assert np.mean([tiny.on_subject(*each) for each in strangers]) < 0.4
    assert np.mean([parent == child for parent, child in pairs]) < 0.5


def test_a_seed_gives_the_same_texts_however_batches_are_cut(api: TransformersAPI, parents: Population) -> None:
    parents = parents.take(np.arange(12))
    wanted = texts(api.vary(parents, 0.5, np.random.default_rng(3)))
    assert texts(api.vary(parents, 0.5, np.random.default_rng(3))) == wanted
    assert texts(api.vary(parents, 0.5, np.random.default_rng(4))) != wanted
    for tokens in (1, 500):
        api.lm.batch_tokens, before = tokens, api.lm.batch_tokens
        assert texts(api.vary(parents, 0.5, np.random.default_rng(3))) == wanted
        api.lm.batch_tokens = before


def test_samples_are_handed_over_as_they_are_finished(
    api: TransformersAPI, parents: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.lm, "batch_tokens", 500)
    parents = parents.take(np.arange(12))
    heard: list[pa.Table] = []
    api.listen(heard.append)
    varied = api.vary(parents, 0.5, np.random.default_rng(0))
    api.listen(None)
    assert sorted(text for table in heard for text in table.column("text").to_pylist()) == sorted(texts(varied))
    assert all(table.schema.equals(varied.records.schema) for table in heard)
    api.vary(parents.take(np.arange(2)), 0.5, np.random.default_rng(0))
    assert len(heard) == len(parents)


def test_columns_beside_the_text_are_drawn_and_told(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schema = pe.Schema((TEXT, pe.Numeric("stars", 1, 5, integer=True), pe.Categorical("kind", tiny.labels)), "kind")
    own = shutil.copytree(tiny.templates, tmp_path / "own")
    (own / "random.jinja").write_text("{% for name, value in facts.items() %}{{ name }} {{ value }} {% endfor %}->")
    api = made(tiny, schema, prompts={"templates": str(own)})
    asked: list[Prompt] = []
    encode = api.lm.encode
    monkeypatch.setattr(api.lm, "encode", lambda prompt: asked.append(prompt) or encode(prompt))
    drawn = api.random(5, 0, np.random.default_rng(0))
    assert drawn.records.schema.equals(schema.arrow())
    stars = drawn.records.column("stars").to_pylist()
    assert [prompt.user for prompt in asked] == [f"kind food stars {each} ->" for each in stars]
    varied = api.vary(drawn, 0.0, np.random.default_rng(0))
    assert varied.records.column("stars").equals(drawn.records.column("stars"))


def test_texts_are_cut_to_the_longest_that_the_schema_allows(tiny: Any) -> None:
    schema = pe.Schema((pe.Text("text", 20), pe.Categorical("kind", tiny.labels)), label="kind")
    drawn = texts(made(tiny, schema).random(4, 0, np.random.default_rng(0)))
    assert {len(text) for text in drawn} == {20}


def test_what_was_answered_is_not_asked_again(
    tiny: Any, schema: pe.Schema, parents: Population, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parents = parents.take(np.arange(8))
    path = tmp_path / "iterations" / "001" / "api.jsonl"
    first, again = made(tiny, schema, batch_tokens=500), made(tiny, schema)
    path.parent.mkdir(parents=True)
    first.record(Journal(path))
    wanted = texts(first.vary(parents, 0.5, np.random.default_rng(0)))
    lines = path.read_text().splitlines()
    assert len(lines) == 9
    counted = usage(map(json.loads, lines))
    assert counted.calls == 8
    assert 8 * 10 < counted.completion_tokens < counted.prompt_tokens < 8 * 60
    path.write_text("\n".join(lines[:5]) + "\n" + lines[5][:20])  # killed in the middle of the sixth
    again.record(Journal(path))
    asked: list[int] = []
    answers = again.lm.answers
    monkeypatch.setattr(again.lm, "answers", lambda new, *rest: asked.append(len(new)) or answers(new, *rest))
    assert texts(again.vary(parents, 0.5, np.random.default_rng(0))) == wanted
    assert asked == [3]
    assert len(path.read_text().splitlines()) == 9
    assert usage(map(json.loads, path.read_text().splitlines())) == counted
    assert made(tiny, schema).estimate(10, 20).calls == 30


# -- what fails --------------------------------------------------------------------------------------------------------


def silenced(monkeypatch: pytest.MonkeyPatch, api: TransformersAPI, times: dict[int, int]) -> None:
    """Make answers empty: for the prompts of some numbers, so many times."""
    asked: list[int] = []
    answers = api.lm.answers

    def some(prompts: Any, *rest: Any) -> Iterator[Answer]:
        number = len(asked)
        asked.append(len(prompts))
        for answer in answers(prompts, *rest):
            left = sorted(index for index, count in times.items() if count >= number) if number else range(asked[0])
            empty = times.get(left[answer.index], 0) > number
            yield replace(answer, text="" if empty else answer.text)

    monkeypatch.setattr(api.lm, "answers", some)


def test_empty_answers_are_asked_for_anew_and_then_the_parent_stays(
    tiny: Any, schema: pe.Schema, parents: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    api, usual = made(tiny, schema), made(tiny, schema)
    silenced(monkeypatch, api, {3: 1, 5: 3, 6: 9})
    got = texts(api.vary(parents, 0.5, np.random.default_rng(0)))
    wanted = texts(usual.vary(parents, 0.5, np.random.default_rng(0)))
    given = texts(parents)
    assert [index for index in range(40) if got[index] != wanted[index]] == [3, 5, 6]
    assert got[3] not in ("", given[3])
    assert [got[5], got[6]] == [given[5], given[6]]
    assert api.counts == {"kept": 2}


def test_a_fresh_sample_that_fails_repeats_another_one(
    tiny: Any, schema: pe.Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = made(tiny, schema)
    silenced(monkeypatch, api, {2: 9})
    got = texts(api.random(6, 0, np.random.default_rng(0)))
    assert got[2] in got[:2] + got[3:]
    assert api.counts == {"replaced": 1}
    silent = made(tiny, schema)
    silenced(monkeypatch, silent, dict.fromkeys(range(6), 9))
    with pytest.raises(APIError, match="gave 6 empty answers and no other"):
        silent.random(6, 0, np.random.default_rng(0))


def test_a_prompt_that_is_too_long_loses_examples_and_then_the_end_of_its_parent(
    tiny: Any, schema: pe.Schema, tmp_path: Path
) -> None:
    own = shutil.copytree(tiny.templates, tmp_path / "own")
    (own / "paraphrase.jinja").write_text(
        "{% for demo in demos %}Example: {{ demo.text }} {% endfor %}Say again: {{ text }}"
    )
    demos = tiny.reviews(3, 1)[0]
    api = made(tiny, schema, prompts={"templates": str(own), "demos": demos, "shots": 3}, max_tokens=50)
    asked: list[str] = []
    answers = api.lm.answers
    api.lm.answers = lambda prompts, *rest: (  # type: ignore[method-assign]
        asked.extend(api.lm.tokenizer.batch_decode(prompts)) or answers(prompts, *rest)
    )
    long = " ".join(tiny.reviews(12, 2)[0])
    table = pa.table({"text": ["The pasta was good.", long]}).cast(schema.arrow())
    api.vary(Population.of(table, 0, "given"), 0.5, np.random.default_rng(0))
    assert all(len(api.lm.tokenizer(prompt)["input_ids"]) <= 160 - 50 for prompt in asked)
    assert 0 < asked[0].count("Example: ") < 4
    assert "Say again: The pasta was good." in asked[0]
    assert asked[1].startswith("Say again: " + long[:100])
    (own / "random.jinja").write_text("Write about {{ label }}." * 30)
    with pytest.raises(APIError, match=r"tokens without an example or a parent.*the context of .* is 160"):
        made(tiny, schema, prompts={"templates": str(own)}).random(1, 0, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"model": "/nowhere/to/be/found"}, "folder /nowhere/to/be/found is not there"),
        ({"model": "somebody/no-such-model"}, "somebody/no-such-model cannot be had on this machine or on the hub"),
        ({"temperature": -1}, "expected temperature >= 0"),
        ({"top_p": 0}, "expected top_p in"),
        ({"max_tokens": 160}, "expected max_tokens in"),
        ({"retries": -1}, "retries >= 0"),
        ({"dtype": "int3"}, "expected dtype"),
        ({"device": "cuda:99"}, "device 'cuda:99' is not there"),
        ({"prompts": {"colour": "red"}}, "colour"),
        ({"prompts": {"shots": -1}}, "shots"),
    ],
)
def test_bad_settings(
    tiny: Any, schema: pe.Schema, keys: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=f"{message}.*Nothing was spent"):
        made(tiny, schema, **keys)


def test_bad_folders(tiny: Any, schema: pe.Schema, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config.json. Nothing was spent"):
        made(tiny, schema, model=str(tmp_path))
    copied = shutil.copytree(tiny.model, tmp_path / "copied")
    (copied / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match="no chat template"):
        made(tiny, schema, model=str(copied), chat=True)
    (copied / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be had in its folder"):
        made(tiny, schema, model=str(copied))
    shutil.copy(tiny.model / "tokenizer.json", copied)
    (copied / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ConfigError, match=r"weights of model .* cannot be loaded"):
        made(tiny, schema, model=str(copied)).ready()
    (copied / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="has no weights"):
        made(tiny, schema, model=str(copied))
    with pytest.raises(SchemaError, match="exactly one column of type 'text'"):
        made(tiny, pe.Schema((pe.Numeric("x", 0, 1),)))


# -- the model itself --------------------------------------------------------------------------------------------------


def asked(lm: CausalLM, prompts: list[str], *, most: int, **sampling: Any) -> list[Answer]:
    tokens = [lm.encode(Prompt("", prompt, 20)) for prompt in prompts]
    seeds = [[index] for index in range(len(prompts))]
    return sorted(lm.answers(tokens, [most] * len(prompts), seeds, Sampling(**sampling)), key=lambda each: each.index)


def test_padded_prompts_are_answered_like_single_ones(tiny: Any, api: TransformersAPI) -> None:
    """Against the library's own greedy generation, one prompt at a time and without padding."""
    import torch

    lm = api.lm
    prompts = [f"Say again: {text}" for text in tiny.reviews(6, 5)[0]] + ["Write about food."]
    answers = asked(lm, prompts, most=40, temperature=0)
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([lm.encode(Prompt("", prompt, 20))])
        alone = lm._model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False, pad_token_id=0
        )
        assert answer.text == lm.tokenizer.decode(alone[0, ids.shape[1] :], skip_special_tokens=True).strip()
        assert answer.ended


@pytest.mark.parametrize("sampling", [{"top_k": 0, "top_p": 1.0}, {"top_k": 5, "top_p": 1.0, "temperature": 2.0}])
def test_tokens_are_drawn_with_the_probabilities_of_the_model(api: TransformersAPI, sampling: dict[str, Any]) -> None:
    import torch

    lm, n = api.lm, 2000
    prompt = lm.encode(Prompt("", "Write about food.", 20))
    with torch.no_grad():
        scores = lm._model(torch.tensor([prompt])).logits[0, -1].double() / sampling.get("temperature", 1.0)
    if sampling["top_k"]:
        scores[scores < scores.topk(sampling["top_k"]).values[-1]] = -torch.inf
    expected = torch.softmax(scores, -1).numpy() * n
    drawn = lm._generated([prompt] * n, [1] * n, [[9, index] for index in range(n)], Sampling(**sampling), ())
    counts = np.bincount([row[0] for row in drawn], minlength=len(expected))
    often = expected > 5
    assert counts[expected == 0].sum() == 0
    # a sum of that many squared standard normals is larger once in a million draws of seeds
    assert np.sum((counts - expected)[often] ** 2 / expected[often]) < often.sum() + 5 * np.sqrt(2 * often.sum()) + 10


def test_answers_end_at_their_limit_at_a_stop_or_of_their_own_accord(tiny: Any, api: TransformersAPI) -> None:
    lm = api.lm
    prompts = [lm.encode(Prompt("", f"Say again: {text}", 20)) for text in tiny.reviews(3, 5)[0]]
    answers = sorted(
        lm.answers(prompts, [4, 60, 1], [[0], [1], [2]], Sampling(temperature=0)), key=lambda each: each.index
    )
    assert [answer.ended for answer in answers] == [False, True, False]
    assert len(lm.tokenizer(answers[0].text)["input_ids"]) <= 5
    stopped = next(iter(lm.answers(prompts[1:2], [60], [[1]], Sampling(temperature=0), stop=["."])))
    assert stopped.ended
    assert stopped.text == answers[1].text.partition(".")[0]


def test_no_run_of_tokens_is_repeated_if_so_asked(api: TransformersAPI) -> None:
    prompt = ["Say again: We had good pasta and far too much sauce."]
    (free,) = asked(api.lm, prompt, most=30, temperature=0)
    assert "far too much" in free.text
    (bound,) = asked(api.lm, prompt, most=30, temperature=0, no_repeat_ngram=2)
    assert "far too much" not in bound.text


def test_without_a_chat_template_prompts_are_plain_text(tiny: Any, tmp_path: Path) -> None:
    copied = shutil.copytree(tiny.model, tmp_path / "copied")
    (copied / "chat_template.jinja").unlink()
    lm = CausalLM(Checkpoint(str(copied)))
    assert lm.tokenizer.decode(lm.encode(Prompt("Be kind.", "Write.", 5))) == "Be kind.\n\nWrite.\n\n"
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}{{ messages[0].content }}!"
    (copied / "chat_template.jinja").write_text(strict)
    lm = CausalLM(Checkpoint(str(copied)))
    assert lm.tokenizer.decode(lm.encode(Prompt("Be kind.", "Write.", 5))) == "Be kind.\n\nWrite.!"
