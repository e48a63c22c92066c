"""What the scorer is trained on: interactions with prefixes, negatives and attributes yet to be said."""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np

from graphrec.conversation.prefixes import Prefixes, distinct_pairs, simulate
from graphrec.core.random import numpy_rng
from graphrec.data import Dataset, Interactions
from graphrec.models.batches import EpochContext

TRIES = 16
"""Prefixes that are drawn at most until one leaves a candidate that the user does not have."""


class Complement:
    """What the rows of a binary matrix do not hold, drawn from uniformly.

    Args:
        rows: row of each one ``(E,) int``, ascending.
        columns: its column ``(E,) int``, ascending within a row.
        shape: of the matrix.
    """

    def __init__(self, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> None:
        self.width = shape[1]
        self.degree = np.bincount(rows, minlength=shape[0])
        self.bounds = np.concatenate([[0], np.cumsum(self.degree)])
        # How many columns before it are not held; so often is it passed by when counting those up to one.
        passed = columns - (np.arange(len(rows)) - self.bounds[rows])
        self.keys = rows.astype(np.int64) * (self.width + 1) + passed

    def draw(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One column for each row, ``-1`` where the row holds all ``(n,) int64``."""
        free = self.width - self.degree[rows]
        number = rng.integers(0, np.maximum(free, 1))
        before = np.searchsorted(self.keys, rows * (self.width + 1) + number, side="right")
        return np.where(free > 0, number + before - self.bounds[rows], -1)


class Drawn(NamedTuple):
    """Samples of one epoch, and their attributes one sample after the other.

    Attributes:
        users: ``(n,) int64``.
        items: the positive, a negative of any kind, one that has all attributes of the prefix; -1 where there
            is none ``(n, 3) int64``.
        said: the prefixes ``(m,) int64``.
        said_at: where each begins, and the end ``(n + 1,) int64``.
        attributes: the prefix, the other attributes of the positive, as many that it does not have
            ``(l,) int64``.
        sign: 1, and -1 for those it does not have ``(l,) float32``.
        at: where in ``attributes`` each sample's prefix begins and ends, and the end ``(2 n + 1,) int64``.
    """

    users: np.ndarray
    items: np.ndarray
    said: np.ndarray
    said_at: np.ndarray
    attributes: np.ndarray
    sign: np.ndarray
    at: np.ndarray


class Samples:
    """Draws samples from train interactions and nothing else.

    Args:
        train: the interactions.
        prefixes: of all items.
        n_attributes: number of attributes.
    """

    def __init__(self, train: Interactions, prefixes: Prefixes, n_attributes: int) -> None:
        self.train, self.prefixes, self.n_attributes = train, prefixes, n_attributes
        self.other_items = Complement(train.users, train.items, (train.n_users, train.n_items))
        items, attributes = prefixes.pairs()
        self.other_attributes = Complement(items, attributes, (train.n_items, n_attributes))

    @classmethod
    def from_dataset(cls, data: Dataset, seed: int) -> Self:
        """Those of a dataset, with attributes or without.

        Args:
            data: gives attributes and the train split.
            seed: of what is kept with the prefixes.
        """
        pairs, n_attributes = distinct_pairs(data)
        made = simulate(pairs, data.n_items, n_attributes, numpy_rng(seed, "conversation/prefixes"))
        return cls(data.train, made, n_attributes)

    def draw(self, plan: EpochContext) -> Drawn:
        """One epoch: every interaction once, but for those that would be left over from whole batches."""
        n = min(len(self.train), plan.batch_size)
        order = plan.rng("shuffle").permutation(len(self.train))[: len(self.train) // n * n]
        users, positives = self.train.users[order].astype(np.int64), self.train.items[order].astype(np.int64)
        first = self.other_items.draw(users, plan.rng("negatives"))
        rows, second = self._prefixes(users, positives, plan.rng("conversation/prefixes"))
        said_at, said = self.prefixes.said(rows)
        length, degree = np.diff(said_at), self.prefixes.degree[positives]
        rest = degree - length
        start = np.concatenate([[0], np.cumsum(degree + rest)])
        own = np.repeat(start[:-1] - np.cumsum(degree) + degree, degree) + np.arange(degree.sum())
        none = np.ones(start[-1], dtype=bool)
        none[own] = False
        attributes = np.empty(start[-1], dtype=np.int64)
        attributes[own] = self.prefixes.all(rows, positives)
        wanting = np.repeat(positives, rest)
        attributes[none] = self.other_attributes.draw(wanting, plan.rng("conversation/attributes"))
        sign = np.where(none, np.float32(-1), np.float32(1))
        sign[attributes < 0] = 0  # an item that has all attributes has no negatives
        at = np.append(np.stack([start[:-1], start[:-1] + length], 1).reshape(-1), start[-1])
        items = np.stack([positives, first, second], 1)
        return Drawn(users, items, said.astype(np.int64), said_at, np.maximum(attributes, 0), sign, at)

    def _prefixes(
        self, users: np.ndarray, items: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """A prefix for each interaction, and a candidate of it that the user does not have, -1 for none."""
        rows, found = np.empty(len(users), dtype=np.int64), np.full(len(users), -1, dtype=np.int64)
        some = np.arange(len(users))
        for _ in range(TRIES):
            rows[some] = drawn = self.prefixes.draw(items[some], rng)
            pool = self.prefixes.pools[drawn]
            size = (pool >= 0).sum(1)
            found[some] = pool[np.arange(len(some)), rng.integers(0, np.maximum(size, 1))]
            # Most are no train items at once; of the others the whole pool is looked at.
            hit = (found[some] < 0) | self.train.contains(users[some], found[some])
            some, pool = some[hit], pool[hit].astype(np.int64)
            free = (pool >= 0) & ~self.train.contains(users[some, None], pool)
            best = np.where(free, rng.random(pool.shape), -1.0).argmax(1)
            found[some] = np.where(free.any(1), pool[np.arange(len(some)), best], -1)
            some = some[~free.any(1)]
            if not len(some):
                break
        return rows, found
