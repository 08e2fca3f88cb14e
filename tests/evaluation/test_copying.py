"""The verdict on copied records of tables: raised where training records were copied, not by chance."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pe.evaluation.closeness import Closeness, closeness
from pe.evaluation.report import _compared, headline
from pe.evaluation.tables import Field, Frame

FIELDS = (Field("x"), Field("y"), Field("town", tuple("abcde")))


def drawn(n: int, rng: np.random.Generator, decimals: int = 8) -> Frame:
    """Correlated numbers, as finely written as ``decimals`` says, and a category."""
    x = rng.normal(size=n)
    y = x + rng.normal(size=n)
    return Frame({"x": x.round(decimals), "y": y.round(decimals), "town": rng.integers(0, 5, n)}, n)


def joined(one: Frame, two: Frame) -> Frame:
    names = [field.name for field in FIELDS]
    return Frame({name: np.concatenate([one[name], two[name]]) for name in names}, one.rows + two.rows)


def compared(made: Frame, train: Frame, holdout: Frame, seed: int = 0) -> Closeness:
    return closeness(made, train, holdout, FIELDS, 1000, seed)


@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_records_that_are_drawn_alike_are_not_suspected(decimals: int) -> None:
    """Few real records, many synthetic ones: how the former fell decides more than how the latter did."""
    alarms = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        real = drawn(200, rng, decimals)
        order = rng.permutation(200)
        alarms += compared(drawn(2000, rng, decimals), real.take(order[:100]), real.take(order[100:]), seed).suspected
    assert alarms <= 1


def test_a_frequent_record_that_the_holdout_lacks_is_no_reason() -> None:
    """One record of train a thousand times among the synthetic ones: that is one coincidence, not a thousand."""
    rng = np.random.default_rng(0)
    train, holdout, made = drawn(300, rng), drawn(300, rng), drawn(1000, rng)
    found = compared(joined(made, train.take(np.zeros(1000, np.int64))), train, holdout)
    assert found.copies == 0.5
    assert not found.suspected


@pytest.mark.parametrize("share", [0.04, 0.067, 1.0])
def test_copies_of_training_records_are_suspected(share: float) -> None:
    rng = np.random.default_rng(1)
    train, holdout = drawn(1000, rng), drawn(400, rng)
    copied = round(1000 * share)
    found = compared(joined(drawn(1000 - copied, rng), train.take(np.arange(copied))), train, holdout)
    assert found.copies == pytest.approx(share)
    assert found.suspected
    stated = re.search(
        r"(\d+) training records stand among the synthetic ones, of as many unseen records 0", found.verdict
    )
    assert stated
    assert int(stated[1]) == pytest.approx(0.4 * copied, abs=25)


def test_records_near_to_training_records_are_suspected_though_none_is_equal() -> None:
    rng = np.random.default_rng(2)
    train, holdout = drawn(500, rng), drawn(500, rng)
    near = Frame(
        {"x": train["x"] + 1e-3, "y": train["y"] - 1e-3, "town": train["town"]},
        500,
    )
    found = compared(near, train, holdout)
    assert found.copies == 0
    assert found.reasons == ("synthetic records are nearer to training records than to unseen ones",)


@pytest.mark.parametrize("copied", [False, True])
def test_the_report_says_so(copied: bool) -> None:
    rng = np.random.default_rng(3)
    train, holdout, fresh = drawn(80, rng), drawn(80, rng), drawn(80, rng)
    close = compared(train if copied else fresh, train, holdout)
    found: Any = SimpleNamespace(
        texts={},
        utility=(),
        distances={"test": {}},
        correlation=SimpleNamespace(difference=None),
        two_sample=None,
        closeness=close,
    )
    lines = {line[0]: line[1:] for line in headline(found)}
    assert lines["copying"][0] == ("suspected" if copied else "not suspected")
    page = " ".join(_compared(found))
    assert ("Copying is suspected" in page) == copied
    assert ("No copying is suspected" in page) != copied
    facts = close.to_dict()
    assert (facts["suspected"], facts["copies_of_training_records"]) == (copied, float(copied))
