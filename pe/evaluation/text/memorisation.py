"""Do synthetic texts repeat the records they were made from? Compared with a holdout that they were not made from.

Language repeats itself: what a synthetic text has in common with training records says something only beside what it
has in common with as many other real records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import fisher_exact

from pe.evaluation.closeness import wilson
from pe.evaluation.text.distribution import Vectors
from pe.evaluation.text.embed import STEPS
from pe.evaluation.text.spans import matches
from pe.kernels.nearest import nearest

GRAMS = (5, 8, 13)
"""Lengths of the n-grams whose coverage is counted, in words."""

VERBATIM = 20
"""Consecutive words in common with a training record that count as a copy."""

UNLIKELY = 0.001
"""Level of the one-sided tests."""

_QUANTILE = 3.090232306167813  # of the standard normal distribution at 1 - UNLIKELY


@dataclass(frozen=True)
class Memorisation:
    """Synthetic texts against ``rows`` training and as many holdout records; 0.5 is what no memorisation shows.

    nearer            share of synthetic texts whose closest record in embedding space is of train; ties count half.
    nearer_interval   its 95 % Wilson interval, over the choice of synthetic texts.
    longer            share whose longest copied span is of train; ties count half.
    coverage          per n: the share of synthetic n-grams of words that occur in train, in the holdout.
    longest           words of the longest span in common, and the mean over texts: "train" and "holdout" of synthetic
                      texts with these; "between" of the holdout with train, what unseen real records show.
    verbatim          share of texts with ``VERBATIM`` or more consecutive words of any training record: "synthetic",
                      and "holdout" for what unseen real records show.
    duplicates        share that equals a training, a holdout record, but for case and spacing.
    reasons           why copying is suspected, the shares by tests at .1 %; empty if it is not.
    """

    rows: dict[str, int]
    nearer: float
    nearer_interval: tuple[float, float]
    longer: float
    longer_interval: tuple[float, float]
    coverage: dict[str, dict[str, float | None]]
    longest: dict[str, dict[str, float]]
    verbatim: dict[str, float]
    duplicates: dict[str, float]
    reasons: tuple[str, ...]

    @property
    def suspected(self) -> bool:
        return bool(self.reasons)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "suspected": self.suspected}


Words = NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """Texts as word ids, and vectors of some of them, float64 (m, d) of whole numbers; ``rows`` int64 (m,) says which.

    Of synthetic and holdout texts all have vectors.
    """

    words: Sequence[Words]
    vectors: Vectors
    rows: NDArray[np.int64]

    @classmethod
    def of(cls, words: Sequence[Words], vectors: Vectors) -> Group:
        return cls(words, vectors, np.arange(len(words)))


@dataclass(frozen=True)
class Distances:
    """Distances to the closest record in embedding space, of unit vectors: float64 (n,)."""

    to_train: NDArray[np.float64]
    to_holdout: NDArray[np.float64]
    between: NDArray[np.float64]


def memorisation(
    made: Group, train: Group, holdout: Group, rng: np.random.Generator
) -> tuple[Memorisation, Distances, list[tuple[int, int]]]:
    """Compare synthetic texts with training and holdout records; also distances, and the longest copied spans.

    Shares compare as many training as holdout records, drawn among those with vectors; what is said of verbatim copies
    and duplicates uses all training records. A span is given for every synthetic text: its first word and its length.
    """
    texts, points = made.words, made.vectors
    m = min(len(train.rows), len(holdout.rows))
    near = [np.sort(rng.choice(len(group.rows), m, replace=False)) for group in (train, holdout)]

    everything = np.ones(len(train.words), np.bool_)
    some = np.zeros(len(train.words), np.bool_)
    some[train.rows[near[0]]] = True
    in_all, in_train = matches(texts, train.words, [everything, some])
    other = [holdout.words[row] for row in holdout.rows[near[1]].tolist()]
    (in_holdout,) = matches(texts, other, [np.ones(m, np.bool_)])
    (between,) = matches(other, train.words, [everything])
    longest = {"train": _longest(in_train), "holdout": _longest(in_holdout), "between": _longest(between)}
    copied = {"synthetic": _longest(in_all) >= VERBATIM, "holdout": longest["between"] >= VERBATIM}

    own, unseen = train.vectors[near[0]], holdout.vectors[near[1]]
    to_train, to_holdout = _distances(points, own), _distances(points, unseen)
    wins = [_wins(to_holdout, to_train), _wins(longest["train"], longest["holdout"])]
    n = len(texts)
    reasons = [
        reason
        for won, reason in zip(wins, ("nearer to training records", "longer spans of training records"), strict=True)
        if wilson(won, n, _QUANTILE)[0] > 0.5
    ]
    table = [[int(each.sum()), int((~each).sum())] for each in copied.values()]
    if fisher_exact(table, alternative="greater").pvalue < UNLIKELY:
        reasons.append(f"too many texts with {VERBATIM} or more words of a training record")
    if _longest(in_all).max() > 2 * max(int(longest["between"].max()), VERBATIM):
        reasons.append("a copied span far longer than real records share")
    found = Memorisation(
        {"synthetic": n, "train": m, "holdout": m},
        wins[0] / n,
        wilson(wins[0], n),
        wins[1] / n,
        wilson(wins[1], n),
        {str(k): {"train": _coverage(in_train, k), "holdout": _coverage(in_holdout, k)} for k in GRAMS},
        {role: {"longest": float(each.max()), "mean": float(each.mean())} for role, each in longest.items()},
        {role: float(each.mean()) for role, each in copied.items()},
        {"train": _equal(texts, train.words), "holdout": _equal(texts, holdout.words)},
        tuple(reasons),
    )
    distances = Distances(*(np.sqrt(each) / STEPS for each in (to_train, to_holdout, _distances(unseen, own))))
    return found, distances, [(int(each.argmax()), int(each.max())) if len(each) else (0, 0) for each in in_all]


def _wins(one: NDArray[np.int64], two: NDArray[np.int64]) -> float:
    return float((one > two).sum() + 0.5 * (one == two).sum())


def _longest(lengths: Sequence[Words]) -> Words:
    return np.array([int(each.max()) if len(each) else 0 for each in lengths], np.int64)


def _coverage(lengths: Sequence[Words], n: int) -> float | None:
    """Share of the n-grams that match; None where no text is so long."""
    heads = [each[: len(each) - n + 1] for each in lengths if len(each) >= n]
    return float((np.concatenate(heads) >= n).mean()) if heads else None


def _equal(texts: Sequence[Words], real: Sequence[Words]) -> float:
    known = {text.tobytes() for text in real}
    return sum(text.tobytes() in known for text in texts) / len(texts)


def _distances(queries: Vectors, points: Vectors) -> NDArray[np.int64]:
    """Squared distance of each query to its closest point, exact."""
    at, near = queries.astype(np.int32), points.astype(np.int32)
    gaps = at.astype(np.int64) - near[nearest(at, near)[:, 0]]
    squared: NDArray[np.int64] = np.einsum("ij,ij->i", gaps, gaps)
    return squared
