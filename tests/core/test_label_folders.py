"""Names of folders for labels: distinct wherever they are written, and no name means anything else."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pe.data.label_folders import MAX_BYTES, folder_names

DEVICES = {"con", "prn", "aux", "nul", *(f"{name}{number}" for name in ("com", "lpt") for number in range(10))}


@given(st.lists(st.text(max_size=150), min_size=1, max_size=8, unique=True))
@example(["C#", "C+", "<=5", ">=5", "__5", "5"])
@example(["a", "A", "a~2", "A~2", "\u00e9", "e\u0301", "\u00c9", "stra\u00dfe", "STRASSE"])
@example(["con", "CON", "con.txt", "", "%", "%25", ".", "..", "a.", "a ", " a", "\0", "../x", "\ud800", "x" * 300])
def test_names_are_distinct_and_harmless(labels: list[str]) -> None:
    names = folder_names(labels)
    assert len({unicodedata.normalize("NFKC", name.casefold()).casefold() for name in names}) == len(labels)
    for name in names:
        assert name
        assert name[0] not in "._ "
        assert name[-1] not in ". "
        assert name.split(".")[0].lower() not in DEVICES
        assert not set(name) & set('/\\:*?"<>|[]{}\0\n\r\t')
        assert len(name.encode()) <= MAX_BYTES + 4
    assert folder_names(labels) == names


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=10), min_size=1, max_size=8, unique=True))
def test_names_tell_their_labels(labels: list[str]) -> None:
    for name, label in zip(folder_names(labels), labels, strict=True):
        assert unquote(name.partition("~")[0]) == (label or "%")


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("cat", "cat"),
        ("New York", "New York"),
        ("v1.5", "v1.5"),
        ("a-b_c", "a-b_c"),
        ("日本", "日本"),
        ("<=5", "%3C%3D5"),
        ("C#", "C%23"),
        ("_5", "%5F5"),
        (".5", "%2E5"),
        ("Aux", "%41ux"),
        ("nul.txt", "%6Eul.txt"),
        ("auxiliary", "auxiliary"),
        ("train", "%74rain"),
        ("crash test 2", "crash %74est 2"),
        ("contest", "contest"),
    ],
)
def test_only_what_must_change_changes(label: str, name: str) -> None:
    assert folder_names([label]) == (name,)


def test_the_first_of_two_that_differ_in_case_keeps_its_name() -> None:
    assert folder_names(["a", "A", "b"]) == ("a", "A~2", "b")


def test_all_are_folders_of_their_own(tmp_path: Path) -> None:
    labels = [chr(code) for code in range(1, 600)] + ["..", ".", "", "x" * 400, "x" * 400 + "y", "../" * 30]
    names = folder_names(labels)
    for name in names:
        (tmp_path / name).mkdir()
    assert {path.name for path in tmp_path.iterdir()} == set(names)
