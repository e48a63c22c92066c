"""The files of one feature table: ``.npy`` shards, a JSON sidecar each, and the manifest that completes them.

The order of writing is what makes a killed writer harmless: a shard's ``.npy``, then its sidecar, and after
the last sidecar the manifest. A directory without a manifest is unfinished work, never a table. Sidecars and
manifest are sealed with a digest of themselves and have one form, so a flipped byte in them, white space
included, is found as surely as one in the numbers.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphrec.core.bundle import FileFormat
from graphrec.core.errors import FeatureError
from graphrec.core.files import digest, json_bytes, read_array, sha256_file, write_array, write_json
from graphrec.features.shard_rows import ShardedRows, Stamp, stamp

FORMAT = FileFormat("feature table")
MANIFEST = "manifest.json"
LOCK = ".lock"
DTYPES = ("float16", "float32", "int32")
SETTLED = 2.0  # seconds after which a further change to a file is sure to change its time stamp


def table_key(describe: Mapping[str, Any], items: str, field: str) -> str:
    """The directory name of a table: a digest of the format, the extractor, the item ids and the field.

    The ids stand for the catalog; the splits are left out on purpose, so that another split of the same
    catalog does not throw hours of extraction away. What the items look like is not part of the key either:
    each shard records a digest of its inputs, and only the shards whose inputs changed are made again.

    Args:
        describe: what the extractor says of itself, JSON-able.
        items: fingerprint of the item vocabulary.
        field: content field.
    """
    return digest("feature table", 1, dict(describe), items, field)[:32]


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


def read_sealed(path: Path, part: str) -> dict[str, Any]:
    """What a sealed JSON file holds.

    Args:
        path: the file.
        part: what a file of its kind has: ``"shards"`` a manifest, ``"rows"`` a sidecar.

    Raises:
        FeatureError: missing, not JSON, of another kind or format, or not byte by byte what was written.
    """
    try:
        data = path.read_bytes()
        entry = json.loads(data)
        whole = is_sealed(entry) and json_bytes(entry) == data
    except FileNotFoundError as cause:
        raise FeatureError(f"{path}: no such file; extract again") from cause
    except (OSError, ValueError, RecursionError) as cause:
        raise FeatureError(
            f"{path}: not readable as JSON ({cause}); extract again, or remove it with gc"
        ) from cause
    FORMAT.check(entry, path, "remove it with gc", FeatureError)
    if not whole or part not in entry:
        raise FeatureError(
            f"{path}: does not have the digest it records, it was damaged or edited; extract again or gc"
        )
    return FORMAT.upgrade(entry)


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
            **FORMAT.header,
            "key": folder.name,
            "file": array_name,
            "rows": [first, first + len(values)],
            "dim": int(values.shape[1]),
            "dtype": str(values.dtype),
            "bytes": (folder / array_name).stat().st_size,
            "sha256": sha256,
            "inputs": inputs,
            "present": base64.b64encode(np.packbits(present).tobytes()).decode(),
            "unreadable": {item: _printable(reason) for item, reason in (unreadable or {}).items()},
            "empty": {item: _printable(reason) for item, reason in (empty or {}).items()},
        }
    )
    write_json(folder / sidecar_name, entry)
    return entry


def _printable(reason: str) -> str:
    """The reason in valid Unicode; the name of a file need not be."""
    return reason.encode("utf-8", "backslashreplace").decode()


def finished_shard(folder: Path, number: int, first: int, last: int) -> dict[str, Any] | None:
    """The sidecar's entry of a shard that is whole and holds these rows, or None."""
    array_name, sidecar_name = shard_names(number)
    try:
        entry = read_sealed(folder / sidecar_name, "rows")
        path = folder / array_name
        if entry.get("key", folder.name) != folder.name:  # another table's; the first caches did not say
            return None
        if entry["rows"] != [first, last] or path.stat().st_size != entry["bytes"]:
            return None
        return entry if sha256_file(path) == entry["sha256"] else None
    except (FeatureError, OSError):
        return None


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
            **FORMAT.header,
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
    return read_sealed(folder / MANIFEST, "shards")


_verified: set[tuple[str, Stamp, str]] = set()


def open_shards(folder: Path, manifest: Mapping[str, Any], verify: bool) -> ShardedRows:
    """The values ``(N, d)`` of a table, checked against the manifest.

    Sizes and ``.npy`` headers are always checked; with ``verify`` every file is also hashed, once per process
    as long as it does not change.

    Raises:
        FeatureError: a shard is missing or differs from what was recorded; names it.
    """
    paths = [folder / e["file"] for e in manifest["shards"]]
    stamps = [stamp(path) for path in paths]  # before the check: what is replaced after it must not pass
    for entry in manifest["shards"]:
        problem = shard_problem(folder, entry, hashed=verify)
        if problem:
            raise FeatureError(f"{problem}; extract again (only what is damaged is made again)")
    starts = [e["rows"][0] for e in manifest["shards"]] + [manifest["shape"][0]]
    digests = [e["sha256"] for e in manifest["shards"]]
    return ShardedRows(paths, starts, manifest["shape"][1], np.dtype(manifest["dtype"]), stamps, digests)


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
    found = stamp(path)
    if found is None or found[2] != entry["bytes"]:
        return f"{path}: {found[2] if found else 0:,} bytes; expected {entry['bytes']:,}"
    known = (str(path.resolve()), found, entry["sha256"])
    try:
        if hashed and (again or known not in _verified):
            if sha256_file(path) != entry["sha256"]:
                return f"{path}: its sha256 is not the one recorded, the file was damaged"
            # A file's clock ticks every few milliseconds (two seconds on some systems): what was written just
            # now may change once more and keep its time, so it is not yet remembered.
            if time.time() - max(found[3], found[4]) / 1e9 > SETTLED:
                _verified.add(known)
        array = read_array(path, FeatureError, mmap=True)
    except OSError as cause:
        return f"{path}: cannot be read ({cause.strerror or cause})"
    except FeatureError as cause:
        return str(cause)
    shape = (entry["rows"][1] - entry["rows"][0], entry["dim"])
    if array.shape != shape or str(array.dtype) != entry["dtype"]:
        return f"{path}: {array.shape} {array.dtype}; expected {shape} {entry['dtype']}"
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
        report(
            f"{folder / MANIFEST}: of the table {manifest['field']}/{manifest['key']}; extract again, or "
            "restore its name if the directory was renamed"
        )
    expected = {MANIFEST, LOCK}
    for number, entry in enumerate(manifest["shards"]):
        array_name, sidecar_name = shard_names(number)
        expected |= {array_name, sidecar_name}
        problem = shard_problem(folder, entry, hashed=True, again=True)
        if problem:
            report(problem)
        try:
            agrees = read_sealed(folder / sidecar_name, "rows") == entry
        except FeatureError as cause:
            report(str(cause))
        else:
            if not agrees:
                report(f"{folder / sidecar_name}: differs from the manifest; extract again")
    for path in sorted(folder.iterdir()):
        if path.name not in expected:
            kind = "left behind by a killed writer" if path.name.endswith(".tmp") else "not part of the table"
            report(f"{path}: {kind}; remove it")
