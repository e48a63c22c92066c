"""Text extractor: embeddings from an OpenAI-compatible server."""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any, Literal

import numpy as np

from graphrec.core.errors import ConfigError, FeatureError
from graphrec.features.extract.llm.client import as_feature_error
from graphrec.features.extract.llm.endpoint import KEY_VARIABLE, Endpoint


class EndpointEncoder:
    """Embeddings from an OpenAI-compatible endpoint (``/embeddings``); the server decides their length.

    Args:
        model: name of the model on the server.
        base_url: URL of the server; default: ``OPENAI_BASE_URL`` or the URL of OpenAI. A user name and
            password in it are sent as HTTP basic authentication, a query with every request.
        key_variable: environment variable that holds the API key.
        batch_size: texts per request.
        timeout: seconds for one request.
        retries: how often a failed request is repeated (429, 5xx, timeouts).

    Raises:
        ConfigError: a size out of range.
        MissingDependencyError: the extra ``llm`` is not installed.
    """

    name = "openai"
    kind: Literal["image", "text"] = "text"
    remote = True

    def __init__(
        self,
        model: str = "text-embedding-3-small",
        base_url: str | Endpoint | None = None,
        *,
        key_variable: str = KEY_VARIABLE,
        batch_size: int = 64,
        timeout: float = 60.0,
        retries: int = 6,
    ) -> None:
        if batch_size < 1 or timeout <= 0 or retries < 0:
            raise ConfigError(
                f"batch_size {batch_size}, timeout {timeout}, retries {retries}; expected at least 1, above "
                "0, at least 0"
            )
        self.model = model
        self.batch_size = batch_size
        self.endpoint = base_url if isinstance(base_url, Endpoint) else Endpoint(base_url, key_variable)
        self._client = self.endpoint.client(timeout, retries, lambda _: None)
        self._options: dict[str, Any] = {
            "model": model, "base_url": self.endpoint, "key_variable": key_variable, "batch_size": batch_size,
            "timeout": timeout, "retries": retries,
        }  # fmt: skip

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the options only: neither connections nor the API key leave this process.

        The password and query of the URL do.
        """
        return partial(type(self), **self._options), ()

    @cached_property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self.encode(["a"]).shape[1])

    def describe(self) -> dict[str, Any]:
        """Model, server and batch size."""
        return {
            "name": self.name, "model": self.model, "server": str(self.endpoint),
            "batch_size": self.batch_size,
        }  # fmt: skip

    def encode(self, batch: list[Any]) -> np.ndarray:
        """Vectors ``(B, dim) float32`` of texts.

        Raises:
            FeatureError: the server cannot be reached, returns an error, or returns no embeddings.
        """
        import openai

        where = f"{self.endpoint}, model {self.model!r}"
        try:
            response = self._client.embeddings.create(
                model=self.model, input=list(batch), encoding_format="float"
            )
            rows = sorted(response.data, key=lambda row: row.index)
            vectors = np.asarray([row.embedding for row in rows], dtype=np.float32)
        except openai.OpenAIError as cause:
            raise as_feature_error(cause, where, self.endpoint.key_hint) from cause
        except (ValueError, TypeError, AttributeError) as cause:
            raise FeatureError(f"{where}: the response holds no embeddings; check the base URL") from cause
        if (
            vectors.ndim != 2
            or len(vectors) != len(batch)
            or [row.index for row in rows] != list(range(len(batch)))
        ):
            raise FeatureError(
                f"{where}: {vectors.shape} embeddings for {len(batch)} texts; expected one vector per text"
            )
        return vectors
