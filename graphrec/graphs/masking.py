"""Graphs whose neighborhoods of some nodes are masked, and edges drawn among some nodes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from graphrec.graphs.graph import Graph


def mask_neighborhoods(graph: Graph, seeds: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """The edges left when all edges on paths of up to ``depth`` edges from the seeds are taken away (Xia et
    al., "Automated Self-Supervised Learning for Recommendation", WWW 2023, https://arxiv.org/abs/2303.07797,
    Eq. 5). Each hop is one sparse product.

    Args:
        graph: symmetric, ``n`` nodes, positive weights.
        seeds: nodes ``(S,) int64``.
        depth: at least 1; with 1 only edges at a seed are taken away.

    Returns:
        edges that are left ``(E,) bool``, and nodes with no edge left, because they are seeds or at most
        ``depth - 1`` hops from one ``(n,) bool``.
    """
    masked = torch.zeros(graph.n_target, dtype=torch.bool, device=graph.device)
    masked[seeds] = True
    for _ in range(depth - 1):
        masked = masked | (graph @ masked[:, None].to(graph.weight.dtype) > 0).squeeze(1)
    return ~(masked[graph.target] | masked[graph.col]), masked


def random_nodes(n: int, count: int, rng: torch.Generator) -> Tensor:
    """Some of ``n`` nodes ``(count,) int64``, drawn with replacement."""
    return torch.randint(n, (count,), generator=rng, device=rng.device)


def random_pairs(nodes: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """``n`` pairs of nodes ``(2, n) int64``, both ends drawn with replacement from ``nodes (m,) int64``."""
    return nodes[torch.randint(len(nodes), (2, n), generator=rng, device=rng.device)]


def with_pairs(
    graph: Graph, pairs: Tensor | None = None, self_loops: bool = True, counted: bool = False
) -> Graph:
    """A graph with more edges; it is symmetric if the graph was.

    Args:
        graph: ``n`` nodes; its weights are not used.
        pairs: nodes ``(2, m) int64`` to connect in both directions; repeats allowed.
        self_loops: connect every node with itself, too.
        counted: the weight of an edge says how often it is among the graph's own, the pairs and the
            self-loops; otherwise it is 1.
    """
    n = graph.n_target
    keys = [graph.target * n + graph.col.long()]
    if pairs is not None:
        keys += [pairs[0] * n + pairs[1], pairs[1] * n + pairs[0]]
    if self_loops:
        keys.append(torch.arange(n, device=graph.device) * (n + 1))
    if counted:
        edges, count = torch.unique(torch.cat(keys), return_counts=True)
        weight = count.float()
    else:
        edges = torch.unique(torch.cat(keys))
        weight = torch.ones(len(edges), device=graph.device)
    rowptr = pad(torch.bincount(edges // n, minlength=n).cumsum(0), (1, 0))
    return Graph(rowptr, edges % n, weight, n, symmetric=graph.symmetric)
