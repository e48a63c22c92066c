"""Layers that two or more models share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from graphrec.core.random import splitmix64
from graphrec.data.interactions import Interactions
from graphrec.features import FeatureTable
from graphrec.features.prefetch import RowsOnDisk
from graphrec.graphs.graph import Graph
from graphrec.models.multimodal import Fill, StreamedConfig, filled

ROW_BLOCK = 256  # rows subtracted at a time, so that they stay in the cache
COLUMN_BLOCK = 256  # columns of features propagated at a time, which bounds the memory beyond the result
SAMPLED = 2**20  # numbers of gradients of sampled rows that are in memory at a time


def propagate(graph: Graph, x: Tensor, n_layers: int) -> Tensor:
    """LightGCN propagation: the mean of ``x, A x, A² x, ...`` (https://arxiv.org/abs/2002.02126, Eqs. 3, 4
    and 8).

    Args:
        graph: normalized, square, ``n`` nodes.
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


def propagate_tables(graph: Graph, users: Tensor, items: Tensor, n_layers: int) -> tuple[Tensor, Tensor]:
    """:func:`propagate` over a user-item graph.

    Args:
        graph: normalized, over users and, numbered after them, items.
        users: embeddings ``(n_users, d)``.
        items: embeddings ``(n_items, d)``.
        n_layers: number of products.

    Returns:
        ``(n_users, d), (n_items, d)``.
    """
    if graph.weight.requires_grad:
        x = propagate(graph, torch.cat([users, items]), n_layers)  # (n_users + n_items, d)
        return x[: len(users)], x[len(users) :]
    result: tuple[Tensor, Tensor] = _PropagatedTables.apply(users, items, graph, n_layers)
    return result


def propagate_features(graph: Graph, users: Tensor, items: Tensor, n_layers: int) -> tuple[Tensor, Tensor]:
    """:func:`propagate_tables` of wide tables without gradients, in blocks of columns."""
    results = torch.empty_like(users), torch.empty_like(items)
    for start in range(0, users.shape[1], COLUMN_BLOCK):
        block = slice(start, start + COLUMN_BLOCK)
        parts = propagate_tables(graph, users[:, block], items[:, block], n_layers)
        for result, part in zip(results, parts, strict=True):
            result[:, block] = part
    return results


def fold_in_table(graph: Graph, users: Tensor, items: Tensor, n_layers: int, degree: np.ndarray) -> Tensor:
    """``q_i = d_i^-1/2 / (L + 1) sum_{l < L} x_i^(l)``: over the root of a user's number of items, it is what
    an item adds to the user's embedding after :func:`propagate_tables` over a symmetrically normalized graph.

    Args:
        graph: normalized, over users and items.
        users: ID embeddings ``(n_users, d)``.
        items: ID embeddings ``(n_items, d)``.
        n_layers: ``L``, at least 1.
        degree: train interactions of each item ``(n_items,)``; items without any count as if they had one.

    Returns:
        ``(n_items, d)``.
    """
    _, mean = propagate_tables(graph, users, items, n_layers - 1)
    scale = n_layers / (n_layers + 1) / np.sqrt(np.maximum(degree, 1))
    return mean * torch.from_numpy(scale.astype(np.float32)).to(mean.device)[:, None]


class _PropagatedTables(torch.autograd.Function):
    """:func:`propagate` of two tables over a graph with constant weights. The tables are the largest tensors
    of a step, and a pass over them takes about as long as a product with a sparse graph; autograd would make
    several more passes (python -m experiments.bench.propagation).
    """

    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, graph: Graph, n_layers: int) -> tuple[Tensor, Tensor]:
        ctx.graph = graph
        ctx.n_layers = n_layers
        n_users = len(users)
        x = users.new_empty(n_users + len(items), users.shape[1])
        torch.div(users, n_layers + 1, out=x[:n_users])
        torch.div(items, n_layers + 1, out=x[n_users:])
        total = x
        for _ in range(n_layers):
            total = (graph @ total).add_(x)
        return total[:n_users], total[n_users:]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        n_users = len(gradients[0])
        product = torch.cat(gradients)
        total = product
        transpose = ctx.graph.t()
        for _ in range(ctx.n_layers):
            product = transpose @ product
            total += product
        total /= ctx.n_layers + 1
        return total[:n_users], total[n_users:], None, None


def refine(x: Tensor, initial: Tensor) -> Tensor:
    """Rows scaled by their cosine with other rows: ``cos(x, initial) x`` (Zhou et al., "Layer-refined Graph
    Convolutional Networks for Recommendation", ICDE 2023, https://arxiv.org/abs/2207.11088).

    Args:
        x: ``(n, d)``; a row of zeros stays one.
        initial: ``(n, d)``.

    Returns:
        ``(n, d)``.
    """
    result: Tensor = _Refined.apply(x, initial)
    return result


class _Refined(torch.autograd.Function):
    """Rows scaled by a cosine. Backward takes four passes over the tables, a third of autograd's time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, initial: Tensor) -> Tensor:
        length, initial_length = (torch.linalg.vector_norm(v, dim=1).clamp_(min=1e-12) for v in (x, initial))
        cosine = torch.einsum("nd,nd->n", x, initial) / length / initial_length  # (n,)
        ctx.save_for_backward(x, initial, cosine, length, initial_length)
        refined: Tensor = x * cosine[:, None]
        return refined

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, initial, cosine, length, initial_length = ctx.saved_tensors
        to_cosine = torch.einsum("nd,nd->n", gradient, x)
        # The gradient of the cosine is initial / (|x| |initial|) - cosine x / |x|^2, and the same exchanged.
        shared = (to_cosine / length / initial_length)[:, None]
        along_x = (to_cosine * cosine / length / length)[:, None]
        along_initial = (to_cosine * cosine / initial_length / initial_length)[:, None]
        to_x = (gradient * cosine[:, None]).addcmul_(initial, shared).addcmul_(x, along_x, value=-1)
        to_initial = (x * shared).addcmul_(initial, along_initial, value=-1)
        return to_x, to_initial


def embedding(n: int, dim: int, generator: torch.Generator) -> nn.Embedding:
    """An embedding table ``(n, dim)``, Xavier-uniform from its own generator."""
    table = nn.Embedding(n, dim, _weight=torch.empty(n, dim))
    nn.init.xavier_uniform_(table.weight, generator=generator)
    return table


def projection(
    n_in: int, n_out: int, generator: torch.Generator, weight: Any = nn.init.xavier_uniform_
) -> nn.Linear:
    """A linear map without bias; ``weight`` initializes its matrix, from ``generator``."""
    layer = nn.Linear(n_in, n_out, bias=False)
    weight(layer.weight, generator=generator)
    return layer


def linear(
    n_in: int, n_out: int, generator: torch.Generator, weight: Any = nn.init.xavier_uniform_
) -> nn.Linear:
    """A linear map with torch's initial bias, drawn from ``generator``; ``weight`` initializes its matrix."""
    layer = nn.Linear(n_in, n_out)
    weight(layer.weight, generator=generator)
    nn.init.uniform_(layer.bias, -1 / math.sqrt(n_in), 1 / math.sqrt(n_in), generator=generator)
    return layer


def fan_in_uniform_(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Fills a matrix ``(out, in)`` as torch initializes its linear maps, from ``generator``: uniform up to
    ``in^-1/2``.
    """
    bound = 1 / math.sqrt(weight.shape[1])
    return nn.init.uniform_(weight, -bound, bound, generator=generator)


def sampled_products(rows: Tensor, table: Tensor, index: Tensor) -> Tensor:
    """The inner products of each row with some rows of a table, ``rows[b] . table[index[b, j]]``.

    The gathered rows ``(B, n, d)`` are never in memory at once: with 4,096 rows and 256 samples they would
    be the largest tensors of a step, and it takes a tenth of the time without them.

    Args:
        rows: ``(B, d)``.
        table: ``(m, d)``.
        index: ``(B, n) int64``.

    Returns:
        ``(B, n)``, differentiable in ``rows`` and ``table``.
    """
    result: Tensor = _SampledProducts.apply(rows, table, index)
    return result


class _SampledProducts(torch.autograd.Function):
    """With ``F(w) = sum_b rows[b] . sum_j w[b, j] table[index[b, j]]``, a sum of weighted bags, the products
    are the gradient of ``F`` in ``w``, for which there is a kernel that gathers nothing.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, table: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(rows, table, index)
        with torch.enable_grad():
            weight = rows.new_zeros(index.shape, requires_grad=True)
            bags = nn.functional.embedding_bag(index, table.detach(), mode="sum", per_sample_weights=weight)
        (products,) = torch.autograd.grad(bags, weight, rows.detach())
        return products

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, table, index = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        to_rows = nn.functional.embedding_bag(index, table, mode="sum", per_sample_weights=gradient)
        to_table = torch.zeros_like(table)
        block = max(1, SAMPLED // (index.shape[1] * table.shape[1]))
        for start in range(0, len(rows), block):
            part = slice(start, start + block)
            added = gradient[part, :, None] * rows[part, None]  # (b, n, d)
            to_table.index_add_(0, index[part].flatten(), added.flatten(0, 1))
        return to_rows, to_table, None


def row_dropout(x: Tensor, index: Tensor, p: float, key: Tensor) -> Tensor:
    """Zeroes entries of a table's rows with probability ``p``, by :func:`row_bits`: a row is masked the same
    way in every batch. ``p`` is rounded to 2^-16. The other entries are not scaled by ``1 / (1 - p)``: cosine
    similarity does not depend on it.

    Args:
        x: the rows ``(B, d)``.
        index: their positions in the table ``(B,) int64``.
        p: share of entries to zero, below 1; 0 returns ``x``.
        key: seed of the table's mask, ``() int64``.

    Returns:
        ``(B, d)``.
    """
    if not p:
        return x
    threshold = min(round(p * 2**16) - 2**15, 2**15 - 1)
    return torch.where(row_bits(index, x.shape[1], key) >= threshold, x, 0)


def row_bits(index: Tensor, dim: int, key: Tensor) -> Tensor:
    """Random numbers ``(B, dim) int16`` for rows of a table, uniform from -2^15 to 2^15 - 1: a function of
    ``key``, the row in the table and the column alone, whatever else is in the batch.

    Four numbers share one output of splitmix64 (Steele et al., OOPSLA 2014,
    https://doi.org/10.1145/2660193.2660195), computed from their position.

    Args:
        index: positions of the rows in the table ``(B,) int64``.
        dim: numbers a row.
        key: seed of the table, ``() int64``.
    """
    n = -(-dim // 4)  # outputs per row
    counter = index[:, None] * n + torch.arange(n, device=index.device)
    # int64 arithmetic wraps around as the unsigned one does; only shifts bring in the sign.
    z = splitmix64(key) + counter * -0x61C8864680B583EB
    return splitmix64(z).view(torch.int16)[:, :dim]


class ItemFeatures(nn.Module):
    """One modality of all items: frozen vectors, or a trained copy of them.

    Frozen vectors are not part of the state dict: they belong to the feature store, not to the model.

    Args:
        table: features ``(n_items, d)``.
        trained: make the vectors a parameter initialized from the table.
        dtype: precision of the vectors in memory.
        fill: how missing vectors are estimated, see :class:`graphrec.models.multimodal.MultimodalConfig`.
        train: the interactions; only ``fill="neighbors"`` needs them.
        on_disk: leave the vectors in the table's files and read those that a step needs; they are then
            neither trained nor filled.

    Attributes:
        values: ``(n_items, d)``; zero where missing and not filled. Not set for features on disk.
        disk: the rows on disk, or None.
        present: items whose vectors count in losses, filled ones included ``(n_items,) bool``.
        own: items whose vectors are not filled ``(n_items,) bool``.
    """

    values: Tensor
    present: Tensor
    own: Tensor

    def __init__(
        self,
        table: FeatureTable,
        trained: bool = False,
        dtype: torch.dtype = torch.float32,
        fill: Fill = "zero",
        train: Interactions | None = None,
        on_disk: bool = False,
    ) -> None:
        super().__init__()
        self.disk: RowsOnDisk | None = None
        present = np.array(table.present)
        if on_disk:
            self.disk = RowsOnDisk(table, dtype)
        else:
            array, present = filled(table, fill, train)
            values = torch.from_numpy(array).to(dtype)
            if trained:
                self.values = nn.Parameter(values.clone())
            else:
                self.register_buffer("values", values, persistent=False)
        self.register_buffer("present", torch.from_numpy(present), persistent=False)
        self.register_buffer("own", torch.from_numpy(np.array(table.present)), persistent=False)
        self._memory: list[Tensor] = []  # for gathered rows, reused in the next step

    @classmethod
    def from_table(cls, table: FeatureTable, config: StreamedConfig, train: Interactions) -> Self:
        """The features of one modality with a model's options."""
        dtype = getattr(torch, config.feature_dtype)
        trained = bool(getattr(config, "train_features", False))
        return cls(table, trained, dtype, config.fill, train, config.features_on_disk)

    def blocks(self, size: int) -> Iterator[Tensor]:
        """All vectors in order, in blocks of at most ``size`` rows ``(b, d)``."""
        for start in range(0, len(self.present), size):
            end = min(start + size, len(self.present))
            yield self.values[start:end] if self.disk is None else self.disk.block(np.arange(start, end))

    def forward(self, items: Tensor) -> Tensor:
        """Vectors ``(B, d)`` of items ``(B,)``."""
        values, (rows,) = (self.values, (items,)) if self.disk is None else self.disk.take(items)
        return nn.functional.embedding(rows, values)

    def projected(self, weight: Tensor, items: Tensor) -> Tensor:
        """``W x_i`` of items ``(B,)``: ``(B, k) float32`` for a projection ``(k, d)``."""
        return self._project(weight, items, None)

    def projected_difference(self, weight: Tensor, items: Tensor, others: Tensor) -> Tensor:
        """``W (x_i - x_j)`` of pairs of items ``(B,)``: ``(B, k) float32`` for a projection ``(k, d)``.

        A projection is linear, so the difference of two projected vectors is one product.
        """
        return self._project(weight, items, others)

    def _project(self, weight: Tensor, items: Tensor, others: Tensor | None) -> Tensor:
        if self.disk is None:
            values = self.values
        else:
            values, (items, *subtracted) = self.disk.take(items, *(() if others is None else (others,)))
            others = subtracted[0] if subtracted else None
        # Projecting each item once is less work, or the distinct items are what was read from disk.
        if (self.disk is not None or len(items) > len(values)) and not values.requires_grad:
            table = nn.functional.linear(values, weight.to(values.dtype)).float()  # (n_items, k)
            x = nn.functional.embedding(items, table)
            return x if others is None else x - nn.functional.embedding(others, table)
        if values.requires_grad or values.device.type != "cpu":
            x = nn.functional.embedding(items, values)
            if others is not None:
                x = x - nn.functional.embedding(others, values)
            return nn.functional.linear(x, weight.to(x.dtype)).float()
        projected: Tensor = _Projected.apply(weight, values, items, others, self._memory)
        return projected


class _Projected(torch.autograd.Function):
    """Projects gathered rows, or their differences ``(B, d)``: the largest tensor of a step. On a CPU fresh
    memory for it costs more than the arithmetic, so its memory is reused from step to step.
    """

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, values: Tensor, items: Tensor, others: Tensor | None, reused: list[Tensor]
    ) -> Tensor:
        n_rows = len(items) + ROW_BLOCK
        memory = reused.pop() if reused else values.new_empty(0, values.shape[1])
        if len(memory) < n_rows:
            memory = values.new_empty(n_rows, values.shape[1])
        x = _gather_rows(values, items, others, memory)
        projected = (x @ weight.to(values.dtype).T).float()
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(values, items, others)
            ctx.memory = memory
            ctx.reused = reused
        else:
            reused[:] = [memory]
        return projected

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, items, others = ctx.saved_tensors
        memory = ctx.memory
        ctx.memory = None
        if memory is None:  # a second time through one graph: a later step may have the memory by now
            memory = values.new_empty(len(items) + ROW_BLOCK, values.shape[1])
            _gather_rows(values, items, others, memory)
        to_weight = (gradient.to(values.dtype).T @ memory[: len(items)]).float()  # (k, d)
        ctx.reused[:] = [memory]
        return to_weight, None, None, None, None


def _gather_rows(values: Tensor, items: Tensor, others: Tensor | None, memory: Tensor) -> Tensor:
    """Rows of ``items``, minus those of ``others`` if given, ``(B, d)``, written to ``memory`` of at least
    ``(B + ROW_BLOCK, d)``.
    """
    if others is None:
        return torch.index_select(values, 0, items, out=memory[: len(items)])
    difference = memory[: len(items)]
    spare = memory[len(items) :]
    for start in range(0, len(items), ROW_BLOCK):
        part = difference[start : start + ROW_BLOCK]
        torch.index_select(values, 0, items[start : start + ROW_BLOCK], out=part)
        subtracted = spare[: len(part)]
        torch.index_select(values, 0, others[start : start + ROW_BLOCK], out=subtracted)
        part -= subtracted
    return difference


def distinct_rows(x: Tensor, limit: int) -> tuple[Tensor, Tensor] | None:
    """The distinct rows of a matrix, and the number of each row's distinct row.

    Args:
        x: ``(n, d)``.
        limit: largest number of distinct rows.

    Returns:
        ``(K, d)`` in order of first occurrence, and ``(n,) int64``; None if there are more than ``limit``.
    """
    number_of: dict[bytes, int] = {}
    number = np.empty(len(x), np.int64)
    first: list[int] = []
    for n, row in enumerate(x.numpy()):
        number[n] = number_of.setdefault(row.tobytes(), len(number_of))
        if len(number_of) > len(first):
            first.append(n)
            if len(first) > limit:
                return None
    return x[first], torch.from_numpy(number)
