"""Two artifacts that show how far a run is: a progress bar, and a table of iterations. Public settings only."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from typing import Any, cast
from uuid import UUID

import pe.flows.settings  # noqa: F401

# isort: split
from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate

from pe.session import Session

EARLIER = "stored earlier"


class Progress:
    """The artifacts of one flow run, made from its flow; ``update`` after every iteration."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._rows = [self._row(iteration) for iteration in range(session.blueprint.plan.iterations + 1)]
        for row in self._rows[: self._stored()]:
            row["epsilon spent so far"] = EARLIER
        source = session.blueprint.config.private.source
        slug = "-".join(["pe", *re.findall("[a-z0-9]+", source.lower())])
        about = f"Private Evolution on source '{source}', run {session.run.path}"
        bar = create_progress_artifact(self._percent(), key=f"{slug}-progress", description=about)
        table = create_table_artifact(self._rows, key=f"{slug}-iterations", description=about)
        self._bar, self._table = cast(UUID, bar), cast(UUID, table)  # coroutines in asynchronous flows only

    def update(self) -> None:
        """Show the newest generation."""
        self._rows[self._stored() - 1]["epsilon spent so far"] = _short(self._session.account.epsilon_spent())
        update_progress_artifact(self._bar, self._percent())
        with get_client(sync_client=True) as client:
            client.update_artifact(self._table, ArtifactUpdate(data=json.dumps(self._rows)))

    def _stored(self) -> int:
        """How many generations are stored, generation 0 among them."""
        generation = self._session.generation
        return 0 if generation is None else generation.iteration + 1

    def _percent(self) -> float:
        return 100 * self._stored() / len(self._rows)

    def _row(self, iteration: int) -> dict[str, Any]:
        plan = self._session.blueprint.plan
        sizes = [plan.population, *(each.population for each in plan.rounds)]
        sigma = plan.rounds[iteration - 1].sigma if iteration else plan.label_sigma
        return {
            "iteration": iteration,
            "sigma": "" if sigma is None else _short(sigma),
            "candidates": sizes[iteration - 1] if iteration else "",
            "epsilon spent so far": "",
            "budget": self._session.blueprint.budget.epsilon,
        }


def _short(number: float | Fraction) -> str:
    return f"{float(number):.4g}"
