"""Charged evaluation: what a record adds, that it is charged before it is read, and what is published."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import pe
from pe.arrays import to_table
from pe.cli import main
from pe.coerce import coerce
from pe.errors import BudgetExceededError, ConfigError, SchemaError
from pe.evaluation import evaluate_charged
from pe.evaluation.charged import ModelScores, _Public
from pe.privacy.ledger import charges, spent
from pe.read import read

CANARY = "ZEBRA-4711"
SCHEMA = pe.Schema(
    (
        pe.Numeric("age", 0, 100),
        pe.Numeric("score", 0, 1),
        pe.Categorical("town", ("a", "b", "c")),
        pe.Categorical("kind", ("u", "v")),
    ),
    label="kind",
)


def people(n: int, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    age = rng.uniform(18, 90, n).round(2)
    kind = np.where(age + rng.normal(0, 9, n) > 50, "v", "u")
    town = rng.choice(["a", "b", "c"], n)
    return pa.table({"age": age, "score": rng.random(n), "town": town, "kind": kind})


def form(table: pa.Table) -> tuple[pa.Table, np.ndarray]:
    arrays = coerce(read(table, SCHEMA), SCHEMA)
    return to_table(arrays, SCHEMA), arrays["kind"].astype(np.int32)


@pytest.fixture(scope="module")
def public() -> _Public:
    return _Public.of(people(150, 0), SCHEMA, ["kind", "town"], 1000, 0)


@pytest.fixture
def ledger(tmp_path: Path) -> pe.Ledger:
    book = pe.Ledger(tmp_path / "ledger.sqlite3", create=True)
    book.create("people", pe.Budget(60.0, 1e-6, pe.Adjacency.ADD_REMOVE))
    return book


def test_each_record_adds_one_to_one_bin_per_classifier(public: _Public) -> None:
    scores = public.features["model scores"]
    assert isinstance(scores, ModelScores)
    bins, values = scores.vectors(*form(people(70, 1)))
    assert bins.shape == (70, 6)
    assert (values**2).sum(axis=1).tolist() == [scores.bound_squared] * 70
    assert (bins // 2 == np.arange(6)).all()
    assert (scores.bound_squared, scores.bins) == (6, 12)


def test_what_a_record_adds_does_not_depend_on_its_batch(public: _Public) -> None:
    scores = public.features["model scores"]
    table, labels = form(people(300, 2))
    whole, _ = scores.vectors(table, labels)
    order = np.random.default_rng(0).permutation(300)
    for rows in (order, order[:7], order[100:101]):
        part, _ = scores.vectors(table.take(pa.array(rows)), labels[rows])
        assert (part == whole[rows]).all()


def test_the_integer_linear_model_predicts_as_the_fitted_one_does(public: _Public) -> None:
    from pe.evaluation.charged import predictions
    from pe.evaluation.tables import Frame

    scores = public.features["model scores"]
    assert isinstance(scores, ModelScores)
    arrays = coerce(read(people(500, 3), SCHEMA), SCHEMA)
    frame = Frame({name: np.asarray(values) for name, values in arrays.items()}, 500)
    for _, kind, model in scores.models:
        if kind == "logistic regression":
            plain = model.probabilities(frame).argmax(axis=1)
            assert (predictions(kind, model, frame) == plain).mean() > 0.99


def test_estimates_come_close_and_every_release_is_in_the_ledger(ledger: pe.Ledger) -> None:
    test = people(3000, 4)
    found = evaluate_charged(
        people(300, 0), test=test, epsilon=30.0, delta=1e-6, source="people", schema=SCHEMA, ledger=ledger.path
    ).to_dict()
    chain = ledger.chain("people")
    assert [entry.body["purpose"] for entry in charges(chain)] == ["model scores", "marginals", "marginals"]
    assert [each["entry"] for each in found["releases"]] == [entry.hash for entry in charges(chain)]
    squares = [entry.body["sensitivity_squared"] for entry in charges(chain)]
    assert squares == ["3", "4", "6"]  # classifiers, columns, pairs
    assert 29.0 < found["spent"]["epsilon"] <= 30.0
    assert abs(found["test_records_estimate"] - 3000) < 60
    exact = pe.evaluate(people(300, 0), test=test, schema=SCHEMA)
    for line in found["models"]:
        plain = exact.utility[0].synthetic[line["model"]]["accuracy"]
        assert line["accuracy"] == pytest.approx(plain, abs=6 * line["noise_deviation"] + 0.01)
    assert found["tvd1"]["mean"]["distance"] == pytest.approx(exact.distances["test"]["tvd1"], abs=0.03)
    assert found["tvd1"]["mean"]["noise_floor"] < 0.03


def test_what_the_source_cannot_pay_is_refused_before_anything_is_read(ledger: pe.Ledger) -> None:
    class Unread:
        def __getattr__(self, name: str):
            raise AssertionError("the private records were touched")

    with pytest.raises(BudgetExceededError, match="Nothing was spent"):
        evaluate_charged(
            people(50, 0), test=Unread(), epsilon=61.0, delta=1e-6, source="people", schema=SCHEMA, ledger=ledger.path
        )
    assert not any(spent(ledger.chain("people")))


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"targets": "age"}, ConfigError, "predicts categories"),
        ({"targets": "gone"}, SchemaError, "no column 'gone'"),
        ({"schema": None}, ConfigError, "needs its schema"),
        ({"source": None}, ConfigError, "needs its schema and a source"),
        ({"epsilon": 0.0}, ConfigError, "expected epsilon > 0"),
        ({"synthetic": people(0, 0)}, ConfigError, "no records"),
    ],
)
def test_a_wrong_setting_spends_nothing(ledger: pe.Ledger, changes, kind, text: str) -> None:
    given = {"synthetic": people(50, 0), "test": people(50, 1), "epsilon": 1.0, "delta": 1e-6, "source": "people"}
    with pytest.raises(kind, match=text):
        evaluate_charged(**(given | {"schema": SCHEMA, "ledger": ledger.path} | changes))
    assert not any(spent(ledger.chain("people")))


def test_budgets_per_user_are_refused(tmp_path: Path) -> None:
    from pe.privacy import Unit

    book = pe.Ledger(tmp_path / "users.sqlite3", create=True)
    book.create("people", pe.Budget(2.0, 1e-6, pe.Adjacency.ADD_REMOVE, Unit.USER))
    with pytest.raises(ConfigError, match="protects users"):
        evaluate_charged(
            people(50, 0), test=people(9, 1), epsilon=1, delta=1e-6, source="people", schema=SCHEMA, ledger=book.path
        )


def test_the_command_charges_the_source_of_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pe.synthesize(
        people(200, 5),
        schema=SCHEMA,
        epsilon=1.0,
        delta=1e-6,
        adjacency="add-remove",
        create=True,
        source="people",
        rows=30,
        iterations=2,
        run=tmp_path / "run",
    )
    lines = [",".join(map(str, row.values())) for row in people(100, 6).to_pylist()]
    (tmp_path / "test.csv").write_text("\n".join(["age,score,town,kind", *lines, f"{CANARY},{CANARY},{CANARY},u"]))

    def run(*arguments: object) -> tuple[int | str | None, str, str]:
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return exit_.value.code, captured.out, captured.err

    command = ("evaluate", tmp_path / "run", "--test", tmp_path / "test.csv")
    charge = (*command, "--epsilon", 0.5, "--delta", 1e-6)
    code, _, err = run(*charge)
    assert (code, "Nothing was spent" in err) == (3, True), err
    for wrong in (
        (*command, "--epsilon", 0.5),
        (*charge, "--train", tmp_path / "test.csv"),
        (*command, "--source", "x"),
    ):
        assert run(*wrong)[0] == 2
    assert run("budget", "grant", "people", "--epsilon", 2)[0] == 0
    code, out, err = run(*charge)
    assert code == 0, err
    assert "(0.5, 1e-06)-DP" in out
    text = (tmp_path / "run" / "evaluation" / "charged.json").read_text()
    assert json.loads(text)["synthetic"] == {
        "rows": 30,
        "certificate_head": pe.load(tmp_path / "run").certificate["head"],
    }
    assert json.loads(text)["claim"]["epsilon"] == 0.5
    assert CANARY not in text + out + err
    assert not (tmp_path / "run" / "nonprivate").exists()
    code, _, err = run(*charge)
    assert (code, "exists already" in err) == (2, True)
    code, out, _ = run(*charge, "--out", tmp_path / "again", "--json")
    assert (code, json.loads(out)["files"]) == (0, [str(tmp_path / "again" / "charged.json")])
    total = json.loads(run("budget", "show", "people", "--json")[1])["sources"]["people"]
    assert len([each for each in total["charges"] if each["purpose"] == "model scores"]) == 2
