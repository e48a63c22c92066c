"""Filters on the item graph ``M = N^T N``, where ``N = D_u^-1/2 X D_i^-1/2`` is the normalized matrix of
interactions: polynomials in ``M`` and a low-rank part. Nothing is trained.

The scores of a history ``x`` (a row of zeros and ones) are ``x f(M) + (x P) g(M)`` with polynomials ``f`` and
``g``, and ``P = D_i^-1/2 V V^T D_i^1/2`` from the ``rank`` largest right singular vectors ``V`` of ``N``.
``M`` is never computed: a product with it is two sparse products. Users and items without interactions have
rows and columns of zeros.

``Eq. n`` refers to the numbered equations in docs/models/graph-filters.md.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from numpy.polynomial import Polynomial
from pydantic import Field
from scipy.sparse import csr_matrix
from torch import Tensor

from graphrec.data.interactions import Interactions
from graphrec.graphs import sparse
from graphrec.graphs.graph import Graph, degree_probability
from graphrec.graphs.low_rank import singular_vectors
from graphrec.models.item_weights import DenseItemWeightsRanker, KeptWeightsConfig, dense_scores

ROW_BLOCK = 256  # histories filtered at a time: a table over users and one over items with so many columns

M = Polynomial([0.0, 1.0])
"""The filter ``M`` itself, to make others from."""


class ItemFiltersConfig(KeptWeightsConfig):
    """Options of filters on the item graph."""

    rank: int = Field(256, ge=0)
    """Singular vectors in the low-rank part, at most as many as there are; 0 leaves that part out."""


class ItemFilters(DenseItemWeightsRanker):
    """Scores ``x f(M) + (x P) g(M)``.

    Args:
        train: interactions to learn from.
        config: the model's options, ``rank`` among them.
        direct: ``f``, without a constant term.
        low_rank: ``g``, of lower degree than ``f``; 0 leaves that part out.
        scaled_history: filter ``x D_i^-1/2`` instead of ``x``: interactions with popular items count less.
    """

    root: Tensor
    singular_vectors: Tensor

    def __init__(
        self,
        train: Interactions,
        config: Any,
        direct: Polynomial,
        low_rank: Polynomial,
        scaled_history: bool = False,
    ) -> None:
        super().__init__(train, config)
        direct = direct.trim()
        low_rank = low_rank.trim()
        assert direct.coef[0] == 0
        assert low_rank.degree() < direct.degree()
        self.coefficients = list(zip_longest(direct.coef.tolist(), low_rank.coef.tolist(), fillvalue=0.0))
        self.scaled_history = scaled_history
        weight = torch.from_numpy(degree_probability(train).astype(np.float32))
        self.normalized = Graph(self.history.rowptr, self.history.col, weight, self.n_items)  # N, Eq. 1
        self.columns = sparse.to_scipy(self.normalized.t())  # N^T (n_items, n_users)
        root = np.sqrt(train.item_degree).astype(np.float32)  # D_i^1/2 (n_items,)
        self.register_buffer("root", torch.from_numpy(root), persistent=False)
        rank = config.rank if low_rank.coef.any() else 0
        vectors = singular_vectors(sparse.to_scipy(self.normalized), rank)  # Eq. 2
        self.register_buffer("singular_vectors", torch.from_numpy(vectors), persistent=False)

    def score_rows(self, rows: csr_matrix) -> Tensor:
        """Filtered histories (Eq. 3), in blocks of :data:`ROW_BLOCK`."""
        scores = torch.empty(rows.shape)
        for start in range(0, rows.shape[0], ROW_BLOCK):
            block = slice(start, start + ROW_BLOCK)
            scores[block] = self._filtered(rows[block]).T
        return scores

    def _filtered(self, x: csr_matrix) -> Tensor:
        """The scores ``(n_items, B)`` by Horner's rule: ``((a_n x + b_n z) M + a_n-1 x + b_n-1 z) M + ...``.

        Columns are histories, so that each interaction adds a whole row of one table to another.
        """
        device = self.root.device
        scaled = self._scaled(x)
        z = self._low_rank(scaled) if self.singular_vectors.shape[1] else None
        if self.scaled_history:
            x = scaled
        value = torch.from_numpy(x.data).to(device)
        row = np.repeat(np.arange(x.shape[0]), np.diff(x.indptr))
        position = torch.from_numpy(x.indices.astype(np.int64) * x.shape[0] + row).to(device)
        # A history has few entries, so the first of all products is one of sparse matrices.
        by_user = torch.from_numpy((x @ self.columns).T.toarray()).to(device)  # (n_users, B)
        y = self.normalized.t() @ by_user.mul_(self.coefficients[-1][0])
        for power, (direct, low_rank) in reversed(list(enumerate(self.coefficients[:-1]))):
            if direct:
                y.view(-1).index_add_(0, position, value, alpha=direct)
            if low_rank and z is not None:
                y.add_(z, alpha=low_rank)
            if power:
                y = self.normalized.t() @ (self.normalized @ y)
        return y

    def _scaled(self, rows: csr_matrix) -> csr_matrix:
        """``rows D_i^-1/2``."""
        data = rows.data / np.maximum(self.root.cpu().numpy()[rows.indices], 1)
        return csr_matrix((data, rows.indices, rows.indptr), shape=rows.shape)

    def _low_rank(self, scaled: csr_matrix) -> Tensor:
        """``(x P)^T (n_items, B)`` from ``x D_i^-1/2``."""
        vectors = self.singular_vectors
        projected = dense_scores(vectors.cpu(), scaled).to(vectors.device)  # (B, rank)
        return (vectors @ projected.T).mul_(self.root[:, None])
