"""A causal language model on this machine: loaded late, asked in batches, with one random stream per answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pe.apis.answers import is_reasoning_tag, opens_reasoning
from pe.apis.checkpoint import Checkpoint
from pe.apis.prompts import Prompt
from pe.errors import APIError, ConfigError

_TAG_TOKENS = 16
"""Tokens at the end of a prompt among which a tag that opens reasoning is looked for."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn: by these rules in this order; a temperature of 0 takes the likeliest.

    top_k 0, top_p 1 and no_repeat_ngram 0 are no rule. ``no_repeat_ngram`` N forbids any N tokens in a row that
    stand in the prompt or the answer already.
    """

    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 0.9
    no_repeat_ngram: int = 0

    def __post_init__(self) -> None:
        for name, value, good in (
            ("temperature >= 0", self.temperature, 0 <= self.temperature < float("inf")),
            ("top_k >= 0", self.top_k, self.top_k >= 0),
            ("top_p in (0, 1]", self.top_p, 0 < self.top_p <= 1),
            ("no_repeat_ngram >= 0", self.no_repeat_ngram, self.no_repeat_ngram >= 0),
        ):
            if not good:
                raise ConfigError(f"expected {name}, got {value}. Nothing was spent.")


@dataclass(frozen=True)
class Answer:
    """What a model wrote to the prompt at ``index``, in ``tokens`` tokens.

    ended  of its own accord or at a stop, not at the limit of its length.
    """

    index: int
    text: str
    ended: bool
    tokens: int


class CausalLM:
    """A causal language model and its tokenizer, from a folder or by its name on the Hugging Face hub.

    Prompts of like length are answered together, padded on the left under an attention mask, no more than
    ``batch_tokens`` tokens at a time, answers included. Every answer has a random stream of its own and draws each
    token by inverting the cumulative probabilities: how prompts are cut into batches changes an answer only where a
    difference in rounding moves a draw over an edge between two tokens.

    chat  whether prompts go through the tokenizer's chat template; by default if it has one.

    Configuration and tokenizer are read at once, the weights by ``load``, or when first asked. Raises ConfigError where
    either cannot be had.
    """

    def __init__(self, checkpoint: Checkpoint, *, batch_tokens: int | None = None, chat: bool | None = None) -> None:
        self.checkpoint = checkpoint
        self.tokenizer = checkpoint.tokenizer()
        self.context = checkpoint.context(self.tokenizer)
        if chat and not self.tokenizer.chat_template:
            raise ConfigError(
                f"model {checkpoint.model} has no chat template: leave out 'chat = true'. Nothing was spent."
            )
        self.chat = bool(self.tokenizer.chat_template) if chat is None else chat
        if self.tokenizer.eos_token_id is None:
            raise ConfigError(f"the tokenizer of {checkpoint.model} has no end of text. Nothing was spent.")
        self.batch_tokens = batch_tokens or (4096 if checkpoint.device() == "cpu" else 32768)

    @cached_property
    def _model(self) -> Any:
        from transformers import AutoModelForCausalLM

        return self.checkpoint.weights(AutoModelForCausalLM)

    @cached_property
    def _ends(self) -> list[int]:
        """Tokens that end an answer: those of the model's own, and every other special one."""
        own = self._model.generation_config.eos_token_id
        ends = {*(own if isinstance(own, list) else [own]), *self.tokenizer.all_special_ids}
        return sorted(ends - {None} - self._reasoning_tags)

    @cached_property
    def _reasoning_tags(self) -> set[int]:
        """Special tokens that open or close reasoning: they end no answer, and are kept in its text."""
        special: dict[int, str] = dict(
            zip(self.tokenizer.all_special_ids, self.tokenizer.all_special_tokens, strict=False)
        )
        return {token for token, text in special.items() if is_reasoning_tag(text)}

    def opens_reasoning(self, prompt: Sequence[int]) -> bool:
        """Whether a prompt ends with a tag that opens reasoning, as some chat templates do."""
        return self.chat and opens_reasoning(self.tokenizer.decode(prompt[-_TAG_TOKENS:]))

    def load(self) -> None:
        """Load the weights, unless they are; raises ConfigError where they cannot be."""
        _ = self._model

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt."""
        if not self.chat:
            return list(self.tokenizer(prompt.plain)["input_ids"])
        from jinja2 import TemplateError

        how = {"add_generation_prompt": True, "return_dict": False, "enable_thinking": False}
        try:
            return list(self.tokenizer.apply_chat_template(prompt.messages, **how))
        except TemplateError:  # some templates know no system role
            whole = [{"role": "user", "content": prompt.plain.strip()}]
            return list(self.tokenizer.apply_chat_template(whole, **how))

    def answers(
        self,
        prompts: Sequence[Sequence[int]],
        limits: Sequence[int],
        seeds: Sequence[Sequence[int]],
        sampling: Sampling,
        stop: Sequence[str] = (),
    ) -> Iterator[Answer]:
        """Answer every prompt, in the order of the batches.

        limits  the most tokens of each answer; with its prompt it must fit the context.
        seeds   whole numbers from which the random stream of each answer starts.
        stop    texts at the first of which an answer ends; they are no part of it.
        """
        for batch in self._batches([len(each) for each in prompts], limits):
            rows = [prompts[index] for index in batch]
            drawn = self._generated(
                rows, [limits[index] for index in batch], [seeds[index] for index in batch], sampling, stop
            )
            for index, tokens in zip(batch, drawn, strict=True):
                length = next((at for at, token in enumerate(tokens) if token in self._ends), len(tokens))
                text = self._decoded(tokens[: min(length, limits[index])])
                cut = min((text.find(each) for each in stop if each in text), default=-1)
                yield Answer(
                    index, (text if cut < 0 else text[:cut]).strip(), cut >= 0 or length < limits[index], length
                )

    def _decoded(self, tokens: Sequence[int]) -> str:
        """A text without special tokens but those around reasoning."""
        if not self._reasoning_tags:
            return str(self.tokenizer.decode(tokens, skip_special_tokens=True))
        dropped = set(self.tokenizer.all_special_ids) - self._reasoning_tags
        return str(self.tokenizer.decode([token for token in tokens if token not in dropped]))

    def _batches(self, lengths: Sequence[int], limits: Sequence[int]) -> Iterator[list[int]]:
        batch: list[int] = []
        width = most = 0
        for index in sorted(range(len(lengths)), key=lambda each: (lengths[each] + limits[each], each), reverse=True):
            wide, long = max(width, lengths[index]), max(most, limits[index])
            if batch and (wide + long) * (len(batch) + 1) > self.batch_tokens:
                yield batch
                batch, wide, long = [], lengths[index], limits[index]
            batch.append(index)
            width, most = wide, long
        if batch:
            yield batch

    def _generated(
        self,
        prompts: Sequence[Sequence[int]],
        limits: Sequence[int],
        seeds: Sequence[Sequence[int]],
        sampling: Sampling,
        stop: Sequence[str],
    ) -> list[list[int]]:
        import torch
        from transformers import GenerationConfig

        model, width = self._model, max(map(len, prompts))
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self._ends[0]
        ids = torch.full((len(prompts), width), pad, dtype=torch.long)
        mask = torch.zeros_like(ids)
        uniform = np.zeros((len(prompts), max(limits)))
        for row, (prompt, limit, seed) in enumerate(zip(prompts, limits, seeds, strict=True)):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
            uniform[row, :limit] = np.random.default_rng(seed).random(limit)
        config: Any = GenerationConfig
        how = config(
            do_sample=False,
            num_beams=1,
            max_new_tokens=max(limits),
            eos_token_id=self._ends,
            pad_token_id=pad,
            stop_strings=list(stop) or None,
        )
        try:
            with torch.inference_mode():
                drawn = model.generate(
                    input_ids=ids.to(model.device),
                    attention_mask=mask.to(model.device),
                    generation_config=how,
                    logits_processor=_draws(sampling, width, uniform, limits, self._ends[0]),
                    tokenizer=self.tokenizer if stop else None,
                )
        except torch.cuda.OutOfMemoryError:
            raise APIError(
                f"the device has too little memory for {len(prompts)} answers of {self.checkpoint.model} at a time: "
                f"set a batch_tokens below {self.batch_tokens}."
            ) from None
        found: list[list[int]] = drawn[:, width:].tolist()
        return found


def _draws(sampling: Sampling, width: int, uniform: NDArray[np.float64], limits: Sequence[int], end: int) -> list[Any]:
    """Logits processors after which the likeliest token is the drawn one."""
    import torch
    from transformers import (
        LogitsProcessorList,
        NoRepeatNGramLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    def draw(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        step = ids.shape[1] - width
        if sampling.temperature == 0:
            chosen = scores.argmax(-1, keepdim=True)
        else:
            # float64: a cumulated float32 has steps as large as the rarer tokens
            heights = torch.softmax(scores.double(), -1).cumsum(-1)
            at = torch.from_numpy(uniform[:, step : step + 1]).to(scores.device) * heights[:, -1:] * (1 - 1e-12)
            chosen = torch.searchsorted(heights, at, right=True)
        over = torch.tensor([[step >= limit] for limit in limits], device=scores.device)
        chosen = torch.where(over, end, chosen)
        return torch.full_like(scores, -torch.inf).scatter(-1, chosen, 0.0)

    rules: list[Any] = []
    if sampling.no_repeat_ngram:
        rules.append(NoRepeatNGramLogitsProcessor(sampling.no_repeat_ngram))
    if sampling.temperature not in (0, 1):
        rules.append(TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.top_k:
        rules.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        rules.append(TopPLogitsWarper(sampling.top_p))
    found: list[Any] = LogitsProcessorList([*rules, draw])
    return found
