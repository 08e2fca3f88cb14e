"""The privacy core: budget, accountants, noise, ledger, release."""

from pe.privacy.accountant import GDP, Accountant, FixedPlans, Renyi
from pe.privacy.budget import Adjacency, Budget, Unit
from pe.privacy.contribution import Contribution, sensitivity_squared
from pe.privacy.ledger import Account, Entry, Ledger
from pe.privacy.mechanism import DiscreteGaussian, FixedPlan, SubsampledGaussian
from pe.privacy.release import Histogram, Votes, release

__all__ = [
    "GDP",
    "Account",
    "Accountant",
    "Adjacency",
    "Budget",
    "Contribution",
    "DiscreteGaussian",
    "Entry",
    "FixedPlan",
    "FixedPlans",
    "Histogram",
    "Ledger",
    "Renyi",
    "SubsampledGaussian",
    "Unit",
    "Votes",
    "release",
    "sensitivity_squared",
]
