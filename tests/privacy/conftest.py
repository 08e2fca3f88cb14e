"""What tests of certificates share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pe.privacy.standalone import main

from .certificates import CONTENT, FILE, Outcome


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run the program on a certificate, or on bytes."""

    def call(content: object, *options: str, folder: Path = tmp_path) -> Outcome:
        path = folder / "certificate.json"
        if isinstance(content, dict) and FILE in (content.get("files") or ()):
            (folder / FILE).write_bytes(CONTENT)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        capsys.readouterr()
        code = main([str(path), *options])
        captured = capsys.readouterr()
        if code:
            assert (captured.out if "--json" in options else captured.err).count("\n") <= 4
            assert "Traceback" not in captured.err
        return Outcome(code, captured.out, captured.err)

    return call
