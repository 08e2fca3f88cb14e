"""A language model on this machine (Aug-PE, Xie et al. 2024): random and variation are prompts to a causal model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import astuple, dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pe.apis.answers import TRUNCATED, Completion, most_likely_cause, read_completion, unwrapped, without_reasoning
from pe.apis.causal import Answer, CausalLM, Sampling
from pe.apis.checkpoint import Checkpoint
from pe.apis.facts import Facts
from pe.apis.prompts import Prompt, Prompts
from pe.data.population import Population
from pe.data.schema import Schema
from pe.errors import APIError, ConfigError
from pe.journal import ANSWERED, Journal, Usage

MOST_TOKENS = 448
"""Aug-PE's longest answers."""

_SIBLINGS = 8
"""Texts among which those are drawn that show how blanks are filled in."""

_PER_WORD, _SPARE = 4, 32
"""An answer has no more tokens than so many per word that is asked for, and so many beside."""


@dataclass(frozen=True)
class _Question:
    """The tokens of a prompt, the most that its answer may have, and how many words it asks for."""

    tokens: list[int]
    limit: int
    words: int


class TransformersAPI:
    """Writes texts with a causal language model of the transformers library.

    model         a folder that the library saved, or a name on the Hugging Face hub; ``revision`` there.
    prompts       settings of ``pe.apis.prompts.Prompts``.
    temperature, top_k, top_p, no_repeat_ngram
                  see ``Sampling``. (Aug-PE: temperature 1 ... 1.4, top_k 50, top_p .9, no_repeat_ngram 2 for GPT-2.)
    max_tokens    the longest answer; by default 448, or half the model's context where that is shorter.
    stop          texts that end an answer. For models without chat template, which may go on with a next example.
    chat          whether prompts go through the tokenizer's chat template; by default where it has one.
    retries       how often an empty answer is asked for anew. Then a variation keeps its parent, and a fresh sample
                  repeats another one of the same call.
    batch_tokens  tokens in memory at a time, answers included; by default 4,096 on a CPU, 32,768 on a GPU.
    device, dtype by default the GPU in bfloat16, where there is one, else the CPU in float32.

    A prompt that does not fit the context loses its examples, the last first, then the end of its parent's text. An
    answer that the limit cuts short ends with its last whole sentence, if that is half of the words asked for.

    Every answer is kept in the run's journal as it comes: a run that was killed does not ask again.

    The same random generator gives the same texts, whatever the batches (but see ``CausalLM``). Raises ConfigError for
    settings out of range, a model that cannot be had and prompts that leave no room, SchemaError as in ``Facts``.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        model: str,
        revision: str | None = None,
        prompts: Mapping[str, Any] | None = None,
        temperature: float = 1.0,
        top_k: int = 50,
        top_p: float = 0.9,
        no_repeat_ngram: int = 0,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
        chat: bool | None = None,
        retries: int = 2,
        batch_tokens: int | None = None,
        device: str | None = None,
        dtype: str | None = None,
    ) -> None:
        self.facts = Facts(schema)
        self.sampling = Sampling(temperature, top_k, top_p, no_repeat_ngram)
        checkpoint = Checkpoint(model, revision, device, dtype)
        self.lm = CausalLM(checkpoint, batch_tokens=batch_tokens, chat=chat)
        self.max_tokens = min(MOST_TOKENS, self.lm.context // 2) if max_tokens is None else max_tokens
        if not 1 <= self.max_tokens < self.lm.context or retries < 0:
            raise ConfigError(
                f"expected max_tokens in [1, {self.lm.context}), the model's context, and retries >= 0, got "
                f"{self.max_tokens} and {retries}. Nothing was spent."
            )
        settings = {"most_words": max(1, self.max_tokens // 2)} | dict(prompts or {})
        try:
            self.prompts = Prompts(schema, **settings)
        except TypeError as error:
            raise ConfigError(f"api.prompts: {error}. Nothing was spent.") from None
        self.stop = tuple(each for each in stop if each)
        self.retries = retries
        self.name = f"transformers:{checkpoint.public_name}"
        known = (f"language model {checkpoint.public_name}", self.prompts.public_data)
        self.public_data = "; ".join(filter(None, known))
        self._callback: Callable[[pa.Table], None] | None = None
        self._marks: set[str] = set()
        deciding = [checkpoint.model, revision, astuple(self.sampling), self.stop, self.max_tokens, self.lm.chat]
        self._answered_mark = f"answered {sha256(json.dumps(deciding).encode()).hexdigest()[:16]}"
        self._fault = ""
        self.record(None)

    # -- seams of a run --------------------------------------------------------------------------------------------

    def record(self, journal: Journal | None) -> None:
        """See ``pe.protocols.Metered``."""
        self._journal = journal
        self._known: dict[str, Answer] = {}
        self._calls = self._batches = 0
        self._marks |= set() if journal is None else journal.marks
        for line in [] if journal is None else journal.lines:
            self._calls = max(self._calls, line.get("call", -1) + 1)
            if "request" in line:
                self._known[line["request"]] = Answer(0, line["text"], line["ended"], line["tokens"][1])

    def ready(self) -> None:
        """See ``pe.protocols.Metered``: the weights can be loaded, and a sample is answered, unless one was before.

        The question is like those of the run and its answer judged as theirs are; it is asked as often as theirs.
        """
        self.lm.load()
        if self._answered_mark in self._marks:
            return
        rows = self.facts.random(1, 0, np.random.default_rng(0))

        def ask(index: int, prompts: Prompts, share: float) -> Prompt:
            return prompts.random(self.facts.told(0, rows, index), np.random.default_rng(0))

        if not self._written(ask, [[0]], rows)[0]:
            raise ConfigError(
                f"model {self.lm.checkpoint.model} answered none of {self.retries + 1} questions in a usable way "
                f"({self._fault}): {most_likely_cause(self._fault, self.max_tokens)}."
            )

    def estimate(self, fresh: int, varied: int) -> Usage:
        """See ``pe.protocols.Metered``: three quarters of a word to a token of an answer."""
        rng, labels, tokens = np.random.default_rng(0), self.facts.schema.labels, np.zeros(2)
        for n, parent in ((fresh, False), (varied, True)):
            for number in range(8):
                label = number % len(labels)
                told = self.facts.told(label, self.facts.random(1, label, rng), 0)
                prompt = self.prompts.random(told, rng)
                if parent:
                    prompt = self.prompts.vary("lorem " * prompt.words, told, 0.5, rng)
                asked = min(len(self.lm.encode(prompt)), self.lm.context - self.max_tokens)
                tokens += np.array([asked, min(prompt.words / 0.75, self.max_tokens)]) * n / 8
        prompts, answers = (round(each) for each in tokens.tolist())
        return Usage(fresh + varied, prompt_tokens=prompts, completion_tokens=answers)

    def listen(self, callback: Callable[[pa.Table], None] | None) -> None:
        """See ``pe.protocols.Piecemeal``: texts are handed over batch by batch."""
        self._callback = callback

    def random(self, n: int, label: int, rng: np.random.Generator) -> Population:
        rows, seeds = self.facts.random(n, label, rng), _seeds(n, rng)

        def ask(index: int, prompts: Prompts, share: float) -> Prompt:
            return prompts.random(self.facts.told(label, rows, index), np.random.default_rng([*seeds[index], 0]))

        texts = self._written(ask, seeds, rows)
        there = [index for index, text in enumerate(texts) if text]
        if n and not there:
            raise APIError(
                f"model {self.lm.checkpoint.model} gave {n} empty answers and no other ({self._fault}): "
                f"{most_likely_cause(self._fault, self.max_tokens)}."
            )
        spare = np.random.default_rng(rng.integers(2**63))
        index = np.array([each if text else spare.choice(there) for each, text in enumerate(texts)], np.int64)
        self._note(replaced=n - len(there))
        return Population.of(self.facts.records(texts, rows).take(pa.array(index)), label, self.name)

    def vary(self, parents: Population, degree: float, rng: np.random.Generator) -> Population:
        n, rows = len(parents), self.facts.vary(parents, degree, rng)
        seeds, given = _seeds(n, rng), self.facts.texts(parents)
        siblings = [np.flatnonzero(parents.labels == label) for label in range(len(self.facts.schema.labels))]

        def ask(index: int, prompts: Prompts, share: float) -> Prompt:
            own = np.random.default_rng([*seeds[index], 0])
            pool = siblings[parents.labels[index]]
            shown = [given[each] for each in own.choice(pool, min(_SIBLINGS, len(pool)), replace=False)]
            text = given[index][: round(len(given[index]) * share)]
            return prompts.vary(text, self.facts.told(int(parents.labels[index]), rows, index), degree, own, shown)

        texts = self._written(ask, seeds, rows)
        kept = np.array([not text for text in texts], np.bool_)
        self._note(kept=int(kept.sum()))
        both = pa.concat_tables([self.facts.records(texts, rows), parents.records])
        records = both.take(pa.array(np.where(kept, n, 0) + np.arange(n))).combine_chunks()
        return Population.of(records, parents.labels, self.name)

    def _note(self, **counts: int) -> None:
        self.counts = counts
        if self._journal is not None:
            self._journal.write({"batch": self._batches} | counts)
        self._batches += 1

    def _written(
        self, ask: Callable[[int, Prompts, float], Prompt], seeds: Sequence[list[int]], rows: pa.Table | None
    ) -> list[str]:
        """A text for every seed, empty where each attempt was."""
        texts, left = [""] * len(seeds), list(range(len(seeds)))
        questions = [self._fitting(ask, index) for index in left]
        for attempt in range(1, self.retries + 2):
            for index, answer in self._answered(questions, left, [[*seeds[index], attempt] for index in left]):
                texts[index] = self._text(answer, questions[index])
                if texts[index] and self._callback is not None:
                    own = None if rows is None else rows.slice(index, 1)
                    self._callback(self.facts.records([texts[index]], own))
            left = [index for index in left if not texts[index]]
            if not left or self.sampling.temperature == 0:
                break
        return texts

    def _text(self, answer: Answer, question: _Question) -> str:
        """An answer's text; of one that was cut short the whole sentences, if they are half of what was asked for."""
        found = self._read(answer, question)
        text = found.text
        if found.fault == TRUNCATED:
            opened = self.lm.opens_reasoning(question.tokens)
            text = unwrapped(without_reasoning(answer.text, opened=opened)[0], truncated=True)
        if not text:
            self._fault = found.fault
        return text

    def _read(self, answer: Answer, question: _Question) -> Completion:
        opened = self.lm.opens_reasoning(question.tokens)
        return read_completion(answer.text, truncated=not answer.ended, words=question.words, opened=opened)

    def _answered(
        self, questions: Sequence[_Question], asked: Sequence[int], seeds: Sequence[list[int]]
    ) -> Iterator[tuple[int, Answer]]:
        """Answers to the questions at ``asked``: from the journal, where it has them, else from the model."""
        request = [self._request(questions[index], seed) for index, seed in zip(asked, seeds, strict=True)]
        yield from (
            (index, self._known[each]) for index, each in zip(asked, request, strict=True) if each in self._known
        )
        new = [at for at, each in enumerate(request) if each not in self._known]
        answers = self.lm.answers(
            [questions[asked[at]].tokens for at in new],
            [questions[asked[at]].limit for at in new],
            [seeds[at] for at in new],
            self.sampling,
            self.stop,
        )
        for answer in answers:
            at = new[answer.index]
            question = questions[asked[at]]
            outcome = ANSWERED if self._text(answer, question) else self._fault
            marks = {self._answered_mark} - self._marks if outcome == ANSWERED else set()
            self._marks |= marks
            if self._journal is not None:
                tokens = [len(question.tokens), answer.tokens]
                line = {"call": self._calls, "outcome": outcome, "tokens": tokens} | (
                    {"marks": [*marks]} if marks else {}
                )
                self._journal.write(line | {"request": request[at], "text": answer.text, "ended": answer.ended})
            self._calls += 1
            yield asked[at], answer

    def _request(self, question: _Question, seed: list[int]) -> str:
        """What an answer depends on, as one name."""
        model, how = self.lm.checkpoint, self.sampling
        facts = [model.model, model.revision, astuple(how), self.stop, question.tokens, question.limit, seed]
        return sha256(json.dumps(facts).encode()).hexdigest()[:32]

    def _fitting(self, ask: Callable[[int, Prompts, float], Prompt], index: int) -> _Question:
        """A prompt that leaves room for its answer."""
        room, prompts = self.lm.context - self.max_tokens, self.prompts
        for shots in range(prompts.shots, -1, -1):
            prompts = copy(prompts)
            prompts.shots = shots
            prompt = ask(index, prompts, 1.0)
            tokens = self.lm.encode(prompt)
            if len(tokens) <= room:
                break
        share = 1.0
        while len(tokens) > room and share > 0:
            share = max(0.0, share - 0.1)
            prompt = ask(index, prompts, share)
            tokens = self.lm.encode(prompt)
        if len(tokens) > room:
            raise APIError(
                f"a prompt has {len(tokens)} tokens without an example or a parent, and with an answer of "
                f"{self.max_tokens} the context of {self.lm.checkpoint.model} is {self.lm.context}: lower max_tokens, "
                "or shorten the templates."
            )
        return _Question(tokens, min(self.max_tokens, _PER_WORD * prompt.words + _SPARE), prompt.words)


def _seeds(n: int, rng: np.random.Generator) -> list[list[int]]:
    drawn: NDArray[np.int64] = rng.integers(2**63, size=n)
    return [[int(seed)] for seed in drawn]
