"""The privacy core: budget, accountant, noise, ledger, release."""

from pe.privacy.budget import Adjacency, Budget, Unit
from pe.privacy.ledger import Account, Entry, Ledger
from pe.privacy.mechanism import DiscreteGaussian, votes_sensitivity_squared
from pe.privacy.release import Histogram, Votes, release

__all__ = [
    "Account",
    "Adjacency",
    "Budget",
    "DiscreteGaussian",
    "Entry",
    "Histogram",
    "Ledger",
    "Unit",
    "Votes",
    "release",
    "votes_sensitivity_squared",
]
