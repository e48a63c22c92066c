"""Feature tables that stay on disk: the rows of the next step are read while the current one computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from graphrec.features import FeatureTable

Batch = TypeVar("Batch")


class RowsOnDisk:
    """Rows of a table, read when they are used: each once and in ascending order, which is the files' order.

    Args:
        table: features ``(n_items, d)``; tables of a feature store are memory-mapped shard by shard.
        dtype: precision in which rows are returned.
    """

    def __init__(self, table: FeatureTable, dtype: torch.dtype) -> None:
        self.table = table
        self.dtype = dtype
        # Of the current batch and of the next one; rows that nobody took make room for later ones.
        self._pending: deque[tuple[np.ndarray, Future[Tensor]]] = deque(maxlen=2)

    def block(self, rows: np.ndarray) -> Tensor:
        """Vectors ``(n, d)`` of ascending rows ``(n,)``; zero for missing rows, whatever the file holds."""
        values = self.table.take(rows).astype(np.float32, copy=False)
        values[~self.table.present[rows]] = 0
        return torch.from_numpy(values).to(self.dtype)

    def request(self, rows: np.ndarray, pool: ThreadPoolExecutor) -> None:
        """Starts to read rows that :meth:`take` will need.

        Args:
            rows: the distinct ones, ascending ``(U,)``.
            pool: the thread that reads.
        """
        self._pending.append((rows, pool.submit(self.block, rows)))

    def take(self, *items: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Vectors of the distinct ones of some items, and the position of each item among them.

        Args:
            items: several lists of items, each ``(B,)``.

        Returns:
            ``(U, d)`` and, for each of ``items``, ``(B,) int64``.
        """
        device = items[0].device
        distinct, position = torch.cat(items).cpu().unique(return_inverse=True)
        rows = distinct.numpy()
        values: Tensor | None = None
        for n, (requested, read) in enumerate(self._pending):
            if np.array_equal(requested, rows):
                values = read.result()
                for _ in range(n + 1):
                    self._pending.popleft()
                break
        if values is None:
            values = self.block(rows)
        return values.to(device), list(position.to(device).split([len(i) for i in items]))

    def clear(self) -> None:
        """Drops what was requested and not taken."""
        self._pending.clear()


def prefetch(
    batches: Iterator[Batch], tables: Iterable[RowsOnDisk], items: Callable[[Batch], Iterable[Tensor]]
) -> Iterator[Batch]:
    """The same batches; while one is processed, the rows that the next one needs are read.

    Args:
        batches: batches on the CPU.
        tables: tables to read from; if there are none this is ``batches``.
        items: gives the items of a batch that :meth:`RowsOnDisk.take` will be called with; if there are none,
            nothing is read for the batch.
    """
    tables = list(tables)
    if not tables:
        yield from batches
        return
    with ThreadPoolExecutor(1, thread_name_prefix="features") as pool:
        try:
            previous: Batch | None = None
            for batch in batches:
                needed = list(items(batch))
                if needed:
                    rows = np.unique(torch.cat(needed).numpy())
                    for table in tables:
                        table.request(rows, pool)
                if previous is not None:
                    yield previous
                previous = batch
            if previous is not None:
                yield previous
        finally:
            for table in tables:
                table.clear()
