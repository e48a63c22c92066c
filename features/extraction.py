"""Extracts a content field into a feature table: batching, prefetching, resuming, unreadable content."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from graphrec.core.errors import ConfigError, FeatureError
from graphrec.core.files import digest
from graphrec.core.ray import Cluster
from graphrec.data import Content, Dataset
from graphrec.features import FeatureStore, FeatureTable
from graphrec.features.extract.registry import extractor as make_extractor
from graphrec.features.extract.shard import (
    PREFETCH_BATCHES,
    EncodedShard,
    LoadedItem,
    encode_shard,
    load_rows,
    prefetch_map,
    printable,
    row_digest,
)
from graphrec.features.extract.writer import Shard, TableWriter

if TYPE_CHECKING:
    from rich.progress import Progress

    from graphrec.features.extract.registry import Extractor

DEFAULT_BATCH = 64
PROGRESS_DELAY = 2.0  # seconds before the progress bar appears
MAX_EXAMPLES = 5


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
    cluster: Cluster | None = None,
) -> FeatureTable:
    """Extracts one content field into the store and returns the table.

    Finished shards are kept: a shard is extracted again only if its files are damaged or the content of its
    rows changed. The result is identical byte by byte after any interruption, for any number of workers, and
    on a cluster.

    Args:
        dataset: the dataset.
        field: content field.
        extractor: see :func:`graphrec.features.extract.extractor`.
        store: the store to write to.
        batch_size: items per forward pass, for extractors whose vectors do not depend on it; other extractors
            have a fixed batch size.
        shard_size: rows per shard, the unit of resuming.
        workers: threads that read and decode images; default: two per core, at most 16. On a cluster, threads
            per worker.
        rebuild: extract every shard again.
        max_bad: maximum share of unreadable items among the items with content.
        progress: show a progress bar; default: on a terminal, after two seconds.
        cluster: cluster that reads, decodes and encodes; default: this process. Existing shards are checked
            and files are written by this process only.

    Returns:
        The table, opened from the store.

    Raises:
        FeatureError: the extractor reads another kind of content, there is no content, too much content is
            unreadable (the message gives counts and examples), or a vector is not finite.
        ConfigError: a size out of range, or a batch size the extractor does not support.
        ClusterError: the cluster cannot be reached, lacks resources, cannot read the images, would compute
            other vectors than this machine, or lost its workers too often.
        MissingDependencyError: a cluster is given and Ray is not installed.
    """
    content = dataset.field(field)
    if content.kind != extractor.kind:
        raise FeatureError(
            f"{dataset.name}: {field!r} holds {content.kind} content, {extractor.name!r} reads "
            f"{extractor.kind}; choose an extractor for {content.kind} content"
        )
    if not content.n_present:
        raise FeatureError(f"{dataset.name}: no item has {field!r} content; expected at least one")
    batch = _batch_size(extractor, batch_size)
    if shard_size < 1 or not 0 <= max_bad <= 1:
        raise ConfigError(
            f"shard_size {shard_size}, max_bad {max_bad}; expected shard_size >= 1 and 0 <= max_bad <= 1"
        )
    fit: Callable[[list[str]], object] | None = getattr(extractor, "fit", None)
    texts = [value for value in content if value is not None]
    corpus = digest("corpus", texts) if fit is not None else None
    threads = workers or min(16, 2 * (os.cpu_count() or 1))
    with (
        TableWriter(dataset, field, store, extractor.describe(), shard_size, corpus).locked() as writer,
        ThreadPoolExecutor(threads, thread_name_prefix="features") as pool,
        _ProgressBar(f"{field} ({extractor.name})", dataset.n_items, progress) as bar,
    ):
        readers = pool if content.kind != "text" else None
        todo = []
        for shard in writer.plan:
            entry = None if rebuild else writer.finished(shard)
            rows = range(shard.first, shard.last)
            if entry is not None and entry["inputs"] == writer.inputs(
                shard.first, list(prefetch_map(readers, lambda r: row_digest(content, r), rows, 4 * threads))
            ):
                writer.entries[shard.number] = entry
                bar.advance(len(rows))
            else:
                todo.append(shard)
        _check_unreadable(writer, content, field, max_bad)
        get_fitted: Callable[[], dict[str, np.ndarray]] | None = getattr(extractor, "get_fitted", None)
        if fit is not None and (todo or (get_fitted is not None and not writer.has_fitted())):
            fit(texts)
            if get_fitted is not None:
                writer.write_fitted(get_fitted())
        if cluster is None:
            results = _encode_locally(todo, content, extractor, batch, readers, threads, bar)
        else:
            from graphrec.features.extract.on_ray import encode_on_cluster

            results = encode_on_cluster(cluster, todo, content, extractor, batch, workers)
        reason = getattr(extractor, "empty_reason", "the extractor returned a vector of zeros")
        with closing(results):
            for shard, encoded in results:
                writer.write(shard, encoded, reason)
                _check_unreadable(writer, content, field, max_bad)
                if cluster is not None:
                    bar.advance(shard.last - shard.first)
        return writer.finish().open(store.verify_on_open)


class _NoVectors:
    """Decodes pictures and computes nothing."""

    def prepare(self, _: object) -> bool:
        """Drops the decoded item."""
        return True


def unreadable(content: Content, workers: int | None = None) -> dict[int, str]:
    """Reads and decodes every file of a content field, as extraction does.

    Args:
        content: a content field.
        workers: threads that read and decode; default: two per core, at most 16.

    Returns:
        Row -> why its content cannot be read.

    Raises:
        MissingDependencyError: the content is sounds and soundfile is not installed.
    """
    threads = workers or min(16, 2 * (os.cpu_count() or 1))
    with ThreadPoolExecutor(threads, thread_name_prefix="features") as pool:
        readers = pool if content.kind != "text" else None
        # Extractors of sounds decode the files themselves; the default one does so without a model.
        reader = make_extractor("audio") if content.kind == "audio" else _NoVectors()
        loaded = load_rows(content, range(len(content)), reader, readers, 4 * threads)
        return {row: item.reason for row, item in enumerate(loaded) if item.reason is not None}


def _encode_locally(
    todo: Sequence[Shard],
    content: Content,
    extractor: Extractor,
    batch: int,
    readers: ThreadPoolExecutor | None,
    threads: int,
    bar: _ProgressBar,
) -> Generator[tuple[Shard, EncodedShard], None, None]:
    """Computes shards in order; reading is prefetched across shard boundaries."""
    rows = (row for shard in todo for row in range(shard.first, shard.last))
    loaded = load_rows(content, rows, extractor, readers, max(PREFETCH_BATCHES * batch, threads))

    def counted(n: int) -> Iterator[LoadedItem]:
        for item in islice(loaded, n):
            yield item
            bar.advance(1)

    for shard in todo:
        yield shard, encode_shard(counted(shard.last - shard.first), extractor, batch)


def _batch_size(extractor: Extractor, requested: int | None) -> int:
    fixed: int | None = getattr(extractor, "batch_size", None)
    if fixed is not None and requested not in (None, fixed):
        raise ConfigError(
            f"batch_size {requested}: {extractor.name!r} has a fixed batch size of {fixed}, on which the "
            f"last bits of its vectors depend; create the extractor with batch_size={requested}"
        )
    size = fixed or requested or DEFAULT_BATCH
    if size < 1:
        raise ConfigError(f"batch_size {size}; expected at least 1")
    return size


def _check_unreadable(writer: TableWriter, content: Content, field: str, max_bad: float) -> None:
    entries = [writer.entries[number] for number in sorted(writer.entries)]
    reasons = [pair for entry in entries for pair in entry["unreadable"].items()]
    if len(reasons) <= max_bad * content.n_present:
        return
    examples = "; ".join(f"{printable(item)}: {reason}" for item, reason in reasons[:MAX_EXAMPLES])
    done = sum(entry["rows"][1] - entry["rows"][0] for entry in entries)
    raise FeatureError(
        f"{writer.dataset.name}: {len(reasons):,} of {content.n_present:,} items with {field!r} content are "
        f"unreadable (after {done:,} of {len(content):,} items), more than the maximum of {max_bad:.0%}; "
        f"repair or remove them, or raise max_bad (--max-bad). First ones: {examples}"
    )


class _ProgressBar:
    """A progress bar that appears after :data:`PROGRESS_DELAY` seconds."""

    def __init__(self, title: str, total: int, enabled: bool | None) -> None:
        self.title = title
        self.total = total
        self.enabled = sys.stderr.isatty() if enabled is None else enabled
        self.start = time.monotonic()
        self.done = 0
        self.bar: Progress | None = None

    def __enter__(self) -> _ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def advance(self, n: int) -> None:
        self.done += n
        if self.enabled and self.bar is None and time.monotonic() - self.start > PROGRESS_DELAY:
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
