"""Private Evolution: differentially private synthetic data without training.

Names are handed out lazily, so that ``import pe`` stays light and ``pe.kernels`` needs numpy alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pe.buy import Bought as Bought
    from pe.buy import buy_schema as buy_schema
    from pe.config import Config as Config
    from pe.data.population import Population as Population
    from pe.data.schema import Categorical as Categorical
    from pe.data.schema import Datetime as Datetime
    from pe.data.schema import Image as Image
    from pe.data.schema import Key as Key
    from pe.data.schema import Numeric as Numeric
    from pe.data.schema import Schema as Schema
    from pe.data.schema import Text as Text
    from pe.data.schema import boolean as boolean
    from pe.delivery import Synthetic as Synthetic
    from pe.delivery import load as load
    from pe.evaluation import Evaluation as Evaluation
    from pe.evaluation import evaluate as evaluate
    from pe.evolution.loop import Generation as Generation
    from pe.evolution.loop import evolve as evolve
    from pe.evolution.plan import Plan as Plan
    from pe.evolution.plan import Round as Round
    from pe.privacy.budget import Adjacency as Adjacency
    from pe.privacy.budget import Budget as Budget
    from pe.privacy.ledger import Ledger as Ledger
    from pe.privacy.release import Histogram as Histogram
    from pe.private.dataset import PrivateDataset as PrivateDataset
    from pe.protocols import API as API
    from pe.protocols import Embedder as Embedder
    from pe.synthesis import synthesize as synthesize

_HOMES = {
    "API": "pe.protocols",
    "Adjacency": "pe.privacy.budget",
    "Bought": "pe.buy",
    "Budget": "pe.privacy.budget",
    "Categorical": "pe.data.schema",
    "Config": "pe.config",
    "Datetime": "pe.data.schema",
    "Embedder": "pe.protocols",
    "Evaluation": "pe.evaluation",
    "Generation": "pe.evolution.loop",
    "Histogram": "pe.privacy.release",
    "Image": "pe.data.schema",
    "Key": "pe.data.schema",
    "Ledger": "pe.privacy.ledger",
    "Numeric": "pe.data.schema",
    "Plan": "pe.evolution.plan",
    "Population": "pe.data.population",
    "PrivateDataset": "pe.private.dataset",
    "Round": "pe.evolution.plan",
    "Schema": "pe.data.schema",
    "Synthetic": "pe.delivery",
    "Text": "pe.data.schema",
    "boolean": "pe.data.schema",
    "buy_schema": "pe.buy",
    "evaluate": "pe.evaluation",
    "evolve": "pe.evolution.loop",
    "load": "pe.delivery",
    "synthesize": "pe.synthesis",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pe' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOMES))
