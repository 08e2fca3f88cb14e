"""What models put around a text, taken off."""

from __future__ import annotations

import re


def finished(text: str, *, truncated: bool) -> str:
    """The text of an answer: without a leading <think> block, quotation marks around the whole, and white space.

    Of a truncated answer only the whole sentences; empty where there are none.
    """
    text = re.sub(r"^\s*<think>.*?(</think>|$)", "", text, flags=re.DOTALL).strip()
    for opening, closing in ('""', "“”", "''"):
        inner = text[1:-1]
        if text[:1] == opening and text[-1:] == closing and len(text) > 2 and not {opening, closing} & set(inner):
            text = inner.strip()
    if truncated:
        ends = [match.end() for match in re.finditer(r"[.!?…。！？][\"'”’)]*(?=\s|$)", text)]
        text = text[: ends[-1]] if ends else ""
    return text
