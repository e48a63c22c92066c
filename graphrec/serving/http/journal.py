"""Items added to a server, kept so that none is lost that was acknowledged.

A journal is an SQLite database with one row per addition. A row is committed and synchronized before its
addition is acknowledged. SQLite writes into the database itself (rollback journal, ``synchronous=EXTRA``) and
not into a write-ahead log, because a damaged log ends, without a word, where the damage begins.

Beside it, ``*.acknowledged`` holds the number of acknowledged additions and a digest of them. It shows at the
next start that rows were lost. Until November 2026 a journal was a text file of lines ``sha256 JSON``; such a
file is read once and kept beside the database as ``*.migrated``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

from graphrec.core.bundle import FileFormat, read_sealed, write_sealed
from graphrec.core.errors import CheckpointError, ConfigError
from graphrec.core.files import acquire_lock, explain_os_errors, sync_directory, write_bytes

MAGIC = b"SQLite format 3\0"
TABLE = """
CREATE TABLE IF NOT EXISTS additions (
    number INTEGER PRIMARY KEY, sha256 TEXT NOT NULL, content TEXT NOT NULL
) STRICT
"""
INSERT = "INSERT OR REPLACE INTO additions (number, sha256, content) VALUES (?, ?, ?)"
FORMAT = FileFormat("journal state")
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


class State(NamedTuple):
    """The additions up to one of them.

    Attributes:
        additions: their number.
        digest: hex sha256 over the digest before the last one and the sha256 of the last one.
    """

    additions: int = 0
    digest: str = ""

    def add(self, sha256: str) -> State:
        """The state after one more addition, whose content has this sha256."""
        return State(self.additions + 1, hashlib.sha256(f"{self.digest}{sha256}".encode()).hexdigest())


class Journal:
    """A journal opened for appending by one server.

    Args:
        path: the file; created if missing. A text journal is migrated.

    Attributes:
        path: the file.
        additions: its additions when it was opened.

    Raises:
        CheckpointError: a row or line is not what was written, acknowledged additions are missing, or the
            file cannot be read or written.
        ConfigError: another server has it open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._state_path = Path(f"{path}.acknowledged")
        in_use = ConfigError(
            f"{path}: another server is writing to it; stop that one, or give each its own --journal FILE"
        )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with ExitStack() as resources:
                resources.callback(acquire_lock(Path(f"{path}.lock"), in_use).release)
                acknowledged = self._read_state()
                self._database = resources.enter_context(closing(_open(path, acknowledged.additions)))
                self._state = State()
                self._pending = ""  # sha256 of a row that was written and not acknowledged
                self.additions: list[Addition] = []
                intact = not acknowledged.additions
                for sha256, content in _rows(self._database, path):
                    self.additions.append(_parse(content))
                    self._state = self._state.add(sha256)
                    intact |= self._state == acknowledged
                if not intact:
                    raise _lost(path, self._state_path, acknowledged.additions, self._state.additions)
                self._stamp = self._read_stamp()
                if self._state != acknowledged:
                    write_sealed(self._state_path, {**FORMAT.header, **self._state._asdict()})
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
            CheckpointError: it cannot be written, or the file was deleted, replaced or changed.
        """
        sha256, content = _digest_and_json(addition)
        state = self._state.add(sha256)
        self._check_in_place()
        try:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                self._check_unchanged()
                self._pending = sha256
                self._database.execute(INSERT, (state.additions, sha256, content))
                self._database.execute("COMMIT")
            finally:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
            self._check_in_place()
            self._check_size()
            with explain_os_errors(self._state_path, CheckpointError):
                write_sealed(self._state_path, {**FORMAT.header, **state._asdict()})
        except sqlite3.OperationalError as cause:
            raise CheckpointError(
                f"{self.path}: cannot be written ({cause}), so the items were not added; make room or check "
                "the disk, then add them again"
            ) from cause
        except sqlite3.DatabaseError as cause:
            raise self._changed(f"damaged ({cause})") from cause
        self._state = state
        self._stamp = self._read_stamp()

    def close(self) -> None:
        """Lets another server open it."""
        self._resources.close()

    def _read_state(self) -> State:
        """What was acknowledged when the journal was last open; nothing for a new one or a text journal."""
        if not self._state_path.exists():
            return State()
        remedy = f"delete it, if you know that {self.path} is complete"
        content = read_sealed(self._state_path, remedy, FORMAT)
        return State(content["additions"], content["digest"])

    def _read_stamp(self) -> tuple[int, ...]:
        """Device, inode, size and times of the file, which change when anybody writes to it; 0 if missing."""
        try:
            stat = self.path.stat()
        except OSError:
            return (0, 0, 0, 0, 0)
        return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)

    def _check_in_place(self) -> None:
        if self._read_stamp()[:2] != self._stamp[:2]:
            raise self._changed("deleted or replaced")

    def _check_size(self) -> None:
        """Refuses a file that does not end where the last commit ended."""
        pages, bytes_each = (
            self._database.execute(f"PRAGMA {fact}").fetchone()[0] for fact in ("page_count", "page_size")
        )
        size = pages * bytes_each
        found = self._read_stamp()[2]
        if found != size:
            raise self._changed(f"cut or extended to {found:,} bytes; expected {size:,}")

    def _check_unchanged(self) -> None:
        """Reads all rows again, if anything has happened to the file since the last addition.

        Another connection reads them, because the first one may answer from its cache.
        """
        if self._read_stamp() == self._stamp:
            return
        state = State()
        try:
            self._check_size()
            with closing(sqlite3.connect(self.path)) as fresh:
                for sha256, _ in _rows(fresh, self.path):
                    state = state.add(sha256)
        except sqlite3.Error as cause:
            raise self._changed(f"damaged ({cause})") from cause
        # A row more may be of an addition that was refused after it had been written.
        if state not in (self._state, self._state.add(self._pending)):
            raise self._changed(
                f"changed: it holds {state.additions:,} additions; expected the acknowledged "
                f"{self._state.additions:,}"
            )

    def _changed(self, how: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path}: was {how} while the server had it open, so the items were not added; put the file "
            "back and start the server again"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open(path: Path, acknowledged: int) -> sqlite3.Connection:
    """The database at ``path``, created or migrated where it is missing or a text journal."""
    try:
        with open(path, "rb") as file:
            begin = file.read(len(MAGIC))
    except FileNotFoundError:
        begin = b""
    if acknowledged and not begin:
        raise _lost(path, Path(f"{path}.acknowledged"), acknowledged, 0)
    if begin and begin != MAGIC:
        _migrate(path)
    # Every statement is a transaction of its own. Requests are handled in several threads, one at a time.
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        mode = database.execute("PRAGMA journal_mode = DELETE").fetchone()[0]
        if mode != "delete":  # an earlier version's write-ahead log, in use by another program
            raise sqlite3.OperationalError("another program has it open")
        database.execute("PRAGMA synchronous = EXTRA")
        database.execute(TABLE)
    except BaseException:
        database.close()
        raise
    return database


def _rows(database: sqlite3.Connection, path: Path) -> Iterator[tuple[str, str]]:
    """Yields sha256 and content of all additions, checked.

    Raises:
        CheckpointError: a row is missing or damaged, or the database is.
    """
    for (problem,) in database.execute("PRAGMA integrity_check(1)"):
        if problem != "ok":
            raise CheckpointError(
                f"{path}: is damaged ({' '.join(problem.split())}); restore the file, or name another with "
                "--journal FILE"
            )
    rows = database.execute("SELECT number, sha256, content FROM additions ORDER BY number")
    for expected, (number, sha256, content) in enumerate(rows, 1):
        if number != expected:
            raise CheckpointError(f"{path}, row {expected}: is missing; restore the file")
        _check(content.encode(), sha256.encode(), f"{path}, row {number}")
        yield sha256, content


def _migrate(path: Path) -> None:
    """Replaces a text journal by a database with the same additions; the text is kept as ``*.migrated``."""
    text = path.read_bytes()
    complete, newline, torn = text.rpartition(b"\n")
    lines = complete.split(b"\n") if newline else []
    additions = []
    for number, line in enumerate(lines, 1):
        sha256, _, content = line.partition(b" ")
        _check(content, sha256, f"{path}, line {number}")
        additions.append(_parse(content))
    if not TORN.fullmatch(torn):  # else its addition was never acknowledged
        raise _damaged(f"{path}, line {len(lines) + 1}")
    new = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    new.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(new)) as database:
            database.execute("PRAGMA synchronous = FULL")
            database.execute(TABLE)
            rows = ((number, *_digest_and_json(addition)) for number, addition in enumerate(additions, 1))
            database.executemany(INSERT, rows)
            database.commit()
        write_bytes(Path(f"{path}.migrated"), text)
        os.replace(new, path)
        sync_directory(path.parent)
    finally:
        with suppress(OSError):
            new.unlink(missing_ok=True)


def _digest_and_json(addition: Addition) -> tuple[str, str]:
    """The sha256 of an addition's JSON, and the JSON."""
    content = json.dumps(addition._asdict(), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(content.encode()).hexdigest(), content


def _parse(content: str | bytes) -> Addition:
    addition: dict[str, Any] = json.loads(content)
    return Addition(addition["ids"], addition["features"])


def _check(content: bytes, sha256: bytes, where: str) -> None:
    if hashlib.sha256(content).hexdigest().encode() != sha256:
        raise _damaged(where)


def _damaged(where: str) -> CheckpointError:
    return CheckpointError(
        f"{where}: is not what was written (its sha256 differs); restore the file, or name another with "
        "--journal FILE and add the items again"
    )


def _lost(path: Path, state_path: Path, acknowledged: int, found: int) -> CheckpointError:
    kept = f"holds {found:,} additions" if found else "is missing or empty"
    return CheckpointError(
        f"{path}: {kept}, and the {acknowledged:,} acknowledged ones are not all among them; restore the "
        f"file, or delete {state_path} to go on without them"
    )
