"""The items of a recommender: those it was made with, and those added since, kept apart."""

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
from graphrec.serving.exact import Keys
from graphrec.serving.ids import MappedVocabulary
from graphrec.serving.vectors import Vectors

COPIED = 2**26
"""Bytes of vectors that are copied when items are added, so that they are searched as one table."""


class Side:
    """Some of the items, ready to be searched.

    Args:
        ids: their external ids.
        table: their vectors ``(n, d) float32``.
        start: index of the first among all items.

    Attributes:
        ids, table, start: as given.
    """

    def __init__(self, ids: Vocabulary, table: Vectors, start: int) -> None:
        self.ids, self.table, self.start = ids, table, start

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def names(self) -> np.ndarray:
        """The ids as an array of objects ``(n,)``."""
        return np.array(self.ids.ids, dtype=object)

    @cached_property
    def keys(self) -> Keys:
        """The vectors ``(n, d)`` as a search takes them."""
        return vectors.keys(self.table)

    @cached_property
    def unit(self) -> tuple[Vectors, Keys]:
        """The vectors at length one, as rows and as a search takes them."""
        unit = vectors.unit(self.table)
        return unit, vectors.keys(unit)


class Items:
    """All items; never changed once made, so that one thread may grow them while others search.

    Args:
        base: the items that a recommender was made with.
        seen: known pairs of users and these items.
        added: items added since, which nobody has; they follow ``base``.
    """

    def __init__(self, base: Side, seen: Interactions, added: Side | None = None) -> None:
        self.base, self.seen, self.added = base, seen, added

    def __len__(self) -> int:
        return len(self.base) + (len(self.added) if self.added else 0)

    @property
    def sides(self) -> tuple[Side, ...]:
        """``base`` and, where there is one, ``added``."""
        return (self.base,) if self.added is None else (self.base, self.added)

    @cached_property
    def compared(self) -> tuple[Side, ...]:
        """What an exact search compares with: all at once, as after loading, unless that copies much."""
        if self.added is None or getattr(self.base.table, "nbytes", 0) > COPIED:
            return self.sides
        return (Side(self.all_ids, self.all_vectors, 0),)

    @cached_property
    def all_ids(self) -> Vocabulary:
        """The ids of all items."""
        if self.added is None:
            return self.base.ids
        return Vocabulary([*self.base.ids.ids, *self.added.ids.ids], self.base.ids.kind)

    @cached_property
    def all_vectors(self) -> Vectors:
        """The vectors of all items ``(n_items, d)``."""
        return self.base.table if self.added is None else vectors.stacked(self.base.table, self.added.table)

    @cached_property
    def all_seen(self) -> Interactions:
        """The known pairs, counting all items."""
        known = self.seen
        if self.added is None:
            return known
        return Interactions(known.users, known.items, known.n_users, len(self), name=known.name)

    @cached_property
    def popularity(self) -> Tensor:
        """Each base item's number of known interactions ``(1, n)``."""
        return torch.from_numpy(self.seen.item_degree.astype(np.float32))[None]

    def grown(self, ids: Vocabulary, table: Vectors) -> Items:
        """These items and more, none of which is among them."""
        if self.added is not None:
            ids = Vocabulary([*self.added.ids.ids, *ids.ids], ids.kind)
            table = vectors.stacked(self.added.table, table)
        return Items(self.base, self.seen, Side(ids, table, len(self.base)))

    def refuse(self, ids: Vocabulary) -> None:
        """Raises :class:`DataError` where an id is known already."""
        known = np.flatnonzero(self.find(ids.ids) >= 0)
        if len(known):
            raise DataError(f"item {ids[int(known[0])]!r} is known already; add only items that are new")

    def find(self, ids: Iterable[Any]) -> np.ndarray:
        """Indices ``(n,) int64`` of several ids, -1 where one is unknown."""
        names = [str(value) for value in ids]
        found = self.base.ids.find(names).astype(np.int64)
        if self.added is not None:
            later = self.added.ids.find(names).astype(np.int64)
            found = np.where(later >= 0, later + self.added.start, found)
        return found

    def indices(self, ids: Iterable[Any]) -> np.ndarray:
        """Indices ``(n,) int64`` of several ids.

        Raises:
            UnknownIdError: one is not known; names it.
        """
        names = [str(value) for value in ids]
        found = self.find(names)
        strange = np.flatnonzero(found < 0)
        if len(strange):
            self.base.ids.index(names[strange[0]])
        return found

    def names(self, indices: np.ndarray) -> np.ndarray:
        """The ids at these indices, None at -1, as objects of the same shape."""
        found = np.full(indices.shape, None, dtype=object)
        for side in self.sides:
            here = (indices >= side.start) & (indices < side.start + len(side))
            if isinstance(side.ids, MappedVocabulary):
                found[here] = side.ids.take(indices[here] - side.start)
            else:
                found[here] = side.names[indices[here] - side.start]
        return found

    def unit_rows(self, indices: np.ndarray) -> Any:
        """The vectors of some items at length one ``(B, d)``, as queries."""
        if isinstance(self.base.table, np.ndarray):
            rows = np.empty((len(indices), self.base.table.shape[1]), dtype=np.float32)
            for side in self.sides:
                here = (indices >= side.start) & (indices < side.start + len(side))
                rows[here] = side.table[indices[here] - side.start]
            return torch.from_numpy(vectors.unit(rows))
        return vectors.unit(self.all_vectors[indices])

    def popular(self, k: int, only: np.ndarray | None, exclude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The items with most known interactions: scores and indices ``(at most k,)``, best first."""
        if only is None:
            scores = torch.nn.functional.pad(self.popularity, (0, len(self) - len(self.base)))
            candidates = None
        else:
            candidates = np.setdiff1d(only, exclude)
            held = np.where(candidates < len(self.base), candidates, -1)
            scores = torch.where(torch.from_numpy(held) >= 0, self.popularity[:, held], 0.0)
        wanted = min(scores.shape[1], k + (len(exclude) if only is None else 0))
        if not wanted:
            return np.empty(0, np.float32), np.empty(0, np.int64)
        found, at = (t.numpy()[0] for t in topk(scores, wanted))
        at = at if candidates is None else candidates[at]
        kept = ~np.isin(at, exclude)
        return found[kept][:k], at[kept][:k]
