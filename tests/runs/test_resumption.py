"""What may change when a run is resumed: whatever is made of released sums. What the sums are may not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import pe
from pe.apis.tabular import TabularAPI
from pe.embedders.tabular import TabularEmbedder
from pe.errors import RunError, RunMismatchError
from pe.privacy.certificate import read_certificate, verify
from pe.privacy.ledger import charges
from pe.resumption import RESUMABLE_SETTINGS, mechanism_settings

SCHEMA = pe.Schema((pe.Numeric("age", 0, 100, integer=True), pe.Categorical("kind", ("a", "b"))))


class Other(TabularAPI):
    """Another API, which says what public data it knows."""

    name = "other"
    public_data = "a public table"


class Coarse(TabularEmbedder):
    """Another embedder."""

    name = "coarse"


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    data = pa.table({"age": rng.integers(20, 60, 200), "kind": rng.choice(["a", "b"], 200)})
    return {
        "data": data,
        "schema": SCHEMA,
        "run": tmp_path / "run",
        "ledger": tmp_path / "ledger.sqlite3",
        "label": "kind",
        "source": "people",
        "create": True,
        "epsilon": 1.0,
        "delta": 1e-5,
        "adjacency": "add-remove",
        "method": "aug-pe",
        "rows": 20,
        "iterations": 3,
        "formats": ["csv"],
    }


class Interrupted(Exception):
    """The process ended here."""


def interrupt(settings: dict[str, Any], iteration: int) -> None:
    """Run until an iteration is stored."""

    def stop(session: Any) -> None:
        if session.generation is not None and session.generation.iteration == iteration:
            raise Interrupted

    with pytest.raises(Interrupted):
        pe.synthesize(**settings, progress=stop)


def charged(settings: dict[str, Any]) -> list[int]:
    return [entry.body["iteration"] for entry in charges(pe.Ledger(settings["ledger"]).chain("people"))]


def noted_changes(settings: dict[str, Any]) -> list[dict[str, Any]]:
    notes = json.loads((settings["run"] / "iterations" / "notes.json").read_text())
    return notes.get("changes", [])


def certificate_of(settings: dict[str, Any]) -> dict[str, Any]:
    """The certificate, after every check of it."""
    release = settings["run"] / "release"
    certificate = read_certificate(release / "certificate.json")
    assert verify(certificate, folder=release, ledger=pe.Ledger(settings["ledger"]))
    return certificate


FREE = {
    "more rows": ({"rows": 50}, ["output.rows"]),
    "fewer rows": ({"rows": 10}, ["output.rows"]),
    "formats": ({"formats": ["jsonl", "parquet"]}, ["output.formats"]),
    "another API": ({"api": {"kind": "tests.runs.test_resumption:Other"}}, ["api"]),
    "variations": ({"variations": 3, "parents": 20}, ["evolution.parents", "evolution.variations"]),
    "selection": ({"selection": "rank", "distinct": 0.9}, ["evolution.distinct", "evolution.selection"]),
    "degree": ({"degree": 0.1}, ["evolution.degree"]),
    "lookahead": ({"lookahead": 2}, ["evolution.lookahead"]),
    "execution": ({"execution": {"executor": "local"}}, None),
}


@pytest.mark.parametrize("iteration", [0, 1])
@pytest.mark.parametrize(("change", "names"), FREE.values(), ids=FREE)
def test_post_processing_may_change_and_what_was_bought_is_used(
    settings: dict[str, Any], change: dict[str, Any], names: list[str] | None, iteration: int
) -> None:
    interrupt(settings, iteration)
    run = settings["run"] / "iterations"
    stored = {path: path.read_bytes() for path in run.glob("*/histogram.npz")}
    result = pe.synthesize(**settings | change)
    assert len(result) == change.get("rows", 20)
    assert charged(settings) == [0, 1, 2, 3]
    assert {path: path.read_bytes() for path in stored} == stored
    assert noted_changes(settings) == ([] if names is None else [{"after": iteration, "settings": names}])
    certificate = certificate_of(settings)
    assert len({entry["config"] for entry in certificate["entries"] if entry["kind"] == "reserve"}) == 1


FROZEN: dict[str, dict[str, Any]] = {
    "epsilon": {"epsilon": 0.9},
    "delta": {"delta": 1e-6},
    "adjacency": {"adjacency": "replace-one"},
    "iterations": {"iterations": 4},
    "budget_weights": {"budget_weights": [1.0, 2.0, 3.0]},
    "votes": {"nearest": 2},
    "vote weights": {"vote_weights": [1.0, 0.5]},
    "method": {"method": "kernel-votes"},
    "seed": {"seed": 1},
    "label shares": {"label_shares": [0.5, 0.5]},
    "share of the label counts": {"label_shares": {"budget_share": 0.1}},
    "at_least": {"at_least": 100},
    "label": {"label": None},
    "embedder": {"embedder": {"kind": "tests.runs.test_resumption:Coarse"}},
    "columns": {"columns": {"age": "kind"}},
    "source": {"source": "others"},
    "schema": {"schema": pe.Schema((pe.Numeric("age", 0, 99, integer=True), *SCHEMA.columns[1:]))},
}


@pytest.mark.parametrize("change", FROZEN.values(), ids=FROZEN)
def test_the_mechanism_may_not_change(settings: dict[str, Any], change: dict[str, Any]) -> None:
    interrupt(settings, 1)
    with pytest.raises((RunMismatchError, pe.errors.LedgerError), match="Nothing was spent"):
        pe.synthesize(**settings | change)
    assert charged(settings) == [0, 1]


def test_whatever_is_not_named_as_resumable_is_of_the_mechanism() -> None:
    assert {name.partition(".")[0] for name in RESUMABLE_SETTINGS} <= {
        "api",
        "execution",
        "output",
        "private",
        "evolution",
    }
    config = {
        "privacy": {"new": 1},
        "private": {"new": 1, "path": "x"},
        "evolution": {"new": 1, "degree": 2},
        "api": [],
    }
    assert mechanism_settings(config) == {"privacy.new": 1, "private.new": 1, "evolution.new": 1}


def test_rows_may_grow_beyond_what_the_last_iteration_left(settings: dict[str, Any]) -> None:
    """It is made anew from its stored histogram: no more is charged."""
    first = pe.synthesize(**settings)
    more = pe.synthesize(**settings | {"rows": 10 * len(first)})
    assert len(more) == 200
    assert charged(settings) == [0, 1, 2, 3]
    certificate_of(settings)
    assert len(pe.synthesize(**settings | {"rows": 5})) == 5
    assert charged(settings) == [0, 1, 2, 3]


def test_rows_of_a_density_may_grow_free_of_charge(settings: dict[str, Any]) -> None:
    settings |= {"method": "cross-tables", "iterations": None}
    pe.synthesize(**settings)
    before = charged(settings)
    assert len(pe.synthesize(**settings | {"rows": 500})) == 500
    assert charged(settings) == before
    certificate_of(settings)


def test_the_card_and_the_certificate_name_every_api_that_made_samples(settings: dict[str, Any]) -> None:
    settings["api"] = {"kind": "tests.runs.test_resumption:Other"}
    interrupt(settings, 1)
    pe.synthesize(**settings | {"api": "tabular"})
    card = (settings["run"] / "release" / "CARD.md").read_text()
    assert "other" in card
    assert "tabular" in card
    assert any("a public table" in fact for fact in certificate_of(settings)["declared_public"])


def test_a_folder_of_iterations_that_lost_its_run_json_is_no_new_run(settings: dict[str, Any]) -> None:
    interrupt(settings, 1)
    (settings["run"] / "run.json").unlink()
    with pytest.raises(RunError, match=r"no run\.json.*Nothing was spent"):
        pe.synthesize(**settings)
    assert charged(settings) == [0, 1]
