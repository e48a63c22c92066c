"""Sparse vectors: graphs as scipy matrices, scores as products of sparse rows, the largest entries of a row.

A graph's rows are sparse vectors, one per target node. scipy computes the products on the CPU, row by row in
the order of the entries, so a row's result does not depend on the other rows. scipy.sparse is imported on
first use, as most modules that import this one never need it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce
from itertools import pairwise
from operator import add, mul
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from graphrec.data.interactions import Interactions
from graphrec.data.query import Histories
from graphrec.graphs.graph import Graph

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


def to_scipy(graph: Graph) -> csr_matrix:
    """The graph's ``(n_target, n_source) float32`` matrix; shares the memory of a graph on the CPU."""
    from scipy.sparse import csr_matrix

    arrays = (v.detach().cpu().numpy() for v in (graph.weight, graph.col, graph.rowptr))
    return csr_matrix(tuple(arrays), shape=(graph.n_target, graph.n_source))


def from_scipy(matrix: csr_matrix) -> Graph:
    """A graph with the rows of a matrix, which must not have two entries in the same place."""
    matrix.sort_indices()
    rowptr, col = (torch.from_numpy(np.asarray(a)) for a in (matrix.indptr, matrix.indices))
    weight = torch.from_numpy(matrix.data.astype(np.float32, copy=False))
    return Graph(rowptr, col, weight, matrix.shape[1])


def scorer(users: Graph, items: Graph) -> Callable[[Tensor], Tensor]:
    """Returns a function from users ``(B,)`` to their scores of all items ``(B, n_items)``, inner products.

    Args:
        users: rows ``(n_users, d)``.
        items: rows ``(n_items, d)``.
    """
    user_rows = to_scipy(users)
    score_rows = row_scorer(items)
    return lambda batch: score_rows(user_rows[batch.cpu().numpy()])


def row_scorer(items: Graph) -> Callable[[csr_matrix], Tensor]:
    """Returns a function from sparse rows ``(B, d)`` to their scores of all items ``(B, n_items)``.

    Args:
        items: rows ``(n_items, d)``.
    """
    columns = to_scipy(items).T.tocsr()  # (d, n_items)
    return lambda rows: torch.from_numpy((rows @ columns).toarray())


def interaction_matrix(train: Interactions, dtype: str = "float32") -> csr_matrix:
    """``X (n_users, n_items)`` of zeros and ones."""
    from scipy.sparse import csr_matrix

    ones = np.ones(len(train), dtype=dtype)
    return csr_matrix((ones, train.items, train.indptr), shape=(train.n_users, train.n_items))


def history_matrix(histories: Histories, n_items: int) -> csr_matrix:
    """Histories as rows ``(B, n_items) float32`` of their weights, or of ones; see
    :meth:`graphrec.data.query.Histories.distinct` for repeated items.
    """
    from scipy.sparse import csr_matrix

    distinct = histories.check(n_items).distinct()
    values = np.ones(len(distinct.items)) if distinct.weights is None else distinct.weights
    shape = (len(histories), n_items)
    return csr_matrix((values.astype(np.float32), distinct.items, distinct.indptr), shape=shape)


def keep_largest(matrix: csr_matrix, k: int) -> csr_matrix:
    """The matrix reduced to the ``k`` largest entries of each row, equal ones by the lowest column."""
    from scipy.sparse import csr_matrix

    row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((matrix.indices, -matrix.data, row))  # the rows stay where they are
    largest = order[np.arange(len(order)) - matrix.indptr[row] < k]
    indptr = np.concatenate([[0], np.cumsum(np.bincount(row[largest], minlength=matrix.shape[0]))])
    return csr_matrix((matrix.data[largest], matrix.indices[largest], indptr), shape=matrix.shape)


PRODUCTS = 2**22  # products summed at a time; bounds the memory beyond the result


def nearest_columns(
    rows: csr_matrix,
    similarity: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    k: int,
    with_itself: bool = False,
) -> csr_matrix:
    """The similarities of each column to its ``k`` most similar other columns.

    Computed in blocks of about :data:`PRODUCTS` products, so the similarities of all pairs are never in
    memory at once.

    Args:
        rows: ``(m, n)``.
        similarity: computes similarities ``(p,)`` from the indices of two columns and their inner product,
            three arrays ``(p,)``; zeros are left out.
        k: number of neighbors per column.
        with_itself: whether a column is among its own neighbors.

    Returns:
        ``(n, n)``; row ``i`` holds the neighbors of column ``i``.
    """
    from scipy.sparse import vstack

    columns = rows.T.tocsr()
    work = np.cumsum(columns.astype(bool) @ np.diff(rows.indptr))
    starts = np.unique([0, *np.searchsorted(work, np.arange(PRODUCTS, work[-1], PRODUCTS))])
    parts = []
    for start, end in pairwise([*starts, columns.shape[0]]):
        shared = columns[start:end] @ rows
        at = np.repeat(np.arange(start, end), np.diff(shared.indptr))
        shared.data = similarity(at, shared.indices, shared.data)
        if not with_itself:
            shared.data[shared.indices == at] = 0
        shared.eliminate_zeros()
        parts.append(keep_largest(shared, k))
    return vstack(parts, format="csr")


def weighted_mean(
    parts: Iterable[tuple[float, csr_matrix, np.ndarray]], normalize: bool = False
) -> csr_matrix:
    """The weighted mean of matrices; each row is averaged over the matrices that have it.

    Args:
        parts: weight, matrix ``(n, d)`` and the rows that it has ``(n,) bool`` of each matrix, at least one.
        normalize: divide each row by the sum of its entries instead of the sum of the weights.
    """
    weights, matrices, present = zip(*parts, strict=True)
    total = reduce(add, map(mul, weights, matrices))
    if normalize:
        return normalize_rows(total)
    sums = sum(map(mul, weights, present))
    return scale_rows(total, 1 / np.where(sums > 0, sums, 1))


def normalize_rows(matrix: csr_matrix) -> csr_matrix:
    """The rows divided by the sum of their entries, which must not be negative; empty rows stay empty."""
    total = np.asarray(matrix.sum(1)).ravel()
    return scale_rows(matrix, 1 / np.where(total > 0, total, 1))


def unit_rows(matrix: csr_matrix) -> csr_matrix:
    """The rows scaled to length one; empty ones stay empty."""
    wide = matrix.astype(np.float64)  # the squares of float32 may leave its range
    length = np.sqrt(np.asarray(wide.multiply(wide).sum(1))).ravel()  # (n,)
    return scale_rows(matrix, 1 / np.where(length > 0, length, 1))


def scale_rows(matrix: csr_matrix, factors: np.ndarray) -> csr_matrix:
    """The rows multiplied by ``factors (n,)``, as float32."""
    from scipy.sparse import csr_matrix

    data = matrix.data * np.repeat(factors, np.diff(matrix.indptr))
    return csr_matrix((data.astype(np.float32), matrix.indices, matrix.indptr), shape=matrix.shape)
