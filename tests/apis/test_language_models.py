"""Whole runs on text with real language models and the real embedder, and no network: the models are trained here."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import pe
from pe.data.population import Population

SERVE = "from transformers.cli.transformers import main; main()"


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[str]:
    """The address of a server of the transformers library on this machine."""
    port = free_port()
    settings = ["serve", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--default-seed", "0"]
    quiet = os.environ | {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1"}
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with log.open("w") as output:
        server = subprocess.Popen([sys.executable, "-c", SERVE, *settings], stdout=output, stderr=output, env=quiet)
        try:
            wait_for(f"http://127.0.0.1:{port}/health", server, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            server.wait()


def wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                answer.read()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def private(tiny: Any) -> pa.Table:
    """Reviews of one subject of each label."""
    texts, labels = tiny.reviews(1600, 17)
    wanted = {label: tiny.subjects[label][0] for label in tiny.labels}
    held = [
        (text, label) for text, label in zip(texts, labels, strict=True) if tiny.on_subject(wanted[label], text) == 1
    ]
    assert len(held) > 200
    return pa.table({"text": [text for text, _ in held], "kind": [label for _, label in held]})


def synthesize(tiny: Any, private: pa.Table, run: Path, api: Any, **keys: Any) -> pe.Synthetic:
    schema = pe.Schema((pe.Text("text", 300), pe.Categorical("kind", tiny.labels)), label="kind")
    settings: dict[str, Any] = {"rows": 9, "iterations": 3, "label_shares": "uniform", "source": run.name} | keys
    return pe.synthesize(
        private,
        schema=schema,
        api=api,
        run=run,
        epsilon=6.0,
        delta=1e-5,
        adjacency="replace-one",
        create=True,
        **settings,
    )


def on_subject(tiny: Any, population: Population) -> float:
    """How much of the samples is on the subjects of the private records: by chance, a quarter."""
    texts = population.records.column("text").to_pylist()
    about = [tiny.subjects[tiny.labels[label]][0] for label in population.labels]
    return float(np.mean([tiny.on_subject(subject, text) for subject, text in zip(about, texts, strict=True)]))


def first(run: Path, schema: pe.Schema) -> Population:
    return Population.from_table(pa.parquet.read_table(run / "iterations" / "000" / "population.parquet"), schema)


def local(tiny: Any) -> dict[str, Any]:
    return {
        "kind": "transformers",
        "model": str(tiny.model),
        "max_tokens": 60,
        "prompts": {"templates": str(tiny.templates)},
    }


@pytest.mark.usefixtures("repeated_noise")
def test_a_run_with_a_model_on_this_machine(tiny: Any, private: pa.Table, tmp_path: Path) -> None:
    made = synthesize(tiny, private, tmp_path / "run", local(tiny))
    assert len(made) == 9
    before = on_subject(tiny, first(tmp_path / "run", made.schema))
    assert on_subject(tiny, made.population) > before + 0.3
    assert not set(made.population.records.column("text").to_pylist()) & set(private.column("text").to_pylist())
    assert "language model causal" in " ".join(made.certificate["declared_public"])
    assert made.usage is not None
    assert made.usage.calls >= 4 * 9 + 2 * 27
    again = synthesize(tiny, private, tmp_path / "run", local(tiny))  # nothing is left to do
    assert again.population.records.equals(made.population.records)
    assert again.usage == made.usage


@pytest.mark.usefixtures("repeated_noise")
def test_a_run_with_a_served_model(tiny: Any, private: pa.Table, endpoint: str, tmp_path: Path) -> None:
    api = {
        "kind": "openai",
        "model": str(tiny.model),
        "base_url": endpoint,
        "key_env": "",
        "max_tokens": 60,
        "temperature": 1.0,
        "concurrency": 4,
        "prompts": {"templates": str(tiny.templates)},
    }
    made = synthesize(tiny, private, tmp_path / "run", api)
    before = on_subject(tiny, first(tmp_path / "run", made.schema))
    assert on_subject(tiny, made.population) > before + 0.3
    assert made.usage is not None
    assert made.usage.calls >= 4 * 9 + 2 * 27
    assert made.usage.completion_tokens > 10 * made.usage.calls
    assert made.usage.prompt_tokens > 5 * made.usage.calls
    journals = [file.read_text() for file in (tmp_path / "run").rglob("*.jsonl")]
    assert sum(journal.count('"outcome":"answered"') for journal in journals) >= 90
    assert not any(text in journal for journal in journals for text in private.column("text").to_pylist())


@pytest.mark.usefixtures("repeated_noise")
def test_words_first_then_two_models_side_by_side(tiny: Any, masked: Path, private: pa.Table, tmp_path: Path) -> None:
    texts, labels = tiny.reviews(200, 23)
    rows = [json.dumps({"text": text, "kind": label}) for text, label in zip(texts, labels, strict=True)]
    (tmp_path / "public.jsonl").write_text("\n".join(rows))
    fill = {"kind": "masked", "model": str(masked), "corpus": str(tmp_path / "public.jsonl"), "corpus_label": "kind"}
    both = {"kind": "mixture", "members": [fill | {"share": 1}, local(tiny) | {"share": 1}]}
    made = synthesize(tiny, private, tmp_path / "run", [fill | {"rounds": 1}, both])
    before = on_subject(tiny, first(tmp_path / "run", made.schema))
    assert on_subject(tiny, made.population) > before + 0.3
    second = pa.parquet.read_table(tmp_path / "run" / "iterations" / "002" / "population.parquet")
    origin = Population.from_table(second, made.schema).origin.to_pylist()
    assert set(origin) == {"masked", "transformers:causal"}
    public = " ".join(made.certificate["declared_public"])
    assert "public.jsonl" in public
    assert "language model causal" in public
