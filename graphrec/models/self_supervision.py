"""What self-supervised models share: readouts, perturbations, contrast over a pool, clusters, regularizers.

The choices on which implementations differ, and by which one value of an option means different strengths,
are options with names here: ``readout``, ``pool`` and ``regularizer``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import embedding, embedding_bag, normalize

from graphrec.core import distributed
from graphrec.graphs.graph import Graph
from graphrec.models import layers
from graphrec.models.base import ModelConfig
from graphrec.models.batches import NegativesConfig
from graphrec.models.fold_in import FoldIn, MeanFoldIn
from graphrec.models.losses import SIMILARITIES, InfoNCE, embedding_norms, half_squares
from graphrec.models.propagation import BatchEmbeddings, EmbeddingRanker

Readout = Literal["mean", "sum", "layers"]
Pool = Literal["batch", "all"]
Regularizer = Literal["id_norms", "id_half_squares", "final_norms", "all_squares"]


class SelfSupervisedConfig(NegativesConfig, ModelConfig):
    """Options of self-supervised models on the user-item graph."""

    dim: int = Field(64, ge=1)
    """Embedding size."""
    n_layers: int = Field(3, ge=1)
    """Propagation layers."""
    readout: Readout = "mean"
    """Final embeddings: ``mean`` of the ID embeddings and all layers, their ``sum``, or the mean of the
    ``layers`` without the ID embeddings."""
    contrast_weight: float = Field(0.1, ge=0)
    """Weight of the contrast between views."""
    temperature: float = Field(0.2, gt=0)
    """Temperature of the contrast."""
    pool: Pool = "batch"
    """What a row is contrasted with: the distinct rows of the ``batch``, each of which then counts once, or
    ``all`` users or items, where rows count as often as they are in the batch."""
    regularizer: Regularizer = "id_half_squares"
    """``id_norms``: norms of the batch's ID embeddings of users, positives and negatives, over the batch
    size. ``id_half_squares``: half their squares, over the batch size. ``final_norms``: norms of the final
    embeddings of users and positives, over the batch size. ``all_squares``: squares of all parameters."""
    reg_weight: float = Field(1e-4, ge=0)
    """Weight of the regularizer."""


class SelfSupervisedRanker(EmbeddingRanker):
    """A ranker of propagated ID embeddings with a self-supervised loss besides."""

    config: SelfSupervisedConfig
    graph: Graph

    def final(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """Final embeddings ``(n_users, d), (n_items, d)`` over a user-item graph."""
        return read_out(graph, *self.id_embeddings, self.config.n_layers, self.config.readout)

    def embed(self) -> tuple[Tensor, Tensor]:
        """Final embeddings over the whole graph."""
        return self.final(self.graph)

    def regularization(self, batch: BatchEmbeddings, final: BatchEmbeddings) -> Tensor:
        """The weighted regularizer.

        Args:
            batch: the rows of users, positives and negatives ``(B, d)`` among the ID embeddings.
            final: among the final embeddings.
        """
        value = regularization(self.config.regularizer, batch, final, self.parameters())
        return self.config.reg_weight * value

    def fold_in(self) -> FoldIn:
        """What the items of a history add after propagation: exact without the ID embeddings (``layers``),
        otherwise but for the share of the user's own.
        """
        c = self.config
        table = layers.fold_in_table(
            self.graph, *self.id_embeddings, c.n_layers, self.train_pairs.item_degree
        )
        table = table * {"mean": 1, "sum": c.n_layers + 1, "layers": (c.n_layers + 1) / c.n_layers}[c.readout]
        return MeanFoldIn(table, table.new_zeros(table.shape[1]))


def read_out(
    graph: Graph, users: Tensor, items: Tensor, n_layers: int, readout: Readout
) -> tuple[Tensor, Tensor]:
    """Embeddings of users and items after propagation ``(n_users, d), (n_items, d)``.

    Args:
        graph: normalized, over users and, numbered after them, items.
        users: ID embeddings ``(n_users, d)``.
        items: ID embeddings ``(n_items, d)``.
        n_layers: number of products, at least 1 for ``"layers"``.
        readout: see :class:`SelfSupervisedConfig`.
    """
    if readout == "layers":
        first = graph @ torch.cat([users, items])
        return layers.propagate_tables(graph, first[: len(users)], first[len(users) :], n_layers - 1)
    users, items = layers.propagate_tables(graph, users, items, n_layers)
    return (users * (n_layers + 1), items * (n_layers + 1)) if readout == "sum" else (users, items)


def combine(all_layers: list[Tensor], readout: Readout) -> Tensor:
    """The readout ``(n, d)`` of the ID embeddings and the layers ``(n, d)`` each."""
    used = all_layers[1:] if readout == "layers" else all_layers
    total: Tensor = sum(used[1:], used[0])
    return total if readout == "sum" else total / len(used)


def sign_noise(x: Tensor, uniform: Tensor, scale: float) -> Tensor:
    """Rows moved by ``scale`` in a random direction of the same orthant:
    ``x + scale * sign(x) * r / |r|`` (Yu et al., "Are Graph Augmentations Necessary? Simple Graph Contrastive
    Learning for Recommendation", SIGIR 2022, https://arxiv.org/abs/2112.08679, Eqs. 7 and 8). The gradient
    passes as if nothing had been added.

    Args:
        x: ``(n, d)``.
        uniform: ``r``, from 0 to 1 ``(n, d)``.
        scale: length of what is added.
    """
    return x + scale * x.detach().sign() * normalize(uniform, dim=1)


def noisy_layers(graph: Graph, x: Tensor, noise: Iterable[Tensor], scale: float) -> list[Tensor]:
    """``x`` and its layers ``(n, d)`` each, with :func:`sign_noise` after every product with the graph.

    Args:
        graph: normalized, ``n`` nodes.
        x: ID embeddings ``(n, d)``.
        noise: uniform numbers ``(n, d)`` for each layer.
        scale: length of the noise.
    """
    found = [x]
    for uniform in noise:
        found.append(sign_noise(graph @ found[-1], uniform, scale))
    return found


def with_gradient_of(x: Tensor, value: Tensor) -> Tensor:
    """``value`` with the gradient of ``x``, both of one shape: for what differs from ``x`` by a constant."""
    result: Tensor = _WithGradientOf.apply(x, value)
    return result


class _WithGradientOf(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def uniform_noise(key: Tensor, n: int, shape: tuple[int, int]) -> list[Tensor]:
    """``n`` tables of numbers from 0 to 1 that follow from a batch's seed ``() int64``."""
    rng = torch.Generator(key.device).manual_seed(int(key))
    return [torch.rand(shape, generator=rng, device=key.device) for _ in range(n)]


def contrast(loss: InfoNCE, one: Tensor, other: Tensor, ids: Tensor, pool: Pool) -> Tensor:
    """Two views of the same nodes: a row of ``one`` is to be nearer to its own row of ``other`` than the
    other rows of the pool are.

    Args:
        loss: temperature and similarity.
        one: ``(n, d)``.
        other: ``(n, d)``.
        ids: rows of the batch ``(B,) int64``; repeats allowed.
        pool: see :class:`SelfSupervisedConfig`.
    """
    if pool == "all":
        return loss(embedding(ids, one), other, ids)
    distinct = torch.unique(distributed.all_gather(ids))
    own = distributed.local_slice(len(distinct))
    place = torch.arange(len(distinct), device=ids.device)[own]
    return loss(embedding(distinct[own], one), embedding(distinct, other), place)


def regularization(
    kind: Regularizer, batch: BatchEmbeddings, final: BatchEmbeddings, parameters: Iterable[Tensor]
) -> Tensor:
    """See :class:`SelfSupervisedConfig`.

    Args:
        kind: which one.
        batch: rows of users, positives and negatives among the ID embeddings.
        final: among the final embeddings.
        parameters: of the whole model.
    """
    if kind == "id_norms":
        return embedding_norms(*batch)
    if kind == "id_half_squares":
        return half_squares(*batch)
    if kind == "final_norms":
        return embedding_norms(final.users, final.positives)
    return distributed.replicated(torch.stack([p.square().sum() for p in parameters]).sum())


class Prototypes(NamedTuple):
    """The clusters of a table's rows.

    Attributes:
        centers: means of the clusters ``(k, d)``.
        cluster: the nearest center of each row ``(n,) int64``.
    """

    centers: Tensor
    cluster: Tensor


@torch.no_grad()
def prototypes(x: Tensor, k: int, steps: int, rng: torch.Generator) -> Prototypes:
    """Clusters by k-means: Lloyd's steps from the start of k-means++ (Arthur and Vassilvitskii, "k-means++:
    The Advantages of Careful Seeding", SODA 2007, https://dl.acm.org/doi/10.5555/1283383.1283494).

    It repeats bit for bit on one machine: a cluster's rows are summed in their order, where scikit-learn adds
    up the sums of its threads as they finish. A cluster that has lost all of its rows goes on from a row that
    is far from its own center. The start and each step take ``n k d`` multiplications and the memory of a
    block of :data:`~graphrec.models.losses.SIMILARITIES` distances.

    Args:
        x: ``(n, d)``.
        k: clusters, at most ``n``.
        steps: most steps; fewer are taken if no row changes its cluster any more.
        rng: source of randomness, on the device of ``x``.
    """
    k = min(k, len(x))
    centers = x[_spread_rows(x, k, rng)]
    cluster, distance = _nearest(x, centers)
    for _ in range(steps):
        size = torch.bincount(cluster, minlength=k)
        members = cluster.argsort(stable=True)
        centers = embedding_bag(members, x, size.cumsum(0) - size, mode="mean")  # (k, d)
        empty = (size == 0).nonzero().squeeze(1)
        centers[empty] = x[distance.topk(len(empty)).indices]
        moved, distance = _nearest(x, centers)
        if torch.equal(moved, cluster):
            break
        cluster = moved
    return Prototypes(centers, cluster)


def _spread_rows(x: Tensor, k: int, rng: torch.Generator) -> Tensor:
    """``k`` rows ``(k,) int64``, each drawn in proportion to its squared distance from the nearest of those
    before it.
    """
    n = len(x)
    squares = x.square().sum(1)
    chosen = torch.empty(k, dtype=torch.int64, device=x.device)
    chosen[:1] = torch.randint(n, (1,), generator=rng, device=x.device)
    nearest = x.new_full((n,), torch.inf)
    for i in range(1, k):
        last = chosen[i - 1 : i]
        distance = squares - 2 * (x @ x[last].T).squeeze(1) + squares[last]
        nearest = torch.minimum(nearest, distance.clamp_(min=0)).index_fill_(0, last, 0)
        # Exponential races: the first to arrive is a draw in proportion to the rates.
        arrival = torch.empty_like(nearest).exponential_(generator=rng) / nearest
        chosen[i : i + 1] = arrival.argmin(0, keepdim=True)
    return chosen


def _nearest(x: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest center of each row ``(n,) int64`` and its squared distance ``(n,)``."""
    squares = centers.square().sum(1)
    found = [
        torch.addmm(squares, block, centers.T, alpha=-2).min(1)
        for block in x.split(max(1, SIMILARITIES // len(centers)))
    ]
    distance = torch.cat([values for values, _ in found]) + x.square().sum(1)
    return torch.cat([index for _, index in found]), distance
