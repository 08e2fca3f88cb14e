"""Faults 14 to 18, 21, 22, 24 and 26: what the private data can move, and what of them is stored."""

from __future__ import annotations

import ast
import json
import sys
import types
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

import pe
import pe.evolution.loop
import pe.private.embedding
import pe.private.vote
from pe.apis.tabular import TabularAPI
from pe.data.arrays import to_numpy, to_table
from pe.embedders.tabular import TabularEmbedder
from pe.errors import ConfigError, PEError
from pe.privacy import discrete_gaussian
from pe.privacy.mechanism import DiscreteGaussian
from pe.private.dataset import PrivateDataset

ROOT = Path(__file__).parents[2]
SCHEMA = pe.Schema((pe.Numeric("x", 0, 10), pe.Numeric("y", 0, 10), pe.Categorical("kind", ("a", "b", "c"))), "kind")
BUDGET = {"epsilon": 2.0, "delta": 1e-5, "create": True}


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> list[tuple[DiscreteGaussian, np.ndarray]]:
    """What was charged, and the exact sums that the noise was added to, of every release of this process."""
    seen: list[tuple[DiscreteGaussian, np.ndarray]] = []
    original = DiscreteGaussian.add_noise

    def add_noise(self: DiscreteGaussian, counts: np.ndarray) -> np.ndarray:
        seen.append((self, counts.copy()))
        return original(self, counts)

    monkeypatch.setattr(DiscreteGaussian, "add_noise", add_noise)
    return seen


@pytest.fixture
def synthesize(tmp_path: Path) -> Callable[..., pe.Synthetic]:
    numbers = iter(range(1000))

    def call(data: Any, **settings: Any) -> pe.Synthetic:
        number = next(numbers)
        keys = {"schema": SCHEMA, "adjacency": "add-remove", "rows": 12, "iterations": 2, "source": f"s{number}"}
        return pe.synthesize(data, **keys | BUDGET | {"run": tmp_path / f"run{number}"} | settings)

    return call


def points(n: int = 90, kinds: str = "abc") -> dict[str, Any]:
    rng = np.random.default_rng(3)
    return {"x": rng.uniform(0, 10, n), "y": rng.uniform(0, 10, n), "kind": rng.choice(list(kinds), n)}


def kind(monkeypatch: pytest.MonkeyPatch, thing: type) -> str:
    """The kind under which a configuration finds a class of this test."""
    module = types.ModuleType(f"planted_{thing.__name__.lower()}")
    setattr(module, thing.__name__, thing)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return f"{module.__name__}:{thing.__name__}"


# -- 14, 15: what is charged is what is done -----------------------------------------------------------------------


def test_fault_14_the_sigma_that_was_charged_is_the_sigma_of_the_noise(
    synthesize: Any, exact: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Charge and noise come from one object; the sampler, the ledger and the stored histogram name one scale."""
    drawn, sample = [], discrete_gaussian.sample

    def sampled(sigma: Fraction, size: int) -> np.ndarray:
        drawn.append((str(sigma), size))
        return sample(sigma, size)

    monkeypatch.setattr(discrete_gaussian, "sample", sampled)
    made = synthesize(points(), iterations=3, vote_weights=[1.0, 0.5], budget_weights=[1.0, 2.0, 3.0])
    rows = [row for row in made.certificate["entries"] if row["kind"] == "reserve"]
    assert len(rows) == 4
    assert drawn == [(row["sigma"], row["bins"]) for row in rows]
    assert [str(mechanism.sensitivity_squared) for mechanism, _ in exact] == [
        row["sensitivity_squared"] for row in rows
    ]
    for row in rows:
        with np.load(made.run / "iterations" / f"{row['iteration']:03d}" / "histogram.npz") as stored:
            assert Fraction(str(stored["sigma"])) * int(stored["grid"]) == Fraction(row["sigma"])
            assert str(stored["entry"]) == row["hash"]


@pytest.mark.parametrize("adjacency", ["add-remove", "replace-one"])
@pytest.mark.parametrize("weights", [[1.0], [1.0, 1.0, 1.0], [1.0, 0.5, 0.3]], ids=str)
@pytest.mark.parametrize("norm", [None, 1.0, 3.0])
def test_fault_15_one_units_votes_stay_within_what_is_charged(
    synthesize: Any, exact: Any, adjacency: str, weights: list[float], norm: float | None
) -> None:
    """The whole data set is one unit: a record, or a user who owns many records of every label."""
    data = points(200) if norm else points(1)
    if norm:
        data["id"] = np.zeros(200, np.int64)
    who = {"user": "id", "user_norm": norm} if norm else {}
    synthesize(data, adjacency=adjacency, vote_weights=weights, **who)
    assert len(exact) == 3  # label counts and two votes
    for mechanism, counts in exact:
        most = mechanism.sensitivity_squared / (2 if adjacency == "replace-one" else 1)
        assert 0 < (counts**2).sum() <= most


# -- 16, 17: whatever a record is, the others' votes stand ---------------------------------------------------------


class Fragile(TabularEmbedder):
    """Returns NaN for records with x above 9, infinity above 8 and raises above 7."""

    def __init__(self, schema: pe.Schema) -> None:
        super().__init__(schema)
        self._x = schema.columns[0]

    def embed(self, table: pa.Table) -> np.ndarray:
        x = to_numpy(table, self._x)
        private = (x * 1000) % 1 == 0  # candidates are drawn from the reals
        if (private & (x > 7) & (x <= 8)).any():
            raise ValueError("no")
        vectors = super().embed(table).copy()
        vectors[private & (x > 9)] = np.nan
        vectors[private & (x > 8) & (x <= 9)] = np.inf
        return vectors


@pytest.mark.parametrize("x", [7.5, 8.5, 9.5], ids=["raises", "infinity", "nan"])
def test_fault_16_a_record_that_cannot_be_embedded_gets_the_default_vote_and_no_other_vote_moves(
    synthesize: Any, exact: Any, monkeypatch: pytest.MonkeyPatch, x: float
) -> None:
    data = points(60)
    data["x"] = np.round(data["x"] * 0.69, 3)
    fragile = {"embedder": kind(monkeypatch, Fragile), "iterations": 1, "label_shares": "uniform", "nearest": 1}
    synthesize(data, **fragile)
    more = {"x": np.append(data["x"], [x] * 2), "y": np.append(data["y"], [1, 2]), "kind": np.append(data["kind"], "b")}
    more["kind"] = np.append(more["kind"], "b")
    made = synthesize(more, **fragile)
    (_, before), (_, after) = exact
    labels = pe.Population.from_table(
        pa.parquet.read_table(made.run / "iterations" / "000" / "population.parquet"), SCHEMA
    ).labels
    expected = np.zeros(len(before), np.int64)
    expected[np.flatnonzero(labels == 1)[0]] = 2
    assert (after - before).tolist() == expected.tolist()


@pytest.mark.parametrize("shares", ["uniform", [1, 0, 1], {"budget_share": 0.1}], ids=str)
@pytest.mark.parametrize(
    "kinds",
    [[], ["a"], ["a"] * 50 + ["b"], ["undeclared"] * 30, ["a", None, ""] * 10],
    ids=["no records", "one record", "a rare class", "an undeclared class", "missing classes"],
)
def test_fault_17_no_class_of_the_private_data_can_stop_a_run(
    synthesize: Any, exact: Any, kinds: list[str | None], shares: Any
) -> None:
    n = len(kinds)
    data = pa.table(
        {"x": pa.array(np.linspace(0, 9, n)), "y": pa.array(np.zeros(n)), "kind": pa.array(kinds, pa.string())}
    )
    made = synthesize(data, label_shares=shares, nearest=1)
    assert len(made) == 12
    assert all(counts.sum() == n for _, counts in exact)  # no record is dropped
    assert set(made.to_numpy("kind")) <= {"a", "b", "c"}


# -- 18: nothing is learned from the private data without a charge -------------------------------------------------


def test_fault_18_a_schema_is_declared_and_never_inferred() -> None:
    with pytest.raises(ConfigError, match="expected a schema, or text="):
        pe.synthesize(pa.table({"x": [1.0]}), source="points", epsilon=1.0, delta=1e-6, adjacency="add-remove")
    texts = pa.table({"text": ["a"], "stars": ["1"]})
    privacy = {"epsilon": 1.0, "delta": 1e-6, "adjacency": "add-remove"}
    with pytest.raises(PEError, match="must be declared"):
        pe.synthesize(texts, source="texts", text="text", label="stars", api="ngram:public.txt", **privacy)
    drafting = {path.relative_to(ROOT).as_posix() for path, names in _imports() if "pe.data.draft" in names}
    assert drafting == {"pe/cli/init.py"}  # which is told a sample that is declared public


def test_fault_18_categories_and_bounds_come_from_the_schema_and_label_shares_from_a_charge(
    synthesize: Any, tmp_path: Path
) -> None:
    extreme = {"x": np.array([-1e300, 977.0, 1e300] * 30), "y": np.full(90, np.inf), "kind": ["fourth"] * 90}
    made = synthesize(extreme)
    assert ((made.to_numpy("x") >= 0) & (made.to_numpy("x") <= 10)).all()
    assert set(made.to_numpy("kind")) <= {"a", "b", "c"}
    bought = [row["purpose"] for row in made.certificate["entries"] if row["kind"] == "reserve"]
    assert bought == ["label counts", "votes", "votes"]
    ordinary = synthesize(points())
    assert (made.run / "release" / "schema.toml").read_text() == (ordinary.run / "release" / "schema.toml").read_text()


@pytest.mark.parametrize("shares", ["uniform", [1, 2, 3]], ids=str)
def test_fault_18_declared_shares_count_no_labels(
    synthesize: Any, monkeypatch: pytest.MonkeyPatch, shares: Any
) -> None:
    monkeypatch.setattr(pe.evolution.loop, "count_labels", lambda *_: pytest.fail("the labels were counted"))
    one = synthesize(points(kinds="a"), label_shares=shares)
    other = synthesize(points(kinds="bc"), label_shares=shares)
    assert np.bincount(one.population.labels).tolist() == np.bincount(other.population.labels).tolist()
    assert {row["purpose"] for row in one.certificate["entries"] if row["kind"] == "reserve"} == {"votes"}


# -- 21, 22, 26: what a run stores ---------------------------------------------------------------------------------


def test_fault_21_exact_votes_and_embeddings_are_in_no_file(
    synthesize: Any, exact: Any, contents: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded: list[np.ndarray] = []
    rows = pe.private.embedding.embed_rows

    def embed(table: pa.Table, embedder: Any) -> np.ndarray:
        vectors = rows(table, embedder)
        embedded.append(vectors)
        return vectors

    monkeypatch.setattr(pe.private.embedding, "embed_rows", embed)
    made = synthesize(points(500), formats=["csv", "jsonl", "parquet", "hf"])
    assert len(embedded) == 1
    integers = np.rint(embedded[0] * TabularEmbedder(SCHEMA).scale)
    secrets = [counts for _, counts in exact] + [embedded[0], embedded[0][7], integers, integers[7]]
    kinds = [np.dtype(f"{order}{name}") for order in "<>" for name in ("i2", "i4", "i8", "f4", "f8")]
    needles = {array.astype(dtype).tobytes() for array in secrets for dtype in kinds}
    needles |= {json.dumps(counts.tolist())[1:-1].encode() for _, counts in exact}
    needles |= {",".join(map(str, counts.tolist())).encode() for _, counts in exact}
    needles = {needle for needle in needles if len(needle) >= 24 and len(set(needle)) > 6}
    assert len(needles) > 30
    searched = list(contents(tmp_path))
    assert any("histogram.npz/counts" in name for name, _ in searched)
    for name, content in searched:
        assert not any(needle in content for needle in needles), name
    with np.load(made.run / "iterations" / "001" / "histogram.npz") as stored:  # the search does find such bytes
        assert any(stored["counts"].tobytes() in content for _, content in searched)


def test_fault_22_everything_in_the_release_is_certified_and_nothing_else_lies_there(synthesize: Any) -> None:
    """Whatever else is computed, on private data say, has no place there: the next release throws it out."""
    keys = {"label_shares": "uniform", "source": "s", "create": True}
    made = synthesize(points(), **keys)
    release = made.run / "release"
    (release / "metrics.json").write_text("{}")
    made = synthesize(points(), run=made.run, **keys)
    files = {path.relative_to(release).as_posix() for path in release.rglob("*") if path.is_file()}
    assert files == {*made.certificate["files"], "certificate.json"}
    assert "metrics.json" not in files
    assert files == {"CARD.md", "certificate.json", "schema.toml", "synthetic.csv", "synthetic.parquet"}


def _imports() -> Iterator[tuple[Path, set[str]]]:
    for path in _sources():
        names = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
        yield path, names


def _sources() -> list[Path]:
    folders = [ROOT / name for name in ("pe", "apis", "embedders", "flows", "kernels")]
    found = {path.resolve() for folder in folders for path in folder.rglob("*.py")}
    assert len(found) > 50
    return sorted(found)


def test_fault_26_nothing_is_unpickled() -> None:
    """Neither pickle and its kin, nor a loader that may unpickle without being told not to."""
    pickling = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for path, names in _imports():
        assert not {name.split(".")[0] for name in names} & pickling, path
    for path in _sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            told = {keyword.arg: getattr(keyword.value, "value", None) for keyword in node.keywords}
            where = f"{path}:{node.lineno}"
            assert told.get("allow_pickle") in (None, False), where
            owner = getattr(node.func.value, "id", "")
            if node.func.attr == "load" and owner in ("np", "numpy"):
                assert told.get("allow_pickle") is False, where
            if node.func.attr == "load" and owner == "torch":
                assert told.get("weights_only") is True, where
            assert node.func.attr not in ("read_pickle", "to_pickle"), where


def test_fault_26_a_run_directory_holds_only_formats_that_carry_no_code(synthesize: Any) -> None:
    made = synthesize(points())
    for path in made.run.rglob("*"):
        if path.is_dir() or path.name == ".lock":
            continue
        content = path.read_bytes()
        match path.suffix:
            case ".parquet":
                assert content[:4] == content[-4:] == b"PAR1"
            case ".npz":
                with np.load(path, allow_pickle=False) as archive:
                    assert all(archive[name].dtype.kind in "iU" for name in archive.files)
            case ".json":
                json.loads(content)
            case ".toml" | ".md" | ".csv":
                content.decode()
            case _:
                pytest.fail(f"{path.name} is of another format")


def test_fault_26_a_checkpoint_with_a_pickle_in_it_is_refused(synthesize: Any, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "exploded",))

    keys = {"source": "s", "label_shares": "uniform"}
    made = synthesize(points(), **keys)
    stored = made.run / "iterations" / "002" / "histogram.npz"
    np.savez(stored, counts=np.array([Bomb()], object), sigma="1", entry="e", grid=1)
    (made.run / "iterations" / "002" / "population.parquet").unlink()
    with pytest.raises((ValueError, PEError)):
        synthesize(points(), run=made.run, **keys)
    assert not (tmp_path / "exploded").exists()


# -- 24: candidates chosen to hurt ---------------------------------------------------------------------------------


class Malicious(TabularAPI):
    """Proposes whatever makes neighbours easiest to tell apart."""

    shape = "equal"

    def random(self, n: int, label: int, rng: np.random.Generator) -> pe.Population:
        made = super().random(n, label, rng)
        x, y = (to_numpy(made.records, column).copy() for column in self.schema.columns[:2])
        if Malicious.shape == "equal":
            x[:], y[:] = 5, 5
        elif Malicious.shape == "far":  # all at one corner, one at the target
            x[:], y[:], x[-1], y[-1] = 10, 10, 0, 0
        elif Malicious.shape == "duplicates":  # each beside its twin, and the target's place many times over
            x[:] = np.where(np.arange(n) % 2, 0, x)
            y[:] = np.where(np.arange(n) % 2, 0, y)
        return pe.Population.of(to_table({"x": x, "y": y}, self.schema), made.labels, self.name)


@pytest.mark.parametrize("who", ["record", "user"])
@pytest.mark.parametrize("shape", ["equal", "far", "duplicates"])
def test_fault_24_malicious_candidates_do_not_move_the_votes_by_more_than_was_charged(
    synthesize: Any, exact: Any, monkeypatch: pytest.MonkeyPatch, shape: str, who: str
) -> None:
    """With and without the target, a record or a user of 40, at the place the candidates were made for."""
    monkeypatch.setattr(Malicious, "shape", shape)
    keys: dict[str, Any] = {"api": kind(monkeypatch, Malicious), "iterations": 1, "label_shares": "uniform"}
    keys |= {"nearest": 3, **({"user": "id", "user_norm": 2.0} if who == "user" else {})}
    data = points(80) | {"id": np.arange(80)}
    size = 40 if who == "user" else 1
    target = {"x": np.zeros(size), "y": np.zeros(size), "kind": ["a"] * size, "id": np.full(size, 1000)}
    synthesize(data, **keys)
    synthesize({name: np.append(data[name], target[name]) for name in data}, **keys)
    (mechanism, without), (_, with_) = exact
    moved = ((with_ - without) ** 2).sum()
    assert 0 < moved <= mechanism.sensitivity_squared


def test_private_data_sets_refuse_to_be_pickled_into_a_checkpoint() -> None:
    import pickle

    table = to_table({"x": np.zeros(1), "y": np.zeros(1)}, SCHEMA)
    with pytest.raises(TypeError, match="cannot be copied or pickled"):
        pickle.dumps(PrivateDataset(table, np.zeros(1, np.int32), SCHEMA))
