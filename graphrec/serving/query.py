"""The best items for query vectors, by exact search over all items or approximate search in an index."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from graphrec.core.topk import merge_topk
from graphrec.serving.exact import Keys, Rows, retrieve
from graphrec.serving.ivf import Lists

WIDEST = 2**14  # most items requested of an index for one query
BLOCK = 1024  # queries searched at once
HiddenPairs = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Takes positions of queries ``(b,)``; returns the pairs to leave out of their results: positions in that
argument, ascending, and item indices, ascending for each position."""
TopK = tuple[np.ndarray, np.ndarray]
"""Scores ``(B, k) float32``, descending, and item indices ``(B, k) int64``; unused places at the end have the
score ``-inf`` and the item -1."""


class SearchRequest(NamedTuple):
    """Query vectors and the items that they may be answered with.

    Attributes:
        queries: query vectors ``(B, d)``.
        k: number of items per query.
        hidden_pairs: see :data:`HiddenPairs`.
        only: indices of the items allowed in results, ascending; None: all.
        exclude: indices of the items left out of all results, ascending.
    """

    queries: Rows
    k: int
    hidden_pairs: HiddenPairs
    only: np.ndarray | None
    exclude: np.ndarray


def empty_topk(n_queries: int, k: int) -> TopK:
    """Results without any item."""
    return np.full((n_queries, k), -np.inf, dtype=np.float32), np.full((n_queries, k), -1, dtype=np.int64)


def search_exact(
    request: SearchRequest, blocks: Iterable[tuple[int, Keys]], best: TopK | None = None
) -> TopK:
    """Compares every query with every item.

    Args:
        request: what to search for.
        blocks: index of the first item and item vectors ``(n, d)`` of blocks of consecutive items, in order.
        best: results from items that come before these.

    Returns:
        The best items; among equal scores the item with the lowest index comes first.
    """
    scores, items = best or empty_topk(request.queries.shape[0], request.k)
    merged = torch.from_numpy(scores), torch.from_numpy(items)
    for start, keys in blocks:
        merged = merge_topk(merged, _search_block(request, start, keys), request.k)
    return merged[0].numpy(), merged[1].numpy()


def _search_block(request: SearchRequest, start: int, keys: Keys) -> tuple[Tensor, Tensor]:
    """The best of consecutive items with the vectors ``keys``, the first of which has the index ``start``."""
    n = keys.shape[0]
    candidates = None
    excluded = request.exclude - start
    excluded = excluded[(excluded >= 0) & (excluded < n)]
    if request.only is not None:
        allowed = np.setdiff1d(request.only, request.exclude, assume_unique=True) - start
        candidates = allowed[(allowed >= 0) & (allowed < n)]
        excluded = excluded[:0]
        keys = keys[candidates]
        n = len(candidates)

    def mask(first: int, scores: Tensor) -> None:
        row, item = request.hidden_pairs(np.arange(first, first + len(scores)))
        column = item - start
        if candidates is None:
            in_block = (column >= 0) & (column < n)
        else:
            item = column
            column = np.searchsorted(candidates, item)
            in_block = (column < n) & (candidates[np.minimum(column, n - 1)] == item)
        scores[row[in_block], column[in_block]] = -torch.inf
        scores[:, excluded] = -torch.inf

    scores, columns = retrieve(request.queries, keys, min(request.k, n), mask)
    items = columns.numpy() if candidates is None else candidates[columns.numpy()]
    return scores, torch.from_numpy(items + start).masked_fill_(scores == -torch.inf, -1)


def search_approximate(request: SearchRequest, lists: Lists) -> tuple[TopK, np.ndarray]:
    """Compares every query with the items in the lists nearest to it.

    A query is answered from its first ``probes`` lists or, where these hold fewer than ``k`` allowed items,
    from twice as many, and so on. The result for a query does not depend on the other queries.

    Args:
        request: what to search for; ``only`` must be None.
        lists: the index.

    Returns:
        The best items, and positions of the queries that need an exact search because more than
        :data:`WIDEST` items are requested, hidden or tied.
    """
    queries, k = request.queries, request.k
    scores, items = empty_topk(len(queries), k)
    unanswered: list[np.ndarray] = []
    facts = lists.facts
    blocks = np.array_split(np.arange(len(queries)), range(BLOCK, len(queries), BLOCK))
    work: list[tuple[np.ndarray, int, int]] = []  # queries, number of items to request, number of lists
    for block in blocks:
        n_hidden = np.bincount(request.hidden_pairs(block)[0], minlength=1).max() + len(request.exclude)
        # One more than wanted shows whether the last place is contested. Few hidden items rank so high.
        work.append((block, k + 1 + int(min(n_hidden, k + 30)), min(facts.probes, facts.lists)))
    while work:
        rows, width, probes = work.pop()
        width = min(width, facts.items)
        if not len(rows):
            continue
        if width > WIDEST:
            unanswered.append(rows)
            continue
        near_scores, near_items = lists.search(queries[rows], width, probes)
        hidden = _is_hidden(request, rows, near_items) | (near_items < 0)
        order = np.argsort(hidden, axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(np.where(hidden, np.float32(-np.inf), near_scores), order, 1)
        best_items = np.take_along_axis(near_items, order, 1)
        enough = (~hidden).sum(1) >= k
        exhausted = (near_items[:, -1] < 0) | (width == facts.items)  # the lists hold no more
        complete = exhausted | (enough & (best[:, -1] > near_scores[:, -1]))  # no equal score was cut off
        final = complete & (enough | (probes == facts.lists))
        scores[rows[final], : best.shape[1]] = best[final]
        items[rows[final], : best.shape[1]] = np.where(np.isneginf(best[final]), -1, best_items[final])
        work.append((rows[~complete], 4 * width, probes))
        work.append((rows[complete & ~final], width, min(2 * probes, facts.lists)))
    return (scores, items), np.sort(np.concatenate([*unanswered, np.empty(0, dtype=np.int64)]))


def _is_hidden(request: SearchRequest, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Whether each of the items ``(b, w)`` is excluded or hidden from the query of its row ``(b,)``."""
    hidden = np.isin(items, request.exclude) if len(request.exclude) else np.zeros(items.shape, dtype=bool)
    row, item = request.hidden_pairs(rows)
    if len(row):
        base = int(max(item.max(), items.max())) + 2  # keeps the -1 of "no item" apart from every pair
        hidden_keys = row.astype(np.int64) * base + item  # ascending
        keys = np.arange(len(rows))[:, None] * base + items
        place = np.minimum(np.searchsorted(hidden_keys, keys), len(hidden_keys) - 1)
        hidden |= hidden_keys[place] == keys
    return hidden
