"""Nothing private reaches the Prefect server, a log or the terminal, whether a run succeeds or fails."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

CANARIES = (
    "canary-text",
    "canary-category",
    "canary-line",
    "canary-field",
    "canary-header",
    "canary-trace",
    "7.123454321",
)
"""Planted in the private data and in exceptions about them. The last is a number, which survives coercion."""

N = 104729
"""Records: no other count looks like it."""

PROGRAM = """
import sys
from pathlib import Path

import numpy as np

import pe.private.dataset, pe.session
from pe.embedders.tabular import TabularEmbedder
from pe.errors import PEError
from pe.flows.synthesize import synthesize_flow
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

class Talkative(TabularEmbedder):
    '''Quotes the records it is given, wherever it can.'''
    def embed(self, table):
        if "7.123454321" in str(table.column("size").to_pylist()):
            print(table.to_pylist()[:3], file=Path("told.txt").open("a"))
            raise ValueError(f"cannot embed {table.to_pylist()}, {table.num_rows} records")
        return super().embed(table)

sys.modules["talkative"] = sys.modules[__name__]

def blow(*arguments, **settings):
    try:
        raise RuntimeError("canary-trace within")
    except RuntimeError as error:
        raise ValueError("canary-trace of 104729 records") from error

def fails(name):
    try:
        synthesize_flow(f"{name}.toml", create=True)
    except PEError as error:
        print("failed:", type(error).__name__, error)
    else:
        raise AssertionError(f"{name} should have failed")

with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):  # their thread takes a second to stop
    print("done:", synthesize_flow("good.toml", create=True))
    print("done:", synthesize_flow("talkative.toml", create=True))
    print("done:", synthesize_flow("text.toml", create=True))
    fails("headless")
    fails("garbage")
    evolution, session = pe.session.Evolution, pe.session.Session
    broken = {"coerce": pe.private.dataset, "step": evolution, "finish": session, "first": evolution}
    for name, owner in broken.items():
        kept = getattr(owner, name)
        setattr(owner, name, blow)
        fails(f"broken-{name}")
        setattr(owner, name, kept)
"""


TEXT = """
api = "ngram:public.txt"
[private]
source = "text"
path = "texts.csv"
schema = "texts.toml"
[privacy]
epsilon = 4.0
delta = 1e-5
adjacency = "add-remove"
[evolution]
iterations = 2
variations = 1
[output]
run = "runs/text"
rows = 6
"""


def plant(project: Any) -> None:
    rng = random.Random(1)
    good = [f"{rng.uniform(0, 10):.3f},{rng.randint(0, 20)},{rng.choice('ab')}" for _ in range(N - 4)]
    lines = [
        *good,
        "7.123454321,3,a",
        "5.0,3,canary-category",
        "canary-field,canary-field,b",
        "1,2,a,canary-line,canary-line",
    ]
    (project.folder / "data.csv").write_text("\n".join(["size,count,kind", *lines, ""]))
    (project.folder / "headless.csv").write_text("\n".join(["canary-header,canary-line,canary-field", *lines, ""]))
    (project.folder / "garbage.parquet").write_bytes(b"PAR1 canary-line " * 99)
    texts = [f"{rng.choice(('Good', 'Bad'))} soup, says the canary-text. Number {n}." for n in range(60)]
    (project.folder / "texts.csv").write_text("\n".join(["body", *(f'"{text}"' for text in texts), ""]))
    (project.folder / "text.toml").write_text(TEXT)
    (project.folder / "texts.toml").write_text('[columns.body]\ntype = "text"\n')
    (project.folder / "public.txt").write_text("The soup was good.\nThe bread was bad, and old.\n" * 20)
    project.config("good", source="good")
    talking = project.config("talkative", source="talkative")
    Path(talking).write_text(Path(talking).read_text() + '[embedder]\nkind = "talkative:Talkative"\n')
    project.config("headless", source="headless", data="headless.csv")
    project.config("garbage", source="garbage", data="garbage.parquet")
    for name in ("coerce", "step", "finish", "first"):
        project.config(f"broken-{name}", source=f"broken-{name}")


def everything(database: Path) -> Iterator[str]:
    """Every value of every table."""
    with closing(sqlite3.connect(database)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for row in connection.execute(f'SELECT * FROM "{table}"'):
                yield from (value.decode(errors="replace") if isinstance(value, bytes) else str(value) for value in row)


def test_no_private_content_reaches_prefect(
    server: Any, project: Any, client: Callable[..., Any], telling: Callable[..., Any]
) -> None:
    plant(project)
    database = server.home / "prefect.db"

    def recorded() -> Counter[str]:
        with closing(sqlite3.connect(database)) as connection:
            return Counter(dict(connection.execute("SELECT event, count(*) FROM events GROUP BY event").fetchall()))

    before = recorded()
    ran = client(PROGRAM, cwd=project.folder)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("done:") == 3, ran.stdout
    assert ran.stdout.count("failed:") == 6, ran.stdout
    assert "failed: SchemaError" in ran.stdout
    assert ran.stdout.count("details withheld") == 5, ran.stdout
    assert "7.123454321" in (project.folder / "told.txt").read_text()  # the embedder did see it

    ended = Counter({"prefect.flow-run.Completed": 3, "prefect.flow-run.Failed": 6})
    server.wait(lambda: ended <= recorded() - before, "the events of the flow runs")
    stored = "\n".join(everything(database))
    texts = {
        "database": stored,
        "server's log": (server.home / "server.log").read_text(),
        "output": ran.stdout + ran.stderr,
        "database, raw": "".join(path.read_bytes().decode("latin-1") for path in server.home.glob("prefect.db*")),
        "other files": "".join(
            path.read_bytes().decode("latin-1")
            for path in server.home.rglob("*")
            if path.is_file() and not path.name.startswith("prefect.db")
        ),
    }
    for place, text in texts.items():
        for canary in CANARIES:
            assert canary not in text, f"{canary} in {place}"
    assert "iteration 2" in stored
    assert "ValueError" in stored  # the failures were recorded, without their texts
    for place in ("database", "server's log", "output"):
        found = telling(texts[place], N)
        assert not found, f"the number of records in {place}: {found.string[found.start() - 200 : found.end() + 100]}"
