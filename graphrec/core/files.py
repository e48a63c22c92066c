"""Files that are either whole or absent, and the digests that prove it.

The order is always: write under a temporary name in the same directory, flush, fsync, rename, fsync the
directory. A process killed at any moment leaves the old file or the new one, plus at most a ``*.tmp`` that is
swept later.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np

from graphrec.core.errors import DataError, GraphrecError

if TYPE_CHECKING:
    from filelock import FileLock

_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room on its disk"),
    errno.EFBIG: "allow larger files there (ulimit -f shows the limit)",
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "make it writable, or name another place"),
    **dict.fromkeys(
        (errno.ENOTDIR, errno.EEXIST, errno.EISDIR),
        "a file stands where a directory is needed, or the reverse",
    ),
    errno.ENOENT: "it was removed or renamed meanwhile",
}


@contextmanager
def writing(path: str | Path) -> Iterator[IO[bytes]]:
    """Opens a temporary file beside ``path``; on a clean exit it becomes ``path``, otherwise it is removed.

    Args:
        path: the final name; its directory is created.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as cause:
        with suppress(OSError):  # a directory that has gone or become read-only; the first error tells more
            temporary.unlink(missing_ok=True)
        if isinstance(cause, OSError) and cause.errno and cause.filename in (None, str(temporary)):
            cause.filename, cause.filename2 = str(path), None
        raise
    sync_directory(path.parent)


@contextmanager
def explained(path: str | Path, error: type[GraphrecError]) -> Iterator[None]:
    """Turns what the system says of a file it cannot write into an ``error`` that names it and the remedy.

    Args:
        path: named where the system names no file.
        error: class of what is raised instead.

    Raises:
        GraphrecError: of class ``error``, for every ``OSError`` of the block.
    """
    try:
        yield
    except OSError as cause:
        remedy = _REMEDIES.get(cause.errno or 0, "see to the disk")
        raise error(
            f"{cause.filename or path}: cannot be written ({cause.strerror or cause}); "
            f"{remedy}, then run it again"
        ) from cause


def sync_directory(path: Path) -> None:
    """Makes renames inside a directory durable, where the platform can."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # Windows cannot open directories
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Writes ``data`` atomically."""
    with writing(path) as file:
        file.write(data)


def write_text(path: str | Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    """Writes JSON atomically: sorted keys, two spaces, NaN refused."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """The one form in which :func:`write_json` writes a value."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode("utf-8")


def read_json(path: str | Path, error: type[GraphrecError] = DataError) -> Any:
    """Reads JSON; a missing or damaged file is an ``error`` that names it."""
    path = Path(path)
    _refuse_pipe(path, error)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as cause:
        raise error(f"{path}: no such file") from cause
    except (OSError, ValueError, RecursionError) as cause:
        raise error(f"{path}: not readable as JSON ({cause}); restore it or build it again") from cause


def acquire_lock(path: Path, refusal: GraphrecError) -> FileLock:
    """Takes a lock without waiting, until it is released; the system frees it when the process dies.

    Args:
        path: the lock's file, in a directory that is there.
        refusal: raised if another process holds it.
    """
    from filelock import FileLock, Timeout  # imports asyncio, which not every command needs

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as cause:
        raise refusal from cause
    return lock


def write_array(path: str | Path, array: np.ndarray) -> str:
    """Writes one ``.npy`` atomically and returns its sha256; object arrays, needing pickle, are refused."""
    with writing(path) as file:
        # Behind an object of its own: into a real file numpy writes by itself, and of a full disk it says no
        # more than how many bytes it wanted to write.
        plain: Any = SimpleNamespace(write=file.write)
        np.lib.format.write_array(plain, np.ascontiguousarray(array), allow_pickle=False)
        file.flush()
        return sha256_file(file.name)


def read_array(
    path: str | Path, error: type[GraphrecError] = DataError, mmap: bool | Literal["c"] = False
) -> np.ndarray:
    """Reads one ``.npy``; a missing, damaged or pickled file is an ``error`` that names it.

    Args:
        path: the file.
        error: class of what is raised.
        mmap: map it instead of reading it: read-only, or with ``"c"`` so that what is written to the array is
            kept in memory and never reaches the file, which torch takes without a warning.
    """
    path = Path(path)
    _refuse_pipe(path, error)
    try:
        array = np.load(path, mmap_mode=("r" if mmap is True else mmap or None), allow_pickle=False)
    except FileNotFoundError as cause:
        raise error(f"{path}: no such file") from cause
    except Exception as cause:  # numpy's header parser lets tokenizer, zip and overflow errors through
        raise error(f"{path}: not a readable .npy array ({cause}); restore it or build it again") from cause
    if not isinstance(array, np.ndarray):
        array.close()
        raise error(
            f"{path}: not a .npy array but a .npz archive of several; expected one array, saved by np.save"
        )
    return array


def sha256_file(path: str | Path) -> str:
    """Hex sha256 of a file's bytes."""
    _refuse_pipe(path, DataError)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_pipe(path: str | Path, error: type[GraphrecError]) -> None:
    """Whoever reads a named pipe waits for ever if nobody writes to it."""
    try:
        pipe = stat.S_ISFIFO(os.stat(path).st_mode)
    except (OSError, ValueError):
        return
    if pipe:
        raise error(f"{path}: a named pipe; expected a regular file")


def digest(*parts: Any) -> str:
    """Hex sha256 over strings, bytes, arrays and JSON-able values, each framed by kind and length."""
    total = hashlib.sha256()
    frame: Callable[[bytes, bytes], None] = lambda kind, data: total.update(  # noqa: E731
        kind + len(data).to_bytes(8, "big") + data
    )
    for part in parts:
        if isinstance(part, np.ndarray):
            frame(b"a", f"{part.dtype.str}{part.shape}".encode())
            total.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data if part.size else b"")
        elif isinstance(part, bytes):
            frame(b"b", part)
        elif isinstance(part, str):
            frame(b"s", part.encode("utf-8", "surrogatepass"))
        else:
            frame(b"j", json.dumps(part, sort_keys=True, allow_nan=False).encode())
    return total.hexdigest()


def sweep(directory: str | Path, locked: bool = False) -> int:
    """Removes temporary files that killed writers left behind; returns how many.

    A temporary name carries its writer's process id, and files of processes that are still alive are left
    alone.

    Args:
        directory: searched with all below it.
        locked: the caller holds the lock every writer there takes, so whatever is there was left behind. A
            process id proves less: it may be in use again, or belong to another machine or container.
    """
    swept = 0
    for path in Path(directory).rglob(".*.tmp"):
        owner = path.name.rsplit(".", 2)[-2].split("-")[0]
        if locked or not (owner.isdigit() and _alive(int(owner))):
            path.unlink(missing_ok=True)
            swept += 1
    return swept


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return process != os.getpid()
