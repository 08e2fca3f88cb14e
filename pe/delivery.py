"""What leaves a run: the released records, their files, and the folder that holds them."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pe.data.arrays import to_numpy
from pe.data.pictures import contact_page
from pe.data.population import Population
from pe.data.schema import Image, Numeric, Schema
from pe.data.steps import round_to_steps
from pe.errors import CertificateError, LedgerError, RunError
from pe.evolution.select import apportion
from pe.export import Files, check_formats, export, records
from pe.files import refusals, write_atomically
from pe.journal import Usage, usage_of
from pe.privacy.certificate import certificate_bytes, digests, issue, read_certificate, verify
from pe.privacy.ledger import Ledger, default_path
from pe.privacy.simulation import STAMP

SIMULATED_CERTIFICATE = f"{STAMP}-certificate.json"

RELEASED = "released.parquet"
"""The released records in the run's directory, which every export is made from."""


_ROW_ORDER = 0x524F5753
"""Keeps the order of rows apart from all else that a run draws from its seed."""


def released(population: Population, shares: NDArray[np.float64], rows: int, seed: int) -> Population:
    """The records to hand out: per label the first of the population (kept parents stand before their variations).

    Shuffled by the run's public seed, so that whoever takes the first rows gets all labels, and the same rows every
    time: the order follows from how many records there are and says nothing about them.
    """
    sizes = apportion(rows, shares)
    chosen = [np.flatnonzero(population.labels == label)[:size] for label, size in enumerate(sizes)]
    order = np.random.default_rng([seed, _ROW_ORDER]).permutation(np.concatenate(chosen).astype(np.int64))
    return population.take(order)


def on_steps(population: Population, schema: Schema) -> Population:
    """The same records, every number a multiple of its column's declared step."""
    records = round_to_steps(population.records, schema, np.random.default_rng(0))
    return replace(population, records=records)


def public_files(population: Population, schema: Schema, formats: Iterable[str]) -> Files:
    """Data files, schema, and a contact sheet for images."""
    files = export(population, schema, formats) | {"schema.toml": schema.to_toml().encode()}
    if schema.image is not None:
        pixels = to_numpy(population.records, schema.image)
        files["contact_sheet.html"] = contact_page(pixels, population.labels, schema.labels).encode()
    return files


def examples(population: Population, schema: Schema, count: int = 10) -> list[tuple[str, str]]:
    """Label and text of the first released records, the labels in turn; nothing for a schema without a text."""
    if schema.text is None:
        return []
    turns = np.zeros(len(population), np.int64)
    for label in range(len(schema.labels)):
        own = population.labels == label
        turns[own] = np.arange(own.sum())
    chosen = np.argsort(turns, kind="stable")[:count]
    texts = to_numpy(population.records.take(pa.array(chosen)), schema.text)
    return [(schema.labels[label], text) for label, text in zip(population.labels[chosen], texts, strict=True)]


def data_digests(records: bytes, schema: bytes) -> dict[str, str]:
    """What a release entry says of the data that files are exported from: the stored records, and their schema."""
    return {RELEASED: sha256(records).hexdigest(), "schema.toml": sha256(schema).hexdigest()}


def release_folder(run: Path, certificate: Mapping[str, Any]) -> Path:
    """Where a run's release lies: simulated data never in a folder that says "release"."""
    return run / ("simulation" if certificate.get("simulated") else "release")


def with_certificate(files: Files, certificate: Mapping[str, Any]) -> Files:
    """The files, and the certificate that names them."""
    return {**files, "certificate.json": certificate_bytes(certificate)}


def stamped(files: Files, certificate: dict[str, Any]) -> Files:
    """The files of a simulation, whose names say so, with what stands in a certificate's place."""
    named = {f"{STAMP}-{name}": content for name, content in files.items()}
    certificate["files"] = certificate["files"] | digests(named)
    return named | {SIMULATED_CERTIFICATE: certificate_bytes(certificate)}


def rehearse_release(run: Path) -> None:
    """Try whether a release can be put into a run directory; raises RunError."""
    for name in ("release", "simulation"):
        refuse_foreign(run / name)
    trial, moved = run / ".release.trial", run / ".release.moved"
    with refusals(trial):
        for folder in (trial, moved):
            shutil.rmtree(folder, ignore_errors=True)
        trial.mkdir()
        (trial / "file").write_bytes(bytes(2**12))
        trial.rename(moved)
        shutil.rmtree(moved)


def refuse_foreign(folder: Path) -> None:
    """Raise RunError unless a release may take a folder's place: it is not there, or a folder and no link to one."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        kind = "a link" if folder.is_symlink() else "a file"
        raise RunError(f"{folder} is {kind}, and a release takes the place of a folder: move it away.")


def replace_folder(folder: Path, files: Files) -> None:
    """Write all files into a new folder and put it in the old one's place."""
    draft, old = folder.with_name(f".{folder.name}.draft"), folder.with_name(f".{folder.name}.old")
    refuse_foreign(folder)
    with refusals(folder):
        for leftover in (draft, old):
            shutil.rmtree(leftover, ignore_errors=True)
        for name, content in files.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            (draft / name).write_bytes(content)
        if folder.exists():
            folder.rename(old)
        draft.rename(folder)
        shutil.rmtree(old, ignore_errors=True)


@dataclass(frozen=True)
class Synthetic:
    """A synthetic data set with its certificate.

    ``run`` is the run directory; ``stopped`` says why the run ended before its last iteration, empty if it did not;
    ``usage`` is what a metered API was asked, over all attempts. ``ledger`` is the one that was charged, if
    it is known.
    """

    population: Population = field(repr=False)
    schema: Schema = field(repr=False)
    certificate: dict[str, Any] = field(repr=False)
    run: Path
    stopped: str = ""
    warnings: tuple[str, ...] = ()
    usage: Usage | None = None
    ledger: Path | None = None

    @property
    def simulated(self) -> bool:
        """Whether the noise was simulated: then nothing here is private."""
        return bool(self.certificate.get("simulated"))

    @property
    def epsilon(self) -> float:
        """The certified epsilon: the budget fixed beforehand. Infinite after a simulation."""
        return math.inf if self.simulated else float(self.certificate["claim"]["epsilon"])

    @property
    def delta(self) -> float:
        return 1.0 if self.simulated else float(self.certificate["claim"]["delta"])

    def __len__(self) -> int:
        return len(self.population)

    def to_arrow(self) -> pa.Table:
        """Arrow table of all declared columns; categories are dictionaries, ordered where the column is an ordinal."""
        return records(self.population, self.schema)

    def to_pandas(self) -> Any:
        return self.to_arrow().to_pandas()

    def to_numpy(self, column: str) -> NDArray[Any]:
        """One column: numbers (n,), images uint8 (n, height, width, channels), categories and texts as strings (n,).

        Dates are datetime64, booleans truth values. With missing values: NaN among numbers, NaT among dates, None among
        the others (object).
        """
        declared = self.schema.column(column)
        if isinstance(declared, Image):
            return to_numpy(self.population.records, declared)
        values = self.to_arrow().column(column)
        if isinstance(declared, Numeric):
            found: NDArray[Any] = values.to_numpy()
        else:
            found = np.array(values.to_pylist(), object if values.null_count else None)
        return found

    def to_csv(self, path: str | Path) -> None:
        self._write("csv", "synthetic.csv", path)

    def to_jsonl(self, path: str | Path) -> None:
        self._write("jsonl", "synthetic.jsonl", path)

    def to_parquet(self, path: str | Path) -> None:
        self._write("parquet", "synthetic.parquet", path)

    def export(
        self, formats: Iterable[str], to: str | Path | None = None, *, ledger: str | Path | None = None
    ) -> list[Path]:
        """Write further formats into the run's release folder, or with certificate and card into the folder ``to``.

        What is exported is what the run's release entry in the ledger names, by its digest, whatever this object holds;
        the files are entered in turn. ``ledger`` is where, by default the one that was charged, or the user's. Free of
        charge. Raises CertificateError where the release or the records behind it were changed, LedgerError where the
        ledger is not at hand. ``to_csv`` and its siblings write records alone, without a certificate.
        """
        formats = list(formats)
        check_formats(formats, self.schema)
        source = release_folder(self.run, self.certificate)
        if self.simulated:
            files = public_files(self.population, self.schema, formats)
            certificate = dict(self.certificate)
            if to is not None:
                files["CARD.md"] = (source / f"{STAMP}-CARD.md").read_bytes()
                certificate["files"] = {}
            files = stamped(files, certificate)
        else:
            files = self._certified(formats, source, to is None, ledger)
        folder = source if to is None else Path(to)
        with refusals(folder):
            for name, content in files.items():  # the certificate last
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
        return [folder / name for name in sorted(files)]

    def _certified(self, formats: list[str], source: Path, within: bool, ledger: str | Path | None) -> Files:
        """Exported files with a certificate, issued anew; ``within`` the release it names those that lie there, too."""
        place = Path(ledger) if ledger is not None else self.ledger or default_path()
        if not place.exists():
            raise LedgerError(
                f"an export is certified by the ledger that was charged, and there is none at {place}: name it "
                "(--ledger, PE_LEDGER). Nothing was written."
            )
        book = Ledger(place)
        certificate = read_certificate(source / "certificate.json")
        verify(certificate, folder=source, ledger=book)
        with refusals(self.run):
            content, schema = (self.run / RELEASED).read_bytes(), (self.run / "schema.toml").read_bytes()
        if data_digests(content, schema) != certificate["data"]:
            raise CertificateError(
                f"{self.run / RELEASED}, or the schema beside it, is not what the release entry in the ledger names: "
                "restore both, or finish the run again with 'pe resume'. Nothing was written."
            )
        declared = Schema.read(self.run / "schema.toml")
        population = Population.from_table(pa.parquet.read_table(pa.BufferReader(content)), declared)
        files = public_files(population, declared, formats)
        if not within:
            files["CARD.md"] = (source / "CARD.md").read_bytes()
        named = (certificate["files"] if within else {}) | digests(files)
        return with_certificate(files, issue(book, certificate, files=named, data=certificate["data"]))

    def _write(self, format: str, name: str, path: str | Path) -> None:
        if self.simulated and not Path(path).name.startswith(STAMP):
            raise RunError(f"a simulation is written only to files whose names begin with '{STAMP}', got '{path}'.")
        write_atomically(Path(path), export(self.population, self.schema, [format])[name])


def load(run: str | Path) -> Synthetic:
    """The released data set of a finished run, from its directory alone; raises RunError if there is none."""
    for certificate in (Path(run) / "release" / "certificate.json", Path(run) / "simulation" / SIMULATED_CERTIFICATE):
        if certificate.exists():
            break
    else:
        raise RunError(f"{run} holds no release: 'pe resume {run}' finishes the run. Nothing was spent.")
    schema = Schema.read(Path(run) / "schema.toml")
    population = Population.from_table(pa.parquet.read_table(Path(run) / RELEASED), schema)
    return Synthetic(population, schema, read_certificate(certificate), Path(run), usage=usage_of(Path(run)))
