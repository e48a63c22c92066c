"""Recommendations with explanations: files to work on next, reviewers, experts.

For a review, a person's knowledge of a file halves every half year, and a person who worked on the files that
are changed together with a file knows that file as well, in proportion to the share of these files. For
expertise it never falls below :data:`LASTING`, so that whoever worked on all files of a folder is not ranked
below somebody who worked on fewer than half of them, however long ago.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from graphrec.code.project import Project
from graphrec.core.errors import ConfigError, DataError
from graphrec.core.topk import top_indices
from graphrec.data.times import SECONDS_PER_DAY

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

HALF_LIFE_DAYS = 180.0
"""Days in which the knowledge of a file halves."""
LASTING = 0.5
"""Share of an expert's knowledge of a file that stays."""
YEAR = 365 * SECONDS_PER_DAY
"""Seconds before the newest contribution that count as the last year."""
MAX_NAMED = 2
"""Number of files that an explanation names."""


@dataclass(frozen=True)
class Suggestion:
    """A recommended file.

    Attributes:
        file: path relative to the top of the repository.
        score: the model's score.
        why: explanation.
    """

    file: str
    score: float
    why: str


@dataclass(frozen=True)
class Colleague:
    """A recommended person.

    Attributes:
        name: name in the clone.
        id: hashed user id.
        score: knowledge of the files.
        why: explanation.
    """

    name: str
    id: str
    score: float
    why: str


def suggest(project: Project, who: str, k: int = 10, under: str = "") -> list[Suggestion]:
    """Files that a person has not worked on and probably will, best first.

    Args:
        project: the repository.
        who: address, login or name.
        k: maximum number of files.
        under: only files at or under this path.

    Raises:
        ConfigError: ``k`` is below 1.
        DataError: there is no such contributor or path.
    """
    if k < 1:
        raise ConfigError(f"k={k}; expected at least 1")
    data = project.data
    user = project.find_user(who)
    only = [data.items[int(i)] for i in project.files(under)] if under else None
    items, scores = project.recommender.recommend(data.users[user], k, only=only)
    profile = project.profiles[[user]]
    return [
        Suggestion(
            project.path_of(item),
            float(score),
            _explain_file(project, profile, int(data.items.index(item)), "your files"),
        )
        for item, score in zip(items.tolist(), scores.tolist(), strict=True)
        if item is not None
    ]


def suggest_for_change(
    project: Project, files: Iterable[str], k: int = 10, under: str = ""
) -> list[Suggestion]:
    """Files that people worked on together with the files of a change, best first.

    It needs no contributor: the change stands for what a person worked on (co-change, Eq. 5, with equal
    weights).

    Args:
        project: the repository.
        files: paths relative to the top of the repository; for a new file, the files of its folder are used,
            and a path without either is left out.
        k: maximum number of files.
        under: only files at or under this path.

    Returns:
        nothing if all paths are left out.

    Raises:
        ConfigError: ``k`` is below 1.
        DataError: there is no file or folder ``under``.
    """
    from scipy.sparse import csr_matrix

    if k < 1:
        raise ConfigError(f"k={k}; expected at least 1")
    weight = np.zeros(project.data.n_items, dtype=np.float32)
    changed: set[int] = set()
    for path in files:
        with suppress(DataError):
            found = project.files(path, nearby=True)
            weight[found] += 1 / len(found)
            changed |= {int(i) for i in found if project.path_of(project.data.items[int(i)]) == path}
    profile = csr_matrix(weight / max(1.0, weight.sum()))
    score = np.asarray((project.neighbors @ profile.T).todense()).reshape(-1)
    score[list(changed)] = 0
    if under:
        score[np.setdiff1d(np.arange(len(score)), project.files(under))] = 0
    return [
        Suggestion(
            _file(project, i), float(score[i]), _explain_file(project, profile, i, "the changed files")
        )
        for i in _best(score, k)
    ]


def reviewers(
    project: Project, files: Sequence[str], k: int = 5, exclude: Iterable[str] = ()
) -> list[Colleague]:
    """People who should review a change of some files, best first.

    Args:
        project: the repository.
        files: paths relative to the top of the repository; for a new file, its folder is used.
        k: maximum number of people.
        exclude: addresses, logins or names to leave out, such as the author's.

    Raises:
        ConfigError: no file, or ``k`` below 1.
        DataError: neither a path nor its folder exists, or there is no contributor of an excluded name.
    """
    if k < 1 or not files:
        raise ConfigError(f"{len(files)} files, k={k}; expected at least one file and k from 1")
    known = knowledge(project)  # (n_users, n_items)
    changed = np.unique(np.concatenate([project.files(path, nearby=True) for path in files]))
    neighbors = project.neighbors[changed]  # (f, n_items)
    share = neighbors.multiply(1 / np.maximum(neighbors.sum(1), 1e-12)).tocsr()
    direct = known[:, changed].sum(1)
    indirect = (known @ share.T).sum(1)
    score = np.asarray(direct + indirect).reshape(-1) / len(changed)
    for who in exclude:
        score[project.find_user(who)] = 0
    relatedness = np.asarray(neighbors.sum(0)).reshape(-1)
    relatedness[changed] = 0
    return [_colleague(project, u, score[u], changed, relatedness) for u in _best(score, k)]


def experts(project: Project, path: str = "", k: int = 5) -> list[Colleague]:
    """People who know a file or a folder, best first.

    Args:
        project: the repository.
        path: relative to the top of the repository; default: the whole repository.
        k: maximum number of people.

    Raises:
        ConfigError: ``k`` is below 1.
        DataError: there is no such path.
    """
    if k < 1:
        raise ConfigError(f"k={k}; expected at least 1")
    files = project.files(path)
    known = knowledge(project)
    known.data = LASTING + (1 - LASTING) * known.data
    score = np.asarray(known[:, files].sum(1)).reshape(-1)
    relatedness = np.zeros(project.data.n_items)
    return [_colleague(project, u, score[u], files, relatedness) for u in _best(score, k)]


def knowledge(project: Project) -> csr_matrix:
    """Each person's knowledge of the files they worked on, sparse ``(n_users, n_items)``; 1 for a
    contribution at the newest time (or after it, by a clock in the future).
    """
    from scipy.sparse import csr_matrix

    train = project.data.train
    assert train.times is not None
    age = np.maximum(project.newest_time - train.times, 0)
    weight = 0.5 ** (age / SECONDS_PER_DAY / HALF_LIFE_DAYS)
    return csr_matrix((weight, train.items.copy(), train.indptr.copy()), shape=(train.n_users, train.n_items))


def _best(score: np.ndarray, k: int) -> list[int]:
    return [int(u) for u in top_indices(score, k) if score[u] > 0]


def _explain_file(project: Project, profile: csr_matrix, item: int, whose: str) -> str:
    """Names the files of a profile that a file is changed with, those in its folder, and its number of
    contributors, also of the last year.

    Args:
        project: the repository.
        profile: weights of files, sparse ``(1, n_items)``.
        item: the file.
        whose: the files of the profile in words, such as ``"your files"``.
    """
    train = project.data.train
    parts = []
    shared = project.neighbors[[item]].multiply(profile).tocoo()
    best = [int(shared.col[i]) for i in top_indices(shared.data, MAX_NAMED)]
    if best:
        both = _count_shared_contributors(project, item, best[0])
        parts.append(
            f"worked on together with {' and '.join(_file(project, i) for i in best)}"
            + (f" ({both} did both)" if both > 1 else "")
        )
    folder = _folder(_file(project, item))
    in_folder = sum(_folder(_file(project, int(i))) == folder for i in profile.indices)
    if in_folder:
        verb = "are" if in_folder > 1 else "is"
        parts.append(f"{in_folder} of {whose} {verb} in {folder or 'the same folder'}")
    n = int(train.item_degree[item])
    lately = int((train.seconds[train.items == item] > project.newest_time - YEAR).sum())
    counted = f"{n} {'people' if n > 1 else 'person'} worked on it"
    parts.append(f"{counted}, {lately} in the last year" if lately else counted)
    return "; ".join(parts)


def _colleague(
    project: Project, user: int, score: float, files: np.ndarray, relatedness: np.ndarray
) -> Colleague:
    """A person, explained by their work on ``files`` and on files related to them.

    Args:
        project: the repository.
        user: the person.
        score: knowledge of the files.
        files: item indices.
        relatedness: how often each item is changed together with ``files`` ``(n_items,)``.
    """
    train = project.data.train
    assert train.times is not None
    parts = []
    items = train.items_of(user)
    start = train.indptr[user]
    inside = np.isin(items, files)
    if inside.any():
        last = int(train.times[start : start + len(items)][inside].max())
        count = f"{int(inside.sum())} of {len(files)} files" if len(files) > 1 else "it"
        parts.append(f"worked on {count}, last {_ago(max(project.newest_time - last, 0))}")
    related = sorted((int(i) for i in items if relatedness[i]), key=lambda i: -relatedness[i])
    if related:
        names = ", ".join(_file(project, i) for i in related[:MAX_NAMED])
        more = f" and {len(related) - MAX_NAMED} more" if len(related) > MAX_NAMED else ""
        verb = "are" if len(related) > 1 else "is"
        parts.append(f"works on {names}{more}, which {verb} worked on with it")
    id_ = str(project.data.users[user])
    return Colleague(project.user_names.get(user, id_), id_, float(score), "; ".join(parts))


def _count_shared_contributors(project: Project, one: int, other: int) -> int:
    train = project.data.train
    return len(np.intersect1d(*(train.users[train.items == item] for item in (one, other))))


def _file(project: Project, item: int) -> str:
    return project.path_of(project.data.items[item])


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _ago(seconds: int) -> str:
    days = round(seconds / SECONDS_PER_DAY)
    if not days:
        return "with the newest commit"
    if days < 60:
        return f"{days} {'days' if days > 1 else 'day'} before the newest commit"
    if days < 700:
        return f"{round(days / 30.4)} months before the newest commit"
    return f"{round(days / 365.25)} years before the newest commit"
