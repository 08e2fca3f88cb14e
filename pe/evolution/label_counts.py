"""How many records each label has, estimated from released noisy counts: public arithmetic, free of charge."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from pe.privacy.release import Histogram
from pe.private.measure import Records

MANY_LABELS = 20
"""Labels from which on all records are counted on their own, beside the labels: the sum of so many noisy counts has
twice the noise of that count (sqrt(20) against sqrt(5) standard deviations), which costs the labels 12 % more noise."""


def label_query(labels: int, steps: int = 1) -> Records:
    """The query for label counts, ``steps`` grid steps per record or finer."""
    if labels < MANY_LABELS:
        return Records(labels, steps)
    return Records(labels, 2 * steps, with_total=True)


def estimate_label_counts(released: Histogram, labels: int) -> NDArray[np.float64]:
    """Numbers of records >= 0, float64 (labels,), from released label counts, with or without a count of all records.

    Their sum estimates the number of all records without bias, wherever that stands out of its noise: it is that of the
    counts as they are, negative ones among them, averaged with the count of all records by inverse variance. Raising
    every count to 0 first would add .4 standard deviations of the noise for every label that has hardly any records.
    Within that sum the counts are shrunk by as much as they differ by noise alone, and projected.
    """
    noisy, sigma = released.votes[:labels], float(released.sigma)
    total, variance = float(noisy.sum()), labels * sigma**2
    if len(released.counts) > labels:
        steps = Records(labels, released.grid, with_total=True).total_steps
        direct, direct_variance = float(released.counts[labels]) / steps, (sigma * released.grid / steps) ** 2
        total = (total * direct_variance + direct * variance) / (variance + direct_variance)
        variance = variance * direct_variance / (variance + direct_variance)
    total = max(total, math.sqrt(variance))  # less cannot be told from none
    return project_onto_simplex(shrink_to_mean(noisy, sigma), total)


def label_shares_from(released: Histogram, labels: int) -> NDArray[np.float64]:
    """Shares of the labels, float64 (labels,), sum 1."""
    counts = estimate_label_counts(released, labels)
    shares: NDArray[np.float64] = counts / counts.sum()
    return shares


def shrink_to_mean(values: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Values (n,) with noise of standard deviation ``sigma``, moved towards their mean by as much as they are noise.

    The positive-part James-Stein estimator (Efron and Morris 1973), whose squared error is smaller whatever the true
    values are; three or fewer values stay as they are.
    """
    if len(values) < 4:
        return values
    mean = values.mean()
    spread = float(((values - mean) ** 2).sum())
    noise = (len(values) - 3) * sigma**2
    if spread <= noise:
        return np.full(len(values), mean)
    result: NDArray[np.float64] = mean + (1 - noise / spread) * (values - mean)
    return result


def project_onto_simplex(values: NDArray[np.float64], total: float) -> NDArray[np.float64]:
    """The nearest (n,) numbers >= 0 that add up to ``total`` > 0 (Held, Wolfe and Crowder 1974)."""
    descending = np.sort(values)[::-1]
    thresholds = (np.cumsum(descending) - total) / np.arange(1, len(values) + 1)
    threshold = thresholds[np.flatnonzero(descending > thresholds)[-1]]
    result: NDArray[np.float64] = np.maximum(values - threshold, 0.0)
    return result
