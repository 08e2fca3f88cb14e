"""Runs in processes of their own, each with a fault planted in the product.

Every line on standard input is a JSON list of jobs; each job is a forked process, and all jobs of a line run at once.
The answer is a JSON list of {"code", "out", "err"}. A job holds

    folder       the working directory
    environment  variables to set
    settings     keyword arguments of pe.synthesize, or
    command      arguments of the pe command
    fault        a point below and an iteration, or nothing
    small        data are streamed, in blocks of so many records; embedded.txt gets a line for each that is embedded

Points where the process dies by SIGKILL, in the order in which an iteration passes them:

    reserve     before the charge is written
    commit      the charge is in the ledger, the head beside the key does not know it yet
    count       after the charge, before the votes are counted
    counting    the count fails with an exception
    counted     the votes are counted, the draw entry is not written
    draw-commit the draw entry is in the ledger, the head beside the key does not know it yet
    drawing     the draw entry is written, no noise is drawn
    noise       after the noise was drawn, before anything is stored
    draft       the histogram's draft is written, not yet under its name
    stored      after the histogram is stored, before parents are selected
    vary        within the API, at the second variation after the vote
    population  before the population is stored
    release     before the release folder is put in place (the iteration is ignored)
    kernel-drawn, kernel-stored   before and after the kernel mean is stored (the iteration is ignored)

and in a vote over stored shards, whose number in this process takes the iteration's place:

    shard        the shard is whole, the next one is not begun
    shard-half   all of it is stored but its vectors
    shard-draft  its vectors' draft is written, not yet under its name
    data-set     all shards are stored, not yet in order (the number is ignored)
    part         so many shards are counted, the others are not

Faults that the process survives:

    full-reserve, full-histogram, full-population, full-release   no file can grow while this is written
    api         the API raises, once, at the second variation after the vote
    embedder    the embedder raises for private records, and quotes them
    count-error the vote raises, and quotes the records
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pe
import pe.cli
import pe.evolution.loop
import pe.orders
import pe.private.blocks
import pe.private.dataset
import pe.private.embedding
import pe.private.poll
import pe.private.scan
import pe.private.shards
import pe.private.spill
import pe.private.vote
import pe.run
import pe.session
from pe.apis.tabular import TabularAPI
from pe.embedders.pixels import PixelEmbedder
from pe.embedders.tabular import TabularEmbedder
from pe.privacy.ledger import Account
from pe.privacy.mechanism import DiscreteGaussian
from pe.privacy.witness import Witness
from pe.run import Run


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def full_disk() -> Any:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, -1))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))


def around(owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
    """Replace a function by ``wrapper(original, *arguments)``."""
    original = getattr(owner, name)
    setattr(owner, name, lambda *given, **named: wrapper(original, *given, **named))


def plant(point: str, wanted: int) -> None:
    now = {"iteration": -1, "variations": 0, "paid": False, "drawing": False}

    def here(name: str) -> bool:
        return point == name and now["iteration"] == wanted

    def reserve(original: Any, account: Any, mechanism: Any, **about: Any) -> Any:
        now.update(iteration=about["iteration"], paid=False, drawing=False)
        if here("reserve"):
            die()
        if here("full-reserve"):
            with full_disk():
                return original(account, mechanism, **about)
        entry = original(account, mechanism, **about)
        now["paid"] = True
        if here("count"):
            die()
        return entry

    def advance(original: Any, *given: Any) -> Any:
        if here("draw-commit" if now["drawing"] else "commit"):
            die()
        return original(*given)

    def begin_draw(original: Any, *given: Any) -> Any:
        if here("counted"):
            die()
        if here("full-draw"):
            with full_disk():
                return original(*given)
        now["drawing"] = True
        return original(*given)

    def add_noise(original: Any, *given: Any) -> Any:
        if here("drawing"):
            die()
        noisy = original(*given)
        if here("noise"):
            die()
        return noisy

    def link(original: Any, draft: Path, path: Path) -> Any:
        if point == "draft" and Path(path).parts[-2:] == (f"{wanted:03d}", "histogram.npz"):
            die()
        return original(draft, path)

    def store_histogram(original: Any, run: Any, number: int, histogram: Any, *name: str) -> Any:
        if point == "full-histogram" and number == wanted:
            with full_disk():
                return original(run, number, histogram, *name)
        if point == "kernel-drawn" and name == ("kernel",):
            die()
        stored = original(run, number, histogram, *name)
        if point == "kernel-stored" and name == ("kernel",):
            die()
        if point == "stored" and number == wanted:
            die()
        now["variations"] = 0
        return stored

    def vary(original: Any, *given: Any) -> Any:
        now["variations"] += 1
        if now["variations"] == 2 and here("vary"):
            die()
        if now["variations"] == 2 and here("api"):
            raise TimeoutError("no answer")
        return original(*given)

    def store_population(original: Any, run: Any, number: int, population: Any) -> Any:
        if point == "population" and number == wanted:
            die()
        if point == "full-population" and number == wanted:
            with full_disk():
                return original(run, number, population)
        return original(run, number, population)

    def replace_folder(original: Any, *given: Any) -> Any:
        if point == "release":
            die()
        if point == "full-release":
            with full_disk():
                return original(*given)
        return original(*given)

    def embed_private(original: Any, *given: Any) -> Any:
        if point != "embedder":
            return original(*given)
        kinds = [(kind, kind.embed) for kind in (TabularEmbedder, PixelEmbedder)]
        for kind, _ in kinds:
            kind.embed = quote  # type: ignore[assignment]
        try:
            return original(*given)
        finally:
            for kind, embed in kinds:
                kind.embed = embed  # type: ignore[method-assign]

    def read_private(original: Any, private: Any, *given: Any) -> Any:
        if point == "count-error":
            quote(None, private._records)
        return original(private, *given)

    def count(original: Any, *given: Any) -> Any:
        if point == "full-reserve" and not now["paid"]:
            die()  # whatever was not charged may not be counted
        if here("counting"):
            raise ConnectionError("no worker")
        return original(*given)

    around(Account, "reserve", reserve)
    around(Account, "begin_draw", begin_draw)
    around(Witness, "advance", advance)
    around(DiscreteGaussian, "add_noise", add_noise)
    around(os, "link", link)
    around(Run, "store_histogram", store_histogram)
    around(pe.orders.Order, "store_histogram", store_histogram)
    around(TabularAPI, "vary", vary)
    around(Run, "store_population", store_population)
    around(pe.session, "replace_folder", replace_folder)
    around(pe.private.embedding, "embed_rows", embed_private)
    around(pe.private.vote, "embedded", read_private)
    around(pe.private.poll, "count", count)
    around(pe.private.vote, "count", count)


def plant_in_shards(point: str, wanted: int) -> None:
    now = {"shards": 0, "parts": 0}

    def dying_after(name: str, original: Any, count: str, *given: Any) -> Any:
        done = original(*given)
        if point == name and now[count] == wanted:
            die()
        return done

    def embed(original: Any, *given: Any) -> Any:
        now["shards"] += 1
        return dying_after("shard", original, "shards", *given)

    def save(original: Any, path: Path, array: Any) -> Any:
        if path.name.endswith(".finite.npy"):
            return dying_after("shard-half", original, "shards", path, array)
        return original(path, array)

    def rename(original: Any, draft: Any, path: Any) -> Any:
        place = Path(path)
        vectors = place.suffix == ".npy" and place.parent.parent.name == "embeddings" and place.name.count(".") == 1
        if (point == "shard-draft" and vectors and now["shards"] == wanted) or (
            point == "data-set" and place.parent.name == "datasets"
        ):
            die()
        return original(draft, path)

    def leave(original: Any, path: Path, array: Any) -> Any:
        now["parts"] += path.parent.parent.name == "votes"
        return dying_after("part", original, "parts", path, array)

    around(pe.private.shards._Store, "_embed", embed)
    around(pe.private.shards, "save", save)
    around(os, "replace", rename)
    around(os, "rename", rename)
    around(pe.private.scan, "leave", leave)
    around(pe.private.spill, "leave", leave)


def stream(rows: int) -> None:
    pe.private.dataset.IN_MEMORY, pe.private.blocks.BLOCK, pe.private.spill.ENTRIES = 0, rows, 4 * rows

    def embed(original: Any, *given: Any) -> Any:
        with Path("embedded.txt").open("a") as file:
            file.write("a shard\n")
        return original(*given)

    around(pe.private.shards._Store, "_embed", embed)


def quote(_: object, table: Any, *__: object) -> None:
    """Fail as badly as an embedder can: with the records in the exception, and in its cause."""
    records = table.to_pylist()
    try:
        raise KeyError(f"no vector for {records}")
    except KeyError as error:
        raise ValueError(f"cannot embed {records}", records) from error


def perform(job: dict[str, Any]) -> int:
    os.environ.update(job["environment"])
    os.chdir(job["folder"])
    logging.basicConfig(level=logging.DEBUG)
    if job.get("small"):
        stream(job["small"])
    if job.get("fault"):
        plant(*job["fault"])
        plant_in_shards(*job["fault"])
    if "command" in job:
        pe.cli.main(job["command"])
        return 0
    result = pe.synthesize(**job["settings"])
    print(json.dumps([result.certificate["iterations"]["completed"], result.stopped, list(result.warnings)]))
    return 0


def start(job: dict[str, Any]) -> tuple[int, Any, Any]:
    out, err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
    child = os.fork()
    if child:
        return child, out, err
    code: Any = 1
    try:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        code = perform(job)
    except SystemExit as exit_:
        code = exit_.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def ended(child: int, out: Any, err: Any) -> dict[str, Any]:
    _, status = os.waitpid(child, 0)
    texts = {}
    for name, file in (("out", out), ("err", err)):
        file.seek(0)
        texts[name] = file.read().decode(errors="replace")
        file.close()
    return {"code": os.waitstatus_to_exitcode(status), **texts}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps([ended(*child) for child in [start(job) for job in json.loads(line)]]), flush=True)
