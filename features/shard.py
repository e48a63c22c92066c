"""Computes the rows of one shard: content is read and decoded in threads and encoded in batches.

This process and the workers of a cluster share this code; batches never cross a shard.
"""

from __future__ import annotations

import hashlib
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from graphrec.core.errors import FeatureError
from graphrec.data import Content
from graphrec.features.extract.decoding import (
    MAX_PIXELS,
    PixelBudget,
    UnreadableContentError,
    decode_picture,
    open_picture,
)

if TYPE_CHECKING:
    from graphrec.features.extract.registry import Extractor

PREFETCH_BATCHES = 3  # batches decoded during a forward pass
MAX_FILE_BYTES = 2**28  # maximum size of a file
MAX_NAME = 200  # characters of a file name in a reason


class LoadedItem(NamedTuple):
    """The loaded content of one item.

    Attributes:
        source: digest of the content, None where the item has none.
        item: input of the extractor, or None.
        reason: why existing content could not be loaded.
    """

    source: str | None = None
    item: Any = None
    reason: str | None = None


class EncodedShard(NamedTuple):
    """The computed rows of one shard.

    Attributes:
        sources: digest of each row's content (None: no content), in row order.
        unreadable: position in the shard -> why the content cannot be read.
        places: positions in the shard that have a vector ``(m,) int64``.
        vectors: the vectors at these positions ``(m, dim)``, in the dtype of the table.
    """

    sources: list[str | None]
    unreadable: dict[int, str]
    places: np.ndarray
    vectors: np.ndarray


def encode_shard(loaded: Iterable[LoadedItem], extractor: Extractor, batch: int) -> EncodedShard:
    """Encodes the rows of one shard.

    Args:
        loaded: the content of its rows, in order.
        extractor: the extractor; fitted, if it has ``fit``.
        batch: items per forward pass, counted from the start of the shard.

    Raises:
        FeatureError: the extractor returned vectors of an unexpected shape.
    """
    dim = extractor.dim
    dtype = np.dtype(getattr(extractor, "dtype", "float32"))
    sources: list[str | None] = []
    unreadable: dict[int, str] = {}
    places: list[int] = []
    items: list[Any] = []
    blocks: list[np.ndarray] = []

    def flush() -> None:
        vectors = np.asarray(extractor.encode(items))
        if vectors.shape != (len(items), dim):
            raise FeatureError(
                f"{extractor.name}: encode returned {vectors.shape} for {len(items)} items; expected "
                f"({len(items)}, {dim})"
            )
        with np.errstate(over="ignore"):  # the writer refuses infinite values and names the item
            blocks.append(vectors.astype(dtype))
        items.clear()

    for place, item in enumerate(loaded):
        sources.append(item.source)
        if item.reason is not None:
            unreadable[place] = item.reason
        elif item.item is not None:
            places.append(place)
            items.append(item.item)
            if len(items) == batch:
                flush()
    if items:
        flush()
    vectors = np.concatenate(blocks) if blocks else np.zeros((0, dim), dtype=dtype)
    return EncodedShard(sources, unreadable, np.asarray(places, dtype=np.int64), vectors)


def load_rows(
    content: Content,
    rows: Iterable[int],
    extractor: object,
    pool: ThreadPoolExecutor | None,
    n: int,
) -> Iterator[LoadedItem]:
    """The content of rows in order; a pool reads and decodes ``n`` rows ahead, texts need no pool.

    Of the extractor, only its optional ``prepare`` and ``truncated`` are used.
    """
    budget = PixelBudget()
    return prefetch_map(pool, lambda row: _load_row(content, row, extractor, budget), rows, n)


def row_digest(content: Content, row: int) -> str | None:
    """Digest of a row's content without decoding it, or None where there is none."""
    value = content.values[row]
    if value is None or content.kind == "text":
        return value
    data, reason = _read_file(content, row)
    return f"unreadable: {reason}" if data is None else hashlib.sha256(data).hexdigest()


def _load_row(content: Content, row: int, extractor: object, budget: PixelBudget) -> LoadedItem:
    value = content.values[row]
    if value is None:
        return LoadedItem()
    prepare = getattr(extractor, "prepare", None)
    if content.kind == "text":
        return LoadedItem(value, prepare(value) if prepare else value)
    data, reason = _read_file(content, row)
    if data is None:
        return LoadedItem(f"unreadable: {reason}", reason=reason)
    return load_file(data, content.kind, extractor, budget)


def load_file(
    data: bytes, kind: str, extractor: object, budget: PixelBudget, max_pixels: int = MAX_PIXELS
) -> LoadedItem:
    """The content of a file as an extractor takes it; a picture of more than ``max_pixels`` is refused."""
    prepare = getattr(extractor, "prepare", None)
    accept_truncated = getattr(extractor, "truncated", "refuse") == "accept"
    digest = hashlib.sha256(data).hexdigest()
    try:
        if kind != "image":  # the extractor knows the format
            return LoadedItem(digest, prepare(data) if prepare else data)
        picture = open_picture(data, max_pixels, accept_truncated=accept_truncated)
        with budget.reserve(picture):
            picture = decode_picture(picture, accept_truncated=accept_truncated)
            return LoadedItem(digest, prepare(picture) if prepare else picture)
    except UnreadableContentError as cause:
        return LoadedItem(digest, reason=printable(str(cause)))


def _read_file(content: Content, row: int) -> tuple[bytes | None, str]:
    path = content.path(row)
    return (None, "") if path is None else read_file(path, str(content.values[row]))


def read_file(path: Path, name: str) -> tuple[bytes | None, str]:
    """The bytes of a file, or the reason why there are none; never reads pipes or huge files."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            reason = "is a directory"
        elif not stat.S_ISREG(status.st_mode):
            reason = "not a regular file"
        elif status.st_size > MAX_FILE_BYTES:
            reason = f"{status.st_size:,} bytes; at most {MAX_FILE_BYTES:,} are read"
        else:
            return path.read_bytes(), ""
    except (OSError, ValueError) as cause:  # ValueError: an invalid file name
        # The reason must not depend on the directory, which differs between machines; for a name that cannot
        # be encoded, Python's full message contains positions within the whole path.
        reason = str(getattr(cause, "strerror", None) or getattr(cause, "reason", None) or cause)
    return None, printable(f"{name[:MAX_NAME]}: {reason}")


def printable(text: str) -> str:
    """The text with unprintable characters escaped; file names may contain any character."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def prefetch_map(
    pool: ThreadPoolExecutor | None, function: Callable[[int], Any], rows: Iterable[int], n: int
) -> Iterator[Any]:
    """``function`` of each row in order, computed in a pool at most ``n`` rows ahead, or in this thread."""
    if pool is None:
        yield from map(function, rows)
        return
    waiting: deque[Future[Any]] = deque()
    try:
        for row in rows:
            waiting.append(pool.submit(function, row))
            if len(waiting) >= n:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
