"""Models with ID embeddings, and the embeddings of a batch after propagation.

Whether embeddings are propagated over the whole graph or over sampled neighborhoods of the batch is an option
(``fanouts``) and no part of a model, which only says what is propagated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn.functional import embedding

from graphrec.data.interactions import Interactions
from graphrec.graphs.graph import Graph
from graphrec.graphs.neighbor_sampling import ALL, Fanouts, sampled_convolution, sampled_propagation
from graphrec.models import layers
from graphrec.models.base import Ranker
from graphrec.models.batches import BatchSampler, EpochContext, SeededTriplets
from graphrec.models.fold_in import FoldIn, LeastSquaresFoldIn, MeanFoldIn


class BatchEmbeddings(NamedTuple):
    """Embeddings of a batch's users and positives ``(B, d)`` and negatives ``(B, d)`` or ``(B, n, d)``."""

    users: Tensor
    positives: Tensor
    negatives: Tensor

    @classmethod
    def lookup(cls, batch: Any, users: Tensor, items: Tensor) -> Self:
        """Rows of the tables ``(n_users, d)`` and ``(n_items, d)`` for a batch with users, positives and
        negatives.
        """
        return cls(
            embedding(batch.users, users),
            embedding(batch.positives, items),
            embedding(batch.negatives, items),
        )


class EmbeddingRanker(Ranker):
    """A ranker with an embedding of every user's and every item's ID.

    Args:
        train: interactions to learn from.
        config: the model's options, ``dim`` among them.
        user_dim: size of the users' embeddings; default: ``dim``.
    """

    _replacement: tuple[Tensor, Tensor] | None = None

    def __init__(self, train: Interactions, config: Any, user_dim: int | None = None) -> None:
        super().__init__()
        self.config, self.train_pairs = config, train
        self.sampler = BatchSampler(train, getattr(config, "n_negatives", 1))
        self.n_users, self.n_items = train.n_users, train.n_items
        self.user_embedding = layers.embedding(self.n_users, user_dim or config.dim, self.rng("users"))
        self.item_embedding = layers.embedding(self.n_items, config.dim, self.rng("items"))  # (n_items, d)

    @property
    def id_embeddings(self) -> tuple[Tensor, Tensor]:
        """The parameters ``(n_users, d), (n_items, d)``, or what stands in for them
        (:meth:`replaced_id_embeddings`).
        """
        return self._replacement or (self.user_embedding.weight, self.item_embedding.weight)

    @contextmanager
    def replaced_id_embeddings(self, users: Tensor, items: Tensor) -> Iterator[None]:
        """In this context everything is computed from other tables ``(n_users, d), (n_items, d)`` in place of
        the ID embeddings, such as those with some rows masked.
        """
        self._replacement = users, items
        try:
            yield
        finally:
            self._replacement = None

    def batches(self, plan: EpochContext) -> Iterator[Any]:
        """Every train interaction once, with negatives: :class:`~graphrec.models.batches.Triplets`."""
        return self.sampler.triplets(plan)

    def propagated_fold_in(
        self, graph: Graph, n_layers: int, place: Callable[[Tensor], Tensor] | None = None
    ) -> FoldIn:
        """The rule of a model whose users are propagated over ``graph``: exact but for the share of the ID
        embedding, or least squares without layers.

        Args:
            graph: normalized symmetrically, over users and items.
            n_layers: number of products.
            place: gives items without interactions what they add, in a table ``(n_items, d)``.
        """
        if not n_layers:
            return LeastSquaresFoldIn()
        table = layers.fold_in_table(graph, *self.id_embeddings, n_layers, self.train_pairs.item_degree)
        return MeanFoldIn(table if place is None else place(table), table.new_zeros(table.shape[1]))

    def propagate_batch(
        self,
        propagate: Callable[[Graph], tuple[Tensor, Tensor]],
        graph: Graph,
        batch: SeededTriplets,
        fanouts: Fanouts,
        item_graph: Graph | None = None,
        n_item_layers: int = 0,
    ) -> tuple[BatchEmbeddings, Callable[[], BatchEmbeddings]]:
        """A batch's embeddings after propagation, and a function that returns those before it.

        With ``fanouts`` they are LightGCN's over sampled neighborhoods, plus ``A ... A items`` for items if
        there is an item graph ``A``; all of its neighbors are taken. Gradients to the ID embeddings are then
        sparse.

        Args:
            propagate: user and item embeddings ``(n_users, d), (n_items, d)`` after propagation over a whole
                user-item graph; called if ``fanouts`` is None.
            graph: the user-item graph.
            batch: triplets with a seed for the draws.
            fanouts: see :func:`graphrec.graphs.neighbor_sampling.neighborhood`.
            item_graph: ``A``.
            n_item_layers: number of products with ``A``.
        """
        users, items = self.id_embeddings
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
