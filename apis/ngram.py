"""Text without a language model or a network: an n-gram model of a public corpus, and moves of spans and sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pe.apis.corpus import Sentences, Topics, read_corpus
from pe.apis.ngrams import END, Ints, NGrams
from pe.apis.words import text_of
from pe.data.population import Population
from pe.data.schema import Schema
from pe.errors import ConfigError, SchemaError

MOVED = 0.75
"""Share of what changes that is due to moves of whole sentences: they bring texts nearer to a target faster."""

TRIES = 8
"""Single spans that are drawn for a text that has come out as it was."""

SPAN = 3.0
"""Mean number of words of a span that is drawn anew."""

CHAINS = 6
"""Continuations drawn for each span, of which the one that joins best is taken."""

LONGEST = 60
"""Tokens of the longest sentence that is drawn."""

NEAREST_OF = 1000
"""Sentences of the corpus, drawn at random, of which the one nearest to a text is taken."""

MOVES = ("exchange", "insert", "delete")
_MOVE = (0.5, 0.25, 0.25)
_SOURCE = (0.25, 0.15, 0.1, 0.5)


class NGramAPI:
    """Draws texts from an interpolated Kneser-Ney model of a public corpus, and varies them by phrase and sentence.

    ``random`` draws sentences until a number of words is passed, itself drawn uniformly in its logarithm from
    ``words``.

    ``vary`` changes about the share ``degree`` of a text: most of it by moves of whole sentences, the rest by spans of
    some words that are drawn anew in their context, from the left, so that they join what follows. A sentence is
    exchanged, inserted or deleted; the new one is another parent's of the label, is drawn from an n-gram model of the
    parents, in which their phrases recombine, or is the nearest of some of the corpus in its words, or drawn from its
    model. Spans follow either model. Degree 0 changes nothing, any other one span at least, unless none of a few joins.
    How many words a text has is a random walk that only selection directs.

    corpus        paths: what ``pe.data.read`` reads, or .txt with a text per line. Public.
    corpus_text   the column of texts, one for all or one for each path; by default the schema's.
    corpus_label  a column of labels, in all of them; a list, where several columns are the schema's label. A text whose
                  values are a label of the schema, letter by letter, is for that label alone, any other for all. By
                  default, and without one, all are for all labels.
    order         of the model: a word follows from at most ``order - 1`` before it.
    words         fewest and most words of a fresh text.
    limit         characters of the corpus that are used: of a larger one every k-th text.

    The schema holds one text column beside its label; texts keep its ``max_length``, cut after a sentence, else a word.
    Raises ConfigError for a corpus or settings that cannot be used, SchemaError for a column that is not there.
    """

    name = "ngram"

    def __init__(
        self,
        schema: Schema,
        *,
        corpus: str | Path | Sequence[str | Path],
        corpus_text: str | Sequence[str] | None = None,
        corpus_label: str | Sequence[str] | None = None,
        order: int = 4,
        words: Sequence[int] = (10, 250),
        limit: int = 20_000_000,
    ) -> None:
        if schema.text is None or len(schema.features) != 1:
            raise SchemaError(
                "the n-gram API makes one column of text beside the label: declare just these. Nothing was spent."
            )
        paths = [corpus] if isinstance(corpus, str | Path) else list(corpus)
        asked = schema.text.name if corpus_text is None else corpus_text
        columns = [asked] * len(paths) if isinstance(asked, str) else list(asked)
        for what, value, good in (
            ("corpus of one path or more", corpus, bool(paths)),
            ("corpus_text for each of its paths", corpus_text, len(columns) == len(paths)),
            ("order in [2, 8]", order, 2 <= order <= 8),
            ("words [fewest, most] with 1 <= fewest <= most", words, len(words) == 2 and 1 <= words[0] <= words[1]),
            ("limit >= 1", limit, limit >= 1),
        ):
            if not good:
                raise ConfigError(f"the n-gram API: expected {what}, got {value!r}. Nothing was spent.")
        self.schema, self.column = schema, schema.text
        self.fewest, self.most = int(words[0]), int(words[1])
        self.public_data = "the corpus of an n-gram model, " + ", ".join(Path(path).name for path in paths)
        self.vocabulary, own, (shared,) = read_corpus(paths, columns, corpus_label, schema, limit=limit)
        everything = [sentence for pool in (*own, shared) for sentence in pool]
        size = len(self.vocabulary.words)
        common = _Source(everything, order, size)
        self._sources = [_Source(pool + shared, order, size) if pool else common for pool in own]

    def random(self, n: int, label: int, rng: np.random.Generator) -> Population:
        source = self._sources[label]
        wanted = np.exp(rng.uniform(math.log(self.fewest), math.log(self.most + 1), n))
        texts: list[str] = []
        drawn = iter(source.sentences(int(wanted.sum() / source.mean) + n, rng))
        for least in wanted:
            text: Sentences = []
            while sum(map(len, text)) < least:
                sentence = next(drawn, None)
                if sentence is None:
                    drawn = iter(source.sentences(n, rng))
                    continue
                text.append(sentence)
            texts.append(self._written(text))
        return Population.of(self._table(texts), label, self.name)

    def vary(self, parents: Population, degree: float, rng: np.random.Generator) -> Population:
        given: list[str] = parents.records.column(self.column.name).to_pylist()
        texts = list(given)
        if degree > 0:
            known = {text: self.vocabulary.of(text) for text in dict.fromkeys(given)}
            for source in dict.fromkeys(self._sources):
                own = [row for row, label in enumerate(parents.labels) if self._sources[label] is source]
                if not own:
                    continue
                varied = _Variation(source, [known[given[row]] for row in own], parents.labels[own], degree, rng)
                for row, text in zip(own, varied.texts(), strict=True):
                    texts[row] = self._written(text)
            self.vocabulary.forget()
        return Population.of(self._table(texts), parents.labels, self.name)

    def _table(self, texts: list[str]) -> pa.Table:
        return pa.table([pa.array(texts, pa.string())], schema=self.schema.arrow())

    def _written(self, text: Sentences) -> str:
        words = self.vocabulary.words
        sentences = [[words[token] for token in sentence] for sentence in text]
        written = text_of(sentences)
        while len(written) > self.column.max_length and len(sentences) > 1:
            sentences.pop()
            written = text_of(sentences)
        if len(written) > self.column.max_length:
            cut = written[: self.column.max_length + 1]
            written = cut[: cut.rfind(" ")] if " " in cut else cut[: self.column.max_length]
        return written


class _Source:
    """Sentences of the corpus and their model."""

    def __init__(self, sentences: Sentences, order: int, words: int) -> None:
        self.corpus, self.order = sentences, order
        self.model = NGrams(sentences, order)
        self.mean = sum(map(len, sentences)) / len(sentences)
        self.topics = Topics(sentences, words, np.random.default_rng(0))
        self.places = self.topics.of(sentences)

    def sentences(self, n: int, rng: np.random.Generator) -> Sentences:
        """At most ``n`` sentences drawn from the model."""
        return drawn(self.model, n, rng)

    def near(self, texts: Sequence[Sentences], rng: np.random.Generator) -> Sentences:
        """A sentence of the corpus near each text."""
        asked = self.topics.of([[token for sentence in text for token in sentence] for text in texts])
        found: Sentences = []
        for start in range(0, len(asked), 64):
            pool = rng.integers(len(self.corpus), size=min(NEAREST_OF, len(self.corpus)))
            best = (asked[start : start + 64] @ self.places[pool].T).argmax(axis=1)
            found += [self.corpus[place] for place in pool[best]]
        return found


def drawn(model: NGrams, n: int, rng: np.random.Generator) -> Sentences:
    """At most ``n`` sentences: none for an empty draw."""
    k = model.context
    window = np.full((n, k + LONGEST), END, np.int64)
    active = np.arange(n)
    for step in range(LONGEST):
        known = np.full(len(active), step + 1)
        window[active, k + step] = model.draw(window[active, step : k + step], known, rng)
        active = active[window[active, k + step] != END]
        if len(active) == 0:
            break
    ends = np.append((window[:, k:] == END), np.ones((n, 1), np.bool_), axis=1).argmax(axis=1)
    return [row[:end].tolist() for row, end in zip(window[:, k:], ends, strict=True) if end]


def distinct(texts: Sequence[Sentences]) -> Sentences:
    """Each sentence of some texts once, in their order."""
    return [list(each) for each in dict.fromkeys(tuple(sentence) for text in texts for sentence in text)]


class _Variation:
    """One variation of each of some texts."""

    def __init__(
        self, source: _Source, texts: list[Sentences], labels: NDArray[Any], degree: float, rng: np.random.Generator
    ) -> None:
        self.source, self.labels, self.degree, self.rng = source, labels, degree, rng
        self.given = texts
        # a sentence counts once: what many parents have in common must not spread by that alone
        self.parents = NGrams(distinct(texts) or [[END + 1]], source.order)

    def texts(self) -> list[Sentences]:
        texts = self._respanned(self._moved())
        for _ in range(TRIES):
            idle = [row for row, text in enumerate(texts) if text == self.given[row]]
            for row, text in zip(idle, self._respanned([texts[row] for row in idle], one=True), strict=True):
                texts[row] = text
        return texts

    def _moved(self) -> list[Sentences]:
        """The texts after moves of sentences."""
        rng = self.rng
        lengths = np.fromiter((max(len(text), 1) for text in self.given), np.int64, len(self.given))
        owner = np.repeat(np.arange(len(lengths)), lengths)
        empty = np.array([not text for text in self.given], np.bool_)
        at = np.flatnonzero((rng.random(len(owner)) < self.degree * MOVED) | empty[owner])
        rows = owner[at]
        places = at - (np.cumsum(lengths) - lengths)[rows]
        moves = rng.choice(len(MOVES), len(at), p=_MOVE)
        fresh = self._fresh(rows)
        texts = [list(text) for text in self.given]
        for row, place, move, sentence in zip(rows[::-1], places[::-1], moves[::-1], fresh[::-1], strict=True):
            text = texts[row]  # from the back, so that places stay what they were
            if MOVES[move] == "delete" and len(text) > 1:
                del text[place]
            elif MOVES[move] == "exchange" and text:
                text[place] = sentence
            else:
                text.insert(place + 1, sentence)
        return texts

    def _fresh(self, rows: Ints) -> Sentences:
        """A sentence for each row: of another parent of its label, near it in the corpus, or drawn from a model."""
        rng, found = self.rng, [[END]] * len(rows)
        sources = rng.choice(len(_SOURCE), len(rows), p=_SOURCE)
        pools = {
            label: distinct([self.given[row] for row in np.flatnonzero(self.labels == label)])
            for label in np.unique(self.labels).tolist()
        }
        for place in np.flatnonzero(sources == 0):
            pool = pools[int(self.labels[rows[place]])]
            if pool:
                found[place] = pool[rng.integers(len(pool))]
            else:
                sources[place] = 2
        near = np.flatnonzero(sources == 1)
        for place, sentence in zip(near, self.source.near([self.given[row] for row in rows[near]], rng), strict=True):
            found[place] = sentence
        for source, model in ((2, self.source.model), (3, self.parents)):
            own = np.flatnonzero(sources == source)
            made = drawn(model, len(own), rng) if len(own) else []
            for number, place in enumerate(own):
                found[place] = made[number % len(made)] if made else self.source.corpus[0]
        return found

    def _respanned(self, texts: list[Sentences], *, one: bool = False) -> list[Sentences]:
        """The texts with some spans drawn anew; ``one``: a single span of each."""
        rng, context = self.rng, self.source.model.context
        sentences = [sentence for text in texts for sentence in text]
        if not sentences:
            return texts
        lengths = np.fromiter((len(each) for each in sentences), np.int64, len(sentences))
        begins = context + np.cumsum(lengths + 1) - (lengths + 1)
        inside = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        where = np.repeat(begins, lengths) + inside
        stream = np.full(context + int((lengths + 1).sum()) + 2, END, np.int64)
        stream[where] = [token for sentence in sentences for token in sentence]
        free = np.repeat(begins + lengths - 1, lengths) - where  # the mark at the end stays
        started = (rng.random(len(where)) < self.degree * (1 - MOVED) / SPAN) & (free > 0)
        if one:
            row = np.repeat(np.arange(len(texts)), [sum(map(len, text)) for text in texts])
            order = np.lexsort((np.where(free > 0, rng.random(len(where)), -1), row))
            last = order[np.append(row[order][1:] != row[order][:-1], True)]
            started[:] = False
            started[last[free[last] > 0]] = True
        chosen = np.flatnonzero(started)
        size = np.minimum(rng.geometric(1 / SPAN, len(chosen)), np.minimum(free[chosen], 2 * int(SPAN)))
        kept, reach = [], -1
        for number, (start, length) in enumerate(zip(where[chosen].tolist(), size.tolist(), strict=True)):
            if start > reach:
                kept.append(number)
                reach = start + length
        start, size = where[chosen[kept]], size[kept]
        known = np.minimum(inside[chosen[kept]] + 1, context)
        news = self._spans(stream, start, size, known)
        owner = np.searchsorted(begins, start, side="right") - 1
        for place, begin, length, new in zip(owner[::-1], start[::-1], size[::-1], news[::-1], strict=True):
            at = int(begin - begins[place])
            sentence = sentences[place]
            sentences[place] = [*sentence[:at], *new, *sentence[at + length :]]
        found, at = [], 0
        for text in texts:
            found.append(sentences[at : at + len(text)])
            at += len(text)
        return found

    def _spans(self, stream: Ints, start: Ints, size: Ints, known: Ints) -> list[list[int]]:
        """Tokens for each span: of some chains and lengths those that join the right context best, as a trigram.

        Where none joins it the span stays as it was.
        """
        if len(start) == 0:
            return []
        rng, context = self.rng, self.source.model.context
        longest = int(size.max()) + 2
        n = len(start) * CHAINS
        window = np.zeros((n, context + longest), np.int64)
        span = np.tile(np.arange(len(start)), CHAINS)
        window[:, :context] = stream[start[span, None] + np.arange(-context, 0)[None]]
        window[:, :context][np.arange(context)[None] < (context - known[span])[:, None]] = END
        corpus = rng.random(n) < 0.5
        for step in range(longest):
            before, count = window[:, step : context + step], np.minimum(known[span] + step, context)
            for model, own in ((self.source.model, corpus), (self.parents, ~corpus)):
                if own.any():
                    window[own, context + step] = model.draw(before[own], count[own], rng)
        right = stream[(start + size)[span, None] + np.arange(2)[None]]
        scores = np.full((n, longest + 1), -np.inf)
        alive = np.ones(n, np.bool_)
        for taken in range(longest + 1):  # tokens of the chain
            at = context + taken
            if taken:
                alive &= window[:, at - 1] != END
            able = alive & (np.abs(taken - size[span]) <= 2) & ((taken > 0) | (window[:, at - 1] != END))
            ends = np.flatnonzero(able)
            pair = np.column_stack([window[ends, at - 1], right[ends, 0]])
            joins = self._joins(np.column_stack([window[ends, at - 2], pair])).astype(np.float64)
            joins += self._joins(np.column_stack([pair, right[ends, 1]]))
            joins[~self._joins(pair)] = 0
            scores[ends, taken] = np.where(joins > 0, joins + 0.5 * rng.random(len(ends)), -np.inf)
        # what stood there before is no variation
        for taken in range(1, longest + 1):
            ends = np.flatnonzero(size[span] == taken)
            old = stream[start[span[ends], None] + np.arange(taken)[None]]
            same = (window[ends, context : context + taken] == old).all(axis=1)
            scores[ends[same], taken] = -np.inf
        table = scores.reshape(CHAINS, len(start), longest + 1).transpose(1, 0, 2).reshape(len(start), -1)
        best = table.argmax(axis=1)
        chain, taken = best // (longest + 1), best % (longest + 1)
        rows = chain * len(start) + np.arange(len(start))
        dead = ~np.isfinite(table.max(axis=1))
        return [
            stream[begin : begin + length].tolist() if lost else window[row, context : context + count].tolist()
            for row, count, lost, begin, length in zip(rows, taken, dead, start, size, strict=True)
        ]

    def _joins(self, windows: Ints) -> NDArray[np.bool_]:
        return self.source.model.follows(windows) | self.parents.follows(windows)
