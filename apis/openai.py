"""Texts from a model behind an OpenAI-compatible endpoint: OpenAI, Azure, vLLM, llama.cpp, transformers serve."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from dataclasses import replace
from hashlib import sha256
from threading import Thread
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from pe.apis.allowance import Allowance, Prices
from pe.apis.answers import EMPTY, REASONING_ONLY, TRUNCATED, most_likely_cause, read_completion
from pe.apis.endpoint import AGAIN, HOPELESS, OFFICIAL, Answer, Endpoint, Refusal, check_public, key_from
from pe.apis.facts import Facts
from pe.apis.prompts import Prompt, Prompts
from pe.data.population import Population
from pe.data.schema import Schema
from pe.errors import APIError, CapReachedError, ConfigError, PEError
from pe.journal import ANSWERED, Journal, Usage, usage

Result = TypeVar("Result")

HOPE = 32
"""So many samples in a row without an answer end the iteration."""

GRACE = 10.0
"""Seconds that calls in flight get to end when an error ends the iteration."""

_PAUSE = 2.0
"""Seconds between the calls for one sample while an endpoint limits their rate beyond the client's retries."""

_RESERVED = ("model", "messages", "stream", "n", "max_tokens", "max_completion_tokens")


class OpenAIAPI:
    """Asks a chat model for every sample: ``random`` by label, keyword and persona, ``vary`` from its parent.

    model, base_url   the model's name there, and the address of the endpoint, up to its ``/v1``.
    key_env           the environment variable that holds the key; "" for none. ``key_header`` is the header that it
                      goes into (Azure's "api-key"). A key never stands in a configuration.
    headers, query    public ones that the endpoint wants (Azure's api-version).
    prompts           settings of ``pe.apis.prompts.Prompts``.
    max_tokens        of one answer; ``tokens_key`` "max_completion_tokens" for models that know no "max_tokens".
    temperature, options  further parameters of the request, such as {"top_p": 0.9}.
    concurrency       calls in flight.
    timeout, deadline, longest_wait  seconds for one attempt; for all attempts at one sample; cap on Retry-After.
    retries           of the client for one call (429, 5xx, lost connections, time-outs), with growing pauses.
    asks              how often a sample is asked for, each time in other words, where the answer is of no use.
    max_tokens_total, max_cost, prices  caps for the whole run; see ``pe.apis.allowance``. Raise them and run again.

    No failure of one call fails the rest. An answer that is empty, refused, not of the protocol or cut at its limit is
    asked for anew; one that was cut counts if its whole sentences make half of the words that were asked for. In the
    end a variation keeps its parent, and a fresh sample repeats another one of its batch. A wrong key, address or
    model, an account without quota, a cap, and 32 failures in a row end the iteration with one error; what was
    answered is kept in the run's journal and not asked again.

    Of an answer the text alone is taken, without reasoning and without code fence, JSON or quotation marks around the
    whole (``pe.apis.answers``), and cut at the column's length. Other columns than the text are those of the tabular
    API, and are told to the model.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        model: str,
        base_url: str = OFFICIAL,
        key_env: str = "OPENAI_API_KEY",
        key_header: str = "Authorization",
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        prompts: Mapping[str, Any] | None = None,
        max_tokens: int = 512,
        tokens_key: str = "max_tokens",
        temperature: float | None = None,
        options: Mapping[str, Any] | None = None,
        concurrency: int = 64,
        timeout: float = 60.0,
        deadline: float = 300.0,
        longest_wait: float = 60.0,
        retries: int = 4,
        asks: int = 3,
        max_tokens_total: int | None = None,
        max_cost: float | None = None,
        prices: Mapping[str, float] | None = None,
    ) -> None:
        check_public(base_url, headers or {}, query or {})
        whole = {
            "concurrency": (concurrency, 1),
            "asks": (asks, 1),
            "max_tokens": (max_tokens, 1),
            "retries": (retries, 0),
        }
        for name, (value, least) in whole.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"expected api.{name} >= {least}, whole, got {value!r}. Nothing was spent.")
        amounts: dict[str, Any] = {"timeout": timeout, "deadline": deadline, "longest_wait": longest_wait}
        amounts |= {
            name: each
            for name, each in (("max_tokens_total", max_tokens_total), ("max_cost", max_cost))
            if each is not None
        }
        for name, value in amounts.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise ConfigError(f"expected api.{name} > 0, got {value!r}. Nothing was spent.")
        if max_cost is not None and prices is None:
            raise ConfigError("api.max_cost needs api.prices, per million tokens. Nothing was spent.")
        if strange := sorted(set(options or {}) & set(_RESERVED)):
            raise ConfigError(f"api.options may not hold '{strange[0]}'. Nothing was spent.")
        self.name = f"openai:{model}"
        self.facts = Facts(schema)
        settings = {"most_words": max(1, max_tokens // 2)} | dict(prompts or {})
        try:
            self.prompts = Prompts(schema, **settings)
        except TypeError as error:
            raise ConfigError(f"api.prompts: {error}. Nothing was spent.") from None
        self.public_data = f"what the model '{model}' was trained on"
        if self.prompts.public_data:
            self.public_data += f"; {self.prompts.public_data}"
        self._key_env = key_env
        self._address: dict[str, Any] = {"base_url": base_url, "key_header": key_header}
        self._address |= {"headers": headers, "query": query, "timeout": timeout, "retries": retries}
        self._address |= {"longest_wait": longest_wait, "connections": concurrency}
        self._body = {"model": model, tokens_key: max_tokens, **(options or {})}
        if temperature is not None:
            self._body["temperature"] = temperature
        self._tokens_key, self._max_tokens = tokens_key, max_tokens
        self._concurrency, self._deadline, self._asks = concurrency, deadline, asks
        self._caps, self._prices = (max_tokens_total, max_cost), Prices.of(prices)
        self._callback: Callable[[pa.Table], None] | None = None
        self._overhead = 0
        self._spent = Usage()
        self._streak = 0
        self._marks: set[str] = set()
        self._unwritten: list[str] = []
        # what decides whether answers can be used: asked anew once it changes
        deciding = json.dumps([base_url, self._body], sort_keys=True, default=str)
        self._settings = sha256(deciding.encode()).hexdigest()[:16]
        self.record(None)

    # -- seams of a run --------------------------------------------------------------------------------------------

    def record(self, journal: Journal | None) -> None:
        """See ``pe.protocols.Metered``."""
        self._journal = journal
        self._batches = 0
        self._known: dict[str, deque[Answer]] = defaultdict(deque)
        self._number = 0
        self._faults: Counter[str] = Counter()
        if journal is None:
            return
        self._spent = journal.before
        self._marks |= journal.marks
        for line in journal.lines:
            self._number = max(self._number, line.get("asked", -1) + 1)
            if "request" in line and "tokens" in line:  # what cost nothing may be asked again
                self._known[line["request"]].append(
                    Answer(line["outcome"], line.get("text", ""), truncated=line.get("truncated", False))
                )

    @property
    def _worked(self) -> bool:
        """Whether the endpoint ever gave a usable answer under the present settings, in any iteration of the run."""
        return f"answered {self._settings}" in self._marks

    @property
    def _opened(self) -> bool:
        """Whether the model's chat template opens its reasoning: an answer closed some that it had not opened. One that
        was cut before such a tag is nothing but reasoning.
        """
        return f"reasoned {self._settings}" in self._marks

    def _mark(self, what: str) -> None:
        """Note a fact for all later iterations, once, in the journal's next line."""
        mark = f"{what} {self._settings}"
        if mark not in self._marks:
            self._marks.add(mark)
            self._unwritten.append(mark)

    def listen(self, callback: Callable[[pa.Table], None] | None) -> None:
        """See ``pe.protocols.Piecemeal``."""
        self._callback = callback

    def ready(self) -> None:
        """See ``pe.protocols.Metered``: the key is there, and a sample is answered, unless one has been before.

        The question is like those of the run and its answer judged as theirs are; it is asked as often as theirs.
        """
        key_from(self._key_env)
        if self._worked:
            return
        rows = self.facts.random(1, 0, np.random.default_rng(0))

        def ask(row: int, attempt: int) -> Prompt:
            return self.prompts.random(self.facts.told(0, rows, row), np.random.default_rng([0, attempt]))

        text, answer = _completed(self._probe(ask))
        if text is not None:
            return
        if answer.outcome in AGAIN:
            raise APIError(f"the endpoint gives no answer: {answer.outcome}{answer.note}.")
        if cause := most_likely_cause(answer.outcome, self._max_tokens):
            raise ConfigError(
                f"API '{self.name}' answered none of {self._asks} questions in a usable way ({answer.outcome}"
                f"{answer.note}): {cause}."
            )
        raise ConfigError(f"the endpoint is no use: {answer.outcome}{answer.note}. Is api.base_url its '/v1'?")

    def check_caps(self, fresh: int, varied: int) -> list[str]:
        """See ``pe.protocols.Capped``."""
        first, whole = self.estimate(fresh, 0), self.estimate(fresh, varied)
        paid = Usage() if self._journal is None else usage(self._journal.lines)  # of this iteration: not asked again
        used = self._spent.tokens + self._spent.at_risk - paid.tokens
        cost = (self._spent.cost or 0.0) + self._spent.cost_at_risk - (paid.cost or 0.0)
        max_tokens, max_cost = self._caps
        warnings = []
        for key, cap, used_up, of_first, of_whole, unit in (
            ("max_tokens_total", max_tokens, used, first.tokens, whole.tokens, "tokens"),
            ("max_cost", max_cost, cost, first.cost or 0.0, whole.cost or 0.0, "in money"),
        ):
            if cap is None or used_up + of_whole <= cap:
                continue
            facts = f"api.{key} = {cap:.9g}, of which {used_up:.6g} is used"
            if fresh and used_up + of_first > cap:
                raise ConfigError(
                    f"{facts}: the first {fresh} samples alone take about {of_first:.6g} {unit}, all that is planned "
                    f"about {of_whole:.6g}. Raise it, or ask for fewer samples ('pe plan' tells how many)."
                )
            warnings.append(
                f"{facts}: what is planned takes about {of_whole:.6g} {unit}, so the run is likely to stop at the cap "
                "and to go on once it is raised"
            )
        return warnings

    def estimate(self, fresh: int, varied: int) -> Usage:
        """See ``pe.protocols.Metered``: four characters, or three quarters of a word, to a token."""
        rng, labels = np.random.default_rng(0), self.facts.schema.labels
        tokens = np.zeros(2)
        for n, parent in ((fresh, False), (varied, True)):
            asked = [self._sample(number % len(labels), parent, rng) for number in range(16)]
            letters = [sum(len(each["content"]) for each in one.messages) for one in asked]
            words = [min(one.words / 0.75, self._max_tokens) for one in asked]
            tokens += n * np.array([np.mean(letters) / 4, np.mean(words)])
        prompt, completion = (round(each) for each in tokens.tolist())
        cost = self._cost(prompt, completion)
        return Usage(fresh + varied, prompt_tokens=prompt, completion_tokens=completion, cost=cost)

    def _sample(self, label: int, parent: bool, rng: np.random.Generator) -> Prompt:
        told = self.facts.told(label, self.facts.random(1, label, rng), 0)
        fresh = self.prompts.random(told, rng)
        return self.prompts.vary("lorem " * fresh.words, told, 0.5, rng) if parent else fresh

    # -- samples ---------------------------------------------------------------------------------------------------

    def random(self, n: int, label: int, rng: np.random.Generator) -> Population:
        rows = self.facts.random(n, label, rng)
        seeds, choose = rng.integers(2**63, size=n), np.random.default_rng(int(rng.integers(2**63)))

        def ask(row: int, attempt: int) -> Prompt:
            told = self.facts.told(label, rows, row)
            return self.prompts.random(told, np.random.default_rng([int(seeds[row]), attempt]))

        texts = self._texts(n, ask, rows)
        good = [row for row, text in enumerate(texts) if text is not None]
        if n and not good:
            outcome, count = self._faults.most_common(1)[0]
            cause = most_likely_cause(outcome, self._max_tokens)
            raise APIError(
                f"API '{self.name}': none of {n} fresh samples was answered in a usable way ({count} {outcome})"
                f"{': ' if cause else ''}{cause}."
            )
        index = [row if text is not None else good[int(choose.integers(len(good)))] for row, text in enumerate(texts)]
        self._note(replaced=n - len(good))
        records = self.facts.records([text or "" for text in texts], rows)
        return Population.of(records.take(pa.array(index, pa.int64())), label, self.name)

    def vary(self, parents: Population, degree: float, rng: np.random.Generator) -> Population:
        n, rows = len(parents), self.facts.vary(parents, degree, rng)
        seeds = rng.integers(2**63, size=n)
        originals = self.facts.texts(parents)
        siblings: dict[int, list[str]] = defaultdict(list)
        for label, text in zip(parents.labels.tolist(), originals, strict=True):
            siblings[label].append(text)

        def ask(row: int, attempt: int) -> Prompt:
            label = int(parents.labels[row])
            told = self.facts.told(label, rows, row)
            rng = np.random.default_rng([int(seeds[row]), attempt])
            return self.prompts.vary(originals[row], told, degree, rng, siblings[label])

        texts = self._texts(n, ask, rows)
        index = [row if text is not None else n + row for row, text in enumerate(texts)]
        self._note(kept=sum(text is None for text in texts))
        made = self.facts.records([text or "" for text in texts], rows)
        both = pa.concat_tables([made, parents.records.cast(made.schema)])
        return Population.of(both.take(pa.array(index, pa.int64())), parents.labels, self.name)

    def _note(self, **counts: int) -> None:
        line = {"batch": self._batches} | counts
        self._batches += 1
        self._write(line)

    # -- calls -----------------------------------------------------------------------------------------------------

    def _texts(self, n: int, ask: Callable[[int, int], Prompt], rows: pa.Table | None) -> list[str | None]:
        """``n`` texts, None for each that could not be had; raises where it is of no use to go on."""

        def hand_over(row: int, text: str) -> None:
            if self._callback is not None:
                self._callback(self.facts.records([text], None if rows is None else rows.slice(row, 1)))

        return _completed(self._batch(n, ask, hand_over))

    async def _batch(
        self, n: int, ask: Callable[[int, int], Prompt], hand_over: Callable[[int, str], None]
    ) -> list[str | None]:
        texts: list[str | None] = [None] * n
        self._faults = Counter()
        allowance, endpoint = self._open()
        closing, rows = False, iter(range(n))

        async def work() -> None:
            for row in rows:
                if closing:
                    return
                text, why = await self._text(row, ask, endpoint, allowance)
                if text is not None:
                    texts[row], self._streak = text, 0
                    hand_over(row, text)
                    continue
                self._streak += 1
                self._faults[why.outcome] += 1
                if self._streak >= (HOPE if self._worked else min(HOPE, n)):
                    cause = most_likely_cause(why.outcome, self._max_tokens)
                    raise APIError(
                        f"API '{self.name}': {self._streak} samples in a row came to nothing, the last one for this "
                        f"reason: {why.outcome}{why.note}{': ' if cause else ''}{cause}. Every answer so far is kept."
                    )

        tasks = [asyncio.create_task(work()) for _ in range(min(self._concurrency, n))]
        try:
            done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION) if tasks else (set(), set())
            errors = [error for each in done if (error := each.exception()) is not None]
            if errors:
                closing = True
                if pending:  # what is in flight is paid for
                    await asyncio.wait(pending, timeout=None if isinstance(errors[0], CapReachedError) else GRACE)
                raise errors[0].error if isinstance(errors[0], Refusal) else errors[0]
        finally:
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await endpoint.close()
        return texts

    def _open(self) -> tuple[Allowance, Endpoint]:
        return Allowance(*self._caps, self._spent), Endpoint(key=key_from(self._key_env), **self._address)

    async def _probe(self, ask: Callable[[int, int], Prompt]) -> tuple[str | None, Answer]:
        """One sample, before there are any: what the same question would meet again is not asked again."""
        allowance, endpoint = self._open()
        try:
            return await self._text(0, ask, endpoint, allowance, final=AGAIN | HOPELESS | {"malformed"})
        except Refusal as error:
            raise error.error from None
        finally:
            await endpoint.close()

    async def _text(
        self,
        row: int,
        ask: Callable[[int, int], Prompt],
        endpoint: Endpoint,
        allowance: Allowance,
        final: frozenset[str] = (AGAIN | HOPELESS) - {"rate limited"},
    ) -> tuple[str | None, Answer]:
        """One sample: asked for until there is a usable answer, all attempts or the deadline are used up.

        ``final``: outcomes after which it is not asked for again.
        """
        left, answer, attempt = self._deadline, Answer("timeout"), 0
        while attempt < self._asks and left > 0:
            prompt = ask(row, attempt)
            body = self._body | {"messages": prompt.messages}
            request = sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32]
            if known := self._known.get(request):
                answer = known.popleft()
            else:
                answer, took = await self._call(body, request, prompt.words, left, endpoint, allowance)
                left -= took
            if answer.outcome == ANSWERED:
                return answer.text, answer
            if answer.outcome in final:
                break
            if answer.outcome == "rate limited":  # patience, not another attempt
                await asyncio.sleep(min(left, _PAUSE))
                left -= _PAUSE
            else:
                attempt += 1
        return None, answer

    async def _call(
        self,
        body: Mapping[str, Any],
        request: str | None,
        words: int,
        left: float,
        endpoint: Endpoint,
        allowance: Allowance,
    ) -> tuple[Answer, float]:
        """One call and the seconds it took: reserved, noted, made, noted, settled."""
        letters = sum(len(each["content"].encode()) + 16 for each in body["messages"])
        bound = letters + self._overhead, int(body[self._tokens_key])
        most = sum(bound), self._cost(*bound) or 0.0
        held, lost = most, 0

        async def again() -> None:
            nonlocal held, lost
            await allowance.settle(held, held)
            held, lost = (0, 0.0), lost + 1
            await allowance.reserve(*most)
            held = most

        await allowance.reserve(*most)
        number, self._number = self._number, self._number + 1
        self._write({"asked": number, "bound": bound, "cost": most[1]})
        begun = asyncio.get_running_loop().time()
        failure: PEError | None = None
        try:
            async with asyncio.timeout(left):
                answer = self._judged(await endpoint.ask(body, again), words)
        except TimeoutError:
            answer = Answer("timeout", unseen=lost + 1)
        except CapReachedError as error:
            answer, failure = Answer("timeout", unseen=lost), error
        except Refusal as error:
            answer, failure = Answer("no access"), error
        line = {"call": number} | self._settled(answer, bound, request)
        self._write(line)
        spent = usage([line])
        self._spent += spent
        tokens, cost = spent.tokens + spent.at_risk, (spent.cost or 0.0) + spent.cost_at_risk
        await allowance.settle(held, (tokens - lost * most[0], cost - lost * most[1]))
        if failure is not None:
            raise failure
        return answer, asyncio.get_running_loop().time() - begun

    def _judged(self, answer: Answer, words: int) -> Answer:
        """The answer with the text taken out of it, or with the reason why it holds none."""
        if answer.outcome != ANSWERED:
            return answer
        used_up = answer.tokens is not None and answer.tokens[1] >= self._max_tokens
        found = read_completion(
            answer.text,
            truncated=answer.truncated or (not answer.text and used_up),
            words=words,
            opened=self._opened and answer.truncated and not answer.reasoned,
            reasoned_apart=answer.reasoned,
        )
        if found.reasoned:
            self._mark("reasoned")
        if not found.fault:
            self._mark("answered")
            return replace(answer, text=found.text)
        note = ", in its reasoning" if found.fault == TRUNCATED and not found.text and answer.reasoned else ""
        return replace(answer, outcome=found.fault, text="", note=note)

    def _settled(self, answer: Answer, bound: tuple[int, int], request: str | None) -> dict[str, Any]:
        """The journal's line of a call that is over."""
        line: dict[str, Any] = {"outcome": answer.outcome}
        if request is not None:
            line["request"] = request
        if answer.outcome == ANSWERED:
            line["text"] = answer.text
        if answer.truncated:
            line["truncated"] = True
        if self._unwritten:
            line["marks"], self._unwritten = self._unwritten, []
        tokens = answer.tokens
        if tokens is None and answer.outcome in (ANSWERED, TRUNCATED, EMPTY, REASONING_ONLY, "refused", "malformed"):
            tokens, line["estimated"] = bound, True  # never less than it was
        if answer.tokens is not None:
            self._overhead = max(self._overhead, answer.tokens[0] - bound[0] + self._overhead)
        if tokens is not None:
            line["tokens"] = tokens
            if self._prices is not None:
                line["cost"] = self._cost(*tokens)
        if answer.unseen:
            line["at_risk"] = answer.unseen * sum(bound)
            line["cost_at_risk"] = answer.unseen * (self._cost(*bound) or 0.0)
        return line

    def _cost(self, prompt: int, completion: int) -> float | None:
        return None if self._prices is None else self._prices.cost(prompt, completion)

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._journal is not None:
            self._journal.write(line)


def _completed(work: Coroutine[Any, Any, Result]) -> Result:
    """Run to the end in a thread and an event loop of its own: the caller may have a loop already."""
    result: Future[Result] = Future()
    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = Future()

    async def main() -> Result:
        task = asyncio.current_task()
        assert task is not None
        begun.set_result((asyncio.get_running_loop(), task))
        return await work

    def run() -> None:
        try:
            with asyncio.Runner() as runner:
                result.set_result(runner.run(main()))
        except BaseException as error:
            result.set_exception(error)

    thread = Thread(target=run, name="ask endpoint", daemon=True)
    thread.start()
    try:
        return result.result()
    finally:
        if not result.done():  # interrupted
            loop, task = begun.result()
            loop.call_soon_threadsafe(task.cancel)
        thread.join()
