"""Local git clones: which person worked on which file.

Nothing is downloaded; make complete clones first (``git clone`` without ``--depth`` and ``--filter``). The
salt of the hashes is read from the environment variable ``GRAPHREC_SALT``, so that it is not stored with the
options.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from graphrec.core.errors import DataError
from graphrec.data.dataset import Dataset
from graphrec.data.git import MiningConfig, read_histories
from graphrec.data.git.contents import MAX_BYTES
from graphrec.data.readers.files import read_table

SALT = "GRAPHREC_SALT"


def read(
    folder: Path,
    *,
    repositories: list[str] | None = None,
    revision: str = "HEAD",
    merges: bool = False,
    max_files: int | None = 50,
    bots: bool = False,
    vendored: bool = False,
    extensions: list[str] | None = None,
    all_files: bool = False,
    co_authors: bool = False,
    clock: Literal["author", "commit"] = "author",
    when: Literal["first", "last"] = "first",
    starred: str | None = None,
    watched: str | None = None,
    forked: str | None = None,
    split: Any = "time",
    k_core: int | tuple[int, int] = 0,
    code: bool = True,
    code_bytes: int = MAX_BYTES,
    seed: int = 0,
) -> Dataset:
    """Your own git clones (https://git-scm.com): people, files, directories, repositories.

    Args:
        folder: a clone, or a folder of clones.
        repositories: clones to read, relative to it; default: it, or all clones directly in it.
        revision: revision whose history is read.
        merges: count merge commits.
        max_files: leave out commits that change more files; None: no limit.
        bots: count programs.
        vendored: count files that other projects or programs wrote.
        extensions: extensions of the files that count; default: those of files that people write.
        all_files: count files of any name.
        co_authors: count people in Co-authored-by trailers.
        clock: author time or commit time, ``author`` or ``commit``.
        when: which of a person's contributions to a file gives the time, the ``first`` or the ``last``.
        starred: CSV of users who starred repositories: ``user`` (login or address), ``repository``,
            optionally ``time`` (seconds).
        watched: the same for users who watch repositories.
        forked: the same for users who forked repositories.
        split: split of the contributions: ``time`` (everything before some time is train; the newest share
            of all contributions is held out), ``cut`` (the same, at given times), or ``chronological``
            (each person's newest share; train then holds what others did later).
        k_core: as in :meth:`Dataset.from_frame`.
        code: read file contents.
        code_bytes: number of bytes read of a file.
        seed: of the split.
    """
    options: dict[str, Any] = {} if extensions is None else {"extensions": tuple(extensions)}
    if all_files:
        options["extensions"] = None
    config = MiningConfig(
        revision=revision,
        merges=merges,
        max_files=max_files,
        bots=bots,
        vendored=vendored,
        co_authors=co_authors,
        clock=clock,
        when=when,
        **options,
    )
    tables = {"starred": starred, "watched": watched, "forked": forked}
    return read_histories(
        [folder / name for name in repositories] if repositories else clones(folder),
        config=config,
        split=split,
        k_core=k_core,
        code=code,
        code_bytes=code_bytes,
        tables={name: read_table(folder / path) for name, path in tables.items() if path is not None},
        salt=salt(),
        seed=seed,
        name=folder.name or "git",
    )


def salt() -> str:
    """Key of the hashes of names and addresses, from the environment; empty if it is not set."""
    return os.environ.get(SALT, "")


def clones(folder: Path) -> list[Path]:
    """The folder itself if it is a clone, else the clones directly in it, by name.

    Raises:
        DataError: there are none.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected a git clone, or a folder of clones")
    if _is_clone(folder):
        return [folder]
    paths = sorted(path for path in folder.iterdir() if path.is_dir() and _is_clone(path))
    if not paths:
        raise DataError(f"{folder}: neither a git clone nor a folder of clones; clone something into it")
    return paths


def _is_clone(path: Path) -> bool:
    return (path / ".git").exists() or all((path / part).exists() for part in ("HEAD", "objects", "refs"))
