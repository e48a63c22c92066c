"""Small catalogs whose items lack modalities or interactions, and whose users lack items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from graphrec import testing
from graphrec.core.random import numpy_rng
from graphrec.data import Dataset
from graphrec.features import FeatureTable


def items_with_gaps() -> tuple[Dataset, dict[str, FeatureTable]]:
    """Communities: item 1 lacks its image, item 2 both; nobody takes items 4-7."""
    full, _ = testing.communities(2, 15)
    taken = ~np.isin(full.train.items, range(4, 8))
    pairs = np.stack([full.train.users[taken], full.train.items[taken]], 1)
    return _with_content(pairs, full, {"image": (1, 2), "text": (2,)})


def users_and_items_with_gaps() -> tuple[Dataset, dict[str, FeatureTable]]:
    """Communities: item 1 lacks its image, items 2 and 3 both; user 0 has taken item 1 alone, user 1 item 2
    alone, user 2 nothing; nobody takes items 3, 8 and 9.
    """
    full, _ = testing.communities(2, 15)
    users, items = full.train.users, full.train.items
    kept = (users > 2) & ~np.isin(items, (3, 8, 9))
    pairs = np.concatenate([np.stack([users[kept], items[kept]], 1), [[0, 1], [1, 2]]])
    return _with_content(pairs, full, {"image": (1, 2, 3), "text": (2, 3)})


def _with_content(
    pairs: np.ndarray, full: Dataset, missing: Mapping[str, Sequence[int]]
) -> tuple[Dataset, dict[str, FeatureTable]]:
    """Train pairs ``(n, 2)`` of the users and items of a dataset, with random content but for some items."""
    data = testing.dataset(pairs, [], full.n_users, full.n_items, "gaps")
    tables = {}
    for field, items in missing.items():
        vectors = numpy_rng(0, f"tests/{field}").normal(size=(data.n_items, 6))
        tables[field] = testing.features_of(data, vectors, items)[field]
    return data, tables
