"""A run is a directory: resolved configuration, one folder per iteration, and the release.

    config.toml             resolved; on resume what is the mechanism is compared (``pe.resumption``), like schema.toml
    run.json                identity, format, and the plan that configuration and schema came to; compared likewise
    iterations/notes.json   public facts that later iterations build on (``Notes``); which settings changed on the way
    iterations/003/         histogram.npz (noisy, write-once; 000 may hold others), population.parquet, api.jsonl (what
                            an API was asked, what it answered, what that cost: ``pe.journal``)
    released.parquet        the released records with their lineage
    release/                what may be handed out ("simulation/" where the noise was simulated)
    nonprivate/             evaluations on real records: never to be handed out

A stored histogram is reused and never drawn again. What the next call does with an iteration in which a process died,
or failed (``pe.privacy.release`` says why that is sound; the tests kill a run at every row):

    point       | killed, or failed                     | ledger       | histogram | the next call
    ----------- | ------------------------------------- | ------------ | --------- | -----------------------------------
    reserve     | before the charge                     |              |           | charges
    commit      | charged, head beside the key behind   | charge       |           | finishes it under its charge
    count       | charged, before the count             | charge       |           | finishes it under its charge
    counting    | the count failed                      | charge       |           | finishes it under its charge
    counted     | counted, before the draw entry        | charge       |           | finishes it under its charge
    draw-commit | draw entry written, its head behind   | charge, draw |           | charges anew: that draw is lost
    drawing     | draw entry written, noise not drawn   | charge, draw |           | charges anew: that draw is lost
    noise       | noise drawn, nothing stored           | charge, draw |           | charges anew: that draw is lost
    draft       | histogram written, not yet named      | charge, draw |           | charges anew: that draw is lost
    stored      | histogram stored                      | charge, draw | stored    | uses it
    vary        | amid the API's variations             | charge, draw | stored    | uses it
    population  | before the population is stored       | charge, draw | stored    | uses it

A round is finished under its charge if the same question is asked of the same data; if it differs, as it may where
another API made the candidates' variations (``lookahead``), that charge stays spent and the question is charged itself.
A new charge stays within the run's own budget: the last iterations may then no longer fit. With a generation stored, or
the release half written, the next call pays nothing for either. A histogram whose charge or draw the ledger does not
know is refused: the ledger is another one, or was rolled back. One whose file is damaged is refused, too, and not drawn
again.

The directory is private (0700) all the same: only ``release/`` is meant to leave it.
"""

from __future__ import annotations

import io
import json
import tomllib
import uuid
import zipfile
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import tomli_w
from filelock import BaseFileLock, FileLock, Timeout

from pe.data.population import Population
from pe.data.schema import Schema
from pe.errors import RunError, RunLockedError, RunMismatchError
from pe.evolution.plan import Plan
from pe.evolution.start import Releaser
from pe.files import refusals, write_atomically
from pe.journal import NAME, Journal, Usage, usage_of
from pe.permissions import private_folder
from pe.privacy.release import Histogram, Purse, Votes, release
from pe.privacy.simulation import STAMP, WARNING
from pe.protocols import Metered
from pe.resumption import changed_settings, first_difference, mechanism_plan, mechanism_settings

FORMAT = 7
"""Version of the directory's layout and of everything that decides how a stored iteration continues."""


class Run:
    """An open run directory, locked against other processes until ``close``."""

    def __init__(self, path: Path, identity: str, lock: BaseFileLock, *, simulated: bool = False) -> None:
        self.path = path
        self.identity = identity
        self.simulated = simulated
        self._lock = lock

    @classmethod
    def open(cls, path: Path, config: dict[str, Any], schema: Schema, plan: Plan) -> Run:
        """Create the directory for a resolved configuration, schema and plan, or reopen it with the same ones.

        A directory in which no iteration was ever stored takes a new configuration. Raises RunLockedError, RunError
        for a directory that is something else, RunMismatchError naming the first setting that differs.
        """
        with refusals(path):
            if not path.exists():  # else only once it is known to be a run's
                private_folder(path)
            lock = FileLock(path / ".lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise RunLockedError(
                    f"another process works on {path}: wait for it, or stop it. Nothing was spent."
                ) from None
        try:
            identity = _identity(path, config, schema, plan.settings)
            return cls(path, identity, lock, simulated="simulate" in config.get("privacy", {}))
        except BaseException:
            lock.release()
            raise

    def close(self) -> None:
        self._lock.release()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def notes(self) -> Notes:
        return Notes(self.path / "iterations" / "notes.json")

    # -- iterations ------------------------------------------------------------------------------------------------

    def iteration(self, number: int) -> Path:
        return self.path / "iterations" / f"{number:03d}"

    def last_iteration(self) -> int | None:
        """The newest iteration whose population is stored."""
        files = self.path.glob("iterations/*/population.parquet")
        done = [int(file.parent.name) for file in files if file.parent.name.isdecimal()]
        return max(done, default=None)

    def population(self, number: int, schema: Schema) -> Population:
        path = self.iteration(number) / "population.parquet"
        with _undamaged(path):
            table = pa.parquet.read_table(path)
            table.validate(full=True)
            return Population.from_table(table, schema)

    def store_population(self, number: int, population: Population) -> None:
        with refusals(self.iteration(number)):
            private_folder(self.iteration(number))
        write_atomically(self.iteration(number) / "population.parquet", self._parquet(population))

    def store_released(self, population: Population) -> bytes:
        """Store the released records and return the file's content."""
        content = self._parquet(population)
        write_atomically(self.path / "released.parquet", content)
        return content

    def _parquet(self, population: Population) -> bytes:
        table, buffer = population.to_table(), io.BytesIO()
        if self.simulated:
            table = table.replace_schema_metadata({**(table.schema.metadata or {}), STAMP: WARNING})
        pa.parquet.write_table(table, buffer, compression="zstd")
        return buffer.getvalue()

    def histograms(self) -> list[tuple[int, str]]:
        """Iteration and name of everything that was released and stored."""
        found = self.path.glob("iterations/*/*.npz")
        return sorted((int(file.parent.name), file.stem) for file in found if file.name[0] != ".")

    def histogram(self, number: int, name: str = "histogram") -> Histogram | None:
        """The stored noisy histogram of an iteration, if there is one."""
        return read_histogram(self.iteration(number) / f"{name}.npz")

    def store_histogram(self, number: int, histogram: Histogram, name: str = "histogram") -> None:
        write_histogram(self.iteration(number) / f"{name}.npz", histogram)

    def rehearse(self, number: int, bins: int) -> None:
        """Try whether a histogram of an iteration can be stored; raises RunError."""
        rehearse_histogram(self.iteration(number), bins)

    @contextmanager
    def journals(self, number: int, apis: Sequence[object]) -> Iterator[None]:
        """Lend each metered API the iteration's journal of its own."""
        lent = []
        try:
            for index, api in enumerate(apis):
                if isinstance(api, Metered):
                    journal = Journal(self.iteration(number) / (f"{NAME}-{index}.jsonl" if index else f"{NAME}.jsonl"))
                    lent.append((api, journal))
                    api.record(journal)
            yield
        finally:
            for api, journal in lent:
                api.record(None)
                journal.close()

    def usage(self) -> Usage | None:
        """What metered APIs were asked in all iterations."""
        return usage_of(self.path)

    def releaser(self, account: Purse) -> Releaser:
        """``release`` with a memory: a stored histogram is returned as it is, a new one is stored before use."""
        return remembering(self, account)


class Memory(Protocol):
    """Where histograms are stored, by iteration and name: once, and never replaced."""

    @property
    def path(self) -> Path: ...

    def histogram(self, number: int, name: str = "histogram") -> Histogram | None: ...

    def store_histogram(self, number: int, histogram: Histogram, name: str = "histogram") -> None: ...

    def rehearse(self, number: int, bins: int) -> None:
        """Write and remove what a histogram of so many bins may take; raises RunError where it cannot be stored."""
        ...


def remembering(memory: Memory, account: Purse, order: str = "") -> Releaser:
    """``release`` that returns what is stored as it is, and stores what is new before anyone uses it.

    That it can be stored is tried before the charge, and again before noise is drawn.

    order  digest of all that decides the questions, where these have no digest of their own.
    """

    def release_and_store(votes: Votes, sigma: Fraction, iteration: int, name: str = "histogram") -> Histogram:
        stored = memory.histogram(iteration, name)
        if stored is not None:
            found, wanted = (len(stored.counts), stored.sigma, stored.grid), (votes.bins, sigma, votes.grid)
            if found != wanted:
                raise RunMismatchError(
                    f"{memory.path}: the stored histogram of iteration {iteration} has {found[0]} bins at sigma "
                    f"{float(found[1]):g}, expected {wanted[0]} at {float(wanted[1]):g}."
                )
            return stored
        if order and not votes.question:
            votes.question = sha256(f"{order} {iteration} {name} {votes.purpose}".encode()).hexdigest()
        votes.prepare()
        rehearsal = partial(memory.rehearse, iteration, votes.bins)
        rehearsal()
        histogram = release(votes, sigma, account=account, iteration=iteration, before_draw=rehearsal)
        memory.store_histogram(iteration, histogram, name)
        return histogram

    return release_and_store


def write_histogram(path: Path, histogram: Histogram) -> None:
    """Store a histogram, once; raises RunError where there is one."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        counts=histogram.counts,
        sigma=np.array(str(histogram.sigma)),
        entry=np.array(histogram.entry),
        grid=np.array(histogram.grid),
    )
    with refusals(path):
        private_folder(path.parent)
    write_atomically(path, buffer.getvalue(), once=True)


def rehearse_histogram(folder: Path, bins: int) -> None:
    """Write a file as long as a histogram of so many bins in every way that one is written, and remove it again.

    Raises RunError: where the disk is full, or the folder cannot be written, what was drawn would be lost.
    """
    trial = folder / ".trial"
    with refusals(trial):
        private_folder(folder)
        try:
            trial.unlink(missing_ok=True)
            write_atomically(trial, bytes(8 * bins + OVERHEAD), once=True)
        finally:
            trial.unlink(missing_ok=True)


OVERHEAD = 2**12
"""Bytes of a stored histogram beside its counts, at most."""


def read_histogram(path: Path) -> Histogram | None:
    """A stored histogram, if there is one; raises RunError where it is damaged."""
    if not path.exists():
        return None
    with _undamaged(path), np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
        sigma, grid = Fraction(str(archive["sigma"])), int(archive["grid"])
        return Histogram(archive["counts"], sigma, str(archive["entry"]), grid)


CHANGES = "changes"
"""Under which notes name the settings that changed on resume: after which iteration, and their names."""


class Notes(MutableMapping[str, Any]):
    """A mapping that is stored with every change: plain values, public or made from what was released."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._facts: dict[str, Any] = {}
        if path.exists():
            with _undamaged(path):
                self._facts = dict(json.loads(path.read_text()))

    def __getitem__(self, key: str) -> Any:
        return self._facts[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._facts[key] = value
        self._store()

    def __delitem__(self, key: str) -> None:
        del self._facts[key]
        self._store()

    def __iter__(self) -> Iterator[str]:
        return iter(self._facts)

    def __len__(self) -> int:
        return len(self._facts)

    def _store(self) -> None:
        write_atomically(self.path, json.dumps(self._facts, indent=1).encode())


def _identity(path: Path, config: dict[str, Any], schema: Schema, plan: dict[str, Any]) -> str:
    """The identity of the run in ``path``, after comparing or writing its configuration.

    Another version may make another plan of the same configuration.
    """
    file = path / "run.json"
    if file.exists():
        about = _about(file)
        if about["format"] != FORMAT:
            raise RunMismatchError(
                f"{path} was written in format {about['format']}, this version continues format {FORMAT}: finish it "
                "with the version that began it. Nothing was spent."
            )
        stored = stored_config(path)
        difference = first_difference(mechanism_settings(stored), mechanism_settings(config)) or first_difference(
            _parsed(path / "schema.toml"), tomllib.loads(schema.to_toml())
        )
        begun = any(file.suffix != ".jsonl" for file in path.glob("iterations/*/*"))
        changed = first_difference(mechanism_plan(about["plan"]), mechanism_plan(plan))
        if begun and not difference and changed:
            raise RunMismatchError(
                f"{path} was begun with another plan of its noise: {changed}. Restore the settings, finish it with the "
                "version that began it, or name another run directory. Nothing was spent."
            )
        if not difference and not changed:
            if begun and (names := changed_settings(stored, config)):
                notes = Notes(path / "iterations" / "notes.json")
                done = [int(file.parent.name) for file in path.glob("iterations/*/population.parquet")]
                notes[CHANGES] = [*notes.get(CHANGES, []), {"after": max(done, default=None), "settings": names}]
            if stored != config:
                write_atomically(path / "config.toml", tomli_w.dumps(config).encode())
            if about["plan"] != plan:
                write_atomically(file, json.dumps(about | {"plan": plan}).encode())
            return str(about["run"])
        if begun:
            raise RunMismatchError(
                f"{path} was started with another configuration: {difference}. Restore the setting, or name another "
                "run directory. What an API is asked, and what is made of its answers, may change. Nothing was spent."
            )
    elif any(path.glob("iterations/*/*")) or (path / "released.parquet").exists():
        raise RunError(
            f"{path} holds the iterations of a run and no run.json, which says which run's they are: restore it from a "
            "backup, or name another run directory. Nothing was spent."
        )
    known = {"iterations", "config.toml", "schema.toml", "run.json"}
    strangers = [item.name for item in path.iterdir() if item.name not in known and item.name[0] != "."]
    if strangers:
        raise RunError(f"{path} is no run and not empty (it holds '{strangers[0]}'). Nothing was spent.")
    with refusals(path):
        path.chmod(0o700)
        private_folder(path / "iterations")
        (path / "iterations" / "notes.json").unlink(missing_ok=True)  # of another configuration
    identity = uuid.uuid4().hex
    write_atomically(path / "config.toml", tomli_w.dumps(config).encode())
    write_atomically(path / "schema.toml", schema.to_toml().encode())
    write_atomically(file, json.dumps({"format": FORMAT, "run": identity, "plan": plan}).encode())
    return identity


def _about(file: Path) -> dict[str, Any]:
    """The content of run.json; raises RunError where it is damaged."""
    with _undamaged(file):
        about = json.loads(file.read_text(encoding="utf-8"))
        return {"format": about["format"], "run": str(about["run"]), "plan": dict(about["plan"])}


@contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGES as error:
        raise RunError(
            f"{path} is damaged ({type(error).__name__}): restore it from a backup. A new one would be drawn, and "
            "charged, in a run directory of another name. Nothing was spent by this call."
        ) from None


_DAMAGES = (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile, pa.ArrowException)
"""What readers raise at the content of a file that was whole when it was written."""


def stored_config(path: Path) -> dict[str, Any]:
    """The resolved configuration of a run directory; raises RunError if it is none, or damaged."""
    config = _parsed(path / "config.toml")
    if not all(isinstance(config.get(section), dict) for section in ("private", "privacy", "output")):
        raise RunError(f"{path / 'config.toml'} is damaged: restore it from a backup. Nothing was spent by this call.")
    return config


def _parsed(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError:
        raise RunError(f"{file.parent} is not a run directory: it has no {file.name}. Nothing was spent.") from None
    except ValueError:  # neither UTF-8 nor TOML
        raise RunError(f"{file} is damaged: restore it from a backup. Nothing was spent by this call.") from None
