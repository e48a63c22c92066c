"""MF-BPR: matrix factorization trained with Bayesian personalized ranking.

Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009,
https://arxiv.org/abs/1205.2618.

Differences from the paper: Adam over mini-batches instead of plain stochastic gradient descent, and the
regularizer of the toolbox that produced the published Amazon tables (norms of the batch's embeddings over the
batch size).
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from graphrec.models.base import ModelConfig
from graphrec.models.batches import NegativesConfig, Triplets
from graphrec.models.losses import bpr, embedding_norms, score_difference
from graphrec.models.propagation import BatchEmbeddings, EmbeddingRanker
from graphrec.models.search_space import Choice, Space


class MF(EmbeddingRanker):
    """One embedding per user and one per item; the score is their inner product."""

    class Config(NegativesConfig, ModelConfig):
        """Options of MF-BPR."""

        dim: int = Field(64, ge=1)
        """Embedding size."""
        reg_weight: float = Field(0.1, ge=0)
        """Weight of the embedding norms."""

    name = "mf"
    data_parallel = "batches"
    search_space: ClassVar[Space] = {
        "reg_weight": Choice(1e-3, 1e-2, 1e-1, 0.3),
        "train.learning_rate": Choice(1e-3, 2e-3, 5e-3),
    }
    config: Config

    def loss(self, batch: Triplets) -> dict[str, Tensor]:
        """``bpr`` and ``reg``."""
        embeddings = BatchEmbeddings.lookup(batch, *self.id_embeddings)
        return {
            "bpr": bpr(score_difference(*embeddings)),
            "reg": self.config.reg_weight * embedding_norms(*embeddings),
        }

    def embed(self) -> tuple[Tensor, Tensor]:
        """User and item embeddings ``(n_users, d), (n_items, d)``."""
        return self.id_embeddings
