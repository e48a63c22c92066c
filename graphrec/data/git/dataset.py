"""Datasets from git clones: people, the files they worked on, directories, repositories.

- users are people, under hashed ids (see :mod:`graphrec.data.git.people`);
- items are files, ``repository/path``; an interaction's time is that of the first commit (or the last:
  ``when``);
- ``nodes["repository"]``, ``nodes["directory"]`` (``repository/path/``) and ``nodes["address"]`` (hashes of
  addresses, logins and names, by which people are found);
- ``relations["item", "of", "repository"]``; the tree: ``["item", "in", "directory"]``,
  ``["directory", "in", "directory"]`` and, at the top, ``["item", "in", "repository"]``,
  ``["directory", "in", "repository"]``; behavior of people in repositories before any of their held-out
  contributions: ``["user", "authored", "repository"]`` and so on; ``["address", "of", "user"]``;
- ``content["code"]``: the files' contents before the first held-out contribution to them;
  ``content["path"]``: the words of their paths.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from graphrec.core.errors import ConfigError, DataError
from graphrec.data.attributes import edges_from_pairs, sorted_edges
from graphrec.data.content import Content
from graphrec.data.dataset import Dataset, Relation
from graphrec.data.frames import as_frame, as_ids, column
from graphrec.data.git.contents import MAX_BYTES, contents
from graphrec.data.git.log import Repository
from graphrec.data.git.mining import BEHAVIORS, Mined, MiningConfig, mine
from graphrec.data.git.people import People
from graphrec.data.repositories import known_at_cut, path_words, tree_of
from graphrec.data.splits import TimeCut, TimeSplit, as_split
from graphrec.data.times import as_seconds
from graphrec.data.vocabulary import Vocabulary

ADDRESS: Relation = ("address", "of", "user")
NEVER = np.iinfo(np.int64).max
"""A time after all others."""


def read_histories(
    paths: Iterable[str | Path],
    *,
    config: MiningConfig | None = None,
    names: Sequence[str] | None = None,
    split: Any = "time",
    k_core: int | tuple[int, int] = 0,
    code: bool = True,
    code_bytes: int = MAX_BYTES,
    tables: Mapping[str, Any] | None = None,
    salt: str = "",
    seed: int = 0,
    name: str = "git",
) -> Dataset:
    """Reads a dataset from local clones.

    With one time for all (splits ``time`` and ``cut``), people are those who contributed before the first of
    its times, files and their contents are those of the last commit before it, and contributions of others or
    to other files are left out. A share of ``time`` counts the contributions to the files of the revision;
    the histories are read twice. The other splits have no single time before which everything is known: files
    are those of the revision, and the content of each is the one before the first held-out contribution to
    it.

    Args:
        paths: clones, bare or not; a folder in a clone stands for the clone.
        config: what counts as a contribution.
        names: names of the repositories; default: from the address they were cloned from, or the folder.
        split: split of the contributions, see :mod:`graphrec.data.splits`.
        k_core: see :meth:`Dataset.from_frame`.
        code: whether contents are read.
        code_bytes: number of bytes read of a file.
        tables: more behavior in repositories, by the name of the relation: dataframes of ``user`` (login or
            address), ``repository`` and optionally ``time`` in seconds.
        salt: key of the hashes of names and addresses.
        seed: of the split.
        name: name of the dataset.

    Raises:
        ConfigError: two repositories have one name, or an option is out of range.
        DataError: a folder is in no clone, git fails, no clone has a commit, or no contribution is left.
    """
    config = config or MiningConfig()
    recipe = as_split(split)
    repositories = [Repository(path) for path in paths]
    repository_names = _repository_names(repositories, names)

    def read(cut: TimeCut | None) -> tuple[list[Mined], dict[str, list[Any]], People]:
        people = People(salt)
        # Commits have whole seconds.
        before = None if cut is None else math.ceil(cut.valid)
        choose_time = config.time_chooser(() if cut is None else (cut.valid, cut.test))
        histories = [
            mine(repository, repository_name, people, config, before, choose_time)
            for repository, repository_name in zip(repositories, repository_names, strict=True)
        ]
        person_of, user_ids, _ = people.number()
        return histories, _contributions(histories, person_of, user_ids, choose_time), people

    if isinstance(recipe, TimeSplit):
        times = np.array(read(None)[1]["time"])
        recipe = TimeCut(*recipe.starts(times)) if len(times) else recipe
    cut = recipe if isinstance(recipe, TimeCut) else None
    histories, columns, people = read(cut)
    person_of, user_ids, addresses = people.number()
    counts = {
        history.name: {
            **history.counts,
            "head": history.head,
            "tree": history.snapshot,
            "files": len(history.files),
        }
        for history in histories
    }
    if histories and all(history.head is None for history in histories):
        folders = ", ".join(str(repository.path) for repository in repositories)
        raise DataError(f"{folders}: no commits yet; commit something, or choose another clone")
    if not len(columns["time"]):
        raise DataError(
            f"{', '.join(repository_names)}: no contribution is left ({counts}); check revision, cut and "
            "extensions"
        )
    frame, recipe, left_out = known_at_cut(pl.DataFrame(columns), recipe, ", ".join(repository_names))
    data = Dataset.from_frame(
        frame,
        time="time",
        split=recipe,
        k_core=k_core,
        seed=seed,
        name=name,
        source="the histories",
    )
    files = _item_files(data, histories)
    paths_of_items = [histories[repository].files[file] for repository, file in files]
    nodes, relations = tree_of(
        [
            (repository, [printable(part) for part in path.split(b"/")])
            for (repository, _), path in zip(files, paths_of_items, strict=True)
        ],
        repository_names,
    )
    users = data.users.find(user_ids)
    until = _first_held_out(data, "users", data.n_users)
    nodes["address"], relations[ADDRESS] = _addresses(users, addresses)
    relations |= _behaviors(users[person_of], until, histories)
    n_ignored = {}
    for behavior, table in (tables or {}).items():
        relations["user", behavior, "repository"], n_ignored[behavior] = _read_behavior(
            until, nodes, relations[ADDRESS], as_frame(table, behavior), behavior, people
        )
    content = {"path": Content("text", [path_words(printable(path)) for path in paths_of_items])}
    if code:
        whole = cut is not None  # all of the snapshot is from before the cut
        code_texts = _contents(data, repositories, histories, files, config, whole, code_bytes)
        content["code"] = Content("text", code_texts)
    meta = {
        **data.meta,
        **left_out,
        "repositories": counts,
        "mining": config.model_dump(mode="json"),
        "salted": bool(salt),
        "rows of others, or too late": n_ignored,
    }
    return replace(data, nodes=nodes, relations=relations, content=content, meta=meta)


def printable(path: bytes) -> str:
    """A path as text: decoded if it is UTF-8, else quoted as git quotes it."""
    try:
        text = path.decode("utf-8")
    except UnicodeDecodeError:
        text = '"'
    if not text.startswith('"'):
        return text
    quoted = "".join(chr(b) if 32 <= b < 127 and b not in b'"\\' else f"\\{b:03o}" for b in path)
    return f'"{quoted}"'


def _repository_names(repositories: Sequence[Repository], names: Sequence[str] | None) -> list[str]:
    if names is None:
        defaults = [_default_name(repository) for repository in repositories]
        if len(set(defaults)) == len(defaults):
            return defaults
        # Forks, or unrelated folders of one name.
        return [f"{name}-{i}" if defaults.count(name) > 1 else name for i, name in enumerate(defaults, 1)]
    if len(names) != len(repositories) or len(set(names)) < len(names):
        raise ConfigError(
            f"{len(repositories)} repositories and the names {list(names)}; expected one name "
            "each, all different"
        )
    return list(names)


def _default_name(repository: Repository) -> str:
    """``owner/name`` from the address of the clone's origin, else the name of its folder."""
    address = repository.config("remote.origin.url")
    match = re.search(r"[/:]([^/:\s]+/[^/:\s]+?)(\.git)?/?\s*$", address)
    if match and not address.startswith(("/", ".", "file:")):
        return match.group(1)
    folder = repository.path.absolute()
    return folder.parent.name if folder.name in (".git", "repo") and folder.parent.name else folder.name


def _contributions(
    histories: Sequence[Mined],
    person_of: list[int],
    user_ids: list[str],
    choose_time: Callable[[int, int], int],
) -> dict[str, list[Any]]:
    """A table with one row per person and file, and the time of the contribution."""
    columns: dict[str, list[Any]] = {"user": [], "item": [], "time": []}
    for history in histories:
        times: dict[tuple[int, int], int] = {}
        for key, time in history.times.items():
            pair = person_of[key >> 32], key & 0xFFFFFFFF
            times[pair] = choose_time(times.get(pair, time), time)
        item_ids = _item_ids(history)
        for (person, file), time in times.items():
            columns["user"].append(user_ids[person])
            columns["item"].append(item_ids[file])
            columns["time"].append(time)
    return columns


def _item_ids(history: Mined) -> list[str]:
    return [f"{history.name}/{printable(path)}" for path in history.files]


def _item_files(data: Dataset, histories: Sequence[Mined]) -> list[tuple[int, int]]:
    """Repository and file of each item."""
    file_of = {
        id_: (repository, file)
        for repository, history in enumerate(histories)
        for file, id_ in enumerate(_item_ids(history))
    }
    return [file_of[str(item)] for item in data.items.ids]


def _addresses(users: np.ndarray, addresses: Mapping[str, int]) -> tuple[Vocabulary, np.ndarray]:
    """Hashes of the addresses of users, and edges from addresses to users (by person, -1 for no user)."""
    pairs = sorted((hash_, users[person]) for hash_, person in addresses.items() if users[person] >= 0)
    vocabulary = Vocabulary([hash_ for hash_, _ in pairs], "address")
    return vocabulary, edges_from_pairs((i, user) for i, (_, user) in enumerate(pairs))


def _behaviors(
    users: np.ndarray, until: np.ndarray, histories: Sequence[Mined]
) -> dict[Relation, np.ndarray]:
    """Edges from users to repositories by behavior, before any held-out contribution of the user."""
    pairs: dict[str, list[tuple[int, int]]] = {behavior: [] for behavior in BEHAVIORS}
    for repository, history in enumerate(histories):
        for (behavior, number), time in history.behaviors.items():
            user = users[number]
            if user >= 0 and time < until[user]:
                pairs[behavior].append((user, repository))
    return {("user", behavior, "repository"): edges_from_pairs(edges) for behavior, edges in pairs.items()}


def _first_held_out(data: Dataset, side: Literal["users", "items"], n: int) -> np.ndarray:
    """Time of the first held-out contribution of each user, or to each item ``(n,) int64``."""
    first = np.full(n, NEVER)
    for split in (data.valid, data.test):
        assert split.times is not None
        np.minimum.at(first, getattr(split, side), split.times)
    return first


def _read_behavior(
    until: np.ndarray,
    nodes: Mapping[str, Vocabulary],
    addresses: np.ndarray,
    frame: pl.DataFrame,
    name: str,
    people: People,
) -> tuple[np.ndarray, int]:
    """Edges of a table of users and repositories, and how many rows are of unknown ones or too late."""
    names = as_ids(column(frame, "user", name), "user", name)
    hashes = nodes["address"].find(people.lookup(user) for user in names)
    users = np.append(addresses[1], -1)[hashes]  # each address belongs to one user; -1 stays -1
    repositories = nodes["repository"].find(as_ids(column(frame, "repository", name), "repository", name))
    valid = (users >= 0) & (repositories >= 0)
    if "time" in frame.columns:
        valid &= as_seconds(frame["time"], name) < until[users]
    return sorted_edges([users[valid], repositories[valid]]), int((~valid).sum())


def _contents(
    data: Dataset,
    repositories: Sequence[Repository],
    histories: Sequence[Mined],
    files: Sequence[tuple[int, int]],
    config: MiningConfig,
    whole: bool,
    limit: int,
) -> list[str | None]:
    """Contents of the items: with ``whole`` as they are in the snapshot, else those before the first held-out
    contribution.
    """
    item_of = {file: i for i, file in enumerate(files)}
    before: list[dict[int, int]] = [{} for _ in histories]
    if not whole:
        held_out = _first_held_out(data, "items", data.n_items)
        for i in np.flatnonzero(held_out < NEVER).tolist():
            repository, file = files[i]
            before[repository][file] = int(held_out[i])
    texts: list[str | None] = [None] * data.n_items
    for r, (clone, history) in enumerate(zip(repositories, histories, strict=True)):
        for file, text in enumerate(contents(clone, history, before[r], config.merges, limit)):
            if (r, file) in item_of:
                texts[item_of[r, file]] = text
    return texts
