"""Each metric of text against cases worked out by hand, or an independent and slower formula."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.integrate import quad

from pe.errors import ConfigError
from pe.evaluation.text import Corpus, Embeddings, TextFigures, classify, distribution, finetune, language, measure
from pe.evaluation.text.corpus import word_ids, words
from pe.evaluation.text.embed import STEPS
from pe.evaluation.text.memorisation import Group, Memorisation, memorisation
from pe.evaluation.text.spans import matches
from pe.evaluation.text.surface import distinct, length_distance, ngrams

from .reviews import hashed


def points(*rows: Sequence[float]) -> NDArray[np.float64]:
    return STEPS * np.array(rows, np.float64)


def babble(n: int, seed: int, length: int = 30) -> list[str]:
    """Texts of words drawn with falling frequency."""
    rng = np.random.default_rng(seed)
    shares = 1 / np.arange(1, 301)
    drawn = rng.choice(300, (n, length), p=shares / shares.sum())
    return [" ".join(f"w{word}" for word in row) for row in drawn]


# -- samples of vectors --------------------------------------------------------------------------------------------


def test_precision_and_recall_by_hand() -> None:
    real = points([0, 0], [1, 0], [2, 0], [10, 0])
    made = points([0, 0.5], [3, 0], [30, 0])
    # radii of real points to the 1st neighbour: 1, 1, 1, 8; of made: 2.55, 2.55 (to [0, .5] and [3, 0]: 3.04), 27
    assert distribution.precision_recall(real, made, k=1) == (pytest.approx(2 / 3), pytest.approx(1.0))
    # with k = 1: [0, .5] lies within 1 of [0, 0]; [3, 0] within 8 of [10, 0]; [30, 0] nowhere
    near = points([0, 0], [1, 0]), points([100, 0], [101, 0])
    assert distribution.precision_recall(*near, k=1) == (0.0, 0.0)


def test_equal_samples_are_alike_in_every_way() -> None:
    sample = np.rint(STEPS * np.random.default_rng(0).normal(size=(80, 6)) / 3)
    assert distribution.precision_recall(sample, sample) == (1.0, 1.0)
    assert distribution.mauve(sample, sample, 0) == pytest.approx(1.0)
    assert distribution.frechet(sample, sample) == pytest.approx(0.0, abs=1e-9)
    assert distribution.energy(sample, sample) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("sizes", [(1, 1), (1, 5), (2, 3)])
def test_few_points_are_no_error(sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    real, made = (np.rint(STEPS * rng.normal(size=(size, 3))) for size in sizes)
    assert distribution.precision_recall(real, real) == (1.0, 1.0)
    assert 0 < distribution.mauve(real, made, 0) <= 1
    assert math.isfinite(distribution.frechet(real, made))
    assert math.isfinite(distribution.energy(real, made))


def test_frechet_by_hand() -> None:
    # means 1 and 3, variances 2 and 8: 4 + 2 + 8 - 2 sqrt(16)
    assert distribution.frechet(points([0], [2]), points([1], [5])) == pytest.approx(6.0)


def test_energy_by_hand() -> None:
    assert distribution.energy(points([0]), points([1])) == pytest.approx(2.0)
    assert distribution.energy(points([0], [2]), points([1])) == pytest.approx(2 - 1)


@pytest.mark.parametrize(
    ("p", "q"), [((1.0, 0.0), (0.0, 1.0)), ((0.5, 0.5), (0.9, 0.1)), ((0.2, 0.8, 0), (0, 0.3, 0.7))]
)
def test_the_frontier_is_the_integral_of_its_curve(p: tuple[float, ...], q: tuple[float, ...]) -> None:
    first, second = np.array(p), np.array(q)

    def kl(a: NDArray[np.float64], r: NDArray[np.float64]) -> float:
        return sum(x * math.log(x / y) for x, y in zip(a.tolist(), r.tolist(), strict=True) if x > 0)

    def x(w: float) -> float:
        return math.exp(-5 * kl(second, w * first + (1 - w) * second))

    def y(w: float) -> float:
        return math.exp(-5 * kl(first, w * first + (1 - w) * second))

    def slope(w: float) -> float:
        return (x(w + 1e-6) - x(w - 1e-6)) / 2e-6

    area, _ = quad(lambda w: -y(w) * slope(w), 2e-6, 1 - 2e-6, limit=200)
    area += x(1 - 1e-6) * 1.0  # from x = 0 to the curve's end, where y = 1
    assert distribution.frontier(first, second) == pytest.approx(area, rel=0.1)


def test_the_frontier_of_disjoint_histograms_is_known() -> None:
    """c B(c + 1, c) = 1 / 252 for c = 5; 25 points come close."""
    assert distribution.frontier(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == pytest.approx(1 / 252, rel=0.03)


def test_diversity_by_hand() -> None:
    same, apart = points([1, 0, 0], [1, 0, 0]), points([1, 0, 0], [0, 1, 0], [0, 0, 1])
    assert distribution.vendi(same) == pytest.approx(1)
    assert distribution.vendi(apart) == pytest.approx(3)
    assert distribution.self_similarity(same) == pytest.approx(1)
    assert distribution.self_similarity(apart) == pytest.approx(0)
    assert distribution.self_similarity(apart[:1]) is None


# -- words ---------------------------------------------------------------------------------------------------------


def test_words_and_distinct_by_hand() -> None:
    assert words("It's GOOD, isn't it?  5/5") == [
        "it",
        "'",
        "s",
        "good",
        ",",
        "isn",
        "'",
        "t",
        "it",
        "?",
        "5",
        "/",
        "5",
    ]
    one, two = word_ids(["a b a", "b"], ["a a a a a a"])
    assert ngrams(one, 2).tolist() == [[0, 1], [1, 0]]
    first, second = distinct(one, two)  # of two as many n-grams as one has: 4, 2 and 1
    assert first == {"1": 2 / 4, "2": 1.0, "3": 1.0}
    assert second == {"1": 1 / 4, "2": 1 / 2, "3": 1.0}
    assert distinct([np.empty(0, np.int64)], one)[1] == {"1": None, "2": None, "3": None}


def test_length_distance_by_hand() -> None:
    assert length_distance(np.array([1, 2, 3]), np.array([3, 4, 5])) == pytest.approx(2)


TEXTS = st.lists(
    st.lists(st.integers(0, 2), max_size=9).map(lambda each: np.array(each, np.int64)), min_size=1, max_size=5
)


@given(TEXTS, TEXTS, st.data())
def test_longest_matches_are_those_of_a_search(
    made: list[NDArray[np.int64]], real: list[NDArray[np.int64]], data: st.DataObject
) -> None:
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(real), max_size=len(real))))

    def longest(text: list[int], start: int) -> int:
        found = 0
        for size in range(1, len(text) - start + 1):
            wanted = text[start : start + size]
            if any(
                other[at : at + size] == wanted
                for other in (each.tolist() for each, kept in zip(real, mask, strict=True) if kept)
                for at in range(len(other) - size + 1)
            ):
                found = size
        return found

    (found,) = matches(made, real, [mask])
    assert [each.tolist() for each in found] == [
        [longest(text.tolist(), start) for start in range(len(text))] for text in made
    ]


# -- memorisation --------------------------------------------------------------------------------------------------


def compared(*texts: list[str]) -> Memorisation:
    embed = Embeddings(hashed)
    groups = [Group.of(ids, embed(group)) for ids, group in zip(word_ids(*texts), texts, strict=True)]
    return memorisation(*groups, np.random.default_rng(0))[0]


def test_an_honest_generator_is_not_suspected_and_a_copying_one_is() -> None:
    train, holdout, honest = babble(150, 1), babble(120, 2), babble(200, 3)
    fine = compared(honest, train, holdout)
    assert not fine.suspected
    assert fine.nearer_interval[0] <= 0.5 <= fine.nearer_interval[1]
    assert fine.rows == {"synthetic": 200, "train": 120, "holdout": 120}

    copies = compared([text.upper() for text in train], train, holdout)
    assert len(copies.reasons) == 3
    assert copies.duplicates == {"train": 1.0, "holdout": 0.0}
    assert copies.verbatim == {"synthetic": 1.0, "holdout": 0.0}
    # those that were drawn for comparison are covered wholly
    assert copies.coverage["13"]["train"] == pytest.approx(120 / 150, abs=0.01)
    assert copies.coverage["13"]["holdout"] == 0


def test_parts_of_records_are_found_and_so_is_one_long_copy() -> None:
    train, holdout, honest = babble(150, 1, 100), babble(150, 2, 100), babble(200, 3, 100)
    spliced = [" ".join(own.split()[:70] + other.split()[:30]) for own, other in zip(honest[:150], train, strict=True)]
    found = compared(spliced, train, holdout)
    assert found.longer > 0.95
    assert found.longest["train"]["mean"] >= 30
    one = compared([*honest, train[7]], train, holdout)
    assert one.reasons == ("a copied span far longer than real records share",)


# -- language ------------------------------------------------------------------------------------------------------


def kneser_ney(train: list[list[int]], test: list[list[int]], vocabulary: int, order: int) -> tuple[float, float]:
    """The textbook recursion, one token at a time over the whole vocabulary."""
    mark = (-1,) * (order - 1)
    grams = [(*mark, *text)[at : at + order] for text in train for at in range(len(text))]
    counts: list[dict[tuple[int, ...], Counter[int]]] = []
    for k in range(order):  # k tokens of context
        cut = [gram[order - 1 - k :] for gram in grams]
        if k < order - 1:
            cut = [gram[1:] for gram in sorted({gram[order - 2 - k :] for gram in grams})]
        level: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for gram in cut:
            level[gram[:-1]][gram[-1]] += 1
        counts.append(level)

    def discount(level: dict[tuple[int, ...], Counter[int]]) -> float:
        all_counts = [count for each in level.values() for count in each.values()]
        once, twice = all_counts.count(1), all_counts.count(2)
        return min(max(once / (once + 2 * twice), 0.1), 0.9) if once else 0.1

    discounts = [discount(level) for level in counts]

    def probability(word: int, context: tuple[int, ...]) -> float:
        k = len(context)
        lower = 1 / vocabulary if k == 0 else probability(word, context[1:])
        seen = counts[k].get(context)
        if not seen:
            return lower
        total = sum(seen.values())
        return max(seen[word] - discounts[k], 0.0) / total + discounts[k] * len(seen) / total * lower

    right, bits, tokens = 0, 0.0, 0
    for text in test:
        for at, word in enumerate(text):
            context = (*mark, *text)[at : at + order - 1]
            chances = [probability(each, context) for each in range(vocabulary)]
            assert sum(chances) == pytest.approx(1)
            right += chances[word] >= max(chances) - 1e-12
            bits -= math.log2(chances[word])
            tokens += 1
    return right / tokens, bits / tokens


SENTENCES = st.lists(st.lists(st.integers(0, 4), max_size=12), min_size=1, max_size=8)


@given(SENTENCES, SENTENCES)
def test_the_ngram_model_is_the_textbooks(train: list[list[int]], test: list[list[int]]) -> None:
    found = language.ngram_next_token([np.array(x, np.int64) for x in train], [np.array(x, np.int64) for x in test], 5)
    if not any(train) or not any(test):
        assert found is None
        return
    accuracy, bits = kneser_ney(train, test, 5, language.ORDER)
    assert found is not None
    assert found.bits == pytest.approx(bits)
    assert found.accuracy <= accuracy + 1e-12  # ties, which the textbook wins, are broken by order
    assert found.tokens == sum(map(len, test))


def test_what_was_seen_is_predicted_and_what_was_not_is_not() -> None:
    pieces = language.WordPieces()
    known = pieces(["the cat sat on the mat while the dog slept under the table"] * 3)
    same = language.ngram_next_token(known, known[:1], pieces.size)
    other = language.ngram_next_token(known, pieces(["quarterly revenue exceeded expectations"]), pieces.size)
    assert same is not None
    assert other is not None
    assert same.accuracy > 0.9
    assert same.bits < 1
    assert other.accuracy == 0
    assert other.bits > 10


# -- classifiers ---------------------------------------------------------------------------------------------------


def test_classes_that_can_be_told_are_told_and_odd_labels_are_no_error() -> None:
    texts = ["good good"] * 6 + ["bad bad"] * 6
    vectors = Embeddings(hashed)(texts)
    values, (labels, test) = classify.codes(["+"] * 6 + ["-"] * 5 + [None], ["+"] * 6 + ["?"] * 6)
    assert values == ("+", "-", "?")
    assert labels.tolist() == [0] * 6 + [1] * 5 + [-1]
    model = classify.logistic(vectors, labels, 3)
    assert model(vectors).argmax(axis=1).tolist() == [0] * 6 + [1] * 6
    assert classify.logistic(vectors, np.full(12, -1), 3) is None
    assert (classify.logistic(vectors, np.full(12, 2), 3)(vectors)[:, 2] == 1).all()
    base = classify.majority(labels, test, 3)
    assert base is not None
    assert base["accuracy"] == 0.5


# -- all of it -----------------------------------------------------------------------------------------------------


def labelled(texts: list[str]) -> Corpus:
    return Corpus.of(texts, {"first": [text.split()[0] for text in texts], "none": [None] * len(texts)})


def test_every_text_is_embedded_once_short_ones_with_short_ones() -> None:
    asked: list[str] = []

    def encode(texts: list[str]) -> NDArray[np.float32]:
        asked.extend(texts)
        return np.full((len(texts), 2), np.nan, np.float32)

    embed = Embeddings(encode)
    assert embed(["ccc", "a", "bb", "a"]).tolist() == [[0.0, 0.0]] * 4
    embed(["bb", "d"])
    assert asked == ["a", "bb", "ccc", "d"]


def test_the_same_texts_are_as_good_as_real_and_figures_repeat() -> None:
    test, train = labelled(babble(120, 1)), labelled(babble(150, 2))
    found = [measure(test, test, train, embeddings=Embeddings(hashed), seed=3) for _ in range(2)]
    assert found[0] == found[1]
    one, two = found[0].fidelity["synthetic to test"], found[0].fidelity["train to test"]
    assert (one.precision, one.recall, one.length_distance) == (1, 1, 0)
    assert one.mauve == pytest.approx(1)
    assert one.energy < 1e-9 < two.energy
    assert one.frechet < 1e-6 < two.frechet
    assert found[0].variety["synthetic"] == found[0].variety["test"]
    assert [each.target for each in found[0].labels] == ["first"]
    assert "label 'none': no synthetic text has a value" in found[0].notes
    assert found[0].language["synthetic"].bits < found[0].language["train"].bits


def test_better_texts_score_better() -> None:
    """Half of the poor texts are from elsewhere."""
    test, embed = labelled(babble(200, 1)), Embeddings(hashed)
    elsewhere = [text.replace("w1", "x") for text in babble(100, 3, 8)]
    good, poor = labelled(babble(200, 2)), labelled(babble(100, 4) + elsewhere)
    one, two = (measure(made, test, embeddings=embed).headline() for made in (good, poor))
    for better_higher in ("mauve", "precision", "next token"):
        assert one[better_higher] > two[better_higher]
    for better_lower in ("frechet", "energy", "bits", "length distance"):
        assert one[better_lower] < two[better_lower]


@pytest.mark.parametrize(
    "texts", [["one text"], [""], ["", "", ""], ["x"] * 4, ["日本語のテキスト", "\ud800", "a\x00b"]]
)
def test_odd_texts_are_no_error(texts: list[str]) -> None:
    test = labelled(babble(20, 1))
    for made, real in ((Corpus.of(texts), test), (test, Corpus.of(texts)), (Corpus.of(texts), Corpus.of(texts))):
        found = measure(made, real, real, embeddings=Embeddings(hashed))
        assert isinstance(found, TextFigures)
        assert found.to_dict()["rows"]["synthetic"] == len(made)


def test_texts_are_sampled_under_the_seed_and_it_is_said() -> None:
    test, train = labelled(babble(50, 1)), labelled(babble(80, 2))
    found = measure(test, test, train, sample=30, embeddings=Embeddings(hashed))
    assert found.rows == {"synthetic": 30, "test": 30, "train": 30}
    assert "30 of the 80 texts of the train table were measured" in found.notes
    with pytest.raises(ConfigError, match="sample >= 1"):
        measure(test, test, sample=0)
    with pytest.raises(ConfigError, match="test table holds no texts"):
        measure(test, Corpus.of([]))
    with pytest.raises(ConfigError, match="as many values as texts"):
        Corpus.of(["a"], {"label": []})


# -- fine-tuning ---------------------------------------------------------------------------------------------------

LETTERS = "abcdefgh"


def tiny(folder: Path, kind: str) -> Path:
    """A transformer of a few thousand weights over single letters, with its tokenizer."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words_of = {token: number for number, token in enumerate(["[PAD]", "[UNK]", *LETTERS])}
    plain = Tokenizer(models.WordLevel(words_of, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="[PAD]", unk_token="[UNK]")
    wrapped.save_pretrained(folder)
    torch.manual_seed(0)
    if kind == "causal":
        config = transformers.GPT2Config(
            vocab_size=10, n_positions=64, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
        )
        transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    else:
        shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        transformers.BertModel(transformers.BertConfig(vocab_size=10, **shape)).save_pretrained(folder)
    return folder


def cycles(n: int) -> list[str]:
    return [" ".join((LETTERS * 3)[start % 8 : start % 8 + 12]) for start in range(n)]


def test_a_causal_model_learns_the_synthetic_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune, "RATE", 1e-2)
    folder = tiny(tmp_path / "model", "causal")
    backwards = [text[::-1] for text in cycles(80)]
    right, again = (finetune.next_token(folder, cycles(80), cycles(8), 0) for _ in range(2))
    wrong = finetune.next_token(folder, backwards, cycles(8), 0)
    assert right is not None
    assert wrong is not None
    assert right == again
    assert right.accuracy > 0.9 > 0.5 > wrong.accuracy
    assert right.bits < wrong.bits
    assert right.tokens == 8 * 11
    assert finetune.next_token(folder, ["a", ""], cycles(8), 0) is None


def test_a_transformer_learns_to_classify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune, "RATE", 1e-2)
    folder = tiny(tmp_path / "model", "encoder")
    texts = ["a b a b", "c d c d", "", "a a b b a"] * 15
    labels = np.array([0, 1, 1, 0] * 15)
    found = finetune.label_probabilities(folder, texts, labels, ["b a", "d c c", ""], 3, 0)
    assert found.shape == (3, 3)
    assert found.argmax(axis=1).tolist() == [0, 1, 1]
    assert found.sum(axis=1) == pytest.approx(1)


def test_a_folder_without_a_model_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a folder with a model"):
        finetune.next_token(tmp_path, ["a"], ["a"], 0)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="no model that AutoModelForCausalLM can load"):
        finetune.next_token(tmp_path, ["a"], ["a"], 0)


def test_lengths_are_words_without_punctuation() -> None:
    made, real = Corpus.of(["one, two - three!", "?!", "four five"]), Corpus.of(["one two three", "", "four five"])
    found = measure(made, real, embeddings=Embeddings(hashed))
    assert found.variety["synthetic"].mean_words == pytest.approx(5 / 3)
    assert found.variety["synthetic"].median_words == 2
    assert (found.variety["synthetic"].empty, found.variety["test"].empty) == (0.0, pytest.approx(1 / 3))
    assert found.headline()["length distance"] == 0
