"""What a language model is asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pe
from pe.apis.facts import Facts
from pe.apis.prompts import FIELDS, SHIPPED, Prompts, blanked
from pe.data.arrays import misfits
from pe.errors import ConfigError, SchemaError

SCHEMA = pe.Schema((pe.Text("text"), pe.Categorical("stars", ("1", "5"))), label="stars")
PARENT = "The soup was cold and the waiter forgot us twice, but the cake was worth the trip."


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_the_same_generator_gives_the_same_prompts_and_another_one_others() -> None:
    prompts = Prompts(SCHEMA, keywords=["soup", "parking", "service"])
    first = [prompts.random({"stars": "5"}, generator(seed)) for seed in (1, 1, 2)]
    assert first[0] == first[1] != first[2]
    again = [prompts.vary(PARENT, {"stars": "5"}, 0.5, generator(seed)) for seed in (1, 1, 2)]
    assert again[0] == again[1] != again[2]


def test_a_random_prompt_names_label_keyword_and_persona() -> None:
    prompts = Prompts(
        SCHEMA, document="restaurant review", keywords={"1": ["hair in it"], "5": ["dessert"]}, personas=["a cook"]
    )
    asked = prompts.random({"stars": "1", "city": "Bern"}, generator())
    for part in ("restaurant review", "- stars: 1", "- city: Bern", "hair in it", "a cook", f"{asked.words} words"):
        assert part in asked.user
    assert "dessert" not in asked.user
    assert [each["role"] for each in asked.messages] == ["system", "user"]
    assert asked.plain.startswith(asked.system)


def test_a_paraphrase_shows_the_parent_and_a_style_and_follows_the_degree() -> None:
    prompts = Prompts(SCHEMA, styles=["in rhyme"])
    near, middle, far = (prompts.vary(PARENT, {}, degree, generator()).user for degree in (0.1, 0.5, 0.9))
    assert all(PARENT in each for each in (near, middle, far))
    assert len({near, middle, far}) == 3
    assert "in rhyme" in middle
    assert "in rhyme" in far


def test_blanks_hide_the_share_of_words_that_the_degree_says() -> None:
    words = " ".join(f"w{number}" for number in range(4000))
    assert blanked(words, 0.5, generator()).split().count("_") == pytest.approx(2000, abs=150)
    assert blanked(words, 1.0, generator()).split() == ["_"] * 4000
    asked = Prompts(SCHEMA, variation="blanks", shots=0).vary(PARENT, {}, 0.5, generator())
    assert PARENT not in asked.user
    assert asked.user.count("_") > 3


@given(st.text(), st.floats(0, 1), st.integers(0, 9))
def test_blanks_keep_white_space_and_hide_at_least_one_word(text: str, share: float, seed: int) -> None:
    hidden = blanked(text, share, generator(seed))
    assert "_" in hidden
    assert len(hidden.split()) == max(1, len(text.split()))


def test_examples_are_public_ones_of_the_label_else_synthetic_siblings_and_never_the_parent(tmp_path: Path) -> None:
    file = tmp_path / "public.csv"
    file.write_text('text,stars\n"Awful place.",1\n"Lovely place.",5\n"Grand place.",5\n')
    prompts = Prompts(SCHEMA, demos=file, variation="blanks")
    assert prompts.public_data == "examples in prompts, public.csv"
    asked = prompts.vary(PARENT, {"stars": "5"}, 0.3, generator(), ["A synthetic text."]).user
    assert "Lovely place." in asked
    assert "Grand place." in asked
    assert "Awful" not in asked
    assert "synthetic" not in asked
    without = Prompts(SCHEMA, variation="blanks", shots=3)
    asked = without.vary(PARENT, {}, 0.3, generator(), [PARENT, "A synthetic text.", PARENT]).user
    assert asked.count("<complete>") == 1
    assert "A synthetic text." in asked
    assert PARENT not in asked
    unlabelled = tmp_path / "texts.jsonl"
    unlabelled.write_text('{"text": "No label here."}\n{"text": "  "}\n')
    assert [each.text for each in Prompts(SCHEMA, demos=str(unlabelled)).demos] == ["No label here."]


def test_the_length_follows_the_parent_and_never_falls_below_25_words() -> None:
    """W = max(25, words(parent) + N(0, scale)): Aug-PE."""
    prompts, parent = Prompts(SCHEMA, length_scale=20), " ".join(["word"] * 100)
    rng = generator()
    asked = np.array([prompts.vary(parent, {}, 0.5, rng).words for _ in range(800)])
    assert asked.mean() == pytest.approx(100, abs=2)
    assert asked.std() == pytest.approx(10, rel=0.15)
    assert prompts.vary("Short.", {}, 0.5, rng).words >= 25
    assert prompts.vary(parent, {}, 0.0, rng).words == 100
    assert Prompts(SCHEMA, most_words=60).vary(parent, {}, 0.5, rng).words == 60
    drawn = {Prompts(SCHEMA, words=[7, 9]).random({}, rng).words for _ in range(50)}
    assert drawn == {7, 8, 9}


@pytest.mark.parametrize("label", ['say "ah"', "two\nlines\t more", "'); DROP", "{{ words }}", "{% raw %}"])
def test_any_label_stands_in_a_prompt_as_one_line_and_is_never_a_template(label: str) -> None:
    schema = pe.Schema((pe.Text("text"), pe.Categorical("kind", (label, "b"))), label="kind")
    line = "- kind: " + " ".join(label.split())
    prompts = Prompts(schema, keywords={label: ["soup"]})
    for asked in (
        prompts.random({"kind": label}, generator()),
        prompts.vary(PARENT, {"kind": label}, 0.5, generator()),
    ):
        assert line in asked.user.splitlines()
    assert "soup" in prompts.random({"kind": label}, generator()).user


@pytest.mark.parametrize("name", FIELDS)
def test_a_template_of_the_users_replaces_ours_and_may_use_every_field(tmp_path: Path, name: str) -> None:
    fields = sorted(FIELDS[name])
    (tmp_path / f"{name}.jinja").write_text("MINE " + " ".join("{{ " + field + " }}" for field in fields))
    (tmp_path / "styles.txt").write_text("backwards\n\n")
    prompts = Prompts(SCHEMA, templates=tmp_path, variation="blanks" if name == "blanks" else "paraphrase")
    assert prompts.styles == ["backwards"]
    asked = [prompts.random({"stars": "1"}, generator()), prompts.vary(PARENT, {"stars": "1"}, 0.5, generator())]
    mine = [each.user.startswith("MINE") or each.system.startswith("MINE") for each in asked]
    assert mine == {"system": [True, True], "random": [True, False]}.get(name, [False, True])


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("{{ persna }}", "unknown field 'persna', expected .*persona"),
        ("{% if false %}{{ text }}{% endif %}", "unknown field 'text'"),
        ("{{ facts.city }}", "no attribute 'city'"),
        ("{{ words", "line 1"),
        ("{% include 'other' %}", "no loader"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ personas|random }}", "No filter named 'random'"),
        ("{{ words / 0 }}", "division"),
    ],
)
def test_a_template_that_cannot_work_is_refused_before_anything_is_spent(
    tmp_path: Path, source: str, says: str
) -> None:
    (tmp_path / "random.jinja").write_text(source)
    with pytest.raises(ConfigError, match=rf"random\.jinja.*{says}.*Nothing was spent"):
        Prompts(SCHEMA, templates=tmp_path)


def test_other_bad_settings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "vary.jinja").write_text("x")
    bad = [
        ({"templates": tmp_path}, r"vary\.jinja is none of"),
        ({"templates": tmp_path / "none"}, "is no folder"),
        ({"variation": "masks"}, "'paraphrase' or 'blanks'"),
        ({"words": [9, 3]}, "LOW, HIGH"),
        ({"keywords": {"3": ["x"]}}, "'3' is no label"),
        ({"shots": -1}, "shots"),
    ]
    for keys, says in bad:
        with pytest.raises(ConfigError, match=f"{says}.*Nothing was spent"):
            Prompts(SCHEMA, **keys)  # type: ignore[arg-type]


def test_shipped_templates_and_lists_are_all_used() -> None:
    assert {file.name for file in SHIPPED.iterdir()} == {f"{name}.jinja" for name in FIELDS} | {
        "personas.txt",
        "styles.txt",
    }


MIXED = pe.Schema(
    (
        pe.Categorical("city", ("Bern", "Oslo"), missing=True),
        pe.Text("text", max_length=10),
        pe.Numeric("guests", 1, 9, integer=True),
        pe.Datetime.of("day", "2024-01-01", "2024-12-31", date=True),
        pe.Categorical("stars", ("1", "5")),
    ),
    label="stars",
)


def test_the_other_columns_are_drawn_varied_and_told() -> None:
    facts, rng = Facts(MIXED), generator()
    rows = facts.random(50, 1, rng)
    records = facts.records(["a text that is too long"] * 50, rows)
    assert records.column("text").to_pylist() == ["a text tha"] * 50
    assert list(misfits(records, MIXED)) == []
    told = [facts.told(1, rows, row) for row in range(50)]
    assert {each["stars"] for each in told} == {"5"}
    assert {each.get("city") for each in told} == {"Bern", "Oslo", None}
    assert all(1 <= int(each["guests"]) <= 9 and each["day"].startswith("2024-") for each in told)
    parents = pe.Population.of(records, 1, "x")
    assert facts.vary(parents, 0.0, rng).equals(rows)
    assert not facts.vary(parents, 1.0, rng).equals(rows)


def test_every_column_of_the_label_is_told_and_keywords_and_examples_are_those_of_the_combination(
    tmp_path: Path,
) -> None:
    schema = pe.Schema(
        (pe.Text("text"), pe.Categorical("city", ("Bern", "Oslo")), pe.Categorical("stars", ("1", "5"))),
        label=["stars", "city"],
    )
    told = Facts(schema).told(2, None, 0)
    assert told == {"stars": "5", "city": "Bern"}
    (tmp_path / "demos.csv").write_text(
        "text,stars,city\nGood in Bern.,5,Bern\nBad in Bern.,1,Bern\nGood far north.,5,Oslo\n"
    )
    words = {"5 / Bern": ["bears"], "1 / Bern": ["rain"]}
    prompts = Prompts(schema, keywords=words, demos=tmp_path / "demos.csv")
    asked = prompts.random(told, generator()).user
    assert all(part in asked for part in ("- stars: 5", "- city: Bern", "bears", "Good in Bern."))
    assert not any(part in asked for part in ("rain", "Bad in Bern.", "Good far north."))
    with pytest.raises(ConfigError, match="'5' is no label"):
        Prompts(schema, keywords={"5": ["bears"]})


def test_a_schema_without_exactly_one_text_is_refused() -> None:
    for columns, count in (((pe.Numeric("x", 0, 1),), 0), ((pe.Text("a"), pe.Text("b")), 2)):
        with pytest.raises(SchemaError, match=f"exactly one column of type 'text', got {count}"):
            Facts(pe.Schema(columns))
    alone = Facts(pe.Schema((pe.Text("text"),)))
    assert alone.random(3, 0, generator()) is None
    assert alone.told(0, None, 0) == {}
    assert alone.records(["x"], None).num_rows == 1
