"""What models share that make a vector of every item's content at each step, and ID embeddings beside it."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import linear as apply_linear

from graphrec.data.interactions import Interactions
from graphrec.features import FeatureTable
from graphrec.models import layers
from graphrec.models.base import ContentRule, Features
from graphrec.models.batches import PreferencesConfig
from graphrec.models.layers import ItemFeatures
from graphrec.models.multimodal import ColdItems, MultimodalConfig, MultimodalRanker
from graphrec.models.propagation import EmbeddingRanker


class ItemContentConfig(PreferencesConfig, MultimodalConfig):
    """Options of models that make a vector of every item's content at each step."""

    dim: int = Field(64, ge=1)
    """Embedding size."""
    knn_k: int = Field(10, ge=1)
    """Content neighbors per modality by which items without train interactions are placed."""
    cold_items: Literal["neighbors", "as_trained"] = "neighbors"
    """Embedding of items without train interactions."""


class ItemContentRanker(MultimodalRanker, EmbeddingRanker):
    """A ranker with the content of all items in every step. Items without train interactions are placed by
    their content neighbors, all modalities alike.

    Args:
        train: interactions to learn from.
        features: feature tables of items by modality.
        config: the model's options.
    """

    config: ItemContentConfig

    def __init__(self, train: Interactions, features: Features, config: Any) -> None:
        super().__init__(train, config)
        self.cold_start_rule = ContentRule(dict.fromkeys(features, 1 / len(features)), config.knn_k)
        self.cold_items = ColdItems(train, features, self.cold_start_rule, config.cold_items == "neighbors")

    def draw_normal_ids(self) -> None:
        """Draws the ID embeddings as one Xavier-normal table of users and items ``(n_users + n_items, d)``,
        as models that have one table for both do.
        """
        n, dim = self.n_users + self.n_items, self.config.dim
        for side, table in zip(("users", "items"), self.id_embeddings, strict=True):
            nn.init.normal_(table, std=math.sqrt(2 / (n + dim)), generator=self.rng(side))


class ItemContent(nn.Module):
    """The vectors of all items in one modality, and a linear map of them.

    Args:
        table: features ``(n_items, d_m)``.
        n_out: width of the map; None: there is none, and vectors are given as they are.
        config: the model's options.
        train: the interactions, for ``fill="neighbors"``.
        generator: of the map's initial parameters.
        weight: initializes the map's matrix.
        unit: divide vectors by their lengths first; they are frozen then.
        train_features: train the vectors as well.
        bias: whether the map has one.

    Attributes:
        dim: width of what it gives.
        has_gaps: whether some item has no content here.
    """

    scale: Tensor | None

    def __init__(
        self,
        table: FeatureTable,
        n_out: int | None,
        config: MultimodalConfig,
        train: Interactions,
        generator: torch.Generator,
        weight: Any = nn.init.xavier_uniform_,
        unit: bool = False,
        train_features: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.features = ItemFeatures(table, train_features, fill=config.fill, train=train)
        make = layers.linear if bias else layers.projection
        self.projection = None if n_out is None else make(table.dim, n_out, generator, weight)
        self.dim = n_out or table.dim
        self.has_gaps = not bool(self.features.present.all())
        # Of the lengths' inverses, as a second table of features would take much more memory.
        lengths = self.features.values.norm(dim=1, keepdim=True).clamp(min=1e-12)
        self.register_buffer("scale", 1 / lengths if unit else None, persistent=False)  # (n_items, 1)

    def forward(self) -> Tensor:
        """``W x + b`` of all items ``(n_items, n_out)``; zero for items without content, bias included."""
        x = self.features.values
        if self.projection is not None:
            x = apply_linear(x, self.projection.weight)
        if self.scale is not None:
            x = x * self.scale
        if self.projection is not None and self.projection.bias is not None:
            x = x + self.projection.bias
            if self.has_gaps:
                x = x * self.features.present[:, None]
        return x
