"""How good synthetic texts are, and how close they come to the texts they were made from. Not private."""

from __future__ import annotations

from pe.evaluation.text.corpus import Corpus
from pe.evaluation.text.embed import Embeddings
from pe.evaluation.text.figures import TextFigures
from pe.evaluation.text.measure import measure

__all__ = ["Corpus", "Embeddings", "TextFigures", "measure"]
