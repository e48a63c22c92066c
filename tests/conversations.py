"""Small catalogs and vectors for the tests of conversations."""

from __future__ import annotations

import numpy as np

from graphrec.conversation.belief import Setting
from graphrec.conversation.catalog import Catalog
from graphrec.conversation.config import ConversationConfig
from graphrec.conversation.vectors import DialogueVectors
from graphrec.core.random import numpy_rng


def catalog(n_items: int = 60, n_attributes: int = 9, share: float = 0.3, seed: int = 0) -> Catalog:
    """A random one, every item with an attribute at least; attributes in three groups."""
    rng = numpy_rng(seed, "tests/catalog")
    table = rng.random((n_items, n_attributes)) < share
    table[np.arange(n_items), rng.integers(0, n_attributes, n_items)] = True
    names = [f"group {a % 3}: {a}" for a in range(n_attributes)]
    groups = np.arange(n_attributes) % 3
    return Catalog(np.stack(np.nonzero(table)), n_items, names, groups, ["group 0", "group 1", "group 2"])


def vectors(items_catalog: Catalog, n_users: int = 7, d: int = 5, seed: int = 0) -> DialogueVectors:
    """Random ones."""
    rng = numpy_rng(seed, "tests/vectors")
    sizes = (n_users, items_catalog.n_items, items_catalog.n_attributes)
    return DialogueVectors(*(rng.normal(size=(n, d)).astype(np.float32) for n in sizes))


def setting(items_catalog: Catalog | None = None, seed: int = 0, **rules: object) -> Setting:
    """A catalog, vectors for it, and rules."""
    items_catalog = items_catalog or catalog(seed=seed)
    return Setting(items_catalog, vectors(items_catalog, seed=seed), ConversationConfig(**rules))


def table_of(items_catalog: Catalog) -> np.ndarray:
    """Which item has which attribute ``(n_items, n_attributes) bool``, item by item."""
    table = np.zeros((items_catalog.n_items, items_catalog.n_attributes), dtype=bool)
    for item in range(items_catalog.n_items):
        table[item, items_catalog.attributes_of(item)] = True
    return table
