"""Exact search for the largest inner products, in blocks, with the same answer for one query as for many."""

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
"""Queries per product; the last is filled up, as a product of another shape may be rounded otherwise."""
SCORES = 2**22  # scores held at once: 16 MiB


def retrieve(queries: Rows, keys: Keys, k: int, mask: Callable[[int, Tensor], None]) -> tuple[Tensor, Tensor]:
    """The ``k`` keys with the largest inner product of each query; among equals those that come first.

    Args:
        queries: ``(B, d)``, sparse by rows if the keys are sparse.
        keys: ``(n, d)``, dense or sparse by columns.
        k: at most ``n``.
        mask: called with the first query of a block and the block's scores ``(b, n)``, which it may change.

    Returns:
        values ``(B, k)`` descending and keys ``(B, k) int64``.
    """
    n_queries, n = queries.shape[0], keys.shape[0]
    values, rows = torch.empty(n_queries, k), torch.empty(n_queries, k, dtype=torch.int64)
    block = max(1, min(1024, SCORES // max(1, n), n_queries) // TILE) * TILE
    # One buffer for all blocks: fresh memory costs more than the products that fill it.
    held = torch.empty(block, n)
    for start in range(0, n_queries, block) if k else ():
        part = queries[start : start + block]
        scores = _scores(part, keys, held)
        mask(start, scores)
        values[start : start + block], rows[start : start + block] = topk(scores, k)
    return values, rows


def _scores(queries: Rows, keys: Keys, held: Tensor) -> Tensor:
    """Inner products ``(b, n)``, in memory held for them."""
    if not isinstance(queries, Tensor):
        scores = held[: queries.shape[0]]
        (queries @ keys.T).toarray(out=scores.numpy())  # keys by columns are their transpose by rows
        return scores
    filled = torch.nn.functional.pad(queries, (0, 0, 0, -len(queries) % TILE))
    for at in range(0, len(filled), TILE):
        torch.mm(filled[at : at + TILE], keys.T, out=held[at : at + TILE])
    return held[: len(queries)]
