"""Calls of an endpoint: time against the ideal, embedding beside them, and what a killed run pays twice.

    python tests/benchmarks/endpoint.py [--calls 2000] [--latency 0.2] [--flying 64] [--only throughput]

The stub server answers every call after the latency. The ideal is calls * latency / flying. "bare" is the least that
Python does: connections kept open, the same request written, the answer read and no more, in the same run; on a busy
machine it shows what the machine costs. Ratios within one run are what counts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import pe
from pe.apis.openai import OpenAIAPI
from pe.evolution.candidates import CandidateEmbedder

sys.path.insert(0, str(Path(__file__).parents[1]))
from stub_server import Stub, sensible

SCHEMA = pe.Schema((pe.Text("text"), pe.Categorical("stars", ("1", "5"))), label="stars")


@contextmanager
def served(latency: float) -> Iterator[str]:
    """A stub in a process of its own."""
    command = [sys.executable, str(Path(__file__).parents[1] / "stub_server.py"), "--latency", str(latency)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        process.stdin.close()
        process.stdout.read()


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds and processor seconds."""
    begun, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begun, time.process_time() - used


async def bare(url: str, calls: int, flying: int) -> None:
    host, port = url.removeprefix("http://").removesuffix("/v1").split(":")
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x " * 150}]}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    left = iter(range(calls))

    async def work() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        for _ in left:
            writer.write(head + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in answer.split(b"\r\n") if line.lower().startswith(b"content-length"))
            await reader.readexactly(int(length.split(b":")[1]))
        writer.close()

    await asyncio.gather(*(work() for _ in range(flying)))


def throughput(calls: int, latency: float, flying: int) -> None:
    ideal = calls * latency / flying
    with served(latency) as url:
        api = OpenAIAPI(SCHEMA, model="m", base_url=url, key_env="", concurrency=flying)
        parents = api.random(calls, 1, np.random.default_rng(0))
        found = {"bare": timed(lambda: asyncio.run(bare(url, calls, flying)))}
        found["vary"] = timed(lambda: api.vary(parents, 0.5, np.random.default_rng(1)))
    for name, (seconds, used) in found.items():
        print(
            f"{name}: {calls} calls in {seconds:.2f} s, {seconds / ideal:.3f} of the ideal {ideal:.2f} s, "
            f"{1000 * used / calls:.2f} ms of processor time each"
        )
    print(f"over bare: {found['vary'][0] / found['bare'][0]:.3f}")


class Waiting:
    """An embedder that takes as long as it is told and needs no processor, like one on a GPU."""

    name, dim, scale, limit = "waiting", 8, 64.0, 127

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def embed(self, table: pa.Table) -> Any:
        time.sleep(self.seconds * table.num_rows)
        return np.zeros((table.num_rows, 8), np.float32)


def overlap(calls: int, latency: float, flying: int) -> None:
    with served(latency) as url:
        api = OpenAIAPI(SCHEMA, model="m", base_url=url, key_env="", concurrency=flying)
        alone = timed(lambda: api.random(calls, 1, np.random.default_rng(0)))[0]
        for share in (0.5, 1.0, 2.0):
            embedder = CandidateEmbedder(Waiting(share * alone / calls))

            def iteration(embedder: CandidateEmbedder = embedder) -> None:
                with embedder.listening(api):
                    made = api.random(calls, 1, np.random.default_rng(0))
                embedder.vectors(made.records)

            both = timed(iteration)[0]
            print(
                f"generating {alone:.2f} s, embedding {share * alone:.2f} s: together {both:.2f} s, "
                f"{both / max(alone, share * alone):.3f} of the longer, {both / (alone * (1 + share)):.3f} of the sum"
            )


WORDS = """
import zlib
import numpy as np
class Words:
    name, dim, scale, limit = "words", 16, 64.0, 127
    def __init__(self, schema):
        pass
    def embed(self, table):
        found = np.zeros((table.num_rows, 16), np.float32)
        for row, text in enumerate(table.column("text").to_pylist()):
            for word in text.split():
                found[row, zlib.crc32(word.encode()) % 16] += 1
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1)
"""
SCRIPT = "import json, sys, pe; print(json.dumps(vars(pe.synthesize(**json.loads(sys.argv[1])).usage)))"


def killed(calls: int, latency: float, flying: int) -> None:
    """A run of ``calls`` fresh samples and as many variations, killed amid each and resumed."""
    with tempfile.TemporaryDirectory() as place, Stub(latency=latency) as server:
        folder = Path(place)
        (folder / "words_embedder.py").write_text(WORDS)
        rows = [f"the soup was warm {number % 9},{1 + 4 * (number % 2)}" for number in range(1000)]
        (folder / "private.csv").write_text("text,stars\n" + "\n".join(rows) + "\n")
        (folder / "schema.toml").write_text(SCHEMA.to_toml())
        api = {"kind": "openai", "model": "m", "base_url": server.url, "key_env": "", "concurrency": flying}
        api |= {"prices": {"input": 0.15, "output": 0.6}}
        settings = {"data": "private.csv", "schema": "schema.toml", "source": "soup", "api": api, "create": True}
        settings |= {"embedder": "words_embedder:Words", "epsilon": 4.0, "delta": 1e-5, "adjacency": "add-remove"}
        settings |= {"method": "aug-pe", "rows": calls, "iterations": 1, "variations": 1, "keep": False, "run": "run"}
        variables = {"PE_LEDGER": "ledger.sqlite3", "PE_LEDGER_KEY": "keys/key", "PE_CACHE": "cache"}
        environment = os.environ | variables | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", SCRIPT, json.dumps(settings)]

        def run(at: int | None) -> str:
            def answer(number: int, request: Any) -> Any:
                if number == at:
                    process.send_signal(signal.SIGKILL)
                return sensible(number, request)

            server.answer = answer
            process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True, env=environment)
            out, _ = process.communicate()
            asked, paid = len(server.requests), sum(server.paid)
            print(f"{'killed' if process.returncode else 'finished'} after {asked} requests, {paid} tokens were sent")
            return out

        run(calls // 2)
        run(len(server.requests) + calls)
        usage = json.loads(run(None))
        needed, asked = 1 + 2 * calls, len(server.requests)
        tokens = usage["prompt_tokens"] + usage["completion_tokens"]
        print(
            f"needed {needed} calls (the first a question whether the endpoint answers), the server saw {asked}: "
            f"{asked - needed} repeated over two kills of {flying} in flight; usage says {usage['calls']} calls, "
            f"{usage['lost']} lost, {tokens} tokens of {sum(server.paid)} that were sent, cost {usage['cost']:.4f}"
        )
        run(None)
        print(f"once more, finished: {len(server.requests) - asked} requests")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--flying", type=int, default=64)
    parser.add_argument("--only", choices=["throughput", "overlap", "killed"])
    given = parser.parse_args()
    for part in (throughput, overlap, killed):
        if given.only in (None, part.__name__):
            part(given.calls, given.latency, given.flying)


if __name__ == "__main__":
    main()
