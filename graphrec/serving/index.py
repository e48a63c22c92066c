"""The index of a saved recommender: lists for recommendations and lists for similar items."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from graphrec.serving import ivf, vectors
from graphrec.serving.ivf import Facts, Lists, Part

FOLDER = "index"


class Index(NamedTuple):
    """An index opened for search.

    Attributes:
        lists: by task: ``"recommend"`` and, if built, ``"similar"``.
    """

    lists: dict[str, Lists]

    @property
    def facts(self) -> dict[str, Facts]:
        """Size and measured recall of the lists, by task."""
        return {task: lists.facts for task, lists in self.lists.items()}


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
        folder: directory of the saved recommender.
        items: vectors ``(n_items, d) float32``.
        users: vectors ``(n_users, d) float32``.
        vectors_sha256: sha256 of the file of the item vectors.
        recall: share of the ``k`` best items that a search should find.
        k: see ``recall``.
        lists: number of lists; None: chosen by the number of items.
        similar: build lists for similar items, too.
        seed: seed of all random draws.
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
        folder: directory of the saved recommender.
        items: vectors ``(n_items, d) float32``.
        users: vectors ``(n_users, d) float32``.
        vectors_sha256: sha256 of the file of the item vectors.

    Returns:
        None if there is no index or it is of other vectors, as after saving a recommender over another.

    Raises:
        CheckpointError: it is damaged, or of an earlier format and cannot be upgraded.
        MissingDependencyError: faiss is not installed (extra ``ann``).
    """
    if vectors_sha256 is None or not (folder / FOLDER / ivf.HEAD).exists():
        return None
    saved = ivf.open_directory(folder / FOLDER, _parts(items, users), {"item_vectors": vectors_sha256})
    return None if saved is None else Index({name: Lists(saved, name) for name in saved.head["parts"]})


def _parts(items: np.ndarray, users: np.ndarray) -> dict[str, Part]:
    """The parts of an index: items searched by users, and items searched by items with the cosine."""

    def draw_users(n: int, rng: np.random.Generator) -> np.ndarray:
        return np.asarray(users[_draw(len(users), n, rng)])

    def draw_items(n: int, rng: np.random.Generator) -> np.ndarray:
        return np.asarray(vectors.normalize_rows(items[_draw(len(items), n, rng)]))

    return {"recommend": Part(items, draw_users), "similar": Part(items, draw_items, unit=True)}


def _draw(n: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of up to ``most`` of ``n`` rows, in random order."""
    return rng.permutation(n)[:most] if n < 2**20 else rng.choice(n, most, replace=False, shuffle=True)
