"""Private Evolution on one page: 2-D points, no ledger, no files. The durable loop: pe/evolution/loop.py."""

import math
from fractions import Fraction

import numpy as np

from pe.kernels.count import count
from pe.kernels.nearest import nearest
from pe.kernels.quantise import quantise
from pe.privacy import Adjacency, Budget, Contribution
from pe.privacy.discrete_gaussian import sample, sigma_for

# 1. Private records: two clusters in the unit square. Public: the square.
rng = np.random.default_rng(0)
private = np.concatenate([rng.normal(c, 0.05, (2000, 2)) for c in ((0.2, 0.3), (0.7, 0.8))]).clip(0, 1)

# 2. A budget, split evenly over the rounds; the noise each round needs.
budget = Budget(epsilon=1.0, delta=1e-6, adjacency=Adjacency.ADD_REMOVE)
rounds, size = 8, 200
one_vote = Contribution().sensitivity_squared(budget.adjacency)
sigma = sigma_for(budget.limit[0] / Fraction(rounds), one_vote)

# 3. Propose, vote, add noise, select, vary.
records, _ = quantise(private.astype(np.float32), scale=1000, limit=1000)
population = rng.random((size, 2))
for t in range(rounds):
    candidates, _ = quantise(population.astype(np.float32), scale=1000, limit=1000)
    votes = count(nearest(records, candidates), size)  # exact: never leaves this line
    noisy = votes + sample(sigma, size)  # released: the only look at private data
    weights = np.maximum(noisy - 2 * float(sigma), 0.0)
    parents = rng.choice(size, size, p=weights / weights.sum() if weights.any() else None)
    degree = 0.2 * (1 - t / rounds)
    population = (population[parents] + rng.normal(0, degree / 2, (size, 2))).clip(0, 1)

# 4. The last population is (1, 1e-6)-differentially private.
distance = math.sqrt(float(np.mean([((private - point) ** 2).sum(axis=1).min() for point in population])))
print(f"sigma {float(sigma):.3f} for {rounds} rounds; mean distance to a private record {distance:.3f}")
