"""A small dataset with cold items and gaps in its features, for the tests of the recommender."""

from __future__ import annotations

import numpy as np

from graphrec.data import Dataset
from graphrec.models.freedom import FREEDOM
from graphrec.seeds import stream
from graphrec.store import FeatureTable
from graphrec.testing import communities, dataset


def cold_catalogue() -> tuple[Dataset, dict[str, FeatureTable], FREEDOM]:
    """Items 30..39 have no train interaction; some items lack a picture or a text, 33 lacks both."""
    full, _ = communities(2, 20)
    warm = full.train.items < 30
    pairs = np.stack([full.train.users[warm], full.train.items[warm]], 1)
    data = dataset(pairs, [], full.n_users, full.n_items, "cold")
    tables = {}
    for modality, dim, missing in (("image", 12, [3, 31, 33]), ("text", 7, [4, 32, 33])):
        values = stream(0, f"test/{modality}").normal(size=(data.n_items, dim)).astype(np.float32)
        values[missing] = 0
        tables[modality] = FeatureTable.from_array(values, data, modality)
    return data, tables, FREEDOM.build(data, tables, FREEDOM.Config(dim=8, knn_k=5, image_weight=0.3))
