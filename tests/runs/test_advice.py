"""What is said of a budget before it is spent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import pe
from pe.advice import budget_warnings
from pe.privacy import Budget
from pe.privacy.ledger import charges

SCHEMA = pe.Schema((pe.Numeric("age", 0, 100, integer=True), pe.Categorical("kind", ("a", "b"))))


@pytest.mark.parametrize(
    ("epsilon", "delta", "known", "said"),
    [
        (1.0, 1e-5, None, []),
        (10.0, 1e-3, None, []),
        (100.0, 1e-5, None, ["epsilon 100 protects hardly anyone"]),
        (1.0, 0.01, None, ["delta 0.01 is large"]),
        (1.0, 0.01, 3000, ["delta 0.01 is at least 1 / 3000"]),
        (1.0, 1e-4, 9_999, []),
        (1.0, 1e-4, 10_000, ["delta 0.0001 is at least 1 / 10000"]),
        (50.0, 0.5, None, ["epsilon 50 protects hardly anyone", "delta 0.5 is large"]),
    ],
)
def test_weak_guarantees_are_called_so(epsilon: float, delta: float, known: int | None, said: list[str]) -> None:
    found = budget_warnings(Budget(epsilon, delta, "add-remove"), known)
    assert [text[: len(start)] for text, start in zip(found, said, strict=True)] == said


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    return {
        "data": pa.table({"age": rng.integers(20, 60, 200), "kind": rng.choice(["a", "b"], 200)}),
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


def test_a_weak_guarantee_is_said_before_the_first_charge_and_on_the_card(settings: dict[str, Any]) -> None:
    seen = []

    def look(session: Any) -> None:
        seen.append((len(charges(pe.Ledger(settings["ledger"]).chain("people"))), list(session.warnings)))

    pe.synthesize(**settings | {"delta": 0.01, "at_least": 200}, progress=look)
    charged, warnings = seen[0]
    assert charged == 0
    assert any("delta 0.01 is at least 1 / 200" in text for text in warnings)
    assert "**Warning:** delta 0.01 is at least" in (settings["run"] / "release" / "CARD.md").read_text()


def test_a_run_that_will_stop_early_is_told_before_it_goes_on(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A draw was lost: what is left pays for one iteration less."""
    with monkeypatch.context() as patch:
        store = pe.run.Run.store_histogram

        def lost(run: Any, number: int, *rest: Any) -> None:
            if number == 2:
                raise KeyboardInterrupt
            store(run, number, *rest)

        patch.setattr(pe.run.Run, "store_histogram", lost)
        with pytest.raises(KeyboardInterrupt):
            pe.synthesize(**settings)
    seen: list[list[str]] = []
    result = pe.synthesize(**settings, progress=lambda session: seen.append(list(session.warnings)))
    assert any("pays for iterations up to 2 of the 3 that are planned" in text for text in seen[0])
    assert result.certificate["iterations"] == {"completed": 2, "planned": 3}


def test_a_charge_that_waits_to_be_finished_is_no_shortfall(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        begin = pe.privacy.Account.begin_draw
        drawn: list[str] = []

        def die(account: Any, entry: str, attempt: str) -> None:
            drawn.append(entry)
            if len(drawn) == 3:
                raise KeyboardInterrupt
            begin(account, entry, attempt)

        patch.setattr(pe.privacy.Account, "begin_draw", die)
        with pytest.raises(KeyboardInterrupt):
            pe.synthesize(**settings)
    result = pe.synthesize(**settings)
    assert not any("pays for iterations" in text for text in result.warnings)
    assert result.certificate["iterations"] == {"completed": 3, "planned": 3}
