"""Charged evaluation of text: what a record adds, what may be bought, and that figures come close."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import pe
from pe.cli import main
from pe.data.arrays import to_table
from pe.data.coerce import coerce
from pe.data.read import read
from pe.errors import ConfigError
from pe.evaluation import evaluate_charged
from pe.evaluation.charged import _Public
from pe.evaluation.text.charged import TextScores
from pe.privacy.ledger import charges, spent
from pe.private.dataset import PrivateDataset
from pe.private.measure import measure

from .reviews import CANARY, reviews

SCHEMA = pe.Schema(
    (pe.Text("review"), pe.Categorical("stars", ("1", "5")), pe.Categorical("kind", ("food", "shop"), missing=True)),
    label="stars",
)
pytestmark = pytest.mark.usefixtures("hashed_words")
reviews = partial(reviews, length=None)


def odd(n: int, seed: int) -> pd.DataFrame:
    """Reviews, some of them empty, of signs alone, or without a kind."""
    frame = reviews(n, seed)
    frame.loc[::7, "review"] = ""
    frame.loc[1::7, "review"] = "日本 \x00 !!"
    frame.loc[2::5, "kind"] = None
    return frame


def scores_of(targets: list[str], **changes) -> TextScores:
    found = _Public.of(reviews(120, 0), SCHEMA, targets, 1000, 0, **changes).features["text scores"]
    assert isinstance(found, TextScores)
    return found


@pytest.fixture
def ledger(tmp_path: Path) -> pe.Ledger:
    book = pe.Ledger(tmp_path / "ledger.sqlite3", create=True)
    book.create("people", pe.Budget(200.0, 1e-6, pe.Adjacency.ADD_REMOVE))
    return book


def test_each_record_adds_at_most_one_to_each_part_whatever_its_batch() -> None:
    scores = scores_of(["stars", "kind"])
    assert scores.parts == ("classifiers", "next-token", "recall", "lengths", "clusters")
    assert (scores.units, scores.bound_squared) == (6, 6 * 256**2)
    arrays = coerce(read(odd(90, 1), SCHEMA), SCHEMA)
    table, labels = to_table(arrays, SCHEMA), arrays["stars"].astype(np.int32)
    bins, values = scores.vectors(table, labels)
    assert bins.shape == values.shape == (90, 7)
    assert ((values**2).sum(axis=1) <= scores.bound_squared).all()
    assert ((values >= 0) & (bins >= 0) & (bins < scores.bins)).all()
    assert all(len(set(row)) == 7 for row in bins.tolist())
    assert (values[arrays["kind"] == 2, 1] == 0).all()  # no kind, no score of it
    order = np.random.default_rng(0).permutation(90)
    for rows in (order, order[:9], order[40:41], order[:0]):
        part, added = scores.vectors(table.take(pa.array(rows)), labels[rows])
        assert (part == bins[rows]).all()
        assert (added == values[rows]).all()


@pytest.mark.parametrize("adjacency", list(pe.Adjacency))
@pytest.mark.parametrize("norm", [None, 0.7, 2.0])
def test_a_unit_moves_the_scores_by_at_most_what_is_charged(adjacency: pe.Adjacency, norm: float | None) -> None:
    scores = replace(scores_of(["stars"]), grid=64)
    table = odd(60, 3).assign(who=np.random.default_rng(1).integers(0, 12, 60))
    other = reviews(9, 4).assign(who=0)

    def votes(data: pd.DataFrame):
        private = PrivateDataset.read(data, SCHEMA, adjacency=adjacency, user="who")
        return measure(private, scores, adjacency=adjacency, norm=norm)

    rest = table.iloc[1:] if norm is None else table[table["who"] != 0]
    if adjacency is pe.Adjacency.REPLACE_ONE:
        rest = pd.concat([rest, other.iloc[:1] if norm is None else other])
    whole = votes(table)
    moved = whole._count() - votes(rest)._count()
    assert 0 < (moved**2).sum() <= whole.sensitivity_squared


@pytest.mark.usefixtures("repeated_noise")
def test_bought_figures_come_close_to_the_exact_ones(ledger: pe.Ledger) -> None:
    made, test = reviews(150, 0), reviews(1500, 1)
    given = {"test": test, "delta": 1e-6, "source": "people", "schema": SCHEMA, "ledger": ledger.path}
    found = evaluate_charged(made, epsilon=60.0, **given, targets=["stars", "kind"]).to_dict()
    assert [entry.body["purpose"] for entry in charges(ledger.chain("people"))] == [
        "marginals",
        "marginals",
        "text scores",
    ]
    exact = pe.evaluate(made, test=test, schema=SCHEMA, targets=["stars", "kind"]).texts["review"]
    accuracies = {line["target"]: line["accuracy"] for line in found["models"]}
    assert accuracies == pytest.approx({each.target: each.mean("synthetic") for each in exact.labels}, abs=0.03)
    own = found["texts"]["review"]
    assert own["next_token"]["accuracy"] == pytest.approx(exact.language["synthetic"].accuracy, abs=0.05)
    for part in ("lengths", "clusters"):
        assert own[part]["distance"] < 0.15
        assert sum(own[part]["real"]) == pytest.approx(1, abs=1e-4)
    assert 0.5 < own["recall"]["recall"] <= 1
    assert abs(found["test_records_estimate"] - 1500) < 60
    far = evaluate_charged(made.assign(review="nothing of the kind"), epsilon=60.0, **given).to_dict()
    assert far["texts"]["review"]["recall"]["recall"] < 0.1
    assert far["texts"]["review"]["lengths"]["distance"] > own["lengths"]["distance"]
    json.dumps(found, allow_nan=False)


def test_only_what_is_asked_for_is_bought_and_some_of_it_cannot_be(ledger: pe.Ledger) -> None:
    given = {"test": reviews(300, 1), "delta": 1e-6, "source": "people", "schema": SCHEMA, "ledger": ledger.path}
    for name, why in (("mauve", "any amount"), ("memorisation", "any amount"), ("nonsense", "unknown")):
        with pytest.raises(ConfigError, match=rf"'{name}' cannot be bought: .*{why}.*recall.*Nothing was spent"):
            evaluate_charged(reviews(50, 0), epsilon=1.0, **given, metrics=[name])
    assert not any(spent(ledger.chain("people")))
    found = evaluate_charged(reviews(50, 0), epsilon=1.0, **given, metrics=["recall", "clusters"]).to_dict()
    assert set(found["texts"]["review"]) == {"recall", "clusters"}
    (entry,) = charges(ledger.chain("people"))
    assert entry.body["sensitivity_squared"] == str(2 * entry.body["grid"] ** 2)
    again = evaluate_charged(reviews(50, 0), epsilon=1.0, **given, metrics=["clusters", "recall"]).to_dict()
    assert again == found
    assert len(charges(ledger.chain("people"))) == 1
    with pytest.raises(ConfigError, match=r"the texts have no label.*Nothing was spent"):
        evaluate_charged(reviews(50, 0), epsilon=1.0, **given, targets=[], metrics=["classifiers"])


def test_texts_without_a_word_or_a_label_are_no_error(ledger: pe.Ledger) -> None:
    schema = pe.Schema((pe.Text("review"),))
    for made, test in ((["", "  "], ["", "a"]), (["one text"], [""])):
        found = evaluate_charged(
            pd.DataFrame({"review": made}),
            test=pd.DataFrame({"review": test}),
            epsilon=1.0,
            delta=1e-6,
            source="people",
            schema=schema,
            ledger=ledger.path,
            again=True,
        ).to_dict()
        assert ("next_token" in found["texts"]["review"]) == bool(made[0])
        json.dumps(found, allow_nan=False)


def test_the_command_buys_and_its_certificate_verifies(
    ledger: pe.Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test = reviews(80, 1)
    test.loc[0, "review"] += f" {CANARY}"
    (tmp_path / "schema.toml").write_text(SCHEMA.to_toml())
    reviews(60, 0).to_csv(tmp_path / "made.csv", index=False)
    test.to_csv(tmp_path / "test.csv", index=False)

    def run(*arguments: object) -> tuple[int | str | None, str, str]:
        with pytest.raises(SystemExit) as done:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return done.value.code, captured.out, captured.err

    charge = ("evaluate", tmp_path / "made.csv", "--test", tmp_path / "test.csv", "--schema", tmp_path / "schema.toml")
    charge += (
        "--source",
        "people",
        "--ledger",
        ledger.path,
        "--epsilon",
        5,
        "--delta",
        1e-6,
        "--out",
        tmp_path / "out",
    )
    code, out, err = run(*charge, "--metric", "classifiers", "--metric", "next-token", "--metric", "lengths")
    assert code == 0, err
    for line in (
        "logistic regression on embeddings for stars: accuracy",
        "next token accuracy of review",
        "lengths dis",
    ):
        assert line in out
    assert CANARY not in out + err + (tmp_path / "out" / "charged.json").read_text()
    assert run("budget", "verify", tmp_path / "out" / "certificate.json", "--ledger", ledger.path)[0] == 0
    code, _, err = run(*charge, "--metric", "frechet")
    assert (code, "cannot be bought" in err) == (2, True)
