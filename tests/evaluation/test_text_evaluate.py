"""``pe.evaluate`` and ``pe evaluate`` on tables with free text: what is measured, what the report holds, bad inputs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

import pe
from pe.cli import main
from pe.errors import ConfigError, PrivateDataError, SchemaError
from pe.evaluation.text import Embeddings
from pe.evaluation.text.corpus import spans

from .reviews import CANARY, hashed, reviews

SCHEMA = pe.Schema(
    (pe.Text("review"), pe.Categorical("stars", ("1", "5")), pe.Categorical("kind", ("food", "shop"))), label="stars"
)
pytestmark = pytest.mark.usefixtures("hashed_words")


@pytest.fixture(scope="module")
def whole() -> pe.Evaluation:
    made, test, train = reviews(150, 0), reviews(120, 1), reviews(200, 2)
    test.loc[3, "review"] = f"{CANARY} {test.loc[3, 'review']}"
    encode = Embeddings(hashed)
    return pe.evaluate(made, test=test, train=train, schema=SCHEMA, embeddings=encode)


def test_texts_and_the_tables_around_them_are_measured(whole: pe.Evaluation) -> None:
    assert whole.kinds == {"review": "text", "stars": "categories", "kind": "categories"}
    found = whole.texts["review"]
    stars, kind = found.labels
    assert (stars.target, kind.target) == ("stars", "kind")
    for each in (stars, kind):
        assert each.mean("synthetic") > 0.9 > 0.7 > each.baseline["accuracy"]  # type: ignore[operator, index]
    assert set(found.fidelity) == {"synthetic to test", "train to test"}
    assert found.memorisation is not None
    assert not found.memorisation.suspected
    assert found.rows["train"] == 150
    assert any("150 of the 200 texts of the train table" in note for note in whole.notes)
    # no numbers, so nothing that is told from labels alone; their marginals are compared
    assert (whole.utility, whole.two_sample, whole.closeness) == ((), None, None)
    assert [each.name for each in whole.marginals] == ["stars", "kind"]
    facts = whole.to_dict()
    assert facts["private"] is False
    assert facts["texts"]["review"]["labels"][0]["score"] == "accuracy"
    assert CANARY not in json.dumps(facts, allow_nan=False)


def test_without_a_schema_sentences_are_found_and_numbers_are_still_compared() -> None:
    made, test = reviews(60, 0), reviews(50, 1)
    plain = pe.evaluate(made, test=test)
    assert plain.kinds == {"review": "text", "stars": "number", "kind": "categories"}
    assert plain.two_sample is not None
    assert [each.target for each in plain.texts["review"].labels] == ["kind"]
    asked = pe.evaluate(made, test=test, targets="stars")
    assert [each.target for each in asked.texts["review"].labels] == ["stars"]
    # names are categories, and a sentence that comes again and again is one
    names = pd.DataFrame(
        {"name": ["Ada Lovelace", "Alan Turing"] * 9, "answer": ["I do not agree with this at all"] * 18}
    )
    assert pe.evaluate(names, test=names).kinds == {"name": "categories", "answer": "categories"}


@pytest.mark.parametrize("text", [None, "", "one text for every single record here"])
def test_a_generator_that_says_nothing_or_one_thing_is_still_evaluated(text: str | None) -> None:
    made = reviews(30, 0).assign(review=text)
    found = pe.evaluate(made, test=reviews(40, 1), targets="kind")
    assert found.texts["review"].fidelity["synthetic to test"].recall < 0.2
    assert found.texts["review"].variety["synthetic"].repeated == 1


def test_text_alone_and_two_columns_of_it() -> None:
    made, test = reviews(40, 0)[["review"]], reviews(30, 1)[["review"]]
    alone = pe.evaluate(made, test=test, train=test)
    assert alone.texts["review"].labels == ()
    assert alone.marginals == ()
    assert any("no label" in note for note in alone.notes)
    two = [frame.assign(answer=[text[::-1] for text in frame["review"]]) for frame in (made, test)]
    assert set(pe.evaluate(two[0], test=two[1]).texts) == {"review", "answer"}


def test_without_the_models_free_text_is_left_out_unless_it_is_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    from pe.evaluation.text import tables

    monkeypatch.setattr(tables, "find_spec", lambda _: None)
    found = pe.evaluate(reviews(30, 0), test=reviews(30, 1))
    assert found.texts == {}
    assert any("pe-synth[text]" in note for note in found.notes)


# -- the report ----------------------------------------------------------------------------------------------------


def test_the_report_shows_pictures_tables_and_escaped_texts(whole: pe.Evaluation, tmp_path: Path) -> None:
    page = whole.report(tmp_path / "nonprivate.html").read_text()
    assert page.count("<img") == 7  # classifiers, map, lengths, closest; distances, histograms, correlation
    for part in ("NOT PRIVATE", "Classifiers", "Next token", "MAUVE", "Memorisation", "Examples", "<mark>"):
        assert part in page
    assert not re.search(r"https?://", page)
    assert CANARY not in page  # real texts are shown where synthetic ones repeat them, and nowhere else
    evil = reviews(20, 0)
    evil["review"] = ["<script>alert(1)</script> " + text for text in evil["review"]]
    again = pe.evaluate(evil, test=evil, train=evil).report(tmp_path / "nonprivate.html").read_text()
    assert "<script>" not in again
    assert "&lt;script&gt;" in again


def test_a_copying_generator_is_named_and_its_spans_are_marked(tmp_path: Path) -> None:
    train, test = reviews(80, 2, 40), reviews(80, 1, 40)
    found = pe.evaluate(train, test=test, train=train)
    assert found.texts["review"].memorisation is not None
    assert found.texts["review"].memorisation.suspected
    page = found.report(tmp_path / "nonprivate.html").read_text()
    assert "<b>Suspected: " in page
    longest = found.texts["review"].shown.copied[0]
    assert (longest[0], longest[2]) == ("", "")
    assert longest[1] in set(train["review"])


def test_spans_are_cut_out_of_the_text_as_it_is() -> None:
    assert spans("It's İstanbul, again!", 3, 3) == ("It's ", "İstanbul, again", "!")
    assert spans("a b", 0, 0) == ("a b", "", "")


# -- bad inputs ----------------------------------------------------------------------------------------------------

ONE = pd.DataFrame({"review": ["one text of a few words"], "stars": ["5"], "kind": ["food"]})
EMPTY = pd.DataFrame({"review": ["", None, "  "], "stars": ["1", "5", "5"], "kind": ["food", None, "shop"]})


@pytest.mark.parametrize("made", [ONE, EMPTY, reviews(20, 0)])
@pytest.mark.parametrize("real", [ONE, EMPTY, reviews(20, 1)])
def test_one_record_and_empty_texts_are_no_error(tmp_path: Path, made: pd.DataFrame, real: pd.DataFrame) -> None:
    found = pe.evaluate(made, test=real, train=real, schema=SCHEMA)
    json.dumps(found.to_dict(), allow_nan=False)
    found.save(tmp_path / "nonprivate")


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"test": reviews(9, 1).drop(columns="review")}, SchemaError, "no column 'review'"),
        ({"test": reviews(9, 1).drop(columns="stars")}, SchemaError, "no column 'stars'"),
        (
            {"schema": None, "targets": "stars", "test": reviews(9, 1).drop(columns="stars")},
            SchemaError,
            "target 'stars'",
        ),
        ({"schema": None, "targets": "review"}, SchemaError, "target 'review' is free text"),
        (
            {"schema": None, "test": reviews(9, 1).rename(columns={"review": "text"})},
            SchemaError,
            "the test table has no such column",
        ),
        ({"test": reviews(0, 1)}, PrivateDataError, "test table holds no records"),
        ({"language_model": "nowhere"}, ConfigError, "nowhere: expected a folder with a model"),
        ({"classifier": "nowhere"}, ConfigError, "nowhere: expected a folder with a model"),
    ],
)
def test_a_wrong_input_is_one_sentence(changes, kind, text: str) -> None:
    with pytest.raises(kind, match=re.escape(text)):
        pe.evaluate(**({"synthetic": reviews(12, 0), "test": reviews(12, 1), "schema": SCHEMA} | changes))


# -- the command ---------------------------------------------------------------------------------------------------


def test_files_of_text_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, test = tmp_path / "made.jsonl", tmp_path / "test.csv"
    reviews(60, 0).to_json(made, orient="records", lines=True)
    frame = reviews(50, 1)
    frame.loc[0, "review"] += f" {CANARY}"
    frame.to_csv(test, index=False)
    with pytest.raises(SystemExit) as done:
        main(
            [
                "evaluate",
                str(made),
                "--test",
                str(test),
                "--train",
                str(test),
                "--target",
                "kind",
                "--out",
                str(tmp_path),
            ]
        )
    out, err = capsys.readouterr()
    assert done.value.code == 0, err
    assert "kind from text" in out
    assert "NOT PRIVATE" in err
    assert CANARY not in out + err
    assert json.loads((tmp_path / "nonprivate" / "evaluation.json").read_text())["texts"]["review"]["memorisation"]
    assert (tmp_path / "nonprivate").stat().st_mode & 0o777 == 0o700
