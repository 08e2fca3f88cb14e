"""Embedding of texts: against the bare model on batches sorted by length, in half precision, and beside generation.

    python tests/benchmarks/embedding.py [reviews.csv --column text] [--texts 2000]

Without a file, sentences are made up. Processor seconds of one thread, so that a busy machine changes nothing but the
last figures, which are ratios of wall-clock times within one run:

    bare      the model on batches of at most 1,024 tokens, sorted by length, each padded to its longest text
    embedder  ``SentenceEmbedder``, first with the trial of every shape of batch that it meets, then without
    eight     texts at a time, as an API hands them over, each batch by itself
    bfloat16  the same, and the share of votes that it moves: of one half of the texts for the other half
    iteration an API that hands texts over as it makes them, and the embedding of all, over the longer of the two
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

import pe
from pe.embedders.sentence import SentenceEmbedder
from pe.evolution.candidates import CandidateEmbedder
from pe.kernels.nearest import nearest
from pe.kernels.quantise import quantise

SCHEMA = pe.Schema((pe.Text("text"),))
TOKENS = 1024


def texts_of(path: Path | None, column: str, count: int) -> list[str]:
    if path is not None:
        with path.open(newline="") as file:
            return [row[column] for row in csv.DictReader(file)][:count]
    draw, words = random.Random(0), re.findall("[a-z]+", bare.__doc__ or "")
    return [" ".join(draw.choices(words, k=draw.randint(3, 150))) for _ in range(count)]


def table(texts: list[str]) -> pa.Table:
    return pa.table([pa.array(texts, pa.string())], schema=SCHEMA.arrow())


def cpu(work: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.process_time()
    made = work()
    return time.process_time() - begun, made


def bare(model: Any, texts: list[str]) -> NDArray[np.float32]:
    """What anyone would write who sorts texts by their length and pads every batch to its longest text."""
    tokens = model.tokenizer(texts, truncation=True, max_length=256, padding=False)["input_ids"]
    order = np.argsort([len(each) for each in tokens], kind="stable")
    found = np.empty((len(texts), model.get_embedding_dimension()), np.float32)
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and (end + 1 - start) * len(tokens[order[end]]) <= TOKENS:
            end += 1
        rows = order[start:end]
        batch = model.tokenizer.pad({"input_ids": [tokens[row] for row in rows]}, return_tensors="pt")
        with torch.inference_mode():
            found[rows] = model(dict(batch))["sentence_embedding"].float().numpy()
        start = end
    return found


class Slow:
    """Hands over a text every ``pause`` seconds."""

    def __init__(self, texts: list[str], pause: float) -> None:
        self.texts, self.pause = texts, pause
        self.callback: Callable[[pa.Table], None] | None = None

    def listen(self, callback: Callable[[pa.Table], None] | None) -> None:
        self.callback = callback

    def make(self) -> None:
        for start in range(0, len(self.texts), 8):
            time.sleep(self.pause * 8)
            if self.callback is not None:
                self.callback(table(self.texts[start : start + 8]))


def overlap(embedder: SentenceEmbedder, texts: list[str], balance: float) -> tuple[float, float, float]:
    """Wall-clock seconds of generating, of embedding, and of both at once; the former ``balance`` times the latter."""

    def seconds(work: Callable[[], Any]) -> float:
        begun = time.perf_counter()
        work()
        return time.perf_counter() - begun

    alone = seconds(lambda: CandidateEmbedder(embedder).vectors(table(texts)))
    api, both = Slow(texts, balance * alone / len(texts)), CandidateEmbedder(embedder)
    generating = seconds(api.make)

    def iteration() -> None:
        with both.listening(api):
            api.make()
        both.vectors(table(texts))

    return generating, alone, seconds(iteration)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--column", default="text")
    parser.add_argument("--texts", type=int, default=2000)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    texts = texts_of(asked.file, asked.column, asked.texts)
    embedder, half = SentenceEmbedder(SCHEMA), SentenceEmbedder(SCHEMA, dtype="bfloat16")
    model = embedder._loaded._model
    bare(model, texts[:50])
    least, expected = cpu(lambda: bare(model, texts))
    first, found = cpu(lambda: embedder.embed(table(texts)))
    then, _ = cpu(lambda: embedder.embed(table(texts)))
    again, _ = cpu(lambda: bare(model, texts))
    least = (least + again) / 2
    print(f"{len(texts)} texts, bare model {least:.1f} s; largest difference {np.abs(found - expected).max():.2g}")
    print(f"embedder / bare: {first / least:.3f} with trials of shapes, {then / least:.3f} without")
    half.embed(table(texts))
    spent, halved = cpu(lambda: half.embed(table(texts)))
    voters = len(texts) // 2

    def votes(vectors: NDArray[np.float32]) -> NDArray[np.int64]:
        integers, _ = quantise(vectors, embedder.scale, embedder.limit)
        return nearest(integers[:voters], integers[voters:])[:, 0]

    exact = np.argmax(found[:voters].astype(np.float64) @ found[voters:].astype(np.float64).T, axis=1)
    print(f"bfloat16 / float32: {spent / then:.3f}; votes moved {np.mean(votes(halved) != exact):.3%}", end="")
    print(f", by rounding to int8 alone {np.mean(votes(found) != exact):.3%}")
    pieces = [table(texts[start : start + 8]) for start in range(0, len(texts), 8)]
    for piece in pieces:
        embedder.embed(piece)
    apart, _ = cpu(lambda: [embedder.embed(piece) for piece in pieces])
    print(f"eight texts at a time / all at once: {apart / then:.3f}")
    for balance in (0.5, 1.0, 2.0):
        generating, alone, both = overlap(embedder, texts[:400], balance)
        longer, total = max(generating, alone), generating + alone
        print(f"iteration, generating {balance:g} x embedding: {both / longer:.3f} of the longer,", end=" ")
        print(f"{both / total:.3f} of both")


if __name__ == "__main__":
    main()
