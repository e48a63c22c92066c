"""Why this question and why these items, as paths over what is known: you liked this, which is that, so …"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from graphrec.conversation.belief import Belief
from graphrec.conversation.catalog import Catalog


class Path(NamedTuple):
    """A walk over the graph.

    Attributes:
        nodes: type (``you``, ``item`` or ``attribute``) and index of each node; of ``you`` the index is 0.
        reason: ``liked`` (the user has the item), ``accepted`` (the user said so) or ``splits`` (no walk: the
            question just tells the candidates apart).
    """

    nodes: tuple[tuple[str, int], ...]
    reason: str


def to_question(catalog: Catalog, knows: Belief, history: np.ndarray, attribute: int) -> Path:
    """From what the user said or has to an attribute that is asked about.

    Args:
        catalog: which item has which attribute.
        knows: what the agent knows.
        history: the user's items ``(n,) int``.
        attribute: where to go.
    """
    if knows.accepted:
        last = knows.accepted[-1]
        between = next((i for i in _likeliest(knows) if _has(catalog, i, attribute)), None)
        middle = () if between is None else (("item", between),)
        return Path((("you", 0), ("attribute", last), *middle, ("attribute", attribute)), "accepted")
    liked = [int(i) for i in history if _has(catalog, int(i), attribute)]
    if liked:
        return Path((("you", 0), ("item", liked[0]), ("attribute", attribute)), "liked")
    return Path((("attribute", attribute),), "splits")


def to_item(catalog: Catalog, knows: Belief, history: np.ndarray, item: int) -> Path:
    """From what the user said, or else has, to an item that is recommended.

    Of the user's items, the one that shares most attributes with it.
    """
    said = [a for a in knows.accepted if _has(catalog, item, a)]
    if said:
        return Path((("you", 0), *(("attribute", a) for a in said), ("item", item)), "accepted")
    of = set(catalog.attributes_of(item).tolist())
    shared = [of & set(catalog.attributes_of(int(i)).tolist()) for i in history]
    if any(shared):
        best = int(np.argmax([len(s) for s in shared]))
        nodes = (("you", 0), ("item", int(history[best])), *(("attribute", a) for a in sorted(shared[best])))
        return Path((*nodes, ("item", item)), "liked")
    return Path((("item", item),), "splits")


def _likeliest(knows: Belief) -> list[int]:
    order = np.argsort(-knows.weights, kind="stable")
    found: list[int] = knows.items[order[knows.weights[order] > 0]].tolist()
    return found


def _has(catalog: Catalog, item: int, attribute: int) -> bool:
    return bool(np.isin(attribute, catalog.attributes_of(item)))
