"""The part of a report that shows a column of text, and the figures that sum it up."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from pe.evaluation import figures, page
from pe.evaluation.text import pictures
from pe.evaluation.text.figures import Fidelity, TextFigures

_MOST_CHARACTERS = 700
"""Of an example that are shown."""


def headline(name: str, found: TextFigures) -> list[tuple[str, str, str, str]]:
    """Name, value, best value and meaning of the figures that sum a column of text up; ``name`` may be empty."""
    own, real = found.fidelity["synthetic to test"], found.fidelity.get("train to test")
    lines: list[tuple[str, str, str, str]] = []

    def add(label: str, value: str, best: str, what: str) -> None:
        lines.append((f"{name}: {label}" if name else label, value, best, what))

    for each in found.labels:
        bound = each.mean("real")
        best = "1" if bound is None else f"{bound:.3f} (trained on real)"
        add(f"{each.target} from text", page.number(each.mean("synthetic")), best, "accuracy, trained on synthetic")
    if "synthetic" in found.language:
        score, trained = found.language["synthetic"].accuracy, found.language.get("train")
        best = "1" if trained is None else f"{trained.accuracy:.3f} (trained on real)"
        add("next token", page.number(score), best, "accuracy, trained on synthetic")
    for label, key, best, what in _SUMMARY:
        value: float | None = getattr(own, key)
        if value is not None:
            shown = best if real is None else f"{page.number(getattr(real, key))} (train to test)"
            add(label, page.number(value), shown, what)
    made, test = found.variety["synthetic"].distinct["2"], found.variety["test"].distinct["2"]
    add("distinct-2", page.number(made), f"{page.number(test)} (test)", "different pairs of words per pair")
    if found.memorisation is not None:
        copies = found.memorisation
        for label, share, (low, high), what in (
            ("nearer to train", copies.nearer, copies.nearer_interval, "share nearer to train than to the holdout"),
            ("copied from train", copies.longer, copies.longer_interval, "share with its longest copied span in train"),
        ):
            add(label, f"{share:.3f} [{low:.3f}, {high:.3f}]", "0.5", what)
        verdict = "suspected" if copies.suspected else "not suspected"
        add("memorisation", verdict, "not suspected", "; ".join(copies.reasons) or "four tests")
    return lines


_SUMMARY = (
    ("precision", "precision", "1", "share of synthetic texts among real ones"),
    ("recall", "recall", "1", "share of real texts among synthetic ones"),
    ("MAUVE", "mauve", "1", "area under the divergence frontier"),
    ("Frechet distance", "frechet", "0", "of the embeddings, squared"),
    ("two-sample test of texts", "two_sample", "0.5", "AUC of telling synthetic from real"),
    ("length distance", "length_distance", "0", "Wasserstein distance, in words without punctuation"),
)


def sections(name: str, found: TextFigures) -> Iterator[str]:
    """HTML of one column; texts and labels are escaped."""
    yield f"<h2>Text: {escape(name)}</h2>"
    if found.labels:
        yield "<h3>Classifiers</h3>" + page.image(pictures.accuracies(found.labels), "accuracies of classifiers")
    for each in found.labels:
        yield f"<p>{escape(each.target)}:</p>" + page.scores(each)
    if found.language:
        yield "<h3>Next token</h3>" + page.table(
            ("a language model trained on", "accuracy", "bits per token", "tokens"),
            [
                (role, page.number(each.accuracy), page.number(each.bits), f"{each.tokens:,}")
                for role, each in found.language.items()
            ],
        )
    yield "<h3>Embeddings</h3>" + page.image(pictures.embedding_map(found.shown), "embeddings of texts")
    yield page.table(
        ("", *found.fidelity),
        [
            (words, *(page.number(getattr(each, key)) for each in found.fidelity.values()))
            for words, key in _FIDELITY.items()
        ],
    )
    sizes = ", ".join(f"{each.rows:,} ({role})" for role, each in found.fidelity.items())
    yield f'<p class="note">Samples of {sizes} texts each; such figures depend on the size of a sample.</p>'
    yield "<h3>Lengths and variety</h3>" + page.image(pictures.lengths(found.shown), "lengths of texts")
    rows = [
        ("words (without punctuation), mean", *(f"{each.mean_words:.1f}" for each in found.variety.values())),
        ("words (without punctuation), median", *(f"{each.median_words:.1f}" for each in found.variety.values())),
        ("empty texts", *(f"{each.empty:.2%}" for each in found.variety.values())),
    ]
    rows += [
        (f"distinct-{n}", *(page.number(each.distinct[n]) for each in found.variety.values())) for n in ("1", "2", "3")
    ]
    rows += [
        ("mean cosine of two texts", *(page.number(each.similarity) for each in found.variety.values())),
        ("effective number of texts", *(f"{each.vendi:.1f}" for each in found.variety.values())),
        ("texts that stand there twice", *(f"{each.repeated:.2%}" for each in found.variety.values())),
    ]
    yield page.table(("", *found.variety), rows)
    yield from _memorisation(found)
    yield "<h3>Examples</h3>" + _texts(found.shown.examples)


_FIDELITY = {
    "precision": "precision",
    "recall": "recall",
    "MAUVE": "mauve",
    "Frechet distance, squared": "frechet",
    "energy distance": "energy",
    "two-sample AUC": "two_sample",
    "distance of lengths, words": "length_distance",
}
assert set(_FIDELITY.values()) == set(Fidelity.__dataclass_fields__) - {"rows"}


def _memorisation(found: TextFigures) -> Iterator[str]:
    copies, distances = found.memorisation, found.shown.distances
    if copies is None or distances is None:
        return
    yield "<h3>Memorisation</h3>"
    yield page.image(figures.closest(distances.to_train, distances.to_holdout, distances.between), "closest texts")
    verdict = f"Suspected: {'; '.join(copies.reasons)}." if copies.suspected else "No copying is suspected."
    low, high = copies.nearer_interval
    yield (
        f"<p><b>{escape(verdict)}</b> {copies.nearer:.1%} of {copies.rows['synthetic']:,} synthetic texts (95 % "
        f"interval {low:.1%} to {high:.1%}) lie nearer to one of {copies.rows['train']:,} training texts than to any "
        f"of as many holdout texts; the longest copied span of {copies.longer:.1%} is of a training text. 50 % is what "
        "no memorisation shows. No such figure proves privacy: only the certificate's claim does.</p>"
    )
    rows = [
        (f"n-grams of {n} words that occur in", *(_share(each[role]) for role in ("train", "holdout")), "-")
        for n, each in copies.coverage.items()
    ]
    ways = ("train", "holdout", "between")
    rows += [
        ("longest copied span, words", *(f"{copies.longest[way]['longest']:.0f}" for way in ways)),
        ("longest span of a text, mean", *(f"{copies.longest[way]['mean']:.1f}" for way in ways)),
        ("equal to a record of", *(f"{copies.duplicates[role]:.2%}" for role in ("train", "holdout")), "-"),
        ("20 or more words of any record of train", _share(copies.verbatim["synthetic"]), "-",
         _share(copies.verbatim["holdout"])),
    ]  # fmt: skip
    yield page.table(("", "synthetic, train", "synthetic, holdout", "holdout, train"), rows)
    if found.shown.copied:
        yield "<p>The synthetic texts with the longest spans of a training record, marked:</p>"
        yield _texts(found.shown.copied)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _texts(texts: tuple[tuple[str, str, str], ...]) -> str:
    return "".join(f"<blockquote>{_marked(*each)}</blockquote>" for each in texts)


def _marked(before: str, span: str, after: str) -> str:
    """A text with its span marked; of long ones the span and what lies around it."""
    room = max(_MOST_CHARACTERS - len(span), _MOST_CHARACTERS // 3)
    if span:
        head = before if len(before) <= room // 2 else "…" + before[-room // 2 :]
        return f"{escape(head)}<mark>{escape(_short(span, _MOST_CHARACTERS))}</mark>{escape(_short(after, room // 2))}"
    return escape(_short(before, room)) or "(empty)"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most] + "…"
