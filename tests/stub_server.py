"""An OpenAI-compatible server of our own, on loopback, whose answers and faults a test chooses.

``Stub`` runs it in a thread; ``python tests/stub_server.py --latency 0.2`` in a process of its own, which prints its
port and, on standard input closing, what it was asked.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Reply = dict[str, Any]
"""status, headers, body (bytes, or what becomes JSON), delay in seconds, how many are in flight before it is sent."""

WORDS = ("the", "soup", "was", "warm", "and", "we", "stayed", "until", "lights", "went", "out", "because", "nobody")


def completion(text: str | list[Reply] | None, *, reason: str = "stop", usage: bool = True, **message: Any) -> Reply:
    """A chat completion; tokens are words."""
    body: dict[str, Any] = {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "stub",
        "choices": [
            {"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": text, **message}}
        ],
    }
    if usage:
        count = len(text.split()) if isinstance(text, str) else 0
        body["usage"] = {"prompt_tokens": 10, "completion_tokens": count, "total_tokens": 10 + count}
    return {"body": body}


def failure(status: int, message: str = "no", code: str | None = None, **headers: str) -> Reply:
    return {"status": status, "body": {"error": {"message": message, "code": code}}, "headers": headers}


def essay(number: int, words: int = 30) -> str:
    """A text that depends on the number of the request alone."""
    return " ".join(WORDS[(number * 7 + place * (1 + number % 5)) % 13] for place in range(words)) + f" {number}."


def sensible(number: int, request: dict[str, Any]) -> Reply:
    """What a good endpoint answers to its ``number``-th request."""
    reply = completion(essay(number))
    prompt = sum(len(each["content"].split()) for each in request["body"]["messages"])
    reply["body"]["usage"]["prompt_tokens"] = prompt
    return reply


@dataclass
class Stub:
    """The server: ``answer`` maps the number of a request and the request to a reply.

    requests  everything it was asked: path, headers (lower case), body.
    paid      prompt and completion tokens of the completions it sent.
    """

    answer: Callable[[int, dict[str, Any]], Reply] = sensible
    latency: float = 0.0
    requests: list[dict[str, Any]] = field(default_factory=list)
    paid: list[int] = field(default_factory=lambda: [0, 0])
    flying: int = 0
    most: int = 0

    def __enter__(self) -> Stub:
        started = threading.Event()
        self._loop = asyncio.new_event_loop()

        def run() -> None:
            asyncio.set_event_loop(self._loop)
            self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=512))
            self.port = self._server.sockets[0].getsockname()[1]
            started.set()
            self._loop.run_forever()
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self._server.close()
            self._loop.run_until_complete(asyncio.sleep(0.05))
            self._loop.close()

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def prompts(self) -> list[str]:
        """All message texts, one string per request."""
        return ["\n".join(each["content"] for each in request["body"]["messages"]) for request in self.requests]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode("latin-1").split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                content = await reader.readexactly(int(headers.get("content-length", "0")))
                request = {"path": first.split(" ")[1], "headers": headers, "body": json.loads(content or b"{}")}
                number = len(self.requests)
                self.requests.append(request)
                self.flying += 1
                self.most = max(self.most, self.flying)
                try:
                    reply = self.answer(number, request)
                    await asyncio.sleep(self.latency + reply.get("delay", 0.0))
                    while self.most < reply.get("together", 0):
                        await asyncio.sleep(0.01)
                finally:
                    self.flying -= 1
                writer.write(self._bytes(reply))
                await writer.drain()
                if reply.get("close"):
                    return
                if reply.get("hang"):
                    await asyncio.sleep(3600)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    def _bytes(self, reply: Reply) -> bytes:
        body, kind = reply.get("body", b""), "text/html"
        if not isinstance(body, bytes):
            usage = body.get("usage") if isinstance(body, dict) else None
            if usage:
                self.paid[0] += usage["prompt_tokens"]
                self.paid[1] += usage["completion_tokens"]
            body, kind = json.dumps(body).encode(), "application/json"
        headers = {"content-type": kind, "content-length": str(len(body))} | reply.get("headers", {})
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        return f"HTTP/1.1 {reply.get('status', 200)} X\r\n{lines}\r\n".encode() + body


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency", type=float, default=0.2)
    with Stub(latency=parser.parse_args().latency) as stub:
        print(stub.port, flush=True)
        sys.stdin.read()
        print(json.dumps({"requests": len(stub.requests), "paid": stub.paid, "most": stub.most}))


if __name__ == "__main__":
    main()
