"""Every example runs, and prints what it promises."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


REPEATED = """
import numpy as np
from pe.privacy import discrete_gaussian

random_bytes = np.random.default_rng(0).bytes
discrete_gaussian.sample = lambda sigma, size: discrete_gaussian.draw_from(sigma, size, random_bytes)
"""
"""Imported by an example as it starts: noise that is the same every time."""


def example(name: str, folder: Path, start: Path | None = None) -> str:
    """Run it; with what is to be imported first in a folder ``start``."""
    command = [sys.executable, str(ROOT / "examples" / name)]
    paths = os.pathsep.join([*([str(start)] if start else []), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"COLUMNS": "200", "PYTHONPATH": paths.strip(os.pathsep)}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, env=environment).stdout


def test_the_minimal_example_is_short_and_finds_the_clusters(tmp_path: Path) -> None:
    lines = (ROOT / "examples" / "minimal.py").read_text().splitlines()
    assert len(lines) < 60
    distance = re.search(r"mean distance to a private record (0\.\d+)", example("minimal.py", tmp_path))
    assert distance is not None
    assert float(distance[1]) < 0.05  # uniform points: about 0.2


def test_the_demo_ends_with_two_claims_and_a_contact_sheet(tmp_path: Path) -> None:
    printed = example("demo.py", tmp_path)
    assert printed.count("(1, 0.0001)-DP, add-remove") == 2
    made = [float(figure) for figure in re.findall(r"([\d.]+)%", printed)]
    assert len(made) == 4
    assert made[0] > 70  # of two classes
    assert made[1] > 50  # of ten
    for name in ("contact_sheet.html", "CARD.md", "certificate.json"):
        assert (tmp_path / "runs" / "demo" / "digits" / "release" / name).exists()
    example("demo.py", tmp_path)  # and once more, over its own remains


def test_texts_are_made_without_a_language_model(tmp_path: Path) -> None:
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "sitecustomize.py").write_text(REPEATED)
    printed = example("text.py", tmp_path, tmp_path / "start")
    assert "40 texts, (4, 1e-05)-DP" in printed
    fitting = re.search(r"(\d+)% of their adjectives", printed)
    assert fitting is not None
    assert int(fitting[1]) > 55  # of two kinds
