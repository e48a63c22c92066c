"""Writes a feature table shard by shard and keeps the finished shards of an interrupted run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from graphrec.core.errors import FeatureError
from graphrec.core.files import digest, explain_os_errors, remove_stale_temporaries
from graphrec.data import Dataset
from graphrec.features import FeatureStore, StoredTable, shards
from graphrec.features.extract.shard import EncodedShard
from graphrec.features.fitted import read_fitted, write_fitted
from graphrec.features.store import complete_table, content_digest, manifest_head, table_lock


class Shard(NamedTuple):
    """Number of a shard, its first row, and one past its last row."""

    number: int
    first: int
    last: int


class TableWriter:
    """Writer of one table; it writes while it holds the table's lock, see :meth:`locked`.

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

    @contextmanager
    def locked(self) -> Iterator[Self]:
        """Holds the table's lock; other writers of the table wait.

        Temporary files of killed writers are removed first.

        Raises:
            FeatureError: the store cannot be written.
        """
        with table_lock(self.folder) as self.check:
            with explain_os_errors(self.folder, FeatureError):
                remove_stale_temporaries(self.folder, locked=True)
            yield self

    def inputs(self, first: int, sources: Sequence[str | None]) -> str:
        """Digest of the inputs of the rows from ``first`` on: ids, content, corpus of a fitted extractor."""
        ids = self.dataset.items.ids[first : first + len(sources)]
        return digest("inputs", self.corpus or "", list(ids), list(sources))

    def finished(self, shard: Shard) -> dict[str, Any] | None:
        """The entry of an intact shard, whatever its inputs, or None."""
        return shards.finished_shard(self.folder, shard.number, shard.first, shard.last)

    @cached_property
    def _content(self) -> str:
        """Digest of the content, as in the manifest."""
        return content_digest(self.dataset.field(self.field))

    def has_fitted(self) -> bool:
        """Whether the extractor fitted to the present content is kept beside the table, undamaged."""
        try:
            return read_fitted(self.folder, self._content) is not None
        except FeatureError:
            return False

    def write_fitted(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Keeps what the extractor learned from the present content.

        Raises:
            FeatureError: the files cannot be written.
        """
        self.check()
        write_fitted(self.folder, self._content, arrays)

    def write(self, shard: Shard, encoded: EncodedShard, empty_reason: str) -> None:
        """Writes one shard.

        Args:
            shard: the shard.
            encoded: its computed rows; zero rows are recorded as missing.
            empty_reason: reason recorded for zero rows.

        Raises:
            FeatureError: a vector is not finite (the message names the item), or a file cannot be written.
        """
        ids = self.dataset.items.ids[shard.first : shard.last]
        places = encoded.places
        values = encoded.vectors
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            place = int(places[np.flatnonzero(~finite)[0]])
            raise FeatureError(
                f"{self.describe['name']}: the vector of item {ids[place]!r} (row {shard.first + place}) "
                "holds NaN or Inf; expected finite values (float16 overflows beyond 65,504: try float32)"
            )
        block = np.zeros((shard.last - shard.first, values.shape[1]), dtype=values.dtype)
        block[places] = values
        present = np.asarray(block.any(axis=1))
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
                inputs=self.inputs(shard.first, encoded.sources),
                unreadable={ids[place]: reason for place, reason in encoded.unreadable.items()},
                empty={ids[place]: empty_reason for place in places[~present[places]].tolist()},
            )

    def finish(self) -> StoredTable:
        """Writes the manifest, which completes the table.

        Raises:
            FeatureError: the manifest cannot be written, or shards are missing.
        """
        content = self.dataset.field(self.field)
        head = manifest_head(self.dataset, self.field, content.kind, self.key, self.describe, self._content)
        self.check()
        with explain_os_errors(self.folder, FeatureError):
            return complete_table(self.folder, head, [self.entries[shard.number] for shard in self.plan])
