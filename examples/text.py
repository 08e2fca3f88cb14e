"""Texts by Private Evolution on a machine with no language model and no network: python examples/text.py

The private reviews, and the public corpus from which an n-gram model learns to write, are made up here. With data of
your own, name a file; with a language model, api="transformers:FOLDER" or api="openai:MODEL". The ledger is thrown away
at every start; yours should never be.
"""

import json
import os
import random
import re
import shutil
from pathlib import Path

import numpy as np

import pe

PUBLIC = """The N was A. We V there on a A day.
We V the N, which was A and A. Nobody V it.
It is a A N with a A view. They V it twice.
A people V it here. The N could be A, though."""
NOUNS = ["room", "book", "film", "soup", "waiter", "road", "song", "train", "garden", "lesson"]
VERBS = ["liked", "left", "saw", "found", "called", "bought", "sold", "praised", "forgot", "watched"]
ADJECTIVES = {
    "1": ["cold", "slow", "rude", "dirty", "dull", "noisy", "late", "sour", "broken", "sad"],
    "5": ["warm", "quick", "kind", "clean", "lively", "quiet", "early", "sweet", "solid", "happy"],
}


def written(template: str, adjectives: list[str], draw: random.Random) -> str:
    """A template with nouns, verbs and adjectives in its gaps."""
    kinds = {"N": NOUNS, "V": VERBS, "A": adjectives}
    return re.sub(r"\b[NVA]\b", lambda gap: draw.choice(kinds[gap[0]]), template)


def main() -> None:
    draw, folder = random.Random(0), Path("runs/text")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ["PE_LEDGER_KEY"] = str(folder / "key" / "ledger.key")
    with (folder / "public.jsonl").open("w") as file:
        for _ in range(300):
            text = written(draw.choice(PUBLIC.splitlines()), ADJECTIVES["1"] + ADJECTIVES["5"], draw)
            file.write(json.dumps({"text": text}) + "\n")
    stars = [draw.choice("15") for _ in range(2000)]
    reviews = [written("The N was A and the waiter was A.", ADJECTIVES[each], draw) for each in stars]
    synthetic = pe.synthesize(
        {"text": reviews, "stars": stars},
        text="text",
        label="stars",
        labels=["1", "5"],
        api={"kind": "ngram", "corpus": str(folder / "public.jsonl"), "words": [6, 20]},
        source="example-reviews",
        run=folder / "run",
        rows=40,
        iterations=4,
        epsilon=4.0,
        delta=1e-5,
        adjacency="add-remove",
        ledger=folder / "ledger.sqlite3",
        create=True,
    )
    texts, labels = synthetic.to_numpy("text").tolist(), synthetic.to_numpy("stars").tolist()
    said = [(word, label) for text, label in zip(texts, labels, strict=True) for word in re.findall("[a-z]+", text)]
    kinds = [word in ADJECTIVES[label] for word, label in said if word in (*ADJECTIVES["1"], *ADJECTIVES["5"])]
    print(f"{len(texts)} texts, ({synthetic.epsilon:g}, {synthetic.delta:g})-DP.")
    print(f"{np.mean(kinds):.0%} of their adjectives fit their stars (of the public corpus: 50%). Some of them:")
    for text, label in list(zip(texts, labels, strict=True))[:: len(texts) // 6]:
        print(f"  {label}  {text}")


if __name__ == "__main__":
    main()
