"""Names, labels and texts stand on the card as they are: a reader of Markdown sees no markup in them."""

from __future__ import annotations

import html
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

import pe
from pe.card import write_card
from pe.evolution.plan import Plan
from pe.markdown import code, plain

READER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])

texts = st.text(st.sampled_from("ab1 \t\n\\`*_[](){}<>&#|~$!@:/.+-=\"'\u202e\x1b"), max_size=30)

NASTY = [
    "<script>alert(1)</script>",
    "[click](javascript:alert(1))",
    "![x](http://tracker/x.png)",
    "**(0.1, 0)-differentially private**",
    "a | b\n| c | d |",
    "# The claim",
    "<!-- ",
    "`code` and ``more``",
    "\\*\\",
    "&lt;b&gt;",
    "| <http://a.b>",
]


def shown(text: str) -> str:
    """What is left of a text: one line, controls replaced."""
    kept = "".join("\ufffd" if c in "\u202e\x1b" else c for c in text)
    return " ".join(kept.split())


@given(texts)
@example("www.a.b http://a.b x@y.z")
@pytest.mark.parametrize("nasty", NASTY)
def test_plain_text_is_shown_as_it_is_in_a_sentence_and_in_a_cell(nasty: str, text: str) -> None:
    for each in (nasty, text):
        expected = html.escape(f"a {shown(each)} z".replace("  ", " "), quote=True)
        sentence = READER.render(f"a {plain(each)} z".replace("  ", " ")).replace("&#x27;", "'")
        assert sentence == f"<p>{expected.replace('&#x27;', chr(39))}</p>\n"
        table = READER.render(f"| h | i |\n|---|---|\n| a {plain(each)} z | b |\n")
        assert table.count("<td>") == 2
        assert "<td>b</td>" in table


@given(texts)
def test_code_is_one_span_of_code(text: str) -> None:
    rendered = READER.render(f"- {code(text)} z")
    assert rendered.count("<code>") == (1 if shown(text) else 0)
    assert rendered.count("<") == (6 if shown(text) else 4)  # a list, its item, the code, and their ends


def test_a_card_shows_hostile_names_as_names() -> None:
    hostile = "<img src=x onerror=alert(1)> | **x** [y](javascript:z)"
    schema = pe.Schema((pe.Categorical(hostile, (hostile, f"{hostile}\n# Heading")), pe.Numeric("age", 0, 1)), hostile)
    facts: dict[str, Any] = {
        "iterations": {"completed": 0, "planned": 0},
        "claim": {"epsilon": 1.0, "delta": 1e-6, "unit": "record", "adjacency": "add-remove"},
        "spent": {"epsilon": 0.5},
        "groups": [{"size": 2, "epsilon": 2.0, "delta": 1e-6}],
        "source": hostile,
        "run": "r",
        "entries": [
            {"kind": "reserve", "run": "r", "iteration": 0, "purpose": hostile, "grid": 1, "sigma": "2", "bins": 3}
            | {"sensitivity_squared": "1"}
        ],
        "declared_public": [hostile],
        "not_covered": [],
        "versions": {"python": "3"},
    }
    card = write_card(
        hostile,
        facts,
        schema,
        Plan(3, ()),
        apis=[hostile],
        embedder=hostile,
        label_sizes=[1, 2],
        examples=[(hostile, hostile)],
    )
    rendered = READER.render(card)
    assert "<img" not in rendered
    assert "<a " not in rendered
    assert "<h1>Heading" not in rendered
    assert rendered.count("<strong>") == 1  # the claim's own
    assert rendered.count("<tr>") == 2 + 3  # a heading and a charge; a heading and two columns
