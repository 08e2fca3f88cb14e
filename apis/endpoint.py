"""An OpenAI-compatible endpoint: one question, one answer or one reason why there is none.

The openai client retries time-outs, lost connections, 408, 409, 429 and 5xx. Hooks keep what it must not know or do:
the key is put on a request as it leaves, so that no log, error or repr of the client can hold it; Retry-After is cut
to a cap; an account without quota is not retried; redirects, which could take the key elsewhere, are not followed.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import re
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import openai

from pe.errors import CapReachedError, ConfigError, PEError
from pe.journal import ANSWERED

OFFICIAL = "https://api.openai.com/v1"

AGAIN = frozenset({"timeout", "rate limited", "server error", "no connection"})
"""Outcomes that are the endpoint's fault: nothing is known to have been paid for."""

HOPELESS = frozenset({"too long", "rejected"})
"""Outcomes that the same question would have again."""

_REASONING = ("reasoning_content", "reasoning", "reasoning_details", "thinking", "redacted_thinking")
"""Fields of a message, and types of parts of its content, that hold reasoning."""

_SECRET = re.compile(r"auth|key|token|secret|cookie|passw|signature|^sig$|^code$", re.IGNORECASE)
_LENGTH = re.compile(r"context.?(length|window)|maximum context|max_model_len|too long|too many tokens", re.IGNORECASE)
_FILTER = re.compile(r"content.?filter|content.?policy|responsible.?ai|safety", re.IGNORECASE)


@dataclass(frozen=True)
class Answer:
    """How one call ended.

    outcome    "answered", or why there is no ``text``; ``note`` says more, in public words.
    tokens     of prompt and answer, as reported; None where the endpoint did not say.
    truncated  whether the answer reached its length limit.
    unseen     requests that were sent and got no response: they may have been charged.
    reasoned   whether reasoning came in a field of its own.
    """

    outcome: str
    text: str = ""
    note: str = ""
    tokens: tuple[int, int] | None = None
    truncated: bool = False
    unseen: int = 0
    reasoned: bool = False


class Refusal(PEError):
    """Every call would fail: carries the error to raise."""

    def __init__(self, error: PEError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass
class _Attempts:
    again: Callable[[], Awaitable[None]] | None = None
    sent: int = 0
    answered: int = 0


_attempts: ContextVar[_Attempts] = ContextVar("attempts")


def check_public(base_url: str, headers: Mapping[str, str], query: Mapping[str, str]) -> None:
    """Raise ConfigError for an address that is none, and for secrets in a configuration."""
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError("expected api.base_url such as 'http://localhost:8000/v1'. Nothing was spent.")
    names = [*headers, *query, *(name for name, _ in parse_qsl(parts.query))]
    if parts.username or parts.password or any(_SECRET.search(name) for name in names):
        raise ConfigError(
            "api.base_url, api.headers or api.query seem to hold a secret: name the environment variable that holds "
            "it in api.key_env, and in api.key_header the header it belongs to. Nothing was spent."
        )


def key_from(variable: str) -> str:
    """The key from an environment variable, empty for an empty name; raises ConfigError, which never shows it."""
    if not variable:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(
            f"the environment variable {variable} holds no key: set it, name another one in api.key_env, or set "
            'api.key_env = "" for an endpoint that asks for none.'
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"the environment variable {variable} holds what cannot be a key (white space, not ASCII).")
    return key


BACKENDS = ("DefaultAioHttpClient", "DefaultAsyncHttpxClient")
"""HTTP clients by preference: the first needs half the processor time, and aiohttp."""


def _http_client(**options: Any) -> Any:
    for name in BACKENDS[:-1]:
        with suppress(RuntimeError, AttributeError):  # not installed; not in this version
            return getattr(openai, name)(**options)
    return getattr(openai, BACKENDS[-1])(**options)


class Endpoint:
    """Where questions go. Belongs to one event loop.

    timeout       seconds for one attempt, the whole response included.
    retries       of the client, for each call.
    longest_wait  seconds: the cap on Retry-After.
    """

    def __init__(
        self,
        base_url: str,
        *,
        key: str,
        key_header: str = "Authorization",
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        timeout: float = 60.0,
        retries: int = 4,
        longest_wait: float = 60.0,
        connections: int = 64,
    ) -> None:
        self._key, self._key_header = key, key_header
        self._timeout, self._longest_wait = timeout, longest_wait
        # the client came to another HTTP library in its version 3
        roots = [each.__module__.partition(".")[0] for each in openai.DefaultAsyncHttpxClient.__mro__]
        self._http: Any = importlib.import_module(next(each for each in roots if each in ("httpx", "httpx2")))
        self._client = openai.AsyncOpenAI(
            api_key="in-a-hook",
            base_url=base_url,
            max_retries=retries,
            timeout=timeout,
            default_headers=dict(headers or {}),
            default_query=dict(query or {}),
            http_client=_http_client(
                timeout=timeout,
                follow_redirects=False,
                event_hooks={"request": [self._leaves], "response": [self._arrives]},
                limits=self._http.Limits(max_connections=connections, max_keepalive_connections=connections),
            ),
        )

    async def close(self) -> None:
        await self._client.close()

    async def _leaves(self, request: Any) -> None:
        attempts = _attempts.get(_Attempts())
        if attempts.again is not None and attempts.sent > attempts.answered:
            await attempts.again()
        attempts.sent += 1
        request.headers.pop("Authorization", None)
        if self._key:
            bearer = self._key_header.lower() == "authorization"
            request.headers[self._key_header] = f"Bearer {self._key}" if bearer else self._key

    async def _arrives(self, response: Any) -> None:
        try:
            async with asyncio.timeout(self._timeout):  # the client's own limit is between two bytes
                await response.aread()
        except TimeoutError:
            raise self._http.ReadTimeout("the response did not end", request=response.request) from None
        _attempts.get(_Attempts()).answered += 1
        if response.status_code in (429, 503):
            wait = response.headers.get("retry-after", "")
            if wait.replace(".", "", 1).isdigit() and float(wait) > self._longest_wait:
                response.headers["retry-after"] = f"{self._longest_wait:g}"
            response.headers.pop("retry-after-ms", None)
            if b"insufficient_quota" in response.content:
                response.headers["x-should-retry"] = "false"

    async def ask(self, body: Mapping[str, Any], again: Callable[[], Awaitable[None]] | None = None) -> Answer:
        """One chat completion; raises Refusal where further calls are of no use.

        body   ``model``, ``messages`` and whatever else is sent.
        again  awaited before a request is sent once more whose first sending got no response and may be charged.
        """
        attempts = _Attempts(again)
        token = _attempts.set(attempts)
        failure: Exception | None = None
        try:
            # the typed method spends as much time on checking our dictionary as on sending it
            response = await self._client.post("/chat/completions", cast_to=self._http.Response, body=dict(body))
            answer = understood(response.content)
        except openai.APIError as error:
            failure = error
        finally:
            _attempts.reset(token)
        unseen = attempts.sent - attempts.answered
        if failure is not None:
            answer = self._failed(failure, str(body["model"]))
            if any(_unconnected(each) for each in _causes(failure)):
                unseen = 0
        return replace(answer, unseen=unseen)

    def _failed(self, error: Exception, model: str) -> Answer:
        """What an exception of the client means; its text and its request are not kept."""
        if isinstance(error, openai.APIConnectionError):
            *_, reason = _causes(error)
            late = isinstance(error, openai.APITimeoutError)
            if late and (isinstance(reason, TimeoutError) or not isinstance(reason, OSError)):
                return Answer("timeout")
            said = reason.strerror if isinstance(reason, OSError) else None
            return Answer("no connection", note=f": {said or type(reason).__name__}")
        if not isinstance(error, openai.APIStatusError):
            return Answer("malformed")
        status, said = error.status_code, self._said(error)
        code = str(getattr(error, "code", "") or "")
        if status == 401:
            raise Refusal(ConfigError("the endpoint refuses the key (401)."))
        if status == 403:
            raise Refusal(ConfigError(f"the endpoint forbids the call (403){said}."))
        if status == 404:
            raise Refusal(ConfigError(f"the endpoint knows no such address or no model '{model}' (404){said}."))
        if 300 <= status < 400:
            raise Refusal(ConfigError(f"the endpoint answers with a redirect ({status}), which is not followed."))
        if code == "insufficient_quota" or "insufficient_quota" in said:
            raise Refusal(CapReachedError("the account behind the key has no quota left (insufficient_quota)."))
        if status == 429:
            return Answer("rate limited", note=said)
        if status >= 500 or status in (408, 409):
            return Answer("server error", note=f" ({status}){said}")
        if _FILTER.search(f"{code} {said}"):
            return Answer("refused", note=said)
        if status == 413 or _LENGTH.search(f"{code} {said}"):
            return Answer("too long", note=said)
        return Answer("rejected", note=f" ({status}){said}")

    def _said(self, error: openai.APIStatusError) -> str:
        """The endpoint's own short words, without the key."""
        body = error.body
        message = body.get("message") if isinstance(body, dict) else None
        if not isinstance(message, str):
            return ""
        text = " ".join(message.split())
        if self._key:
            text = text.replace(self._key, "[key]")
        return f": {text[:300]}"


def understood(content: bytes) -> Answer:
    """The answer in a response of status 200; "answered" even where it is empty: ``pe.apis.answers`` judges it."""
    try:
        body = json.loads(content)
        choice = body["choices"][0]
        message, reason = choice["message"], choice.get("finish_reason")
        text, refusal = message.get("content"), message.get("refusal")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        html = content.lstrip()[:1] == b"<"
        return Answer("malformed", note=": it answers with a web page" if html else "")
    tokens, reasoned = _tokens(body.get("usage")), any(message.get(field) for field in _REASONING)
    if refusal or reason == "content_filter":
        return Answer("refused", tokens=tokens)
    if isinstance(text, Sequence) and not isinstance(text, str):  # content in parts
        parts = [part for part in text if isinstance(part, dict)]
        reasoned = reasoned or any(part.get("type") in _REASONING for part in parts)
        text = "".join(str(part.get("text") or "") for part in parts if part.get("type") not in _REASONING)
    if text is not None and not isinstance(text, str):
        return Answer("malformed", tokens=tokens)
    text = (text or "").encode("utf-8", "replace").decode().replace("\0", "").strip()  # lone surrogates
    return Answer(ANSWERED, text, tokens=tokens, truncated=reason == "length", reasoned=reasoned)


def _tokens(usage: object) -> tuple[int, int] | None:
    if not isinstance(usage, dict):
        return None
    found = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
    if not all(isinstance(each, int) and not isinstance(each, bool) and each >= 0 for each in found):
        return None
    return found[0], found[1]  # type: ignore[return-value]


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what led to it; the system's own reason is the last."""
    here: BaseException | None = error
    while here is not None:
        yield here
        here = here.__cause__ or (None if here.__suppress_context__ else here.__context__)


def _unconnected(error: BaseException) -> bool:
    """Whether nothing can have been sent. Over aiohttp a refused connection is called a time-out by the client."""
    return isinstance(error, (ConnectionRefusedError, socket.gaierror)) or type(error).__name__ == "ConnectError"
