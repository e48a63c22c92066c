"""Files that are either whole or absent, and the digests that prove it.

The order is always: write under a temporary name in the same directory, flush, fsync, rename, fsync the
directory. A process killed at any moment leaves the old file or the new one, plus at most a ``*.tmp`` that is
swept later.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from graphrec.errors import DataError, GraphrecError


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
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


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
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path, error: type[GraphrecError] = DataError) -> Any:
    """Reads JSON; a missing or damaged file is an ``error`` that names it."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as cause:
        raise error(f"{path}: no such file") from cause
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as cause:
        raise error(f"{path}: not readable as JSON ({cause}); restore it or build it again") from cause


def write_array(path: str | Path, array: np.ndarray) -> str:
    """Writes one ``.npy`` atomically and returns its sha256; object arrays, needing pickle, are refused."""
    with writing(path) as file:
        np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
        file.flush()
        return sha256_file(file.name)


def read_array(path: str | Path, error: type[GraphrecError] = DataError, mmap: bool = False) -> np.ndarray:
    """Reads one ``.npy``; a missing, damaged or pickled file is an ``error`` that names it."""
    path = Path(path)
    try:
        array: np.ndarray = np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    except FileNotFoundError as cause:
        raise error(f"{path}: no such file") from cause
    except (OSError, ValueError, EOFError) as cause:
        raise error(f"{path}: not a readable .npy array ({cause}); restore it or build it again") from cause
    return array


def sha256_file(path: str | Path) -> str:
    """Hex sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def sweep(directory: str | Path) -> int:
    """Removes temporary files that killed writers left behind; returns how many.

    A temporary name carries its writer's process id, and files of processes that are still alive are left
    alone.
    """
    swept = 0
    for path in Path(directory).rglob(".*.tmp"):
        owner = path.name.rsplit(".", 2)[-2].split("-")[0]
        if not (owner.isdigit() and _alive(int(owner))):
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
