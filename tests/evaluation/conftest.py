"""Texts are embedded without a model where a test asks for it."""

from __future__ import annotations

import pytest

from pe.evaluation.text import embed

from .reviews import hashed


@pytest.fixture
def hashed_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bags of hashed words instead of MiniLM."""
    monkeypatch.setattr(embed, "minilm", lambda: hashed)
