"""What a run hands out is entered in its ledger: repeated, exported, and never for anything else."""

from __future__ import annotations

import json
import os
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pe
from pe.cli import main
from pe.errors import CertificateError, LedgerError, RunError
from pe.privacy import standalone
from pe.privacy.certificate import read_certificate, verify
from pe.privacy.ledger import releases

SCHEMA = pe.Schema((pe.Numeric("x", 0, 1), pe.Categorical("kind", ("a", "b"))), label="kind")


def synthesize(tmp_path: Path, **how: Any) -> pe.Synthetic:
    rng = np.random.default_rng(1)
    table = pa.table({"x": rng.beta(2, 8, 150), "kind": rng.choice(["a", "b"], 150)})
    budget = {"epsilon": 2.0, "delta": 1e-5, "adjacency": "replace-one", "create": True}
    settings = {"api": "tabular", "iterations": 1, "rows": 20, "formats": ["csv"], "run": tmp_path / "run"} | how
    return pe.synthesize(table, schema=SCHEMA, source="p", **budget, **settings)


def entries(run: str) -> int:
    return len(releases(pe.Ledger().chain("p"), run))


def holds(folder: Path) -> dict[str, Any]:
    certificate = read_certificate(folder / "certificate.json")
    assert verify(certificate, folder=folder, ledger=pe.Ledger())
    assert standalone.main([str(folder / "certificate.json")]) == 0
    return certificate


def test_a_release_is_entered_once_and_its_exports_in_turn(tmp_path: Path) -> None:
    made = synthesize(tmp_path)
    release, run = tmp_path / "run" / "release", made.certificate["run"]
    first = holds(release)
    stored = sha256((tmp_path / "run" / "released.parquet").read_bytes()).hexdigest()
    assert first["data"]["released.parquet"] == stored
    assert "CARD.md" in first["files"]
    content = (release / "certificate.json").read_bytes()
    synthesize(tmp_path)
    assert (release / "certificate.json").read_bytes() == content
    assert entries(run) == 1

    pe.load(tmp_path / "run").export(["jsonl"])
    second = holds(release)
    assert second["files"].keys() == first["files"].keys() | {"synthetic.jsonl"}
    assert second["data"] == first["data"]
    made.export(["parquet"], tmp_path / "out")
    assert holds(tmp_path / "out")["files"].keys() == {"synthetic.parquet", "schema.toml", "CARD.md"}
    holds(release)  # still
    assert entries(run) == 3
    made.export(["parquet"], tmp_path / "out")
    assert entries(run) == 3


def test_an_export_of_what_the_ledger_did_not_name_is_refused(tmp_path: Path) -> None:
    made = synthesize(tmp_path)
    stored = tmp_path / "run" / "released.parquet"
    content, before = stored.read_bytes(), entries(made.certificate["run"])
    table = pq.read_table(stored)
    pq.write_table(table.slice(0, 5), stored)
    loaded = pe.load(tmp_path / "run")
    with pytest.raises(
        CertificateError, match=r"is not what the release entry in the ledger names.*Nothing was written"
    ):
        loaded.export(["jsonl"], tmp_path / "out")
    stored.write_bytes(content)
    # nor is an object trusted that holds other records than the run
    other = pe.load(tmp_path / "run")
    object.__setattr__(other, "population", other.population.take(np.zeros(3, np.int64)))
    other.export(["jsonl"], tmp_path / "out")
    assert len((tmp_path / "out" / "synthetic.jsonl").read_text().splitlines()) == 20

    release = tmp_path / "run" / "release"
    (release / "synthetic.csv").write_text("x,kind\n0,a\n")
    with pytest.raises(CertificateError, match="is missing or was changed"):
        loaded.export(["jsonl"])
    forged = json.loads((release / "certificate.json").read_text())
    forged["claim"]["epsilon"] = 0.001
    (release / "certificate.json").write_text(json.dumps(forged))
    with pytest.raises(CertificateError, match="claim is not what its release entry"):
        loaded.export(["jsonl"], tmp_path / "other")
    assert not (tmp_path / "other").exists()
    assert entries(made.certificate["run"]) == before + 1


def test_an_export_without_its_ledger_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synthesize(tmp_path)
    monkeypatch.setenv("PE_LEDGER", str(tmp_path / "none.sqlite3"))
    with pytest.raises(LedgerError, match=r"there is none at .*name it \(--ledger, PE_LEDGER\)\. Nothing was written"):
        pe.load(tmp_path / "run").export(["jsonl"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    pe.load(tmp_path / "run").to_jsonl(tmp_path / "plain.jsonl")  # records alone, without a certificate


@pytest.mark.parametrize("kept", ["population.parquet", "histogram.npz"])
def test_a_folder_that_lost_its_run_json_is_no_new_run(tmp_path: Path, kept: str) -> None:
    """Three such "runs" would each claim one budget for what rests on three."""
    synthesize(tmp_path)
    run = tmp_path / "run"
    (run / "run.json").unlink()
    shutil.rmtree(run / "release")
    (run / "released.parquet").unlink()
    for path in run.glob("iterations/*/*"):
        if path.name != kept:
            path.unlink()
    before = len(pe.Ledger().chain("p"))
    with pytest.raises(RunError, match=r"holds the iterations of a run and no run\.json.*Nothing was spent"):
        synthesize(tmp_path)
    assert len(pe.Ledger().chain("p")) == before


def test_signed_releases_are_checked_against_the_public_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as done:
            main([str(each) for each in arguments])
        shown = capsys.readouterr()
        return int(done.value.code or 0), shown.out + shown.err

    synthesize(tmp_path)
    proof = tmp_path / "run" / "release" / "certificate.json"
    code, shown = run("budget", "verify", proof)
    assert (code, "unsigned: as far as the issuer's ledger is to be believed" in shown) == (0, True)
    code, shown = run("budget", "sign-key", "--json")
    key = json.loads(shown)
    assert run("budget", "sign-key", "--json") == (0, shown)
    code, shown = run("budget", "verify", proof, "--public-key", key["file"])
    assert (code, "is not signed" in shown) == (1, True)
    synthesize(tmp_path)
    code, shown = run("budget", "verify", proof, "--public-key", key["file"])
    assert (code, f"signed with the Ed25519 key {key['public_key']}: the key given" in shown) == (0, True), shown
    assert standalone.main([str(proof), "--public-key", key["file"]]) == 0


@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_a_run_is_private_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        synthesize(tmp_path)
    finally:
        os.umask(before)
    run = tmp_path / "run"
    private = [run, run / "iterations", *run.glob("iterations/*/")]
    assert {path.stat().st_mode & 0o777 for path in private} == {0o700}
