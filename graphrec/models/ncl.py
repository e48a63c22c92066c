"""NCL: LightGCN with contrasts between a node and its neighbors, and between a node and its cluster.

Lin et al., "Improving Graph Collaborative Filtering with Neighborhood-enriched Contrastive Learning", WWW
2022, https://arxiv.org/abs/2202.06200. No view is drawn: a node's ID embedding is contrasted with what an
even layer makes of it, which comes from nodes of the same kind, and with the center of its cluster.

Defaults are those of the authors' code (RUCAIBox/NCL) for MovieLens-1M. Differences: contrasts are means over
the batch, where the code has sums, so that our weights are the code's times its batch size of 4,096; clusters
come from a k-means of our own, which starts from k-means++ and leaves no cluster empty; BPR is computed with
softplus, where the code adds 1e-10 to the sigmoid. SSLRec's version is ``readout="sum"`` and
``regularizer="all_squares"``; SELFRec's contrasts a node's cluster with the clusters of the batch.

``Eq. n`` refers to the numbered equations in docs/models/ncl.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from graphrec.core.random import torch_rng
from graphrec.data.interactions import Interactions
from graphrec.graphs.graph import bipartite
from graphrec.models.batches import EpochContext, Triplets
from graphrec.models.losses import InfoNCE, bpr, score_difference
from graphrec.models.propagation import BatchEmbeddings
from graphrec.models.search_space import Choice, Integers, Space
from graphrec.models.self_supervision import (
    Pool,
    Prototypes,
    Regularizer,
    SelfSupervisedConfig,
    SelfSupervisedRanker,
    combine,
    contrast,
    prototypes,
)


class NCL(SelfSupervisedRanker):
    """Propagated ID embeddings, contrasted with neighbors and clusters."""

    class Config(SelfSupervisedConfig):
        """Options of NCL."""

        contrast_weight: float = Field(4e-4, ge=0)
        """Weight of the contrast between a node and its neighbors."""
        contrast_layer: int = Field(2, ge=2, multiple_of=2)
        """The layer that ID embeddings are contrasted with. An even one holds users' embeddings for users
        and items' for items. It may be beyond the layers of the final embeddings."""
        item_weight: float = Field(1.0, ge=0)
        """What the items count in that contrast, where users count 1."""
        prototype_weight: float = Field(3e-4, ge=0)
        """Weight of the contrast between a node and its cluster; 0 leaves clusters out."""
        n_clusters: int = Field(1000, ge=1)
        """Clusters of users and clusters of items, at most as many as there are users or items."""
        cluster_steps: int = Field(25, ge=1)
        """Most steps of k-means in an epoch."""
        warm_up: int = Field(20, ge=0)
        """Epochs before clusters are used."""
        temperature: float = Field(0.1, gt=0)
        """Temperature of both contrasts."""
        pool: Pool = "all"
        """What a row is contrasted with, besides clusters: ``all`` users or items, or the distinct rows of
        the ``batch``."""
        regularizer: Regularizer = "id_norms"
        """By default the norms of the batch's ID embeddings; the other choices are those of SGL."""

    name = "ncl"
    data_parallel = "batches"
    train_defaults: ClassVar = {"batch_size": 4096}
    search_space: ClassVar[Space] = {
        "n_layers": Integers(1, 3),
        "contrast_weight": Choice(4e-4, 4e-3, 1e-2, 4e-2, 0.1),
        "prototype_weight": Choice(0.0, 4e-4, 4e-3, 1e-2),
        "n_clusters": Choice(10, 100, 1000, 2000),
        "temperature": Choice(0.05, 0.1, 0.2),
        "train.learning_rate": Choice(1e-3, 2e-3, 5e-3),
    }
    config: Config

    def __init__(self, train: Interactions, config: Config) -> None:
        super().__init__(train, config)
        self.graph = bipartite(train)
        self.contrast = InfoNCE(config.temperature)
        self.clusters: tuple[Prototypes, Prototypes] | None = None

    def batches(self, plan: EpochContext) -> Iterator[Triplets]:
        """Every train interaction once, with negatives. The epoch's clusters are computed first."""
        self.clusters = self.cluster(plan) if plan.epoch > self.config.warm_up else None
        yield from self.sampler.triplets(plan)

    def cluster(self, plan: EpochContext) -> tuple[Prototypes, Prototypes] | None:
        """Clusters of the ID embeddings of users and of items (Eq. 2)."""
        c = self.config
        if not c.prototype_weight:
            return None
        users, items = (
            prototypes(
                table.detach(),
                c.n_clusters,
                c.cluster_steps,
                torch_rng(plan.seed, f"prototypes/{side}", plan.epoch, table.device),
            )
            for side, table in zip(("users", "items"), self.id_embeddings, strict=True)
        )
        return users, items

    def loss(self, batch: Triplets) -> dict[str, Tensor]:
        """``bpr`` on final embeddings, the contrasts ``structure`` and ``prototypes``, the latter 0 before
        there are clusters, and ``reg`` (Eqs. 3 to 5).
        """
        c = self.config
        found = [torch.cat(self.id_embeddings)]
        for _ in range(max(c.n_layers, c.contrast_layer)):
            found.append(self.graph @ found[-1])
        users, items = combine(found[: c.n_layers + 1], c.readout).split([self.n_users, self.n_items])
        layer_users, layer_items = found[c.contrast_layer].split([self.n_users, self.n_items])
        id_users, id_items = self.id_embeddings
        structure = contrast(self.contrast, layer_users, id_users, batch.users, c.pool)
        structure = structure + c.item_weight * contrast(
            self.contrast, layer_items, id_items, batch.positives, c.pool
        )
        final = BatchEmbeddings.lookup(batch, users, items)
        initial = BatchEmbeddings.lookup(batch, id_users, id_items)
        return {
            "bpr": bpr(score_difference(*final)),
            "structure": c.contrast_weight * structure,
            "prototypes": c.prototype_weight * self.prototype_contrast(batch, initial),
            "reg": self.regularization(initial, final),
        }

    def prototype_contrast(self, batch: Triplets, initial: BatchEmbeddings) -> Tensor:
        """The contrast between users and positives and all centers of their kind (Eq. 4).

        Args:
            batch: the batch.
            initial: its rows among the ID embeddings.
        """
        if self.clusters is None:
            return initial.users.new_zeros(())
        users, items = self.clusters
        of_users = self.contrast(initial.users, users.centers, users.cluster[batch.users])
        return of_users + self.contrast(initial.positives, items.centers, items.cluster[batch.positives])
