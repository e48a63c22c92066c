"""HCCF: propagation over the user-item graph and over learned hyperedges, contrasted with each other.

Xia et al., "Hypergraph Contrastive Collaborative Filtering", SIGIR 2022, https://arxiv.org/abs/2204.12200. In
every layer a node hears from its neighbors and, by way of a few hyperedges, from all nodes of its side; what
it hears from either is to be alike.

After the authors' PyTorch code, which differs from the paper: BPR instead of a hinge loss, one layer of
hyperedges, and no gradient of the contrast to the graph's side. Defaults are those the authors recommend for
that code on Amazon. Differences: losses are computed without overflow, and nodes that dropout leaves without
edges have no direction to learn from. SSLRec's version is ``pool="all"`` with ``hypergraph_scale`` and
``negative_slope``.

``Eq. n`` refers to the numbered equations in docs/models/hccf.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from graphrec.data.interactions import Interactions
from graphrec.graphs.augmentation import drop_entries
from graphrec.graphs.graph import Graph, bipartite
from graphrec.models.batches import EpochContext, SeededTriplets
from graphrec.models.fold_in import FoldIn, MeanFoldIn
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
    distinct_ids,
    hypergraph,
    uniform_noise,
)


class Part(NamedTuple):
    """What dropout leaves of the graph and of the hyperedges in one layer.

    Attributes:
        graph: over users and items.
        incidence: factor of each entry of the nodes' incidence ``(n_users + n_items, K)``; None: 1.
    """

    graph: Graph
    incidence: Tensor | None = None


class Layer(NamedTuple):
    """What the nodes hear in one layer, each ``(n_users + n_items, d)``.

    Attributes:
        local: from neighbors in the graph.
        shared: by way of the hyperedges of their side.
    """

    local: Tensor
    shared: Tensor


class HCCF(SelfSupervisedRanker):
    """ID embeddings, propagated over the graph and over learned hyperedges."""

    class Config(SelfSupervisedConfig):
        """Options of HCCF."""

        dim: int = Field(32, ge=1)
        """Embedding size."""
        n_layers: int = Field(2, ge=1)
        """Propagation layers."""
        n_hyperedges: int = Field(128, ge=1)
        """Hyperedges of users, and of items."""
        hypergraph_scale: float = Field(1.0, gt=0)
        """Factor of what makes a node part of a hyperedge; it enters twice. What the hyperedges pass on grows
        with the third power of the embeddings; the authors tune 0.01, 0.1 and 1 where data are sparse."""
        negative_slope: float = Field(1.0, ge=0, le=1)
        """Slope below 0 of the activation of hyperedges and of what they pass on; 1 leaves it out."""
        dropout: float = Field(0.5, ge=0, lt=1)
        """Share of the graph's entries, and of the entries of the hyperedges, that are left out of each layer
        of a training step; the others are scaled up."""
        readout: Readout = "sum"
        """Final embeddings: the ``sum`` of the ID embeddings and all layers, their ``mean``, or the mean of
        the ``layers`` without the ID embeddings."""
        contrast_weight: float = Field(0.2, ge=0)
        """Weight of the contrast between graph and hyperedges."""
        temperature: float = Field(0.1, gt=0)
        """Temperature of the contrast."""
        pool: Pool = "batch"
        """What each distinct row of the batch is contrasted with: the distinct rows of the ``batch``, or
        ``all`` users or items."""
        regularizer: Regularizer = "all_squares"
        """By default the squares of all parameters; the other choices are those of SGL."""
        reg_weight: float = Field(1e-6, ge=0)
        """Weight of the regularizer."""

    name = "hccf"
    data_parallel = "batches"
    train_defaults: ClassVar = {"batch_size": 4096}
    search_space: ClassVar[Space] = {
        "n_layers": Integers(1, 3),
        "contrast_weight": Choice(1e-3, 1e-2, 0.1, 0.2, 1.0),
        "temperature": Choice(0.1, 0.3, 1.0),
        "dropout": Choice(0.0, 0.25, 0.5, 0.75),
        "hypergraph_scale": Choice(0.01, 0.1, 1.0),
        "reg_weight": Choice(1e-8, 1e-7, 1e-6, 1e-5),
        "train.learning_rate": Choice(1e-3, 2e-3, 5e-3),
    }
    config: Config

    def __init__(self, train: Interactions, config: Config) -> None:
        super().__init__(train, config)
        self.graph = bipartite(train)
        self.user_hyperedges, self.item_hyperedges = (  # (d, K)
            nn.Parameter(
                nn.init.xavier_uniform_(
                    torch.empty(config.dim, config.n_hyperedges), generator=self.rng(f"hyperedges/{side}")
                )
            )
            for side in ("users", "items")
        )
        self.contrast = InfoNCE(config.temperature)

    def batches(self, plan: EpochContext) -> Iterator[SeededTriplets]:
        """Every train interaction once, with negatives and a seed for dropout."""
        return self.sampler.seeded_triplets(plan, "dropout")

    def draw(self, key: Tensor) -> list[Part]:
        """What dropout leaves in each layer, a function of the batch's seed ``() int64``."""
        c = self.config
        if not c.dropout:
            return [Part(self.graph)] * c.n_layers
        rng = np.random.default_rng(int(key))
        uniform = uniform_noise(key, c.n_layers, (self.n_users + self.n_items, c.n_hyperedges))
        return [
            Part(drop_entries(self.graph, c.dropout, rng, rescale=True), (x >= c.dropout) / (1 - c.dropout))
            for x in (table.to(self.graph.device) for table in uniform)
        ]

    def incidence(self) -> tuple[Tensor, Tensor]:
        """How much users and items belong to their hyperedges ``(n_users, K), (n_items, K)`` (Eq. 1)."""
        users, items = self.id_embeddings
        scale = self.config.hypergraph_scale
        return scale * (users @ self.user_hyperedges), scale * (items @ self.item_hyperedges)

    def propagate(self, parts: Sequence[Part]) -> tuple[Tensor, list[Layer]]:
        """Final embeddings ``(n_users + n_items, d)``, and what was heard in each layer (Eqs. 2 to 4)."""
        sizes = [self.n_users, self.n_items]
        found = [torch.cat(self.id_embeddings)]
        heard = []
        incidence = self.incidence()
        for part in parts:
            x = found[-1]
            shared = []
            masks = (None, None) if part.incidence is None else part.incidence.split(sizes)
            for h, mask, rows in zip(incidence, masks, x.split(sizes), strict=True):
                shared.append(hypergraph(h if mask is None else h * mask, rows, self.config.negative_slope))
            layer = Layer(part.graph @ x, torch.cat(shared))
            heard.append(layer)
            found.append(layer.local + layer.shared)
        return combine(found, self.config.readout), heard

    def loss(self, batch: SeededTriplets) -> dict[str, Tensor]:
        """``bpr`` on final embeddings, ``contrast`` in every layer and ``reg`` (Eqs. 5 and 6)."""
        sizes = [self.n_users, self.n_items]
        final, heard = self.propagate(self.draw(batch.key))
        rows = BatchEmbeddings.lookup(batch, *final.split(sizes))
        contrasts = final.new_zeros(())
        for ids, side in ((batch.users, 0), (batch.positives, 1)):
            distinct, own = distinct_ids(ids)
            for layer in heard:
                # The graph's side is what the hyperedges learn from, and does not learn from them.
                local, shared = (x.split(sizes)[side] for x in (layer.local.detach(), layer.shared))
                value = contrast(self.contrast, local, shared, distinct[own], self.config.pool)
                contrasts = contrasts + value
        return {
            "bpr": bpr(score_difference(*rows)),
            "contrast": self.config.contrast_weight * contrasts,
            "reg": self.regularization(BatchEmbeddings.lookup(batch, *self.id_embeddings), rows),
        }

    def embed(self) -> tuple[Tensor, Tensor]:
        """Final embeddings over the whole graph and all hyperedges."""
        final, _ = self.propagate([Part(self.graph)] * self.config.n_layers)
        users, items = final.split([self.n_users, self.n_items])
        return users, items

    def fold_in(self) -> FoldIn:
        """What the items of a history add by way of the graph: exact but for the share of the user's own
        embedding, which is also what their hyperedges pass on.
        """
        c = self.config
        _, heard = self.propagate([Part(self.graph)] * c.n_layers)
        found = [torch.cat(self.id_embeddings), *(layer.local + layer.shared for layer in heard)]
        items = torch.stack([x[self.n_users :] for x in found[:-1]]).sum(0)  # (n_items, d)
        n_layers = {"mean": c.n_layers + 1, "sum": 1, "layers": c.n_layers}[c.readout]
        scale = 1 / n_layers / np.sqrt(np.maximum(self.train_pairs.item_degree, 1))
        table = items * torch.from_numpy(scale.astype(np.float32)).to(items.device)[:, None]
        return MeanFoldIn(table, table.new_zeros(c.dim))
