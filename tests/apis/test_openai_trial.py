"""What the endpoint's API tries before a run: one question like those of the run, its answer judged as theirs are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pe.errors import APIError, CapReachedError, ConfigError
from pe.journal import Journal, usage
from tests import stub_server as stub

from .asking import made, parents, rng, texts

THOUGHTS = "Let me think about that. " * 30


def used(reply: Any, tokens: int) -> Any:
    reply["body"]["usage"]["completion_tokens"] = tokens
    return reply


USELESS: dict[str, tuple[Any, str]] = {
    "cut in its reasoning": (stub.completion("", reason="length", reasoning_content=THOUGHTS), "truncated"),
    "cut, reasoning in the text": (stub.completion(f"<think>{THOUGHTS}", reason="length"), "truncated"),
    "cut, of which nobody tells": (used(stub.completion("", reasoning="Hm."), 512), "truncated"),
    "cut before half": (stub.completion("One is done. And then it", reason="length"), "truncated"),
    "null": (stub.completion(None, reason="length"), "truncated"),
    "reasoning beside nothing": (stub.completion("", reasoning_content=THOUGHTS), "reasoning only"),
    "reasoning in the text": (stub.completion(f"{THOUGHTS}</think>\n"), "reasoning only"),
    "reasoning in parts": (stub.completion([{"type": "thinking", "text": THOUGHTS}]), "reasoning only"),
    "empty": (stub.completion(""), "empty"),
    "refused": (stub.completion(None, refusal="no"), "refused"),
}


@pytest.mark.parametrize("fault", USELESS)
def test_answers_that_a_run_could_not_use_are_told_before_it_with_their_cause(
    server: Any, fault: str, tmp_path: Path
) -> None:
    reply, outcome = USELESS[fault]
    server.answer = lambda number, request: reply
    api, journal = made(server, asks=2), Journal(tmp_path / "iterations" / "000" / "api.jsonl")
    journal.path.parent.mkdir(parents=True)
    api.record(journal)
    cause = "a content filter" if outcome == "refused" else r"api\.max_tokens = 512"
    with pytest.raises(ConfigError, match=rf"none of 2 questions.*\({outcome}.*{cause}"):
        api.ready()
    assert usage(Journal(journal.path).lines).failures == {outcome: 2}
    assert [request["body"]["max_tokens"] for request in server.requests] == [512, 512]
    # and where it begins later, by the run itself
    with pytest.raises(APIError, match=rf"in a row came to nothing.*{outcome}.*{cause}"):
        api.vary(parents(40), 0.5, rng())
    api = made(server, asks=1)
    api._marks.add(f"answered {api._settings}")
    with pytest.raises(APIError, match=rf"none of 3 fresh samples.*3 {outcome}.*{cause}"):
        api.random(3, 0, rng())


def test_one_answer_of_no_use_does_not_refuse_a_run(server: Any) -> None:
    server.answer = lambda number, request: stub.completion("" if number < 2 else stub.essay(3, 80))
    api = made(server)
    api.ready()
    assert len(server.requests) == 3
    api.ready()
    assert len(server.requests) == 3


def test_a_trial_is_kept_in_the_journal_and_made_again_only_under_other_settings(server: Any, tmp_path: Path) -> None:
    server.answer = lambda number, request: stub.completion(stub.essay(number, 80))

    def tried(iteration: int, **keys: Any) -> int:
        api, path = made(server, **keys), tmp_path / "iterations" / f"{iteration:03d}" / "api.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        journal, before = Journal(path), len(server.requests)
        api.record(journal)
        api.ready()
        journal.close()
        return len(server.requests) - before

    assert [tried(0), tried(0), tried(1), tried(2)] == [1, 0, 0, 0]
    assert usage(Journal(tmp_path / "iterations" / "000" / "api.jsonl").lines).calls == 1
    assert [tried(2, max_tokens=600), tried(2, max_tokens=600), tried(3), tried(3, concurrency=3)] == [1, 0, 0, 0]
    assert [tried(3, model="other"), tried(3, options={"top_p": 0.5})] == [1, 1]


def test_an_answer_cut_within_reasoning_that_a_template_opened_is_no_sample(server: Any, tmp_path: Path) -> None:
    """Nothing in it says so: another answer of the same model does, in this process or an earlier one."""
    server.answer = lambda number, request: stub.completion(f"Let me see.</think>{stub.essay(number, 80)}")
    path = tmp_path / "iterations" / "000" / "api.jsonl"
    path.parent.mkdir(parents=True)
    api, journal = made(server), Journal(path)
    api.record(journal)
    api.ready()
    journal.close()
    server.answer = lambda number, request: stub.completion(THOUGHTS, reason="length")
    again = made(server, asks=1)
    again.record(Journal(path))
    for each in (api, again):
        assert texts(each.vary(parents(2), 0.5, rng())) == texts(parents(2))
    other = made(server, asks=1)  # of which nothing is known
    assert texts(other.vary(parents(2), 0.5, rng())) == [THOUGHTS.strip()] * 2


# -- caps ------------------------------------------------------------------------------------------------------------

PRICES = {"input": 1.0, "output": 4.0}


@pytest.mark.parametrize("key", ["max_tokens_total", "max_cost"])
def test_caps_are_compared_with_what_is_planned(server: Any, key: str, tmp_path: Path) -> None:
    free = made(server, prices=PRICES)
    first, whole = free.estimate(50, 0), free.estimate(50, 200)
    amounts = (first.tokens, whole.tokens) if key == "max_tokens_total" else (first.cost, whole.cost)
    cap = int if key == "max_tokens_total" else float
    for least, outcome in ((0.9, "refused"), (1.1, "warned")):
        api = made(server, prices=PRICES, **{key: cap(amounts[0] * least)})
        if outcome == "refused":
            with pytest.raises(ConfigError, match=rf"api\.{key} = .*the first 50 samples alone take about"):
                api.check_caps(50, 200)
        else:
            assert "the run is likely to stop at the cap" in api.check_caps(50, 200)[0]
            assert key in api.check_caps(0, 200)[0]  # later on nothing is refused
    assert made(server, prices=PRICES, **{key: cap(amounts[1] * 1.1)}).check_caps(50, 200) == []
    assert free.check_caps(50, 200) == []
    assert server.requests == []


def test_what_an_interrupted_first_iteration_paid_for_is_not_planned_twice(server: Any, tmp_path: Path) -> None:
    server.answer = lambda number, request: stub.sensible(number, request)
    path = tmp_path / "iterations" / "000" / "api.jsonl"
    path.parent.mkdir(parents=True)
    cap = int(made(server).estimate(60, 0).tokens * 1.05)
    api, journal = made(server, max_tokens_total=cap), Journal(path)
    api.record(journal)
    assert api.check_caps(60, 0) == []
    api.random(40, 0, rng())
    journal.close()
    api = made(server, max_tokens_total=cap)
    api.record(Journal(path))
    assert api.check_caps(60, 0) == []


def test_a_cap_that_holds_no_single_answer_is_told_by_the_trial(server: Any) -> None:
    with pytest.raises(CapReachedError, match="max_tokens_total = 100"):
        made(server, max_tokens_total=100).ready()
    assert server.requests == []
