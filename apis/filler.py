"""A masked language model on this machine: words of texts are masked, whole, and drawn again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pe.apis.checkpoint import Checkpoint, quiet
from pe.errors import ConfigError

LONGEST = 4
"""Tokens of the longest word that is masked; names and numbers of more stay."""

_SPAN = re.compile(r"\w+")
_SPARE = 8
"""Places of the context that are left for special tokens."""


@dataclass
class _Window:
    """Tokens of a text, or of a part of it: places of its masked words, the pass in which each is drawn, randomness."""

    text: int
    ids: list[int]
    words: list[list[int]]
    passes: NDArray[np.int64]
    spans: list[tuple[int, int]]
    uniform: NDArray[np.float64]


class Filler:
    """A masked language model and its tokenizer, asked in batches of windows of like length.

    Raises ConfigError for a model that cannot be had, that has no mask, or whose tokens do not say where they stand in
    a text.
    """

    def __init__(self, checkpoint: Checkpoint, batch_tokens: int | None = None) -> None:
        self.checkpoint = checkpoint
        self.tokenizer = checkpoint.tokenizer()
        if self.tokenizer.mask_token_id is None or not self.tokenizer.is_fast:
            raise ConfigError(
                f"model {checkpoint.model} cannot fill in words: expected a masked language model with a fast "
                "tokenizer. Nothing was spent."
            )
        self.context = checkpoint.context(self.tokenizer) - _SPARE
        if self.context < 1:
            raise ConfigError(f"the context of model {checkpoint.model} is too short. Nothing was spent.")
        self.batch_tokens = batch_tokens or (8192 if checkpoint.device() == "cpu" else 65536)
        from transformers import AutoModelForMaskedLM

        self._model = checkpoint.weights(AutoModelForMaskedLM)
        self._uncased = self.tokenizer.tokenize("A") == self.tokenizer.tokenize("a")

    @cached_property
    def _pieces(self) -> tuple[list[str], NDArray[np.int8]]:
        """Every token as text, and its kind: 0 in no word, 1 or 2 letters that begin one or not, 3 or 4 digits."""
        size = len(self.tokenizer)
        tokens = self.tokenizer.convert_ids_to_tokens(list(range(size)))
        hashes = any(str(token).startswith("##") for token in tokens)
        special = set(self.tokenizer.all_special_ids)
        texts, kinds = [], np.zeros(size, np.int8)
        for number, token in enumerate(tokens):
            text = self.tokenizer.decode([number], clean_up_tokenization_spaces=False).strip().removeprefix("##")
            begins = not token.startswith("##") if hashes else token.startswith(("Ġ", "▁"))
            if number not in special and (text.isalpha() or text.isdigit()):
                kinds[number] = 1 + 2 * text.isdigit() + (not begins)
            texts.append(text)
        return texts, kinds

    @cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        """The special tokens before and after a text."""
        sample = self.tokenizer("a", return_special_tokens_mask=True)
        ids, special = sample["input_ids"], sample["special_tokens_mask"]
        own = [place for place, each in enumerate(special) if not each]
        return ids[: own[0]], ids[own[-1] + 1 :]

    def filled(
        self,
        texts: Sequence[str],
        share: float,
        seeds: Sequence[Sequence[int]],
        *,
        passes: int,
        temperature: float,
        top_k: int,
    ) -> Iterator[tuple[int, str]]:
        """Every text and its place, with a ``share`` of its words drawn anew, in the order of the batches.

        seeds  whole numbers from which the random stream of each text starts.
        """
        windows: list[_Window] = []
        left = np.zeros(len(texts), np.int64)
        for number, (text, seed) in enumerate(zip(texts, seeds, strict=True)):
            own = self._windows(number, text, share, passes, np.random.default_rng(seed))
            windows += own
            left[number] = len(own)
        yield from ((number, texts[number]) for number in np.flatnonzero(left == 0).tolist())
        changes: dict[int, list[tuple[int, int, str]]] = {}
        for batch in self._batches(windows):
            self._fill(batch, passes, temperature, top_k)
            for window in batch:
                changes.setdefault(window.text, []).extend(self._changes(window, texts[window.text]))
                left[window.text] -= 1
                if left[window.text] == 0:
                    yield window.text, _spliced(texts[window.text], changes.pop(window.text))

    def _windows(self, number: int, text: str, share: float, passes: int, rng: np.random.Generator) -> list[_Window]:
        """The windows of a text in which words are masked."""
        if share == 0:
            return []
        with quiet():
            # the space in front makes the first word look like the others
            found = self.tokenizer(f" {text}", add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids, places = found["input_ids"], [(start - 1, end - 1) for start, end in found["offset_mapping"]]
        words = self._words(text, ids, places)
        if not words:
            return []
        chosen = np.sort(rng.choice(len(words), max(1, round(share * len(words))), replace=False))
        parts = rng.permutation(len(chosen)) % passes
        windows = []
        for start in range(0, len(ids), self.context):
            end = start + self.context
            inside = [at for at, word in enumerate(chosen) if start <= words[word][0] and words[word][-1] < end]
            if inside:
                own = [words[chosen[at]] for at in inside]
                windows.append(
                    _Window(
                        number,
                        ids[start:end],
                        [[place - start for place in word] for word in own],
                        parts[inside],
                        [(places[word[0]][0], places[word[-1]][1]) for word in own],
                        rng.random((len(own), LONGEST)),
                    )
                )
        return windows

    def _words(self, text: str, ids: Sequence[int], places: Sequence[tuple[int, int]]) -> list[list[int]]:
        """The words that can be masked, each as the positions of its tokens."""
        kinds = self._pieces[1][ids]
        words: list[list[int]] = []
        at = 0
        for span in _SPAN.finditer(text):
            while at < len(ids) and places[at][1] <= span.start():
                at += 1
            own = []
            while at < len(ids) and places[at][0] < span.end():
                own.append(at)
                at += 1
            if not own or places[own[0]][0] < span.start() or places[own[-1]][1] > span.end() or not kinds[own].all():
                continue
            starts = [0, *(index for index in range(1, len(own)) if kinds[own[index]] in (1, 3)), len(own)]
            words += [own[start:end] for start, end in pairwise(starts)]
        return [word for word in words if len(word) <= LONGEST]

    def _batches(self, windows: list[_Window]) -> Iterator[list[_Window]]:
        batch: list[_Window] = []
        for window in sorted(windows, key=lambda each: -len(each.ids)):
            if batch and (len(batch[0].ids) + _SPARE) * (len(batch) + 1) > self.batch_tokens:
                yield batch
                batch = []
            batch.append(window)
        if batch:
            yield batch

    def _fill(self, batch: list[_Window], passes: int, temperature: float, top_k: int) -> None:
        """Mask the words of each pass and draw them, in place."""
        kinds, mask = self._pieces[1], self.tokenizer.mask_token_id
        wanted = [[kinds[[window.ids[place] for place in word]] for word in window.words] for window in batch]
        for part in range(passes):
            now = [(row, word) for row, window in enumerate(batch) for word in np.flatnonzero(window.passes == part)]
            for row, word in now:
                for place in batch[row].words[word]:
                    batch[row].ids[place] = mask
            for piece in range(LONGEST):
                drawn = [(row, word) for row, word in now if len(batch[row].words[word]) > piece]
                if not drawn:
                    break
                where = [(row, batch[row].words[word][piece]) for row, word in drawn]
                kind = np.array([wanted[row][word][piece] for row, word in drawn])
                uniform = np.array([batch[row].uniform[word, piece] for row, word in drawn])
                tokens = self._draw(batch, where, kind, uniform, temperature, top_k)
                for (row, place), token in zip(where, tokens, strict=True):
                    batch[row].ids[place] = token

    def _draw(
        self,
        batch: list[_Window],
        where: list[tuple[int, int]],
        kind: NDArray[np.int8],
        uniform: NDArray[np.float64],
        temperature: float,
        top_k: int,
    ) -> list[int]:
        """A token of its kind for each place (row and position), by inverting the cumulative probabilities."""
        import torch

        rows = sorted({row for row, _ in where})
        before, after = self._around
        whole = [[*before, *batch[row].ids, *after] for row in rows]
        width = max(map(len, whole))
        ids = torch.full((len(rows), width), self.tokenizer.pad_token_id or 0)
        seen = torch.zeros_like(ids)
        for row, tokens in enumerate(whole):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            seen[row, : len(tokens)] = 1
        model = self._model
        at = torch.tensor([(rows.index(row), len(before) + place) for row, place in where], device=model.device)
        with torch.inference_mode():
            scores = model(input_ids=ids.to(model.device), attention_mask=seen.to(model.device)).logits
            scores = scores[at[:, 0], at[:, 1], : len(self._pieces[1])].double() / temperature
            kinds = torch.from_numpy(self._pieces[1]).to(model.device)
            other = kinds[None, :] != torch.from_numpy(kind).to(model.device)[:, None]
            scores = scores.masked_fill(other, -torch.inf)
            if 0 < top_k < scores.shape[1]:
                least = scores.topk(top_k, dim=-1).values[:, -1:]
                scores = scores.masked_fill(scores < least, -torch.inf)
            heights = torch.softmax(scores, -1).cumsum(-1)
            aim = torch.from_numpy(uniform)[:, None].to(model.device) * heights[:, -1:] * (1 - 1e-12)
            found: list[int] = torch.searchsorted(heights, aim, right=True)[:, 0].tolist()
        return found

    def _changes(self, window: _Window, text: str) -> Iterator[tuple[int, int, str]]:
        """Start, end and new content of each word that was drawn."""
        pieces = self._pieces[0]
        for (start, end), word in zip(window.spans, window.words, strict=True):
            new, old = "".join(pieces[window.ids[place]] for place in word), text[start:end]
            if self._uncased and old[:1].isupper():
                new = new.upper() if len(old) > 1 and old.isupper() else new.capitalize()
            yield start, end, new


def _spliced(text: str, changes: list[tuple[int, int, str]]) -> str:
    parts, at = [], 0
    for start, end, new in sorted(changes):
        parts += [text[at:start], new]
        at = end
    return "".join([*parts, text[at:]])
