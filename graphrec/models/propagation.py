"""Embeddings of a batch after propagation: over the whole graph, or over sampled neighborhoods of the batch.

Which of the two is an option (``fanouts``) and no part of a model, which only says what is propagated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn.functional import embedding

from graphrec.graphs.graph import Graph
from graphrec.graphs.neighbor_sampling import ALL, Fanouts, sampled_convolution, sampled_propagation
from graphrec.models.batches import SeededTriplets, Triplets


class BatchEmbeddings(NamedTuple):
    """Embeddings of a batch's users and positives ``(B, d)`` and negatives ``(B, d)`` or ``(B, n, d)``."""

    users: Tensor
    positives: Tensor
    negatives: Tensor

    @classmethod
    def lookup(cls, batch: Triplets | SeededTriplets, users: Tensor, items: Tensor) -> Self:
        """The batch's rows of the tables ``(n_users, d)`` and ``(n_items, d)``."""
        return cls(
            embedding(batch.users, users),
            embedding(batch.positives, items),
            embedding(batch.negatives, items),
        )


def propagate_batch(
    propagate: Callable[[Graph], tuple[Tensor, Tensor]],
    graph: Graph,
    users: Tensor,
    items: Tensor,
    batch: SeededTriplets,
    fanouts: Fanouts,
    item_graph: Graph | None = None,
    n_item_layers: int = 0,
) -> tuple[BatchEmbeddings, Callable[[], BatchEmbeddings]]:
    """A batch's embeddings after propagation, and a function that returns those before it.

    With ``fanouts`` they are LightGCN's over sampled neighborhoods, plus ``A ... A items`` for items if there
    is an item graph ``A``; all of its neighbors are taken. Gradients to the ID embeddings are then sparse.

    Args:
        propagate: user and item embeddings ``(n_users, d), (n_items, d)`` after propagation over a whole
            user-item graph; called if ``fanouts`` is None.
        graph: the user-item graph.
        users: ID embeddings ``(n_users, d)``.
        items: ID embeddings ``(n_items, d)``.
        batch: triplets with a seed for the draws.
        fanouts: see :func:`graphrec.graphs.neighbor_sampling.neighborhood`; None: take the whole graph.
        item_graph: ``A``.
        n_item_layers: number of products with ``A``.
    """
    if fanouts is None:
        final = BatchEmbeddings.lookup(batch, *propagate(graph))
        return final, lambda: BatchEmbeddings.lookup(batch, users, items)
    n_users = len(users)
    nodes = (batch.users, batch.positives + n_users, batch.negatives.flatten() + n_users)
    (u, p, n), before = sampled_propagation(graph, users, items, nodes, fanouts, batch.key)
    if item_graph is not None:
        both = torch.cat([batch.positives, batch.negatives.flatten()])
        h = sampled_convolution(item_graph, items, both, (ALL,) * n_item_layers)
        p = p + h[: len(p)]
        n = n + h[len(p) :]
    shape = (*batch.negatives.shape, users.shape[1])
    initial = BatchEmbeddings(before[0], before[1], before[2].view(shape))
    return BatchEmbeddings(u, p, n.view(shape)), lambda: initial
