"""DCCF: propagation over the graph, over learned intents and over edges weighted by both, contrasted.

Ren et al., "Disentangled Contrastive Collaborative Filtering", SIGIR 2023, https://arxiv.org/abs/2305.02759.
In every layer a node's neighbors, the intents that all nodes of its side share, and two views of the graph
whose edges weigh as much as their ends are alike are added to its embedding. The neighbors' embedding is
contrasted with the other three.

Defaults are those of the authors' code, the regularizer's weight for its batches of 10,240, but for the
contrasts' weight, which is .1 there and on data of some hundred nodes leaves nothing else to be learned.
Difference: an epoch visits every interaction once; the code draws 40 batches of users, each with one of their
items, trains for a fixed number of epochs and tests the last. SSLRec's version is ``contrast_negatives``,
``divide_items_by_users`` and ``regularizer="all_squares"`` with ``intent_reg_weight=0``.

``Eq. n`` refers to the numbered equations in docs/models/dccf.md.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from graphrec.core import distributed
from graphrec.data.interactions import Interactions
from graphrec.graphs.augmentation import adaptive_edges
from graphrec.graphs.graph import bipartite
from graphrec.models.batches import Triplets
from graphrec.models.fold_in import FoldIn, LeastSquaresFoldIn
from graphrec.models.losses import InfoNCE, bpr, score_difference
from graphrec.models.propagation import BatchEmbeddings
from graphrec.models.search_space import Choice, Integers, Space
from graphrec.models.self_supervision import (
    Readout,
    SelfSupervisedConfig,
    SelfSupervisedRanker,
    combine,
    contrast,
    distinct_ids,
    intents,
)


class Layer(NamedTuple):
    """What is added to the embeddings in one layer, each ``(n_users + n_items, d)``.

    Attributes:
        local: of the neighbors.
        shared: of the intents.
        local_view: of the neighbors, weighted by how alike ``local`` is.
        shared_view: of the neighbors, weighted by how alike ``shared`` is.
    """

    local: Tensor
    shared: Tensor
    local_view: Tensor
    shared_view: Tensor


class DCCF(SelfSupervisedRanker):
    """ID embeddings, propagated over the graph, learned intents and adaptive edges."""

    class Config(SelfSupervisedConfig):
        """Options of DCCF."""

        dim: int = Field(32, ge=1)
        """Embedding size."""
        n_layers: int = Field(2, ge=1)
        """Propagation layers."""
        n_intents: int = Field(128, ge=1)
        """Intents of users, and of items."""
        readout: Readout = "sum"
        """Final embeddings: the ``sum`` of the ID embeddings and all layers, their ``mean``, or the mean of
        the ``layers`` without the ID embeddings."""
        contrast_weight: float = Field(1e-3, ge=0)
        """Weight of the contrasts of the neighbors' embedding with the other three; the authors' is .1."""
        temperature: float = Field(1.0, gt=0)
        """Temperature of the contrasts."""
        contrast_negatives: bool = False
        """Contrast the negatives along with the positives."""
        divide_items_by_users: bool = False
        """Divide the contrasts of items by the number of distinct users of the batch instead of items, as
        SSLRec does; only with ``pool="batch"``."""
        reg_weight: float = Field(0.512, ge=0)
        """Weight of the regularizer. The authors add 2.5e-5 times the squares without dividing by the size of
        their batches, 10,240: half the squares, divided by it, times 0.512."""
        intent_reg_weight: float = Field(5e-3, ge=0)
        """Weight of the squares of the intents."""

    name = "dccf"
    data_parallel = "batches"
    train_defaults: ClassVar = {"batch_size": 10240}
    search_space: ClassVar[Space] = {
        "n_layers": Integers(1, 3),
        "n_intents": Choice(32, 64, 128),
        "contrast_weight": Choice(1e-3, 1e-2, 0.1),
        "temperature": Choice(0.2, 0.5, 1.0),
        "reg_weight": Choice(1e-3, 1e-2, 0.1, 0.512),
        "train.learning_rate": Choice(1e-3, 2e-3, 5e-3),
    }
    config: Config

    def __init__(self, train: Interactions, config: Config) -> None:
        super().__init__(train, config)
        self.graph = bipartite(train)
        for side, table in zip(("users", "items"), self.id_embeddings, strict=True):
            nn.init.xavier_normal_(table, generator=self.rng(side))
        self.user_intents, self.item_intents = (  # (d, K)
            nn.Parameter(
                nn.init.xavier_normal_(
                    torch.empty(config.dim, config.n_intents), generator=self.rng(f"intents/{side}")
                )
            )
            for side in ("users", "items")
        )
        self.contrast = InfoNCE(config.temperature)

    def propagate(self) -> tuple[Tensor, list[Layer]]:
        """Final embeddings ``(n_users + n_items, d)``, and what was added in each layer (Eqs. 1 to 5)."""
        sizes = [self.n_users, self.n_items]
        found = [torch.cat(self.id_embeddings)]
        added = []
        for _ in range(self.config.n_layers):
            x = found[-1]
            local = self.graph @ x
            users, items = x.split(sizes)
            shared = torch.cat([intents(users, self.user_intents), intents(items, self.item_intents)])
            views = (self.graph.weighted(adaptive_edges(self.graph, y)) @ x for y in (local, shared))
            layer = Layer(local, shared, *views)
            added.append(layer)
            found.append(x + layer.local + layer.shared + layer.local_view + layer.shared_view)
        return combine(found, self.config.readout), added

    def loss(self, batch: Triplets) -> dict[str, Tensor]:
        """``bpr`` on final embeddings, ``contrast`` in every layer, ``reg``, ``intents`` (Eqs. 6 and 7)."""
        c = self.config
        final, added = self.propagate()
        rows = BatchEmbeddings.lookup(batch, *final.split([self.n_users, self.n_items]))
        squares = self.user_intents.square().sum() + self.item_intents.square().sum()
        return {
            "bpr": bpr(score_difference(*rows)),
            "contrast": c.contrast_weight * self.contrasts(batch, added),
            "reg": self.regularization(BatchEmbeddings.lookup(batch, *self.id_embeddings), rows),
            "intents": c.intent_reg_weight * distributed.replicated(squares),
        }

    def contrasts(self, batch: Triplets, added: list[Layer]) -> Tensor:
        """The contrasts of all layers, summed (Eq. 6)."""
        c = self.config
        item_ids = batch.positives
        if c.contrast_negatives:
            item_ids = torch.cat([item_ids, batch.negatives.flatten()])
        item_weight = 1.0
        if c.divide_items_by_users:
            item_weight = len(distinct_ids(item_ids)[0]) / len(distinct_ids(batch.users)[0])
        total = added[0].local.new_zeros(())
        for layer in added:
            users, items = zip(*(x.split([self.n_users, self.n_items]) for x in layer), strict=True)
            for tables, ids, weight in ((users, batch.users, 1.0), (items, item_ids, item_weight)):
                for other in tables[1:]:
                    total = total + weight * contrast(self.contrast, tables[0], other, ids, c.pool)
        return total

    def embed(self) -> tuple[Tensor, Tensor]:
        """Final embeddings over the whole graph."""
        users, items = self.propagate()[0].split([self.n_users, self.n_items])
        return users, items

    def fold_in(self) -> FoldIn:
        """Least squares: the intents and the weights of the edges depend on the user's own embedding."""
        return LeastSquaresFoldIn()
