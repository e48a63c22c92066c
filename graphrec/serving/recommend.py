"""Recommendations and similar items by index: indices of users and items in, scores and item indices out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, get_args

import numpy as np

from graphrec.core.errors import ConfigError
from graphrec.serving import vectors
from graphrec.serving.catalog import ItemBlock, Items
from graphrec.serving.exact import Keys, Rows
from graphrec.serving.index import Index
from graphrec.serving.ivf import Lists
from graphrec.serving.query import SearchRequest, TopK, empty_topk, search_approximate, search_exact
from graphrec.serving.vectors import Vectors

Search = Literal["auto", "exact", "approximate"]
"""How to search; see :meth:`graphrec.Recommender.recommend`."""
SEARCHES: tuple[str, ...] = get_args(Search)
NO_ITEMS = np.empty(0, dtype=np.int64)


def choose_lists(task: str, search: Search, index: Index | None) -> Lists | None:
    """The lists of the index to search, or None for an exact search.

    Args:
        task: ``"recommend"`` or ``"similar"``.
        search: the kind of search requested.
        index: the recommender's index, if it has one.

    Raises:
        ConfigError: ``search`` is none of the choices, or there is no index for an approximate search.
    """
    if search not in SEARCHES:
        raise ConfigError(f"search={search!r}; expected one of {', '.join(map(repr, SEARCHES))}")
    lists = None if index is None else index.lists.get(task)
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
    k: int,
    exclude_seen: bool,
    only: np.ndarray | None,
    exclude: np.ndarray,
    lists: Lists | None,
) -> TopK:
    """The best items for users.

    Args:
        items: the recommender's items.
        user_vectors: vectors of all users ``(n_users, d) float32``.
        rows: indices of the users ``(B,)``; -1 stands for a user who gets the most popular items.
        k: number of items per user.
        exclude_seen: leave out the items of a user's known pairs.
        only: indices of the items to choose among, ascending; None: all.
        exclude: indices of items to leave out, ascending.
        lists: see :func:`choose_lists`.
    """
    scores, found = empty_topk(len(rows), k)
    known = np.flatnonzero(rows >= 0)
    unknown = np.flatnonzero(rows < 0)
    users = rows[known]

    def seen_pairs(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return items.seen.items_of_users(users[positions]) if exclude_seen else (NO_ITEMS, NO_ITEMS)

    if len(known):
        request = SearchRequest(vectors.as_queries(user_vectors[users]), k, seen_pairs, only, exclude)
        scores[known], found[known] = _search(items, request, lists, lambda block: block.keys)
    if len(unknown):
        popular_scores, popular_items = items.popular(k, only, exclude)
        scores[unknown, : len(popular_items)] = popular_scores
        found[unknown, : len(popular_items)] = popular_items
    return scores, found


def recommend_by_vectors(
    items: Items,
    queries: Rows,
    hidden: Sequence[np.ndarray],
    k: int,
    only: np.ndarray | None,
    exclude: np.ndarray,
    lists: Lists | None,
) -> TopK:
    """The best items for query vectors, such as those encoded from histories.

    Args:
        items: the recommender's items.
        queries: query vectors ``(B, d)``.
        hidden: for each query, indices of the items to leave out, ascending.
        k: number of items per query.
        only: indices of the items to choose among, ascending; None: all.
        exclude: indices of items to leave out, ascending.
        lists: see :func:`choose_lists`.
    """

    def hidden_pairs(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = [hidden[position] for position in positions]
        rows = np.repeat(np.arange(len(positions)), [len(part) for part in parts])
        return rows, np.concatenate([NO_ITEMS, *parts])

    request = SearchRequest(queries, k, hidden_pairs, only, exclude)
    return _search(items, request, lists, lambda block: block.keys)


def similar_by_index(items: Items, rows: np.ndarray, k: int, lists: Lists | None) -> TopK:
    """The items with the highest cosine with each item, the item itself left out.

    Args:
        items: the recommender's items.
        rows: indices of the items ``(B,)``.
        k: number of similar items per item.
        lists: see :func:`choose_lists`.
    """

    def itself(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.arange(len(positions)), rows[positions]

    request = SearchRequest(items.unit_vectors(rows), k, itself, None, NO_ITEMS)
    return _search(items, request, lists, lambda block: block.unit_keys)


def _search(
    items: Items, request: SearchRequest, lists: Lists | None, keys_of: Callable[[ItemBlock], Keys]
) -> TopK:
    """Searches the index and what it does not cover exactly, or everything exactly without one."""
    if lists is None or request.only is not None:
        return search_exact(request, [(block.start, keys_of(block)) for block in items.search_blocks])
    (scores, found), unanswered = search_approximate(request, lists)
    if len(unanswered):
        repeated = request._replace(
            queries=request.queries[unanswered],
            hidden_pairs=lambda positions: request.hidden_pairs(unanswered[positions]),
        )
        scores[unanswered], found[unanswered] = search_exact(repeated, [(0, keys_of(items.base))])
    return search_exact(
        request, [(block.start, keys_of(block)) for block in items.blocks[1:]], (scores, found)
    )


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
