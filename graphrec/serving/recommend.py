"""Recommendations and similar items by index: indices of users and items in, scores and item indices out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import numpy as np

from graphrec.core.errors import ConfigError
from graphrec.serving import vectors
from graphrec.serving.catalog import ItemBlock, Items
from graphrec.serving.exact import Keys
from graphrec.serving.ivf import Index
from graphrec.serving.query import (
    NO_ITEMS,
    HiddenPairs,
    Limits,
    Lists,
    SearchRequest,
    TopK,
    empty_topk,
    nothing_hidden,
    search_approximate,
    search_exact,
)
from graphrec.serving.vectors import Vectors

Search = Literal["auto", "exact", "approximate"]
"""How to search; see :meth:`graphrec.Recommender.recommend`."""
SEARCHES: tuple[str, ...] = get_args(Search)


def without(ids: Sequence[str] | None, unknown: Sequence[str]) -> Sequence[str] | None:
    """The ids but for the unknown ones, in order; None where there are no ids."""
    if ids is None or not unknown:
        return ids
    left_out = set(unknown)
    return [name for name in ids if name not in left_out]


def choose_lists(task: str, search: Search, index: Index | None) -> Lists | None:
    """The lists of the index to search for a task (``"recommend"``, ``"similar"``), or None for exact search.

    Raises:
        ConfigError: ``search`` is none of the choices, or there is no index for an approximate search.
    """
    if search not in SEARCHES:
        raise ConfigError(f"search={search!r}; expected one of {', '.join(map(repr, SEARCHES))}")
    lists = None if index is None else index.get(task)
    if search == "approximate" and lists is None:
        raise ConfigError(
            f"search='approximate', but the present vectors have no index for {task!r}; build one with "
            "build_index (graphrec index), or use search='exact'"
        )
    return None if search == "exact" else lists


def recommend_to_users(
    items: Items,
    user_vectors: Vectors,
    rows: np.ndarray,
    limits: Limits,
    exclude_seen: bool,
    lists: Lists | None,
) -> TopK:
    """The best items for users, by index ``(B,)``; the index -1 gets the most popular items."""
    best = empty_topk(len(rows), limits.k)
    known = np.flatnonzero(rows >= 0)
    users = rows[known]

    def seen_pairs(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return items.seen.items_of_users(users[positions])

    if len(known):
        hidden_pairs = seen_pairs if exclude_seen else nothing_hidden
        request = SearchRequest(vectors.as_queries(user_vectors[users]), limits, hidden_pairs)
        best[0][known], best[1][known] = search_items(items, request, lists)
    fill_with_popular(items, best, np.flatnonzero(rows < 0), limits)
    return best


def fill_with_popular(items: Items, best: TopK, rows: np.ndarray, limits: Limits) -> None:
    """Puts the most popular items into some rows ``(n,)`` of results without any item."""
    if len(rows):
        scores, popular = items.popular(limits.k, limits.only, limits.exclude)
        best[0][rows, : len(popular)] = scores
        best[1][rows, : len(popular)] = popular


def hide_lists(hidden: Sequence[np.ndarray]) -> HiddenPairs:
    """The hidden pairs of queries with these lists of item indices, each ascending."""

    def hidden_pairs(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = [hidden[position] for position in positions]
        rows = np.repeat(np.arange(len(positions)), [len(part) for part in parts])
        return rows, np.concatenate([NO_ITEMS, *parts])

    return hidden_pairs


def similar_by_index(items: Items, rows: np.ndarray, k: int, lists: Lists | None) -> TopK:
    """The ``k`` items with the highest cosine with each item ``(B,)``, the item itself left out."""

    def itself(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.arange(len(positions)), rows[positions]

    request = SearchRequest(items.unit_vectors(rows), Limits(k), itself)
    return search_items(items, request, lists, unit=True)


def search_items(items: Items, request: SearchRequest, lists: Lists | None, unit: bool = False) -> TopK:
    """Searches the lists and exactly what they do not cover; with ``unit``, item vectors have length one."""

    def keys(blocks: Sequence[ItemBlock]) -> list[tuple[int, Keys]]:
        return [(block.start, block.unit_keys if unit else block.keys) for block in blocks]

    if lists is None or request.limits.only is not None:
        return search_exact(request, keys(items.search_blocks))
    (scores, indices), unanswered = search_approximate(request, lists)
    if len(unanswered):
        repeated = request._replace(
            queries=request.queries[unanswered],
            hidden_pairs=lambda positions: request.hidden_pairs(unanswered[positions]),
        )
        scores[unanswered], indices[unanswered] = search_exact(repeated, keys(items.blocks[:1]))
    return search_exact(request, keys(items.blocks[1:]), (scores, indices))


def check_k(k: Any) -> int:
    """The number of items ``k`` as an int.

    Raises:
        ConfigError: it is not a whole number of at least 1.
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ConfigError(f"k = {k!r}; expected a whole number of at least 1")
    return int(k)


def as_list(ids: Any) -> tuple[list[Any], bool]:
    """The ids as a list, and whether ``ids`` is a single id rather than several."""
    single = isinstance(ids, str) or np.isscalar(ids) or not isinstance(ids, Iterable)
    return ([ids] if single else list(ids)), single
