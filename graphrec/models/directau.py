"""DirectAU: users near their items, and users and items each spread over the sphere; no negatives.

Wang et al., "Towards Representation Alignment and Uniformity in Collaborative Filtering", KDD 2022,
https://arxiv.org/abs/2206.12811. The loss sees directions alone; scores are inner products, as in the
authors' code, or cosines (``score``).

Defaults are those of the authors' code: ID embeddings without propagation (``n_layers=0``). Users and items
that occur several times in a batch count as often, as in the code.

``Eq. n`` refers to the numbered equations in docs/models/directau.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import embedding, normalize

from graphrec.data.interactions import Interactions
from graphrec.graphs.graph import Graph, bipartite
from graphrec.models import layers
from graphrec.models.base import ModelConfig
from graphrec.models.batches import EpochContext, Pairs, PreferencesConfig
from graphrec.models.fold_in import FoldIn
from graphrec.models.losses import AlignmentUniformity
from graphrec.models.propagation import EmbeddingRanker
from graphrec.models.search_space import Choice, Integers, Space


class DirectAU(EmbeddingRanker):
    """ID embeddings, propagated or not, trained for alignment and uniformity."""

    class Config(PreferencesConfig, ModelConfig):
        """Options of DirectAU."""

        dim: int = Field(64, ge=1)
        """Embedding size."""
        n_layers: int = Field(0, ge=0)
        """Propagation layers, whose mean with the ID embeddings is used; 0 is matrix factorization."""
        gamma: float = Field(1.0, ge=0)
        """Weight of uniformity."""
        score: Literal["dot", "cosine"] = "dot"
        """Score by inner products, or by cosines as the loss sees them."""

    name = "directau"
    data_parallel = "batches"
    train_defaults: ClassVar = {"batch_size": 1024, "weight_decay": 1e-6}
    search_space: ClassVar[Space] = {
        "n_layers": Integers(0, 3),
        "gamma": Choice(0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
        "score": Choice("dot", "cosine"),
        "train.learning_rate": Choice(1e-3, 2e-3, 5e-3),
    }
    config: Config

    def __init__(self, train: Interactions, config: Config) -> None:
        super().__init__(train, config)
        for side, table in zip(("users", "items"), self.id_embeddings, strict=True):
            nn.init.xavier_normal_(table, generator=self.rng(side))
        self.graph = bipartite(train)
        self.alignment_uniformity = AlignmentUniformity(config.gamma)

    def batches(self, plan: EpochContext) -> Iterator[Pairs]:
        """Every train interaction once."""
        for users, items in self.sampler.pairs(plan):
            yield Pairs(torch.from_numpy(users), torch.from_numpy(items))

    def propagate(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """Embeddings whose directions the loss sees ``(n_users, d), (n_items, d)``."""
        return layers.propagate_tables(graph, *self.id_embeddings, self.config.n_layers)

    def loss(self, batch: Pairs) -> dict[str, Tensor]:
        """``alignment_uniformity`` (Eqs. 1 to 3)."""
        users, items = self.propagate(self.graph)
        rows = embedding(batch.users, users), embedding(batch.items, items)
        return {"alignment_uniformity": self.alignment_uniformity(*rows)}

    def embed(self) -> tuple[Tensor, Tensor]:
        """Embeddings whose inner products are the scores."""
        users, items = self.propagate(self.graph)
        if self.config.score == "cosine":
            return normalize(users, dim=1), normalize(items, dim=1)
        return users, items

    def fold_in(self) -> FoldIn:
        """Exact but for the share of the ID embedding; least squares without layers."""
        return self.propagated_fold_in(self.graph, self.config.n_layers)
