"""Graphs in compressed sparse row (CSR) format, and functions that build, combine and normalize them.

A :class:`Graph` is a linear map: ``graph @ x`` maps ``(n_source, d)`` to ``(n_target, d)``; each target node
receives the weighted sum of its source nodes. Rows are targets, so forward propagation is one CSR product.
The backward pass multiplies with the transpose; a symmetric graph is its own. Gradients flow to ``x`` and to
weights that require a gradient.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from graphrec.core.errors import GraphError
from graphrec.core.html_table import html_table
from graphrec.data.interactions import Interactions

if TYPE_CHECKING:
    from torch_geometric import EdgeIndex

DENSE_SHARE = 1 / 4
"""Share of all pairs that are edges, from which a dense product is faster on a CPU than a sparse one
(python -m experiments.bench.propagation)."""
DENSE_PAIRS = (2**16, 2**25)
"""Least and greatest number of pairs for which the dense matrix is kept; the greatest takes 128 MiB."""
EDGE_BLOCK = 8192  # edges whose inner products are computed at a time, so that their rows stay in the cache


@dataclass
class _Reversal:
    """How edges are reversed, shared by graphs that differ in weights alone; None until it is needed.

    Attributes:
        order: position of each edge of the transpose ``(E,) int64``.
        rowptr: offsets of the transpose.
        col: sources of the transpose.
    """

    order: Tensor | None = None
    rowptr: Tensor | None = None
    col: Tensor | None = None


@dataclass
class _Cache:
    """Tensors and graphs derived from a graph. A plain object keeps them out of nn.Module's registry.

    Attributes:
        matrix: see :meth:`Graph.matrix`.
        dense: the dense matrix, kept if most pairs are edges.
        transpose: the transpose, which this graph owns.
        transpose_of: the graph that owns this one as its transpose. A weak reference, so that there is no
            reference cycle and memory is freed at once.
        reversal: how edges are reversed.
    """

    matrix: Tensor | None = None
    dense: Tensor | None = None
    transpose: Graph | None = None
    transpose_of: weakref.ref[Graph] | None = None
    reversal: _Reversal = field(default_factory=_Reversal)


class Graph(nn.Module):
    """Weighted edges from ``n_source`` to ``n_target`` nodes, sorted by target, then source.

    The edges are non-persistent buffers: they follow the model that holds the graph to its device, whether as
    an attribute, in an ``nn.ModuleList`` or in an ``nn.ModuleDict``, and are not part of its state dict.

    Args:
        rowptr: offset of each target's first edge ``(n_target + 1,)``.
        col: source of each edge ``(E,)``.
        weight: ``(E,) float32``; if it requires a gradient, ``graph @ x`` computes it.
        n_source: number of source nodes.
        symmetric: whether the matrix equals its transpose; the backward pass then uses the matrix itself.

    Use :meth:`from_edges` to build a graph from unsorted edges.
    """

    rowptr: Tensor
    col: Tensor
    weight: Tensor

    def __init__(
        self, rowptr: Tensor, col: Tensor, weight: Tensor, n_source: int, symmetric: bool = False
    ) -> None:
        super().__init__()
        # int32 indices halve the index traffic, and MKL takes them without a copy.
        dtype = torch.int32 if len(col) < 2**31 and n_source < 2**31 else torch.int64
        self.register_buffer("rowptr", rowptr.to(dtype), persistent=False)
        self.register_buffer("col", col.to(dtype), persistent=False)
        self.register_buffer("weight", weight, persistent=False)
        self.n_source = int(n_source)
        self.n_target = len(rowptr) - 1
        self.symmetric = symmetric
        self._cache = _Cache()

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
            symmetric: the edges equal their transpose; this is checked.
            repeated: raise an error for repeated edges, or add up their weights.

        Raises:
            GraphError: an index is out of range, a weight is not finite, edges are repeated, or the edges are
                not symmetric although ``symmetric`` says so.
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
        bad = np.flatnonzero(~np.isfinite(w))
        if len(bad):
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
            transpose = graph.t()
            same_edges = (
                n_source == n_target
                and torch.equal(graph.rowptr, transpose.rowptr)
                and torch.equal(graph.col, transpose.col)
            )
            if not (same_edges and torch.allclose(graph.weight, transpose.weight)):
                raise GraphError("symmetric=True, but the edges are not symmetric; drop symmetric=True")
            graph.symmetric = True
            graph._cache = _Cache()
        return graph

    def __len__(self) -> int:
        return len(self.col)

    def __repr__(self) -> str:
        symmetric = ", symmetric" if self.symmetric else ""
        return f"Graph({self.n_source:,} -> {self.n_target:,}, {len(self):,} edges{symmetric})"

    def _repr_html_(self) -> str:
        """A small table for notebooks: nodes, edges, range of the weights, whether it is symmetric."""
        weight = self.weight.detach()
        low_high = f"{weight.min():.4g} to {weight.max():.4g}" if len(weight) else "none"
        rows: dict[str, object] = {
            "source nodes": self.n_source,
            "target nodes": self.n_target,
            "edges": len(self),
            "weights": f"{low_high}{', learned' if self.weight.requires_grad else ''}",
            "symmetric": "yes" if self.symmetric else "no",
            "device": str(self.device),
        }
        return html_table("Graph", rows)

    def __getstate__(self) -> dict[str, Any]:
        # A copy computes its own transpose; that of the original stays with the original.
        return {**self.__dict__, "_cache": _Cache()}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        weight = self.weight
        super()._apply(fn, recurse)
        if self.weight is not weight:
            self._cache.matrix = None
            self._cache.dense = None
        if self._cache.transpose is not None:
            self._cache.transpose._apply(fn, recurse)
        return self

    @property
    def device(self) -> torch.device:
        """The device of the edges."""
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
        """The ``(n_target, n_source)`` sparse CSR tensor, cached. It carries no gradient to the weights."""
        if self._cache.matrix is None:
            self._cache.matrix = torch.sparse_csr_tensor(
                self.rowptr,
                self.col,
                self.weight.detach(),
                size=(self.n_target, self.n_source),
                check_invariants=False,
            )
        return self._cache.matrix

    def dense(self) -> Tensor:
        """The ``(n_target, n_source)`` dense matrix, for small graphs, blocks of :meth:`rows` and tests."""
        result = self.weight.new_zeros(self.n_target, self.n_source)
        return result.index_put_((self.target, self.col.long()), self.weight.detach(), accumulate=True)

    def t(self) -> Graph:
        """The transpose, with every edge reversed: cached, and the graph itself if it is symmetric.

        The transpose carries no gradient to the weights.
        """
        if self.symmetric:
            return self
        owner = self._cache.transpose_of() if self._cache.transpose_of is not None else None
        for known in (self._cache.transpose, owner):
            if known is not None and known.device == self.device:
                return known
        order = self.reversed_order()
        reversal = self._cache.reversal
        assert reversal.rowptr is not None
        assert reversal.col is not None
        weight = self.weight.detach()[order]
        transpose = Graph(reversal.rowptr, reversal.col, weight, self.n_target)
        return self.set_transpose(transpose)

    def reversed_order(self) -> Tensor:
        """Positions ``(E,) int64`` of the edges by source, then target, which is the order of the transpose.

        Sorting takes longer than many products; it is done once for a graph and all its :meth:`weighted`.
        """
        reversal = self._cache.reversal
        if reversal.order is None or reversal.order.device != self.device:
            col = self.col.long()
            order = torch.argsort(col, stable=True)
            counts = torch.bincount(col, minlength=self.n_source)
            reversal.rowptr = nn.functional.pad(counts.cumsum(0), (1, 0)).to(self.rowptr.dtype)
            reversal.col = self.target[order].to(self.col.dtype)
            reversal.order = order
        return reversal.order

    def set_transpose(self, transpose: Graph) -> Graph:
        """Caches a transpose that is known already, and returns it."""
        self._cache.transpose = transpose
        if not self.weight.requires_grad:  # else the transpose of the transpose would not be a constant
            transpose._cache.transpose_of = weakref.ref(self)
        return transpose

    def __matmul__(self, x: Tensor) -> Tensor:
        """``graph @ x``: ``(n_source, d) -> (n_target, d)``, differentiable in ``x`` and the weights."""
        if x.dim() != 2 or x.shape[0] != self.n_source:
            raise GraphError(f"x has shape {tuple(x.shape)}; expected ({self.n_source}, d) for {self!r}")
        result: Tensor = _Product.apply(x, self.weight, self)
        return result

    def forward(self, x: Tensor) -> Tensor:
        """``graph @ x``."""
        return self @ x

    def scaled(self, factor: float) -> Graph:
        """The graph with every weight multiplied by ``factor``."""
        return Graph(self.rowptr, self.col, self.weight * factor, self.n_source, self.symmetric)

    def rows(self, targets: Tensor) -> Graph:
        """The edges to some targets ``(n,) int64``, which are renumbered in their order: ``n`` targets.

        ``graph.rows(targets) @ x`` equals ``(graph @ x)[targets]`` at the cost of these edges.
        """
        edges, degree = self.edges_to(targets)
        rowptr = nn.functional.pad(degree.cumsum(0), (1, 0))
        return Graph(rowptr, self.col[edges], self.weight[edges], self.n_source)

    def edges_to(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Positions of all edges to some targets ``(n,) int64``, in their order ``(E,) int64``, and how many
        each of them has ``(n,) int64``.
        """
        first = self.rowptr[targets].long()
        degree = self.rowptr[targets + 1].long() - first
        edges = torch.repeat_interleave(first - (degree.cumsum(0) - degree), degree)
        return edges + torch.arange(len(edges), device=self.device), degree

    def weighted(self, weight: Tensor) -> Graph:
        """The same edges with other weights ``(E,)``, which may require a gradient."""
        if weight.shape != self.weight.shape:
            raise GraphError(f"weights of shape {tuple(weight.shape)}; expected ({len(self)},) for {self!r}")
        graph = Graph(self.rowptr, self.col, weight, self.n_source)
        graph._cache.reversal = self._cache.reversal
        return graph

    def detached(self) -> Graph:
        """The graph without a gradient to its weights. It shares the transpose, which is computed once."""
        graph = Graph(self.rowptr, self.col, self.weight.detach(), self.n_source, self.symmetric)
        graph._cache.matrix = self._cache.matrix
        if not self.symmetric:
            graph._cache.transpose = self.t()
        return graph


class _Product(torch.autograd.Function):
    """Sparse times dense with a cached transpose in backward (torch's own transposes on every call)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, graph: Graph) -> Tensor:
        ctx.graph = graph
        if ctx.needs_input_grad[1]:
            ctx.save_for_backward(x)
        return _product(graph, x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        to_x = _product(ctx.graph.t(), gradient) if ctx.needs_input_grad[0] else None
        to_weight = _edge_products(ctx.graph, gradient, *ctx.saved_tensors) if ctx.saved_tensors else None
        return to_x, to_weight, None


def edge_products(graph: Graph, x: Tensor) -> Tensor:
    """The inner product of the embeddings at both ends of each edge ``(E,)``, differentiable in ``x``.

    The weights are not used. With rows of length one these are cosine similarities. Edges are processed in
    blocks, so two gathered rows per edge are never in memory at once.

    Args:
        graph: a graph over one set of ``n`` nodes.
        x: one row per node ``(n, d)``.

    Raises:
        GraphError: the graph is not square, or ``x`` does not have one row per node.
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


def _edge_products(graph: Graph, x_target: Tensor, x_source: Tensor) -> Tensor:
    """Inner products ``(E,)`` of each edge's rows of ``(n_target, d)`` and of ``(n_source, d)``."""
    target = graph.target
    result = x_source.new_empty(len(graph))
    for start in range(0, len(graph), EDGE_BLOCK):
        block = slice(start, start + EDGE_BLOCK)
        # index_select copies whole rows, in a third of the time of indexing.
        at_target = x_target.index_select(0, target[block])
        result[block] = (at_target * x_source.index_select(0, graph.col[block])).sum(1)
    return result


def _product(graph: Graph, x: Tensor) -> Tensor:
    """``(n_source, d) -> (n_target, d)``.

    A weighted embedding bag per target is the same sum as a CSR product. On CPUs its kernel reads each row
    once and writes each result once, without the zeroing and the copy around MKL's sparse product, in about
    half the time (python -m experiments.bench.propagation).
    """
    weight = graph.weight
    if x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and len(weight) and len(x):
        pairs = graph.n_source * graph.n_target
        if DENSE_PAIRS[0] <= pairs <= DENSE_PAIRS[1] and len(weight) >= DENSE_SHARE * pairs:
            if graph._cache.dense is None:
                graph._cache.dense = graph.dense()
            return graph._cache.dense @ x
        return nn.functional.embedding_bag(
            graph.col,
            x.contiguous(),
            graph.rowptr,
            mode="sum",
            per_sample_weights=weight,
            include_last_offset=True,
        )
    return graph.matrix().to(x.dtype) @ x.contiguous()


def bipartite(interactions: Interactions, normalization: Literal["symmetric", "none"] = "symmetric") -> Graph:
    """The user-item graph in both directions over ``n_users + n_items`` nodes, users first.

    With ``"symmetric"`` the weight of each edge is ``1 / sqrt(d_u d_i)`` (LightGCN,
    https://arxiv.org/abs/2002.02126, Eq. 3), where degrees are counted on these interactions.
    """
    users = interactions.users.astype(np.int64)
    items = interactions.items.astype(np.int64)
    by_item = np.argsort(items, kind="stable")  # users stay ascending within an item
    source = np.concatenate([items + interactions.n_users, users[by_item]])
    degree = np.concatenate([interactions.user_degree, interactions.item_degree])
    if normalization == "symmetric":
        weight = degree_probability(interactions).astype(np.float32)
        weight = np.concatenate([weight, weight[by_item]])
    else:
        weight = np.ones(len(source), dtype=np.float32)
    graph = _graph(source, degree, weight, len(degree))
    graph.symmetric = True
    return graph


def items_to_users(interactions: Interactions) -> Graph:
    """The part of :func:`bipartite` from items to users: users receive from their items, with the weights
    ``1 / sqrt(d_u d_i)``.
    """
    weight = degree_probability(interactions).astype(np.float32)
    items = interactions.items.astype(np.int64)
    return _graph(items, interactions.user_degree, weight, interactions.n_items)


def degree_probability(interactions: Interactions) -> np.ndarray:
    """Sampling weight ``1 / sqrt(d_u d_i)`` of each interaction ``(E,) float64`` (FREEDOM,
    https://arxiv.org/abs/2211.06924, Eq. 4): interactions of popular users and items are drawn less often.
    """
    user_degree = interactions.user_degree[interactions.users].astype(np.float64)
    item_degree = interactions.item_degree[interactions.items]
    probability: np.ndarray = 1.0 / np.sqrt(user_degree * item_degree)
    return probability


def sample_edges(probability: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Mask ``(E,) bool`` of ``n`` edges drawn without replacement, in proportion to ``probability (E,)``.

    Exponential races: edge ``e`` gets the time ``Exp(1) / p_e`` and the first ``n`` are kept, which is the
    same distribution as drawing one edge after the other (Efraimidis and Spirakis, 2006,
    https://doi.org/10.1016/j.ipl.2005.11.003).
    """
    mask = np.zeros(len(probability), dtype=bool)
    if n > 0:
        arrival = rng.standard_exponential(len(probability)) / probability
        mask[np.argpartition(arrival, n - 1)[:n]] = True
    return mask


def normalize_weights(graph: Graph, how: Literal["row", "symmetric"]) -> Graph:
    """Scales weights by row sums: ``"row"`` gives ``D^-1 A``, ``"symmetric"`` gives ``D^-1/2 A D^-1/2``.

    ``D`` holds the row sums (over incoming edges) on both sides, also for directed graphs, as in FREEDOM.
    Empty rows stay empty.

    Raises:
        GraphError: a row sums to zero or less, or the graph is not square and ``how`` is ``"symmetric"``.
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
        scale = torch.where(total > 0, total, torch.ones_like(total)).rsqrt()
        weight = (graph.weight.double() * scale[target] * scale[graph.col.long()]).float()
    else:
        raise GraphError(f"normalization {how!r}; expected 'row' or 'symmetric'")
    # Rows divided by their sums are no longer columns, even of a symmetric graph.
    symmetric = graph.symmetric and how == "symmetric"
    return Graph(graph.rowptr, graph.col, weight, graph.n_source, symmetric)


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
    """The union of the edges of graphs over the same nodes, each edge once and with weight 1.

    Unlike :func:`mix` it leaves the weights to the caller, who may need a gradient to them:
    ``zeros.index_add(0, positions[m], weights[m])`` places the weights of graph ``m`` in the union.

    Args:
        graphs: at least one, all on one device.

    Returns:
        the union with ``E`` edges, and for each graph the position of its edges there ``(E_m,) int64``.
    """
    first = graphs[0]
    keys = torch.cat([g.target * first.n_source + g.col.long() for g in graphs])
    edges, position = torch.unique(keys, return_inverse=True)
    target = edges // first.n_source
    source = edges % first.n_source
    rowptr = nn.functional.pad(torch.bincount(target, minlength=first.n_target).cumsum(0), (1, 0))
    weight = torch.ones(len(edges), device=first.device)
    return Graph(rowptr, source, weight, first.n_source), list(position.split([len(g) for g in graphs]))


def maximum(graphs: Sequence[Graph]) -> Graph:
    """The union of the edges of graphs over the same nodes, each with its largest weight. An edge that a
    graph lacks weighs 0 there.

    Args:
        graphs: at least one, all on one device.
    """
    edges, positions = union(graphs)
    weight = torch.zeros_like(edges.weight)
    for graph, position in zip(graphs, positions, strict=True):
        weight[position] = torch.maximum(weight[position], graph.weight)
    return edges.weighted(weight)


def _graph(source: np.ndarray, counts: np.ndarray, weight: np.ndarray, n_source: int) -> Graph:
    rowptr = np.concatenate([[0], np.cumsum(counts)])
    return Graph(torch.from_numpy(rowptr), torch.from_numpy(source), torch.from_numpy(weight), n_source)
