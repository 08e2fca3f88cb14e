"""Caps on tokens and money: reserved before a call is made, so that no cap is ever passed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from pe.errors import CapReachedError, ConfigError
from pe.journal import Usage


@dataclass(frozen=True)
class Prices:
    """Money per million tokens of prompts and of answers."""

    prompt: float
    completion: float

    @classmethod
    def of(cls, given: Mapping[str, float] | None) -> Prices | None:
        """From {"input": ..., "output": ...}; raises ConfigError."""
        if given is None:
            return None
        if set(given) != {"input", "output"} or not all(
            isinstance(price, int | float) and 0 <= price < float("inf") for price in given.values()
        ):
            raise ConfigError(
                "expected api.prices = { input = ..., output = ... }, money per million tokens. Nothing was spent."
            )
        return cls(given["input"], given["output"])

    def cost(self, prompt: int, completion: int) -> float:
        return (prompt * self.prompt + completion * self.completion) / 1e6


class Allowance:
    """What may still be spent by the calls of one run.

    Tokens are counted when they are reported. A call reserves the most that it can come to; where that does not fit
    any more it waits for those in flight to come cheaper, and where it does not fit beside what is spent either,
    ``reserve`` raises CapReachedError. What may have been charged without an answer (a time-out, a process that was
    killed) counts in full.
    """

    def __init__(self, tokens: int | None, cost: float | None, before: Usage) -> None:
        self.max_tokens, self.max_cost = tokens, cost
        self._tokens = before.tokens + before.at_risk
        self._cost = (before.cost or 0.0) + before.cost_at_risk
        self._reserved_tokens, self._reserved_cost = 0, 0.0
        self._changed = asyncio.Condition()

    async def reserve(self, tokens: int, cost: float) -> None:
        async with self._changed:
            while not self._fits(tokens + self._reserved_tokens, cost + self._reserved_cost):
                if not self._fits(tokens, cost):
                    raise CapReachedError(self._message(tokens, cost))
                await self._changed.wait()
            self._reserved_tokens += tokens
            self._reserved_cost += cost

    async def settle(self, reserved: tuple[int, float], spent: tuple[int, float]) -> None:
        """A reserved call is over; ``spent`` is what it came to."""
        async with self._changed:
            self._reserved_tokens -= reserved[0]
            self._reserved_cost -= reserved[1]
            self._tokens += spent[0]
            self._cost += spent[1]
            self._changed.notify_all()

    def _fits(self, tokens: int, cost: float) -> bool:
        return (self.max_tokens is None or self._tokens + tokens <= self.max_tokens) and (
            self.max_cost is None or self._cost + cost <= self.max_cost
        )

    def _message(self, tokens: int, cost: float) -> str:
        if self.max_tokens is not None and self._tokens + tokens > self.max_tokens:
            facts = f"api.max_tokens_total = {self.max_tokens}: {self._tokens} tokens are used, the next call may take "
            facts += str(tokens)
        else:
            facts = f"api.max_cost = {self.max_cost}: {self._cost:.4g} is spent, the next call may take {cost:.4g}"
        return f"{facts}. Every answer so far is kept: raise the cap in the configuration and run it again."
