"""A directory of arrays and id lists that one JSON file commits.

File names carry a digest of their content and are written first; replacing the JSON is the commit, and only
then are files of the bundle before removed. A process killed at any moment leaves a bundle that reads: the
old one or the new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from graphrec.atomic import (
    digest,
    read_array,
    read_json,
    sha256_file,
    sweep,
    write_array,
    write_json,
    writing,
)
from graphrec.data import Vocabulary
from graphrec.errors import CheckpointError


class Bundle:
    """A bundle opened for reading.

    Args:
        path: the JSON file.
        version: format of the head that the caller understands.

    Attributes:
        head: what :func:`write` was given.

    Raises:
        CheckpointError: the JSON file is missing, damaged or of another format.
    """

    def __init__(self, path: Path, version: int) -> None:
        self.path = path
        found = read_json(path, CheckpointError)
        if not isinstance(found, dict) or found.get("format") != version:
            what = found.get("format") if isinstance(found, dict) else type(found).__name__
            raise CheckpointError(f"{path}: format {what!r}; this version reads format {version}")
        if found.pop("seal", None) != digest("bundle", found):
            raise CheckpointError(f"{path}: its content is not what was written; save it again")
        self.files: dict[str, dict[str, str]] = found["files"]
        self.head: dict[str, Any] = found["head"]

    def file(self, part: str) -> Path:
        """The file of one part, checked.

        Raises:
            CheckpointError: it is missing, not the one that was written, or outside the directory.
        """
        name, expected = self.files[part]["name"], self.files[part]["sha256"]
        path = self.path.parent / name
        if Path(name).name != name:
            raise CheckpointError(f"{self.path}: names {name!r}, which is outside the directory")
        if not path.exists():
            raise CheckpointError(f"{path}: no such file, though {self.path.name} names it; save it again")
        if sha256_file(path) != expected:
            raise CheckpointError(f"{path}: its sha256 is not the recorded one; restore it or save it again")
        return path

    def array(self, part: str, mmap: bool = False) -> np.ndarray:
        """One array, checked; memory-mapped and read-only if asked for."""
        return read_array(self.file(part), CheckpointError, mmap)

    def ids(self, part: str) -> list[str]:
        """One list of ids, checked."""
        path = self.file(part)
        try:
            ids: list[str] = pl.read_ipc(path)["id"].to_list()
        except (OSError, pl.exceptions.PolarsError) as cause:
            raise CheckpointError(
                f"{path}: not readable as an Arrow file ({cause}); save it again"
            ) from cause
        return ids


def write(
    path: Path,
    version: int,
    head: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    ids: Mapping[str, Vocabulary],
) -> None:
    """Writes a bundle; the one before stays whole until this one is.

    Args:
        path: the JSON file; the others lie beside it.
        version: recorded as ``format``.
        head: JSON-able facts.
        arrays: by part; the names are part of file names.
        ids: by part.

    Raises:
        CheckpointError: the directory cannot be written.
    """
    folder = path.parent
    files: dict[str, dict[str, str]] = {}
    try:
        for part, array in arrays.items():
            name = f"{part}-{digest(array)[:16]}.npy"
            files[part] = {"name": name, "sha256": write_array(folder / name, array)}
        for part, vocabulary in ids.items():
            name = f"{part}-{vocabulary.fingerprint[:16]}.arrow"
            files[part] = {"name": name, "sha256": write_ids(folder / name, vocabulary)}
        whole = {"format": version, "files": files, "head": dict(head)}
        write_json(path, {**whole, "seal": digest("bundle", whole)})
    except OSError as cause:
        raise CheckpointError(
            f"{folder}: cannot be written ({cause}); what was there is intact: make room or permit writing, "
            "then save again"
        ) from cause
    sweep(folder)
    current = {entry["name"] for entry in files.values()}
    digests = "[0-9a-f]" * 16
    for old in [*folder.glob(f"*-{digests}.npy"), *folder.glob(f"*-{digests}.arrow")]:
        if old.name not in current:
            with suppress(OSError):  # Windows keeps files that are mapped
                old.unlink()


def write_ids(path: Path, vocabulary: Vocabulary) -> str:
    """Writes ids as an Arrow file with the column ``id``, atomically; returns its sha256."""
    with writing(path) as file:
        pl.DataFrame({"id": pl.Series("id", list(vocabulary.ids), dtype=pl.String)}).write_ipc(file)
    return sha256_file(path)
