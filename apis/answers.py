"""What a model's answer is worth as a sample: the text in it, or why there is none.

Around the text models put their reasoning (between tags, of which a chat template may have written the first), tokens
of their dialogue format, code fences, quotation marks, JSON. One function takes all of it off and judges what is left:
the trial before a run and the run itself.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

TRUNCATED, EMPTY, REASONING_ONLY = "truncated", "empty", "reasoning only"
"""Why an answer holds no text: it was cut at the limit of its length; there is nothing; there is nothing else."""

_NAMES = "think|thinking|thoughts?|reasoning|reflection|scratchpad|analysis"

_CLOSING = re.compile(
    rf"</\s*(?:\w+:)?(?i:{_NAMES})\s*>"
    r"|\[/(?:THINK|THINKING|REASONING)\]"  # Magistral
    r"|◁/think▷"  # Kimi
    r"|<\|(?:END_THINKING|end_of_thought|end_of_thinking|end_thinking)\|>"  # Command, OpenThinker
    r"|<\|channel\|>\s*final\s*(?:<\|constrain\|>\s*\w+\s*)?<\|message\|>"  # gpt-oss
)

_OPENING = re.compile(
    rf"<\s*(?:\w+:)?(?i:{_NAMES})\s*>"
    r"|\[(?:THINK|THINKING|REASONING)\]"
    r"|◁think▷"
    r"|<\|(?:START_THINKING|begin_of_thought|begin_of_thinking|begin_thinking)\|>"
    r"|<\|channel\|>\s*(?:analysis|commentary)"
)

_BARE_CHANNELS = re.compile(r"\A\s*analysis(?=[A-Z])(?:.*assistant\s*final)?", re.DOTALL)
"""Channels of gpt-oss whose special tokens a server has taken out: "analysisWe need ...assistantfinalThe text"."""

_END_OF_TURN = re.compile(r"<\|(?:end|return|im_end|eot_id|eom_id|endoftext|END_RESPONSE|end_of_solution)\|>")
_START_OF_TURN = re.compile(
    r"\A\s*(?:<\|(?:START_RESPONSE|begin_of_solution|start|im_start)\|>\s*(?:assistant\s*(?:<\|message\|>)?)?\s*)+"
)
_WRAPPER = re.compile(
    r"\A<(answer|response|output|result|final|final_answer|solution|text|example)>(.*)</\1>\Z",
    re.DOTALL | re.IGNORECASE,
)
_FENCE = re.compile(r"\A(`{3,}|~{3,})[^\n`~]*\n(.*?)\n?\s*\1\Z", re.DOTALL)
_OPEN_FENCE = re.compile(r"\A(?:`{3,}|~{3,})[^\n`~]*\n")
_BOLD = re.compile(r"\A(\*\*|__)(?=\S)((?:(?!\1).)*)\1\Z", re.DOTALL)
_CUT_JSON = re.compile(r'\A\{\s*"(?:[^"\\]|\\.)*"\s*:\s*"((?:[^"\\]|\\.)*)', re.DOTALL)
_CUT_ESCAPE = re.compile(r"\\u[0-9a-fA-F]{0,3}\Z")
_SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)]*(?=\s|$)")
_QUOTES = (*zip("\"“„„«'‘「`", "\"”“”»'’」`", strict=True),)

_KEYS = ("text", "content", "answer", "response", "output")
"""Where the text stands in an object of JSON that holds several strings."""


@dataclass(frozen=True)
class Completion:
    """An answer without what stood around its text.

    text      the sample; empty where the answer holds none.
    fault     why it holds none, or is too short a piece of one; empty where ``text`` counts.
    reasoned  whether there was a tag that closes reasoning and none that opens it: then the chat template opens it.
    """

    text: str
    fault: str = ""
    reasoned: bool = False


def read_completion(
    raw: str, *, truncated: bool, words: int = 0, opened: bool = False, reasoned_apart: bool = False
) -> Completion:
    """Take the text out of an answer, and say whether it counts.

    truncated       whether the answer reached the limit of its length: only whole sentences count then, and they must
                    make half of ``words``, which is how many were asked for.
    opened          whether the answer begins within reasoning that the chat template opened: without a closing tag it
                    is nothing else.
    reasoned_apart  whether the endpoint returned reasoning beside the answer, in a field of its own.
    """
    text, reasoning = without_reasoning(raw, opened=opened)
    text = unwrapped(text, truncated=truncated)
    if truncated:
        text = whole_sentences(text)
    reasoned = bool(_CLOSING.search(raw)) and not _OPENING.search(raw)
    if truncated and (not text or 2 * len(text.split()) < words):
        return Completion(text, TRUNCATED, reasoned)
    if not text:
        return Completion("", REASONING_ONLY if reasoning or reasoned_apart else EMPTY, reasoned)
    return Completion(text, "", reasoned)


def without_reasoning(raw: str, *, opened: bool = False) -> tuple[str, bool]:
    """What follows the last tag that closes reasoning, and whether there was reasoning.

    Reasoning that is opened and not closed leaves no text, whatever stands before it.
    """
    text, reasoning = raw, False
    if bare := _BARE_CHANNELS.match(text):
        closed = bare.group().rstrip().endswith("final")
        text, reasoning = (text[bare.end() :] if closed else ""), True
    closings = list(_CLOSING.finditer(text))
    if closings:
        text, reasoning = text[closings[-1].end() :], True
    elif opened and not reasoning:
        text, reasoning = "", True
    if _OPENING.search(text):
        text, reasoning = "", True
    return text.strip(), reasoning


def opens_reasoning(prompt: str) -> bool:
    """Whether a prompt ends with a tag that opens reasoning, so that the answer begins within."""
    *_, last = (None, *_OPENING.finditer(prompt))
    return last is not None and not prompt[last.end() :].strip()


def is_reasoning_tag(token: str) -> bool:
    """Whether a token of a model is a tag that opens or closes reasoning."""
    return bool(_OPENING.fullmatch(token.strip()) or _CLOSING.fullmatch(token.strip()))


def unwrapped(text: str, *, truncated: bool = False) -> str:
    """A text without dialogue tokens, code fence, JSON, quotation or bold marks around the whole, and white space."""
    text = _START_OF_TURN.sub("", text)
    if end := _END_OF_TURN.search(text):
        text = text[: end.start()]
    text = text.strip().removesuffix("</s>").strip()
    while (inner := _unwrapped_once(text, truncated)) != text:
        text = inner
    return text


def _unwrapped_once(text: str, truncated: bool) -> str:
    for pattern in (_WRAPPER, _FENCE, _BOLD):
        if (match := pattern.match(text)) and match.group(1) not in match.group(2):
            return match.group(2).strip()
    if truncated and (fence := _OPEN_FENCE.match(text)):
        return text[fence.end() :].strip()
    if text[:1] in ("{", "[", '"'):
        return _from_json(text, truncated)
    for opening, closing in _QUOTES:
        inner = text[1:-1]
        if text[:1] == opening and text[-1:] == closing and len(text) > 2 and not {opening, closing} & set(inner):
            return inner.strip()
    return text


def _from_json(text: str, truncated: bool) -> str:
    """The one text that JSON holds: a string, a list of one, an object with one string or one under a usual key."""
    try:
        value = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        cut = _CUT_JSON.match(text) if truncated else None
        if cut is None:
            return _without_quotes(text)
        try:
            value = json.loads(f'"{_CUT_ESCAPE.sub("", cut.group(1))}"', strict=False)
        except ValueError:  # an escape that is none
            return text
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict):
        strings = {str(key).lower(): part for key, part in value.items() if isinstance(part, str)}
        named = [strings[key] for key in _KEYS if key in strings]
        if len(strings) == 1:
            named = list(strings.values())
        value = named[0] if named else None
    return value.strip() if isinstance(value, str) else text


def _without_quotes(text: str) -> str:
    """A text in straight double quotes that are no JSON, such as one of several lines."""
    inner = text[1:-1]
    return inner.strip() if len(text) > 2 and text[0] == text[-1] == '"' and '"' not in inner else text


def whole_sentences(text: str) -> str:
    """The text up to the end of its last whole sentence; empty where there is none."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]] if ends else ""


def most_likely_cause(outcome: str, max_tokens: int, setting: str = "api.max_tokens") -> str:
    """What to do about answers of which most came to this outcome; empty where the outcome says it itself."""
    limit = f"{setting} = {max_tokens}"
    if outcome == TRUNCATED:
        return (
            f"answers are cut at {limit} before there is enough text, as those of models are that reason first: raise "
            f"{setting}, or have the model reason less or not at all (with many endpoints an entry of api.options, "
            "such as reasoning_effort)"
        )
    if outcome == REASONING_ONLY:
        return (
            "answers hold the model's reasoning and no text: turn its reasoning off (with many endpoints an entry of "
            f"api.options, such as reasoning_effort), or raise {limit}"
        )
    if outcome == EMPTY:
        return (
            f"answers are empty: a model that reasons may have used up its tokens, so raise {limit} or turn its "
            "reasoning off; a base model without a chat template may have none to give"
        )
    if outcome == "refused":
        return "the model or a content filter refuses: change api.prompts (document, instructions, keywords), or model"
    return ""
