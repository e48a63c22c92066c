"""Batches of one epoch: shuffled interactions with negatives and preferences, drawn for all of it at once.

A model's :class:`BatchSampler` is built from its options in one place; the model itself knows only that its
batches hold users, positives and negatives. No Python loop runs per sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from graphrec.core import distributed
from graphrec.core.config import Config
from graphrec.core.errors import FeatureError, TrainingError
from graphrec.core.random import numpy_rng
from graphrec.data.dataset import Dataset
from graphrec.data.interactions import Interactions
from graphrec.data.repositories import repository_of
from graphrec.features import PREFERENCES, FeatureTable
from graphrec.graphs.neighbor_sampling import Fanouts, check_fanouts

NO_NEGATIVES = "every user has every train item, so there are no negatives to learn from"


class NegativesConfig(Config):
    """Options of models that learn from triplets: which negatives are drawn."""

    n_negatives: int = Field(1, ge=1)
    """Negatives of each interaction; the loss is the mean over them."""
    local_negatives: float = Field(0.0, ge=0, le=1)
    """Share of negatives from the positive's repository; for datasets of ``graphrec data git``."""


class PreferencesConfig(Config):
    """Options of models whose batches may hold preferences that a language model wrote."""

    augmented: float = Field(0.0, ge=0, le=1)
    """Preferences of a language model added to a batch, as a share of it (``graphrec llm``)."""


class NeighborSamplingConfig(Config):
    """Options of models that may train on sampled neighborhoods."""

    fanouts: Fanouts = None
    """Train on sampled neighborhoods in the user-item graph: most neighbors of a node by layer, the last
    layer's first; -1 is all. None propagates over the whole graph in every step."""

    layers_option: ClassVar[str] = "n_layers"
    """The option that holds the number of layers on the user-item graph."""

    @model_validator(mode="after")
    def _one_fanout_per_layer(self) -> Self:
        check_fanouts(self.fanouts, getattr(self, self.layers_option))
        return self


@dataclass(frozen=True)
class EpochContext:
    """What a model needs to know to make one epoch's batches."""

    epoch: int
    batch_size: int
    seed: int

    def rng(self, purpose: str) -> np.random.Generator:
        """The random generator of this epoch for one purpose."""
        return numpy_rng(self.seed, purpose, self.epoch)


class Triplets(NamedTuple):
    """Users with a positive item and negative items.

    Attributes:
        users: ``(B,) int64``.
        positives: ``(B,) int64``.
        negatives: ``(B,) int64``, or ``(B, n)`` of n negatives each.
    """

    users: Tensor
    positives: Tensor
    negatives: Tensor


def shared_seeds(plan: EpochContext, purpose: str, every: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Seeds for what several steps in a row use before it is drawn anew, without end.

    Args:
        plan: epoch and seed.
        purpose: of what is drawn.
        every: steps with the same seed.

    Yields:
        for each step the seed ``() int64``, and whether it is a new one ``() bool``.
    """
    rng = plan.rng(purpose)
    while True:
        key = torch.tensor(rng.integers(2**62, dtype=np.int64))
        for step in range(every):
            yield key, torch.tensor(step == 0)


class SeededTriplets(NamedTuple):
    """Triplets, and a seed ``() int64`` for what the loss draws, such as sampled neighborhoods."""

    users: Tensor
    positives: Tensor
    negatives: Tensor
    key: Tensor


class Pairs(NamedTuple):
    """Users and an item of each, two ``(B,) int64``."""

    users: Tensor
    items: Tensor


class SeededPairs(NamedTuple):
    """Users and an item of each ``(B,) int64``, and a seed ``() int64`` for what the loss draws."""

    users: Tensor
    items: Tensor
    key: Tensor


@dataclass(frozen=True)
class BatchSampler:
    """Draws a model's batches as its options ask for.

    Attributes:
        train: interactions to learn from.
        n_negatives: negatives of each interaction.
        in_group: share of negatives that come from the positive's group; None: all are uniform.
        preferences: added to each batch; None: nothing is.
    """

    train: Interactions
    n_negatives: int = 1
    in_group: InGroupNegatives | None = None
    preferences: Preferences | None = None

    @classmethod
    def from_options(cls, data: Dataset, features: Mapping[str, FeatureTable] | None, config: Any) -> Self:
        """The sampler for a dataset by those of the options ``n_negatives``, ``local_negatives`` and
        ``augmented`` that a model has.

        Raises:
            DataError: in-group negatives are asked for and the dataset has no repositories.
            FeatureError: preferences are asked for and there are none.
        """
        return cls(
            data.train,
            getattr(config, "n_negatives", 1),
            InGroupNegatives.from_dataset(data, getattr(config, "local_negatives", 0.0)),
            Preferences.from_features(data, features, getattr(config, "augmented", 0.0)),
        )

    def triplets(self, plan: EpochContext) -> Iterator[Triplets]:
        """See :func:`triplets`."""
        return triplets(self.train, plan, self.in_group, self.preferences, self.n_negatives)

    def seeded_triplets(self, plan: EpochContext, purpose: str) -> Iterator[SeededTriplets]:
        """The same batches, each with a seed of its own."""
        return seeded(self.triplets(plan), plan, purpose)

    def pairs(self, plan: EpochContext) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """One epoch of users and items, two ``(B,) int64``: every interaction once, shuffled, and positives
        of preferences; with several processes, this one's part of every batch.
        """
        order = plan.rng("shuffle").permutation(len(self.train))
        rng = plan.rng("preferences")
        for start in range(0, len(order), plan.batch_size):
            batch = order[start : start + plan.batch_size]
            users = self.train.users[batch].astype(np.int64)
            items = self.train.items[batch].astype(np.int64)
            if self.preferences is not None:
                extra = self.preferences.draw_users(users, rng)
                users = np.append(users, extra)
                items = np.append(items, self.preferences.positives[extra])
            own = distributed.local_slice(len(users))
            yield users[own], items[own]

    def seeded_pairs(self, plan: EpochContext, purpose: str) -> Iterator[SeededPairs]:
        """The pairs of :meth:`pairs` as tensors, each batch with a seed of its own."""
        rng = plan.rng(purpose)
        for users, items in self.pairs(plan):
            key = torch.tensor(rng.integers(2**62, dtype=np.int64))
            yield SeededPairs(torch.from_numpy(users), torch.from_numpy(items), key)

    def user_triplets(self, plan: EpochContext) -> Iterator[tuple[Triplets, int]]:
        """Batches of :func:`triplets_of_users` followed by preferences, and the number of triplets before
        those; with several processes, this one's part of every batch.
        """
        rng = plan.rng("preferences")
        for batch in triplets_of_users(self.train, plan):
            n_sampled = len(batch.users)
            if self.preferences is not None:
                batch = self.preferences.extend(batch, rng)
            yield distributed.local_shard(batch), n_sampled


def seeded(batches: Iterator[Triplets], plan: EpochContext, purpose: str) -> Iterator[SeededTriplets]:
    """Batches, each with a seed of its own.

    Args:
        batches: of one epoch.
        plan: the epoch.
        purpose: of the seeds.
    """
    rng = plan.rng(purpose)
    for batch in batches:
        yield SeededTriplets(*batch, torch.tensor(rng.integers(2**62, dtype=np.int64)))


class InGroupNegatives(NamedTuple):
    """Negatives from the group of the positive, such as files of the same repository: harder ones.

    Attributes:
        group: group of each item ``(n_items,) int64``.
        share: share of the negatives that come from the positive's group, if that has any.
    """

    group: np.ndarray
    share: float

    @classmethod
    def from_dataset(cls, data: Dataset, share: float) -> Self | None:
        """With the repositories of a dataset as groups; None if the share is 0.

        Raises:
            DataError: the dataset has none.
        """
        return cls(repository_of(data), share) if share else None


def triplets(
    train: Interactions,
    plan: EpochContext,
    in_group: InGroupNegatives | None = None,
    preferences: Preferences | None = None,
    n_negatives: int = 1,
) -> Iterator[Triplets]:
    """One epoch of triplets: every interaction once, shuffled, each with negatives; with several processes,
    this one's part of every batch.

    Negatives are uniform over the items that occur in train and that the user has not interacted with.
    Interactions of users who have all of those items have no negative and are left out.

    Args:
        train: known interactions.
        plan: epoch, batch size and seed.
        in_group: how many negatives come from the positive's group instead; default: none.
        preferences: preferences of a share of a batch's users, added to it; default: none.
        n_negatives: negatives of each interaction; with more than one they are ``(B, n)``.

    Raises:
        TrainingError: no interaction has a possible negative.
    """
    order = plan.rng("shuffle").permutation(len(train))
    users = train.users[order].astype(np.int64)
    positives = train.items[order].astype(np.int64)
    each_user = users.repeat(n_negatives)
    negatives = uniform_negatives(train, each_user, plan.rng("negatives"))
    if in_group is not None:
        rng = plan.rng("negatives/local")
        near = local_negatives(train, each_user, positives.repeat(n_negatives), in_group.group, rng)
        negatives = np.where((near >= 0) & (rng.random(len(near)) < in_group.share), near, negatives)
    if n_negatives > 1:
        negatives = negatives.reshape(-1, n_negatives)
    possible = _possible(negatives)
    if not possible.all():
        users = users[possible]
        positives = positives[possible]
        negatives = negatives[possible]
    tensors = [torch.from_numpy(a) for a in (users, positives, negatives)]
    rng = plan.rng("preferences")
    for start in range(0, len(users), plan.batch_size):
        batch = Triplets(*(t[start : start + plan.batch_size] for t in tensors))
        yield distributed.local_shard(batch if preferences is None else preferences.extend(batch, rng))


def triplets_by_batch(train: Interactions, plan: EpochContext, n_negatives: int) -> Iterator[Triplets]:
    """The same kind of epoch as :func:`triplets`, with negatives drawn when a batch is due: for hundreds of
    negatives per interaction, which are too many to hold for a whole epoch.

    Args:
        train: known interactions.
        plan: epoch, batch size and seed.
        n_negatives: negatives of each interaction; they are ``(B, n)``.

    Raises:
        TrainingError: no interaction has a possible negative.
    """
    n_items = int((train.item_degree > 0).sum())
    order = plan.rng("shuffle").permutation(len(train))
    order = order[train.user_degree[train.users[order]] < n_items]
    if not len(order):
        raise TrainingError(NO_NEGATIVES)
    rng = plan.rng("negatives")
    for start in range(0, len(order), plan.batch_size):
        batch = order[start : start + plan.batch_size]
        users = train.users[batch].astype(np.int64)
        negatives = uniform_negatives(train, users.repeat(n_negatives), rng).reshape(-1, n_negatives)
        arrays = (users, train.items[batch].astype(np.int64), negatives)
        yield distributed.local_shard(Triplets(*(torch.from_numpy(a) for a in arrays)))


def uniform_negatives(train: Interactions, users: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One item per user, uniform over the items that occur in train and that the user has not interacted
    with; -1 if there is none.

    Draws for all rows at once and redraws the rows that hit a positive. The few rows left after many rounds
    (users with nearly all items) draw from the list of the remaining items.

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
        open_of_user = open_rows[users[open_rows] == user]
        free = np.setdiff1d(pool, train.items_of(int(user)), assume_unique=True)
        negatives[open_of_user] = free[rng.integers(0, len(free), len(open_of_user))] if len(free) else -1
    return negatives


def local_negatives(
    train: Interactions, users: np.ndarray, items: np.ndarray, group: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """For each user and item another item of the item's group, uniform over those that occur in train and
    that the user has not interacted with; -1 where 16 rounds of rejection found none.

    Args:
        train: known interactions.
        users: ``(n,)``.
        items: ``(n,)``, each of which occurs in train.
        group: group of each item ``(n_items,) int64``.
        rng: source of randomness.

    Returns:
        ``(n,) int64``.
    """
    pool = np.flatnonzero(train.item_degree)
    by_group = pool[np.argsort(group[pool], kind="stable")]
    count = np.bincount(group[pool], minlength=int(group.max(initial=0)) + 1)
    first = np.cumsum(count) - count
    negatives = np.full(len(users), -1, dtype=np.int64)
    open_rows = np.arange(len(users))
    for _ in range(16):
        groups = group[items[open_rows]]
        drawn = by_group[first[groups] + (rng.random(len(open_rows)) * count[groups]).astype(np.int64)]
        free = ~train.contains(users[open_rows], drawn)
        negatives[open_rows[free]] = drawn[free]
        open_rows = open_rows[~free]
        if not len(open_rows):
            break
    return negatives


def triplets_of_users(train: Interactions, plan: EpochContext) -> Iterator[Triplets]:
    """One epoch of triplets in which every user counts equally, in one batch more than the interactions would
    fill. The users of a batch are distinct, or drawn with replacement if there are fewer than a batch holds;
    each comes with one of the user's items and one uniform negative.

    Args:
        train: known interactions.
        plan: epoch, batch size and seed.

    Raises:
        TrainingError: no user has a possible negative.
    """
    active = np.flatnonzero(train.user_degree)
    n_batches = len(train) // plan.batch_size + 1
    size = plan.batch_size
    rng = plan.rng("users")
    if size <= len(active):
        users = np.concatenate([rng.permutation(active)[:size] for _ in range(n_batches)])
    else:
        users = active[rng.integers(0, len(active), n_batches * size)]
    degree = train.user_degree[users]
    drawn = train.indptr[users] + (plan.rng("positives").random(len(users)) * degree).astype(np.int64)
    positives = train.items[drawn]
    negatives = uniform_negatives(train, users, plan.rng("negatives"))
    possible = _possible(negatives)
    for start in range(0, len(users), size):
        part = np.arange(start, start + size)[possible[start : start + size]]
        if len(part):
            arrays = (a[part].astype(np.int64) for a in (users, positives, negatives))
            yield Triplets(*(torch.from_numpy(a) for a in arrays))


def _possible(negatives: np.ndarray) -> np.ndarray:
    """Which rows have negatives ``(B,) bool``, of ``(B,)`` or ``(B, n)``.

    Raises:
        TrainingError: none has.
    """
    possible: np.ndarray = negatives.reshape(len(negatives), -1)[:, 0] >= 0  # a row has all or none
    if not possible.any():
        raise TrainingError(NO_NEGATIVES)
    return possible


class Preferences(NamedTuple):
    """For some users an item they would like and one they would not, as a language model says.

    From Wei et al., "LLMRec: Large Language Models with Graph Augmentation for Recommendation", WSDM 2024,
    https://arxiv.org/abs/2311.00423, Sec. 3.2: further triplets of a batch, never edges of the graph.

    Attributes:
        positives: item each user would like, -1 where unknown ``(n_users,) int64``.
        negatives: item each user would not like, likewise.
        share: share of a batch's users whose preferences are added, if they have one.
    """

    positives: np.ndarray
    negatives: np.ndarray
    share: float

    @classmethod
    def from_features(
        cls, data: Dataset, features: Mapping[str, FeatureTable] | None, share: float
    ) -> Self | None:
        """The preferences of the user table ``preferences (n_users, 2) int32``: the item each user would like
        and the one the user would not. None if the share is 0.

        Args:
            data: the dataset with these users.
            features: tables by field.
            share: share of a batch's users.

        Raises:
            FeatureError: there is no such table, or it has another shape or type.
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

    def draw_users(self, users: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A share of a batch's users ``(B,)``, each row at most once, and of them those with a preference."""
        drawn = users[rng.choice(len(users), int(self.share * len(users)), replace=False)]
        known: np.ndarray = drawn[(self.positives[drawn] >= 0) & (self.negatives[drawn] >= 0)]
        return known

    def extend(self, batch: Triplets, rng: np.random.Generator) -> Triplets:
        """The batch, and after it the preferences of a share of its users.

        A preference has one negative, which is repeated where a batch has n.
        """
        users = self.draw_users(batch.users.numpy(), rng)
        negatives = torch.from_numpy(self.negatives[users])
        if batch.negatives.dim() == 2:
            negatives = negatives[:, None].expand(-1, batch.negatives.shape[1])
        return Triplets(
            torch.cat([batch.users, torch.from_numpy(users)]),
            torch.cat([batch.positives, torch.from_numpy(self.positives[users])]),
            torch.cat([batch.negatives, negatives]),
        )
