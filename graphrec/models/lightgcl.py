"""LightGCL: LightGCN contrasted with a view of the graph that has its largest singular values alone.

Cai et al., "LightGCL: Simple Yet Effective Graph Contrastive Learning for Recommendation", ICLR 2023,
https://arxiv.org/abs/2302.08191. The view needs no random draw and takes products of a few columns.

Defaults are those of the authors' code for Yelp but for ``limit``. The code differs from the paper: it has no
activation, no residual, and one contrast of the sums over layers instead of one per layer. Differences from
the code: embeddings are evaluated by a propagation of their own without dropout, where the code ranks with
those of the last training step; the singular vectors are exact to float32, where the code's are approximate;
the contrast is computed by log-sum-exp and so without the code's 1e-8. SSLRec's version is
``contrast_negatives=False`` with its own weights.

``Eq. n`` refers to the numbered equations in docs/models/lightgcl.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from graphrec.data.interactions import Interactions
from graphrec.graphs.augmentation import drop_entries
from graphrec.graphs.graph import Graph, bipartite
from graphrec.graphs.low_rank import low_rank_view
from graphrec.models.batches import EpochContext, SeededTriplets
from graphrec.models.losses import InfoNCE, bpr, score_difference
from graphrec.models.propagation import BatchEmbeddings
from graphrec.models.search_space import Choice, Integers, Space
from graphrec.models.self_supervision import (
    Pool,
    Readout,
    Regularizer,
    SelfSupervisedConfig,
    SelfSupervisedRanker,
    combine,
    contrast,
)


class LightGCL(SelfSupervisedRanker):
    """Propagated ID embeddings, contrasted with what the largest singular values leave of them."""

    class Config(SelfSupervisedConfig):
        """Options of LightGCL."""

        n_layers: int = Field(2, ge=1)
        """Propagation layers."""
        readout: Readout = "sum"
        """Final embeddings: the ``sum`` of the ID embeddings and all layers, their ``mean``, or the mean of
        the ``layers`` without the ID embeddings."""
        rank: int = Field(5, ge=1)
        """Singular values that the view keeps, at most as many as there are."""
        dropout: float = Field(0.0, ge=0, lt=1)
        """Share of the entries of the graph that are left out in training, drawn anew in each step and layer
        and for each direction of an edge; the others are scaled up."""
        contrast_weight: float = Field(0.2, ge=0)
        """Weight of the contrast with the view."""
        limit: float | None = Field(None, gt=0)
        """In the contrast, the inner product of an embedding and its own view, over the temperature, counts
        up to this size. A pair beyond it is no longer pulled together, while the pool goes on pushing. The
        authors' is 5, with which nothing is learned on small data unless ``contrast_weight`` is small, too.
        None: no limit."""
        contrast_negatives: bool = True
        """Contrast the negatives with their views, too."""
        pool: Pool = "all"
        """What a row is contrasted with: ``all`` users or items, or the distinct rows of the ``batch``."""
        regularizer: Regularizer = "all_squares"
        """By default the squares of all ID embeddings; the other choices are those of SGL."""
        reg_weight: float = Field(1e-7, ge=0)
        """Weight of the regularizer."""

    name = "lightgcl"
    data_parallel = "batches"
    train_defaults: ClassVar = {"batch_size": 4096}
    search_space: ClassVar[Space] = {
        "n_layers": Integers(1, 3),
        "contrast_weight": Choice(0.01, 0.05, 0.1, 0.2, 0.5),
        "temperature": Choice(0.1, 0.2, 0.5, 1.0),
        "reg_weight": Choice(1e-9, 1e-8, 1e-7, 1e-6, 1e-5),
        "train.learning_rate": Choice(1e-3, 2e-3, 5e-3),
    }
    config: Config

    def __init__(self, train: Interactions, config: Config) -> None:
        super().__init__(train, config)
        self.graph = bipartite(train)
        self.low_rank = low_rank_view(train, config.rank)  # Eq. 2
        self.contrast = InfoNCE(config.temperature, cosine=False, limit=config.limit)

    def batches(self, plan: EpochContext) -> Iterator[SeededTriplets]:
        """Every train interaction once, with negatives and a seed for the dropout."""
        return self.sampler.seeded_triplets(plan, "dropout")

    def draw(self, key: Tensor) -> list[Graph]:
        """The graph of each layer in a step, without some of its entries (Eq. 1)."""
        c = self.config
        if not c.dropout:
            return [self.graph] * c.n_layers
        rng = np.random.default_rng(int(key))
        return [drop_entries(self.graph, c.dropout, rng, rescale=True) for _ in range(c.n_layers)]

    def propagate(self, graphs: list[Graph]) -> tuple[Tensor, Tensor]:
        """Final embeddings over the graph and over the view, both ``(n_users + n_items, d)`` (Eqs. 1 to 3).

        Args:
            graphs: of each layer.
        """
        found = [torch.cat(self.id_embeddings)]
        for graph in graphs:
            found.append(graph @ found[-1])
        # Every layer of the view is a product with the layer below it of the graph, so that their sum is one
        # product.
        n_layers = len(graphs)
        view = self.low_rank @ combine(found[:-1], "sum")
        if self.config.readout == "layers":
            return combine(found, "layers"), view / n_layers
        view = found[0] + view
        if self.config.readout == "mean":
            view = view / (n_layers + 1)
        return combine(found, self.config.readout), view

    def loss(self, batch: SeededTriplets) -> dict[str, Tensor]:
        """``bpr`` on final embeddings, their ``contrast`` with the view, and ``reg`` (Eqs. 4 and 5)."""
        c = self.config
        sizes = [self.n_users, self.n_items]
        final, view = self.propagate(self.draw(batch.key))
        users, items = final.split(sizes)
        view_users, view_items = view.split(sizes)
        anchors = batch.positives
        if c.contrast_negatives:
            anchors = torch.cat([anchors, batch.negatives.flatten()])
        total = contrast(self.contrast, view_users, users, batch.users, c.pool)
        total = total + contrast(self.contrast, view_items, items, anchors, c.pool)
        rows = BatchEmbeddings.lookup(batch, users, items)
        return {
            "bpr": bpr(score_difference(*rows)),
            "contrast": c.contrast_weight * total,
            "reg": self.regularization(BatchEmbeddings.lookup(batch, *self.id_embeddings), rows),
        }
