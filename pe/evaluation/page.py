"""Pieces of a report's page: tables of figures and pictures inside the page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from pe.evaluation.result import Utility

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #22252b; max-width: 68rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #d8dbe0 }
.warning { border-left: 4px solid #b3261e; background: #fbeceb; padding: .6rem 1rem }
table { border-collapse: collapse; margin: .8rem 0 } img { max-width: 100% }
td, th { padding: .25rem .9rem .25rem 0; text-align: right; border-bottom: 1px solid #e7e9ed; font-weight: normal }
td:first-child, th:first-child { text-align: left } .words td:last-child, .words th:last-child { text-align: left }
td { white-space: nowrap } .words td:last-child { white-space: normal }
h3 { font-size: 1rem } blockquote { margin: .6rem 0; padding: .2rem .9rem; border-left: 3px solid #d8dbe0;
  font-size: .9rem; white-space: pre-wrap; overflow-wrap: anywhere } mark { background: #f7d9c8 }
th { color: #5b6270 } .note { color: #5b6270; font-size: .9rem }
"""


def scores(utility: Utility) -> str:
    """Every score of every model."""
    lines = [(f"{name}, trained on synthetic", scores) for name, scores in utility.synthetic.items()]
    lines += [(f"{name}, trained on real", scores) for name, scores in (utility.real or {}).items()]
    if utility.baseline is not None:
        what = "the majority class" if utility.kind == "classification" else "the mean"
        lines.append((f"no model: {what}", utility.baseline))
    names = list(next(iter(utility.synthetic.values())))
    return table(("", *names), [(name, *(number(scores[key]) for key in names)) for name, scores in lines])


def number(value: float | None) -> str:
    """Short; a dash where undefined."""
    return "-" if value is None else f"{value:.3f}" if abs(value) < 1000 else f"{value:.4g}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table; all is escaped."""
    top = "".join(f"<th>{escape(each)}</th>" for each in head)
    lines = "".join("<tr>" + "".join(f"<td>{escape(each)}</td>" for each in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{lines}</table>"


def image(content: bytes, text: str) -> str:
    """A PNG inside the page."""
    return f'<p><img alt="{escape(text)}" src="data:image/png;base64,{base64.b64encode(content).decode()}"></p>'
