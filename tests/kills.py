"""A process that is killed before one of its file operations."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

OPERATIONS = ("fsync", "link", "mkdir", "rename", "replace", "rmdir", "truncate", "unlink", "utime")
"""Functions of ``os`` that change what is on the disk; ``pathlib`` and ``shutil`` call them too."""


class Killed(BaseException):
    """What a process does from the moment it is killed."""


@contextmanager
def counted(limit: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """Lets ``limit`` file operations happen and raises :class:`Killed` at all later ones.

    Yields a function that returns how many more were asked for (at most one if the process ended there).
    """
    done = 0

    def limited(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal done
            done += 1
            if done > limit:
                raise Killed
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as patched:
        for name in OPERATIONS:
            patched.setattr(os, name, limited(getattr(os, name)))
        yield lambda: done - limit


def killed_after(
    limit: int, monkeypatch: pytest.MonkeyPatch, work: Callable[..., object], *arguments: Any, **options: Any
) -> bool:
    """Calls ``work`` and kills it before file operation number ``limit``, counted from 0.

    Clean-up code of the killed process runs, but cannot change the disk.

    Returns:
        whether ``work`` ended before.
    """
    with counted(limit, monkeypatch) as excess:
        try:
            work(*arguments, **options)
        except Killed:
            return False
        return excess() <= 0
