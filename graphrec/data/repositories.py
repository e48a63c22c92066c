"""Repositories, as models see them: which file is in which, the tree, and what people did in them.

Made by :func:`Repositories.from_dataset` from a dataset with the relations of :mod:`graphrec.data.git.dataset`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from graphrec.core.errors import DataError
from graphrec.data.attributes import edges_from_pairs
from graphrec.data.dataset import Dataset, Relation
from graphrec.data.interactions import Interactions
from graphrec.data.vocabulary import Vocabulary

OF: Relation = ("item", "of", "repository")
TREE: tuple[Relation, ...] = (
    ("item", "in", "directory"), ("directory", "in", "directory"),
    ("item", "in", "repository"), ("directory", "in", "repository"),
)  # fmt: skip
LANGUAGES = 5
"""Commonest extensions of a repository that describe it."""
NAME = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\W\d_A-Za-z]+")


@dataclass(frozen=True)
class Repositories:
    """What a dataset knows of repositories.

    Attributes:
        repository: that of each file ``(n_items,) int64``.
        edges: of the tree, in both directions, over files, then directories, then repositories
            ``(2, E) int64``.
        words: words of the directories' names, one directory after the other ``(m,) int64``.
        weights: their TF-IDF, of length 1 for each directory ``(m,) float32``.
        offsets: where the words of each begin, and the end ``(n_directories + 1,) int64``.
        n_words: how many different there are, at least 1.
        about: owner, time of the first contribution and commonest extensions of each repository
            ``(n_repositories, f) float32``.
        behaviors: users and repositories, by what was done.
    """

    repository: np.ndarray
    edges: np.ndarray
    words: np.ndarray
    weights: np.ndarray
    offsets: np.ndarray
    n_words: int
    about: np.ndarray
    behaviors: Mapping[str, Interactions]

    @classmethod
    def from_dataset(cls, data: Dataset) -> Self:
        """Those of a dataset.

        Raises:
            DataError: it has none, or a file is in none or in two.
        """
        repository = repository_of(data)
        n = len(data.nodes["repository"])
        done = {
            key[1]: Interactions(edges[0], edges[1], data.n_users, n, name=key[1])
            for key, edges in sorted(data.relations.items())
            if (key[0], key[2]) == ("user", "repository") and edges.shape[1]
        }
        words, weights, offsets, n_words = _words(data)
        return cls(repository, _edges(data), words, weights, offsets, n_words, _about(data, repository), done)


def repository_of(data: Dataset) -> np.ndarray:
    """The repository of each file ``(n_items,) int64``.

    Raises:
        DataError: the dataset has none, or a file is in none or in two.
    """
    if OF not in data.relations:
        raise DataError(
            f"{data.name}: has no repositories (no relation {OF}); make a dataset of clones: graphrec data "
            "git"
        )
    items, repositories = data.relations[OF]
    if not np.array_equal(items, np.arange(data.n_items)):
        raise DataError(f"{data.name}: {OF} does not name one repository for each of {data.n_items:,} files")
    found: np.ndarray = repositories.astype(np.int64)
    return found


def path_words(path: str) -> str:
    """A path's words: split at what is no letter or digit, and where capitals begin."""
    return " ".join(NAME.findall(path)) or path


def tree_of(
    files: Sequence[tuple[int, Sequence[str]]], names: Sequence[str]
) -> tuple[dict[str, Vocabulary], dict[Relation, np.ndarray]]:
    """Nodes and relations of directories and repositories.

    Args:
        files: repository and parts of the path of each item.
        names: of the repositories.
    """
    edges: dict[Relation, list[tuple[int, int]]] = {key: [] for key in (*TREE, OF)}
    directories: dict[str, int] = {}

    def directory(repository: int, parts: Sequence[str]) -> int:
        """Number of a directory, made after those above it."""
        path = f"{names[repository]}/{'/'.join(parts)}/"
        if path not in directories:
            above = directory(repository, parts[:-1]) if len(parts) > 1 else repository
            kind: Relation = ("directory", "in", "directory" if len(parts) > 1 else "repository")
            directories[path] = len(directories)
            edges[kind].append((directories[path], above))
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
    one_way = np.concatenate([np.empty((2, 0), np.int64), *parts], axis=1)
    return np.concatenate([one_way, one_way[::-1]], axis=1)


def _words(data: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """TF-IDF of the words that directories are called by; split at underscores and capitals."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    directories = data.nodes.get("directory")
    names = (
        [] if directories is None else [str(path).rstrip("/").rpartition("/")[2] for path in directories.ids]
    )
    if not any(NAME.search(name) for name in names):
        return np.empty(0, np.int64), np.empty(0, np.float32), np.zeros(len(names) + 1, np.int64), 1
    known = TfidfVectorizer(analyzer=lambda name: [w.lower() for w in NAME.findall(name)], dtype=np.float32)
    table = known.fit_transform(names)
    table.sort_indices()
    return table.indices.astype(np.int64), table.data, table.indptr.astype(np.int64), table.shape[1]


def _about(data: Dataset, repository: np.ndarray) -> np.ndarray:
    """Owner (those of several repositories), time of the first train contribution, extensions."""
    names = [str(name) for name in data.nodes["repository"].ids]
    owners = Counter(name.rpartition("/")[0] for name in names)
    several = sorted(owner for owner, n in owners.items() if owner and n > 1)
    begun = np.full(len(names), np.nan)
    if data.train.times is not None:
        np.fmin.at(begun, repository[data.train.items], data.train.times.astype(np.float64))
    begun = np.where(np.isnan(begun), np.nanmean(begun) if not np.isnan(begun).all() else 0.0, begun)
    begun = (begun - begun.mean()) / (begun.std() or 1.0)
    counts = [Counter[str]() for _ in names]
    for item, where in zip(data.items.ids, repository.tolist(), strict=True):
        counts[where][str(item).rpartition("/")[2].rpartition(".")[2].lower()] += 1
    common = [[w for w, _ in sorted(c.items(), key=lambda x: (-x[1], x[0]))[:LANGUAGES]] for c in counts]
    column = {w: i for i, w in enumerate(sorted({w for c in common for w in c}))}
    languages = np.zeros((len(names), len(column)))
    for row, found in enumerate(common):
        languages[row, [column[w] for w in found]] = 1
    owned = np.array([[name.rpartition("/")[0] == owner for owner in several] for name in names])
    return np.concatenate([owned.reshape(len(names), -1), begun[:, None], languages], axis=1).astype(
        np.float32
    )
