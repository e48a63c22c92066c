"""AlphaRec: collaborative filtering on vectors of a language model, without ID embeddings.

Sheng et al., "Language Representations Can be What Recommenders Need: Findings and Potentials", ICLR 2025,
https://arxiv.org/abs/2407.05441. Frozen content vectors of items, and their means as vectors of users, go
through one learned map and are propagated over the user-item graph; scores are cosines. What is learned
belongs to no user and no item, so it can be used on another catalog (:meth:`AlphaRec.transfer`).

``Eq. n`` refers to the numbered equations in docs/models/alpharec.md.

The linear map commutes with propagation. The vectors are propagated once, when the model is built, and a step
projects the rows of its batch; it has no sparse product.

Differences from the authors' code:
- the default map is linear, as in the first half of the paper; the published tables are ``projector="mlp"``;
- vectors of all modalities are taken, side by side and scaled to length one, which those of the authors'
  language model have already; theirs are of titles alone;
- users without train items have a vector of zeros; in the code they are missing and the vectors of all users
  after them are off by one;
- an epoch visits every interaction once, the last batch included; the code draws as many pairs, of all users
  in turn;
- negatives are items that occur in train.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal, Self, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import embedding, normalize

from graphrec.core.errors import FeatureError
from graphrec.data.dataset import Dataset
from graphrec.data.interactions import Interactions
from graphrec.features import FeatureTable
from graphrec.graphs.graph import bipartite
from graphrec.models import layers, self_supervision
from graphrec.models.base import ContentProjection, Features
from graphrec.models.batches import EpochContext, Triplets, triplets_by_batch
from graphrec.models.fold_in import FoldIn, MeanFoldIn
from graphrec.models.layers import ItemFeatures
from graphrec.models.losses import SampledSoftmax
from graphrec.models.multimodal import (
    CombinedConfig,
    MultimodalRanker,
    check_same_extractor,
    combined,
    combined_rule,
    user_means,
)
from graphrec.models.search_space import Choice, Integers, Space


class AlphaRec(MultimodalRanker):
    """Content vectors through a learned map, propagated."""

    class Config(CombinedConfig):
        """Options of AlphaRec."""

        dim: int = Field(64, ge=1)
        """Embedding size."""
        n_layers: int = Field(2, ge=0)
        """Propagation layers, whose mean with the mapped vectors is used."""
        projector: Literal["linear", "mlp"] = "linear"
        """The learned map: a matrix, or two layers with a LeakyReLU between them."""
        hidden_dim: int | None = Field(None, ge=1)
        """Size of the hidden layer of ``mlp``; None: half as many as the content vectors have."""
        temperature: float = Field(0.15, gt=0)
        """Temperature of the softmax."""
        n_negatives: int = Field(256, ge=1)
        """Negatives of each interaction."""

    name = "alpharec"
    data_parallel = "batches"
    train_defaults: ClassVar = {"batch_size": 4096, "learning_rate": 5e-4}
    search_space: ClassVar[Space] = {
        "projector": Choice("linear", "mlp"),
        "n_layers": Integers(1, 3),
        "temperature": Choice(0.05, 0.1, 0.15, 0.2),
        "train.learning_rate": Choice(5e-4, 1e-3, 2e-3),
    }
    config: Config

    def __init__(self, train: Interactions, tables: Mapping[str, FeatureTable], config: Config) -> None:
        super().__init__()
        self.config, self.train_pairs = config, train
        self.n_users, self.n_items = train.n_users, train.n_items
        self.tables = dict(tables)
        self.graph = bipartite(train)
        users, items = self.content()
        self.f = projector(config, users.shape[1], self.rng("projector"))
        if config.projector == "linear":
            users, items = layers.propagate_features(self.graph, users, items, config.n_layers)
        # What f is applied to: (n_users, d_t), (n_items, d_t).
        self.users, self.items = (ItemFeatures(as_table(values)) for values in (users, items))
        self.softmax = SampledSoftmax(config.temperature)

    def content(self) -> tuple[Tensor, Tensor]:
        """Content vectors of users and of items ``(n_users, d_t), (n_items, d_t)`` (Eq. 1)."""
        items = combined(self.tables, self.config, self.train_pairs)
        users, _ = user_means(self.train_pairs, items)
        return users, items

    def batches(self, plan: EpochContext) -> Iterator[Triplets]:
        """Every train interaction once, with negatives ``(B, n)``."""
        return triplets_by_batch(self.train_pairs, plan, self.config.n_negatives)

    def propagate(self) -> tuple[Tensor, Tensor]:
        """Embeddings of all users and items ``(n_users, d), (n_items, d)``, float32 also in mixed precision
        (Eqs. 2 and 3).
        """
        users, items = (self.f(side.values).float() for side in (self.users, self.items))
        if self.config.projector == "linear":
            return users, items
        return layers.propagate_tables(self.graph, users, items, self.config.n_layers)

    def rows(self, features: ItemFeatures, index: Tensor) -> tuple[Tensor, Tensor]:
        """Linearly mapped rows ``(D, d) float32``, and which of them each entry of ``index`` is."""
        weight = cast(nn.Linear, self.f[0]).weight
        if index.numel() >= len(features.values):
            return nn.functional.linear(features.values, weight).float(), index
        distinct, place = index.unique(return_inverse=True)
        return features.projected(weight, distinct), place

    def loss(self, batch: Triplets) -> dict[str, Tensor]:
        """``sampled_softmax`` of cosines (Eq. 4)."""
        u, p, n = batch
        if self.config.projector == "linear":
            users, u = self.rows(self.users, u)
            items, place = self.rows(self.items, torch.cat([p[:, None], n], 1))
            p, n = place[:, 0], place[:, 1:]
        else:
            users, items = self.propagate()
        users, items = embedding(u, normalize(users, dim=1)), normalize(items, dim=1)
        positives = (users * embedding(p, items)).sum(1)  # (B,)
        negatives = layers.sampled_products(users, items, n)  # (B, n)
        return {"sampled_softmax": self.softmax(positives, negatives)}

    def embed(self) -> tuple[Tensor, Tensor]:
        """Embeddings of length one, so that their inner products are the scores (Eq. 5)."""
        users, items = self.propagate()
        return normalize(users, dim=1), normalize(items, dim=1)

    def fold_in(self) -> FoldIn:
        """What the items of a history add after propagation, and the mean of their mapped vectors, which with
        the linear map is the user's own: exact then but for the latter's weight, for which the user has as
        many items as users have on average.
        """
        n_layers, train = self.config.n_layers, self.train_pairs
        users, items = (self.f(values.to(self.graph.device)) for values in self.content())
        if not n_layers:
            return MeanFoldIn(items, items.new_zeros(items.shape[1]))
        degree = train.user_degree
        mean_degree = max(float(degree[degree > 0].mean()), 1.0) if degree.any() else 1.0
        own = items / ((n_layers + 1) * math.sqrt(mean_degree))
        table = layers.fold_in_table(self.graph, users, items, n_layers, train.item_degree) + own
        return MeanFoldIn(table, table.new_zeros(table.shape[1]))

    @property
    def cold_start_rule(self) -> ContentProjection | None:  # type: ignore[override]  # follows the weights
        """The direction of ``W t``, which is what an item without interactions has; None with ``mlp``, whose
        map is no projection.
        """
        if self.config.projector == "mlp":
            return None
        return combined_rule(self.tables, self.config, cast(nn.Linear, self.f[0]).weight)

    def transfer(self, data: Dataset, features: Features) -> Self:
        """The model of another dataset with this model's map, which is not trained further.

        Args:
            data: the other dataset.
            features: its features: the same modalities, from the same extractors.

        Raises:
            FeatureError: there are other modalities, or vectors that cannot be compared.
        """
        model = type(self).build(data, features, self.config)
        if model.tables.keys() != self.tables.keys():
            raise FeatureError(
                f"{data.name} has features {sorted(model.tables)}, and the map was learned with "
                f"{sorted(self.tables)}; give the same modalities"
            )
        for modality, own in self.tables.items():
            check_same_extractor(modality, own, model.tables[modality])
        model.f.load_state_dict(self.f.state_dict())
        return model.to(self.graph.device)


def projector(config: AlphaRec.Config, n_in: int, rng: torch.Generator) -> nn.Sequential:
    """The map ``f`` from content vectors to embeddings, with the initial values that torch gives a layer."""
    if config.projector == "linear":
        return nn.Sequential(layers.projection(n_in, config.dim, rng, layers.fan_in_uniform_))
    hidden = config.hidden_dim or max(1, n_in // 2)
    return self_supervision.projector(n_in, hidden, config.dim, rng, layers.fan_in_uniform_)


def as_table(values: Tensor) -> FeatureTable:
    """Vectors ``(n, d)`` as a table, without a copy."""
    array = values.numpy()
    array.setflags(write=False)  # a table copies what may change
    return FeatureTable(array)
