"""The best items for queries, by comparing with all or with those in the nearest lists of an index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from graphrec.core.topk import merge_topk
from graphrec.serving.exact import Keys, Rows, retrieve
from graphrec.serving.ivf import Lists

WIDEST = 2**14  # answers asked of an index at most
BLOCK = 1024  # queries searched at once
Pairs = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""For some of the queries, by position, what they must not be answered with: positions among them, ascending,
and item indices, ascending for each."""
Found = tuple[np.ndarray, np.ndarray]
"""Scores ``(B, k) float32`` descending, then ``-inf``; items ``(B, k) int64``, then -1."""


class Question(NamedTuple):
    """What is asked of the items.

    Attributes:
        queries: ``(B, d)``.
        k: how many items each gets.
        hidden: see :data:`Pairs`.
        only: indices of the items to answer with, ascending; None: all.
        exclude: indices of items not to answer with, ascending.
    """

    queries: Rows
    k: int
    hidden: Pairs
    only: np.ndarray | None
    exclude: np.ndarray


def exactly(asked: Question, sides: Sequence[tuple[int, int, Keys]]) -> Found:
    """Compares every query with every item.

    Args:
        asked: the question.
        sides: index of the first item, number of items and their vectors ``(n, d)``, of consecutive items.

    Returns:
        Among equal scores the item with the lowest index comes first.
    """
    n_queries = asked.queries.shape[0]
    best = torch.empty(n_queries, 0), torch.empty(n_queries, 0, dtype=torch.int64)
    for start, n, keys in sides:
        best = merge_topk(best, _of_side(asked, start, n, keys), asked.k)
    return _filled(best[0].numpy(), best[1].numpy(), asked.k)


def _of_side(asked: Question, start: int, n: int, keys: Keys) -> tuple[Tensor, Tensor]:
    """The best of consecutive items."""
    candidates = None
    if asked.only is not None:
        some = np.setdiff1d(asked.only, asked.exclude, assume_unique=True) - start
        candidates = some[(some >= 0) & (some < n)]
        keys, n = keys[candidates], len(candidates)
    excluded = asked.exclude - start
    excluded = excluded[(excluded >= 0) & (excluded < n)] if candidates is None else excluded[:0]

    def mask(first: int, scores: Tensor) -> None:
        row, item = asked.hidden(np.arange(first, first + len(scores)))
        item = item - start
        if candidates is not None:
            at = np.searchsorted(candidates, item)
            here = (at < n) & (candidates[np.minimum(at, max(0, n - 1))] == item) if n else at < 0
            item = at
        else:
            here = (item >= 0) & (item < n)
        scores[row[here], item[here]] = -torch.inf
        scores[:, excluded] = -torch.inf

    found, at = retrieve(asked.queries, keys, min(asked.k, n), mask)
    indices = at.numpy() if candidates is None else candidates[at.numpy()]
    return found, torch.from_numpy(indices + start).masked_fill_(found == -torch.inf, -1)


def approximately(asked: Question, lists: Lists) -> tuple[Found, np.ndarray]:
    """Compares every query with the items in the lists nearest to it.

    A query is answered from its first ``probes`` lists or, where these hold fewer than ``k`` items it may
    get, from twice as many, and so on. What else is asked at once does not matter.

    Args:
        asked: the question; ``only`` is None.
        lists: the index.

    Returns:
        What was found, and positions of queries that an index is of no use to: more than :data:`WIDEST` items
        are asked for, hidden or tied.
    """
    queries, k = asked.queries, asked.k
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    items = np.full((len(queries), k), -1, dtype=np.int64)
    unanswered: list[np.ndarray] = []
    facts = lists.facts
    blocks = np.array_split(np.arange(len(queries)), range(BLOCK, len(queries), BLOCK))
    work: list[tuple[np.ndarray, int, int]] = []  # queries, how many items to ask for, in how many lists
    for block in blocks:
        hidden = np.bincount(asked.hidden(block)[0], minlength=1).max() + len(asked.exclude)
        # One more than wanted shows whether the last place is contested. Few of those hidden rank so high.
        work.append((block, k + 1 + int(min(hidden, k + 30)), min(facts.probes, facts.lists)))
    while work:
        rows, width, probes = work.pop()
        width = min(width, facts.items)
        if not len(rows):
            continue
        if width > WIDEST:
            unanswered.append(rows)
            continue
        found, at = lists.search(queries[rows], width, probes)
        dropped = _among(asked, rows, at) | (at < 0)
        order = np.argsort(dropped, axis=1, kind="stable")[:, :k]
        best = np.where(dropped, np.float32(-np.inf), found)
        best, chosen = np.take_along_axis(best, order, 1), np.take_along_axis(at, order, 1)
        enough = (~dropped).sum(1) >= k
        whole = (at[:, -1] < 0) | (width == facts.items)  # the lists hold no more
        settled = whole | (enough & (best[:, -1] > found[:, -1]))  # and no equal score was left out
        done = settled & (enough | (probes == facts.lists))
        scores[rows[done], : best.shape[1]] = best[done]
        items[rows[done], : best.shape[1]] = np.where(np.isneginf(best[done]), -1, chosen[done])
        work.append((rows[~settled], 4 * width, probes))
        work.append((rows[settled & ~done], width, min(2 * probes, facts.lists)))
    return (scores, items), np.sort(np.concatenate([*unanswered, np.empty(0, dtype=np.int64)]))


def _among(asked: Question, rows: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Which of the found items ``(b, w)`` are hidden from their query or excluded."""
    dropped = np.isin(at, asked.exclude) if len(asked.exclude) else np.zeros(at.shape, dtype=bool)
    row, item = asked.hidden(rows)
    if len(row):
        base = int(max(item.max(), at.max())) + 2  # so that the -1 of no item meets nothing
        known = row.astype(np.int64) * base + item  # ascending
        sought = np.arange(len(rows))[:, None] * base + at
        place = np.minimum(np.searchsorted(known, sought), len(known) - 1)
        dropped |= known[place] == sought
    return dropped


def merged(one: Found, other: Found, k: int) -> Found:
    """The best of two answers; ``other`` is about items that come later."""
    first, second = ((torch.from_numpy(scores), torch.from_numpy(items)) for scores, items in (one, other))
    scores, items = (tensor.numpy() for tensor in merge_topk(first, second, k))
    return _filled(scores, np.where(np.isneginf(scores), -1, items), k)


def _filled(scores: np.ndarray, items: np.ndarray, k: int) -> Found:
    """Answers ``(B, k)``, of ones that may be shorter."""
    short: dict[str, Any] = {"pad_width": ((0, 0), (0, k - scores.shape[1]))}
    return np.pad(scores, **short, constant_values=-np.inf), np.pad(items, **short, constant_values=-1)
