"""What DualGNN, DRAGON, COHESION and MENTOR share: a tower for each modality, in which users have a learned
preference and items what a small network makes of their content, and the propagation of both.

No ID embedding of an item is needed, so that an item is known by its content and its users.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import embedding, normalize

from graphrec.core import distributed
from graphrec.core.config import option
from graphrec.data.interactions import Interactions
from graphrec.graphs.cooccurrence import UserGraph
from graphrec.graphs.graph import Graph, bipartite
from graphrec.models.base import ContentRule, Features
from graphrec.models.batches import BatchSampler, EpochContext, PreferencesConfig, Triplets
from graphrec.models.layers import ItemFeatures, fan_in_uniform_
from graphrec.models.losses import bpr2, mean_squares, score_difference
from graphrec.models.multimodal import (
    ColdItems,
    MultimodalConfig,
    MultimodalRanker,
    WeightedConfig,
    mixed_item_graph,
)
from graphrec.models.propagation import BatchEmbeddings
from graphrec.models.self_supervision import projector, read_out

HIDDEN = 4
"""Width of a tower's hidden layer, in embedding sizes."""
LAYERS = 2
"""Layers on the user-item graph, in all of these models but COHESION."""


class TowersConfig(PreferencesConfig, MultimodalConfig):
    """Options of models with a tower for each modality."""

    dim: int = Field(64, ge=1)
    """Embedding size of each modality."""
    reg_weight: float = Field(1e-3, ge=0)
    """Weight of the mean squares of preferences and modality weights."""
    knn_k: int = Field(10, ge=1)
    """Content neighbors per item and modality, the item itself included."""
    cold_items: Literal["neighbors", "as_trained"] = "neighbors"
    """Embedding of items without train interactions: that of their content neighbors, or what the towers
    make of their content."""


class UserGraphConfig(MultimodalConfig):
    """Options of models with a graph of users."""

    n_user_neighbors: int = Field(40, ge=1)
    """Users who share most items with a user, from whom the user's embedding is completed."""


class ItemGraphConfig(WeightedConfig, MultimodalConfig):
    """Options of models with FREEDOM's graph of items."""

    n_mm_layers: int = Field(1, ge=0)
    """Layers on the item-item graph."""
    image_weight: float = Field(0.1, ge=0, le=1)
    """Weight of the image graph; those of the other modalities share the rest equally. Without effect if
    there is a single modality or no image."""
    graph_cache: Path | None = option(None, affects_result=False)
    """Directory in which neighbors are kept between runs; None computes them each time."""


class Tower(nn.Module):
    """One modality: a learned preference of each user, and ``W2 leaky(W1 x + b1) + b2`` of each item.

    Args:
        n_users: users.
        n_in: width of an item's input.
        dim: embedding size.
        generator: source of the initial parameters.
    """

    def __init__(self, n_users: int, n_in: int, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.preference = nn.Parameter(torch.empty(n_users, dim))
        nn.init.xavier_normal_(self.preference, generator=generator)
        self.mlp = projector(n_in, HIDDEN * dim, dim, generator, fan_in_uniform_)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, dim)`` of inputs ``(n, n_in)``."""
        mapped: Tensor = self.mlp(x)
        return mapped

    def users(self) -> Tensor:
        """The preferences, scaled to length one ``(n_users, dim)``."""
        return normalize(self.preference, dim=1)


class TowerRanker(MultimodalRanker):
    """A ranker with a tower for each modality, in alphabetical order.

    Args:
        train: interactions to learn from.
        features: tables by modality.
        config: the model's options.
        weights: of the modalities, by which items without interactions are placed; default: all alike.
    """

    config: Any
    item_graph: Graph

    def __init__(
        self,
        train: Interactions,
        features: Features,
        config: Any,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.config, self.train_pairs = config, train
        self.sampler = BatchSampler(train)
        self.n_users, self.n_items = train.n_users, train.n_items
        self.graph = bipartite(train)
        self.features = nn.ModuleDict(
            {m: ItemFeatures(table, fill=config.fill, train=train) for m, table in features.items()}
        )
        self.towers = nn.ModuleDict({m: self.tower(table.shape[1], m) for m, table in features.items()})
        self.cold_start_rule = ContentRule(
            dict(weights or dict.fromkeys(features, 1 / len(features))), config.knn_k
        )
        self.cold_items = ColdItems(train, features, self.cold_start_rule, config.cold_items == "neighbors")

    def tower(self, n_in: int, purpose: str) -> Tower:
        """A tower with initial parameters of its own."""
        return Tower(self.n_users, n_in, self.config.dim, self.rng(f"tower/{purpose}"))

    def id_table(self) -> nn.Parameter:
        """An embedding of each item's ID ``(n_items, d)``, the input of a tower without content."""
        table = torch.empty(self.n_items, self.config.dim)
        return nn.Parameter(nn.init.xavier_normal_(table, generator=self.rng("item ids")))

    def modality_weights(self) -> nn.Parameter:
        """How much each modality counts for each user ``(n_users, M)``: at first a softmax of small random
        numbers, about ``1 / M`` each.
        """
        shape = self.n_users, len(self.towers)
        drawn = torch.randn(shape, generator=self.rng("modality weights")) * math.sqrt(2 / sum(shape))
        return nn.Parameter(drawn.softmax(1))

    def batches(self, plan: EpochContext) -> Iterator[Any]:
        """Every train interaction once, with one uniform negative:
        :class:`~graphrec.models.batches.Triplets`.
        """
        return self.sampler.triplets(plan)

    def tower_embeddings(
        self, towers: nn.ModuleDict | None = None, refine: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Users and items of all modalities side by side, rows of length one in each, zero where an item
        lacks it ``(n_users, M d), (n_items, M d)``.

        Args:
            towers: by modality; default: the model's.
            refine: changes what a tower makes of the items ``(n_items, d)``, before it is scaled.
        """
        users, items = [], []
        for m, tower in (towers or self.towers).items():
            features = cast(ItemFeatures, self.features[m])
            mapped = tower(features.values)
            mapped = mapped if refine is None else refine(mapped)
            users.append(cast(Tower, tower).users())
            items.append(torch.where(features.present[:, None], normalize(mapped, dim=1), 0))
        return torch.cat(users, 1), torch.cat(items, 1)

    def propagated_towers(self) -> tuple[Tensor, Tensor]:
        """The sum of :meth:`tower_embeddings` and of its two layers on the user-item graph."""
        return read_out(self.graph, *self.tower_embeddings(), LAYERS, "sum")

    def frozen_item_graph(self, features: Features, weights: Mapping[str, float]) -> Graph:
        """FREEDOM's graph of items, for models with :class:`ItemGraphConfig`."""
        c = self.config
        return mixed_item_graph(
            features, weights, c.knn_k, cache=c.graph_cache, fill=c.fill, train=self.train_pairs
        )

    def completed(self, items: Tensor) -> Tensor:
        """Items ``(n_items, w)``, plus those of their content neighbors."""
        neighbors = items
        for _ in range(self.config.n_mm_layers):
            neighbors = self.item_graph @ neighbors
        return items + neighbors

    def regularization(self, users: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """``reg_preference`` of a batch's users ``(B,)`` and ``reg_weight`` of all users' weights
        ``(n_users, M)``.
        """
        return {
            "reg_preference": self.preference_penalty(users, self.towers.values()),
            "reg_weight": self.config.reg_weight * distributed.replicated(weights.square().mean()),
        }

    def preference_penalty(self, users: Tensor, towers: Iterable[nn.Module]) -> Tensor:
        """The weighted mean squares of the preferences of a batch's users ``(B,)`` in some towers."""
        rows = [embedding(users, cast(Tower, tower).preference) for tower in towers]
        penalty: Tensor = self.config.reg_weight * mean_squares(*rows)
        return penalty


class UserGraphRanker(TowerRanker):
    """A tower ranker whose users are completed by those who share most items with them. A subclass defines
    :meth:`propagate`.
    """

    def __init__(
        self,
        train: Interactions,
        features: Features,
        config: Any,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(train, features, config, weights)
        self.user_weight = self.modality_weights()
        self.user_graph = UserGraph(train, config.n_user_neighbors)

    def start_epoch(self, rng: np.random.Generator) -> None:
        """Repeats the neighbors of users who have few of them anew."""
        self.user_graph.draw(rng)

    def propagate(self, user_graph: Graph) -> tuple[Tensor, Tensor]:
        """User and item embeddings over one graph of users ``(n_users, w), (n_items, w)``."""
        raise TypeError(f"{type(self).__name__} does not define propagate()")

    def loss(self, batch: Triplets) -> dict[str, Tensor]:
        """``bpr``, and the regularizers of preferences and weights."""
        final = BatchEmbeddings.lookup(batch, *self.propagate(self.user_graph.epoch_graph))
        terms = self.regularization(batch.users, self.user_weight)
        return {"bpr": bpr2(score_difference(*final)), **terms}

    def embed(self) -> tuple[Tensor, Tensor]:
        """Embeddings with all neighbors repeated alike, cold items by their neighbors."""
        users, items = self.propagate(self.user_graph.graph)
        return users, self.cold_items(items)


def weighted(users: Tensor, weights: Tensor) -> Tensor:
    """Each user's modalities side by side ``(n_users, M d)``, times that user's weights ``(n_users, M)``."""
    return (users.view(*weights.shape, -1) * weights[:, :, None]).flatten(1)
