"""LightGCN: linear propagation on the user-item graph.

He et al., "LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation", SIGIR 2020,
https://arxiv.org/abs/2002.02126. Embeddings are smoothed over the normalized bipartite graph and averaged
over layers; there are no weights but the ID embeddings.

Differences from the authors' code: the regularizer is that of the toolbox that produced the published Amazon
tables (norms of the batch's ID embeddings over the batch size; the authors use half the squared norms), and
one epoch visits every interaction once (the authors draw as many at random).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import embedding as rows

from graphrec.data.dataset import Dataset
from graphrec.data.interactions import Interactions
from graphrec.graphs.graph import bipartite
from graphrec.graphs.neighbor_sampling import Fanouts, check_fanouts, propagated
from graphrec.models.base import Features, ModelConfig, Ranker
from graphrec.models.batches import (
    EpochContext,
    InGroupNegatives,
    Preferences,
    SeededTriplets,
    keyed,
    triplets,
)
from graphrec.models.layers import embedding, propagate
from graphrec.models.losses import bpr, embedding_norms
from graphrec.models.search_space import Choice, Integers, Space


class LightGCN(Ranker):
    """ID embeddings, propagated."""

    class Config(ModelConfig):
        """Options of LightGCN."""

        dim: int = Field(64, ge=1)
        """Embedding size."""
        n_layers: int = Field(2, ge=0)
        """Propagation layers; 0 is matrix factorization."""
        reg_weight: float = Field(1e-3, ge=0)
        """Weight of the norms of the batch's ID embeddings."""
        local_negatives: float = Field(0.0, ge=0, le=1)
        """Share of negatives from the positive's repository; for datasets of ``graphrec data git``."""
        augmented: float = Field(0.0, ge=0, le=1)
        """Preferences of a language model added to a batch, as a share of it (``graphrec llm``)."""
        fanouts: Fanouts = None
        """Train on sampled neighborhoods: most neighbors of a node by layer, the last layer's first; -1 is
        all. None propagates over the whole graph in every step."""

        @model_validator(mode="after")
        def _one_of_each_layer(self) -> Self:
            check_fanouts(self.fanouts, self.n_layers)
            return self

    name = "lightgcn"
    data_parallel = "batches"
    search_space: ClassVar[Space] = {
        "n_layers": Integers(1, 4),
        "reg_weight": Choice(1e-5, 1e-4, 1e-3, 1e-2),
        "train.learning_rate": Choice(1e-3, 2e-3, 5e-3),
    }
    config: Config
    local: InGroupNegatives | None = None

    def __init__(self, train: Interactions, config: Config) -> None:
        super().__init__()
        self.config, self.train_pairs = config, train
        self.n_users, self.n_items = train.n_users, train.n_items
        self.graph = bipartite(train)  # Eq. 3
        self.user_embedding = embedding(self.n_users, config.dim, self.rng("users"))  # (n_users, d)
        self.item_embedding = embedding(self.n_items, config.dim, self.rng("items"))  # (n_items, d)
        self.sparse_gradients = config.fanouts is not None

    @classmethod
    def build(cls, data: Dataset, features: Features | None = None, config: Any = None) -> Self:
        """See :meth:`graphrec.models.base.Model.build`; of features only preferences are used."""
        model = cls(data.train, config or cls.Config())
        model.preferences = Preferences.from_features(data, features, model.config.augmented)
        model.local = InGroupNegatives.from_dataset(data, model.config.local_negatives)
        return model

    def batches(self, plan: EpochContext) -> Iterator[SeededTriplets]:
        """Every train interaction once, with one negative, and preferences."""
        return keyed(triplets(self.train_pairs, plan, self.local, self.preferences), plan, "fanouts")

    def loss(self, batch: SeededTriplets) -> dict[str, Tensor]:
        """``bpr`` on propagated embeddings and ``reg`` on the ID embeddings (Eq. 15)."""
        (u, p, n), own = self.propagated(batch)  # (B, d)
        return {
            "bpr": bpr((u * (p - n)).sum(1)),
            "reg": self.config.reg_weight * embedding_norms(*own),
        }

    def propagated(self, batch: SeededTriplets) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Embeddings of the batch's users, positives and negatives, and their ID embeddings."""
        tables = self.user_embedding.weight, self.item_embedding.weight
        if self.config.fanouts is None:
            (users, items), (u, p, n) = self.embed(), batch[:3]
            found = rows(u, users), rows(p, items), rows(n, items)
            return found, (rows(u, tables[0]), rows(p, tables[1]), rows(n, tables[1]))
        asked = batch.users, batch.positives + self.n_users, batch.negatives + self.n_users
        return propagated(self.graph, *tables, asked, self.config.fanouts, batch.key)

    def embed(self) -> tuple[Tensor, Tensor]:
        """Propagated embeddings ``(n_users, d), (n_items, d)`` (Eqs. 3, 4 and 8)."""
        x = torch.cat([self.user_embedding.weight, self.item_embedding.weight])  # (n_users + n_items, d)
        x = propagate(self.graph, x, self.config.n_layers)
        return x[: self.n_users], x[self.n_users :]
