"""Items added to a server, kept so that none is lost that was acknowledged.

A journal is an SQLite database with one row per addition. A row is committed and synchronized (WAL mode,
``synchronous=FULL``) before its addition is acknowledged. Until November 2026 a journal was a text file of
lines ``sha256 JSON``; such a file is read once and kept beside the database as ``*.migrated``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

from graphrec.core.errors import CheckpointError, ConfigError
from graphrec.core.files import acquire_lock, sync_directory, write_bytes

MAGIC = b"SQLite format 3\0"
TABLE = """
CREATE TABLE IF NOT EXISTS additions (
    number INTEGER PRIMARY KEY, sha256 TEXT NOT NULL, content TEXT NOT NULL
) STRICT
"""
INSERT = "INSERT INTO additions (sha256, content) VALUES (?, ?)"
TORN = re.compile(rb"[0-9a-f]{0,64}( .*)?\0*", re.DOTALL)
"""What may follow the last line break of a text journal: the beginning of a line, or room without content."""


class Addition(NamedTuple):
    """Items as they were given to :meth:`graphrec.Recommender.add_items`.

    Attributes:
        ids: their external ids.
        features: modality -> a vector or None for each of them.
    """

    ids: list[str]
    features: dict[str, list[list[float] | None]]


class Journal:
    """A journal opened for appending by one server.

    Args:
        path: the file; created if missing. A text journal is migrated.

    Attributes:
        path: the file.
        additions: its additions when it was opened.

    Raises:
        CheckpointError: a row or line is not what was written, or the file cannot be read or written.
        ConfigError: another server has it open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        in_use = ConfigError(
            f"{path}: another server is writing to it; stop that one, or give each its own --journal FILE"
        )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with ExitStack() as resources:
                resources.callback(acquire_lock(Path(f"{path}.lock"), in_use).release)
                self._database = resources.enter_context(closing(_open(path)))
                self.additions = _read(self._database, path)
                self._opened = self._identity()
                sync_directory(path.parent)
                self._resources = resources.pop_all()
        except (sqlite3.OperationalError, OSError) as cause:
            raise CheckpointError(
                f"{path}: cannot be written ({cause}); name a writable place with --journal FILE, or serve "
                "with --read-only"
            ) from cause
        except sqlite3.DatabaseError as cause:
            raise CheckpointError(
                f"{path}: is damaged ({cause}); restore the file, or name another with --journal FILE"
            ) from cause

    def append(self, addition: Addition) -> None:
        """Writes an addition; when this returns, it is on the disk, in the file that the next server opens.

        Raises:
            CheckpointError: it cannot be written, or the file was deleted or replaced.
        """
        try:
            self._check_in_place()
            self._database.execute(INSERT, _row(addition))
            self._check_in_place()
        except sqlite3.Error as cause:
            raise CheckpointError(
                f"{self.path}: cannot be written ({cause}), so the items were not added; make room, then add "
                "them again"
            ) from cause

    def close(self) -> None:
        """Lets another server open it."""
        self._resources.close()

    def _identity(self) -> list[tuple[int, int]]:
        """Device and inode of the database and of its write-ahead log; 0 where a file is missing."""
        identity = []
        for path in (self.path, Path(f"{self.path}-wal")):
            try:
                stat = path.stat()
                identity.append((stat.st_dev, stat.st_ino))
            except OSError:
                identity.append((0, 0))
        return identity

    def _check_in_place(self) -> None:
        if self._identity() != self._opened:
            raise CheckpointError(
                f"{self.path}: was deleted or replaced while the server had it open, so the items were not "
                "added; put the file back and start the server again"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open(path: Path) -> sqlite3.Connection:
    """The database at ``path``, created or migrated where it is missing or a text journal."""
    try:
        with open(path, "rb") as file:
            begin = file.read(len(MAGIC))
    except FileNotFoundError:
        begin = b""
    if begin and begin != MAGIC:
        _migrate(path)
    # Every statement is a transaction of its own. Requests are handled in several threads, one at a time.
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute(TABLE)
    except BaseException:
        database.close()
        raise
    return database


def _read(database: sqlite3.Connection, path: Path) -> list[Addition]:
    """All additions, checked."""
    additions = []
    rows = database.execute("SELECT number, sha256, content FROM additions ORDER BY number")
    for expected, (number, sha256, content) in enumerate(rows, 1):
        if number != expected:
            raise CheckpointError(f"{path}, row {expected}: is missing; restore the file")
        additions.append(_parse(content.encode(), sha256.encode(), f"{path}, row {number}"))
    return additions


def _migrate(path: Path) -> None:
    """Replaces a text journal by a database with the same additions; the text is kept as ``*.migrated``."""
    text = path.read_bytes()
    complete, newline, torn = text.rpartition(b"\n")
    lines = complete.split(b"\n") if newline else []
    additions = []
    for number, line in enumerate(lines, 1):
        sha256, _, content = line.partition(b" ")
        additions.append(_parse(content, sha256, f"{path}, line {number}"))
    if not TORN.fullmatch(torn):  # else its addition was never acknowledged
        raise _damaged(f"{path}, line {len(lines) + 1}")
    new = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    new.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(new)) as database:
            database.execute("PRAGMA synchronous = FULL")
            database.execute(TABLE)
            database.executemany(INSERT, map(_row, additions))
            database.commit()
        write_bytes(Path(f"{path}.migrated"), text)
        os.replace(new, path)
        sync_directory(path.parent)
    finally:
        with suppress(OSError):
            new.unlink(missing_ok=True)


def _row(addition: Addition) -> tuple[str, str]:
    """The sha256 of an addition's JSON, and the JSON."""
    content = json.dumps(addition._asdict(), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(content.encode()).hexdigest(), content


def _parse(content: bytes, sha256: bytes, where: str) -> Addition:
    if hashlib.sha256(content).hexdigest().encode() != sha256:
        raise _damaged(where)
    addition: dict[str, Any] = json.loads(content)
    return Addition(addition["ids"], addition["features"])


def _damaged(where: str) -> CheckpointError:
    return CheckpointError(
        f"{where}: is not what was written (its sha256 differs); restore the file, or name another with "
        "--journal FILE and add the items again"
    )
