"""The endpoint's API against a stub server: what it asks, what it makes of answers, what it may cost and keeps."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import pe
from pe.apis.openai import OpenAIAPI
from pe.errors import CapReachedError
from pe.journal import Journal, usage
from pe.protocols import API, Metered, Piecemeal
from tests import stub_server as stub

from .asking import KEY, SCHEMA, echo, made, parents, rng, texts

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
    server.answer = lambda number, request: stub.sensible(number, request) | {"together": 7}
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
    api = made(server, max_tokens_total=2_500, timeout=2.0, retries=3, concurrency=1)
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
