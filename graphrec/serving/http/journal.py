"""Items that were added to a server, kept so that none is lost that was acknowledged.

A journal is a text file of lines ``sha256 JSON``, each written and synchronized before its addition is
acknowledged. What stands after the last line break was never acknowledged: a torn line, dropped when the file
is opened. Any other line that is not what was written is damage, and refused.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

from filelock import FileLock, Timeout

from graphrec.core.errors import CheckpointError, ConfigError
from graphrec.core.files import sync_directory


class Addition(NamedTuple):
    """Items as they were given to :meth:`graphrec.Recommender.add_items`.

    Attributes:
        ids: their external ids.
        features: modality -> a vector or None for each of them.
    """

    ids: list[str]
    features: dict[str, list[list[float] | None]]


class Journal:
    """A journal opened for appending; of one server alone.

    Args:
        path: the file; created if missing.

    Attributes:
        path: the same.
        additions: what it held when it was opened.

    Raises:
        CheckpointError: a line is not what was written, or the file cannot be read or written.
        ConfigError: another server has it open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(f"{path}.lock", timeout=0)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            self._file = open(path, "a+b", buffering=0)  # noqa: SIM115
        except Timeout as cause:
            raise ConfigError(
                f"{path}: another server is writing to it; stop that one, or give each its own --journal FILE"
            ) from cause
        except OSError as cause:
            self._lock.release()
            raise CheckpointError(
                f"{path}: cannot be written ({cause}); name a writable place with --journal FILE, or serve "
                "with --read-only"
            ) from cause
        try:
            self._file.seek(0)
            whole, _, torn = self._file.read().rpartition(b"\n")
            self._size = len(whole) + 1 if whole else 0
            lines = whole.split(b"\n") if whole else []
            self.additions = [_read(line, f"{path}, line {n}") for n, line in enumerate(lines, 1)]
            if torn:
                os.truncate(self._file.fileno(), self._size)
            sync_directory(path.parent)
        except BaseException:
            self.close()
            raise

    def append(self, addition: Addition) -> None:
        """Writes an addition; when this returns, it is on the disk.

        Raises:
            CheckpointError: it cannot be written; nothing of it is kept.
        """
        text = json.dumps(addition._asdict(), ensure_ascii=False, allow_nan=False).encode()
        line = b"%s %s\n" % (hashlib.sha256(text).hexdigest().encode(), text)
        try:
            left = memoryview(line)
            while left:
                left = left[self._file.write(left) or 0 :]
            os.fsync(self._file.fileno())
        except OSError as cause:
            with suppress(OSError):  # else it is torn, or the next line is refused when it is read
                os.truncate(self._file.fileno(), self._size)
            raise CheckpointError(
                f"{self.path}: cannot be written ({cause}), so the items were not added; make room, then add "
                "them again"
            ) from cause
        self._size += len(line)

    def close(self) -> None:
        """Lets another server have it."""
        self._file.close()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _read(line: bytes, where: str) -> Addition:
    digest, _, text = line.partition(b" ")
    if hashlib.sha256(text).hexdigest().encode() != digest:
        raise CheckpointError(
            f"{where}: is not what was written (its sha256 differs); restore the file, or remove the line "
            "and add its items again"
        )
    found: dict[str, Any] = json.loads(text)
    return Addition(found["ids"], found["features"])
