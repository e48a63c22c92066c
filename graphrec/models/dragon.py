"""DRAGON: content towers propagated over the user-item graph, then users over a graph of users and items over
a frozen graph of items; modalities stay side by side.

Zhou et al., "Enhancing Dyadic Relations with Homogeneous Graphs for Multimodal Recommendation", ECAI 2023,
https://arxiv.org/abs/2301.12097.

``Eq. n`` refers to the numbered equations in docs/models/dragon.md.

Differences from the authors' code:
- scores follow from the current parameters, and neighbors of users who have few of them are repeated alike;
  the code scores by the last training step and by what was drawn for it;
- a product with a sparse graph takes the place of gathering the vectors of all neighbors;
- parameters that nothing reads are left out;
- items without a modality are masked in it, or filled (``fill``); the code would propagate NaN;
- items without train interactions get the embedding of their content neighbors; the code leaves them to the
  towers and the graph of items (``cold_items="as_trained"``).
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from graphrec.data.interactions import Interactions
from graphrec.graphs.graph import Graph
from graphrec.models.base import Features
from graphrec.models.search_space import Choice, Space
from graphrec.models.towers import ItemGraphConfig, TowersConfig, UserGraphConfig, UserGraphRanker, weighted


class DRAGON(UserGraphRanker):
    """Modalities side by side, those of users weighted; both sides completed by their neighbors."""

    class Config(UserGraphConfig, ItemGraphConfig, TowersConfig):
        """Options of DRAGON; the defaults are the authors' for Amazon Baby."""

    name = "dragon"
    data_parallel = "batches"
    train_defaults: ClassVar = {"learning_rate": 1e-4}
    search_space: ClassVar[Space] = {
        "reg_weight": Choice(1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
        "train.learning_rate": Choice(1e-4, 1e-3, 1e-2),
    }
    config: Config

    def __init__(self, train: Interactions, features: Features, config: Config) -> None:
        weights = config.weights_of(features)
        super().__init__(train, features, config, weights)
        self.item_graph = self.frozen_item_graph(features, weights)  # Eq. 6

    def propagate(self, user_graph: Graph) -> tuple[Tensor, Tensor]:
        """User and item embeddings over one graph of users ``(n_users, M d), (n_items, M d)`` (Eqs. 1-7)."""
        users, items = self.propagated_towers()  # Eqs. 1 and 2
        users = weighted(users, self.user_weight)  # Eq. 3
        return users + user_graph @ users, self.completed(items)
