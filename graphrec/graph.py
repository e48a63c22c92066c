"""Graphs as compressed sparse rows, and the builders: bipartite, mix, normalise, sample.

A :class:`Graph` is a linear map: ``graph @ x`` sends ``(n_source, d)`` to ``(n_target, d)``, each target
summing its weighted sources. Rows are targets, so forward propagation is one CSR product; a symmetric graph
is its own transpose in backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from graphrec.data.interactions import Interactions
from graphrec.errors import GraphError

if TYPE_CHECKING:
    from torch_geometric import EdgeIndex


class Graph:
    """Weighted edges between ``n_source`` and ``n_target`` nodes, sorted by target, then source.

    Args:
        rowptr: offsets per target ``(n_target + 1,)``.
        col: source of each edge ``(E,)``.
        weight: ``(E,) float32``.
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
        """The ``(n_target, n_source)`` sparse CSR tensor, made once."""
        if self._matrix is None:
            self._matrix = torch.sparse_csr_tensor(
                self.rowptr,
                self.col,
                self.weight,
                size=(self.n_target, self.n_source),
                check_invariants=False,
            )
        return self._matrix

    def dense(self) -> Tensor:
        """The ``(n_target, n_source)`` dense matrix, for small graphs and tests."""
        return self.matrix().to_dense()

    def t(self) -> Graph:
        """The transpose: every edge the other way round; made once, and the graph itself if symmetric."""
        if self._transposed is None:
            order = torch.argsort(self.col.long(), stable=True)
            counts = torch.bincount(self.col.long(), minlength=self.n_source)
            rowptr = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
            self._transposed = Graph(rowptr, self.target[order], self.weight[order], self.n_target)
            self._transposed._transposed = self
        return self._transposed

    def __matmul__(self, x: Tensor) -> Tensor:
        """``graph @ x``: ``(n_source, d) -> (n_target, d)``, differentiable in ``x``."""
        if x.dim() != 2 or x.shape[0] != self.n_source:
            raise GraphError(f"x has shape {tuple(x.shape)}; expected ({self.n_source}, d) for {self!r}")
        result: Tensor = _Product.apply(x, self)
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


class _Product(torch.autograd.Function):
    """Sparse times dense with the transposed CSR in backward (autograd's own transposes on every call)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, graph: Graph) -> Tensor:
        ctx.graph = graph
        return _product(graph, x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _product(ctx.graph.t(), gradient), None


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


def bipartite(interactions: Interactions, normalisation: Literal["symmetric", "none"] = "symmetric") -> Graph:
    """The user-item graph in both directions over ``n_users + n_items`` nodes, users first.

    With ``"symmetric"`` each edge weighs ``1 / sqrt(d_u d_i)`` (LightGCN, https://arxiv.org/abs/2002.02126,
    Eq. 3), degrees counted on these very interactions.
    """
    users, items = interactions.users.astype(np.int64), interactions.items.astype(np.int64)
    by_item = np.argsort(items, kind="stable")  # users stay ascending within an item
    source = np.concatenate([items + interactions.n_users, users[by_item]])
    degree = np.concatenate([interactions.user_degree, interactions.item_degree])
    if normalisation == "symmetric":
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


def normalise(graph: Graph, how: Literal["row", "symmetric"]) -> Graph:
    """Scales weights by row sums: ``"row"`` gives ``D^-1 A``, ``"symmetric"`` gives ``D^-1/2 A D^-1/2``.

    ``D`` holds the row sums (over incoming edges) on both sides, also for directed graphs, as FREEDOM does
    it. Empty rows stay empty.
    """
    target = graph.target
    total = torch.zeros(graph.n_target, dtype=torch.float64, device=graph.device)
    total.index_add_(0, target, graph.weight.double())
    if bool((total < 0).any()) or bool((total[target] == 0).any()):
        raise GraphError("a row's weights sum to zero or less; normalising needs positive sums")
    if how == "row":
        weight = graph.weight / total[target].float()
    elif how == "symmetric":
        if graph.n_source != graph.n_target:
            raise GraphError(
                f"{graph!r} is not square; symmetric normalisation needs one node set, use 'row'"
            )
        inverse = torch.where(total > 0, total, torch.ones_like(total)).rsqrt()
        weight = (graph.weight.double() * inverse[target] * inverse[graph.col.long()]).float()
    else:
        raise GraphError(f"normalisation {how!r}; expected 'row' or 'symmetric'")
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


def _graph(source: np.ndarray, counts: np.ndarray, weight: np.ndarray, n_source: int) -> Graph:
    rowptr = np.concatenate([[0], np.cumsum(counts)])
    return Graph(torch.from_numpy(rowptr), torch.from_numpy(source), torch.from_numpy(weight), n_source)
