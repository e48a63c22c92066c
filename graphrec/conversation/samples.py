"""Training samples of the scorer: interactions with prefixes, negative items and attributes."""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np

from graphrec.conversation.prefixes import Prefixes, item_attribute_pairs, simulate_prefixes
from graphrec.core.random import numpy_rng
from graphrec.data import Dataset, Interactions
from graphrec.models.batches import EpochContext

MAX_TRIES = 16
"""Number of prefixes drawn at most until one has a candidate that is not a train item of the user."""


class ComplementSampler:
    """Draws uniformly from the zeros of each row of a binary matrix.

    Args:
        rows: row of each nonzero ``(E,) int``, ascending.
        columns: column of each nonzero ``(E,) int``, ascending within a row.
        shape: shape of the matrix.
    """

    def __init__(self, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> None:
        self.width = shape[1]
        self.degree = np.bincount(rows, minlength=shape[0])
        self.bounds = np.concatenate([[0], np.cumsum(self.degree)])
        # Number of zeros before each nonzero of the row; a search in it maps the n-th zero to its column.
        zeros_before = columns - (np.arange(len(rows)) - self.bounds[rows])
        self.keys = rows.astype(np.int64) * (self.width + 1) + zeros_before

    def draw(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One column for each row ``(n,) int64``; ``-1`` where a row has no zeros."""
        n_zeros = self.width - self.degree[rows]
        nth = rng.integers(0, np.maximum(n_zeros, 1))
        before = np.searchsorted(self.keys, rows * (self.width + 1) + nth, side="right")
        return np.where(n_zeros > 0, nth + before - self.bounds[rows], -1)


class EpochSamples(NamedTuple):
    """The samples of one epoch; their attributes are concatenated.

    Attributes:
        users: ``(n,) int64``.
        items: the positive, a negative, and a negative with all attributes of the prefix, -1 where there is
            none ``(n, 3) int64``.
        prefix_attributes: attributes of the prefixes ``(m,) int64``.
        prefix_offsets: where each prefix begins, and the end ``(n + 1,) int64``.
        attributes: for each sample its prefix, the other attributes of the positive, and as many attributes
            that the positive does not have ``(l,) int64``.
        signs: 1, and -1 for attributes that the positive does not have ``(l,) float32``.
        attribute_offsets: where in ``attributes`` each sample's prefix begins and ends, and the end
            ``(2 n + 1,) int64``.
    """

    users: np.ndarray
    items: np.ndarray
    prefix_attributes: np.ndarray
    prefix_offsets: np.ndarray
    attributes: np.ndarray
    signs: np.ndarray
    attribute_offsets: np.ndarray


class Samples:
    """Draws samples from the train interactions alone.

    Args:
        train: the interactions.
        prefixes: prefixes of all items.
        n_attributes: number of attributes.
    """

    def __init__(self, train: Interactions, prefixes: Prefixes, n_attributes: int) -> None:
        self.train = train
        self.prefixes = prefixes
        self.n_attributes = n_attributes
        self.negative_items = ComplementSampler(train.users, train.items, (train.n_users, train.n_items))
        items, attributes = prefixes.pairs()
        self.negative_attributes = ComplementSampler(items, attributes, (train.n_items, n_attributes))

    @classmethod
    def from_dataset(cls, data: Dataset, seed: int) -> Self:
        """Samples of a dataset, with attributes or without.

        Args:
            data: attributes and train split.
            seed: of the items kept with each prefix.
        """
        pairs, n_attributes = item_attribute_pairs(data)
        rng = numpy_rng(seed, "conversation/prefixes")
        return cls(data.train, simulate_prefixes(pairs, data.n_items, n_attributes, rng), n_attributes)

    def draw(self, plan: EpochContext) -> EpochSamples:
        """Draws one epoch: every interaction once, without those of an incomplete last batch."""
        n = min(len(self.train), plan.batch_size)
        order = plan.rng("shuffle").permutation(len(self.train))[: len(self.train) // n * n]
        users = self.train.users[order].astype(np.int64)
        positives = self.train.items[order].astype(np.int64)
        negatives = self.negative_items.draw(users, plan.rng("negatives"))
        rows, hard_negatives = self._draw_prefixes(users, positives, plan.rng("conversation/prefixes"))
        prefix_offsets, prefix_attributes = self.prefixes.prefix_attributes(rows)
        length = np.diff(prefix_offsets)
        degree = self.prefixes.degree[positives]
        n_negative = degree - length
        start = np.concatenate([[0], np.cumsum(degree + n_negative)])
        positive_index = np.repeat(start[:-1] - np.cumsum(degree) + degree, degree) + np.arange(degree.sum())
        is_negative = np.ones(start[-1], dtype=bool)
        is_negative[positive_index] = False
        attributes = np.empty(start[-1], dtype=np.int64)
        attributes[positive_index] = self.prefixes.all_attributes(rows, positives)
        attributes[is_negative] = self.negative_attributes.draw(
            np.repeat(positives, n_negative), plan.rng("conversation/attributes")
        )
        signs = np.where(is_negative, np.float32(-1), np.float32(1))
        signs[attributes < 0] = 0  # an item that has all attributes has no negatives
        attribute_offsets = np.append(np.stack([start[:-1], start[:-1] + length], 1).reshape(-1), start[-1])
        return EpochSamples(
            users=users,
            items=np.stack([positives, negatives, hard_negatives], 1),
            prefix_attributes=prefix_attributes.astype(np.int64),
            prefix_offsets=prefix_offsets,
            attributes=np.maximum(attributes, 0),
            signs=signs,
            attribute_offsets=attribute_offsets,
        )

    def _draw_prefixes(
        self, users: np.ndarray, items: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """A prefix for each interaction, and one of its candidates that the user does not have, or -1."""
        rows = np.empty(len(users), dtype=np.int64)
        candidates = np.full(len(users), -1, dtype=np.int64)
        pending = np.arange(len(users))
        for _ in range(MAX_TRIES):
            rows[pending] = drawn = self.prefixes.draw(items[pending], rng)
            pool = self.prefixes.pools[drawn]
            size = (pool >= 0).sum(1)
            candidates[pending] = pool[np.arange(len(pending)), rng.integers(0, np.maximum(size, 1))]
            # The first draw is rarely a train item of the user; only the others need a look at the pool.
            rejected = (candidates[pending] < 0) | self.train.contains(users[pending], candidates[pending])
            pending = pending[rejected]
            pool = pool[rejected].astype(np.int64)
            free = (pool >= 0) & ~self.train.contains(users[pending, None], pool)
            best = np.where(free, rng.random(pool.shape), -1.0).argmax(1)
            candidates[pending] = np.where(free.any(1), pool[np.arange(len(pending)), best], -1)
            pending = pending[~free.any(1)]
            if not len(pending):
                break
        return rows, candidates
