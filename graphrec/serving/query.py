"""The best items for query vectors, by exact search over all items or approximate search in inverted lists.

An approximate search ranks the lists by the inner product of the query with their centroids, which is the
mean score of their items, and scans the first of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from graphrec.core.bundle import Committed
from graphrec.core.errors import CheckpointError
from graphrec.core.topk import merge_topk
from graphrec.graphs.ivf import import_faiss
from graphrec.serving.exact import Keys, Rows, retrieve

NO_ITEMS = np.empty(0, dtype=np.int64)
WIDEST = 2**14  # most items requested of an index for one query
BLOCK = 1024  # queries searched at once
HiddenPairs = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Takes positions of queries ``(b,)``; returns the pairs to leave out of their results: positions in that
argument, ascending, and item indices, ascending for each position."""
TopK = tuple[np.ndarray, np.ndarray]
"""Scores ``(B, k) float32``, descending, and item indices ``(B, k) int64``; unused places at the end have the
score ``-inf`` and the item -1."""


class Limits(NamedTuple):
    """How many items a result has, and which it may hold.

    Attributes:
        k: number of items per query.
        only: indices of the items allowed in results, ascending; None: all.
        exclude: indices of the items left out of all results, ascending.
    """

    k: int
    only: np.ndarray | None = None
    exclude: np.ndarray = NO_ITEMS


def nothing_hidden(_: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The :data:`HiddenPairs` of queries that hide no items."""
    return NO_ITEMS, NO_ITEMS


class SearchRequest(NamedTuple):
    """Query vectors ``(B, d)`` and what limits their results."""

    queries: Rows
    limits: Limits
    hidden_pairs: HiddenPairs = nothing_hidden


class Facts(NamedTuple):
    """Size and measured recall of inverted lists.

    Attributes:
        items: number of items.
        lists: number of lists that the items are divided among.
        probes: number of lists that a search scans at first.
        wanted: recall that ``probes`` was chosen for.
        recall: recall of queries that were not used for choosing.
        k: number of items per query that recall is measured at.
        queries: number of queries that recall was measured on.
        scanned: mean share of the items that such a query is compared with.
    """

    items: int
    lists: int
    probes: int
    wanted: float
    recall: float
    k: int
    queries: int
    scanned: float


class Lists:
    """Inverted lists opened for searching; safe to search from several threads.

    Args:
        saved: directory of the index.
        part: name of the lists in it.

    Attributes:
        facts: size and measured recall.

    Raises:
        CheckpointError: a file is missing or damaged.
        MissingDependencyError: faiss is not installed (extra ``ann``).
    """

    def __init__(self, saved: Committed, part: str) -> None:
        faiss = import_faiss()
        self.facts = Facts(**saved.head["parts"][part])
        index_file, lists_file = saved.file(f"{part}_index"), saved.file(f"{part}_lists")
        # The index file names its lists' file without a folder. By default FAISS looks for it in the current
        # folder; with IO_FLAG_ONDISK_SAME_DIR it finds the file, and prints that it did.
        flags = faiss.IO_FLAG_SKIP_IVF_DATA | faiss.IO_FLAG_READ_ONLY
        self._index = faiss.read_index(str(index_file), flags)
        stored = faiss.downcast_InvertedLists(self._index.invlists)
        if stored.totsize != lists_file.stat().st_size:  # FAISS would read beyond a file that is too short
            raise CheckpointError(
                f"{lists_file}: has {lists_file.stat().st_size:,} bytes; {index_file.name} expects "
                f"{stored.totsize:,}; {saved.remedy}"
            )
        stored.filename = str(lists_file)
        stored.do_mmap()
        self._index.parallel_mode = 3  # over queries
        quantizer = faiss.downcast_index(self._index.quantizer)
        self._centroids = torch.from_numpy(quantizer.reconstruct_n(0, self.facts.lists))  # (lists, d)
        self._lock = threading.Lock()

    def search(self, queries: Tensor, width: int, probes: int) -> tuple[np.ndarray, np.ndarray]:
        """The items with the largest inner products in the first ``probes`` lists of each query.

        Args:
            queries: ``(B, d) float32``.
            width: number of items.
            probes: number of lists.

        Returns:
            scores ``(B, width) float32`` descending and item indices ``(B, width) int64``, among equal scores
            ascending; where the lists hold fewer, ``-inf`` and -1. Which of several items with the last score
            are found is left open.
        """
        probes = min(probes, self.facts.lists)
        near, lists = (t.numpy() for t in retrieve(queries, self._centroids, probes))
        with self._lock:  # the number of probes is an attribute of the index
            self._index.nprobe = probes
            scores, items = self._index.search_preassigned(queries.numpy(), width, lists, near)
        scores[items < 0] = -np.inf
        order = np.lexsort((items, -scores), axis=1)
        return np.take_along_axis(scores, order, 1), np.take_along_axis(items, order, 1)


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
    k = request.limits.k
    scores, items = best or empty_topk(request.queries.shape[0], k)
    merged = torch.from_numpy(scores), torch.from_numpy(items)
    for start, keys in blocks:
        merged = merge_topk(merged, _search_block(request, start, keys), k)
    return merged[0].numpy(), merged[1].numpy()


def _search_block(request: SearchRequest, start: int, keys: Keys) -> tuple[Tensor, Tensor]:
    """The best of consecutive items with the vectors ``keys``, the first of which has the index ``start``."""
    k, only, exclude = request.limits
    n = keys.shape[0]
    candidates = None
    excluded = exclude - start
    excluded = excluded[(excluded >= 0) & (excluded < n)]
    if only is not None:
        allowed = np.setdiff1d(only, exclude, assume_unique=True) - start
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

    scores, columns = retrieve(request.queries, keys, min(k, n), mask)
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
    queries = request.queries
    k, _, exclude = request.limits
    scores, items = empty_topk(len(queries), k)
    unanswered: list[np.ndarray] = []
    facts = lists.facts
    blocks = np.array_split(np.arange(len(queries)), range(BLOCK, len(queries), BLOCK))
    work: list[tuple[np.ndarray, int, int]] = []  # queries, number of items to request, number of lists
    for block in blocks:
        n_hidden = np.bincount(request.hidden_pairs(block)[0], minlength=1).max() + len(exclude)
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
    hidden = np.isin(items, request.limits.exclude)
    row, item = request.hidden_pairs(rows)
    if len(row):
        base = int(max(item.max(), items.max())) + 2  # keeps the -1 of "no item" apart from every pair
        hidden_keys = row.astype(np.int64) * base + item  # ascending
        keys = np.arange(len(rows))[:, None] * base + items
        place = np.minimum(np.searchsorted(hidden_keys, keys), len(hidden_keys) - 1)
        hidden |= hidden_keys[place] == keys
    return hidden
