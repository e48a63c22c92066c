"""The files of one feature table: ``.npy`` shards, a JSON sidecar each, and the manifest that completes them.

The order of writing is what makes a killed writer harmless: a shard's ``.npy``, then its sidecar, and after
the last sidecar the manifest. A directory without a manifest is unfinished work, never a table. Sidecars and
manifest are sealed with a digest of themselves, so a flipped byte in them is found as surely as one in the
numbers.
"""

from __future__ import annotations

import base64
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphrec.atomic import digest, read_array, read_json, sha256_file, write_array, write_json
from graphrec.errors import FeatureError

FORMAT = 1
MANIFEST = "manifest.json"
LOCK = ".lock"
OPEN_SHARDS = 32  # every memmap holds a file descriptor, and 1,024 is a common limit
DTYPES = ("float16", "float32")


class ShardedRows:
    """The rows ``(N, d)`` of several ``.npy`` shards as one read-only array, mapped shard by shard on use.

    Indexing takes an integer, a slice, an array of indices of any shape or a ``(N,) bool`` mask, and a tuple
    of one of them and further indices for the columns. ``np.asarray`` loads everything.

    Args:
        paths: the shards in order.
        starts: first row of each shard and, last, the number of rows ``(n_shards + 1,)``.
        dim: columns.
        dtype: of the values.

    Raises:
        FeatureError: on use, when a shard's file was replaced after this object was made.
    """

    ndim = 2

    def __init__(self, paths: Sequence[Path], starts: Sequence[int], dim: int, dtype: np.dtype) -> None:
        self.paths, self.starts = tuple(paths), np.asarray(starts, dtype=np.int64)
        self.shape, self.dtype = (int(self.starts[-1]), dim), np.dtype(dtype)
        self._open: OrderedDict[int, np.ndarray] = OrderedDict()
        self._stamps = [_stamp(path) for path in self.paths]

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"ShardedRows({self.shape[0]:,} x {self.shape[1]:,} {self.dtype}, {len(self.paths):,} shards)"

    def shard(self, number: int) -> np.ndarray:
        """One shard ``(n, d)``, memory-mapped."""
        mapped = self._open.pop(number, None)
        if mapped is None:
            path = self.paths[number]
            mapped = read_array(path, FeatureError, mmap=True)
            # Extracted again meanwhile? A table half old and half new is none.
            if _stamp(path) != self._stamps[number]:
                raise FeatureError(f"{path}: was replaced after the table was opened; open the table again")
        self._open[number] = mapped
        while len(self._open) > OPEN_SHARDS:
            self._open.popitem(last=False)
        return mapped

    def __getitem__(self, index: Any) -> np.ndarray:
        rows, rest = (index[0], index[1:]) if isinstance(index, tuple) and index else (index, ())
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        rows = np.asarray(rows)
        if rows.dtype == bool:
            if rows.shape != (len(self),):
                raise IndexError(f"mask has shape {rows.shape}; expected ({len(self)},)")
            rows = np.flatnonzero(rows)
        if rows.dtype.kind not in "iu" and rows.size:
            raise IndexError(f"index has dtype {rows.dtype}; expected integers, a slice or a mask")
        rows = rows.astype(np.int64)
        out_of_range = (rows < -len(self)) | (rows >= len(self))
        if out_of_range.any():
            raise IndexError(f"row {rows[out_of_range].flat[0]} of {len(self):,} rows")
        taken = self._take(np.where(rows < 0, rows + len(self), rows).ravel()).reshape(
            *rows.shape, self.shape[1]
        )
        return taken[(slice(None),) * rows.ndim + rest] if rest else taken

    def _take(self, rows: np.ndarray) -> np.ndarray:
        result = np.empty((len(rows), self.shape[1]), dtype=self.dtype)
        order = np.argsort(rows, kind="stable")  # shards are then read one after another, each forwards
        ordered = rows[order]
        cuts = np.searchsorted(ordered, self.starts)
        for number in np.flatnonzero(np.diff(cuts)):
            part = slice(cuts[number], cuts[number + 1])
            result[order[part]] = self.shard(int(number))[ordered[part] - self.starts[number]]
        return result

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("the rows of several shards cannot be one array without a copy")
        return self[:].astype(dtype or self.dtype, copy=False)


def table_key(describe: Mapping[str, Any], items: str, field: str) -> str:
    """The directory name of a table: a digest of the format, the extractor, the item ids and the field.

    The ids stand for the catalogue; the splits are left out on purpose, so that another split of the same
    catalogue does not throw hours of extraction away. What the items look like is not part of the key either:
    each shard records a digest of its inputs, and only the shards whose inputs changed are made again.

    Args:
        describe: what the extractor says of itself, JSON-able.
        items: fingerprint of the item vocabulary.
        field: content field.
    """
    return digest("feature table", FORMAT, dict(describe), items, field)[:32]


def values_sha256(
    shape: tuple[int, ...], dtype: Any, parts: Iterable[np.ndarray], present: np.ndarray
) -> str:
    """Hex sha256 of a table's numbers, however they are sharded.

    Args:
        shape: ``(N, d)``.
        dtype: of the values.
        parts: the values in order, in blocks of rows.
        present: ``(N,) bool``.
    """
    total = hashlib.sha256(f"features/{np.dtype(dtype).str}/{shape[0]}x{shape[1]}".encode())
    for part in parts:
        if part.size:
            total.update(np.ascontiguousarray(part).view(np.uint8).data)
    total.update(np.packbits(present).tobytes())
    return total.hexdigest()


def shard_names(number: int) -> tuple[str, str]:
    """File names of one shard: values and sidecar."""
    return f"shard-{number:05d}.npy", f"shard-{number:05d}.json"


def seal(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry with a digest of the rest of it."""
    return {**entry, "digest": digest("sealed", dict(entry))}


def is_sealed(entry: Any) -> bool:
    """Whether an entry is what :func:`seal` made."""
    if not isinstance(entry, dict) or "digest" not in entry:
        return False
    return bool(seal({k: v for k, v in entry.items() if k != "digest"})["digest"] == entry["digest"])


def write_shard(
    folder: Path,
    number: int,
    first: int,
    values: np.ndarray,
    present: np.ndarray,
    *,
    inputs: str | None = None,
    unreadable: Mapping[str, str] | None = None,
    empty: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Writes one shard and its sidecar, in this order, and returns the sidecar's entry.

    Args:
        folder: the table's directory.
        number: of the shard.
        first: its first row.
        values: ``(n, d) float16|float32``, finite, zero where absent.
        present: ``(n,) bool``.
        inputs: digest of what the rows were made from.
        unreadable: reason by item id for content that could not be read.
        empty: reason by item id for content that gave no vector.
    """
    array_name, sidecar_name = shard_names(number)
    (folder / sidecar_name).unlink(missing_ok=True)  # it would vouch for numbers about to be replaced
    sha256 = write_array(folder / array_name, values)
    entry = seal(
        {
            "format": FORMAT,
            "file": array_name,
            "rows": [first, first + len(values)],
            "dim": int(values.shape[1]),
            "dtype": str(values.dtype),
            "bytes": (folder / array_name).stat().st_size,
            "sha256": sha256,
            "inputs": inputs,
            "present": base64.b64encode(np.packbits(present).tobytes()).decode(),
            "unreadable": dict(unreadable or {}),
            "empty": dict(empty or {}),
        }
    )
    write_json(folder / sidecar_name, entry)
    return entry


def finished_shard(folder: Path, number: int, first: int, last: int) -> dict[str, Any] | None:
    """The sidecar's entry of a shard that is whole and holds these rows, or None."""
    array_name, sidecar_name = shard_names(number)
    try:
        entry = read_json(folder / sidecar_name, FeatureError)
    except FeatureError:
        return None
    if not is_sealed(entry) or entry["format"] != FORMAT or entry["rows"] != [first, last]:
        return None
    path = folder / array_name
    if not path.is_file() or path.stat().st_size != entry["bytes"] or sha256_file(path) != entry["sha256"]:
        return None
    return dict(entry)


def present_of(entries: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """The present mask ``(N,) bool`` recorded by the shards' entries."""
    masks = [
        np.unpackbits(
            np.frombuffer(base64.b64decode(e["present"]), dtype=np.uint8), count=e["rows"][1] - e["rows"][0]
        )
        for e in entries
    ]
    return np.concatenate(masks).astype(bool) if masks else np.zeros(0, dtype=bool)


def complete(folder: Path, head: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Writes the manifest that makes the shards a table, after removing shard files it does not name.

    Args:
        folder: the table's directory.
        head: field, kind, key, extractor, items, content and further facts about the table.
        entries: of all shards in order.

    Raises:
        FeatureError: the shards disagree in columns or type.
    """
    kinds = {(e["dim"], e["dtype"]) for e in entries}
    if len(kinds) != 1:
        raise FeatureError(f"{folder}: shards of {sorted(kinds)}; expected one width and type; extract again")
    (dim, dtype) = kinds.pop()
    present = present_of(entries)
    parts = (read_array(folder / e["file"], FeatureError, mmap=True) for e in entries)
    manifest = seal(
        {
            **head,
            "format": FORMAT,
            "shape": [len(present), dim],
            "dtype": dtype,
            "sha256": values_sha256((len(present), dim), dtype, parts, present),
            "present": int(present.sum()),
            "shards": [dict(e) for e in entries],
        }
    )
    named = {name for number in range(len(entries)) for name in shard_names(number)}
    for path in folder.glob("shard-*"):
        if path.name not in named:
            path.unlink()
    write_json(folder / MANIFEST, manifest)
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a complete table.

    Raises:
        FeatureError: missing, not JSON, damaged, or of another format version.
    """
    path = folder / MANIFEST
    manifest = read_json(path, FeatureError)
    found = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
    if found != FORMAT:
        raise FeatureError(f"{path}: format {found!r}; this version reads format {FORMAT}; remove it with gc")
    if not is_sealed(manifest):
        raise FeatureError(
            f"{path}: does not have the digest it records, it was damaged or edited; extract again or gc"
        )
    return dict(manifest)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file is replaced; None where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return (stat.st_ino, stat.st_size, stat.st_mtime_ns)


_verified: set[tuple[Any, ...]] = set()


def open_shards(folder: Path, manifest: Mapping[str, Any], verify: bool) -> np.ndarray | ShardedRows:
    """The values ``(N, d)`` of a table, checked against the manifest.

    Sizes and ``.npy`` headers are always checked; with ``verify`` every file is also hashed, once per process
    as long as it does not change.

    Raises:
        FeatureError: a shard is missing or differs from what was recorded; names it.
    """
    for entry in manifest["shards"]:
        problem = shard_problem(folder, entry, hashed=verify)
        if problem:
            raise FeatureError(f"{problem}; extract again (only what is damaged is made again)")
    paths = [folder / e["file"] for e in manifest["shards"]]
    if len(paths) == 1:
        return read_array(paths[0], FeatureError, mmap=True)
    starts = [e["rows"][0] for e in manifest["shards"]] + [manifest["shape"][0]]
    return ShardedRows(paths, starts, manifest["shape"][1], np.dtype(manifest["dtype"]))


def shard_problem(folder: Path, entry: Mapping[str, Any], hashed: bool, again: bool = False) -> str | None:
    """What is wrong with one shard's values, or None.

    Args:
        folder: the table's directory.
        entry: the shard's entry in the manifest.
        hashed: compare the sha256 too.
        again: hash even what this process has hashed before.
    """
    path = folder / entry["file"]
    if path.name != entry["file"] or not path.is_file():
        return f"{path}: no such file, though the manifest names it"
    stat = path.stat()
    if stat.st_size != entry["bytes"]:
        return f"{path}: {stat.st_size:,} bytes; expected {entry['bytes']:,}"
    try:
        array = read_array(path, FeatureError, mmap=True)
    except FeatureError as cause:
        return str(cause)
    shape = (entry["rows"][1] - entry["rows"][0], entry["dim"])
    if array.shape != shape or str(array.dtype) != entry["dtype"]:
        return f"{path}: {array.shape} {array.dtype}; expected {shape} {entry['dtype']}"
    if hashed:
        known = (str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ino, entry["sha256"])
        if again or known not in _verified:
            if sha256_file(path) != entry["sha256"]:
                return f"{path}: its sha256 is not the one recorded, the file was damaged"
            _verified.add(known)
    return None


def table_problems(folder: Path, report: Callable[[str], None]) -> None:
    """Re-hashes every file of one table's directory and reports each problem."""
    if not (folder / MANIFEST).exists():
        report(f"{folder}: no {MANIFEST}, the extraction did not finish; run it again, or remove it with gc")
        return
    try:
        manifest = read_manifest(folder)
    except FeatureError as cause:
        report(str(cause))
        return
    if manifest["key"] != folder.name or manifest["field"] != folder.parent.name:
        report(f"{folder}: its manifest is of {manifest['field']}/{manifest['key']}; restore its name")
    expected = {MANIFEST, LOCK}
    for number, entry in enumerate(manifest["shards"]):
        array_name, sidecar_name = shard_names(number)
        expected |= {array_name, sidecar_name}
        problem = shard_problem(folder, entry, hashed=True, again=True)
        if problem:
            report(problem)
        try:
            agrees = read_json(folder / sidecar_name, FeatureError) == entry
        except FeatureError as cause:
            report(str(cause))
        else:
            if not agrees:
                report(f"{folder / sidecar_name}: differs from the manifest; extract again")
    for path in sorted(folder.iterdir()):
        if path.name not in expected:
            kind = "left behind by a killed writer" if path.name.endswith(".tmp") else "not part of the table"
            report(f"{path}: {kind}; remove it")
