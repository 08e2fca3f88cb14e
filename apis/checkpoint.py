"""A pretrained model of the transformers library: a folder, or a name on the Hugging Face hub."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pe.errors import ConfigError

UNBOUNDED = 2**20
"""Tokenizers that know no longest text give some huge number."""


@dataclass(frozen=True)
class Checkpoint:
    """Where a model comes from, and how it is loaded.

    model     a folder that the library saved (then nothing is looked for on the hub), or a name such as "org/model".
    revision  a branch, tag or commit on the hub.
    where     the device, "cpu" or "cuda:1"; by default a GPU if there is one.
    dtype     "float32", "bfloat16" or "float16"; by default bfloat16 on a GPU, float32 on the CPU.
    """

    model: str
    revision: str | None = None
    where: str | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        if self.dtype not in (None, "float32", "bfloat16", "float16"):
            raise ConfigError(
                f"expected dtype 'float32', 'bfloat16' or 'float16', got '{self.dtype}'. Nothing was spent."
            )
        if not self.local:
            if self.model.startswith((".", "/", "~")) or self.model.count("/") > 1:
                raise ConfigError(f"the model's folder {self.model} is not there. Nothing was spent.")
            return
        if not (Path(self.model) / "config.json").exists():
            raise ConfigError(f"{self.model} is no folder of a saved model: it has no config.json. Nothing was spent.")
        if not [*Path(self.model).glob("*.safetensors"), *Path(self.model).glob("pytorch_model*.bin")]:
            raise ConfigError(f"the model in {self.model} has no weights. Nothing was spent.")

    @property
    def local(self) -> bool:
        return Path(self.model).is_dir()

    @property
    def public_name(self) -> str:
        """What a certificate says: no path of this machine."""
        return Path(self.model).name if self.local else "@".join(filter(None, (self.model, self.revision)))

    def device(self) -> str:
        """The device that is taken; raises ConfigError for one that is not there."""
        import torch

        if self.where is None:
            return "cuda" if torch.cuda.is_available() else "cpu"
        try:
            torch.empty(0, device=self.where)
        except (RuntimeError, AssertionError):
            raise ConfigError(f"device '{self.where}' is not there. Nothing was spent.") from None
        return self.where

    def tokenizer(self) -> Any:
        """Raises ConfigError where the model or its tokenizer is not to be had."""
        with quiet(), self._had():
            from transformers import AutoTokenizer

            return AutoTokenizer.from_pretrained(self.model, **self._source())

    def context(self, tokenizer: Any) -> int:
        """The most tokens that the model takes, prompt and answer."""
        with quiet(), self._had():
            from transformers import AutoConfig

            config = AutoConfig.from_pretrained(self.model, **self._source())
        text = config.get_text_config()
        known = (getattr(text, name, None) for name in ("max_position_embeddings", "n_positions", "max_seq_len"))
        longest = [each for each in (*known, tokenizer.model_max_length) if isinstance(each, int) and each > 0]
        return min([*longest, UNBOUNDED])

    def weights(self, kind: Any) -> Any:
        """The model, ready to be asked; raises ConfigError where its weights cannot be loaded."""
        import torch

        device = self.device()
        dtype = getattr(torch, self.dtype or ("float32" if device == "cpu" else "bfloat16"))
        try:
            with quiet():
                model = kind.from_pretrained(self.model, dtype=dtype, **self._source())
        except Exception as error:  # the library's loaders raise what their file formats raise
            raise ConfigError(f"the weights of model {self.model} cannot be loaded: {_first_line(error)}") from None
        return model.to(device).eval()

    def _source(self) -> dict[str, Any]:
        return {"revision": self.revision, "local_files_only": self.local}

    @contextmanager
    def _had(self) -> Iterator[None]:
        try:
            yield
        except ImportError as error:
            raise ConfigError(
                f"a local model needs the extra 'text': pip install 'pe-synth[text]' ({error}). Nothing was spent."
            ) from None
        except Exception as error:  # the library raises OSError, ValueError, KeyError and those of its file formats
            place = "in its folder" if self.local else "on this machine or on the hub"
            raise ConfigError(
                f"model {self.model} cannot be had {place}: {_first_line(error)} Nothing was spent."
            ) from None


@contextmanager
def quiet() -> Iterator[None]:
    """Without the library's progress bars and remarks."""
    from transformers.utils import logging as its

    library: Any = its
    level, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity(logging.ERROR)
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(level)
        if bars:
            library.enable_progress_bar()


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".") + "."
