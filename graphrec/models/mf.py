"""MF-BPR: matrix factorization with Bayesian personalized ranking.

Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009,
https://arxiv.org/abs/1205.2618.

Differences from the paper: Adam over mini-batches instead of plain stochastic gradient descent, and the
regularizer of the toolbox that produced the published Amazon tables (norms of the batch's embeddings over the
batch size).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Self

from pydantic import Field
from torch import Tensor

from graphrec.data.dataset import Dataset
from graphrec.data.interactions import Interactions
from graphrec.models.base import Features, ModelConfig, Ranker
from graphrec.models.batches import EpochContext, InGroupNegatives, Triplets, triplets
from graphrec.models.layers import embedding
from graphrec.models.losses import bpr, embedding_norms
from graphrec.models.search_space import Choice, Space


class MF(Ranker):
    """One vector per user, one per item, their inner product is the score."""

    class Config(ModelConfig):
        """Options of MF-BPR."""

        dim: int = Field(64, ge=1)
        """Embedding size."""
        reg_weight: float = Field(0.1, ge=0)
        """Weight of the embedding norms."""
        local_negatives: float = Field(0.0, ge=0, le=1)
        """Share of negatives from the positive's repository; for datasets of ``graphrec data git``."""

    name = "mf"
    data_parallel = "batches"
    search_space: ClassVar[Space] = {
        "reg_weight": Choice(1e-3, 1e-2, 1e-1, 0.3),
        "train.learning_rate": Choice(1e-3, 2e-3, 5e-3),
    }
    config: Config
    local: InGroupNegatives | None = None

    def __init__(self, train: Interactions, config: Config) -> None:
        super().__init__()
        self.config, self.train_pairs = config, train
        self.n_users, self.n_items = train.n_users, train.n_items
        self.user_embedding = embedding(self.n_users, config.dim, self.rng("users"))  # (n_users, d)
        self.item_embedding = embedding(self.n_items, config.dim, self.rng("items"))  # (n_items, d)

    @classmethod
    def build(cls, data: Dataset, features: Features | None = None, config: Any = None) -> Self:
        """See :meth:`graphrec.models.base.Model.build`; features are not used."""
        model = cls(data.train, config or cls.Config())
        model.local = InGroupNegatives.from_dataset(data, model.config.local_negatives)
        return model

    def batches(self, plan: EpochContext) -> Iterator[Triplets]:
        """Every train interaction once, with one negative."""
        return triplets(self.train_pairs, plan, self.local)

    def loss(self, batch: Triplets) -> dict[str, Tensor]:
        """``bpr`` and ``reg``."""
        u = self.user_embedding(batch.users)  # (B, d)
        p, n = self.item_embedding(batch.positives), self.item_embedding(batch.negatives)  # (B, d)
        return {
            "bpr": bpr((u * (p - n)).sum(1)),
            "reg": self.config.reg_weight * embedding_norms(u, p, n),
        }

    def embed(self) -> tuple[Tensor, Tensor]:
        """The two tables."""
        return self.user_embedding.weight, self.item_embedding.weight
