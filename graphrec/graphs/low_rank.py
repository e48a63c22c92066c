"""Singular vectors of the interactions, and the user-item graph that they leave: a view of low rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from graphrec.core.random import numpy_rng
from graphrec.data.interactions import Interactions
from graphrec.graphs.graph import degree_probability
from graphrec.graphs.sparse import interaction_matrix

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

LEAST_SINGULAR_VALUE = 1e-5  # a direction below it is one of rounding


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


def singular_vectors(matrix: csr_matrix, rank: int) -> np.ndarray:
    """The right singular vectors of the ``rank`` largest singular values ``(n, rank) float32``, fewer where
    there are fewer; the same in every run on one machine.

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
