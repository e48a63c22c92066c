"""A directory of arrays and id lists that one JSON file commits."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from graphrec.core.bundle import Committed, FileFormat, commit
from graphrec.core.errors import CheckpointError
from graphrec.core.files import atomic_write, digest, read_array, sha256_file, write_array
from graphrec.data import Vocabulary
from graphrec.serving import ids as lazily
from graphrec.serving.ids import MappedVocabulary, sorted_order


class Bundle(Committed):
    """A bundle opened for reading.

    Args:
        path: the JSON file.
        format: the format it must have.

    Attributes:
        head: what :func:`write` was given.

    Raises:
        CheckpointError: the JSON file is missing, damaged or of another format.
    """

    def __init__(self, path: Path, format: FileFormat) -> None:
        super().__init__(path, format, "save it again")

    def array(self, part: str, mmap: bool = False) -> np.ndarray:
        """One array, checked; memory-mapped if asked for, whatever is written to it then stays private."""
        return read_array(self.file(part), CheckpointError, "c" if mmap else False)

    def ids(self, part: str, kind: str = "item") -> Vocabulary:
        """One list of ids, checked; of many, those that are asked for are read when they are."""
        path = self.file(part)
        try:
            column = pl.read_ipc(path)["id"]
        except (OSError, pl.exceptions.PolarsError) as cause:
            raise CheckpointError(
                f"{path}: not readable as an Arrow file ({cause}); save it again"
            ) from cause
        if f"{part}_order" in self.files:
            return MappedVocabulary(column, self.array(f"{part}_order", mmap=True), kind)
        return Vocabulary(column.to_list(), kind)


def write(
    path: Path,
    format: FileFormat,
    head: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    ids: Mapping[str, Vocabulary],
) -> Mapping[str, Mapping[str, str]]:
    """Writes a bundle; the one before stays whole until this one is.

    Args:
        path: the JSON file; the others lie beside it.
        format: what is written.
        head: JSON-able facts.
        arrays: by part; the names are part of file names.
        ids: by part.

    Returns:
        Name and sha256 of each file, by part.

    Raises:
        CheckpointError: the directory cannot be written.
    """
    many = {f"{part}_order": sorted_order(v) for part, v in ids.items() if len(v) > lazily.LAZY}
    arrays = {**arrays, **many}
    files = {
        **{part: (digest(a), "npy", partial(write_array, array=a)) for part, a in arrays.items()},
        **{part: (v.fingerprint, "arrow", partial(write_ids, vocabulary=v)) for part, v in ids.items()},
    }
    return commit(path, format, head, files, retry="save again")


def write_ids(path: Path, vocabulary: Vocabulary) -> str:
    """Writes ids as an Arrow file with the column ``id``, atomically; returns its sha256."""
    with atomic_write(path) as file:
        pl.DataFrame({"id": pl.Series("id", list(vocabulary.ids), dtype=pl.String)}).write_ipc(file)
    return sha256_file(path)
