"""Co-change: how often items were worked on together with the items a person worked on last.

``Eq. n`` refers to the numbered equations in docs/models/cochange.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from graphrec.core.config import Config
from graphrec.data.interactions import Interactions
from graphrec.data.times import SECONDS_PER_DAY
from graphrec.graphs.graph import Graph
from graphrec.graphs.sparse import from_scipy, nearest_columns
from graphrec.models.batches import Triplets

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

PAIRS_PER_BLOCK = 2**15
"""Number of pairs of users and items whose sparse rows are multiplied at a time."""


class CoChangeConfig(Config):
    """Options of co-change."""

    window_days: float = Field(30.0, gt=0)
    """Items that a person worked on for the first time within so many days count as changed together."""
    global_weight: float = Field(0.3, ge=0)
    """Weight of two items of the same person at any time, relative to items changed together."""
    recency_days: float = Field(30.0, gt=0)
    """An item's weight in a person's profile falls by a factor of e over so many days before the person's
    last contribution."""
    recency_floor: float = Field(0.1, gt=0)
    """Weight of the oldest item in a profile, relative to the last."""
    shrink: float = Field(1.0, ge=0)
    """Added to the number of people who worked on an item."""
    k: int = Field(200, ge=1)
    """Neighbors per item."""

    renamed_options: ClassVar[Mapping[str, str]] = {
        "together": "window_days",
        "ever": "global_weight",
        "recent": "recency_days",
        "old": "recency_floor",
    }


def times_in_days(train: Interactions) -> np.ndarray:
    """Time of each interaction in days ``(E,) float64``; all 0 without times."""
    days: np.ndarray = np.zeros(len(train)) if train.times is None else train.seconds / SECONDS_PER_DAY
    return days


def user_profiles(train: Interactions, config: CoChangeConfig) -> csr_matrix:
    """Items of each person, weighted by recency; rows ``(n_users, n_items)`` sum to 1 (Eq. 4)."""
    from scipy.sparse import csr_matrix

    days = times_in_days(train)
    last = np.full(train.n_users, -np.inf)
    np.maximum.at(last, train.users, days)
    weight = np.exp((days - last[train.users]) / config.recency_days) + config.recency_floor
    weight /= np.bincount(train.users, weight, minlength=train.n_users)[train.users]
    return csr_matrix(
        (weight.astype(np.float32), train.items.copy(), train.indptr.copy()),
        shape=(train.n_users, train.n_items),
    )


def time_windows(train: Interactions, length: float, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """The windows of a time grid in which each person has interactions.

    Args:
        train: known interactions.
        length: of a window in days; ``math.inf`` for one window per person.
        shift: of the grid, as a fraction of the length.

    Returns:
        person of each window with interactions ``(n_windows,)``, by person and time, and the window of each
        interaction ``(E,)``, both int64.
    """
    slot = np.floor(times_in_days(train) / length + shift).astype(np.int64)
    slot -= slot.min(initial=0)
    n = int(slot.max(initial=0)) + 1
    keys, index = np.unique(train.users.astype(np.int64) * n + slot, return_inverse=True)
    return keys // n, index.reshape(-1)


def baskets(train: Interactions, config: CoChangeConfig) -> tuple[np.ndarray, np.ndarray]:
    """Sets of items that were changed together (Eq. 1).

    Returns:
        basket of each interaction on three time grids, two that are shifted by half a window and one with a
        single window ``(3, E) int64``, and the weight of each basket (Eq. 2) ``(n_baskets,)``.
    """
    grids = (
        (config.window_days, 0.0, 0.5),
        (config.window_days, 0.5, 0.5),
        (math.inf, 0.0, config.global_weight),
    )
    n_baskets = 0
    basket_of = []
    weights = []
    for length, shift, weight in grids:
        owner, basket = time_windows(train, length, shift)
        basket_of.append(basket + n_baskets)
        weights.append(weight / np.sqrt(np.bincount(basket, minlength=len(owner))))
        n_baskets += len(owner)
    return np.stack(basket_of), np.concatenate(weights)


def popularity_scales(train: Interactions, config: CoChangeConfig) -> tuple[np.ndarray, np.ndarray]:
    """Factors that decrease with the number of people who worked on an item: for an item of a profile and for
    a recommended item, both ``(n_items,)``.
    """
    degree: np.ndarray = np.maximum(train.item_degree + config.shrink, 1.0)
    return degree**-0.5, degree**-0.25


def item_neighbors(train: Interactions, config: CoChangeConfig) -> csr_matrix:
    """Row j: the ``k`` largest S_ij of the items i that were changed together with j (Eqs. 1 to 3)."""
    from scipy.sparse import csr_matrix

    basket_of, weights = baskets(train, config)
    rows = basket_of.reshape(-1)
    columns = np.tile(train.items, 3)
    contains = csr_matrix(
        (np.sqrt(weights)[rows].astype(np.float32), (rows, columns)), shape=(len(weights), train.n_items)
    )
    profile_scale, item_scale = popularity_scales(train, config)

    def similarity(row: np.ndarray, column: np.ndarray, shared: np.ndarray) -> np.ndarray:
        scaled: np.ndarray = shared * (item_scale[row] * profile_scale[column]).astype(np.float32)
        return scaled

    return nearest_columns(contains, similarity, config.k)


class CoChangeTerm:
    """Co-change as a term of another model's scores.

    Args:
        train: known interactions.
        config: options.
    """

    def __init__(self, train: Interactions, config: CoChangeConfig) -> None:
        self._train = train
        self._config = config
        self._profiles = user_profiles(train, config)
        self._neighbors = item_neighbors(train, config)
        self._train_scores = self.leave_one_out_scores()

    def leave_one_out_scores(self) -> np.ndarray:
        """Eq. 5 for each train interaction, computed without that interaction in Eqs. 2 and 4
        ``(E,) float32``, so that it is comparable to the score of an item that the person never worked on.
        """
        train = self._train
        share = self._profiles.data
        basket_of, weights = baskets(train, self._config)
        profile_scale, item_scale = popularity_scales(train, self._config)
        value = share * profile_scale[train.items]
        by_person = np.zeros(len(train))
        for basket in basket_of:
            total = np.bincount(basket, value, minlength=len(weights))
            by_person += weights[basket] * (total[basket] - value)
        by_others = self._scores(train.users, train.items) - by_person * item_scale[train.items]
        remaining = 1 - share
        divisor = np.where(remaining > 1e-6, remaining, 1)
        scores: np.ndarray = (np.maximum(by_others, 0) / divisor).astype(np.float32)
        return scores

    def differences(self, triplets: Triplets) -> Tensor:
        """Eq. 5 of the positives minus that of the negatives ``(B,) float32``."""
        users, positives, negatives = (tensor.numpy() for tensor in triplets)
        index = self._train.positions(users, positives)
        return torch.from_numpy(self._train_scores[index] - self._scores(users, negatives))

    def append_to(self, users: Tensor, items: Tensor, weight: float) -> tuple[Graph, Graph]:
        """Appends profiles and neighbors to vectors ``(n_users, d), (n_items, d)``, so that inner products
        are ``u · v`` plus ``weight`` times Eq. 5.
        """
        from scipy.sparse import csr_matrix, hstack

        def append(vectors: Tensor, columns: csr_matrix) -> Graph:
            return from_scipy(hstack([csr_matrix(vectors.detach().cpu().numpy()), columns], format="csr"))

        return append(users, self._profiles * weight), append(items, self._neighbors)

    def _scores(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Eq. 5 for pairs ``(n,)``, without the scores of other items."""
        scores = np.zeros(len(users), dtype=np.float32)
        for start in range(0, len(users), PAIRS_PER_BLOCK):
            block = slice(start, start + PAIRS_PER_BLOCK)
            product = self._neighbors[items[block]].multiply(self._profiles[users[block]])
            scores[block] = np.asarray(product.sum(1)).reshape(-1)
        return scores
