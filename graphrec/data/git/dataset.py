"""From clones to a dataset: people, the files they worked on, directories, repositories.

- users are people, under hashed ids (see :mod:`graphrec.data.git.people`);
- items are files, ``repository/path``; an interaction's time is that of the first commit (or the last:
  ``when``);
- ``nodes["repository"]``, ``nodes["directory"]`` (``repository/path/``) and ``nodes["address"]`` (hashes of
  addresses, logins and names, to find people again);
- ``relations["item", "of", "repository"]``; the tree: ``["item", "in", "directory"]``,
  ``["directory", "in", "directory"]`` and, at the top, ``["item", "in", "repository"]``,
  ``["directory", "in", "repository"]``; what people did in repositories before anything that is held out of
  them: ``["user", "authored", "repository"]`` and so on; ``["address", "of", "user"]``;
- ``content["code"]``: what the files said before the first contribution to them that is held out;
  ``content["path"]``: their paths, in words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from graphrec.core.errors import ConfigError, DataError
from graphrec.data.attributes import edges_from_pairs
from graphrec.data.content import Content
from graphrec.data.dataset import Dataset, Relation
from graphrec.data.from_frame import as_frame, as_ids, column
from graphrec.data.git.contents import LIMIT, contents
from graphrec.data.git.log import Repository
from graphrec.data.git.mining import BEHAVIORS, Mined, MiningConfig, mine
from graphrec.data.git.people import People
from graphrec.data.repositories import path_words, tree_of
from graphrec.data.splits import TimeCut, as_split
from graphrec.data.vocabulary import Vocabulary

ADDRESS: Relation = ("address", "of", "user")
NEVER = np.iinfo(np.int64).max  # a time after all others


def read_histories(
    paths: Iterable[str | Path],
    *,
    config: MiningConfig | None = None,
    names: Sequence[str] | None = None,
    split: Any = "chronological",
    k_core: int | tuple[int, int] = 0,
    code: bool = True,
    code_bytes: int = LIMIT,
    tables: Mapping[str, Any] | None = None,
    salt: str = "",
    seed: int = 0,
    name: str = "git",
) -> Dataset:
    """A dataset from local clones.

    With the split ``cut`` files are those of the last commit before its first time, as they then were. With
    the others, which have no one time before which all is known, they are those of the revision, and each
    says what it said before the first contribution to it that is held out.

    Args:
        paths: clones, bare or not.
        config: what counts as a contribution.
        names: what to call the repositories; default: by the address they were cloned from, else by folder.
        split: of the contributions, see :mod:`graphrec.data.splits`.
        k_core: see :meth:`Dataset.from_frame`.
        code: whether contents are read.
        code_bytes: bytes of a file that are read at most.
        tables: further behaviors in repositories, by what to call the relation: any dataframe of ``user``
            (login or address), ``repository`` and perhaps ``time`` in seconds.
        salt: key of the hashes of names and addresses.
        seed: of the split.
        name: of the dataset.

    Raises:
        ConfigError: two repositories of one name, or an option out of range.
        DataError: a folder is no clone, git breaks off, or nothing is left.
    """
    config, recipe = config or MiningConfig(), as_split(split)
    repositories = [Repository(path) for path in paths]
    called = _names(repositories, names)
    cut = recipe.valid if isinstance(recipe, TimeCut) else None
    people, mined = People(salt), []
    for repository, title in zip(repositories, called, strict=True):
        mined.append(mine(repository, title, people, config, cut))
    person, names_of, addresses = people.number()
    counts = {m.name: {**m.counts, "head": m.head, "tree": m.tree, "files": len(m.files)} for m in mined}
    columns = _contributions(mined, person, names_of, config)
    if not len(columns["time"]):
        raise DataError(
            f"{', '.join(called)}: no contribution is left ({counts}); check revision, cut and extensions"
        )
    data = Dataset.from_frame(columns, user="user", item="item", time="time", split=recipe, k_core=k_core,
                              seed=seed, name=name, source="the histories")  # fmt: skip
    placed = _places(data, mined)
    parts = [(at, [printable(part) for part in mined[at].files[i].split(b"/")]) for at, i in placed]
    nodes, relations = tree_of(parts, called)
    user = {str(id_): i for i, id_ in enumerate(data.users.ids)}
    until = _first_held(data, "users", data.n_users)
    nodes["address"], relations[ADDRESS] = _addresses(user, names_of, addresses)
    relations |= _behaviors(user, until, mined, [names_of[who] for who in person])
    others = {}
    for did, table in (tables or {}).items():
        edges, others[did] = _table(until, nodes, relations[ADDRESS], as_frame(table, did), did, people)
        relations["user", did, "repository"] = edges
    fields = {"path": Content("text", [path_words(printable(mined[at].files[i])) for at, i in placed])}
    if code:
        fields["code"] = Content("text", _code(data, repositories, mined, placed, config, cut, code_bytes))
    meta = {
        **data.meta,
        "repositories": counts,
        "mining": config.model_dump(mode="json"),
        "salted": bool(salt),
        "rows of others, or too late": others,
    }
    return replace(data, nodes=nodes, relations=relations, content=fields, meta=meta)


def printable(path: bytes) -> str:
    """A path as text: as it is where it is UTF-8, else as git quotes it."""
    try:
        text = path.decode("utf-8")
    except UnicodeDecodeError:
        text = '"'
    if not text.startswith('"'):
        return text
    quoted = "".join(chr(b) if 32 <= b < 127 and b not in b'"\\' else f"\\{b:03o}" for b in path)
    return f'"{quoted}"'


def _names(repositories: Sequence[Repository], names: Sequence[str] | None) -> list[str]:
    if names is None:
        found = [_name(repository) for repository in repositories]
        if len(set(found)) < len(found):  # forks, or unrelated folders of one name
            found = [f"{name}-{i}" if found.count(name) > 1 else name for i, name in enumerate(found, 1)]
        return found
    if len(names) != len(repositories) or len(set(names)) < len(names):
        raise ConfigError(
            f"{len(repositories)} repositories and the names {list(names)}; expected one name "
            "each, all different"
        )
    return list(names)


def _name(repository: Repository) -> str:
    """``owner/name`` of the address that a clone was made from, else its folder's name."""
    address = repository.run("config", "--default", "", "--get", "remote.origin.url").decode(
        "utf-8", "replace"
    )
    found = re.search(r"[/:]([^/:\s]+/[^/:\s]+?)(\.git)?/?\s*$", address)
    if found and not address.startswith(("/", ".", "file:")):
        return found.group(1)
    folder = repository.path.absolute()
    return folder.parent.name if folder.name in (".git", "repo") and folder.parent.name else folder.name


def _contributions(
    mined: Sequence[Mined], person: list[int], people: list[str], config: MiningConfig
) -> dict[str, list[Any]]:
    """Columns of one row a person and a file, with the time of the contribution."""
    columns: dict[str, list[Any]] = {"user": [], "item": [], "time": []}
    for history in mined:
        times: dict[tuple[int, int], int] = {}
        for key, time in history.times.items():
            pair = person[key >> 32], key & 0xFFFFFFFF
            times[pair] = config.which(times.get(pair, time), time)
        titles = _titles(history)
        for (who, file), time in times.items():
            columns["user"].append(people[who])
            columns["item"].append(titles[file])
            columns["time"].append(time)
    return columns


def _titles(history: Mined) -> list[str]:
    """Item ids of the files of a history."""
    return [f"{history.name}/{printable(path)}" for path in history.files]


def _places(data: Dataset, mined: Sequence[Mined]) -> list[tuple[int, int]]:
    """Repository and file of each item."""
    place = {title: (at, i) for at, history in enumerate(mined) for i, title in enumerate(_titles(history))}
    return [place[str(item)] for item in data.items.ids]


def _addresses(
    user: Mapping[str, int], people: list[str], addresses: Mapping[str, int]
) -> tuple[Vocabulary, np.ndarray]:
    """Hashes of the addresses of users, and whose they are."""
    known = sorted((hash_, user[people[who]]) for hash_, who in addresses.items() if people[who] in user)
    vocabulary = Vocabulary([hash_ for hash_, _ in known], "address")
    return vocabulary, edges_from_pairs((i, who) for i, (_, who) in enumerate(known))


def _behaviors(
    user: Mapping[str, int], until: np.ndarray, mined: Sequence[Mined], names_of: list[str]
) -> dict[Relation, np.ndarray]:
    """Who did what in which repository, before anything of theirs that is held out.

    Args:
        user: index of each user by id.
        until: time of each user's first contribution that is held out ``(n_users,)``.
        mined: the histories.
        names_of: id of each number that :meth:`People.register` gave.
    """
    done: dict[str, list[tuple[int, int]]] = {behavior: [] for behavior in BEHAVIORS}
    for at, history in enumerate(mined):
        for (did, number), time in history.behaviors.items():
            who = user.get(names_of[number])
            if who is not None and time < until[who]:
                done[did].append((who, at))
    return {("user", did, "repository"): edges_from_pairs(pairs) for did, pairs in done.items()}


def _first_held(data: Dataset, of: Literal["users", "items"], n: int) -> np.ndarray:
    """Time of the first contribution of each user, or to each item, that is held out ``(n,) int64``."""
    first = np.full(n, NEVER)
    for split in (data.valid, data.test):
        assert split.times is not None
        np.minimum.at(first, getattr(split, of), split.times)
    return first


def _table(
    until: np.ndarray, nodes: Mapping[str, Vocabulary], addresses: np.ndarray, frame: pl.DataFrame,
    did: str, people: People,
) -> tuple[np.ndarray, int]:  # fmt: skip
    """Edges of a table of users and repositories, and how many of its rows are of others or too late."""
    users = as_ids(column(frame, "user", did), "user", did).to_list()
    repositories = as_ids(column(frame, "repository", did), "repository", did).to_list()
    times = (
        column(frame, "time", did).cast(pl.Int64, strict=False).to_list() if "time" in frame.columns else None
    )
    of = {str(nodes["address"][int(a)]): int(user) for a, user in addresses.T}
    at = {str(name): i for i, name in enumerate(nodes["repository"].ids)}
    edges = []
    for row, (who, where) in enumerate(zip(users, repositories, strict=True)):
        user = of.get(people.lookup(who))
        time = None if times is None else times[row]
        if times is not None and time is None:
            raise DataError(f"{did}, row {row + 1}: time {frame['time'][row]!r}; expected whole seconds")
        if user is not None and where in at and (time is None or time < until[user]):
            edges.append((user, at[where]))
    return edges_from_pairs(edges), len(users) - len(edges)


def _code(
    data: Dataset, repositories: Sequence[Repository], mined: Sequence[Mined],
    placed: Sequence[tuple[int, int]], config: MiningConfig, cut: int | None, limit: int,
) -> list[str | None]:  # fmt: skip
    """Contents of the items."""
    item = {place: i for i, place in enumerate(placed)}
    limits: list[dict[int, int]] = [{} for _ in mined]
    if cut is None:
        held = _first_held(data, "items", data.n_items)
        for i in np.flatnonzero(held < NEVER).tolist():
            at, file = placed[i]
            limits[at][file] = int(held[i])
    found: list[str | None] = [None] * data.n_items
    for at, (repository, history) in enumerate(zip(repositories, mined, strict=True)):
        for file, text in enumerate(contents(repository, history, limits[at], config.merges, limit)):
            if (at, file) in item:
                found[item[at, file]] = text
    return found
