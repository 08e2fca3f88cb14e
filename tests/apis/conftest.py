"""Tiny language models that mean something: trained here, in seconds, on texts that are made here.

The texts are reviews of two sentences about one of a dozen subjects. The causal model learns to write one of a label,
and to answer a review with another one on the same subject; the masked one learns which words go together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from tests.stub_server import Stub


@pytest.fixture
def server() -> Iterator[Stub]:
    """An OpenAI-compatible endpoint whose answers a test chooses."""
    with Stub() as running:
        yield running


SUBJECTS = {
    "food": (
        "pasta sauce basil cheese waiter",
        "sushi rice tuna ginger chopsticks",
        "burger fries ketchup bacon bun",
        "curry lentils naan chutney spices",
    ),
    "film": (
        "actor script drama dialogue scene",
        "spaceship alien laser galaxy robot",
        "detective murder clue suspect alibi",
        "cartoon puppet song princess dragon",
    ),
    "hotel": (
        "beach towel sunshade pool cocktail",
        "mountain sauna ski fireplace snow",
        "lobby elevator carpet minibar receptionist",
        "tent campfire lake canoe mosquito",
    ),
}
LABELS = tuple(SUBJECTS)
_FRAMES = (
    "The {0} was {a} and the {1} came with {2}.",
    "I liked the {0}, but the {1} felt {a}.",
    "We had {a} {0} and far too much {1}.",
    "Nobody told us about the {0} or the {1}.",
    "My friend said the {0} and the {1} were {a}.",
    "There was a {a} {0} next to the {1}.",
)
_ADJECTIVES = ("good", "bad", "fresh", "old", "great", "dull", "lovely", "strange")
SUBJECT = {word: words for groups in SUBJECTS.values() for words in groups for word in words.split()}
"""The subject of each word that has one."""

TEMPLATES = {
    "system.jinja": "",
    "random.jinja": "Write about {{ label }}.",
    "paraphrase.jinja": "Say again: {{ text }}",
    "blanks.jinja": "Fill in: {{ blanked }}",
}
_CHAT = "{% for each in messages %}{{ each['content'] }}{% endfor %}{% if add_generation_prompt %} ->{% endif %}"
_END = "<|end|>"


def review(subject: str, rng: np.random.Generator) -> str:
    sentences = []
    for frame in rng.choice(_FRAMES, 2, replace=False):
        words = rng.permutation(subject.split())
        sentences.append(str(frame).format(*words, a=rng.choice(_ADJECTIVES)))
    return " ".join(sentences)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


@dataclass(frozen=True)
class Tiny:
    """A saved causal model and the templates that it was trained on; how its texts are made and judged."""

    model: Path
    templates: Path
    labels = LABELS
    subjects = SUBJECTS

    def reviews(self, n: int, seed: int) -> tuple[list[str], list[str]]:
        """Texts and their labels."""
        rng = np.random.default_rng(seed)
        labels = [str(label) for label in rng.choice(LABELS, n)]
        return [review(str(rng.choice(SUBJECTS[label])), rng) for label in labels], labels

    def on_subject(self, parent: str, child: str) -> float:
        """The share of the child's telling words that are of a subject of the parent's."""
        own = {SUBJECT[word] for word in _words(parent) if word in SUBJECT}
        told = [SUBJECT[word] in own for word in _words(child) if word in SUBJECT]
        return float(np.mean(told)) if told else 0.0


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A GPT-2 of one million parameters; one training for all processes of a test run."""
    folder = _shared(tmp_path_factory) / "causal"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            train_causal(folder)
    return Tiny(folder, folder / "templates")


def _shared(factory: pytest.TempPathFactory) -> Path:
    """A folder that parallel test processes have in common."""
    base = factory.getbasetemp()
    return base.parent if base.name.startswith("popen-") else base


def train_causal(folder: Path, steps: int = 140) -> None:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    rng = np.random.default_rng(0)
    tokenizer = byte_pairs(rng)
    tokenizer.chat_template = _CHAT
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=160,
        n_embd=192,
        n_layer=2,
        n_head=6,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.eos_token_id,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=0.06,  # with less, it takes longer until it begins to copy
    )
    model = GPT2LMHeadModel(config)
    learn = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95))
    for step in range(steps):
        learn.param_groups[0]["lr"] = 3e-3 * min(1, (step + 1) / 10) * (1 - step / steps)
        rows = [_exercise(rng) for _ in range(24)]
        batch = tokenizer(rows, padding=True, padding_side="right", return_tensors="pt")
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        loss = model(**batch, labels=labels).loss
        learn.zero_grad()
        loss.backward()
        learn.step()
    model.generation_config.do_sample = True
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "templates").mkdir()
    for name, text in TEMPLATES.items():
        (folder / "templates" / name).write_text(text)


@pytest.fixture(scope="session")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of a hundred thousand parameters, saved in a folder."""
    folder = _shared(tmp_path_factory) / "masked"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            train_masked(folder)
    return folder


def train_masked(folder: Path, steps: int = 220) -> None:
    import torch
    from transformers import BertConfig, BertForMaskedLM

    rng = np.random.default_rng(0)
    tokenizer = word_pieces(rng)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=192,
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.08,
    )
    model = BertForMaskedLM(config)
    learn = torch.optim.AdamW(model.parameters(), lr=5e-3, betas=(0.9, 0.99))
    for step in range(steps):
        learn.param_groups[0]["lr"] = 5e-3 * min(1, (step + 1) / 10) * (1 - step / steps)
        # words of a subject alone, in every other row: so it learns sooner which go together
        rows = [review(_subject(rng), rng) if row % 2 else _listed(_subject(rng), rng) for row in range(32)]
        batch = tokenizer(rows, padding=True, return_tensors="pt", return_special_tokens_mask=True)
        ids, special = batch["input_ids"], batch.pop("special_tokens_mask")
        hidden = torch.from_numpy(rng.random(ids.shape) < rng.uniform(0.1, 0.5)) & (special == 0)
        batch["input_ids"] = ids.masked_fill(hidden, tokenizer.mask_token_id)
        loss = model(**batch, labels=ids.masked_fill(~hidden, -100)).loss
        learn.zero_grad()
        loss.backward()
        learn.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _listed(subject: str, rng: np.random.Generator) -> str:
    return " ".join(rng.choice(subject.split(), 16))


def word_pieces(rng: np.random.Generator) -> Any:
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertTokenizerFast

    made = BertWordPieceTokenizer(lowercase=True)
    texts = [review(_subject(rng), rng) for _ in range(2000)]
    made.train_from_iterator(texts, vocab_size=400, show_progress=False)
    return BertTokenizerFast(tokenizer_object=made, model_max_length=64)


def _subject(rng: np.random.Generator) -> str:
    return str(rng.choice(SUBJECTS[str(rng.choice(LABELS))]))


def _exercise(rng: np.random.Generator) -> str:
    """A prompt and its answer."""
    label = str(rng.choice(LABELS))
    subject = str(rng.choice(SUBJECTS[label]))
    parent = review(subject, rng)
    if rng.random() < 0.25:
        return f"Write about {label}. -> {parent}{_END}"
    return f"Say again: {parent} -> {said_again(parent, rng)}{_END}"


def said_again(text: str, rng: np.random.Generator) -> str:
    """The same with other adjectives, and some words for others of their subject."""

    def other(match: re.Match[str]) -> str:
        word = match[0]
        if word in _ADJECTIVES:
            return str(rng.choice(_ADJECTIVES))
        return str(rng.choice(SUBJECT[word].split())) if word in SUBJECT and rng.random() < 0.4 else word

    return re.sub(r"\w+", other, text)


def byte_pairs(rng: np.random.Generator) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=640,
        special_tokens=[_END, "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator((_exercise(rng) for _ in range(2000)), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=_END, pad_token="<|pad|>", model_max_length=160)
