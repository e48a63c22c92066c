"""LightGCN: linear propagation of ID embeddings on the user-item graph.

He et al., "LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation", SIGIR 2020,
https://arxiv.org/abs/2002.02126. Embeddings are smoothed over the normalized bipartite graph and averaged
over layers; the ID embeddings are the only parameters.

Differences from the authors' code: the regularizer is that of the toolbox that produced the published Amazon
tables (norms of the batch's ID embeddings over the batch size; the authors use half the squared norms), and
one epoch visits every interaction once (the authors draw as many at random).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from graphrec.data.interactions import Interactions
from graphrec.graphs.graph import Graph, bipartite
from graphrec.models.base import ModelConfig
from graphrec.models.batches import (
    EpochContext,
    NegativesConfig,
    NeighborSamplingConfig,
    PreferencesConfig,
    SeededTriplets,
)
from graphrec.models.fold_in import FoldIn
from graphrec.models.layers import propagate_tables
from graphrec.models.losses import bpr, embedding_norms, score_difference
from graphrec.models.propagation import EmbeddingRanker
from graphrec.models.search_space import Choice, Integers, Space


class LightGCN(EmbeddingRanker):
    """ID embeddings, propagated."""

    class Config(NeighborSamplingConfig, PreferencesConfig, NegativesConfig, ModelConfig):
        """Options of LightGCN."""

        dim: int = Field(64, ge=1)
        """Embedding size."""
        n_layers: int = Field(2, ge=0)
        """Propagation layers; 0 is matrix factorization."""
        reg_weight: float = Field(1e-3, ge=0)
        """Weight of the norms of the batch's ID embeddings."""

    name = "lightgcn"
    data_parallel = "batches"
    search_space: ClassVar[Space] = {
        "n_layers": Integers(1, 4),
        "reg_weight": Choice(1e-5, 1e-4, 1e-3, 1e-2),
        "train.learning_rate": Choice(1e-3, 2e-3, 5e-3),
    }
    config: Config

    def __init__(self, train: Interactions, config: Config) -> None:
        super().__init__(train, config)
        self.graph = bipartite(train)  # Eq. 3

    def batches(self, plan: EpochContext) -> Iterator[SeededTriplets]:
        """Every train interaction once, with negatives."""
        return self.sampler.seeded_triplets(plan, "fanouts")

    def propagate(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """Propagated embeddings ``(n_users, d), (n_items, d)`` (Eqs. 3, 4 and 8)."""
        return propagate_tables(graph, *self.id_embeddings, self.config.n_layers)

    def loss(self, batch: SeededTriplets) -> dict[str, Tensor]:
        """``bpr`` on propagated embeddings and ``reg`` on the ID embeddings (Eq. 15)."""
        final, initial = self.propagate_batch(self.propagate, self.graph, batch, self.config.fanouts)
        return {
            "bpr": bpr(score_difference(*final)),
            "reg": self.config.reg_weight * embedding_norms(*initial()),
        }

    def fold_in(self) -> FoldIn:
        """Exact but for the share of the ID embedding; least squares without layers."""
        return self.propagated_fold_in(self.graph, self.config.n_layers)

    def embed(self) -> tuple[Tensor, Tensor]:
        """Propagated embeddings of all users and items."""
        return self.propagate(self.graph)
