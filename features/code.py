"""Code extractor: splits a file into segments of equal length and encodes each with a text extractor."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from graphrec.core.errors import ConfigError
from graphrec.features.extract.registry import extractor

TOKEN = re.compile(r"\w+|[^\w\s]")
WORD_BOUNDARY = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|_+|(?<=[A-Za-z])(?=[0-9])")


class CodeSegments:
    """Splits a file into consecutive segments with equally many tokens and concatenates their vectors.

    Segments follow CODER (https://arxiv.org/abs/2210.08332): they are split by length, not by statement, and
    never within a token. A file with fewer tokens than segments has zero vectors at the end.

    Args:
        encoder: name of the text extractor that encodes each segment.
        segments: number of segments.
        split_names: split identifiers into words (``readFile``, ``read_file``); default: only with
            ``tfidf-svd``, because neural encoders have their own tokenizers.
        **options: options of the text extractor.

    Raises:
        ConfigError: ``segments`` is below 1, or ``encoder`` is not a text extractor.
    """

    name = "code-segments"
    kind: Literal["image", "text"] = "text"
    empty_reason = "no token of the file is known to the extractor"

    def __init__(
        self,
        encoder: str = "tfidf-svd",
        *,
        segments: int = 8,
        split_names: bool | None = None,
        **options: Any,
    ) -> None:
        if segments < 1:
            raise ConfigError(f"code-segments: segments {segments}; expected at least 1")
        if encoder == "tfidf-svd":
            options = {"size": 64, "words": (1, 1), **options}
        self.encoder, self.segments = extractor(encoder, **options), segments
        if self.encoder.kind != "text" or encoder == self.name:
            raise ConfigError(f"code-segments: encoder={encoder!r}; expected a text extractor")
        self.split_names = encoder == "tfidf-svd" if split_names is None else split_names
        self.batch_size: int | None = getattr(self.encoder, "batch_size", None)
        if hasattr(self.encoder, "fit"):
            self.fit = self._fit  # only an extractor with fit() depends on the corpus

    @property
    def dim(self) -> int:
        """Length of a vector: the encoder's dimension times the number of segments."""
        return self.encoder.dim * self.segments

    def describe(self) -> dict[str, Any]:
        """The encoder, the number of segments and the splitting rules."""
        return {
            "name": self.name,
            "of": self.encoder.describe(),
            "segments": self.segments,
            "split_names": self.split_names,
            "cut": 1,
        }

    def encode(self, batch: list[Any]) -> np.ndarray:
        """Vectors ``(B, segments * d) float32``."""
        parts = [self.cut(text) for text in batch]
        present = [(row, i) for row, part in enumerate(parts) for i, text in enumerate(part) if text]
        vectors = np.zeros((len(batch), self.segments, self.encoder.dim), dtype=np.float32)
        if present:
            rows, columns = np.array(present).T
            vectors[rows, columns] = self.encoder.encode([parts[row][i] for row, i in present])
        return vectors.reshape(len(batch), -1)

    def cut(self, text: str) -> list[str]:
        """The segments of a text; their numbers of tokens differ by at most one."""
        starts = [token.start() for token in TOKEN.finditer(text)]
        edges = [round(i * len(starts) / self.segments) for i in range(self.segments + 1)]
        places = [*starts, len(text)]
        parts = [text[places[a] : places[b]] if a < b else "" for a, b in pairwise(edges)]
        return [WORD_BOUNDARY.sub(" ", part) for part in parts] if self.split_names else parts

    def _fit(self, contents: list[str]) -> CodeSegments:
        self.encoder.fit([part for text in contents for part in self.cut(text) if part])  # type: ignore[attr-defined]
        return self
