"""Indices of users and items in, scores and indices of items out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, get_args

import numpy as np

from graphrec.core.errors import ConfigError
from graphrec.serving import vectors
from graphrec.serving.catalog import Items, Side
from graphrec.serving.exact import Keys, Rows
from graphrec.serving.index import Index
from graphrec.serving.ivf import Lists
from graphrec.serving.query import Found, Question, approximately, exactly, merged
from graphrec.serving.vectors import Vectors

Search = Literal["auto", "exact", "approximate"]
"""How to search; see :meth:`graphrec.Recommender.recommend`."""
SEARCHES: tuple[str, ...] = get_args(Search)
NONE = np.empty(0, dtype=np.int64)


def searched(what: str, search: Search, index: Index | None) -> Lists | None:
    """The lists to search, or None for an exact search.

    Args:
        what: ``"recommend"`` or ``"similar"``.
        search: what was asked for.
        index: what there is.

    Raises:
        ConfigError: ``search`` is none of the choices, or there is no index for an approximate search.
    """
    if search not in SEARCHES:
        raise ConfigError(f"search={search!r}; expected one of {', '.join(map(repr, SEARCHES))}")
    lists = None if index is None else index.lists.get(what)
    if search == "approximate" and lists is None:
        raise ConfigError(
            f"search='approximate', and there is no index to {what} by for the present vectors; build one "
            "with build_index (graphrec index), or search='exact'"
        )
    return None if search == "exact" else lists


def recommended(
    items: Items,
    user_vectors: Vectors,
    rows: np.ndarray,
    k: int,
    exclude_seen: bool,
    only: np.ndarray | None,
    exclude: np.ndarray,
    lists: Lists | None,
) -> Found:
    """What users get.

    Args:
        items: to choose among.
        user_vectors: of all users ``(n_users, d) float32``.
        rows: the users ``(B,)``, -1 for one who gets the most popular items.
        k: how many items.
        exclude_seen: leave out what a user has.
        only: items to choose among, ascending; None: all.
        exclude: items to leave out, ascending.
        lists: see :func:`searched`.
    """
    scores = np.full((len(rows), k), -np.inf, dtype=np.float32)
    found = np.full((len(rows), k), -1, dtype=np.int64)
    known, strange = np.flatnonzero(rows >= 0), np.flatnonzero(rows < 0)
    users = rows[known]

    def hidden(which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return items.seen.items_of_users(users[which]) if exclude_seen else (NONE, NONE)

    if len(known):
        asked = Question(vectors.queries(user_vectors, users), k, hidden, only, exclude)
        scores[known], found[known] = _answer(items, asked, lists, lambda side: side.keys)
    if len(strange):
        best, at = items.popular(k, only, exclude)
        scores[strange, : len(at)], found[strange, : len(at)] = best, at
    return scores, found


def recommended_for(
    items: Items,
    queries: Rows,
    hidden: Sequence[np.ndarray],
    k: int,
    only: np.ndarray | None,
    exclude: np.ndarray,
    lists: Lists | None,
) -> Found:
    """What vectors made from histories get.

    Args:
        items: to choose among.
        queries: the vectors ``(B, d)``.
        hidden: items that each must not be answered with, ascending, ``B`` arrays.
        k: how many items.
        only: items to choose among, ascending; None: all.
        exclude: items to leave out, ascending.
        lists: see :func:`searched`.
    """

    def hidden_pairs(which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = [hidden[row] for row in which]
        rows = np.repeat(np.arange(len(which)), [len(part) for part in parts])
        return rows, np.concatenate([NONE, *parts])

    question = Question(queries, k, hidden_pairs, only, exclude)
    return _answer(items, question, lists, lambda side: side.keys)


def similar(items: Items, rows: np.ndarray, k: int, lists: Lists | None) -> Found:
    """The items most like some, by cosine; without these themselves.

    Args:
        items: to choose among.
        rows: the items ``(B,)``.
        k: how many each gets.
        lists: see :func:`searched`.
    """

    def itself(which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.arange(len(which)), rows[which]

    asked = Question(items.unit_rows(rows), k, itself, None, NONE)
    return _answer(items, asked, lists, lambda side: side.unit[1])


def _answer(items: Items, asked: Question, lists: Lists | None, keys: Callable[[Side], Keys]) -> Found:
    base, *added = items.sides
    if lists is None or asked.only is not None:
        return exactly(asked, [(side.start, len(side), keys(side)) for side in items.compared])
    (scores, found), left = approximately(asked, lists)
    if len(left):
        again = asked._replace(queries=asked.queries[left], hidden=lambda which: asked.hidden(left[which]))
        scores[left], found[left] = exactly(again, [(0, len(base), keys(base))])
    if not added:
        return scores, found
    return merged((scores, found), exactly(asked, [(s.start, len(s), keys(s)) for s in added]), asked.k)


def whole(k: Any) -> int:
    """A number of items; raises :class:`ConfigError` where it is none."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ConfigError(f"k = {k!r}; expected a whole number of at least 1")
    return int(k)


def several(ids: Any) -> tuple[list[Any], bool]:
    """The ids as a list, and whether there was just one, given as such."""
    single = isinstance(ids, str) or np.isscalar(ids) or not isinstance(ids, Iterable)
    return ([ids] if single else list(ids)), single
