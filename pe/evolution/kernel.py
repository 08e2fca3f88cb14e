"""Kernel votes (DP-KDE): one noisy mean of the private embeddings' features, then candidates judged by it for free.

The mean of random Fourier features (Rahimi and Recht 2007) of the private records of each label is released once
(Wagner et al. 2023). The distance between it and the same mean of some candidates estimates their squared maximum mean
discrepancy (MMD), so any number of rounds can select candidates by kernel herding (Chen et al. 2010) at no further
charge. Frequencies, bandwidth and seed are public: they follow from settings and from samples of the first population.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import MutableMapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pe.data.population import Population
from pe.errors import ConfigError, RunMismatchError
from pe.evolution.candidates import CandidateEmbedder
from pe.evolution.start import Ask, Releaser, resolution, sigma_of
from pe.privacy.budget import Budget, Unit
from pe.privacy.contribution import sensitivity_squared
from pe.privacy.release import Histogram
from pe.private.dataset import PrivateDataset
from pe.private.measure import FourierMean, Records, fourier_bound
from pe.protocols import Blocked

Floats = NDArray[np.float32]
Notes = MutableMapping[str, Any]
"""Public facts of a run that are kept between iterations, ready for JSON."""

COUNT_SHARE = 0.05
"""Share of the budget that says how many records each label has: means are sums over that."""

SAMPLED = 4096
"""Samples of the first population that say how far apart samples are."""

TILE = 2**26
"""Entries of a matrix of kernel values held at a time."""

DIRECTIONS = 64
"""In which candidates differ most: there it is judged how much labels differ from one another."""

PROGRESS = 0.01
"""Of the way that the squared MMD has come so far: less in ``patience`` rounds is none."""


@dataclass(frozen=True)
class Kernel:
    """What is measured, and how candidates are judged by it. All of it is public.

    share      of the budget, for the kernel mean and, where they are not bought apart, the numbers of records.
    features   random frequencies; a record's vector has twice as many entries.
    bandwidth  in units of the spread of the first population: the root of its embeddings' total variance.
    columns    how many of an embedder's blocks (``Blocked``: a record's columns) each frequency reads; 0: all.
    patience   rounds without votes that may bring the squared MMD no further before the run ends, where herding
               minimises that (repulsion 1, contrast 0).
    amplitude  grid steps of a cosine's largest value.
    family     candidates with one parent (or that parent) that a round selects at most; 0: any number.
    repulsion  weight of the chosen ones' mean in herding: 1 follows the private distribution; less its modes, which
               gives up recall for precision where hardly a candidate is like a private record.
    contrast   how far a label's mean is moved on, away from that of all records, in multiples of their difference:
               labels then differ by more, as far as the noise lets them differ at all (``pooled``).
    """

    share: float
    features: int = 1000
    bandwidth: float = 0.4
    columns: int = 2
    patience: int = 5
    amplitude: int = 32
    family: int = 0
    repulsion: float = 1.0
    contrast: float = 0.0

    name = "kernel mean"

    @property
    def minimises(self) -> bool:
        """Whether what herding minimises is the MMD."""
        return (self.repulsion, self.contrast) == (1.0, 0.0)

    def __post_init__(self) -> None:
        for what, value, good in (
            ("share in (0, 1]", self.share, 0 < self.share <= 1),
            ("features >= 1", self.features, self.features >= 1),
            ("bandwidth > 0 and finite", self.bandwidth, 0 < self.bandwidth < math.inf),
            ("columns >= 0", self.columns, self.columns >= 0),
            ("patience >= 1", self.patience, self.patience >= 1),
            ("amplitude >= 2", self.amplitude, self.amplitude >= 2),
            ("family >= 0", self.family, self.family >= 0),
            ("repulsion in [0, 1]", self.repulsion, 0 <= self.repulsion <= 1),
            ("contrast >= 0 and finite", self.contrast, 0 <= self.contrast < math.inf),
        ):
            if not good:
                raise ConfigError(f"expected a kernel's {what}, got {value}. Nothing was spent.")

    def noise(self, budget: Budget, user_norm: float) -> float:
        """Standard deviation of the noise in each entry of the sum of all records' vectors, were they of norm 1."""
        sigma = sigma_of(budget, Fraction(self.share), self._squared(budget, user_norm))
        return float(sigma) / (self.amplitude * math.sqrt(self.features))

    def _squared(self, budget: Budget, user_norm: float) -> Fraction:
        bound = fourier_bound(self.features, self.amplitude)
        if budget.unit is Unit.USER:
            bound = math.ceil(bound * user_norm**2)
        return sensitivity_squared(bound, budget.adjacency, signed=True)

    def affordable(self, budget: Budget, user_norm: float) -> Kernel:
        """The same with the finest amplitude whose noise can be drawn.

        Raises ConfigError where the budget is too small, or its accountant wants plans fixed beforehand.
        """
        resolution(budget, self.share, user_norm)
        part = Fraction(self.share) * Fraction(1 - COUNT_SHARE)
        for amplitude in (32, 16, 8, 4, 2):
            found = replace(self, amplitude=amplitude)
            try:
                sigma_of(budget, part, found._squared(budget, user_norm))
            except ConfigError:
                continue
            return found
        raise ConfigError(
            f"the budget calls for more noise than can be drawn for {self.features} kernel features: lower "
            "evolution.kernel.features, or raise epsilon. Nothing was spent."
        )


def aim(
    private: PrivateDataset,
    population: Population,
    embedder: CandidateEmbedder,
    kernel: Kernel,
    counted: Histogram | None,
    *,
    budget: Budget,
    release: Releaser,
    user_norm: float,
    seed: int,
    notes: Notes,
) -> Target:
    """Release the kernel mean of every label, or find it stored.

    population  the first: its spread sets the bandwidth, once (``notes["spread"]``, one number per block).
    counted     the released numbers of records; None: they are released here, too.

    Raises RunMismatchError where another version of numpy would draw other frequencies than were measured.
    """
    blocks = _blocks(embedder, kernel)
    if "spread" not in notes:
        chosen = np.random.default_rng([seed, 0, 1]).permutation(len(population))[:SAMPLED]
        notes["spread"] = _spread(embedder.vectors(population.records.take(np.sort(chosen))), blocks, embedder)
    frequencies = _frequencies(kernel, blocks, notes["spread"], embedder.embedder.dim, seed)
    digest = sha256(frequencies.tobytes()).hexdigest()
    if notes.setdefault("frequencies", digest) != digest:
        raise RunMismatchError(
            "the random frequencies of this run's kernel mean can no longer be drawn: go on with the version of numpy "
            "that the run was begun with. Nothing was spent by this call."
        )
    labels = len(private.schema.labels)
    mean = FourierMean(embedder.embedder, frequencies, labels, kernel.amplitude)
    ask, left = Ask(private, budget, release, part=kernel.share, user_norm=user_norm), 1.0
    if counted is None:
        counted = ask(Records(labels, ask.finer), COUNT_SHARE, "records")
        left -= COUNT_SHARE
    sums = ask(mean, left, "kernel")
    records = np.maximum(counted.votes, max(1.0, float(counted.sigma)))
    length = kernel.amplitude * math.sqrt(kernel.features)
    means = mean.means(sums.votes, records.tolist()).astype(np.float32)
    return Target(mean, means, records, float(sums.sigma) / length, kernel)


@dataclass(frozen=True)
class Target:
    """The released kernel means, to which candidates are compared.

    means    float32 (labels, 2 features): of vectors of norm 1.
    records  float64 (labels,): noisy numbers of records, > 0.
    sigma    standard deviation of the noise in each entry of a sum of vectors of norm 1.
    kernel   how candidates are judged: its family, repulsion and contrast.
    """

    mean: FourierMean = field(repr=False)
    means: Floats = field(repr=False)
    records: NDArray[np.float64] = field(repr=False)
    sigma: float
    kernel: Kernel = field(default_factory=lambda: Kernel(1.0))

    def features(self, vectors: Floats) -> Floats:
        """Cosines and sines of embeddings float32 (m, dim), to norm 1: float32 (m, 2 features)."""
        length = np.float32(self.mean.amplitude * math.sqrt(self.mean.features))
        found = np.empty((len(vectors), 2 * self.mean.features), np.float32)
        for start in range(0, len(vectors), 1024):
            found[start : start + 1024] = self.mean.entries(vectors[start : start + 1024])
        found /= length
        return found

    def select(
        self,
        features: Floats,
        labels: NDArray[np.int32],
        sizes: NDArray[np.int64],
        votes: tuple[NDArray[np.float64], float] | None = None,
        parents: NDArray[np.int64] | None = None,
    ) -> NDArray[np.int64]:
        """Indices of the herded candidates, int64 (sum of sizes,), label by label, in the order of their choice.

        votes    noisy votes (m,), in records, and the standard deviation of their noise.
        parents  (m,): which candidates are of one family; -1: of none.
        """
        families = None if parents is None or not self.kernel.family else _families(parents)
        means = pooled(self.means, self.records, self.sigma, features)
        means = contrasted(means, self.records, self.kernel.contrast)
        chosen = []
        for label, size in enumerate(sizes):
            own = np.flatnonzero(labels == label)
            if size == 0 or len(own) == 0:
                continue
            shares, weight = None, 0.0
            if votes is not None:
                shares, weight = votes[0][own] / self.records[label], (self.sigma / votes[1]) ** 2
            kin = None if families is None else (families[own], self.kernel.family)
            chosen.append(own[herd(features[own], means[label], int(size), shares, weight, kin, self.kernel.repulsion)])
        return np.concatenate(chosen) if chosen else np.empty(0, np.int64)

    def distance(self, features: Floats, labels: NDArray[np.int32], shares: NDArray[np.float64]) -> float:
        """Squared MMD between candidates and private records, within labels, averaged by their shares.

        What the noise adds to it on average is taken off: it may be negative. Free of charge, and public like all that
        follows from a release. Of candidates that were selected by the same release it is optimistic: they follow its
        noise, too.
        """
        total, weight = 0.0, 0.0
        for label, share in enumerate(shares):
            own = features[labels == label]
            if len(own) and share > 0:
                noise = len(self.means[label]) * (self.sigma / self.records[label]) ** 2
                gap = own.mean(axis=0, dtype=np.float64) - self.means[label]
                total, weight = total + share * (float(gap @ gap) - noise), weight + share
        return float(total / weight) if weight else math.nan


def pooled(means: Floats, records: NDArray[np.float64], sigma: float, features: Floats) -> Floats:
    """Label means with noise taken off, by what labels have in common (empirical Bayes): float32 (labels, d).

    means     float32 (labels, d), noisy.
    records   float64 (labels,): noisy numbers of records, > 0.
    sigma     standard deviation of the noise in each entry of a sum over the records of a label.
    features  float32 (m, d) of candidates.

    What a label's mean differs by from that of all records is taken to be normal, with tau times the candidates'
    covariance; tau follows from the ``DIRECTIONS`` of most variance, beyond which the covariance counts as isotropic.
    Each mean becomes its posterior mean (a Wiener filter): labels of few records those of all, of many their own.
    """
    if len(means) < 2 or len(features) < 2:
        return means
    noise = (sigma / records) ** 2
    weights = records / records.sum()
    centre = weights @ means.astype(np.float64)
    apart = means - centre
    k = min(DIRECTIONS, features.shape[1], len(features))
    basis, variance, rest = _directions(features, k)
    within = apart @ basis
    spread = (within**2).sum(axis=1) - k * noise
    tau = max(float(weights @ spread) / max(float(variance.sum()), 1e-12), 0.0)
    kept = tau * variance / (tau * variance + noise[:, None] + 1e-300)
    beyond = tau * rest / (tau * rest + noise + 1e-300)
    shrunken = (kept * within - beyond[:, None] * within) @ basis.T + beyond[:, None] * apart
    found: Floats = (centre + shrunken).astype(np.float32)
    return found


def contrasted(means: Floats, records: NDArray[np.float64], contrast: float) -> Floats:
    """Label means float32 (labels, d), each moved on by ``contrast`` times what it differs by from that of all records.

    records  float64 (labels,): noisy numbers of records, > 0.
    """
    if contrast == 0:
        return means
    centre = (records / records.sum()) @ means.astype(np.float64)
    found: Floats = (means + contrast * (means - centre)).astype(np.float32)
    return found


def _directions(features: Floats, k: int) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """The ``k`` principal directions (d, k), the variance along each, and along any of the others.

    By randomized subspace iteration (Halko, Martinsson, Tropp 2011).
    """
    centred = features - features.mean(axis=0)
    m, d = centred.shape
    basis = np.random.default_rng(0).standard_normal((d, k), dtype=np.float32)
    for _ in range(4):
        basis = np.linalg.qr(centred.T @ (centred @ basis))[0]
    values, turned = np.linalg.eigh(np.cov(centred @ basis, rowvar=False, bias=True).reshape(k, k))
    variance = np.maximum(values, 0.0)
    total = float(np.einsum("md,md->", centred, centred, dtype=np.float64)) / m
    return basis @ turned, variance, max(total - float(variance.sum()), 0.0) / max(d - k, 1)


def herd(
    features: Floats,
    mean: Floats,
    size: int,
    shares: NDArray[np.float64] | None = None,
    weight: float = 0.0,
    kin: tuple[NDArray[np.int64], int] | None = None,
    repulsion: float = 1.0,
) -> NDArray[np.int64]:
    """Kernel herding (Chen, Welling, Smola 2010): one candidate after another that brings their mean nearest ``mean``.

    features   float32 (m, d); every candidate is chosen once before any is chosen again.
    shares     estimated share of the private records that are nearest to each candidate, float64 (m,).
    weight     of these shares beside the mean: the ratio of their precisions.
    kin        the family of each candidate (m,), and how many of one are chosen at most before any is chosen again.
    repulsion  weight in [0, 1] of what has been chosen: at 0 the candidates of highest density are, however alike.

    Minimises |mean of features - mean|**2 + weight |share of choices - shares|**2 greedily, ties to the lower index;
    the square of the mean of features counts ``repulsion`` times.
    Returns int64 (size,), in the order of choice.
    """
    m = len(features)
    pull = (features @ mean).astype(np.float64)
    if shares is not None:
        pull += weight * shares
    kernel = features @ features.T if m * m <= TILE else None
    push, free = np.zeros(m), np.ones(m, np.bool_)
    taken: Counter[int] = Counter()
    chosen = np.empty(size, np.int64)
    for place in range(size):
        if not free.any():
            free[:] = True
            taken.clear()
        best = int(np.where(free, pull - repulsion * push / (place + 1), -np.inf).argmax())
        chosen[place] = best
        free[best] = False
        if kin is not None:
            family = int(kin[0][best])
            taken[family] += 1
            if taken[family] >= kin[1]:
                free[kin[0] == family] = False
        push += features @ features[best] if kernel is None else kernel[best]
        if shares is not None:
            push[best] += weight
    return chosen


def _families(parents: NDArray[np.int64]) -> NDArray[np.int64]:
    """The parent of each candidate; of one that has none a number of its own."""
    return np.where(parents >= 0, parents, -1 - np.arange(len(parents)))


def settled(notes: Notes, iteration: int, patience: int) -> bool:
    """Whether the squared MMD, noted for every iteration so far, came no further in the last ``patience`` ones."""
    distances = [distance for number in range(iteration + 1) if (distance := notes.get(noted(number))) is not None]
    if len(distances) <= patience + 1:
        return False
    before, now = min(distances[:-patience]), min(distances[-patience:])
    return bool(before - now <= PROGRESS * (distances[0] - before))


def noted(iteration: int) -> str:
    """Under which name the squared MMD of an iteration's choice is noted."""
    return f"squared MMD {iteration}"


def _blocks(embedder: CandidateEmbedder, kernel: Kernel) -> list[slice]:
    """The blocks of entries of which each frequency reads ``kernel.columns``; one block: all entries."""
    inner = embedder.embedder
    blocks = list(inner.blocks) if kernel.columns and isinstance(inner, Blocked) else []
    return blocks if len(blocks) > kernel.columns else [slice(0, inner.dim)]


def _spread(vectors: Floats, blocks: list[slice], embedder: CandidateEmbedder) -> list[float]:
    """Root of the total variance of each block, at least one step of the embedding."""
    return [
        max(math.sqrt(float(vectors[:, block].var(axis=0, dtype=np.float64).sum())), 1 / embedder.embedder.scale)
        for block in blocks
    ]


def _frequencies(kernel: Kernel, blocks: list[slice], spread: list[float], dim: int, seed: int) -> NDArray[np.float64]:
    """Normal, of standard deviation 1 / (bandwidth spread), in random blocks: float64 (dim, features)."""
    rng = np.random.default_rng([seed, 0, 2])
    found = np.zeros((dim, kernel.features))
    for feature in range(kernel.features):
        for index in rng.permutation(len(blocks))[: max(kernel.columns, 1)]:
            block = blocks[index]
            size = block.stop - block.start
            found[block, feature] = rng.normal(0, 1 / (kernel.bandwidth * spread[index]), size)
    return found
