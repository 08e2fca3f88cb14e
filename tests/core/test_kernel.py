"""Kernel votes: what herding chooses, what is measured and charged for it, and that nothing is drawn a second time."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pe.apis.tabular import TabularAPI
from pe.data.arrays import to_numpy, to_table
from pe.data.population import Population
from pe.data.schema import Categorical, Numeric, Schema
from pe.embedders.tabular import TabularEmbedder
from pe.errors import ConfigError, RunMismatchError
from pe.evolution import kernel as module
from pe.evolution.candidates import CandidateEmbedder
from pe.evolution.kernel import Kernel, Notes, Target, aim, contrasted, herd, noted, pooled, settled
from pe.evolution.loop import Generation, evolve
from pe.evolution.plan import Plan, Round
from pe.evolution.start import Releaser
from pe.privacy import Account, Adjacency, Budget, Histogram, Unit, Votes, release
from pe.private.dataset import PrivateDataset
from pe.private.measure import FourierMean

X = Numeric("x", 0, 1)
SCHEMA = Schema((X, Numeric("y", 0, 1), Categorical("town", ("a", "b", "c")), Categorical("sex", ("f", "m"))), "sex")
EMBEDDER = TabularEmbedder(SCHEMA)
BUDGET = Budget(1.0, 1e-6, Adjacency.ADD_REMOVE)


def table(n: int, seed: int = 0, x: tuple[float, float] = (2, 2)) -> Any:
    rng = np.random.default_rng(seed)
    return to_table(
        {"x": rng.beta(*x, n), "y": rng.random(n), "town": rng.integers(3, size=n).astype(np.int32)}, SCHEMA
    )


def private(n: int = 400, x: tuple[float, float] = (2, 2)) -> PrivateDataset:
    return PrivateDataset(table(n, 1, x), (np.arange(n) % 2).astype(np.int32), SCHEMA, np.arange(n) // 2)


def exact(votes: Votes, sigma: Fraction, iteration: int, name: str = "histogram") -> Histogram:
    """Without noise or charge; the scale stays what it would be."""
    return Histogram(votes._count(), sigma, "none", votes.grid)


def aimed(
    data: PrivateDataset, kernel: Kernel, release: Releaser = exact, notes: Notes | None = None, **how: Any
) -> Target:
    first = Population.of(table(300), np.arange(300) % 2, "test")
    given: dict[str, Any] = {"budget": BUDGET, "user_norm": 1.0, "seed": 0, "notes": {} if notes is None else notes}
    return aim(data, first, CandidateEmbedder(EMBEDDER), kernel, None, release=release, **(given | how))


# -- herding -------------------------------------------------------------------------------------------------------

CORNERS = np.repeat(np.eye(2, dtype=np.float32), 4, axis=0)


def test_the_herd_follows_the_mean_where_a_ranking_takes_the_mode_alone() -> None:
    """Golden: by hand, argmax of <phi, mean> - (sum of <phi, chosen>) / (t + 1), ties to the lower index."""
    mean = np.array([0.75, 0.25], np.float32)
    assert herd(CORNERS, mean, 4).tolist() == [0, 1, 4, 2]
    assert np.argsort(-CORNERS @ mean, kind="stable")[:4].tolist() == [0, 1, 2, 3]
    assert np.bincount(herd(CORNERS, mean, 5) // 4).tolist() == [4, 1]


def test_every_candidate_is_chosen_once_before_any_is_chosen_again() -> None:
    chosen = herd(CORNERS, np.array([1, 0], np.float32), 20)
    assert sorted(chosen[:8].tolist()) == list(range(8))
    assert sorted(chosen[8:16].tolist()) == list(range(8))


units = st.lists(st.floats(0, 2 * math.pi), min_size=2, max_size=9)


@given(units, st.tuples(st.floats(-1, 1), st.floats(-1, 1)), st.booleans(), st.data())
def test_each_choice_is_the_one_that_comes_nearest(
    angles: list[float], mean: tuple[float, float], voted: bool, data: st.DataObject
) -> None:
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    m = len(angles)
    shares = np.array(data.draw(st.lists(st.floats(-0.2, 1), min_size=m, max_size=m))) if voted else None
    weight = 0.5 if voted else 0.0
    target = np.array(mean, np.float32)

    def gap(chosen: list[int]) -> float:
        off = float(((features[chosen].mean(axis=0) - target) ** 2).sum())
        if shares is not None:
            off += weight * float(((np.bincount(chosen, minlength=m) / len(chosen) - shares) ** 2).sum())
        return off

    chosen = herd(features, target, m, shares, weight).tolist()
    for place in range(m):
        free = [i for i in range(m) if i not in chosen[:place]]
        best = min(gap([*chosen[:place], i]) for i in free)
        assert gap(chosen[: place + 1]) <= best + 1e-5


def test_a_large_set_is_herded_as_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(50, 8)).astype(np.float32)
    features = np.round(features * 4) / 4  # products are exact: neither route rounds
    whole = herd(features, features.mean(axis=0), 30).tolist()
    monkeypatch.setattr(module, "TILE", 0)
    assert herd(features, features.mean(axis=0), 30).tolist() == whole


# -- what is measured ----------------------------------------------------------------------------------------------


def test_frequencies_read_few_columns_each_at_the_scale_of_public_samples() -> None:
    blocks = list(EMBEDDER.blocks)
    assert sorted((block.start, block.stop) for block in blocks) == [(0, 1), (1, 2), (2, 5)]
    drawn = module._frequencies(Kernel(1.0, 3000, 0.5, 2), blocks, [0.1, 0.4, 2.0], 5, 0)
    read = np.stack([(drawn[block] != 0).any(axis=0) for block in blocks])
    assert (read.sum(axis=0) == 2).all()
    assert drawn[0][read[0]].std() == pytest.approx(1 / (0.5 * 0.1), rel=0.1)
    assert drawn[2:][:, read[2]].std() == pytest.approx(1 / (0.5 * 2.0), rel=0.1)
    assert (module._frequencies(Kernel(1.0, 10, 0.5, 0), [slice(0, 5)], [1.0], 5, 0) != 0).all()


def test_the_mean_is_that_of_each_labels_records() -> None:
    data, notes = private(), {}
    target = aimed(data, Kernel(1.0, 200), notes=notes)
    assert set(notes) == {"spread", "frequencies"}
    features = target.features(EMBEDDER.embed(data._records))
    assert np.allclose(np.linalg.norm(features, axis=1), 1, atol=0.03)
    for label in range(2):
        assert np.allclose(target.means[label], features[data._labels == label].mean(axis=0), atol=1e-5)
    noise = 400 * (target.sigma / 200) ** 2
    own = target.distance(features, data._labels, np.array([0.5, 0.5]))
    assert own == pytest.approx(-noise, rel=1e-3)  # nothing was added here, and its expectation is taken off
    other = target.features(EMBEDDER.embed(table(400, 2, (8, 2))))
    assert target.distance(other, data._labels, np.array([0.5, 0.5])) > own + 0.05


@pytest.mark.usefixtures("repeated_noise")
def test_the_distance_is_unbiased(account: Account) -> None:
    data = private()
    far = table(400, 2, (8, 2))
    wide = Ledgerless(account)
    found = []
    for trial in range(40):
        target = aimed(data, Kernel(1.0, 50), wide.release, seed=trial)
        found.append(target.distance(target.features(EMBEDDER.embed(far)), data._labels, np.array([0.5, 0.5])))
    without = [
        target.distance(target.features(EMBEDDER.embed(far)), data._labels, np.array([0.5, 0.5]))
        + 100 * (target.sigma / 200) ** 2
        for target in (aimed(data, Kernel(1.0, 50), seed=trial) for trial in range(40))
    ]
    spread = np.std(np.subtract(found, without)) / math.sqrt(40)
    assert abs(np.mean(found) - np.mean(without)) < 6 * spread + 0.01  # the noisy sizes of the labels scale the means


class Ledgerless:
    """The real noise, charged to nobody."""

    def __init__(self, account: Account) -> None:
        self.account = account

    def release(self, votes: Votes, sigma: Fraction, iteration: int, name: str = "histogram") -> Histogram:
        from pe.privacy.discrete_gaussian import sample

        return Histogram(votes._count() + sample(sigma * votes.grid, votes.bins), sigma, "none", votes.grid)


def test_the_mean_is_charged_once_for_its_share_and_found_again(account: Account) -> None:
    stored: dict[str, Histogram] = {}

    def remembering(votes: Votes, sigma: Fraction, iteration: int, name: str = "histogram") -> Histogram:
        if name not in stored:
            stored[name] = release(votes, sigma, account=account, iteration=iteration)
        return stored[name]

    notes: Notes = {}
    kernel = Kernel(0.6, 64)
    first, again = (aimed(private(), kernel, remembering, notes) for _ in range(2))
    assert (first.means == again.means).all()
    entries = [entry.body for entry in account.ledger.chain("source") if entry.kind == "reserve"]
    assert [(entry["purpose"], entry["bins"], entry["iteration"]) for entry in entries] == [
        ("label counts", 2, 0),
        ("Fourier mean", 256, 0),
    ]
    limit = BUDGET.limit[0] * Fraction(6, 10)
    assert limit * Fraction(999, 1000) < account.spent()[0] <= limit
    assert first.sigma == pytest.approx(kernel.noise(BUDGET, 1.0) / math.sqrt(0.95), rel=1e-2)


def test_other_frequencies_than_were_measured_are_refused() -> None:
    notes: Notes = {}
    aimed(private(), Kernel(1.0, 20), notes=notes)
    notes["frequencies"] = "others"
    with pytest.raises(RunMismatchError, match=r"version of numpy.*Nothing was spent by this call"):
        aimed(private(), Kernel(1.0, 20), notes=notes)


records = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 2), st.integers(0, 1), st.integers(0, 3)), max_size=12)


@given(records, records, st.sampled_from(Adjacency), st.sampled_from([None, 1.0, 2.5]))
@settings(max_examples=25)
def test_a_unit_moves_the_sums_by_at_most_what_is_charged(
    rows: list[Any], others: list[Any], adjacency: Adjacency, user_norm: float | None
) -> None:
    """The whole path of ``aim``, under every unit and adjacency."""

    def votes_of(records: list[Any]) -> list[Votes]:
        asked: list[Votes] = []

        def keeping(votes: Votes, sigma: Fraction, iteration: int, name: str = "histogram") -> Histogram:
            asked.append(votes)
            return exact(votes, sigma, iteration)

        x, town, sex, user = (
            (np.array(column) for column in zip(*records, strict=True)) if records else [np.empty(0)] * 4
        )
        arrays = {"x": x.astype(float), "y": x.astype(float), "town": town.astype(np.int32)}
        data = PrivateDataset(to_table(arrays, SCHEMA), sex.astype(np.int32), SCHEMA, user.astype(np.int64))
        unit = Unit.RECORD if user_norm is None else Unit.USER
        aimed(data, Kernel(1.0, 10), keeping, budget=Budget(1.0, 1e-6, adjacency, unit), user_norm=user_norm or 1.0)
        return asked

    if user_norm is None:
        rest, instead = rows[1:], others[:1]
    else:
        rest, instead = [row for row in rows if row[3] != 0], [(*row[:3], 0) for row in others]
    if adjacency == Adjacency.REPLACE_ONE:
        if not instead or len(rest) == len(rows):
            return
        rest = [*instead, *rest]
    for before, after in zip(votes_of(rows), votes_of(rest), strict=True):
        assert ((before._count() - after._count()) ** 2).sum() <= before.sensitivity_squared


# -- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"share": 0.0},
        {"share": 1.1},
        {"features": 0},
        {"bandwidth": 0.0},
        {"bandwidth": math.inf},
        {"bandwidth": math.nan},
        {"columns": -1},
        {"patience": 0},
        {"amplitude": 1},
        {"repulsion": -0.1},
        {"repulsion": 1.1},
        {"contrast": -0.1},
        {"contrast": math.inf},
    ],
)
def test_an_unusable_setting_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"expected a kernel's .*Nothing was spent"):
        Kernel(**({"share": 1.0} | wrong))


@pytest.mark.parametrize("adjacency", Adjacency)
@pytest.mark.parametrize(("unit", "norm"), [(Unit.RECORD, 1.0), (Unit.USER, 1.0), (Unit.USER, 5.0)])
def test_a_small_budget_gets_a_coarser_grid_and_a_hopeless_one_is_refused(
    adjacency: Adjacency, unit: Unit, norm: float
) -> None:
    amplitudes = [
        Kernel(0.9).affordable(Budget(epsilon, 1e-6, adjacency, unit), norm).amplitude for epsilon in (8.0, 0.5, 0.2)
    ]
    assert amplitudes == sorted(amplitudes, reverse=True)
    assert amplitudes[0] == 32
    assert amplitudes[-1] < 32
    with pytest.raises(ConfigError, match="Nothing was spent"):
        Kernel(0.9).affordable(Budget(1e-5, 1e-6, adjacency, unit), norm)


def test_rounds_without_votes_need_a_kernel() -> None:
    with pytest.raises(ConfigError, match=r"need a kernel.*Nothing was spent"):
        Plan(10, (Round(None, 10),))


def test_a_run_settles_when_the_distance_falls_no_further() -> None:
    notes: Notes = {noted(0): 1.0, noted(1): 0.5, noted(2): 0.3}
    assert not settled(notes, 2, 2)
    notes |= {noted(3): 0.2999, noted(4): 0.35}
    assert not settled(notes, 3, 2)
    assert settled(notes, 4, 2)
    assert not settled(notes, 4, 3)
    assert not settled(notes | {noted(4): 0.1}, 4, 2)


# -- in the loop ---------------------------------------------------------------------------------------------------


def run(plan: Plan, data: PrivateDataset, notes: Notes, release: Releaser = exact, **how: Any) -> list[Generation]:
    api = TabularAPI(SCHEMA)
    return list(evolve(data, [api], EMBEDDER, plan, budget=BUDGET, release=release, seed=3, notes=notes, **how))


def free(iterations: int, **keys: Any) -> Plan:
    kernel = Kernel(**({"share": 1.0, "features": 100, "patience": 3} | keys))
    return Plan(200, (Round(None, 100, variations=3, keep=True, degree=0.2),) * iterations, kernel=kernel)


def test_free_rounds_come_nearer_and_stop_by_themselves() -> None:
    notes: Notes = {}
    generations = run(free(60), private(6000, x=(2, 8)), notes)
    distances = [notes[noted(each.iteration)] for each in generations]
    assert distances[0] > 0.05
    assert min(distances) < 0.02 * distances[0]
    assert all(after < before + 0.01 for before, after in pairwise(distances))
    assert 5 < len(generations) < 61
    chosen = to_numpy(generations[-1].population.records, X)[:100]
    assert np.mean(chosen) == pytest.approx(0.2, abs=0.04)
    assert np.std(chosen) == pytest.approx(0.12, abs=0.04)


@pytest.mark.parametrize(("keys", "rounds"), [({}, 3), ({"repulsion": 0.7}, 8), ({"contrast": 1.0}, 8)])
def test_rounds_that_seek_more_than_the_least_distance_do_not_stop_by_it(keys: dict[str, float], rounds: int) -> None:
    """Chosen to be the same in every round: no distance ever falls."""
    same = (Round(None, 100, variations=0, keep=True),) * 8
    plan = Plan(100, same, kernel=Kernel(1.0, 50, patience=2, **keys))
    assert run(plan, private(1000), {})[-1].iteration == rounds


def test_a_resumed_run_goes_on_as_an_uninterrupted_one() -> None:
    plan, data, notes = free(4), private(), {}
    whole = run(plan, data, notes)
    again = run(plan, data, dict(notes), resume=whole[2])
    for one, other in zip(whole[2:], again, strict=True):
        assert one.population.to_table().equals(other.population.to_table())


def test_votes_beside_the_kernel_mean_choose_with_it() -> None:
    """With next to no noise in the votes and much in the mean, votes decide."""
    asked: list[str] = []

    def uneven(votes: Votes, sigma: Fraction, iteration: int, name: str = "histogram") -> Histogram:
        asked.append(votes.purpose)
        counts = votes._count()
        if name == "kernel":
            counts = np.random.default_rng(0).integers(-(10**6), 10**6, len(counts))
        return Histogram(counts, sigma, "none", votes.grid)

    this = Round(Fraction(1, 8), 40, variations=0, keep=True)
    data = private(1000, x=(40, 160))
    (first, second) = run(Plan(400, (this,), kernel=Kernel(0.01, 20)), data, {}, uneven)
    assert asked == ["label counts", "Fourier mean", "votes"]
    assert second.histogram is not None
    parents = second.population.parents
    assert second.histogram.votes[parents].mean() > 3 * second.histogram.votes.mean()
    assert first.target is not None


def test_of_a_family_no_more_are_chosen_than_said_until_all_have_been() -> None:
    features = np.eye(6, dtype=np.float32)
    mean = np.array([0.6, 0.5, 0.4, 0.3, 0.2, 0.1], np.float32)
    kin = (np.array([7, 7, 7, -2, 9, 9]), 1)
    assert herd(features, mean, 3).tolist() == [0, 1, 2]
    assert herd(features, mean, 3, kin=kin).tolist() == [0, 3, 4]
    assert sorted(herd(features, mean, 6, kin=kin)[:3].tolist()) == [0, 3, 4]
    twice = (kin[0], 2)
    assert sorted(herd(features, mean, 5, kin=twice).tolist()) == [0, 1, 3, 4, 5]


def test_the_less_the_chosen_repel_the_more_of_the_mode_is_chosen() -> None:
    mean = np.array([0.6, 0.4], np.float32)
    shares = [np.bincount(herd(CORNERS, mean, 5, repulsion=each) // 4, minlength=2)[0] for each in (1.0, 0.5, 0.0)]
    assert shares == [3, 4, 4]  # the mode has four candidates
    assert herd(CORNERS, mean, 4, repulsion=0.0).tolist() == [0, 1, 2, 3]


def test_contrast_moves_labels_apart_and_leaves_their_mean() -> None:
    means = np.array([[0.0, 1.0], [1.0, 3.0]], np.float32)
    records = np.array([300.0, 100.0])
    made = contrasted(means, records, 2.0)
    assert made == pytest.approx(np.array([[-0.5, 0.0], [2.5, 6.0]]))
    assert np.average(made, axis=0, weights=records) == pytest.approx(np.average(means, axis=0, weights=records))
    assert np.array_equal(contrasted(means, records, 0.0), means)
    assert contrasted(means[:1], records[:1], 2.0) == pytest.approx(means[:1])


def test_a_target_selects_by_its_kernels_repulsion_and_contrast() -> None:
    rng = np.random.default_rng(0)
    mean = FourierMean(EMBEDDER, np.ones((EMBEDDER.dim, 3)))
    means, records = rng.random((2, 6)).astype(np.float32), np.array([300.0, 100.0])
    features, labels, sizes = rng.random((40, 6)).astype(np.float32), np.repeat([0, 1], 20), np.array([5, 5])
    kernel = Kernel(1.0, repulsion=0.2, contrast=1.5)
    made = Target(mean, means, records, 1e-6, kernel).select(features, labels.astype(np.int32), sizes)
    aims = contrasted(pooled(means, records, 1e-6, features), records, 1.5)
    own = [features[labels == label] for label in (0, 1)]
    apart = [20 * label + herd(own[label], aims[label], 5, repulsion=0.2) for label in (0, 1)]
    assert made.tolist() == np.concatenate(apart).tolist()
    plain = Target(mean, means, records, 1e-6).select(features, labels.astype(np.int32), sizes)
    assert made.tolist() != plain.tolist()


def test_variations_of_one_parent_compete_and_fresh_samples_do_not() -> None:
    rng = np.random.default_rng(0)
    mean = FourierMean(EMBEDDER, np.ones((EMBEDDER.dim, 3)))
    target = Target(mean, rng.random((1, 6)).astype(np.float32), np.array([100.0]), 0.1, Kernel(1.0, family=1))
    features = target.features(EMBEDDER.embed(table(12)))
    labels, parents = np.zeros(12, np.int32), np.tile(np.arange(4), 3)
    assert sorted(parents[target.select(features, labels, np.array([4]), parents=parents)]) == [0, 1, 2, 3]
    fresh = np.full(12, -1)
    plain = target.select(features, labels, np.array([9]))
    assert np.array_equal(target.select(features, labels, np.array([9]), parents=fresh), plain)


def apart(d: int = 40, labels: int = 12) -> tuple[Any, Any, Any]:
    """Label means that differ as candidates do, in few of the directions; how many records each has; candidates."""
    rng = np.random.default_rng(0)
    scales = 0.2 * 0.8 ** np.arange(d)
    means = 0.3 + 0.5 * scales * rng.standard_normal((labels, d))
    features = 0.3 + scales * rng.standard_normal((2000, d))
    return means, np.geomspace(5, 2000, labels), features.astype(np.float32)


def test_pooled_means_are_nearer_to_the_truth_than_noisy_ones_and_than_their_centre() -> None:
    """At every size of a label but that of the one which makes half of the centre; most where labels are small."""
    means, records, features = apart()
    sums: list[Any] = []
    for seed in range(40):
        noise = np.random.default_rng(seed).normal(0, 3, means.shape) / records[:, None]
        noisy = (means + noise).astype(np.float32)
        centre = np.average(noisy, axis=0, weights=records)
        made = pooled(noisy, records, 3.0, features)
        sums.append([((each - means) ** 2).sum(axis=1) for each in (made, noisy, np.tile(centre, (len(means), 1)))])
    made, noisy, centre = np.mean(sums, axis=0)
    assert (made < 1.02 * np.minimum(noisy, centre))[:-1].all()
    assert made[-1] < 2 * noisy[-1]
    assert (made < 0.7 * noisy)[: len(means) // 2].all()


def test_pooling_leaves_what_noise_does_not_hide_and_nothing_of_what_is_noise() -> None:
    means, records, features = apart()
    exact = means.astype(np.float32)
    assert pooled(exact, records, 1e-9, features) == pytest.approx(exact, abs=1e-6)
    alike = np.tile(exact[:1], (len(exact), 1))
    assert pooled(alike, records, 3.0, features) == pytest.approx(alike, abs=1e-6)
    assert pooled(exact[:1], records[:1], 3.0, features) is not None
    assert np.array_equal(pooled(exact[:1], records[:1], 3.0, features), exact[:1])
    lost = pooled(exact, records, 1e6, features)
    assert lost == pytest.approx(np.tile(np.average(exact, axis=0, weights=records), (len(exact), 1)), abs=1e-5)
    assert np.isfinite(pooled(exact, records, 0.0, np.ones_like(features))).all()


def test_a_label_without_candidates_or_records_changes_nothing_about_how_it_runs() -> None:
    mean = FourierMean(EMBEDDER, np.ones((EMBEDDER.dim, 3)), labels=2)
    target = Target(mean, np.zeros((2, 6), np.float32), np.array([1.0, 1.0]), 0.1)
    features = target.features(EMBEDDER.embed(table(5)))
    labels = np.zeros(5, np.int32)
    assert len(target.select(features, labels, np.array([2, 3]))) == 2
    assert math.isnan(target.distance(features, labels, np.array([0.0, 1.0])))
    assert math.isfinite(target.distance(features, labels, np.array([0.5, 0.5])))
