"""Layers that two or more models share."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from graphrec.graph import Graph
from graphrec.store import FeatureTable


def propagate(graph: Graph, x: Tensor, n_layers: int) -> Tensor:
    """LightGCN propagation: the mean of ``x, A x, A² x, ...`` (https://arxiv.org/abs/2002.02126, Eqs. 3, 4
    and 8).

    Args:
        graph: normalised, square, ``n`` nodes.
        x: node embeddings ``(n, d)``.
        n_layers: number of products; 0 returns ``x``.

    Returns:
        ``(n, d)``.
    """
    # Horner's form, x + A(x + A(x + ...)): as many products, one table less to keep.
    x = x / (n_layers + 1)
    total = x
    for _ in range(n_layers):
        total = x + graph @ total
    return total


def embedding(n: int, dim: int, generator: torch.Generator) -> nn.Embedding:
    """An embedding table ``(n, dim)``, Xavier-uniform from its own generator."""
    table = nn.Embedding(n, dim, _weight=torch.empty(n, dim))
    nn.init.xavier_uniform_(table.weight, generator=generator)
    return table


def projection(n_in: int, n_out: int, generator: torch.Generator) -> nn.Linear:
    """A linear map without bias, Xavier-uniform from its own generator."""
    layer = nn.Linear(n_in, n_out, bias=False)
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    return layer


class ItemFeatures(nn.Module):
    """One modality of all items: frozen vectors, or a trained copy of them.

    Frozen vectors are not part of the state dict; they are the feature store's, not the model's.

    Args:
        table: features ``(n_items, d)``.
        trained: make the vectors a parameter initialised from the table.
        dtype: precision in which they are kept.

    Attributes:
        values: ``(n_items, d)``.
        present: ``(n_items,) bool``.
    """

    values: Tensor
    present: Tensor
    signs: Tensor

    def __init__(
        self, table: FeatureTable, trained: bool = False, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        values = torch.from_numpy(table.numpy(np.float32)).to(dtype)
        if trained:
            self.values = nn.Parameter(values.clone())
        else:
            self.register_buffer("values", values, persistent=False)
        self.register_buffer("present", torch.from_numpy(np.array(table.present)), persistent=False)
        self.register_buffer("signs", values.new_tensor([1.0, -1.0]), persistent=False)

    def forward(self, items: Tensor) -> Tensor:
        """Vectors ``(B, d)`` of items ``(B,)``."""
        return nn.functional.embedding(items, self.values)

    def difference(self, items: Tensor, others: Tensor) -> Tensor:
        """Vectors of ``items`` minus those of ``others`` ``(B, d)``; both ``(B,)``."""
        # A bag of two rows a pair reads each row once and writes the difference alone; two gathers and a
        # subtraction write three tables of (B, d), and fresh pages cost more than the numbers in them.
        pairs = torch.stack([items, others], 1)  # (B, 2)
        signs = self.signs.expand_as(pairs)
        return nn.functional.embedding_bag(pairs, self.values, per_sample_weights=signs, mode="sum")
