"""What a user has said by some turn of a conversation: simulated beginnings, to train a scorer on.

For every item and every attribute of it to open with, a conversation is played in which the attribute of
highest entropy among the item's own is accepted next. Each of its beginnings is a prefix ``P`` of accepted
attributes, kept with some of the other items that have them all
(https://arxiv.org/abs/2007.00194; the loop is that of the authors' sample generator).
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array, vstack

from graphrec.data import Dataset
from graphrec.data.attributes import HAS

POOL = 10
"""Items that are kept with a prefix; an opening that leaves no more is not gone on with."""
CELLS = 1 << 22  # counts that are held at a time


class Prefixes(NamedTuple):
    """Beginnings of conversations, by item. Every item has one at least.

    Attributes:
        bounds: item ``v`` has the rows ``bounds[v]`` to ``bounds[v + 1]`` ``(n_items + 1,) int64``.
        start: where in ``attributes`` a row's item is written down ``(n,) int64``.
        length: accepted attributes of a row ``(n,) int32``.
        degree: attributes of an item ``(n_items,) int64``.
        attributes: the attributes of an item, the accepted ones first and in the order of the conversation
            ``(m,) int32``; conversations of one item and opening share them.
        pools: items that have all accepted attributes, without the item itself, then -1 ``(n, POOL) int32``.
    """

    bounds: np.ndarray
    start: np.ndarray
    length: np.ndarray
    degree: np.ndarray
    attributes: np.ndarray
    pools: np.ndarray

    def draw(self, items: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One row for each item, uniform over the item's rows ``(n,) int64``."""
        first, count = self.bounds[items], np.diff(self.bounds)[items]
        return np.asarray(first + rng.integers(0, count), dtype=np.int64)

    def all(self, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        """All attributes of the rows' items, the accepted ones first, row after row."""
        return self._taken(self.start[rows], self.degree[items])[1]

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Item and attribute of every edge, both ascending, two ``(E,)``."""
        items = np.repeat(np.arange(len(self.degree)), self.degree)
        attributes = self.all(self.bounds[:-1], np.arange(len(self.degree)))
        return items, attributes[np.lexsort((attributes, items))]

    def said(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Accepted attributes of rows: offsets ``(n + 1,)`` and attributes, row after row."""
        return self._taken(self.start[rows], self.length[rows].astype(np.int64))

    def _taken(self, start: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        offsets = np.concatenate([[0], np.cumsum(count)])
        return offsets, self.attributes[np.repeat(start - offsets[:-1], count) + np.arange(offsets[-1])]


def distinct_pairs(data: Dataset) -> tuple[np.ndarray, int]:
    """Item and attribute of every edge ``(2, E) int64``, each once, and the number of attributes.

    Args:
        data: a dataset; without attributes there are no edges.
    """
    if HAS not in data.relations:
        return np.zeros((2, 0), dtype=np.int64), 0
    n = len(data.nodes["attribute"])
    items, attributes = data.relations[HAS].astype(np.int64)
    keys = np.unique(items * n + attributes)
    return np.stack([keys // n, keys % n]), n


def simulate(pairs: np.ndarray, n_items: int, n_attributes: int, rng: np.random.Generator) -> Prefixes:
    """Plays all conversations, one turn of all of them at a time.

    The next attribute is the one whose share among the other candidates is nearest to one half, which is the
    one of highest binary entropy; the lowest index where several are. A conversation ends when no other
    candidate is left or all is said, and at its opening if that leaves at most ``POOL`` others. A prefix that
    leaves the item alone is not kept: there is nothing to tell it from. An item without any other has the
    empty prefix, without a pool.

    What is counted for a set of attributes is counted once, however many conversations come by it.

    Args:
        pairs: item and attribute of every edge ``(2, E) int``, unique.
        n_items: number of items.
        n_attributes: number of attributes.
        rng: draws the pools.
    """
    has = matrix(pairs, n_items, n_attributes)
    carriers = csr_array(has.T)
    degree = np.diff(has.indptr).astype(np.int64)
    item = np.repeat(np.arange(n_items), degree)  # of each conversation
    start = np.concatenate([[0], np.cumsum(degree[item])])[:-1]
    attributes = _openings_first(has, item, degree, start)
    conversation = np.arange(len(item))  # those that go on
    group = has.indices.astype(np.int64)  # the set of attributes each of them is at
    sets, candidates = np.arange(n_attributes, dtype=np.int32)[:, None], carriers
    kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    while len(conversation):
        length = sets.shape[1]
        others = np.diff(candidates.indptr)[group] - 1
        left = others > 0
        conversation, group, others = conversation[left], group[left], others[left]
        pools = _pools(candidates, group, item[conversation], others, rng)
        kept.append((conversation, np.full(len(conversation), length, dtype=np.int32), pools))
        left = (degree[item[conversation]] > length) & ((others > POOL) | (length > 1))
        conversation, group = conversation[left], group[left]
        if not len(conversation):
            break
        begin = start[conversation] + length
        end = start[conversation] + degree[item[conversation]]
        chosen = _nearest_to_half(candidates, has, group, attributes, begin, end)
        accepted = attributes[chosen]
        attributes[chosen], attributes[begin] = attributes[begin], accepted
        grown = np.sort(np.column_stack([sets[group], accepted]), axis=1)
        sets, first, after = np.unique(grown, axis=0, return_index=True, return_inverse=True)
        candidates = _narrowed(candidates, group[first], carriers, accepted[first])
        group = after.reshape(-1)
    return _by_item(kept, item, start, degree, attributes, n_items)


def satisfying(offsets: np.ndarray, attributes: np.ndarray, has: csr_array) -> csr_array:
    """Items that have all attributes of a set, for several sets.

    Args:
        offsets: set ``i`` is ``attributes[offsets[i]:offsets[i + 1]]``, not empty ``(n + 1,)``.
        attributes: ``(m,) int``.
        has: ``(n_items, n_attributes)``, see :func:`matrix`.

    Returns:
        ``(n, n_items)`` of ones.
    """
    size = np.diff(offsets)
    ones = np.ones(len(attributes), dtype=np.int32)
    sets = csr_array((ones, attributes, offsets), shape=(len(size), has.shape[1]))
    found = csr_array(sets @ csr_array(has.T))  # how many of them an item has
    found.data = (found.data == np.repeat(size, np.diff(found.indptr))).astype(np.int32)
    found.eliminate_zeros()
    found.sort_indices()
    return found


def matrix(pairs: np.ndarray, n_items: int, n_attributes: int) -> csr_array:
    """Items by attributes, 1 where an item has the attribute ``(n_items, n_attributes) int32``."""
    ones = np.ones(pairs.shape[1], dtype=np.int32)
    found = csr_array((ones, (pairs[0], pairs[1])), shape=(n_items, n_attributes))
    found.sort_indices()
    return found


def distinct(sizes: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Up to ``k`` different integers below each size, every such set with the same probability.

    Floyd's algorithm (https://doi.org/10.1145/30401.315746) on all rows at once.

    Args:
        sizes: ``(n,) int``, 0 or more.
        k: how many; a size of at most ``k`` gives all integers below it.
        rng: source of randomness.

    Returns:
        ``(n, k) int64``, in no order, filled up with -1 at the end.
    """
    found = np.full((len(sizes), k), -1, dtype=np.int64)
    column = np.arange(k)
    few = sizes <= k
    found[few] = np.where(column < sizes[few, None], column, -1)
    many = np.flatnonzero(~few)
    for j in range(k if len(many) else 0):
        last = sizes[many] - k + j
        drawn = rng.integers(0, last + 1)
        taken = (found[many, :j] == drawn[:, None]).any(1)
        found[many, j] = np.where(taken, last, drawn)
    return found


def _openings_first(has: csr_array, item: np.ndarray, degree: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The attributes of the item of every conversation, that of its opening first ``(m,) int32``."""
    count = degree[item]
    within = np.arange(int(count.sum())) - np.repeat(start, count)
    attributes = np.asarray(has.indices[np.repeat(has.indptr[item], count) + within], dtype=np.int32)
    opening = np.arange(len(item)) - has.indptr[item]  # where it stands among them
    first = attributes[start].copy()
    attributes[start] = attributes[start + opening]
    attributes[start + opening] = first
    return attributes


def _nearest_to_half(
    candidates: csr_array,
    has: csr_array,
    group: np.ndarray,
    attributes: np.ndarray,
    begin: np.ndarray,
    end: np.ndarray,
) -> np.ndarray:
    """Where in ``attributes`` each conversation's next one stands, among those from ``begin`` to ``end``.

    With a share of ``k`` among ``n`` other candidates, binary entropy falls with ``|2 k - n|``: integers, so
    that equal entropies are equal.
    """
    order = np.argsort(group, kind="stable")
    chosen = np.empty(len(group), dtype=np.int64)
    step = max(1, CELLS // has.shape[1])
    edges = np.searchsorted(group[order], np.arange(0, candidates.shape[0] + step, step))
    for number, (low, high) in enumerate(pairwise(edges)):
        if low == high:
            continue
        top = number * step
        block = candidates[top : top + step]
        counts = (block @ has).toarray()
        some = order[low:high]
        width = end[some] - begin[some]
        bounds = np.cumsum(width) - width
        at = np.repeat(begin[some] - bounds, width) + np.arange(int(width.sum()))
        rows = np.repeat(group[some] - top, width)
        others = np.diff(block.indptr).astype(np.int64) - 1
        # The item is a candidate and has all of these attributes: it counts in neither number.
        far = np.abs(2 * (counts[rows, attributes[at]].astype(np.int64) - 1) - others[rows])
        value = far * has.shape[1] + attributes[at]
        least = np.repeat(np.minimum.reduceat(value, bounds), width)
        chosen[some] = at[value == least]
    return chosen


def _narrowed(
    candidates: csr_array, parents: np.ndarray, carriers: csr_array, accepted: np.ndarray
) -> csr_array:
    """Candidates of each parent that have one more attribute, some at a time: both lists are copied."""
    copied = np.cumsum(np.diff(candidates.indptr)[parents] + np.diff(carriers.indptr)[accepted])
    edges = np.append(np.unique(copied // (4 * CELLS), return_index=True)[1], len(parents))
    blocks = [
        candidates[parents[low:high]].multiply(carriers[accepted[low:high]]) for low, high in pairwise(edges)
    ]
    return csr_array(vstack(blocks, format="csr"))


def _pools(
    candidates: csr_array, group: np.ndarray, item: np.ndarray, others: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Some candidates of each conversation, never its item ``(n, POOL) int32``."""
    n_items = candidates.shape[1]
    keys = np.repeat(np.arange(candidates.shape[0]), np.diff(candidates.indptr)) * n_items
    own = np.searchsorted(keys + candidates.indices, group * n_items + item)
    first = candidates.indptr[group].astype(np.int64)
    drawn = distinct(others, POOL, rng)
    at = first[:, None] + drawn
    at += at >= own[:, None]
    found = np.where(drawn >= 0, candidates.indices[np.where(drawn >= 0, at, 0)], -1)
    return np.asarray(found, dtype=np.int32)


def _by_item(
    kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
    item: np.ndarray,
    start: np.ndarray,
    degree: np.ndarray,
    attributes: np.ndarray,
    n_items: int,
) -> Prefixes:
    """The rows in order of item, opening and length, and the empty prefix for items without any."""
    none = np.zeros(0, dtype=np.int64)
    conversation = np.concatenate([none, *(part[0] for part in kept)])
    bare = np.setdiff1d(np.arange(n_items), item[conversation])
    first = np.zeros(len(bare), dtype=np.int64)
    named = degree[bare] > 0
    first[named] = start[np.searchsorted(item, bare[named])]
    items = np.concatenate([item[conversation], bare])
    starts = np.concatenate([start[conversation], first])
    lengths = np.concatenate([*(part[1] for part in kept), np.zeros(len(bare), dtype=np.int32)])
    pools = np.concatenate([*(part[2] for part in kept), np.full((len(bare), POOL), -1, dtype=np.int32)])
    order = np.lexsort((lengths, starts, items))
    bounds = np.concatenate([[0], np.cumsum(np.bincount(items, minlength=n_items))])
    return Prefixes(bounds, starts[order], lengths[order], degree, attributes, pools[order])
