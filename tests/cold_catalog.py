"""Small datasets with cold items and gaps in their features."""

from __future__ import annotations

import numpy as np

from graphrec.core.random import numpy_rng
from graphrec.data import Dataset
from graphrec.features import FeatureTable
from graphrec.models.freedom import FREEDOM
from graphrec.testing import communities, dataset


def without(cold: np.ndarray) -> Dataset:
    """Two communities with some items out of train altogether."""
    full, _ = communities(2, 20)
    keep = ~np.isin(full.train.items, cold)
    pairs = np.stack([full.train.users[keep], full.train.items[keep]], 1)
    return dataset(pairs, [], full.n_users, full.n_items, "cold")


def gaps(
    image: int, text: int, no_image: list[int], no_text: list[int]
) -> tuple[Dataset, dict[str, FeatureTable]]:
    """Items 4 to 9 without train interactions, some without a picture or a text.

    Args:
        image: width of the image features.
        text: width of the text features.
        no_image: items without a picture.
        no_text: items without a text.
    """
    data, tables = without(np.arange(4, 10)), {}
    for modality, width, missing in (("image", image, no_image), ("text", text, no_text)):
        values = numpy_rng(0, f"tests/{modality}").normal(size=(data.n_items, width)).astype(np.float32)
        present = ~np.isin(np.arange(data.n_items), missing)
        tables[modality] = FeatureTable.from_array(values, data, modality, present=present)
    return data, tables


def cold_catalog() -> tuple[Dataset, dict[str, FeatureTable], FREEDOM]:
    """Items 30..39 have no train interaction; some items lack a picture or a text, 33 lacks both."""
    data, tables = without(np.arange(30, 40)), {}
    for modality, dim, missing in (("image", 12, [3, 31, 33]), ("text", 7, [4, 32, 33])):
        values = numpy_rng(0, f"test/{modality}").normal(size=(data.n_items, dim)).astype(np.float32)
        values[missing] = 0
        tables[modality] = FeatureTable.from_array(values, data, modality)
    return data, tables, FREEDOM.build(data, tables, FREEDOM.Config(dim=8, knn_k=5, image_weight=0.3))
