"""Top-k of each row, fast and with exact, deterministic ties."""

from __future__ import annotations

import torch
from torch import Tensor


def topk(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` largest values of each row, descending; among equal values the lowest column comes first.

    ``torch.topk`` leaves open which of several equal values it returns. One value more than asked for
    shows whether the last place is contested; only such rows are resolved by a pass over the whole row.

    Args:
        scores: ``(B, N)``. NaN sorts above everything; several -inf come in any order.
        k: from 1 to ``N``.

    Returns:
        values ``(B, k)`` and columns ``(B, k) int64``.
    """
    n = scores.shape[1]
    values, columns = _largest(scores, min(k + 1, n))
    contested = (values[:, 1:] == values[:, :-1]) & (values[:, 1:] > -torch.inf) & ~values[:, :1].isnan()
    tied = contested.any(1).nonzero().squeeze(1)
    columns, values = columns[:, :k].contiguous(), values[:, :k].contiguous()
    if len(tied):
        chosen = columns[tied].sort(1).values
        if n > k:
            across = contested[tied, k - 1].nonzero().squeeze(1)
            if len(across):
                chosen[across] = _lowest_columns(scores[tied[across]], values[tied[across], -1:], k)
        ranked = scores[tied.unsqueeze(1), chosen].sort(dim=1, descending=True, stable=True)
        columns[tied], values[tied] = chosen.gather(1, ranked.indices), ranked.values
    return values, columns


def _largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` largest values per row, sorted, and where they stand; equal values in any order.

    Column ``j`` belongs to block ``j % n_blocks``. The ``k`` largest values lie in the ``k`` blocks with the
    largest maxima, so most of a row is read only once, by a reduction vectorized across blocks.
    """
    n = scores.shape[1]
    if n < 16 * k:
        found = scores.topk(k, dim=1)
        return found.values, found.indices
    n_blocks = int((n * k) ** 0.5)
    depth, rest = divmod(n, n_blocks)
    best = scores[:, : depth * n_blocks].unflatten(1, (depth, n_blocks)).amax(1)
    if rest:
        best[:, :rest] = torch.maximum(best[:, :rest], scores[:, depth * n_blocks :])
    blocks = best.topk(k, dim=1, sorted=False).indices
    offsets = torch.arange(depth + (rest > 0), device=scores.device) * n_blocks
    columns = (blocks.unsqueeze(2) + offsets).flatten(1)
    inside = scores.gather(1, columns.clamp(max=n - 1)).masked_fill_(columns >= n, -torch.inf)
    found = inside.topk(k, dim=1)
    values, columns = found.values, columns.gather(1, found.indices)
    short = (columns >= n).any(1).nonzero().squeeze(1)
    if len(short):  # fewer than k values above -inf there, and places beyond the row came in
        values[short], columns[short] = scores[short].topk(k, dim=1)
    return values, columns


def _lowest_columns(scores: Tensor, least: Tensor, k: int) -> Tensor:
    """The ``k`` best columns a row ``(B, k)``, ascending, where several share the value ``least (B, 1)``."""
    above, equal = scores > least, scores == least
    need = k - above.sum(1, keepdim=True)
    equal &= torch.cumsum(equal, 1, dtype=torch.int32) <= need
    return (above | equal).nonzero()[:, 1].view(-1, k)
