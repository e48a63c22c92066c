"""Writes one feature table shard by shard, keeping what an earlier, interrupted run finished."""

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
    """The rows of one shard, as they are filled.

    Attributes:
        number: of the shard.
        first: its first row.
        last: one past its last row.
        sources: digest of each row's content (None: no content), in row order.
        unreadable: reason by item id.
    """

    number: int
    first: int
    last: int
    sources: list[str | None] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)


class TableWriter:
    """The writing of one table; make it with :func:`writing_table`, which holds the table's lock.

    Args:
        dataset: whose items the rows are.
        field: content field.
        store: where to write.
        describe: what the extractor says of itself.
        shard_size: rows per shard.
        corpus: digest of the corpus an extractor was fitted on; a part of every shard's inputs.
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
        self.dataset, self.field, self.corpus = dataset, field, corpus
        self.describe = dict(describe)
        self.key = shards.table_key(self.describe, dataset.items.fingerprint, field)
        self.folder: Path = store.folder(field, self.key)
        firsts = range(0, dataset.n_items, shard_size)
        self.plan = [
            Shard(number, first, min(first + shard_size, dataset.n_items))
            for number, first in enumerate(firsts)
        ]
        self.entries: dict[int, dict[str, Any]] = {}
        self.check: Callable[[], None] = lambda: None  # raises when the directory is no longer the locked one

    def inputs(self, first: int, sources: Sequence[str | None]) -> str:
        """Digest of what the rows from ``first`` on are made from: ids, content, corpus if fitted."""
        ids = self.dataset.items.ids[first : first + len(sources)]
        return digest("inputs", self.corpus or "", list(ids), list(sources))

    def finished(self, shard: Shard) -> dict[str, Any] | None:
        """The entry of a shard whose files are whole, whatever it was made from, or None."""
        return shards.finished_shard(self.folder, shard.number, shard.first, shard.last)

    def keep(self, shard: Shard, entry: dict[str, Any]) -> None:
        """Takes a finished shard over as it is."""
        self.entries[shard.number] = entry

    def write(self, shard: Shard, rows: np.ndarray, values: np.ndarray, empty_reason: str) -> None:
        """Writes one shard.

        Args:
            shard: with its sources and unreadable items filled in.
            rows: which rows of the table ``values`` holds ``(n,)``.
            values: vectors ``(n, d)``; rows of zeros are recorded as missing.
            empty_reason: why a vector is zero.

        Raises:
            FeatureError: a vector is not finite (names the item), or the files cannot be written.
        """
        ids = self.dataset.items.ids
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            row = int(rows[np.flatnonzero(~finite)[0]])
            raise FeatureError(
                f"{self.describe['name']}: the vector of item {ids[row]!r} (row {row}) holds NaN or Inf; the "
                "extractor cannot be used on it (float16 overflows beyond 65,504: try float32)"
            )
        block = np.zeros((shard.last - shard.first, values.shape[1]), dtype=values.dtype)
        block[rows - shard.first] = values
        present = np.asarray(block.any(axis=1))
        empty = {ids[int(row)]: empty_reason for row in rows[~present[rows - shard.first]]}
        self.check()
        with explain_os_errors(self.folder, FeatureError):
            # Until all shards agree again, this is no table.
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
        """Items so far whose content could not be read."""
        return sum(len(entry["unreadable"]) for entry in self.entries.values())

    def finish(self) -> StoredTable:
        """Writes the manifest, which makes the shards a table.

        Raises:
            FeatureError: it cannot be written, or the shards have gone.
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
    """A :class:`TableWriter` under the table's lock; another process that wants the table waits here.

    Temporary files of killed writers are removed first.

    Raises:
        FeatureError: the store cannot be written.
    """
    writer = TableWriter(dataset, field, store, describe, shard_size, corpus)
    with table_lock(writer.folder) as writer.check:
        with explain_os_errors(writer.folder, FeatureError):
            remove_stale_temporaries(writer.folder, locked=True)
        yield writer
