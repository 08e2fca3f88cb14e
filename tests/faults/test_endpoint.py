"""Whole runs against an endpoint: killed, capped, refused; and what leaves the machine in its prompts."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pe
from pe.errors import ConfigError
from tests import stub_server as stub

KEY = "sk-canary-5150-do-not-tell"
SECRETS = ("canary-text-4711", "canary-user-4711", "canary-rest-4711")
N = 347
"""Private records: no other number of a run looks like it."""

SCHEMA = pe.Schema(
    (pe.Text("text"), pe.Categorical("city", ("Bern", "Oslo")), pe.Categorical("stars", ("1", "5"))), label="stars"
)
EMBEDDER = '''
import zlib
import numpy as np
class Words:
    """Counts of words by their checksum."""
    name, dim, scale, limit = "words", 16, 64.0, 127
    def __init__(self, schema):
        self.column = schema.text.name
    def embed(self, table):
        found = np.zeros((table.num_rows, 16), np.float32)
        for row, text in enumerate(table.column(self.column).to_pylist()):
            for word in text.split():
                found[row, zlib.crc32(word.encode()) % 16] += 1
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1)
'''


@pytest.fixture
def server() -> Iterator[Any]:
    with stub.Stub() as running:
        yield running


@pytest.fixture
def writers(people: Any, server: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A folder with private texts, and settings of a run that asks the server."""
    monkeypatch.setenv("PE_ENDPOINT_KEY", KEY)
    rows = [f"soup {number % 7} {SECRETS[0]} {SECRETS[2]},Bern,{1 + 4 * (number % 2)}" for number in range(N)]
    (people.folder / "private.csv").write_text("text,city,stars\n" + "\n".join(rows) + "\n")
    (people.folder / "schema.toml").write_text(SCHEMA.to_toml())
    (people.folder / "words_embedder.py").write_text(EMBEDDER)
    api = {"kind": "openai", "model": "m", "base_url": server.url, "key_env": "PE_ENDPOINT_KEY", "retries": 0}
    people.settings |= {"embedder": "words_embedder:Words", "label": "stars", "method": "aug-pe", "api": api}
    people.settings |= {"rows": 60, "iterations": 2, "variations": [3, 0]}
    return people


ASKED = 1 + 60 + 180
"""Calls of a run without faults: the first question, fresh samples, variations."""


def begun(writers: Any) -> subprocess.Popen[str]:
    """The run in a process that can be killed."""
    script = "import json, sys, pe; r = pe.synthesize(**json.loads(sys.argv[1])); print(json.dumps(vars(r.usage)))"
    return subprocess.Popen(
        [sys.executable, "-c", script, json.dumps(writers.settings)],
        cwd=writers.folder,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("at", [40, 170])
def test_a_run_that_is_killed_amid_its_calls_repeats_at_most_those_in_flight(
    writers: Any, server: Any, at: int
) -> None:
    writers.settings["api"] |= {"concurrency": 16}
    running: list[subprocess.Popen[str]] = []
    server.latency = 0.02

    def answer(number: int, request: Any) -> Any:
        if number == at:
            running[0].send_signal(signal.SIGKILL)
        return stub.sensible(number, request)

    server.answer = answer
    with begun(writers) as process:
        running.append(process)
        assert process.wait() == -signal.SIGKILL
    assert not (writers.folder / "run" / "release").exists()
    charged = writers.charges()
    with begun(writers) as process:
        out, _ = process.communicate()
        assert process.returncode == 0
    usage = json.loads(out)
    assert 1 <= usage["lost"] <= 16
    asked = len(server.requests)
    assert ASKED == usage["calls"] < asked <= ASKED + usage["lost"]
    # all tokens but those of calls whose answers the killed process did not live to see are accounted for
    unseen = sum(server.paid) - usage["prompt_tokens"] - usage["completion_tokens"]
    assert 0 <= unseen <= usage["lost"] * 200 < sum(server.paid)
    assert writers.charges() == sorted(set(charged) | {0, 1, 2})
    assert writers.verified()["iterations"] == {"completed": 2, "planned": 2}
    with begun(writers) as process:  # once more, from a finished run
        assert json.loads(process.communicate()[0]) == usage
    assert len(server.requests) == asked


def search(place: str, content: bytes) -> None:
    for secret in (*SECRETS, KEY):
        assert secret.encode() not in content, f"{secret} in {place}"


@pytest.mark.parametrize("variation", ["paraphrase", "blanks"])
def test_prompts_hold_nothing_private_and_no_file_or_log_holds_the_key(
    writers: Any, server: Any, variation: str, contents: Callable[[Path], Iterator[tuple[str, bytes]]]
) -> None:
    """Logging tells everything there; every tenth answer is a fault."""
    server.answer = lambda number, request: (
        stub.failure(400, f"not you, {KEY}") if number % 10 == 9 else stub.sensible(number, request)
    )
    writers.settings["api"] |= {"prompts": {"variation": variation, "keywords": ["soup"]}}
    (writers.folder / "schema.toml").write_text(SCHEMA.to_toml())
    ended = writers.work()
    assert ended.code == 0, ended.err
    assert len(server.requests) > 200
    for request in server.requests:
        sent = dict(request["headers"])
        assert sent.pop("authorization") == f"Bearer {KEY}"
        for name in ("host", "content-length"):  # a port or a length may hold any digits
            sent.pop(name)
        text = json.dumps([request["path"], sent, request["body"]])
        search("a request", text.encode())
        assert not re.search(rf"\b{N}\b", text)
    shown = [request["body"]["messages"][-1]["content"] for request in server.requests[70:]]
    assert sum("until" in each for each in shown) > 100  # synthetic parents are there
    search("the output", (ended.out + ended.err).encode())
    assert len(ended.err) > 1000
    for name, content in contents(writers.folder):
        if name != "private.csv":
            search(name, content)
    search("the ledger", b"".join(content for name, content in contents(writers.folder.parent / "home")))


FATAL: dict[str, tuple[dict[str, Any], Any, str]] = {
    "key": ({}, stub.failure(401, f"Incorrect API key {KEY}"), "refuses the key"),
    "model": ({}, stub.failure(404, "The model does not exist"), "no model 'm'"),
    "html": ({}, {"body": b"<html>"}, "web page"),
    "address": ({"base_url": "http://127.0.0.1:9/v1"}, None, "no connection"),
    "hang": ({"timeout": 1.0}, {"delay": 600.0}, "timeout"),
    "no key": ({"key_env": "PE_NO_SUCH_KEY"}, None, "PE_NO_SUCH_KEY holds no key"),
    "template": ({"prompts": {"templates": "mine"}}, None, "unknown field 'person'"),
    "quota": ({}, stub.failure(429, "pay", "insufficient_quota"), "insufficient_quota"),
}


@pytest.mark.parametrize("fault", FATAL)
def test_an_endpoint_that_is_no_use_is_told_before_anything_is_spent(writers: Any, server: Any, fault: str) -> None:
    keys, reply, says = FATAL[fault]
    (writers.folder / "mine").mkdir()
    (writers.folder / "mine" / "random.jinja").write_text("Write as {{ person }}.")
    server.answer = lambda number, request: reply
    writers.settings["api"] |= keys
    ended = writers.work()
    assert ended.code == 1
    assert says in ended.err
    assert ended.err.count("Traceback") == 1
    search("the output", (ended.out + ended.err).encode())
    assert len(server.requests) <= 1
    assert not (writers.folder / "ledger.sqlite3").exists() or writers.charges() == []
    if fault == "model":  # nothing stands in the way of another try in the same place
        server.answer = stub.sensible
        writers.settings["api"] |= {"model": "other"}
        assert writers.work().code == 0


def test_a_batch_of_prompts_that_the_model_cannot_hold_keeps_the_parents(writers: Any, server: Any) -> None:
    server.answer = lambda number, request: (
        stub.failure(400, "This model's maximum context length is 64", "context_length_exceeded")
        if number % 3 == 2
        else stub.sensible(number, request)
    )
    ended = writers.work()
    assert ended.code == 0, ended.err
    usage = pe.load(writers.folder / "run").usage
    assert usage is not None
    assert usage.failures.keys() == {"too long"}
    assert usage.kept > 40
    assert usage.calls == len(server.requests) == ASKED


CONFIG = """
[private]
path = "private.csv"
source = "people"
schema = "schema.toml"
label = "stars"
[privacy]
epsilon = 1.0
delta = 1e-5
adjacency = "add-remove"
[api]
kind = "openai"
model = "m"
base_url = "{url}"
key_env = "PE_ENDPOINT_KEY"
max_tokens_total = {cap}
prices = {{ input = 0.5, output = 1.5 }}
[embedder]
kind = "words_embedder:Words"
[evolution]
method = "aug-pe"
iterations = 2
variations = [3, 0]
[output]
run = "run"
rows = 60
"""


def test_a_cap_ends_the_command_and_a_raised_one_goes_on_with_every_token_accounted_for(
    writers: Any, server: Any
) -> None:
    config, ledger = writers.folder / "pe.toml", ("--ledger", "ledger.sqlite3")
    config.write_text(CONFIG.format(url=server.url, cap=16_000))
    planned = json.loads(writers.command("plan", "pe.toml", "--json").out)
    assert server.requests == []
    assert planned["usage"]["calls"] == ASKED - 1 == planned["api_calls"]
    assert planned["usage"]["cost"] > 0
    assert "prompt and" in writers.command("plan", "pe.toml").out
    ended = writers.command("synthesize", "pe.toml", "--create", *ledger)
    assert ended.code == 3, ended.err
    assert "api.max_tokens_total = 16000" in ended.err
    asked, charged = len(server.requests), writers.charges()
    assert sum(server.paid) <= 16_000
    assert 60 < asked < ASKED
    assert writers.command("resume", "run", *ledger).code == 3
    assert len(server.requests) == asked
    config.write_text(CONFIG.format(url=server.url, cap=10**7))
    ended = writers.command("synthesize", "pe.toml", "--json", *ledger)
    assert ended.code == 0, ended.err
    usage = json.loads(ended.out)["usage"]
    assert usage["calls"] == len(server.requests) == ASKED
    assert [usage["prompt_tokens"], usage["completion_tokens"]] == server.paid
    assert usage["cost"] == pytest.approx((server.paid[0] * 0.5 + server.paid[1] * 1.5) / 1e6)
    assert usage["lost"] == 0
    assert writers.charges()[: len(charged)] == charged
    assert f"{ASKED} calls, {server.paid[0]} prompt" in (writers.folder / "run" / "release" / "CARD.md").read_text()
    assert "10000000" in (writers.folder / "run" / "config.toml").read_text()
    assert writers.command("resume", "run", *ledger).code == 0
    assert len(server.requests) == ASKED


def test_members_of_a_mixture_keep_journals_of_their_own(writers: Any, server: Any) -> None:
    members = [writers.settings["api"] | {"model": name} for name in ("a", "b")]
    writers.settings["api"] = {"kind": "mixture", "members": members}
    ended = writers.work()
    assert ended.code == 0, ended.err
    assert {path.name for path in writers.folder.glob("run/iterations/*/*.jsonl")} == {"api.0.jsonl", "api.1.jsonl"}
    usage = pe.load(writers.folder / "run").usage
    assert usage is not None
    assert usage.calls == len(server.requests) == ASKED + 1
    members[0]["max_tokens_total"] = 10**9  # such a setting may change
    assert writers.work().code == 0


@pytest.mark.parametrize("label", ['say "ah"', "two\nlines", "'; DROP TABLE"])
def test_labels_of_any_kind_go_through_a_whole_run(
    writers: Any, server: Any, label: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(writers.folder))
    schema = pe.Schema((pe.Text("text"), pe.Categorical("kind", (label, "b"))), label="kind")
    data = {"text": ["soup"] * 200, "kind": [label, "b"] * 100}
    keys = writers.settings | {"data": data, "schema": schema, "label": "kind", "rows": 10, "iterations": 1}
    del keys["variations"], keys["formats"]
    synthetic = pe.synthesize(**keys)
    lines = (synthetic.run / "release" / "synthetic.jsonl").read_text().splitlines()
    assert label in {json.loads(line)["kind"] for line in lines}
    assert all("- kind: " in request["body"]["messages"][-1]["content"] for request in server.requests[1:])


def test_examples_of_the_users_may_not_be_the_private_data(writers: Any) -> None:
    writers.settings["api"] |= {"prompts": {"demos": str(writers.folder / "private.csv")}}
    with pytest.raises(ConfigError, match=r"the private data themselves.*Nothing was spent"):
        pe.synthesize(**writers.settings)
