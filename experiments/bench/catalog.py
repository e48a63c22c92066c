"""A generated dataset of Amazon Baby's exact size, with features as wide as Amazon's, saved where asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from graphrec.core.random import numpy_rng
from graphrec.data import Dataset, Interactions, Vocabulary
from graphrec.features import FeatureStore, FeatureTable

USERS, ITEMS = 19_445, 7_050
SPLITS = {"train": 118_551, "valid": 20_559, "test": 21_682}
WIDTHS = {"image": 4_096, "text": 384}


def save(folder: Path, scale: float = 1, widths: Mapping[str, int] = WIDTHS) -> None:
    """Writes ``folder/dataset`` and ``folder/cache``.

    Items are drawn in proportion to ``1 / rank^0.8``; users and items with a single pair may have it in any
    split. Features are normal noise around 200 centers.

    Args:
        folder: where.
        scale: multiplies users, items and interactions.
        widths: of the features, by field.
    """
    data = dataset(scale)
    data.save(folder / "dataset")
    save_features(data, folder / "cache", widths)


def save_features(data: Dataset, cache: Path, widths: Mapping[str, int] = WIDTHS) -> None:
    """Writes generated features for the items of any dataset."""
    store = FeatureStore(cache)
    for field, width in widths.items():
        rng = numpy_rng(0, f"bench/{field}")
        centers = rng.standard_normal((200, width), dtype=np.float32)
        values = centers[rng.integers(0, 200, data.n_items)]
        values += rng.standard_normal(values.shape, dtype=np.float32)
        store.save(data, field, FeatureTable.from_array(values, data, field, name="generated"))


def dataset(scale: float = 1) -> Dataset:
    """The interactions alone."""
    users, items = round(USERS * scale), round(ITEMS * scale)
    counts = {name: round(scale * count) for name, count in SPLITS.items()}
    rng = numpy_rng(0, "bench/interactions")
    popularity = 1 / np.arange(1, items + 1) ** 0.8
    popularity /= popularity.sum()
    total = sum(counts.values())
    sure = np.concatenate([np.arange(users) * items + rng.choice(items, users, p=popularity),
                           rng.integers(0, users, items) * items + np.arange(items)])  # fmt: skip
    keys = np.unique(sure)
    kept = rng.permutation(keys)
    while len(kept) < total:
        more = rng.integers(0, users, total) * items + rng.choice(items, total, p=popularity)
        more = np.setdiff1d(more, kept)
        kept = np.concatenate([kept, rng.permutation(more)[: total - len(kept)]])
    parts, first = [], 0
    for name, count in counts.items():
        some = kept[first : first + count]
        parts.append(Interactions(some // items, some % items, users, items, name=name))
        first += count
    user_ids, item_ids = (f"u{i}" for i in range(users)), (f"i{i}" for i in range(items))
    return Dataset("generated", Vocabulary(user_ids, "user"), Vocabulary(item_ids), *parts)
