"""Exact top-k with deterministic ties: the lowest index first among equal values.

:func:`topk` takes one block of scores. :func:`update_topk` takes one block after another of scores that are
never held all at once, and :func:`merge_topk` joins two results. :func:`top_indices` is the same for one
NumPy row.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

_GROUPS = 512
"""Groups of columns whose maxima :func:`update_topk` compares with the worst value found so far."""


def topk(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` largest values of each row, descending; among equal values the lowest column comes first.

    ``torch.topk`` does not say which of several equal values it returns. This function looks for one value
    more than ``k``, which shows whether the last place is contested, and resolves only such rows by a pass
    over the whole row.

    Args:
        scores: ``(B, N)``. NaN sorts above everything; several -inf come in any order.
        k: from 1 to ``N``.

    Returns:
        values ``(B, k)`` and columns ``(B, k) int64``.
    """
    n = scores.shape[1]
    values, columns = _largest(scores, min(k + 1, n))
    contested = (values[:, 1:] == values[:, :-1]) & (values[:, 1:] > -math.inf) & ~values[:, :1].isnan()
    tied = contested.any(1).nonzero().squeeze(1)
    columns = columns[:, :k].contiguous()
    values = values[:, :k].contiguous()
    if len(tied):
        chosen = columns[tied].sort(1).values
        if n > k:
            across = contested[tied, k - 1].nonzero().squeeze(1)
            if len(across):
                chosen[across] = _lowest_columns(scores[tied[across]], values[tied[across], -1:], k)
        ranked = scores[tied.unsqueeze(1), chosen].sort(dim=1, descending=True, stable=True)
        columns[tied] = chosen.gather(1, ranked.indices)
        values[tied] = ranked.values
    return values, columns


def merge_topk(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` best of two results; among equal values those of ``first`` come first, each in its order.

    Args:
        first: values ``(B, p)`` and their ids ``(B, p) int64``.
        second: values ``(B, q)`` and their ids.
        k: fewer values give fewer columns.

    Returns:
        values ``(B, min(k, p + q))`` descending and their ids.
    """
    import torch

    values, ids = (torch.cat(pair, 1) for pair in zip(first, second, strict=True))
    if not values.shape[1]:
        return values, ids
    values, columns = topk(values, min(k, values.shape[1]))
    return values, ids.gather(1, columns)


def update_topk(values: Tensor, ids: Tensor, scores: Tensor, start: int, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` best of those found so far and of the next block of columns; ties by the lowest column.

    Columns of later blocks are higher, so only a value above the worst of ``k`` found so far can enter.
    Nearly all of a block is therefore read once, for the maxima of its groups of columns ``j, j + 512, ...``;
    only groups with a larger maximum take part.

    Args:
        values: found so far ``(B, at most k)``, descending.
        ids: their columns ``(B, at most k) int64``.
        scores: the next block ``(B, n)``.
        start: index of the block's first column.
        k: how many to keep.

    Returns:
        values ``(B, at most k)`` descending and their columns.
    """
    import torch

    n = scores.shape[1]
    if values.shape[1] < k:
        block = torch.arange(start, start + n, device=ids.device).expand(len(ids), n)
        return merge_topk((values, ids), (scores, block), k)
    groups = min(_GROUPS, n)
    depth, remainder = divmod(n, groups)
    grouped = scores[:, : n - remainder].unflatten(1, (depth, groups))
    above = grouped.amax(1) > values[:, -1:]  # (B, groups)
    row, group = above.nonzero().unbind(1)
    counts = above.sum(1)
    most = max(1, int(counts.max()))
    if not len(row) and not remainder:
        return values, ids
    # The groups of each row are placed side by side, ascending. With depth before group, the candidates are
    # in the order of their columns, as ties need.
    slot = torch.arange(len(row), device=ids.device) - (counts.cumsum(0) - counts)[row]
    chosen = ids.new_zeros(len(values), most).index_put_((row, slot), group)
    candidates = grouped.gather(2, chosen.unsqueeze(1).expand(-1, depth, -1))  # (B, depth, most)
    unused = torch.arange(most, device=ids.device) >= counts.unsqueeze(1)
    candidates = candidates.masked_fill_(unused.unsqueeze(1), -math.inf).flatten(1)
    best, place = topk(torch.cat([values, candidates, scores[:, n - remainder :]], 1), k)
    local = place - k
    column = local.div(most, rounding_mode="floor") * groups + chosen.gather(1, local % most)
    column = torch.where(local < depth * most, column, local - depth * most + n - remainder)
    return best, torch.where(local < 0, ids.gather(1, place.clamp(max=k - 1)), column + start)


def top_indices(scores: np.ndarray, k: int) -> np.ndarray:
    """Indices of the ``k`` largest values of one row ``(n,)``, descending; equal values by the lowest index.

    Returns:
        ``(min(k, n),) int64``.
    """
    candidates = np.arange(len(scores))
    if len(scores) > k:
        threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
        candidates = np.flatnonzero(scores >= threshold)
    best: np.ndarray = candidates[np.argsort(-scores[candidates], kind="stable")][:k]
    return best


def _largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` largest values of each row, sorted, and their columns; equal values in any order.

    Column ``j`` belongs to block ``j % n_blocks``. The ``k`` largest values are in the ``k`` blocks with the
    largest maxima, so most of a row is read only once, by a reduction vectorized across blocks.
    """
    import torch

    n = scores.shape[1]
    if n < 16 * k:
        largest = scores.topk(k, dim=1)
        return largest.values, largest.indices
    n_blocks = int((n * k) ** 0.5)
    depth, remainder = divmod(n, n_blocks)
    best = scores[:, : depth * n_blocks].unflatten(1, (depth, n_blocks)).amax(1)
    if remainder:
        best[:, :remainder] = torch.maximum(best[:, :remainder], scores[:, depth * n_blocks :])
    blocks = best.topk(k, dim=1, sorted=False).indices
    offsets = torch.arange(depth + (remainder > 0), device=scores.device) * n_blocks
    columns = (blocks.unsqueeze(2) + offsets).flatten(1)
    inside = scores.gather(1, columns.clamp(max=n - 1)).masked_fill_(columns >= n, -math.inf)
    largest = inside.topk(k, dim=1)
    values = largest.values
    columns = columns.gather(1, largest.indices)
    short = (columns >= n).any(1).nonzero().squeeze(1)
    if len(short):  # fewer than k values are above -inf there, so columns beyond the row came in
        values[short], columns[short] = scores[short].topk(k, dim=1)
    return values, columns


def _lowest_columns(scores: Tensor, threshold: Tensor, k: int) -> Tensor:
    """The ``k`` best columns per row ``(B, k)``, ascending, where several share ``threshold (B, 1)``."""
    import torch

    above = scores > threshold
    equal = scores == threshold
    need = k - above.sum(1, keepdim=True)
    equal &= torch.cumsum(equal, 1, dtype=torch.int32) <= need
    return (above | equal).nonzero()[:, 1].view(-1, k)
