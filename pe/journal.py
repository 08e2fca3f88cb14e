"""What an API was asked and what came back: kept line by line, so that no answer is paid for twice.

A journal is a file of JSON lines, one file per iteration, that is only ever appended to. The lines that count here:

    {"asked": 7, "bound": [300, 512], "cost": 0.001}   call 7 is about to be made: at most so many tokens, so much money
    {"call": 7, "outcome": "answered", "tokens": [212, 95], "cost": 0.0001, ...}   it came to an end
    {"batch": 2, "kept": 3, "replaced": 0}             so many parents were kept, so many fresh samples repeated
    {..., "marks": ["answered"]}                       facts that an API keeps for all later iterations

What an API writes beside these is its own. Samples in it are public or synthetic.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from pe.files import refusals

ANSWERED = "answered"
NAME = "api"
"""Journals are called api.jsonl; api-1.jsonl of a run's second API; api.1.jsonl of the second member of a mixture."""

_SYNCED = 1.0
"""Seconds that may pass until a line is forced to disk. A process that is killed loses none."""


@dataclass(frozen=True)
class Usage:
    """What calls amounted to.

    calls      that came to an end, and ``failures`` among them: how many by outcome.
    lost       calls of which the process never saw the end, because it was killed.
    tokens     of prompts and of answers, as the endpoint reports them (``estimated``: calls where it did not).
    cost       in the currency of the prices; None without prices.
    kept       variations that failed, for which the parent stands.
    replaced   fresh samples that failed, for which another one stands.
    at_risk    tokens, and ``cost_at_risk`` money, at most, of calls that may have been charged without an answer.
    """

    calls: int = 0
    lost: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: int = 0
    cost: float | None = None
    kept: int = 0
    replaced: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    at_risk: int = 0
    cost_at_risk: float = 0.0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        cost = None if self.cost is None and other.cost is None else (self.cost or 0.0) + (other.cost or 0.0)
        return Usage(
            self.calls + other.calls,
            self.lost + other.lost,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.estimated + other.estimated,
            cost,
            self.kept + other.kept,
            self.replaced + other.replaced,
            dict(Counter(self.failures) + Counter(other.failures)),
            self.at_risk + other.at_risk,
            self.cost_at_risk + other.cost_at_risk,
        )

    def __str__(self) -> str:
        text = f"{self.calls} calls, {self.prompt_tokens} prompt and {self.completion_tokens} completion tokens"
        text += "" if self.cost is None else f", cost {self.cost:.4g}"
        text += f", tokens of {self.estimated} calls estimated" if self.estimated else ""
        if self.failures:
            text += "; without a usable answer: " + ", ".join(f"{n} {why}" for why, n in sorted(self.failures.items()))
        text += f"; {self.lost} lost in a process that ended" if self.lost else ""
        text += f"; {self.kept} variations kept their parent" if self.kept else ""
        return text + (f"; {self.replaced} fresh samples repeat another" if self.replaced else "")


def usage(lines: Iterable[Mapping[str, Any]]) -> Usage:
    """What the lines of one journal amount to."""
    asked: dict[int, Mapping[str, Any]] = {}
    batches: dict[int, Mapping[str, Any]] = {}
    total = Usage()
    for line in lines:
        if "asked" in line:
            asked[line["asked"]] = line
        elif "call" in line:
            asked.pop(line["call"], None)
            prompt, completion = line.get("tokens", (0, 0))
            total += Usage(
                calls=1,
                prompt_tokens=prompt,
                completion_tokens=completion,
                estimated=int(line.get("estimated", False)),
                cost=line.get("cost"),
                failures={} if line["outcome"] == ANSWERED else {line["outcome"]: 1},
                at_risk=line.get("at_risk", 0),
                cost_at_risk=line.get("cost_at_risk", 0.0),
            )
        elif "batch" in line:
            batches[line["batch"]] = line  # a repeated iteration comes to the same batch again
    for line in batches.values():
        total += Usage(kept=line.get("kept", 0), replaced=line.get("replaced", 0))
    risk = sum(sum(line["bound"]) for line in asked.values()), sum(line.get("cost", 0.0) for line in asked.values())
    return total + Usage(lost=len(asked), at_risk=risk[0], cost_at_risk=risk[1])


class Journal:
    """The journal of one API in one iteration; ``path`` lies in the iteration's folder.

    lines    what it held when it was opened: of an attempt that came to no end.
    before   usage of all iterations so far, this journal's lines included.
    marks    facts that the API noted in any of them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = list(_read(path))
        others = [list(_read(each)) for each in path.parent.parent.glob(f"*/{path.name}") if each != path]
        self.before = sum((usage(lines) for lines in others), usage(self.lines))
        self.marks = {mark for lines in (self.lines, *others) for line in lines for mark in line.get("marks", ())}
        self._parts: list[Journal] = []
        self._lock = Lock()
        self._file: int | None = None
        self._synced = 0.0

    def part(self, name: str) -> Journal:
        """The journal of one of several APIs that work as one; closed with this one."""
        part = Journal(self.path.with_name(f"{self.path.stem}.{name}{self.path.suffix}"))
        self._parts.append(part)
        return part

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line; safe from any thread. Raises RunError when the disk refuses."""
        content = json.dumps(line, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
        with self._lock, refusals(self.path):
            if self._file is None:
                self._file = self._opened()
            view = memoryview(content)
            while view:
                view = view[os.write(self._file, view) :]
            if time.monotonic() - self._synced > _SYNCED:
                os.fsync(self._file)
                self._synced = time.monotonic()

    def close(self) -> None:
        for part in self._parts:
            part.close()
        with self._lock, refusals(self.path):
            if self._file is not None:
                os.fsync(self._file)
                os.close(self._file)
                self._file = None

    def _opened(self) -> int:
        """The file at its end, without a line that a crash left half written."""
        self.path.parent.mkdir(exist_ok=True, mode=0o700)
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        size = os.fstat(file).st_size
        if size and os.pread(file, 1, size - 1) != b"\n":
            os.ftruncate(file, self.path.read_bytes().rfind(b"\n") + 1)
        return file


def usage_of(run: Path) -> Usage | None:
    """What the APIs of a run were asked in all its iterations; None where none of them keeps a journal."""
    found = [usage(_read(path)) for path in sorted(run.glob(f"iterations/*/{NAME}*.jsonl"))]
    return sum(found, Usage()) if found else None


def _read(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a journal; what is no JSON object, a line that was cut for one, is passed over."""
    if not path.exists():
        return
    with refusals(path):
        content = path.read_bytes()
    for text in content.split(b"\n"):
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            yield line
