"""What the tests of the endpoint's API have in common: how it is made, what it is given, what is made of answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

import pe
from pe.apis.openai import OpenAIAPI
from tests import stub_server as stub

SCHEMA = pe.Schema((pe.Text("text"), pe.Categorical("stars", ("1", "5"))), label="stars")
KEY = "sk-canary-5150-do-not-tell"
LONG = " ".join(f"word{number}" for number in range(60))


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
