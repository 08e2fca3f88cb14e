"""Small transformers from a folder, fine-tuned on one group of texts and tested on another.

Nothing is fetched. The same texts, folder and seed give the same figures on the same machine and library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pe.errors import ConfigError
from pe.evaluation.text.language import NextToken

EPOCHS, RATE, BATCH, MOST_TOKENS = 3, 5e-5, 8, 256
"""Passes over the texts, AdamW's learning rate (falling to zero), texts per step, tokens read of a text."""


def next_token(folder: str | Path, train: Sequence[str], test: Sequence[str], seed: int) -> NextToken | None:
    """Fine-tune the causal language model in ``folder`` and predict every token of the test texts but the first ones.

    None where no text has two tokens. ``bits`` are per token of that model's vocabulary.
    """
    import torch

    with _seeded(seed):
        model, tokenizer = _load(folder, "AutoModelForCausalLM")
        encoded = {role: _encode(tokenizer, texts, 2) for role, texts in (("train", train), ("test", test))}
        if not encoded["train"] or not encoded["test"]:
            return None

        def loss(ids: Any, mask: Any, _: Any) -> Any:
            return model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss

        _train(model, loss, encoded["train"], None, seed)
        right = total = 0
        surprise = 0.0
        for ids, mask, _ in _batches(encoded["test"], None, np.arange(len(encoded["test"]))):
            with torch.inference_mode():
                scores = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
            wanted, held = ids[:, 1:], mask[:, 1:] == 1
            right += int((scores.argmax(-1) == wanted)[held].sum())
            chances = torch.log_softmax(scores, -1).gather(-1, wanted[..., None])[..., 0]
            surprise -= float(chances[held].double().sum())
            total += int(held.sum())
    return NextToken(right / total, surprise / total / float(np.log(2)), total)


def label_probabilities(
    folder: str | Path,
    train: Sequence[str],
    labels: NDArray[np.int64],
    test: Sequence[str],
    classes: int,
    seed: int,
) -> NDArray[np.float64]:
    """Fine-tune the encoder in ``folder`` with a classification head; class probabilities of the test texts."""
    import torch

    with _seeded(seed):
        model, tokenizer = _load(folder, "AutoModelForSequenceClassification", num_labels=max(2, classes))
        if model.config.pad_token_id is None:
            model.config.pad_token_id = 0

        def loss(ids: Any, mask: Any, wanted: Any) -> Any:
            return model(input_ids=ids, attention_mask=mask, labels=wanted).loss

        _train(model, loss, _encode(tokenizer, train, 1), labels, seed)
        asked = _encode(tokenizer, test, 1)
        order = np.argsort([len(ids) for ids in asked], kind="stable")
        found = np.zeros((len(asked), classes))
        for start in range(0, len(order), 4 * BATCH):
            rows = order[start : start + 4 * BATCH]
            ((ids, mask, _),) = _batches(asked, None, rows, 4 * BATCH)
            with torch.inference_mode():
                scores = model(input_ids=ids, attention_mask=mask).logits[:, :classes].double()
            found[rows] = torch.softmax(scores, -1).numpy()
    return found


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    try:
        import torch
        import transformers  # noqa: F401
    except ImportError:
        raise ConfigError("fine-tuning needs torch and transformers: pip install 'pe-synth[text]'.") from None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def check(folder: str | Path) -> None:
    """Raise ConfigError where no model lies."""
    if not (Path(folder) / "config.json").is_file():
        raise ConfigError(f"{folder}: expected a folder with a model (config.json, weights and a tokenizer).")


def _load(folder: str | Path, kind: str, **keys: Any) -> tuple[Any, Any]:
    import transformers

    check(folder)
    logging: Any = transformers.logging
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # new heads are expected
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = getattr(transformers, kind).from_pretrained(folder, local_files_only=True, **keys)
    except Exception as error:
        raise ConfigError(f"{folder}: no model that {kind} can load ({type(error).__name__}: {error}).") from None
    finally:
        logging.set_verbosity(level)
    return model.float(), tokenizer


def _encode(tokenizer: Any, texts: Sequence[str], least: int) -> list[list[int]]:
    """Token ids of every text that has at least ``least`` tokens; of 1, an empty text is one token."""
    found = [tokenizer(text, truncation=True, max_length=MOST_TOKENS)["input_ids"] for text in texts]
    return [ids or [0] for ids in found] if least == 1 else [ids for ids in found if len(ids) >= least]


def _batches(
    encoded: Sequence[list[int]], labels: NDArray[np.int64] | None, order: NDArray[np.int64], size: int = BATCH
) -> Iterator[tuple[Any, Any, Any]]:
    """Token ids and masks, int64 (texts, longest), padded on the right, and labels."""
    import torch

    for start in range(0, len(order), size):
        rows = order[start : start + size]
        longest = max(len(encoded[row]) for row in rows)
        ids = np.zeros((len(rows), longest), np.int64)
        mask = np.zeros((len(rows), longest), np.int64)
        for place, row in enumerate(rows):
            ids[place, : len(encoded[row])] = encoded[row]
            mask[place, : len(encoded[row])] = 1
        wanted = None if labels is None else torch.from_numpy(labels[rows])
        yield torch.from_numpy(ids), torch.from_numpy(mask), wanted


def _train(
    model: Any,
    loss: Callable[[Any, Any, Any], Any],
    encoded: Sequence[list[int]],
    labels: NDArray[np.int64] | None,
    seed: int,
) -> None:
    import torch

    rng = np.random.default_rng([seed, 20])
    steps = EPOCHS * -(-len(encoded) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, max(1, steps))
    model.train()
    for _ in range(EPOCHS):
        for batch in _batches(encoded, labels, rng.permutation(len(encoded))):
            optimizer.zero_grad()
            loss(*batch).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    model.eval()
