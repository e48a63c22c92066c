"""Source code in segments of equal length, each through an extractor of texts."""

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
    """A file cut in consecutive segments of equally many tokens; their vectors side by side.

    Segments follow CODER (https://arxiv.org/abs/2210.08332): they are cut by length and not by statement, and
    no token is cut. A file of fewer tokens than segments has vectors of zeros at the end.

    Args:
        encoder: name of the text extractor that encodes each segment.
        segments: how many.
        split_names: put spaces into names (``readFile``, ``read_file``); default: with ``tfidf-svd``, which
            knows words, and not with encoders, which have tokenizers of their own.
        **options: of the extractor.

    Raises:
        ConfigError: no segment, or an extractor of pictures.
    """

    name = "code-segments"
    kind: Literal["image", "text"] = "text"
    empty_reason = "no token of the file is known to the extractor"

    def __init__(
        self, encoder: str = "tfidf-svd", *, segments: int = 8, split_names: bool | None = None, **options: Any
    ) -> None:
        if segments < 1:
            raise ConfigError(f"code-segments: segments {segments}; expected at least 1")
        if encoder == "tfidf-svd":
            options = {"size": 64, "words": (1, 1), **options}
        self.encoder, self.segments = extractor(encoder, **options), segments
        if self.encoder.kind != "text" or encoder == self.name:
            raise ConfigError(f"code-segments: encoder={encoder!r} is no extractor of texts")
        self.split_names = encoder == "tfidf-svd" if split_names is None else split_names
        self.batch_size: int | None = getattr(self.encoder, "batch_size", None)
        if hasattr(self.encoder, "fit"):
            self.fit = self._fit  # only then are all shards made again when the corpus changes

    @property
    def dim(self) -> int:
        """Length of a vector: that of the extractor's, times the segments."""
        return self.encoder.dim * self.segments

    def describe(self) -> dict[str, Any]:
        """The extractor, how many segments, and how they are cut."""
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
        known = [(row, i) for row, part in enumerate(parts) for i, text in enumerate(part) if text]
        found = np.zeros((len(batch), self.segments, self.encoder.dim), dtype=np.float32)
        if known:
            rows, columns = np.array(known).T
            found[rows, columns] = self.encoder.encode([parts[row][i] for row, i in known])
        return found.reshape(len(batch), -1)

    def cut(self, text: str) -> list[str]:
        """The segments of a text; their numbers of tokens differ by one at most."""
        starts = [token.start() for token in TOKEN.finditer(text)]
        edges = [round(i * len(starts) / self.segments) for i in range(self.segments + 1)]
        places = [*starts, len(text)]
        parts = [text[places[a] : places[b]] if a < b else "" for a, b in pairwise(edges)]
        return [WORD_BOUNDARY.sub(" ", part) for part in parts] if self.split_names else parts

    def _fit(self, contents: list[str]) -> CodeSegments:
        self.encoder.fit([part for text in contents for part in self.cut(text) if part])  # type: ignore[attr-defined]
        return self
