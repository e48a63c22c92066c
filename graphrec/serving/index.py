"""The index of a saved recommender: one part to recommend by, one to find similar items by."""

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
    vectors_sha256: str | None,
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
        vectors_sha256: sha256 of the file of the item vectors.
        recall: wanted share of the ``k`` best.
        k: see ``recall``.
        lists: how many; None: by the number of items.
        similar: whether to find similar items, too.
        seed: of everything drawn.
    """
    parts = _parts(items, users)
    if not similar:
        del parts["similar"]
    saved = ivf.build(folder / FOLDER, parts, {"item_vectors": vectors_sha256}, recall, k, lists, seed)
    return Index({name: Lists(saved, name) for name in parts})


def open_index(
    folder: Path, items: np.ndarray, users: np.ndarray, vectors_sha256: str | None
) -> Index | None:
    """The index of a saved recommender.

    Args:
        folder: the saved recommender's.
        items: vectors ``(n_items, d) float32``.
        users: vectors ``(n_users, d) float32``.
        vectors_sha256: sha256 of the file of the item vectors.

    Returns:
        None if there is none, or one for other vectors: a recommender saved over another must load.

    Raises:
        CheckpointError: it is damaged, or of an earlier format and cannot be written anew.
        MissingDependencyError: faiss is not installed (extra ``ann``).
    """
    if vectors_sha256 is None or not (folder / FOLDER / ivf.HEAD).exists():
        return None
    saved = ivf.open_directory(folder / FOLDER, _parts(items, users), {"item_vectors": vectors_sha256})
    return None if saved is None else Index({name: Lists(saved, name) for name in saved.head["parts"]})


def _parts(items: np.ndarray, users: np.ndarray) -> dict[str, Part]:
    """What lists are built for: items to recommend to users, and items to compare with items by cosine."""

    def draw_users(n: int, rng: np.random.Generator) -> np.ndarray:
        return np.asarray(users[_draw(len(users), n, rng)])

    def draw_items(n: int, rng: np.random.Generator) -> np.ndarray:
        rows = torch.from_numpy(np.array(items[_draw(len(items), n, rng)]))
        return np.asarray(torch.nn.functional.normalize(rows, dim=1).numpy())

    return {"recommend": Part(items, draw_users), "similar": Part(items, draw_items, unit=True)}


def _draw(n: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """Up to ``most`` of ``n`` rows, in a random order."""
    return rng.permutation(n)[:most] if n < 2**20 else rng.choice(n, most, replace=False, shuffle=True)
