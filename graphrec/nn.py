"""Layers that two or more models share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from graphrec.data.interactions import Interactions
from graphrec.graph import Graph
from graphrec.modalities import Fill, filled
from graphrec.store import FeatureTable

BLOCK = 256  # rows that are subtracted at a time and stay in the cache meanwhile


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
        total = (graph @ total).add_(x)
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
        fill: what stands for missing vectors, see :class:`graphrec.modalities.MultimodalConfig`.
        train: the interactions; only ``fill="neighbours"`` needs them.

    Attributes:
        values: ``(n_items, d)``; zero where missing and not filled.
        present: items whose vectors count in losses, filled ones included ``(n_items,) bool``.
    """

    values: Tensor
    present: Tensor

    def __init__(
        self,
        table: FeatureTable,
        trained: bool = False,
        dtype: torch.dtype = torch.float32,
        fill: Fill = "zero",
        train: Interactions | None = None,
    ) -> None:
        super().__init__()
        array, present = filled(table, fill, train)
        values = torch.from_numpy(array).to(dtype)
        if trained:
            self.values = nn.Parameter(values.clone())
        else:
            self.register_buffer("values", values, persistent=False)
        self.register_buffer("present", torch.from_numpy(present), persistent=False)
        self._held: list[Tensor] = []  # memory for differences

    def forward(self, items: Tensor) -> Tensor:
        """Vectors ``(B, d)`` of items ``(B,)``."""
        return nn.functional.embedding(items, self.values)

    def projected_difference(self, weight: Tensor, items: Tensor, others: Tensor) -> Tensor:
        """``W (x_i - x_j)`` of pairs of items ``(B,)``: ``(B, k) float32`` for a projection ``(k, d)``.

        A projection is linear, so the difference of two projected vectors is one product.
        """
        if self.values.requires_grad or self.values.device.type != "cpu":
            difference = self(items) - self(others)
            return nn.functional.linear(difference, weight.to(difference.dtype)).float()
        projected: Tensor = _ProjectedDifference.apply(weight, self.values, items, others, self._held)
        return projected


class _ProjectedDifference(torch.autograd.Function):
    """The differences ``(B, d)`` are larger than all else in a step, and on a CPU fresh memory for them costs
    more than the numbers in them. They are therefore kept in memory that goes from step to step.
    """

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, values: Tensor, items: Tensor, others: Tensor, held: list[Tensor]
    ) -> Tensor:
        rows = len(items) + BLOCK
        memory = held.pop() if held else values.new_empty(0, values.shape[1])
        if len(memory) < rows:
            memory = values.new_empty(rows, values.shape[1])
        difference = _difference(values, items, others, memory)
        projected = (difference @ weight.to(values.dtype).T).float()
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(values, items, others)
            ctx.memory, ctx.held = memory, held
        else:
            held[:] = [memory]
        return projected

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, items, others = ctx.saved_tensors
        memory, ctx.memory = ctx.memory, None
        if memory is None:  # a second time through one graph: a later step may have the memory by now
            memory = values.new_empty(len(items) + BLOCK, values.shape[1])
            _difference(values, items, others, memory)
        total = (gradient.to(values.dtype).T @ memory[: len(items)]).float()  # (k, d)
        ctx.held[:] = [memory]
        return total, None, None, None, None


def _difference(values: Tensor, items: Tensor, others: Tensor, memory: Tensor) -> Tensor:
    """Rows of ``items`` minus those of ``others`` ``(B, d)``, in memory of at least ``(B + BLOCK, d)``."""
    difference, spare = memory[: len(items)], memory[len(items) :]
    for start in range(0, len(items), BLOCK):
        part = difference[start : start + BLOCK]
        torch.index_select(values, 0, items[start : start + BLOCK], out=part)
        subtracted = spare[: len(part)]
        torch.index_select(values, 0, others[start : start + BLOCK], out=subtracted)
        part -= subtracted
    return difference
