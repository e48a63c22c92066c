"""Graphs as compressed sparse rows, and the builders: bipartite, mix, union, normalize, sample.

A :class:`Graph` is a linear map: ``graph @ x`` sends ``(n_source, d)`` to ``(n_target, d)``, each target
summing its weighted sources. Rows are targets, so forward propagation is one CSR product; a symmetric graph
is its own transpose in backward. Gradients flow to ``x`` and, where a graph is learned, to its weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from graphrec.core.errors import GraphError
from graphrec.data.interactions import Interactions

if TYPE_CHECKING:
    from torch_geometric import EdgeIndex

EDGES = 8192  # edges whose two rows are multiplied at a time and stay in the cache meanwhile


class Graph:
    """Weighted edges between ``n_source`` and ``n_target`` nodes, sorted by target, then source.

    Args:
        rowptr: offsets per target ``(n_target + 1,)``.
        col: source of each edge ``(E,)``.
        weight: ``(E,) float32``; where it requires a gradient, ``graph @ x`` passes one to it.
        n_source: number of source nodes.
        symmetric: the matrix equals its transpose; backward then uses it as it is.

    Use :meth:`from_edges` to build one from unsorted edges.
    """

    def __init__(
        self, rowptr: Tensor, col: Tensor, weight: Tensor, n_source: int, symmetric: bool = False
    ) -> None:
        # int32 indices halve the index traffic, and MKL takes them without a copy.
        small = len(col) < 2**31 and n_source < 2**31
        kind = torch.int32 if small else torch.int64
        self.rowptr, self.col, self.weight = rowptr.to(kind), col.to(kind), weight
        self.n_source, self.n_target, self.symmetric = int(n_source), len(rowptr) - 1, symmetric
        self._matrix: Tensor | None = None
        self._transposed: Graph | None = self if symmetric else None

    @classmethod
    def from_edges(
        cls,
        source: Any,
        target: Any,
        weight: Any = None,
        *,
        n_source: int,
        n_target: int,
        symmetric: bool = False,
        repeated: Literal["error", "sum"] = "error",
    ) -> Graph:
        """Builds a graph from edges in any order.

        Args:
            source: ``(E,)`` integers below ``n_source``.
            target: ``(E,)`` integers below ``n_target``.
            weight: ``(E,)``; default: all 1.
            n_source: number of source nodes.
            n_target: number of target nodes.
            symmetric: promise that the edges equal their transpose; checked.
            repeated: what to do with repeated edges: refuse them or add up their weights.

        Raises:
            GraphError: an index out of range, a weight that is not finite, repeated edges, or a broken
                promise.
        """
        s, t = (np.asarray(v, dtype=np.int64) for v in (source, target))
        w = np.ones(len(s), np.float32) if weight is None else np.asarray(weight, dtype=np.float32)
        if not (s.shape == t.shape == w.shape and s.ndim == 1):
            raise GraphError(
                f"edges of shape {s.shape}, {t.shape}, weights {w.shape}; expected three of one length"
            )
        for what, index, size in (("source", s, n_source), ("target", t, n_target)):
            bad = np.flatnonzero((index < 0) | (index >= size))
            if len(bad):
                raise GraphError(f"edge {bad[0]} has {what} {index[bad[0]]}; expected 0 <= {what} < {size}")
        if not np.isfinite(w).all():
            bad = np.flatnonzero(~np.isfinite(w))
            raise GraphError(
                f"edge {bad[0]} ({s[bad[0]]} -> {t[bad[0]]}) has weight {w[bad[0]]}; expected finite"
            )
        keys = t * n_source + s
        order = np.argsort(keys, kind="stable")
        keys, s, t, w = keys[order], s[order], t[order], w[order]
        new = np.concatenate([[True], keys[1:] != keys[:-1]]) if len(keys) else np.zeros(0, dtype=bool)
        if not new.all():
            if repeated == "error":
                at = int(np.flatnonzero(~new)[0])
                raise GraphError(
                    f"edge {s[at]} -> {t[at]} occurs more than once; pass repeated='sum' to add them up"
                )
            w = np.add.reduceat(w, np.flatnonzero(new)) if len(w) else w
            s, t = s[new], t[new]
        graph = _graph(s, np.bincount(t, minlength=n_target), w, n_source)
        if symmetric:
            back = graph.t()
            same = (
                n_source == n_target
                and torch.equal(graph.rowptr, back.rowptr)
                and torch.equal(graph.col, back.col)
            )
            if not (same and torch.allclose(graph.weight, back.weight)):
                raise GraphError("the edges were said to be symmetric and are not; drop symmetric=True")
            graph.symmetric, graph._transposed = True, graph
        return graph

    def __len__(self) -> int:
        return len(self.col)

    def __repr__(self) -> str:
        kind = ", symmetric" if self.symmetric else ""
        return f"Graph({self.n_source:,} -> {self.n_target:,}, {len(self):,} edges{kind})"

    @property
    def device(self) -> torch.device:
        """Where the edges are."""
        return self.weight.device

    @property
    def target(self) -> Tensor:
        """Target of each edge ``(E,) int64``, ascending."""
        counts = (self.rowptr[1:] - self.rowptr[:-1]).long()
        return torch.repeat_interleave(torch.arange(self.n_target, device=self.device), counts)

    @property
    def edge_index(self) -> EdgeIndex:
        """The edges as PyG's ``EdgeIndex (2, E) int64``, rows (source, target), sorted by target."""
        from torch_geometric import EdgeIndex

        return EdgeIndex(
            torch.stack([self.col.long(), self.target]),
            sparse_size=(self.n_source, self.n_target),
            sort_order="col",
        )

    def matrix(self) -> Tensor:
        """The ``(n_target, n_source)`` sparse CSR tensor, made once; a constant, also of learned weights."""
        if self._matrix is None:
            self._matrix = torch.sparse_csr_tensor(
                self.rowptr,
                self.col,
                self.weight.detach(),
                size=(self.n_target, self.n_source),
                check_invariants=False,
            )
        return self._matrix

    def dense(self) -> Tensor:
        """The ``(n_target, n_source)`` dense matrix, for small graphs and tests."""
        return self.matrix().to_dense()

    def t(self) -> Graph:
        """The transpose: every edge the other way round; made once, and the graph itself if symmetric.

        Its weights are constants, also where the graph's are learned.
        """
        if self._transposed is None:
            order = torch.argsort(self.col.long(), stable=True)
            counts = torch.bincount(self.col.long(), minlength=self.n_source)
            rowptr = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
            weight = self.weight.detach()[order]
            self._transposed = Graph(rowptr, self.target[order], weight, self.n_target)
            # The way back leads to constants too: it would keep alive what the weights were computed from.
            self._transposed._transposed = self.detached() if self.weight.requires_grad else self
        return self._transposed

    def __matmul__(self, x: Tensor) -> Tensor:
        """``graph @ x``: ``(n_source, d) -> (n_target, d)``, differentiable in ``x`` and the weights."""
        if x.dim() != 2 or x.shape[0] != self.n_source:
            raise GraphError(f"x has shape {tuple(x.shape)}; expected ({self.n_source}, d) for {self!r}")
        result: Tensor = _Product.apply(x, self.weight, self)
        return result

    def to(self, device: torch.device | str) -> Graph:
        """The graph on another device."""
        if torch.device(device) == self.device:
            return self
        rowptr, col, weight = (v.to(device) for v in (self.rowptr, self.col, self.weight))
        return Graph(rowptr, col, weight, self.n_source, self.symmetric)

    def scaled(self, factor: float) -> Graph:
        """The graph with every weight multiplied by ``factor``."""
        return Graph(self.rowptr, self.col, self.weight * factor, self.n_source, self.symmetric)

    def weighted(self, weight: Tensor) -> Graph:
        """The same edges with other weights ``(E,)``, which may require a gradient."""
        if weight.shape != self.weight.shape:
            raise GraphError(f"weights of shape {tuple(weight.shape)}; expected ({len(self)},) for {self!r}")
        return Graph(self.rowptr, self.col, weight, self.n_source)

    def detached(self) -> Graph:
        """The graph with its weights as constants; shares the transpose, so that it is made once."""
        graph = Graph(self.rowptr, self.col, self.weight.detach(), self.n_source, self.symmetric)
        graph._matrix = self._matrix
        if not self.symmetric:
            graph._transposed = self.t()
        return graph


class _Product(torch.autograd.Function):
    """Sparse times dense with the transposed CSR in backward (autograd's own transposes on every call)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, graph: Graph) -> Tensor:
        ctx.graph = graph
        if ctx.needs_input_grad[1]:
            ctx.save_for_backward(x)
        return _product(graph, x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        by_x = _product(ctx.graph.t(), gradient) if ctx.needs_input_grad[0] else None
        by_weight = _edge_products(ctx.graph, gradient, *ctx.saved_tensors) if ctx.saved_tensors else None
        return by_x, by_weight, None


def edge_products(graph: Graph, x: Tensor) -> Tensor:
    """The inner product of the two ends of each edge ``(E,)``, differentiable in ``x``; weights are not used.

    With rows of length one these are cosine similarities. Memory beyond the result is a block of edges, not
    two rows an edge.

    Args:
        graph: over one node set of ``n`` nodes.
        x: one row per node ``(n, d)``.

    Raises:
        GraphError: the graph is not square, or ``x`` has not one row per node.
    """
    if x.dim() != 2 or not graph.n_source == graph.n_target == len(x):
        raise GraphError(f"x has shape {tuple(x.shape)}; expected a row for each node of {graph!r}")
    result: Tensor = _EdgeProducts.apply(x, graph)
    return result


class _EdgeProducts(torch.autograd.Function):
    """Inner products along edges; backward is two sparse products with the gradients as weights."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, graph: Graph) -> Tensor:
        ctx.graph = graph
        ctx.save_for_backward(x)
        return _edge_products(graph, x, x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        graph = ctx.graph.weighted(gradient)
        return _product(graph, x) + _product(graph.t(), x), None


def _edge_products(graph: Graph, of_target: Tensor, of_source: Tensor) -> Tensor:
    """Inner products ``(E,)`` of the target's row ``(n_target, d)`` and the source's ``(n_source, d)``."""
    target, result = graph.target, of_source.new_empty(len(graph))
    for start in range(0, len(graph), EDGES):
        ends = target[start : start + EDGES], graph.col[start : start + EDGES]
        result[start : start + EDGES] = (of_target[ends[0]] * of_source[ends[1]]).sum(1)
    return result


def _product(graph: Graph, x: Tensor) -> Tensor:
    """``(n_source, d) -> (n_target, d)``.

    A weighted embedding bag per target is the same sum as a CSR product. On CPUs its kernel reads each row
    once and writes each result once, without the zeroing and the copy around MKL's sparse product, in about
    half the time (python -m experiments.bench.propagation).
    """
    if x.device.type == "cpu" and x.dtype == torch.float32 and len(graph) and len(x):
        return torch.nn.functional.embedding_bag(
            graph.col,
            x.contiguous(),
            graph.rowptr,
            mode="sum",
            per_sample_weights=graph.weight,
            include_last_offset=True,
        )
    return graph.matrix().to(x.dtype) @ x.contiguous()


def bipartite(interactions: Interactions, normalization: Literal["symmetric", "none"] = "symmetric") -> Graph:
    """The user-item graph in both directions over ``n_users + n_items`` nodes, users first.

    With ``"symmetric"`` each edge weighs ``1 / sqrt(d_u d_i)`` (LightGCN, https://arxiv.org/abs/2002.02126,
    Eq. 3), degrees counted on these very interactions.
    """
    users, items = interactions.users.astype(np.int64), interactions.items.astype(np.int64)
    by_item = np.argsort(items, kind="stable")  # users stay ascending within an item
    source = np.concatenate([items + interactions.n_users, users[by_item]])
    degree = np.concatenate([interactions.user_degree, interactions.item_degree])
    if normalization == "symmetric":
        weight = (
            1.0 / np.sqrt(degree[users].astype(np.float64) * degree[items + interactions.n_users])
        ).astype(np.float32)
        weight = np.concatenate([weight, weight[by_item]])
    else:
        weight = np.ones(len(source), dtype=np.float32)
    graph = _graph(source, degree, weight, len(degree))
    graph.symmetric, graph._transposed = True, graph
    return graph


def degree_probability(interactions: Interactions) -> np.ndarray:
    """Sampling weight ``1 / sqrt(d_u d_i)`` of each interaction ``(E,) float64`` (FREEDOM): popular
    ends less.
    """
    users, items = interactions.user_degree[interactions.users], interactions.item_degree[interactions.items]
    probability: np.ndarray = 1.0 / np.sqrt(users.astype(np.float64) * items)
    return probability


def sample_edges(probability: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Mask ``(E,)`` of ``n`` edges drawn without replacement with probability proportional to
    ``probability``.

    Exponential races: edge ``e`` arrives at time ``Exp(1) / p_e`` and the first ``n`` are kept, which is the
    same distribution as drawing one after the other (Efraimidis and Spirakis, 2006).
    """
    mask = np.zeros(len(probability), dtype=bool)
    if n > 0:
        arrival = rng.standard_exponential(len(probability)) / probability
        mask[np.argpartition(arrival, n - 1)[:n]] = True
    return mask


def normalize_weights(graph: Graph, how: Literal["row", "symmetric"]) -> Graph:
    """Capabilities weights by row sums: ``"row"`` gives ``D^-1 A``, ``"symmetric"`` gives ``D^-1/2 A D^-1/2``.

    ``D`` holds the row sums (over incoming edges) on both sides, also for directed graphs, as FREEDOM does
    it. Empty rows stay empty.
    """
    target = graph.target
    total = torch.zeros(graph.n_target, dtype=torch.float64, device=graph.device)
    total.index_add_(0, target, graph.weight.double())
    if bool((total < 0).any()) or bool((total[target] == 0).any()):
        raise GraphError("a row's weights sum to zero or less; normalizing needs positive sums")
    if how == "row":
        weight = graph.weight / total[target].float()
    elif how == "symmetric":
        if graph.n_source != graph.n_target:
            raise GraphError(
                f"{graph!r} is not square; symmetric normalization needs one node set, use 'row'"
            )
        inverse = torch.where(total > 0, total, torch.ones_like(total)).rsqrt()
        weight = (graph.weight.double() * inverse[target] * inverse[graph.col.long()]).float()
    else:
        raise GraphError(f"normalization {how!r}; expected 'row' or 'symmetric'")
    return Graph(graph.rowptr, graph.col, weight, graph.n_source, graph.symmetric)


def mix(graphs: Sequence[tuple[float, Graph]]) -> Graph:
    """The weighted sum of graphs over the same nodes: ``sum_m w_m A_m``, edges merged."""
    if not graphs:
        raise GraphError("nothing to mix; expected at least one (weight, graph)")
    shapes = {(g.n_source, g.n_target) for _, g in graphs}
    if len(shapes) > 1:
        raise GraphError(f"cannot mix graphs over different nodes {sorted(shapes)}")
    (n_source, n_target) = shapes.pop()
    return Graph.from_edges(
        np.concatenate([g.col.cpu().numpy() for _, g in graphs]),
        np.concatenate([g.target.cpu().numpy() for _, g in graphs]),
        np.concatenate([np.float32(w) * g.weight.cpu().numpy() for w, g in graphs]),
        n_source=n_source,
        n_target=n_target,
        repeated="sum",
    )


def union(graphs: Sequence[Graph]) -> tuple[Graph, list[Tensor]]:
    """All edges of graphs over the same nodes, each once with weight 1, and where each graph's edges went.

    Unlike :func:`mix` it leaves the weights to the caller, who may want a gradient to them:
    ``zeros.index_add(0, places[m], weights[m])`` adds up what one graph says of each edge.

    Args:
        graphs: on one device, at least one.

    Returns:
        the union of ``E`` edges, and for each graph the positions ``(E_m,) int64``, all of them different.
    """
    first = graphs[0]
    keys = torch.cat([g.target * first.n_source + g.col.long() for g in graphs])
    edges, place = torch.unique(keys, return_inverse=True)
    target, source = edges // first.n_source, edges % first.n_source
    rowptr = torch.nn.functional.pad(torch.bincount(target, minlength=first.n_target).cumsum(0), (1, 0))
    weight = torch.ones(len(edges), device=first.device)
    return Graph(rowptr, source, weight, first.n_source), list(place.split([len(g) for g in graphs]))


def _graph(source: np.ndarray, counts: np.ndarray, weight: np.ndarray, n_source: int) -> Graph:
    rowptr = np.concatenate([[0], np.cumsum(counts)])
    return Graph(torch.from_numpy(rowptr), torch.from_numpy(source), torch.from_numpy(weight), n_source)
