"""What was worked on together with what a person worked on last: the numbers of co-change.

``Eq. n`` refers to the numbered equations in docs/models/cochange.md.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from graphrec.core.config import Config
from graphrec.data.interactions import Interactions
from graphrec.graphs.graph import Graph
from graphrec.graphs.sparse import graph_of, products
from graphrec.models.batches import Triplets

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

DAY = 86_400.0  # seconds
PAIRS = 2**15  # whose rows are multiplied at a time


class CoChangeConfig(Config):
    """What is together, and what is recent."""

    together: float = Field(30.0, gt=0)
    """Days within which items that a person took up were taken up together."""
    ever: float = Field(0.3, ge=0)
    """What it counts that one person took up both at any time, against 1 for together."""
    recent: float = Field(30.0, gt=0)
    """Days before a person's last in which an item counts e times less."""
    old: float = Field(0.1, gt=0)
    """What the oldest counts, against 1 for the last."""
    shrink: float = Field(1.0, ge=0)
    """Added to how many took an item up."""
    k: int = Field(200, ge=1)
    """Neighbors per item."""


def days(train: Interactions) -> np.ndarray:
    """Time of each interaction in days ``(E,) float64``; all 0 where none is known."""
    found: np.ndarray = np.zeros(len(train)) if train.times is None else train.times / DAY
    return found


def profiles(train: Interactions, config: CoChangeConfig) -> csr_matrix:
    """What each person took up, most of all lately; rows ``(n_users, n_items)`` add up to 1 (Eq. 4)."""
    from scipy.sparse import csr_matrix

    last, time = np.full(train.n_users, -np.inf), days(train)
    np.maximum.at(last, train.users, time)
    weight = np.exp((time - last[train.users]) / config.recent) + config.old
    weight /= np.bincount(train.users, weight, minlength=train.n_users)[train.users]
    return csr_matrix(
        (weight.astype(np.float32), train.items.copy(), train.indptr.copy()),
        shape=(train.n_users, train.n_items),
    )


def spans(train: Interactions, span: float, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """What each person took up within the same span of time, on a grid.

    Args:
        train: known interactions.
        span: days; ``math.inf`` for all that a person took up.
        shift: of the grid, as a part of the span.

    Returns:
        person of each span in which something was taken up ``(n_spans,)``, by person and time, and the span
        of each interaction ``(E,)``, both int64.
    """
    slot = np.floor(days(train) / span + shift).astype(np.int64)
    slot -= slot.min(initial=0)
    n = int(slot.max(initial=0)) + 1
    keys, index = np.unique(train.users.astype(np.int64) * n + slot, return_inverse=True)
    return keys // n, index.reshape(-1)


def baskets(train: Interactions, config: CoChangeConfig) -> tuple[np.ndarray, np.ndarray]:
    """What was taken up together (Eq. 1).

    Returns:
        basket of each interaction on three grids of time, two that are half a span apart and one for ever
        ``(3, E) int64``, and what it counts to be in each basket (Eq. 2) ``(n_baskets,)``.
    """
    start, found, counts = 0, [], []
    for span, shift, worth in (
        (config.together, 0.0, 0.5), (config.together, 0.5, 0.5), (math.inf, 0.0, config.ever),
    ):  # fmt: skip
        owner, basket = spans(train, span, shift)
        found.append(basket + start)
        counts.append(worth / np.sqrt(np.bincount(basket, minlength=len(owner))))
        start += len(owner)
    return np.stack(found), np.concatenate(counts)


def scale(train: Interactions, config: CoChangeConfig) -> tuple[np.ndarray, np.ndarray]:
    """What an item counts less for being taken up by many: as the one that was, as the one that may be."""
    degree: np.ndarray = np.maximum(train.item_degree + config.shrink, 1.0)
    return degree**-0.5, degree**-0.25


def neighbors(train: Interactions, config: CoChangeConfig) -> csr_matrix:
    """Row j: the ``k`` largest S_ij of the items i that were taken up together with j (Eqs. 1 to 3)."""
    from scipy.sparse import csr_matrix

    basket, counts = baskets(train, config)
    rows, columns = basket.reshape(-1), np.tile(train.items, 3)
    inside = csr_matrix(
        (np.sqrt(counts)[rows].astype(np.float32), (rows, columns)), shape=(len(counts), train.n_items)
    )
    was, may_be = scale(train, config)

    def similarity(row: np.ndarray, column: np.ndarray, shared: np.ndarray) -> np.ndarray:
        found: np.ndarray = shared * (may_be[row] * was[column]).astype(np.float32)
        return found

    return products(inside, similarity, config.k)


class CoChangeTerm:
    """Co-change as a term of another model's scores.

    Args:
        train: known interactions.
        config: options.
    """

    def __init__(self, train: Interactions, config: CoChangeConfig) -> None:
        self._train, self._config = train, config
        self._taken, self._near = profiles(train, config), neighbors(train, config)
        self._left_out = self.left_out()

    def left_out(self) -> np.ndarray:
        """What Eq. 5 gives each train interaction from what others did and what else the person did
        ``(E,) float32``: each is left out of Eqs. 2 and 4 in turn, so that it compares with what an item gets
        that the person never took up.
        """
        train, taken = self._train, self._taken
        basket, counts = baskets(train, self._config)
        was, may_be = scale(train, self._config)
        own, worth = np.zeros(len(train)), taken.data * was[train.items]
        for grid in basket:
            own += counts[grid] * (np.bincount(grid, worth, minlength=len(counts))[grid] - worth)
        others = self._of(train.users, train.items) - own * may_be[train.items]
        rest = 1 - taken.data
        found: np.ndarray = (np.maximum(others, 0) / np.where(rest > 1e-6, rest, 1)).astype(np.float32)
        return found

    def differences(self, triplets: Triplets) -> Tensor:
        """How much more Eq. 5 gives the positives than the negatives ``(B,) float32``."""
        users, positives, negatives = (part.numpy() for part in triplets)
        at = self._train.positions(users, positives)
        return torch.from_numpy(self._left_out[at] - self._of(users, negatives))

    def joined(self, users: Tensor, items: Tensor, weight: float) -> tuple[Graph, Graph]:
        """Vectors ``(n_users, d), (n_items, d)`` with those of co-change beside them, so that scores are
        ``u · v`` and ``weight`` times Eq. 5.
        """
        from scipy.sparse import csr_matrix, hstack

        dense = [csr_matrix(side.detach().cpu().numpy()) for side in (users, items)]
        return tuple(  # type: ignore[return-value]
            graph_of(hstack([side, more], format="csr"))
            for side, more in zip(dense, (self._taken * weight, self._near), strict=True)
        )

    def _of(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Eq. 5 for pairs ``(n,)``, without the scores of other items."""
        found = np.zeros(len(users), dtype=np.float32)
        for start in range(0, len(users), PAIRS):
            part = slice(start, start + PAIRS)
            found[part] = np.asarray(
                self._near[items[part]].multiply(self._taken[users[part]]).sum(1)
            ).reshape(-1)
        return found
