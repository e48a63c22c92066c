"""The directory of feature tables: which there are, which is the right one, what is wrong with them."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from graphrec.core.errors import FeatureError, nearest
from graphrec.core.files import digest, explained, sweep
from graphrec.data import Content, Dataset
from graphrec.features import shards
from graphrec.features.table import BUILD, TRAIN, FeatureTable, tells_of

MAX_REASONS = 50
VOLATILE = ("versions", "values_sha256")  # parts of describe() in which a newer table replaces an older one


@dataclass(frozen=True)
class StoredTable:
    """One complete table of a store.

    Attributes:
        folder: its directory.
        manifest: what it records.
        built: when the last extraction or import ended with it, in nanoseconds since the epoch.
    """

    folder: Path
    manifest: Mapping[str, Any]
    built: int

    @property
    def name(self) -> str:
        """The extractor's name."""
        return str(self.manifest["extractor"]["name"])

    @property
    def entity(self) -> str:
        """What its rows are: ``"item"`` or ``"user"``."""
        return str(self.manifest.get("of", "item"))

    def open(self, verify: bool = True) -> FeatureTable:
        """The table itself; with ``verify``, its files are hashed at the first opening in a process.

        Raises:
            FeatureError: a file is missing or damaged.
        """
        values = shards.open_shards(self.folder, self.manifest, verify)
        meta = {k: v for k, v in self.manifest.items() if k not in ("shards", "digest", "present")}
        for what in ("unreadable", "empty"):
            reasons = {k: v for entry in self.manifest["shards"] for k, v in entry[what].items()}
            meta[what] = {"count": len(reasons), "reasons": dict(list(reasons.items())[:MAX_REASONS])}
        return FeatureTable(values, shards.present_of(self.manifest["shards"]), meta)


class FeatureStore:
    """A directory of feature tables, ``root/<field>/<key>/``; docs/explanations/cache.md describes the files.

    A table belongs to the item ids (in order) and the field, not to the splits: another split of the same
    catalog finds the features of the first, unless they tell of its train interactions.

    Args:
        root: the directory; it need not exist yet.
        verify: hash every file of a table when this process first opens it.
    """

    def __init__(self, root: str | Path, verify: bool = True) -> None:
        self.root, self.verify_on_open = Path(root), verify

    def __repr__(self) -> str:
        return f"FeatureStore({str(self.root)!r})"

    def folder(self, field: str, key: str) -> Path:
        """Where one table is or will be.

        Raises:
            FeatureError: the field cannot name a directory.
        """
        if not re.fullmatch(r"\w{1,64}", field, re.ASCII):
            raise FeatureError(f"{field!r} cannot name a field; expected up to 64 letters, digits and '_'")
        return self.root / field / key

    def tables(
        self, field: str | None = None, items: str | None = None, skip_damaged: bool = False
    ) -> list[StoredTable]:
        """All complete tables, the last built first.

        Args:
            field: only of this field.
            items: only for the item vocabulary with this fingerprint.
            skip_damaged: leave out tables whose manifest is damaged, instead of raising.

        Raises:
            FeatureError: a manifest is damaged; names it.
        """
        found = []
        for path in sorted(self.root.glob(f"{field or '*'}/*/{shards.MANIFEST}")):
            try:
                manifest, built = shards.read_manifest(path.parent), path.stat().st_mtime_ns
            except (FeatureError, OSError):
                if skip_damaged or not path.exists():  # a table being made again has no manifest meanwhile
                    continue
                raise
            if items is None or manifest["items"] == items:
                found.append(StoredTable(path.parent, manifest, built))
        return sorted(found, key=lambda t: (-t.built, t.folder.name))

    def made_for(self, dataset: Dataset) -> list[StoredTable]:
        """All complete tables of the dataset's items or users, the last built first; without those that tell
        of another train split.
        """
        made = {"item": dataset.items.fingerprint, "user": dataset.users.fingerprint}
        return [
            t for t in self.tables()
            if made.get(t.entity) == t.manifest["items"] and tells_of(t.manifest, dataset)
        ]  # fmt: skip

    def load_tables(self, dataset: Dataset, **choose: str | None) -> dict[str, FeatureTable]:
        """One table for every content field of the dataset, and for every other field that there are tables
        of its items or users for.

        Args:
            dataset: whose items or users the tables must be for.
            **choose: field -> extractor name or beginning of the key; default: the table that was built last.
                None leaves the field out.

        Raises:
            FeatureError: a field has no table, none that was chosen, only one made from other content, or a
                damaged one.
        """
        stored = self.made_for(dataset)
        fields = {t.manifest["field"] for t in stored} | set(dataset.content) | set(choose)
        return {f: self._one(dataset, f, stored, choose.get(f)) for f in sorted(fields)
                if choose.get(f, "") is not None}  # fmt: skip

    def _one(
        self, dataset: Dataset, field: str, stored: Sequence[StoredTable], chosen: str | None
    ) -> FeatureTable:
        tables = [t for t in stored if t.manifest["field"] == field]
        if not tables:
            if self.root.exists() and not self.root.is_dir():
                raise FeatureError(f"{self.root}: a file; expected the directory of a feature store")
            others = {t.manifest["items"][:8] + "…" for t in self.tables(field)}
            made = f"only for items {', '.join(sorted(others))}" if others else "for no items at all"
            raise FeatureError(
                f"{self.root}: {field!r} was extracted {made}, {dataset.name} has items "
                f"{dataset.items.fingerprint[:8]}…; {BUILD}, or leave the field out with "
                f"of(dataset, {field}=None)"
            )
        if chosen is not None:
            names = {t.name for t in tables} | {t.folder.name for t in tables}
            tables = [t for t in tables if t.name == chosen or t.folder.name.startswith(chosen)]
            if not tables:
                raise FeatureError(
                    f"{self.root}: no {field!r} features from {chosen!r} for {dataset.name}; there are "
                    f"{sorted(names)}.{nearest(chosen, names)}"
                )
        fresh = [t for t in tables if is_fresh(t.manifest, dataset.content.get(field))]
        if not fresh:
            raise FeatureError(
                f"{tables[0].folder}: {field!r} was extracted from other content than {dataset.name} has; "
                f"{BUILD} again (only what changed is made again)"
            )
        return fresh[0].open(self.verify_on_open).check(dataset)

    def save(self, dataset: Dataset, field: str, table: FeatureTable) -> StoredTable:
        """Keeps ready-made vectors under the extractor name ``imported``, so that :meth:`of` finds them.

        Raises:
            FeatureError: the table was made for other items, or cannot be written.
        """
        table.check(dataset)
        source = str(table.meta.get("extractor", {}).get("source", "array"))
        train = {k: v for k, v in table.meta.get("extractor", {}).items() if k == TRAIN}
        describe = {"name": "imported", "source": source, "values_sha256": table.compute_sha256(), **train}
        rows = dataset if table.entity == "item" else dataset.transposed()
        key = shards.table_key(describe, rows.items.fingerprint, field)
        folder = self.folder(field, key)
        with locked(folder), explained(folder, FeatureError):
            sweep(folder, locked=True)
            entry = shards.finished_shard(folder, 0, 0, len(table))
            if entry is None:
                entry = shards.write_shard(folder, 0, 0, np.asarray(table.values[:]), table.present)
            head = manifest_head(rows, field, str(table.meta.get("kind", field)), key, describe, None)
            notes: dict[str, Any] = {
                k: table.meta[k] for k in ("unknown_ids", "zero_rows") if k in table.meta
            }
            return completed(folder, {**head, **notes}, [entry])

    def verify(self) -> list[str]:
        """Re-hashes every file; returns what is damaged, missing, unfinished or foreign, one line each."""
        problems: list[str] = []
        if self.root.exists() and not self.root.is_dir():
            problems.append(f"{self.root}: a file; expected the directory of a feature store")
        try:
            for field in sorted(self.root.iterdir()) if self.root.is_dir() else []:
                for folder in sorted(field.iterdir()) if field.is_dir() else [field]:
                    if folder.is_dir() and re.fullmatch(r"[0-9a-f]{32}", folder.name):
                        shards.table_problems(folder, problems.append)
                    else:
                        problems.append(f"{folder}: not part of a feature store; remove it")
        except OSError as cause:
            problems.append(f"{cause.filename or self.root}: cannot be read ({cause.strerror or cause})")
        return problems

    def gc(self, keep: Iterable[str] | None = None, dry_run: bool = False) -> list[Path]:
        """Removes temporary files and tables that are unfinished or superseded; returns their paths.

        A table is superseded by a later one for the same field and items that differs in library versions, or
        in the values imported from the same source, alone. Tables that a process is writing are left alone.

        Args:
            keep: keys of the tables to keep; every other table goes, complete or not. Default: as above.
            dry_run: remove nothing, only list.
        """
        kept = None if keep is None else set(keep)
        doomed, seen = [], set()
        for table in self.tables(skip_damaged=True):
            facts = {k: v for k, v in table.manifest["extractor"].items() if k not in VOLATILE}
            identity = digest(table.manifest["field"], table.manifest["items"], facts)
            if (identity in seen) if kept is None else (table.folder.name not in kept):
                doomed.append(table.folder)
            seen.add(identity)
        complete = {t.folder for t in self.tables(skip_damaged=True)}
        folders = [f for f in sorted(self.root.glob("*/*/")) if re.fullmatch(r"[0-9a-f]{32}", f.name)]
        for folder in folders:
            if folder not in complete and not (kept is not None and folder.name in kept):
                doomed.append(folder)
        removed = []
        for folder in folders:
            with suppress(Timeout), locked(folder, timeout=0), explained(folder, FeatureError):
                if folder not in doomed:
                    removed += sorted(folder.rglob(".*.tmp"))
                    if not dry_run:
                        sweep(folder, locked=True)
                    continue
                if folder not in complete and (folder / shards.MANIFEST).exists():
                    with suppress(FeatureError):  # unfinished when it was listed
                        shards.read_manifest(folder)
                        continue
                removed.append(folder)
                if not dry_run:
                    # First, so that a kill leaves no half table.
                    (folder / shards.MANIFEST).unlink(missing_ok=True)
                    shutil.rmtree(folder)
        return removed

    def status(self, dataset: Dataset) -> list[dict[str, Any]]:
        """One row per table for the dataset's items, to print: field, extractor, shape, coverage."""
        return [
            {
                "field": t.manifest["field"],
                "extractor": t.name,
                "model": t.manifest["extractor"].get("model"),
                "key": t.folder.name,
                "shape": tuple(t.manifest["shape"]),
                "dtype": t.manifest["dtype"],
                "present": t.manifest["present"],
                "unreadable": sum(len(e["unreadable"]) for e in t.manifest["shards"]),
                "empty": sum(len(e["empty"]) for e in t.manifest["shards"]),
                "fresh": is_fresh(t.manifest, dataset.content.get(t.manifest["field"])),
                "built": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(t.built / 1e9)),
            }
            for t in self.made_for(dataset)
        ]


@contextmanager
def locked(folder: Path, timeout: float = -1) -> Iterator[Callable[[], None]]:
    """Holds the lock a writer of the table in ``folder`` needs; the system frees it when the process dies.

    Yields a function that raises when the directory is no longer the one that was locked. A writer calls it
    before each file, or it would make a removed store anew, where another process may be at work by now.

    Args:
        folder: made where there is none.
        timeout: seconds to wait for another writer; below 0, for ever.

    Raises:
        FeatureError: the directory or the lock cannot be made, or it went away meanwhile.
        filelock.Timeout: another process holds the lock.
    """
    path = folder / shards.LOCK
    lock = FileLock(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=timeout)
        held = os.open(path, os.O_RDONLY)  # while it is open, no other file is taken for it
    except Timeout:
        raise
    except OSError:
        lock.release()
        with explained(path, FeatureError):
            raise

    def check() -> None:
        with suppress(OSError):
            if os.path.samestat(os.fstat(held), path.stat()):
                return
        raise FeatureError(f"{folder}: was removed or replaced while it was being written; run it again")

    try:
        yield check
    finally:
        os.close(held)
        lock.release()


def content_digest(content: Content) -> str:
    """Hex sha256 of the texts, or of the image paths: cheap enough to compare at every opening."""
    return digest("content", content.kind, list(content.values))


def is_fresh(manifest: Mapping[str, Any], content: Content | None) -> bool:
    """Whether a table was made from this content; imported vectors fit any, as does a dataset without it."""
    return content is None or manifest["content"] is None or manifest["content"] == content_digest(content)


def manifest_head(
    dataset: Dataset, field: str, kind: str, key: str, describe: Mapping[str, Any], content: str | None
) -> dict[str, Any]:
    """The part of a manifest that says what the table is; the dataset's items are its rows."""
    of = dataset.items.kind
    return {
        **({} if of == "item" else {"of": of}),
        "key": key,
        "field": field,
        "kind": kind,
        "extractor": dict(describe),
        "items": dataset.items.fingerprint,
        "content": content,
    }


def completed(folder: Path, head: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> StoredTable:
    """Writes the manifest unless it says all this already, and makes the table the last built."""
    path = folder / shards.MANIFEST
    manifest: Mapping[str, Any] | None = None
    if path.exists():
        try:
            manifest = shards.read_manifest(folder)
        except FeatureError:
            manifest = None  # damaged: it is written anew below
    agrees = manifest is not None and manifest["shards"] == list(entries)
    if not agrees or manifest is None or any(manifest.get(k) != v for k, v in head.items()):
        manifest = shards.complete(folder, head, entries)
    now = time.time_ns()  # the file clock is coarser, and two tables must not tie
    os.utime(path, ns=(now, now))
    return StoredTable(folder, manifest, now)
