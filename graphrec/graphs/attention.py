"""Attention over the edges of a graph: every target node weighs its source nodes by queries and keys."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from graphrec.core.errors import GraphError
from graphrec.graphs.graph import EDGE_BLOCK, Graph

LIMIT = 10.0  # of a logit, in both directions, so that no exponential overflows
EPS = 1e-8  # added to the sum of a target's exponentials


def edge_attention(graph: Graph, queries: Tensor, keys: Tensor, values: Tensor, n_heads: int = 1) -> Tensor:
    """``sum_s a_ts v_s`` for each target node ``t``, over the sources ``s`` of its edges, with weights
    ``a_ts = exp(clamp(q_t . k_s, -10, 10)) / (1e-8 + sum_s' exp(clamp(q_t . k_s', -10, 10)))`` for each of
    several heads, which have an equal share of the columns (Xia et al., "Automated Self-Supervised Learning
    for Recommendation", WWW 2023, https://arxiv.org/abs/2303.07797, Eq. 7, without its scaling of the
    logits, as in the code).

    The graph's own weights are not used. Two numbers an edge and head are kept for backward and none that
    has a row of ``d`` an edge: logits are computed in blocks of edges, and the rest is sparse products.

    Args:
        graph: ``E`` edges; a target without any gets zeros.
        queries: ``q (n_target, d)``.
        keys: ``k (n_source, d)``.
        values: ``v (n_source, d)``.
        n_heads: divides ``d``.

    Returns:
        ``(n_target, d)``, in float32 at least.

    Raises:
        GraphError: the sizes do not fit.
    """
    dim = queries.shape[1]
    shapes = [tuple(x.shape) for x in (queries, keys, values)]
    if shapes != [(graph.n_target, dim), (graph.n_source, dim), (graph.n_source, dim)] or dim % n_heads:
        raise GraphError(
            f"queries, keys and values have shapes {shapes} and n_heads={n_heads}; expected a query for each "
            f"target, a key and a value for each source of {graph!r}, and columns that the heads divide"
        )
    result: Tensor = _EdgeAttention.apply(_wide(queries), _wide(keys), _wide(values), graph, n_heads)
    return result


@torch.no_grad()
def edge_shares(graph: Graph, queries: Tensor, keys: Tensor, n_heads: int = 1) -> Tensor:
    """The weights ``a_ts`` of :func:`edge_attention` without a gradient, for what is drawn by them.

    Args:
        graph: ``E`` edges.
        queries: ``q (n_target, d)``.
        keys: ``k (n_source, d)``.
        n_heads: divides ``d``.

    Returns:
        ``(n_heads, E)``; those of a target add up to 1 in every head.

    Raises:
        GraphError: the sizes do not fit.
    """
    dim = queries.shape[1]
    shapes = [tuple(x.shape) for x in (queries, keys)]
    if shapes != [(graph.n_target, dim), (graph.n_source, dim)] or dim % n_heads:
        raise GraphError(
            f"queries and keys have shapes {shapes} and n_heads={n_heads}; expected a query for each target, "
            f"a key for each source of {graph!r}, and columns that the heads divide"
        )
    target = graph.target
    return _shares(graph, target, _head_products(graph, target, _wide(queries), _wide(keys), n_heads))


def _wide(x: Tensor) -> Tensor:
    """In float32 at least: autocast makes projections bfloat16, for which there are no sparse products on a
    CPU.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _shares(graph: Graph, target: Tensor, logits: Tensor) -> Tensor:
    """Weights ``(h, E)`` of the edges from their logits ``(h, E)``."""
    share = logits.clamp(-LIMIT, LIMIT).exp_()
    total = _weighted_sums(graph, share, share.new_ones(graph.n_source, len(share))).T
    share /= _take(total + EPS, target)
    return share


def edge_softmax(graph: Graph, logits: Tensor) -> Tensor:
    """``a_e = exp(z_e) / sum_e' exp(z_e')`` over the edges ``e'`` to the target of ``e``, for models that use
    the weights themselves; where only weighted sums are needed, :func:`edge_attention` takes less memory.

    Args:
        graph: ``E`` edges; its own weights are not used.
        logits: ``z (E,)``, differentiable.

    Returns:
        ``(E,)``, for :meth:`graphrec.graphs.graph.Graph.weighted`.

    Raises:
        GraphError: there is not one logit for each edge.
    """
    if logits.shape != (len(graph),):
        raise GraphError(f"logits of shape {tuple(logits.shape)}; expected one for each edge of {graph!r}")
    target = graph.target
    fixed = logits.detach()
    largest = fixed.new_zeros(graph.n_target).scatter_reduce(0, target, fixed, "amax", include_self=False)
    exponentials = (logits - largest.index_select(0, target)).exp()
    total = exponentials.new_zeros(graph.n_target).index_add(0, target, exponentials)
    return exponentials / total.index_select(0, target)


class _EdgeAttention(torch.autograd.Function):
    """Backward is written out: autograd would keep rows of queries, keys and values for every edge."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, graph: Graph, n_heads: int
    ) -> Tensor:
        target = graph.target
        logits = _head_products(graph, target, queries, keys, n_heads)
        share = _shares(graph, target, logits)
        result = _weighted_sums(graph, share, values)
        if any(ctx.needs_input_grad):
            inside = logits.abs() <= LIMIT
            ctx.save_for_backward(queries, keys, values, share, inside, result)
            ctx.graph = graph
            ctx.n_heads = n_heads
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values, share, inside, result = ctx.saved_tensors
        graph = ctx.graph
        n_heads = ctx.n_heads
        target = graph.target
        to_share = _head_products(graph, target, gradient, values, n_heads)
        # The mean of a target's gradients to its shares needs no sum over edges: it is this product of rows.
        mean = (gradient * result).view(len(result), n_heads, -1).sum(2).T  # (h, n_target)
        to_logits = to_share.sub_(_take(mean, target)).mul_(share).mul_(inside)
        order = graph.reversed_order()
        transpose = graph.t()
        return (
            _weighted_sums(graph, to_logits, keys),
            _weighted_sums(transpose, _take(to_logits, order), queries),
            _weighted_sums(transpose, _take(share, order), gradient),
            None,
            None,
        )


def _take(x: Tensor, index: Tensor) -> Tensor:
    """Columns ``(h, n)`` of ``(h, N)``, head by head: several times faster than indexing on a CPU."""
    return torch.stack([row.index_select(0, index) for row in x])


def _head_products(graph: Graph, target: Tensor, x_target: Tensor, x_source: Tensor, n_heads: int) -> Tensor:
    """Inner products ``(h, E)``, head by head, of each edge's rows of ``(n_target, d)`` and
    ``(n_source, d)``.
    """
    result = x_source.new_empty(n_heads, len(graph))
    for start in range(0, len(graph), EDGE_BLOCK):
        block = slice(start, start + EDGE_BLOCK)
        product = x_target.index_select(0, target[block])
        product *= x_source.index_select(0, graph.col[block])
        result[:, block] = product.view(len(product), n_heads, -1).sum(2).T
    return result


def _weighted_sums(graph: Graph, weights: Tensor, x: Tensor) -> Tensor:
    """``(n_target, d)``: products of the graph with weights ``(h, E)`` and the columns of each head in ``x``
    ``(n_source, d)``.
    """
    parts = x.chunk(len(weights), 1)
    return torch.cat([graph.weighted(w) @ part for w, part in zip(weights, parts, strict=True)], 1)
