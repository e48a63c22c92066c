"""COHESION: content towers refined by an ID embedding, layers weighted by their similarity with the input,
graphs of users and of items, and a loss that weighs the parts of a score by how far they lag behind.

Xu et al., "COHESION: Composite Graph Convolutional Network with Dual-Stage Fusion for Multimodal
Recommendation", SIGIR 2025, https://arxiv.org/abs/2504.04452.

``Eq. n`` refers to the numbered equations in docs/models/cohesion.md.

Differences from the authors' code:
- the tower of IDs is trained and its preferences are regularized; the code passes it no gradient, so that it
  keeps its random initial values (``reference_compat``);
- scores follow from the current parameters and the full user-item graph, and neighbors of users who have few
  of them are repeated alike; the code scores by the last training step, on the pruned graph;
- modality weights of users, which the code regularizes and reads nowhere, are left out;
- a product with a sparse graph takes the place of gathering the vectors of all neighbors;
- items without a modality are masked in it, or filled (``fill``); the code would propagate NaN;
- items without train interactions get the embedding of their content neighbors; the code leaves them to the
  towers and the graph of items (``cold_items="as_trained"``).
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from graphrec.data.interactions import Interactions
from graphrec.graphs.cooccurrence import UserGraph
from graphrec.graphs.graph import Graph, bipartite, degree_probability, sample_edges
from graphrec.models.base import Features
from graphrec.models.batches import Triplets
from graphrec.models.layers import refine
from graphrec.models.losses import bpr2
from graphrec.models.propagation import BatchEmbeddings
from graphrec.models.search_space import Choice, Integers, Space
from graphrec.models.towers import ItemGraphConfig, TowerRanker, TowersConfig, UserGraphConfig

EPS = 1e-8
"""Added to squares before their root is taken, whose gradient at 0 is infinite."""


class COHESION(TowerRanker):
    """IDs and modalities side by side, refined by IDs first, propagated over three kinds of graphs."""

    class Config(UserGraphConfig, ItemGraphConfig, TowersConfig):
        """Options of COHESION."""

        n_layers: int = Field(2, ge=1)
        """Layers on the user-item graph."""
        dropout: float = Field(0.0, ge=0, lt=1)
        """Share of user-item edges pruned each epoch; 0 trains on the full graph."""
        reference_compat: bool = False
        """Leave the tower of IDs at its random initial values, as the code does."""

    name = "cohesion"
    data_parallel = "batches"
    train_defaults: ClassVar = {"learning_rate": 1e-4}
    search_space: ClassVar[Space] = {
        "n_layers": Integers(1, 4),
        "reg_weight": Choice(1e-4, 1e-3, 1e-2, 1e-1),
        "train.learning_rate": Choice(1e-4, 1e-3, 1e-2),
    }
    config: Config

    def __init__(self, train: Interactions, features: Features, config: Config) -> None:
        weights = config.weights_of(features)
        super().__init__(train, features, config, weights)
        self.item_id = self.id_table()
        self.id_tower = self.tower(config.dim, "ids of items")
        self.id_tower.requires_grad_(not config.reference_compat)
        self.epoch_graph = self.graph
        self.edge_probability = degree_probability(train)
        self.user_graph = UserGraph(train, config.n_user_neighbors)  # Eq. 5
        self.item_graph = self.frozen_item_graph(features, weights)  # Eq. 6

    def start_epoch(self, rng: np.random.Generator) -> None:
        """Repeats the neighbors of users who have few of them anew, and prunes the user-item graph."""
        self.user_graph.draw(rng)
        if self.config.dropout:
            n_kept = int(len(self.train_pairs) * (1 - self.config.dropout))
            kept = sample_edges(self.edge_probability, n_kept, rng)
            self.epoch_graph = bipartite(self.train_pairs.where(kept)).to(self.graph.device)

    def fused_towers(self) -> Tensor:
        """Users and items of the IDs and all modalities side by side, rows of length one in each part
        ``(n_users + n_items, (1 + M) d)`` (Eqs. 1 and 2).
        """

        def fuse(mapped: Tensor) -> Tensor:
            return ((self.item_id.square() + mapped.square()) / 2 + EPS).sqrt()

        users, items = self.tower_embeddings(refine=fuse)
        ids = torch.cat([self.id_tower.users(), normalize(fuse(self.id_tower(self.item_id)), dim=1)])
        if self.config.reference_compat:
            ids = ids.detach()
        return torch.cat([ids, torch.cat([users, items])], 1)

    def refined_layers(self, graph: Graph) -> Tensor:
        """The sum of the input and its layers over one user-item graph, each scaled by its cosine with the
        input, part by part ``(n_users + n_items, (1 + M) d)`` (Eq. 3).
        """
        x = self.fused_towers()
        parts = x.view(-1, self.config.dim)  # ((n_users + n_items)(1 + M), d)
        layer = x
        total = x
        for _ in range(self.config.n_layers):
            layer = refine((graph @ layer).reshape(parts.shape), parts).view_as(x)
            total = total + layer
        return total

    def propagate(self, graph: Graph, user_graph: Graph) -> tuple[Tensor, Tensor]:
        """User and item embeddings over one user-item graph and one of users
        ``(n_users, (1 + M) d), (n_items, (1 + M) d)`` (Eqs. 1-7).
        """
        users, items = self.refined_layers(graph).split([self.n_users, self.n_items])
        return users + user_graph @ users, self.completed(items)

    def part_differences(self, final: BatchEmbeddings) -> Tensor:
        """``s+ - s-`` of each part of the embeddings ``(B, 1 + M)``."""
        difference = final.users * (final.positives - final.negatives)
        return difference.view(len(difference), -1, self.config.dim).sum(2)

    def loss(self, batch: Triplets) -> dict[str, Tensor]:
        """``bpr`` of weighted parts (Eqs. 8 and 9), and the regularizer of preferences (Eq. 9)."""
        final = BatchEmbeddings.lookup(batch, *self.propagate(self.epoch_graph, self.user_graph.epoch_graph))
        difference = self.part_differences(final)
        towers = [*self.towers.values(), *(() if self.config.reference_compat else (self.id_tower,))]
        return {
            "bpr": bpr2((adaptive_weights(difference) * difference).sum(1)),
            "reg_preference": self.preference_penalty(batch.users, towers),
        }

    def embed(self) -> tuple[Tensor, Tensor]:
        """Embeddings on the full graph with all neighbors repeated alike, cold items by their neighbors
        (Eq. 10).
        """
        users, items = self.propagate(self.graph, self.user_graph.graph)
        return users, self.cold_items(items)


def adaptive_weights(difference: Tensor) -> Tensor:
    """Weights of the parts of a score, the larger the less a part tells the positive from the negative:
    one minus a softmax over the parts. They carry no gradient and sum to the number of parts less one.

    Args:
        difference: ``s+ - s-`` of each part ``(B, P)``.

    Returns:
        ``(B, P)``.
    """
    return 1 - difference.detach().softmax(1)
