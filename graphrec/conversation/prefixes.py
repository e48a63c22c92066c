"""Simulated beginnings of conversations, on which the scorer is trained.

For every item and every attribute of it as the opening, a conversation is simulated in which the user accepts
next the attribute of highest entropy among the item's attributes. Each beginning of such a conversation is a
prefix ``P`` of accepted attributes, kept with some of the other items that have all of them
(https://arxiv.org/abs/2007.00194; the loop is that of the authors' sample generator).
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array, vstack

from graphrec.data import Dataset
from graphrec.data.attributes import HAS

POOL_SIZE = 10
"""Number of items kept with a prefix; an opening with at most as many other candidates is not extended."""
MAX_CELLS = 1 << 22
"""Number of counts held in memory at a time."""


class Prefixes(NamedTuple):
    """Beginnings of conversations, ordered by item; every item has at least one.

    Attributes:
        bounds: the rows of item ``v`` are ``bounds[v]`` to ``bounds[v + 1]`` ``(n_items + 1,) int64``.
        start: where in ``attributes`` the attributes of a row's item begin ``(n,) int64``.
        length: number of accepted attributes of a row ``(n,) int32``.
        degree: number of attributes of an item ``(n_items,) int64``.
        attributes: the attributes of an item, the accepted ones first and in the order of the conversation
            ``(m,) int32``; conversations with the same item and opening share them.
        pools: items that have all accepted attributes, without the item itself, padded with -1
            ``(n, POOL_SIZE) int32``.
    """

    bounds: np.ndarray
    start: np.ndarray
    length: np.ndarray
    degree: np.ndarray
    attributes: np.ndarray
    pools: np.ndarray

    def draw(self, items: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One row for each item, uniform over the item's rows ``(n,) int64``."""
        count = np.diff(self.bounds)[items]
        return np.asarray(self.bounds[items] + rng.integers(0, count), dtype=np.int64)

    def all_attributes(self, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        """All attributes of the rows' items, the accepted ones first, row after row."""
        return self._gather(self.start[rows], self.degree[items])[1]

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Item and attribute of every edge, both ascending, two arrays ``(E,)``."""
        items = np.repeat(np.arange(len(self.degree)), self.degree)
        attributes = self.all_attributes(self.bounds[:-1], np.arange(len(self.degree)))
        return items, attributes[np.lexsort((attributes, items))]

    def prefix_attributes(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Accepted attributes of rows: offsets ``(n + 1,)`` and attributes, row after row."""
        return self._gather(self.start[rows], self.length[rows].astype(np.int64))

    def _gather(self, start: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        offsets = np.concatenate([[0], np.cumsum(count)])
        return offsets, self.attributes[np.repeat(start - offsets[:-1], count) + np.arange(offsets[-1])]


def item_attribute_pairs(data: Dataset) -> tuple[np.ndarray, int]:
    """The distinct pairs of item and attribute ``(2, E) int64``, and the number of attributes.

    Args:
        data: a dataset; without attributes there are no pairs.
    """
    if HAS not in data.relations:
        return np.zeros((2, 0), dtype=np.int64), 0
    n = len(data.nodes["attribute"])
    items, attributes = data.relations[HAS].astype(np.int64)
    keys = np.unique(items * n + attributes)
    return np.stack([keys // n, keys % n]), n


def simulate_prefixes(
    pairs: np.ndarray, n_items: int, n_attributes: int, rng: np.random.Generator
) -> Prefixes:
    """Simulates all conversations, one turn of all of them at a time.

    The next attribute is the one whose share among the other candidates is nearest to one half, which is the
    one of highest binary entropy; of several, the one of lowest index. A conversation ends when no other
    candidate is left or all attributes are accepted, and at its opening if that leaves at most ``POOL_SIZE``
    other candidates. A prefix that leaves the item alone is not kept, as there is nothing to compare the item
    with. An item without any prefix gets the empty prefix, without a pool.

    Counts for a set of attributes are computed once, however many conversations share the set.

    Args:
        pairs: item and attribute of every edge ``(2, E) int``, unique.
        n_items: number of items.
        n_attributes: number of attributes.
        rng: draws the pools.
    """
    has = item_attribute_matrix(pairs, n_items, n_attributes)
    items_by_attribute = csr_array(has.T)
    degree = np.diff(has.indptr).astype(np.int64)
    item = np.repeat(np.arange(n_items), degree)  # of each conversation
    start = np.concatenate([[0], np.cumsum(degree[item])])[:-1]
    attributes = _openings_first(has, item, degree, start)
    active = np.arange(len(item))  # conversations that continue
    group = has.indices.astype(np.int64)  # the set of accepted attributes of each active conversation
    sets = np.arange(n_attributes, dtype=np.int32)[:, None]
    candidates = items_by_attribute
    kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    while len(active):
        length = sets.shape[1]
        n_others = np.diff(candidates.indptr)[group] - 1
        has_others = n_others > 0
        active = active[has_others]
        group = group[has_others]
        n_others = n_others[has_others]
        pools = _draw_pools(candidates, group, item[active], n_others, rng)
        kept.append((active, np.full(len(active), length, dtype=np.int32), pools))
        continues = (degree[item[active]] > length) & ((n_others > POOL_SIZE) | (length > 1))
        active = active[continues]
        group = group[continues]
        if not len(active):
            break
        begin = start[active] + length
        end = start[active] + degree[item[active]]
        chosen = _nearest_to_half(candidates, has, group, attributes, begin, end)
        accepted = attributes[chosen]
        attributes[chosen] = attributes[begin]
        attributes[begin] = accepted
        extended = np.sort(np.column_stack([sets[group], accepted]), axis=1)
        sets, first, inverse = np.unique(extended, axis=0, return_index=True, return_inverse=True)
        candidates = _narrow(candidates, group[first], items_by_attribute, accepted[first])
        group = inverse.reshape(-1)
    return _sort_by_item(kept, item, start, degree, attributes, n_items)


def items_with_all(offsets: np.ndarray, attributes: np.ndarray, has: csr_array) -> csr_array:
    """The items that have all attributes of a set, for several sets.

    Args:
        offsets: set ``i`` is ``attributes[offsets[i]:offsets[i + 1]]``, not empty ``(n + 1,)``.
        attributes: ``(m,) int``.
        has: ``(n_items, n_attributes)``, see :func:`item_attribute_matrix`.

    Returns:
        ``(n, n_items)`` of ones.
    """
    size = np.diff(offsets)
    ones = np.ones(len(attributes), dtype=np.int32)
    sets = csr_array((ones, attributes, offsets), shape=(len(size), has.shape[1]))
    matches = csr_array(sets @ csr_array(has.T))  # number of the set's attributes that an item has
    matches.data = (matches.data == np.repeat(size, np.diff(matches.indptr))).astype(np.int32)
    matches.eliminate_zeros()
    matches.sort_indices()
    return matches


def item_attribute_matrix(pairs: np.ndarray, n_items: int, n_attributes: int) -> csr_array:
    """Items by attributes, 1 where an item has the attribute ``(n_items, n_attributes) int32``."""
    ones = np.ones(pairs.shape[1], dtype=np.int32)
    has = csr_array((ones, (pairs[0], pairs[1])), shape=(n_items, n_attributes))
    has.sort_indices()
    return has


def sample_distinct(sizes: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Up to ``k`` different integers below each size; every such set has the same probability.

    Floyd's algorithm (https://doi.org/10.1145/30401.315746) on all rows at once.

    Args:
        sizes: ``(n,) int``, 0 or more.
        k: how many integers; a size of at most ``k`` gives all integers below it.
        rng: source of randomness.

    Returns:
        ``(n, k) int64``, in no particular order, padded with -1.
    """
    samples = np.full((len(sizes), k), -1, dtype=np.int64)
    column = np.arange(k)
    small = sizes <= k
    samples[small] = np.where(column < sizes[small, None], column, -1)
    large = np.flatnonzero(~small)
    for j in range(k if len(large) else 0):
        last = sizes[large] - k + j
        drawn = rng.integers(0, last + 1)
        repeated = (samples[large, :j] == drawn[:, None]).any(1)
        samples[large, j] = np.where(repeated, last, drawn)
    return samples


def _openings_first(has: csr_array, item: np.ndarray, degree: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The attributes of the item of every conversation, the opening first ``(m,) int32``."""
    count = degree[item]
    within = np.arange(int(count.sum())) - np.repeat(start, count)
    attributes = np.asarray(has.indices[np.repeat(has.indptr[item], count) + within], dtype=np.int32)
    opening = np.arange(len(item)) - has.indptr[item]  # its position among the item's attributes
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
    """Position in ``attributes``, from ``begin`` to ``end``, of each conversation's next attribute.

    With a share of ``k`` among ``n`` other candidates, binary entropy falls with ``|2 k - n|``: integers, so
    that equal entropies are equal.
    """
    order = np.argsort(group, kind="stable")
    chosen = np.empty(len(group), dtype=np.int64)
    step = max(1, MAX_CELLS // has.shape[1])
    edges = np.searchsorted(group[order], np.arange(0, candidates.shape[0] + step, step))
    for number, (low, high) in enumerate(pairwise(edges)):
        if low == high:
            continue
        top = number * step
        block = candidates[top : top + step]
        counts = (block @ has).toarray()
        part = order[low:high]
        width = end[part] - begin[part]
        bounds = np.cumsum(width) - width
        position = np.repeat(begin[part] - bounds, width) + np.arange(int(width.sum()))
        row = np.repeat(group[part] - top, width)
        n_others = np.diff(block.indptr).astype(np.int64) - 1
        # The item itself is a candidate with all of these attributes: both numbers leave it out.
        distance = np.abs(2 * (counts[row, attributes[position]].astype(np.int64) - 1) - n_others[row])
        value = distance * has.shape[1] + attributes[position]
        least = np.repeat(np.minimum.reduceat(value, bounds), width)
        chosen[part] = position[value == least]
    return chosen


def _narrow(
    candidates: csr_array, parents: np.ndarray, items_by_attribute: csr_array, accepted: np.ndarray
) -> csr_array:
    """Candidates of each parent that have one more attribute, in blocks, as both operands are copied."""
    copied = np.cumsum(np.diff(candidates.indptr)[parents] + np.diff(items_by_attribute.indptr)[accepted])
    edges = np.append(np.unique(copied // (4 * MAX_CELLS), return_index=True)[1], len(parents))
    blocks = [
        candidates[parents[low:high]].multiply(items_by_attribute[accepted[low:high]])
        for low, high in pairwise(edges)
    ]
    return csr_array(vstack(blocks, format="csr"))


def _draw_pools(
    candidates: csr_array,
    group: np.ndarray,
    item: np.ndarray,
    n_others: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Some candidates of each conversation, never its item ``(n, POOL_SIZE) int32``."""
    n_items = candidates.shape[1]
    keys = np.repeat(np.arange(candidates.shape[0]), np.diff(candidates.indptr)) * n_items
    item_position = np.searchsorted(keys + candidates.indices, group * n_items + item)
    first = candidates.indptr[group].astype(np.int64)
    drawn = sample_distinct(n_others, POOL_SIZE, rng)
    position = first[:, None] + drawn
    position += position >= item_position[:, None]
    pools = np.where(drawn >= 0, candidates.indices[np.where(drawn >= 0, position, 0)], -1)
    return np.asarray(pools, dtype=np.int32)


def _sort_by_item(
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
    without = np.setdiff1d(np.arange(n_items), item[conversation])
    first = np.zeros(len(without), dtype=np.int64)
    has_attributes = degree[without] > 0
    first[has_attributes] = start[np.searchsorted(item, without[has_attributes])]
    items = np.concatenate([item[conversation], without])
    starts = np.concatenate([start[conversation], first])
    lengths = np.concatenate([*(part[1] for part in kept), np.zeros(len(without), dtype=np.int32)])
    pools = np.concatenate(
        [*(part[2] for part in kept), np.full((len(without), POOL_SIZE), -1, dtype=np.int32)]
    )
    order = np.lexsort((lengths, starts, items))
    bounds = np.concatenate([[0], np.cumsum(np.bincount(items, minlength=n_items))])
    return Prefixes(bounds, starts[order], lengths[order], degree, attributes, pools[order])
