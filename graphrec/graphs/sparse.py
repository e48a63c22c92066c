"""Sparse vectors: graphs as scipy matrices, scores as products of sparse rows, the largest entries of a row.

A graph's rows are sparse vectors, one per target node. Products are taken by scipy on the CPU: one pass over
what is there, in the order in which it stands, so a row's result does not depend on the rows beside it.
scipy.sparse is imported when first used: most of what imports this never needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from graphrec.data.query import Histories
from graphrec.graphs.graph import Graph

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


def rows_of(graph: Graph) -> csr_matrix:
    """The graph's ``(n_target, n_source) float32`` matrix, sharing the memory of a graph on the CPU."""
    from scipy.sparse import csr_matrix

    arrays = (v.detach().cpu().numpy() for v in (graph.weight, graph.col, graph.rowptr))
    return csr_matrix(tuple(arrays), shape=(graph.n_target, graph.n_source))


def graph_of(matrix: csr_matrix) -> Graph:
    """A graph whose rows are those of a matrix; entries of a row in any order, none twice."""
    matrix.sort_indices()
    rowptr, col = (torch.from_numpy(np.asarray(a)) for a in (matrix.indptr, matrix.indices))
    weight = torch.from_numpy(matrix.data.astype(np.float32, copy=False))
    return Graph(rowptr, col, weight, matrix.shape[1])


def scorer(users: Graph, items: Graph) -> Callable[[Tensor], Tensor]:
    """A function from users ``(B,)`` to the inner products of their rows with all items' ``(B, n_items)``.

    Args:
        users: rows ``(n_users, d)``.
        items: rows ``(n_items, d)``.
    """
    taken, score_rows = rows_of(users), row_scorer(items)
    return lambda batch: score_rows(taken[batch.cpu().numpy()])


def row_scorer(items: Graph) -> Callable[[csr_matrix], Tensor]:
    """A function from sparse rows ``(B, d)`` to their inner products with all items' ``(B, n_items)``.

    Args:
        items: rows ``(n_items, d)``.
    """
    columns = rows_of(items).T.tocsr()  # (d, n_items)
    return lambda rows: torch.from_numpy((rows @ columns).toarray())


def history_matrix(histories: Histories, n_items: int) -> csr_matrix:
    """Histories as rows ``(B, n_items) float32`` of ones, ascending by item; repeated items count once."""
    from scipy.sparse import csr_matrix

    histories.check(n_items)
    keys = np.unique(histories.row_indices * n_items + histories.items)
    row = keys // n_items
    indptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(histories)))])
    return csr_matrix(
        (np.ones(len(keys), np.float32), (keys % n_items).astype(np.int32), indptr.astype(np.int32)),
        shape=(len(histories), n_items),
    )


def largest(matrix: csr_matrix, k: int) -> csr_matrix:
    """The matrix with the ``k`` largest entries of each row alone; among equals the lowest column stays."""
    from scipy.sparse import csr_matrix

    row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((matrix.indices, -matrix.data, row))  # the rows stay where they are
    kept = order[np.arange(len(order)) - matrix.indptr[row] < k]
    indptr = np.concatenate([[0], np.cumsum(np.bincount(row[kept], minlength=matrix.shape[0]))])
    return csr_matrix((matrix.data[kept], matrix.indices[kept], indptr), shape=matrix.shape)


PRODUCTS = 2**22  # products that are summed at a time: bounds the memory beyond the result


def products(
    rows: csr_matrix, similarity: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray], k: int
) -> csr_matrix:
    """The ``k`` nearest columns of each column by what their inner product makes them, itself left out.

    Computed in blocks of about :data:`PRODUCTS` products, so neither a matrix of all pairs of columns nor one
    of all pairs with something in common is held.

    Args:
        rows: ``(m, n)``.
        similarity: of pairs of columns and their inner products, three ``(p,)``; zero ones are left out.
        k: how many.

    Returns:
        ``(n, n)``.
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
        shared.data[shared.indices == at] = 0
        shared.eliminate_zeros()
        parts.append(largest(shared, k))
    return vstack(parts, format="csr")


def of_neighbors(
    rows: np.ndarray, columns: np.ndarray, similarity: np.ndarray, shape: tuple[int, int]
) -> csr_matrix:
    """Some rows from their neighbors; the other rows are empty, similarities of zero or less left out.

    Args:
        rows: ``(q,)``, all different.
        columns: each one's neighbors ``(q, k)``.
        similarity: to them ``(q, k)``.
        shape: of the matrix.
    """
    from scipy.sparse import csr_matrix

    kept = similarity > 0
    row = np.broadcast_to(rows[:, None], kept.shape)[kept]
    return csr_matrix((similarity[kept], (row, columns[kept])), shape=shape)


def mixed(parts: Iterable[tuple[float, csr_matrix, np.ndarray]], normalize: bool = False) -> csr_matrix:
    """The weighted mean of matrices, for each row over those that have it.

    Args:
        parts: a weight, a matrix ``(n, d)`` and which rows it has ``(n,) bool``, at least one.
        normalize: divide each row by the sum of its entries instead of the weights.
    """
    total, weights = None, np.zeros(1)
    for weight, matrix, has in parts:
        total = weight * matrix if total is None else total + weight * matrix
        weights = weights + weight * has
    assert total is not None
    return shares(total) if normalize else scaled(total, 1 / np.where(weights > 0, weights, 1))


def shares(matrix: csr_matrix) -> csr_matrix:
    """Each row divided by the sum of its entries, none of them negative; empty rows stay empty."""
    total = np.asarray(matrix.sum(1)).ravel()
    return scaled(matrix, 1 / np.where(total > 0, total, 1))


def unit_rows(matrix: csr_matrix) -> csr_matrix:
    """The rows scaled to length one; empty ones stay empty."""
    length = np.sqrt(np.asarray(matrix.multiply(matrix).sum(1))).ravel()  # (n,)
    return scaled(matrix, 1 / np.where(length > 0, length, 1))


def scaled(matrix: csr_matrix, factors: np.ndarray) -> csr_matrix:
    """Every row multiplied by a factor of its own ``(n,)``, as float32."""
    from scipy.sparse import csr_matrix

    data = matrix.data * np.repeat(factors, np.diff(matrix.indptr))
    return csr_matrix((data.astype(np.float32), matrix.indices, matrix.indptr), shape=matrix.shape)
