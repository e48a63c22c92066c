"""Versioned formats, JSON that shows when it was changed, and directories of files that one JSON commits.

Every kind of file that graphrec writes has a :class:`FileFormat`: a version, and how files of earlier
versions are read.

Files are written first, under names that carry a digest of their content, so that none is ever written over
by another. Replacing the JSON, which names them with their sha256, is the commit; only then are the files of
the commit before removed. A process killed at any moment leaves a directory that reads: as it was before, or
as it is now.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphrec.core.errors import CheckpointError, GraphrecError
from graphrec.core.files import (
    digest,
    json_bytes,
    read_json,
    remove_stale_temporaries,
    sha256_file,
    write_bytes,
)

DIGITS = 16
"""Hex digits of a content digest that stand in a file name."""
SUFFIXES = ("arrow", "faiss", "npy", "safetensors")
Write = Callable[[Path], str]
"""Writes one file atomically and returns its sha256."""


@dataclass(frozen=True)
class FileFormat:
    """The format of one kind of file.

    To change a format, raise its version and add the function that turns the content of the version before
    into that of the new one; it is applied when such a file is read.

    Attributes:
        kind: what a file holds, such as ``"checkpoint"``.
        version: of the files that are written.
        migrations: version -> function from the content of that version to the content of the next.
        sealed_since: the first version whose JSON carries a seal.
        unmarked: the version of files with neither a ``format`` entry nor a seal; None: there are none.
    """

    kind: str
    version: int = 1
    migrations: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = field(default_factory=dict)
    sealed_since: int = 1
    unmarked: int | None = None

    @property
    def header(self) -> dict[str, Any]:
        """The entry by which a file of this format is recognized."""
        return {"format": {"kind": self.kind, "version": self.version}}

    def check(self, content: Any, where: object, remedy: str, error: type[GraphrecError]) -> None:
        """Refuses content of another kind, or of a version that cannot be read.

        Raises:
            GraphrecError: of class ``error``; names the file (``where``), the version found, the versions
                that are read, and the ``remedy``, such as ``"save it again"``.
        """
        entry = content.get("format") if isinstance(content, dict) else type(content).__name__
        kind = entry.get("kind") if isinstance(entry, dict) else self.kind
        version = _version(entry)
        oldest = min(self.migrations, default=self.version)
        versions = f"{oldest} to {self.version}" if oldest < self.version else f"{self.version}"
        reads = f"this graphrec reads {self.kind} format {versions}"
        if kind != self.kind:
            raise error(f"{where}: holds a {kind}; expected a {self.kind}")
        if version is None or version < oldest:
            raise error(f"{where}: format {entry if version is None else version!r}; {reads}: {remedy}")
        if version > self.version:
            raise error(
                f"{where}: format {version}, written by a later version of graphrec; {reads}: upgrade "
                f"graphrec, or {remedy}"
            )

    def mark(self, content: Any) -> Any:
        """The content, with the ``format`` entry that a file of version :attr:`unmarked` lacks."""
        if self.unmarked is None or not isinstance(content, dict) or {"format", "seal"} & content.keys():
            return content
        return {**content, "format": self.unmarked}

    def carries_seal(self, content: dict[str, Any]) -> bool:
        """Whether content that :meth:`check` accepted is of a version with a seal."""
        return (_version(content["format"]) or 0) >= self.sealed_since

    def upgrade(self, content: dict[str, Any]) -> dict[str, Any]:
        """The content of a file that :meth:`check` accepted, as this version would have written it."""
        for version in range(_version(content["format"]) or 0, self.version):
            content = {**self.migrations[version](content), **self.header}
        return content

    def read(
        self, content: Any, where: object, remedy: str, error: type[GraphrecError] = CheckpointError
    ) -> dict[str, Any]:
        """Content checked by :meth:`check` and upgraded."""
        self.check(content, where, remedy, error)
        return self.upgrade(content)


def _version(entry: object) -> int | None:
    """The version in a file's ``format``: an object with ``version``, or in files of 2026-11 a number."""
    version = entry.get("version") if isinstance(entry, dict) else entry
    return version if isinstance(version, int) and not isinstance(version, bool) else None


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON object atomically, with a digest of its content as ``seal``.

    Raises:
        OSError: it cannot be written.
    """
    write_bytes(path, sealed_bytes(value))


def sealed_bytes(value: Mapping[str, Any]) -> bytes:
    """What :func:`write_sealed` writes."""
    plain = json.loads(json.dumps(dict(value), allow_nan=False))  # as it will be read: text keys, lists
    return json_bytes({**plain, "seal": digest("bundle", plain)})


def read_sealed(
    path: Path,
    remedy: str,
    format: FileFormat | None = None,
    error: type[GraphrecError] = CheckpointError,
) -> dict[str, Any]:
    """Reads what :func:`write_sealed` wrote; content of an earlier version of the format is upgraded.

    Raises:
        GraphrecError: of class ``error``: the file is missing, of another format, or not what was written;
            names the ``remedy``, such as ``"save it again"``.
    """
    content = read_json(path, error)
    if format is not None:
        content = format.mark(content)
        format.check(content, path, remedy, error)
        if not format.carries_seal(content):
            return format.upgrade(content)
    try:
        intact = isinstance(content, dict) and content.pop("seal", None) == digest("bundle", content)
    except ValueError:  # a number beyond those of JSON
        intact = False
    if not intact:
        raise error(f"{path}: its content is not what was written; restore it or {remedy}")
    return dict(content) if format is None else format.upgrade(content)


class Committed:
    """A committed directory, opened for reading.

    Args:
        path: the JSON file.
        format: the format it must have.
        remedy: what to do about a damaged one, such as ``"save it again"``.
        error: class of what is raised.

    Attributes:
        path: the JSON file.
        remedy: as above.
        files: name and sha256 by part.
        head: the facts given to :func:`commit`.

    Raises:
        GraphrecError: of class ``error``: the JSON file is missing, damaged or of another format.
    """

    def __init__(
        self, path: Path, format: FileFormat, remedy: str, error: type[GraphrecError] = CheckpointError
    ) -> None:
        content = read_sealed(path, remedy, format, error)
        self.path = path
        self.remedy = remedy
        self.error = error
        self.files: dict[str, dict[str, str]] = content["files"]
        self.head: dict[str, Any] = content["head"]

    def file(self, part: str) -> Path:
        """The file of one part, checked.

        Raises:
            GraphrecError: there is none, or it is missing, not the one that was written, or outside the
                directory.
        """
        if part not in self.files:
            raise self.error(f"{self.path}: holds no {part}; {self.remedy}")
        name, expected = self.files[part]["name"], self.files[part]["sha256"]
        path = self.path.parent / name
        if Path(name).name != name:
            raise self.error(f"{self.path}: names {name!r}, which is outside the directory")
        try:
            sha256 = sha256_file(path)
        except FileNotFoundError as cause:
            raise self.error(
                f"{path}: no such file, though {self.path.name} names it; restore it or {self.remedy}"
            ) from cause
        except OSError as cause:
            raise self.error(f"{path}: cannot be read ({cause}); restore it or {self.remedy}") from cause
        if sha256 != expected:
            raise self.error(f"{path}: its sha256 is not the recorded one; restore it or {self.remedy}")
        return path

    def tidy(self) -> None:
        """Removes what a killed writer left: temporary files, and files that the JSON does not name."""
        _tidy(self.path.parent, self.files)


def commit(
    path: Path,
    format: FileFormat,
    head: Mapping[str, Any],
    files: Mapping[str, tuple[str, str, Write]],
    retry: str,
    error: type[GraphrecError] = CheckpointError,
) -> dict[str, dict[str, str]]:
    """Writes a directory; what was committed before stays intact until this is complete.

    Args:
        path: the JSON file; the others lie beside it.
        format: what is written.
        head: JSON-able facts.
        files: part -> digest of the content, suffix, and function that writes the file. A file's name begins
            with its part.
        retry: what to do when there is room again, such as ``"save again"``.
        error: class of what is raised.

    Returns:
        Name and sha256 of each file, by part.

    Raises:
        GraphrecError: of class ``error``: the directory cannot be written (full disk, no permission).
    """
    folder = path.parent
    entries: dict[str, dict[str, str]] = {}
    try:
        for part, (content, suffix, write) in files.items():
            name = f"{part}-{content[:DIGITS]}.{suffix}"
            entries[part] = {"name": name, "sha256": write(folder / name)}
        write_sealed(path, {**format.header, "files": entries, "head": dict(head)})
    except OSError as cause:
        raise error(
            f"{folder}: cannot be written ({cause}); its former content is intact: make room or permit "
            f"writing, then {retry}"
        ) from cause
    _tidy(folder, entries)
    return entries


def _tidy(folder: Path, files: Mapping[str, Mapping[str, str]]) -> None:
    """Removes what is not committed; what cannot be removed now is removed another time."""
    current = {entry["name"] for entry in files.values()} | _named_in(folder)
    with suppress(OSError):
        remove_stale_temporaries(folder)
        for suffix in SUFFIXES:
            for old in folder.glob(f"*-{'[0-9a-f]' * DIGITS}.{suffix}"):
                if old.name not in current:
                    with suppress(OSError):  # Windows keeps files that are mapped
                        old.unlink()


def _named_in(folder: Path) -> set[str]:
    """Files that any JSON of a folder names, as two kinds of bundles may share it."""
    names: set[str] = set()
    for path in folder.glob("*.json"):
        with suppress(GraphrecError, AttributeError, KeyError, TypeError):
            names |= {entry["name"] for entry in read_json(path)["files"].values()}
    return names
