"""Small datasets with features for checks of models: a checkerboard, communities, conversations."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from graphrec.conversation.vectors import DialogueVectors, write_vectors
from graphrec.core.random import numpy_rng
from graphrec.data.dataset import Dataset
from graphrec.data.interactions import Interactions
from graphrec.data.repositories import tree_of
from graphrec.data.vocabulary import Vocabulary
from graphrec.features import FeatureTable
from graphrec.models.base import Features, Model, ModelConfig


def dataset(train: Any, test: Any, n_users: int, n_items: int, name: str) -> Dataset:
    """A dataset of plain ids from ``(E, 2)`` index pairs, without a validation split; items alternate between
    two repositories with two directories each.
    """
    users = Vocabulary([f"u{i}" for i in range(n_users)], "user")
    items = Vocabulary([f"i{i}" for i in range(n_items)], "item")

    def part(pairs: Any, split: str) -> Interactions:
        pairs = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
        return Interactions(pairs[:, 0], pairs[:, 1], n_users, n_items, name=split)

    train_pairs = part(train, "train")
    places = [(i % 2, [f"part{i // 2 % 2}", "file.py"]) for i in range(n_items)]
    nodes, relations = tree_of(places, ["a", "b"])
    authored = np.unique(np.stack([train_pairs.users, train_pairs.items % 2]), axis=1)
    return Dataset(
        name, users, items, train_pairs, part([], "valid"), part(test, "test"), nodes=nodes,
        relations={**relations, ("user", "authored", "repository"): authored.astype(np.int32)},
    )  # fmt: skip


def free_pairs(data: Dataset) -> np.ndarray:
    """The pairs ``(F, 2)`` of a user and an item that are in no split, sorted."""
    taken = np.zeros((data.n_users, data.n_items), dtype=bool)
    for split in (data.train, data.valid, data.test):
        taken[split.users, split.items] = True
    return np.argwhere(~taken)


def with_decoys(data: Dataset) -> Dataset:
    """The dataset with random pairs of no split in place of those that it holds out, as many of them.

    A model that is to be scored on the pairs held out is built from this one: one that learns from what it
    is given to validate or to test on has nothing of it.
    """
    n_valid, n_test = len(data.valid), len(data.test)
    drawn = numpy_rng(0, "testing/decoys").permutation(free_pairs(data))[: n_valid + n_test]
    valid, test = (
        Interactions(pairs[:, 0], pairs[:, 1], data.n_users, data.n_items, name=name)
        for name, pairs in (("valid", drawn[:n_valid]), ("test", drawn[n_valid:]))
    )
    return data.with_splits(data.train, valid, test)


def features_of(data: Dataset, vectors: np.ndarray, missing: tuple[int, ...] = ()) -> dict[str, FeatureTable]:
    """An ``image`` and a ``text`` table from vectors ``(n_items, d)``, without the items in ``missing``."""
    present = np.ones(data.n_items, dtype=bool)
    present[list(missing)] = False
    values = vectors.astype(np.float32)
    return {
        "image": FeatureTable.from_array(values, data, "image", present=present),
        "text": FeatureTable.from_array(values[:, ::-1].copy(), data, "text", present=present),
    }


def select_features(model_class: type[Model], features: Features) -> dict[str, FeatureTable] | None:
    """The tables a model is built with: none, all, or, for a model of one extractor, a table of eight
    segments that repeats ``image``.
    """
    if not model_class.modalities:
        return None
    if model_class.extractor is None or not features:
        return dict(features)
    image = features["image"]
    segments = np.tile(image.numpy(), 8)
    return {"content": FeatureTable(segments, image.present, {**image.meta, "field": "content"})}


def checkerboard(n: int = 20) -> tuple[Dataset, dict[str, FeatureTable]]:
    """Even users take even items and odd users odd ones; one item of each user is held out for testing.

    Returns:
        the dataset (``n`` users, ``n`` items) and features that correlate with the color.
    """
    pairs = np.array([(u, i) for u in range(n) for i in range(n) if u % 2 == i % 2])
    # User u holds out item (u + 2) mod n, so that every item is held out exactly once.
    is_test = pairs[:, 1] == (pairs[:, 0] + 2) % n
    data = dataset(pairs[~is_test], pairs[is_test], n, n, "checkerboard")
    noise = numpy_rng(0, "testing/checkerboard").normal(size=(n, 8))
    noise[:, 0] += np.where(np.arange(n) % 2, 2.0, -2.0)
    return data, features_of(data, noise)


def communities(n_groups: int = 4, size: int = 30, seed: int = 0) -> tuple[Dataset, dict[str, FeatureTable]]:
    """Users who mostly take items of their group, with a skewed popularity across all items."""
    rng = numpy_rng(seed, "testing/communities")
    n = n_groups * size
    group = np.arange(n) % n_groups
    popularity = 1.0 / (1.0 + rng.permutation(n)) ** 0.5
    pairs = []
    for user in range(n):
        weight = popularity * np.where(group == group[user], 1.0, 0.05)
        pairs += [(user, int(i)) for i in rng.choice(n, 10, replace=False, p=weight / weight.sum())]
    array = np.array(pairs)
    is_test = np.arange(len(array)) % 10 >= 8
    data = dataset(array[~is_test], array[is_test], n, n, "communities")
    centers = rng.normal(size=(n_groups, 8))
    return data, features_of(data, centers[group] + 0.5 * rng.normal(size=(n, 8)))


def conversations(folder: Path) -> tuple[Dataset, Path]:
    """30 items with some of 8 attributes, 10 users with pairs to train and to validate on.

    Args:
        folder: random vectors are written there.

    Returns:
        the dataset and where the vectors are.
    """
    rng = numpy_rng(0, "testing/conversations")
    has_attribute = rng.random((30, 8)) < 0.3
    has_attribute[np.arange(30), np.arange(30) % 8] = True
    pairs = rng.permutation(300)[:120]
    data = dataset(np.stack([pairs // 30, pairs % 30], 1)[:60], [], 10, 30, "conversations")
    valid = Interactions(pairs[60:] // 30, pairs[60:] % 30, 10, 30, name="valid")
    attributes = Vocabulary([f"a{i}" for i in range(8)], "attribute")
    edges = np.stack(np.nonzero(has_attribute)).astype(np.int32)
    data = replace(
        data, valid=valid, nodes={"attribute": attributes}, relations={("item", "has", "attribute"): edges}
    )
    sizes = (10, 30, 8)
    vectors = DialogueVectors(*(rng.normal(size=(n, 4)).astype(np.float32) for n in sizes))
    path = write_vectors(folder / "vectors", vectors)
    return data, path


@contextmanager
def fixtures(
    model_class: type[Model], config: ModelConfig
) -> Iterator[tuple[Dataset, dict[str, FeatureTable], ModelConfig]]:
    """A dataset, features, and options completed by the paths they need, for any model."""
    if not model_class.converses:
        yield *communities(2, 20), config
        return
    with tempfile.TemporaryDirectory() as folder:
        data, scorer = conversations(Path(folder))
        short = {"episodes": 40} if "episodes" in type(config).model_fields else {}
        yield data, {}, config.replace(scorer=scorer, **short)
