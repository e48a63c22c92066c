"""The rows of one shard: content read and decoded in threads, encoded in batches that stay within the shard.

Whoever computes a shard, this process or another, does it here; :mod:`graphrec.features.extract.extraction` writes the result.
"""

from __future__ import annotations

import hashlib
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from graphrec.core.errors import FeatureError
from graphrec.data import Content
from graphrec.features.extract.decoding import PixelBudget, UnreadableImageError, decode_picture, open_picture

if TYPE_CHECKING:
    from graphrec.features.extract.registry import Extractor

PREFETCH_BATCHES = 3  # batches decoded beside the forward pass
MAX_FILE_BYTES = 2**28  # of an image file
MAX_NAME = 200  # characters of a file name that are worth repeating


@dataclass(frozen=True)
class LoadedItem:
    """One item's content, read.

    Attributes:
        source: digest of the content, None where the item has none.
        item: what the extractor gets, or None.
        reason: why there is no item although there is content.
    """

    source: str | None = None
    item: Any = None
    reason: str | None = None


@dataclass
class EncodedShard:
    """The rows of one shard, computed.

    Attributes:
        sources: digest of each row's content (None: no content), in row order.
        unreadable: why a row's content cannot be read, by place in the shard.
        places: rows that have a vector, as places in the shard ``(m,) int64``.
        vectors: theirs ``(m, dim)``, in the table's type.
    """

    sources: list[str | None] = field(default_factory=list)
    unreadable: dict[int, str] = field(default_factory=dict)
    places: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    vectors: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))


def encode_shard(loaded: Iterable[LoadedItem], extractor: Extractor, batch: int) -> EncodedShard:
    """Encodes the rows of one shard.

    Args:
        loaded: the content of its rows, in order.
        extractor: fitted, where it can be fitted.
        batch: items per forward pass, counted from the beginning of the shard.

    Raises:
        FeatureError: the extractor returned vectors of another shape than it promised.
    """
    dim, dtype = extractor.dim, np.dtype(getattr(extractor, "dtype", "float32"))
    found, places, items, blocks = EncodedShard(), list[int](), list[Any](), list[np.ndarray]()

    def flush() -> None:
        vectors = np.asarray(extractor.encode(items))
        if vectors.shape != (len(items), dim):
            raise FeatureError(
                f"{extractor.name}: encode returned {vectors.shape} for {len(items)} items; expected "
                f"({len(items)}, {dim})"
            )
        with np.errstate(over="ignore"):  # the writer refuses what overflowed, and names the item
            blocks.append(vectors.astype(dtype))
        items.clear()

    for place, one in enumerate(loaded):
        found.sources.append(one.source)
        if one.reason is not None:
            found.unreadable[place] = one.reason
        elif one.item is not None:
            places.append(place)
            items.append(one.item)
            if len(items) == batch:
                flush()
    if items:
        flush()
    found.places = np.asarray(places, dtype=np.int64)
    found.vectors = np.concatenate(blocks) if blocks else np.zeros((0, dim), dtype=dtype)
    return found


def load_rows(
    content: Content,
    rows: Iterable[int],
    extractor: Extractor,
    pool: ThreadPoolExecutor | None,
    n: int,
) -> Iterator[LoadedItem]:
    """The content of rows in order, read and decoded in a pool ``n`` rows ahead; texts need no pool."""
    budget = PixelBudget()
    return prefetch_map(pool, lambda row: _load_row(content, row, extractor, budget), rows, n)


def row_digest(content: Content, row: int) -> str | None:
    """Digest of a row's content, or None where it has none, without decoding."""
    value = content.values[row]
    if value is None or content.kind == "text":
        return value
    data, reason = _read_file(content, row)
    return f"unreadable: {reason}" if data is None else hashlib.sha256(data).hexdigest()


def _load_row(content: Content, row: int, extractor: Extractor, budget: PixelBudget) -> LoadedItem:
    value = content.values[row]
    if value is None:
        return LoadedItem()
    prepare = getattr(extractor, "prepare", None)
    if content.kind == "text":
        return LoadedItem(value, prepare(value) if prepare else value)
    data, reason = _read_file(content, row)
    if data is None:
        return LoadedItem(f"unreadable: {reason}", reason=reason)
    digest = hashlib.sha256(data).hexdigest()
    try:
        picture = open_picture(data)
        with budget.taking(picture):
            picture = decode_picture(picture)
            return LoadedItem(digest, prepare(picture) if prepare else picture)
    except UnreadableImageError as cause:
        return LoadedItem(digest, reason=printable(str(cause)))


def _read_file(content: Content, row: int) -> tuple[bytes | None, str]:
    """The bytes of an image file, or why there are none; never waits for a pipe or reads without end."""
    path = content.path(row)
    if path is None:
        return None, ""
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            reason = "is a directory"
        elif not stat.S_ISREG(found.st_mode):
            reason = "not a regular file"
        elif found.st_size > MAX_FILE_BYTES:
            reason = f"{found.st_size:,} bytes; at most {MAX_FILE_BYTES:,} are read"
        else:
            return path.read_bytes(), ""
    except (OSError, ValueError) as cause:  # a name no file can have is a ValueError
        # Without the directory, which is elsewhere on other machines: of a name that cannot be encoded,
        # Python tells the place within the whole path.
        reason = str(getattr(cause, "strerror", None) or getattr(cause, "reason", None) or cause)
    return None, printable(f"{str(content.values[row])[:MAX_NAME]}: {reason}")


def printable(text: str) -> str:
    """One line that every terminal and file can hold; names of files may contain anything."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def prefetch_map(
    pool: ThreadPoolExecutor | None, function: Callable[[int], Any], rows: Iterable[int], n: int
) -> Iterator[Any]:
    """``function`` of each row in order, computed in a pool at most ``n`` rows ahead, or else here."""
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
