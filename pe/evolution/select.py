"""From a noisy histogram to parents: public post-processing, free of charge."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pe.errors import ConfigError

Selection = Literal["sample", "rank"]


def select(
    labels: NDArray[np.int32],
    votes: NDArray[np.float64],
    sizes: NDArray[np.int64],
    selection: Selection,
    threshold: float,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Indices of the selected candidates, int64 (sum of sizes,), label by label.

    labels     int32 (m,), the candidates' labels.
    votes      float64 (m,), their noisy votes.
    sizes      int64 (labels,), how many to select of each label.
    selection  "sample": independent draws with probability proportional to max(votes - threshold, 0), uniform where
               that is zero throughout (Lin et al. 2024, algorithm 1). "rank": the highest counts, ties to the lower
               index; all of them over again where a label has too few (Xie et al. 2024).
    """
    chosen = []
    for label, size in enumerate(sizes):
        own = np.flatnonzero(labels == label)
        if size == 0 or len(own) == 0:
            continue
        if selection == "rank":
            order = own[np.argsort(-votes[own], kind="stable")]
            chosen.append(np.resize(order, size))
        elif selection == "sample":
            weights = np.maximum(votes[own] - threshold, 0.0)
            total = weights.sum()
            chosen.append(rng.choice(own, size=size, p=weights / total if total > 0 else None))
        else:
            raise ConfigError(f"expected selection 'sample' or 'rank', got {selection!r}.")
    return np.concatenate(chosen) if chosen else np.empty(0, np.int64)


_BLOCK = 256
"""Candidates compared with those that are left at a time."""


def distinct(
    vectors: NDArray[np.float32],
    labels: NDArray[np.int32],
    sizes: NDArray[np.int64],
    votes: NDArray[np.float64] | None,
    similar: float,
) -> NDArray[np.int64]:
    """Candidates without near-duplicates of better ones, increasing, int64: public arithmetic, free of charge.

    From the most votes down (without votes: in their order), a candidate goes if the cosine of its embedding and that
    of one of its label that is left exceeds ``similar``. Where fewer than ``sizes`` of a label are left, the best of
    those that went come back.

    vectors  float32 (m, dim), the candidates' embeddings; labels int32 (m,); votes float64 (m,).
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    left = []
    for label, size in enumerate(sizes):
        own = np.flatnonzero(labels == label)
        order = own if votes is None else own[np.argsort(-votes[own], kind="stable")]
        kept: list[int] = []
        gone: list[int] = []
        for start in range(0, len(order), _BLOCK):
            block = order[start : start + _BLOCK]
            near = (units[block] @ units[kept].T > similar).any(axis=1) if kept else np.zeros(len(block), np.bool_)
            among = units[block] @ units[block].T > similar
            here: list[int] = []  # places within the block
            for place in range(len(block)):
                if near[place] or among[place, here].any():
                    gone.append(int(block[place]))
                else:
                    here.append(place)
            kept += block[here].tolist()
        left += kept + gone[: max(int(size) - len(kept), 0)]
    return np.array(sorted(left), np.int64)


def apportion(total: int, shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Split ``total`` by ``shares`` into whole numbers that add up to it (largest remainders, ties to the first)."""
    exact = total * np.asarray(shares, np.float64) / np.sum(shares)
    sizes = np.floor(exact).astype(np.int64)
    order = np.argsort(sizes - exact, kind="stable")
    sizes[order[: total - int(sizes.sum())]] += 1
    return sizes
