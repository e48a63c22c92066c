"""SGL: LightGCN with a contrast between two views of the graph, each without a share of it.

Wu et al., "Self-supervised Graph Learning for Recommendation", SIGIR 2021, https://arxiv.org/abs/2010.10783.
Each view is drawn once an epoch: without a share of the edges, of the nodes, or of the edges anew in every
layer.

Defaults are those of the authors' PyTorch code (SGL-Torch) for Yelp2018. Difference: losses are means over
the batch, where the code has sums (the terms are in the same proportion). SSLRec's version is
``readout="sum"``, ``redraw="step"``, ``views="entries"``, ``contrast_negatives`` and
``regularizer="all_squares"``; what it calls dropped nodes is ``views="rows"``.

``Eq. n`` refers to the numbered equations in docs/models/sgl.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from graphrec.data.interactions import Interactions
from graphrec.graphs.augmentation import drop_edges, drop_entries, drop_nodes
from graphrec.graphs.graph import Graph, bipartite
from graphrec.models.batches import EpochContext, SeededTriplets
from graphrec.models.losses import InfoNCE, bpr, score_difference
from graphrec.models.propagation import BatchEmbeddings
from graphrec.models.search_space import Choice, Integers, Space
from graphrec.models.self_supervision import (
    Pool,
    SelfSupervisedConfig,
    SelfSupervisedRanker,
    Step,
    combine,
    contrast,
)


class View(NamedTuple):
    """A part of the graph.

    Attributes:
        graphs: of each layer.
        rows: ID embeddings that are kept ``(n_users + n_items,) bool``; None: all.
    """

    graphs: Sequence[Graph]
    rows: Tensor | None = None


class SGL(SelfSupervisedRanker):
    """Propagated ID embeddings, contrasted between two parts of the graph."""

    class Config(SelfSupervisedConfig):
        """Options of SGL."""

        views: Literal["edges", "nodes", "walks", "entries", "rows"] = "edges"
        """What a view lacks: a share of the ``edges``; all edges of a share of the ``nodes``; other edges in
        each layer (``walks``); ``entries`` of the matrix, each direction of an edge by itself and without
        counting degrees anew; or the ID embeddings (``rows``) of some nodes."""
        dropout: float = Field(0.1, ge=0, lt=1)
        """The share that a view lacks."""
        redraw: Literal["epoch", "step"] = "epoch"
        """When views are drawn."""
        contrast_negatives: bool = False
        """Contrast the views of the negatives, too."""
        pool: Pool = "all"
        """What a row is contrasted with: ``all`` users or items, or the distinct rows of the ``batch``."""

    name = "sgl"
    data_parallel = "batches"
    search_space: ClassVar[Space] = {
        "n_layers": Integers(1, 3),
        "contrast_weight": Choice(0.01, 0.05, 0.1, 0.5, 1.0),
        "temperature": Choice(0.1, 0.2, 0.5),
        "dropout": Choice(0.1, 0.3, 0.5),
        "train.learning_rate": Choice(1e-3, 2e-3, 5e-3),
    }
    config: Config

    def __init__(self, train: Interactions, config: Config) -> None:
        super().__init__(train, config)
        self.graph = bipartite(train)
        self.views = [View([self.graph] * config.n_layers)] * 2
        self.contrast = InfoNCE(config.temperature)

    def start_epoch(self, rng: np.random.Generator) -> None:
        """Draws the two views of the epoch."""
        if self.config.redraw == "epoch":
            self.views = self.draw(rng)

    def draw(self, rng: np.random.Generator) -> list[View]:
        """Two views (Eq. 1)."""
        c = self.config
        if c.views == "walks":
            return [View([self._graph(rng) for _ in range(c.n_layers)]) for _ in range(2)]
        if c.views == "rows":
            n = self.n_users + self.n_items
            kept = [torch.from_numpy(rng.random(n) >= c.dropout).to(self.graph.device) for _ in range(2)]
            return [View([self.graph] * c.n_layers, rows) for rows in kept]
        return [View([self._graph(rng)] * c.n_layers) for _ in range(2)]

    def _graph(self, rng: np.random.Generator) -> Graph:
        c = self.config
        if c.views == "entries":
            return drop_entries(self.graph, c.dropout, rng)
        drop = drop_nodes if c.views == "nodes" else drop_edges
        return drop(self.train_pairs, c.dropout, rng).to(self.graph.device)

    def propagate_view(self, view: View) -> tuple[Tensor, Tensor]:
        """Final embeddings over a view ``(n_users, d), (n_items, d)`` (Eq. 2)."""
        found = [torch.cat(self.id_embeddings)]
        if view.rows is not None:
            found = [found[0] * view.rows[:, None]]
        for graph in view.graphs:
            found.append(graph @ found[-1])
        users, items = combine(found, self.config.readout).split([self.n_users, self.n_items])
        return users, items

    def batches(self, plan: EpochContext) -> Iterator[SeededTriplets]:
        """Every train interaction once, with negatives and a seed for views."""
        return self.sampler.seeded_triplets(plan, "views")

    def step(self, batch: SeededTriplets) -> Step:
        """``bpr`` on final embeddings, ``contrast`` of the views and ``reg`` (Eqs. 3 and 4)."""
        c = self.config
        all_users, all_items = self.final(self.graph)
        final = BatchEmbeddings.lookup(batch, all_users, all_items)
        views = self.views
        if c.redraw == "step":
            views = self.draw(np.random.default_rng(int(batch.key)))
        (users, items), (other_users, other_items) = (self.propagate_view(view) for view in views)
        total = contrast(self.contrast, users, other_users, batch.users, c.pool)
        contrasted = [batch.positives, *([batch.negatives.flatten()] if c.contrast_negatives else [])]
        for ids in contrasted:
            total = total + contrast(self.contrast, items, other_items, ids, c.pool)
        losses = {
            "bpr": bpr(score_difference(*final)),
            "contrast": c.contrast_weight * total,
            "reg": self.regularization(BatchEmbeddings.lookup(batch, *self.id_embeddings), final),
        }
        return Step(all_users, all_items, losses)
