"""A dataset: vocabularies, three disjoint splits, relations and item content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from graphrec.core.bundle import Committed, FileFormat, Write, commit
from graphrec.core.errors import DataError, GraphrecError, nearest
from graphrec.core.files import atomic_write, digest, read_array, read_json, sha256_file, write_array
from graphrec.core.html_table import html_table
from graphrec.data import from_frame
from graphrec.data.content import Content
from graphrec.data.interactions import SPLIT_NAMES, Interactions
from graphrec.data.splits import as_split
from graphrec.data.times import in_seconds, recognize_unit
from graphrec.data.vocabulary import Vocabulary

HEAD = "dataset.json"
REMEDY = "save the dataset again"
Relation = tuple[str, str, str]


def _named_by_part(head: dict[str, Any]) -> dict[str, Any]:
    """Version 2 of a version 1 head, which listed files by name: ``{"train.npy": sha256}``."""
    files = {Path(name).stem: {"name": name, "sha256": sha256} for name, sha256 in head["files"].items()}
    facts = ("name", "fingerprint", "nodes", "relations", "content", "meta")
    return {"files": files, "head": {fact: head[fact] for fact in facts}}


FORMAT = FileFormat("dataset", 2, {1: _named_by_part}, sealed_since=2)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Everything a model may be built from, validated on construction.

    Attributes:
        name: a short name, used in messages and file names.
        users: external user ids.
        items: external item ids.
        train: interactions to learn from.
        valid: interactions to select on; may be empty.
        test: interactions to report on; may be empty.
        content: item content by field name, such as ``{"image": Content, "text": Content}``.
        nodes: further node vocabularies by node type.
        relations: further edges by ``(source type, relation, target type)``, each ``(2, E) int32``.
        meta: provenance: source, filters, split, counts. JSON-serializable.

    Raises:
        DataError: sizes disagree, splits overlap, train is empty, or a relation refers to nodes outside its
            vocabularies.
    """

    name: str
    users: Vocabulary
    items: Vocabulary
    train: Interactions
    valid: Interactions
    test: Interactions
    content: Mapping[str, Content] = field(default_factory=dict)
    nodes: Mapping[str, Vocabulary] = field(default_factory=dict)
    relations: Mapping[Relation, np.ndarray] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = (len(self.users), len(self.items))
        for split in SPLIT_NAMES:
            part: Interactions = getattr(self, split)
            if (part.n_users, part.n_items) != shape:
                raise DataError(
                    f"{self.name}: {split} has {part.n_users:,} users x {part.n_items:,} items, the "
                    "vocabularies "
                    f"{shape[0]:,} x {shape[1]:,}; build every split with the sizes of the vocabularies"
                )
        if not len(self.train):
            raise DataError(f"{self.name}: the train split is empty; check the split options and the filters")
        for first, second in (("train", "valid"), ("train", "test"), ("valid", "test")):
            a: Interactions = getattr(self, first)
            b: Interactions = getattr(self, second)
            shared = np.flatnonzero(a.contains(b.users, b.items))
            if len(shared):
                user, item = int(b.users[shared[0]]), int(b.items[shared[0]])
                raise DataError(
                    f"{self.name}: {len(shared):,} pairs occur in both {first} and {second}, the first is "
                    f"user {self.users[user]!r} item {self.items[item]!r}; splits must be disjoint"
                )
        for name, content in self.content.items():
            if len(content) != shape[1]:
                raise DataError(
                    f"{self.name}: content {name!r} has {len(content):,} values for {shape[1]:,} items; "
                    "expected one value per item, in vocabulary order"
                )
        for key, edges in self.relations.items():
            self._check_relation(key, edges)

    def _check_relation(self, key: Relation, edges: np.ndarray) -> None:
        if edges.ndim != 2 or edges.shape[0] != 2 or edges.dtype.kind not in "iu":
            raise DataError(
                f"{self.name}: relation {key} has shape {edges.shape}, {edges.dtype}; expected (2, E) int"
            )
        for row, node_type in ((0, key[0]), (1, key[2])):
            size = len(self.vocabulary(node_type))
            if edges.shape[1] and not (edges[row].min() >= 0 and edges[row].max() < size):
                raise DataError(
                    f"{self.name}: relation {key} has {node_type} {edges[row].min()}..{edges[row].max()}; "
                    f"expected 0 <= {node_type} < {size}"
                )

    def vocabulary(self, node_type: str) -> Vocabulary:
        """The ids of one node type: ``"user"``, ``"item"`` or a further one."""
        known = {"user": self.users, "item": self.items, **self.nodes}
        if node_type not in known:
            raise DataError(f"{self.name}: node type {node_type!r} is not one of {sorted(known)}")
        return known[node_type]

    @property
    def n_users(self) -> int:
        """Number of users."""
        return len(self.users)

    @property
    def n_items(self) -> int:
        """Number of items."""
        return len(self.items)

    @property
    def cold_items(self) -> np.ndarray:
        """Indices of the items without training interactions, ascending ``(n,) int64``."""
        return np.flatnonzero(self.train.item_degree == 0)

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 over ids, splits and relations; equal exactly if models see the same data."""
        splits = [getattr(self, s).keys for s in SPLIT_NAMES]
        relations = [
            p for k in sorted(self.relations) for p in ("/".join(k), self.relations[k].astype(np.int64))
        ]
        nodes = [p for k in sorted(self.nodes) for p in (k, self.nodes[k].fingerprint)]
        return digest("dataset", self.users.fingerprint, self.items.fingerprint, *splits, *nodes, *relations)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dataset) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        n = len(self.train) + len(self.valid) + len(self.test)
        parts = "/".join(f"{len(getattr(self, s)):,}" for s in SPLIT_NAMES)
        fields = ", ".join(f"{k}: {c.n_present:,}" for k, c in self.content.items()) or "none"
        return (
            f"Dataset({self.name}: {self.n_users:,} users x {self.n_items:,} items, {n:,} interactions "
            f"[{parts}], content {{{fields}}})"
        )

    def _repr_html_(self) -> str:
        rows = {name: value for name, value in self.summary().items() if name not in ("name", "fingerprint")}
        return html_table(f"Dataset {self.name}", rows)

    def summary(self) -> dict[str, Any]:
        """Counts for display: users, items, interactions per split, density, cold items and how many test
        pairs have one, content coverage.
        """
        n = len(self.train) + len(self.valid) + len(self.test)
        return {
            "name": self.name,
            "users": self.n_users,
            "items": self.n_items,
            "interactions": n,
            **{s: len(getattr(self, s)) for s in SPLIT_NAMES},
            "density": n / max(1, self.n_users * self.n_items),
            "items without train interactions": len(self.cold_items),
            "test pairs with such an item": int((self.train.item_degree[self.test.items] == 0).sum()),
            **{f"items with {k}": c.n_present for k, c in self.content.items()},
            "fingerprint": self.fingerprint[:12],
        }

    # -- building --------------------------------------------------------------------------------------------

    @classmethod
    def from_frame(
        cls,
        interactions: Any,
        *,
        user: str = "user",
        item: str = "item",
        time: str | None = None,
        time_unit: str | None = None,
        time_format: str | None = None,
        rating: str | None = None,
        min_rating: float | None = None,
        k_core: int | tuple[int, int] = 0,
        split: Any = "random",
        items: Any = None,
        item_id: str | None = None,
        content: Mapping[str, tuple[str, str]] | None = None,
        cold_items: bool | None = None,
        root: str | Path | None = None,
        seed: int = 0,
        name: str = "frame",
        source: str | None = None,
    ) -> Dataset:
        """Builds a dataset from any dataframe (Polars, pandas, Arrow, or a dict of columns).

        Args:
            interactions: one row per interaction; of repeated pairs the latest is kept (without times the
                first), and the number of dropped rows is recorded in ``meta``.
            user: column of user ids.
            item: column of item ids.
            time: column of times: numbers, dates, datetimes, or text with one of these.
            time_unit: unit of numeric times, ``"s"``, ``"ms"``, ``"us"`` or ``"ns"``; None recognizes it from
                their size. The dataset holds seconds, with fractions where there are any.
            time_format: format of times as text, such as ``"%m/%d/%Y %H:%M"``; None reads ISO 8601, and dates
                such as 31/05/2024 if they can be read in one way only.
            rating: column of ratings, used only by ``min_rating``.
            min_rating: keep rows with at least this rating.
            k_core: drop users and items with fewer interactions, repeatedly, until all have this many; a pair
                means (users, items); 0 keeps all.
            split: a :class:`~graphrec.data.splits.Split`, its name (``"random"``, ``"leave-one-out"``,
                ``"time"``, ``"cold-items"``), or the name of a column that holds ``train``/``valid``/``test``
                or ``0``/``1``/``2``.
            items: an item table with content.
            item_id: id column of ``items``; default: ``item``.
            content: field name -> (kind, column of ``items``), such as ``{"text": ("text", "title")}``.
            cold_items: keep the items of ``items`` that have no interactions (after ``min_rating``), in no
                split; they are ranked like all others. None keeps them unless ``k_core`` asks for items with
                at least two interactions. Items that the k-core drops are left out in any case.
                ``meta["cold items kept"]`` counts those that are kept, ``meta["item rows without
                interactions"]`` all rows of ``items`` that no remaining interaction refers to.
            root: directory that image paths are relative to.
            seed: random seed of the split.
            name: name of the dataset.
            source: name of the table for messages, such as the file.

        Raises:
            DataError: a column is missing, an id or value is invalid (the message names the row), no rows
                pass a filter, or the split leaves train empty.
        """
        parts = from_frame.parse(
            interactions, user=user, item=item, time=time, time_unit=time_unit, time_format=time_format,
            rating=rating, min_rating=min_rating, k_core=k_core, split=split, items=items,
            item_id=item_id, content=content, cold_items=cold_items, root=root, seed=seed,
            name=name, source=source,
        )  # fmt: skip
        return cls(**parts)

    def with_content(self, **content: Content) -> Dataset:
        """A copy with additional or replaced content fields."""
        return replace(self, content={**self.content, **content})

    def with_splits(
        self, train: Interactions, valid: Interactions, test: Interactions, **meta: Any
    ) -> Dataset:
        """A copy with other splits; ``meta`` records how they were made."""
        return replace(self, train=train, valid=valid, test=test, meta={**self.meta, **meta})

    def transposed(self, **content: Content) -> Dataset:
        """The dataset with users and items exchanged, for extracting features of users.

        Args:
            **content: content of the users by field.
        """
        train, valid, test = (
            Interactions(part.items, part.users, self.n_items, self.n_users, part.times, part.name)
            for part in (self.train, self.valid, self.test)
        )
        return Dataset(self.name, self.items, self.users, train, valid, test, content, meta=self.meta)

    def resplit(self, split: Any, seed: int = 0) -> Dataset:
        """A copy whose interactions are split again.

        Args:
            split: a split object, name or description (see :mod:`graphrec.data.splits`).
            seed: random seed of the split.

        Raises:
            ConfigError: unknown split.
            DataError: the split needs times and there are none, or it leaves train empty.
        """
        splitter = as_split(split)
        interactions = self.train + self.valid + self.test
        labels = splitter.assign(interactions, seed)
        train, valid, test = (interactions.where(labels == i, name) for i, name in enumerate(SPLIT_NAMES))
        if not len(train):
            raise DataError(f"{self.name}: the split {splitter.describe()} leaves train empty; hold out less")
        return self.with_splits(train, valid, test, split={**splitter.describe(), "seed": seed})

    # -- saving ----------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Writes a directory of Arrow, ``.npy`` and JSON files; replacing ``dataset.json`` commits them.

        A dataset that is saved over another one replaces it as a whole: a process that is killed leaves the
        former or the new one.

        Args:
            path: directory to create; an existing dataset in it is replaced.

        Returns:
            The directory.

        Raises:
            DataError: a text or name contains a lone surrogate, or the directory cannot be written.
        """
        path = Path(path)
        columns: dict[str, Sequence[str | None]] = {"users": self.users.ids, "items": self.items.ids}
        for node_type, vocabulary in self.nodes.items():
            columns[f"nodes-{_file_part(node_type)}"] = vocabulary.ids
        for name, content in self.content.items():
            columns[f"content-{_file_part(name)}"] = content.values
        arrays: dict[str, np.ndarray] = {}
        for split in SPLIT_NAMES:
            part: Interactions = getattr(self, split)
            arrays[split] = np.stack([part.users, part.items])
            if part.times is not None:
                arrays[f"{split}-times"] = part.times
        for key, edges in self.relations.items():
            arrays[f"relation-{'-'.join(map(_file_part, key))}"] = edges
        files: dict[str, tuple[str, str, Write]] = {
            part: (digest(array), "npy", partial(write_array, array=array)) for part, array in arrays.items()
        }
        for part_name, values in columns.items():
            column = _text_column(part_name, values, path)
            files[part_name] = (digest(list(values)), "arrow", partial(_write_column, column=column))
        head = {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "nodes": list(self.nodes),
            "relations": [list(key) for key in self.relations],
            "content": {
                name: {"kind": content.kind, "root": None if content.root is None else str(content.root)}
                for name, content in self.content.items()
            },
            "meta": dict(self.meta),
        }
        former = _files_of_version_1(path / HEAD)
        commit(path / HEAD, FORMAT, head, files, "save the dataset again", DataError)
        for file in former:
            file.unlink(missing_ok=True)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Dataset:
        """Reads what :meth:`save` wrote and checks every file's sha256.

        Raises:
            DataError: a file is missing, damaged, or of another format version; names it.
        """
        path = Path(path)
        try:
            return cls._load(path / HEAD)
        except GraphrecError:
            raise
        except Exception as cause:  # an exchanged file may cause any exception
            raise DataError(
                f"{path / HEAD}: this directory differs from what Dataset.save writes "
                f"({type(cause).__name__}: {cause}); {REMEDY}"
            ) from cause

    @classmethod
    def _load(cls, path: Path) -> Dataset:
        saved = Committed(path, FORMAT, REMEDY, DataError)
        head = saved.head
        if not (isinstance(head["name"], str) and head["name"]) or not isinstance(head["meta"], dict):
            raise TypeError(f"name {head['name']!r}; expected text, and an object as meta")

        def column(part: str) -> list[str | None]:
            return pl.read_ipc(saved.file(part)).to_series().to_list()

        def array(part: str) -> np.ndarray:
            return read_array(saved.file(part))

        users = Vocabulary(column("users"), "user")
        items = Vocabulary(column("items"), "item")
        times = {s: array(f"{s}-times") for s in SPLIT_NAMES if f"{s}-times" in saved.files}
        # Up to 0.1, numbers were stored as they stood in the file, whatever their unit.
        unit = recognize_unit(np.concatenate(list(times.values()))) if times else "s"
        if unit != "s":
            times = {s: in_seconds(ticks, unit) for s, ticks in times.items()}
        parts = {}
        for split in SPLIT_NAMES:
            pairs = array(split)
            parts[split] = Interactions(pairs[0], pairs[1], len(users), len(items), times.get(split), split)
        dataset = cls(
            head["name"],
            users,
            items,
            **parts,
            content={
                name: Content(facts["kind"], column(f"content-{_file_part(name)}"), facts["root"])
                for name, facts in head["content"].items()
            },
            nodes={name: Vocabulary(column(f"nodes-{_file_part(name)}"), name) for name in head["nodes"]},
            relations={
                (key[0], key[1], key[2]): array(f"relation-{'-'.join(map(_file_part, key))}")
                for key in head["relations"]
            },
            meta=head["meta"],
        )
        if dataset.fingerprint != head["fingerprint"]:
            raise DataError(f"{path}: its fingerprint differs from the recorded one; {REMEDY}")
        return dataset

    def field(self, name: str) -> Content:
        """One content field.

        Raises:
            DataError: the dataset has no such field; the message lists its fields.
        """
        if name not in self.content:
            raise DataError(
                f"{self.name}: no content field {name!r}; it has {sorted(self.content) or 'none'}."
                f"{nearest(name, self.content)}"
            )
        return self.content[name]


def _file_part(name: str) -> str:
    """A field, node type or relation name as part of a file name."""
    if not name or not all(c.isalnum() or c == "_" for c in name):
        raise DataError(
            f"{name!r} cannot name a field, node type or relation; expected letters, digits and '_'"
        )
    return name


def _text_column(part: str, values: Sequence[str | None], path: Path) -> pl.Series:
    """Ids or texts as a column of an Arrow file."""
    name = "value" if part.startswith("content-") else "id"
    try:
        return pl.Series(name, list(values), dtype=pl.String)
    except UnicodeEncodeError as cause:
        raise DataError(
            f"{path / part}.arrow: {ascii(cause.object)[:80]} contains a lone surrogate ({cause.reason}), "
            "which cannot be stored; remove it with text.encode('utf-8', 'ignore').decode()"
        ) from cause


def _write_column(path: Path, column: pl.Series) -> str:
    with atomic_write(path) as file:
        column.to_frame().write_ipc(file)
    return sha256_file(path)


def _files_of_version_1(head: Path) -> list[Path]:
    """Files of a dataset that a former version of graphrec saved, whose names hold no digest."""
    try:
        content = read_json(head)
        if content["format"] not in (1, {"kind": "dataset", "version": 1}):
            return []
        paths = [head.parent / Path(name).name for name in content["files"]]
    except (DataError, KeyError, TypeError):
        return []
    return [path for path in paths if path.suffix in (".arrow", ".npy")]
