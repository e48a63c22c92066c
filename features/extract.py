"""Content in, feature table out: batching, prefetching, resuming, and counting what could not be read."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from features.decoding import PixelBudget
from features.writer import Shard, TableWriter, writing_table
from graphrec.atomic import digest
from graphrec.data import Content, Dataset
from graphrec.errors import ConfigError, FeatureError
from graphrec.store import FeatureStore, FeatureTable

if TYPE_CHECKING:
    from rich.progress import Progress

    from features import Extractor

BATCH = 64
AHEAD = 3  # batches decoded beside the forward pass
PATIENCE = 2.0  # seconds before a progress bar is worth showing
EXAMPLES = 5
MAX_BYTES = 2**28  # of an image file
LONGEST_NAME = 200  # characters of a file name that are worth repeating


@dataclass(frozen=True)
class Loaded:
    """One item's content, read.

    Attributes:
        source: digest of the content, None where the item has none.
        item: what the extractor gets, or None.
        reason: why there is no item although there is content.
    """

    source: str | None = None
    item: Any = None
    reason: str | None = None


def extract(
    dataset: Dataset,
    field: str,
    extractor: Extractor,
    store: FeatureStore,
    *,
    batch_size: int | None = None,
    shard_size: int = 512,
    workers: int | None = None,
    rebuild: bool = False,
    max_bad: float = 0.05,
    progress: bool | None = None,
) -> FeatureTable:
    """Extracts one content field into the store and returns the table.

    Work that an earlier run finished is kept: a shard is made again only when its files are not whole or the
    content of its rows changed. The result is equal byte by byte whatever was interrupted and however many
    workers read.

    Args:
        dataset: whose items to describe.
        field: content field.
        extractor: see :func:`features.extractor`.
        store: where the table goes.
        batch_size: items per forward pass, for extractors whose rows do not depend on it; others fix their
            own.
        shard_size: rows per shard, the unit of resuming.
        workers: threads that read and decode pictures; default: two per core, at most 16.
        rebuild: make every shard again.
        max_bad: largest share of the items with content that may be unreadable.
        progress: show a bar; default: on a terminal, for work of more than two seconds.

    Raises:
        FeatureError: content of another kind than the extractor reads, no content at all, too much unreadable
            content (counts and first examples are given), or vectors that are not finite.
        ConfigError: a size out of range, or a batch size the extractor does not allow.
    """
    content = dataset.field(field)
    if content.kind != extractor.kind:
        raise FeatureError(
            f"{dataset.name}: {field!r} holds {content.kind} content, {extractor.name!r} reads "
            f"{extractor.kind}; "
            f"choose an extractor for {content.kind}"
        )
    if not content.n_present:
        raise FeatureError(f"{dataset.name}: no item has {field!r} content; there is nothing to extract")
    batch = _batch_size(extractor, batch_size)
    if shard_size < 1 or not 0 <= max_bad <= 1:
        raise ConfigError(f"shard_size {shard_size}, max_bad {max_bad}; expected at least 1, and a share")
    fit: Callable[[list[str]], object] | None = getattr(extractor, "fit", None)
    texts = [value for value in content if value is not None]
    corpus = digest("corpus", texts) if fit is not None else None
    threads = workers or min(16, 2 * (os.cpu_count() or 1))
    with (
        writing_table(dataset, field, store, extractor.describe(), shard_size, corpus) as writer,
        ThreadPoolExecutor(threads, thread_name_prefix="features") as pool,
        _Bar(f"{field} ({extractor.name})", dataset.n_items, progress) as bar,
    ):
        readers = pool if content.kind == "image" else None
        todo = []
        for shard in writer.plan:
            entry = None if rebuild else writer.finished(shard)
            rows = range(shard.first, shard.last)
            if entry is not None and entry["inputs"] == writer.inputs(
                shard.first, list(_ahead(readers, lambda r: _source(content, r), rows, 4 * threads))
            ):
                writer.keep(shard, entry)
                bar.advance(len(rows))
            else:
                todo.append(shard)
        _check_bad(writer, content, field, max_bad)
        if todo and fit is not None:
            fit(texts)
        dim = extractor.dim if todo else 0  # loads the model before threads need it
        rows_to_do = (row for shard in todo for row in range(shard.first, shard.last))
        budget = PixelBudget()
        loaded = _ahead(
            readers, lambda r: _load(content, r, extractor, budget), rows_to_do, max(AHEAD * batch, threads)
        )
        for shard in todo:
            _build(writer, shard, loaded, extractor, dim, batch, bar)
            _check_bad(writer, content, field, max_bad)
        return writer.finish().open(store.verify_on_open)


def _build(
    writer: TableWriter,
    shard: Shard,
    loaded: Iterator[Loaded],
    extractor: Extractor,
    dim: int,
    batch: int,
    bar: _Bar,
) -> None:
    """Encodes the rows of one shard and writes it; batches stay within it, so that it can be made alone."""
    dtype = np.dtype(getattr(extractor, "dtype", "float32"))
    rows: list[int] = []
    items: list[Any] = []
    blocks: list[np.ndarray] = []

    def flush() -> None:
        if items:
            vectors = np.asarray(extractor.encode(items))
            if vectors.shape != (len(items), dim):
                raise FeatureError(
                    f"{extractor.name}: encode returned {vectors.shape} for {len(items)} items; expected "
                    f"({len(items)}, {dim})"
                )
            with np.errstate(over="ignore"):  # the writer refuses what overflowed, and names the item
                blocks.append(vectors.astype(dtype))
            items.clear()

    for row in range(shard.first, shard.last):
        one = next(loaded)
        shard.sources.append(one.source)
        if one.reason is not None:
            shard.unreadable[writer.dataset.items.ids[row]] = one.reason
        elif one.item is not None:
            rows.append(row)
            items.append(one.item)
            if len(items) == batch:
                flush()
        bar.advance(1)
    flush()
    values = np.concatenate(blocks) if blocks else np.zeros((0, dim), dtype=dtype)
    reason = getattr(extractor, "empty_reason", "the extractor returned a vector of zeros")
    writer.write(shard, np.asarray(rows, dtype=np.int64), values, reason)


def _batch_size(extractor: Extractor, asked: int | None) -> int:
    fixed: int | None = getattr(extractor, "batch_size", None)
    if fixed is not None and asked not in (None, fixed):
        raise ConfigError(
            f"batch_size {asked}: {extractor.name!r} was made with {fixed}, and its vectors depend on it in "
            f"the last "
            f"bits; make the extractor with batch_size={asked} instead"
        )
    size = fixed or asked or BATCH
    if size < 1:
        raise ConfigError(f"batch_size {size}; expected at least 1")
    return size


def _check_bad(writer: TableWriter, content: Content, field: str, max_bad: float) -> None:
    bad = writer.n_unreadable
    if bad <= max_bad * content.n_present:
        return
    reasons = [pair for n in sorted(writer.entries) for pair in writer.entries[n]["unreadable"].items()]
    examples = "; ".join(f"{_printable(item)}: {reason}" for item, reason in reasons[:EXAMPLES])
    done = sum(writer.plan[n].last - writer.plan[n].first for n in writer.entries)
    raise FeatureError(
        f"{writer.dataset.name}: {bad:,} of {content.n_present:,} items with {field!r} content cannot be "
        f"read (after {done:,} of {len(content):,} items), more than the allowed {max_bad:.0%}; repair or "
        f"remove them, or raise max_bad (--max-bad). The first: {examples}"
    )


def _source(content: Content, row: int) -> str | None:
    """What :func:`_load` would give as ``source``, without decoding."""
    value = content.values[row]
    if value is None or content.kind == "text":
        return value
    data, reason = _read(content, row)
    return f"unreadable: {reason}" if data is None else hashlib.sha256(data).hexdigest()


def _load(content: Content, row: int, extractor: Extractor, budget: PixelBudget) -> Loaded:
    value = content.values[row]
    if value is None:
        return Loaded()
    prepare = getattr(extractor, "prepare", None)
    if content.kind == "text":
        return Loaded(value, prepare(value) if prepare else value)
    from features.decoding import UnreadableImageError, decoded, opened

    data, reason = _read(content, row)
    if data is None:
        return Loaded(f"unreadable: {reason}", reason=reason)
    source = hashlib.sha256(data).hexdigest()
    try:
        picture = opened(data)
        with budget.taking(picture):
            picture = decoded(picture)
            return Loaded(source, prepare(picture) if prepare else picture)
    except UnreadableImageError as cause:
        return Loaded(source, reason=_printable(str(cause)))


def _read(content: Content, row: int) -> tuple[bytes | None, str]:
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
        elif found.st_size > MAX_BYTES:
            reason = f"{found.st_size:,} bytes; at most {MAX_BYTES:,} are read"
        else:
            return path.read_bytes(), ""
    except (OSError, ValueError) as cause:  # a name no file can have is a ValueError
        reason = str(getattr(cause, "strerror", None) or cause)
    # Without the directory: a cache means the same on every machine.
    return None, _printable(f"{str(content.values[row])[:LONGEST_NAME]}: {reason}")


def _printable(text: str) -> str:
    """One line that every terminal and file can hold; names of files may contain anything."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _ahead(
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


class _Bar:
    """A progress bar that appears only when the work turns out to be long."""

    def __init__(self, title: str, total: int, wanted: bool | None) -> None:
        self.title, self.total = title, total
        self.wanted = sys.stderr.isatty() if wanted is None else wanted
        self.begun, self.done = time.monotonic(), 0
        self.bar: Progress | None = None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def advance(self, n: int) -> None:
        self.done += n
        if self.wanted and self.bar is None and time.monotonic() - self.begun > PATIENCE:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self.bar = Progress(*columns, console=Console(stderr=True))
            self.bar.start()
            self.bar.add_task(self.title, total=self.total)
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=self.done)
