"""Exact search for the largest inner products, in blocks; a query's result does not depend on the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Union

import torch
from torch import Tensor

from graphrec.core.topk import topk

if TYPE_CHECKING:
    from scipy.sparse import csc_matrix, csr_matrix

Rows = Union[Tensor, "csr_matrix"]
Keys = Union[Tensor, "csc_matrix"]

TILE = 16
"""Queries per product. The last product is padded, as one of another shape may be rounded differently."""
SCORES = 2**22  # scores in memory at once: 16 MiB


def retrieve(
    queries: Rows, keys: Keys, k: int, mask: Callable[[int, Tensor], None] = lambda *_: None
) -> tuple[Tensor, Tensor]:
    """Finds the ``k`` keys with the largest inner product for each query; equal ones by the lowest row.

    Args:
        queries: ``(B, d)``, sparse by rows if the keys are sparse.
        keys: ``(n, d)``, dense or sparse by columns.
        k: at most ``n``.
        mask: called with the first query of a block and the block's scores ``(b, n)``, which it may change.

    Returns:
        values ``(B, k)`` descending and rows of ``keys`` ``(B, k) int64``.
    """
    n_queries = queries.shape[0]
    n = keys.shape[0]
    values = torch.empty(n_queries, k)
    rows = torch.empty(n_queries, k, dtype=torch.int64)
    block = max(1, min(1024, SCORES // max(1, n), n_queries) // TILE) * TILE
    # One buffer for all blocks: fresh memory costs more than the products that fill it.
    buffer = torch.empty(block, n)
    for start in range(0, n_queries, block) if k else ():
        part = queries[start : start + block]
        scores = _scores(part, keys, buffer)
        mask(start, scores)
        values[start : start + block], rows[start : start + block] = topk(scores, k)
    return values, rows


def _scores(queries: Rows, keys: Keys, buffer: Tensor) -> Tensor:
    """Inner products ``(b, n)``, written into ``buffer``."""
    if not isinstance(queries, Tensor):
        scores = buffer[: queries.shape[0]]
        (queries @ keys.T).toarray(out=scores.numpy())  # keys by columns are their transpose by rows
        return scores
    padded = torch.nn.functional.pad(queries, (0, 0, 0, -len(queries) % TILE))
    for start in range(0, len(padded), TILE):
        torch.mm(padded[start : start + TILE], keys.T, out=buffer[start : start + TILE])
    return buffer[: len(queries)]
