"""Conversational datasets in SCPR's layout: LastFM, LastFM* and Yelp, with binary or enumerated questions.

Source: https://cpr-conv-rec.github.io (SCPR, KDD 2020: https://arxiv.org/abs/2007.00194). License: LastFM
comes from HetRec 2011 and is for non-commercial research (cite Last.fm and HetRec'11); Yelp has its own
terms.
Counts, LastFM: 1,801 users, 7,432 artists, 52,910 / 11,891 / 11,892 interactions, 33 attributes that artists
have 30,290 times and users like 7,276 times, 23,958 friends (11,979 pairs).

The files number users, items and attributes. Index and external id are that number, and the highest number in
any file determines the number of nodes. Two kinds of files are never opened: ``user_item.json``, as it mixes
the validation and test pairs with the train pairs, and the ``.pkl`` files in ``FM_sample_data`` and
``UI_data``, as loading a pickle can run arbitrary code.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from graphrec.core.errors import ConfigError, DataError
from graphrec.data.attributes import HAS, IN, KNOWS, LIKES, sorted_edges
from graphrec.data.content import Content
from graphrec.data.dataset import Dataset, Relation
from graphrec.data.frames import quoted
from graphrec.data.interactions import SPLIT_NAMES, Interactions
from graphrec.data.readers.files import require_file
from graphrec.data.vocabulary import Vocabulary

SOURCE = "https://cpr-conv-rec.github.io"
GRAPH = "Graph_generate_data"
MAX_BYTES = 2**30
"""A file above this size is refused; the largest published one has a few megabytes."""


class Layout(NamedTuple):
    """The two files that define the attributes and the items that have them."""

    attributes: Literal["merged", "original"]
    items: str
    """``{item: {"feature_index": [attribute]}}``."""
    tags: str
    """``{tag: attribute}``."""


LAYOUTS = (
    Layout("merged", "item_dict.json", "merged_tag_map.json"),  # LastFM
    Layout("original", "item_dict.json", "original_tag_map.json"),  # LastFM*
    Layout("original", "item_dict-original_tag.json", "second-layer_oringinal_tag_map.json"),  # Yelp
)
GROUPS = "first-layer_merged_tag_map.json"
TAXONOMY = "2-layer taxonomy.json"
MAX_NUMBER = 10**9
Lists = dict[int, list[int]]


def read_lastfm(folder: Path) -> Dataset:
    """LastFM as SCPR uses it: 1,801 users, 7,432 artists with names, 33 attributes, friends.

    Args:
        folder: holds ``Graph_generate_data``, ``UI_Interaction_data`` and ``ID_map_info``.

    Raises:
        DataError: a file is missing or damaged; names file and key.
    """
    return read(folder, name="lastfm")


def read(
    folder: Path,
    *,
    attributes: Literal["merged", "original"] | None = None,
    groups: bool | None = None,
    name: str | None = None,
) -> Dataset:
    """Reads any folder in SCPR's layout; its files show which of the datasets it holds.

    ``UI_Interaction_data/review_dict_{train,valid,test}.json`` are the splits. Titles and names of attributes
    come from ``ID_map_info/*_reverse_map.json`` if these files exist. Attributes have their names if these
    are complete and unique, else their numbers.

    Args:
        folder: holds ``Graph_generate_data``, ``UI_Interaction_data`` and ``ID_map_info``.
        attributes: ``merged`` (LastFM) or ``original`` (LastFM*, Yelp), for a folder that holds both.
        groups: whether to read the groups of attributes that enumerated questions need (Yelp); default: if
            their two files exist.
        name: the dataset's name; default: the folder's.

    Raises:
        ConfigError: the folder holds both kinds of attributes and ``attributes`` is None.
        DataError: a file is missing or damaged, a pair is in two splits, or the published train lists differ;
            names file and key.
    """
    if name is not None and (not name or any(mark in name for mark in "/\\\0")):
        raise ConfigError(
            f"{name!r} cannot name a dataset; expected a name without slashes, given with name="
        )
    graph = folder / GRAPH
    layout = _layout(graph, attributes)
    users, items = _NodeNumbers("user"), _NodeNumbers("item")
    splits = {split: _lists(_split_file(folder, split), users, items) for split in SPLIT_NAMES}
    item_file = require_file(folder, f"{GRAPH}/{layout.items}", "the attributes of every item", SOURCE)
    tag_file = require_file(folder, f"{GRAPH}/{layout.tags}", "the numbers of all attributes", SOURCE)
    tags = _numbers_by_name(tag_file)
    known = _NodeNumbers("attribute", frozenset(tags.values()), tag_file)
    has = _lists(item_file, items, known, "feature_index")
    user_file = require_file(
        folder, f"{GRAPH}/user_dict.json", "friends and liked attributes of users", SOURCE
    )
    knows = _lists(user_file, users, users, "friends", optional=True)
    likes = _lists(user_file, users, known, "like", optional=True)
    n_users, n_items = users.count(), items.count()
    pairs = {split: _edges(lists) for split, lists in splits.items()}
    train, valid, test = (
        Interactions(pairs[split][0], pairs[split][1], n_users, n_items, name=f"review_dict_{split}.json")
        for split in SPLIT_NAMES
    )
    _check_disjoint(folder, [train, valid, test])
    _check_published_train(folder, train)
    edges = {key: _edges(lists) for key, lists in ((HAS, has), (LIKES, likes), (KNOWS, knows))}
    titles = _real_names(folder / "ID_map_info" / "item_reverse_map.json")
    names, named_by = _attribute_names(folder, tags, layout)
    nodes = {"attribute": Vocabulary(names, "attribute")}
    relations: dict[Relation, np.ndarray] = {key: sorted_edges(e) for key, e in edges.items() if e.shape[1]}
    if HAS not in relations:
        raise DataError(f"{item_file}: no item has an attribute; expected feature_index lists that hold some")
    if KNOWS in relations:
        friends = relations[KNOWS][:, relations[KNOWS][0] != relations[KNOWS][1]]
        relations[KNOWS] = sorted_edges(np.concatenate([friends, friends[::-1]], axis=1))
    meta: dict[str, Any] = {
        "source": layout.items,
        "split": {"name": "published"},
        "repeated entries dropped": sum(e.shape[1] - np.unique(e, axis=1).shape[1] for e in edges.values()),
        "attributes": {
            "kind": layout.attributes,
            "names": named_by,
            "kept": len(names),
            "items without attributes": n_items - len(np.unique(relations[HAS][0])),
        },
    }
    if groups or (groups is None and (graph / TAXONOMY).is_file() and (graph / GROUPS).is_file()):
        nodes["group"], relations[IN] = _groups(folder, known)
        meta["attributes"]["without a group"] = len(names) - relations[IN].shape[1]
    return Dataset(
        name or folder.name or "scpr",
        Vocabulary(range(n_users), "user"),
        Vocabulary(range(n_items), "item"),
        train,
        valid,
        test,
        content={"text": Content("text", [titles.get(i) for i in range(n_items)])} if titles else {},
        nodes=nodes,
        relations=relations,
        meta=meta,
    )


# -- files ---------------------------------------------------------------------------------------------------


def _layout(graph: Path, attributes: str | None) -> Layout:
    layouts = [layout for layout in LAYOUTS if attributes in (None, layout.attributes)]
    complete = [x for x in layouts if (graph / x.items).is_file() and (graph / x.tags).is_file()]
    if len(complete) > 1:
        raise ConfigError(
            f"{graph}: holds {' and '.join(x.tags for x in complete)}; choose with attributes='merged' or "
            "attributes='original'"
        )
    # If none is complete, the error names the missing file of the layout that has one file in the folder.
    return complete[0] if complete else next((x for x in layouts if (graph / x.items).is_file()), layouts[0])


def _split_file(folder: Path, split: str) -> Path:
    path = folder / "UI_Interaction_data" / f"review_dict_{split}.json"
    if split == "train" and not path.exists() and (folder / GRAPH / "user_item.json").exists():
        raise DataError(
            f"{path}: no such file. {GRAPH}/user_item.json cannot replace it: it also holds all validation "
            f"and test pairs, and a model must not be trained on them. Fetch {path.name} from "
            f"{SOURCE}"
        )
    return require_file(path.parent, path.name, f"the {split} items of every user", SOURCE)


# -- contents ------------------------------------------------------------------------------------------------


class _NodeNumbers:
    """Checks the numbers of one kind of node against the ``known`` ones of a file, and counts the nodes."""

    def __init__(self, kind: str, known: frozenset[int] | None = None, file: Path | None = None) -> None:
        self.kind = kind
        self.known = known
        self.file = file
        self.seen: set[int] = set()
        self.highest = -1
        self.highest_at = ""

    def check(self, values: Iterable[Any], where: str) -> list[int]:
        """The values, if each is a valid number; ``where`` is file and key, for errors."""
        numbers = list(values)
        for value in numbers:
            if type(value) is not int or not 0 <= value < MAX_NUMBER:  # isinstance accepts bool
                raise DataError(
                    f"{where}: {self.kind} {quoted(str(value))}; expected a whole number from 0, the index "
                    f"of a known {self.kind}"
                )
            if self.known is not None and value not in self.known:
                raise DataError(
                    f"{where}: {self.kind} {value} is not among the {len(self.known):,} that {self.file} "
                    "knows; fetch both files from one release"
                )
        highest = max(numbers, default=-1)
        if highest > self.highest:
            self.highest = highest
            self.highest_at = where
        self.seen.update(numbers)
        return numbers

    def count(self) -> int:
        """The highest number plus one; refuses numbers with many gaps, as each number takes memory."""
        if self.highest >= 2 * len(self.seen) + 1000:
            raise DataError(
                f"{self.highest_at}: {self.kind} {self.highest}, where the files name {len(self.seen):,} "
                f"{self.kind}s; expected numbers from 0 with few gaps"
            )
        return self.highest + 1


def _object(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path}: {path.stat().st_size:,} bytes; expected at most {MAX_BYTES:,}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique_keys)
    except (OSError, ValueError, RecursionError) as cause:
        raise DataError(f"{path}: not readable as JSON ({cause}); fetch the file again") from cause
    if not isinstance(value, dict) or not value:
        content = "nothing" if value in ({}, []) else type(value).__name__
        raise DataError(f"{path}: holds {content}; expected a JSON object with at least one key")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        twice = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        raise ValueError(f"the key {quoted(twice)} occurs twice in one object")
    return unique


def _number(text: Any, where: str, kind: str) -> int:
    """A number in a string, as in JSON keys."""
    if not (isinstance(text, str) and re.fullmatch(r"0|[1-9][0-9]{0,8}", text)):
        raise DataError(f"{where}: expected a whole number from 0 as key, the index of a {kind}")
    return int(text)


def _lists(
    path: Path, keys: _NodeNumbers, values: _NodeNumbers, field: str | None = None, optional: bool = False
) -> Lists:
    """Reads ``{"0": [1, 2]}`` with distinct pairs, or ``{"0": {field: [1, 2]}}`` with a field."""
    lists: Lists = {}
    for key, value in _object(path).items():
        where = f"{path}, key {quoted(key)}"
        owner = _number(key, where, keys.kind)
        if field is not None:
            if not isinstance(value, dict) or not (optional or field in value):
                raise DataError(f'{where}: {quoted(str(value))}; expected an object {{"{field}": [...]}}')
            value = value.get(field, [])
            where += f", {field}"
        if not isinstance(value, list):
            raise DataError(f"{where}: holds {type(value).__name__}; expected a list of {values.kind}s")
        lists[owner] = values.check(value, where)
        keys.check([owner], where)
        if field is None and len(set(lists[owner])) != len(lists[owner]):
            twice = next(v for v, n in Counter(lists[owner]).items() if n > 1)
            raise DataError(f"{where}: {values.kind} {twice} occurs twice; expected each once")
    return lists


def _edges(lists: Lists) -> np.ndarray:
    """Keys and values as pairs ``(2, E) int64``."""
    sources = np.repeat(np.fromiter(lists, np.int64, len(lists)), [len(v) for v in lists.values()])
    targets = np.array([value for values in lists.values() for value in values], dtype=np.int64)
    return np.stack([sources, targets])


def _numbers_by_name(path: Path) -> dict[str, int]:
    """Reads ``{"rock": 0}``; Yelp's numbers may be strings."""
    number_of: dict[str, int] = {}
    numbers = _NodeNumbers("number")
    for key, value in _object(path).items():
        where = f"{path}, key {quoted(key)}"
        number_of[key] = _number(value, where, "number") if isinstance(value, str) else value
        numbers.check([number_of[key]], where)
    numbers.count()
    return number_of


def _real_names(path: Path) -> dict[int, str]:
    """Reads ``{"0": {"real_name": ["Muse"]}}`` as number -> name; empty if there is no such file."""
    if not path.is_file():
        return {}
    name_of: dict[int, str] = {}
    for key, value in _object(path).items():
        where = f"{path}, key {quoted(key)}"
        names = value.get("real_name") if isinstance(value, dict) else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(f'{where}: {quoted(str(value))}; expected an object {{"real_name": ["..."]}}')
        text = ", ".join(dict.fromkeys(name.strip() for name in names if name.strip()))
        if text:
            name_of[_number(key, where, "node")] = text
    return name_of


def _attribute_names(folder: Path, tags: dict[str, int], layout: Layout) -> tuple[list[str], str]:
    """A name for every attribute, and the source of the names."""
    path = folder / "ID_map_info" / "tag_reverse_map.json"
    names = _real_names(path)
    source = path.name
    if not names and not all(tag.isdecimal() for tag in tags):
        names = {number: tag for tag, number in tags.items() if tag.strip()}
        source = layout.tags
    n = max(tags.values()) + 1
    listed = [names.get(number, "") for number in range(n)]
    if all(listed) and len(set(listed)) == n:
        return listed, source
    reason = "not every attribute has a name" if not all(listed) else "some attributes share a name"
    return [str(number) for number in range(n)], f"numbers, because {reason}"


def _groups(folder: Path, attributes: _NodeNumbers) -> tuple[Vocabulary, np.ndarray]:
    """Vocabulary of groups, and edges ``(2, E) int32`` from attributes to their groups."""
    map_file = require_file(folder, f"{GRAPH}/{GROUPS}", "the numbers of all groups of attributes", SOURCE)
    path = require_file(folder, f"{GRAPH}/{TAXONOMY}", "the attributes of every group", SOURCE)
    numbers = _numbers_by_name(map_file)
    names = {number: name for name, number in numbers.items()}
    if len(names) != len(numbers):
        twice = next(n for n, times in Counter(numbers.values()).items() if times > 1)
        raise DataError(f"{map_file}: two groups have the number {twice}; expected one number a group")
    group_of: dict[int, int] = {}
    for key, value in _object(path).items():
        where = f"{path}, key {quoted(key)}"
        if key not in numbers:
            raise DataError(f"{where}: no such group in {map_file}; expected the name of one of its groups")
        if not isinstance(value, list):
            raise DataError(f"{where}: holds {type(value).__name__}; expected a list of attributes")
        for attribute in attributes.check(value, where):
            if group_of.setdefault(attribute, numbers[key]) != numbers[key]:
                other = names[group_of[attribute]]
                raise DataError(
                    f"{where}: attribute {attribute} is in the group {other!r} too; expected at most one "
                    "group per attribute"
                )
    ids = [names.get(number, f"group {number}") for number in range(max(names) + 1)]
    return Vocabulary(ids, "group"), sorted_edges([list(group_of), list(group_of.values())])


# -- consistency ---------------------------------------------------------------------------------------------


def _check_disjoint(folder: Path, parts: list[Interactions]) -> None:
    for a, b in ((0, 1), (0, 2), (1, 2)):
        shared = np.flatnonzero(parts[a].contains(parts[b].users, parts[b].items))
        if len(shared):
            user, item = parts[b].users[shared[0]], parts[b].items[shared[0]]
            raise DataError(
                f"{folder / 'UI_Interaction_data' / parts[b].name}, key '{user}': item {item} is in "
                f"{parts[a].name} too ({len(shared):,} such pairs); splits must be disjoint"
            )


def _check_published_train(folder: Path, train: Interactions) -> None:
    """Checks that ``user_item_train.json``, if it exists, holds the pairs of ``review_dict_train.json``."""
    path = folder / GRAPH / "user_item_train.json"
    if not path.is_file():
        return
    users, items = _edges(_lists(path, _NodeNumbers("user"), _NodeNumbers("item")))
    published = set(zip(users.tolist(), items.tolist(), strict=True))
    expected = set(zip(train.users.tolist(), train.items.tolist(), strict=True))
    differing = published ^ expected
    if differing:
        user, item = min(differing)
        present, absent = (path.name, train.name) if (user, item) in published else (train.name, path.name)
        raise DataError(
            f"{path}, key '{user}': item {item} is in {present} and not in {absent} ({len(differing):,} "
            f"pairs differ from {train.name}); fetch both files from one release"
        )
