"""What should be said of a budget before it is spent: guarantees that protect little, plans that cannot be finished."""

from __future__ import annotations

from pe.privacy.budget import Budget

WEAK_EPSILON = 10.0
"""Above it the likelihood of any result may differ by a factor of e**10 = 22,000 for one record more or less."""

LARGE_DELTA = 1e-3
"""A delta above which a warning is due whatever the number of records."""


def budget_warnings(budget: Budget, known: int | None = None) -> list[str]:
    """Sentences about an epsilon or a delta that protects little.

    known  how many private records (users) there are, as far as it is public: exactly, or at least.
    """
    found = []
    if budget.epsilon > WEAK_EPSILON:
        found.append(
            f"epsilon {budget.epsilon:g} protects hardly anyone: one {budget.unit} may change the probability of a "
            f"result by a factor of e**{budget.epsilon:g}. Common choices are between 0.1 and {WEAK_EPSILON:g}."
        )
    if known and budget.delta * known >= 1:
        found.append(
            f"delta {budget.delta:g} is at least 1 / {known}, the number of private {budget.unit}s that is known: a "
            f"release of {budget.delta * known:.3g} of them as they are would satisfy it. Choose a delta well below "
            f"{1 / known:.2g}."
        )
    elif budget.delta > LARGE_DELTA:
        found.append(
            f"delta {budget.delta:g} is large: with this probability the guarantee may fail altogether, and every "
            f"{budget.unit} may be released as it is with that probability. Choose one well below 1 / the number of "
            f"{budget.unit}s, such as 1e-5."
        )
    return found
