"""Keep private content out of exceptions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pe.errors import PEError, PrivateDataError

Result = TypeVar("Result")


def shielded(
    action: str, function: Callable[[], Result], advice: str, kind: type[PEError] = PrivateDataError
) -> Result:
    """Call ``function``; a foreign exception becomes a ``kind`` naming the action and the exception's type.

    Its text, which may quote private data, is neither shown nor chained. Errors of this package pass: their text is
    public by construction.
    """
    try:
        return function()
    except PEError:
        raise
    except Exception as error:
        failure = type(error).__name__
    # outside the except block, so that the original is not kept as __context__
    raise kind(f"{action} failed with {failure} (details withheld). {advice}")
