"""Reviews that are made here, and an embedding of texts without a model."""

from __future__ import annotations

from zlib import crc32

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pe.evaluation.text.corpus import words

CANARY = "zebra4711"
LIKED = {"1": "awful rude cold slow worst", "5": "great friendly warm fast best"}
ABOUT = {"food": "pizza soup waiter table menu", "shop": "till shelf parking clerk price"}


def hashed(texts: list[str]) -> NDArray[np.float32]:
    """Bags of hashed words."""
    found = np.zeros((len(texts), 64), np.float32)
    for row, text in enumerate(texts):
        for word in words(text):
            found[row, crc32(word.encode()) % 64] += 1
    return found


def reviews(n: int, seed: int, length: int | None = 25) -> pd.DataFrame:
    """Texts of so many words, or of 5 to 29, that tell their stars and kind."""
    rng = np.random.default_rng(seed)
    stars, kinds = rng.choice(list(LIKED), n), rng.choice(list(ABOUT), n)
    common = [f"word{number}" for number in range(60)]
    texts = [
        " ".join(
            rng.choice(
                [*common, *5 * LIKED[star].split(), *5 * ABOUT[kind].split()],
                rng.integers(5, 30) if length is None else length,
            )
        )
        for star, kind in zip(stars, kinds, strict=True)
    ]
    return pd.DataFrame({"review": texts, "stars": stars, "kind": kinds})
