"""Writes a feature table shard by shard and keeps the finished shards of an interrupted run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from graphrec.core.errors import FeatureError
from graphrec.core.files import digest, explain_os_errors, remove_stale_temporaries
from graphrec.data import Dataset
from graphrec.features import FeatureStore, StoredTable, shards
from graphrec.features.store import complete_table, content_digest, manifest_head, table_lock


@dataclass
class Shard:
    """The rows of one shard and what is known of their content.

    Attributes:
        number: number of the shard.
        first: its first row.
        last: one past its last row.
        sources: digest of each row's content (None: no content), in row order.
        unreadable: item id -> reason.
    """

    number: int
    first: int
    last: int
    sources: list[str | None] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)


class TableWriter:
    """Writer of one table; create it with :func:`writing_table`, which holds the table's lock.

    Args:
        dataset: dataset whose items are the rows.
        field: content field.
        store: the store to write to.
        describe: description of the extractor.
        shard_size: rows per shard.
        corpus: digest of the corpus the extractor was fitted on; part of every shard's inputs.
    """

    def __init__(
        self,
        dataset: Dataset,
        field: str,
        store: FeatureStore,
        describe: Mapping[str, Any],
        shard_size: int,
        corpus: str | None,
    ) -> None:
        self.dataset = dataset
        self.field = field
        self.corpus = corpus
        self.describe = dict(describe)
        self.key = shards.table_key(self.describe, dataset.items.fingerprint, field)
        self.folder: Path = store.folder(field, self.key)
        firsts = range(0, dataset.n_items, shard_size)
        self.plan = [
            Shard(number, first, min(first + shard_size, dataset.n_items))
            for number, first in enumerate(firsts)
        ]
        self.entries: dict[int, dict[str, Any]] = {}
        self.check: Callable[[], None] = lambda: None  # raises if the directory is no longer the locked one

    def inputs(self, first: int, sources: Sequence[str | None]) -> str:
        """Digest of the inputs of the rows from ``first`` on: ids, content, corpus of a fitted extractor."""
        ids = self.dataset.items.ids[first : first + len(sources)]
        return digest("inputs", self.corpus or "", list(ids), list(sources))

    def finished(self, shard: Shard) -> dict[str, Any] | None:
        """The entry of an intact shard, whatever its inputs, or None."""
        return shards.finished_shard(self.folder, shard.number, shard.first, shard.last)

    def keep(self, shard: Shard, entry: dict[str, Any]) -> None:
        """Keeps a finished shard unchanged."""
        self.entries[shard.number] = entry

    def write(self, shard: Shard, rows: np.ndarray, values: np.ndarray, empty_reason: str) -> None:
        """Writes one shard.

        Args:
            shard: the shard, with its sources and unreadable items.
            rows: rows of the table that ``values`` holds ``(n,)``.
            values: vectors ``(n, d)``; zero rows are recorded as missing.
            empty_reason: reason recorded for zero rows.

        Raises:
            FeatureError: a vector is not finite (the message names the item), or a file cannot be written.
        """
        ids = self.dataset.items.ids
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            row = int(rows[np.flatnonzero(~finite)[0]])
            raise FeatureError(
                f"{self.describe['name']}: the vector of item {ids[row]!r} (row {row}) holds NaN or Inf; "
                "expected finite values (float16 overflows beyond 65,504: try float32)"
            )
        block = np.zeros((shard.last - shard.first, values.shape[1]), dtype=values.dtype)
        block[rows - shard.first] = values
        present = np.asarray(block.any(axis=1))
        empty = {ids[int(row)]: empty_reason for row in rows[~present[rows - shard.first]]}
        self.check()
        with explain_os_errors(self.folder, FeatureError):
            # Without a manifest, the directory is not a table until all shards are consistent again.
            (self.folder / shards.MANIFEST).unlink(missing_ok=True)
            self.entries[shard.number] = shards.write_shard(
                self.folder,
                shard.number,
                shard.first,
                block,
                present,
                inputs=self.inputs(shard.first, shard.sources),
                unreadable=shard.unreadable,
                empty=empty,
            )

    @property
    def n_unreadable(self) -> int:
        """Number of unreadable items so far."""
        return sum(len(entry["unreadable"]) for entry in self.entries.values())

    def finish(self) -> StoredTable:
        """Writes the manifest, which completes the table.

        Raises:
            FeatureError: the manifest cannot be written, or shards are missing.
        """
        content = self.dataset.field(self.field)
        head = manifest_head(
            self.dataset, self.field, content.kind, self.key, self.describe, content_digest(content)
        )
        self.check()
        with explain_os_errors(self.folder, FeatureError):
            return complete_table(self.folder, head, [self.entries[shard.number] for shard in self.plan])


@contextmanager
def writing_table(
    dataset: Dataset,
    field: str,
    store: FeatureStore,
    describe: Mapping[str, Any],
    shard_size: int,
    corpus: str | None,
) -> Iterator[TableWriter]:
    """A :class:`TableWriter` that holds the table's lock; other writers of the table wait.

    Temporary files of killed writers are removed first.

    Raises:
        FeatureError: the store cannot be written.
    """
    writer = TableWriter(dataset, field, store, describe, shard_size, corpus)
    with table_lock(writer.folder) as writer.check:
        with explain_os_errors(writer.folder, FeatureError):
            remove_stale_temporaries(writer.folder, locked=True)
        yield writer
