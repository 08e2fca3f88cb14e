"""The fence around simulation: seeded noise stays in one place, touches no ledger, and says so wherever it goes."""

from __future__ import annotations

import ast
import json
import math
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from scipy.stats import chisquare

import pe
import pe.session
from pe.cli import main
from pe.errors import BudgetExceededError, CertificateError, PEError, RunError, RunMismatchError
from pe.privacy import Budget, DiscreteGaussian
from pe.privacy.certificate import read_certificate, verify
from pe.privacy.simulation import STAMP, WARNING, SimulatedAccount

ROOT = Path(__file__).parents[2]
BUDGET = Budget(1.0, 1e-5, "add-remove")
MECHANISM = DiscreteGaussian(Fraction(30), Fraction(1))
ZEROS = np.zeros(100, np.int64)
SCHEMA = pe.Schema((pe.Numeric("x", 0, 1), pe.Categorical("kind", ("a", "b"))), "kind")
CLAIM = {"epsilon": 1.0, "delta": 1e-5, "adjacency": "add-remove"}


def reserve(account: SimulatedAccount, iteration: int, mechanism: DiscreteGaussian = MECHANISM) -> str:
    return account.reserve(mechanism, purpose="votes", iteration=iteration, bins=len(ZEROS), grid=1, attempt="a")


def noise(seed: int, iteration: int) -> list[int]:
    account = SimulatedAccount(BUDGET, seed)
    assert reserve(account, iteration) == STAMP
    return account.noisy(MECHANISM, ZEROS).tolist()


# -- the noise -----------------------------------------------------------------------------------------------------


def test_simulated_noise_repeats_and_differs_by_seed_and_iteration() -> None:
    assert noise(7, 1) == noise(7, 1)
    assert len({tuple(noise(seed, iteration)) for seed in range(4) for iteration in range(4)}) == 16


def test_simulated_noise_has_the_distribution_of_the_real_one() -> None:
    sigma, size = Fraction(3), 200_000
    account = SimulatedAccount(BUDGET, 1)
    drawn = account.noisy(DiscreteGaussian(sigma, Fraction(1)), np.zeros(size, np.int64))
    values = np.arange(-30, 31)
    weights = np.exp(-(values**2) / (2 * float(sigma) ** 2))
    inside = np.abs(values) <= 10
    observed = np.array([(drawn == value).sum() for value in values[inside]] + [(np.abs(drawn) > 10).sum()])
    expected = weights / weights.sum() * size
    assert chisquare(observed, np.append(expected[inside], expected[~inside].sum())).pvalue > 1e-6


def test_a_simulation_stops_where_the_budget_would_have() -> None:
    account = SimulatedAccount(BUDGET, 0)
    fitting = int(BUDGET.limit[0] // MECHANISM.mu_squared)
    for iteration in range(fitting):
        reserve(account, iteration)
    with pytest.raises(BudgetExceededError, match="simulated"):
        reserve(account, fitting)


# -- a simulated run -----------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    rows = [f"{x:.3f},{k}" for x, k in zip(rng.random(80), rng.choice(["a", "b"], 80), strict=True)]
    (tmp_path / "data.csv").write_text("\n".join(["x,kind", *rows, ""]))
    (tmp_path / "schema.toml").write_text(SCHEMA.to_toml())
    (tmp_path / "pe.toml").write_text(
        '[private]\npath = "data.csv"\nsource = "people"\nschema = "schema.toml"\n'
        '[privacy]\nepsilon = 1.0\ndelta = 1e-5\nadjacency = "add-remove"\n'
        '[api]\nkind = "tabular"\n[evolution]\niterations = 3\n[output]\nrun = "run"\nrows = 10\n'
    )
    return tmp_path


def simulate(project: Path, **settings: Any) -> pe.Synthetic:
    keys: dict[str, Any] = {"schema": SCHEMA, "source": "people", "rows": 10, "iterations": 3, "run": project / "run"}
    return pe.synthesize(project / "data.csv", **keys | CLAIM | {"simulate": 7} | settings)


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        main([str(each) for each in arguments])
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("how", ["call", "command"])
@pytest.mark.parametrize("existing", [False, True], ids=["no ledger", "a ledger"])
def test_a_simulation_opens_no_ledger_and_no_key(
    project: Path, monkeypatch: pytest.MonkeyPatch, how: str, existing: bool
) -> None:
    home = project / "home"
    if existing:
        pe.Ledger(create=True).create("people", BUDGET)
        assert snapshot(home)
    before = snapshot(home)

    def opened(*_: object, **__: object) -> None:
        pytest.fail("a ledger was opened")

    monkeypatch.setattr(pe.session.Ledger, "__init__", opened)
    monkeypatch.setattr("pe.privacy.ledger.load_key", opened)
    if how == "call":
        assert simulate(project).simulated
    else:
        assert command("simulate", project / "pe.toml", "--seed", "7") == 0
    assert snapshot(home) == before
    assert existing or not home.exists()


def test_a_simulation_repeats_and_differs_by_its_seed(project: Path) -> None:
    one = simulate(project).to_pandas()
    assert simulate(project, run=project / "again").to_pandas().equals(one)
    assert not simulate(project, run=project / "other", simulate=8).to_pandas().equals(one)


def test_every_artefact_of_a_simulation_says_so(project: Path) -> None:
    made = simulate(project, formats=["csv", "jsonl", "parquet"])
    assert made.simulated
    assert (made.epsilon, made.delta) == (math.inf, 1.0)
    assert not (made.run / "release").exists()
    folder = made.run / "simulation"
    names = [path.name for path in folder.iterdir()]
    assert len(names) == 6
    assert all(name.startswith(STAMP) for name in names)
    assert WARNING in (folder / f"{STAMP}-CARD.md").read_text()
    assert "differentially private** for" not in (folder / f"{STAMP}-CARD.md").read_text()
    for number in range(4):
        place = made.run / "iterations" / f"{number:03d}"
        assert pyarrow.parquet.read_schema(place / "population.parquet").metadata[STAMP.encode()] == WARNING.encode()
        with np.load(place / "histogram.npz") as histogram:
            assert str(histogram["entry"]) == STAMP
    assert pyarrow.parquet.read_schema(made.run / "released.parquet").metadata[STAMP.encode()] == WARNING.encode()
    assert "simulate = 7" in (made.run / "config.toml").read_text()
    assert WARNING in made.warnings
    certificate = read_certificate(folder / f"{STAMP}-certificate.json")
    assert certificate["simulated"] is True
    assert {"claim", "entries", "head", "spent"}.isdisjoint(certificate)


def test_its_certificate_never_verifies(project: Path) -> None:
    made = simulate(project)
    with pytest.raises(CertificateError, match="simulation"):
        verify(made.certificate, folder=made.run / "simulation")
    assert command("budget", "verify", made.run / "simulation" / f"{STAMP}-certificate.json", "--offline") == 1
    with pytest.raises(CertificateError):  # nor with the mark taken off
        verify({key: value for key, value in made.certificate.items() if key != "simulated"})


def test_the_command_says_so_too(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("simulate", project / "pe.toml") == 0
    shown = capsys.readouterr()
    assert "none: simulated noise" in shown.out
    assert WARNING in " ".join(shown.err.split())
    assert command("simulate", project / "pe.toml", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["simulated"] is True
    assert "epsilon" not in facts
    assert facts["run"].endswith("run-simulated")
    assert all(Path(name).name.startswith(STAMP) for name in facts["files"])


def test_its_records_are_written_only_to_files_that_say_so(project: Path, tmp_path: Path) -> None:
    for made in (simulate(project), pe.load(project / "run")):
        assert made.simulated
        for write in (made.to_csv, made.to_jsonl, made.to_parquet):
            with pytest.raises(RunError, match=STAMP):
                write(tmp_path / "out")
            write(tmp_path / f"{STAMP}-out")
            assert not (tmp_path / "out").exists()
        written = made.export(["jsonl"], tmp_path / "handed-out")
        assert all(path.name.startswith(STAMP) for path in written)
        assert command("export", made.run, "--format", "jsonl", "--to", tmp_path / "exported") == 0
        assert all(path.name.startswith(STAMP) for path in (tmp_path / "exported").iterdir())


def test_a_simulation_that_was_interrupted_goes_on_to_the_same_end(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = simulate(project, run=project / "whole")
    seen: list[int] = []

    def interrupt(session: Any) -> None:
        seen.append(-1 if session.generation is None else session.generation.iteration)
        if seen[-1] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(project, progress=interrupt)
    resumed = simulate(project)
    assert resumed.certificate["iterations"] == {"completed": 3, "planned": 3}
    assert resumed.to_pandas().equals(whole.to_pandas())
    assert resumed.certificate["would_spend"] == whole.certificate["would_spend"]


@pytest.mark.parametrize("first", [7, None], ids=["simulated", "real"])
def test_simulated_and_real_runs_do_not_continue_each_other(project: Path, first: int | None) -> None:
    simulate(project, simulate=first, create=True)
    before = snapshot(project / "run")
    with pytest.raises(RunMismatchError, match=r"privacy\.simulate"):
        simulate(project, simulate=7 if first is None else None, create=True)
    with pytest.raises(RunMismatchError, match=r"privacy\.simulate"):
        simulate(project, simulate=8, create=True)
    assert snapshot(project / "run") == before


def test_a_simulation_whose_settings_were_edited_into_real_ones_is_refused(project: Path) -> None:
    """Its histograms name no charge of the ledger."""
    simulate(project)
    shutil.rmtree(project / "run" / "simulation")
    config = project / "run" / "config.toml"
    config.write_text(config.read_text().replace("simulate = 7\n", ""))
    with pytest.raises(PEError, match=r"not charged to this run.*Nothing was spent"):
        simulate(project, simulate=None, create=True)
    assert not (project / "run" / "release").exists()


# -- the source ----------------------------------------------------------------------------------------------------


def names(path: Path) -> set[str]:
    """Every name, attribute and import in a file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {alias.name.split(".")[-1] for alias in node.names}
    return found


def using(*wanted: str, within: str) -> set[str]:
    files = [path for folder in within.split() for path in sorted((ROOT / folder).rglob("*.py"))]
    assert files
    return {path.resolve().relative_to(ROOT).as_posix() for path in files if names(path) & set(wanted)}


def test_only_the_sampler_and_the_simulation_draw_noise_from_given_bytes() -> None:
    found = using("draw_from", within="pe apis embedders flows kernels")
    assert found == {"pe/privacy/discrete_gaussian.py", "pe/privacy/simulation.py"}


def test_the_privacy_core_has_seeds_in_the_simulation_alone() -> None:
    generators = ("random", "default_rng", "Generator", "RandomState", "SeedSequence", "PCG64", "Random")
    assert using(*generators, within="pe/privacy") == {"pe/privacy/simulation.py"}


def test_real_noise_comes_from_the_operating_system() -> None:
    assert using("urandom", within="pe apis embedders flows kernels") == {"pe/privacy/discrete_gaussian.py"}
