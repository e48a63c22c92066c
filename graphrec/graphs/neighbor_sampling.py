"""Sampled neighborhoods: the part of a graph that a few nodes need, for graphs too big to propagate over in
every step.

Each hop keeps at most ``fanout`` of a node's sources, drawn without replacement, and scales their weights by
degree over fanout, so that in the mean over draws a hop sums to what the whole row sums to (Hamilton et al.,
"Inductive Representation Learning on Large Graphs", NeurIPS 2017, https://arxiv.org/abs/1706.02216, with the
weights of the row). Which sources a node keeps is a function of the key, the hop and the node alone: one
process with a part of a batch draws the same for it as another with the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding

from graphrec.core.errors import GraphError
from graphrec.core.random import splitmix64
from graphrec.graphs.graph import Graph
from graphrec.graphs.sparse import to_scipy


class Neighborhood(NamedTuple):
    """Levels of nodes and the hops between them, the outermost first.

    Attributes:
        nodes: nodes of each level, ``(n_0,), ..., (n_L,) int64``; a level begins with the nodes of the next
            one, and the last level is the nodes whose neighborhood this is.
        hops: graphs from each level to the next.
    """

    nodes: list[Tensor]
    hops: list[Graph]

    def propagate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The mean over layers as in :func:`graphrec.models.layers.propagate`, for nodes of the last level,
        and the embeddings of the same nodes before it, each ``(n_L, d)``.

        Args:
            x: embeddings of the outermost level ``(n_0, d)``.
        """
        result: tuple[Tensor, Tensor] = _PropagatedMean.apply(x, self)
        return result


class _PropagatedMean(torch.autograd.Function):
    """``x + A(x + A(x + ...))`` over the number of layers, level by level. Tables of the outer levels are the
    largest tensors in a step, and fresh memory for them costs more than the arithmetic: autograd would
    allocate three times as many.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, neighborhood: Neighborhood) -> tuple[Tensor, Tensor]:
        ctx.neighborhood = neighborhood
        total = x
        for hop in neighborhood.hops:
            total = (hop @ total).add_(x[: hop.n_target])
        return total / (len(neighborhood.hops) + 1), x[: len(neighborhood.nodes[-1])].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        hops = ctx.neighborhood.hops
        to_mean, to_initial = gradients
        total = to_mean / (len(hops) + 1)
        levels = [total]
        for hop in reversed(hops):
            total = hop.t() @ total
            levels.append(total)
        for level in (*levels[:-1], to_initial):
            total[: len(level)] += level
        return total, None


class _TableRows(torch.autograd.Function):
    """Distinct rows ``(n, d)`` of two tables, numbered one after the other; gradients are sparse."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, rows: Tensor) -> Tensor:
        x = first.new_empty(len(rows), first.shape[1])
        ctx.shapes = (first.shape, second.shape)
        ctx.parts = []
        for table, in_table in ((first, rows < len(first)), (second, rows >= len(first))):
            positions = in_table.nonzero()[:, 0]
            # Ascending, as tables are read faster and as a coalesced gradient needs.
            index, order = (rows[positions] - (0 if table is first else len(first))).sort()
            positions = positions[order]
            ctx.parts.append((positions, index))
            for block, to in zip(index.split(ROW_BLOCK), positions.split(ROW_BLOCK), strict=True):
                x[to] = table[block]
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        to_tables = (
            torch.sparse_coo_tensor(index[None], gradients[0][positions], shape, is_coalesced=True)
            for (positions, index), shape in zip(ctx.parts, ctx.shapes, strict=True)
        )
        return (*to_tables, None)


ALL = -1
ROW_BLOCK = 8192  # rows gathered at a time
Fanouts = tuple[int, ...] | None


def check_fanouts(fanouts: Fanouts, n_layers: int) -> None:
    """Refuses fanouts unless there is one per layer, each at least 1 or -1.

    Raises:
        ValueError: names the fanouts and the number of layers.
    """
    if fanouts is not None and (
        len(fanouts) != n_layers or any(fanout < 1 and fanout != ALL for fanout in fanouts)
    ):
        raise ValueError(
            f"fanouts {list(fanouts)} for {n_layers} layers; expected one for each, at least 1 or -1 for all"
        )


def neighborhood(graph: Graph, nodes: Tensor, fanouts: Sequence[int], key: Tensor | int) -> Neighborhood:
    """The neighborhood of some nodes, with as many hops as there are fanouts.

    Args:
        graph: a graph over one node set.
        nodes: distinct nodes ``(n,) int64``.
        fanouts: most sources of a node, the hop next to the nodes first; -1 keeps all.
        key: seed of the draws, ``() int64``.

    Raises:
        GraphError: the graph is not square.
    """
    if graph.n_source != graph.n_target:
        raise GraphError(f"{graph!r} is not over one node set")
    device = graph.device
    levels = [nodes]
    hops = list[Graph]()
    position = torch.full((graph.n_source,), -1, dtype=torch.int64, device=device)  # of a node in its level
    position[nodes] = torch.arange(len(nodes), device=device)
    for hop, fanout in enumerate(fanouts):
        level = levels[0]
        edges, counts, weight = _draw_edges(graph, level, fanout, key + hop)
        source = graph.col[edges].long()
        reached = torch.zeros(graph.n_source, dtype=torch.bool, device=device)
        reached[source] = True
        new = (reached & (position < 0)).nonzero()[:, 0]
        position[new] = torch.arange(len(level), len(level) + len(new), device=device)
        levels.insert(0, torch.cat([level, new]))
        rowptr = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        hops.insert(0, _with_transpose(Graph(rowptr, position[source], weight, len(levels[0]))))
    return Neighborhood(levels, hops)


def sampled_propagation(
    graph: Graph, users: Tensor, items: Tensor, nodes: Sequence[Tensor], fanouts: Sequence[int], key: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """Rows of :func:`graphrec.models.layers.propagate` over a user-item graph, from sampled neighborhoods.

    Gradients are sparse, for :class:`graphrec.models.row_adam.RowAdam`.

    Args:
        graph: graph over users and, numbered after them, items.
        users: embeddings ``(n_users, d)``.
        items: embeddings ``(n_items, d)``.
        nodes: several lists of nodes, repeats allowed, each ``(B,) int64``.
        fanouts: see :func:`neighborhood`.
        key: see :func:`neighborhood`.

    Returns:
        for each list of nodes the rows ``(B, d)`` after propagation, and those before it.
    """
    distinct, position = torch.cat(list(nodes)).unique(return_inverse=True)
    sampled = neighborhood(graph, distinct, fanouts, key)
    x: Tensor = _TableRows.apply(users, items, sampled.nodes[0])  # (n_0, d)
    final, initial = sampled.propagate(x)  # (n, d)
    positions = position.split([len(part) for part in nodes])
    return [embedding(part, final) for part in positions], [embedding(part, initial) for part in positions]


def sampled_convolution(graph: Graph, x: Tensor, nodes: Tensor, fanouts: Sequence[int]) -> Tensor:
    """Rows ``(B, d)`` of ``A ... A x`` of nodes ``(B,)``, with as many products as there are fanouts and with
    sparse gradients.
    """
    distinct, position = nodes.unique(return_inverse=True)
    sampled = neighborhood(graph, distinct, fanouts, 0)
    h = embedding(sampled.nodes[0], x, sparse=True)
    for hop in sampled.hops:
        h = hop @ h
    return embedding(position, h)


def _draw_edges(
    graph: Graph, targets: Tensor, fanout: int, key: Tensor | int
) -> tuple[Tensor, Tensor, Tensor]:
    """Edges of some targets ``(E,)``, how many of each target ``(n,)``, and their weights ``(E,)``."""
    if fanout == ALL:
        edges, counts = graph.edges_to(targets)
        return edges, counts, graph.weight[edges]
    first = graph.rowptr[targets].long()
    degree = (graph.rowptr[targets + 1] - graph.rowptr[targets]).long()
    counts = degree.clamp(max=fanout)
    row = torch.repeat_interleave(torch.arange(len(targets), device=targets.device), counts)
    offset = torch.arange(len(row), device=targets.device) - (counts.cumsum(0) - counts)[row]  # 0, 1, ...
    sampled = (degree > fanout).nonzero()[:, 0]
    chosen = degree.new_empty(len(targets), fanout)
    chosen[sampled] = _without_replacement(degree[sampled], fanout, targets[sampled], key)
    offset = torch.where(degree[row] > fanout, chosen[row, offset], offset)
    edges = first[row] + offset
    return edges, counts, graph.weight[edges] * (degree / counts.clamp(min=1)).float()[row]


def _without_replacement(n: Tensor, k: int, rows: Tensor, key: Tensor | int) -> Tensor:
    """``k`` different numbers below each of ``n (m,)``, all above ``k``: ``(m, k) int64`` (Floyd's algorithm,
    Bentley and Floyd, CACM 1987, https://doi.org/10.1145/30401.315746, for all rows at once).
    """
    chosen, seed = n.new_empty(len(n), k), splitmix64(torch.as_tensor(key, device=n.device))
    for j in range(k):
        last = n - k + j
        drawn = (splitmix64(seed + (rows * k + j) * -0x61C8864680B583EB) & (2**62 - 1)) % (last + 1)
        known = (chosen[:, :j] == drawn[:, None]).any(1)
        chosen[:, j] = torch.where(known, last, drawn)
    return chosen


def _with_transpose(graph: Graph) -> Graph:
    """The graph with its transpose cached: backward needs it, and scipy transposes faster than a sort."""
    if graph.device.type != "cpu":
        return graph
    back = to_scipy(graph).tocsc()
    rowptr, col, weight = (torch.from_numpy(part) for part in (back.indptr, back.indices, back.data))
    graph.set_transpose(Graph(rowptr, col, weight, graph.n_target))
    return graph
