"""ItemKNN: items are offered that the same users took as the items a user has.

Deshpande and Karypis, "Item-Based Top-N Recommendation Algorithms", ACM TOIS 2004,
https://doi.org/10.1145/963770.963776. Each item is compared with all others by the users they share; an item
scores the sum of its similarities to those of its neighbors that the user has. There is nothing to train.

Made as strong as in Ferrari Dacrema et al., "Are We Really Making Much Progress?", RecSys 2019,
https://arxiv.org/abs/1907.06902: similarities are shrunk where few users speak for them, the ``k`` nearest
items are kept for the item that is scored (the 2004 paper keeps them for the item that the user has), and
what to divide by is chosen along with ``k``.

``Eq. n`` refers to the numbered equations in docs/models/itemknn.md.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from scipy.sparse import csr_matrix

from graphrec.data.interactions import Interactions
from graphrec.graphs.graph import Graph
from graphrec.graphs.sparse import from_scipy, nearest_columns, normalize_rows
from graphrec.models.base import ModelConfig, Ranker
from graphrec.models.search_space import Choice, Integers, Space


class ItemKNN(Ranker):
    """Cosine of train columns, the nearest of each item kept."""

    class Config(ModelConfig):
        """Options of ItemKNN."""

        renamed_options: ClassVar = {"normalise": "normalize"}

        k: int = Field(100, ge=1)
        """Neighbors per item, the item itself not counted."""
        shrink: float = Field(10.0, ge=0)
        """Added to what a similarity is divided by: the larger, the less few shared users count."""
        normalize: bool = False
        """Divide an item's similarities by their sum: the score is then the share of its neighborhood that
        the user has, and items with many or near neighbors have no advantage."""

    name = "itemknn"
    capability = "item_weights"
    search_space: ClassVar[Space] = {
        "k": Integers(5, 1000, log=True),
        "shrink": Choice(0.0, 1.0, 10.0, 50.0, 100.0, 500.0),
        "normalize": Choice(False, True),
    }
    config: Config

    def __init__(self, train: Interactions, config: Config) -> None:
        super().__init__()
        self.config, self.n_users, self.n_items = config, train.n_users, train.n_items
        indptr, items = torch.from_numpy(train.indptr.copy()), torch.from_numpy(train.items.copy())
        self.history = Graph(indptr, items, torch.ones(len(train)), train.n_items)  # row u: items of u
        self.neighbors = neighbors(train, config)  # row i: sim(i, j) of its neighbors j

    def history_rows(self) -> Graph:
        """The train interactions."""
        return self.history

    def item_weights(self) -> Graph:
        """Each item's similarities to its neighbors (Eq. 1)."""
        return self.neighbors


def neighbors(train: Interactions, config: ItemKNN.Config) -> Graph:
    """The ``k`` most similar items of each, itself left out (Eqs. 2 to 4)."""
    ones = np.ones(len(train), dtype=np.float32)
    by_user = csr_matrix((ones, train.items, train.indptr), shape=(train.n_users, train.n_items))
    length = np.sqrt(train.item_degree)  # norms of the columns (n_items,)

    def cosine(row: np.ndarray, column: np.ndarray, shared: np.ndarray) -> np.ndarray:
        """From the users that two items share (Eq. 2)."""
        shared /= length[row] * length[column] + config.shrink  # Eq. 3
        return shared

    similarity = nearest_columns(by_user, cosine, config.k)
    return from_scipy(normalize_rows(similarity) if config.normalize else similarity)  # Eq. 4
