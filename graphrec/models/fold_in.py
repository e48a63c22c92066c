"""Vectors of users who are known only by a list of items, for models that learn an embedding of each user.

A list is folded in by a rule that a model states (:meth:`graphrec.models.base.Ranker.fold_in`). After
propagation over a user-item graph a user's embedding is a weighted sum of item vectors plus a share of their
own ID embedding; :class:`MeanFoldIn` is that sum, exactly. Where the embedding follows from the items in no
closed form, :class:`LeastSquaresFoldIn` solves for the vector whose inner products are 1 with the items of
the list and 0 with the others, as in implicit matrix factorization (Hu et al., ICDM 2008,
https://doi.org/10.1109/ICDM.2008.22).

Where the items of a list have weights, they are the weights of the user's edges in the first rule and
multiply the confidence in the second; weights of 1 change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from graphrec.core.errors import TrainingError
from graphrec.data.query import Histories

BLOCK = 2**20  # numbers in a block of gathered vectors: 4 MiB, and systems take no more


class MeanFoldIn(NamedTuple):
    """``u = (sum_i w_i)^-1/2 sum_i w_i q_i + b`` over the items of a list and their weights, by default 1.

    Attributes:
        table: ``q (n_items, d) float32``.
        bias: ``b (d,) float32``.
    """

    table: Tensor
    bias: Tensor


class LeastSquaresFoldIn(NamedTuple):
    """The vector ``u`` that minimizes, for the items ``S`` of a list, weights ``w_i``, by default 1, and
    ``m = alpha sum_{i in S} w_i + a n_items``,
    ``sum_{i in S} (alpha w_i + a)(1 - u.v_i)^2 + a sum_{i not in S} (u.v_i)^2 + reg m^e |u|^2``.

    Attributes:
        alpha: confidence in an item of the list, beyond that in others.
        unobserved_weight: ``a``.
        reg_weight: ``reg``.
        reg_exponent: ``e``.
    """

    alpha: float = 1.0
    unobserved_weight: float = 0.01
    reg_weight: float = 1.0
    reg_exponent: float = 0.0


FoldIn = MeanFoldIn | LeastSquaresFoldIn
"""How a list of items becomes the vector of a user."""


class Folding:
    """A rule and the items it is about; what all histories share is computed with the first of them.

    Args:
        rule: of the model.
        items: item embeddings ``V (n_items, d)``; only least squares reads them.
    """

    def __init__(self, rule: FoldIn, items: Tensor) -> None:
        self.rule = rule
        self.items = items

    @cached_property
    def gram(self) -> Tensor:
        """``V^T V (d, d)``: one pass over all items."""
        return self.items.T @ self.items

    def __call__(self, histories: Histories) -> Tensor:
        """Vectors ``(B, d)`` of users with ``B`` histories, none empty.

        Repeated items count once; where there are weights, those of a repeated item add up.
        """
        distinct = histories.distinct()
        if isinstance(self.rule, LeastSquaresFoldIn):
            return least_squares(self.items, distinct, self.rule, self.gram)
        table, bias = self.rule
        item, offsets = torch.from_numpy(distinct.items), torch.from_numpy(distinct.indptr)
        weights = None if distinct.weights is None else _float32(distinct.weights)
        total = embedding_bag(
            item, table, offsets, mode="sum", include_last_offset=True, per_sample_weights=weights
        )
        return total / _float32(np.sqrt(distinct.weight_sums))[:, None] + bias


def fold_in(rule: FoldIn, histories: Histories, items: Tensor) -> Tensor:
    """Vectors ``(B, d)`` by :class:`Folding`, for histories that come once."""
    return Folding(rule, items)(histories)


def least_squares(
    others: Tensor, histories: Histories, rule: LeastSquaresFoldIn, gram: Tensor | None = None
) -> Tensor:
    """Vectors by :class:`LeastSquaresFoldIn`.

    Args:
        others: vectors of the other side ``(n, d) float32``.
        histories: what each of ``B`` has of it, each at most once, with weights or without.
        rule: weights and penalty.
        gram: ``others.T @ others (d, d)``, if it is known.

    Returns:
        ``(B, d)``; each row depends on its own history alone.

    Raises:
        TrainingError: a system is not positive definite in float32.
    """
    n, dim = others.shape
    gram = others.T @ others if gram is None else gram
    # In the basis of its eigenvectors the part that all systems share is diagonal.
    eigenvalues, basis = torch.linalg.eigh(rule.unobserved_weight * gram)
    total = rule.alpha * histories.weight_sums + rule.unobserved_weight * n  # weight of all cells (B,)
    penalty = torch.from_numpy(rule.reg_weight * total**rule.reg_exponent).to(others)
    result = others.new_zeros(len(histories), dim)
    for rows in _blocks(histories.lengths, dim):
        at = torch.from_numpy(rows)
        part = histories.take(rows)
        index = torch.from_numpy(part.padded())  # (b, length), filled up with -1
        vectors = (others[index.clamp(min=0)] @ basis).masked_fill_((index < 0)[..., None], 0)
        targets = vectors.new_ones(vectors.shape[:2])
        if part.weights is not None:
            # With sqrt(w) v as vectors and these targets, the equations are those without weights.
            root = torch.zeros_like(targets).masked_scatter_(index >= 0, _float32(np.sqrt(part.weights)))
            vectors *= root[..., None]
            observed = rule.alpha + rule.unobserved_weight
            scale = (rule.alpha * part.weights + rule.unobserved_weight) / (observed * np.sqrt(part.weights))
            targets.masked_scatter_(index >= 0, _float32(scale))
        diagonal = eigenvalues.clamp(min=0) + penalty[at, None]  # (b, d)
        if vectors.shape[1] < dim:  # one equation for each item of the history
            scaled = vectors / diagonal[:, None]
            identity = torch.eye(vectors.shape[1])[None].to(vectors)
            system = torch.baddbmm(identity, scaled, vectors.mT, alpha=rule.alpha)
            solved = _solve(system, targets, rule)
            result[at] = (scaled * solved[..., None]).sum(1)
        else:
            system = torch.baddbmm(torch.diag_embed(diagonal), vectors.mT, vectors, alpha=rule.alpha)
            wanted = vectors if part.weights is None else vectors * targets[..., None]
            result[at] = _solve(system, wanted.sum(1), rule)
    result *= rule.alpha + rule.unobserved_weight
    in_first_basis: Tensor = result @ basis.T
    return in_first_basis


def _float32(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def _solve(systems: Tensor, targets: Tensor, rule: LeastSquaresFoldIn) -> Tensor:
    """Solutions ``(b, n)`` of symmetric systems ``(b, n, n)`` with targets ``(b, n)``."""
    factors, failed = torch.linalg.cholesky_ex(systems)
    if failed.any():
        raise TrainingError(
            f"{int((failed > 0).sum())} of {len(systems)} least squares systems of {systems.shape[1]} "
            f"equations are not positive definite in float32 with reg_weight={rule.reg_weight:g}; raise "
            "reg_weight, or lower dim"
        )
    return torch.cholesky_solve(targets[..., None], factors)[..., 0]


def _blocks(lengths: np.ndarray, dim: int) -> Iterator[np.ndarray]:
    """Rows that have a history, in blocks of similar lengths, so that little is filled up."""
    order = np.argsort(lengths, kind="stable")
    order = order[np.searchsorted(lengths[order], 1) :]
    while len(order):
        # The longest comes last: take as many of the longest as fit.
        count = max(1, BLOCK // (dim * int(lengths[order[-1]])))
        yield order[-count:]
        order = order[:-count]
