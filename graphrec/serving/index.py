"""The index of a saved recommender: lists to recommend by, and lists to find similar items by."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from graphrec.serving import ivf
from graphrec.serving.ivf import Facts, Lists, Part

FOLDER = "index"


class Index(NamedTuple):
    """An index opened for searching.

    Attributes:
        lists: for ``"recommend"`` and, if built, ``"similar"``.
    """

    lists: dict[str, Lists]

    @property
    def facts(self) -> dict[str, Facts]:
        """What is known of each."""
        return {what: lists.facts for what, lists in self.lists.items()}


def build_index(
    folder: Path,
    items: np.ndarray,
    users: np.ndarray,
    held: str | None,
    recall: float,
    k: int,
    lists: int | None,
    similar: bool,
    seed: int,
) -> Index:
    """Builds and opens an index; see :meth:`graphrec.Recommender.build_index`.

    Args:
        folder: the saved recommender's.
        items: vectors ``(n_items, d) float32``.
        users: vectors ``(n_users, d) float32``.
        held: sha256 of the file of the item vectors.
        recall: wanted share of the ``k`` best.
        k: see ``recall``.
        lists: how many; None: by the number of items.
        similar: whether to find similar items, too.
        seed: of everything drawn.
    """

    def some_users(n: int, rng: np.random.Generator) -> np.ndarray:
        return np.asarray(users[_drawn(len(users), n, rng)])

    def some_items(n: int, rng: np.random.Generator) -> np.ndarray:
        rows = torch.from_numpy(np.array(items[_drawn(len(items), n, rng)]))
        return np.asarray(torch.nn.functional.normalize(rows, dim=1).numpy())

    parts = {"recommend": Part(items, some_users)}
    if similar:
        parts["similar"] = Part(items, some_items, unit=True)
    ivf.build(folder / FOLDER, parts, {"item_vectors": held}, recall, k, lists, seed)
    saved = ivf.opened(folder / FOLDER)
    return Index({what: Lists(saved, what) for what in parts})


def open_index(folder: Path, held: str | None) -> Index | None:
    """The index of a saved recommender.

    Args:
        folder: the saved recommender's.
        held: sha256 of the file of the item vectors.

    Returns:
        None if there is none, or one for other vectors: a recommender saved over another must load.

    Raises:
        CheckpointError: it is damaged.
        MissingDependencyError: faiss is not installed (extra ``ann``).
    """
    if held is None or not (folder / FOLDER / ivf.HEAD).exists():
        return None
    saved = ivf.opened(folder / FOLDER)
    if saved.head["item_vectors"] != held:
        return None
    return Index({what: Lists(saved, what) for what in saved.head["parts"]})


def _drawn(n: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """Up to so many rows, in a random order."""
    return rng.permutation(n)[:most] if n < 2**20 else rng.choice(n, most, replace=False, shuffle=True)
