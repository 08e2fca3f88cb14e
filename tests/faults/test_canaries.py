"""Faults 19 and 20: what is planted in private data is found in nothing that a run writes, prints or hands out.

Texts of exceptions are searched as Python prints them, causes included. A debugger, or a handler that prints the local
variables of every frame, sees private data: in the process that holds them there is no fence against that.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import socket
import struct
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from PIL import Image as Pictures

import pe
from pe.apis.tabular import TabularAPI
from pe.apis.text_render import TextRenderAPI
from pe.errors import ConfigError

TEXTS = [
    f"canary-{name}-4711" for name in ("category", "note", "user", "field", "line", "header", "class", "file", "exif")
]
INSIDE, OUTSIDE = 7.123454321, 977.1234321
"""Numbers within the declared domain, and outside it."""

N, A, USERS = 5417, 3671, 1213
"""Records, records of class a, and users: no other number of a run looks like these."""

SCHEMA = pe.Schema(
    (pe.Numeric("size", 0, 10), pe.Numeric("age", 0, 99, integer=True), pe.Categorical("kind", ("a", "b")))
)


def needles() -> dict[str, bytes]:
    found = {}
    for text in TEXTS:
        raw = text.encode()
        found |= {
            text: raw,
            f"{text} in base64": base64.b64encode(raw)[:-4],
            f"{text} in UTF-16": text.encode("utf-16-le"),
        }
        for kind in ("md5", "sha1", "sha256"):
            found[f"{kind} of {text}"] = hashlib.new(kind, raw).hexdigest().encode()
    for number in (INSIDE, OUTSIDE):
        found |= {f"{number}": repr(number).encode(), f"{number} in binary": struct.pack("<d", number)}
    return found


NEEDLES = needles()
SHORTENED = {f"{number}, shortened": f"{number:.5f}".encode() for number in (INSIDE, OUTSIDE)}
"""Which drawn numbers may begin with, too."""
COUNTS = re.compile(rf"(?<![\d.\w])(?:{'|'.join(f'{n}|{n:,}|{n:_}' for n in (N, A, N - A, USERS))})(?![\d\w])")


def check(place: str, content: bytes, secrets: dict[str, bytes] = NEEDLES) -> None:
    for what, secret in secrets.items():
        assert secret not in content, f"{what} in {place}"


def check_counts(place: str, text: str) -> None:
    found = COUNTS.search(re.sub(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}", "", text))
    assert not found, f"{found} in {place}: {text[max(found.start() - 100, 0) : found.end() + 50]}"


def readable(name: str, content: bytes) -> str:
    """What of a file may tell a number: in compressed bytes and pictures any four digits come about by chance."""
    if ".sqlite3" in name:
        return content.decode("latin-1")
    if ".npz" in name or name.endswith((".parquet/column", ".png/pixels")):
        return ""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return ""


@pytest.fixture
def secretive(people: Any, tmp_path: Path, contents: Any) -> Iterator[Any]:
    """People with canaries; whatever their runs left behind is searched at the end of the test.

    The private data lie in a folder of their own, which alone is left out.
    """
    rng = np.random.default_rng(2)
    private, temporary = tmp_path / "private", tmp_path / "temporary"
    private.mkdir()
    temporary.mkdir()
    kinds = ["a"] * (A - 2) + ["b"] * (N - A)
    ids = rng.permutation(np.r_[np.arange(USERS - 1), rng.integers(USERS - 1, size=N - 2 - USERS + 1)])
    sizes, ages = rng.uniform(0, 10, N - 2), rng.integers(0, 99, N - 2)
    lines = [f"{s:.4f},{g},{k},u{u},{TEXTS[1]}" for s, g, k, u in zip(sizes, ages, kinds, ids, strict=True)]
    lines += [f"{INSIDE},3,{TEXTS[0]},{TEXTS[2]},{TEXTS[1]}", f"{OUTSIDE},{TEXTS[3]},{TEXTS[0]},{TEXTS[2]},x"]
    (private / "data.csv").write_text("\n".join(["size,age,kind,who,note", *lines, ""]))
    (people.folder / "schema.toml").write_text(SCHEMA.to_toml())
    people.private = private
    people.settings |= {"data": str(private / "data.csv"), "iterations": 2, "rows": 20, "user": "who", "user_norm": 3.0}
    people.settings |= {"formats": ["csv", "jsonl", "parquet", "hf"]}
    told: list[Any] = []
    everyone = people.all

    def listening(jobs: list[dict[str, Any]]) -> list[Any]:
        for job in jobs:
            job["environment"] |= {"TMPDIR": str(temporary), "HOME": str(temporary)}
        ended = everyone(jobs)
        told.extend(ended)
        return ended

    people.all = listening
    yield people
    assert told
    for ended in told:
        check("standard output", ended.out.encode())
        check("standard error and logs", ended.err.encode())
        check("what was printed", (ended.out + ended.err).encode(), SHORTENED)
        check_counts("standard output", ended.out)
        check_counts("standard error and logs", ended.err)
    for folder in {*tmp_path.iterdir()} - {private}:
        for name, content in contents(folder):
            check(f"the name of {name}", name.encode())
            check(name, content)
            if not name.endswith(("synthetic.csv", "synthetic.jsonl")):
                check(name, content, SHORTENED)
            check_counts(name, readable(name, content))


def test_the_search_finds_what_it_looks_for(tmp_path: Path, contents: Any) -> None:
    table = pa.table({"x": [INSIDE, 1.0], "kind": pa.array([TEXTS[0], "a"]).dictionary_encode()})
    pyarrow.parquet.write_table(table, tmp_path / "leak.parquet", compression="zstd")
    np.savez_compressed(tmp_path / "leak.npz", x=np.array([OUTSIDE]), names=np.array([TEXTS[2].encode()]))
    (tmp_path / "leak.csv").write_text(f"{INSIDE}")
    leaking = [name for name, content in contents(tmp_path) if any(needle in content for needle in NEEDLES.values())]
    assert {name.split("/")[0] for name in leaking} == {"leak.parquet", "leak.npz", "leak.csv"}
    assert all(COUNTS.search(text) for text in (f"{N} records", f"n={N},", f"{N:,}", f'"{USERS}"'))
    assert not any(COUNTS.search(text) for text in (f"0.{N}", f"1{N}", f"{N}0", f"sha{N}"))


@pytest.mark.parametrize("method", [None, "kernel-votes"])
def test_fault_19_a_run_that_succeeds_shows_nothing_private(secretive: Any, method: str | None) -> None:
    assert secretive.work(method=method).result[0] == 2
    assert "who" not in (secretive.folder / "run" / "release" / "synthetic.csv").read_text()


STEPS = ("reserve", "commit", "count", "counted", "noise", "draft", "stored", "population", "release")


def test_fault_19_a_run_killed_at_every_step_leaves_nothing_private(secretive: Any) -> None:
    for point in STEPS:
        keys = {"run": str(secretive.folder / point), "source": point, "iterations": 1}
        assert secretive.work(point, 1, **keys).killed, point
    assert secretive.work(**keys).code == 0


SURVIVED = ("api", "embedder", "count-error", "full-reserve", "full-histogram", "full-population", "full-release")


@pytest.mark.parametrize("point", SURVIVED)
def test_fault_19_an_error_amid_a_run_tells_nothing_private(secretive: Any, point: str) -> None:
    ended = secretive.work(point, 1)
    if point == "embedder":
        assert ended.code == 0
        return
    assert ended.code == 1
    assert ended.err.count("Traceback") == 1
    assert ("details withheld" in ended.err) == (point == "count-error")


def unreadable(people: Any) -> None:
    (people.private / "data.csv").rename(people.private / "data.parquet")
    (people.private / "data.parquet").write_bytes(b"PAR1 " + TEXTS[4].encode() * 99)
    people.settings["data"] = str(people.private / "data.parquet")


def without_header(people: Any) -> None:
    path = people.private / "data.csv"
    path.write_text(f"{TEXTS[5]},{TEXTS[4]},{TEXTS[3]},who,{TEXTS[2]}\n" + path.read_text().partition("\n")[2])


def without_user(people: Any) -> None:
    with (people.private / "data.csv").open("a") as file:
        file.write(f"{INSIDE},1,{TEXTS[0]},,{TEXTS[1]}\n")


def malformed(people: Any) -> None:
    with (people.private / "data.csv").open("a") as file:
        file.write(f"{TEXTS[4]},{TEXTS[4]},{TEXTS[4]},{TEXTS[2]},{TEXTS[4]},{TEXTS[4]}\n")


def of_another_type(people: Any) -> None:
    table = pyarrow.csv.read_csv(people.private / "data.csv")
    nested = pa.array([{TEXTS[3]: text} for text in table["note"].to_pylist()])
    pyarrow.parquet.write_table(table.set_column(0, "size", nested), people.private / "data.parquet")
    people.settings["data"] = str(people.private / "data.parquet")


BAD = [unreadable, without_header, of_another_type]


@pytest.mark.parametrize("spoil", BAD)
def test_fault_19_data_that_cannot_be_read_are_not_quoted(secretive: Any, spoil: Callable[[Any], None]) -> None:
    spoil(secretive)
    ended = secretive.work()
    assert ended.code == 1
    assert re.search(r"pe\.errors\.(PrivateData|Schema)Error: .*Nothing was spent", ended.err)
    assert ended.err.count("Traceback") == 1


@pytest.mark.parametrize("spoil", [without_user, malformed])
def test_fault_19_records_that_do_not_fit_are_read_by_rule_and_not_quoted(
    secretive: Any, spoil: Callable[[Any], None]
) -> None:
    spoil(secretive)
    assert secretive.work().code == 0


CONFIG = """
[private]
path = "../private/data.csv"
source = "people"
schema = "schema.toml"
label = "kind"
user = "who"
[privacy]
epsilon = 1.0
delta = 1e-5
adjacency = "add-remove"
unit = "user"
[api]
kind = "tabular"
[evolution]
iterations = 2
[output]
run = "run"
rows = 20
formats = ["csv"]
"""


def test_fault_19_no_command_prints_anything_private(secretive: Any) -> None:
    """Every command, in good order and after a fault; the ledger is damaged in the end."""
    (secretive.folder / "pe.toml").write_text(CONFIG)
    run, release = secretive.folder / "run", secretive.folder / "run" / "release"
    good = [
        ("plan", "pe.toml"),
        ("synthesize", "pe.toml", "--create"),
        ("resume", run, "--json"),
        ("export", run, "--format", "jsonl", "--to", "exported"),
        ("budget", "show", "people"),
        ("budget", "verify", release / "certificate.json"),
        ("simulate", "pe.toml"),
        ("doctor",),
    ]
    for arguments in good:
        ended = secretive.command(*arguments)
        assert ended.code == 0, (arguments, ended.err)
    (secretive.folder / "pe.toml").write_text(CONFIG.replace('run = "run"', 'run = "second"'))
    assert secretive.command("synthesize", "pe.toml").code == 3  # no budget is left
    assert secretive.command("budget", "grant", "people", "--epsilon", 9).code == 0
    assert secretive.command("synthesize", "pe.toml", fault=("full-histogram", 1)).code == 1
    assert secretive.command("resume", "second", fault=("stored", 1)).killed
    (secretive.private / "data.csv").write_text((secretive.private / "data.csv").read_text() + f"1,1,a,{TEXTS[2]},x\n")
    assert "the private data changed" in secretive.command("resume", "second").err
    without_user(secretive)
    assert secretive.command("resume", "second").code == 1
    ledger = next((secretive.folder.parent / "home").glob("ledger.sqlite3"))
    ledger.write_bytes(ledger.read_bytes()[:4096] + b"\0" * 9000)
    assert secretive.command("resume", "second").code == 1


def pictures(folder: Path) -> list[np.ndarray]:
    """A folder of images by class, with patterns, telling names, and texts inside the files."""
    rng = np.random.default_rng(4)
    patterns = [rng.integers(0, 256, (8, 8), np.uint8) for _ in range(40)]
    for number, pattern in enumerate(patterns):
        place = folder / ("0" if number % 2 else "1") / f"{TEXTS[7]}-{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Pictures.fromarray(pattern).save(place)
    (folder / TEXTS[6]).mkdir()
    camera = Pictures.Exif()
    camera[270], camera[282], camera[296] = TEXTS[8], 1.0, 2  # a description, and a resolution that is looked up
    for name, kind in (("a.jpg", "JPEG"), ("b.webp", "WEBP")):
        Pictures.fromarray(patterns[0]).convert("RGB").save(folder / TEXTS[6] / name, kind, exif=camera)
    description = io.BytesIO()
    Pictures.fromarray(patterns[0]).save(description, "TIFF", tiffinfo={270: TEXTS[8]})
    (folder / "0" / f"{TEXTS[7]}-tiff.png").write_bytes(description.getvalue())
    (folder / "0" / f"{TEXTS[7]}-broken.png").write_bytes(b"\x89PNG" + TEXTS[7].encode())
    return patterns


@pytest.mark.parametrize("fault", [None, ("embedder", 1), ("stored", 1)], ids=str)
def test_fault_19_pictures_and_the_names_of_their_files_stay_private(
    secretive: Any, fault: tuple[str, int] | None, contents: Any
) -> None:
    """Also where logging is set to tell everything: decoders report what they find in a file."""
    patterns = pictures(secretive.private / "pictures")
    schema = pe.Schema((pe.Image("image", 8, 8), pe.Categorical("kind", ("0", "1"))))
    (secretive.folder / "schema.toml").write_text(schema.to_toml())
    secretive.settings |= {"data": str(secretive.private / "pictures"), "user": None, "source": "pictures", "rows": 6}
    secretive.settings |= {"formats": ["imagefolder", "npz", "parquet", "hf"], "label": "kind"}
    del secretive.settings["variations"]
    ended = secretive.work(*(fault or ()))
    assert ended.killed if fault == ("stored", 1) else ended.code == 0, ended.err
    rows = {f"row {row} of a picture": pattern[row].tobytes() for pattern in patterns for row in (1, 5)}
    for name, content in contents(secretive.folder):
        check(name, content, rows)


# -- 20 ------------------------------------------------------------------------------------------------------------


def deep(value: object, seen: set[int]) -> Iterator[str]:
    """Text of everything that can be reached from an object through attributes, items and closures."""
    if id(value) in seen or isinstance(value, (types.ModuleType, type)):
        return
    seen.add(id(value))
    yield repr(value)
    if isinstance(value, pa.Table):
        yield str(value.to_pydict())
    if isinstance(value, np.ndarray):
        yield str(value.tolist())
    if isinstance(value, dict):
        for each in value.items():
            yield from deep(each, seen)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for each in value:
            yield from deep(each, seen)
    elif isinstance(value, pa.Array | pa.ChunkedArray):
        yield str(value.to_pylist())
    elif hasattr(value, "__dict__"):
        yield from deep(vars(value), seen)


class Recording:
    """Keeps everything it is ever given."""

    given: list[object] = []  # noqa: RUF012

    def __init__(self, schema: pe.Schema, **keys: Any) -> None:
        self.inner = (TextRenderAPI if schema.image else TabularAPI)(schema)
        self.name = self.inner.name
        Recording.given += [schema, keys]

    def random(self, n: int, label: int, rng: np.random.Generator) -> pe.Population:
        Recording.given += [n, label, rng.bit_generator.state]
        return self.inner.random(n, label, rng)

    def vary(self, parents: pe.Population, degree: float, rng: np.random.Generator) -> pe.Population:
        Recording.given += [parents, degree, rng.bit_generator.state]
        return self.inner.vary(parents, degree, rng)


def test_fault_20_an_api_is_given_nothing_private_and_a_run_opens_no_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two data sets that share no record ask the API the same, but for which of its own samples are varied."""

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("a connection was opened")

    for name in ("connect", "connect_ex", "sendto", "bind"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    module = types.ModuleType("recording")
    module.Recording = Recording  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "recording", module)
    calls = []
    for number, value in enumerate((INSIDE, 2.0)):
        monkeypatch.setattr(Recording, "given", [])
        n = N if value == INSIDE else 3
        data = {"size": np.full(n, value), "age": np.full(n, OUTSIDE), "kind": [TEXTS[0]] * n, "note": [TEXTS[1]] * n}
        pe.synthesize(
            data,
            schema=SCHEMA,
            source=f"s{number}",
            run=tmp_path / f"run{number}",
            api="recording:Recording",
            label="kind",
            label_shares="uniform",
            epsilon=1.0,
            delta=1e-5,
            adjacency="add-remove",
            rows=20,
            iterations=3,
            create=True,
        )
        text = "\n".join(deep(Recording.given, set()))
        assert len(text) > 5_000
        check("what the API was given", text.encode())
        assert not COUNTS.search(text)
        calls.append([each for each in Recording.given if not isinstance(each, pe.Population)])
        samples = [each for each in Recording.given if isinstance(each, pe.Population)]
        assert len(samples) == 2 + 3  # two trials before the first charge, three rounds
    assert json.dumps(calls[0], default=str) == json.dumps(calls[1], default=str)


def test_fault_20_the_private_data_cannot_be_handed_to_an_api_as_public_ones(people: Any) -> None:
    """By mistake: the nearest API would release them record by record."""
    path = str(people.folder / ".." / people.folder.name / "private.csv")
    for api in ({"kind": "nearest", "path": path}, {"kind": "any", "prompts": {"demos": [path]}}):
        with pytest.raises(ConfigError, match=r"the private data themselves.*Nothing was spent"):
            pe.synthesize(**people.settings | {"api": api})
    assert not (people.folder / "ledger.sqlite3").exists()
