"""What models share that learn item graphs from content along with their embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from graphrec.core.config import option
from graphrec.data.interactions import Interactions
from graphrec.features import FeatureTable
from graphrec.graphs.equal_rows import EqualRows, neighbor_edges
from graphrec.graphs.graph import Graph, bipartite, edge_products, mix, normalize_weights
from graphrec.graphs.nearest import all_neighbors, nearest_rows, unit_length
from graphrec.models.batches import PreferencesConfig
from graphrec.models.layers import ItemFeatures, fan_in_uniform_, linear
from graphrec.models.multimodal import MultimodalConfig


class LearnedGraphConfig(PreferencesConfig, MultimodalConfig):
    """Options of models with learned item graphs; the defaults are LATTICE's and MICRO's."""

    dim: int = Field(64, ge=1)
    """Embedding size."""
    feature_dim: int = Field(64, ge=1)
    """Size of the projected features."""
    n_ui_layers: int = Field(2, ge=0)
    """Layers on the user-item graph."""
    knn_k: int = Field(10, ge=1)
    """Neighbors per item and modality, the item itself included."""
    original_weight: float = Field(0.9, ge=0, le=1)
    """Weight of the graph of unprojected features; the learned graph has the rest."""
    reg_weight: float = Field(1e-5, ge=0)
    """Weight of the squared norms of the batch's embeddings."""
    cold_items: Literal["neighbors", "as_trained"] = "neighbors"
    """Embedding of items without train interactions."""
    graph_cache: Path | None = option(None, affects_result=False)
    """Directory in which neighbors by unprojected features are kept between runs; None computes them each
    time."""


class LearnedView(nn.Module):
    """One modality after its projection, and the nearest neighbors in it (Zhang et al., "Mining Latent
    Structures for Multimedia Recommendation" (LATTICE), ACM MM 2021, https://arxiv.org/abs/2104.09036).

    Args:
        table: features of the modality.
        config: neighbors, width and how features are filled.
        train: the interactions, for ``fill="neighbors"``.
        generator: of the projection's initial parameters.
    """

    def __init__(
        self, table: FeatureTable, config: LearnedGraphConfig, train: Interactions, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.k = config.knn_k
        self.features = ItemFeatures(table, fill=config.fill, train=train)
        self.equal = EqualRows.of([self.features.values[self.features.own]])
        self.projection = linear(table.dim, config.feature_dim, generator, fan_in_uniform_)

    def forward(self) -> tuple[Graph, Tensor]:
        """Edges from each item's nearest neighbors, and their cosines ``(E,)``, differentiable; negative
        ones are 0.
        """
        unit = unit_length(self.projection(self.features.values))  # (n_items, feature_dim)
        graph = self.neighbors(unit.detach())
        return graph, edge_products(graph, unit).relu() * graph.weight

    def neighbors(self, unit: Tensor) -> Graph:
        """Edges to items from their ``k`` nearest, among those that have the modality.

        An item that has it is one of its own neighbors. An item whose vector is filled gets edges from itself
        and ``k - 1`` others. Items with equal features share places, as in :func:`graphrec.graphs.knn.knn`.

        Args:
            unit: projected features of length one ``(n_items, feature_dim)``.
        """
        own, filled = (
            mask.nonzero().squeeze(1).cpu().numpy()
            for mask in (self.features.own, self.features.present & ~self.features.own)
        )
        keys = unit[own[self.equal.first]]
        cosines, nearest = all_neighbors(keys, self.k)
        edges = neighbor_edges(nearest, cosines, self.k, self.equal)
        source, target, share = [own[edges.row]], [own[edges.query]], [edges.share]
        if len(filled):
            source.append(filled)
            target.append(filled)
            share.append(np.ones(len(filled), dtype=np.float32))
        if len(filled) and self.k > 1:
            cosines, nearest = nearest_rows(unit[filled], keys, self.k - 1)
            edges = neighbor_edges(nearest, cosines, self.k - 1, self.equal, np.arange(len(filled)))
            source.append(own[edges.row])
            target.append(filled[edges.query])
            share.append(edges.share)
        n = len(unit)
        graph = Graph.from_edges(*map(np.concatenate, (source, target, share)), n_source=n, n_target=n)
        return graph.to(unit.device)


def symmetric_weights(graph: Graph, weight: Tensor) -> Tensor:
    """``D^-1/2 A D^-1/2`` with the row sums of ``A`` on both sides, differentiable in the weights, unlike
    :func:`graphrec.graphs.graph.normalize_weights`.

    Args:
        graph: square, with ``E`` edges whose own weights do not count.
        weight: weights of ``A``, none negative ``(E,)``.

    Returns:
        ``(E,)``.
    """
    total = (graph.weighted(weight) @ weight.new_ones(graph.n_source, 1)).squeeze(1)  # (n_target,)
    scale = torch.where(total > 0, total, 1.0).rsqrt()
    return weight * scale[graph.target] * scale[graph.col]


def self_looped(train: Interactions) -> Graph:
    """``D^-1 (A + I)`` over users and items: the mean of a node's neighbors and itself."""
    n = train.n_users + train.n_items
    identity = Graph.from_edges(np.arange(n), np.arange(n), n_source=n, n_target=n)
    return normalize_weights(mix([(1.0, bipartite(train, "none")), (1.0, identity)]), "row")
