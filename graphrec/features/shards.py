"""The files of one feature table: ``.npy`` shards, one JSON sidecar per shard, and a manifest.

The order of writes makes a killed writer harmless: first a shard's ``.npy``, then its sidecar, and the
manifest last. A directory without a manifest is unfinished and not a table. Sidecars and manifest contain a
digest of themselves and have one canonical form, so that any changed byte in them is detected, white space
included.
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
from graphrec.features.fitted import fitted_files
from graphrec.features.shard_rows import ShardedRows, Stamp, file_stamp

FORMAT = FileFormat("feature table")
MANIFEST = "manifest.json"
LOCK = ".lock"
DTYPES = ("float16", "float32", "int32")
TIMESTAMP_SETTLED = 2.0  # seconds after which another write certainly changes a file's time stamp


def table_key(describe: Mapping[str, Any], items: str, field: str) -> str:
    """The directory name of a table: a digest of the format, the extractor, the item ids and the field.

    The ids identify the catalog. The splits are not part of the key, so that another split of the same
    catalog reuses the extraction. The content is not part of the key either: each shard records a digest of
    its inputs, and only shards with changed inputs are extracted again.

    Args:
        describe: description of the extractor, JSON-serializable.
        items: fingerprint of the item vocabulary.
        field: content field.
    """
    return digest("feature table", 1, dict(describe), items, field)[:32]


def values_sha256(
    shape: tuple[int, ...], dtype: Any, parts: Iterable[np.ndarray], present: np.ndarray
) -> str:
    """Hex sha256 of a table's values, independent of the sharding.

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
    """Reads a sealed JSON file.

    Args:
        path: the file.
        part: key that must be present: ``"shards"`` in a manifest, ``"rows"`` in a sidecar.

    Raises:
        FeatureError: the file is missing, not JSON, of another kind or format, or was changed.
    """
    try:
        data = path.read_bytes()
        entry = json.loads(data)
        body = {k: v for k, v in entry.items() if k != "digest"} if isinstance(entry, dict) else {}
        unchanged = seal(body) == entry and json_bytes(entry) == data
    except FileNotFoundError as cause:
        raise FeatureError(f"{path}: no such file; extract again") from cause
    except (OSError, ValueError, RecursionError) as cause:
        raise FeatureError(
            f"{path}: not readable as JSON ({cause}); extract again, or remove it with gc"
        ) from cause
    FORMAT.check(entry, path, "remove it with gc", FeatureError)
    if not unchanged or part not in entry:
        raise FeatureError(
            f"{path}: its digest differs from the recorded one, the file was damaged or edited; extract "
            "again or run gc"
        )
    return FORMAT.upgrade(entry)


def seal(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry with a digest of its content."""
    return {**entry, "digest": digest("sealed", dict(entry))}


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
    """Writes one shard and then its sidecar; returns the sidecar's entry.

    Args:
        folder: directory of the table.
        number: number of the shard.
        first: first row of the shard.
        values: ``(n, d) float16|float32``, finite, zero where absent.
        present: ``(n,) bool``.
        inputs: digest of the inputs of the rows.
        unreadable: item id -> reason, for content that could not be read.
        empty: item id -> reason, for content that gave no vector.
    """
    array_name, sidecar_name = shard_names(number)
    (folder / sidecar_name).unlink(missing_ok=True)  # it describes values that are about to be replaced
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
    """The reason in valid Unicode; file names may be invalid."""
    return reason.encode("utf-8", "backslashreplace").decode()


def finished_shard(folder: Path, number: int, first: int, last: int) -> dict[str, Any] | None:
    """The sidecar's entry of an intact shard with these rows, or None."""
    array_name, sidecar_name = shard_names(number)
    try:
        entry = read_sealed(folder / sidecar_name, "rows")
        path = folder / array_name
        if entry.get("key", folder.name) != folder.name:  # of another table; early caches have no key
            return None
        if entry["rows"] != [first, last] or path.stat().st_size != entry["bytes"]:
            return None
        return entry if sha256_file(path) == entry["sha256"] else None
    except (FeatureError, OSError):
        return None


def decode_present(entries: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """The mask of present rows ``(N,) bool`` from the shards' entries."""
    masks = [
        np.unpackbits(
            np.frombuffer(base64.b64decode(e["present"]), dtype=np.uint8), count=e["rows"][1] - e["rows"][0]
        )
        for e in entries
    ]
    return np.concatenate(masks).astype(bool) if masks else np.zeros(0, dtype=bool)


def write_manifest(
    folder: Path, head: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Removes unlisted shard files and writes the manifest, which completes the table.

    Args:
        folder: directory of the table.
        head: field, kind, key, extractor, items, content and further entries of the manifest.
        entries: the sidecars' entries in order.

    Returns:
        The manifest.

    Raises:
        FeatureError: the shards differ in width or dtype.
    """
    forms = {(e["dim"], e["dtype"]) for e in entries}
    if len(forms) != 1:
        raise FeatureError(
            f"{folder}: shards of {sorted(forms)}; expected one width and dtype; extract again"
        )
    (dim, dtype) = forms.pop()
    present = decode_present(entries)
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
    """Reads the manifest of a complete table.

    Raises:
        FeatureError: the manifest is missing, not JSON, damaged, or of another format version.
    """
    return read_sealed(folder / MANIFEST, "shards")


_verified: set[tuple[str, Stamp, str]] = set()


def open_shards(folder: Path, manifest: Mapping[str, Any], verify: bool) -> ShardedRows:
    """Opens the values ``(N, d)`` of a table and checks them against the manifest.

    Sizes and ``.npy`` headers are always checked; with ``verify`` every file is also hashed, once per process
    unless it changes.

    Raises:
        FeatureError: a shard is missing or differs from its record; the message names it.
    """
    paths = [folder / e["file"] for e in manifest["shards"]]
    stamps = [file_stamp(path) for path in paths]  # before the check, to detect files replaced after it
    for entry in manifest["shards"]:
        problem = shard_problem(folder, entry, hashed=verify)
        if problem:
            raise FeatureError(f"{problem}; extract again (only damaged shards are extracted again)")
    starts = [e["rows"][0] for e in manifest["shards"]] + [manifest["shape"][0]]
    digests = [e["sha256"] for e in manifest["shards"]]
    return ShardedRows(paths, starts, manifest["shape"][1], np.dtype(manifest["dtype"]), stamps, digests)


def shard_problem(folder: Path, entry: Mapping[str, Any], hashed: bool, again: bool = False) -> str | None:
    """Describes the problem of one shard's file, or returns None.

    Args:
        folder: directory of the table.
        entry: the shard's entry in the manifest.
        hashed: also compare the sha256.
        again: hash files again that this process has already hashed.
    """
    path = folder / entry["file"]
    if path.name != entry["file"] or not path.is_file():
        return f"{path}: no such file, but the manifest lists it"
    current = file_stamp(path)
    if current is None or current[2] != entry["bytes"]:
        return f"{path}: {current[2] if current else 0:,} bytes; expected {entry['bytes']:,}"
    identity = (str(path.resolve()), current, entry["sha256"])
    try:
        if hashed and (again or identity not in _verified):
            if sha256_file(path) != entry["sha256"]:
                return f"{path}: its sha256 differs from the recorded one, the file is damaged"
            # Time stamps have a resolution of milliseconds (two seconds on some file systems): a file written
            # just now may change again with the same time stamp, so it is not remembered yet.
            if time.time() - max(current[3], current[4]) / 1e9 > TIMESTAMP_SETTLED:
                _verified.add(identity)
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
    """Hashes every file of one table's directory again and reports each problem."""
    if not (folder / MANIFEST).exists():
        report(
            f"{folder}: no {MANIFEST}, the extraction did not finish; run it again, or remove the table "
            "with gc"
        )
        return
    try:
        manifest = read_manifest(folder)
    except FeatureError as cause:
        report(str(cause))
        return
    if manifest["key"] != folder.name or manifest["field"] != folder.parent.name:
        report(
            f"{folder / MANIFEST}: belongs to the table {manifest['field']}/{manifest['key']}; extract "
            "again, or restore the name if the directory was renamed"
        )
    expected = {MANIFEST, LOCK}
    for number, entry in enumerate(manifest["shards"]):
        array_name, sidecar_name = shard_names(number)
        expected |= {array_name, sidecar_name}
        problem = shard_problem(folder, entry, hashed=True, again=True)
        if problem:
            report(problem)
        try:
            if read_sealed(folder / sidecar_name, "rows") != entry:
                report(f"{folder / sidecar_name}: differs from the manifest; extract again")
        except FeatureError as cause:
            report(str(cause))
    fitted, problems = fitted_files(folder)
    expected |= fitted
    for problem in problems:
        report(problem)
    for path in sorted(folder.iterdir()):
        if path.name not in expected:
            kind = "left behind by a killed writer" if path.name.endswith(".tmp") else "not part of the table"
            report(f"{path}: {kind}; remove it")
