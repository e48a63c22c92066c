"""Extractors by name, and the interface of an extractor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from graphrec.core.errors import ConfigError
from graphrec.core.registry import Registry

EXTRACTORS = Registry("extractor", "graphrec.extractors", {
    "clap": "graphrec.features.extract.audio:Clap",
    "code-segments": "graphrec.features.extract.code:CodeSegments",
    "hog-hsv": "graphrec.features.extract.offline:HogHsv",
    "mel-statistics": "graphrec.features.extract.audio:MelStatistics",
    "open_clip": "graphrec.features.extract.image:OpenClip",
    "openai": "graphrec.features.extract.llm.embeddings:EndpointEncoder",
    "sentence-transformers": "graphrec.features.extract.text:SentenceEncoder",
    "tfidf-svd": "graphrec.features.extract.offline:TfidfSvd",
})  # fmt: skip
"""Extractor name -> ``module:Class``, those of installed packages included."""
DEFAULTS: Mapping[str, str] = {"audio": "mel-statistics", "image": "hog-hsv", "text": "tfidf-svd"}
"""Kind of content -> the extractor for it that needs no pretrained weights."""


@runtime_checkable
class Extractor(Protocol):
    """Computes vectors from content.

    Optional attributes and methods:

    - ``batch_size: int | None``: set where a vector's last bits depend on what else is in its batch; batches
      then always have this size, counted from the start of a shard, and on a cluster torch has as many
      threads as here. None or absent: rows are independent.
    - ``dtype``: ``"float32"`` (default) or ``"float16"``.
    - ``prepare(item)``: prepares one item for ``encode``, such as resizing a picture. Called in several
      threads, during the forward pass of other items. An :exc:`~graphrec.features.extract.decoding
      .UnreadableContentError` marks the item as unreadable, with its message as the reason.
    - ``truncated``: ``"accept"`` to get what is there of a picture whose file was cut off; ``describe`` must
      tell so. ``"refuse"`` or absent: such a picture is unreadable.
    - ``fit(contents)``: called before ``encode`` with all present texts of the corpus, in item order. All
      shards are computed again when the corpus changes.
    - ``get_fitted() -> dict[str, np.ndarray]`` and ``set_fitted(arrays)``: what ``fit`` learned, kept beside
      the table and in recommenders, so that the extractor can encode new items later.
    - ``remote``: True if ``encode`` sends content to another machine; such an extractor is not started anew
      to encode new items.
    - ``__getstate__`` or ``__reduce__``: on a cluster, workers get a pickled copy; it should leave out a
      loaded model, which each worker loads itself.
    - ``empty_reason``: why a vector is zero; rows of zeros count as missing, with this reason.

    Attributes:
        name: the registered name, or any other.
        kind: kind of content that it reads: ``"image"`` (items are RGB Pillow images), ``"text"`` (items are
            strings), or another kind of file such as ``"audio"`` (items are the bytes of the files).
    """

    name: str
    kind: str

    @property
    def dim(self) -> int:
        """Length of a vector."""
        ...

    def describe(self) -> dict[str, Any]:
        """Name and everything else that the vectors depend on, JSON-serializable."""
        ...

    def encode(self, batch: list[Any]) -> np.ndarray:
        """Vectors ``(B, dim)`` of a batch of (prepared) items."""
        ...


def extractor(name: str, **options: Any) -> Extractor:
    """The extractor registered under a name.

    Args:
        name: one of :data:`EXTRACTORS`, or a kind of content (``"audio"``, ``"image"``, ``"text"``) for its
            default, which needs no weights.
        **options: its constructor's arguments.

    Raises:
        ConfigError: unknown name or option.
        MissingDependencyError: its packages are not installed.
    """
    name = DEFAULTS.get(name, name)
    cls = EXTRACTORS.load(name)
    try:
        result: Extractor = cls(**options)
    except TypeError as cause:
        raise ConfigError(f"extractor {name!r}: {cause}; see the arguments of {cls.__qualname__}") from cause
    return result


def versions(*packages: str) -> dict[str, str]:
    """Major and minor version of each installed package; patch releases are taken to leave numbers alone."""
    from importlib.metadata import version

    return {package: ".".join(version(package).split(".")[:2]) for package in packages}
