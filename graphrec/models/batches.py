"""Batches and negatives, drawn for a whole epoch at once; no Python loop runs per sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from graphrec.core import distributed
from graphrec.core.errors import FeatureError, TrainingError
from graphrec.core.random import numpy_rng
from graphrec.data.dataset import Dataset
from graphrec.data.interactions import Interactions
from graphrec.data.repositories import repository_of
from graphrec.features import PREFERENCES, FeatureTable


@dataclass(frozen=True)
class EpochContext:
    """What a model needs to know to make one epoch's batches."""

    epoch: int
    batch_size: int
    seed: int

    def rng(self, purpose: str) -> np.random.Generator:
        """The stream of this epoch for one purpose."""
        return numpy_rng(self.seed, purpose, self.epoch)


class Triplets(NamedTuple):
    """Users with a positive and a negative item each, three ``(B,) int64``."""

    users: Tensor
    positives: Tensor
    negatives: Tensor


class SeededTriplets(NamedTuple):
    """Triplets, and a key ``() int64`` for what the loss draws."""

    users: Tensor
    positives: Tensor
    negatives: Tensor
    key: Tensor


class InGroupNegatives(NamedTuple):
    """Negatives from where the positive is, such as files of the same repository: harder ones.

    Attributes:
        group: that of each item ``(n_items,) int64``.
        share: of the negatives that come from the positive's group, where that has any.
    """

    group: np.ndarray
    share: float

    @classmethod
    def from_dataset(cls, data: Dataset, share: float) -> Self | None:
        """Of the repositories of a dataset; None for a share of 0.

        Raises:
            DataError: the dataset has none.
        """
        return cls(repository_of(data), share) if share else None


def triplets(
    train: Interactions,
    plan: EpochContext,
    local: InGroupNegatives | None = None,
    preferences: Preferences | None = None,
) -> Iterator[Triplets]:
    """One epoch of triplets: every interaction once, shuffled, with one uniform negative each; of several
    processes each has its part of every batch.

    Negatives come from the items that occur in train and that the user has not. Interactions of users who
    have all of those items have no negative and are left out.

    Args:
        train: known interactions.
        plan: epoch, batch size and seed.
        local: which negatives to draw from the positive's group instead; default: none.
        preferences: what some of a batch's users are said to like and not to, added to it; default: nothing.

    Raises:
        TrainingError: no interaction has a possible negative.
    """
    order = plan.rng("shuffle").permutation(len(train))
    users, positives = train.users[order].astype(np.int64), train.items[order].astype(np.int64)
    negatives = uniform_negatives(train, users, plan.rng("negatives"))
    if local is not None:
        rng = plan.rng("negatives/local")
        near = local_negatives(train, users, positives, local.group, rng)
        negatives = np.where((near >= 0) & (rng.random(len(near)) < local.share), near, negatives)
    possible = _possible(negatives)
    if not possible.all():
        users, positives, negatives = users[possible], positives[possible], negatives[possible]
    tensors = [torch.from_numpy(a) for a in (users, positives, negatives)]
    rng = plan.rng("preferences")
    for start in range(0, len(users), plan.batch_size):
        batch = Triplets(*(t[start : start + plan.batch_size] for t in tensors))
        yield distributed.local_shard(batch if preferences is None else preferences.added(batch, rng))


def keyed(batches: Iterator[Triplets], plan: EpochContext, purpose: str) -> Iterator[SeededTriplets]:
    """Each batch with a key of its own."""
    rng = plan.rng(purpose)
    for batch in batches:
        yield SeededTriplets(*batch, torch.tensor(rng.integers(2**62, dtype=np.int64)))


def uniform_negatives(train: Interactions, users: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One item per user, uniform over the items that occur in train and not in the user's row; -1 if there is
    none.

    Draws for all rows at once and redraws the rows that hit a positive; the few rows left after many rounds
    (users with nearly all items) are answered exactly from their complement.

    Args:
        train: known interactions.
        users: ``(n,)``, repeats allowed.
        rng: source of randomness.

    Returns:
        ``(n,) int64``.
    """
    pool = np.flatnonzero(train.item_degree)
    negatives = pool[rng.integers(0, len(pool), len(users))]
    open_rows = np.flatnonzero(train.contains(users, negatives))
    for _ in range(32):
        if not len(open_rows):
            return negatives
        negatives[open_rows] = pool[rng.integers(0, len(pool), len(open_rows))]
        open_rows = open_rows[train.contains(users[open_rows], negatives[open_rows])]
    for user in np.unique(users[open_rows]):
        rows = open_rows[users[open_rows] == user]
        free = np.setdiff1d(pool, train.items_of(int(user)), assume_unique=True)
        negatives[rows] = free[rng.integers(0, len(free), len(rows))] if len(free) else -1
    return negatives


def local_negatives(
    train: Interactions, users: np.ndarray, items: np.ndarray, group: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """For each user and item another item of the item's group, uniform over those that occur in train and
    that the user has not; -1 where 16 rounds of chance found none.

    Args:
        train: known interactions.
        users: ``(n,)``.
        items: ``(n,)``, each of which occurs in train.
        group: that of each item ``(n_items,) int64``.
        rng: source of randomness.

    Returns:
        ``(n,) int64``.
    """
    pool = np.flatnonzero(train.item_degree)
    by_group = pool[np.argsort(group[pool], kind="stable")]
    count = np.bincount(group[pool], minlength=int(group.max(initial=0)) + 1)
    first, found = np.cumsum(count) - count, np.full(len(users), -1, dtype=np.int64)
    open_rows = np.arange(len(users))
    for _ in range(16):
        where = group[items[open_rows]]
        drawn = by_group[first[where] + (rng.random(len(open_rows)) * count[where]).astype(np.int64)]
        free = ~train.contains(users[open_rows], drawn)
        found[open_rows[free]] = drawn[free]
        open_rows = open_rows[~free]
        if not len(open_rows):
            break
    return found


def triplets_of_users(train: Interactions, plan: EpochContext) -> Iterator[Triplets]:
    """One epoch of triplets in which every user counts alike: as many batches as the interactions would fill
    and one more, each of distinct users (of repeated ones if there are fewer than a batch holds), with one of
    a user's items and one uniform negative.

    Args:
        train: known interactions.
        plan: epoch, batch size and seed.

    Raises:
        TrainingError: no user has a possible negative.
    """
    active = np.flatnonzero(train.user_degree)
    n_batches, size, rng = len(train) // plan.batch_size + 1, plan.batch_size, plan.rng("users")
    if size <= len(active):
        users = np.concatenate([rng.permutation(active)[:size] for _ in range(n_batches)])
    else:
        users = active[rng.integers(0, len(active), n_batches * size)]
    degree = train.user_degree[users]
    at = train.indptr[users] + (plan.rng("positives").random(len(users)) * degree).astype(np.int64)
    positives, negatives = train.items[at], uniform_negatives(train, users, plan.rng("negatives"))
    possible = _possible(negatives)
    for start in range(0, len(users), size):
        part = np.arange(start, start + size)[possible[start : start + size]]
        if len(part):
            arrays = (a[part].astype(np.int64) for a in (users, positives, negatives))
            yield Triplets(*(torch.from_numpy(a) for a in arrays))


def _possible(negatives: np.ndarray) -> np.ndarray:
    """Which rows have a negative ``(n,) bool``; at least one has."""
    possible: np.ndarray = negatives >= 0
    if not possible.any():
        raise TrainingError("every user has every train item, so there are no negatives to learn from")
    return possible


class Preferences(NamedTuple):
    """For some users an item they would like and one they would not, such as a language model says.

    From Wei et al., "LLMRec: Large Language Models with Graph Augmentation for Recommendation", WSDM 2024,
    https://arxiv.org/abs/2311.00423, Sec. 3.2: triplets beside those of a batch, never edges of the graph.

    Attributes:
        positives: item of each user, -1 where nothing was said ``(n_users,) int64``.
        negatives: likewise.
        share: how many are added to a batch, as a share of it, where users drawn from it have one.
    """

    positives: np.ndarray
    negatives: np.ndarray
    share: float

    @classmethod
    def from_features(
        cls, data: Dataset, features: Mapping[str, FeatureTable] | None, share: float
    ) -> Self | None:
        """Those of the table ``preferences`` of users ``(n_users, 2) int32``: the item they would like, the
        one they would not. None for a share of 0.

        Args:
            data: whose users they are.
            features: tables by field.
            share: of a batch.

        Raises:
            FeatureError: there is no such table.
        """
        if not share:
            return None
        if not features or PREFERENCES not in features:
            raise FeatureError(
                f"there are no {PREFERENCES!r} to add to batches (augmented={share:g}); run: graphrec llm "
                "preferences DATASET, or set augmented=0"
            )
        table = features[PREFERENCES].check(data)
        if table.entity != "user" or table.dim != 2 or table.values.dtype != np.int32:
            raise FeatureError(f"{table!r} holds no preferences; expected two items of each user, int32")
        pairs = np.where(table.present[:, None], table.numpy(np.int64), -1)
        return cls(pairs[:, 0], pairs[:, 1], share)

    def drawn(self, users: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A share of a batch's users ``(B,)``, each row once, and of them those who have a preference."""
        some = users[rng.choice(len(users), int(self.share * len(users)), replace=False)]
        found: np.ndarray = some[(self.positives[some] >= 0) & (self.negatives[some] >= 0)]
        return found

    def added(self, batch: Triplets, rng: np.random.Generator) -> Triplets:
        """A batch and after it the preferences of a share of its users, of those who have one.

        Args:
            batch: triplets.
            rng: source of randomness.
        """
        users = self.drawn(batch.users.numpy(), rng)
        more = users, self.positives[users], self.negatives[users]
        return Triplets(*(torch.cat([a, torch.from_numpy(b)]) for a, b in zip(batch, more, strict=True)))
