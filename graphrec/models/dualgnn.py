"""DualGNN: content towers propagated over the user-item graph, users weigh modalities and learn from users
who share items with them.

Wang et al., "DualGNN: Dual Graph Neural Network for Multimedia Recommendation", IEEE TMM 2021,
https://doi.org/10.1109/TMM.2021.3138298; the form and the options are those of its implementation in MMRec
(https://github.com/enoche/MMRec), from which the published Amazon tables come.

``Eq. n`` refers to the numbered equations in docs/models/dualgnn.md.

Differences from that code:
- each user's modalities are weighted apart; the code adds the other modalities to the first one before
  (``reference_compat``);
- the weights of items, which the code regularizes and reads nowhere, are left out;
- scores follow from the current parameters, and neighbors of users who have few of them are repeated alike;
  the code scores by the last training step and by what was drawn for it;
- a product with a sparse graph takes the place of gathering the vectors of all neighbors;
- items without a modality are masked in it, or filled (``fill``); the code would propagate NaN;
- items without train interactions get the embedding of their content neighbors; the code leaves them to the
  towers (``cold_items="as_trained"``).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from graphrec.data.interactions import Interactions
from graphrec.graphs.graph import Graph
from graphrec.models.base import Features
from graphrec.models.search_space import Choice, Space
from graphrec.models.towers import TowersConfig, UserGraphConfig, UserGraphRanker


class DualGNN(UserGraphRanker):
    """The sum of the modalities of an item; a user's own weighted sum, plus that of the user's neighbors."""

    class Config(UserGraphConfig, TowersConfig):
        """Options of DualGNN."""

        reference_compat: bool = False
        """Weight for each user the sum of all modalities in place of the first one, as the code does by
        adding up in place."""

    name = "dualgnn"
    data_parallel = "batches"
    train_defaults: ClassVar = {"learning_rate": 1e-4}
    search_space: ClassVar[Space] = {
        "reg_weight": Choice(1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
        "train.learning_rate": Choice(1e-4, 1e-3, 1e-2),
    }
    config: Config

    def __init__(self, train: Interactions, features: Features, config: Config) -> None:
        super().__init__(train, features, config)

    def propagate(self, user_graph: Graph) -> tuple[Tensor, Tensor]:
        """User and item embeddings over one graph of users ``(n_users, d), (n_items, d)`` (Eqs. 1-6)."""
        users, items = self.propagated_towers()  # Eqs. 1 and 2
        users = users.view(*self.user_weight.shape, -1)  # (n_users, M, d)
        if self.config.reference_compat:
            users = torch.cat([users.sum(1, keepdim=True), users[:, 1:]], 1)
        users = (users * self.user_weight[:, :, None]).sum(1)  # Eq. 4
        items = items.view(self.n_items, *self.user_weight.shape[1:], -1).sum(1)  # Eq. 3
        return users + user_graph @ users, items
