"""Guarantees per user, from the configuration to the card."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import pe
from pe.cli import main
from pe.errors import ConfigError, LedgerError, PEError, PrivateDataError, SchemaError
from pe.privacy import Adjacency
from pe.privacy.certificate import read_certificate, verify
from pe.privacy.mechanism import DiscreteGaussian
from pe.private.dataset import PrivateDataset

SCHEMA = pe.Schema((pe.Numeric("x", 0, 1), pe.Categorical("kind", ("a", "b"))), "kind")
SECRET = "secret-4711"


def visits(ids: list[Any]) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    return {"x": rng.random(len(ids)), "kind": rng.choice(["a", "b"], len(ids)), "id": ids}


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> list[tuple[DiscreteGaussian, np.ndarray]]:
    """Every mechanism that was charged, with the exact sums it was used on."""
    seen: list[tuple[DiscreteGaussian, np.ndarray]] = []
    original = DiscreteGaussian.add_noise

    def add_noise(self: DiscreteGaussian, counts: np.ndarray) -> np.ndarray:
        seen.append((self, counts.copy()))
        return original(self, counts)

    monkeypatch.setattr(DiscreteGaussian, "add_noise", add_noise)
    return seen


@pytest.fixture
def synthesize(tmp_path: Path) -> Any:
    numbers = iter(range(1000))

    def call(data: Any, **settings: Any) -> pe.Synthetic:
        number = next(numbers)
        keys: dict[str, Any] = {"schema": SCHEMA, "adjacency": "add-remove", "rows": 10, "iterations": 2, "user": "id"}
        keys |= {"epsilon": 2.0, "delta": 1e-5, "create": True, "source": f"s{number}", "run": tmp_path / f"r{number}"}
        return pe.synthesize(data, **keys | settings)

    return call


CONFIG = """
[private]
path = "{data}"
source = "visits"
schema = "schema.toml"
label = "kind"
{user}
[privacy]
epsilon = 1.0
delta = 1e-5
adjacency = "{adjacency}"
{unit}
[api]
kind = "tabular"
[evolution]
iterations = 2
[output]
run = "run"
rows = 10
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "schema.toml").write_text(SCHEMA.with_label(None).to_toml())
    rng = np.random.default_rng(1)
    rows = [f"{rng.random():.3f},{rng.choice(['a', 'b'])},{SECRET} {user}" for user in rng.integers(0, 9, 90)]
    (tmp_path / "visits.csv").write_text("\n".join(["x,kind,who", *rows, ""]))
    return tmp_path


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        main([str(each) for each in arguments])
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


def config(
    project: Path,
    *,
    user: str = 'user = "who"',
    unit: str = 'unit = "user"\nuser_norm = 2.0',
    adjacency: str = "add-remove",
    data: str = "visits.csv",
) -> Path:
    path = project / "pe.toml"
    path.write_text(CONFIG.format(user=user, unit=unit, adjacency=adjacency, data=data))
    return path


@pytest.mark.parametrize("adjacency", ["add-remove", "replace-one"])
def test_from_a_configuration_to_a_card_per_user(
    project: Path, adjacency: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("synthesize", config(project, adjacency=adjacency), "--create", "--json") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["unit"] == "user"
    release = project / "run" / "release"
    certificate = read_certificate(release / "certificate.json")
    assert certificate["claim"]["unit"] == "user"
    assert verify(certificate, folder=release)
    assert any("several user ids" in limit for limit in certificate["not_covered"])
    for row in certificate["entries"]:
        if row["kind"] == "reserve":
            factor = 1 if adjacency == "add-remove" else 2
            assert Fraction(row["sensitivity_squared"]) == factor * 4 * row["grid"] ** 2
    card = (release / "CARD.md").read_text()
    assert "for each user of source `visits`" in card
    assert "any one user" in card
    assert "All records with one user id count as one" in card
    assert ("the number of private users" in card) == (adjacency == "replace-one")
    assert (release / "synthetic.csv").read_text().splitlines()[0] == '"x","kind"'
    written = "".join(path.read_bytes().decode("latin-1") for path in (project / "run").rglob("*") if path.is_file())
    assert SECRET not in written + shown.out + shown.err
    assert command("synthesize", project / "pe.toml") == 0  # once more, free of charge
    assert "DP per user" in capsys.readouterr().out


def test_the_ids_may_be_numbers_or_texts_and_equal_ones_are_one_user(synthesize: Any, exact: Any) -> None:
    """1, 1.0, " 1 " and "1" name the same user; "1 2" and "12" do not."""
    whole = [1, 2, 3, 1] * 20
    for ids in (
        np.array(whole),
        np.array(whole, float),
        np.array([f" {each} " for each in whole]),
        pa.array(whole, pa.int16()),
        pd.Series([1, 2.0, "3", "1 "] * 20),
        pa.array([str(each) for each in whole]).dictionary_encode(),
    ):
        data = visits(whole) | {"id": ids}
        synthesize(pd.DataFrame(data) if isinstance(ids, pd.Series) else data, iterations=1, label_shares="uniform")
    counts = [found.tolist() for _, found in exact]
    assert all(each == counts[0] for each in counts)
    exact.clear()
    for ids in (["1 2", "12"] * 40, ["12", "12"] * 40):
        synthesize(visits(ids), iterations=1, label_shares="uniform")
    (_, two), (_, one) = exact
    assert (two**2).sum() > (one**2).sum()


@pytest.mark.parametrize("adjacency", ["add-remove", "replace-one"])
def test_one_user_who_owns_everything_counts_as_one(synthesize: Any, exact: Any, adjacency: str) -> None:
    made = synthesize(visits(["only"] * 300), adjacency=adjacency)
    assert len(made) == 10
    for mechanism, counts in exact:
        bound = mechanism.sensitivity_squared / (2 if adjacency == "replace-one" else 1)
        assert 0.8 * bound < (counts**2).sum() <= bound


def test_every_record_its_own_user_is_as_good_as_records(synthesize: Any, exact: Any) -> None:
    keys: dict[str, Any] = {"iterations": 1, "label_shares": "uniform", "nearest": 1}
    synthesize(visits(list(range(100))), **keys)
    synthesize(visits(list(range(100))), user=None, **keys)
    (per_user, weighted), (per_record, plain) = exact
    grid = round(float(per_user.sensitivity_squared) ** 0.5)
    assert (weighted == grid * plain).all()
    assert per_user.sigma / grid == pytest.approx(float(per_record.sigma), rel=0.02)  # finer noise costs less


MISSING = {
    "null": pa.array(["1", None] * 10),
    "none": ["1", None] * 10,
    "nan": [1.0, np.nan] * 10,
    "empty": ["1", ""] * 10,
    "blank": ["1", "  "] * 10,
}


@pytest.mark.parametrize("ids", MISSING.values(), ids=MISSING)
def test_a_record_without_a_user_is_a_user_of_its_own(ids: Any) -> None:
    """By a public rule, so that no record can stop a run. The records of the one known user stay together."""
    schema = pe.Schema((pe.Numeric("x", 0, 1),))
    for column in (ids, pa.array(ids, from_pandas=True)):
        data = {"x": np.zeros(20), "id": column}
        private = PrivateDataset.read(data, schema, adjacency=Adjacency.ADD_REMOVE, user="id")
        users = private.users
        assert len(set(users.tolist())) == 11
        assert len(set(users[::2].tolist())) == 1


@pytest.mark.parametrize("line", ["0.5,a,", "0.5,a", "0.5,a,7,8", ',,""', "0.5,a,  "])
def test_a_csv_line_without_a_user_stops_no_run(project: Path, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with (project / "visits.csv").open("a") as file:
        file.write(line + "\n")
    assert command("synthesize", config(project), "--create") == 0
    assert SECRET not in capsys.readouterr().err


def test_a_user_column_that_the_schema_declares_is_refused(synthesize: Any, project: Path) -> None:
    schema = pe.Schema((*SCHEMA.columns, pe.Numeric("id", 0, 9, integer=True)), "kind")
    with pytest.raises(SchemaError, match=r"stands in the schema too.*Nothing was spent"):
        synthesize(visits([1] * 9), schema=schema)
    with pytest.raises(SchemaError, match=r"stands in the schema too.*Nothing was spent"):
        synthesize(visits([1] * 9), user="x")
    with pytest.raises(SchemaError, match=r"no column 'gone'.*Nothing was spent"):
        synthesize(visits([1] * 9), user="gone")


@pytest.mark.parametrize("given", [{"unit": ""}, {"user": ""}])
def test_a_unit_without_a_user_column_and_the_reverse_are_refused(
    project: Path, given: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("synthesize", config(project, **given), "--create") == 2
    assert "set both, or neither" in capsys.readouterr().err
    with pytest.raises(PEError):
        pe.Ledger()


def test_a_source_keeps_its_unit(synthesize: Any) -> None:
    synthesize(visits([1, 2] * 20), source="visits", epsilon=1.0)
    pe.Ledger().grant("visits", 9.0, 1e-5)
    with pytest.raises(LedgerError, match=r"per user.*per record.*Nothing was spent"):
        synthesize(visits([1, 2] * 20), source="visits", user=None)


def test_a_folder_of_images_has_no_users(synthesize: Any, tmp_path: Path) -> None:
    schema = pe.Schema((pe.Image("image", 8, 8), pe.Categorical("kind", ("0", "1"))), "kind")
    (tmp_path / "images" / "0").mkdir(parents=True)
    with pytest.raises(PrivateDataError, match=r"an image folder has no user column\. Nothing was spent"):
        synthesize(tmp_path / "images", schema=schema)


def test_pictures_in_arrays_have_users(synthesize: Any, exact: Any) -> None:
    schema = pe.Schema((pe.Image("image", 8, 8), pe.Categorical("kind", ("0", "1"))), "kind")
    rng = np.random.default_rng(0)
    data = {"image": rng.integers(0, 255, (40, 8, 8), np.uint8), "kind": rng.integers(2, size=40), "id": ["me"] * 40}
    made = synthesize(data, schema=schema, rows=4, iterations=1)
    assert made.certificate["claim"]["unit"] == "user"
    assert all((counts**2).sum() <= mechanism.sensitivity_squared for mechanism, counts in exact)


def test_a_norm_that_is_no_length_is_refused(synthesize: Any) -> None:
    for norm in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="Nothing was spent"):
            synthesize(visits([1] * 9), user_norm=norm)
