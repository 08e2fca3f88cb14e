"""The endpoint's API against a stub server: what it asks, what it makes of answers, what it survives and what not."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import pe
from pe.apis import endpoint
from pe.apis.openai import HOPE, OpenAIAPI
from pe.errors import APIError, CapReachedError, ConfigError
from pe.journal import Journal, usage
from pe.protocols import API, Metered, Piecemeal

spec = importlib.util.spec_from_file_location("stub_server", Path(__file__).parents[1] / "stub_server.py")
assert spec is not None
assert spec.loader is not None
stub = importlib.util.module_from_spec(spec)
sys.modules["stub_server"] = stub
spec.loader.exec_module(stub)

SCHEMA = pe.Schema((pe.Text("text"), pe.Categorical("stars", ("1", "5"))), label="stars")
KEY = "sk-canary-5150-do-not-tell"
LONG = " ".join(f"word{number}" for number in range(60))


@pytest.fixture
def server() -> Iterator[Any]:
    with stub.Stub() as running:
        yield running


def made(server: Any, **keys: Any) -> OpenAIAPI:
    given: dict[str, Any] = {"model": "m", "base_url": server.url, "key_env": "", "retries": 0}
    return OpenAIAPI(SCHEMA, **given | keys)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def parents(n: int) -> pe.Population:
    texts = pa.table({"text": [f"parent {number} " + LONG for number in range(n)]}, schema=SCHEMA.arrow())
    return pe.Population.of(texts, np.arange(n) % 2, "x")


def texts(population: pe.Population) -> list[str]:
    found: list[str] = population.records.column("text").to_pylist()
    return found


def echo(number: int, request: Any) -> Any:
    """Answer a variation with its parent's number."""
    prompt = request["body"]["messages"][-1]["content"]
    return stub.completion("about " + prompt.partition("parent ")[2].partition(" ")[0])


# -- what is asked and what comes of it ------------------------------------------------------------------------------


def test_it_fills_the_seams() -> None:
    api = OpenAIAPI(SCHEMA, model="m")
    assert isinstance(api, API)
    assert isinstance(api, Piecemeal)
    assert isinstance(api, Metered)


def test_samples_come_in_order_with_their_label(server: Any) -> None:
    fresh = made(server).random(20, 1, rng())
    assert fresh.labels.tolist() == [1] * 20
    assert sorted(texts(fresh)) == sorted(stub.essay(number) for number in range(20))
    assert all("- stars: 5" in prompt for prompt in server.prompts)
    server.answer = echo
    varied = made(server).vary(parents(30), 0.5, rng())
    assert texts(varied) == [f"about {number}" for number in range(30)]
    assert varied.labels.tolist() == parents(30).labels.tolist()
    assert len(made(server).vary(parents(0), 0.5, rng())) == 0


def test_the_same_seed_asks_the_same_whatever_the_concurrency(server: Any) -> None:
    for concurrency in (1, 16):
        made(server, concurrency=concurrency).random(12, 0, rng(3))
    assert sorted(server.prompts[:12]) == sorted(server.prompts[12:])
    assert len(set(server.prompts)) > 6


def test_the_request_holds_what_was_configured(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    keys: dict[str, Any] = {"key_env": "MY_KEY", "key_header": "api-key", "headers": {"x-team": "a"}}
    keys |= {"query": {"api-version": "7"}, "temperature": 1.2, "options": {"top_p": 0.9}}
    made(server, **keys, max_tokens=77, tokens_key="max_completion_tokens").random(1, 0, rng())
    (request,) = server.requests
    assert request["path"] == "/v1/chat/completions?api-version=7"
    assert request["headers"]["api-key"] == KEY
    assert request["headers"]["x-team"] == "a"
    assert "authorization" not in request["headers"]
    sent = {name: value for name, value in request["body"].items() if name != "messages"}
    assert sent == {"model": "m", "temperature": 1.2, "top_p": 0.9, "max_completion_tokens": 77}
    made(server, key_env="MY_KEY").random(1, 0, rng())
    assert server.requests[1]["headers"]["authorization"] == f"Bearer {KEY}"


def test_no_more_calls_are_in_flight_than_asked_for(server: Any) -> None:
    server.latency = 0.02
    made(server, concurrency=7).random(60, 0, rng())
    assert server.most == 7


def test_it_works_where_an_event_loop_runs_already(server: Any) -> None:
    async def notebook() -> pe.Population:
        return made(server).random(3, 0, rng())

    assert len(asyncio.run(notebook())) == 3


def test_finished_samples_are_handed_over_as_they_come(server: Any) -> None:
    heard: list[pa.Table] = []
    api = made(server)
    api.listen(heard.append)
    fresh = api.random(9, 0, rng())
    assert sorted(texts(fresh)) == sorted(each.column("text")[0].as_py() for each in heard)
    assert all(each.schema == SCHEMA.arrow() for each in heard)
    api.listen(None)
    api.random(2, 0, rng())
    assert len(heard) == 9


WHOLE = "One is done. Two is done. Three is"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"text": '  "Quoted."\n'}, "Quoted."),
        ({"text": "“Quoted.”"}, "Quoted."),
        ({"text": '"One" and "two"'}, '"One" and "two"'),
        ({"text": "<think>hm, so\n</think>\nDone."}, "Done."),
        ({"text": "a\0b\ud800c"}, "ab?c"),
        ({"text": WHOLE, "reason": "length"}, "One is done. Two is done."),
        ({"text": "x" * 30_000}, "x" * 20_000),
        ({"text": None, "reason": "length"}, None),
        ({"text": "<think>and it never", "reason": "length"}, None),
        ({"text": "Just one. And then it", "reason": "length", "words": 40}, None),
        ({"text": " \n"}, None),
        ({"text": "I cannot.", "reason": "content_filter"}, None),
        ({"text": None, "refusal": "I cannot."}, None),
    ],
    ids=str,
)
def test_what_is_made_of_an_answer(server: Any, answer: dict[str, Any], text: str | None) -> None:
    words = answer.pop("words", 4)
    server.answer = lambda number, request: stub.completion(**answer) if number % 4 else stub.completion("Other.")
    api = made(server, asks=1, concurrency=1, prompts={"words": words})
    assert texts(api.random(4, 0, rng())) == ["Other.", *[text or "Other."] * 3]


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
    api = made(server, asks=1, timeout=3.0 if outcome == "timeout" else 30.0, deadline=3.0 if fault == "429" else 60.0)
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
    api = made(server, asks=2, retries=1, timeout=30.0)
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
    api = made(server, retries=2, longest_wait=0.05, deadline=30.0, concurrency=3)
    assert texts(api.random(3, 0, rng())) == ["Ok."] * 3
    assert len(server.requests) == 6


# -- faults that end a run -------------------------------------------------------------------------------------------


def closed_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/v1"


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
    api = made(server, key_env="MY_KEY", timeout=0.3, retries=1)
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
def test_a_port_where_nobody_listens_and_a_host_that_is_not_there(server: Any) -> None:
    for url in (closed_port(), "http://no-such-host.invalid/v1"):
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


# -- caps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("caps", [{"max_tokens_total": 12_000}, {"max_cost": 0.02}], ids=str)
@pytest.mark.parametrize("reported", [True, False])
def test_a_cap_stops_cleanly_before_it_is_passed_and_a_raised_one_goes_on(
    server: Any, caps: dict[str, Any], reported: bool, tmp_path: Path
) -> None:
    def answer(number: int, request: Any) -> Any:
        reply = stub.sensible(number, request)
        if not reported:
            server.paid[0] += reply["body"]["usage"]["prompt_tokens"]
            server.paid[1] += reply["body"]["usage"]["completion_tokens"]
            del reply["body"]["usage"]
        return reply

    server.answer, server.latency = answer, 0.01
    prices = {"input": 0.5, "output": 3.0}
    path = tmp_path / "iterations" / "000" / "api.jsonl"
    path.parent.mkdir(parents=True)
    api = made(server, prices=prices, **caps)
    journal = Journal(path)
    api.record(journal)
    with pytest.raises(CapReachedError, match=f"api.{next(iter(caps))} = "):
        api.random(200, 0, rng())
    journal.close()
    paid = server.paid[0] + server.paid[1]
    cost = (server.paid[0] * 0.5 + server.paid[1] * 3) / 1e6
    assert paid <= caps.get("max_tokens_total", paid)
    assert cost <= caps.get("max_cost", cost)
    if reported:  # and close to it: what is left is less than one call may take
        assert paid >= caps.get("max_tokens_total", 0) - 1500
        assert cost >= caps.get("max_cost", 0.0) - 0.0025
    done = len(server.requests)
    assert usage(Journal(path).lines).calls == done
    assert usage(Journal(path).lines).lost == 0
    raised = made(server, prices=prices, **{name: 50 * value for name, value in caps.items()})
    raised.record(Journal(path))
    assert len(raised.random(200, 0, rng())) == 200
    assert len(server.requests) == 200


def test_what_timed_out_or_was_lost_counts_against_a_cap_as_if_it_were_paid(server: Any, tmp_path: Path) -> None:
    server.answer = lambda number, request: {"delay": 60.0}
    path = tmp_path / "iterations" / "000" / "api.jsonl"
    path.parent.mkdir(parents=True)
    api = made(server, max_tokens_total=2_500, timeout=0.1, retries=3, concurrency=1)
    api.record(Journal(path))
    with pytest.raises(CapReachedError):
        api.random(9, 0, rng())
    # a prompt of some 300 bytes and an answer of 512 tokens for every request that was sent
    assert 2 <= len(server.requests) <= 3
    api.record(Journal(path))
    with pytest.raises(CapReachedError):
        api.random(9, 0, rng())


def test_the_estimate_comes_near_to_what_is_paid(server: Any) -> None:
    def answer(number: int, request: Any) -> Any:
        """As a tokenizer counts, and of the length that was asked for."""
        prompt = request["body"]["messages"][-1]["content"]
        words = int(prompt.partition("about ")[2].split()[0])
        reply = stub.completion(stub.essay(number, words))
        letters = sum(len(each["content"]) for each in request["body"]["messages"])
        reply["body"]["usage"] = {"prompt_tokens": letters // 4, "completion_tokens": round(words * 4 / 3)}
        return reply

    server.answer = answer
    api = made(server, prices={"input": 1.0, "output": 2.0}, prompts={"keywords": ["soup", "service"]})
    expected = api.estimate(60, 60)
    fresh = api.random(60, 0, rng())
    api.vary(fresh, 0.5, rng())
    assert expected.calls == 120
    assert expected.prompt_tokens == pytest.approx(server.paid[0], rel=0.25)
    assert expected.completion_tokens == pytest.approx(server.paid[1], rel=0.25)
    assert expected.cost == pytest.approx((expected.prompt_tokens + 2 * expected.completion_tokens) / 1e6)


# -- the journal -----------------------------------------------------------------------------------------------------


def test_an_answer_that_is_in_the_journal_is_not_asked_for_again(server: Any, tmp_path: Path) -> None:
    """Also where many samples are asked for in the same words, and where an answer was of no use."""
    server.answer = lambda number, request: stub.completion("" if number % 5 == 0 else f"Sample {number}.")
    path = tmp_path / "iterations" / "000" / "api.jsonl"
    path.parent.mkdir(parents=True)
    keys: dict[str, Any] = {"prompts": {"personas": ["a cook"], "words": 30}, "concurrency": 1}

    def session() -> tuple[list[str], list[str]]:
        api, journal = made(server, **keys), Journal(path)
        api.record(journal)
        generator = rng()
        fresh = api.random(40, 0, generator)
        varied = api.vary(fresh, 0.5, generator)
        api.record(None)
        journal.close()
        return texts(fresh), texts(varied)

    first = session()
    asked = len(server.requests)
    assert session() == first
    assert len(server.requests) == asked
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if "batch" not in json.loads(line)][: len(lines) // 2]
    path.write_bytes(b"".join(kept))
    server.answer = lambda number, request: stub.completion(f"Sample {number}.")
    session()
    usable = sum(json.loads(line).get("outcome") == "answered" for line in kept)
    assert len(server.requests) == asked + 80 - usable


def test_journals_hold_no_prompt_and_no_key(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    path = tmp_path / "iterations" / "000" / "api.jsonl"
    path.parent.mkdir(parents=True)
    api, journal = made(server, key_env="MY_KEY"), Journal(path)
    api.record(journal)
    api.random(5, 0, rng())
    journal.close()
    assert KEY not in path.read_text()
    assert "- stars" not in path.read_text()
