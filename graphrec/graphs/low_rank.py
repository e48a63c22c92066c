"""Singular vectors of the interactions, and the user-item graph that they leave: a view of low rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from graphrec.core.random import numpy_rng
from graphrec.data.interactions import Interactions
from graphrec.graphs.graph import Graph, degree_probability
from graphrec.graphs.sparse import interaction_matrix

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

LEAST_SINGULAR_VALUE = 1e-5  # a direction below it is one of rounding
DENSE_ENTRIES = 2**22  # entries of a product of singular vectors that are in memory at a time


class LowRankGraph(nn.Module):
    """The graph ``[[0, P Q^T], [Q P^T, 0]]`` over users and, numbered after them, items. Products go through
    ``q`` dimensions, so that the matrix over users and items is never computed.

    The tables are non-persistent buffers, like the edges of a :class:`~graphrec.graphs.graph.Graph`.

    Args:
        users: ``P (n_users, q)``.
        items: ``Q (n_items, q)``.
    """

    users: Tensor
    items: Tensor

    def __init__(self, users: Tensor, items: Tensor) -> None:
        super().__init__()
        self.register_buffer("users", users, persistent=False)
        self.register_buffer("items", items, persistent=False)

    def __matmul__(self, x: Tensor) -> Tensor:
        """The product with node embeddings, ``(n_users + n_items, d)`` of both."""
        users, items = x.split([len(self.users), len(self.items)])
        return torch.cat([self.users @ (self.items.T @ items), self.items @ (self.users.T @ users)])

    def forward(self, x: Tensor) -> Tensor:
        """The product."""
        return self @ x


def low_rank_view(train: Interactions, rank: int) -> LowRankGraph:
    """The normalized user-item graph reduced to its largest singular values (Cai et al., "LightGCL: Simple
    Yet Effective Graph Contrastive Learning for Recommendation", ICLR 2023,
    https://arxiv.org/abs/2302.08191, Eqs. 3 and 4).

    With ``V`` the right singular vectors of ``N = U S V^T``, ``U S = N V``: the left ones are not computed,
    and no pair of vectors can differ in sign.

    Args:
        train: interactions, normalized as in :func:`~graphrec.graphs.graph.bipartite`.
        rank: singular values kept, at most as many as there are.
    """
    matrix = interaction_matrix(train)
    matrix.data = degree_probability(train).astype(np.float32)
    vectors = singular_vectors(matrix, rank)
    return LowRankGraph(torch.from_numpy(matrix @ vectors), torch.from_numpy(vectors))


def principal_graph(train: Interactions, rank: int, least: float = 1e-3) -> Graph:
    """The user-item graph of the largest singular values, each weighted by a small one: both directions of
    ``sum_{j < n} s_j s_{q-n+j} u_j v_j^T`` with ``n = q / 4``, rounded down, but 1 at least (Yu et al., "Mind
    Individual Information! Principal Graph Learning for Multimedia Recommendation" (PGL), AAAI 2025,
    https://doi.org/10.1609/aaai.v39i12.33429).

    The singular values ``s`` are those of the interactions. In the whole adjacency matrix, of which the
    authors' code takes twice as many, each occurs twice, and the two vectors of a pair are whatever a solver
    makes of them. Blocks of users are computed in turn, so that only entries that stay are in memory.

    Args:
        train: interactions, normalized as in :func:`~graphrec.graphs.graph.bipartite`.
        rank: ``q``, at most as many as there are.
        least: entries of a smaller magnitude are left out.
    """
    from scipy.sparse import csr_matrix, vstack

    matrix = interaction_matrix(train, "float64")
    matrix.data = degree_probability(train)
    right = singular_vectors(matrix, rank)  # (n_items, q)
    left = matrix @ right  # u_j s_j
    values = np.linalg.norm(left, axis=0)
    order = np.argsort(-values, kind="stable")
    n = min(max(1, rank // 4), len(order))
    left = left[:, order[:n]] * values[order[len(order) - n :]]
    right = right[:, order[:n]].T
    parts = [csr_matrix((0, train.n_items))]
    size = max(1, DENSE_ENTRIES // max(1, train.n_items))
    for start in range(0, train.n_users, size):
        block = left[start : start + size] @ right
        parts.append(csr_matrix(np.where(np.abs(block) >= least, block, 0)))
    kept = vstack(parts).tocoo()
    users = kept.row.astype(np.int64)
    items = kept.col.astype(np.int64) + train.n_users
    n_nodes = train.n_users + train.n_items
    return Graph.from_edges(
        np.concatenate([items, users]),
        np.concatenate([users, items]),
        np.concatenate([kept.data, kept.data]),
        n_source=n_nodes,
        n_target=n_nodes,
        symmetric=True,
    )


def singular_vectors(matrix: csr_matrix, rank: int) -> np.ndarray:
    """The right singular vectors of the ``rank`` largest singular values ``(n, rank)``, fewer where there are
    fewer, in the precision of the matrix; the same in every run on one machine.

    By Lanczos iterations (ARPACK), or a dense decomposition where most vectors are asked for.

    Args:
        matrix: ``(m, n)``.
        rank: how many.
    """
    from scipy.linalg import svd
    from scipy.sparse.linalg import svds

    if not rank:
        return np.empty((matrix.shape[1], 0), np.float32)
    least = min(matrix.shape)
    if 2 * rank >= least:
        _, values, rows = svd(matrix.toarray(), full_matrices=False)
        values, rows = values[:rank], rows[:rank]
    else:
        # Named after the file it was in first: another name is another start, and the last bits differ.
        start = numpy_rng(0, "item_filters/start").standard_normal(least).astype(matrix.dtype)
        _, values, rows = svds(matrix, rank, v0=start, return_singular_vectors="vh")
    return np.ascontiguousarray(rows[values > LEAST_SINGULAR_VALUE].T)
