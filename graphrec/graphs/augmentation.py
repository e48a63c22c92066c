"""Views of the user-item graph: without some edges, nodes or entries, or weighted by embeddings.

What is random draws from a NumPy generator, so that a view is a function of seed and epoch or step.
"""

from __future__ import annotations

import numpy as np
import torch

from graphrec.data.interactions import Interactions
from graphrec.graphs.graph import Graph, bipartite, edge_products, sample_edges


def drop_edges(train: Interactions, rate: float, rng: np.random.Generator) -> Graph:
    """The user-item graph of a share of the interactions, drawn without replacement; degrees are counted
    on those (Wu et al., "Self-supervised Graph Learning for Recommendation", SIGIR 2021,
    https://arxiv.org/abs/2010.10783, Eq. 6).

    Args:
        train: ``E`` interactions.
        rate: share that is left out; ``floor(E (1 - rate))`` stay.
        rng: source of randomness.
    """
    kept = sample_edges(np.ones(len(train)), int(len(train) * (1 - rate)), rng)
    return bipartite(train.where(kept))


def drop_nodes(train: Interactions, rate: float, rng: np.random.Generator) -> Graph:
    """The user-item graph without the interactions of a share of the users and of a share of the items;
    degrees are counted on the others (same paper, Eq. 5).

    Args:
        train: the interactions.
        rate: share of users and of items, rounded down.
        rng: source of randomness.
    """
    users = rng.choice(train.n_users, int(train.n_users * rate), replace=False)
    items = rng.choice(train.n_items, int(train.n_items * rate), replace=False)
    return without_nodes(train, users, items)


def without_nodes(train: Interactions, users: np.ndarray, items: np.ndarray) -> Graph:
    """The user-item graph without the interactions of some users and of some items."""
    return bipartite(train.where(~np.isin(train.users, users) & ~np.isin(train.items, items)))


def drop_entries(graph: Graph, rate: float, rng: np.random.Generator, rescale: bool = False) -> Graph:
    """A graph without some of its entries, each left out with probability ``rate``. Both directions of an
    edge are drawn apart, so the result is not symmetric; weights are not normalized anew.

    Args:
        graph: any graph.
        rate: probability of leaving an entry out.
        rng: source of randomness.
        rescale: divide the others by ``1 - rate``.
    """
    kept = rng.random(len(graph)) >= rate
    return keep_entries(graph, torch.from_numpy(kept), 1 / (1 - rate) if rescale else 1.0)


def keep_entries(graph: Graph, kept: torch.Tensor, scale: float = 1.0) -> Graph:
    """The entries of a graph for which ``kept (E,) bool`` is true, their weights times ``scale``."""
    kept = kept.to(graph.device)
    result = _kept(graph, kept, scale)
    # The backward pass needs the transpose, which follows from that of the graph without sorting.
    result.set_transpose(_kept(graph.t(), kept[graph.reversed_order()], scale))
    return result


def _kept(graph: Graph, kept: torch.Tensor, scale: float) -> Graph:
    before = torch.nn.functional.pad(kept.cumsum(0), (1, 0))
    return Graph(before[graph.rowptr.long()], graph.col[kept], graph.weight[kept] * scale, graph.n_source)


def adaptive_edges(graph: Graph, y: torch.Tensor) -> torch.Tensor:
    """Weights of a graph's edges by how alike the embeddings at both ends are, ``(cos + 1) / 2`` over the sum
    of the target's edges (Ren et al., "Disentangled Contrastive Collaborative Filtering", SIGIR 2023,
    https://arxiv.org/abs/2305.02759). Differentiable in ``y``; edges are processed in blocks.

    Args:
        graph: over one set of ``n`` nodes; its weights are not used.
        y: ``(n, d)``; the cosine with a row of zeros is 0.

    Returns:
        ``(E,)``, for :meth:`Graph.weighted`. Targets without edges have none and so get rows of zeros.
    """
    # Rounding takes cosines below -1, and where all are -1 there is nothing to divide by.
    weight = ((edge_products(graph, torch.nn.functional.normalize(y, dim=1)) + 1) / 2).clamp(min=0)
    target = graph.target
    total = weight.new_zeros(graph.n_target).index_add(0, target, weight)
    return weight / total.clamp(min=1e-12)[target]
