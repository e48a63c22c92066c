"""Vectors of users who are known only by a list of items, for models that learn an embedding of each user.

A list is folded in by a rule that a model states (:meth:`graphrec.models.base.Ranker.fold_in`). After
propagation over a user-item graph a user's embedding is a weighted sum of item vectors plus a share of their
own ID embedding; :class:`MeanFoldIn` is that sum, exactly. Where the embedding follows from the items in no
closed form, :class:`LeastSquaresFoldIn` solves for the vector whose inner products are 1 with the items of
the list and 0 with the others, as in implicit matrix factorization (Hu et al., ICDM 2008,
https://doi.org/10.1109/ICDM.2008.22).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from graphrec.data.query import Histories

GATHERED = 4096  # items of histories whose outer products are in memory at once


class MeanFoldIn(NamedTuple):
    """``u = n^-1/2 sum_i q_i + b`` over the ``n`` items of a list.

    Attributes:
        table: ``q (n_items, d) float32``.
        bias: ``b (d,) float32``.
    """

    table: Tensor
    bias: Tensor


class LeastSquaresFoldIn(NamedTuple):
    """``(a V^T V + V_S^T V_S + reg I) u = (1 + a) V_S^T 1`` for the items ``S`` of a list.

    Attributes:
        unobserved: ``a``, the weight of the items that are not in the list.
        reg_weight: ``reg``.
    """

    unobserved: float = 0.01
    reg_weight: float = 1.0


FoldIn = MeanFoldIn | LeastSquaresFoldIn
"""How a list of items becomes the vector of a user."""


def fold_in(rule: FoldIn, histories: Histories, items: Tensor, gram: Tensor | None = None) -> Tensor:
    """Vectors ``(B, d)`` of users with these histories; repeated items count once.

    Args:
        rule: of the model.
        histories: ``B`` lists, none of them empty.
        items: item embeddings ``V (n_items, d)``; only least squares reads them.
        gram: ``V^T V (d, d)``, if it is known.
    """
    keys = np.unique(histories.row_indices * len(items) + histories.items)
    row = torch.from_numpy(keys // len(items))
    item = torch.from_numpy(keys % len(items))
    counts = torch.bincount(row, minlength=len(histories))  # (B,)
    if isinstance(rule, MeanFoldIn):
        offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        total = embedding_bag(item, rule.table, offsets, mode="sum", include_last_offset=True)
        return total / counts.sqrt()[:, None] + rule.bias
    dim = items.shape[1]
    normal = rule.unobserved * (items.T @ items if gram is None else gram)
    normal = normal + rule.reg_weight * torch.eye(dim)
    vectors = torch.empty(len(histories), dim)
    for first, last in _blocks(counts):
        inside = (row >= first) & (row < last)
        taken = items[item[inside]].float()  # (m, d)
        local = row[inside] - first
        left = normal.repeat(last - first, 1, 1)
        left.index_add_(0, local, taken[:, :, None] * taken[:, None, :])
        right = torch.zeros(last - first, dim).index_add_(0, local, taken)
        vectors[first:last] = torch.linalg.solve(left, (1 + rule.unobserved) * right)
    return vectors


def _blocks(counts: Tensor) -> Iterator[tuple[int, int]]:
    """Ranges of histories with at most :data:`GATHERED` items in all, or of one history."""
    first = 0
    items = 0
    for n, count in enumerate(counts.tolist()):
        if n > first and items + count > GATHERED:
            yield first, n
            first = n
            items = 0
        items += count
    if first < len(counts):
        yield first, len(counts)
