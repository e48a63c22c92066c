"""A directory of files that one JSON commits, and JSON that shows when it was changed.

Files are written first, under names that carry a digest of their content, so that none is ever written over
by another. Replacing the JSON, which names them with their sha256, is the commit; only then are the files of
the commit before removed. A process killed at any moment leaves a directory that reads: as it was before, or
as it is now.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from graphrec.core.errors import CheckpointError
from graphrec.core.files import digest, read_json, sha256_file, sweep, write_json

DIGITS = 16
"""Hex digits of a content digest that stand in a file name."""
SUFFIXES = ("arrow", "faiss", "npy", "safetensors")
Write = Callable[[Path], str]
"""Writes one file atomically and returns its sha256."""


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON object atomically, with a digest of its content as ``seal``.

    Raises:
        OSError: it cannot be written.
    """
    plain = json.loads(json.dumps(dict(value), allow_nan=False))  # as it will be read: text keys, lists
    write_json(path, {**plain, "seal": digest("bundle", plain)})


def read_sealed(path: Path, remedy: str, version: int | None = None) -> dict[str, Any]:
    """What :func:`write_sealed` wrote.

    Args:
        path: the JSON file.
        remedy: what to do about a damaged one, such as ``"save it again"``.
        version: the ``format`` it must have, if any.

    Raises:
        CheckpointError: missing, of another format, or not what was written.
    """
    found = read_json(path, CheckpointError)
    if version is not None and (not isinstance(found, dict) or found.get("format") != version):
        what = found.get("format") if isinstance(found, dict) else type(found).__name__
        raise CheckpointError(f"{path}: format {what!r}; this version reads format {version}: {remedy}")
    try:
        whole = isinstance(found, dict) and found.pop("seal", None) == digest("bundle", found)
    except ValueError:  # a number beyond those of JSON
        whole = False
    if not whole:
        raise CheckpointError(f"{path}: its content is not what was written; restore it or {remedy}")
    return dict(found)


class Committed:
    """A committed directory, opened for reading.

    Args:
        path: the JSON file.
        version: format that the caller understands.
        remedy: what to do about a damaged one, such as ``"save it again"``.

    Attributes:
        path: the JSON file.
        remedy: the same.
        files: name and sha256 by part.
        head: what :func:`commit` was given.

    Raises:
        CheckpointError: the JSON file is missing, damaged or of another format.
    """

    def __init__(self, path: Path, version: int, remedy: str) -> None:
        found = read_sealed(path, remedy, version)
        self.path, self.remedy = path, remedy
        self.files: dict[str, dict[str, str]] = found["files"]
        self.head: dict[str, Any] = found["head"]

    def file(self, part: str) -> Path:
        """The file of one part, checked.

        Raises:
            CheckpointError: there is none, or it is missing, not the one that was written, or outside the
                directory.
        """
        if part not in self.files:
            raise CheckpointError(f"{self.path}: holds no {part}; {self.remedy}")
        name, expected = self.files[part]["name"], self.files[part]["sha256"]
        path = self.path.parent / name
        if Path(name).name != name:
            raise CheckpointError(f"{self.path}: names {name!r}, which is outside the directory")
        try:
            found = sha256_file(path)
        except FileNotFoundError as cause:
            raise CheckpointError(
                f"{path}: no such file, though {self.path.name} names it; restore it or {self.remedy}"
            ) from cause
        except OSError as cause:
            raise CheckpointError(f"{path}: cannot be read ({cause}); restore it or {self.remedy}") from cause
        if found != expected:
            raise CheckpointError(f"{path}: its sha256 is not the recorded one; restore it or {self.remedy}")
        return path

    def tidy(self) -> None:
        """Removes what a killed writer left: temporary files, and those that are not or no longer named."""
        _tidy(self.path.parent, self.files)


def commit(
    path: Path, version: int, head: Mapping[str, Any], files: Mapping[str, tuple[str, str, Write]], retry: str
) -> dict[str, dict[str, str]]:
    """Writes a directory; what was committed before stays whole until this is.

    Args:
        path: the JSON file; the others lie beside it.
        version: recorded as ``format``.
        head: JSON-able facts.
        files: by part, which their names begin with: digest of the content, suffix, and what writes it.
        retry: what to do when there is room again, such as ``"save again"``.

    Returns:
        Name and sha256 of each file, by part.

    Raises:
        CheckpointError: the directory cannot be written (full disk, no permission).
    """
    folder = path.parent
    entries: dict[str, dict[str, str]] = {}
    try:
        for part, (content, suffix, write) in files.items():
            name = f"{part}-{content[:DIGITS]}.{suffix}"
            entries[part] = {"name": name, "sha256": write(folder / name)}
        write_sealed(path, {"format": version, "files": entries, "head": dict(head)})
    except OSError as cause:
        raise CheckpointError(
            f"{folder}: cannot be written ({cause}); what was there is intact: make room or permit writing, "
            f"then {retry}"
        ) from cause
    _tidy(folder, entries)
    return entries


def _tidy(folder: Path, files: Mapping[str, Mapping[str, str]]) -> None:
    """Removes what is not committed; what cannot be removed now is removed another time."""
    current = {entry["name"] for entry in files.values()}
    with suppress(OSError):
        sweep(folder)
        for suffix in SUFFIXES:
            for old in folder.glob(f"*-{'[0-9a-f]' * DIGITS}.{suffix}"):
                if old.name not in current:
                    with suppress(OSError):  # Windows keeps files that are mapped
                        old.unlink()
