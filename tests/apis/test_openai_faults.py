"""The endpoint's API against a stub server that fails: what it survives, and what it tells at once."""

from __future__ import annotations

import logging
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pe.apis import endpoint
from pe.apis.openai import HOPE
from pe.errors import APIError, CapReachedError, ConfigError
from pe.journal import Journal, usage
from tests import stub_server as stub

from .asking import KEY, echo, made, parents, rng, texts

# -- faults of single calls ------------------------------------------------------------------------------------------

ENDLESS = {"body": b"x", "headers": {"content-length": "99"}, "hang": True}
FAULTS: dict[str, tuple[Any, str]] = {
    "500": (stub.failure(500), "server error"),
    "503": (stub.failure(503, retry_after="0.01"), "server error"),
    "429": (stub.failure(429, retry_after="0.01"), "rate limited"),
    "empty": (stub.completion(""), "empty"),
    "refusal": (stub.completion(None, refusal="no"), "refused"),
    "filter": (stub.failure(400, "content management policy", "content_filter"), "refused"),
    "truncated": (stub.completion("It goes on and", reason="length"), "truncated"),
    "too long": (stub.failure(400, "maximum context length is 8", "context_length_exceeded"), "too long"),
    "rejected": (stub.failure(400, "no such thing"), "rejected"),
    "HTML": ({"body": b"<html>Hello</html>"}, "malformed"),
    "no JSON": ({"body": b'{"choices": ', "headers": {"content-type": "application/json"}}, "malformed"),
    "other JSON": ({"body": {"error": "no"}}, "malformed"),
    "a list": ({"body": []}, "malformed"),
    "no choice": ({"body": {"choices": []}}, "malformed"),
    "a number": ({"body": {"choices": [{"message": {"content": 7}}]}}, "malformed"),
    "nothing": ({"body": b""}, "malformed"),
    "slow": ({"delay": 60.0}, "timeout"),
    "never ends": (ENDLESS, "timeout"),
    "cut off": ({"body": b"x", "headers": {"content-length": "99"}, "close": True}, "no connection"),
}


@pytest.fixture(params=endpoint.BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the HTTP clients that may be underneath."""
    monkeypatch.setattr(endpoint, "BACKENDS", (request.param,))


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_some_calls_fails_no_batch_and_is_counted(server: Any, fault: str, tmp_path: Path) -> None:
    reply, outcome = FAULTS[fault]
    bad = {3, 4, 17}

    def answer(number: int, request: Any) -> Any:
        good = echo(number, request)
        which = int(good["body"]["choices"][0]["message"]["content"].split()[1])
        return reply if which in bad else good

    server.answer = answer
    api = made(
        server, asks=1, timeout=8.0 if outcome == "timeout" else 600.0, deadline=8.0 if fault == "429" else 600.0
    )
    journal = Journal(tmp_path / "iterations" / "000" / "api.jsonl")
    journal.path.parent.mkdir(parents=True)
    api.record(journal)
    varied = api.vary(parents(20), 0.5, rng())
    journal.close()
    originals = texts(parents(20))
    assert texts(varied) == [originals[n] if n in bad else f"about {n}" for n in range(20)]
    found = usage(Journal(journal.path).lines)
    assert found.kept == 3
    assert set(found.failures) <= {outcome, "timeout"}
    assert found.failures[outcome] >= 3
    assert found.lost == 0
    assert bool(found.at_risk) == (outcome in ("timeout", "no connection"))


@pytest.mark.parametrize("fault", sorted(set(FAULTS) - {"too long", "rejected", "slow", "never ends"}))
def test_a_call_that_fails_once_is_made_again(server: Any, fault: str) -> None:
    seen: Counter[str] = Counter()

    def answer(number: int, request: Any) -> Any:
        good = echo(number, request)
        which = good["body"]["choices"][0]["message"]["content"]
        seen[which] += 1
        return FAULTS[fault][0] if seen[which] == 1 else good

    server.answer = answer
    api = made(server, asks=2, retries=1, timeout=600.0)
    assert texts(api.vary(parents(8), 0.5, rng())) == [f"about {number}" for number in range(8)]


def test_a_small_batch_whose_calls_all_fail_keeps_its_parents_if_the_endpoint_answered_before(server: Any) -> None:
    api = made(server, asks=1)
    api.ready()
    server.answer = lambda number, request: stub.failure(500)
    assert texts(api.vary(parents(3), 0.5, rng())) == texts(parents(3))


def test_another_attempt_is_made_in_other_words(server: Any) -> None:
    server.answer = lambda number, request: stub.completion("" if number < 2 else "Done.")
    api = made(server, prompts={"keywords": [f"k{number}" for number in range(99)]})
    assert texts(api.random(1, 0, rng())) == ["Done."]
    assert len(set(server.prompts)) == 3


def test_fresh_samples_that_fail_repeat_another_one_of_their_batch(server: Any) -> None:
    server.answer = lambda number, request: stub.completion(f"Sample {number}." if number % 2 else "")
    api = made(server, asks=1, concurrency=1)
    found = texts(api.random(10, 0, rng()))
    assert found[1::2] == [f"Sample {number}." for number in range(1, 10, 2)]
    assert set(found[::2]) <= set(found[1::2])


def test_a_long_retry_after_is_cut_to_its_cap(server: Any) -> None:
    """At its word the client would wait for 90 seconds, and the deadline would pass."""
    server.answer = lambda number, request: (
        stub.failure(429, retry_after="90") if number < 3 else stub.completion("Ok.")
    )
    api = made(server, retries=3, longest_wait=0.05, deadline=60.0, concurrency=3)
    assert texts(api.random(3, 0, rng())) == ["Ok."] * 3
    assert len(server.requests) == 6


# -- faults that end a run -------------------------------------------------------------------------------------------


@pytest.fixture
def closed_port() -> Iterator[str]:
    """An address where nobody listens, and which nobody else can take meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}/v1"


HTML = {"body": b"<!doctype html><p>Welcome</p>"}
TOTAL: dict[str, tuple[Any, type[Exception], str]] = {
    "wrong key": (stub.failure(401, f"Incorrect API key: {KEY}"), ConfigError, "refuses the key"),
    "forbidden": (stub.failure(403, f"not with {KEY}"), ConfigError, "forbids"),
    "wrong model": (stub.failure(404, "The model `m` does not exist"), ConfigError, "The model `m` does not exist"),
    "wrong path": ({"status": 404} | HTML, ConfigError, "no such address or no model 'm'"),
    "redirect": ({"status": 307, "headers": {"location": "http://127.0.0.1:9/"}}, ConfigError, "redirect"),
    "a web page": (HTML, ConfigError, "web page"),
    "wrong option": (stub.failure(400, "unknown parameter: 'top_q'"), ConfigError, "top_q"),
    "quota": (stub.failure(429, "see billing", "insufficient_quota"), CapReachedError, "insufficient_quota"),
    "outage": (stub.failure(500, f"down, {KEY}"), APIError, r"server error \(500\): down, \[key\]"),
    "hang": ({"delay": 60.0}, APIError, "timeout"),
}


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("fault", TOTAL)
def test_what_fails_every_call_is_told_at_once_and_after_few_calls(
    server: Any, fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    reply, kind, says = TOTAL[fault]
    server.answer = lambda number, request: reply
    api = made(server, key_env="MY_KEY", timeout=1.0 if fault == "hang" else 600.0, retries=1)
    with pytest.raises(kind, match=says) as raised:
        api.ready()
    assert len(server.requests) <= 2
    assert KEY not in str(raised.value)
    assert raised.value.__cause__ is None
    # and where it begins later
    with pytest.raises((kind, APIError)) as raised:
        api.vary(parents(500), 0.5, rng())
    assert KEY not in str(raised.value)
    assert len(server.requests) <= 2 + 3 * 2 * (64 + HOPE)
    if issubclass(kind, ConfigError | CapReachedError) and fault not in ("a web page", "wrong option"):
        assert len(server.requests) <= 2 + 64
    assert KEY not in caplog.text
    assert len(caplog.text) > 500


@pytest.mark.usefixtures("backend")
def test_a_port_where_nobody_listens_and_a_host_that_is_not_there(server: Any, closed_port: str) -> None:
    for url in (closed_port, "http://no-such-host.invalid/v1"):
        api = made(server, base_url=url)
        with pytest.raises(APIError, match="no connection"):
            api.ready()
        assert api._spent.at_risk == 0  # nothing can have been charged
        with pytest.raises(APIError, match="5 samples in a row came to nothing"):
            api.vary(parents(5), 0.5, rng())
        with pytest.raises(APIError, match="in a row came to nothing"):
            api.random(5, 0, rng())


def test_an_outage_later_on_ends_the_iteration_and_keeps_what_was_answered(server: Any, tmp_path: Path) -> None:
    server.answer = lambda number, request: stub.failure(500) if number >= 40 else stub.sensible(number, request)
    api, path = made(server, concurrency=4), tmp_path / "iterations" / "000" / "api.jsonl"
    path.parent.mkdir(parents=True)
    api.record(Journal(path))
    with pytest.raises(APIError, match="samples in a row came to nothing"):
        api.random(200, 0, rng())
    assert len(server.requests) <= 40 + HOPE + 4
    server.answer = stub.sensible
    before = len(server.requests)
    api.record(Journal(path))
    assert len(api.random(200, 0, rng())) == 200
    assert len(server.requests) - before == 160


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"base_url": "localhost:80"}, "base_url such as"),
        ({"base_url": f"http://user:{KEY}@localhost/v1"}, "seem to hold a secret"),
        ({"base_url": f"http://localhost/v1?key={KEY}"}, "seem to hold a secret"),
        ({"headers": {"Authorization": KEY}}, "seem to hold a secret"),
        ({"headers": {"x-api-key": KEY}}, "seem to hold a secret"),
        ({"query": {"token": KEY}}, "seem to hold a secret"),
        ({"max_cost": 1.0}, "needs api.prices"),
        ({"prices": {"input": 1.0}}, "prices = "),
        ({"options": {"n": 4}}, "may not hold 'n'"),
        ({"prices": {"input": "1", "output": "2"}}, "prices = "),
        ({"concurrency": 0}, "concurrency >= 1"),
        ({"concurrency": "64"}, "concurrency >= 1, whole, got '64'"),
        ({"timeout": 0}, "timeout"),
        ({"longest_wait": "a while"}, "longest_wait"),
        ({"max_tokens_total": "lots"}, "max_tokens_total"),
        ({"max_cost": float("nan"), "prices": {"input": 1.0, "output": 1.0}}, "max_cost"),
        ({"prompts": {"document": "x", "shot": 1}}, "unexpected keyword argument 'shot'"),
    ],
)
def test_settings_that_cannot_work_are_refused_without_a_key_in_the_error(server: Any, keys: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=f"{says}.*Nothing was spent") as raised:
        made(server, **keys)
    assert KEY not in str(raised.value)


@pytest.mark.parametrize("value", [None, "", "  ", f"{KEY}\n{KEY}", f"{KEY} x", f"{KEY}é"])
def test_a_missing_or_impossible_key_is_one_clear_error(
    server: Any, value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(ConfigError, match="MY_KEY holds") as raised:
        made(server, key_env="MY_KEY").ready()
    assert KEY not in str(raised.value)
    assert server.requests == []
