"""The feature store: a directory of feature tables that can be listed, selected and verified."""

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
from graphrec.core.files import digest, explain_os_errors, remove_stale_temporaries
from graphrec.data import Content, Dataset
from graphrec.data.content import TITLE_FIELD
from graphrec.features import shards
from graphrec.features.table import BUILD_HINT, TRAIN_FINGERPRINT, FeatureTable, matches_train_split

MAX_REASONS = 50
VOLATILE_KEYS = ("versions", "values_sha256")  # keys of describe() that do not distinguish tables for gc


@dataclass(frozen=True)
class StoredTable:
    """One complete table of a store.

    Attributes:
        folder: its directory.
        manifest: its manifest.
        built: end of the last extraction or import, in nanoseconds since the epoch.
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
        """Entity of its rows: ``"item"`` or ``"user"``."""
        return str(self.manifest.get("of", "item"))

    def open(self, verify: bool = True) -> FeatureTable:
        """Opens the table; with ``verify``, its files are hashed when a process first opens it.

        Raises:
            FeatureError: a file is missing or damaged.
        """
        values = shards.open_shards(self.folder, self.manifest, verify)
        meta = {k: v for k, v in self.manifest.items() if k not in ("shards", "digest", "present")}
        for what in ("unreadable", "empty"):
            reasons = {k: v for entry in self.manifest["shards"] for k, v in entry[what].items()}
            meta[what] = {"count": len(reasons), "reasons": dict(list(reasons.items())[:MAX_REASONS])}
        return FeatureTable(values, shards.decode_present(self.manifest["shards"]), meta, self.folder)


class FeatureStore:
    """A directory of feature tables, ``root/<field>/<key>/``; docs/explanations/cache.md describes the files.

    A table is identified by the item ids (in order), the field and the extractor, not by the splits: another
    split of the same catalog uses the same features, unless they were computed from training interactions.

    Args:
        root: the directory; created on the first write.
        verify: hash every file of a table when this process first opens it.
    """

    def __init__(self, root: str | Path, verify: bool = True) -> None:
        self.root = Path(root)
        self.verify_on_open = verify

    def __repr__(self) -> str:
        return f"FeatureStore({str(self.root)!r})"

    def folder(self, field: str, key: str) -> Path:
        """The directory of one table.

        Raises:
            FeatureError: the field is not a valid directory name.
        """
        if not re.fullmatch(r"\w{1,64}", field, re.ASCII):
            raise FeatureError(f"{field!r} is not a field name; expected up to 64 letters, digits and '_'")
        return self.root / field / key

    def tables(
        self, field: str | None = None, items: str | None = None, skip_damaged: bool = False
    ) -> list[StoredTable]:
        """All complete tables, the last built first.

        Args:
            field: only tables of this field.
            items: only tables for the item vocabulary with this fingerprint.
            skip_damaged: skip tables with a damaged manifest instead of raising.

        Raises:
            FeatureError: a manifest is damaged; the message names it.
        """
        tables = []
        for path in sorted(self.root.glob(f"{field or '*'}/*/{shards.MANIFEST}")):
            try:
                manifest, built = shards.read_manifest(path.parent), path.stat().st_mtime_ns
            except (FeatureError, OSError):
                if skip_damaged or not path.exists():  # during a new extraction a table has no manifest
                    continue
                raise
            if items is None or manifest["items"] == items:
                tables.append(StoredTable(path.parent, manifest, built))
        return sorted(tables, key=lambda t: (-t.built, t.folder.name))

    def tables_for(self, dataset: Dataset) -> list[StoredTable]:
        """All complete tables of the dataset's items or users, the last built first.

        Tables computed from another training split are skipped.
        """
        fingerprints = {"item": dataset.items.fingerprint, "user": dataset.users.fingerprint}
        return [
            t for t in self.tables()
            if fingerprints.get(t.entity) == t.manifest["items"] and matches_train_split(t.manifest, dataset)
        ]  # fmt: skip

    def load_tables(self, dataset: Dataset, **choose: str | None) -> dict[str, FeatureTable]:
        """Opens one table for every content field but titles, and every other field with tables of the items
        or users.

        Args:
            dataset: the dataset.
            **choose: field -> extractor name or prefix of the key; default: the table built last. None skips
                the field.

        Returns:
            Field name -> table.

        Raises:
            FeatureError: a field has no table, no table matches the choice, or the table was extracted from
                other content or is damaged.
        """
        stored = self.tables_for(dataset)
        fields = {t.manifest["field"] for t in stored} | set(dataset.content) - {TITLE_FIELD} | set(choose)
        return {f: self._load_table(dataset, f, stored, choose.get(f)) for f in sorted(fields)
                if choose.get(f, "") is not None}  # fmt: skip

    def _load_table(
        self, dataset: Dataset, field: str, stored: Sequence[StoredTable], chosen: str | None
    ) -> FeatureTable:
        tables = [t for t in stored if t.manifest["field"] == field]
        if not tables:
            if self.root.exists() and not self.root.is_dir():
                raise FeatureError(f"{self.root}: found a file; expected the directory of a feature store")
            others = {t.manifest["items"][:8] + "…" for t in self.tables(field)}
            extracted = f"for items {', '.join(sorted(others))}" if others else "for no items"
            raise FeatureError(
                f"{self.root}: {field!r} was extracted {extracted}, {dataset.name} has items "
                f"{dataset.items.fingerprint[:8]}…; {BUILD_HINT}, or skip the field with "
                f"load_tables(dataset, {field}=None)"
            )
        if chosen is not None:
            names = {t.name for t in tables} | {t.folder.name for t in tables}
            tables = [t for t in tables if t.name == chosen or t.folder.name.startswith(chosen)]
            if not tables:
                raise FeatureError(
                    f"{self.root}: no {field!r} features from {chosen!r} for {dataset.name}; the store has "
                    f"{sorted(names)}.{nearest(chosen, names)}"
                )
        fresh = [t for t in tables if is_fresh(t.manifest, dataset.content.get(field))]
        if not fresh:
            raise FeatureError(
                f"{tables[0].folder}: the content {field!r} of {dataset.name} has changed since the "
                f"extraction; {BUILD_HINT} again (only changed shards are extracted again)"
            )
        return fresh[0].open(self.verify_on_open).check(dataset)

    def save(self, dataset: Dataset, field: str, table: FeatureTable) -> StoredTable:
        """Stores existing vectors under the extractor name ``imported``; :meth:`load_tables` then finds them.

        Raises:
            FeatureError: the table belongs to other items, or cannot be written.
        """
        table.check(dataset)
        source = str(table.meta.get("extractor", {}).get("source", "array"))
        train = {k: v for k, v in table.meta.get("extractor", {}).items() if k == TRAIN_FINGERPRINT}
        describe = {"name": "imported", "source": source, "values_sha256": table.compute_sha256(), **train}
        rows = dataset if table.entity == "item" else dataset.transposed()
        key = shards.table_key(describe, rows.items.fingerprint, field)
        folder = self.folder(field, key)
        with table_lock(folder), explain_os_errors(folder, FeatureError):
            remove_stale_temporaries(folder, locked=True)
            entry = shards.finished_shard(folder, 0, 0, len(table))
            if entry is None:
                entry = shards.write_shard(folder, 0, 0, np.asarray(table.values[:]), table.present)
            head = manifest_head(rows, field, str(table.meta.get("kind", field)), key, describe, None)
            notes: dict[str, Any] = {
                k: table.meta[k] for k in ("unknown_ids", "zero_rows") if k in table.meta
            }
            return complete_table(folder, {**head, **notes}, [entry])

    def verify(self, dataset: Dataset | None = None) -> list[str]:
        """Hashes every file again; returns one line per damaged, missing, unfinished or unknown file.

        Args:
            dataset: leave out the complete tables of other datasets.
        """
        fingerprints = () if dataset is None else (dataset.items.fingerprint, dataset.users.fingerprint)
        others = {
            table.folder
            for table in (() if dataset is None else self.tables(skip_damaged=True))
            if table.manifest["items"] not in fingerprints
        }
        problems: list[str] = []
        if self.root.exists() and not self.root.is_dir():
            problems.append(f"{self.root}: found a file; expected the directory of a feature store")
        try:
            for field in sorted(self.root.iterdir()) if self.root.is_dir() else []:
                for folder in sorted(field.iterdir()) if field.is_dir() else [field]:
                    if folder in others:
                        continue
                    if folder.is_dir() and re.fullmatch(r"[0-9a-f]{32}", folder.name):
                        shards.table_problems(folder, problems.append)
                    else:
                        problems.append(f"{folder}: not part of a feature store; remove it")
        except OSError as cause:
            problems.append(f"{cause.filename or self.root}: cannot be read ({cause.strerror or cause})")
        return problems

    def gc(self, keep: Iterable[str] | None = None, dry_run: bool = False) -> list[Path]:
        """Removes temporary files and unfinished or superseded tables; returns their paths.

        A table is superseded by a later one for the same field and items that differs only in library
        versions or in the values imported from the same source. Tables being written are kept.

        Args:
            keep: keys of the tables to keep; all other tables are removed. Default: as above.
            dry_run: only list, remove nothing.
        """
        kept_keys = None if keep is None else set(keep)
        obsolete: list[Path] = []
        seen: set[str] = set()
        tables = self.tables(skip_damaged=True)
        for table in tables:
            facts = {k: v for k, v in table.manifest["extractor"].items() if k not in VOLATILE_KEYS}
            identity = digest(table.manifest["field"], table.manifest["items"], facts)
            if (identity in seen) if kept_keys is None else (table.folder.name not in kept_keys):
                obsolete.append(table.folder)
            seen.add(identity)
        complete = {table.folder for table in tables}
        folders = [f for f in sorted(self.root.glob("*/*/")) if re.fullmatch(r"[0-9a-f]{32}", f.name)]
        for folder in folders:
            if folder not in complete and not (kept_keys is not None and folder.name in kept_keys):
                obsolete.append(folder)
        removed = []
        for folder in folders:
            with suppress(Timeout), table_lock(folder, timeout=0), explain_os_errors(folder, FeatureError):
                if folder not in obsolete:
                    removed += sorted(folder.rglob(".*.tmp"))
                    if not dry_run:
                        remove_stale_temporaries(folder, locked=True)
                    continue
                if folder not in complete and (folder / shards.MANIFEST).exists():
                    with suppress(FeatureError):  # it was unfinished when it was listed
                        shards.read_manifest(folder)
                        continue
                removed.append(folder)
                if not dry_run:
                    # The manifest goes first, so that a killed gc leaves no partial table.
                    (folder / shards.MANIFEST).unlink(missing_ok=True)
                    shutil.rmtree(folder)
        return removed

    def status(self, dataset: Dataset) -> list[dict[str, Any]]:
        """One row per table of the dataset for display: field, extractor, shape, coverage."""
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
            for t in self.tables_for(dataset)
        ]


@contextmanager
def table_lock(folder: Path, timeout: float = -1) -> Iterator[Callable[[], None]]:
    """Holds the writer lock of the table in ``folder``; the system releases it when the process dies.

    Yields a function that raises if the directory is no longer the locked one. A writer calls it before each
    file; otherwise it would recreate a removed store, in which another process may already be writing.

    Args:
        folder: directory of the table; created if missing.
        timeout: seconds to wait for another writer; negative waits forever.

    Raises:
        FeatureError: the directory or the lock cannot be created, or was removed in the meantime.
        filelock.Timeout: another process holds the lock.
    """
    path = folder / shards.LOCK
    lock = FileLock(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=timeout)
        handle = os.open(path, os.O_RDONLY)  # an open file's inode is not reused
    except Timeout:
        raise
    except OSError:
        lock.release()
        with explain_os_errors(path, FeatureError):
            raise

    def check() -> None:
        with suppress(OSError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                return
        raise FeatureError(
            f"{folder}: was removed or replaced while it was being written; run the command again"
        )

    try:
        yield check
    finally:
        os.close(handle)
        lock.release()


def content_digest(content: Content) -> str:
    """Hex sha256 of the texts or image paths; cheap enough to compute whenever a table is opened."""
    return digest("content", content.kind, list(content.values))


def is_fresh(manifest: Mapping[str, Any], content: Content | None) -> bool:
    """Whether a table was extracted from this content; imported vectors match any content."""
    return content is None or manifest["content"] is None or manifest["content"] == content_digest(content)


def manifest_head(
    dataset: Dataset, field: str, kind: str, key: str, describe: Mapping[str, Any], content: str | None
) -> dict[str, Any]:
    """The part of a manifest that identifies the table; its rows are the dataset's items."""
    entity = dataset.items.kind
    return {
        **({} if entity == "item" else {"of": entity}),
        "key": key,
        "field": field,
        "kind": kind,
        "extractor": dict(describe),
        "items": dataset.items.fingerprint,
        "content": content,
    }


def complete_table(
    folder: Path, head: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]
) -> StoredTable:
    """Writes the manifest unless it is up to date, and marks the table as the last built."""
    path = folder / shards.MANIFEST
    manifest: Mapping[str, Any] | None = None
    if path.exists():
        try:
            manifest = shards.read_manifest(folder)
        except FeatureError:
            manifest = None  # damaged, written again below
    agrees = manifest is not None and manifest["shards"] == list(entries)
    if not agrees or manifest is None or any(manifest.get(k) != v for k, v in head.items()):
        manifest = shards.write_manifest(folder, head, entries)
    now = time.time_ns()  # the file system clock is coarser, and two tables must not tie
    os.utime(path, ns=(now, now))
    return StoredTable(folder, manifest, now)
