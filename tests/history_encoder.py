"""A model of one file that encodes histories: the mean of item vectors, compared with other item vectors.

The scoring of FISM, Kabbur et al., KDD 2013, https://doi.org/10.1145/2487575.2487589, without biases.
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field

from graphrec.data import Histories, Query
from graphrec.models.base import ModelConfig, Ranker
from graphrec.models.batches import triplets
from graphrec.models.capabilities import Encoder
from graphrec.models.layers import embedding
from graphrec.models.losses import bpr


class MeanEncoder(Encoder):
    """The mean of the vectors of a history's items; zero for an empty history."""

    def __init__(self, n_items, dim):
        super().__init__(n_items=n_items, dim=dim)
        self.table = torch.nn.Parameter(torch.zeros(n_items, dim))

    def forward(self, query):
        histories = query.histories
        items, offsets = torch.from_numpy(histories.items), torch.from_numpy(histories.indptr[:-1].copy())
        return torch.nn.functional.embedding_bag(items, self.table, offsets, mode="mean")


class MeanHistory(Ranker):
    """Scores an item by its similarity to the mean of a history."""

    class Config(ModelConfig):
        """Options of the mean of a history."""

        dim: int = Field(16, ge=1)
        """Embedding size."""

    name = "mean-history"
    capability = "encoder"
    encoder_class = MeanEncoder
    data_parallel = None

    def __init__(self, train, config):
        super().__init__()
        self.config, self.train_pairs = config, train
        self.n_users, self.n_items = train.n_users, train.n_items
        self.histories = Histories.from_interactions(train)
        self.encoder = MeanEncoder(train.n_items, config.dim)
        with torch.no_grad():
            self.encoder.table.copy_(embedding(train.n_items, config.dim, self.rng("inputs")).weight)
        self.items = embedding(train.n_items, config.dim, self.rng("items"))

    @classmethod
    def build(cls, data, features=None, config=None):
        return cls(data.train, config or cls.Config())

    def batches(self, plan):
        return triplets(self.train_pairs, plan)

    def loss(self, batch):
        known = self.histories.take(batch.users.numpy())
        # The positive does not predict itself.
        kept = known.items != batch.positives.numpy()[known.row_indices]
        lengths = np.bincount(known.row_indices[kept], minlength=len(known))
        rest = Histories(known.items[kept], np.concatenate([[0], np.cumsum(lengths)]))
        vectors = self.encoder(Query(histories=rest))
        difference = self.items(batch.positives) - self.items(batch.negatives)
        return {"bpr": bpr((vectors * difference).sum(1))}

    def item_embeddings(self):
        return self.items.weight
