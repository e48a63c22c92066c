"""BM3: bootstrapped latent representations, without negatives and without an item graph.

Zhou et al., "Bootstrap Latent Representations for Multi-Modal Recommendation", WWW 2023,
https://arxiv.org/abs/2207.05969. Two views of every embedding are pulled together, one through a predictor
and one through dropout and without gradient: user and item, feature and item, feature and feature.

``Eq. n`` refers to the numbered equations in docs/models/bm3.md.

Differences from the authors' code:
- features are frozen unless ``train_features``; the code trains them;
- only the items of the batch are projected, and each once; the code projects all items at every step;
- an item that occurs in a batch more than once has one dropout mask, which it would have in any other batch
  at that step as well; the code draws whole tables of masks, with the same result;
- items without a modality are left out of that modality's losses, or filled (``fill``);
- items without train interactions get the embedding of their content neighbors; the code leaves them at
  what initialization and the norm made of them (``cold_items="as_trained"``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal, NamedTuple, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from graphrec.core import distributed
from graphrec.core.random import derive_seed
from graphrec.data.interactions import Interactions
from graphrec.graphs.graph import bipartite
from graphrec.models.base import ContentRule, Features
from graphrec.models.batches import EpochContext
from graphrec.models.fold_in import FoldIn, MeanFoldIn
from graphrec.models.layers import ItemFeatures, linear, propagate_tables, row_dropout
from graphrec.models.losses import CosineContrastive
from graphrec.models.multimodal import ColdItems, FeatureLossConfig, MultimodalRanker
from graphrec.models.propagation import EmbeddingRanker
from graphrec.models.search_space import Choice, Integers, Space
from graphrec.models.self_supervision import SelfSupervisedTermsConfig, self_supervised_terms


class Pairs(NamedTuple):
    """Pairs of a user and an item; what depends on the item alone is computed once for all its pairs."""

    users: Tensor
    """``(B,) int64``."""
    items: Tensor
    """The distinct items ``(D,) int64``, ascending."""
    position: Tensor
    """Position of each pair's item in ``items`` ``(B,) int64``."""
    counts: Tensor
    """Number of pairs of each item ``(D,) float32``."""
    key: Tensor
    """Seed of this step's dropout masks, ``() int64``."""


class BM3(MultimodalRanker, EmbeddingRanker):
    """LightGCN that bootstraps its own targets, with features aligned to items."""

    class Config(SelfSupervisedTermsConfig, FeatureLossConfig):
        """Options of BM3; the defaults are the authors' for Amazon Baby."""

        dim: int = Field(64, ge=1)
        """Embedding size."""
        n_layers: int = Field(1, ge=0)
        """Layers on the user-item graph."""
        dropout: float = Field(0.5, ge=0, lt=1)
        """Share of a target's entries set to zero."""
        cl_weight: float = Field(2.0, ge=0)
        """Weight of the losses on features."""
        reg_weight: float = Field(0.1, ge=0)
        """Weight of the norms of the embedding tables."""
        knn_k: int = Field(10, ge=1)
        """Content neighbors per modality by which items without train interactions are placed."""
        cold_items: Literal["neighbors", "as_trained"] = "neighbors"
        """Embedding of items without train interactions."""

    name = "bm3"
    data_parallel = "batches"
    search_space: ClassVar[Space] = {
        "n_layers": Integers(1, 2),
        "dropout": Choice(0.3, 0.5),
        "reg_weight": Choice(0.01, 0.1),
        "train.learning_rate": Choice(1e-3, 2e-3, 5e-3),
    }
    config: Config

    def __init__(self, train: Interactions, features: Features, config: Config) -> None:
        super().__init__(train, config)
        self.graph = bipartite(train)
        self.features = nn.ModuleDict(
            {m: ItemFeatures.from_table(t, config, train) for m, t in features.items()}
        )
        self.projections = nn.ModuleDict(
            {
                m: linear(table.shape[1], config.dim, self.rng(m), nn.init.xavier_normal_)
                for m, table in features.items()
            }
        )
        self.predictor = linear(config.dim, config.dim, self.rng("predictor"), nn.init.xavier_normal_)
        self.cold_start_rule = ContentRule(dict.fromkeys(features, 1 / len(features)), config.knn_k)
        self.cold_items = ColdItems(train, features, self.cold_start_rule, config.cold_items == "neighbors")

    def batches(self, plan: EpochContext) -> Iterator[Pairs]:
        """Every train interaction once, without negatives."""
        n_batches = -(-len(self.train_pairs) // plan.batch_size)
        keys = plan.rng("dropout").integers(2**63, size=n_batches, dtype=np.int64)
        for (users, items), key in zip(self.sampler.pairs(plan), keys, strict=True):
            # Here and not in the loss, where a GPU would have to report the number of distinct items.
            distinct, position, counts = np.unique(items, return_inverse=True, return_counts=True)
            arrays = (users, distinct, position, counts.astype(np.float32), np.asarray(key))
            yield Pairs(*(torch.from_numpy(a) for a in arrays))

    def feature_items(self, batch: Pairs) -> tuple[Tensor, ...]:
        """The distinct items of the batch, if the loss has terms on features."""
        return (batch.items,) if self.config.cl_weight else ()

    def propagate(self) -> tuple[Tensor, Tensor]:
        """User and item embeddings before the predictor ``(n_users, d), (n_items, d)`` (Eqs. 1, 2)."""
        users, items = propagate_tables(self.graph, *self.id_embeddings, self.config.n_layers)
        return users, items + self.item_embedding.weight

    def target(self, x: Tensor, table: str, index: Tensor, key: Tensor) -> Tensor:
        """A target without gradient: rows ``x (B, d)`` at ``index (B,)`` of a table, with dropout (Eq. 5)."""
        return row_dropout(x.detach(), index, self.config.dropout, key + derive_seed(0, table))

    def loss(self, batch: Pairs) -> dict[str, Tensor]:
        """``rec`` between users and items, ``align_<modality>`` between features and items,
        ``mask_<modality>`` within features, ``reg`` on the tables' norms (Eqs. 6-9);
        ``contrast`` and ``uniformity`` of what is propagated, where they have a weight.
        """
        users, items = self.propagate()
        u = nn.functional.embedding(batch.users, users)  # (B, d)
        i = nn.functional.embedding(batch.items, items)  # (D, d)
        u_target = self.target(u, "users", batch.users, batch.key)  # (B, d)
        i_target = self.target(i, "items", batch.items, batch.key)  # (D, d)
        to_items = (self.predictor(u), nn.functional.embedding(batch.position, i_target))  # (B, d)
        to_users = (nn.functional.embedding(batch.position, self.predictor(i)), u_target)  # (B, d)
        terms = {"rec": CosineContrastive().symmetric(to_items, to_users)}
        if self.config.cl_weight:
            contrast = CosineContrastive(self.config.cl_weight)
            for m in self.features:
                features, layer = cast(ItemFeatures, self.features[m]), cast(nn.Linear, self.projections[m])
                x = features.projected(layer.weight, batch.items) + layer.bias  # (D, d), Eq. 3
                x_target = self.target(x, f"modality/{m}", batch.items, batch.key)  # (D, d)
                predicted = self.predictor(x)  # (D, d)
                counts = batch.counts * features.present[batch.items]  # (D,)
                terms[f"align_{m}"] = contrast(predicted, i_target, counts)
                terms[f"mask_{m}"] = contrast(predicted, x_target, counts)
        if self.config.reg_weight:
            norms = distributed.replicated(users.norm() + items.norm())
            terms["reg"] = self.config.reg_weight / self.n_items * norms
        ids = batch.users, batch.items[batch.position]
        positives = nn.functional.embedding(batch.position, i)  # (B, d)
        return terms | self_supervised_terms(self.config, u, positives, ids, batch.key)

    def fold_in(self) -> FoldIn:
        """That of LightGCN, through the predictor; cold items by their content neighbors."""
        rule = self.propagated_fold_in(self.graph, self.config.n_layers, self.cold_items)
        if not isinstance(rule, MeanFoldIn):
            return rule
        return MeanFoldIn(rule.table @ self.predictor.weight.T, self.predictor.bias)

    def embed(self) -> tuple[Tensor, Tensor]:
        """Embeddings after the predictor (Eq. 10), cold items by their neighbors."""
        users, items = self.propagate()
        return self.predictor(users), self.cold_items(self.predictor(items))
