"""Replies that were paid for, kept: one line each, appended, whole or not there."""

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
from graphrec.core.files import acquire_lock, digest, explained

FILE, LOCK = "responses.jsonl", ".lock"
Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Reply:
    """What came back.

    Attributes:
        text: the reply.
        finish: why it ended: ``"stop"``, ``"length"``, ...
        model: who answered, as the server names it.
        prompt_tokens: tokens of the question, as the server counts them.
        completion_tokens: tokens of the reply.
    """

    text: str
    finish: str
    model: str
    prompt_tokens: int
    completion_tokens: int


def key_of(model: str, parameters: Mapping[str, Any], messages: Messages) -> str:
    """What a reply is found by: hex sha256 of who was asked, how, and what."""
    return digest("response", model, dict(parameters), [dict(m) for m in messages])


class Responses:
    """Replies by key, in a file that is only appended to; make it with :func:`responses`.

    A line is written by one call and flushed to the disk before the reply is used. A line that a kill cut
    short is dropped when the file is next opened; a damaged one is left out and counted.

    Args:
        path: the file.

    Attributes:
        damaged: numbers of the lines that are not what was written.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._replies = path, dict[str, Reply]()
        self.damaged: list[int] = []
        self._lock = threading.Lock()
        data = path.read_bytes() if path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            entry = _entry(line)
            if entry is None:
                self.damaged.append(number)
            else:
                self._replies[entry[0]] = entry[1]
        self._out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        if len(whole) < len(data):
            os.truncate(path, len(whole))

    def __len__(self) -> int:
        return len(self._replies)

    def get(self, key: str) -> Reply | None:
        """The reply to a question, or None."""
        return self._replies.get(key)

    def put(self, key: str, reply: Reply) -> None:
        """Keeps a reply; when this returns, it is on the disk.

        Raises:
            FeatureError: it cannot be written.
        """
        body = {"key": key, **asdict(reply)}
        line = json.dumps({**body, "digest": digest("reply", body)}, ensure_ascii=True).encode() + b"\n"
        with self._lock, explained(self.path, FeatureError):
            before = os.fstat(self._out).st_size
            if os.write(self._out, line) < len(line):
                os.ftruncate(self._out, before)  # or the next line would be added to half a line
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._out)
            self._replies[key] = reply

    def close(self) -> None:
        """Closes the file."""
        os.close(self._out)


@contextmanager
def responses(folder: Path) -> Iterator[Responses]:
    """The replies kept in a folder; one process at a time.

    Raises:
        FeatureError: another process has it, or it cannot be read or written.
    """
    with explained(folder, FeatureError):
        folder.mkdir(parents=True, exist_ok=True)
        refusal = FeatureError(
            f"{folder}: another process is asking with this cache; wait for it, or name another one (--cache)"
        )
        lock = acquire_lock(folder / LOCK, refusal)
        try:
            found = Responses(folder / FILE)
        except BaseException:
            lock.release()
            raise
    try:
        yield found
    finally:
        found.close()
        lock.release()


def _entry(line: bytes) -> tuple[str, Reply] | None:
    """Key and reply of a line, or None if it is not what was written."""
    try:
        body = json.loads(line)
        said = body.pop("digest")
        if said != digest("reply", body):
            return None
        return str(body.pop("key")), Reply(**body)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
