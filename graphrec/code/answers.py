"""Files next, reviewers, experts, each with why.

What somebody knows of a file fades by half in half a year. Whoever worked on the files that are worked on
together with a file knows of it as well, as much as these make up of all that it is worked on with.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from graphrec.code.cochange import DAY
from graphrec.code.project import Project
from graphrec.core.errors import ConfigError
from graphrec.core.topk import top_indices

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

HALF = 180.0  # days
NAMED = 2  # files that a reason names


@dataclass(frozen=True)
class Suggestion:
    """A file, how much speaks for it, and what."""

    file: str
    score: float
    why: str


@dataclass(frozen=True)
class Colleague:
    """A person, how much speaks for them, and what; the id is a hash, the name is from the clone."""

    name: str
    id: str
    score: float
    why: str


def suggest(project: Project, who: str, k: int = 10, under: str = "") -> list[Suggestion]:
    """Files that somebody has not worked on and is likely to, best first.

    Args:
        project: the repository.
        who: address, login or name.
        k: how many.
        under: only files at or under this path.

    Raises:
        ConfigError: ``k`` below 1.
        DataError: nobody of that name contributed, or there is no such path.
    """
    if k < 1:
        raise ConfigError(f"k={k}; expected at least 1")
    data, user = project.data, project.person(who)
    only = [data.items[int(i)] for i in project.files(under)] if under else None
    found, scores = project.recommender.recommend(data.users[user], k, only=only)
    return [
        Suggestion(project.path_of(item), float(score), _why_file(project, user, int(data.items.index(item))))
        for item, score in zip(found.tolist(), scores.tolist(), strict=True)
        if item is not None
    ]


def reviewers(
    project: Project, files: Sequence[str], k: int = 5, exclude: Iterable[str] = ()
) -> list[Colleague]:
    """Who should look at a change of some files, best first.

    Args:
        project: the repository.
        files: paths from the top of the repository; of a new file its folder is taken.
        k: how many.
        exclude: addresses, logins or names to leave out, such as the author's.

    Raises:
        ConfigError: no file, or ``k`` below 1.
        DataError: a path that is not there, nor its folder; nobody of a name to leave out.
    """
    if k < 1 or not files:
        raise ConfigError(f"{len(files)} files, k={k}; expected at least one file and k from 1")
    known = knowledge(project)  # (n_users, n_items)
    changed = np.unique(np.concatenate([project.files(path, nearby=True) for path in files]))
    near = project.near[changed]  # (f, n_items)
    share = near.multiply(1 / np.maximum(near.sum(1), 1e-12)).tocsr()
    direct, around = (known[:, changed]).sum(1), (known @ share.T).sum(1)
    score = np.asarray(direct + around).reshape(-1) / len(changed)
    for who in exclude:
        score[project.person(who)] = 0
    beside = np.asarray(near.sum(0)).reshape(-1)
    beside[changed] = 0
    best = _best(score, k)
    return [_colleague(project, u, score[u], changed, beside) for u in best]


def experts(project: Project, path: str = "", k: int = 5) -> list[Colleague]:
    """Who knows a file or a folder, best first.

    Args:
        project: the repository.
        path: from its top; default: all of it.
        k: how many.

    Raises:
        ConfigError: ``k`` below 1.
        DataError: there is no such path.
    """
    if k < 1:
        raise ConfigError(f"k={k}; expected at least 1")
    files = project.files(path)
    score = np.asarray(knowledge(project)[:, files].sum(1)).reshape(-1)
    none = np.zeros(project.data.n_items)
    return [_colleague(project, u, score[u], files, none) for u in _best(score, k)]


def knowledge(project: Project) -> csr_matrix:
    """What each person knows of each file they worked on, as a sparse ``(n_users, n_items)`` matrix; 1 for
    who worked on it when anybody last did anything.
    """
    from scipy.sparse import csr_matrix

    train = project.data.train
    assert train.times is not None
    weight = 0.5 ** ((project.now - train.times) / DAY / HALF)
    return csr_matrix((weight, train.items.copy(), train.indptr.copy()), shape=(train.n_users, train.n_items))


def _best(score: np.ndarray, k: int) -> list[int]:
    return [int(u) for u in top_indices(score, k) if score[u] > 0]


def _why_file(project: Project, user: int, item: int) -> str:
    """Files of theirs that it is worked on with, who worked on both, and what is beside it."""
    train, parts = project.data.train, []
    own = project.near[[item]].multiply(project.taken[[user]]).tocoo()
    best = [int(own.col[at]) for at in top_indices(own.data, NAMED)]
    if best:
        both = _both(project, item, best[0])
        parts.append(
            f"worked on together with {' and '.join(_file(project, i) for i in best)}"
            + (f" ({both} did both)" if both > 1 else "")
        )
    mine = train.items_of(user)
    folder = _folder(_file(project, item))
    beside = sum(_folder(_file(project, int(i))) == folder for i in mine)
    if beside:
        parts.append(
            f"{beside} of your files {'are' if beside > 1 else 'is'} in {folder or 'the same folder'}"
        )
    many = int(train.item_degree[item])
    parts.append(f"{many} {'people' if many > 1 else 'person'} worked on it")
    return "; ".join(parts if best or beside else parts[-1:])


def _colleague(project: Project, user: int, score: float, files: np.ndarray, beside: np.ndarray) -> Colleague:
    """A person with what they did to ``files``, and to those that go with them by ``beside (n_items,)``."""
    train, parts = project.data.train, []
    assert train.times is not None
    mine = train.items_of(user)
    start = train.indptr[user]
    inside = np.isin(mine, files)
    if inside.any():
        last = int(train.times[start : start + len(mine)][inside].max())
        n = int(inside.sum())
        of = f"{n} of {len(files)} files" if len(files) > 1 else "it"
        parts.append(f"worked on {of}, last {_ago(project.now - last)}")
    around = sorted((int(i) for i in mine if beside[i]), key=lambda i: -beside[i])
    if around:
        named = ", ".join(_file(project, i) for i in around[:NAMED])
        more = f" and {len(around) - NAMED} more" if len(around) > NAMED else ""
        parts.append(f"works on {named}{more}, which {'are' if len(around) > 1 else 'is'} worked on with it")
    id_ = str(project.data.users[user])
    return Colleague(project.names.get(user, id_), id_, float(score), "; ".join(parts))


def _both(project: Project, one: int, other: int) -> int:
    train = project.data.train
    mine, theirs = (train.users[train.items == item] for item in (one, other))
    return len(np.intersect1d(mine, theirs))


def _file(project: Project, item: int) -> str:
    return project.path_of(project.data.items[item])


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _ago(seconds: int) -> str:
    days = round(seconds / DAY)
    if not days:
        return "with the newest commit"
    if days < 60:
        return f"{days} {'days' if days > 1 else 'day'} before the newest commit"
    if days < 700:
        return f"{round(days / 30.4)} months before the newest commit"
    return f"{round(days / 365.25)} years before the newest commit"
