"""Local git clones: who worked on which file.

Nothing is downloaded; make whole clones first (``git clone``, neither ``--depth`` nor ``--filter``). The
salt of the hashes is read from the environment variable ``GRAPHREC_SALT``, so that it is not kept with the
options.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from graphrec.core.errors import DataError
from graphrec.data.dataset import Dataset
from graphrec.data.git import MiningConfig, read_histories
from graphrec.data.git.contents import LIMIT
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
    split: Any = "chronological",
    k_core: int | tuple[int, int] = 0,
    code: bool = True,
    code_bytes: int = LIMIT,
    seed: int = 0,
) -> Dataset:
    """Your own git clones (https://git-scm.com): people, files, directories, repositories.

    Args:
        folder: a clone, or a folder of clones.
        repositories: clones to read, relative to it; default: it, or all clones directly in it.
        revision: whose history.
        merges: count merge commits.
        max_files: leave commits out that touch more files; None: none.
        bots: count programs.
        vendored: count files that others or programs wrote.
        extensions: of the files that count; default: of those that people write.
        all_files: count files of any name.
        co_authors: count who is named in Co-authored-by trailers.
        clock: whose time, ``author`` or ``commit``.
        when: which of a person's contributions to a file gives the time, the ``first`` or the ``last``.
        starred: CSV of who starred which repository: ``user`` (login or address), ``repository``, perhaps
            ``time`` (seconds).
        watched: likewise, of who watches.
        forked: likewise, of who forked.
        split: of the contributions; ``{"name": "cut", "valid": t, "test": t}`` is one time for all.
        k_core: as in :meth:`Dataset.from_frame`.
        code: read contents.
        code_bytes: bytes of a file that are read at most.
        seed: of the split.
    """
    options: dict[str, Any] = {} if extensions is None else {"extensions": tuple(extensions)}
    if all_files:
        options["extensions"] = None
    config = MiningConfig(
        revision=revision, merges=merges, max_files=max_files, bots=bots, vendored=vendored,
        co_authors=co_authors, clock=clock, when=when, **options,
    )  # fmt: skip
    tables = {"starred": starred, "watched": watched, "forked": forked}
    return read_histories(
        [folder / name for name in repositories] if repositories else clones(folder),
        config=config, split=split, k_core=k_core, code=code, code_bytes=code_bytes, seed=seed,
        tables={did: read_table(folder / path) for did, path in tables.items() if path is not None},
        salt=salt(), name=folder.name or "git",
    )  # fmt: skip


def salt() -> str:
    """Key of the hashes of names and addresses, from the environment; empty where none is set."""
    return os.environ.get(SALT, "")


def clones(folder: Path) -> list[Path]:
    """A folder if it is a clone, else those directly in it, by name.

    Raises:
        DataError: there are none.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected a git clone, or a folder of clones")
    if _is_clone(folder):
        return [folder]
    found = sorted(path for path in folder.iterdir() if path.is_dir() and _is_clone(path))
    if not found:
        raise DataError(f"{folder}: neither a git clone nor a folder of clones; clone something into it")
    return found


def _is_clone(path: Path) -> bool:
    return (path / ".git").exists() or all((path / part).exists() for part in ("HEAD", "objects", "refs"))
