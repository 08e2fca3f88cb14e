"""Files from anywhere: damaged, oversized, no files at all, or the private data under another name."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image as Pictures

import pe
import pe.data.arrow_files
import pe.private.dataset
from pe.apis.corpus import read_corpus
from pe.data.public_files import files_of_schema, require_public
from pe.data.schema import Categorical, Image, Numeric, Schema, Text
from pe.errors import ConfigError, PEError, PrivateDataError, RunError, SchemaError
from pe.files import require_folder
from pe.privacy import Adjacency
from pe.private.dataset import PrivateDataset

CANARY = "canary-4711"


def private(data: object, schema: Schema) -> PrivateDataset:
    return PrivateDataset.read(data, schema, adjacency=Adjacency.ADD_REMOVE)


# -- damage ------------------------------------------------------------------------------------------------------------

FLIPPED = """
import sys
import pyarrow as pa
from pe.data.schema import Categorical, Image, Numeric, Schema, Text
from pe.errors import PEError
from pe.privacy import Adjacency
from pe.private.dataset import PrivateDataset

path, start, end = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
whole = open(path, "rb").read()
columns = (Numeric("x", 0, 9), Text("t", 9), Categorical("d", ("u", "v")), Image("i", 2, 2))
schema = Schema(columns[:3] if path.endswith("parquet") else columns)
for place in range(start, min(end, len(whole))):
    for flip in (0x01, 0x80, 0xFF):
        damaged = bytearray(whole)
        damaged[place] ^= flip
        open(path, "wb").write(damaged)
        try:
            PrivateDataset.read(path, schema, adjacency=Adjacency.ADD_REMOVE)
        except PEError:
            pass
print("ALIVE")
"""


@pytest.mark.parametrize("kind", ["file", "stream", "compressed", "parquet"])
def test_no_flipped_byte_kills_the_process(tmp_path: Path, kind: str) -> None:
    """Every byte of an Arrow or Parquet file, three ways: refused in one sentence, or read."""
    table = pa.table(
        {
            "x": [1.0, None, 3.0],
            "t": ["a", "bb", None],
            "d": pa.array(["u", "v", "u"]).dictionary_encode(),
            "i": pa.array([[1, 2, 3, 4], [5], None], pa.list_(pa.uint8())),
        }
    )
    path = tmp_path / ("d.parquet" if kind == "parquet" else "d.arrow")
    if kind == "parquet":
        pyarrow.parquet.write_table(table.drop_columns("i"), path)
    else:
        options = pa.ipc.IpcWriteOptions(compression="zstd" if kind == "compressed" else None)
        with (pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file)(path, table.schema, options=options) as sink:
            sink.write_table(table)
    arguments = [sys.executable, "-c", FLIPPED, str(path), "0", str(path.stat().st_size)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ALIVE\n", "")


@pytest.mark.parametrize("data", [b"\xff", b"a\xff", b"\xc3"])
@pytest.mark.parametrize("suffix", ["arrow", "parquet"])
def test_text_that_is_no_utf8_and_dates_that_are_no_days_are_values_not_damage(
    tmp_path: Path, suffix: str, data: bytes
) -> None:
    schema = Schema((Text("t"), pe.Datetime.of("d", "1970-01-01", "1971-01-01", date=True)))
    text = pa.array([b"good", data, b"fine"]).view(pa.string())
    days = pa.array([0, 86_400_001, 2 * 86_400_000]).view(pa.date64())
    table = pa.table({"t": text, "d": days})
    path = tmp_path / f"d.{suffix}"
    if suffix == "arrow":
        with pa.ipc.new_file(path, table.schema) as sink:
            sink.write_table(table)
    else:
        pyarrow.parquet.write_table(table, path)
    assert private(path, schema)._records.to_pydict() == {"t": ["good", "", "fine"], "d": [0, 1, 2]}


@pytest.mark.parametrize("file", ["run.json", "config.toml", "schema.toml", "iterations/000/population.parquet"])
@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff\xfe\x00", b"[]", b"7"], ids=repr)
def test_a_damaged_run_is_told_in_one_sentence(tmp_path: Path, file: str, damage: bytes) -> None:
    keys: dict[str, Any] = {"epsilon": 1.0, "delta": 1e-6, "adjacency": "add-remove", "create": True}
    keys |= {"schema": Schema((Numeric("x", 0, 1),)), "rows": 8, "iterations": 1, "method": "tab-pe"}
    data = {"x": np.linspace(0, 1, 50)}
    made = pe.synthesize(data, source="s", run=tmp_path / "run", **keys)
    (made.run / file).write_bytes(damage)
    if file.endswith("population.parquet"):
        (made.run / "iterations" / "001" / "population.parquet").unlink()
    before = pe.Ledger().chain("s")
    with pytest.raises(PEError, match="Nothing was spent") as caught:
        pe.synthesize(data, source="s", run=tmp_path / "run", **keys)
    assert "\n" not in str(caught.value)
    assert pe.Ledger().chain("s") == before


# -- size --------------------------------------------------------------------------------------------------------------


def repeated(path: Path, text: str, n: int, suffix: str) -> Path:
    """A small file in which one text stands n times."""
    coded = pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([text]))
    table = pa.table({"t": coded})
    if suffix == "parquet":
        pyarrow.parquet.write_table(table, path / "d.parquet", compression="zstd")
    else:
        with pa.ipc.new_file(path / "d.arrow", table.schema) as sink:
            sink.write_table(table)
    return path / f"d.{suffix}"


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
@pytest.mark.parametrize("schema", [Schema((Categorical("t", ("a", "b")),)), Schema((Text("t", 50),))], ids=["c", "t"])
def test_a_text_that_a_small_file_repeats_takes_little_memory(tmp_path: Path, suffix: str, schema: Schema) -> None:
    """200,000 texts of a million characters: 200 GB, were they all written out."""
    path = repeated(tmp_path, "x" * 1_000_000, 200_000, suffix)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    read_ = private(path, schema)
    assert sum(len(block) for block in read_._blocks()) == 200_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000  # kilobytes


def test_batches_are_cut_by_the_bytes_that_come_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pe.data.arrow_files, "BATCH_BYTES", 10_000)
    monkeypatch.setattr(pe.private.dataset, "IN_MEMORY", 50_000)
    path = repeated(tmp_path, "y" * 100, 2_000, "parquet")
    sizes = []
    coerce = pe.private.dataset.coerce

    def counted(raw: Any, schema: Schema) -> Any:
        sizes.append(len(raw["t"]))
        return coerce(raw, schema)

    monkeypatch.setattr(pe.private.dataset, "coerce", counted)
    found = private(path, Schema((Text("t", 1000),)))
    assert found.streamed  # small on disk, large once read
    assert max(sizes) <= 101
    texts = [text for block in found._blocks() for text in block.records["t"].to_pylist()]
    assert texts == ["y" * 100] * 2_000


def test_lists_and_archives_that_can_only_be_unpacked_whole_are_refused_by_their_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pe.data.arrow_files, "LARGEST_LISTS", 100_000)
    monkeypatch.setattr(pe.data.arrow_files, "LARGEST_ARCHIVE", 10_000)
    schema = Schema((Image("i", 2, 2),))
    bomb = pa.array([[1, 2, 3, 4], [0] * 100_000], pa.list_(pa.uint8()))
    pyarrow.parquet.write_table(pa.table({"i": bomb}), tmp_path / "bomb.parquet")
    np.savez_compressed(tmp_path / "bomb.npz", i=np.zeros((5_000, 2, 2), np.uint8))
    pyarrow.parquet.write_table(pa.table({"i": [[1, 2, 3, 4]] * 20_000}), tmp_path / "fair.parquet")
    for name in ("bomb.parquet", "bomb.npz"):
        with pytest.raises(PrivateDataError, match=r"GiB once unpacked.*Nothing was spent"):
            private(tmp_path / name, schema)
    assert len(private(tmp_path / "fair.parquet", schema)._labels) == 20_000


# -- what is no file ---------------------------------------------------------------------------------------------------


def within(seconds: float, work: Callable[[], None]) -> None:
    """Run work that must not wait for a pipe that nobody writes to."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it waits for ever"


def test_pipes_and_sockets_among_files_are_not_opened(tmp_path: Path) -> None:
    schema = Schema((Numeric("x", 0, 9),))
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "1.csv").write_text("x\n1\n")
    os.mkfifo(tmp_path / "parts" / "2.csv")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Pictures.new("L", (2, 2), 9).save(pictures / "1.png")
    os.mkfifo(pictures / "2.png")
    server = socket.socket(socket.AF_UNIX)
    os.chdir(tmp_path)  # addresses of sockets are short
    server.bind("pictures/3.png")
    found: list[Any] = []

    def work() -> None:
        found.append(private(tmp_path / "parts", schema)._records["x"].to_pylist())
        found.append([row[0] for row in private(pictures, Schema((Image("i", 2, 2),)))._records["i"].to_pylist()])
        for path in (tmp_path / "parts" / "2.csv", pictures / "3.png", Path("/dev/null")):
            with pytest.raises(PrivateDataError, match=r"neither a regular file nor a folder. Nothing was spent"):
                private(path, schema)
        with pytest.raises(ConfigError, match="Nothing was spent"):
            read_corpus([tmp_path / "parts" / "2.csv"], ["t"], None, Schema((Text("t"),)), limit=99)
        text = "[[constraints]]\nkind = 'determines'\ncolumn = 'a'\ntarget = 'b'\nfile = 'parts/2.csv'\n"
        columns = "".join(f"[columns.{name}]\ntype = 'categorical'\nvalues = ['1']\n" for name in "ab")
        with pytest.raises(SchemaError, match="no regular file"):
            Schema.from_toml(text + columns, tmp_path)

    within(60, work)
    server.close()
    assert found == [[1], [9, 0, 0]]


def test_a_folder_whose_name_is_no_utf8_is_an_undeclared_label(tmp_path: Path) -> None:
    schema = Schema((Image("i", 2, 2), Categorical("y", ("cat", "dog"))), "y")
    for name in (b"dog", b"d\xffg", "\u00e9".encode("latin-1")):
        folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        folder.mkdir()
        Pictures.new("L", (2, 2), 9).save(folder / "1.png")
    assert sorted(private(tmp_path, schema)._labels.tolist()) == [0, 0, 1]


def test_a_release_folder_that_is_a_link_is_told_before_anything_is_spent(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    require_folder(tmp_path / "elsewhere")
    require_folder(tmp_path / "nowhere")
    (tmp_path / "run" / "release").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match=r"release is a symbolic link.*Nothing was spent"):
        require_folder(tmp_path / "run" / "release")


# -- the private data as something public ------------------------------------------------------------------------------

LINES = [f"{number},the patient's note says {CANARY} and also {number * 7919}" for number in range(60)]


def names_of_the_private_file(folder: Path) -> dict[str, Path]:
    own = folder / "private.csv"
    own.write_text("id,text\n" + "\n".join(LINES) + "\n")
    (folder / "sub").mkdir()
    shutil.copy(own, folder / "copy.csv")
    os.link(own, folder / "hard.csv")
    (folder / "soft.csv").symlink_to(own)
    (folder / "part.csv").write_text("id,text\n" + "\n".join(LINES[20:40]) + "\n")
    others = [f"something else that is long {number}" for number in range(9)]
    (folder / "mostly.txt").write_text("\n".join(["x", *LINES[:20], *others]))
    shutil.copy(own, folder / "sub" / "inside.csv")
    names = ("private", "copy", "hard", "soft", "part")
    return {name: folder / f"{name}.csv" for name in names} | {"mostly": folder / "mostly.txt", "sub": folder / "sub"}


@pytest.mark.parametrize("name", ["private", "copy", "hard", "soft", "part", "mostly", "sub"])
def test_the_private_file_is_refused_as_public_under_any_name(
    tmp_path: Path, name: str, everything_about: Callable[[BaseException], str]
) -> None:
    path = names_of_the_private_file(tmp_path)[name]
    with pytest.raises(
        ConfigError, match=r"the private data themselves, a copy or a part.*Nothing was spent"
    ) as caught:
        require_public([path], tmp_path / "private.csv", "the API")
    assert CANARY not in everything_about(caught.value)
    with pytest.raises(ConfigError, match="the private data themselves"):
        require_public([path], str(tmp_path / "priv*.csv"), "the API")


def test_other_files_are_no_private_ones(tmp_path: Path) -> None:
    names_of_the_private_file(tmp_path)
    (tmp_path / "other.csv").write_text("id,text\n" + "\n".join(f"{line} or so" for line in LINES) + "\n")
    (tmp_path / "short.csv").write_text("id,text\n" + "1,a\n" * 60)
    others = [f"another line that is long {number}" for number in range(9)]
    (tmp_path / "few.csv").write_text("id,text\n" + "\n".join([*LINES[:3], *others]))
    (tmp_path / "empty.csv").touch()
    paths = [tmp_path / name for name in ("other.csv", "short.csv", "few.csv", "empty.csv", "missing.csv")]
    require_public([*paths, "a prompt, not a path", "x" * 3000], tmp_path / "private.csv", "the API")
    require_public([tmp_path / "private.csv"], None, "the API")


@pytest.mark.parametrize("key", ["file", "values_file", "candidates_file"])
def test_a_schema_that_names_the_private_file_is_refused_unread(
    tmp_path: Path, key: str, everything_about: Callable[[BaseException], str]
) -> None:
    own = names_of_the_private_file(tmp_path)["private"]
    if key == "file":
        text = "[[constraints]]\nkind = 'determines'\ncolumn = 'a'\ntarget = 'b'\nfile = 'copy.csv'\n"
        text += "".join(f"[columns.{name}]\ntype = 'categorical'\nvalues = ['1']\n" for name in "ab")
    else:
        text = f"[columns.a]\ntype = 'categorical'\n{key} = 'part.csv'\n"
        text += "" if key == "values_file" else "values = 'buy'\n"
    (tmp_path / "schema.toml").write_text(text)
    assert len(files_of_schema(tmp_path / "schema.toml")) == 1
    budget: dict[str, Any] = {"epsilon": 1, "delta": 1e-6, "adjacency": "add-remove"}

    def use() -> None:
        if key == "candidates_file":
            pe.buy_schema(own, wanted=tmp_path / "schema.toml", source="s", **budget)
        else:
            Schema.read(tmp_path / "schema.toml", private=own)

    with pytest.raises(ConfigError, match="the private data themselves") as caught:
        use()
    assert CANARY not in everything_about(caught.value)


def test_errors_about_a_public_table_do_not_quote_it(
    tmp_path: Path, everything_about: Callable[[BaseException], str]
) -> None:
    columns = "".join(f"[columns.{name}]\ntype = 'categorical'\nvalues = ['1']\n" for name in "ab")
    text = "[[constraints]]\nkind = 'determines'\ncolumn = 'a'\ntarget = 'b'\nfile = 'd.csv'\n" + columns
    for content in (f"a,b\n{CANARY},1\n", f"a,b\n1,{CANARY}\n", f"a,b\n{CANARY},x\n{CANARY},y\n", f"{CANARY}\n"):
        (tmp_path / "d.csv").write_text(content)
        with pytest.raises(SchemaError) as caught:
            Schema.from_toml(text, tmp_path)
        assert CANARY not in everything_about(caught.value)


def test_an_empty_setting_names_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "private.csv").write_text("a\n1\n")
    monkeypatch.chdir(tmp_path)
    require_public([""], "private.csv", "the API")
