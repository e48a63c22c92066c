"""SelfCF: users and items that predict each other's perturbed embeddings, without negatives and content.

Zhou et al., "SelfCF: A Simple Framework for Self-supervised Collaborative Filtering", TORS 2023,
https://arxiv.org/abs/2107.03019: the variant with embedding dropout on LightGCN. BM3 is its successor, with
content and without the edge dropout.

``Eq. n`` refers to the numbered equations in docs/models/selfcf.md.

Differences from the authors' code:
- the loss is larger by one, as every cosine is taken from one;
- dropout masks are a function of the seed, the step and the pair, not of the order of draws.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import embedding

from graphrec.core import distributed
from graphrec.core.random import derive_seed
from graphrec.data.interactions import Interactions
from graphrec.graphs.augmentation import drop_entries
from graphrec.graphs.graph import Graph, bipartite
from graphrec.models.base import ModelConfig
from graphrec.models.batches import EpochContext, PreferencesConfig, SeededPairs
from graphrec.models.fold_in import FoldIn, MeanFoldIn
from graphrec.models.layers import linear, propagate_tables, row_dropout
from graphrec.models.losses import CosineContrastive, half_squares
from graphrec.models.propagation import EmbeddingRanker
from graphrec.models.search_space import Choice, Integers, Space


class SelfCF(EmbeddingRanker):
    """LightGCN on a graph that loses edges at random, which bootstraps its own targets."""

    class Config(PreferencesConfig, ModelConfig):
        """Options of SelfCF."""

        dim: int = Field(64, ge=1)
        """Embedding size."""
        n_layers: int = Field(2, ge=1)
        """Layers on the user-item graph."""
        dropout: float = Field(0.2, ge=0, lt=1)
        """Share of a target's entries set to zero."""
        max_edge_dropout: float = Field(1.0, ge=0, le=1)
        """Most entries of the graph that a step leaves out. The share is drawn from 0 to 1 in each step, and
        the other entries are divided by what it leaves; 0.9 bounds that at ten times, 1 is the authors'."""
        reg_weight: float = Field(1e-3, ge=0)
        """Weight of the squared norms of the batch's embeddings: a sum over the batch, no mean."""

    name = "selfcf"
    data_parallel = "batches"
    search_space: ClassVar[Space] = {
        "n_layers": Integers(1, 2),
        "dropout": Choice(0.1, 0.2, 0.5),
        "reg_weight": Choice(0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
        "train.learning_rate": Choice(1e-3, 2e-3, 5e-3),
    }
    config: Config

    def __init__(self, train: Interactions, config: Config) -> None:
        super().__init__(train, config)
        self.graph = bipartite(train)
        self.predictor = linear(config.dim, config.dim, self.rng("predictor"))
        self.contrast = CosineContrastive(0.5)

    def batches(self, plan: EpochContext) -> Iterator[SeededPairs]:
        """Every train interaction once, without negatives."""
        return self.sampler.seeded_pairs(plan, "dropout")

    def draw(self, key: Tensor) -> Graph:
        """The graph of a step: a function of its seed ``() int64`` (Eq. 1)."""
        rng = np.random.default_rng(int(key))
        rate = min(rng.random(), self.config.max_edge_dropout)
        return drop_entries(self.graph, rate, rng, rescale=True)

    def target(self, x: Tensor, side: str, batch: SeededPairs) -> Tensor:
        """Targets without gradient: rows ``x (B, d)`` of a batch, with dropout (Eq. 3)."""
        # A pair is in an epoch once, so repeats of a user or an item in a batch have masks of their own.
        pair = batch.users * self.n_items + batch.items
        return row_dropout(x.detach(), pair, self.config.dropout, batch.key + derive_seed(0, side))

    def loss(self, batch: SeededPairs) -> dict[str, Tensor]:
        """``rec`` between users and items and ``reg`` on their embeddings (Eqs. 5, 6)."""
        users, items = propagate_tables(self.draw(batch.key), *self.id_embeddings, self.config.n_layers)
        u = embedding(batch.users, users)  # (B, d)
        i = embedding(batch.items, items)  # (B, d)
        to_items = (self.predictor(u), self.target(i, "items", batch))
        to_users = (self.predictor(i), self.target(u, "users", batch))
        terms = {"rec": self.contrast.symmetric(to_items, to_users)}
        if self.config.reg_weight:
            scale = self.config.reg_weight * distributed.global_rows(u)
            terms["reg"] = scale * half_squares(u, i)
        return terms

    def fold_in(self) -> FoldIn:
        """That of LightGCN, beside itself after the predictor."""
        rule = self.propagated_fold_in(self.graph, self.config.n_layers)
        assert isinstance(rule, MeanFoldIn)
        table = torch.cat([rule.table @ self.predictor.weight.T, rule.table], 1)
        return MeanFoldIn(table, torch.cat([self.predictor.bias, rule.bias]))

    def embed(self) -> tuple[Tensor, Tensor]:
        """``[P(u) ; u]`` and ``[i ; P(i)]`` on the full graph, ``2 d`` wide (Eq. 7)."""
        users, items = propagate_tables(self.graph, *self.id_embeddings, self.config.n_layers)
        return torch.cat([self.predictor(users), users], 1), torch.cat([items, self.predictor(items)], 1)
