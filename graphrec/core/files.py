"""Atomic file writes, locks and digests.

Every write uses a temporary name in the same directory, then flush, fsync, rename and fsync of the directory.
A process killed at any moment leaves either the old or the new file, plus at most a ``*.tmp`` file that
:func:`remove_stale_temporaries` deletes later.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np

from graphrec.core.errors import DataError, GraphrecError

if TYPE_CHECKING:
    from filelock import FileLock

_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free disk space"),
    errno.EFBIG: "allow larger files there (ulimit -f shows the limit)",
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "make it writable, or choose another location"),
    **dict.fromkeys(
        (errno.ENOTDIR, errno.EEXIST, errno.EISDIR),
        "a file exists where a directory is needed, or the reverse",
    ),
    errno.ENOENT: "it was removed or renamed in the meantime",
    errno.ELOOP: "remove the symbolic link, or choose another location",
    errno.ENOTSUP: "choose the name of a file",
}


@contextmanager
def atomic_write(path: str | Path) -> Iterator[IO[bytes]]:
    """Opens a temporary file that replaces ``path`` on success and is removed on failure.

    Args:
        path: the final path; its directory is created. A symbolic link stays, and what it points to is
            replaced.

    Raises:
        OSError: the path is a device, a pipe or a socket, or it cannot be written.
    """
    staged = _StagedFile(path)
    with staged.writing() as file:
        yield file
    staged.replace()
    sync_directory(staged.path.parent)


def write_together(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Replaces several files of a folder; the first one, which vouches for the others, is missing meanwhile.

    All of them are complete on the disk before the first is replaced, so that a full disk leaves the former
    ones. A process killed while they are replaced leaves a folder without the first file.

    Args:
        folder: is created.
        contents: bytes by file name.

    Raises:
        OSError: a file cannot be written, or its path is a device, a pipe or a socket.
    """
    files: list[_StagedFile] = []
    try:
        for name, content in contents.items():
            files.append(_StagedFile(folder / name))
            with files[-1].writing() as file:
                file.write(content)
        files[0].path.unlink(missing_ok=True)
        sync_directory(folder)
        for staged in reversed(files):
            staged.replace()
    except BaseException:
        for staged in files:
            staged.discard()
        raise
    sync_directory(folder)


class _StagedFile:
    """A temporary file beside the one that it will replace.

    Args:
        path: the final path; its directory is created, and a symbolic link is followed.

    Attributes:
        path: the final path, links followed.

    Raises:
        OSError: the path is a device, a pipe or a socket.
    """

    def __init__(self, path: str | Path) -> None:
        self._named = str(path)
        self.path = Path(os.path.realpath(path))
        _refuse_special_file(self.path, self._named)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")

    @contextmanager
    def writing(self) -> Iterator[IO[bytes]]:
        """Opens the temporary file; afterwards it is complete on the disk."""
        with self._discarded_on_errors(), open(self._temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())

    def replace(self) -> None:
        """Puts the temporary file in the place of the other one."""
        with self._discarded_on_errors():
            os.replace(self._temporary, self.path)

    def discard(self) -> None:
        """Removes the temporary file, if it is still there."""
        with suppress(OSError):  # the directory was removed or became read-only; the first error says more
            self._temporary.unlink(missing_ok=True)

    @contextmanager
    def _discarded_on_errors(self) -> Iterator[None]:
        """Removes the temporary file on an error, which then names the path as it was given."""
        try:
            yield
        except BaseException as cause:
            self.discard()
            of_temporary = (None, str(self._temporary))
            if isinstance(cause, OSError) and cause.errno and cause.filename in of_temporary:
                cause.filename, cause.filename2 = self._named, None
            raise


def _refuse_special_file(path: Path, named: str) -> None:
    """Refuses to replace a device, a pipe, a socket or a link that points to itself.

    Args:
        path: the path with its symbolic links followed.
        named: the path as it was given, for the message.
    """
    try:
        mode = path.lstat().st_mode
    except (OSError, ValueError):  # does not exist yet, or cannot: opening it says why
        return
    if stat.S_ISLNK(mode):  # realpath() leaves only loops
        raise OSError(errno.ELOOP, "a symbolic link that points to itself", named)
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kind = "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
        raise OSError(errno.ENOTSUP, f"a {kind}; expected a regular file", named)


@contextmanager
def explain_os_errors(path: str | Path, error: type[GraphrecError]) -> Iterator[None]:
    """Converts every ``OSError`` of the block into an ``error`` that names the file and a remedy.

    Args:
        path: file to name where the system error names none.
        error: class of the error to raise.

    Raises:
        GraphrecError: an error of class ``error`` for every ``OSError``.
    """
    try:
        yield
    except OSError as cause:
        remedy = _REMEDIES.get(cause.errno or 0, "check the disk")
        raise error(
            f"{cause.filename or path}: cannot be written ({cause.strerror or cause}); "
            f"{remedy}, then run the command again"
        ) from cause


def sync_directory(path: Path) -> None:
    """Makes renames inside a directory durable, on platforms that support it."""
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
    with atomic_write(path) as file:
        file.write(data)


def write_text(path: str | Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    """Writes JSON atomically: sorted keys, two spaces, NaN refused."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """The canonical JSON bytes that :func:`write_json` writes."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode("utf-8")


def read_json(path: str | Path, error: type[GraphrecError] = DataError) -> Any:
    """Reads JSON; a missing or damaged file raises an ``error`` that names it."""
    path = Path(path)
    _refuse_named_pipe(path, error)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as cause:
        raise error(f"{path}: no such file") from cause
    except (OSError, ValueError, RecursionError) as cause:
        raise error(f"{path}: not readable as JSON ({cause}); restore the file or create it again") from cause


def acquire_lock(path: Path, refusal: GraphrecError) -> FileLock:
    """Takes a file lock without waiting; the system releases it when the process dies.

    Args:
        path: the lock file; its directory must exist.
        refusal: the error to raise if another process holds the lock.
    """
    from filelock import FileLock, Timeout  # imports asyncio, which not every command needs

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as cause:
        raise refusal from cause
    return lock


def write_array(path: str | Path, array: np.ndarray) -> str:
    """Writes one ``.npy`` file atomically and returns its sha256; object arrays (pickle) are refused."""
    with atomic_write(path) as file:
        # NumPy writes to a real file with its own C code, whose error on a full disk has no errno; behind a
        # wrapper it calls our write().
        wrapper: Any = SimpleNamespace(write=file.write)
        np.lib.format.write_array(wrapper, np.ascontiguousarray(array), allow_pickle=False)
        file.flush()
        return sha256_file(file.name)


def array_bytes(array: np.ndarray) -> bytes:
    """The content of a ``.npy`` file; object arrays (pickle) are refused."""
    content = io.BytesIO()
    np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
    return content.getvalue()


def read_array(
    path: str | Path, error: type[GraphrecError] = DataError, mmap: bool | Literal["c"] = False
) -> np.ndarray:
    """Reads one ``.npy`` file; a missing, damaged or pickled file raises an ``error`` that names it.

    Args:
        path: the file.
        error: class of the error to raise.
        mmap: memory-map the file instead of reading it: read-only, or with ``"c"`` copy-on-write, which torch
            accepts without a warning; writes to the array never reach the file.
    """
    path = Path(path)
    _refuse_named_pipe(path, error)
    try:
        array = np.load(path, mmap_mode=("r" if mmap is True else mmap or None), allow_pickle=False)
    except FileNotFoundError as cause:
        raise error(f"{path}: no such file") from cause
    except Exception as cause:  # numpy's header parser also raises tokenizer, zip and overflow errors
        raise error(
            f"{path}: not a readable .npy array ({load_failure(cause)}); restore the file or create it again"
        ) from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise error(
            f"{path}: not a .npy array but a .npz archive of several; expected one array, saved by np.save"
        )
    return array


def load_failure(cause: Exception) -> str:
    """Why numpy could not load a file, without its advice to load pickled data in an unsafe way."""
    return "it holds Python objects" if "pickle" in str(cause) else str(cause) or type(cause).__name__


def sha256_file(path: str | Path) -> str:
    """Hex sha256 of a file's bytes."""
    _refuse_named_pipe(path, DataError)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_named_pipe(path: str | Path, error: type[GraphrecError]) -> None:
    """Refuses a named pipe: reading one blocks forever if no process writes to it."""
    try:
        pipe = stat.S_ISFIFO(os.stat(path).st_mode)
    except (OSError, ValueError):
        return
    if pipe:
        raise error(f"{path}: a named pipe; expected a regular file")


def digest(*parts: Any) -> str:
    """Hex sha256 over strings, bytes, arrays and JSON values, each prefixed by kind and length."""
    total = hashlib.sha256()

    def frame(kind: bytes, data: bytes) -> None:
        total.update(kind + len(data).to_bytes(8, "big") + data)

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


def remove_stale_temporaries(directory: str | Path, locked: bool = False) -> int:
    """Removes temporary files left behind by killed writers.

    A temporary name contains its writer's process id; files of running processes are kept.

    Args:
        directory: directory to search recursively.
        locked: the caller holds the lock that every writer takes, so every temporary file is stale. A process
            id is weaker evidence: it may have been reused, or belong to another machine or container.

    Returns:
        The number of removed files.
    """
    removed = 0
    for path in Path(directory).rglob(".*.tmp"):
        owner = path.name.rsplit(".", 2)[-2].split("-")[0]
        if locked or not (owner.isdigit() and _is_running(int(owner))):
            path.unlink(missing_ok=True)
            removed += 1
    return removed


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return process != os.getpid()
