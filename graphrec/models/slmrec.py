"""SLMRec: three views of an item, fused for ranking and contrasted with each other.

Tao et al., "Self-supervised Learning for Multimedia Recommendation", IEEE Transactions on Multimedia 2022,
https://ieeexplore.ieee.org/document/9811387; of its three tasks, feature fine and coarse (FAC).

``Eq. n`` refers to the numbered equations in docs/models/slmrec.md.

Differences from the authors' code:
- the heads of the modalities have no bias: it adds the same to all logits of a row, and its gradient in the
  code is zero;
- scores are inner products, of which the code takes the sigmoid, with the same ranking;
- any number of modalities, each on a level of its own; the code has two, image and text;
- evaluation uses the current parameters, not what the last step computed;
- items without a modality are zeros in it, or filled (``fill``), and take no part in its contrast; items
  without train interactions get the embedding of their content neighbors (``cold_items="as_trained"`` leaves
  them).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import embedding

from graphrec.data.interactions import Interactions
from graphrec.graphs.graph import bipartite
from graphrec.models.base import Features
from graphrec.models.batches import EpochContext, Pairs
from graphrec.models.fold_in import FoldIn, MeanFoldIn
from graphrec.models.item_content import ItemContent, ItemContentConfig, ItemContentRanker
from graphrec.models.layers import fold_in_table, linear, projection, propagate_tables
from graphrec.models.losses import InfoNCE
from graphrec.models.search_space import Choice, Space


class SLMRec(ItemContentRanker):
    """LightGCN over IDs and over the content of each modality, fused by a linear map."""

    class Config(ItemContentConfig):
        """Options of SLMRec."""

        n_layers: int = Field(3, ge=1)
        """Layers on the user-item graph."""
        temperature: float = Field(0.2, gt=0)
        """Temperature of the softmax over the items of a batch."""
        contrast_weight: float = Field(0.1, ge=0)
        """Weight of the contrast between views of an item."""
        contrast_temperature: float = Field(0.2, gt=0)
        """Temperature of that contrast, of inner products."""
        mask_repeats: bool = False
        """Leave an item that is in a batch several times out of its own negatives. The authors' code counts
        it among them."""

    name = "slmrec"
    data_parallel = "batches"
    train_defaults: ClassVar = {"weight_decay": 1e-4}
    search_space: ClassVar[Space] = {
        "contrast_weight": Choice(0.01, 0.05, 0.1, 0.5, 1.0),
        "contrast_temperature": Choice(0.1, 0.2, 0.5, 1.0),
        "train.learning_rate": Choice(1e-4, 1e-3, 1e-2, 1e-1),
    }
    config: Config

    def __init__(self, train: Interactions, features: Features, config: Config) -> None:
        super().__init__(train, features, config)
        self.graph = bipartite(train)
        self.content = nn.ModuleDict(
            {
                m: ItemContent(t, config.dim, config, train, self.rng(m), unit=True)
                for m, t in features.items()
            }
        )
        width = config.dim * (1 + len(features))
        self.user_fusion = linear(width, config.dim, self.rng("fusion/users"))
        self.item_fusion = linear(width, config.dim, self.rng("fusion/items"))
        self.main = InfoNCE(config.temperature)
        self.contrast = InfoNCE(config.contrast_temperature, cosine=False)
        self.query_heads = nn.ModuleDict()
        self.key_heads = nn.ModuleDict()
        if config.contrast_weight:
            dim = config.dim
            for m in features:
                coarser = max(1, dim // 2) if len(self.query_heads) else dim
                widths = ((dim, dim), (dim, coarser)) if len(self.query_heads) else ((dim, dim),)
                self.query_heads[m] = nn.Sequential(
                    *(linear(*w, self.rng(f"query/{m}/{n}")) for n, w in enumerate(widths))
                )
                self.key_heads[m] = projection(config.dim, coarser, self.rng(f"key/{m}"))
                dim = coarser

    def batches(self, plan: EpochContext) -> Iterator[Pairs]:
        """Every train interaction once, without negatives of its own."""
        for users, items in self.sampler.pairs(plan):
            yield Pairs(torch.from_numpy(users), torch.from_numpy(items))

    def tables(self) -> tuple[Tensor, Tensor]:
        """What is propagated, side by side: the IDs of users for each view, and the IDs and the projected
        content of items ``(n, (1 + M) d)`` (Eq. 1).
        """
        users, items = self.id_embeddings
        views = [items, *(content() for content in self.content.values())]
        return users.repeat(1, len(views)), torch.cat(views, 1)

    def propagate(self) -> tuple[Tensor, Tensor]:
        """The views of users and items after propagation ``(n, (1 + M) d)`` (Eq. 2)."""
        return propagate_tables(self.graph, *self.tables(), self.config.n_layers)

    def loss(self, batch: Pairs) -> dict[str, Tensor]:
        """``softmax`` over the items of the batch and ``contrast_<modality>`` of the views of its items
        (Eqs. 4 to 7).
        """
        users, items = self.propagate()
        views = embedding(batch.items, items)  # (B, (1 + M) d)
        ids = batch.items if self.config.mask_repeats else None
        u = self.user_fusion(embedding(batch.users, users))  # (B, d)
        terms = {"softmax": self.main.in_batch(u, self.item_fusion(views), ids)}
        query, *keys = views.split(self.config.dim, 1)
        for m, key in zip(self.query_heads, keys, strict=False):  # there are no heads without a weight
            query = self.query_heads[m](query)
            content = cast(ItemContent, self.content[m])
            rows, of = (query, self.key_heads[m](key)), ids
            if content.has_gaps:
                present = content.features.present[batch.items]
                rows = rows[0][present], rows[1][present]
                of = None if ids is None else ids[present]
            terms[f"contrast_{m}"] = self.config.contrast_weight * self.contrast.in_batch(*rows, of)
        return terms

    def fold_in(self) -> FoldIn:
        """That of LightGCN in each view, fused; cold items by their content neighbors."""
        table = fold_in_table(self.graph, *self.tables(), self.config.n_layers, self.train_pairs.item_degree)
        return MeanFoldIn(self.cold_items(table) @ self.user_fusion.weight.T, self.user_fusion.bias)

    def embed(self) -> tuple[Tensor, Tensor]:
        """Fused embeddings of the current parameters, cold items by their neighbors (Eq. 3)."""
        users, items = self.propagate()
        return self.user_fusion(users), self.cold_items(self.item_fusion(items))
