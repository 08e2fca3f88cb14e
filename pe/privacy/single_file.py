"""The standalone verifier as one program: its modules, joined, to be handed over with a release."""

from __future__ import annotations

import ast
from importlib.resources import files

PACKAGE = "pe.privacy.standalone"

MODULES = ("accounting", "signature", "reading", "program")
"""In the order in which they need each other."""


def verifier_program() -> bytes:
    """Python source that runs alone: every module's without its imports of the others."""
    folder = files(PACKAGE)
    head = folder.joinpath("__init__.py").read_text(encoding="utf-8")
    lines = [*_docstring(head), "", "from __future__ import annotations"]
    for name in MODULES:
        source = folder.joinpath(f"{name}.py").read_text(encoding="utf-8")
        dropped = {number for node in ast.parse(source).body if _inner(node) for number in _span(node)}
        kept = [line for number, line in enumerate(source.splitlines(), start=1) if number not in dropped]
        lines += ["", "", f"# == {name} ".ljust(120, "="), "", *kept]
    return ("\n".join(lines) + "\n").encode()


def _docstring(source: str) -> list[str]:
    return source.splitlines()[: ast.parse(source).body[0].end_lineno]


def _inner(node: ast.stmt) -> bool:
    """An import that the joined program has no use for."""
    return isinstance(node, ast.ImportFrom) and (node.module or "").startswith((PACKAGE, "__future__"))


def _span(node: ast.stmt) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)
