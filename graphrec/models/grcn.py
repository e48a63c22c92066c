"""GRCN: edges of the user-item graph weighted by how well content fits what users like.

Wei et al., "Graph-Refined Convolutional Network for Multimedia Recommendation with Implicit Feedback", ACM MM
2020, https://arxiv.org/abs/2111.02036.

``Eq. n`` refers to the numbered equations in docs/models/grcn.md.

Differences from the authors' code:
- users' preferences are updated by messages from their items; in the code the messages run from users to
  items, and the update adds zeros (``reference_compat``);
- the image's preferences are regularized like those of the other modalities, in the code once more
  (``reference_compat``);
- evaluation uses the current parameters, not what the last step computed;
- items without a modality are zeros in it, or filled (``fill``); items without train interactions get the
  embedding of their content neighbors (``cold_items="as_trained"`` leaves them).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import embedding, leaky_relu, normalize

from graphrec.core import distributed
from graphrec.data.interactions import Interactions
from graphrec.graphs.attention import edge_attention, edge_softmax
from graphrec.graphs.graph import Graph, bipartite, edge_products
from graphrec.models.base import Features
from graphrec.models.batches import Triplets
from graphrec.models.item_content import ItemContent, ItemContentConfig, ItemContentRanker
from graphrec.models.losses import bpr, half_squares, score_difference
from graphrec.models.propagation import BatchEmbeddings
from graphrec.models.search_space import Choice, Space


class GRCN(ItemContentRanker):
    """ID embeddings over refined edges, beside what users like and items are in each modality."""

    class Config(ItemContentConfig):
        """Options of GRCN."""

        content_dim: int = Field(64, ge=1)
        """Size of preferences and projected content, in each modality."""
        n_routing: int = Field(3, ge=0)
        """Updates of users' preferences by their items; 0 takes them as they are trained."""
        reg_weight: float = Field(1e-3, ge=0)
        """Weight of the mean squares of the batch's ID embeddings and preferences."""
        reference_compat: bool = False
        """Do as the authors' code does: update no preferences, whatever ``n_routing`` is, and regularize
        those of the image a second time, over all users."""

    name = "grcn"
    data_parallel = "batches"
    search_space: ClassVar[Space] = {
        "reg_weight": Choice(1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
        "n_routing": Choice(0, 1, 3),
        "train.learning_rate": Choice(1e-4, 1e-3, 1e-2, 1e-1),
    }
    config: Config

    def __init__(self, train: Interactions, features: Features, config: Config) -> None:
        super().__init__(train, features, config)
        self.draw_normal_ids()
        self.graph = bipartite(train, "none")
        self.items_to_users = Graph.from_edges(
            train.items, train.users, n_source=self.n_items, n_target=self.n_users
        )
        self.preferences = nn.ParameterDict()
        self.content = nn.ModuleDict()
        normal = nn.init.xavier_normal_
        for m, table in features.items():
            preference = nn.Parameter(torch.empty(self.n_users, config.content_dim))
            self.preferences[m] = normal(preference, generator=self.rng(f"{m}/preference"))
            self.content[m] = ItemContent(
                table, config.content_dim, config, train, self.rng(f"{m}/content"), normal
            )
        confidence = nn.Parameter(torch.empty(self.n_users + self.n_items, len(features)))
        self.confidence = normal(confidence, generator=self.rng("confidence"))

    def compared(self, modality: str) -> Tensor:
        """What users like and items are in one modality, of length one ``(n_users + n_items, c)``
        (Eqs. 1, 2).
        """
        items = normalize(leaky_relu(self.content[modality]()), dim=1)
        users = normalize(self.preferences[modality], dim=1)
        for _ in range(0 if self.config.reference_compat else self.config.n_routing):
            users = normalize(users + edge_attention(self.items_to_users, users, items, items), dim=1)
        return torch.cat([users, items])

    def attend(self, modality: str) -> tuple[Tensor, Tensor]:
        """Embeddings of one modality ``(n_users + n_items, c)``, and the share of each edge in what its
        target hears ``(E,)`` (Eqs. 3, 4).
        """
        x = self.compared(modality)
        share = edge_softmax(self.graph, edge_products(self.graph, x))
        return x + self.graph.weighted(share) @ x, share

    def refined(self, shares: list[Tensor]) -> Graph:
        """The graph with the weights of equation 5, from the shares ``(E,)`` in each modality."""
        trusted = embedding(self.graph.col.long(), self.confidence)  # (E, M)
        return self.graph.weighted((torch.stack(shares, 1) * trusted).max(1).values.relu())

    def propagate(self) -> tuple[Tensor, Tensor]:
        """User and item embeddings ``(n, d + M c)`` (Eqs. 6, 7)."""
        views, shares = zip(*map(self.attend, self.content), strict=True)
        graph = self.refined(list(shares))
        total = normalize(torch.cat(self.id_embeddings), dim=1)
        heard = total
        for _ in range(2):
            heard = graph @ heard
            total = total + heard
        found = torch.cat([total, *views], 1)
        return found[: self.n_users], found[self.n_users :]

    def loss(self, batch: Triplets) -> dict[str, Tensor]:
        """``bpr`` on final embeddings and ``reg`` on ID embeddings and preferences (Eq. 8)."""
        terms = {"bpr": bpr(score_difference(*BatchEmbeddings.lookup(batch, *self.propagate())))}
        if self.config.reg_weight:
            users, positives, negatives = BatchEmbeddings.lookup(batch, *self.id_embeddings)
            total = half_squares(users, users, positives, negatives) / self.config.dim
            for m, preference in self.preferences.items():
                total = total + distributed.global_mean(embedding(batch.users, preference).square())
                if self.config.reference_compat and m == "image":
                    total = total + distributed.replicated(preference.square().mean())
            terms["reg"] = self.config.reg_weight * total
        return terms

    def embed(self) -> tuple[Tensor, Tensor]:
        """Embeddings of the current parameters, cold items by their neighbors."""
        users, items = self.propagate()
        return users, self.cold_items(items)
