"""``pe.evaluate`` and ``pe evaluate``: awkward tables, where results go, what the report holds, wrong inputs."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import pe
from pe.cli import main
from pe.errors import ConfigError, PrivateDataError, RunError, SchemaError
from pe.evaluation.tables import generic, generic_field

CANARY = "ZEBRA-4711"
SCHEMA = pe.Schema(
    (
        pe.Numeric("age", 0, 100, integer=True),
        pe.Numeric("score", 0, 1),
        pe.Categorical("town", ("a", "b", "$c$")),
        pe.Categorical("kind", ("u", "v")),
    ),
    label="kind",
)


PICTURED = pe.Schema((pe.Image("picture", 2, 2), pe.Categorical("kind", ("u", "v"))), label="kind")
PICTURES = {"picture": np.zeros((3, 2, 2), np.uint8), "kind": ["u", "v", "u"]}


def rows(n: int, seed: int) -> dict[str, list]:
    rng = np.random.default_rng(seed)
    age = rng.integers(18, 90, n)
    kind = np.where(age + rng.normal(0, 9, n) > 50, "v", "u")
    return {
        "age": age.tolist(),
        "score": rng.random(n).round(3).tolist(),
        "town": rng.choice(["a", "b", "$c$"], n).tolist(),
        "kind": kind.tolist(),
    }


def csv(path: Path, columns: dict[str, list]) -> Path:
    lines = [",".join(columns), *(",".join(map(str, line)) for line in zip(*columns.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return path


def evaluate(**changes) -> pe.Evaluation:
    return pe.evaluate(**({"synthetic": rows(60, 0), "test": rows(50, 1), "targets": "kind", "sample": 200} | changes))


@pytest.fixture(scope="module")
def whole() -> pe.Evaluation:
    return evaluate(train=rows(80, 2), schema=SCHEMA, targets=["kind", "age"])


def test_models_of_classes_and_numbers_with_bounds_and_baselines(whole: pe.Evaluation) -> None:
    kind, age = whole.utility
    assert (kind.kind, age.kind) == ("classification", "regression")
    assert list(kind.synthetic) == ["logistic regression", "random forest", "gradient boosting"]
    assert list(age.synthetic) == ["ridge", "random forest", "gradient boosting"]
    assert kind.real is not None
    assert kind.baseline is not None
    assert kind.mean("real") > 0.75 > 0.65 > kind.baseline["accuracy"]  # type: ignore[operator]
    assert set(age.synthetic["ridge"]) == {"r2", "rmse"}
    assert whole.settings["bins"] == "domain"
    facts = whole.to_dict()
    assert facts["private"] is False
    assert facts["warning"].startswith("NOT PRIVATE")
    assert set(facts["marginals"]["mean_total_variation"]) == {"test", "train", "train to test"}
    json.dumps(facts, allow_nan=False)


def test_what_is_found_repeats_under_a_seed() -> None:
    one, same, other = (evaluate(train=rows(90, 2), sample=40, seed=seed).to_dict() for seed in (3, 3, 4))
    assert one == same
    assert one["closeness"] != other["closeness"]
    assert any("40 of the 90 records" in note for note in one["notes"])


def test_two_kinds_of_whole_numbers() -> None:
    """Without a schema few whole numbers are classes as a target, and numbers otherwise."""
    table = {"age": [1, 2, 3, 4] * 5, "grade": [1, 2] * 10}
    found = pe.evaluate(table, test=table, targets="grade")
    assert found.kinds == {"age": "number", "grade": "categories"}
    assert found.utility[0].kind == "classification"


AWKWARD = {
    "one record each": ({"x": [1.0], "k": ["a"]}, {"x": [2.0], "k": ["b"]}),
    "two records": ({"x": [1.0, 2.0], "k": ["a", "b"]}, {"x": [2.0, 1.0], "k": ["b", "a"]}),
    "constant columns": ({"x": [1.0] * 9, "k": ["a"] * 9}, {"x": [1.0] * 9, "k": ["a"] * 9}),
    "missing numbers": ({"x": [None, 1.0, 2.0], "k": ["a", "b", "a"]}, {"x": [None, None, 5.0], "k": ["a", "b", "b"]}),
    "missing classes": ({"x": [1.0, 2.0], "k": [None, "b"]}, {"x": [1.0, 2.0], "k": [None, None]}),
    "no class in common": ({"x": [1.0, 2.0, 3.0], "k": ["a", "b", "a"]}, {"x": [1.0, 2.0], "k": ["c", "d"]}),
    "infinite": ({"x": [np.inf, 2.0], "k": ["a", "b"]}, {"x": [1e308, -1e308], "k": ["b", "a"]}),
    "one column": ({"k": ["a", "b", "b"]}, {"k": ["b", "a", "a"]}),
    "texts of numbers": ({"x": ["1", "2", ""], "k": ["a", "b", " a "]}, {"x": [1.5, None, 3.0], "k": ["a", "b", "a"]}),
}


@pytest.mark.parametrize(("synthetic", "test"), AWKWARD.values(), ids=AWKWARD)
def test_no_table_is_too_awkward(tmp_path: Path, synthetic, test) -> None:
    found = pe.evaluate(synthetic, test=test, train=test, targets="k")
    json.dumps(found.to_dict(), allow_nan=False)
    found.save(tmp_path / "nonprivate")


def test_kinds_dates_and_columns_that_are_left_out() -> None:
    n = 1100
    day = pa.array(range(n), pa.int32()).cast(pa.date32())
    table = pa.table(
        {
            "day": day,
            "note": [f"{CANARY} {i}" for i in range(n)],
            "empty": pa.nulls(n),
            "x": range(n),
            "extra": range(n),
        }
    )
    found = pe.evaluate(table, test=table.drop_columns(["extra"]), sample=50)
    assert found.kinds == {"day": "number", "x": "number"}
    assert found.utility == ()
    text = " ".join(found.notes)
    assert all(f"'{name}'" in text for name in ("note", "empty", "extra"))
    assert "no target" in text
    assert CANARY not in text + repr(found)


class Column:
    """A declared column of a type that the evaluation does not know."""

    def __init__(self, **facts) -> None:
        self.name = "new"
        self.__dict__ |= facts


@pytest.mark.parametrize(
    ("column", "values", "kind", "expected"),
    [
        (Column(values=("low", "high")), np.array([1, 0, 2, -1]), "categories", [1, 0, -1, -1]),
        (Column(), np.array([True, False]), "categories", [1, 0]),
        (Column(minimum=0, maximum=9), np.array([1.0, np.nan, np.inf]), "number", [1.0, None, None]),
        (Column(), np.array(["1970-01-02", "NaT"], "datetime64[D]"), "number", [1.0, None]),
    ],
    ids=["categories", "truth", "numbers", "dates"],
)
def test_columns_of_other_types_are_numbers_or_categories(column, values, kind, expected) -> None:
    field = generic_field(column, values)
    assert field is not None
    assert field.kind == kind
    made = generic(values, field).tolist()
    assert [None if x != x else x for x in made] == expected


def test_a_large_wide_table_is_sampled() -> None:
    rng = np.random.default_rng(0)
    wide = {f"c{i}": rng.integers(0, 4, 300).astype(float) for i in range(130)}
    found = pe.evaluate(wide, test=wide, sample=20)
    assert len(found.correlation.columns) == 100
    assert found.distances["test"]["tvd3"] is not None


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_report_is_one_file_that_needs_nothing_else(tmp_path: Path, whole: pe.Evaluation) -> None:
    text = whole.report(tmp_path / "nonprivate.html").read_text()
    assert "NOT PRIVATE" in text
    page = Page()
    page.feed(text)
    pictures = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) >= 6
    assert all(source.startswith("data:image/png;base64,iVBOR") for source in pictures)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert not re.search(r"https?://", text)


def test_names_are_escaped(tmp_path: Path) -> None:
    evil = {"<script>": [1.0, 2.0, 3.0, 4.0], "$k_$ 漢": ["<b>", "$x^", "<b>", "$x^"]}
    text = pe.evaluate(evil, test=evil, targets="$k_$ 漢").report(tmp_path / "nonprivate.html").read_text()
    assert "<script>" not in text


@pytest.mark.parametrize("place", ["report.html", "release/nonprivate.html", "release/nonprivate/report.html"])
def test_nothing_is_written_where_it_could_be_taken_for_a_release(tmp_path: Path, whole, place: str) -> None:
    with pytest.raises(RunError, match="is not private"):
        whole.report(tmp_path / place)
    handed_out = tmp_path / "to_share"
    handed_out.mkdir()
    (handed_out / "certificate.json").write_text("{}")
    with pytest.raises(RunError, match="never goes into a release"):
        whole.save(handed_out / "nonprivate")
    assert [path.name for path in tmp_path.rglob("*")] == ["to_share", "certificate.json"]


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"targets": "nonsense"}, SchemaError, "target 'nonsense'"),
        ({"bins": "tiny"}, ConfigError, "expected bins"),
        ({"sample": 0}, ConfigError, "sample >= 1"),
        ({"test": {"other": [1]}}, SchemaError, "no column in common"),
        ({"test": {"age": []}}, PrivateDataError, "no records"),
        ({"test": 5}, PrivateDataError, "got int"),
        ({"test": "gone.csv"}, PrivateDataError, "does not exist"),
        ({"synthetic": "."}, RunError, "holds no release"),
        ({"schema": pe.Schema((pe.Image("picture", 2, 2),))}, SchemaError, "no column 'picture'"),
        (
            {"synthetic": PICTURES, "test": PICTURES, "schema": PICTURED, "targets": None},
            SchemaError,
            "images are not",
        ),
    ],
)
def test_a_wrong_input_is_one_sentence(changes, kind, text: str) -> None:
    with pytest.raises(kind, match=re.escape(text)):
        evaluate(**changes)


def test_no_error_quotes_a_value(tmp_path: Path, everything_about) -> None:
    broken = tmp_path / "test.parquet"
    broken.write_bytes(f"PAR1{CANARY}".encode())
    with pytest.raises(PrivateDataError, match="details withheld") as caught:
        evaluate(test=broken)
    assert CANARY not in everything_about(caught.value)


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ConfigError, match=r"pip install 'pe-synth\[evaluate\]'"):
        evaluate()


# -- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, captured.out, captured.err

    return call


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A finished run with its records and test records."""
    train = csv(tmp_path / "train.csv", rows(120, 5))
    csv(tmp_path / "test.csv", rows(60, 6))
    pe.synthesize(
        train,
        schema=SCHEMA,
        epsilon=2.0,
        delta=1e-5,
        adjacency="add-remove",
        create=True,
        source="people",
        rows=30,
        iterations=2,
        run=tmp_path / "run",
    )
    return tmp_path


def digest(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_is_evaluated_beside_its_release(project: Path, run) -> None:
    before = digest(project / "run" / "release")
    code, out, err = run("evaluate", project / "run", "--test", project / "test.csv", "--train", project / "train.csv")
    assert code == 0, err
    assert "NOT PRIVATE" in out
    assert "NOT PRIVATE" in err
    folder = project / "run" / "nonprivate"
    assert sorted(path.name for path in folder.iterdir()) == ["evaluation.json", "report.html"]
    facts = json.loads((folder / "evaluation.json").read_text())
    assert facts["warning"].startswith("NOT PRIVATE")
    assert facts["utility"][0]["target"] == "kind"
    assert facts["closeness"]["rows"]["train"] == 60
    assert digest(project / "run" / "release") == before
    assert pe.load(project / "run").export(["jsonl"])
    assert digest(folder)  # a later release leaves the evaluation where it is


def test_a_file_needs_a_folder_that_says_so(project: Path, run) -> None:
    file, test = project / "run" / "release" / "synthetic.csv", project / "test.csv"
    code, _, err = run("evaluate", file, "--test", test)
    assert (code, "--out" in err) == (2, True)
    code, out, _ = run("evaluate", file, "--test", test, "--out", project / "found", "--target", "age", "--json")
    assert code == 0
    facts = json.loads(out)
    assert facts["utility"][0]["kind"] == "regression"
    assert {Path(name).parent for name in facts["files"]} == {project / "found" / "nonprivate"}
    code, _, err = run("evaluate", file, "--test", test, "--out", project / "run" / "release")
    assert (code, "never goes into a release" in err) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("gone", "--test", "test.csv"), 2, "does not exist"),
        (("run", "--test", "gone.csv"), 2, "does not exist"),
        (("run", "--test", "test.csv", "--target", "gone"), 2, "target 'gone'"),
        (("run", "--test", "test.csv", "--schema", "gone.toml"), 2, "cannot be read"),
        (("run", "--test", "empty.csv"), 2, "is empty"),
        (("run", "--test", "test.csv", "--sample", "0"), 2, "sample >= 1"),
        ((".", "--test", "test.csv"), 1, "holds no release"),
    ],
)
def test_a_wrong_argument_is_one_sentence(project, run, monkeypatch, arguments, code: int, text: str) -> None:
    monkeypatch.chdir(project)
    (project / "empty.csv").touch()
    found, _, err = run("evaluate", *arguments)
    assert (found, text in err) == (code, True), err
    assert len(err.strip().splitlines()) == 1
    assert not (project / "run" / "nonprivate").exists()
