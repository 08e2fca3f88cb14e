"""Charged evaluation: what a record adds, that it is charged before it is read, and what is published."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import pe
from pe.cli import main
from pe.data.arrays import to_table
from pe.data.coerce import coerce
from pe.data.read import read
from pe.errors import BudgetExceededError, CertificateError, ConfigError, RunError, RunMismatchError, SchemaError
from pe.evaluation import evaluate_charged
from pe.evaluation.charged import _Public, check_figures
from pe.evaluation.contributions import ModelScores, predicted_codes, predicted_numbers
from pe.evaluation.tables import Frame
from pe.orders import Order
from pe.privacy import Unit, standalone
from pe.privacy.certificate import read_certificate, verify
from pe.privacy.ledger import charges, spent
from pe.private.dataset import PrivateDataset
from pe.private.measure import measure

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


@pytest.fixture(scope="module")
def numeric() -> ModelScores:
    """Scores of one target of numbers and one of classes, on a grid."""
    scores = _Public.of(people(150, 0), SCHEMA, ["age", "kind"], 1000, 0).features["model scores"]
    assert isinstance(scores, ModelScores)
    return replace(scores, grid=64)


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


def test_what_a_record_adds_for_numbers_is_bounded_and_counts_it_once(numeric: ModelScores) -> None:
    assert (numeric.units, numeric.bins, numeric.bound_squared) == (3 + 3 + 2, 6 + 3 + 3, 8 * 64**2)
    table = people(400, 1).set_column(0, "age", pa.array(np.random.default_rng(0).uniform(0, 100, 400)))  # beyond reach
    bins, values = numeric.vectors(*form(table))
    assert ((values**2).sum(axis=1) <= numeric.bound_squared).all()
    assert (values >= 0).all()
    assert (bins[:, 3:] == np.arange(6, 12)).all()
    assert (values[:, -2] + values[:, -1] == 64).all()
    assert (values[:, :3] == 64).all()


def test_a_record_without_a_target_adds_nothing_for_it() -> None:
    schema = pe.Schema(
        (
            pe.Numeric("age", 0, 100, missing=True),
            pe.Categorical("town", ("a", "b"), missing=True),
            pe.Numeric("x", 0, 1),
        )
    )
    rng = np.random.default_rng(0)
    table = {"age": rng.uniform(0, 100, 60), "town": rng.choice(["a", "b"], 60), "x": rng.random(60)}
    scores = _Public.of(table, schema, ["age", "town"], 100, 0).features["model scores"]
    absent = {"age": [None], "town": [None], "x": [0.5]}
    arrays = coerce(read(pa.table(absent), schema), schema)
    _, values = scores.vectors(to_table(arrays, schema), np.zeros(1, np.int32))
    assert values.tolist() == [[0] * (3 + 3 + 3)]


@pytest.mark.parametrize("targets", [["kind", "town"], ["age", "kind"]])
def test_what_a_record_adds_does_not_depend_on_its_batch(targets: list[str]) -> None:
    scores = _Public.of(people(150, 0), SCHEMA, targets, 1000, 0).features["model scores"]
    table, labels = form(people(300, 2))
    whole, values = scores.vectors(table, labels)
    order = np.random.default_rng(0).permutation(300)
    for rows in (order, order[:7], order[100:101]):
        part, added = scores.vectors(table.take(pa.array(rows)), labels[rows])
        assert (part == whole[rows]).all()
        assert (added == values[rows]).all()


@pytest.mark.parametrize("adjacency", list(pe.Adjacency))
@pytest.mark.parametrize("norm", [None, 0.7, 2.0])
def test_a_unit_moves_the_scores_by_at_most_what_is_charged(
    numeric: ModelScores, adjacency: pe.Adjacency, norm: float | None
) -> None:
    rng = np.random.default_rng(1)
    table = people(60, 3).append_column("who", pa.array(rng.integers(0, 12, 60)))
    other = people(9, 4).append_column("who", pa.array(np.zeros(9, int)))

    def votes(data: pa.Table):
        private = PrivateDataset.read(data, SCHEMA, adjacency=adjacency, user="who")
        return measure(private, numeric, adjacency=adjacency, norm=norm)

    rest = table.slice(1) if norm is None else table.filter(pc.not_equal(table["who"], 0))
    if adjacency is pe.Adjacency.REPLACE_ONE:
        rest = pa.concat_tables([rest, other.slice(0, 1) if norm is None else other])
    whole = votes(table)
    moved = whole._count() - votes(rest)._count()
    assert 0 < (moved**2).sum() <= whole.sensitivity_squared


def test_the_integer_linear_models_predict_as_the_fitted_ones_do(numeric: ModelScores) -> None:
    arrays = coerce(read(people(500, 3), SCHEMA), SCHEMA)
    frame = Frame({name: np.asarray(values) for name, values in arrays.items()}, 500)
    for _, kind, model in numeric.classifiers:
        if kind == "logistic regression":
            plain = model.probabilities(frame).argmax(axis=1)
            assert (predicted_codes(kind, model, frame) == plain).mean() > 0.99
    for scale, kind, regressor in numeric.regressors:
        assert predicted_numbers(kind, regressor, frame) == pytest.approx(
            regressor.predict(frame), abs=scale.reach / 99
        )


@pytest.mark.usefixtures("repeated_noise")
def test_numbers_are_scored_as_the_exact_evaluation_scores_them(ledger: pe.Ledger) -> None:
    rng = np.random.default_rng(5)
    schema = pe.Schema((pe.Numeric("x", -4, 4), pe.Numeric("y", -20, 20)))

    def data(n: int) -> dict[str, np.ndarray]:
        x = np.clip(rng.normal(size=n), -4, 4)
        return {"x": x, "y": 2 * x + rng.normal(0, 0.7, n)}

    made, test = data(500), data(4000)
    found = evaluate_charged(
        made, test=test, epsilon=40.0, delta=1e-6, source="people", schema=schema, targets="y", ledger=ledger.path
    ).to_dict()
    exact = pe.evaluate(made, test=test, schema=schema, targets="y").utility[0].synthetic
    for line in found["models"]:
        noise = line["noise_deviation"]
        assert line["rmse"] == pytest.approx(exact[line["model"]]["rmse"], abs=6 * noise["rmse"] + 0.05)
        assert line["r2"] == pytest.approx(exact[line["model"]]["r2"], abs=6 * noise["r2"] + 0.05)
        assert 4 < line["clipped_at"] < 8
    few = evaluate_charged(
        made, test=data(30), epsilon=0.2, delta=1e-6, source="people", schema=schema, targets="y", ledger=ledger.path
    ).to_dict()
    assert all(line["rmse"] >= 0 for line in few["models"])


@pytest.mark.usefixtures("repeated_noise")
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
        ({"user": "town"}, ConfigError, "protects records: leave 'user' out"),
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


@pytest.mark.usefixtures("repeated_noise")
def test_a_source_of_users_is_measured_per_user(tmp_path: Path) -> None:
    book = pe.Ledger(tmp_path / "users.sqlite3", create=True)
    book.create("people", pe.Budget(30.0, 1e-6, pe.Adjacency.ADD_REMOVE, Unit.USER))
    test = people(4000, 1).append_column("who", pa.array(np.arange(4000) // 2))
    given = {"test": test, "epsilon": 20, "delta": 1e-6, "source": "people", "schema": SCHEMA, "ledger": book.path}
    with pytest.raises(ConfigError, match=r"protects users: name the column.*Nothing was spent"):
        evaluate_charged(people(300, 0), **given)
    found = evaluate_charged(people(300, 0), **given, user="who", targets=["kind", "age"]).to_dict()
    for name, entry in zip(("model scores", "marginals", "pairs"), charges(book.chain("people")), strict=True):
        squared = float(Fraction(entry.body["sensitivity_squared"])) / entry.body["grid"] ** 2
        assert squared == pytest.approx({"model scores": 8, "marginals": 4, "pairs": 6}[name], rel=0.01)
    plain = pe.evaluate(people(300, 0), test=test.drop(["who"]), schema=SCHEMA, targets=["kind", "age"])
    exact = {each.target: each.synthetic for each in plain.utility}
    for line in found["models"]:
        score = "accuracy" if "accuracy" in line else "rmse"
        assert line[score] == pytest.approx(exact[line["target"]][line["model"]][score], rel=0.1)
    assert "test_records_estimate" not in found
    assert found["tvd1"]["mean"]["distance"] < 0.15
    assert "Each user counts" in found["statement"]


def test_the_same_evaluation_is_paid_for_once_and_verifies(ledger: pe.Ledger, tmp_path: Path, run) -> None:
    given = {"epsilon": 2.0, "delta": 1e-6, "source": "people", "schema": SCHEMA, "ledger": ledger.path}
    first = evaluate_charged(people(200, 0), test=people(500, 1), **given)
    again = evaluate_charged(people(200, 0), test=people(500, 1), **given, again=True)
    assert first.facts == again.facts
    assert len(charges(ledger.chain("people"))) == 3
    evaluate_charged(people(200, 0), test=people(500, 1), **given, seed=1)  # other models
    evaluate_charged(people(200, 9), test=people(500, 1), **given)  # another synthetic table
    assert len(charges(ledger.chain("people"))) == 9
    with pytest.raises(RunMismatchError, match="changed since this was paid for"):
        evaluate_charged(people(200, 0), test=people(500, 2), **given)
    evaluate_charged(people(200, 0), test=people(500, 2), **given, again=True)
    assert len(charges(ledger.chain("people"))) == 12

    figures, proof = first.save(tmp_path / "out")
    assert first.save(tmp_path / "out") == [figures, proof]
    with pytest.raises(RunError, match="exists already"):
        evaluate_charged(people(200, 0), test=people(500, 1), **given, seed=1).save(tmp_path / "out")
    certificate = read_certificate(proof)
    assert verify(certificate, folder=proof.parent, ledger=ledger)
    code, out, _ = run("budget", "verify", proof, "--ledger", ledger.path)
    assert code == 0
    assert "3 releases behind charged.json" in out
    assert standalone.main([str(proof)]) == 0
    facts = json.loads(figures.read_text())
    facts["models"][0]["accuracy"] = 1.0
    figures.write_text(json.dumps(facts))
    assert "was changed" in run("budget", "verify", proof, "--ledger", ledger.path)[2]
    assert standalone.main([str(proof)]) == 1
    facts["releases"][0]["sigma"] /= 2
    figures.write_text(json.dumps(facts))
    forged = certificate | {"files": {"charged.json": sha256(figures.read_bytes()).hexdigest()}}
    proof.write_text(json.dumps(forged))
    assert "not what its release entry" in run("budget", "verify", proof, "--ledger", ledger.path)[2]
    with pytest.raises(CertificateError, match="not what the ledger's entry paid for"):
        check_figures(forged, proof.parent)
    first.facts["models"][0]["accuracy"] = 1.0
    with pytest.raises(CertificateError, match="changed after they were certified"):
        first.save(tmp_path / "elsewhere")
    code, _, err = run("budget", "verify", figures, "--offline")
    assert (code, "certificate.json beside it is" in err) == (1, True)


def test_an_evaluation_that_died_between_its_releases_pays_for_none_twice(
    ledger: pe.Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"epsilon": 2.0, "delta": 1e-6, "source": "people", "schema": SCHEMA, "ledger": ledger.path}
    store = Order.store_histogram

    def fail(order: Order, number: int, *rest: object) -> None:
        if number == 2:
            raise OSError("killed")
        store(order, number, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Order, "store_histogram", fail)
        with pytest.raises(OSError, match="killed"):
            evaluate_charged(people(200, 0), test=people(500, 1), **given)
    assert len(charges(ledger.chain("people"))) == 2
    with pytest.raises(RunMismatchError, match="paid for before"):
        evaluate_charged(people(200, 0), test=people(500, 1), **given)
    assert len(charges(ledger.chain("people"))) == 2
    evaluate_charged(people(200, 0), test=people(500, 1), **given, again=True)
    assert len(charges(ledger.chain("people"))) == 5


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    def call(*arguments: object) -> tuple[int | str | None, str, str]:
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return exit_.value.code, " ".join(captured.out.split()), " ".join(captured.err.split())

    return call


def test_the_command_charges_the_source_of_the_run(tmp_path: Path, run) -> None:
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
    assert run(*charge)[0] == 0  # free, and the same
    assert (tmp_path / "run" / "evaluation" / "charged.json").read_text() == text
    code, _, err = run(*charge, "--seed", 1)
    assert (code, "exists already" in err) == (1, True)
    code, out, _ = run(*charge, "--seed", 1, "--out", tmp_path / "again", "--json")
    assert (code, json.loads(out)["files"][0]) == (0, str(tmp_path / "again" / "charged.json"))
    total = json.loads(run("budget", "show", "people", "--json")[1])["sources"]["people"]
    assert len([each for each in total["charges"] if each["purpose"] == "model scores"]) == 2
    assert run("budget", "verify", tmp_path / "run" / "evaluation" / "certificate.json")[0] == 0
