"""The same without any model: attributes as the item table has them, profiles by counting the train history.
What a language model adds is measured against this.
"""

from __future__ import annotations

import re
from collections import Counter

from graphrec.core.errors import DataError
from graphrec.data import Dataset
from graphrec.data.attributes import HAS, IN

TOP = 3  # commonest values that a profile names, of each kind
WORD = re.compile(r"[^\W\d_]{4,}")


def attributes(data: Dataset) -> dict[str, list[str | None]]:
    """A text of each item for each group of attributes of the dataset, in the order of the groups.

    Raises:
        DataError: the dataset has no attributes.
    """
    grouped = _grouped(data)
    found: dict[str, list[str | None]] = {}
    for name, values in grouped.items():
        found[name] = [", ".join(texts) if texts else None for texts in values]
    return found


def profiles(data: Dataset) -> list[str | None]:
    """For each user the commonest attributes of the train items, or the commonest words of their texts where
    the dataset has no attributes; None for somebody without train items.

    Raises:
        DataError: it has neither.
    """
    if HAS in data.relations and IN in data.relations:
        kinds = _grouped(data)
    elif "text" in data.content and data.content["text"].kind == "text":
        kinds = {"likes": [sorted(set(WORD.findall((text or "").lower()))) for text in data.content["text"]]}
    else:
        raise DataError(f"{data.name}: no attributes and no texts to make profiles of; {_HOW}")
    found: list[str | None] = []
    for user in range(data.n_users):
        items = data.train.items_of(user)
        parts = []
        for name, values in kinds.items():
            counts = Counter(text for item in items for text in values[item])
            common = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:TOP]
            if common:
                parts.append(f"{name}: {', '.join(text for text, _ in common)}")
        found.append("; ".join(parts) or None)
    return found


_HOW = "name attributes when reading it, such as --set data.attributes=true"


def _grouped(data: Dataset) -> dict[str, list[list[str]]]:
    """Names of the attributes of each item, by group."""
    if HAS not in data.relations or IN not in data.relations:
        raise DataError(f"{data.name}: its items have no attributes; {_HOW}")
    names = [str(name) for name in data.nodes["attribute"].ids]
    groups = [str(name) for name in data.nodes["group"].ids]
    group_of = dict(zip(*(side.tolist() for side in data.relations[IN]), strict=True))
    found: dict[str, list[list[str]]] = {group: [[] for _ in range(data.n_items)] for group in groups}
    for item, attribute in data.relations[HAS].T.tolist():
        group = groups[group_of[attribute]]
        found[group][item].append(names[attribute].removeprefix(f"{group}: "))
    return found
