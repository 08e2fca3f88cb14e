"""From vote ids to vote counts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def count(ids: NDArray[np.int64], bins: int) -> NDArray[np.int64]:
    """Number of times each of ``bins`` ids occurs in ``ids`` (any shape), int64 (bins,).

    Raises ValueError for an id outside [0, bins).
    """
    flat = ids.reshape(-1)
    if flat.size and not (flat.min() >= 0 and flat.max() < bins):
        raise ValueError("expected ids in [0, bins)")
    return np.bincount(flat, minlength=bins).astype(np.int64)
