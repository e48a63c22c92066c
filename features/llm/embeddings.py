"""Vectors of texts from an OpenAI-compatible endpoint, as an extractor."""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any, Literal

import numpy as np

from graphrec.core.errors import ConfigError, FeatureError
from graphrec.features.extract.llm.client import KEY, client, explained


class EndpointEncoder:
    """Embeddings of an OpenAI-compatible endpoint (``/embeddings``); how long they are, the reply tells.

    Args:
        model: its name on the server.
        base_url: of the server; default: ``OPENAI_BASE_URL`` or OpenAI's.
        key_variable: environment variable that holds the key.
        batch_size: texts in one request.
        timeout: seconds for one request.
        retries: how often a request is sent again (429, 5xx, time-outs).

    Raises:
        ConfigError: a size out of range.
        MissingDependencyError: the extra ``llm`` is not installed.
    """

    name = "openai"
    kind: Literal["image", "text"] = "text"

    def __init__(
        self,
        model: str = "text-embedding-3-small",
        base_url: str | None = None,
        *,
        key_variable: str = KEY,
        batch_size: int = 64,
        timeout: float = 60.0,
        retries: int = 6,
    ) -> None:
        if batch_size < 1 or timeout <= 0 or retries < 0:
            raise ConfigError(
                f"batch_size {batch_size}, timeout {timeout}, retries {retries}; expected at least 1, above "
                "0, at least 0"
            )
        self.model, self.batch_size, self._key_variable = model, batch_size, key_variable
        self._client = client(base_url, key_variable, timeout, retries, lambda _: None)
        self._options: dict[str, Any] = {
            "model": model, "base_url": base_url, "key_variable": key_variable, "batch_size": batch_size,
            "timeout": timeout, "retries": retries,
        }  # fmt: skip

    def __reduce__(self) -> tuple[Any, ...]:
        """Made anew in another process: connections stay in this one, and so does the key."""
        return partial(type(self), **self._options), ()

    @cached_property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self.encode(["a"]).shape[1])

    def describe(self) -> dict[str, Any]:
        """Model and server, and how many texts are sent at once."""
        return {
            "name": self.name, "model": self.model, "server": str(self._client.base_url),
            "batch_size": self.batch_size,
        }  # fmt: skip

    def encode(self, batch: list[Any]) -> np.ndarray:
        """Vectors ``(B, dim) float32`` of texts.

        Raises:
            FeatureError: the endpoint is out of reach, refuses, or answers what are no embeddings.
        """
        import openai

        where = f"{self._client.base_url}, model {self.model!r}"
        try:
            made = self._client.embeddings.create(
                model=self.model, input=list(batch), encoding_format="float"
            )
            rows = sorted(made.data, key=lambda one: one.index)
            vectors = np.asarray([one.embedding for one in rows], dtype=np.float32)
        except openai.OpenAIError as cause:
            raise explained(cause, where, self._key_variable) from cause
        except (ValueError, TypeError, AttributeError) as cause:
            raise FeatureError(
                f"{where}: answered what are no embeddings; is it the right address?"
            ) from cause
        if (
            vectors.ndim != 2
            or len(vectors) != len(batch)
            or [one.index for one in rows] != list(range(len(batch)))
        ):
            raise FeatureError(
                f"{where}: answered {vectors.shape} for {len(batch)} texts; expected one vector each"
            )
        return vectors
