"""How good, and how close to its records, a synthetic table is: metrics, a report, and where they may go.

What is computed here from real records has no noise in it and is **not** private: it goes to a folder named
"nonprivate", never into a release. ``pe.evaluation.charged`` measures on private records under the ledger instead.
"""

from __future__ import annotations

from pe.evaluation.charged import evaluate_charged
from pe.evaluation.result import WARNING, Evaluation
from pe.evaluation.scores import evaluate

__all__ = ["WARNING", "Evaluation", "evaluate", "evaluate_charged"]
