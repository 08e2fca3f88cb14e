"""A public corpus for APIs that make text: read once, as sentences of numbered words, by label where it has labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pe.apis.ngrams import END
from pe.apis.words import tokens, uncapitalised, within
from pe.data.coerce import coerce
from pe.data.labels import label_codes, label_names
from pe.data.parts import is_address
from pe.data.read import read
from pe.data.schema import Categorical, Schema, Text
from pe.errors import ConfigError, PrivateDataError, SchemaError

Sentences = list[list[int]]

_LONGEST = 2**24


class Vocabulary:
    """Words and their numbers: END is 0, the words of the corpus follow, then those of a text at hand."""

    def __init__(self, sentences: list[list[str]]) -> None:
        self.counts: Counter[str] = within(sentences)
        self.words = [""]
        self.numbers: dict[str, int] = {}
        for sentence in sentences:
            for word in sentence:
                self._number(word)
        self.known = len(self.words)

    def _number(self, word: str) -> int:
        found = self.numbers.get(word)
        if found is None:
            found = self.numbers[word] = len(self.words)
            self.words.append(word)
        return found

    def of(self, text: str) -> Sentences:
        """Sentences of a text; what the corpus lacks gets a number, too, until ``forget``."""
        return [
            [self._number(word) for word in (uncapitalised(sentence[0], self.counts), *sentence[1:])]
            for sentence in tokens(text)
        ]

    def forget(self) -> None:
        """Drop the words that no corpus holds: numbers depend on nothing that was asked before."""
        for word in self.words[self.known :]:
            del self.numbers[word]
        del self.words[self.known :]


def read_corpus(
    paths: Sequence[str | Path],
    columns: Sequence[str],
    label: str | Sequence[str] | None,
    schema: Schema,
    *,
    limit: int,
) -> tuple[Vocabulary, list[Sentences], list[Sentences]]:
    """The vocabulary, the sentences of each of the schema's labels, and as one more those of texts without one.

    paths    what ``pe.data.read`` reads, or .txt: a text per line.
    columns  the column of texts in each of them.
    label    as in ``labelled_texts``.
    limit    characters; of a larger corpus every k-th text is taken.

    Raises ConfigError for a corpus that is missing, unreadable or empty, SchemaError for a column it lacks.
    """
    texts: list[str] = []
    codes: list[NDArray[np.int32]] = []
    for path, column in zip(paths, columns, strict=True):
        found, own = labelled_texts(path, column, label, schema)
        texts += found
        codes.append(own)
    code = np.concatenate(codes) if codes else np.empty(0, np.int32)
    step = -(-sum(map(len, texts)) // limit) or 1
    texts, code = texts[::step], code[::step]
    parsed = [tokens(text) for text in texts]
    every = [sentence for text in parsed for sentence in text]
    if not every:
        raise ConfigError("the corpus of the n-gram API holds no sentence. Nothing was spent.")
    counts = within(every)
    for sentence in every:
        sentence[0] = uncapitalised(sentence[0], counts)
    vocabulary = Vocabulary(every)
    pools: list[Sentences] = [[] for _ in range(len(schema.labels) + 1)]
    for place, text in zip(code, parsed, strict=True):
        pools[place] += [[vocabulary.numbers[word] for word in sentence] for sentence in text]
    return vocabulary, pools[:-1], pools[-1:]


def labelled_texts(
    path: str | Path, column: str, label: str | Sequence[str] | None, schema: Schema
) -> tuple[list[str], NDArray[np.int32]]:
    """Texts of a file, and each one's label, int32 (n,); that of no label is the last.

    ``label`` names the columns that say which label a text has: as many as are the label of the schema, in their order.
    Trimmed, each must be one of the declared values letter by letter.
    """
    names = label_names(label)
    if names and len(names) != len(schema.label_columns):
        raise ConfigError(
            f"corpus_label names {len(names)} columns, the schema's label has {len(schema.label_columns)}: name one of "
            "the corpus for each, in their order. Nothing was spent."
        )
    unlabelled = len(schema.labels)
    try:
        if str(path).endswith(".txt") and not is_address(path):
            lines = Path(path).read_bytes().decode("utf-8-sig", "ignore").splitlines()
            return lines, np.full(len(lines), unlabelled, np.int32)
        text = Text("text", _LONGEST)
        values = [schema.categorical(name).values for name in schema.label_columns[: len(names)]]
        kinds = [Categorical(f"label {place}", each, missing=True) for place, each in enumerate(values)]
        columns = {"text": column} | {kind.name: name for kind, name in zip(kinds, names, strict=True)}
        wanted = Schema((text, *kinds))
        arrays = coerce(read(path, wanted, columns=columns), wanted)
    except SchemaError as error:
        problem = str(error).removesuffix(" Nothing was spent.")
        raise SchemaError(f"{problem} Name its own with corpus_text and corpus_label. Nothing was spent.") from None
    except (PrivateDataError, OSError, pa.ArrowException) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        reason = reason or str(error).removesuffix(" Nothing was spent.").removesuffix(".")
        raise ConfigError(f"the corpus {path} cannot be read: {reason}. Nothing was spent.") from None
    found: list[str] = arrays["text"].tolist()
    codes = np.full(len(found), unlabelled, np.int32)
    if names:
        given = {name: arrays[kind.name] for name, kind in zip(schema.label_columns, kinds, strict=True)}
        held = np.all([code < len(each) for code, each in zip(given.values(), values, strict=True)], axis=0)
        codes[held] = label_codes({name: code[held] for name, code in given.items()}, schema)
    return found, codes


class Topics:
    """How alike sentences are in their words: reflective random indexing (Cohen, Schvaneveldt, Widdows 2010).

    A word is the sum of the sentences that it stands in, which are sums of random vectors of their words, all weighted
    by the logarithm of how few sentences have them.
    """

    def __init__(self, sentences: Sentences, words: int, rng: np.random.Generator, width: int = 96) -> None:
        lengths = np.fromiter((len(each) for each in sentences), np.int64, len(sentences))
        flat = np.fromiter((word for each in sentences for word in each), np.int64, int(lengths.sum()))
        owner = np.repeat(np.arange(len(sentences)), lengths)
        held = np.bincount(np.unique(owner * words + flat) % words, minlength=words)
        weight = np.log(len(sentences) / np.maximum(held, 1)).astype(np.float32)
        weight[held == 0] = 0
        own = rng.standard_normal((words, width), dtype=np.float32) / np.float32(np.sqrt(width))
        self._words = own * weight[:, None]
        seen = self.of(sentences)
        reflected = np.zeros((words, width), np.float32)
        np.add.at(reflected, flat, seen[owner])
        norm = np.linalg.norm(reflected, axis=1, keepdims=True)
        self._words = (own + reflected / np.maximum(norm, 1e-6)) * weight[:, None]

    def of(self, sentences: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """A unit vector for each; words that the corpus lacks count for nothing."""
        known = len(self._words)
        kept = [[word for word in each if word < known] or [END] for each in sentences]
        lengths = np.fromiter((len(each) for each in kept), np.int64, len(kept))
        flat = np.fromiter((word for each in kept for word in each), np.int64, int(lengths.sum()))
        if not kept:
            return np.empty((0, self._words.shape[1]), np.float32)
        found = np.add.reduceat(self._words[flat], np.append(0, np.cumsum(lengths)[:-1]), axis=0)
        unit: NDArray[np.float32] = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-6)
        return unit
