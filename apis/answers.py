"""What is made of a model's answer."""

from __future__ import annotations

import re

from pe.apis.endpoint import Answer
from pe.journal import ANSWERED


def judged(answer: Answer, words: int) -> Answer:
    """A truncated answer counts if its whole sentences make half of the words; none without anything left counts."""
    if answer.outcome != ANSWERED:
        return answer
    text = finished(answer)
    if text and (not answer.truncated or 2 * len(text.split()) >= words):
        return answer
    return Answer("truncated" if answer.truncated else "empty", "", answer.note, answer.tokens, answer.truncated)


def finished(answer: Answer) -> str:
    """The text of an answer, without what models put around it; only whole sentences of a truncated one."""
    text = re.sub(r"^\s*<think>.*?(</think>|$)", "", answer.text, flags=re.DOTALL).strip()
    for opening, closing in ('""', "“”", "''"):
        inner = text[1:-1]
        if text[:1] == opening and text[-1:] == closing and len(text) > 2 and not {opening, closing} & set(inner):
            text = inner.strip()
    if answer.truncated:
        ends = [match.end() for match in re.finditer(r"[.!?…。！？][\"'”’)]*(?=\s|$)", text)]
        text = text[: ends[-1]] if ends else ""
    return text
