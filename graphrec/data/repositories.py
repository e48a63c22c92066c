"""Repositories as models use them: files, directory tree, and behavior of people.

:func:`Repositories.from_dataset` reads them from a dataset with the relations of
:mod:`graphrec.data.git.dataset`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import polars as pl

from graphrec.core.errors import DataError
from graphrec.data.attributes import edges_from_pairs
from graphrec.data.dataset import Dataset, Relation
from graphrec.data.interactions import Interactions
from graphrec.data.splits import TimeCut, TimeSplit, as_split
from graphrec.data.vocabulary import Vocabulary

OF: Relation = ("item", "of", "repository")
TREE: tuple[Relation, ...] = (
    ("item", "in", "directory"),
    ("directory", "in", "directory"),
    ("item", "in", "repository"),
    ("directory", "in", "repository"),
)
N_EXTENSIONS = 5
"""Number of a repository's most common extensions that are features of it."""
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\W\d_A-Za-z]+")


def known_at_cut(
    frame: pl.DataFrame, split: Any, source: str, min_files: int = 1
) -> tuple[pl.DataFrame, Any, dict[str, int]]:
    """Contributions of the people and to the files that are known where a split with one time for all starts.

    What happens later then cannot change who and what there is to learn from. With another split all
    contributions count.

    Args:
        frame: contributions, with columns ``user``, ``item`` and ``time`` in seconds.
        split: split object, name or description; shares of ``time`` become two times.
        source: file or repositories, for messages.
        min_files: keep people who contributed to at least so many files (before the cut).

    Returns:
        the contributions, the split, and how many contributions after the cut were left out, for ``meta``.

    Raises:
        DataError: nothing is left before the cut.
    """
    recipe = as_split(split)
    if isinstance(recipe, TimeSplit) and frame.height:
        recipe = TimeCut(*recipe.starts(frame["time"].to_numpy()))
    if not isinstance(recipe, TimeCut):
        return frame.filter(pl.len().over("user") >= min_files), recipe, {}
    before = frame.filter(pl.col("time") < recipe.valid).filter(pl.len().over("user") >= min_files)
    if not before.height:
        raise DataError(
            f"{source}: none of {frame.height:,} contributions is before the cut at {recipe.valid:.0f}, by a "
            f"person who had worked on at least {min_files} by then; choose a later cut (split cut), or "
            "split each person's contributions (split chronological)"
        )
    after = frame.filter(pl.col("time") >= recipe.valid)
    kept = after.filter(
        pl.col("user").is_in(before["user"].unique().implode())
        & pl.col("item").is_in(before["item"].unique().implode())
    )
    return (
        pl.concat([before, kept]),
        recipe,
        {"of people or files new after the cut": after.height - kept.height},
    )


@dataclass(frozen=True)
class Repositories:
    """Repositories of a dataset.

    Attributes:
        repository: repository of each file ``(n_items,) int64``.
        edges: edges of the tree in both directions, over files, then directories, then repositories
            ``(2, E) int64``; the first half points from child to parent.
        words: words of the directories' names, one directory after the other ``(m,) int64``.
        weights: their TF-IDF, normalized for each directory ``(m,) float32``.
        offsets: where the words of each directory begin, and the end ``(n_directories + 1,) int64``.
        n_words: number of different words, at least 1.
        features: owner, time of the first contribution and most common extensions of each repository
            ``(n_repositories, f) float32``.
        behaviors: pairs of users and repositories, by behavior.
    """

    repository: np.ndarray
    edges: np.ndarray
    words: np.ndarray
    weights: np.ndarray
    offsets: np.ndarray
    n_words: int
    features: np.ndarray
    behaviors: Mapping[str, Interactions]

    @classmethod
    def from_dataset(cls, data: Dataset) -> Self:
        """Reads the repositories of a dataset.

        Raises:
            DataError: it has no repositories, or a file is in none or in two.
        """
        repository = repository_of(data)
        n = len(data.nodes["repository"])
        behaviors = {
            key[1]: Interactions(edges[0], edges[1], data.n_users, n, name=key[1])
            for key, edges in sorted(data.relations.items())
            if (key[0], key[2]) == ("user", "repository") and edges.shape[1]
        }
        words, weights, offsets, n_words = _words(data)
        features = _features(data, repository)
        return cls(repository, _edges(data), words, weights, offsets, n_words, features, behaviors)


def repository_of(data: Dataset) -> np.ndarray:
    """The repository of each file ``(n_items,) int64``.

    Raises:
        DataError: the dataset has no repositories, or a file is in none or in two.
    """
    if OF not in data.relations:
        raise DataError(
            f"{data.name}: has no repositories (no relation {OF}); make a dataset of clones: graphrec data "
            "git"
        )
    items, repositories = data.relations[OF]
    if not np.array_equal(items, np.arange(data.n_items)):
        raise DataError(f"{data.name}: {OF} does not name one repository for each of {data.n_items:,} files")
    repository: np.ndarray = repositories.astype(np.int64)
    return repository


def path_words(path: str) -> str:
    """The words of a path, which end at characters other than letters and digits, and before capitals."""
    return " ".join(WORD.findall(path)) or path


def tree_of(
    files: Sequence[tuple[int, Sequence[str]]], names: Sequence[str]
) -> tuple[dict[str, Vocabulary], dict[Relation, np.ndarray]]:
    """Nodes and relations of directories and repositories.

    Args:
        files: repository and path components of each item.
        names: names of the repositories.
    """
    edges: dict[Relation, list[tuple[int, int]]] = {key: [] for key in (*TREE, OF)}
    directories: dict[str, int] = {}

    def directory(repository: int, parts: Sequence[str]) -> int:
        """Number of a directory; its parents are numbered first."""
        path = f"{names[repository]}/{'/'.join(parts)}/"
        if path not in directories:
            parent = directory(repository, parts[:-1]) if len(parts) > 1 else repository
            kind: Relation = ("directory", "in", "directory" if len(parts) > 1 else "repository")
            directories[path] = len(directories)
            edges[kind].append((directories[path], parent))
        return directories[path]

    for item, (repository, parts) in enumerate(files):
        edges[OF].append((item, repository))
        if len(parts) == 1:
            edges["item", "in", "repository"].append((item, repository))
        else:
            edges["item", "in", "directory"].append((item, directory(repository, parts[:-1])))
    nodes = {
        "repository": Vocabulary(names, "repository"),
        "directory": Vocabulary(list(directories), "directory"),
    }
    return nodes, {key: edges_from_pairs(pairs) for key, pairs in edges.items()}


def _edges(data: Dataset) -> np.ndarray:
    n_directories = len(data.nodes["directory"]) if "directory" in data.nodes else 0
    start = {"item": 0, "directory": data.n_items, "repository": data.n_items + n_directories}
    parts = [
        np.stack([edges[0] + start[key[0]], edges[1] + start[key[2]]]).astype(np.int64)
        for key in TREE
        if (edges := data.relations.get(key)) is not None
    ]
    to_parents = np.concatenate([np.empty((2, 0), np.int64), *parts], axis=1)
    return np.concatenate([to_parents, to_parents[::-1]], axis=1)


def _words(data: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """TF-IDF of the words in the names of directories."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    directories = data.nodes.get("directory")
    paths = () if directories is None else directories.ids
    names = [str(path).rstrip("/").rpartition("/")[2] for path in paths]
    if not any(WORD.search(name) for name in names):
        return np.empty(0, np.int64), np.empty(0, np.float32), np.zeros(len(names) + 1, np.int64), 1
    vectorizer = TfidfVectorizer(
        analyzer=lambda name: [w.lower() for w in WORD.findall(name)], dtype=np.float32
    )
    table = vectorizer.fit_transform(names)
    table.sort_indices()
    return table.indices.astype(np.int64), table.data, table.indptr.astype(np.int64), table.shape[1]


def _features(data: Dataset, repository: np.ndarray) -> np.ndarray:
    """Features of repositories: owners of several repositories (one-hot), standardized time of the first
    train contribution, most common extensions (multi-hot).
    """
    names = [str(name) for name in data.nodes["repository"].ids]
    owner_of = [name.rpartition("/")[0] for name in names]
    owners = sorted(owner for owner, n in Counter(owner_of).items() if owner and n > 1)
    owned = np.array([[owner == column for column in owners] for owner in owner_of])
    begin = np.full(len(names), np.nan)
    if data.train.times is not None:
        np.fmin.at(begin, repository[data.train.items], data.train.times.astype(np.float64))
    begin = np.where(np.isnan(begin), np.nanmean(begin) if not np.isnan(begin).all() else 0.0, begin)
    begin = (begin - begin.mean()) / (begin.std() or 1.0)
    counts = [Counter[str]() for _ in names]
    for item, r in zip(data.items.ids, repository.tolist(), strict=True):
        counts[r][str(item).rpartition("/")[2].rpartition(".")[2].lower()] += 1
    common = [[e for e, _ in sorted(c.items(), key=lambda x: (-x[1], x[0]))[:N_EXTENSIONS]] for c in counts]
    column_of = {e: i for i, e in enumerate(sorted({e for extensions in common for e in extensions}))}
    extension = np.zeros((len(names), len(column_of)))
    for row, extensions in enumerate(common):
        extension[row, [column_of[e] for e in extensions]] = 1
    features = [owned.reshape(len(names), -1), begin[:, None], extension]
    return np.concatenate(features, axis=1).astype(np.float32)
