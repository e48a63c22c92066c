"""Datasets whose items have attributes, and one with something to learn in them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from graphrec import testing
from graphrec.core.random import numpy_rng
from graphrec.data import Dataset, Vocabulary

HAS = ("item", "has", "attribute")


def with_attributes(data: Dataset, table: np.ndarray) -> Dataset:
    """A dataset with the attributes of a table of zeros and ones ``(n_items, n_attributes)``."""
    names = Vocabulary([f"a{i}" for i in range(table.shape[1])], "attribute")
    pairs = np.stack(np.nonzero(table)).astype(np.int32)
    return replace(data, nodes={"attribute": names}, relations={HAS: pairs})


def planted(seed: int = 0) -> Dataset:
    """Users like the items of one of eight communities, whose attributes tell one of four themes instead."""
    rng, n = numpy_rng(seed, "tests/planted"), 160
    community, theme = np.arange(n) % 8, np.arange(n) // 8 % 4
    table = (rng.random((n, 24)) < 0.6) & (np.arange(24) // 6 == theme[:, None])
    pairs = np.array([(u, i) for u in range(n) for i in range(n) if community[i] == u % 8])
    pairs = pairs[rng.random(len(pairs)) < 0.7]
    return with_attributes(testing.dataset(pairs, [], n, n, "planted"), table).resplit("random")
