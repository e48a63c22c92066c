"""MGCN: item embeddings filtered by content, one item graph for each modality, and their fusion.

Yu et al., "Multi-View Graph Convolutional Network for Multimedia Recommendation", ACM MM 2023,
https://arxiv.org/abs/2308.03588. In each modality the ID embeddings of items pass a gate that content
controls and a frozen graph of content neighbors. What the modalities have in common and what is special to
each of them, weighted by the preferences in a node's behavior, is added to LightGCN's embeddings.

``Eq. n`` refers to the numbered equations in docs/models/mgcn.md.

Differences from the authors' code:
- features are frozen unless ``train_features``; the code trains them, away from what the graphs are made of;
- neighbors of negative cosine get weight 0; the code keeps them and divides by the root of what may be a
  negative sum;
- the regularizer is divided by the size of the batch at hand; the code divides by the size of a full one;
- repeats of a user or an item in a batch are no negatives of each other unless ``contrast_repeats``;
- only the batch's rows are fused; the code fuses all users and items at every step;
- any number of modalities; items without one are left out of its graph, and a node's fusion is over the
  modalities that it has, or they are filled (``fill``);
- items without train interactions get the embedding of their content neighbors (``cold_items``).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from graphrec.data.interactions import Interactions
from graphrec.models.base import Features
from graphrec.models.content_views import (
    Gate,
    GatedViewsConfig,
    GatedViewsRanker,
    ModalityAttention,
    Nodes,
)
from graphrec.models.search_space import Choice, Integers, Space


class MGCN(GatedViewsRanker):
    """A view of each modality, fused by attention and by preferences."""

    class Config(GatedViewsConfig):
        """Options of MGCN; the defaults are the authors', with the middle one of their contrast weights."""

    name = "mgcn"
    data_parallel = "batches"
    train_defaults: ClassVar = {"schedule": "exponential"}
    search_space: ClassVar[Space] = {
        "n_ui_layers": Integers(1, 3),
        "cl_weight": Choice(0.001, 0.01, 0.1),
        "reg_weight": Choice(1e-5, 1e-4, 1e-3),
        "train.learning_rate": Choice(5e-4, 1e-3, 2e-3),
    }
    config: Config

    def __init__(self, train: Interactions, features: Features, config: Config) -> None:
        super().__init__(train, features, config)
        self.set_graphs(self.content_graphs(features))  # Eqs. 1 and 2
        dim = config.dim
        self.gates = nn.ModuleDict({m: Gate(dim, dim, self.rng(f"gates/{m}")) for m in features})
        self.attention = ModalityAttention(dim, self.rng("attention"))
        self.preferences = nn.ModuleDict({m: Gate(dim, dim, self.rng(f"preferences/{m}")) for m in features})

    def views(self) -> list[Tensor]:
        """Gated item embeddings by modality ``(n_items, d)`` (Eqs. 3 and 4)."""
        _, items = self.id_embeddings
        return [self.gates[m](items, project()) for m, project in self.projections.items()]

    def fuse(self, nodes: Nodes, key: Tensor | None) -> Tensor:
        """What the modalities have in common, and what is special to each of them where behavior prefers it
        ``(n, d)`` (Eqs. 7-9).
        """
        total = common = self.attention(nodes.views, nodes.known)
        parts = zip(self.preferences.values(), nodes.views, nodes.known.unbind(1), strict=True)
        for preference, view, known in parts:
            special = preference(view - common, nodes.content)
            total = total + torch.where(known[:, None], special, 0)
        fused: Tensor = total / (1 + nodes.known.sum(1, keepdim=True))
        return fused
