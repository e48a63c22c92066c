"""Baseline without a language model: attributes from the item table, profiles by counting training items.

The gain of a language model is measured against this baseline.
"""

from __future__ import annotations

import re
from collections import Counter

from graphrec.core.errors import DataError
from graphrec.data import Dataset
from graphrec.data.attributes import HAS, IN

MAX_VALUES = 3  # most frequent values a profile lists per attribute group
WORD = re.compile(r"[^\W\d_]{4,}")


def attributes(data: Dataset) -> dict[str, list[str | None]]:
    """The attribute values of each item as text, by attribute group.

    Returns:
        Group name -> one text per item (values joined by commas), None where the item has no value.

    Raises:
        DataError: the dataset has no attributes.
    """
    return {
        name: [", ".join(texts) or None for texts in values] for name, values in _group_values(data).items()
    }


def profiles(data: Dataset) -> list[str | None]:
    """One profile text per user: the most frequent attributes of their training items.

    Without attributes, the most frequent words of the items' texts are used. A user without training items
    gets None.

    Raises:
        DataError: the dataset has neither attributes nor texts.
    """
    if HAS in data.relations and IN in data.relations:
        kinds = _group_values(data)
    elif "text" in data.content and data.content["text"].kind == "text":
        kinds = {"likes": [sorted(set(WORD.findall((text or "").lower()))) for text in data.content["text"]]}
    else:
        raise DataError(
            f"{data.name}: it has neither item attributes nor item texts to build profiles from; "
            f"{_ATTRIBUTES_HINT}"
        )
    result: list[str | None] = []
    for user in range(data.n_users):
        items = data.train.items_of(user)
        parts = []
        for name, values in kinds.items():
            counts = Counter(text for item in items for text in values[item])
            common = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:MAX_VALUES]
            if common:
                parts.append(f"{name}: {', '.join(text for text, _ in common)}")
        result.append("; ".join(parts) or None)
    return result


_ATTRIBUTES_HINT = "request attributes when the dataset is read, for example --set data.attributes=true"


def _group_values(data: Dataset) -> dict[str, list[list[str]]]:
    """Attribute names of each item by group, without the group prefix."""
    if HAS not in data.relations or IN not in data.relations:
        raise DataError(f"{data.name}: its items have no attributes; {_ATTRIBUTES_HINT}")
    names = [str(name) for name in data.nodes["attribute"].ids]
    groups = [str(name) for name in data.nodes["group"].ids]
    group_of = dict(zip(*(side.tolist() for side in data.relations[IN]), strict=True))
    result: dict[str, list[list[str]]] = {group: [[] for _ in range(data.n_items)] for group in groups}
    for item, attribute in data.relations[HAS].T.tolist():
        group = groups[group_of[attribute]]
        result[group][item].append(names[attribute].removeprefix(f"{group}: "))
    return result
