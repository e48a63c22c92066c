"""Rows with equal content, and neighbors among them: equal rows are a group whose members share its places.

Where a group of equal rows does not fit into the ``k`` places of a row, its ``k`` nearest are not defined,
and taking the lowest indices makes items neighbors because of where they stand in a list. Here a row's ``k``
places go to the nearest groups, and the members of a group with fewer places than members get an equal share
of them. The weights of a row sum to ``k``, and renumbering the rows renumbers the neighbors and changes
nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

MOST_SHARED = 2**26
"""Edges to members that share a place, above which a place goes to one member each, in turn. So many edges
take 0.8 GB; some 8,000 rows with one and the same vector reach it."""


class EqualRows(NamedTuple):
    """The groups of equal rows of a table ``(n, d)``, in an order that depends on their content alone.

    Attributes:
        first: a row of each group ``(G,) int64``.
        group: the group of each row ``(n,) int64``.
        size: rows of each group ``(G,) int64``.
        members: rows by group, ascending within a group ``(n,) int64``.
    """

    first: np.ndarray
    group: np.ndarray
    size: np.ndarray
    members: np.ndarray

    @classmethod
    def of(cls, blocks: Iterable[np.ndarray | Tensor]) -> EqualRows:
        """Groups the rows of a table, given in blocks ``(b, d)``; -0 equals 0."""
        digests = b"".join(
            hashlib.blake2b(row, digest_size=16).digest()
            for block in blocks
            for row in np.ascontiguousarray(torch.as_tensor(block).cpu().numpy() + np.float32(0))
        )
        _, group = np.unique(np.frombuffer(digests, dtype="V16"), return_inverse=True)
        return cls.from_groups(group)

    @classmethod
    def from_groups(cls, group: np.ndarray) -> EqualRows:
        """From the group of each row ``(n,) int64``; every number below the largest occurs."""
        members = np.argsort(group, kind="stable")
        size = np.bincount(group)
        return cls(members[np.cumsum(size) - size], group, size, members)

    def __len__(self) -> int:
        return len(self.first)


class NeighborEdges(NamedTuple):
    """Edges from queries to their nearest rows, sorted by query.

    Attributes:
        query: index of the query ``(E,) int64``.
        row: its neighbor ``(E,) int64``.
        cosine: their similarity ``(E,) float32``.
        share: 1, or less where equal rows share places ``(E,) float32``; those of a query sum to ``k``.
    """

    query: np.ndarray
    row: np.ndarray
    cosine: np.ndarray
    share: np.ndarray


def neighbor_edges(
    nearest: np.ndarray | Tensor,
    cosines: np.ndarray | Tensor,
    k: int,
    keys: EqualRows,
    queries: np.ndarray | None = None,
) -> NeighborEdges:
    """Divides the ``k`` places of each query among the rows of its nearest groups.

    Args:
        nearest: the groups of keys nearest to each group of queries ``(Q, c)``, nearest first, with
            ``c = min(k, len(keys))``.
        cosines: similarities to them ``(Q, c)``.
        k: places of a query.
        keys: the rows that are neighbors.
        queries: the group of each query ``(q,)``. None: the queries are the rows of ``keys`` themselves, and
            the first place of each is its own.
    """
    nearest = np.asarray(nearest).astype(np.int64)
    cosines = np.asarray(cosines)
    if queries is None:
        nearest, cosines = _own_group_first(nearest, cosines)
    group = keys.group if queries is None else queries
    n, columns = len(group), nearest.shape[1]
    if len(keys) == len(keys.group):  # no equal rows
        return NeighborEdges(
            np.repeat(np.arange(n), columns),
            keys.first[nearest[group]].ravel(),
            cosines[group].ravel(),
            np.ones(n * columns, dtype=np.float32),
        )
    size = keys.size[nearest]  # (Q, c)
    places = np.clip(k - (np.cumsum(size, 1) - size), 0, size)
    query, column = np.nonzero(places[group] > 0)
    pair = group[query], column
    near, size, places = nearest[pair], size[pair], places[pair]  # (p,) each
    count = size if int(size.sum()) <= MOST_SHARED else places
    is_own = (column == 0) & (queries is None)
    share = (places - is_own) / np.maximum(count - is_own, 1)

    start = np.cumsum(keys.size) - keys.size
    rank = np.arange(n)  # of a query among those with the same members; with ``places`` each takes other ones
    if queries is None:
        rank[keys.members] = np.arange(n) - start[group[keys.members]]
    edge = np.repeat(np.arange(len(query)), count)
    offset = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
    row = keys.members[start[near[edge]] + (rank[query[edge]] + offset) % size[edge]]
    weight = np.where(is_own[edge] & (row == query[edge]), 1, share[edge]).astype(np.float32)
    kept = weight > 0
    edge = edge[kept]
    return NeighborEdges(query[edge], row[kept], cosines[pair][edge], weight[kept])


def _own_group_first(nearest: np.ndarray, cosines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Puts each group first among its nearest ``(G, c)``; rounding may have ranked it lower."""
    groups = np.arange(len(nearest))
    if (nearest[:, 0] == groups).all():
        return nearest, cosines
    missing = np.flatnonzero(~(nearest == groups[:, None]).any(1))
    nearest = nearest.copy()
    cosines = cosines.copy()
    nearest[missing, -1] = groups[missing]
    cosines[missing, -1] = 1
    order = np.argsort(nearest != groups[:, None], axis=1, kind="stable")
    return np.take_along_axis(nearest, order, 1), np.take_along_axis(cosines, order, 1)
