"""All metrics of one column of text, on texts in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pe.data.texts import word_count
from pe.errors import ConfigError
from pe.evaluation.learners import classification, require_sklearn
from pe.evaluation.result import Utility
from pe.evaluation.text import distribution
from pe.evaluation.text.classify import codes, logistic, majority, two_sample
from pe.evaluation.text.corpus import Corpus, spans, word_ids
from pe.evaluation.text.embed import STEPS, Embeddings
from pe.evaluation.text.figures import Fidelity, Shown, TextFigures, Variety
from pe.evaluation.text.finetune import check, label_probabilities, next_token
from pe.evaluation.text.language import NextToken, WordPieces, ngram_next_token
from pe.evaluation.text.memorisation import Distances, Group, Memorisation, memorisation
from pe.evaluation.text.surface import distinct, length_distance

SAMPLE = 5_000
"""Texts of each group that are embedded and compared."""

MOST_WORDS = 4_000_000
"""Words of training records among which copied spans are sought."""

LOGISTIC = "logistic regression on embeddings"

_EXAMPLES = 10


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
    sample          texts of each group that are measured, drawn without replacement under ``seed``; of train no more
                    than there are synthetic or holdout texts. Copied spans are sought among all training texts (of at
                    most 4 million words).

    Labels are those that both synthetic and test have. Figures repeat for a seed, and those of samples (precision,
    recall, MAUVE, distances, distinct-n) depend on the number of texts: compare sets of equal size. Raises ConfigError.
    """
    require_sklearn()
    if sample < 1 or seed < 0:
        raise ConfigError(f"expected sample >= 1 and seed >= 0, got {sample} and {seed}.")
    for folder in (language_model, classifier):
        if folder is not None:
            check(folder)
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
        self.corpora: dict[str, Corpus] = {}
        self.rows: dict[str, NDArray[np.int64]] = {}
        for number, (role, corpus) in enumerate(given.items()):
            most = limit
            if role == "train":  # a bound is fair on as many texts, and a comparison takes as many as the holdout has
                most = min(limit, max(len(given["synthetic"]), len(given.get("holdout", given["test"]))))
            self.rows[role] = corpus.draw(most, np.random.default_rng([seed, 10, number]))
            self.corpora[role] = corpus.take(self.rows[role])
            if len(corpus) > most:
                self.notes.append(f"{most} of the {len(corpus)} texts of the {role} table were measured")
            if empty := sum(not text.strip() for text in self.corpora[role].texts):
                self.notes.append(f"{empty} texts of the {role} table are empty")
        everything = [text for corpus in self.corpora.values() for text in corpus.texts]
        embeddings(everything)  # all at once, so that short ones go with short ones
        self.vectors = {role: embeddings(corpus.texts) for role, corpus in self.corpora.items()}
        full = given["train"].texts if "train" in given else ()
        found = word_ids(*(corpus.texts for corpus in self.corpora.values()), full)
        self.words = dict(zip([*self.corpora, "all train"], found, strict=True))
        self.distances: Distances | None = None
        self.spans = [(0, 0)] * len(self.corpora["synthetic"])

    def figures(self, language_model: str | Path | None, classifier: str | Path | None) -> TextFigures:
        fidelity = {"synthetic to test": self._fidelity("synthetic", "test")}
        if "train" in self.corpora:
            fidelity["train to test"] = self._fidelity("train", "test")
        else:
            self.notes.append("no memorisation check or figures of real texts: no training records")
        labels = [self._labels(name, classifier) for name in self._names()]
        language, variety, copies = self._language(language_model), self._variety(), self._memorisation()
        return TextFigures(
            {role: len(corpus) for role, corpus in self.corpora.items()},
            tuple(each for each in labels if each is not None),
            language,
            fidelity,
            variety,
            copies,
            tuple(self.notes),
            self._shown(),
        )

    def _names(self) -> list[str]:
        found = [name for name in self.corpora["synthetic"].labels if name in self.corpora["test"].labels]
        if not found:
            self.notes.append("no label: no classifier of texts was trained; name a column to be predicted")
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
            two_sample(one, two, np.random.default_rng([self.seed, 13])),
            length_distance(self._lengths(real), self._lengths(made)),
        )

    def _variety(self) -> dict[str, Variety]:
        roles = [role for role in self.corpora if role != "holdout"]
        size = min(len(self.corpora[role]) for role in roles)
        shares = distinct(*(self.words[role] for role in roles))
        found = {}
        for role, own in zip(roles, shares, strict=True):
            lengths, texts = self._lengths(role), [text.tobytes() for text in self.words[role]]
            _, place, counts = np.unique(np.array(texts, object), return_inverse=True, return_counts=True)
            found[role] = Variety(
                float(lengths.mean()),
                float(np.median(lengths)),
                float(np.mean([text == b"" for text in texts])),
                own,
                distribution.self_similarity(self.vectors[role]),
                distribution.vendi(self.vectors[role][self._draws(role, size)]),
                float((counts[place] > 1).mean()),
            )
        return found

    def _lengths(self, role: str) -> NDArray[np.int64]:
        """Words of every text, without punctuation, int64 (n,)."""
        return np.array([word_count(text) for text in self.corpora[role].texts], np.int64)

    def _memorisation(self) -> Memorisation | None:
        if "train" not in self.corpora:
            return None
        made, holdout = (
            Group.of(self.words[role], self.vectors[role])
            for role in ("synthetic", "holdout" if "holdout" in self.corpora else "test")
        )
        everything = self.words["all train"]
        if sum(map(len, everything)) > MOST_WORDS:
            self.notes.append(f"copied spans were sought in {len(self.rows['train'])} training records")
            train = Group.of(self.words["train"], self.vectors["train"])
        else:
            train = Group(everything, self.vectors["train"], self.rows["train"])
        rng = np.random.default_rng([self.seed, 12])
        found, self.distances, self.spans = memorisation(made, train, holdout, rng)
        return found

    def _language(self, folder: str | Path | None) -> dict[str, NextToken]:
        trained = [role for role in ("synthetic", "train") if role in self.corpora]
        test = self.corpora["test"].texts
        if folder is None:
            pieces = WordPieces()
            tokens = {role: pieces(self.corpora[role].texts) for role in [*trained, "test"]}
            scores = {role: ngram_next_token(tokens[role], tokens["test"], pieces.size) for role in trained}
        else:
            scores = {role: next_token(folder, self.corpora[role].texts, test, self.seed) for role in trained}
        if any(each is None for each in scores.values()):
            self.notes.append("no next-token accuracy where texts are empty")
        return {role: each for role, each in scores.items() if each is not None}

    def _labels(self, name: str, folder: str | Path | None) -> Utility | None:
        """Classifiers of one label; None, with a note, where no text has it."""
        roles = [role for role in ("synthetic", "test", "train") if name in self._labels_of(role)]
        values, found = codes(*(self._labels_of(role)[name] for role in roles))
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
                own = np.flatnonzero(labels[role] >= 0)
                training = [self.corpora[role].texts[row] for row in own.tolist()]
                guess = label_probabilities(folder, training, labels[role][own], texts, len(values), self.seed)
                made["fine-tuned transformer"] = classification(guess, truth)
            return made

        synthetic = scores("synthetic")
        assert synthetic is not None
        baseline = majority(labels["train"], truth, len(values)) if "train" in labels else None
        return Utility(name, "classification", synthetic, scores("train"), baseline)

    def _labels_of(self, role: str) -> dict[str, tuple[str | None, ...]]:
        return dict(self.corpora[role].labels) if role in self.corpora else {}

    def _shown(self) -> Shown:
        real = self.vectors["test"] / STEPS
        middle = real.mean(axis=0)
        values, basis = np.linalg.eigh((real - middle).T @ (real - middle))
        plane, total = basis[:, [-1, -2]] if basis.shape[1] > 1 else basis[:, [-1, -1]], float(values.sum()) or 1.0
        texts, rng = self.corpora["synthetic"].texts, np.random.default_rng([self.seed, 14])
        drawn = np.sort(rng.choice(len(texts), min(_EXAMPLES, len(texts)), replace=False)).tolist()
        longest = sorted(range(len(texts)), key=lambda row: -self.spans[row][1])[:_EXAMPLES]
        longest = [row for row in longest if self.spans[row][1]] if self.distances is not None else []
        cut: Any = [spans(texts[row], *self.spans[row]) for row in (*drawn, *longest)]
        return Shown(
            {role: self._lengths(role) for role in self.corpora if role != "holdout"},
            {role: (self.vectors[role] / STEPS - middle) @ plane for role in ("test", "synthetic")},
            (float(values[-1]) / total, float(values[-2]) / total if len(values) > 1 else 0.0),
            self.distances,
            tuple(cut[: len(drawn)]),
            tuple(cut[len(drawn) :]),
        )
