"""Private texts stay where they lie: in no file, log, error, request or connection of a run, whether it ends well."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

WORDS = ("zebrafinch", "quaggamire", "xylographer")
"""In private texts alone, and in no vocabulary; a model's tokenizer cuts them into pieces."""

SENTENCE = "The quaggamire xylographer paid 4711 for cold soup"
LABEL, USER = "label-zebrafinch", "user-zebrafinch"
PRIVATE = (*WORDS, SENTENCE, LABEL, USER)

PROGRAM = """
import json, logging, socket, sys
from pathlib import Path

logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)

def refused(*arguments):
    print("CONNECTED", arguments)
    raise OSError("no connection")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refused

import pe
from pe.apis.ngram import NGramAPI
from pe.embedders.sentence import SentenceEmbedder
from pe.errors import PEError

class Listening(NGramAPI):
    '''Writes down everything that it is given.'''
    def vary(self, parents, degree, rng):
        with open("asked.jsonl", "a") as file:
            file.write(json.dumps(parents.to_table().to_pylist()) + "\\n")
        return super().vary(parents, degree, rng)

class Talkative(SentenceEmbedder):
    '''Quotes the private texts that it is given.'''
    name = "talkative"
    def embed(self, table):
        texts = table.column(0).to_pylist()
        if any("zebrafinch" in text for text in texts):
            Path("saw").touch()
            raise ValueError(f"cannot embed {texts}")
        return super().embed(table)

sys.modules["listening"] = sys.modules[__name__]

def attempt(name, data, **change):
    how = dict(
        text="text", label="stars", labels=["1", "5"], user="who", api={"kind": "listening:Listening",
        "corpus": "public.jsonl"}, source=name, run=f"runs/{name}", formats=["csv", "jsonl", "parquet", "hf"],
        rows=12, iterations=2, variations=1, epsilon=4.0, delta=1e-5, adjacency="add-remove", create=True,
    )
    try:
        made = pe.synthesize(data, **how | change)
    except PEError as error:
        logging.exception("failed")
        print(name, type(error).__name__)
    else:
        print(repr(made), repr(made.population), made.warnings, made.to_arrow().to_pylist(), file=sys.stderr)
        print(name, "done")

private = Path(sys.argv[1])
attempt("good", private / "reviews.csv")
attempt("kernel", private / "reviews.csv", method="kernel-votes", iterations=2)
attempt("talkative", private / "reviews.csv", embedder="listening:Talkative")
attempt("column", private / "reviews.csv", text="review")
attempt("headless", private / "headless.csv")
attempt("garbage", private / "garbage.parquet")
attempt("nested", private / "nested.jsonl")
"""


def needles() -> Iterator[tuple[str, bytes]]:
    for text in PRIVATE:
        yield text, text.encode()
        yield f"{text} in base64", base64.b64encode(text.encode())[:-4]
        yield f"{text} in UTF-16", text.encode("utf-16-le")
    for kind in ("md5", "sha1", "sha256"):
        yield f"{kind} of a text", hashlib.new(kind, SENTENCE.encode()).hexdigest().encode()


def plant(private: Path) -> None:
    private.mkdir(mode=0o700)
    draw = random.Random(0)
    rows = []
    for number in range(120):
        words = draw.choices(("the food", "was", "great", "cold", "and", *WORDS), k=draw.randint(3, 30))
        rows.append((" ".join(words) + ".", draw.choice(("1", "5", LABEL)), f"{USER}-{number % 50}"))
    rows += [(SENTENCE, "1", f"{USER}-x"), (f"{SENTENCE} " * 20_000, LABEL, f"{USER}-y")]
    with (private / "reviews.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "stars", "who"), *rows])
    with (private / "headless.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    (private / "garbage.parquet").write_bytes(b"PAR1 " + SENTENCE.encode() * 99)
    lines = [json.dumps({"text": {SENTENCE: 1}, "stars": "1", "who": USER})] * 3
    (private / "nested.jsonl").write_text("\n".join(lines))


def test_private_texts_are_found_nowhere(
    tmp_path: Path, contents: Callable[[Path], Iterator[tuple[str, bytes]]]
) -> None:
    private, work, cache = tmp_path / "private", tmp_path / "work", tmp_path / "cache"
    plant(private)
    for folder in (work, tmp_path / "temporary"):
        folder.mkdir()
    public = ["The food was great.", "The soup was cold and the people were slow.", "We came back."] * 9
    (work / "public.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in public))
    elsewhere = {"PE_CACHE": str(cache), "TMPDIR": str(tmp_path / "temporary"), "HOME": str(tmp_path / "temporary")}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(private)],
        cwd=work,
        env=os.environ | elsewhere,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    ended = dict(line.split(" ", 1) for line in ran.stdout.splitlines())
    assert "CONNECTED" not in ended
    assert [name for name, how in ended.items() if how.endswith("done")] == ["good", "kernel", "talkative", "nested"]
    assert {ended[name] for name in ("column", "headless", "garbage")} <= {"SchemaError", "PrivateDataError"}
    assert (work / "saw").exists()
    assert (work / "asked.jsonl").stat().st_size
    assert cache.stat().st_mode & 0o777 == 0o700
    assert list(cache.rglob("*.npy"))
    searched = [("standard output", ran.stdout.encode()), ("standard error and logs", ran.stderr.encode())]
    for folder in (work, cache, tmp_path / "temporary", tmp_path / "home"):
        searched += [(f"{folder.name}/{name}", content) for name, content in contents(folder)]
        searched += [(f"the name of {path}", str(path.relative_to(folder)).encode()) for path in folder.rglob("*")]
    assert len(searched) > 30
    for place, content in searched:
        for what, needle in needles():
            assert needle not in content, f"{what} in {place}"


def test_the_search_finds_what_it_looks_for(
    tmp_path: Path, contents: Callable[..., Iterator[tuple[str, bytes]]]
) -> None:
    table = pa.table({"text": list(PRIVATE), "stars": pa.array(PRIVATE).dictionary_encode()})
    pyarrow.parquet.write_table(table, tmp_path / "leak.parquet", compression="zstd")
    found = {what for _, content in contents(tmp_path) for what, needle in needles() if needle in content}
    assert found >= set(PRIVATE)


@pytest.mark.parametrize("kind", ["openai", "openai:text-embedding-3-small", "sentence:https://example.org/v1"])
def test_no_embedder_elsewhere_gets_to_see_them(tmp_path: Path, kind: str) -> None:
    import pe
    from pe.errors import ConfigError

    plant(tmp_path / "private")
    data, claim = tmp_path / "private" / "reviews.csv", {"epsilon": 1.0, "delta": 1e-6, "adjacency": "add-remove"}
    (tmp_path / "public.txt").write_text("The food was great.\n" * 20)
    api = f"ngram:{tmp_path / 'public.txt'}"
    with pytest.raises(ConfigError, match="Nothing was spent"):
        pe.synthesize(data, text="text", api=api, embedder=kind, create=True, **claim)  # type: ignore[arg-type]
