"""All metrics of one column of text, on texts in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pe.errors import ConfigError
from pe.evaluation.learners import classification, require_sklearn
from pe.evaluation.result import Utility
from pe.evaluation.text import distribution
from pe.evaluation.text.classify import codes, logistic, majority
from pe.evaluation.text.corpus import Corpus, word_ids
from pe.evaluation.text.distribution import Vectors
from pe.evaluation.text.embed import Embeddings
from pe.evaluation.text.figures import Fidelity, TextFigures, Variety
from pe.evaluation.text.language import NextToken, WordPieces, ngram_next_token
from pe.evaluation.text.memorisation import Memorisation, memorisation
from pe.evaluation.text.surface import distinct, length_distance

SAMPLE = 5_000
"""Texts of each group that are measured."""

LOGISTIC = "logistic regression on embeddings"


def measure(
    synthetic: Corpus,
    test: Corpus,
    train: Corpus | None = None,
    holdout: Corpus | None = None,
    *,
    embeddings: Embeddings | None = None,
    language_model: str | Path | None = None,
    classifier: str | Path | None = None,
    sample: int = SAMPLE,
    seed: int = 0,
) -> TextFigures:
    """Compare synthetic texts with real ones that took no part in making them.

    train           the texts they were made from: adds what real texts show, and whether they are repeated.
    holdout         real texts to compare with train for that; by default the test texts.
    embeddings      by default all-MiniLM-L6-v2; give the same object to several calls, and no text is embedded twice.
    language_model  a folder with a causal language model, to be fine-tuned; by default an n-gram model.
    classifier      a folder with a small transformer, to be fine-tuned beside logistic regression on embeddings.
    sample          texts of each group that are measured, drawn without replacement under ``seed``.

    Labels are those that both synthetic and test have. Figures repeat for a seed, and those of samples (precision,
    recall, MAUVE, distances, distinct-n) depend on the number of texts: compare sets of equal size. Raises ConfigError.
    """
    require_sklearn()
    if sample < 1 or seed < 0:
        raise ConfigError(f"expected sample >= 1 and seed >= 0, got {sample} and {seed}.")
    roles = {"synthetic": synthetic, "test": test, "train": train, "holdout": holdout}
    given = {role: corpus for role, corpus in roles.items() if corpus is not None}
    for role, corpus in given.items():
        if not len(corpus):
            raise ConfigError(f"the {role} table holds no texts: nothing can be compared.")
    work = _Work(given, embeddings or Embeddings(), sample, seed)
    return work.figures(language_model, classifier)


class _Work:
    """One evaluation at work; every part draws from the seed by itself."""

    def __init__(self, given: dict[str, Corpus], embeddings: Embeddings, limit: int, seed: int) -> None:
        self.seed = seed
        self.notes: list[str] = []
        self.corpora = {}
        for number, (role, corpus) in enumerate(given.items()):
            self.corpora[role] = corpus.sample(limit, np.random.default_rng([seed, 10, number]))
            if len(corpus) > limit:
                self.notes.append(f"{limit} of the {len(corpus)} texts of the {role} table were measured")
            if empty := sum(not text.strip() for text in self.corpora[role].texts):
                self.notes.append(f"{empty} texts of the {role} table are empty")
        everything = [text for corpus in self.corpora.values() for text in corpus.texts]
        embeddings(everything)  # all at once, so that short ones go with short ones
        self.vectors = {role: embeddings(corpus.texts) for role, corpus in self.corpora.items()}
        found = word_ids(*(corpus.texts for corpus in self.corpora.values()))
        self.words = dict(zip(self.corpora, found, strict=True))

    def figures(self, language_model: str | Path | None, classifier: str | Path | None) -> TextFigures:
        fidelity = {"synthetic to test": self._fidelity("synthetic", "test")}
        if "train" in self.corpora:
            fidelity["train to test"] = self._fidelity("train", "test")
        else:
            self.notes.append("no memorisation check or figures of real texts: no training records")
        labels = [self._labels(name, classifier) for name in self._names()]
        return TextFigures(
            {role: len(corpus) for role, corpus in self.corpora.items()},
            tuple(each for each in labels if each is not None),
            self._language(language_model),
            fidelity,
            self._variety(),
            self._memorisation(),
            tuple(self.notes),
        )

    def _names(self) -> list[str]:
        found = [name for name in self.corpora["synthetic"].labels if name in self.corpora["test"].labels]
        if not found:
            self.notes.append("no label: no classifier was trained; name a column to be predicted")
        return found

    def _draws(self, role: str, size: int) -> NDArray[np.int64]:
        rng = np.random.default_rng([self.seed, 11, len(self.corpora[role])])
        return np.sort(rng.choice(len(self.corpora[role]), size, replace=False))

    def _fidelity(self, made: str, real: str) -> Fidelity:
        m = min(len(self.corpora[made]), len(self.corpora[real]))
        chosen = self._draws(made, m), self._draws(real, m)
        one, two = self.vectors[made][chosen[0]], self.vectors[real][chosen[1]]
        precision, recall = distribution.precision_recall(two, one)
        return Fidelity(
            m,
            precision,
            recall,
            distribution.mauve(two, one, self.seed),
            distribution.frechet(two, one),
            distribution.energy(two, one),
            length_distance(_lengths(self.words[real]), _lengths(self.words[made])),
        )

    def _variety(self) -> dict[str, Variety]:
        roles = [role for role in self.corpora if role != "holdout"]
        size = min(len(self.corpora[role]) for role in roles)
        shares = distinct(*(self.words[role] for role in roles))
        found = {}
        for role, own in zip(roles, shares, strict=True):
            lengths, texts = _lengths(self.words[role]), [text.tobytes() for text in self.words[role]]
            _, place, counts = np.unique(np.array(texts, object), return_inverse=True, return_counts=True)
            found[role] = Variety(
                float(lengths.mean()),
                float(np.median(lengths)),
                float((lengths == 0).mean()),
                own,
                distribution.self_similarity(self.vectors[role]),
                distribution.vendi(self.vectors[role][self._draws(role, size)]),
                float((counts[place] > 1).mean()),
            )
        return found

    def _memorisation(self) -> Memorisation | None:
        if "train" not in self.corpora:
            return None
        made, train, holdout = (
            (self.words[role], self.vectors[role])
            for role in ("synthetic", "train", "holdout" if "holdout" in self.corpora else "test")
        )
        return memorisation(made, train, holdout, np.random.default_rng([self.seed, 12]))

    def _language(self, folder: str | Path | None) -> dict[str, NextToken]:
        trained = [role for role in ("synthetic", "train") if role in self.corpora]
        test = self.corpora["test"].texts
        if folder is None:
            pieces = WordPieces()
            tokens = {role: pieces(self.corpora[role].texts) for role in [*trained, "test"]}
            scores = {role: ngram_next_token(tokens[role], tokens["test"], pieces.size) for role in trained}
        else:
            from pe.evaluation.text.finetune import next_token

            scores = {role: next_token(folder, self.corpora[role].texts, test, self.seed) for role in trained}
        if any(each is None for each in scores.values()):
            self.notes.append("no next-token accuracy: the texts are empty")
        return {role: each for role, each in scores.items() if each is not None}

    def _labels(self, name: str, folder: str | Path | None) -> Utility | None:
        """Classifiers of one label; None, with a note, where no text has it."""
        roles = (
            [role for role in ("synthetic", "test", "train") if name in self.corpora[role].labels]
            if "train" in self.corpora
            else ["synthetic", "test"]
        )
        values, found = codes(*(self.corpora[role].labels[name] for role in roles))
        labels = dict(zip(roles, found, strict=True))
        held = np.flatnonzero(labels["test"] >= 0)
        for role in ("synthetic", "test"):
            if not (labels[role] >= 0).any():
                self.notes.append(f"label '{name}': no {role} text has a value")
                return None
        truth, texts = labels["test"][held], [self.corpora["test"].texts[row] for row in held.tolist()]

        def scores(role: str) -> dict[str, dict[str, float | None]] | None:
            model = logistic(self.vectors[role], labels[role], len(values)) if role in labels else None
            if model is None:
                return None
            made = {LOGISTIC: classification(model(self.vectors["test"][held]), truth)}
            if folder is not None:
                from pe.evaluation.text.finetune import label_probabilities

                own = np.flatnonzero(labels[role] >= 0)
                training = [self.corpora[role].texts[row] for row in own.tolist()]
                guess = label_probabilities(folder, training, labels[role][own], texts, len(values), self.seed)
                made["fine-tuned transformer"] = classification(guess, truth)
            return made

        synthetic = scores("synthetic")
        assert synthetic is not None
        baseline = majority(labels["train"], truth, len(values)) if "train" in labels else None
        return Utility(name, "classification", synthetic, scores("train"), baseline)


def _lengths(texts: Sequence[Vectors | NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.array([len(text) for text in texts], np.int64)
