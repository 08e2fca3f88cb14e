"""Labels as names of folders: distinct on every file system, and read as labels by what loads image folders."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from hashlib import sha256

MAX_BYTES = 100
"""Of a folder's name in UTF-8: file systems take 255, Windows 260 characters for a whole path."""

_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
"""Names that are devices under Windows, whatever follows a dot."""

_SPLITS = re.compile(
    r"(?<![^-._ 0-9])(train|training|validation|valid|dev|val|test|testing|eval|evaluation)(?![^-._ 0-9])"
)
"""Words that Hugging Face's library takes for the split that a folder's files belong to."""


def folder_names(labels: Sequence[str]) -> tuple[str, ...]:
    """A folder's name for each of the distinct labels.

    Letters, digits, ``-``, ``_``, inner spaces and inner dots stay; everything else is percent-encoded as in URLs
    (``<=5`` is ``%3C%3D5``), and so is what would give a name another meaning: a leading ``_`` or ``.`` (hidden, or
    skipped by Hugging Face's library), a device of Windows, a word that says "test split". Where two names differ at
    most in case or in Unicode's forms, or one is cut at ``MAX_BYTES``, a suffix that begins with ``~`` tells them
    apart.
    """
    names: list[str] = []
    taken: set[str] = set()
    for label in labels:
        name = _encoded(label)
        if len(name.encode()) > MAX_BYTES:
            name = f"{_cut(name)}~{sha256(label.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
        unique, number = name, 1
        while _folded(unique) in taken:
            number += 1
            unique = f"{name}~{number}"
        taken.add(_folded(unique))
        names.append(unique)
    return tuple(names)


def _encoded(label: str) -> str:
    name = "".join(char if _harmless(char) else _percent(char) for char in label)
    name = _SPLITS.sub(lambda word: _percent(word[0][0]) + word[0][1:], name)
    if name[:1] in ("_", ".", " ") or _RESERVED.match(name):
        name = _percent(name[0]) + name[1:]
    if name[-1:] in (".", " "):
        name = name[:-1] + _percent(name[-1])
    return name or "%"  # no label's percent-encoding


def _harmless(char: str) -> bool:
    return char in "-_ ." or unicodedata.category(char)[0] in "LMN"


def _percent(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogatepass"))


def _cut(name: str) -> str:
    kept = name.encode()[: MAX_BYTES - 17].decode(errors="ignore")
    return re.sub(r"%[0-9A-F]?$", "", kept)


def _folded(name: str) -> str:
    """Equal for names that some file system takes for one."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
