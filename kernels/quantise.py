"""Record-wise quantisation: float vectors to small integers, on one public scale."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def integer_type(limit: int) -> np.dtype[np.signedinteger[Any]]:
    """The smallest type for entries up to ``limit``: int8 up to 128, else int16. Raises ValueError above 32767."""
    if not 1 <= limit <= 32767:
        raise ValueError(f"expected 1 <= limit <= 32767, got {limit}")
    return np.dtype(np.int8 if limit <= 128 else np.int16)


def quantise(
    vectors: NDArray[np.floating], scale: float, limit: int
) -> tuple[NDArray[np.signedinteger[Any]], NDArray[np.bool_]]:
    """Return ``clip(round(scale * x), -limit, limit)`` (n, d), and which rows were finite, bool (n,).

    int8 for limits up to 127, else int16. A limit of 128 stands for the range of int8, [-128, 127], which is what
    bytes less 128 fill: pixels are exact.

    Each row depends on that row alone: multiplication and rounding are element-wise IEEE operations in float32. Rows
    with a NaN or an infinity become zeros. Raises ValueError unless 1 <= limit <= 32767 and 0 < scale < inf in float32,
    and for anything but float vectors (n, d).
    """
    with np.errstate(over="ignore"):
        usable = 1 <= limit <= 32767 and 0 < np.float32(scale) < np.inf
    if not usable:
        raise ValueError(f"expected 1 <= limit <= 32767 and 0 < scale < inf in float32, got {limit} and {scale}")
    if vectors.ndim != 2 or vectors.dtype.kind != "f":
        raise ValueError(f"expected float vectors (n, d), got {vectors.dtype} {vectors.shape[1:]} each")
    dtype = integer_type(limit)
    finite = np.isfinite(vectors).all(axis=1)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is clipped
        scaled = np.asarray(vectors, np.float32) * np.float32(scale)
    if not finite.all():
        scaled[~finite] = 0
    np.rint(scaled, out=scaled)
    np.clip(scaled, -limit, min(limit, np.iinfo(dtype).max), out=scaled)
    return scaled.astype(dtype), finite
