"""Ridge regressions of each item on all others, and their solution column by column.

Column ``j`` of ``B`` minimizes ``|x_j - X b|^2 + sum_i Lambda_ii (b_i - C_ij)^2`` with ``b_j = 0`` (Eq. 4 in
docs/models/ease.md). With ``A = X^T X + Lambda`` it solves ``(A b)_i = (X^T x_j + Lambda C_j)_i`` for all
``i != j``: one system per column, which conjugate gradients solve within the vectors whose entry ``j`` is
zero. A product with ``A`` is two sparse products, so ``A`` and ``B`` are never allocated.

Conjugate gradients: Hestenes and Stiefel, "Methods of Conjugate Gradients for Solving Linear Systems", 1952,
https://doi.org/10.6028/jres.049.044, here preconditioned by the diagonal of ``A``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from graphrec.core.errors import TrainingError
from graphrec.graphs.graph import Graph
from graphrec.graphs.sparse import to_scipy
from graphrec.models.content_regression import Product
from graphrec.models.gram import LAST_INVERSE, RegressionConfig, check_memory
from graphrec.models.item_weights import DenseItemWeightsRanker, ItemWeightsRanker, dense_scores

BLOCK = 64  # columns that are solved at a time; few, so that a table over items fits into the cache
MOST_DRIFT = 10.0
"""Greatest residual after the last iteration, in units of ``tolerance``: rounding lets the residual that the
iterations carry along drift from the true one."""


class RegressionRanker(DenseItemWeightsRanker):
    """A ranker with the matrix ``B (n_items, n_items)`` of a regression over items.

    A subclass sets ``weights``: the whole matrix, or the largest weights of each column as a graph whose row
    ``j`` is column ``j``.
    """

    config: RegressionConfig
    weights: Tensor | Graph

    @classmethod
    def reuse(cls) -> AbstractContextManager[None]:
        """Keeps the last inverse, which only ``reg_weight``, ``dropout`` and ``precision`` change."""
        return LAST_INVERSE.kept()

    def scorer(self) -> Callable[[Any], Tensor]:
        """See :meth:`graphrec.models.base.Ranker.scorer`."""
        if isinstance(self.weights, Graph):
            return ItemWeightsRanker.scorer(self)
        return super().scorer()

    def score_rows(self, rows: csr_matrix) -> Tensor:
        """Sums of the rows of the whole ``B`` of a history's items (Eq. 1)."""
        assert isinstance(self.weights, Tensor)
        return dense_scores(self.weights, rows)

    def item_weights(self) -> Graph:
        """Each item's ``kept`` weights of the largest size: row ``i`` makes up the score of item ``i``."""
        return self.weights if isinstance(self.weights, Graph) else super().item_weights()


class LargestWeights:
    """The largest weights of each item, filled in any order, in ``8 n k`` bytes.

    Args:
        n: number of items.
        k: weights per item.

    Attributes:
        items: whose weights they are ``(n, k) int32``.
        weights: ``(n, k) float32``; zero where an item has fewer.
        iterations: the most that a column took.
    """

    def __init__(self, n: int, k: int) -> None:
        k = min(k, n)
        self.items = np.zeros((n, k), dtype=np.int32)
        self.weights = np.zeros((n, k), dtype=np.float32)
        self.iterations = 0

    def put(self, items: np.ndarray, weights: Tensor) -> None:
        """Sets the weights of some items ``(b,)`` to the largest in size of ``(b, n)``."""
        k = self.items.shape[1]
        if k == len(self.items):
            largest = torch.arange(k).expand(len(items), k)
        else:
            largest = weights.abs().topk(k, dim=1, sorted=False).indices.sort(dim=1).values
        self.items[items] = largest
        self.weights[items] = weights.gather(1, largest)

    def lengths(self) -> np.ndarray:
        """Euclidean length of each item's weights ``(n,) float32``."""
        lengths: np.ndarray = np.sqrt(np.einsum("ij,ij->i", self.weights, self.weights))
        return lengths

    def matrix(self) -> csr_matrix:
        """Row ``i`` holds the weights of item ``i``, with zeros; shares the memory."""
        n, k = self.items.shape
        indptr = np.arange(0, n * k + 1, k)
        return csr_matrix((self.weights.ravel(), self.items.ravel(), indptr), shape=(n, n))

    def graph(self) -> Graph:
        """The same without zeros."""
        n = len(self.items)
        there = self.weights != 0
        rowptr = torch.from_numpy(np.concatenate([[0], np.cumsum(there.sum(1))]))
        items, weights = (a.ravel() if there.all() else a[there] for a in (self.items, self.weights))
        return Graph(rowptr, torch.from_numpy(items), torch.from_numpy(weights), n)


def largest_weights(
    history: Graph,
    penalty: np.ndarray,
    config: RegressionConfig,
    toward: csr_matrix | None = None,
    columns: np.ndarray | None = None,
    product: Product | None = None,
) -> LargestWeights:
    """The ``kept`` largest weights of each column of ``B``, solved to ``tolerance`` in blocks of
    :data:`BLOCK`.

    A column's iterations use nothing of the others, so that the width of the blocks changes it by rounding
    alone.

    Args:
        history: the interactions ``X (n_users, n_items)``.
        penalty: the diagonal of ``Lambda (n_items,)``, positive.
        config: options of the regression.
        toward: ``C (n_items, n_items)``, what weights are shrunk toward; None: zero. Its diagonal changes
            nothing.
        columns: which to solve; None: all. Others have no weights.
        product: what is dense in ``C``.

    Raises:
        ConfigError: the weights and one block would take more memory than allowed or than there is.
        TrainingError: a column does not reach ``tolerance`` within ``max_iterations``.
    """
    n_users, n = history.n_target, history.n_source
    kept = config.kept_of(n)
    dtype = torch.float64 if config.precision == "float64" else torch.float32
    # The weights and, while they score, their transpose; of a block, seven tables over items and one over
    # users.
    check_memory(
        2 * 8 * n * kept + BLOCK * (7 * n + n_users) * dtype.itemsize,
        f"2 x {n:,} x {kept:,} x 8 bytes of weights and a block of {BLOCK} columns take",
        config,
        "lower kept, or leave out items with few interactions",
    )
    x = to_scipy(history).astype(config.precision)
    by_item = x.T.tocsr()
    pull = None if toward is None else (toward.T.multiply(penalty)).tocsr()  # row j: Lambda C_j
    diagonal = torch.from_numpy(penalty).to(dtype)[:, None]
    degree = torch.from_numpy(np.diff(by_item.indptr)).to(dtype)[:, None]
    found = LargestWeights(n, kept)
    columns = np.arange(n) if columns is None else columns
    for start in range(0, len(columns), BLOCK):
        block = columns[start : start + BLOCK]
        rows = by_item[block] @ x
        right = (rows if pull is None else rows + pull[block]).toarray().T
        if product is not None:
            right += penalty[:, None] * (product.left @ product.right[:, block])
        system = _System(history, diagonal, degree, torch.from_numpy(block))
        solution, iterations = system.solve(torch.from_numpy(right).to(dtype).contiguous(), config)
        found.put(block, solution.T.float().contiguous())
        found.iterations = max(found.iterations, iterations)
    return found


class _System:
    """``A = X^T X + Lambda`` within the vectors whose entry for the column's own item is zero.

    Args:
        history: ``X (n_users, n_items)``.
        diagonal: of ``Lambda (n_items, 1)``.
        degree: of the items ``(n_items, 1)``.
        own: the item of each column ``(b,)``.
    """

    def __init__(self, history: Graph, diagonal: Tensor, degree: Tensor, own: Tensor) -> None:
        self.history = history
        self.diagonal = diagonal
        self.inverse = 1 / (diagonal + degree)  # of the diagonal of A
        self.own = own

    def _without_own(self, table: Tensor) -> Tensor:
        table[self.own, torch.arange(len(self.own))] = 0
        return table

    def __matmul__(self, vectors: Tensor) -> Tensor:
        """Products ``(n_items, b)``."""
        result = self.history.t() @ (self.history @ vectors)
        return self._without_own(result.addcmul_(self.diagonal, vectors))

    def solve(self, right: Tensor, config: RegressionConfig) -> tuple[Tensor, int]:
        """Solutions ``(n_items, b)``, and how many iterations the slowest took.

        Residuals are measured in the norm of the inverse diagonal of ``A``. A column that has reached the
        tolerance stays as it is.

        Args:
            right: right sides ``(n_items, b)``; overwritten.
            config: gives ``tolerance`` and ``max_iterations``.
        """
        residual = self._without_own(right)
        solution = torch.zeros_like(residual)
        scaled = residual * self.inverse
        direction = scaled.clone()
        squares = (residual * scaled).sum(0)  # (b,)
        goal = config.tolerance**2 * squares
        given = residual.clone()
        iterations = 0
        while (going := squares > goal).any():
            if iterations == config.max_iterations:
                raise TrainingError(self._unfinished(squares, goal, config))
            iterations += 1
            image = self @ direction
            step = torch.where(going, squares / (direction * image).sum(0), 0)
            solution.addcmul_(direction, step)
            residual.addcmul_(image, -step)
            torch.mul(residual, self.inverse, out=scaled)
            following = (residual * scaled).sum(0)
            direction.mul_(torch.where(going, following / squares, 0)).add_(scaled)
            squares = torch.where(going, following, squares)
        given -= self @ solution
        squares = (given * given * self.inverse).sum(0)
        if (squares > MOST_DRIFT**2 * goal).any():
            raise TrainingError(
                f"{self._worst(squares, goal, config)} in {config.precision}, though its iterations ended "
                f"below tolerance={config.tolerance:g}; raise tolerance, or set precision=float64"
            )
        return solution, iterations

    def _unfinished(self, squares: Tensor, goal: Tensor, config: RegressionConfig) -> str:
        going = squares > goal
        return (
            f"{int(going.sum())} of {len(going)} columns are not within tolerance={config.tolerance:g} after "
            f"max_iterations={config.max_iterations}: {self._worst(squares, goal, config)}; raise "
            "max_iterations, tolerance or reg_weight"
        )

    def _worst(self, squares: Tensor, goal: Tensor, config: RegressionConfig) -> str:
        excess = torch.where(goal > 0, squares / goal, 0)
        worst = int(excess.argmax())
        residual = config.tolerance * float(excess[worst]) ** 0.5
        return f"the column of item {int(self.own[worst])} has a relative residual of {residual:.1e}"
