"""Top-k of each row with exact, deterministic ties."""

from __future__ import annotations

from torch import Tensor


def topk(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` largest values of each row, descending; among equal values the lowest column comes first.

    ``torch.topk`` leaves open which of several equal values it returns. Rows in which the k-th value occurs
    again outside the list are found by counting and resolved exactly; all others cost one ``torch.topk``.

    Args:
        scores: ``(B, N)``, without NaN.
        k: at most ``N``.

    Returns:
        values ``(B, k)`` and columns ``(B, k) int64``.
    """
    values, columns = scores.topk(k, dim=1, sorted=False)
    least = values.amin(dim=1, keepdim=True)  # (B, 1)
    tied = (scores == least).sum(dim=1) > (values == least).sum(dim=1)
    if bool(tied.any()):
        rows, bound = scores[tied], least[tied]
        above, equal = rows > bound, rows == bound
        room = k - above.sum(dim=1, keepdim=True)
        chosen = above | (equal & (equal.cumsum(dim=1) <= room))  # exactly k a row, in column order
        columns[tied] = chosen.nonzero()[:, 1].view(-1, k)
    columns = columns.sort(dim=1).values
    values, order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, order)
