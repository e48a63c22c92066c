"""Sampled neighborhoods: what a few nodes need of a graph that is too big to propagate over in every step.

Each hop keeps at most ``fanout`` of a node's sources, drawn without replacement, and weighs them by how many
stand for how many, so that in the mean over draws a hop sums to what the whole row sums to (Hamilton et al.,
"Inductive Representation Learning on Large Graphs", NeurIPS 2017, https://arxiv.org/abs/1706.02216, with the
weights of the row). Which sources a node keeps is a function of the key, the hop and the node alone, whatever
other nodes are asked for: a part of a batch draws what the whole batch draws for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from scipy.sparse import csr_matrix
from torch import Tensor
from torch.nn.functional import embedding

from graphrec.core.errors import GraphError
from graphrec.core.random import splitmix
from graphrec.graphs.graph import Graph


class Neighborhood(NamedTuple):
    """Nodes and hops, the outermost first.

    Attributes:
        nodes: of each level, ``(n_0,), ..., (n_L,) int64``; a level begins with the nodes of the next one,
            and the last one is what was asked for.
        hops: from the rows of one level to those of the next.
    """

    nodes: list[Tensor]
    hops: list[Graph]

    def propagate(self, x: Tensor) -> Tensor:
        """The mean over layers as in :func:`graphrec.models.layers.propagate` for the nodes that were asked for:
        ``(n_0, d) -> (n_L, d)``.
        """
        return self.both(x)[0]

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`propagate`, and what the same nodes were before, each ``(n_L, d)``."""
        found: tuple[Tensor, Tensor] = _Mean.apply(x, self)
        return found


class _Mean(torch.autograd.Function):
    """``x + A(x + A(x + ...))`` over the number of layers, level by level. Tables of the outer levels are the
    largest things in a step, and fresh memory for them costs more than the numbers in them: autograd would
    take three times as many.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, around: Neighborhood) -> tuple[Tensor, Tensor]:
        ctx.around = around
        total = x
        for hop in around.hops:
            total = (hop @ total).add_(x[: hop.n_target])
        return total / (len(around.hops) + 1), x[: len(around.nodes[-1])].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        hops, (found, before) = ctx.around.hops, gradients
        total = found / (len(hops) + 1)
        levels = [total]
        for hop in reversed(hops):
            total = hop.t() @ total
            levels.append(total)
        for level in (*levels[:-1], before):
            total[: len(level)] += level
        return total, None


class _Rows(torch.autograd.Function):
    """Distinct rows ``(n, d)`` of two tables, numbered one after the other; gradients are sparse."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, rows: Tensor) -> Tensor:
        x = first.new_empty(len(rows), first.shape[1])
        ctx.shapes, ctx.parts = (first.shape, second.shape), []
        for table, at in ((first, rows < len(first)), (second, rows >= len(first))):
            places = at.nonzero()[:, 0]
            # Ascending, as tables are read faster and as a coalesced gradient needs.
            own, order = (rows[places] - (0 if table is first else len(first))).sort()
            places = places[order]
            ctx.parts.append((places, own))
            for some, to in zip(own.split(BLOCK), places.split(BLOCK), strict=True):
                x[to] = table[some]
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        made = (
            torch.sparse_coo_tensor(own[None], gradients[0][places], shape, is_coalesced=True)
            for (places, own), shape in zip(ctx.parts, ctx.shapes, strict=True)
        )
        return (*made, None)


ALL = -1
BLOCK = 8192  # rows gathered at a time
Fanouts = tuple[int, ...] | None


def check_fanouts(fanouts: Fanouts, n_layers: int) -> None:
    """Refuses fanouts that are not one for each layer, each 1 at least or -1.

    Raises:
        ValueError: says so.
    """
    if fanouts is not None and (
        len(fanouts) != n_layers or any(fanout < 1 and fanout != ALL for fanout in fanouts)
    ):
        raise ValueError(
            f"fanouts {list(fanouts)} for {n_layers} layers; expected one for each, at least 1 or -1 for all"
        )


def neighborhood(graph: Graph, nodes: Tensor, fanouts: Sequence[int], key: Tensor | int) -> Neighborhood:
    """The neighborhood of some nodes, of as many hops as there are fanouts.

    Args:
        graph: over one node set.
        nodes: distinct ``(n,) int64``.
        fanouts: most sources of a node, the hop next to the nodes first; -1 keeps all.
        key: of the draws, ``() int64``.

    Raises:
        GraphError: the graph is not square.
    """
    if graph.n_source != graph.n_target:
        raise GraphError(f"{graph!r} is not over one node set")
    levels, hops = [nodes], list[Graph]()
    device = graph.device
    place = torch.full((graph.n_source,), -1, dtype=torch.int64, device=device)  # of each node in the level
    place[nodes] = torch.arange(len(nodes), device=device)
    for hop, fanout in enumerate(fanouts):
        level = levels[0]
        edges, counts, weight = _drawn(graph, level, fanout, key + hop)
        source = graph.col[edges].long()
        new = torch.zeros(graph.n_source, dtype=torch.bool, device=device)
        new[source] = True
        more = (new & (place < 0)).nonzero()[:, 0]
        place[more] = torch.arange(len(level), len(level) + len(more), device=device)
        levels.insert(0, torch.cat([level, more]))
        rowptr = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        hops.insert(0, _with_transpose(Graph(rowptr, place[source], weight, len(levels[0]))))
    return Neighborhood(levels, hops)


def propagated(
    graph: Graph, users: Tensor, items: Tensor, asked: Sequence[Tensor], fanouts: Sequence[int], key: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """Rows of :func:`graphrec.models.layers.propagate` over a user-item graph, from sampled neighborhoods; with sparse
    gradients, for :class:`graphrec.models.row_adam.RowAdam`.

    Args:
        graph: of users and, behind them, items.
        users: embeddings ``(n_users, d)``.
        items: embeddings ``(n_items, d)``.
        asked: nodes, repeats allowed, each ``(B,) int64``.
        fanouts: see :func:`neighborhood`.
        key: likewise.

    Returns:
        for each of ``asked`` the rows ``(B, d)``, and what they are before propagation.
    """
    nodes, at = torch.cat(list(asked)).unique(return_inverse=True)
    around = neighborhood(graph, nodes, fanouts, key)
    x: Tensor = _Rows.apply(users, items, around.nodes[0])  # (n_0, d)
    found, before = around.both(x)  # (n, d)
    parts = at.split([len(a) for a in asked])
    return [embedding(part, found) for part in parts], [embedding(part, before) for part in parts]


def convolved(graph: Graph, x: Tensor, asked: Tensor, fanouts: Sequence[int]) -> Tensor:
    """Rows ``(B, d)`` of ``A ... A x`` of nodes ``(B,)``, as many products as there are fanouts; with sparse
    gradients.
    """
    nodes, at = asked.unique(return_inverse=True)
    around = neighborhood(graph, nodes, fanouts, 0)
    found = embedding(around.nodes[0], x, sparse=True)
    for hop in around.hops:
        found = hop @ found
    return embedding(at, found)


def _drawn(graph: Graph, rows: Tensor, fanout: int, key: Tensor | int) -> tuple[Tensor, Tensor, Tensor]:
    """Edges of some rows ``(E,)``, how many of each row ``(n,)``, and their weights ``(E,)``."""
    first, degree = graph.rowptr[rows].long(), (graph.rowptr[rows + 1] - graph.rowptr[rows]).long()
    counts = degree if fanout == ALL else degree.clamp(max=fanout)
    of = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), counts)
    at = torch.arange(len(of), device=rows.device) - (counts.cumsum(0) - counts)[of]  # 0, 1, ... in each row
    if fanout == ALL:
        edges = first[of] + at
        return edges, counts, graph.weight[edges]
    many = (degree > fanout).nonzero()[:, 0]
    chosen = degree.new_empty(len(rows), fanout)
    chosen[many] = _without_replacement(degree[many], fanout, rows[many], key)
    at = torch.where(degree[of] > fanout, chosen[of, at], at)
    edges = first[of] + at
    return edges, counts, graph.weight[edges] * (degree / counts.clamp(min=1)).float()[of]


def _without_replacement(n: Tensor, k: int, rows: Tensor, key: Tensor | int) -> Tensor:
    """``k`` different numbers below each of ``n (m,)``, all above ``k``: ``(m, k) int64`` (Floyd's algorithm,
    Bentley and Floyd, CACM 1987, https://doi.org/10.1145/30401.315746, for all rows at once).
    """
    chosen, seed = n.new_empty(len(n), k), splitmix(torch.as_tensor(key, device=n.device))
    for j in range(k):
        last = n - k + j
        drawn = (splitmix(seed + (rows * k + j) * -0x61C8864680B583EB) & (2**62 - 1)) % (last + 1)
        known = (chosen[:, :j] == drawn[:, None]).any(1)
        chosen[:, j] = torch.where(known, last, drawn)
    return chosen


def _with_transpose(graph: Graph) -> Graph:
    """The same with its transpose, which backward needs and which costs a CPU a sort otherwise."""
    if graph.device.type != "cpu":
        return graph
    arrays = (graph.weight.numpy(), graph.col.numpy(), graph.rowptr.numpy())
    back = csr_matrix(arrays, shape=(graph.n_target, graph.n_source)).tocsc()
    rowptr, col, weight = (torch.from_numpy(part) for part in (back.indptr, back.indices, back.data))
    graph.set_transpose(Graph(rowptr, col, weight, graph.n_target))
    return graph
