"""The items of a recommender: the base items it was built with, and items added later."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphrec.core.errors import DataError
from graphrec.core.topk import topk
from graphrec.data import Interactions, Vocabulary
from graphrec.serving import vectors
from graphrec.serving.exact import Keys, Rows
from graphrec.serving.ids import MappedVocabulary
from graphrec.serving.vectors import Vectors

COPIED = 2**26
"""Base vectors of up to this many bytes are copied when items are added, and searched as one table."""


class ItemBlock:
    """Consecutive items, ready to be searched.

    Args:
        ids: their external ids.
        table: their vectors ``(n, d) float32``.
        start: index of the first among all items.
    """

    def __init__(self, ids: Vocabulary, table: Vectors, start: int) -> None:
        self.ids = ids
        self.table = table
        self.start = start

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def names(self) -> np.ndarray:
        """The ids as an array of objects ``(n,)``."""
        return np.array(self.ids.ids, dtype=object)

    @cached_property
    def keys(self) -> Keys:
        """The vectors ``(n, d)`` as :func:`~graphrec.serving.exact.retrieve` takes them."""
        return vectors.as_keys(self.table)

    @cached_property
    def longest(self) -> float:
        """The largest length of a vector."""
        return float(vectors.row_lengths(self.table).max(initial=0))

    @cached_property
    def unit_keys(self) -> Keys:
        """The vectors scaled to length one, likewise."""
        return vectors.as_keys(vectors.normalize_rows(self.table))


class Items:
    """All items of a recommender. Immutable, so that one thread may add items while others search.

    Args:
        base: the items that the recommender was built with.
        seen: known pairs of users and base items.
        added: items added later, which are in no known pair; their indices follow those of ``base``.
    """

    def __init__(self, base: ItemBlock, seen: Interactions, added: ItemBlock | None = None) -> None:
        self.base = base
        self.seen = seen
        self.added = added

    def __len__(self) -> int:
        return len(self.base) + (len(self.added) if self.added else 0)

    @property
    def blocks(self) -> tuple[ItemBlock, ...]:
        """``base`` and, if items were added, ``added``."""
        return (self.base,) if self.added is None else (self.base, self.added)

    @cached_property
    def search_blocks(self) -> tuple[ItemBlock, ...]:
        """The blocks an exact search goes through: one of all items unless that would copy many vectors."""
        if self.added is None or getattr(self.base.table, "nbytes", 0) > COPIED:
            return self.blocks
        return (ItemBlock(self.all_ids, self.all_vectors, 0),)

    @cached_property
    def all_ids(self) -> Vocabulary:
        """The ids of all items."""
        if self.added is None:
            return self.base.ids
        return Vocabulary([*self.base.ids.ids, *self.added.ids.ids], self.base.ids.kind)

    @cached_property
    def all_vectors(self) -> Vectors:
        """The vectors of all items ``(n_items, d)``."""
        return self.base.table if self.added is None else vectors.stack(self.base.table, self.added.table)

    @cached_property
    def all_seen(self) -> Interactions:
        """The known pairs, over all items."""
        seen = self.seen
        if self.added is None:
            return seen
        return Interactions(seen.users, seen.items, seen.n_users, len(self), name=seen.name)

    @cached_property
    def popularity(self) -> Tensor:
        """Each item's number of known interactions ``(1, n_items)``."""
        counts = np.zeros((1, len(self)), dtype=np.float32)
        counts[0, : len(self.base)] = self.seen.item_degree
        return torch.from_numpy(counts)

    def with_added(self, ids: Vocabulary, table: Vectors) -> Items:
        """A copy with more items, whose ids must be new."""
        if self.added is not None:
            ids = Vocabulary([*self.added.ids.ids, *ids.ids], ids.kind)
            table = vectors.stack(self.added.table, table)
        return Items(self.base, self.seen, ItemBlock(ids, table, len(self.base)))

    def check_new(self, ids: Vocabulary) -> None:
        """Raises :class:`DataError` if one of the ids is known already."""
        known = np.flatnonzero(self.find(ids.ids) >= 0)
        if len(known):
            raise DataError(f"item {ids[int(known[0])]!r} is known already; add only items that are new")

    def find(self, ids: Iterable[Any]) -> np.ndarray:
        """Indices ``(n,) int64`` of several ids, -1 where an id is unknown."""
        names = [str(value) for value in ids]
        indices = self.base.ids.find(names).astype(np.int64)
        if self.added is not None:
            in_added = self.added.ids.find(names).astype(np.int64)
            indices = np.where(in_added >= 0, in_added + self.added.start, indices)
        return indices

    def indices(self, ids: Iterable[Any]) -> np.ndarray:
        """Indices ``(n,) int64`` of several ids.

        Raises:
            UnknownIdError: an id is unknown; the message names it.
        """
        names = [str(value) for value in ids]
        indices = self.find(names)
        unknown = np.flatnonzero(indices < 0)
        if len(unknown):
            self.base.ids.index(names[unknown[0]])  # raises
        return indices

    def names(self, indices: np.ndarray) -> np.ndarray:
        """The ids at these indices, None at -1, as objects of the same shape."""
        names = np.full(indices.shape, None, dtype=object)
        for block in self.blocks:
            in_block = (indices >= block.start) & (indices < block.start + len(block))
            rows = indices[in_block] - block.start
            mapped = isinstance(block.ids, MappedVocabulary)
            names[in_block] = block.ids.take(rows) if mapped else block.names[rows]
        return names

    def unit_vectors(self, indices: np.ndarray) -> Rows:
        """The vectors of some items scaled to length one ``(B, d)``, as queries."""
        if isinstance(self.base.table, np.ndarray):
            rows = np.empty((len(indices), self.base.table.shape[1]), dtype=np.float32)
            for block in self.blocks:
                in_block = (indices >= block.start) & (indices < block.start + len(block))
                rows[in_block] = block.table[indices[in_block] - block.start]
        else:
            rows = self.all_vectors[indices]
        return vectors.as_queries(vectors.normalize_rows(rows))

    def popular(self, k: int, only: np.ndarray | None, exclude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The items with most known interactions: scores and indices ``(at most k,)``, best first."""
        candidates = None if only is None else np.setdiff1d(only, exclude)
        counts = self.popularity if candidates is None else self.popularity[:, candidates]
        n = min(counts.shape[1], k + (len(exclude) if candidates is None else 0))
        if not n:
            return np.empty(0, np.float32), np.empty(0, np.int64)
        scores, columns = (tensor.numpy()[0] for tensor in topk(counts, n))
        items = columns if candidates is None else candidates[columns]
        allowed = ~np.isin(items, exclude)
        return scores[allowed][:k], items[allowed][:k]
