"""A directory of arrays and id lists that one JSON file commits."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from graphrec.atomic import digest, read_array, sha256_file, write_array, writing
from graphrec.commit import Committed, commit
from graphrec.data import Vocabulary
from graphrec.errors import CheckpointError


class Bundle(Committed):
    """A bundle opened for reading.

    Args:
        path: the JSON file.
        version: format of the head that the caller understands.

    Attributes:
        head: what :func:`write` was given.

    Raises:
        CheckpointError: the JSON file is missing, damaged or of another format.
    """

    def __init__(self, path: Path, version: int) -> None:
        super().__init__(path, version, "save it again")

    def array(self, part: str, mmap: bool = False) -> np.ndarray:
        """One array, checked; memory-mapped and read-only if asked for."""
        return read_array(self.file(part), CheckpointError, mmap)

    def ids(self, part: str) -> list[str]:
        """One list of ids, checked."""
        path = self.file(part)
        try:
            ids: list[str] = pl.read_ipc(path)["id"].to_list()
        except (OSError, pl.exceptions.PolarsError) as cause:
            raise CheckpointError(
                f"{path}: not readable as an Arrow file ({cause}); save it again"
            ) from cause
        return ids


def write(
    path: Path,
    version: int,
    head: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    ids: Mapping[str, Vocabulary],
) -> None:
    """Writes a bundle; the one before stays whole until this one is.

    Args:
        path: the JSON file; the others lie beside it.
        version: recorded as ``format``.
        head: JSON-able facts.
        arrays: by part; the names are part of file names.
        ids: by part.

    Raises:
        CheckpointError: the directory cannot be written.
    """
    files = {
        **{part: (digest(a), "npy", partial(write_array, array=a)) for part, a in arrays.items()},
        **{part: (v.fingerprint, "arrow", partial(write_ids, vocabulary=v)) for part, v in ids.items()},
    }
    commit(path, version, head, files, retry="save again")


def write_ids(path: Path, vocabulary: Vocabulary) -> str:
    """Writes ids as an Arrow file with the column ``id``, atomically; returns its sha256."""
    with writing(path) as file:
        pl.DataFrame({"id": pl.Series("id", list(vocabulary.ids), dtype=pl.String)}).write_ipc(file)
    return sha256_file(path)
