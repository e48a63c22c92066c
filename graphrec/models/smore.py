"""SMORE: modalities filtered and fused in the frequency domain, and a view of their fusion.

Ong and Khong, "Spectrum-based Modality Representation Fusion Graph Convolutional Network for Multimodal
Recommendation", WSDM 2025, https://arxiv.org/abs/2412.14978. Projected content passes a learned filter of its
frequencies; the product of the modalities' spectra is one more view, over the union of their item graphs,
which decides what is taken of the views of single modalities.

``Eq. n`` refers to the numbered equations in docs/models/smore.md.

Differences from the authors' code:
- features are frozen unless ``train_features``; the code trains them, away from what the graphs are made of;
- neighbors of negative cosine get weight 0; the code keeps them and divides by the root of what may be a
  negative sum;
- the regularizer is divided by the size of the batch at hand; the code divides by the size of a full one;
- repeats of a user or an item in a batch are no negatives of each other unless ``contrast_repeats``;
- only the batch's rows are fused; a row that occurs twice in a batch has one dropout mask, as it has in the
  code, which draws those of all rows;
- any number of modalities; items without one are left out of its graph and of the product of spectra, and a
  node's fusion is over the views that it has, or they are filled (``fill``);
- items without train interactions get the embedding of their content neighbors (``cold_items``).
"""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from graphrec.core.random import derive_seed
from graphrec.data.interactions import Interactions
from graphrec.graphs.graph import maximum
from graphrec.models.base import Features
from graphrec.models.content_views import (
    Gate,
    GatedViewsConfig,
    GatedViewsRanker,
    Nodes,
    SpectralFilter,
)
from graphrec.models.item_content import ItemContent
from graphrec.models.layers import fan_in_uniform_, linear, projection, row_dropout
from graphrec.models.search_space import Choice, Integers, Space


class SMORE(GatedViewsRanker):
    """A filtered view of each modality, and one of their fusion."""

    class Config(GatedViewsConfig):
        """Options of SMORE; the defaults are the authors' for Amazon Baby."""

        n_ui_layers: int = Field(4, ge=0)
        """Layers on the user-item graph."""
        image_knn_k: int = Field(40, ge=1)
        """Neighbors per item in the image, the item itself included."""
        knn_k: int = Field(15, ge=1)
        """Neighbors per item in every other modality, the item itself included."""
        dropout: float = Field(0.1, ge=0, lt=1)
        """Share of entries that are dropped from what is taken of a view."""

        def neighbors(self, modality: str) -> int:
            """Neighbors per item in a modality."""
            return self.image_knn_k if modality == "image" else self.knn_k

    name = "smore"
    data_parallel = "batches"
    train_defaults: ClassVar = {"schedule": "exponential"}
    search_space: ClassVar[Space] = {
        "n_ui_layers": Integers(2, 4),
        "cl_weight": Choice(0.001, 0.01, 0.03, 0.1),
        "reg_weight": Choice(1e-5, 1e-4),
        "dropout": Choice(0.0, 0.1),
        "train.learning_rate": Choice(5e-4, 1e-3, 2e-3),
    }
    config: Config

    def __init__(self, train: Interactions, features: Features, config: Config) -> None:
        super().__init__(train, features, config)
        graphs = self.content_graphs(features)
        self.set_graphs([*graphs, maximum(graphs)])  # Eqs. 1-3
        dim = config.dim

        def gate(purpose: str) -> Gate:
            return Gate(dim, dim, self.rng(purpose))

        self.filters = nn.ModuleDict({m: SpectralFilter(dim, self.rng(f"filters/{m}")) for m in features})
        self.gates = nn.ModuleDict({m: gate(f"gates/{m}") for m in features})
        self.preferences = nn.ModuleDict({m: gate(f"preferences/{m}") for m in features})
        self.selections = nn.ModuleDict(
            {
                m: nn.Sequential(
                    linear(dim, dim, self.rng(f"selections/{m}/hidden"), fan_in_uniform_),
                    nn.Tanh(),
                    projection(dim, dim, self.rng(f"selections/{m}/out"), fan_in_uniform_),
                )
                for m in features
            }
        )
        self.fusion_filter = SpectralFilter(dim, self.rng("fusion/filter"))
        self.fusion_gate = gate("fusion/gate")
        self.fusion_preference = gate("fusion/preference")

    def filtered(self) -> list[Tensor]:
        """Filtered content of all items ``(n_items, d)`` by modality, and fused (Eqs. 4-6). An item without
        any content has a fused vector that nobody reads.
        """
        results, product = [], None
        for m, module in self.projections.items():
            projected = cast(ItemContent, module)
            spectra = SpectralFilter.spectra(projected())  # (n_items, d / 2 + 1)
            results.append(self.filters[m](spectra))
            if projected.has_gaps:
                spectra = torch.where(projected.features.present[:, None], spectra, 1)
            product = spectra if product is None else product * spectra
        return [*results, self.fusion_filter(product)]

    def views(self) -> list[Tensor]:
        """Gated item embeddings by modality, and by their fusion ``(n_items, d)`` (Eq. 7)."""
        _, items = self.id_embeddings
        gates = [*self.gates.values(), self.fusion_gate]
        return [gate(items, vectors) for gate, vectors in zip(gates, self.filtered(), strict=True)]

    def fuse(self, nodes: Nodes, key: Tensor | None) -> Tensor:
        """The mean over the views of what the fusion selects of them and behavior prefers ``(n, d)`` (Eqs. 9
        and 10).
        """
        *views, fusion = nodes.views
        selected = [
            selection(fusion).softmax(1) * view
            for selection, view in zip(self.selections.values(), views, strict=True)
        ]
        preferences = [*self.preferences.values(), self.fusion_preference]
        total = torch.zeros_like(fusion)
        for number, (preference, view) in enumerate(zip(preferences, [*selected, fusion], strict=True)):
            preferred = preference(view, nodes.content)
            total = total + (preferred if key is None else self.dropout(preferred, nodes.ids, number, key))
        return total / nodes.known.sum(1, keepdim=True).clamp(min=1)

    def dropout(self, rows: Tensor, ids: Tensor, view: int, key: Tensor) -> Tensor:
        """Rows with some entries dropped and the others scaled up ``(n, d)``.

        Args:
            rows: of users and items ``(n, d)``.
            ids: their numbers ``(n,) int64``; a row has one mask, whatever else is in the batch.
            view: number of the view.
            key: seed of the batch's masks ``() int64``.
        """
        p = self.config.dropout
        return row_dropout(rows, ids, p, key + derive_seed(0, f"dropout/{view}")) / (1 - p)
