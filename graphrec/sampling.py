"""Batches and negatives, drawn for a whole epoch at once; no Python loop runs per sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from graphrec.data.interactions import Interactions
from graphrec.errors import TrainingError
from graphrec.seeds import stream


@dataclass(frozen=True)
class Plan:
    """What a model needs to know to make one epoch's batches."""

    epoch: int
    batch_size: int
    seed: int

    def rng(self, purpose: str) -> np.random.Generator:
        """The stream of this epoch for one purpose."""
        return stream(self.seed, purpose, self.epoch)


class Triplets(NamedTuple):
    """Users with a positive and a negative item each, three ``(B,) int64``."""

    users: Tensor
    positives: Tensor
    negatives: Tensor


def triplets(train: Interactions, plan: Plan) -> Iterator[Triplets]:
    """One epoch of triplets: every interaction once, shuffled, with one uniform negative each.

    Negatives come from the items that occur in train and that the user has not. Interactions of users who
    have all of those items have no negative and are left out.

    Raises:
        TrainingError: no interaction has a possible negative.
    """
    order = plan.rng("shuffle").permutation(len(train))
    users, positives = train.users[order].astype(np.int64), train.items[order].astype(np.int64)
    negatives = uniform_negatives(train, users, plan.rng("negatives"))
    possible = negatives >= 0
    if not possible.any():
        raise TrainingError("every user has every train item, so there are no negatives to learn from")
    if not possible.all():
        users, positives, negatives = users[possible], positives[possible], negatives[possible]
    tensors = [torch.from_numpy(a) for a in (users, positives, negatives)]
    for start in range(0, len(users), plan.batch_size):
        yield Triplets(*(t[start : start + plan.batch_size] for t in tensors))


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
        free = np.setdiff1d(pool, train.of(int(user)), assume_unique=True)
        negatives[rows] = free[rng.integers(0, len(free), len(rows))] if len(free) else -1
    return negatives
