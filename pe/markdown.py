"""Text from data, names and models as plain text in Markdown: nothing in it is taken for markup, HTML or a link."""

from __future__ import annotations

import re

_CONTROLS = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control characters, those that turn the direction of what follows among them; not the white space."""

_MARKUP = re.compile(r"([\\`*_\[\]#|~$!@])|(?<=\w)(:)(?=//)|(?<=www)(\.)", re.IGNORECASE)
_HTML = re.compile(r"&(?=#?\w+;)|<(?=[A-Za-z/!?])|^>")
"""Where an entity, a tag or a quotation would begin; other signs of comparison stay readable."""

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def plain(text: object) -> str:
    """One line that reads as it is written, wherever it stands: in a sentence, a list or a cell of a table."""
    escaped = _MARKUP.sub(lambda match: "\\" + match.group(0), _one_line(text))
    return _HTML.sub(lambda match: _ENTITIES[match.group(0)], escaped)


def code(text: object, longest: int = 300) -> str:
    """One line in code type, cut to ``longest`` characters; not for a cell of a table."""
    line = _one_line(text).replace("`", "'")
    if len(line) > longest:
        line = f"{line[: longest - 4]} ..."
    return f"`{line}`" if line else "(empty)"


def _one_line(text: object) -> str:
    return " ".join(_CONTROLS.sub("\ufffd", str(text)).split())
