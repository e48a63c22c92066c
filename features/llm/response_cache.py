"""Append-only cache of replies: one JSON line each, flushed to disk before the reply is used."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from graphrec.core.errors import FeatureError
from graphrec.core.files import acquire_lock, digest, explain_os_errors

FILE = "responses.jsonl"
LOCK = ".lock"
Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Reply:
    """One reply of the server.

    Attributes:
        text: the reply.
        finish: why generation stopped: ``"stop"``, ``"length"``, ...
        model: model name as reported by the server.
        prompt_tokens: tokens of the prompt as counted by the server.
        completion_tokens: tokens of the reply as counted by the server.
    """

    text: str
    finish: str
    model: str
    prompt_tokens: int
    completion_tokens: int


def request_key(model: str, parameters: Mapping[str, Any], messages: Messages) -> str:
    """Cache key of a request: hex sha256 of the model, its parameters and the messages."""
    return digest("response", model, dict(parameters), [dict(m) for m in messages])


class ResponseCache:
    """Replies by key, stored in an append-only file; create it with :func:`open_cache`.

    A line is written with one call and flushed to disk before the reply is used. An incomplete last line,
    left by a killed process, is removed when the file is next opened. Damaged lines are skipped and counted.

    Args:
        path: the file.

    Attributes:
        damaged: line numbers that do not match their digest.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._replies: dict[str, Reply] = {}
        self.damaged: list[int] = []
        self._lock = threading.Lock()
        data = path.read_bytes() if path.exists() else b""
        complete = data[: data.rfind(b"\n") + 1]
        for number, line in enumerate(complete.splitlines(), start=1):
            entry = _parse_line(line)
            if entry is None:
                self.damaged.append(number)
            else:
                self._replies[entry[0]] = entry[1]
        self._out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        if len(complete) < len(data):
            os.truncate(path, len(complete))

    def __len__(self) -> int:
        return len(self._replies)

    def get(self, key: str) -> Reply | None:
        """The cached reply, or None."""
        return self._replies.get(key)

    def put(self, key: str, reply: Reply) -> None:
        """Appends a reply and returns once it is on disk.

        Raises:
            FeatureError: the file cannot be written.
        """
        body = {"key": key, **asdict(reply)}
        line = json.dumps({**body, "digest": digest("reply", body)}, ensure_ascii=True).encode() + b"\n"
        with self._lock, explain_os_errors(self.path, FeatureError):
            before = os.fstat(self._out).st_size
            if os.write(self._out, line) < len(line):
                os.ftruncate(self._out, before)  # otherwise the next line would continue this one
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._out)
            self._replies[key] = reply

    def close(self) -> None:
        """Closes the file."""
        os.close(self._out)


@contextmanager
def open_cache(folder: Path) -> Iterator[ResponseCache]:
    """Opens the cache of a folder for one process at a time.

    Raises:
        FeatureError: another process has it open, or it cannot be read or written.
    """
    with explain_os_errors(folder, FeatureError):
        folder.mkdir(parents=True, exist_ok=True)
        refusal = FeatureError(
            f"{folder}: another process uses this cache; wait for it to finish, or choose another folder "
            "(--cache)"
        )
        lock = acquire_lock(folder / LOCK, refusal)
        try:
            cache = ResponseCache(folder / FILE)
        except BaseException:
            lock.release()
            raise
    try:
        yield cache
    finally:
        cache.close()
        lock.release()


def _parse_line(line: bytes) -> tuple[str, Reply] | None:
    """Key and reply of a line, or None if the line is damaged."""
    try:
        body = json.loads(line)
        if body.pop("digest") != digest("reply", body):
            return None
        return str(body.pop("key")), Reply(**body)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
