"""Texts to sentences of words and back: what an n-gram model needs to know of English spelling, and no more.

A token is a word, a number, or a mark (. ! ? ... , ; : - &). Quotation marks and brackets are left out: a model of a
few words cannot pair them. A sentence ends with . ! ? or ...; one that ends without gets a full stop. The first word
of a sentence is written small where the vocabulary knows it so more often, and capitalised again in a text.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterable, Sequence

ENDS = frozenset({".", "!", "?", "..."})

_TOKEN = re.compile(r"[$£€]?\d+(?:[.,:/]\d+)*(?:%|\w+)?|\w+(?:['.&-]\w+)*|\.\.+|[.!?][!?]*|[,;:&]|(?<=\s)[-–—]+(?=\s)")
_ENTITY = re.compile(r"\s*(?<!&)#(\d{2,4});")
_PARTS = re.compile(r"\s+(?=(?:n't|'s|'re|'ve|'ll|'d|'m)\b)", re.IGNORECASE)
_SPACED = re.compile(r" (?=[.,;:!?])")
_PRONOUN = {"i": "I", "i'm": "I'm", "i've": "I've", "i'll": "I'll", "i'd": "I'd"}

Sentence = list[str]


def tokens(text: str) -> list[Sentence]:
    """Sentences of tokens as they are written. Character references of HTML count as what they stand for."""
    text = _ENTITY.sub(lambda found: chr(int(found[1])), text) if "#" in text else text  # "#39;": its "&" was lost
    text = html.unescape(text) if "&" in text else text
    text = _PARTS.sub("", text.replace("’", "'").replace("`", "'"))
    sentences: list[Sentence] = []
    current: Sentence = []
    for found in _TOKEN.findall(text):
        token = _mark(found) if not found[0].isalnum() else _PRONOUN.get(found, found)
        if token in ENDS:
            if current:
                sentences.append([*current, token])
                current = []
        elif current or token.isalnum() or len(token) > 1:  # no sentence begins with a mark
            current.append(token)
    if current:
        while current and not current[-1][-1].isalnum():
            current.pop()
        sentences += [[*current, "."]] if current else []
    return sentences


def _mark(found: str) -> str:
    if found[0] == ".":
        return "." if len(found) == 1 else "..."
    if found[0] in "!?":
        return "?" if "?" in found else "!"
    return "-" if found[0] in "–—-" else found


def within(sentences: Iterable[Sentence]) -> Counter[str]:
    """How often each word stands anywhere but first in a sentence."""
    counts: Counter[str] = Counter()
    for sentence in sentences:
        counts.update(sentence[1:])
    return counts


def uncapitalised(first: str, counts: Counter[str]) -> str:
    """The first word of a sentence as it would be written within one."""
    small = first[0].lower() + first[1:]
    return small if counts[small] >= counts[first] and first not in _PRONOUN.values() else first


def text_of(sentences: Iterable[Sequence[str]]) -> str:
    """One text: spaces where they belong, every sentence capitalised."""
    return " ".join(_SPACED.sub("", " ".join(_capitalised(each))) for each in sentences if each)


def _capitalised(sentence: Sequence[str]) -> list[str]:
    return [sentence[0][0].upper() + sentence[0][1:], *sentence[1:]]
