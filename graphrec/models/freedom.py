"""FREEDOM: a frozen item-item graph of content and a denoised user-item graph.

Zhou and Shen, "A Tale of Two Graphs: Freezing and Denoising Graph Structures for Multimodal Recommendation",
ACM MM 2023, https://arxiv.org/abs/2211.06924. The item graph is built once from raw image and text features;
user-item edges are pruned in each epoch, those of popular users and items most; items add both views.

``Eq. n`` refers to the numbered equations in docs/models/freedom.md.

Differences from the authors' code:
- features are frozen unless ``train_features``; the code trains them;
- the projections have no bias: it cancels in every BPR difference, and its gradient in the code is zero;
- items without a modality are left out of that modality's graph and loss, or filled (``fill``); the code
  would propagate NaN;
- items without train interactions get the embedding of their content neighbors; the code leaves them at
  what initialization and their neighbors' gradients made of them (``cold_items="as_trained"``).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal, Self, cast

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from graphrec.core.config import option
from graphrec.data.interactions import Interactions
from graphrec.features import FeatureTable
from graphrec.graphs.equal_rows import EqualRows
from graphrec.graphs.graph import Graph, bipartite, degree_probability, sample_edges
from graphrec.models.base import ContentRule, Features
from graphrec.models.batches import EpochContext, NeighborSamplingConfig, SeededTriplets
from graphrec.models.fold_in import FoldIn
from graphrec.models.layers import ItemFeatures, projection, propagate_tables
from graphrec.models.losses import bpr, score_difference
from graphrec.models.multimodal import (
    ColdItems,
    FeatureLossConfig,
    MultimodalRanker,
    WeightedConfig,
    mixed_item_graph,
)
from graphrec.models.propagation import EmbeddingRanker
from graphrec.models.search_space import Choice, Space
from graphrec.models.self_supervision import SelfSupervisedTermsConfig, self_supervised_terms


class FREEDOM(MultimodalRanker, EmbeddingRanker):
    """LightGCN on a pruned user-item graph, plus a convolution on a frozen item graph."""

    class Config(SelfSupervisedTermsConfig, NeighborSamplingConfig, WeightedConfig, FeatureLossConfig):
        """Options of FREEDOM; the defaults are the authors' for Amazon Baby."""

        dim: int = Field(64, ge=1)
        """Embedding size."""
        n_ui_layers: int = Field(2, ge=0)
        """Layers on the user-item graph."""
        n_mm_layers: int = Field(1, ge=0)
        """Layers on the item-item graph."""
        knn_k: int = Field(10, ge=1)
        """Neighbors per item and modality, the item itself included."""
        image_weight: float = Field(0.1, ge=0, le=1)
        """Weight of the image graph; those of the other modalities share the rest equally. Without effect if
        there is a single modality or no image."""
        dropout: float = Field(0.8, ge=0, lt=1)
        """Share of user-item edges pruned each epoch; 0 trains on the full graph."""
        reg_weight: float = Field(1e-3, ge=0)
        """Weight of the BPR loss on projected features."""
        freeze_item_graph: bool = True
        """False rebuilds the item graph in each epoch from the projected features: the dynamic graph that the
        paper argues against."""
        cold_items: Literal["neighbors", "as_trained"] = "neighbors"
        """Embedding of items without train interactions."""
        graph_cache: Path | None = option(None, affects_result=False)
        """Directory in which neighbors are kept between runs; None computes them each time."""

        layers_option: ClassVar[str] = "n_ui_layers"

        @model_validator(mode="after")
        def _frozen_on_disk(self) -> Self:
            if self.features_on_disk and not self.freeze_item_graph:
                raise ValueError("a graph of projected features needs them in memory; drop features_on_disk")
            return self

    name = "freedom"
    data_parallel = "batches"
    search_space: ClassVar[Space] = {
        "dropout": Choice(0.5, 0.8, 0.9),
        "reg_weight": Choice(0.0, 1e-4, 1e-3, 1e-2, 1e-1),
        "train.learning_rate": Choice(1e-3, 2e-3, 5e-3),
    }
    config: Config

    def __init__(self, train: Interactions, features: Features, config: Config) -> None:
        super().__init__(train, config)
        self.weights = config.weights_of(features)

        self.item_graph = mixed_item_graph(
            features, self.weights, config.knn_k, cache=config.graph_cache, fill=config.fill, train=train
        )  # Eqs. 1-3
        self.full_graph = bipartite(train)
        self.epoch_graph = self.full_graph
        self.edge_probability = degree_probability(train)  # Eq. 4

        self.features = nn.ModuleDict(
            {m: ItemFeatures.from_table(features[m], config, train) for m in self.weights}
        )
        self.projections = nn.ModuleDict(
            {m: projection(features[m].shape[1], config.dim, self.rng(m)) for m in self.weights}
        )
        self.cold_start_rule = ContentRule(self.weights, config.knn_k)
        self.cold_items = ColdItems(train, features, self.cold_start_rule, config.cold_items == "neighbors")

    def start_epoch(self, rng: np.random.Generator) -> None:
        """Prunes the user-item graph: keeps a share of edges, with degrees recomputed on them (Eq. 5)."""
        if self.config.dropout:
            n_kept = int(len(self.train_pairs) * (1 - self.config.dropout))
            is_kept = sample_edges(self.edge_probability, n_kept, rng)
            self.epoch_graph = bipartite(self.train_pairs.where(is_kept)).to(self.full_graph.device)
        if not self.config.freeze_item_graph:
            self.item_graph = self.learned_item_graph()

    def batches(self, plan: EpochContext) -> Iterator[SeededTriplets]:
        """Every train interaction once, with one uniform negative."""
        return self.sampler.seeded_triplets(plan, "fanouts")

    def feature_items(self, batch: SeededTriplets) -> tuple[Tensor, ...]:
        """Positives and negatives, if the loss has terms on features."""
        return (batch.positives, batch.negatives) if self.config.reg_weight else ()

    def propagate(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """User and item embeddings over one user-item graph ``(n_users, d), (n_items, d)`` (Eqs. 6-8)."""
        h = self.item_embedding.weight
        for _ in range(self.config.n_mm_layers):
            h = self.item_graph @ h  # (n_items, d)
        users, items = propagate_tables(graph, *self.id_embeddings, self.config.n_ui_layers)
        return users, items + h

    @torch.no_grad()
    def learned_item_graph(self) -> Graph:
        """The item graph of the projected features; that of the raw ones is frozen instead (Sec. 3.1)."""
        projected = {}
        for m in self.weights:
            features = cast(ItemFeatures, self.features[m])
            values = features.values.float()
            equal = EqualRows.of([values])  # products may round equal rows differently
            vectors = self.projections[m](values[equal.first]).cpu().numpy()[equal.group]  # (n_items, d)
            projected[m] = FeatureTable(vectors, features.own.cpu().numpy())
        c = self.config
        graph = mixed_item_graph(projected, self.weights, c.knn_k, fill=c.fill, train=self.train_pairs)
        return graph.to(self.item_embedding.weight.device)

    def loss(self, batch: SeededTriplets) -> dict[str, Tensor]:
        """``bpr`` on embeddings and ``bpr_<modality>`` on projected features (Eq. 9); ``contrast`` and
        ``uniformity`` where they have a weight.
        """
        final, _ = self.propagate_batch(
            self.propagate,
            self.epoch_graph,
            batch,
            self.config.fanouts,
            self.item_graph,
            self.config.n_mm_layers,
        )
        terms = {"bpr": bpr(score_difference(*final))}
        if self.config.reg_weight:
            for m in self.weights:
                features, layer = cast(ItemFeatures, self.features[m]), cast(nn.Linear, self.projections[m])
                both = features.present[batch.positives] & features.present[batch.negatives]  # (B,)
                content = features.projected_difference(layer.weight, batch.positives, batch.negatives)
                score = (final.users * content).sum(1)  # content (B, d)
                terms[f"bpr_{m}"] = self.config.reg_weight * bpr(score, both)
        ids = batch.users, batch.positives
        return terms | self_supervised_terms(self.config, final.users, final.positives, ids, batch.key)

    def fold_in(self) -> FoldIn:
        """That of LightGCN on the full graph; cold items by their content neighbors."""
        return self.propagated_fold_in(self.full_graph, self.config.n_ui_layers, self.cold_items)

    def embed(self) -> tuple[Tensor, Tensor]:
        """Embeddings on the full graph (Eq. 10), cold items by their neighbors."""
        if not self.config.freeze_item_graph:
            self.item_graph = self.learned_item_graph()
        users, items = self.propagate(self.full_graph)
        return users, self.cold_items(items)
