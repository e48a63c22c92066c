"""Exact search for the largest inner products, in blocks, with the same answer for one query as for many."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from graphrec.topk import topk

TILE = 16
"""Queries per product; the last is filled up, as a product of another shape may be rounded otherwise."""
SCORES = 2**22  # scores held at once: 16 MiB


def retrieve(
    queries: Tensor, keys: Tensor, k: int, mask: Callable[[int, Tensor], None]
) -> tuple[Tensor, Tensor]:
    """The ``k`` keys with the largest inner product of each query; among equals those that come first.

    Args:
        queries: ``(B, d)``.
        keys: ``(n, d)``.
        k: at most ``n``.
        mask: called with the first query of a block and the block's scores ``(b, n)``, which it may change.

    Returns:
        values ``(B, k)`` descending and keys ``(B, k) int64``.
    """
    values, rows = torch.empty(len(queries), k), torch.empty(len(queries), k, dtype=torch.int64)
    block = max(1, min(1024, SCORES // max(1, len(keys)), len(queries)) // TILE) * TILE
    # One buffer for all blocks: fresh memory costs more than the products that fill it.
    held = torch.empty(block, len(keys))
    for start in range(0, len(queries), block) if k else ():
        part = queries[start : start + block]
        filled = torch.nn.functional.pad(part, (0, 0, 0, -len(part) % TILE))
        scores = held[: len(filled)]
        for at in range(0, len(filled), TILE):
            torch.mm(filled[at : at + TILE], keys.T, out=scores[at : at + TILE])
        scores = scores[: len(part)]
        mask(start, scores)
        values[start : start + block], rows[start : start + block] = topk(scores, k)
    return values, rows
