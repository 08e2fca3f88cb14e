"""The text in a model's answer: whatever models put around it, and answers that hold none."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pe.apis.answers import (
    EMPTY,
    REASONING_ONLY,
    TRUNCATED,
    is_reasoning_tag,
    most_likely_cause,
    opens_reasoning,
    read_completion,
)

TEXT = "The soup was warm, and we stayed until the lights went out."
REASONING = "The user asks for a short review. Keep it natural.\n\nSo:"

TAGS = [
    *((f"<{name}>", f"</{name}>") for name in ("think", "thinking", "thought", "reasoning", "reflection", "THINK")),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|><|START_RESPONSE|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>\n<|begin_of_solution|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final <|constrain|>text<|message|>"),
]


@pytest.mark.parametrize(("opening", "closing"), TAGS, ids=lambda tag: tag)
def test_only_what_follows_the_last_closing_tag_is_the_text(opening: str, closing: str) -> None:
    for raw in (
        f"{opening}{REASONING}{closing}\n\n{TEXT}",
        f"{REASONING}\n{closing}\n\n{TEXT}",  # a chat template opened it
        f"{opening}{closing}{TEXT}",
        f"Hm.{closing}{opening}{REASONING}{closing} {TEXT}\n",
    ):
        assert read_completion(raw, truncated=False).text == TEXT
        assert read_completion(raw, truncated=True, words=12).fault == ""
    for raw in (f"{opening}{REASONING}", f"{opening}{REASONING}{closing}\n", f"{TEXT}\n{opening}{REASONING}"):
        assert (read_completion(raw, truncated=False).text, read_completion(raw, truncated=False).fault) == (
            "",
            REASONING_ONLY,
        )
        assert read_completion(raw, truncated=True).fault == TRUNCATED


def test_an_answer_says_whether_a_chat_template_opened_its_reasoning() -> None:
    assert read_completion(f"{REASONING}</think>{TEXT}", truncated=False).reasoned
    assert not read_completion(f"<think>{REASONING}</think>{TEXT}", truncated=False).reasoned
    assert not read_completion(TEXT, truncated=False).reasoned
    # then an answer without the tag is nothing else
    assert read_completion(TEXT, truncated=True, opened=True).fault == TRUNCATED
    assert read_completion(TEXT, truncated=False, opened=True).fault == REASONING_ONLY
    assert read_completion(f"{REASONING}</think>{TEXT}", truncated=False, opened=True).text == TEXT


def test_channels_whose_special_tokens_a_server_took_out() -> None:
    assert read_completion(f"analysisWe need a review.assistantfinal{TEXT}", truncated=False).text == TEXT
    assert read_completion("analysisWe need a review.", truncated=False).fault == REASONING_ONLY
    assert read_completion("analysis of the soup: warm.", truncated=False).text == "analysis of the soup: warm."


MARKUP = {
    "white space": "\n {} \n",
    "quotation marks": '"{}"',
    "typographic": "“{}”",
    "German": "„{}“",
    "French": "« {} »",
    "fence": "```\n{}\n```",
    "fence of a language": "```text\n{}\n```",
    "tildes": "~~~\n{}\n~~~",
    "bold": "**{}**",
    "JSON string": '"{}"',
    "JSON object": '{{"review": "{}"}}',
    "JSON object, several keys": '{{"stars": "5", "Text": "{}", "ok": true}}',
    "JSON list": '["{}"]',
    "JSON in a fence": '```json\n{{"text": "{}"}}\n```',
    "element": "<answer>\n{}\n</answer>",
    "end of turn": "{}<|im_end|>\n<|im_start|>user",
    "end of sequence": "{}</s>",
    "several": '<answer>```\n"{}"\n```</answer>',
}


@pytest.mark.parametrize("markup", MARKUP)
def test_markup_around_the_whole_is_taken_off(markup: str) -> None:
    assert read_completion(MARKUP[markup].format(TEXT), truncated=False) == read_completion(TEXT, truncated=False)
    assert read_completion(TEXT, truncated=False).text == TEXT


@pytest.mark.parametrize(
    "text",
    [
        '"One" and "two"',
        "**One** and **two**",
        "Use this:\n```\nx = 1\n```",
        "```\nx\n```\nand\n```\ny\n```",
        '{"from": "a", "to": "b"}',
        "[1, 2]",
        "[sic] he wrote",
        "12",
        "<p>Hello</p>",
        "a < b > c",
        "{unbalanced",
        "[" * 10_000,
        "I think: <b>yes</b>.",
    ],
    ids=lambda text: text[:20],
)
def test_what_belongs_to_the_text_stays(text: str) -> None:
    assert read_completion(text, truncated=False).text == text


@given(st.text(max_size=60))
def test_any_text_comes_back_from_json_and_is_read_without_an_exception(text: str) -> None:
    for truncated in (False, True):
        found = read_completion(text, truncated=truncated)
        assert bool(found.text) or bool(found.fault)
    plain = read_completion(text, truncated=False)
    if plain.text == text:  # nothing stood around it
        assert read_completion(json.dumps({"text": text}), truncated=False).text == text


@pytest.mark.parametrize(
    ("raw", "words", "text", "fault"),
    [
        ("One is done. Two is done. Three is", 6, "One is done. Two is done.", ""),
        ("One is done. Two is", 60, "One is done.", TRUNCATED),
        ("and so on and", 2, "", TRUNCATED),
        ("", 0, "", TRUNCATED),
        ("```\nOne is done. Two", 3, "One is done.", ""),
        ('{"text": "One is \\"done\\". Two', 3, 'One is "done".', ""),
        ('{"text": "One is done. \\u00', 3, "One is done.", ""),
    ],
)
def test_of_an_answer_that_was_cut_whole_sentences_count(raw: str, words: int, text: str, fault: str) -> None:
    found = read_completion(raw, truncated=True, words=words)
    assert (found.text, found.fault) == (text, fault)


@pytest.mark.parametrize("raw", ["", "  \n", '""', "```\n\n```"])
def test_an_answer_without_anything_is_empty_unless_reasoning_came_beside_it(raw: str) -> None:
    assert read_completion(raw.strip('"`\n '), truncated=False).fault == EMPTY
    assert read_completion("", truncated=False, reasoned_apart=True).fault == REASONING_ONLY


def test_a_prompt_that_ends_within_reasoning_is_told_from_one_that_does_not() -> None:
    assert opens_reasoning("<|user|>Write.<|assistant|><think>\n")
    assert not opens_reasoning("<|user|>Write.<|assistant|><think>\n\n</think>\n\n")
    assert not opens_reasoning("<|user|>Say <think> twice.<|assistant|>")
    assert not opens_reasoning("")
    assert is_reasoning_tag("</think>")
    assert is_reasoning_tag("[THINK]")
    assert not is_reasoning_tag("<|im_end|>")


@pytest.mark.parametrize("outcome", [TRUNCATED, EMPTY, REASONING_ONLY])
def test_the_cause_names_the_limit_and_the_reasoning(outcome: str) -> None:
    cause = most_likely_cause(outcome, 77)
    assert "api.max_tokens = 77" in cause
    assert "reason" in cause
    assert most_likely_cause("timeout", 77) == ""
