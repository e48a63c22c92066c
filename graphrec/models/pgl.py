"""PGL: content in place of item IDs, trained on the principal part of the user-item graph.

Yu et al., "Mind Individual Information! Principal Graph Learning for Multimedia Recommendation", AAAI 2025,
https://doi.org/10.1609/aaai.v39i12.33429. FREEDOM without ID embeddings of items: what is propagated is
projected content, in one block of columns for each modality, and two copies of each final embedding with
other entries dropped are to be nearer to each other than to those of other users or items.

``Eq. n`` refers to the numbered equations in docs/models/pgl.md.

Differences from the authors' code:
- features are frozen unless ``train_features``; the code trains them;
- repeats of a user or an item in a batch are no negatives of each other unless ``contrast_repeats``, and
  their masks are the same;
- the ``global`` graph is that of the singular values of the interactions; the code's is that of the whole
  adjacency matrix, where each of them occurs twice;
- any number of modalities; items without one have zeros in its columns, or are filled (``fill``);
- items without train interactions get the embedding of their content neighbors; the code leaves them what
  their content alone gives (``cold_items="as_trained"``).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from graphrec.core.config import option
from graphrec.core.random import derive_seed
from graphrec.data.interactions import Interactions
from graphrec.graphs.graph import Graph, bipartite, degree_probability, sample_edges
from graphrec.graphs.low_rank import principal_graph
from graphrec.models import layers
from graphrec.models.base import ContentRule, Features
from graphrec.models.batches import BatchSampler, EpochContext, PreferencesConfig, SeededTriplets
from graphrec.models.fold_in import FoldIn, LeastSquaresFoldIn, MeanFoldIn
from graphrec.models.item_content import ItemContent
from graphrec.models.layers import fan_in_uniform_
from graphrec.models.losses import InfoNCE, bpr, score_difference
from graphrec.models.multimodal import (
    ColdItems,
    MultimodalConfig,
    MultimodalRanker,
    WeightedConfig,
    mixed_item_graph,
)
from graphrec.models.propagation import BatchEmbeddings
from graphrec.models.search_space import Choice, Space


class PGL(MultimodalRanker):
    """Projected content, propagated over a part of the user-item graph and over a frozen item graph."""

    class Config(PreferencesConfig, WeightedConfig, MultimodalConfig):
        """Options of PGL; the defaults are the authors' for Amazon Baby."""

        dim: int = Field(64, ge=1)
        """Embedding size of each modality."""
        n_ui_layers: int = Field(2, ge=0)
        """Layers on the user-item graph."""
        n_mm_layers: int = Field(1, ge=0)
        """Layers on the item-item graph."""
        knn_k: int = Field(10, ge=1)
        """Neighbors per item and modality, the item itself included."""
        image_weight: float = Field(0.1, ge=0, le=1)
        """Weight of the image graph; those of the other modalities share the rest equally. Without effect if
        there is a single modality or no image."""
        principal: Literal["local", "global"] = "local"
        """The graph to train on: ``local`` keeps a share of the edges, drawn in each epoch, those of popular
        users and items least; ``global`` is made of the largest singular values, once."""
        keep: float = Field(0.3, gt=0, le=1)
        """Share of the edges that ``local`` keeps."""
        rank: int | None = Field(None, ge=1)
        """Singular values that ``global`` looks at, the largest fourth of which it keeps; None: half of
        ``dim``."""
        dropout: float = Field(0.2, ge=0, lt=1)
        """Share of entries that each of two contrasted copies lacks."""
        cl_weight: float = Field(0.05, ge=0)
        """Weight of the contrast between the copies; ``reg_weight`` in the authors' code."""
        temperature: float = Field(0.2, gt=0)
        """Temperature of the contrast."""
        contrast_repeats: bool = False
        """Let repeats of a user or an item in a batch be negatives of each other, as in the authors' code."""
        train_features: bool = False
        """Train the features as well, as the authors' code does."""
        cold_items: Literal["neighbors", "as_trained"] = "neighbors"
        """Embedding of items without train interactions: that of their content neighbors, or what is left of
        the model without interactions."""
        graph_cache: Path | None = option(None, affects_result=False)
        """Directory in which neighbors are kept between runs; None computes them each time."""

    name = "pgl"
    data_parallel = "batches"
    train_defaults: ClassVar = {"schedule": "exponential"}
    search_space: ClassVar[Space] = {
        "dropout": Choice(0.05, 0.1, 0.2, 0.3),
        "cl_weight": Choice(0.0, 0.01, 0.05, 0.1, 0.5),
        "train.learning_rate": Choice(5e-4, 1e-3, 2e-3),
    }
    config: Config

    def __init__(self, train: Interactions, features: Features, config: Config) -> None:
        super().__init__()
        self.config, self.train_pairs = config, train
        self.sampler = BatchSampler(train)
        self.n_users, self.n_items = train.n_users, train.n_items
        self.weights = config.weights_of(features)
        self.item_graph = mixed_item_graph(
            features, self.weights, config.knn_k, cache=config.graph_cache, fill=config.fill, train=train
        )  # Eq. 6
        self.full_graph = bipartite(train)
        self.epoch_graph = self.full_graph
        self.edge_probability = degree_probability(train)
        if config.principal == "global":
            self.epoch_graph = principal_graph(train, config.rank or max(1, config.dim // 2))  # Eq. 4

        self.content = nn.ModuleDict(
            {
                m: ItemContent(
                    features[m],
                    config.dim,
                    config,
                    train,
                    self.rng(m),
                    fan_in_uniform_,
                    train_features=config.train_features,
                )
                for m in self.weights
            }
        )
        tables = [
            layers.embedding(train.n_users, config.dim, self.rng(f"users/{m}")).weight for m in self.weights
        ]
        self.user_embedding = nn.Parameter(torch.cat(tables, 1).detach())  # (n_users, M d)
        self.contrast = InfoNCE(config.temperature)
        self.cold_start_rule = ContentRule(self.weights, config.knn_k)
        self.cold_items = ColdItems(train, features, self.cold_start_rule, config.cold_items == "neighbors")

    def start_epoch(self, rng: np.random.Generator) -> None:
        """Draws the edges of the ``local`` graph, with degrees counted on them (Eq. 3)."""
        if self.config.principal == "local":
            n_kept = int(len(self.train_pairs) * self.config.keep)
            is_kept = sample_edges(self.edge_probability, n_kept, rng)
            self.epoch_graph = bipartite(self.train_pairs.where(is_kept)).to(self.full_graph.device)

    def batches(self, plan: EpochContext) -> Iterator[SeededTriplets]:
        """Every train interaction once, with one uniform negative and a seed for dropout."""
        return self.sampler.seeded_triplets(plan, "dropout")

    def item_content(self) -> Tensor:
        """Projected content of length one in each modality, side by side ``(n_items, M d)`` (Eq. 1)."""
        return torch.cat([normalize(projected(), dim=1) for projected in self.content.values()], 1)

    def propagate(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """Final embeddings over one user-item graph ``(n_users, M d), (n_items, M d)`` (Eqs. 5-7)."""
        content = self.item_content()
        users, items = layers.propagate_tables(graph, self.user_embedding, content, self.config.n_ui_layers)
        h = content
        for _ in range(self.config.n_mm_layers):
            h = self.item_graph @ h
        return users, items + h

    def copies(self, x: Tensor, ids: Tensor, side: str, key: Tensor) -> list[Tensor]:
        """Two copies of rows ``(B, M d)``, each without other entries (Eq. 8).

        Args:
            x: rows of users or items.
            ids: which of them ``(B,) int64``; a repeated one has one mask in a copy.
            side: ``"users"`` or ``"items"``.
            key: seed of the batch's masks ``() int64``.
        """
        keys = [key + derive_seed(0, f"{side}/{copy}") for copy in (1, 2)]
        return [layers.row_dropout(x, ids, self.config.dropout, k) for k in keys]

    def loss(self, batch: SeededTriplets) -> dict[str, Tensor]:
        """``bpr``, ``contrast_users`` and ``contrast_items`` on final embeddings (Eqs. 8 and 9)."""
        final = BatchEmbeddings.lookup(batch, *self.propagate(self.epoch_graph))
        terms = {"bpr": bpr(score_difference(*final))}
        if self.config.cl_weight:
            sides = ("users", final.users, batch.users), ("items", final.positives, batch.positives)
            for side, x, ids in sides:
                one, other = self.copies(x, ids, side, batch.key)
                distinct = None if self.config.contrast_repeats else ids
                value = self.contrast.in_batch(one, other, distinct)
                terms[f"contrast_{side}"] = self.config.cl_weight / 2 * value
        return terms

    def fold_in(self) -> FoldIn:
        """What the items of a history add after propagation over the full graph: exact but for the share of
        the user's own embedding; least squares without layers.
        """
        n_layers = self.config.n_ui_layers
        if not n_layers:
            return LeastSquaresFoldIn()
        content, degree = self.item_content(), self.train_pairs.item_degree
        table = layers.fold_in_table(self.full_graph, self.user_embedding, content, n_layers, degree)
        return MeanFoldIn(self.cold_items(table), table.new_zeros(table.shape[1]))

    def embed(self) -> tuple[Tensor, Tensor]:
        """Final embeddings on the full graph (Eq. 10), cold items by their neighbors."""
        users, items = self.propagate(self.full_graph)
        return users, self.cold_items(items)
