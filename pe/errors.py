"""The errors a user can meet. Each says what was expected, what was found, what to do, and whether budget was spent.

Every error is built from one string, so that it survives pickling; no message ever carries private content.
"""

from __future__ import annotations

from typing import Self


class PEError(Exception):
    """Base of all errors raised on purpose."""

    def __init__(self, message: str) -> None:
        super().__init__(message)

    def spent(self, sentence: str) -> Self:
        """The same error with a sentence about the budget appended."""
        return type(self)(f"{self} {sentence}")


class ConfigError(PEError, ValueError):
    """A setting is missing, unknown or out of range."""


class SchemaError(PEError, ValueError):
    """A schema is malformed, or data does not have the declared columns."""


class PrivateDataError(PEError):
    """The private data cannot be read. The text never quotes it."""


class APIError(PEError):
    """An API failed, or returned samples that break its contract."""


class CapReachedError(PEError):
    """The next call of an API might pass the cap on tokens or money; or the account behind its key has nothing left."""


class EmbedderError(PEError):
    """An embedder failed on synthetic samples, or returned the wrong shape."""


class LedgerError(PEError):
    """The ledger is missing, damaged, rolled back or unusable."""


class UnknownSourceError(LedgerError):
    """No budget was ever granted for this source."""


class UnconfirmedError(LedgerError):
    """An entry may stand in the ledger although writing it failed; the same attempt is not charged a second time."""


class BudgetExceededError(LedgerError):
    """A charge would pass the granted budget; it was refused and nothing was released."""


class CertificateError(PEError):
    """A certificate does not hold."""


class RunError(PEError):
    """A run directory cannot be used."""


class RunLockedError(RunError):
    """Another process works on this run."""


class RunMismatchError(RunError):
    """A run was started with another configuration, data set or version."""
