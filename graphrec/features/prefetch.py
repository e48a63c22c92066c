"""Rows of a feature table that stays where it is, on disk: those of the next step are read while this one
computes.
"""

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
    """The rows of a table, read on use, each once and in ascending order: the order of the files.

    Args:
        table: features ``(n_items, d)``; those of a feature store are mapped shard by shard.
        dtype: precision in which rows are given.
    """

    def __init__(self, table: FeatureTable, dtype: torch.dtype) -> None:
        self.table, self.dtype = table, dtype
        # Of the batch that is worked on and of the next one; what nobody took makes room.
        self._coming: deque[tuple[np.ndarray, Future[Tensor]]] = deque(maxlen=2)

    def block(self, rows: np.ndarray) -> Tensor:
        """Vectors ``(n, d)`` of ascending rows ``(n,)``; zero where missing, whatever stands there."""
        values = self.table.take(rows).astype(np.float32, copy=False)
        values[~self.table.present[rows]] = 0
        return torch.from_numpy(values).to(self.dtype)

    def ask(self, rows: np.ndarray, pool: ThreadPoolExecutor) -> None:
        """Begins to read what :meth:`take` will be asked for.

        Args:
            rows: the distinct ones, ascending ``(U,)``.
            pool: who reads.
        """
        self._coming.append((rows, pool.submit(self.block, rows)))

    def take(self, *items: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Vectors of the distinct ones of some items, each ``(B,)``, and where in them each is.

        Returns:
            ``(U, d)`` and, for each of ``items``, ``(B,) int64``.
        """
        device = items[0].device
        rows, at = torch.cat(items).cpu().unique(return_inverse=True)
        wanted = rows.numpy()
        values: Tensor | None = None
        for n, (known, found) in enumerate(self._coming):
            if np.array_equal(known, wanted):
                values = found.result()
                for _ in range(n + 1):
                    self._coming.popleft()
                break
        if values is None:
            values = self.block(wanted)
        return values.to(device), list(at.to(device).split([len(i) for i in items]))

    def forget(self) -> None:
        """Drops what was asked for and not taken."""
        self._coming.clear()


def prefetch(
    batches: Iterator[Batch], tables: Iterable[RowsOnDisk], items: Callable[[Batch], Iterable[Tensor]]
) -> Iterator[Batch]:
    """The same batches; while one is worked on, the rows that the next one needs are read.

    Args:
        batches: on the CPU.
        tables: to read from; without any this is ``batches``.
        items: of a batch, those whose rows :meth:`RowsOnDisk.take` will be asked for, together.
    """
    tables = list(tables)
    if not tables:
        yield from batches
        return
    with ThreadPoolExecutor(1, thread_name_prefix="features") as pool:
        try:
            before: Batch | None = None
            for batch in batches:
                rows = np.unique(torch.cat(list(items(batch))).numpy())  # of all tables
                for table in tables:
                    table.ask(rows, pool)
                if before is not None:
                    yield before
                before = batch
            if before is not None:
                yield before
        finally:
            for table in tables:
                table.forget()
