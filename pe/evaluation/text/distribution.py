"""Two samples of vectors compared: precision and recall, MAUVE, Frechet and energy distance, and diversity of one.

Vectors are float64 (n, d) of whole numbers (``pe.evaluation.text.embed``), so squared distances are exact. All figures
depend on the sizes of the samples: compare those of equal size.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pe.evaluation.learners import quietly
from pe.evaluation.text.embed import STEPS

Vectors = NDArray[np.float64]

NEIGHBOURS = 3
"""The neighbour whose distance is a point's radius (Kynkaanniemi et al. 2019)."""

PER_CLUSTER, SCALING, MIXTURES = 10, 5.0, 25
"""MAUVE: texts of each sample per cluster, the constant c, and points of the frontier (Pillutla et al. 2021)."""

EXPLAINED = 0.9
"""MAUVE: share of the variance that is kept before clustering."""

_ROWS = 512


def _squared(a: Vectors, b: Vectors) -> Iterator[tuple[slice, Vectors]]:
    """Squared distances of some rows of ``a`` to all of ``b`` at a time."""
    own, other = (a * a).sum(axis=1), (b * b).sum(axis=1)
    for start in range(0, len(a), _ROWS):
        rows = slice(start, min(start + _ROWS, len(a)))
        yield rows, own[rows, None] + other - 2 * (a[rows] @ b.T)


def radii(points: Vectors, k: int = NEIGHBOURS) -> Vectors:
    """Squared distance of each point to its k-th nearest other one; to the furthest where there are fewer."""
    k = min(k, len(points) - 1)
    found = np.zeros(len(points))
    for rows, squared in _squared(points, points):
        found[rows] = np.partition(squared, k, axis=1)[:, k]  # the point itself is among them, at zero
    return found


def precision_recall(real: Vectors, made: Vectors, k: int = NEIGHBOURS) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019, equation 2).

    Precision is the share of made points within some real point's ball, recall that of real points within some made
    one's; a ball reaches to the k-th nearest other point of its own sample.
    """

    found = within(made, real, radii(real, k)), within(real, made, radii(made, k))
    return float(found[0].mean()), float(found[1].mean())


def within(points: Vectors, centres: Vectors, reach: Vectors) -> NDArray[np.bool_]:
    """Whether each point lies in some centre's ball, bool (n,); ``reach`` holds squared radii."""
    return np.concatenate([(squared <= reach).any(axis=1) for _, squared in _squared(points, centres)])


def frechet(real: Vectors, made: Vectors) -> float:
    """Squared Frechet distance of the normal distributions with the samples' moments (Dowson and Landau 1982).

    In units of unit vectors: 0 for equal moments. A sample of one has no variance.
    """
    one, two = real / STEPS, made / STEPS
    gap = one.mean(axis=0) - two.mean(axis=0)
    first, second = _covariance(one), _covariance(two)
    values, basis = np.linalg.eigh(first)
    root = (basis * np.sqrt(np.maximum(values, 0.0))) @ basis.T
    inner = np.linalg.eigvalsh(root @ second @ root)
    cross = float(np.sqrt(np.maximum(inner, 0.0)).sum())
    return max(0.0, float(gap @ gap + np.trace(first) + np.trace(second)) - 2 * cross)


def _covariance(points: Vectors) -> Vectors:
    centred = points - points.mean(axis=0)
    covariance: Vectors = centred.T @ centred / max(1, len(points) - 1)
    return covariance


def energy(real: Vectors, made: Vectors) -> float:
    """Energy distance 2 E|X - Y| - E|X - X'| - E|Y - Y'| of unit vectors (Szekely and Rizzo 2013); 0 if equal.

    It is the squared maximum mean discrepancy under the distance kernel: nothing is to be tuned.
    """

    def mean(a: Vectors, b: Vectors) -> float:
        return sum(float(np.sqrt(squared).sum()) for _, squared in _squared(a, b)) / (len(a) * len(b) * STEPS)

    return max(0.0, 2 * mean(real, made) - mean(real, real) - mean(made, made))


def mauve(real: Vectors, made: Vectors, seed: int) -> float:
    """MAUVE (Pillutla et al. 2021) of two samples; 1 for equal histograms.

    As in its authors' code: principal components with 90 % of the variance of both samples, k-means of both (five
    starts), the area under the divergence frontier of the two histograms over clusters. Their figures are those of
    GPT-2 features; figures of other embeddings compare among each other alone.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    both = np.concatenate([real, made])
    clusters = max(2, round(min(len(real), len(made)) / PER_CLUSTER))
    if len(np.unique(both, axis=0)) <= clusters:  # k-means would find fewer
        _, labels = np.unique(both, axis=0, return_inverse=True)
        labels = labels.reshape(-1)
    else:
        reduced = PCA(n_components=EXPLAINED, svd_solver="full").fit_transform(both / STEPS)
        labels = quietly(KMeans(clusters, n_init=5, max_iter=500, random_state=seed).fit_predict, reduced)
    size = int(labels.max()) + 1
    p = np.bincount(labels[: len(real)], minlength=size) / len(real)
    q = np.bincount(labels[len(real) :], minlength=size) / len(made)
    return frontier(p, q)


def frontier(p: Vectors, q: Vectors) -> float:
    """Area under the divergence frontier of two histograms, in (0, 1]."""
    weights = np.linspace(1e-6, 1 - 1e-6, MIXTURES)
    curve = [(0.0, np.inf)]
    curve += [(_divergence(q, r), _divergence(p, r)) for w in weights for r in (w * p + (1 - w) * q,)]
    points = np.exp(-SCALING * np.array([*curve, (np.inf, 0.0)]))
    by_x, by_y = (points[np.argsort(points[:, axis], kind="stable")] for axis in (0, 1))
    return float(0.5 * (np.trapezoid(by_x[:, 1], by_x[:, 0]) + np.trapezoid(by_y[:, 0], by_y[:, 1])))


def _divergence(p: Vectors, r: Vectors) -> float:
    """Kullback-Leibler divergence; ``r`` is a mixture with ``p`` in it."""
    there = p > 0
    return float((p[there] * np.log(p[there] / r[there])).sum())


def self_similarity(points: Vectors) -> float | None:
    """Mean cosine over pairs of different points; None for fewer than two."""
    n = len(points)
    if n < 2:
        return None
    total = points.sum(axis=0)
    return float((total @ total - (points * points).sum()) / (n * (n - 1))) / STEPS**2


def vendi(points: Vectors) -> float:
    """Vendi score under the cosine (Friedman and Dieng 2023): the effective number of different points, 1 to n."""
    values = np.linalg.eigvalsh(points.T @ points / max(float((points * points).sum()), 1.0))
    kept = values[values > 1e-12]
    return float(np.exp(-(kept * np.log(kept)).sum()))
