"""Distances in a graph: how many edges lie between some nodes and all others."""

from __future__ import annotations

import torch
from torch import Tensor

from graphrec.graphs.graph import Graph


@torch.no_grad()
def hops(graph: Graph, sources: Tensor) -> Tensor:
    """The number of edges on a shortest path from each of some nodes to every node: breadth-first search
    from all of them at once, one sparse product of ``S`` columns a hop, on the graph's device.

    As many products are made as the longest of these paths has edges, and one more: few in a user-item graph
    and as many as there are nodes in a chain.

    Args:
        graph: ``n`` nodes, positive weights.
        sources: nodes ``(S,) int64``.

    Returns:
        ``(n, S) int32``; -1 where there is no path.
    """
    columns = torch.arange(len(sources), device=graph.device)
    found = torch.full((graph.n_target, len(sources)), -1, dtype=torch.int32, device=graph.device)
    found[sources, columns] = 0
    front = found == 0
    distance = 0
    while bool(front.any()):
        distance += 1
        front = (graph @ front.to(graph.weight.dtype) > 0) & (found < 0)
        found[front] = distance
    return found


def closeness(graph: Graph, sources: Tensor) -> Tensor:
    """``1 / (hops + 1)`` of every node to each of some nodes, 0 where there is no path (You et al.,
    "Position-aware Graph Neural Networks", ICML 2019, https://arxiv.org/abs/1906.04817, Sec. 4.2).

    Args:
        graph: ``n`` nodes, positive weights.
        sources: nodes ``(S,) int64``.

    Returns:
        ``(n, S) float32``.
    """
    found = hops(graph, sources)
    return torch.where(found < 0, 0.0, 1 / (found.float() + 1))
