"""LayerGCN: propagation whose layers are weighted by their similarity with the ID embeddings.

Zhou et al., "Layer-refined Graph Convolutional Networks for Recommendation", ICDE 2023,
https://arxiv.org/abs/2207.11088. Each node's embedding is scaled after each layer by its cosine with the
node's ID embedding, which slows over-smoothing down; the readout is the sum of the layers without the ID
embeddings. In each epoch a share of the edges is pruned, those of popular users and items most.

Differences from the authors' code: losses are means over the batch, where the code has sums (the terms are in
the same proportion); edges are pruned by degree in every epoch, where the code takes turns between degrees
and chance (``prune="mixed"`` draws one of the two in each epoch).

``Eq. n`` refers to the numbered equations in docs/models/layergcn.md.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from graphrec.data.interactions import Interactions
from graphrec.graphs.graph import Graph, bipartite, degree_probability, sample_edges
from graphrec.models.base import ModelConfig
from graphrec.models.batches import NegativesConfig, PreferencesConfig, Triplets
from graphrec.models.layers import refine
from graphrec.models.losses import bpr, half_squares, score_difference
from graphrec.models.propagation import BatchEmbeddings, EmbeddingRanker
from graphrec.models.search_space import Choice, Integers, Space


class LayerGCN(EmbeddingRanker):
    """ID embeddings, propagated in refined layers."""

    class Config(PreferencesConfig, NegativesConfig, ModelConfig):
        """Options of LayerGCN."""

        dim: int = Field(64, ge=1)
        """Embedding size."""
        n_layers: int = Field(4, ge=1)
        """Propagation layers."""
        dropout: float = Field(0.1, ge=0, lt=1)
        """Share of user-item edges pruned each epoch; 0 trains on the full graph."""
        prune: Literal["degree", "uniform", "mixed"] = "degree"
        """Which edges are pruned: those of popular users and items most, all alike, or in each epoch one of
        the two by chance."""
        reg_weight: float = Field(1e-3, ge=0)
        """Weight of half the squares of the batch's ID embeddings."""

    name = "layergcn"
    data_parallel = "batches"
    search_space: ClassVar[Space] = {
        "n_layers": Integers(1, 6),
        "dropout": Choice(0.0, 0.1, 0.2, 0.5),
        "reg_weight": Choice(1e-5, 1e-4, 1e-3, 1e-2),
        "train.learning_rate": Choice(1e-3, 2e-3, 5e-3),
    }
    config: Config

    def __init__(self, train: Interactions, config: Config) -> None:
        super().__init__(train, config)
        self.full_graph = bipartite(train)
        self.epoch_graph = self.full_graph
        self.edge_probability = degree_probability(train)  # Eq. 3

    def start_epoch(self, rng: np.random.Generator) -> None:
        """Prunes the user-item graph: keeps a share of edges, with degrees recomputed on them (Eq. 3)."""
        if not self.config.dropout:
            return
        uniform = self.config.prune == "uniform" or (self.config.prune == "mixed" and rng.random() < 0.5)
        probability = np.ones(len(self.train_pairs)) if uniform else self.edge_probability
        is_kept = sample_edges(probability, int(len(probability) * (1 - self.config.dropout)), rng)
        self.epoch_graph = bipartite(self.train_pairs.where(is_kept)).to(self.full_graph.device)

    def propagate(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """User and item embeddings over one user-item graph ``(n_users, d), (n_items, d)`` (Eqs. 1 and 2)."""
        initial = torch.cat(self.id_embeddings)  # (n_users + n_items, d)
        x = refine(graph @ initial, initial)
        total = x
        for _ in range(self.config.n_layers - 1):
            x = refine(graph @ x, initial)
            total = total + x
        return total[: self.n_users], total[self.n_users :]

    def loss(self, batch: Triplets) -> dict[str, Tensor]:
        """``bpr`` on propagated embeddings and ``reg`` on the ID embeddings (Eq. 4)."""
        final = BatchEmbeddings.lookup(batch, *self.propagate(self.epoch_graph))
        initial = BatchEmbeddings.lookup(batch, *self.id_embeddings)
        return {
            "bpr": bpr(score_difference(*final)),
            "reg": self.config.reg_weight * half_squares(*initial),
        }

    def embed(self) -> tuple[Tensor, Tensor]:
        """Embeddings on the full graph."""
        return self.propagate(self.full_graph)
