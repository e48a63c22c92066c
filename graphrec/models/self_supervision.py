"""What self-supervised models share: readouts, perturbations, contrast over a pool, clusters, regularizers.

The choices on which implementations differ, and by which one value of an option means different strengths,
are options with names here: ``readout``, ``pool`` and ``regularizer``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import embedding, embedding_bag, leaky_relu, logsigmoid, normalize

from graphrec.core import distributed
from graphrec.core.config import Config
from graphrec.core.random import derive_seed
from graphrec.graphs.graph import Graph
from graphrec.models import layers
from graphrec.models.base import ModelConfig
from graphrec.models.batches import NegativesConfig
from graphrec.models.fold_in import FoldIn, MeanFoldIn
from graphrec.models.losses import (
    SIMILARITIES,
    AlignmentUniformity,
    InfoNCE,
    embedding_norms,
    half_squares,
    log_sum_exp,
)
from graphrec.models.propagation import BatchEmbeddings, EmbeddingRanker

Readout = Literal["mean", "sum", "layers"]
Pool = Literal["batch", "all"]
Regularizer = Literal["id_norms", "id_half_squares", "final_norms", "all_squares"]


class PropagatedConfig(NegativesConfig, ModelConfig):
    """Options of models with propagated ID embeddings."""

    dim: int = Field(64, ge=1)
    """Embedding size."""
    n_layers: int = Field(3, ge=1)
    """Propagation layers."""
    readout: Readout = "mean"
    """Final embeddings: ``mean`` of the ID embeddings and all layers, their ``sum``, or the mean of the
    ``layers`` without the ID embeddings."""
    regularizer: Regularizer = "id_half_squares"
    """``id_norms``: norms of the batch's ID embeddings of users, positives and negatives, over the batch
    size. ``id_half_squares``: half their squares, over the batch size. ``final_norms``: norms of the final
    embeddings of users and positives, over the batch size. ``all_squares``: squares of all parameters."""
    reg_weight: float = Field(1e-4, ge=0)
    """Weight of the regularizer."""


class SelfSupervisedTermsConfig(Config):
    """Options of models that may add self-supervised terms to their loss."""

    contrast_weight: float = Field(0.0, ge=0)
    """Weight of a contrast (SimGCL's) between two noisy copies of the final embeddings of the batch's users,
    and of its positives."""
    contrast_noise: float = Field(0.1, ge=0)
    """Length of that noise."""
    contrast_temperature: float = Field(0.2, gt=0)
    """Temperature of that contrast."""
    uniformity_weight: float = Field(0.0, ge=0)
    """Weight of the uniformity (DirectAU's) of the final embeddings of the batch's users and positives."""


class SelfSupervisedConfig(PropagatedConfig):
    """Options of self-supervised models on the user-item graph."""

    contrast_weight: float = Field(0.1, ge=0)
    """Weight of the contrast between views."""
    temperature: float = Field(0.2, gt=0)
    """Temperature of the contrast."""
    pool: Pool = "batch"
    """What a row is contrasted with: the distinct rows of the ``batch``, each of which then counts once, or
    ``all`` users or items, where rows count as often as they are in the batch."""


class EdgeAttentionConfig(ModelConfig):
    """Options of models whose nodes attend to one another along edges."""

    dim: int = Field(32, ge=1)
    """Embedding size."""
    n_heads: int = Field(4, ge=1)
    """Heads of the attention; they divide ``dim``."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.dim % self.n_heads:
            raise ValueError(f"n_heads={self.n_heads} does not divide dim={self.dim}")
        return self


class Step(NamedTuple):
    """What a step computes.

    Attributes:
        users: final embeddings that the ranking loss compares ``(n_users, d)``.
        items: likewise ``(n_items, d)``.
        losses: named scalars, already weighted.
    """

    users: Tensor
    items: Tensor
    losses: dict[str, Tensor]


class SelfSupervisedRanker(EmbeddingRanker):
    """A ranker of propagated ID embeddings with a self-supervised loss besides.

    A subclass defines :meth:`step`, so that another model can add terms to its losses, or :meth:`loss`.
    """

    config: PropagatedConfig
    graph: Graph

    def step(self, batch: Any) -> Step:
        """Losses of a batch, and the final embeddings they were computed from."""
        raise TypeError(f"{type(self).__name__} does not define step()")

    def loss(self, batch: Any) -> dict[str, Tensor]:
        """The losses of :meth:`step`."""
        return self.step(batch).losses

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


def hypergraph(incidence: Tensor, x: Tensor, negative_slope: float = 1.0) -> Tensor:
    """Messages by way of hyperedges: ``f(H f(H^T x))`` with a leaky ReLU ``f`` (Xia et al., "Hypergraph
    Contrastive Collaborative Filtering", SIGIR 2022, https://arxiv.org/abs/2204.12200).

    Args:
        incidence: ``H``, how much each node belongs to each hyperedge ``(n, K)``.
        x: ``(n, d)``.
        negative_slope: of ``f`` below 0; 1 is the identity.

    Returns:
        ``(n, d)``, in time and memory linear in ``n``.
    """
    if negative_slope == 1:
        return incidence @ (incidence.T @ x)
    edges = leaky_relu(incidence.T @ x, negative_slope)  # (K, d)
    return leaky_relu(incidence @ edges, negative_slope)


def intents(x: Tensor, prototypes: Tensor) -> Tensor:
    """Rows made of prototypes that all nodes share: ``softmax(x C) C^T`` (Ren et al., "Disentangled
    Contrastive Collaborative Filtering", SIGIR 2023, https://arxiv.org/abs/2305.02759).

    Args:
        x: ``(n, d)``.
        prototypes: ``C``, one column for each intent ``(d, K)``.

    Returns:
        ``(n, d)``.
    """
    return (x @ prototypes).softmax(1) @ prototypes.T


def gumbel_noise(n: int, rng: torch.Generator) -> Tensor:
    """``-log(-log r)``, ``r`` uniform ``(n,)``: the nodes of the ``k`` highest sums with this noise are drawn
    without replacement, in proportion to the exponentials of what it is added to (Kool et al., "Stochastic
    Beams and Where to Find Them", ICML 2019, https://arxiv.org/abs/1903.06059).
    """
    return gumbel(torch.rand(n, generator=rng, device=rng.device))


def gumbel(uniform: Tensor) -> Tensor:
    """``-log(-log r)`` of numbers from 0 to 1; 0 counts as 1e-8."""
    return -(-uniform.clamp(min=1e-8).log()).log()


def draw_without_replacement(log_weights: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """Draws ``n`` of ``E`` one after the other in proportion to the exponentials of ``log_weights``, as the
    ``n`` highest sums with :func:`gumbel_noise`: no distribution is added up, and none leaves its device.

    Args:
        log_weights: ``(E,)``.
        n: at most ``E``.
        rng: source of randomness, on the device of the weights.

    Returns:
        which are drawn ``(E,) bool``.
    """
    drawn = torch.zeros(len(log_weights), dtype=torch.bool, device=log_weights.device)
    drawn[(log_weights + gumbel_noise(len(log_weights), rng)).topk(n).indices] = True
    return drawn


def infomax_scores(graph: Graph, x: Tensor) -> Tensor:
    """How much each node is like the nodes around it ``(n,)``: ``log sigmoid(cos(x_v, m_v))``, where ``m`` is
    the direction of ``f + s`` with ``f = A x - x`` and ``s = A f - f - D x`` (Xia et al., "Automated
    Self-Supervised Learning for Recommendation", WWW 2023, https://arxiv.org/abs/2303.07797).

    The terms add up to ``A A x - A x - D x``. The paths that the code divides by are a positive number and
    change no cosine, so they are not counted.

    Args:
        graph: ``A``, symmetric, all weights 1; ``D`` holds its degrees.
        x: embeddings ``(n, d)``.
    """
    degree = (graph.rowptr[1:] - graph.rowptr[:-1])[:, None]
    neighbors = graph @ x
    around = graph @ neighbors - neighbors - degree * x
    return logsigmoid((normalize(x, dim=1) * normalize(around, dim=1)).sum(1))


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
    distinct, own = distinct_ids(ids)
    place = torch.arange(len(distinct), device=ids.device)[own]
    return loss(embedding(distinct[own], one), embedding(distinct, other), place)


def alignment_and_spread(
    users: Tensor, items: Tensor, ids: tuple[Tensor, Tensor], spread_weight: float
) -> dict[str, Tensor]:
    """What a graph autoencoder learns from in place of negatives: ``alignment`` is minus the mean inner
    product of users and their items; ``spread`` is :func:`~graphrec.models.losses.log_sum_exp` of the users
    over all items and, weighted, of the distinct users over all users and the distinct items over all items
    (Xia et al., "Automated Self-Supervised Learning for Recommendation", WWW 2023,
    https://arxiv.org/abs/2303.07797).

    Args:
        users: final embeddings ``(n_users, d)``.
        items: final embeddings ``(n_items, d)``.
        ids: users and an item of each ``(B,) int64``.
        spread_weight: weight of the spread of users and of items.
    """
    own_users, own_items = embedding(ids[0], users), embedding(ids[1], items)
    apart = users.new_zeros(())
    for index, table in zip(ids, (users, items), strict=True):
        distinct, own = distinct_ids(index)
        apart = apart + log_sum_exp(embedding(distinct[own], table), table)
    return {
        "alignment": -distributed.global_mean((own_users * own_items).sum(1)),
        "spread": spread_weight * apart + log_sum_exp(own_users, items),
    }


def self_supervised_terms(
    config: SelfSupervisedTermsConfig, users: Tensor, items: Tensor, ids: tuple[Tensor, Tensor], key: Tensor
) -> dict[str, Tensor]:
    """The terms ``contrast`` and ``uniformity``, as far as they have a weight.

    Args:
        config: their options.
        users: final embeddings of the batch's users ``(B, d)``.
        items: of their positives ``(B, d)``.
        ids: the users and the items ``(B,) int64``. A repeated one is not contrasted with itself.
        key: seed of the noise ``() int64``.
    """
    terms = {}
    if config.contrast_weight:
        loss = InfoNCE(config.contrast_temperature)
        values = []
        for side, x, index in (("users", users, ids[0]), ("items", items, ids[1])):
            one, other = (
                sign_noise(x, row_noise(index, x.shape[1], key, f"{side}/{view}"), config.contrast_noise)
                for view in (1, 2)
            )
            values.append(loss.in_batch(one, other, index))
        terms["contrast"] = config.contrast_weight * torch.stack(values).sum()
    if config.uniformity_weight:
        spread = AlignmentUniformity().uniformity
        both = spread(normalize(users, dim=1)) + spread(normalize(items, dim=1))
        terms["uniformity"] = config.uniformity_weight / 2 * both
    return terms


def row_noise(index: Tensor, dim: int, key: Tensor, purpose: str) -> Tensor:
    """Numbers between 0 and 1 ``(B, dim)`` that follow from the seed, the purpose and each row's id."""
    bits = layers.row_bits(index, dim, key + derive_seed(0, purpose))
    return (bits.float() + (2**15 + 0.5)) / 2**16


def distinct_ids(ids: Tensor) -> tuple[Tensor, slice]:
    """The distinct ids of a batch ``(B,) int64``, ascending, and which of them are this process's part."""
    distinct = torch.unique(distributed.all_gather(ids))
    return distinct, distributed.local_slice(len(distinct))


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
    return all_squares(parameters)


def all_squares(parameters: Iterable[Tensor]) -> Tensor:
    """Squares of all parameters, summed up."""
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


def projector(
    n_in: int,
    n_hidden: int,
    n_out: int,
    generator: torch.Generator,
    weight: Any = nn.init.xavier_uniform_,
) -> nn.Sequential:
    """Linear, LeakyReLU of slope 0.01, linear: from the space of features to that of embeddings or
    back (Ren et al., "Representation Learning with Large Language Models for Recommendation", WWW 2024,
    https://arxiv.org/abs/2310.15950).

    Args:
        n_in: size of the inputs ``(B, n_in)``.
        n_hidden: size between the two maps.
        n_out: size of the outputs ``(B, n_out)``.
        generator: source of the initial weights.
        weight: initializes the matrices.
    """
    first = layers.linear(n_in, n_hidden, generator, weight)
    return nn.Sequential(first, nn.LeakyReLU(), layers.linear(n_hidden, n_out, generator, weight))
