"""What self-supervised models share: readouts, perturbations, contrast over a pool, and regularizers.

The choices on which implementations differ, and by which one value of an option means different strengths,
are options with names here: ``readout``, ``pool`` and ``regularizer``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import embedding, normalize

from graphrec.core import distributed
from graphrec.graphs.graph import Graph
from graphrec.models import layers
from graphrec.models.base import ModelConfig
from graphrec.models.batches import NegativesConfig
from graphrec.models.fold_in import FoldIn, MeanFoldIn
from graphrec.models.losses import InfoNCE, embedding_norms, half_squares
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


class SelfSupervisedConfig(PropagatedConfig):
    """Options of self-supervised models on the user-item graph."""

    contrast_weight: float = Field(0.1, ge=0)
    """Weight of the contrast between views."""
    temperature: float = Field(0.2, gt=0)
    """Temperature of the contrast."""
    pool: Pool = "batch"
    """What a row is contrasted with: the distinct rows of the ``batch``, each of which then counts once, or
    ``all`` users or items, where rows count as often as they are in the batch."""


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
    return squares(parameters)


def squares(parameters: Iterable[Tensor]) -> Tensor:
    """The sum of squares of parameters, whole tables of them."""
    return distributed.replicated(torch.stack([p.square().sum() for p in parameters]).sum())


def projector(n_in: int, n_hidden: int, n_out: int, generator: torch.Generator) -> nn.Sequential:
    """Linear, LeakyReLU of slope 0.01, linear: from the space of a language model to that of embeddings or
    back (Ren et al., "Representation Learning with Large Language Models for Recommendation", WWW 2024,
    https://arxiv.org/abs/2310.15950).

    Args:
        n_in: size of the inputs ``(B, n_in)``.
        n_hidden: size between the two maps.
        n_out: size of the outputs ``(B, n_out)``.
        generator: source of the initial weights, Xavier-uniform.
    """
    first = layers.linear(n_in, n_hidden, generator)
    return nn.Sequential(first, nn.LeakyReLU(), layers.linear(n_hidden, n_out, generator))
