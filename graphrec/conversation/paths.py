"""Explanations of questions and recommendations, as paths over users, items and attributes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from graphrec.conversation.belief import Belief
from graphrec.conversation.catalog import Catalog


class ExplanationPath(NamedTuple):
    """A path over the graph of users, items and attributes.

    Attributes:
        nodes: type (``you``, ``item`` or ``attribute``) and index of each node; the index of ``you`` is 0.
        reason: ``liked`` (the path starts at an item of the user's history), ``accepted`` (it starts at
            attributes that the user accepted) or ``splits`` (there is no path: the question separates the
            candidates best).
    """

    nodes: tuple[tuple[str, int], ...]
    reason: str


def path_to_question(
    catalog: Catalog, belief: Belief, history: np.ndarray, attribute: int
) -> ExplanationPath:
    """A path from accepted attributes, or else from the user's history, to an attribute that is asked about.

    Args:
        catalog: which item has which attribute.
        belief: the agent's belief.
        history: the user's items ``(n,) int``.
        attribute: the end of the path.
    """
    if belief.accepted_attributes:
        start = ("attribute", belief.accepted_attributes[-1])
        via = next((item for item in _most_likely_items(belief) if _has(catalog, item, attribute)), None)
        middle = () if via is None else (("item", via),)
        return ExplanationPath((("you", 0), start, *middle, ("attribute", attribute)), "accepted")
    liked = [int(item) for item in history if _has(catalog, int(item), attribute)]
    if liked:
        return ExplanationPath((("you", 0), ("item", liked[0]), ("attribute", attribute)), "liked")
    return ExplanationPath((("attribute", attribute),), "splits")


def path_to_item(catalog: Catalog, belief: Belief, history: np.ndarray, item: int) -> ExplanationPath:
    """A path from accepted attributes, or else from the user's history, to a recommended item.

    Of the items in the history, the path uses the one that shares most attributes with the item.
    """
    accepted = [a for a in belief.accepted_attributes if _has(catalog, item, a)]
    if accepted:
        return ExplanationPath(
            (("you", 0), *(("attribute", a) for a in accepted), ("item", item)), "accepted"
        )
    attributes = set(catalog.attributes_of(item).tolist())
    shared = [attributes & set(catalog.attributes_of(int(i)).tolist()) for i in history]
    if any(shared):
        best = int(np.argmax([len(s) for s in shared]))
        nodes = (("you", 0), ("item", int(history[best])), *(("attribute", a) for a in sorted(shared[best])))
        return ExplanationPath((*nodes, ("item", item)), "liked")
    return ExplanationPath((("item", item),), "splits")


def _most_likely_items(belief: Belief) -> list[int]:
    order = np.argsort(-belief.weights, kind="stable")
    items: list[int] = belief.items[order[belief.weights[order] > 0]].tolist()
    return items


def _has(catalog: Catalog, item: int, attribute: int) -> bool:
    return bool(np.isin(attribute, catalog.attributes_of(item)))
