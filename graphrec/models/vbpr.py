"""VBPR: matrix factorization with a second part that is projected from content.

He and McAuley, "VBPR: Visual Bayesian Personalized Ranking from Implicit Feedback", AAAI 2016,
https://arxiv.org/abs/1510.01784. An item's vector is the concatenation of an ID embedding and a linear map of
its features; a user's vector has both parts too.

``Eq. n`` refers to the numbered equations in docs/models/vbpr.md.

Differences from the paper, most of them those of the toolbox that produced the published Amazon tables:
- the features of all modalities are projected, not those of the image alone;
- no item biases and no visual bias; the regularizer is the norms of the batch's whole vectors over the batch
  size, not squared norms with a weight for each kind of parameter;
- the toolbox's projection has a bias, here it has none: it adds the same to all scores of a user, so it
  changes neither a BPR difference nor a ranking, only what the regularizer counts;
- items without a modality get nothing from it, or are filled (``fill``);
- items without train interactions have a zero ID part: their ID embedding is what initialization drew
  (``cold_items="as_trained"`` leaves it).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal, NamedTuple, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from graphrec.data.interactions import Interactions
from graphrec.features import FeatureTable
from graphrec.models.base import ContentProjection
from graphrec.models.batches import EpochContext
from graphrec.models.layers import ItemFeatures, projection
from graphrec.models.losses import bpr, embedding_norms, score_difference
from graphrec.models.multimodal import MultimodalRanker, StreamedConfig, means_of
from graphrec.models.propagation import BatchEmbeddings, EmbeddingRanker
from graphrec.models.search_space import Choice, Space

PROJECTED = 2**22
"""Feature values projected at a time in embed(): bounds the float32 copy of bfloat16 features."""


class Batch(NamedTuple):
    """Triplets over the distinct items of a batch, of which each is projected once."""

    users: Tensor
    """``(B,) int64``."""
    items: Tensor
    """The distinct items ``(D,) int64``, ascending."""
    positives: Tensor
    """Position of each triplet's positive in ``items`` ``(B,) int64``."""
    negatives: Tensor
    """Position of its negative ``(B,) int64``."""


class VBPR(MultimodalRanker, EmbeddingRanker):
    """Item vectors with an ID part and a content part."""

    class Config(StreamedConfig):
        """Options of VBPR."""

        dim: int = Field(64, ge=1)
        """Size of the ID part."""
        content_dim: int | None = Field(None, ge=1)
        """Size of the content part; None: as large as the ID part."""
        reg_weight: float = Field(0.1, ge=0)
        """Weight of the norms of the batch's vectors."""
        cold_items: Literal["content", "as_trained"] = "content"
        """Vector of items without train interactions: their content part alone, or all that is there."""

    name = "vbpr"
    data_parallel = "batches"
    search_space: ClassVar[Space] = {
        "reg_weight": Choice(1e-4, 1e-3, 1e-2, 1e-1, 1.0),
        "train.learning_rate": Choice(1e-3, 2e-3, 5e-3),
    }
    config: Config
    warm: Tensor

    def __init__(self, train: Interactions, tables: Mapping[str, FeatureTable], config: Config) -> None:
        content_dim = config.content_dim or config.dim
        super().__init__(train, config, user_dim=config.dim + content_dim)
        self.features = nn.ModuleDict(
            {m: ItemFeatures.from_table(t, config, train) for m, t in tables.items()}
        )
        # One map of all features side by side; each modality is multiplied by its columns.
        self.widths = {m: t.dim for m, t in tables.items()}
        self.projection = projection(sum(self.widths.values()), content_dim, self.rng("content"))
        self.fill = means_of(tables, config.fill)
        warm = torch.from_numpy(train.item_degree > 0)
        self.register_buffer("warm", warm[:, None], persistent=False)  # (n_items, 1)

    def batches(self, plan: EpochContext) -> Iterator[Batch]:
        """Every train interaction once, with one uniform negative."""
        for users, positives, negatives in self.sampler.triplets(plan):
            sampled = torch.cat([positives, negatives]).numpy()
            items, position = (torch.from_numpy(v) for v in np.unique(sampled, return_inverse=True))
            yield Batch(users, items, position[: len(users)], position[len(users) :])

    def feature_items(self, batch: Batch) -> tuple[Tensor, ...]:
        """The distinct items of the batch."""
        return (batch.items,)

    def weights(self) -> dict[str, Tensor]:
        """The projection's columns by modality, each ``(content_dim, d_m)``."""
        parts = self.projection.weight.split(list(self.widths.values()), dim=1)
        return dict(zip(self.widths, parts, strict=True))

    def content(self, items: Tensor) -> Tensor:
        """Content part ``(B, content_dim)`` of items ``(B,)``: ``W [x_m; ...]`` (Eq. 1)."""
        parts = [cast(ItemFeatures, self.features[m]).projected(w, items) for m, w in self.weights().items()]
        return torch.stack(parts).sum(0)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """``bpr`` (Eqs. 2 and 3) and ``reg`` (Eq. 4)."""
        vectors = torch.cat([self.item_embedding(batch.items), self.content(batch.items)], 1)  # (D, d + c)
        embeddings = BatchEmbeddings.lookup(batch, self.user_embedding.weight, vectors)  # (B, d + c) each
        return {
            "bpr": bpr(score_difference(*embeddings)),
            "reg": self.config.reg_weight * embedding_norms(*embeddings),
        }

    def embed(self) -> tuple[Tensor, Tensor]:
        """User vectors, and item vectors with the ID part of cold items at zero ``(n, d + c)`` (Eq. 5)."""
        parts = []
        for m, weight in self.weights().items():
            blocks = cast(ItemFeatures, self.features[m]).blocks(max(1, PROJECTED // self.widths[m]))
            projected = [nn.functional.linear(x.to(weight.device).float(), weight) for x in blocks]
            parts.append(torch.cat(projected))
        content, ids = torch.stack(parts).sum(0), self.item_embedding.weight  # (n_items, c), (n_items, d)
        if self.config.cold_items == "content":
            ids = ids * self.warm
        return self.user_embedding.weight, torch.cat([ids, content], 1)

    @property
    def cold_start_rule(self) -> ContentProjection:  # type: ignore[override]  # follows the weights
        """``[0 ; W x]``, with the weights as they are now."""
        d = self.config.dim
        padded = {m: nn.functional.pad(w.detach().T, (d, 0)) for m, w in self.weights().items()}
        return ContentProjection({m: w.cpu().numpy() for m, w in padded.items()}, self.fill)
