"""Each metric against cases worked out by hand, and marginals against an independent formula."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from pe.data.schema import Categorical, Numeric, Schema
from pe.evaluation import closeness as close
from pe.evaluation.association import association, correlation_ratio, cramers_v, difference, pearson
from pe.evaluation.learners import (
    auc,
    classification,
    regression,
    train_classifiers,
    train_regressors,
    two_sample,
)
from pe.evaluation.marginals import Cells, Coded, mean_distance, subsets, total_variation
from pe.evaluation.scores import evaluate
from pe.evaluation.tables import Field, Frame

NAN = np.nan
AGE, TOWN, SEX = Field("age", None, (0.0, 16.0)), Field("town", ("a", "b", "c")), Field("sex", ("f", "m"))


def frame(**columns: list[float]) -> Frame:
    arrays = {name: np.array(values, float if name == "age" else np.int64) for name, values in columns.items()}
    return Frame(arrays, len(next(iter(arrays.values()))))


# -- marginals -----------------------------------------------------------------------------------------------------


def test_total_variation_by_hand() -> None:
    real, made = frame(town=[0, 0, 1, 2], sex=[0, 1, 0, 1]), frame(town=[0, 1, 1, -1], sex=[0, 0, 0, 1])
    cells = [Cells.of(field, real, "range") for field in (TOWN, SEX)]
    one, other = Coded.of(real, cells), Coded.of(made, cells)
    # towns: 2/4 1/4 1/4 0 against 1/4 2/4 0 1/4 (missing)
    assert total_variation(one, other, cells[:1]) == pytest.approx(0.5)
    assert total_variation(one, other, cells[1:]) == pytest.approx(0.25)
    # (0,f) (0,m) (1,f) (2,m) against (0,f) (1,f) (1,f) (missing,m)
    assert total_variation(one, other, cells) == pytest.approx(0.5)
    assert mean_distance(one, other, subsets(cells, 1, np.random.default_rng(0))) == pytest.approx(0.375)
    assert mean_distance(one, other, subsets(cells, 3, np.random.default_rng(0))) is None


@pytest.mark.parametrize("bins", ["domain", "range", "quantiles"])
def test_equal_tables_are_at_zero_and_disjoint_ones_at_one(bins) -> None:
    real = frame(age=[1, 2, 3, NAN])
    far = frame(age=[15.5, 16, 99, 15.2])
    cells = [Cells.of(AGE, real, bins)]
    coded = Coded.of(real, cells)
    assert total_variation(coded, coded, cells) == 0
    assert total_variation(coded, Coded.of(far, cells), cells) == pytest.approx(0.75 if bins != "domain" else 1.0)


def test_a_column_without_values_and_a_constant_one_have_cells() -> None:
    for values in ([NAN, NAN], [3.0, 3.0]):
        cells = Cells.of(Field("age"), frame(age=values), "range")
        coded = cells.codes(frame(age=[*values, 7.0]))
        assert coded.max() < cells.count == len(cells.names())


def test_many_cells_are_counted_alike() -> None:
    rng = np.random.default_rng(0)
    field = Field("big", tuple(map(str, range(3000))))
    other = Field("big2", tuple(map(str, range(3000))))
    tables = [
        Frame({"big": rng.integers(0, 5, 400), "big2": rng.integers(0, 5, 400)}, 400),
        Frame({"big": rng.integers(0, 5, 300), "big2": rng.integers(0, 5, 300)}, 300),
    ]
    wide = [Cells(field), Cells(other)]
    few = [Cells(Field("big", tuple("01234"))), Cells(Field("big2", tuple("01234")))]
    distances = [total_variation(*(Coded.of(table, cells) for table in tables), cells) for cells in (wide, few)]
    assert distances[0] == pytest.approx(distances[1], abs=1e-12)


def published_distance(real: pd.DataFrame, synthetic: pd.DataFrame, numeric: list[str], way: int) -> float:
    """The formula behind the figures of the README: 16 equal-width bins of the real range, pandas and all."""
    columns = []
    for name in real.columns:
        if name in numeric:
            edges = np.linspace(real[name].min(), real[name].max(), 17)[1:-1]
            columns.append([np.digitize(part[name], edges) for part in (real, synthetic)])
        else:
            both = pd.concat([real[name], synthetic[name]]).astype(str)
            levels = {value: index for index, value in enumerate(pd.unique(both))}
            columns.append([part[name].astype(str).map(levels).to_numpy() for part in (real, synthetic)])
    distances = []
    for subset in itertools.combinations(columns, way):
        keys = [sum(c[side].astype(np.int64) * 1000**i for i, c in enumerate(subset)) for side in (0, 1)]
        cells = np.unique(np.concatenate(keys))
        parts = [np.bincount(np.searchsorted(cells, k), minlength=len(cells)) / len(k) for k in keys]
        distances.append(0.5 * np.abs(parts[0] - parts[1]).sum())
    return float(np.mean(distances))


def people(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    age = rng.gamma(3, 12, n).round(1)
    town = rng.choice(["north", "east", "old town"], n, p=[0.5, 0.3, 0.2])
    rich = (age + 10 * (town == "north") + rng.normal(0, 8, n) > 42).astype(int)
    return pd.DataFrame({"age": age, "town": town, "children": rng.poisson(1.3, n), "rich": rich})


PEOPLE = Schema(
    (
        Numeric("age", 0, 200),
        Categorical("town", ("north", "east", "old town")),
        Numeric("children", 0, 30, integer=True),
        Categorical("rich", ("0", "1")),
    ),
    "rich",
)


@pytest.mark.parametrize("schema", [PEOPLE, None], ids=["schema", "no schema"])
def test_distances_agree_with_the_published_formula(schema) -> None:
    real, made, test = people(300, 1), people(200, 2), people(100, 3)
    found = evaluate(made, test=test, train=real, schema=schema, targets="rich", bins="range").distances["train"]
    for way in (1, 2, 3):
        expected = published_distance(real, made, ["age", "children"], way)
        assert found[f"tvd{way}"] == pytest.approx(expected, abs=1e-12)


# -- association ---------------------------------------------------------------------------------------------------


def test_pearson_agrees_with_numpy_and_leaves_out_what_is_missing() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(50, 3)) @ rng.normal(size=(3, 3)) * [1, 1e6, 1e-6] + [0, 1e3, 5]
    assert pearson(values) == pytest.approx(np.corrcoef(values.T), abs=1e-9)
    holes = values.copy()
    holes[:20, 0] = NAN
    assert pearson(holes)[0, 1] == pytest.approx(np.corrcoef(values[20:, 0], values[20:, 1])[0, 1], abs=1e-9)
    constant = np.stack([np.full(5, 0.1), np.arange(5.0), np.full(5, NAN)], axis=1)
    assert pearson(constant).tolist() == np.eye(3).tolist()


def test_cramers_v_by_hand() -> None:
    assert cramers_v(np.array([0, 0, 1, 1]), np.array([5, 5, 2, 2])) == pytest.approx(1.0)
    assert cramers_v(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])) == pytest.approx(0.0)
    # table [[3, 1], [1, 3]]: chi squared 2 of 8, V = 1/2
    assert cramers_v(np.array([0] * 4 + [1] * 4), np.array([0, 0, 0, 1, 0, 1, 1, 1])) == pytest.approx(0.5)
    assert cramers_v(np.zeros(4, int), np.arange(4)) == 0.0


def test_the_correlation_ratio_by_hand() -> None:
    # groups (1, 3) and (5, 7): between 16, total 20
    assert correlation_ratio(np.array([0, 0, 1, 1]), np.array([1.0, 3, 5, 7])) == pytest.approx(0.8**0.5)
    assert correlation_ratio(np.array([0, 1]), np.array([NAN, 1.0])) == 0.0
    assert correlation_ratio(np.array([0, 1]), np.array([2.0, 2.0])) == 0.0


def test_the_matrix_is_symmetric_and_the_difference_skips_its_diagonal() -> None:
    table = frame(age=[1, 3, 5, 7], town=[0, 0, 1, 1], sex=[0, 1, 0, 1])
    matrix = association(table, (AGE, TOWN, SEX))
    assert matrix == pytest.approx(np.array([[1, 0.8**0.5, 0.2**0.5], [0.8**0.5, 1, 0], [0.2**0.5, 0, 1]]))
    assert difference(matrix, np.eye(3)) == pytest.approx((0.8**0.5 + 0.2**0.5) / 3)
    assert difference(np.eye(1), np.eye(1)) is None


# -- models --------------------------------------------------------------------------------------------------------


def test_scores_of_classes_by_hand() -> None:
    scores = np.array([[0.9, 0.1, 0], [0.6, 0.4, 0], [0.2, 0.8, 0], [0.7, 0.3, 0]])
    found = classification(scores, np.array([0, 0, 1, 1]))
    assert found["accuracy"] == 0.75
    assert found["f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert found["auc"] == pytest.approx(0.75)
    assert classification(scores, np.zeros(4, int))["auc"] is None
    assert auc(np.array([0.5, 0.5, 0.5]), np.array([True, False, False])) == 0.5


def test_a_class_that_synthetic_lacks_is_never_predicted() -> None:
    rng = np.random.default_rng(0)
    training = frame(age=rng.normal(0, 1, 40).tolist(), town=[0, 1] * 20)
    test = frame(age=[0.0, 1.0, 2.0], town=[0, 1, 2])
    for model in train_classifiers(training, TOWN, (AGE, TOWN), 0).values():
        scores = model.probabilities(test)
        assert scores.shape == (3, 3)
        assert not scores[:, 2].any()
        assert classification(scores, test["town"])["accuracy"] < 1


@pytest.mark.parametrize("labels", [[1, 1, 1], [1], [1, -1, -1]])
def test_one_class_or_one_record_predicts_that_class(labels) -> None:
    training = frame(age=[1.0, NAN, 3.0][: len(labels)], town=labels)
    models = train_classifiers(training, TOWN, (AGE, TOWN), 0)
    test = frame(age=[5.0, NAN], town=[1, 0])
    assert {model.probabilities(test).argmax(axis=1).tolist() == [1, 1] for model in models.values()} == {True}


def test_no_record_with_a_target_trains_nothing() -> None:
    assert train_classifiers(frame(age=[1.0], town=[-1]), TOWN, (AGE, TOWN), 0) == {}
    assert train_regressors(frame(age=[NAN], town=[0]), AGE, (AGE, TOWN), 0) == {}


def test_scores_of_numbers_by_hand() -> None:
    assert regression(np.array([1.0, 2, 3]), np.array([1.0, 2, 6])) == pytest.approx({"r2": 1 - 9 / 14, "rmse": 3**0.5})
    assert regression(np.array([1.0, 1]), np.array([2.0, 2])) == {"r2": None, "rmse": 1.0}


def test_the_two_sample_test_tells_what_differs_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    same, other = (Frame({"age": rng.normal(size=400)}, 400) for _ in range(2))
    far = Frame({"age": rng.normal(size=300) + 6}, 300)
    found = two_sample(same, other, (AGE,), 1000, 0)
    assert found is not None
    assert abs(found.auc - 0.5) < 0.12
    apart = two_sample(same, far, (AGE,), 1000, 0)
    assert apart is not None
    assert (apart.auc > 0.99, apart.rows, apart.folds) == (True, 300, 5)
    assert two_sample(same, far.take(np.arange(1)), (AGE,), 1000, 0) is None


# -- closeness -----------------------------------------------------------------------------------------------------


def test_wilson_intervals_are_the_published_ones() -> None:
    # Brown, Cai, DasGupta 2001: 0 of 10 and 5 of 10
    assert close.wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert close.wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)


def test_copies_of_train_are_found_and_fresh_records_are_not() -> None:
    rng = np.random.default_rng(0)
    train, holdout, fresh = (
        Frame({"age": rng.normal(size=200), "town": rng.integers(0, 3, 200)}, 200) for _ in range(3)
    )
    fields = (AGE, TOWN)
    copied = close.closeness(train, train, holdout, fields, 1000, 0)
    assert copied.share > 0.99
    assert copied.duplicates == {"train": 1.0, "holdout": 0.0}
    assert copied.to_train.max() == 0
    assert copied.interval[0] > 0.95
    free = close.closeness(fresh, train, holdout, fields, 1000, 0)
    assert free.interval[0] < 0.5 < free.interval[1]
    assert free.duplicates == {"train": 0.0, "holdout": 0.0}


def test_distances_by_hand_and_ties_count_half() -> None:
    train, holdout = frame(age=[0.0, 10.0], town=[0, 1]), frame(age=[0.0, 10.0, 5.0], town=[0, 1, 2])
    made = frame(age=[0.0, 5.0], town=[0, 0])
    found = close.closeness(made, train, holdout.take(np.arange(2)), (AGE, TOWN), 10, 0)
    assert found.share == 0.5
    assert found.to_train == pytest.approx([0.0, 0.5])
    assert found.duplicates == {"train": 0.5, "holdout": 0.5}
    apart = close.closeness(frame(age=[0.0], town=[1]), train, train, (AGE, TOWN), 10, 0)
    assert apart.to_train == pytest.approx([1.0], abs=1e-3)
    missing = close.closeness(frame(age=[NAN], town=[-1]), frame(age=[NAN], town=[-1]), train, (AGE, TOWN), 10, 0)
    assert (missing.share, missing.duplicates["train"]) == (1.0, 1.0)
