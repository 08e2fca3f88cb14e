"""Record-wise quantisation: float vectors to small integers, on one public scale."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def quantise(vectors: NDArray[np.floating], scale: float, limit: int) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """Return ``clip(round(scale * x), -limit, limit)`` as int16 (n, d), and which rows were finite, bool (n,).

    Each row depends on that row alone: multiplication and rounding are element-wise IEEE operations in float32. Rows
    with a NaN or an infinity become zeros. Raises ValueError unless 1 <= limit <= 32767 and scale > 0.
    """
    if not (1 <= limit <= 32767 and 0 < scale < np.inf):
        raise ValueError(f"expected 1 <= limit <= 32767 and 0 < scale < inf, got {limit} and {scale}")
    finite = np.isfinite(vectors).all(axis=1)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is clipped
        scaled = np.asarray(vectors, np.float32) * np.float32(scale)
    if not finite.all():
        scaled[~finite] = 0
    np.rint(scaled, out=scaled)
    np.clip(scaled, -limit, limit, out=scaled)
    return scaled.astype(np.int16), finite
