"""LATTICE: an item graph learned from content, rebuilt every epoch.

Zhang et al., "Mining Latent Structures for Multimedia Recommendation", ACM MM 2021,
https://arxiv.org/abs/2104.09036. Per modality, items are linked to their nearest neighbors before and after
a learned projection of the features; modalities are mixed by learned weights, and one convolution on the
mixture is added to LightGCN's item embeddings.

``Eq. n`` refers to the numbered equations in docs/models/lattice.md.

Differences from the authors' code:
- graphs are sparse from the start; the code fills matrices of items x items. The numbers are the same;
- neighbors of negative cosine get weight 0; the code keeps them and divides by the root of what may be a
  negative sum;
- features are frozen; the code trains them, once an epoch as the projections;
- the regularizer is divided by the size of the batch at hand; the code divides by the size of a full one;
- no NGCF and no plain matrix factorization in place of LightGCN, no decay of the learning rate by default;
- items without a modality are left out of that modality's graphs, or filled (``fill``); the code would
  propagate NaN;
- items without train interactions get the embedding of their content neighbors; the code leaves them at
  what initialization and their neighbors' gradients made of them (``cold_items="as_trained"``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from graphrec.data.interactions import Interactions
from graphrec.graphs.graph import Graph, normalize_weights, union
from graphrec.models.base import ContentRule, Features
from graphrec.models.batches import EpochContext, SeededTriplets
from graphrec.models.layers import propagate_tables
from graphrec.models.learned_graphs import LearnedGraphConfig, LearnedView, self_looped, symmetric_weights
from graphrec.models.losses import bpr, half_squares, score_difference
from graphrec.models.multimodal import ColdItems, MultimodalRanker, item_graph
from graphrec.models.propagation import BatchEmbeddings, EmbeddingRanker
from graphrec.models.search_space import Choice, Integers, Space
from graphrec.models.self_supervision import SelfSupervisedTermsConfig, self_supervised_terms


class LATTICE(MultimodalRanker, EmbeddingRanker):
    """LightGCN plus a convolution on an item graph that is learned along with it."""

    class Config(SelfSupervisedTermsConfig, LearnedGraphConfig):
        """Options of LATTICE; the defaults are the authors'."""

        n_mm_layers: int = Field(1, ge=1)
        """Layers on the item graph."""

    name = "lattice"
    data_parallel = "batches"
    search_space: ClassVar[Space] = {
        "n_ui_layers": Integers(1, 3),
        "reg_weight": Choice(0.0, 1e-5, 1e-4, 1e-3),
        "train.learning_rate": Choice(1e-4, 5e-4, 1e-3, 5e-3),
    }
    config: Config
    original_weights: Tensor

    def __init__(self, train: Interactions, features: Features, config: Config) -> None:
        super().__init__(train, config)
        self.user_item_graph = self_looped(train)  # Eq. 7

        k, cache, fill = config.knn_k, config.graph_cache, config.fill
        original = [
            normalize_weights(
                item_graph(t, k, weight="cosine", cache=cache, fill=fill, train=train), "symmetric"
            )
            for t in features.values()
        ]  # Eqs. 1 and 2
        self.original_graph, positions = union(original)
        weights = torch.zeros(len(original), len(self.original_graph))  # (M, E)
        for weight, position, graph in zip(weights, positions, original, strict=True):
            weight[position] = graph.weight
        self.register_buffer("original_weights", weights, persistent=False)
        self.views = nn.ModuleDict(
            {m: LearnedView(t, config, train, self.rng(m)) for m, t in features.items()}
        )
        self.modality_weight = nn.Parameter(torch.full((len(features),), 0.5))
        self.epoch_graph: Graph | None = None

        self.cold_start_rule = ContentRule(dict.fromkeys(features, 1 / len(features)), k)
        self.cold_items = ColdItems(train, features, self.cold_start_rule, config.cold_items == "neighbors")

    def start_epoch(self, rng: np.random.Generator) -> None:
        """Drops the item graph, so that the epoch's first batch rebuilds it."""
        self.epoch_graph = None

    def batches(self, plan: EpochContext) -> Iterator[SeededTriplets]:
        """Every train interaction once, with one uniform negative and a seed for noise."""
        return self.sampler.seeded_triplets(plan, "noise")

    def latent_graph(self) -> Graph:
        """The item graph of the current parameters; its weights carry a gradient (Eqs. 3-6)."""
        share = self.modality_weight.softmax(0)  # (M,)
        learned = [view() for view in self.views.values()]
        graph, (original, *positions) = union([self.original_graph, *(g for g, _ in learned)])
        mixed = torch.zeros_like(graph.weight)  # (E,)
        for position, w, (_, cosines) in zip(positions, share, learned, strict=True):
            mixed = mixed.index_add(0, position, w * cosines)
        mixed = symmetric_weights(graph, mixed)
        original_weight = self.config.original_weight
        unprojected = (share[:, None] * self.original_weights).sum(0)  # as a product it would be autocast
        weight = ((1 - original_weight) * mixed).index_add(0, original, original_weight * unprojected)
        return graph.weighted(weight)

    def propagate(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """User and item embeddings over one item graph ``(n_users, d), (n_items, d)`` (Eqs. 7-9)."""
        h = self.item_embedding.weight
        for _ in range(self.config.n_mm_layers):
            h = graph @ h  # (n_items, d)
        users, items = propagate_tables(self.user_item_graph, *self.id_embeddings, self.config.n_ui_layers)
        return users, items + normalize(h, dim=1)

    def loss(self, batch: SeededTriplets) -> dict[str, Tensor]:
        """``bpr`` and ``reg`` on the final embeddings (Eq. 10); ``contrast`` and ``uniformity`` where they
        have a weight.

        Gradients reach projections and modality weights in an epoch's first batch, which builds the graph;
        the other batches take it as it is.
        """
        graph = self.latent_graph() if self.epoch_graph is None else self.epoch_graph
        users, items = self.propagate(graph)
        if self.epoch_graph is None:
            self.epoch_graph = graph.detached()
        final = BatchEmbeddings.lookup(batch, users, items)  # (B, d) each
        terms = {
            "bpr": bpr(score_difference(*final)),
            "reg": self.config.reg_weight * half_squares(*final),
        }
        ids = batch.users, batch.positives
        return terms | self_supervised_terms(self.config, final.users, final.positives, ids, batch.key)

    def embed(self) -> tuple[Tensor, Tensor]:
        """Embeddings on the item graph of the current parameters, cold items by their neighbors.

        As in the authors' code, this is not the graph of the epoch's first batch, so that scores are a
        function of the parameters alone.
        """
        with torch.no_grad():
            graph = self.latent_graph()
        users, items = self.propagate(graph)
        return users, self.cold_items(items)
